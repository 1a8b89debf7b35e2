/* SPDX-License-Identifier: BSD-3-Clause */
/* ledger.c: see ledger.h for the states and who may call what. */
#include "engine/lane/ledger.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/plant.h"
#include "base/zero.h"

/* So many chunks does one pop take to their home on its way. Bounded: a step stays short. */
#define MOVES_MAX 16

enum chunk_state { CHUNK_IDLE = 0, CHUNK_QUEUED = 1, CHUNK_OWNED_BY_0 = 2 };

static uint32_t owned_by(uint32_t lane)
{
	return CHUNK_OWNED_BY_0 + lane;
}

static int region_init(struct sluice_ledger_region *region, const struct sluice_ledger_span *span,
	uint32_t first_chunk)
{
	uint64_t bytes;

	SLUICE_ASSERT(sluice_is_aligned(span->len_bytes, SLUICE_PAGE_BYTES));
	region->base = span->base;
	region->pages = span->len_bytes >> SLUICE_PAGE_SHIFT;
	region->first_chunk = first_chunk;
	region->chunks = (uint32_t)sluice_div_up(span->len_bytes, SLUICE_CHUNK_BYTES);
	bytes = region->chunks * SLUICE_CHUNK_WORDS * sizeof(uint64_t);
	region->dirty = aligned_alloc(SLUICE_CACHE_LINE, bytes);
	region->maybe_nonzero = aligned_alloc(SLUICE_CACHE_LINE, bytes);
	region->maybe_hole = aligned_alloc(SLUICE_CACHE_LINE, bytes);
	region->fd = -1;
	if (region->dirty == NULL || region->maybe_nonzero == NULL || region->maybe_hole == NULL)
		return -ENOMEM;
	memset(region->dirty, 0, bytes);
	memset(region->maybe_nonzero, 0xff, bytes);
	memset(region->maybe_hole, 0, bytes);
	return 0;
}

static void region_fini(struct sluice_ledger_region *region)
{
	free(region->dirty);
	free(region->maybe_nonzero);
	free(region->maybe_hole);
	*region = (struct sluice_ledger_region){.chunks = 0};
}

/* Entries for the chunks of a region behind all others. */
static int grow_chunks(struct sluice_ledger *ledger, uint32_t index, uint32_t count)
{
	struct sluice_ledger_chunk *chunks = realloc(
		ledger->chunks, ((size_t)ledger->chunk_count + count) * sizeof(*ledger->chunks));

	if (chunks == NULL)
		return -ENOMEM;
	ledger->chunks = chunks;
	for (uint32_t c = 0; c < count; c++)
		chunks[ledger->chunk_count + c] = (struct sluice_ledger_chunk){.region = index};
	return 0;
}

/* Every queue can hold every chunk. */
static int grow_queues(struct sluice_ledger *ledger, uint32_t count)
{
	for (uint32_t home = 0; home < ledger->home_count; home++) {
		for (int heat = 0; heat < SLUICE_LEDGER_HEATS; heat++) {
			int r = sluice_queue_grow(
				&ledger->homes[home].queues[heat], ledger->chunk_count + count);

			if (r < 0)
				return r;
		}
	}
	return 0;
}

int sluice_ledger_add_region(
	struct sluice_ledger *ledger, uint32_t index, const struct sluice_ledger_span *span)
{
	struct sluice_ledger_region region = {.chunks = 0};
	uint64_t chunks = sluice_div_up(span->len_bytes, SLUICE_CHUNK_BYTES);
	int r;

	SLUICE_ASSERT(index < SLUICE_LEDGER_REGIONS_MAX && ledger->regions[index].chunks == 0);
	if (chunks > SLUICE_LEDGER_CHUNKS_MAX - ledger->chunk_count)
		return -ENOSPC;
	r = region_init(&region, span, ledger->chunk_count);
	if (r == 0)
		r = grow_queues(ledger, region.chunks);
	if (r == 0)
		r = grow_chunks(ledger, index, region.chunks);
	if (r < 0) {
		region_fini(&region);
		return r;
	}
	ledger->regions[index] = region;
	ledger->chunk_count += region.chunks;
	if (ledger->region_count <= index)
		ledger->region_count = index + 1;
	return 0;
}

