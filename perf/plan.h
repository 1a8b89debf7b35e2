/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * plan.h: a configuration file as a whole: one configuration, or variants of it that take turns,
 * and the figures that come out of comparing them. perf/README.md explains the file.
 */
#ifndef SLUICE_PERF_PLAN_H
#define SLUICE_PERF_PLAN_H

#include <stdbool.h>
#include <stddef.h>

#include <jansson.h>

#include <sluice/error.h>

#include "perf/config.h"

#define PERF_VARIANTS_MAX 32
#define PERF_FIGURES_MAX  32

/* The file's base configuration with what the variant changes. */
struct perf_variant {
	char name[PERF_WORD_MAX];
	struct perf_config config;
};

/* How a figure is made from its terms. */
enum perf_combine {
	PERF_COMBINE_WORST, /* the one that is farthest from the target */
	PERF_COMBINE_MEAN,
};

/* One key of the summary, as the file defines it. */
struct perf_figure {
	char name[PERF_WORD_MAX];
	char metric[PERF_TEXT_MAX]; /* keys of metrics, separated by spaces */
	char of[PERF_TEXT_MAX]; /* terms separated by spaces: A, A/B, A/best */
	int combine; /* enum perf_combine */
	char at_least[PERF_WORD_MAX], at_most[PERF_WORD_MAX]; /* numbers; "": no such target */
	char says[PERF_TEXT_MAX];
};

struct perf_plan {
	struct perf_config base;
	bool has_variants; /* written in the file; otherwise there is one, of the file's name */
	struct perf_variant variant[PERF_VARIANTS_MAX];
	size_t variant_count;
	struct perf_figure figure[PERF_FIGURES_MAX];
	size_t figure_count;
};

struct perf_plan_options {
	const char *const *sets; /* NAME=VALUE, or VARIANT.NAME=VALUE for one variant only */
	size_t set_count;
	bool quick; /* apply the file's section `quick` */
};

extern const struct sluice_param perf_figure_params[];

/*
 * Read a file. What is later here wins: the table's defaults, the file, its `quick`, --set, the
 * variant, `quick` for the variant, --set for the variant. Errors name file, line and column.
 * *ret_plan is to be freed by free().
 */
int perf_plan_load(const char *path, const struct perf_plan_options *options,
	struct perf_plan **ret_plan, struct sluice_error *err);

const struct perf_variant *perf_plan_find(const struct perf_plan *plan, const char *name);

#endif
