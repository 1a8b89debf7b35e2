/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * build.c: from segments and dirty chunks to operations in the lane's ring.
 *
 * Runs inside a lane's step, on its worker. Segments first: the longest chain of a switchover
 * (read, wire, load) starts first. Then pages of the current chunk, then zeros of that chunk,
 * then the next chunk.
 */
#include "base/assert.h"
#include "base/plant.h"
#include "engine/lane/lane_internal.h"

/* Prefetched so many pages ahead: a page's first line is a cache miss, and one page takes less
   time than that. A prefetch of memory that is not mapped does nothing. */
#define AHEAD_PAGES 8

static uint64_t ring_room(const struct sluice_lane *lane)
{
	return lane->depth - (lane->tail - lane->head);
}

/* The one window rule. Out of room: shut until the older half is free, then go on. */
static bool window_open(struct sluice_lane *lane, uint64_t bytes)
{
	uint64_t window = lane->conf.window_bytes;

	if (lane->window_shut && lane->inflight_bytes > window / 2)
		return false;
	lane->window_shut = false;
	if (lane->inflight_bytes + bytes <= window)
		return true;
	lane->window_shut = true;
	SLUICE_COUNT_ADD(lane->counters.window_waits, 1);
	return false;
}

/* The bandwidth limit. Held back: arm names the moment to go on. */
static bool pace_open(struct sluice_lane *lane)
{
	bool was_paced = lane->paced;

	lane->paced = !sluice_pace_open(&lane->conf.work->pace, lane->now_ns, &lane->again_ns);
	if (lane->paced && !was_paced)
		SLUICE_COUNT_ADD(lane->counters.pace_waits, 1);
	return !lane->paced;
}

static void append(struct sluice_lane *lane, const struct sluice_lane_op *op)
{
	SLUICE_ASSERT(ring_room(lane) > 0);
	lane->ring[lane->tail & (lane->depth - 1)] = *op;
	lane->tail++;
	lane->inflight_bytes += op->window_bytes;
	SLUICE_COUNT_MAX(lane->counters.inflight_bytes_peak, lane->inflight_bytes);
}

static bool bit(const uint64_t *words, uint32_t page)
{
	return (words[page / SLUICE_WORD_PAGES] >> (page % SLUICE_WORD_PAGES)) & 1;
}

static void set_bits(uint64_t *words, uint32_t first, uint32_t pages)
{
	for (uint32_t page = first; page < first + pages; page++)
		words[page / SLUICE_WORD_PAGES] |= 1ull << (page % SLUICE_WORD_PAGES);
}

static void clear_bits(uint64_t *words, uint32_t first, uint32_t pages)
{
	for (uint32_t page = first; page < first + pages; page++)
		words[page / SLUICE_WORD_PAGES] &= ~(1ull << (page % SLUICE_WORD_PAGES));
}

/* The first set page, or SLUICE_CHUNK_PAGES. */
static uint32_t first_bit(const uint64_t *words)
{
	for (uint32_t i = 0; i < SLUICE_CHUNK_WORDS; i++)
		if (words[i] != 0)
			return i * (uint32_t)SLUICE_WORD_PAGES +
			       (uint32_t)__builtin_ctzll(words[i]);
	return SLUICE_CHUNK_PAGES;
}

static uint64_t *maybe_nonzero(const struct sluice_lane *lane)
{
	struct sluice_ledger *ledger = lane->conf.work->ledger;

	return sluice_ledger_words(ledger, lane->current,
		sluice_ledger_region_of(ledger, lane->current)->maybe_nonzero);
}

static const uint8_t *page_address(const struct sluice_lane *lane, uint32_t chunk, uint32_t page)
{
	struct sluice_ledger *ledger = lane->conf.work->ledger;

	return sluice_ledger_region_of(ledger, chunk)->base +
	       sluice_ledger_offset_of(ledger, chunk) + ((uint64_t)page << SLUICE_PAGE_SHIFT);
}

/* A segment: its content, cut into extents and padded to the rail's alignment, then its
   announcement. */
