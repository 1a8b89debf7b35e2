/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * main.c: sluice-perf, whole migrations measured by configuration.
 *
 *   run CONFIG.yaml --out FILE.json   migrate guests as the configuration says, and measure
 *   report FILE.json                  a result as a readable table
 *   compare A.json B.json             two results side by side
 *
 * One thread. Whatever it starts it ends, by process id, on every way out.
 */
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/params.h"
#include "perf/config.h"
#include "perf/experiment.h"
#include "perf/host.h"
#include "perf/plan.h"
#include "perf/report.h"

#define EXIT_USAGE 2

enum { OPTION_OUT = 256, OPTION_SET, OPTION_KEEP, OPTION_QUICK, OPTION_QUIET };

static const struct option long_options[] = {
	{"out", required_argument, NULL, OPTION_OUT},
	{"set", required_argument, NULL, OPTION_SET},
	{"keep-logs", no_argument, NULL, OPTION_KEEP},
	{"quick", no_argument, NULL, OPTION_QUICK},
	{"quiet", no_argument, NULL, OPTION_QUIET},
	{"help", no_argument, NULL, 'h'},
	{"version", no_argument, NULL, 'V'},
	{NULL, 0, NULL, 0},
};

static void print_usage(FILE *out)
{
	fputs("usage: sluice-perf run CONFIG.yaml --out FILE.json [--set NAME=VALUE]...\n"
	      "                      [--quick] [--keep-logs] [--quiet]\n"
	      "       sluice-perf report FILE.json\n"
	      "       sluice-perf compare A.json B.json\n"
	      "       sluice-perf --help | --version\n"
	      "\n"
	      "run migrates guests between two VMMs on this host as the configuration says. Its "
	      "exit\n"
	      "status is 0 only if every migration completed with no page that differs and no "
	      "error\n"
	      "that the guest saw.\n",
		out);
}

static void print_help(void)
{
	print_usage(stdout);
	fputs("\nNames in CONFIG.yaml and for --set, with their defaults:\n", stdout);
	sluice_params_help(perf_config_params, stdout);
	fputs("\nSections of CONFIG.yaml:\n"
	      "  variants: {A: {NAME: VALUE}, ...}  take turns in each round; another one begins "
	      "each time\n"
	      "  figures: {KEY: {...}, ...}         keys of the summary, made of:\n",
		stdout);
	sluice_params_help(perf_figure_params, stdout);
	fputs("  quick: {NAME: VALUE, A: {...}}     what --quick changes, for all or for one "
	      "variant\n"
	      "\n--set VARIANT.NAME=VALUE changes one variant. repeats and warmup count rounds.\n",
		stdout);
}

static int print_error(const struct sluice_error *err)
{
	fprintf(stderr, "sluice-perf: %s: %s\n", err->where, err->text);
	return EXIT_FAILURE;
}

/* SIGINT and SIGTERM ask for an orderly end; a second one does not ask. */
static void on_signal(int number)
{
	(void)number;
	perf_experiment_interrupt();
}

static void catch_signals(void)
{
	struct sigaction action = {.sa_handler = on_signal, .sa_flags = (int)SA_RESETHAND};

	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	signal(SIGPIPE, SIG_IGN);
}

struct run_options {
	const char *config_path, *out_path;
	const char **sets;
	struct perf_plan_options plan;
	struct perf_experiment_options experiment;
};

static json_t *command_line_json(int argc, char **argv)
{
	json_t *list = json_array();

	for (int i = 0; i < argc; i++)
		json_array_append_new(list, json_string(argv[i]));
	return list;
}

static int write_result(json_t *result, const char *path, struct sluice_error *err)
{
	if (json_dump_file(result, path, JSON_INDENT(2) | JSON_REAL_PRECISION(9)) != 0)
		return sluice_fail(err, -EIO, "run", "cannot write the result to %s", path);
	return 0;
}

