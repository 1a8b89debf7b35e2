/* SPDX-License-Identifier: BSD-3-Clause */
/* report.c: one result as readable text. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/params.h"
#include "perf/config.h"
#include "perf/figures.h"
#include "perf/metrics.h"
#include "perf/report.h"

#define LABEL_WIDTH     30
#define COLUMN_WIDTH    10
#define TITLE_WIDTH     16
#define RUNS_SHOWN      6
#define SPARKS_PER_LINE 100

int perf_result_load(const char *path, json_t **ret_result, struct sluice_error *err)
{
	json_error_t json_error;
	json_t *result = json_load_file(path, 0, &json_error);
	const char *format;

	if (result == NULL)
		return sluice_fail(err, -EINVAL, "report", "%s:%d: %s", path, json_error.line,
			json_error.text);
	format = json_string_value(json_object_get(result, "format"));
	if (format == NULL || strcmp(format, PERF_RESULT_FORMAT) != 0 ||
		!json_is_array(json_object_get(result, "runs"))) {
		json_decref(result);
		return sluice_fail(err, -EINVAL, "report",
			"%s is not a result of sluice-perf (format %s)", path, PERF_RESULT_FORMAT);
	}
	*ret_result = result;
	return 0;
}

static const char *text_of(const json_t *object, const char *key)
{
	const char *text = json_string_value(json_object_get(object, key));

	return text != NULL ? text : "?";
}

/* As a user would write it: the result has bytes and nanoseconds. */
static void print_setting(const char *key, const json_t *value, FILE *out)
{
	const struct sluice_param *param = sluice_params_find(perf_config_params, key);
	struct perf_config config;
	char text[PERF_TEXT_MAX];
	const char *unit = "";

	if (json_is_boolean(value))
		snprintf(text, sizeof(text), "%s", json_is_true(value) ? "yes" : "no");
	else if (json_is_integer(value))
		snprintf(text, sizeof(text), "%lld", (long long)json_integer_value(value));
	else
		snprintf(text, sizeof(text), "%s",
			json_is_string(value) ? json_string_value(value) : "");
	if (param != NULL && param->type == SLUICE_PARAM_TIME)
		unit = "ns";
	snprintf(text + strlen(text), sizeof(text) - strlen(text), "%s", unit);
	memset(&config, 0, sizeof(config));
	if (param != NULL && sluice_params_set(perf_config_params, &config, key, text, NULL) == 0)
		sluice_params_format(param, &config, text, sizeof(text));
	/* What is empty is left to the program's own default. */
	if (text[0] != '\0')
		fprintf(out, " %s=%s", key, text);
}

static void print_config(const json_t *config, FILE *out)
{
	json_t *copy = json_deep_copy(config); /* iterating needs one that may change */
	const char *key;
	json_t *value;

	fputs("config ", out);
	json_object_foreach (copy, key, value)
		print_setting(key, value, out);
	fputc('\n', out);
	json_decref(copy);
}

static void print_heading(const json_t *result, FILE *out)
{
	const json_t *host = json_object_get(result, "host");
	json_int_t memory = json_integer_value(json_object_get(host, "memory_bytes"));

	fprintf(out, "%s: %s, %zu runs\n", text_of(json_object_get(result, "config"), "name"),
		text_of(result, "status"), json_array_size(json_object_get(result, "runs")));
	fprintf(out, "host    %lld cores, %s, %.1f GiB, Linux %s, KVM %s\n",
		(long long)json_integer_value(json_object_get(host, "cores")),
		text_of(host, "model"), (double)memory / (1ull << 30), text_of(host, "kernel"),
		json_is_true(json_object_get(host, "kvm")) ? "yes" : "no");
	fprintf(out, "commit  %s, %s\n", text_of(result, "commit"), text_of(result, "date"));
	print_config(json_object_get(result, "config"), out);
	fputc('\n', out);
}

static void print_number(const struct perf_metric *metric, double value, FILE *out)
{
	fprintf(out, " %*.*f", COLUMN_WIDTH, metric->decimals, value * metric->shown_scale);
}

static void print_table_heading(const json_t *runs, FILE *out)
{
	size_t index, count = json_array_size(runs);
	json_t *run;

	fprintf(out, "%-*s %*s %*s %*s |", LABEL_WIDTH, "", COLUMN_WIDTH, "median", COLUMN_WIDTH,
		"min", COLUMN_WIDTH, "max");
	json_array_foreach (runs, index, run) {
		if (index == RUNS_SHOWN)
			break;
		fprintf(out, " %*s%-3zu", COLUMN_WIDTH - 3, "run ", index + 1);
	}
	if (count > RUNS_SHOWN)
		fprintf(out, " and %zu more", count - RUNS_SHOWN);
	fputc('\n', out);
}

