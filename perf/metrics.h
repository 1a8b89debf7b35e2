/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * metrics.h: the numbers of a run, each named once: key in the JSON, label and unit in the
 * tables. The summary, the report and the comparison are made from this table. Pure.
 */
#ifndef SLUICE_PERF_METRICS_H
#define SLUICE_PERF_METRICS_H

#include <stdbool.h>

#include <jansson.h>

#include "perf/stats.h"

struct perf_metric {
	const char *key; /* in a run: "total_ms", "guest_ops_per_s.before" */
	const char *label; /* name of its row */
	const char *unit; /* as shown */
	double shown_scale; /* value times this is shown */
	int decimals;
};

/* Ends with a NULL key. */
extern const struct perf_metric perf_metrics[];

/* NULL when there is none of that key. */
const struct perf_metric *perf_metric_find(const char *key);

/* The metric's value in a run; false when the run has none (null or absent). */
bool perf_metric_value(const struct perf_metric *metric, const json_t *run, double *ret_value);
/* Over all runs of the array that completed. */
struct perf_range perf_metric_range(const struct perf_metric *metric, const json_t *runs);
/* {median, min, max, count}. A new reference. */
json_t *perf_range_json(const struct perf_range *range);
/* {key: {median, min, max, count}} for all metrics that any run has. A new reference. */
json_t *perf_metrics_summary(const json_t *runs);

#endif
