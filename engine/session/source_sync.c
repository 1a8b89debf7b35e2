/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * source_sync.c: a source's dirty syncs: from the VMM's answer to the ledger, from the ledger to
 * the policy's decision. Control thread.
 */
#include <errno.h>

#include "base/assert.h"
#include "base/bits.h"
#include "base/clock.h"
#include "engine/feeds/bitmap.h"
#include "engine/lane/crew.h"
#include "engine/session/source_internal.h"

#define SYNC_GAP_NS  (2 * SLUICE_NS_PER_MS) /* shortest time between two dirty syncs */
#define HELD_SYNC_NS SLUICE_NS_PER_S /* between two while nothing moves */

void source_ask_sync(struct sluice_source *s)
{
	SLUICE_ASSERT(!s->sync_outstanding);
	s->sync_id++;
	s->sync_outstanding = true;
	if (s->state == SOURCE_ACTIVE)
		source_ping(s);
	s->sync_asked_ns = source_now(s);
	s->env.vmm_event(
		s->env.ctx, "DIRTY_SYNC", json_pack("{s:I}", "id", (json_int_t)s->sync_id));
}

static uint64_t placed_bytes(const struct sluice_source *s)
{
	struct sluice_lane_counters sum;

	sluice_lane_set_sum(&s->lanes, &sum);
	return sum.bytes_placed;
}

uint64_t source_bytes_left(const struct sluice_source *s)
{
	return (sluice_ledger_pages_dirty(s->ledger) << SLUICE_PAGE_SHIFT) +
	       sluice_lane_set_backlog_bytes(&s->lanes);
}

static uint64_t harvest(struct sluice_source *s)
{
	uint64_t pages = 0;

	for (uint32_t i = 0; i < s->conf.region_count; i++) {
		if (s->conf.regions[i].feed == NULL || !source_region_moves(s, i))
			continue;
		pages += sluice_bitmap_feed_harvest(s->conf.regions[i].feed, s->ledger, i);
		source_wake_lanes(s);
	}
	return pages;
}

void source_share_queued_again(struct sluice_source *s)
{
	uint64_t count = sluice_ledger_queued_again(s->ledger);

	if (count == s->queued_again_seen)
		return;
	s->queued_again_seen = count;
	source_wake_lanes(s);
}

int sluice_source_discard(struct sluice_source *s, uint32_t region, uint64_t offset,
	uint64_t len_bytes, struct sluice_error *err)
{
	SLUICE_ASSERT(region < s->conf.region_count);
	if (s->state > SOURCE_READY)
		return sluice_fail(err, -EBUSY, "memory-discard",
			"the guest is stopped and its last pages are on their way: discard before "
			"migrate-continue, or after the migration");
	/* One that only comes is looked at when it is here; one that goes is nobody's any more. */
	if (source_region_moves(s, region)) {
		/* Holes, most likely: lanes are not to fill what the VMM has just given back. */
		sluice_ledger_set_holes(s->ledger, region, offset >> SLUICE_PAGE_SHIFT,
			len_bytes >> SLUICE_PAGE_SHIFT);
		sluice_ledger_mark_pages(s->ledger, region, offset >> SLUICE_PAGE_SHIFT,
			len_bytes >> SLUICE_PAGE_SHIFT);
	}
	source_wake_lanes(s);
	return 0;
}

static void start_interval(struct sluice_source *s, uint64_t now_ns)
{
	s->interval_start_ns = now_ns;
	s->interval_placed_bytes = placed_bytes(s);
	s->drained_ns = 0;
}

/* When everything is queued, open the gate; the first interval begins. */
static void activate(struct sluice_source *s)
{
	uint64_t now_ns = source_now(s);

	for (uint32_t i = 0; i < s->conf.region_count; i++)
		if (source_region_moves(s, i))
			source_look(s, i);
	s->pages_first = __atomic_load_n(&s->ledger->pages_marked, __ATOMIC_RELAXED);
	s->active_ns = now_ns;
	start_interval(s, now_ns);
	s->next_sync_ns = now_ns + s->conf.policy.sync_interval_ns;
	__atomic_store_n(&s->work.gate, 1, __ATOMIC_RELEASE);
	source_enter(s, SOURCE_ACTIVE);
	source_wake_lanes(s);
}

void source_activate_when_ready(struct sluice_source *s)
{
	/* One lane is enough to begin: the others send as soon as they stand. */
	if (s->state == SOURCE_SETUP && s->sync_id == 1 && !s->sync_outstanding &&
		source_link_usable(s) &&
		sluice_lane_set_standing(&s->lanes, SLUICE_LANE_ACTIVE) > 0)
		activate(s);
}

/* While nothing moves there is nothing to decide; but what becomes dirty is collected. */
static void hold(struct sluice_source *s)
{
	uint64_t now_ns = source_now(s);

	start_interval(s, now_ns);
	s->next_sync_ns = now_ns + HELD_SYNC_NS;
}

void source_interval_anew(struct sluice_source *s)
{
	uint64_t now_ns = source_now(s);

	start_interval(s, now_ns);
	s->next_sync_ns = now_ns + s->conf.policy.sync_interval_ns;
}