static void homes_free(struct sluice_ledger *ledger)
{
	for (uint32_t home = 0; home < ledger->home_count; home++)
		for (int heat = 0; heat < SLUICE_LEDGER_HEATS; heat++)
			sluice_queue_fini(&ledger->homes[home].queues[heat]);
	free(ledger->homes);
	ledger->homes = NULL;
	ledger->home_count = 0;
}

/* The home itself, then ANY, then the others in turn: not every home begins at the same one. */
static void default_order(uint8_t *order, uint32_t home, uint32_t homes)
{
	uint32_t at = 0;

	order[at++] = (uint8_t)home;
	if (home != SLUICE_HOME_ANY)
		order[at++] = SLUICE_HOME_ANY;
	for (uint32_t i = 1; i < homes; i++) {
		uint32_t other = (home + i) % homes;

		if (other != SLUICE_HOME_ANY)
			order[at++] = (uint8_t)other;
	}
	SLUICE_ASSERT(at == homes);
}

int sluice_ledger_set_homes(struct sluice_ledger *ledger, uint32_t homes, const uint8_t *order)
{
	SLUICE_ASSERT(homes >= 1 && homes <= SLUICE_LEDGER_HOMES_MAX);
	SLUICE_ASSERT(ledger->outstanding == 0);
	homes_free(ledger);
	ledger->homes = aligned_alloc(SLUICE_CACHE_LINE,
		sluice_align_up(homes * sizeof(*ledger->homes), SLUICE_CACHE_LINE));
	if (ledger->homes == NULL)
		return -ENOMEM;
	memset(ledger->homes, 0, homes * sizeof(*ledger->homes));
	ledger->home_count = homes;
	for (uint32_t home = 0; home < homes; home++) {
		for (int heat = 0; heat < SLUICE_LEDGER_HEATS; heat++) {
			int r = sluice_queue_init(
				&ledger->homes[home].queues[heat], ledger->chunk_count);

			if (r < 0)
				return r;
		}
		if (order != NULL)
			memcpy(ledger->homes[home].order, order + (size_t)home * homes, homes);
		else
			default_order(ledger->homes[home].order, home, homes);
		SLUICE_ASSERT(ledger->homes[home].order[0] == home);
	}
	return 0;
}

void sluice_ledger_set_home(struct sluice_ledger *ledger, uint32_t chunk, uint32_t home)
{
	SLUICE_ASSERT(chunk < ledger->chunk_count && home < ledger->home_count);
	__atomic_store_n(&ledger->chunks[chunk].home, (uint16_t)home, __ATOMIC_RELAXED);
}

int sluice_ledger_create(
	const struct sluice_ledger_span *spans, uint32_t count, struct sluice_ledger **ret_ledger)
{
	struct sluice_ledger *ledger = aligned_alloc(
		SLUICE_CACHE_LINE, sluice_align_up(sizeof(*ledger), SLUICE_CACHE_LINE));
	int r;

	if (ledger == NULL)
		return -ENOMEM;
	memset(ledger, 0, sizeof(*ledger));
	ledger->regions = calloc(SLUICE_LEDGER_REGIONS_MAX, sizeof(*ledger->regions));
	r = ledger->regions != NULL ? sluice_ledger_set_homes(ledger, 1, NULL) : -ENOMEM;
	for (uint32_t i = 0; r == 0 && i < count; i++)
		r = sluice_ledger_add_region(ledger, i, &spans[i]);
	if (r < 0) {
		sluice_ledger_destroy(ledger);
		return r;
	}
	*ret_ledger = ledger;
	return 0;
}

void sluice_ledger_destroy(struct sluice_ledger *ledger)
{
	if (ledger == NULL)
		return;
	homes_free(ledger);
	for (uint32_t i = 0; i < ledger->region_count; i++)
		region_fini(&ledger->regions[i]);
	free(ledger->regions);
	free(ledger->chunks);
	free(ledger);
}

