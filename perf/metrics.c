/* SPDX-License-Identifier: BSD-3-Clause */
/* metrics.c: see metrics.h. */
#include <stdlib.h>
#include <string.h>

#include "perf/metrics.h"

#define KEY_MAX 64

/* clang-format off */
const struct perf_metric perf_metrics[] = {
	/* key                             label          unit    scale  decimals */
	{"total_ms",                       "total",       "ms",    1,    1},
	{"downtime_ms",                    "downtime",    "ms",    1,    2},
	{"predicted_downtime_ms",          "predicted",   "ms",    1,    2},
	{"predict_error",                  "off by",      "%",     100,  1},
	{"downtime_over_40ms",             "downtime over 40 ms", "", 1, 0},
	{"bytes_placed",                   "placed",      "MB",    1e-6, 1},
	{"placed_bytes_per_s",             "rate",        "MB/s",  1e-6, 0},
	{"bulk_bytes_per_s",               "rate in bulk", "MB/s", 1e-6, 1},
	{"pages_sent",                     "sent",        "pages", 1,    0},
	{"pages_zero",                     "zero",        "pages", 1,    0},
	{"mismatched_pages",               "mismatched",  "pages", 1,    0},
	{"guest_errors",                   "errors",      "",      1,    0},
	{"guest_ops_per_s.before",         "ops before",  "/s",    1,    0},
	{"guest_ops_per_s.during",         "ops during",  "/s",    1,    0},
	{"guest_ops_per_s.after",          "ops after",   "/s",    1,    0},
	{"guest_ops_per_s.during_ratio",   "ops, during to before", "", 1, 3},
	{"guest_ops_per_s.held_ratio",     "ops, held to before", "", 1,    3},
	{"inflight_of_budget",             "in flight, peak of budget", "", 1, 3},
	{"lanes_cut",                      "lanes cut",   "",      1,    0},
	{"lanes_lost",                     "lanes lost",  "",      1,    0},
	{"bytes_resent",                   "in flight when lost", "MB", 1e-6, 1},
	{"pages_given_up",                 "in lost lanes' hands", "pages", 1, 0},
	{"pages_dirtied",                  "dirtied meanwhile", "pages", 1, 0},
	{"pages_again",                    "sent again",  "pages", 1,    0},
	{"resent_of_bound",                "sent again, of bound", "", 1, 3},
	{"idle_cpu_ms",                    "CPU, idle engine", "ms", 1,  2},
	{"engine_memory_bytes",            "engine besides guest", "MB", 1e-6, 2},
	{"harvest_bytes_per_s",            "bitmap scanned", "MB/s", 1e-6, 0},
	{"harvest_pages_per_s",            "dirty pages found", "/s", 1, 0},
	{"memory_bytes_per_s",             "memory read", "MB/s", 1e-6,  0},
	{"harvest_of_memory",              "bitmap scan, of memory's", "", 1, 3},
	{"inflight_bytes_peak",            "in flight, peak", "MB", 1e-6, 2},
	{"pin_ms",                         "pinning",     "ms",    1,    2},
	{"pages_pinned_during_migration",  "pinned during migration", "pages", 1, 0},
	{"pages_pinned_by_reattach",       "pinned by reattaching", "pages", 1, 0},
	{"register_ms_per_gib",            "registering a GiB", "ms", 1,    1},
	{"registered_in_downtime",         "registered in downtime", "", 1, 0},
	{"cpu_s_per_gib",                  "CPU, both, per GiB", "s", 1, 3},
	{"cpu_s_target_per_gib",           "CPU, target, per GiB", "s", 1, 3},
	{"cpu_s_source",                   "CPU, source engine", "s", 1, 3},
	{"cpu_s_target",                   "CPU, target engine", "s", 1, 3},
	{NULL, NULL, NULL, 0, 0},
};
/* clang-format on */

const struct perf_metric *perf_metric_find(const char *key)
{
	for (const struct perf_metric *metric = perf_metrics; metric->key != NULL; metric++)
		if (strcmp(metric->key, key) == 0)
			return metric;
	return NULL;
}

bool perf_metric_value(const struct perf_metric *metric, const json_t *run, double *ret_value)
{
	const char *dot = strchr(metric->key, '.');
	const json_t *value;

	if (dot != NULL) {
		char outer[KEY_MAX];
		size_t len = (size_t)(dot - metric->key);

		memcpy(outer, metric->key, len);
		outer[len] = '\0';
		value = json_object_get(json_object_get(run, outer), dot + 1);
	} else {
		value = json_object_get(run, metric->key);
	}
	if (!json_is_number(value))
		return false;
	*ret_value = json_number_value(value);
	return true;
}

static bool run_completed(const json_t *run)
{
	const char *status = json_string_value(json_object_get(run, "status"));

	return status != NULL && strcmp(status, "completed") == 0;
}

struct perf_range perf_metric_range(const struct perf_metric *metric, const json_t *runs)
{
	double *values = calloc(json_array_size(runs) + 1, sizeof(*values));
	struct perf_range range = {0};
	size_t index, count = 0;
	json_t *run;

	if (values == NULL)
		return range;
	json_array_foreach (runs, index, run) {
		if (run_completed(run) && perf_metric_value(metric, run, &values[count]))
			count++;
	}
	range = perf_range_of(values, count);
	free(values);
	return range;
}

json_t *perf_range_json(const struct perf_range *range)
{
	return json_pack("{s:f, s:f, s:f, s:I}", "median", range->median, "min", range->min, "max",
		range->max, "count", (json_int_t)range->count);
}

json_t *perf_metrics_summary(const json_t *runs)
{
	json_t *summary = json_object();

	for (const struct perf_metric *metric = perf_metrics; metric->key != NULL; metric++) {
		struct perf_range range = perf_metric_range(metric, runs);

		if (range.count == 0)
			continue;
		json_object_set_new(summary, metric->key, perf_range_json(&range));
	}
	return summary;
}
