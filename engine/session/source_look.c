/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * source_look.c: which pages of a region are there at all, by a look at its file. What is a hole is
 * zeros and is not sent, unless the target has memory there. Control thread.
 *
 * Tracking is on when a region is looked at, so what the guest writes behind the look is reported by the
 * feed. But the kernel takes no lock for SEEK_DATA: while it moves a page (compaction, NUMA balancing,
 * a huge page in the making) that page may seem to be a hole for some microseconds, and a guest that
 * never writes it again would lose it. So a hole is believed when it was seen twice, with at least one
 * dirty sync between. The second look goes on in slices, beside the lanes; nothing is switched over
 * before it is done.
 */
#include "base/assert.h"
#include "base/bits.h"
#include "base/plant.h"
#include "engine/session/source_internal.h"

/* That the second look takes at once: some 15 ms where most of it is there. */
#define SLICE_BYTES (1ull << 30)

struct look {
	struct sluice_ledger *ledger;
	uint32_t region;
	uint64_t at; /* page: up to here it was looked at */
};

/* Holes are noted, so that nobody fills them to see that they are zero. */
static void first_found(void *ctx, uint64_t offset, uint64_t len_bytes)
{
	struct look *look = ctx;
	uint64_t first = offset >> SLUICE_PAGE_SHIFT;
	uint64_t end = sluice_div_up(offset + len_bytes, SLUICE_PAGE_BYTES);

	sluice_ledger_set_holes(look->ledger, look->region, look->at, first - look->at);
	sluice_ledger_mark_pages(look->ledger, look->region, first, end - first);
	look->at = end;
}

void source_look(struct sluice_source *s, uint32_t region)
{
	uint64_t len_bytes = s->conf.regions[region].len_bytes;
	struct look look = {.ledger = s->ledger, .region = region};

	s->env.for_each_data(s->env.ctx, region, 0, len_bytes, first_found, &look);
	sluice_ledger_set_holes(s->ledger, region, look.at, UINT64_MAX);
	s->region_states[region].looked_sync = s->sync_id;
	s->region_states[region].looked_bytes = SLUICE_PLANTED(LOOK_ONCE) ? len_bytes : 0;
}

/* Most of it is what was written since, and marked by the feed as well. */
static void again_found(void *ctx, uint64_t offset, uint64_t len_bytes)
{
	const struct look *look = ctx;
	uint64_t first = offset >> SLUICE_PAGE_SHIFT;
	uint64_t end = sluice_div_up(offset + len_bytes, SLUICE_PAGE_BYTES);

	sluice_ledger_mark_holes(look->ledger, look->region, first, end - first);
}

static bool is_looked_at(const struct sluice_source *s, uint32_t region)
{
	return !source_region_moves(s, region) ||
	       s->region_states[region].looked_bytes == s->conf.regions[region].len_bytes;
}

void source_look_again(struct sluice_source *s)
{
	uint64_t answered = s->sync_id - (s->sync_outstanding ? 1 : 0);

	for (uint32_t i = 0; i < s->conf.region_count && s->state == SOURCE_ACTIVE; i++) {
		struct source_region *state = &s->region_states[i];
		struct look look = {.ledger = s->ledger, .region = i};
		uint64_t len_bytes = s->conf.regions[i].len_bytes - state->looked_bytes;

		if (is_looked_at(s, i) || answered <= state->looked_sync)
			continue;
		if (len_bytes > SLICE_BYTES)
			len_bytes = SLICE_BYTES;
		s->env.for_each_data(
			s->env.ctx, i, state->looked_bytes, len_bytes, again_found, &look);
		state->looked_bytes += len_bytes;
		source_wake_lanes(s);
		if (!source_has_looked_twice(s))
			s->conf.wake(s->conf.wake_ctx); /* for the next slice */
		return;
	}
}

bool source_has_looked_twice(const struct sluice_source *s)
{
	for (uint32_t i = 0; i < s->conf.region_count; i++)
		if (!is_looked_at(s, i))
			return false;
	return true;
}
