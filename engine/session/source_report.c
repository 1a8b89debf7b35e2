/* SPDX-License-Identifier: BSD-3-Clause */
/* source_report.c: what a source tells: status, progress, query-migrate. Control thread. */
#include "base/bits.h"
#include "base/clock.h"
#include "engine/session/source_internal.h"

const char *sluice_source_status(const struct sluice_source *source)
{
	static const char *const names[] = {
		[SOURCE_SETUP] = "setup",
		[SOURCE_ACTIVE] = "active",
		[SOURCE_READY] = "pre-switchover",
		[SOURCE_DRAIN] = "device",
		[SOURCE_PREPARE] = "device",
		[SOURCE_ASK] = "device",
		[SOURCE_COMMIT] = "device",
		[SOURCE_DOUBT] = "in-doubt",
		[SOURCE_COMPLETED] = "completed",
		[SOURCE_FAILED] = "failed",
		[SOURCE_CANCELLED] = "cancelled",
	};

	return source->pause != PAUSE_NONE && source_guest_is_ours(source->state)
		       ? "paused"
		       : names[source->state];
}

void source_tell_status(struct sluice_source *s)
{
	json_t *data = json_pack(
		"{s:s, s:s}", "status", sluice_source_status(s), "session", s->conf.session);

	if (s->state == SOURCE_FAILED)
		json_object_set_new(data, "error-desc", json_string(s->error.text));
	if (s->pause != PAUSE_NONE)
		json_object_set_new(data, "reason", json_string(s->pause_reason));
	s->env.vmm_event(s->env.ctx, "MIGRATION", data);
}

static json_int_t ms(uint64_t ns)
{
	return (json_int_t)(ns / SLUICE_NS_PER_MS);
}

static json_t *ram(const struct sluice_source *s, const struct sluice_lane_counters *sum)
{
	uint64_t marked = __atomic_load_n(&s->ledger->pages_marked, __ATOMIC_RELAXED);
	uint64_t total = 0;

	for (uint32_t i = 0; i < s->conf.region_count; i++)
		total += s->conf.regions[i].len_bytes;
	return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:f}", "total",
		(json_int_t)total, "remaining",
		(json_int_t)(s->state == SOURCE_SETUP ? total : source_bytes_left(s)),
		"transferred", (json_int_t)sum->bytes_placed, "duplicate",
		(json_int_t)sum->pages_zero, "normal", (json_int_t)sum->pages_sent, "normal-bytes",
		(json_int_t)(sum->pages_sent << SLUICE_PAGE_SHIFT), "dirty-pages-rate",
		(json_int_t)s->dirty_pages_per_s, "dirty-sync-count", (json_int_t)s->sync_id,
		"pages-first", (json_int_t)s->pages_first, "pages-dirtied",
		(json_int_t)(s->pages_first != 0 ? marked - s->pages_first : 0), "page-size",
		(json_int_t)SLUICE_PAGE_BYTES, "mbps",
		(double)s->policy_state.placed_bytes_per_s * 8 / 1e6);
}

static uint64_t elapsed_ns(const struct sluice_source *s)
{
	uint64_t end_ns = s->over_ns != 0 ? s->over_ns : s->env.now_ns(s->env.ctx);

	return end_ns - s->start_ns;
}

static void add_downtimes(const struct sluice_source *s, json_t *object)
{
	uint64_t expected_ns =
		s->switch_predicted_ns != 0 ? s->switch_predicted_ns : s->predicted_downtime_ns;

	if (expected_ns == 0 || expected_ns >= UINT64_MAX / 8)
		return; /* nothing placed yet: no prediction */
	json_object_set_new(object, "expected-downtime", json_integer(ms(expected_ns)));
	json_object_set_new(object, "expected-downtime-us",
		json_integer((json_int_t)(expected_ns / SLUICE_NS_PER_US)));
}

static json_t *phases(const struct sluice_downtime *d)
{
	const uint64_t us = SLUICE_NS_PER_US;

	return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I}", "stop-us", (json_int_t)(d->stop_ns / us),
		"sync-us", (json_int_t)(d->sync_ns / us), "drain-us",
		(json_int_t)(d->drain_ns / us), "load-us", (json_int_t)(d->load_ns / us), "give-us",
		(json_int_t)(d->give_ns / us), "commit-us", (json_int_t)(d->commit_ns / us));
}

json_t *sluice_source_query(const struct sluice_source *s)
{
	struct sluice_lane_counters sum;
	json_t *reply;

	sluice_lane_set_sum(&s->lanes, &sum);
	reply = json_pack("{s:s, s:s, s:I, s:o, s:I}", "status", sluice_source_status(s), "session",
		s->conf.session, "total-time", ms(elapsed_ns(s)), "ram", ram(s, &sum),
		"cpu-throttle-percentage", (json_int_t)s->throttle_told);
	add_downtimes(s, reply);
	json_object_set_new(reply, "bytes-resent", json_integer((json_int_t)sum.bytes_resent));
	source_pause_json(s, reply);
	source_rails_json(s, reply);
	if (!sluice_source_is_over(s))
		source_regions_json(s, reply);
	if (s->state == SOURCE_COMPLETED && s->stopped_ns != 0) {
		json_object_set_new(reply, "downtime", json_integer(ms(s->over_ns - s->ready_ns)));
		json_object_set_new(reply, "downtime-us",
			json_integer((json_int_t)((s->over_ns - s->ready_ns) / SLUICE_NS_PER_US)));
		json_object_set_new(reply, "downtime-phases", phases(&s->downtime));
	}
	if (s->ready_ns != 0)
		json_object_set_new(
			reply, "expected-downtime-phases", phases(&s->switch_predicted));
	if (s->active_ns != 0)
		json_object_set_new(
			reply, "setup-time", json_integer(ms(s->active_ns - s->start_ns)));
	if (s->state == SOURCE_FAILED)
		json_object_set_new(reply, "error-desc", json_string(s->error.text));
	return reply;
}

void source_tell_progress(struct sluice_source *s, uint64_t now_ns)
{
	struct sluice_lane_counters sum;
	json_t *data;

	sluice_lane_set_sum(&s->lanes, &sum);
	data = json_pack("{s:s, s:s, s:I, s:o, s:I, s:I, s:I}", "status", sluice_source_status(s),
		"session", s->conf.session, "total-time", ms(now_ns - s->start_ns), "ram",
		ram(s, &sum), "bytes-per-second", (json_int_t)s->policy_state.placed_bytes_per_s,
		"cpu-throttle-percentage", (json_int_t)s->throttle_told, "lanes-active",
		(json_int_t)sluice_lane_set_standing(&s->lanes, SLUICE_LANE_ACTIVE));
	add_downtimes(s, data);
	s->env.vmm_event(s->env.ctx, "MIGRATION_PROGRESS", data);
}
