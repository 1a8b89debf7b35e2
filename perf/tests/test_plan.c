/* SPDX-License-Identifier: BSD-3-Clause */
/* test_plan.c: configuration files with variants, and the figures that are made of their runs. */
#include <errno.h>
#include <glob.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <CUnit/Basic.h>

#include "perf/figures.h"
#include "perf/plan.h"

#define NEAR(a, b) CU_ASSERT_DOUBLE_EQUAL(a, b, 1e-9)

static char path[] = "/tmp/sluice-plan-XXXXXX";

static const char file[] = "name: demo\n"
			   "lanes: 3\n"
			   "ram: 1G\n"
			   "variants:\n"
			   "  few: {lanes: 1}\n"
			   "  same: {}\n"
			   "  many: {lanes: 9, ram: 2G}\n"
			   "quick: {ram: 64M, many: {ram: 32M}}\n"
			   "figures:\n"
			   "  ratio: {metric: total_ms bytes_placed, of: few/many, at-most: 1.5}\n"
			   "  top: {metric: total_ms, of: few/best, at-least: 0.9}\n"
			   "  mean: {metric: total_ms, of: few many, combine: mean}\n";

static int load(const char *yaml, const struct perf_plan_options *options,
	struct perf_plan **ret_plan, struct sluice_error *err)
{
	FILE *out = fopen(path, "w");

	CU_ASSERT_PTR_NOT_NULL_FATAL(out);
	fputs(yaml, out);
	fclose(out);
	return perf_plan_load(path, options, ret_plan, err);
}

static struct perf_plan *load_well(const char *yaml, const struct perf_plan_options *options)
{
	struct sluice_error err = {0};
	struct perf_plan *plan = NULL;

	CU_ASSERT_EQUAL_FATAL(load(yaml, options, &plan, &err), 0);
	return plan;
}

static void test_variants(void)
{
	struct perf_plan *plan = load_well(file, &(struct perf_plan_options){.quick = false});

	CU_ASSERT_EQUAL(plan->variant_count, 3);
	CU_ASSERT_EQUAL(perf_plan_find(plan, "few")->config.lanes, 1);
	CU_ASSERT_EQUAL(perf_plan_find(plan, "same")->config.lanes, 3);
	CU_ASSERT_EQUAL(perf_plan_find(plan, "same")->config.ram_bytes, 1ull << 30);
	CU_ASSERT_EQUAL(perf_plan_find(plan, "many")->config.ram_bytes, 2ull << 30);
	CU_ASSERT_PTR_NULL(perf_plan_find(plan, "none"));
	CU_ASSERT_EQUAL(plan->figure_count, 3);
	free(plan);
}

/* The later one wins: file, quick, --set, variant, quick of the variant, --set of the variant. */
static void test_precedence(void)
{
	static const char *const sets[] = {"lanes=5", "ram=128M", "few.lanes=7"};
	struct perf_plan *plan = load_well(
		file, &(struct perf_plan_options){.quick = true, .sets = sets, .set_count = 3});

	CU_ASSERT_EQUAL(plan->base.ram_bytes, 128ull << 20);
	CU_ASSERT_EQUAL(perf_plan_find(plan, "few")->config.lanes, 7);
	CU_ASSERT_EQUAL(perf_plan_find(plan, "same")->config.lanes, 5);
	CU_ASSERT_EQUAL(perf_plan_find(plan, "many")->config.lanes, 9);
	CU_ASSERT_EQUAL(perf_plan_find(plan, "many")->config.ram_bytes, 32ull << 20);
	free(plan);
}

static void test_no_variants(void)
{
	struct perf_plan *plan =
		load_well("name: one\nlanes: 2\n", &(struct perf_plan_options){.quick = true});

	CU_ASSERT_FALSE(plan->has_variants);
	CU_ASSERT_EQUAL(plan->variant_count, 1);
	CU_ASSERT_EQUAL(perf_plan_find(plan, "one")->config.lanes, 2);
	free(plan);
}

