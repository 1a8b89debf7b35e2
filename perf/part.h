/* SPDX-License-Identifier: BSD-3-Clause */
/* part.h: a part of the engine, timed alone by a program of tests/bench that prints a run. */
#ifndef SLUICE_PERF_PART_H
#define SLUICE_PERF_PART_H

#include <jansson.h>

#include <sluice/error.h>

#include "perf/config.h"

/* bench-harvest for a guest of `ram`. @dir is for its output. *ret_run: a new reference. */
int perf_part_harvest(const struct perf_config *config, const char *dir, json_t **ret_run,
	struct sluice_error *err);

#endif