static bool build_segment(struct sluice_lane *lane)
{
	struct sluice_outbox *outbox = lane->conf.work->outbox;
	struct sluice_lane_op op = {.chunk = SLUICE_NO_CHUNK, .kind = SLUICE_OP_SEND};
	uint32_t padded;

	if (outbox == NULL || (!lane->segment_open && sluice_queue_is_empty(&outbox->ready)) ||
		!window_open(lane, lane->extent_bytes_max))
		return false;
	if (!lane->segment_open) {
		if (!sluice_outbox_pop(outbox, lane->conf.lane, &lane->segment_slot))
			return false;
		lane->segment_open = true;
		lane->segment_done = 0;
	}
	op.slot = lane->segment_slot;
	op.segment_offset = lane->segment_done;
	padded = (uint32_t)sluice_align_up(
		outbox->segments[op.slot].announce.len_bytes, lane->conf.pair->limits.align_bytes);
	if (lane->segment_done < padded) {
		op.kind = SLUICE_OP_WRITE;
		op.window_bytes = padded - lane->segment_done;
		if (op.window_bytes > lane->extent_bytes_max)
			op.window_bytes = lane->extent_bytes_max;
		lane->segment_done += op.window_bytes;
	} else {
		lane->segment_open = false;
		SLUICE_COUNT_ADD(lane->counters.segments, 1);
	}
	append(lane, &op);
	return true;
}

/* Finished: everything taken from it is built. It waits for the next FLUSH. */
static void finish_chunk(struct sluice_lane *lane)
{
	if (SLUICE_PLANTED(RELEASE_WITHOUT_FLUSH)) {
		sluice_ledger_release(lane->conf.work->ledger, lane->current, lane->conf.lane);
	} else {
		lane->held[lane->held_tail % SLUICE_LANE_HELD_MAX] = lane->current;
		lane->held_tail++;
	}
	lane->current = SLUICE_NO_CHUNK;
}

/* How many zero pages follow each other from @first on, at most @pages_max of those still to do, of
   which the same is known about the target. */
static uint32_t zero_run(
	struct sluice_lane *lane, const uint64_t *nonzero, uint32_t first, uint32_t pages_max)
{
	struct sluice_ledger *ledger = lane->conf.work->ledger;
	bool maybe = bit(nonzero, first);
	uint32_t page = first;

	while (page < SLUICE_CHUNK_PAGES && page - first < pages_max && bit(lane->todo, page) &&
		bit(nonzero, page) == maybe) {
		__builtin_prefetch(page_address(lane, lane->current, page + AHEAD_PAGES));
		if (!sluice_ledger_page_is_zero(ledger, lane->current, page, lane->copy))
			break;
		page++;
	}
	return page - first;
}

/* A ZERO takes a message, the target's CPU and a reply. Where a WRITE takes none of them, a short run
   of zeros is written like any content. */
static bool is_written(
	const struct sluice_lane *lane, const uint64_t *nonzero, uint32_t page, uint32_t zeros)
{
	return (lane->conf.pair->limits.caps & SLUICE_CAP_ONE_SIDED) != 0 && bit(nonzero, page) &&
	       zeros < SLUICE_LANE_ZERO_RUN_MIN;
}

/*
 * Look at pages of the current chunk from the first one still to do. Zero pages go to the ZERO
 * list, or are skipped where the target is known to hold zeros; a run of others becomes one
 * WRITE. Returns false when the window is shut or the bandwidth limit reached.
 */