static void decide(struct sluice_source *s, uint64_t pages_dirtied)
{
	uint64_t now_ns = source_now(s);
	uint64_t interval_ns = now_ns - s->interval_start_ns;
	uint64_t placed = placed_bytes(s) - s->interval_placed_bytes;
	struct sluice_measure measure = {
		.interval_ns = interval_ns,
		.pages_dirtied = pages_dirtied,
		.pages_dirty = source_bytes_left(s) >> SLUICE_PAGE_SHIFT,
		.bytes_placed = placed,
		.busy_ns = s->drained_ns != 0 ? s->drained_ns - s->interval_start_ns : interval_ns,
		.sync_ns = s->sync_min_ns,
		.sync_last_ns = s->sync_took_ns,
		.vmm_rtt_ns = sluice_typical_read(&s->vmm_rtt_ns),
		.peer_rtt_ns = s->peer_rtt_ns,
		.record_ns = s->conf.record_ns + s->peer_record_ns,
		.elapsed_ns = now_ns - s->active_ns,
		.lanes = s->conf.lanes,
	};
	struct sluice_decision_out decision;

	sluice_policy_decide(&s->conf.policy, &measure, &s->policy_state, &decision);
	if (interval_ns > 0)
		s->dirty_pages_per_s = pages_dirtied * SLUICE_NS_PER_S / interval_ns;
	s->predicted_downtime_ns = decision.predicted_downtime_ns;
	start_interval(s, now_ns);
	s->next_sync_ns = now_ns + decision.next_sync_ns;
	if (decision.switch_over && !source_has_looked_twice(s)) {
		s->next_sync_ns = now_ns + SYNC_GAP_NS;
	} else if (decision.switch_over && !source_regions_settled(s)) {
		/* Nothing else is in the way: slower, the guest would not bring it any sooner. */
		source_tell_throttle(s, 0);
		s->next_sync_ns = now_ns + HELD_SYNC_NS;
	} else if (decision.switch_over) {
		s->switch_predicted_ns = decision.predicted_downtime_ns;
		s->switch_predicted = decision.predicted;
		s->ready_ns = s->phase_ns = now_ns;
		source_enter(s, SOURCE_READY);
		s->env.vmm_event(s->env.ctx, "SWITCHOVER_READY",
			json_pack("{s:s}", "session", s->conf.session));
	} else {
		source_tell_throttle(s, decision.throttle_percent);
	}
}

/* Of a VMM that does not say how long it worked all that is known is that a turn takes no longer than
   the quickest sync. */
static void learn_sync(struct sluice_source *s, uint64_t took_ns, uint64_t worked_ns)
{
	s->sync_took_ns = took_ns;
	if (s->sync_min_ns == 0 || took_ns < s->sync_min_ns)
		s->sync_min_ns = took_ns;
	if (worked_ns == 0)
		sluice_typical_add(&s->vmm_rtt_ns, s->sync_min_ns);
	else
		sluice_typical_add(&s->vmm_rtt_ns, took_ns > worked_ns ? took_ns - worked_ns : 0);
}

int sluice_source_dirty_sync_done(
	struct sluice_source *s, uint64_t id, uint64_t worked_ns, struct sluice_error *err)
{
	uint64_t pages;

	if (!s->sync_outstanding || id != s->sync_id)
		return sluice_fail(err, -EINVAL, "dirty-sync-done",
			"no DIRTY_SYNC with id %llu is waiting for an answer",
			(unsigned long long)id);
	s->sync_outstanding = false;
	learn_sync(s, source_now(s) - s->sync_asked_ns, worked_ns);
	if (sluice_source_is_over(s))
		return 0;
	pages = harvest(s);
	source_regions_synced(s, id);
	source_look_again(s);
	switch (s->state) {
	case SOURCE_SETUP:
		source_activate_when_ready(s);
		break;
	case SOURCE_ACTIVE:
		if (source_is_held(s))
			hold(s);
		else
			decide(s, pages);
		break;
	case SOURCE_DRAIN:
		s->final_sync_done = true;
		source_end_phase(s, &s->downtime.sync_ns);
		sluice_source_tick(s);
		break;
	default:
		break; /* READY: asked before the policy decided */
	}
	return 0;
}

/* With nothing left to send it is time to decide, unless a region that comes or goes is in the way;
   or such a region waits for a sync. */
static bool sync_now(const struct sluice_source *s)
{
	return (s->drained_ns != 0 && source_regions_settled(s) && !source_is_held(s)) ||
	       source_regions_want_sync(s);
}

void source_sync_when_due(struct sluice_source *s, uint64_t now_ns)
{
	if (s->drained_ns == 0 && sluice_ledger_is_drained(s->ledger))
		s->drained_ns = now_ns;
	if (s->sync_outstanding || now_ns < s->interval_start_ns + SYNC_GAP_NS)
		return;
	if (sync_now(s) || now_ns >= s->next_sync_ns)
		source_ask_sync(s);
}

uint64_t source_next_sync_ns(const struct sluice_source *s)
{
	if (s->state != SOURCE_ACTIVE || s->sync_outstanding)
		return SLUICE_NEVER;
	return sync_now(s) ? s->interval_start_ns + SYNC_GAP_NS : s->next_sync_ns;
}