static void print_statuses(const json_t *runs, FILE *out)
{
	size_t index;
	json_t *run;

	fprintf(out, "%-*s |", LABEL_WIDTH + 3 * (COLUMN_WIDTH + 1), "status");
	json_array_foreach (runs, index, run) {
		if (index == RUNS_SHOWN)
			break;
		fprintf(out, " %*.*s", COLUMN_WIDTH, COLUMN_WIDTH, text_of(run, "status"));
	}
	fputc('\n', out);
}

static void print_metric(const struct perf_metric *metric, const json_t *runs, FILE *out)
{
	struct perf_range range = perf_metric_range(metric, runs);
	char label[LABEL_WIDTH + 1];
	size_t index;
	double value;
	json_t *run;

	if (range.count == 0)
		return;
	snprintf(label, sizeof(label), "%s%s%s", metric->label, metric->unit[0] != '\0' ? ", " : "",
		metric->unit);
	fprintf(out, "%-*s", LABEL_WIDTH, label);
	print_number(metric, range.median, out);
	print_number(metric, range.min, out);
	print_number(metric, range.max, out);
	fputs(" |", out);
	json_array_foreach (runs, index, run) {
		if (index == RUNS_SHOWN)
			break;
		if (perf_metric_value(metric, run, &value))
			print_number(metric, value, out);
		else
			fprintf(out, " %*s", COLUMN_WIDTH, "-");
	}
	fputc('\n', out);
}

static void print_errors(const json_t *runs, FILE *out)
{
	size_t index;
	json_t *run;

	json_array_foreach (runs, index, run) {
		if (json_is_string(json_object_get(run, "error")))
			fprintf(out, "run %zu: %s\n", index + 1, text_of(run, "error"));
	}
}

struct column {
	const char *key;
	const char *heading;
	double shown_scale;
	int decimals;
};

/* Ends with a NULL key. */
static const struct column lane_columns[] = {
	{"lane", "lane", 1, 0},
	{"bytes", "placed MB", 1e-6, 1},
	{"pages-sent", "pages", 1, 0},
	{"pages-zero", "zero", 1, 0},
	{"busy-ns", "busy ms", 1e-6, 1},
	{"idle-ns", "idle ms", 1e-6, 1},
	{"syscalls", "syscalls", 1, 0},
	{"losses", "losses", 1, 0},
	{NULL, NULL, 0, 0},
};

static const struct column worker_columns[] = {
	{"worker", "worker", 1, 0},
	{"core", "core", 1, 0},
	{"node", "node", 1, 0},
	{"cpu-ns", "CPU ms", 1e-6, 1},
	{NULL, NULL, 0, 0},
};

static void print_objects(
	const char *title, const struct column *columns, const json_t *array, FILE *out)
{
	const struct column *column;
	size_t index;
	json_t *object;

	if (json_array_size(array) == 0)
		return;
	fprintf(out, "%-*s", TITLE_WIDTH, title);
	for (column = columns; column->key != NULL; column++)
		fprintf(out, " %*s", COLUMN_WIDTH, column->heading);
	fputc('\n', out);
	json_array_foreach (array, index, object) {
		fprintf(out, "%-*s", TITLE_WIDTH, "");
		for (column = columns; column->key != NULL; column++)
			fprintf(out, " %*.*f", COLUMN_WIDTH, column->decimals,
				json_number_value(json_object_get(object, column->key)) *
					column->shown_scale);
		fputc('\n', out);
	}
	fputc('\n', out);
}