static bool build_write(struct sluice_lane *lane, uint32_t *pages_left)
{
	uint32_t pages_max = lane->extent_bytes_max >> SLUICE_PAGE_SHIFT;
	uint64_t *nonzero = maybe_nonzero(lane);
	uint32_t first = first_bit(lane->todo);
	uint32_t page = first;

	if (!window_open(lane, lane->extent_bytes_max) || !pace_open(lane))
		return false;
	while (page < SLUICE_CHUNK_PAGES && bit(lane->todo, page) &&
		page - first<pages_max && * pages_left> 0) {
		uint32_t zeros = zero_run(lane, nonzero, page, *pages_left);

		*pages_left -= zeros > 0 ? zeros : 1;
		if (zeros == 0 || is_written(lane, nonzero, page, zeros)) {
			page += zeros > 0 ? zeros : 1;
			continue;
		}
		if (page != first)
			break;
		if (bit(nonzero, page) && !SLUICE_PLANTED(ZERO_ON_A_GUESS))
			set_bits(lane->zeros, page, zeros);
		clear_bits(lane->todo, page, zeros);
		SLUICE_COUNT_ADD(lane->counters.pages_zero, zeros);
		first = first_bit(lane->todo);
		page = first;
	}
	if (page - first > pages_max) /* the rest of a short run of zeros is for the next one */
		page = first + pages_max;
	if (page == first)
		return true;
	set_bits(nonzero, first, page - first);
	clear_bits(lane->todo, first, page - first);
	SLUICE_COUNT_ADD(lane->counters.pages_sent, page - first);
	SLUICE_COUNT_ADD(lane->counters.extents, 1);
	sluice_pace_charge(&lane->conf.work->pace, (uint64_t)(page - first) << SLUICE_PAGE_SHIFT,
		lane->now_ns);
	append(lane, &(struct sluice_lane_op){.kind = SLUICE_OP_WRITE,
			     .chunk = lane->current,
			     .first_page = (uint16_t)first,
			     .pages = (uint16_t)(page - first),
			     .window_bytes = (page - first) << SLUICE_PAGE_SHIFT});
	return true;
}

/* A ZERO carries no payload, but its reply must come: it counts as nothing in the window. */
static void build_zero(struct sluice_lane *lane)
{
	uint32_t pages_max = lane->conf.pair->limits.op_bytes_max >> SLUICE_PAGE_SHIFT;
	uint32_t first = first_bit(lane->zeros);
	uint32_t page = first;

	while (page < SLUICE_CHUNK_PAGES && bit(lane->zeros, page) && page - first < pages_max)
		page++;
	clear_bits(lane->zeros, first, page - first);
	SLUICE_COUNT_ADD(lane->counters.pages_zeroed, page - first);
	SLUICE_COUNT_ADD(lane->counters.extents, 1);
	append(lane, &(struct sluice_lane_op){.kind = SLUICE_OP_ZERO,
			     .chunk = lane->current,
			     .first_page = (uint16_t)first,
			     .pages = (uint16_t)(page - first)});
}

static bool next_chunk(struct sluice_lane *lane)
{
	struct sluice_ledger *ledger = lane->conf.work->ledger;
	uint32_t home;

	if (lane->crowded || __atomic_load_n(&lane->conf.work->gate, __ATOMIC_ACQUIRE) == 0 ||
		lane->held_tail - lane->held_head >= SLUICE_LANE_HELD_MAX - 1 ||
		!sluice_ledger_pop(ledger, lane->conf.lane, lane->conf.home, &lane->current))
		return false;
	sluice_ledger_take(ledger, lane->current, lane->todo);
	SLUICE_COUNT_ADD(lane->counters.chunks, 1);
	home = sluice_ledger_home_of(ledger, lane->current);
	if (home != SLUICE_HOME_ANY && home != lane->conf.home)
		SLUICE_COUNT_ADD(lane->counters.chunks_stolen, 1);
	return true;
}

static void build_flush(struct sluice_lane *lane)
{
	lane->held_flush = lane->held_tail;
	append(lane, &(struct sluice_lane_op){.kind = SLUICE_OP_FLUSH,
			     .chunk = SLUICE_NO_CHUNK,
			     .held_end = lane->held_tail});
}

/* One operation or one change of chunk; false when nothing can be done now. */
static bool build_one(struct sluice_lane *lane, uint32_t *pages_left)
{
	if (build_segment(lane))
		return true;
	if (lane->current == SLUICE_NO_CHUNK)
		return next_chunk(lane);
	if (first_bit(lane->todo) < SLUICE_CHUNK_PAGES)
		return build_write(lane, pages_left);
	if (first_bit(lane->zeros) < SLUICE_CHUNK_PAGES)
		build_zero(lane);
	else
		finish_chunk(lane);
	return true;
}

