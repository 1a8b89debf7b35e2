/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * regions.c: guest memory of an engine, and which of it a session has: added, fed, discarded from,
 * removed; between migrations and during one. Control thread.
 *
 * A session numbers regions by slots of its own: memory is sorted by id, and a region that comes or
 * goes would move the others. A slot is used once in a session.
 */
#include <errno.h>
#include <string.h>

#include "base/bits.h"
#include "engine/engine.h"
#include "engine/feeds/bitmap.h"

/* ---- slots ---- */

static void fill_slot(struct sluice_engine *engine, uint32_t slot, struct sluice_region *region)
{
	engine->slots[slot] = region;
	engine->regions[slot] = (struct sluice_session_region){.id = region->id,
		.gpa = region->gpa,
		.len_bytes = region->len_bytes,
		.page_bytes = region->backing_page_bytes,
		.base = region->base,
		.feed = region->feed};
	memcpy(engine->regions[slot].mems, region->mems, sizeof(region->mems));
}

static void clear_slot(struct sluice_engine *engine, uint32_t slot)
{
	engine->slots[slot] = NULL;
	engine->regions[slot] = (struct sluice_session_region){.id = ""};
}

void sluice_engine_take_slots(struct sluice_engine *engine)
{
	for (uint32_t slot = 0; slot < SLUICE_REGIONS_MAX; slot++)
		clear_slot(engine, slot);
	for (engine->slot_count = 0; engine->slot_count < engine->memory.count;
		engine->slot_count++)
		fill_slot(engine, engine->slot_count, engine->memory.regions[engine->slot_count]);
}

uint32_t sluice_engine_slot_of(
	const struct sluice_engine *engine, const struct sluice_region *region)
{
	uint32_t slot = 0;

	while (slot < SLUICE_REGIONS_MAX && engine->slots[slot] != region)
		slot++;
	return slot;
}

static bool leaves(const struct sluice_engine *engine, const struct sluice_region *region)
{
	uint32_t slot = sluice_engine_slot_of(engine, region);

	return sluice_engine_is_busy(engine) && engine->source != NULL &&
	       slot < SLUICE_REGIONS_MAX && sluice_source_region_leaves(engine->source, slot);
}

/* ---- memory-add ---- */

/* Whether the session that runs takes another region. Asked before it is mapped and pinned. */
static int may_join(struct sluice_engine *engine, const struct sluice_region_opts *opts,
	struct sluice_error *err)
{
	struct sluice_session_region region = {
		.id = opts->id, .gpa = opts->gpa, .len_bytes = opts->len_bytes};

	if (engine->slot_count == SLUICE_REGIONS_MAX)
		return sluice_fail(err, -ENOSPC, "memory-add",
			"this migration has had %d regions, and that is the most; add it when the "
			"migration has ended, or migrate_cancel first",
			SLUICE_REGIONS_MAX);
	return engine->source != NULL ? sluice_source_may_change(engine->source, "memory-add", err)
				      : sluice_target_may_add(engine->target, &region, err);
}

static void join(struct sluice_engine *engine, struct sluice_region *region)
{
	fill_slot(engine, engine->slot_count, region);
	if (engine->source != NULL)
		sluice_source_region_add(engine->source, engine->slot_count);
	else
		sluice_target_region_add(engine->target, engine->slot_count);
	engine->slot_count++;
}

static int check_new(struct sluice_engine *engine, const struct sluice_region_opts *opts,
	struct sluice_error *err)
{
	struct sluice_region *region = sluice_memory_find(&engine->memory, opts->id);

	if (region == NULL)
		return sluice_engine_is_busy(engine) ? may_join(engine, opts, err) : 0;
	if (leaves(engine, region))
		return sluice_fail(err, -EBUSY, "memory-add",
			"region \"%s\" is being removed; add it when MEMORY_REMOVED has come",
			opts->id);
	return 0;
}

int sluice_engine_memory_add(struct sluice_engine *engine, const struct sluice_region_opts *opts,
	struct sluice_error *err)
{
	struct sluice_region *region;
	int r = check_new(engine, opts, err);

	if (r == 0)
		r = sluice_memory_add(&engine->memory, opts, &region, err);
	if (r != 0)
		return r < 0 ? r : 0;
	r = sluice_rails_add_memory(engine, region, err);
	if (r < 0)
		sluice_memory_remove(&engine->memory, region);
	else if (sluice_engine_is_busy(engine))
		join(engine, region);
	return r;
}

/* ---- feed-add ---- */

