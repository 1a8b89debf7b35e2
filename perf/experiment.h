/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * experiment.h: everything that a plan asks for: rounds, in each of which every variant has its
 * turn, and what came out, as JSON. One thread.
 */
#ifndef SLUICE_PERF_EXPERIMENT_H
#define SLUICE_PERF_EXPERIMENT_H

#include <stdbool.h>

#include <jansson.h>

#include <sluice/error.h>

#include "perf/plan.h"

struct perf_experiment_options {
	bool keep_logs; /* also when nothing failed */
	bool quiet; /* no progress */
};

/*
 * Adds `runs`, `variants` and `summary` to @result, also when it fails half-way. Fails when a
 * migration does not complete, a page differs, or the guest saw an error; a figure that misses its
 * target is a result, not a failure.
 */
int perf_experiment_run(const struct perf_plan *plan, const struct perf_experiment_options *options,
	json_t *result, struct sluice_error *err);

/* Make a running experiment fail with -EINTR soon. Async-signal-safe. */
void perf_experiment_interrupt(void);
bool perf_experiment_interrupted(void);

#endif
