/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * engines_plug.c: memory that is plugged in and out of the guest while pages move, by the VMMs of
 * both hosts, in any order and at any moment; by a target that is late, or never does it. See
 * engines_internal.h.
 */
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/plant.h"
#include "engine/feeds/bitmap.h"
#include "tests/sim/engines_internal.h"

const char *const engines_region_ids[GUEST_REGIONS_MAX] = {"a", "b", "c", "d", "e"};

#define RETIRED_MAX (2 * ENGINES_SLOTS_MAX * ENGINES_RAILS_MAX)

static const struct sluice_transport *const sim = &sluice_transport_sim;

static bool chance(struct run *run, uint32_t ppm)
{
	return sluice_random_chance(&run->plug_random, ppm);
}

static uint64_t delay(struct run *run, uint64_t max_ns)
{
	return 1 + sluice_random_below(&run->plug_random, max_ns);
}

void plug_begin(struct run *run)
{
	sluice_random_seed(&run->plug_random, run->seed ^ 0x706c7567676564ull);
	run->spans = 2000; /* behind those of the beginning, and the staging's */
	run->plug_next_ns = delay(run, 4 * run->plan.plug_ns);
	run->retired = calloc(RETIRED_MAX, sizeof(struct sluice_mem *));
	SLUICE_ASSERT(run->retired != NULL);
	for (uint32_t r = 0; r < run->guest->region_count; r++) {
		bool in = run->guest->regions[r].plugged;

		run->plugs[r] = (struct plug){.in = in,
			.slot = r,
			.there = in,
			.there_slot = r,
			.feed_ns = SLUICE_NEVER,
			.add_ns = SLUICE_NEVER,
			.remove_ns = SLUICE_NEVER};
	}
}

void plug_end(struct run *run)
{
	for (uint32_t i = 0; i < run->retired_count; i++)
		sim->mem_unregister(run->retired[i]);
	free(run->retired);
	run->retired = NULL;
}

void plug_fill_slot(struct engine *engine, uint32_t slot, uint32_t r)
{
	struct run *run = engine->run;

	SLUICE_ASSERT(slot < ENGINES_SLOTS_MAX);
	engine->slot_region[slot] = r;
	engine->regions[slot] = (struct sluice_session_region){.id = engines_region_ids[r],
		.gpa = (uint64_t)r << 32,
		.len_bytes = run->guest->regions[r].len_bytes,
		.page_bytes = SLUICE_PAGE_BYTES,
		.base = engine->host == SOURCE ? run->guest->regions[r].memory
					       : oracle_target_memory(run->oracle, r),
		.feed = engine->host == SOURCE ? run->feeds[r] : NULL};
	memcpy(engine->regions[slot].mems, run->mems[engine->host][r],
		sizeof(run->mems[engine->host][r]));
}

static void clear_slot(struct engine *engine, uint32_t slot)
{
	engine->regions[slot] = (struct sluice_session_region){.id = ""};
}

static void register_region(struct run *run, enum host host, uint32_t r)
{
	struct sluice_span span = {
		.id = ++run->spans, .len_bytes = run->guest->regions[r].len_bytes};

	span.addr = host == SOURCE ? run->guest->regions[r].memory
				   : oracle_target_memory(run->oracle, r);
	register_with_all(run, host, r, &span);
}

/* What lands there all the same is to be seen; so it is kept, and the oracle told. */
static void retire(struct run *run, enum host host, uint32_t r)
{
	for (uint32_t i = 0; i < run->plan.rails[host]; i++) {
		SLUICE_ASSERT(run->retired_count < RETIRED_MAX);
		run->retired[run->retired_count++] = run->mems[host][r][i];
		run->mems[host][r][i] = NULL;
	}
}

/* ---- the source's VMM ---- */

/* The session, while memory may be plugged at all. */
static struct sluice_source *session_of(struct run *run)
{
	struct sluice_source *source = run->engines[SOURCE].source;

	return source != NULL && !sluice_source_is_over(source) ? source : NULL;
}

