/* SPDX-License-Identifier: BSD-3-Clause */
/* series.c: see series.h. */
#include <errno.h>
#include <stdlib.h>

#include "perf/series.h"

static int series_reserve(struct perf_series *series, size_t more)
{
	uint64_t *t_ns = reallocarray(series->t_ns, series->count + more, sizeof(*t_ns));
	double *ops;

	if (t_ns == NULL)
		return -ENOMEM;
	series->t_ns = t_ns;
	ops = reallocarray(series->ops, series->count + more, sizeof(*ops));
	if (ops == NULL)
		return -ENOMEM;
	series->ops = ops;
	return 0;
}

/* Room has been reserved. */
static int series_put(struct perf_series *series, uint64_t t_ns, double ops)
{
	size_t n = series->count;

	if (n > 0 && (t_ns < series->t_ns[n - 1] || ops < series->ops[n - 1]))
		return -EILSEQ;
	series->t_ns[n] = t_ns;
	series->ops[n] = ops;
	series->count++;
	return 0;
}

int perf_series_append_one(struct perf_series *series, uint64_t t_ns, double ops)
{
	int r = series_reserve(series, 1);

	return r < 0 ? r : series_put(series, t_ns, ops);
}

int perf_series_append(
	struct perf_series *series, const json_t *bins, uint64_t begin_ns, uint64_t end_ns)
{
	const json_t *times = json_object_get(bins, "t_ns"), *counts = json_object_get(bins, "ops");
	size_t n = json_array_size(times);
	int r = 0;

	if (!json_is_array(times) || !json_is_array(counts) || json_array_size(counts) != n)
		return -EPROTO;
	if (n == 0)
		return 0;
	if (series_reserve(series, n) < 0)
		return -ENOMEM;
	for (size_t i = 0; r == 0 && i < n; i++) {
		uint64_t t_ns = (uint64_t)json_integer_value(json_array_get(times, i));

		if (t_ns >= begin_ns && t_ns <= end_ns)
			r = series_put(series, t_ns,
				(double)json_integer_value(json_array_get(counts, i)));
	}
	return r;
}

void perf_series_free(struct perf_series *series)
{
	free(series->t_ns);
	free(series->ops);
	*series = (struct perf_series){.count = 0};
}

double perf_series_at(const struct perf_series *series, uint64_t t_ns)
{
	size_t low = 0, high = series->count;
	double share;

	if (series->count == 0)
		return 0;
	/* The first sample after t_ns. */
	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (series->t_ns[middle] <= t_ns)
			low = middle + 1;
		else
			high = middle;
	}
	if (low == 0)
		return series->ops[0];
	if (low == series->count)
		return series->ops[low - 1];
	share = (double)(t_ns - series->t_ns[low - 1]) /
		(double)(series->t_ns[low] - series->t_ns[low - 1]);
	return series->ops[low - 1] + share * (series->ops[low] - series->ops[low - 1]);
}

double perf_series_rate(const struct perf_series *series, uint64_t begin_ns, uint64_t end_ns)
{
	if (end_ns <= begin_ns)
		return 0;
	return (perf_series_at(series, end_ns) - perf_series_at(series, begin_ns)) * 1e9 /
	       (double)(end_ns - begin_ns);
}

json_t *perf_series_bins(
	const struct perf_series *series, uint64_t begin_ns, uint64_t end_ns, uint64_t bin_ns)
{
	json_t *bins = json_array();

	for (uint64_t t_ns = begin_ns; t_ns + bin_ns <= end_ns; t_ns += bin_ns) {
		double done = perf_series_at(series, t_ns + bin_ns) - perf_series_at(series, t_ns);

		json_array_append_new(bins, json_integer((json_int_t)(done + 0.5)));
	}
	return bins;
}