static int command_run(const struct run_options *options, int argc, char **argv)
{
	struct sluice_error err = {0};
	struct perf_plan *plan;
	json_t *result;
	bool passed;

	if (perf_plan_load(options->config_path, &options->plan, &plan, &err) < 0)
		return print_error(&err);
	result = json_pack("{s:s, s:s, s:o, s:o, s:o, s:s, s:o}", "format", PERF_RESULT_FORMAT,
		"status", "failed", "date", perf_date_json(), "command",
		command_line_json(argc, argv), "host", perf_host_json(), "commit", perf_commit(),
		"config", sluice_params_json(perf_config_params, &plan->base));
	catch_signals();
	passed = perf_experiment_run(plan, &options->experiment, result, &err) == 0;
	json_object_set_new(result, "status", json_string(passed ? "completed" : "failed"));
	if (!passed) {
		json_object_set_new(result, "error", json_string(err.text));
		print_error(&err);
	}
	if (write_result(result, options->out_path, &err) < 0)
		passed = print_error(&err) == EXIT_SUCCESS;
	if (json_array_size(json_object_get(result, "runs")) > 0 && !options->experiment.quiet)
		perf_report_print(result, stdout);
	json_decref(result);
	free(plan);
	return passed ? EXIT_SUCCESS : EXIT_FAILURE;
}

static int command_report(const char *path)
{
	struct sluice_error err = {0};
	json_t *result;

	if (perf_result_load(path, &result, &err) < 0)
		return print_error(&err);
	perf_report_print(result, stdout);
	json_decref(result);
	return EXIT_SUCCESS;
}

static int command_compare(const char *path_a, const char *path_b)
{
	struct sluice_error err = {0};
	json_t *a, *b;

	if (perf_result_load(path_a, &a, &err) < 0)
		return print_error(&err);
	if (perf_result_load(path_b, &b, &err) < 0) {
		json_decref(a);
		return print_error(&err);
	}
	perf_compare_print(a, b, stdout);
	json_decref(a);
	json_decref(b);
	return EXIT_SUCCESS;
}

/* Options may stand anywhere. Returns -1 to go on, or an exit status. */
static int parse_options(int argc, char **argv, struct run_options *options)
{
	int c;

	while ((c = getopt_long(argc, argv, "hV", long_options, NULL)) != -1) {
		switch (c) {
		case OPTION_OUT:
			options->out_path = optarg;
			break;
		case OPTION_SET:
			options->sets[options->plan.set_count++] = optarg;
			break;
		case OPTION_KEEP:
			options->experiment.keep_logs = true;
			break;
		case OPTION_QUICK:
			options->plan.quick = true;
			break;
		case OPTION_QUIET:
			options->experiment.quiet = true;
			break;
		case 'h':
			print_help();
			return EXIT_SUCCESS;
		case 'V':
			printf("sluice-perf %s (%s)\n", SLUICE_VERSION, perf_commit());
			return EXIT_SUCCESS;
		default:
			print_usage(stderr);
			return EXIT_USAGE;
		}
	}
	return -1;
}

static int dispatch(int argc, char **argv, struct run_options *options)
{
	int words = argc - optind;
	char **word = argv + optind;

	if (words == 2 && strcmp(word[0], "run") == 0 && options->out_path != NULL) {
		options->config_path = word[1];
		return command_run(options, argc, argv);
	}
	if (words == 2 && strcmp(word[0], "report") == 0)
		return command_report(word[1]);
	if (words == 3 && strcmp(word[0], "compare") == 0)
		return command_compare(word[1], word[2]);
	print_usage(stderr);
	return EXIT_USAGE;
}

int main(int argc, char **argv)
{
	struct run_options options = {.sets = calloc((size_t)argc + 1, sizeof(char *))};
	int status;

	if (options.sets == NULL)
		return EXIT_FAILURE;
	options.plan.sets = options.sets;
	status = parse_options(argc, argv, &options);
	if (status < 0)
		status = dispatch(argc, argv, &options);
	free(options.sets);
	return status;
}