static void plug_in(struct run *run, struct sluice_source *source, uint32_t r)
{
	struct engine *engine = &run->engines[SOURCE];
	struct guest_region *region = &run->guest->regions[r];
	struct plug *plug = &run->plugs[r];
	struct sluice_error err = {0};

	if (sluice_source_may_change(source, "memory-add", &err) < 0) {
		run->stats->plugs_refused++;
		return;
	}
	run_say(run, "region %u is plugged in", r);
	run->stats->plugged++;
	register_region(run, SOURCE, r);
	memset(region->bitmap, 0, region->words * sizeof(*region->bitmap));
	plug->in = true;
	plug->slot = engine->slot_count;
	plug_fill_slot(engine, plug->slot, r);
	engine->slot_count++;
	sluice_source_region_add(source, plug->slot);
	guest_plug(run->guest, r, true);
	plug->feed_ns =
		chance(run, 20000) ? SLUICE_NEVER : run_now(run) + delay(run, run->plan.vmm_ns_max);
	if (!plug->there && plug->add_ns == SLUICE_NEVER && chance(run, 300000))
		plug->add_ns = run_now(run) + delay(run, run->plan.vmm_ns_max);
}

/* From its feed on every write is tracked: the look at what it holds comes later. */
static void feed(struct run *run, struct sluice_source *source, uint32_t r)
{
	struct plug *plug = &run->plugs[r];

	plug->feed_ns = SLUICE_NEVER;
	if (source == NULL || !plug->in)
		return;
	if (run->feeds[r] == NULL)
		SLUICE_ASSERT(sluice_bitmap_feed_create_over(run->guest->regions[r].bitmap,
				      run->guest->regions[r].pages, &run->feeds[r]) == 0);
	run->engines[SOURCE].regions[plug->slot].feed = run->feeds[r];
	sluice_source_region_fed(source, plug->slot);
}

static void plug_out(struct run *run, struct sluice_source *source, uint32_t r)
{
	struct plug *plug = &run->plugs[r];
	struct sluice_error err = {0};

	if (sluice_source_region_remove(source, plug->slot, &err) < 0) {
		run->stats->plugs_refused++;
		return;
	}
	run_say(run, "region %u is plugged out", r);
	plug->in = false;
	plug->leaving = true;
	plug->feed_ns = SLUICE_NEVER;
	guest_plug(run->guest, r, false);
}

void plug_gone(struct engine *engine, uint32_t slot)
{
	struct run *run = engine->run;
	uint32_t r = engine->slot_region[slot];

	run_say(run, "region %u is gone", r);
	SLUICE_ASSERT(run->plugs[r].leaving);
	if (sluice_source_is_over(engine->source))
		run->stats->unplugged_by_end++;
	else
		run->stats->unplugged++;
	run->plugs[r].leaving = false;
	clear_slot(engine, slot);
	sluice_bitmap_feed_destroy(run->feeds[r]);
	run->feeds[r] = NULL;
	/* Nobody reads it any more: the transport looks. A planted mistake is for the oracle. */
	if (SLUICE_PLANTED(REMOVE_WITHOUT_FLUSH)) {
		retire(run, SOURCE, r);
	} else {
		for (uint32_t i = 0; i < run->plan.rails[SOURCE]; i++) {
			sim->mem_unregister(run->mems[SOURCE][r][i]);
			run->mems[SOURCE][r][i] = NULL;
		}
	}
	oracle_target_is_stale(run->oracle, r);
}

static void change_one(struct run *run, struct sluice_source *source)
{
	uint32_t r = (uint32_t)sluice_random_below(&run->plug_random, run->guest->region_count);

	if (r == 0 || run->plugs[r].leaving || run->engines[SOURCE].slot_count == ENGINES_SLOTS_MAX)
		return;
	if (run->plugs[r].in)
		plug_out(run, source, r);
	else
		plug_in(run, source, r);
}

/* ---- the target's VMM ---- */

