/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * experiment.h: everything that one configuration asks for: guests, their migrations, and
 * what came out, as JSON. One thread.
 */
#ifndef SLUICE_PERF_EXPERIMENT_H
#define SLUICE_PERF_EXPERIMENT_H

#include <stdbool.h>

#include <jansson.h>

#include <sluice/error.h>

#include "perf/config.h"

struct perf_experiment_options {
	bool keep_logs; /* also when nothing failed */
	bool quiet; /* no progress */
};

/*
 * Adds `runs` and `summary` to @result, also when it fails half-way. Fails when a migration
 * does not complete, a page differs, or the guest saw an error.
 */
int perf_experiment_run(const struct perf_config *config,
	const struct perf_experiment_options *options, json_t *result, struct sluice_error *err);

/* Make a running experiment fail with -EINTR soon. Async-signal-safe. */
void perf_experiment_interrupt(void);
bool perf_experiment_interrupted(void);

#endif