/* Two at once may note the lower one: it only bends a rule of thumb. */
static void note_peak(struct sluice_ledger *ledger, uint32_t outstanding)
{
	if (outstanding > __atomic_load_n(&ledger->outstanding_peak, __ATOMIC_RELAXED))
		__atomic_store_n(&ledger->outstanding_peak, outstanding, __ATOMIC_RELAXED);
}

/*
 * Queue an IDLE chunk that has dirty bits. The bits were set before and the state is read after,
 * both sequentially consistent, and release does it the other way round: either we see IDLE and
 * queue the chunk, or its owner sees our bits. `outstanding` rises before the chunk can be seen
 * as queued, so it is never too small.
 */
static bool offer(struct sluice_ledger *ledger, uint32_t chunk)
{
	struct sluice_ledger_chunk *entry = &ledger->chunks[chunk];
	uint32_t idle = CHUNK_IDLE;

	if (__atomic_load_n(&entry->state, __ATOMIC_SEQ_CST) != CHUNK_IDLE)
		return false;
	note_peak(ledger, __atomic_add_fetch(&ledger->outstanding, 1, __ATOMIC_SEQ_CST));
	if (!__atomic_compare_exchange_n(&entry->state, &idle, CHUNK_QUEUED, false,
		    __ATOMIC_SEQ_CST, __ATOMIC_RELAXED)) {
		__atomic_fetch_sub(&ledger->outstanding, 1, __ATOMIC_SEQ_CST);
		return false;
	}
	sluice_queue_push(
		&ledger->homes[sluice_ledger_home_of(ledger, chunk)].queues[entry->heat], chunk);
	return true;
}

static uint32_t set_dirty(struct sluice_ledger *ledger, uint64_t *word, uint64_t bits)
{
	uint64_t old = __atomic_fetch_or(word, bits, __ATOMIC_SEQ_CST);
	uint32_t fresh = (uint32_t)__builtin_popcountll(bits & ~old);

	if (fresh != 0)
		__atomic_fetch_add(&ledger->pages_dirty, fresh, __ATOMIC_RELAXED);
	return fresh;
}

uint32_t sluice_ledger_mark(
	struct sluice_ledger *ledger, uint32_t region, uint64_t word, uint64_t bits)
{
	struct sluice_ledger_region *r = &ledger->regions[region];
	uint32_t fresh;

	SLUICE_ASSERT(word < r->chunks * SLUICE_CHUNK_WORDS);
	if (bits == 0 || r->closed)
		return 0;
	fresh = set_dirty(ledger, &r->dirty[word], bits);
	__atomic_fetch_add(&ledger->pages_marked, fresh, __ATOMIC_RELAXED);
	offer(ledger, r->first_chunk + (uint32_t)(word / SLUICE_CHUNK_WORDS));
	return fresh;
}

/* Pages of a region, a word of its bitmaps at a time. */
struct words {
	uint64_t next, end; /* pages */
	uint64_t word, bits; /* the one that words_next() found */
};

static struct words words_of(
	const struct sluice_ledger *ledger, uint32_t region, uint64_t first, uint64_t count)
{
	uint64_t pages = ledger->regions[region].pages;

	if (first >= pages)
		return (struct words){.end = 0};
	return (struct words){
		.next = first, .end = first + (count < pages - first ? count : pages - first)};
}

static bool words_next(struct words *words)
{
	uint64_t in_word = words->next % SLUICE_WORD_PAGES;
	uint64_t n = SLUICE_WORD_PAGES - in_word;

	if (words->next >= words->end)
		return false;
	if (n > words->end - words->next)
		n = words->end - words->next;
	words->word = words->next / SLUICE_WORD_PAGES;
	words->bits = (n == SLUICE_WORD_PAGES ? UINT64_MAX : (1ull << n) - 1) << in_word;
	words->next += n;
	return true;
}

void sluice_ledger_mark_pages(
	struct sluice_ledger *ledger, uint32_t region, uint64_t first, uint64_t count)
{
	struct words words = words_of(ledger, region, first, count);

	while (words_next(&words))
		sluice_ledger_mark(ledger, region, words.word, words.bits);
}

