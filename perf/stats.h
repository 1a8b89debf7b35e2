/* SPDX-License-Identifier: BSD-3-Clause */
/* stats.h: medians and ranges of few numbers. Pure. */
#ifndef SLUICE_PERF_STATS_H
#define SLUICE_PERF_STATS_H

#include <stdbool.h>
#include <stddef.h>

struct perf_range {
	double median, min, max;
	size_t count;
};

/* Sorts @values in place. All fields are 0 when @count is 0. */
struct perf_range perf_range_of(double *values, size_t count);

/* True when no value of one can be one of the other: only then may a difference be claimed. */
bool perf_range_separate(const struct perf_range *a, const struct perf_range *b);

#endif