bool sluice_lane_build(struct sluice_lane *lane)
{
	uint32_t pages_left = SLUICE_LANE_STEP_PAGES;
	uint32_t unflushed;
	bool progress = false, waits;

	/* One ring entry stays free for the FLUSH. */
	while (pages_left > 0 && ring_room(lane) > 1 && build_one(lane, &pages_left))
		progress = true;
	/* A lane that has to wait keeps no chunk that it is done with: at a low bandwidth limit
	   the next ones could take a minute, and a region that is being removed waits for them. */
	unflushed = lane->held_tail - lane->held_flush;
	waits = lane->current == SLUICE_NO_CHUNK || lane->paced;
	if (ring_room(lane) > 0 &&
		(unflushed >= SLUICE_LANE_FLUSH_CHUNKS || (unflushed > 0 && waits))) {
		build_flush(lane);
		progress = true;
	}
	return progress;
}

void sluice_lane_op_express(const struct sluice_lane *lane, const struct sluice_lane_op *op,
	uint64_t seq, uint8_t *announce, struct sluice_op *ret_op)
{
	const struct sluice_rail_pair *pair = lane->conf.pair;
	const struct sluice_lane_work *work = lane->conf.work;
	struct sluice_op out = {.kind = op->kind, .seq = seq};

	if (op->chunk != SLUICE_NO_CHUNK) {
		uint32_t region = work->ledger->chunks[op->chunk].region;

		out.remote = pair->regions[region].remote;
		out.mem = pair->regions[region].mem;
		out.remote_offset = sluice_ledger_offset_of(work->ledger, op->chunk) +
				    ((uint64_t)op->first_page << SLUICE_PAGE_SHIFT);
		out.len_bytes = (uint32_t)op->pages << SLUICE_PAGE_SHIFT;
		out.local = op->kind == SLUICE_OP_WRITE
				    ? page_address(lane, op->chunk, op->first_page)
				    : NULL;
	} else if (op->kind == SLUICE_OP_WRITE) {
		out.remote = pair->staging;
		out.mem = pair->outbox_mem;
		out.remote_offset =
			(uint64_t)op->slot * work->outbox->slot_bytes + op->segment_offset;
		out.len_bytes = op->window_bytes;
		out.local = sluice_outbox_slot(work->outbox, op->slot) + op->segment_offset;
	} else if (op->kind == SLUICE_OP_SEND) {
		sluice_announce_write(&work->outbox->segments[op->slot].announce, announce);
		out.local = announce;
		out.len_bytes = SLUICE_ANNOUNCE_BYTES;
	}
	*ret_op = out;
}

void sluice_lane_op_placed(struct sluice_lane *lane, const struct sluice_lane_op *op)
{
	SLUICE_COUNT_ADD(lane->counters.bytes_placed, op->window_bytes);
	if (op->kind != SLUICE_OP_ZERO)
		return;
	/* Zeroed on the target's own word, and the chunk is still ours. */
	clear_bits(
		sluice_ledger_words(lane->conf.work->ledger, op->chunk,
			sluice_ledger_region_of(lane->conf.work->ledger, op->chunk)->maybe_nonzero),
		op->first_page, op->pages);
}

uint32_t sluice_lane_pages_in_hand(const struct sluice_lane *lane)
{
	uint32_t pages = 0;

	if (lane->current == SLUICE_NO_CHUNK)
		return 0;
	for (uint32_t i = 0; i < SLUICE_CHUNK_WORDS; i++)
		pages += (uint32_t)__builtin_popcountll(lane->todo[i] | lane->zeros[i]);
	return pages;
}

void sluice_lane_put_back_current(struct sluice_lane *lane)
{
	struct sluice_ledger *ledger = lane->conf.work->ledger;

	if (lane->current == SLUICE_NO_CHUNK)
		return;
	for (uint32_t page = 0; page < SLUICE_CHUNK_PAGES; page++) {
		if (bit(lane->todo, page) || bit(lane->zeros, page))
			sluice_ledger_put_back(ledger, lane->current, page, 1);
		if (bit(lane->zeros, page)) /* looked at, unlike the others */
			SLUICE_COUNT_ADD(lane->counters.pages_given_up, 1);
	}
	lane->current = SLUICE_NO_CHUNK;
}