void sluice_ledger_set_file(
	struct sluice_ledger *ledger, uint32_t region, int fd, uint64_t fd_offset)
{
	ledger->regions[region].fd = fd;
	ledger->regions[region].fd_offset = fd_offset;
}

void sluice_ledger_set_holes(
	struct sluice_ledger *ledger, uint32_t region, uint64_t first, uint64_t count)
{
	struct words words = words_of(ledger, region, first, count);

	while (words_next(&words))
		__atomic_fetch_or(&ledger->regions[region].maybe_hole[words.word], words.bits,
			__ATOMIC_RELEASE); /* and the file */
}

void sluice_ledger_mark_holes(
	struct sluice_ledger *ledger, uint32_t region, uint64_t first, uint64_t count)
{
	struct words words = words_of(ledger, region, first, count);

	while (words_next(&words))
		sluice_ledger_mark(ledger, region, words.word,
			words.bits &
				__atomic_load_n(&ledger->regions[region].maybe_hole[words.word],
					__ATOMIC_RELAXED));
}

bool sluice_ledger_page_is_zero(
	struct sluice_ledger *ledger, uint32_t chunk, uint32_t page, uint8_t *copy)
{
	const struct sluice_ledger_region *region = sluice_ledger_region_of(ledger, chunk);
	uint64_t *holes = sluice_ledger_words(ledger, chunk, region->maybe_hole);
	uint64_t *word = &holes[page / SLUICE_WORD_PAGES];
	uint64_t bit = 1ull << (page % SLUICE_WORD_PAGES);
	uint64_t offset =
		sluice_ledger_offset_of(ledger, chunk) + ((uint64_t)page << SLUICE_PAGE_SHIFT);

	if ((__atomic_load_n(word, __ATOMIC_ACQUIRE) & bit) != 0) {
		if (pread(region->fd, copy, SLUICE_PAGE_BYTES,
			    (off_t)(region->fd_offset + offset)) == SLUICE_PAGE_BYTES &&
			sluice_page_is_zero(copy))
			return true;
		__atomic_fetch_and(word, ~bit, __ATOMIC_RELAXED);
	}
	return sluice_page_is_zero(region->base + offset);
}

/*
 * The next chunk of one queue. One whose home became known, or changed, after it was queued goes
 * to the queue of that home instead: it stays QUEUED, and at most one is on the way at a time.
 */
static bool pop_from(struct sluice_ledger *ledger, uint32_t queue_home, int heat,
	uint32_t lane_home, uint32_t *moves, uint32_t *ret_chunk)
{
	while (sluice_queue_pop(&ledger->homes[queue_home].queues[heat], ret_chunk)) {
		uint32_t home = sluice_ledger_home_of(ledger, *ret_chunk);

		if (home == queue_home || home == lane_home || *moves == 0)
			return true;
		(*moves)--;
		sluice_queue_push(&ledger->homes[home].queues[heat], *ret_chunk);
	}
	return false;
}

/* Where this turn begins to look: see ledger.h. */
static uint32_t first_heat(const struct sluice_ledger *ledger)
{
	uint64_t pops = __atomic_load_n(&ledger->pops, __ATOMIC_RELAXED);
	uint64_t most = __atomic_load_n(&ledger->outstanding_peak, __ATOMIC_RELAXED);

	if (pops < 2 * most || pops % SLUICE_LEDGER_WARM_TURN != 0)
		return 0;
	return 1 + (uint32_t)(pops / SLUICE_LEDGER_WARM_TURN % (SLUICE_LEDGER_HEATS - 1));
}

bool sluice_ledger_pop(
	struct sluice_ledger *ledger, uint32_t lane, uint32_t home, uint32_t *ret_chunk)
{
	const uint8_t *order = ledger->homes[home].order;
	/* To a lane without a home all chunks are equally near. */
	uint32_t moves = home == SLUICE_HOME_ANY ? 0 : MOVES_MAX;
	uint32_t first = first_heat(ledger);

