/* SPDX-License-Identifier: BSD-3-Clause */
/* figures.c: see figures.h. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "perf/figures.h"
#include "perf/metrics.h"

/* A metric of a variant, or its ratio to that of another one. */
struct term {
	const struct perf_metric *metric;
	char of[PERF_WORD_MAX];
	char over[PERF_WORD_MAX]; /* "": no ratio */
};

/* Calls @fn for each word; ends with the first that returns not 0. */
static int for_each_word(const char *words, int (*fn)(void *ctx, const char *word), void *ctx)
{
	char copy[PERF_TEXT_MAX], *rest = copy, *word;
	int r = 0;

	snprintf(copy, sizeof(copy), "%s", words);
	while (r == 0 && (word = strsep(&rest, " ")) != NULL)
		if (word[0] != '\0')
			r = fn(ctx, word);
	return r;
}

static void parse_term(const char *word, struct term *term)
{
	const char *slash = strchr(word, '/');
	size_t n = slash != NULL ? (size_t)(slash - word) : strlen(word);

	snprintf(term->of, sizeof(term->of), "%.*s", (int)n, word);
	snprintf(term->over, sizeof(term->over), "%s", slash != NULL ? slash + 1 : "");
}

/* ---- checking ---- */

struct check {
	const struct perf_plan *plan;
	const struct perf_figure *figure;
	struct sluice_error *err;
	unsigned int metrics, terms;
};

static int check_metric(void *ctx, const char *word)
{
	struct check *c = ctx;

	c->metrics++;
	if (perf_metric_find(word) != NULL)
		return 0;
	return sluice_fail(c->err, -ENOENT, "config", "figure %s: there is no metric '%s'",
		c->figure->name, word);
}

static int check_term(void *ctx, const char *word)
{
	struct check *c = ctx;
	struct term term;
	const char *unknown = NULL;

	parse_term(word, &term);
	c->terms++;
	if (perf_plan_find(c->plan, term.of) == NULL)
		unknown = term.of;
	else if (strchr(word, '/') != NULL && strcmp(term.over, PERF_TERM_BEST) != 0 &&
		 perf_plan_find(c->plan, term.over) == NULL)
		unknown = term.over;
	if (unknown == NULL)
		return 0;
	return sluice_fail(c->err, -ENOENT, "config", "figure %s: there is no variant '%s'",
		c->figure->name, unknown);
}

static int check_number(
	const struct perf_figure *figure, const char *text, struct sluice_error *err)
{
	char *end;

	strtod(text, &end);
	if (text[0] == '\0' || *end == '\0')
		return 0;
	return sluice_fail(err, -EINVAL, "config", "figure %s: the target '%s' is no number",
		figure->name, text);
}

int perf_figure_check(
	const struct perf_plan *plan, const struct perf_figure *figure, struct sluice_error *err)
{
	struct check c = {.plan = plan, .figure = figure, .err = err};
	int r = for_each_word(figure->metric, check_metric, &c);

	if (r == 0)
		r = for_each_word(figure->of, check_term, &c);
	if (r == 0)
		r = check_number(figure, figure->at_least, err);
	if (r == 0)
		r = check_number(figure, figure->at_most, err);
	if (r < 0)
		return r;
	if (c.metrics == 0 || c.terms == 0)
		return sluice_fail(err, -EINVAL, "config",
			"figure %s needs a metric and what it is of", figure->name);
	if (figure->at_least[0] != '\0' && figure->at_most[0] != '\0')
		return sluice_fail(err, -EINVAL, "config",
			"figure %s: at-least and at-most exclude each other", figure->name);
	return 0;
}

/* ---- from runs to numbers ---- */

static const char *text_of(const json_t *object, const char *key)
{
	const char *text = json_string_value(json_object_get(object, key));

	return text != NULL ? text : "";
}

json_t *perf_runs_of(const json_t *runs, const char *variant)
{
	json_t *found = json_array(), *run;
	size_t index;

	json_array_foreach (runs, index, run) {
		if (strcmp(text_of(run, "variant"), variant) == 0)
			json_array_append(found, run);
	}
	return found;
}

/* The median over the runs of a variant in one round: hops make several. */
static bool value_in_round(const json_t *runs, const struct perf_metric *metric,
	const char *variant, json_int_t round, double *ret_value)
{
	json_t *found = json_array(), *run;
	struct perf_range range;
	size_t index;

	json_array_foreach (runs, index, run) {
		if (strcmp(text_of(run, "variant"), variant) == 0 &&
			json_integer_value(json_object_get(run, "round")) == round)
			json_array_append(found, run);
	}
	range = perf_metric_range(metric, found);
	json_decref(found);
	*ret_value = range.median;
	return range.count > 0;
}

static bool best_in_round(const struct perf_plan *plan, const json_t *runs, const struct term *term,
	json_int_t round, double *ret_value)
{
	bool found = false;
	double value;

	for (size_t i = 0; i < plan->variant_count; i++) {
		const char *name = plan->variant[i].name;

		if (strcmp(name, term->of) == 0 ||
			!value_in_round(runs, term->metric, name, round, &value))
			continue;
		if (!found || value > *ret_value)
			*ret_value = value;
		found = true;
	}
	return found;
}

