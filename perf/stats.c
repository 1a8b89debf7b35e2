/* SPDX-License-Identifier: BSD-3-Clause */
/* stats.c: see stats.h. */
#include <stdlib.h>

#include "perf/stats.h"

static int compare_doubles(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

struct perf_range perf_range_of(double *values, size_t count)
{
	struct perf_range range = {.count = count};

	if (count == 0)
		return range;
	qsort(values, count, sizeof(values[0]), compare_doubles);
	range.min = values[0];
	range.max = values[count - 1];
	/* The mean of the two in the middle when the count is even. */
	range.median = (values[(count - 1) / 2] + values[count / 2]) / 2;
	return range;
}

bool perf_range_separate(const struct perf_range *a, const struct perf_range *b)
{
	return a->count > 0 && b->count > 0 && (a->max < b->min || b->max < a->min);
}