	for (uint32_t n = 0; n < SLUICE_LEDGER_HEATS; n++) {
		int heat = (int)((first + n) % SLUICE_LEDGER_HEATS);

		for (uint32_t i = 0; i < ledger->home_count; i++) {
			uint32_t chunk, old;

			if (!pop_from(ledger, order[i], heat, home, &moves, &chunk))
				continue;
			old = __atomic_exchange_n(
				&ledger->chunks[chunk].state, owned_by(lane), __ATOMIC_ACQ_REL);
			SLUICE_ASSERT(old == CHUNK_QUEUED);
			__atomic_fetch_add(&ledger->pops, 1, __ATOMIC_RELAXED);
			*ret_chunk = chunk;
			return true;
		}
	}
	return false;
}

uint32_t sluice_ledger_take(
	struct sluice_ledger *ledger, uint32_t chunk, uint64_t ret_bits[SLUICE_CHUNK_WORDS])
{
	struct sluice_ledger_region *region = sluice_ledger_region_of(ledger, chunk);
	uint64_t *words = sluice_ledger_words(ledger, chunk, region->dirty);
	uint32_t pages = 0;

	for (uint32_t i = 0; i < SLUICE_CHUNK_WORDS; i++) {
		/* Acquire pairs with the release of whoever set the bit: what was dirtied before
		   is read afterwards. The bit goes before the content is read, never after. */
		if (SLUICE_PLANTED(CLEAR_AFTER_READ))
			ret_bits[i] = __atomic_load_n(&words[i], __ATOMIC_ACQUIRE);
		else
			ret_bits[i] = __atomic_exchange_n(&words[i], 0, __ATOMIC_ACQ_REL);
		pages += (uint32_t)__builtin_popcountll(ret_bits[i]);
	}
	if (!SLUICE_PLANTED(CLEAR_AFTER_READ))
		__atomic_fetch_sub(&ledger->pages_dirty, pages, __ATOMIC_RELAXED);
	return pages;
}

void sluice_ledger_put_back(
	struct sluice_ledger *ledger, uint32_t chunk, uint32_t first_page, uint32_t pages)
{
	struct sluice_ledger_region *region = sluice_ledger_region_of(ledger, chunk);
	uint64_t *words = sluice_ledger_words(ledger, chunk, region->dirty);

	SLUICE_ASSERT(first_page + pages <= SLUICE_CHUNK_PAGES);
	if (region->closed)
		return;
	for (uint32_t page = first_page; page < first_page + pages; page++)
		set_dirty(ledger, &words[page / SLUICE_WORD_PAGES],
			1ull << (page % SLUICE_WORD_PAGES));
}

static bool chunk_has_dirty(const struct sluice_ledger *ledger, uint32_t chunk)
{
	struct sluice_ledger_region *region = sluice_ledger_region_of(ledger, chunk);
	uint64_t *words = sluice_ledger_words(ledger, chunk, region->dirty);

	for (uint32_t i = 0; i < SLUICE_CHUNK_WORDS; i++)
		if (__atomic_load_n(&words[i], __ATOMIC_SEQ_CST) != 0)
			return true;
	return false;
}

/* The planted mistake: what was dirtied since the read is forgotten. */
static void clear_late(struct sluice_ledger *ledger, uint32_t chunk)
{
	struct sluice_ledger_region *region = sluice_ledger_region_of(ledger, chunk);
	uint64_t *words = sluice_ledger_words(ledger, chunk, region->dirty);

	for (uint32_t i = 0; i < SLUICE_CHUNK_WORDS; i++) {
		uint64_t bits = __atomic_exchange_n(&words[i], 0, __ATOMIC_ACQ_REL);

		__atomic_fetch_sub(&ledger->pages_dirty, (uint64_t)__builtin_popcountll(bits),
			__ATOMIC_RELAXED);
	}
}