static bool term_in_round(const struct perf_plan *plan, const json_t *runs, const struct term *term,
	json_int_t round, double *ret_value)
{
	double value, over = 0;
	bool found = value_in_round(runs, term->metric, term->of, round, &value);

	*ret_value = value;
	if (!found || term->over[0] == '\0')
		return found;
	found = strcmp(term->over, PERF_TERM_BEST) == 0
			? best_in_round(plan, runs, term, round, &over)
			: value_in_round(runs, term->metric, term->over, round, &over);
	*ret_value = over != 0 ? value / over : 0;
	return found && over != 0;
}

static json_int_t rounds_of(const json_t *runs)
{
	json_int_t rounds = 0;
	json_t *run;
	size_t index;

	json_array_foreach (runs, index, run) {
		json_int_t round = json_integer_value(json_object_get(run, "round"));

		if (round >= rounds)
			rounds = round + 1;
	}
	return rounds;
}

static struct perf_range term_range(
	const struct perf_plan *plan, const json_t *runs, const struct term *term)
{
	json_int_t rounds = rounds_of(runs);
	double *values = calloc((size_t)rounds + 1, sizeof(*values));
	struct perf_range range = {0};
	size_t count = 0;

	if (values == NULL)
		return range;
	for (json_int_t round = 0; round < rounds; round++)
		count += term_in_round(plan, runs, term, round, &values[count]);
	range = perf_range_of(values, count);
	free(values);
	return range;
}

/* ---- figures ---- */

struct evaluation {
	const struct perf_plan *plan;
	const struct perf_figure *figure;
	const json_t *runs;
	const struct perf_metric *metric; /* of the terms now */
	json_t *terms;
	struct perf_range range; /* of the term that decides, or the means */
	size_t measured; /* terms with values */
	const char *skipped; /* why one has none; borrowed from a run */
};

static bool is_worse(const struct perf_figure *figure, double value, double than)
{
	return figure->at_most[0] != '\0' ? value > than : value < than;
}

static void combine(struct evaluation *e, const struct perf_range *range)
{
	struct perf_range *sum = &e->range;

	e->measured++;
	if (e->figure->combine == PERF_COMBINE_MEAN) {
		double n = (double)e->measured;

		sum->median += (range->median - sum->median) / n;
		sum->min += (range->min - sum->min) / n;
		sum->max += (range->max - sum->max) / n;
		sum->count = range->count;
	} else if (e->measured == 1 || is_worse(e->figure, range->median, sum->median)) {
		*sum = *range;
	}
}

/* Why the variants of a term have no value. */
static const char *why_skipped(const json_t *runs, const struct term *term)
{
	json_t *run;
	size_t index;

	json_array_foreach (runs, index, run) {
		const char *variant = text_of(run, "variant"), *reason = text_of(run, "reason");

		if (reason[0] != '\0' &&
			(strcmp(variant, term->of) == 0 || strcmp(variant, term->over) == 0))
			return reason;
	}
	return "nothing was measured";
}

static int evaluate_term(void *ctx, const char *word)
{
	struct evaluation *e = ctx;
	struct term term = {.metric = e->metric};
	struct perf_range range;
	json_t *described;

	parse_term(word, &term);
	range = term_range(e->plan, e->runs, &term);
	described = json_pack("{s:s, s:s}", "of", word, "metric", e->metric->key);
	if (range.count > 0) {
		combine(e, &range);
		json_object_update_new(described, perf_range_json(&range));
	} else {
		e->skipped = why_skipped(e->runs, &term);
		json_object_set_new(described, "skipped", json_string(e->skipped));
	}
	json_array_append_new(e->terms, described);
	return 0;
}

static int evaluate_metric(void *ctx, const char *word)
{
	struct evaluation *e = ctx;

	e->metric = perf_metric_find(word);
	return for_each_word(e->figure->of, evaluate_term, e);
}

static void add_target(const struct perf_figure *figure, double value, json_t *json)
{
	bool least = figure->at_least[0] != '\0', most = figure->at_most[0] != '\0';
	double target = strtod(least ? figure->at_least : figure->at_most, NULL);

	if (!least && !most)
		return;
	json_object_set_new(json, least ? "at-least" : "at-most", json_real(target));
	json_object_set_new(json, "met", json_boolean(least ? value >= target : value <= target));
}

json_t *perf_figure_json(
	const struct perf_plan *plan, const struct perf_figure *figure, const json_t *runs)
{
	struct evaluation e = {.plan = plan, .figure = figure, .runs = runs, .terms = json_array()};
	json_t *json = json_pack("{s:s, s:s, s:s, s:o}", "metric", figure->metric, "of", figure->of,
		"says", figure->says, "terms", e.terms);

	for_each_word(figure->metric, evaluate_metric, &e);
	if (e.measured > 0) {
		json_object_update_new(json, perf_range_json(&e.range));
		add_target(figure, e.range.median, json);
	}
	if (e.skipped != NULL)
		json_object_set_new(json, "skipped", json_string(e.skipped));
	return json;
}
