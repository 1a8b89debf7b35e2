/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * compare.c: two results side by side. It claims a difference only where the ranges of the
 * two do not touch; everything else is called noise.
 */
#include <stdlib.h>
#include <string.h>

#include "perf/figures.h"
#include "perf/metrics.h"
#include "perf/report.h"

static void print_differences(const json_t *a, const json_t *b, const char *what, FILE *out)
{
	const json_t *in_a = json_object_get(a, what), *in_b = json_object_get(b, what);
	json_t *keys = json_deep_copy(in_a), *more = json_deep_copy(in_b);
	const char *key;
	json_t *unused;

	json_object_update_missing(keys, more);
	json_object_foreach (keys, key, unused) {
		json_t *va = json_object_get(in_a, key), *vb = json_object_get(in_b, key);
		char *ta, *tb;

		if (json_equal(va, vb))
			continue;
		ta = va != NULL ? json_dumps(va, JSON_ENCODE_ANY) : NULL;
		tb = vb != NULL ? json_dumps(vb, JSON_ENCODE_ANY) : NULL;
		fprintf(out, "%s differs: %s: %s | %s\n", what, key, ta != NULL ? ta : "-",
			tb != NULL ? tb : "-");
		free(ta);
		free(tb);
	}
	json_decref(more);
	json_decref(keys);
}

static void print_metric(
	const struct perf_metric *metric, const json_t *runs_a, const json_t *runs_b, FILE *out)
{
	struct perf_range a = perf_metric_range(metric, runs_a);
	struct perf_range b = perf_metric_range(metric, runs_b);
	double scale = metric->shown_scale;
	int d = metric->decimals;
	char label[40];

	if (a.count == 0 || b.count == 0)
		return;
	snprintf(label, sizeof(label), "%s%s%s", metric->label, metric->unit[0] != '\0' ? ", " : "",
		metric->unit);
	fprintf(out, "%-30s %12.*f %12.*f %12.*f | %12.*f %12.*f %12.*f", label, d,
		a.median * scale, d, a.min * scale, d, a.max * scale, d, b.median * scale, d,
		b.min * scale, d, b.max * scale);
	if (a.min == a.max && b.min == b.max && a.min == b.min)
		fputs("   the same\n", out);
	else if (!perf_range_separate(&a, &b))
		fputs("   within the noise\n", out);
	else if (a.median == 0)
		fputs("   differs\n", out);
	else
		fprintf(out, "   %+.1f %%\n", (b.median / a.median - 1) * 100);
}

static void print_metrics(const json_t *runs_a, const json_t *runs_b, const char *name, FILE *out)
{
	fprintf(out, "%-30s %12s %12s %12s | %12s %12s %12s\n", name, "A median", "min", "max",
		"B median", "min", "max");
	for (const struct perf_metric *metric = perf_metrics; metric->key != NULL; metric++)
		print_metric(metric, runs_a, runs_b, out);
}

void perf_compare_print(const json_t *a, const json_t *b, FILE *out)
{
	const json_t *runs_a = json_object_get(a, "runs"), *runs_b = json_object_get(b, "runs");
	json_t *variants = json_object_get(a, "variants"), *unused;
	const char *name;

	print_differences(a, b, "config", out);
	print_differences(a, b, "host", out);
	if (json_object_size(variants) < 2)
		print_metrics(runs_a, runs_b, "", out);
	else
		json_object_foreach (variants, name, unused) {
			json_t *of_a = perf_runs_of(runs_a, name),
			       *of_b = perf_runs_of(runs_b, name);

			print_metrics(of_a, of_b, name, out);
			json_decref(of_a);
			json_decref(of_b);
		}
	fprintf(out, "%zu and %zu runs; a difference is named only where the ranges are apart\n",
		json_array_size(runs_a), json_array_size(runs_b));
}