/* What the guest did, one mark per bin: eighths of the busiest bin. */
static void print_bins(const json_t *ops, FILE *out)
{
	static const char *const marks[] = {"_", "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
	const json_t *bins = json_object_get(ops, "bins");
	double first_ms = json_number_value(json_object_get(ops, "first_bin_ms"));
	double bin_ms = json_number_value(json_object_get(ops, "bin_ms"));
	double max = 0;
	size_t index;
	json_t *bin;

	json_array_foreach (bins, index, bin) {
		if (json_number_value(bin) > max)
			max = json_number_value(bin);
	}
	if (max <= 0)
		return;
	fprintf(out,
		"guest writes of the last run, a mark per %.0f ms, 0: start of the migration\n",
		bin_ms);
	json_array_foreach (bins, index, bin) {
		if (index % SPARKS_PER_LINE == 0)
			fprintf(out, "%s%7.0f ms ", index == 0 ? "" : "\n",
				first_ms + bin_ms * (double)index);
		/* Rounded up: a bin with little in it must not look like one with nothing. */
		fputs(marks[(int)(json_number_value(bin) / max * 8 + 0.999)], out);
	}
	fputc('\n', out);
}

static void print_figure(const char *name, const json_t *figure, FILE *out)
{
	bool least = json_is_number(json_object_get(figure, "at-least"));
	const json_t *target = json_object_get(figure, least ? "at-least" : "at-most");
	const json_t *skipped = json_object_get(figure, "skipped");

	fprintf(out, "%-*s", LABEL_WIDTH, name);
	if (json_is_number(json_object_get(figure, "median")))
		fprintf(out, " %*.4g %*.4g %*.4g", COLUMN_WIDTH,
			json_number_value(json_object_get(figure, "median")), COLUMN_WIDTH,
			json_number_value(json_object_get(figure, "min")), COLUMN_WIDTH,
			json_number_value(json_object_get(figure, "max")));
	if (target != NULL)
		fprintf(out, " | at %s %g: %s", least ? "least" : "most", json_number_value(target),
			json_is_true(json_object_get(figure, "met")) ? "met" : "missed");
	if (skipped != NULL)
		fprintf(out, " | skipped: %s", json_string_value(skipped));
	fputc('\n', out);
}

/* What has terms is a figure; the rest of a summary are metrics, which have their own table. */
static void print_figures(const json_t *result, FILE *out)
{
	json_t *summary = json_object_get(result, "summary"), *figure;
	const char *name;
	bool any = false;

	json_object_foreach (summary, name, figure) {
		if (json_object_get(figure, "terms") == NULL)
			continue;
		if (!any)
			fprintf(out, "%-*s %*s %*s %*s\n", LABEL_WIDTH, "figures", COLUMN_WIDTH,
				"median", COLUMN_WIDTH, "min", COLUMN_WIDTH, "max");
		any = true;
		print_figure(name, figure, out);
	}
	if (any)
		fputc('\n', out);
}

/* A row per metric, a column per variant. */
static void print_variant_medians(const json_t *result, const json_t *runs, FILE *out)
{
	json_t *variants = json_object_get(result, "variants"), *unused;
	const char *name;

	fprintf(out, "%-*s", LABEL_WIDTH, "medians");
	json_object_foreach (variants, name, unused)
		fprintf(out, " %*.*s", COLUMN_WIDTH, COLUMN_WIDTH, name);
	fputc('\n', out);
	for (const struct perf_metric *metric = perf_metrics; metric->key != NULL; metric++) {
		char label[LABEL_WIDTH + 1];

		if (perf_metric_range(metric, runs).count == 0)
			continue;
		snprintf(label, sizeof(label), "%s%s%s", metric->label,
			metric->unit[0] != '\0' ? ", " : "", metric->unit);
		fprintf(out, "%-*s", LABEL_WIDTH, label);
		json_object_foreach (variants, name, unused) {
			json_t *own = perf_runs_of(runs, name);
			struct perf_range range = perf_metric_range(metric, own);

			json_decref(own);
			if (range.count > 0)
				print_number(metric, range.median, out);
			else
				fprintf(out, " %*s", COLUMN_WIDTH, "-");
		}
		fputc('\n', out);
	}
}

void perf_report_print(const json_t *result, FILE *out)
{
	const json_t *runs = json_object_get(result, "runs");
	const json_t *last = json_array_get(runs, json_array_size(runs) - 1);

	print_heading(result, out);
	print_figures(result, out);
	if (json_object_size(json_object_get(result, "variants")) > 1) {
		print_variant_medians(result, runs, out);
		print_errors(runs, out);
		return;
	}
	print_table_heading(runs, out);
	print_statuses(runs, out);
	for (const struct perf_metric *metric = perf_metrics; metric->key != NULL; metric++)
		print_metric(metric, runs, out);
	print_errors(runs, out);
	fputc('\n', out);
	print_objects("lanes, last run", lane_columns, json_object_get(last, "lanes"), out);
	print_objects("workers, source", worker_columns, json_object_get(last, "workers"), out);
	print_objects(
		"workers, target", worker_columns, json_object_get(last, "workers_target"), out);
	print_bins(json_object_get(last, "guest_ops_per_s"), out);
}
