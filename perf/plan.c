/* SPDX-License-Identifier: BSD-3-Clause */
/* plan.c: see plan.h. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/params.h"
#include "perf/figures.h"
#include "perf/metrics.h"
#include "perf/plan.h"

#define TEXT(name_, field_, default_, help_)                                          \
	{                                                                             \
		.name = (name_), .type = SLUICE_PARAM_STRING,                         \
		SLUICE_FIELD(struct perf_figure, field_), .default_text = (default_), \
		.help = (help_)                                                       \
	}

static const char *const combine_names[] = {"worst", "mean", NULL};

const struct sluice_param perf_figure_params[] = {
	TEXT("metric", metric, "", "what of a run, such as total_ms; of several the worst counts"),
	TEXT("of", of, "",
		"variants: A, or A/B for the ratio within each round, or A/best for the ratio to "
		"the largest of the others; of several, separated by spaces, the worst counts"),
	{.name = "combine",
		.type = SLUICE_PARAM_CHOICE,
		SLUICE_FIELD(struct perf_figure, combine),
		.default_text = "worst",
		.choices = combine_names,
		.help = "how several are made one"},
	TEXT("at-least", at_least, "", "target: the smallest median that will do"),
	TEXT("at-most", at_most, "", "target: the largest median that will do"),
	TEXT("says", says, "", "what it is, for people"),
	{.name = NULL},
};

/* One `name: value` that waits until the base is known. */
struct assignment {
	char variant[PERF_WORD_MAX]; /* "": the base */
	char name[PERF_WORD_MAX], value[PERF_TEXT_MAX];
};

struct assignments {
	struct assignment *item;
	size_t count;
};

struct loader {
	struct perf_plan *plan;
	struct assignments variants, quick;
	struct perf_config scratch; /* values are tried out here, so that errors have a line */
};

static int remember(struct assignments *list, const char *variant, const char *name,
	const char *value, struct sluice_error *err)
{
	struct assignment *grown = realloc(list->item, (list->count + 1) * sizeof(*grown));

	if (grown == NULL)
		return sluice_fail(err, -ENOMEM, "config", "out of memory");
	list->item = grown;
	snprintf(grown[list->count].variant, PERF_WORD_MAX, "%s", variant);
	snprintf(grown[list->count].name, PERF_WORD_MAX, "%s", name);
	snprintf(grown[list->count].value, PERF_TEXT_MAX, "%s", value);
	list->count++;
	return 0;
}

/* A name that can stand in `of`, in --set and as a key. */
static int check_name(const char *name, struct sluice_error *err)
{
	if (name[0] == '\0' || strlen(name) >= PERF_WORD_MAX || strpbrk(name, " /.=") != NULL ||
		strcmp(name, PERF_TERM_BEST) == 0)
		return sluice_fail(err, -EINVAL, "config",
			"'%s' is no name: at most %d characters without space, '/', '.', '=', and "
			"not 'best'",
			name, PERF_WORD_MAX - 1);
	return 0;
}

static int set_variant(
	void *ctx, const char *entry, const char *name, const char *value, struct sluice_error *err)
{
	struct loader *l = ctx;
	struct perf_plan *plan = l->plan;
	int r;

	if (entry[0] == '\0')
		return sluice_fail(err, -EINVAL, "config",
			"a variant is a mapping of what it changes, such as %s: {lanes: 2}", name);
	if (name != NULL) {
		r = sluice_params_set(perf_config_params, &l->scratch, name, value, err);
		return r < 0 ? r : remember(&l->variants, entry, name, value, err);
	}
	if (plan->variant_count == PERF_VARIANTS_MAX)
		return sluice_fail(
			err, -E2BIG, "config", "more than %d variants", PERF_VARIANTS_MAX);
	r = check_name(entry, err);
	if (r < 0)
		return r;
	snprintf(plan->variant[plan->variant_count++].name, PERF_WORD_MAX, "%s", entry);
	plan->has_variants = true;
	return 0;
}

static int set_quick(
	void *ctx, const char *entry, const char *name, const char *value, struct sluice_error *err)
{
	struct loader *l = ctx;
	int r;

	if (name == NULL)
		return check_name(entry, err);
	r = sluice_params_set(perf_config_params, &l->scratch, name, value, err);
	return r < 0 ? r : remember(&l->quick, entry, name, value, err);
}

static int set_figure(
	void *ctx, const char *entry, const char *name, const char *value, struct sluice_error *err)
{
	struct perf_plan *plan = ((struct loader *)ctx)->plan;
	int r;

	if (entry[0] == '\0')
		return sluice_fail(err, -EINVAL, "config",
			"a figure is a mapping, such as %s: {metric: total_ms, of: A/B}", name);
	if (name != NULL)
		return sluice_params_set(perf_figure_params, &plan->figure[plan->figure_count - 1],
			name, value, err);
	if (plan->figure_count == PERF_FIGURES_MAX)
		return sluice_fail(err, -E2BIG, "config", "more than %d figures", PERF_FIGURES_MAX);
	r = check_name(entry, err);
	if (r < 0)
		return r;
	sluice_params_defaults(perf_figure_params, &plan->figure[plan->figure_count]);
	snprintf(plan->figure[plan->figure_count++].name, PERF_WORD_MAX, "%s", entry);
	return 0;
}