int sluice_engine_feed_add(
	struct sluice_engine *engine, const char *id, int fd, struct sluice_error *err)
{
	struct sluice_region *region = sluice_memory_find(&engine->memory, id);
	bool busy = sluice_engine_is_busy(engine);
	struct sluice_bitmap_feed *feed = NULL;
	int r;

	if (region == NULL)
		return sluice_fail(err, -ENOENT, "feed-add",
			"there is no region \"%s\"; memory-add it first", id);
	if (busy && region->feed != NULL)
		return sluice_fail(err, -EBUSY, "feed-add",
			"a feed cannot change while a migration runs; wait for it or "
			"migrate_cancel");
	r = sluice_bitmap_feed_create(
		fd, region->len_bytes >> SLUICE_PAGE_SHIFT, region->id, &feed, err);
	if (r < 0)
		return r;
	sluice_bitmap_feed_destroy(region->feed);
	region->feed = feed;
	if (busy && engine->source != NULL) {
		uint32_t slot = sluice_engine_slot_of(engine, region);

		engine->regions[slot].feed = feed;
		sluice_source_region_fed(engine->source, slot);
	}
	return 0;
}

/* ---- memory-remove ---- */

static void forget(struct sluice_engine *engine, struct sluice_region *region)
{
	sluice_rails_remove_memory(engine, region);
	sluice_memory_remove(&engine->memory, region);
}

void sluice_engine_region_gone(void *ctx, uint32_t slot)
{
	struct sluice_engine *engine = ctx;
	struct sluice_region *region = engine->slots[slot];
	char id[SLUICE_REGION_ID_BYTES];

	memcpy(id, region->id, sizeof(id));
	clear_slot(engine, slot);
	forget(engine, region);
	sluice_server_event(engine->server, "MEMORY_REMOVED", json_pack("{s:s}", "id", id));
}

/* From the session that runs. 1: it ends in sluice_engine_region_gone(). */
static int leave(
	struct sluice_engine *engine, struct sluice_region *region, struct sluice_error *err)
{
	uint32_t slot = sluice_engine_slot_of(engine, region);
	int r;

	if (engine->source != NULL) {
		r = sluice_source_region_remove(engine->source, slot, err);
		return r < 0 ? r : 1;
	}
	r = sluice_target_may_remove(engine->target, slot, err);
	if (r == 0)
		clear_slot(engine, slot);
	return r;
}

int sluice_engine_memory_remove(
	struct sluice_engine *engine, const char *id, struct sluice_error *err)
{
	struct sluice_region *region = sluice_memory_find(&engine->memory, id);
	int r = 0;

	if (region == NULL)
		return sluice_fail(err, -ENOENT, "memory-remove", "there is no region \"%s\"", id);
	if (sluice_engine_is_busy(engine))
		r = leave(engine, region, err);
	else
		sluice_engine_session_clear(engine); /* the last session may still point at it */
	if (r == 0)
		forget(engine, region);
	return r;
}

/* ---- memory-discard ---- */

/* Registered anew first: no lane takes the pages as dirty before they can be used. */
int sluice_engine_memory_discard(struct sluice_engine *engine, const char *id, uint64_t offset,
	uint64_t len_bytes, struct sluice_error *err)
{
	struct sluice_region *region = sluice_memory_find(&engine->memory, id);
	int r = 0;

	if (region == NULL)
		return sluice_fail(err, -ENOENT, "memory-discard", "there is no region \"%s\"", id);
	if (len_bytes == 0 || !sluice_is_aligned(offset | len_bytes, SLUICE_PAGE_BYTES) ||
		!sluice_range_inside(offset, len_bytes, region->len_bytes))
		return sluice_fail(err, -EINVAL, "memory-discard",
			"offset (%llu) and length (%llu) must be multiples of 4096, and within the "
			"%llu bytes of region \"%s\"",
			(unsigned long long)offset, (unsigned long long)len_bytes,
			(unsigned long long)region->len_bytes, id);
	if (engine->target != NULL && !sluice_target_is_over(engine->target))
		return sluice_fail(err, -EBUSY, "memory-discard",
			"a guest is arriving in this memory: nobody but its source may change it");
	r = sluice_rails_discard(engine, region, offset, len_bytes, err);
	if (r == 0 && engine->source != NULL && !sluice_source_is_over(engine->source))
		r = sluice_source_discard(engine->source, sluice_engine_slot_of(engine, region),
			offset, len_bytes, err);
	return r;
}
