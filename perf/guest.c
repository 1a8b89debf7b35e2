/* SPDX-License-Identifier: BSD-3-Clause */
/* guest.c: see guest.h. */
#include <errno.h>
#include <unistd.h>

#include "base/clock.h"
#include "perf/experiment.h"
#include "perf/guest.h"
#include "perf/series.h"

#define BIN_NS            (10 * SLUICE_NS_PER_MS)
#define READY_INTERVAL_US 10000

static uint64_t number(const json_t *object, const char *key)
{
	json_int_t value = json_integer_value(json_object_get(object, key));

	return value > 0 ? (uint64_t)value : 0;
}

int perf_guest_times(
	struct perf_node *node, struct perf_guest_times *ret_times, struct sluice_error *err)
{
	json_t *answer = NULL;
	int r = perf_command(node->monitor, "query-timestamps", NULL, &answer, err);

	if (r < 0)
		return r;
	ret_times->stopped_ns = number(answer, "stopped_ns");
	ret_times->running_ns = number(answer, "running_ns");
	json_decref(answer);
	return 0;
}

int perf_guest_wait_ready(struct perf_node *node, uint64_t timeout_ns, struct sluice_error *err)
{
	uint64_t end_ns = sluice_now_ns() + timeout_ns;
	json_t *answer = NULL;
	bool ready = false;
	int r;

	for (;;) {
		r = perf_node_check(node, err);
		if (r == 0)
			r = perf_command(node->monitor, "query-guest", NULL, &answer, err);
		if (r < 0)
			return r;
		ready = json_is_true(json_object_get(answer, "ready"));
		json_decref(answer);
		if (ready)
			return 0;
		if (perf_experiment_interrupted())
			return sluice_fail(err, -EINTR, "run", "interrupted");
		if (sluice_now_ns() > end_ns)
			return sluice_fail(err, -ETIMEDOUT, node->name,
				"the guest has not filled its memory in time");
		usleep(READY_INTERVAL_US);
	}
}

int perf_guest_errors(struct perf_node *node, uint64_t *ret_errors, struct sluice_error *err)
{
	json_t *answer = NULL;
	int r = perf_command(node->monitor, "query-guest", NULL, &answer, err);

	if (r < 0)
		return r;
	*ret_errors = number(answer, "errors");
	json_decref(answer);
	return 0;
}

int perf_guest_verify(struct perf_node *target, struct perf_node *source,
	struct perf_verify *ret_verify, struct sluice_error *err)
{
	json_t *regions = NULL, *given = json_array(), *answer = NULL, *region;
	size_t index;
	int r;

	r = perf_command(source->monitor, "query-memory", NULL, &regions, err);
	if (r < 0)
		goto out_free;
	json_array_foreach (regions, index, region)
		json_array_append_new(
			given, json_pack("{s:O, s:O, s:O}", "id", json_object_get(region, "id"),
				       "fd", json_object_get(region, "fd"), "offset",
				       json_object_get(region, "offset")));
	r = perf_command(target->monitor, "verify",
		json_pack("{s:i, s:O}", "source-pid", (int)source->vmm.pid, "regions", given),
		&answer, err);
	if (r < 0)
		goto out_free;
	ret_verify->compared = number(answer, "pages_compared");
	ret_verify->skipped = number(answer, "pages_skipped");
	ret_verify->mismatched = number(answer, "mismatched_pages");
	json_decref(answer);
out_free:
	json_decref(given);
	json_decref(regions);
	return r;
}

/* ---- what it did over time ---- */

static int describe_series_error(int r, const struct perf_node *node, struct sluice_error *err)
{
	if (r == -EILSEQ)
		return sluice_fail(err, r, node->name, "the guest's count of operations went back");
	if (r < 0)
		return sluice_fail(err, r, node->name, "the answer to query-bins is of no use");
	return 0;
}

static int append_samples(struct perf_series *series, struct perf_node *node, uint64_t begin_ns,
	uint64_t end_ns, struct sluice_error *err)
{
	json_t *bins = NULL;
	int r = perf_command(node->monitor, "query-bins",
		json_pack("{s:I}", "since_ns", (json_int_t)begin_ns), &bins, err);

	if (r < 0)
		return r;
	r = perf_series_append(series, bins, begin_ns, end_ns);
	json_decref(bins);
	return describe_series_error(r, node, err);
}

/* The pause: the count with which the guest stopped, at both of its ends. */
static int append_pause(struct perf_series *series, struct perf_node *source, uint64_t stopped_ns,
	uint64_t running_ns, struct sluice_error *err)
{
	json_t *guest = NULL;
	double ops;
	int r = perf_command(source->monitor, "query-guest", NULL, &guest, err);

	if (r < 0)
		return r;
	ops = (double)number(guest, "ops");
	json_decref(guest);
	r = perf_series_append_one(series, stopped_ns, ops);
	if (r == 0)
		r = perf_series_append_one(series, running_ns, ops);
	return describe_series_error(r, source, err);
}

static double ms_after(uint64_t start_ns, uint64_t t_ns)
{
	return ((double)t_ns - (double)start_ns) / (double)SLUICE_NS_PER_MS;
}

static json_t *describe_series(
	const struct perf_series *series, const struct perf_guest_span *span, uint64_t end_ns)
{
	uint64_t begin_ns = span->start_ns - span->before_ns;
	double before = perf_series_rate(series, begin_ns, span->start_ns);
	/* Until it stops: the pause is the downtime, and has a figure of its own. */
	uint64_t full_ns = span->start_ns + span->held_ns;
	double during = perf_series_rate(series, full_ns, span->stopped_ns);
	json_t *ops = json_pack("{s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:o}", "before", before,
		"during", during, "during_ratio", before > 0 ? during / before : 0, "after",
		perf_series_rate(series, span->running_ns, end_ns), "bin_ms",
		(double)BIN_NS / (double)SLUICE_NS_PER_MS, "first_bin_ms",
		ms_after(span->start_ns, begin_ns), "stopped_ms",
		ms_after(span->start_ns, span->stopped_ns), "running_ms",
		ms_after(span->start_ns, span->running_ns), "bins",
		perf_series_bins(series, begin_ns, end_ns, BIN_NS));

	if (span->held_ns != 0 && before > 0)
		json_object_set_new(ops, "held_ratio",
			json_real(perf_series_rate(series, span->start_ns, full_ns) / before));
	return ops;
}

int perf_guest_ops(struct perf_node *source, struct perf_node *target,
	const struct perf_guest_span *span, json_t **ret_ops, struct sluice_error *err)
{
	struct perf_series series = {.count = 0};
	uint64_t end_ns = sluice_now_ns();
	/* One bin earlier: the line to the first sample inside begins before it. */
	uint64_t begin_ns = span->start_ns - span->before_ns - 2 * BIN_NS;
	int r;

	r = append_samples(&series, source, begin_ns, span->stopped_ns, err);
	if (r == 0)
		r = append_pause(&series, source, span->stopped_ns, span->running_ns, err);
	if (r == 0)
		r = append_samples(&series, target, span->running_ns, end_ns, err);
	if (r == 0) {
		/* What follows the last sample is not known yet. */
		end_ns = series.t_ns[series.count - 1];
		*ret_ops = describe_series(&series, span, end_ns);
	}
	perf_series_free(&series);
	return r;
}
