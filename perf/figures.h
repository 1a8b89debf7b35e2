/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * figures.h: from runs to the figures of a plan. A ratio is made of the two values of one round,
 * which met the same machine; the median is that of the rounds' ratios. Pure.
 */
#ifndef SLUICE_PERF_FIGURES_H
#define SLUICE_PERF_FIGURES_H

#include <jansson.h>

#include "perf/plan.h"

#define PERF_TERM_BEST "best" /* the largest of all other variants in the round */

/* Refuse unknown metrics and variants, missing parts, and targets that are no numbers. */
int perf_figure_check(
	const struct perf_plan *plan, const struct perf_figure *figure, struct sluice_error *err);

/*
 * {median, min, max, count, metric, of, at-least or at-most, met, terms}: the range is that of the
 * term that decides. A figure of which nothing was measured has `skipped` with the reason instead.
 * A new reference.
 */
json_t *perf_figure_json(
	const struct perf_plan *plan, const struct perf_figure *figure, const json_t *runs);

/* The runs of one variant. A new reference. */
json_t *perf_runs_of(const json_t *runs, const char *variant);

#endif