static void test_errors(void)
{
	static const char *const unknown_set[] = {"none.lanes=2"};
	static const struct {
		const char *yaml, *says;
		struct perf_plan_options options;
	} cases[] = {
		{"variants:\n  a: {lane: 1}\n", ":2:7: there is no parameter 'lane' (did you mean"},
		{"variants:\n  a: {lanes: many}\n", ":2:14: lanes: 'many'"},
		{"variants:\n  a: 1\n", ":2:6: a variant is a mapping"},
		{"variants: 3\n", ":1:11: this is a section"},
		{"variants:\n  a: {}\n  a: {}\n", ":3:3: the parameter is given twice"},
		{"variants:\n  a: {lanes: 1, lanes: 2}\n", ":2:17: the parameter is given twice"},
		{"variants:\n  a: {lanes: [1, 2]}\n", ":2:14: a parameter's value must be one"},
		{"variants:\n  best: {}\n", ":2:3: 'best' is no name"},
		{"variants:\n  a/b: {}\n", ":2:3: 'a/b' is no name"},
		{"quick: {none: {lanes: 2}}\n", "quick: there is no variant 'none'"},
		{"lanes: 1\n", "--set: there is no variant 'none'",
			{.sets = unknown_set, .set_count = 1}},
		{"name: n\nfigures:\n  f: {metric: total, of: n}\n",
			"figure f: there is no metric 'total'"},
		{"name: n\nfigures:\n  f: {metric: total_ms, of: m}\n",
			"figure f: there is no variant 'm'"},
		{"name: n\nfigures:\n  f: {metric: total_ms, of: n/}\n",
			"figure f: there is no variant ''"},
		{"name: n\nfigures:\n  f: {metric: total_ms}\n", "figure f needs a metric"},
		{"name: n\nfigures:\n  f: {metric: total_ms, of: n, at-most: lots}\n",
			"the target 'lots' is no number"},
		{"name: n\nfigures:\n  f: {metric: total_ms, of: n, at-most: 1, at-least: 1}\n",
			"exclude each other"},
		{"figures:\n  f: {matric: total_ms}\n", ":2:7: there is no parameter 'matric'"},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct sluice_error err = {0};
		struct perf_plan *plan = NULL;

		CU_ASSERT_TRUE(load(cases[i].yaml, &cases[i].options, &plan, &err) < 0);
		CU_ASSERT_PTR_NULL(plan);
		if (strstr(err.text, cases[i].says) == NULL) {
			fprintf(stderr, "\n'%s' lacks '%s'\n", err.text, cases[i].says);
			CU_FAIL("another error");
		}
	}
}

/* ---- figures ---- */

static json_t *runs_of(const char *text)
{
	json_t *runs = json_loads(text, 0, NULL);

	CU_ASSERT_PTR_NOT_NULL_FATAL(runs);
	return runs;
}

static double number(const json_t *object, const char *key)
{
	return json_number_value(json_object_get(object, key));
}

/* In round 1 the machine is five times slower: a ratio of medians over rounds would see it. */
static const char three_rounds[] =
	"[{\"status\": \"completed\", \"variant\": \"few\", \"round\": 0, \"total_ms\": 100,"
	"  \"bytes_placed\": 9},"
	" {\"status\": \"completed\", \"variant\": \"many\", \"round\": 0, \"total_ms\": 80,"
	"  \"bytes_placed\": 4},"
	" {\"status\": \"completed\", \"variant\": \"few\", \"round\": 1, \"total_ms\": 500,"
	"  \"bytes_placed\": 9},"
	" {\"status\": \"completed\", \"variant\": \"many\", \"round\": 1, \"total_ms\": 400,"
	"  \"bytes_placed\": 6},"
	" {\"status\": \"completed\", \"variant\": \"same\", \"round\": 1, \"total_ms\": 1000},"
	" {\"status\": \"completed\", \"variant\": \"few\", \"round\": 2, \"total_ms\": 90,"
	"  \"bytes_placed\": 9},"
	" {\"status\": \"failed\", \"variant\": \"many\", \"round\": 2, \"total_ms\": 1}]";

static void test_ratio(void)
{
	struct perf_plan *plan = load_well(file, &(struct perf_plan_options){.quick = false});
	json_t *runs = runs_of(three_rounds);
	json_t *json = perf_figure_json(plan, &plan->figure[0], runs);
	json_t *terms = json_object_get(json, "terms");

	/* Times: 1.25 in both rounds. Bytes: 2.25 and 1.5, which is worse, and decides. */
	CU_ASSERT_EQUAL(json_array_size(terms), 2);
	NEAR(number(json_array_get(terms, 0), "median"), 1.25);
	NEAR(number(json_array_get(terms, 0), "max"), 1.25);
	NEAR(number(json, "median"), 1.875);
	NEAR(number(json, "min"), 1.5);
	NEAR(number(json, "max"), 2.25);
	CU_ASSERT_EQUAL(json_integer_value(json_object_get(json, "count")), 2);
	NEAR(number(json, "at-most"), 1.5);
	CU_ASSERT_TRUE(json_is_false(json_object_get(json, "met")));
	json_decref(json);

	/* Beside the largest of the others: 100/80, 500/1000; round 2 has no other. */
	json = perf_figure_json(plan, &plan->figure[1], runs);
	NEAR(number(json, "min"), 0.5);
	NEAR(number(json, "max"), 1.25);
	NEAR(number(json, "median"), 0.875);
	CU_ASSERT_TRUE(json_is_false(json_object_get(json, "met")));
	json_decref(json);

	json = perf_figure_json(plan, &plan->figure[2], runs);
	NEAR(number(json, "median"), (100 + 240) / 2.0);
	CU_ASSERT_PTR_NULL(json_object_get(json, "met"));
	json_decref(json);
	json_decref(runs);
	free(plan);
}

