/* SPDX-License-Identifier: BSD-3-Clause */
/* main.c: sluiced: options, signals, the loop. It prints what others describe. */
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <sluice/transport.h>

#include "base/loop.h"
#include "base/params.h"
#include "engine/engine.h"
#include "vmm-socket-schema.h"

struct options {
	struct sluice_settings *settings;
	int control_fd;
	const char *listen_path;
};

enum { OPT_CONTROL_FD = 256, OPT_LISTEN, OPT_CONFIG, OPT_SET, OPT_MAN };

static struct sluice_loop *main_loop;

static void on_signal(int number)
{
	(void)number;
	sluice_loop_stop(main_loop, 0);
	sluice_loop_wake(main_loop);
}

static void print_help(const struct sluice_settings *settings, FILE *out)
{
	fprintf(out,
		"Usage: sluiced (--control-fd N | --listen PATH) [--config FILE] [--set "
		"NAME=VALUE]...\n"
		"\n"
		"Moves a running virtual machine's memory and device state to another host.\n"
		"A VMM starts it with an inherited socket; an operator starts it with a path.\n"
		"\n"
		"  --control-fd N     serve the VMM on this connected UNIX socket; end when it "
		"closes\n"
		"  --listen PATH      also, or only, serve a UNIX socket at PATH (mode 0600)\n"
		"  --config FILE      read parameters from a YAML file of NAME: VALUE\n"
		"  --set NAME=VALUE   set one parameter; the last one counts\n"
		"  --help, --version\n"
		"\n"
		"Parameters:\n");
	sluice_params_help(settings->table, out);
	fprintf(out, "\nTransports:\n");
	for (size_t i = 0; sluice_transports[i] != NULL; i++)
		fprintf(out, "  %-10s %s\n", sluice_transports[i]->name,
			sluice_transports[i]->summary);
}

static int parse_fd(const char *text, int *ret_fd, struct sluice_error *err)
{
	char *end;
	long fd = strtol(text, &end, 10);

	if (*text == '\0' || *end != '\0' || fd < 0 || fd > 1 << 20)
		return sluice_fail(err, -EINVAL, "--control-fd",
			"\"%s\" is not the number of a descriptor", text);
	*ret_fd = (int)fd;
	return 0;
}

/* 1: go on; 0: help was printed; negative: an error. */
static int parse_options(int argc, char **argv, struct options *o, struct sluice_error *err)
{
	static const struct option longs[] = {{"control-fd", required_argument, 0, OPT_CONTROL_FD},
		{"listen", required_argument, 0, OPT_LISTEN},
		{"config", required_argument, 0, OPT_CONFIG},
		{"set", required_argument, 0, OPT_SET}, {"help", no_argument, 0, 'h'},
		{"version", no_argument, 0, 'V'}, {"man-parameters", no_argument, 0, OPT_MAN}, {0}};
	int c, r = 0;

	while (r == 0 && (c = getopt_long(argc, argv, "hV", longs, NULL)) != -1) {
		switch (c) {
		case OPT_CONTROL_FD:
			r = parse_fd(optarg, &o->control_fd, err);
			break;
		case OPT_LISTEN:
			o->listen_path = optarg;
			break;
		case OPT_CONFIG:
			r = sluice_params_load_yaml(
				o->settings->table, o->settings->values, optarg, err);
			break;
		case OPT_SET:
			r = sluice_params_assign(
				o->settings->table, o->settings->values, optarg, err);
			break;
		case OPT_MAN:
			sluice_params_man(o->settings->table, stdout);
			return 0;
		case 'h':
			print_help(o->settings, stdout);
			return 0;
		case 'V':
			printf("sluiced %s\n", SLUICE_VERSION);
			return 0;
		default:
			return sluice_fail(err, -EINVAL, "options", "see sluiced --help");
		}
	}
	if (r == 0 && optind < argc)
		r = sluice_fail(err, -EINVAL, "options",
			"\"%s\" is not an option; see "
			"sluiced --help",
			argv[optind]);
	if (r == 0 && o->control_fd < 0 && o->listen_path == NULL)
		r = sluice_fail(err, -EINVAL, "options",
			"give --control-fd N or --listen PATH; see sluiced --help");
	return r < 0 ? r : 1;
}

static int serve(struct options *o, struct sluice_error *err)
{
	struct sluice_server_opts opts = {.schema = &sluice_schema_vmm_socket,
		.commands = sluice_engine_commands,
		.vmm_gone = sluice_engine_vmm_gone};
	struct sluice_engine *engine = NULL;
	int r = sluice_loop_create(&main_loop);

	if (r < 0)
		return sluice_fail(err, r, "loop", "%s", strerror(-r));
	signal(SIGPIPE, SIG_IGN);
	signal(SIGTERM, on_signal);
	signal(SIGINT, on_signal);
	r = sluice_engine_create(main_loop, o->settings, &engine, err);
	if (r < 0)
		goto out_loop;
	opts.loop = main_loop;
	opts.ctx = engine;
	r = sluice_server_create(&opts, &engine->server);
	if (r == 0 && o->control_fd >= 0) {
		engine->has_control_fd = true;
		r = sluice_server_add_client(engine->server, o->control_fd, true, err);
	}
	if (r == 0 && o->listen_path != NULL)
		r = sluice_server_listen(engine->server, o->listen_path, err);
	if (r == 0)
		r = sluice_loop_run(main_loop);
	sluice_server_destroy(engine->server);
	sluice_engine_destroy(engine);
out_loop:
	sluice_loop_destroy(main_loop);
	return r;
}

int main(int argc, char **argv)
{
	struct options options = {.control_fd = -1};
	struct sluice_error err = {0};
	int r = sluice_settings_create(&options.settings);

	if (r == 0)
		r = parse_options(argc, argv, &options, &err);
	if (r > 0)
		r = serve(&options, &err);
	if (r < 0)
		fprintf(stderr, "sluiced: %s: %s\n", err.code != 0 ? err.where : "start",
			err.code != 0 ? err.text : strerror(-r));
	sluice_settings_destroy(options.settings);
	return r < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