bool sluice_ledger_release(struct sluice_ledger *ledger, uint32_t chunk, uint32_t lane)
{
	struct sluice_ledger_chunk *entry = &ledger->chunks[chunk];
	bool dirty, again = false;

	if (SLUICE_PLANTED(CLEAR_AFTER_READ))
		clear_late(ledger, chunk);
	dirty = chunk_has_dirty(ledger, chunk);
	SLUICE_ASSERT(__atomic_load_n(&entry->state, __ATOMIC_RELAXED) == owned_by(lane));
	/* Dirtied again while it was being sent: hotter. Sent and still clean: cooler. */
	if (dirty && entry->heat < SLUICE_LEDGER_HEATS - 1)
		entry->heat++;
	else if (!dirty && entry->heat > 0)
		entry->heat--;
	__atomic_store_n(&entry->state, CHUNK_IDLE, __ATOMIC_SEQ_CST);
	if (chunk_has_dirty(ledger, chunk))
		again = offer(ledger, chunk);
	if (again)
		__atomic_fetch_add(&ledger->queued_again, 1, __ATOMIC_RELAXED);
	__atomic_fetch_sub(&ledger->outstanding, 1, __ATOMIC_SEQ_CST);
	return again;
}

static void put_all_back(struct sluice_ledger *ledger, uint32_t chunk)
{
	const struct sluice_ledger_region *region = sluice_ledger_region_of(ledger, chunk);
	uint64_t first = (uint64_t)(chunk - region->first_chunk) * SLUICE_CHUNK_PAGES;
	uint64_t pages = region->pages - first;

	sluice_ledger_put_back(ledger, chunk, 0,
		pages < SLUICE_CHUNK_PAGES ? (uint32_t)pages : SLUICE_CHUNK_PAGES);
}

uint32_t sluice_ledger_reclaim(struct sluice_ledger *ledger, uint32_t lane, bool astray)
{
	uint32_t count = 0;

	for (uint32_t chunk = 0; chunk < ledger->chunk_count; chunk++) {
		if (__atomic_load_n(&ledger->chunks[chunk].state, __ATOMIC_ACQUIRE) !=
			owned_by(lane))
			continue;
		if (astray)
			put_all_back(ledger, chunk);
		sluice_ledger_release(ledger, chunk, lane);
		count++;
	}
	return count;
}

/* ---- a region that goes ---- */

static void forget_queued(struct sluice_ledger *ledger, struct sluice_queue *queue, uint32_t region)
{
	for (uint32_t left = sluice_queue_count(queue); left > 0; left--) {
		uint32_t chunk;

		SLUICE_ASSERT(sluice_queue_pop(queue, &chunk));
		if (ledger->chunks[chunk].region != region) {
			sluice_queue_push(queue, chunk);
			continue;
		}
		__atomic_store_n(&ledger->chunks[chunk].state, CHUNK_IDLE, __ATOMIC_SEQ_CST);
		__atomic_fetch_sub(&ledger->outstanding, 1, __ATOMIC_SEQ_CST);
	}
}

void sluice_ledger_close_region(struct sluice_ledger *ledger, uint32_t index)
{
	struct sluice_ledger_region *region = &ledger->regions[index];

	SLUICE_ASSERT(!region->closed && region->chunks > 0);
	region->closed = true;
	for (uint32_t home = 0; home < ledger->home_count; home++)
		for (int heat = 0; heat < SLUICE_LEDGER_HEATS; heat++)
			forget_queued(ledger, &ledger->homes[home].queues[heat], index);
	for (uint32_t word = 0; word < region->chunks * SLUICE_CHUNK_WORDS; word++) {
		uint64_t bits = __atomic_exchange_n(&region->dirty[word], 0, __ATOMIC_ACQ_REL);

		__atomic_fetch_sub(&ledger->pages_dirty, (uint64_t)__builtin_popcountll(bits),
			__ATOMIC_RELAXED);
	}
}

bool sluice_ledger_region_is_free(const struct sluice_ledger *ledger, uint32_t index)
{
	const struct sluice_ledger_region *region = &ledger->regions[index];

	SLUICE_ASSERT(region->closed);
	for (uint32_t c = 0; c < region->chunks; c++)
		if (__atomic_load_n(&ledger->chunks[region->first_chunk + c].state,
			    __ATOMIC_SEQ_CST) != CHUNK_IDLE)
			return false;
	return true;
}

void sluice_ledger_drop_region(struct sluice_ledger *ledger, uint32_t index)
{
	SLUICE_ASSERT(sluice_ledger_region_is_free(ledger, index));
	region_fini(&ledger->regions[index]);
}