static int load_file(struct loader *l, const char *path, struct sluice_error *err)
{
	const struct sluice_params_section sections[] = {
		{"variants", set_variant, l},
		{"quick", set_quick, l},
		{"figures", set_figure, l},
		{NULL, NULL, NULL},
	};

	return sluice_params_load_yaml_sections(
		perf_config_params, &l->plan->base, sections, path, err);
}

/* ---- putting it together ---- */

static int apply(const struct assignments *list, const char *variant, struct perf_config *config,
	struct sluice_error *err)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < list->count; i++)
		if (strcmp(list->item[i].variant, variant) == 0)
			r = sluice_params_set(perf_config_params, config, list->item[i].name,
				list->item[i].value, err);
	return r;
}

/* The name of the variant in VARIANT.NAME=VALUE, "" in NAME=VALUE; returns where NAME begins. */
static const char *split_set(const char *set, char variant[PERF_WORD_MAX])
{
	size_t n = strcspn(set, ".=");

	variant[0] = '\0';
	if (set[n] != '.' || n >= PERF_WORD_MAX)
		return set;
	snprintf(variant, PERF_WORD_MAX, "%.*s", (int)n, set);
	return set + n + 1;
}

static int apply_sets(const struct perf_plan_options *options, const char *variant,
	struct perf_config *config, struct sluice_error *err)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < options->set_count; i++) {
		char of[PERF_WORD_MAX];
		const char *assignment = split_set(options->sets[i], of);

		if (strcmp(of, variant) == 0)
			r = sluice_params_assign(perf_config_params, config, assignment, err);
	}
	return r;
}

static int check_variant(
	const struct perf_plan *plan, const char *name, const char *where, struct sluice_error *err)
{
	if (name[0] == '\0' || perf_plan_find(plan, name) != NULL)
		return 0;
	return sluice_fail(err, -ENOENT, "config", "%s: there is no variant '%s'", where, name);
}

static int check_names(
	const struct loader *l, const struct perf_plan_options *options, struct sluice_error *err)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < l->quick.count; i++)
		r = check_variant(l->plan, l->quick.item[i].variant, "quick", err);
	for (size_t i = 0; r == 0 && i < options->set_count; i++) {
		char variant[PERF_WORD_MAX];

		split_set(options->sets[i], variant);
		r = check_variant(l->plan, variant, "--set", err);
	}
	for (size_t i = 0; r == 0 && i < l->plan->figure_count; i++)
		r = perf_figure_check(l->plan, &l->plan->figure[i], err);
	return r;
}

static int assemble(
	struct loader *l, const struct perf_plan_options *options, struct sluice_error *err)
{
	struct perf_plan *plan = l->plan;
	int r = 0;

	if (options->quick)
		r = apply(&l->quick, "", &plan->base, err);
	if (r == 0)
		r = apply_sets(options, "", &plan->base, err);
	if (r == 0 && !plan->has_variants) {
		snprintf(plan->variant[0].name, PERF_WORD_MAX, "%s", plan->base.name);
		plan->variant_count = 1;
	}
	if (r == 0)
		r = check_names(l, options, err);
	for (size_t i = 0; r == 0 && i < plan->variant_count; i++) {
		struct perf_variant *variant = &plan->variant[i];

		variant->config = plan->base;
		if (!plan->has_variants)
			break;
		r = apply(&l->variants, variant->name, &variant->config, err);
		if (r == 0 && options->quick)
			r = apply(&l->quick, variant->name, &variant->config, err);
		if (r == 0)
			r = apply_sets(options, variant->name, &variant->config, err);
	}
	return r;
}

int perf_plan_load(const char *path, const struct perf_plan_options *options,
	struct perf_plan **ret_plan, struct sluice_error *err)
{
	struct loader l = {.plan = calloc(1, sizeof(*l.plan))};
	int r;

	if (l.plan == NULL)
		return sluice_fail(err, -ENOMEM, "config", "out of memory");
	sluice_params_defaults(perf_config_params, &l.plan->base);
	sluice_params_defaults(perf_config_params, &l.scratch);
	r = load_file(&l, path, err);
	if (r == 0)
		r = assemble(&l, options, err);
	free(l.variants.item);
	free(l.quick.item);
	if (r < 0) {
		free(l.plan);
		return r;
	}
	*ret_plan = l.plan;
	return 0;
}

const struct perf_variant *perf_plan_find(const struct perf_plan *plan, const char *name)
{
	for (size_t i = 0; i < plan->variant_count; i++)
		if (strcmp(plan->variant[i].name, name) == 0)
			return &plan->variant[i];
	return NULL;
}