static uint32_t region_of(const struct run *run, const char *id)
{
	uint32_t r = 0;

	while (r < run->guest->region_count && strcmp(engines_region_ids[r], id) != 0)
		r++;
	SLUICE_ASSERT(r < run->guest->region_count);
	return r;
}

void plug_wanted(struct run *run, const char *id)
{
	struct plug *plug = &run->plugs[region_of(run, id)];
	uint64_t max_ns = run->plan.vmm_ns_max;

	if (plug->there || chance(run, 30000))
		return; /* it comes already, or never */
	if (chance(run, 150000))
		max_ns = 2 * run->plan.region_timeout_ns;
	plug->add_ns = run_now(run) + delay(run, max_ns);
}

void plug_released(struct run *run, const char *id)
{
	struct plug *plug = &run->plugs[region_of(run, id)];

	if (chance(run, 700000))
		plug->remove_ns = run_now(run) + delay(run, run->plan.vmm_ns_max);
}

static void add_there(struct run *run, uint32_t r)
{
	struct engine *engine = &run->engines[TARGET];
	struct plug *plug = &run->plugs[r];
	struct sluice_session_region region = {
		.id = engines_region_ids[r],
		.gpa = (uint64_t)r << 32,
		.len_bytes = run->guest->regions[r].len_bytes,
	};
	struct sluice_error err = {0};

	plug->add_ns = SLUICE_NEVER;
	if (engine->target == NULL || sluice_target_is_over(engine->target) || plug->there ||
		engine->slot_count == ENGINES_SLOTS_MAX ||
		sluice_target_may_add(engine->target, &region, &err) < 0)
		return;
	run_say(run, "the target adds region %u", r);
	oracle_target_has(run->oracle, r, true);
	register_region(run, TARGET, r);
	plug->there = true;
	plug->there_slot = engine->slot_count;
	plug_fill_slot(engine, plug->there_slot, r);
	engine->slot_count++;
	sluice_target_region_add(engine->target, plug->there_slot);
}

/* Meanwhile the source may have it again: then it is refused. */
static void remove_there(struct run *run, uint32_t r)
{
	struct engine *engine = &run->engines[TARGET];
	struct plug *plug = &run->plugs[r];
	struct sluice_error err = {0};

	plug->remove_ns = SLUICE_NEVER;
	if (engine->target == NULL || sluice_target_is_over(engine->target) || !plug->there ||
		sluice_target_may_remove(engine->target, plug->there_slot, &err) < 0)
		return;
	run_say(run, "the target removes region %u", r);
	clear_slot(engine, plug->there_slot);
	retire(run, TARGET, r);
	oracle_target_has(run->oracle, r, false);
	plug->there = false;
}

/* ---- time ---- */

void plug_count_moved(struct run *run)
{
	for (uint32_t r = 0; r < run->guest->region_count; r++)
		run->stats->plugged_moved += run->plugs[r].in && run->plugs[r].slot != r;
}

static void earliest(uint64_t *ret_ns, uint64_t at_ns)
{
	if (at_ns < *ret_ns)
		*ret_ns = at_ns;
}

uint64_t plug_step(void *ctx, uint64_t now_ns)
{
	struct run *run = ctx;
	struct sluice_source *source = session_of(run);
	bool more = source != NULL && run->plugs_done < run->plan.plugs;
	uint64_t next_ns = more ? run->plug_next_ns : SLUICE_NEVER;

	if (next_ns <= now_ns) {
		run->plugs_done++;
		run->plug_next_ns = now_ns + delay(run, run->plan.plug_ns);
		change_one(run, source);
		return now_ns;
	}
	for (uint32_t r = 0; r < run->guest->region_count; r++) {
		struct plug *plug = &run->plugs[r];

		if (plug->feed_ns <= now_ns)
			feed(run, source, r);
		if (plug->add_ns <= now_ns)
			add_there(run, r);
		if (plug->remove_ns <= now_ns)
			remove_there(run, r);
		earliest(&next_ns, plug->feed_ns);
		earliest(&next_ns, plug->add_ns);
		earliest(&next_ns, plug->remove_ns);
	}
	return next_ns;
}
