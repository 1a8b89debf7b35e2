/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * series.h: how many operations the guest had done at which moments: samples of the source's
 * refvm, continued by those of the target's. The count travels with the guest, so the series
 * goes on where it stopped. Pure.
 */
#ifndef SLUICE_PERF_SERIES_H
#define SLUICE_PERF_SERIES_H

#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

struct perf_series {
	uint64_t *t_ns; /* CLOCK_MONOTONIC, rising */
	double *ops; /* in total, never falling */
	size_t count;
};

/*
 * Append the samples of an answer to query-bins that lie in [begin_ns, end_ns]. -EPROTO when
 * the answer is none, -EILSEQ when a count is lower than an earlier one: the guest went back.
 */
int perf_series_append(
	struct perf_series *series, const json_t *bins, uint64_t begin_ns, uint64_t end_ns);
/* One more sample, such as the count with which the guest stopped. The same errors. */
int perf_series_append_one(struct perf_series *series, uint64_t t_ns, double ops);
void perf_series_free(struct perf_series *series);

/* Operations in total at a moment: between two samples on the line through them, before the
   first and after the last as in those. */
double perf_series_at(const struct perf_series *series, uint64_t t_ns);
/* Operations per second over a span; 0 when it is empty. */
double perf_series_rate(const struct perf_series *series, uint64_t begin_ns, uint64_t end_ns);
/* Operations in each @bin_ns from @begin_ns on, while whole bins fit. A new reference. */
json_t *perf_series_bins(
	const struct perf_series *series, uint64_t begin_ns, uint64_t end_ns, uint64_t bin_ns);

#endif