static void test_met(void)
{
	struct perf_plan *plan = load_well("name: n\nfigures:\n"
					   "  low: {metric: total_ms, of: n, at-least: 10}\n"
					   "  high: {metric: total_ms, of: n, at-most: 10}\n",
		&(struct perf_plan_options){.quick = false});
	json_t *runs = runs_of("[{\"status\": \"completed\", \"variant\": \"n\", \"round\": 0,"
			       "  \"total_ms\": 10}]");

	for (int i = 0; i < 2; i++) {
		json_t *json = perf_figure_json(plan, &plan->figure[i], runs);

		CU_ASSERT_TRUE(json_is_true(json_object_get(json, "met")));
		json_decref(json);
	}
	json_decref(runs);
	free(plan);
}

/* What was not measured says why, and meets nothing. */
static void test_skipped(void)
{
	struct perf_plan *plan = load_well(file, &(struct perf_plan_options){.quick = false});
	json_t *runs = runs_of("[{\"status\": \"completed\", \"variant\": \"few\", \"round\": 0,"
			       "  \"total_ms\": 10},"
			       " {\"status\": \"skipped\", \"variant\": \"many\", \"round\": 0,"
			       "  \"reason\": \"no such program\"}]");
	json_t *json = perf_figure_json(plan, &plan->figure[0], runs);

	CU_ASSERT_STRING_EQUAL(
		json_string_value(json_object_get(json, "skipped")), "no such program");
	CU_ASSERT_PTR_NULL(json_object_get(json, "median"));
	CU_ASSERT_PTR_NULL(json_object_get(json, "met"));
	json_decref(json);
	json_decref(runs);
	free(plan);
}

static const char *shipped = "configs/bench"; /* or the argument */

/* What comes with the source can be read, in both sizes. */
static void test_shipped(void)
{
	char pattern[512];
	glob_t files;

	snprintf(pattern, sizeof(pattern), "%s/*.yaml", shipped);
	CU_ASSERT_EQUAL_FATAL(glob(pattern, 0, NULL, &files), 0);
	CU_ASSERT_TRUE(files.gl_pathc >= 10);
	for (size_t i = 0; i < files.gl_pathc; i++) {
		for (int quick = 0; quick <= 1; quick++) {
			struct perf_plan_options options = {.quick = quick != 0};
			struct sluice_error err = {0};
			struct perf_plan *plan = NULL;

			CU_ASSERT_EQUAL(
				perf_plan_load(files.gl_pathv[i], &options, &plan, &err), 0);
			if (plan == NULL)
				printf("%s: %s\n", files.gl_pathv[i], err.text);
			free(plan);
		}
	}
	globfree(&files);
}

int main(int argc, char **argv)
{
	unsigned int failures;
	int fd = mkstemp(path);

	if (fd < 0 || CU_initialize_registry() != CUE_SUCCESS)
		return EXIT_FAILURE;
	close(fd);
	if (argc > 1)
		shipped = argv[1];
	CU_pSuite suite = CU_add_suite("plan", NULL, NULL);
	CU_add_test(suite, "variants", test_variants);
	CU_add_test(suite, "what wins", test_precedence);
	CU_add_test(suite, "one configuration", test_no_variants);
	CU_add_test(suite, "errors", test_errors);
	CU_add_test(suite, "ratios within rounds", test_ratio);
	CU_add_test(suite, "targets", test_met);
	CU_add_test(suite, "skipped", test_skipped);
	CU_add_test(suite, "what is shipped", test_shipped);
	CU_basic_set_mode(CU_BRM_VERBOSE);
	CU_basic_run_tests();
	failures = CU_get_number_of_failures();
	CU_cleanup_registry();
	unlink(path);
	return failures == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
