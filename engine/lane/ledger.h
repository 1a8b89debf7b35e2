/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * ledger.h: which pages are dirty, which the target may hold as non-zero, and who owns a chunk.
 *
 * A chunk (2 MiB, 512 pages) is the unit of ownership. Its dirty bits are 8 words: one cache
 * line. At any time a chunk is
 *
 *   IDLE     nothing known to be dirty (a bit may just have been set and not offered yet)
 *   QUEUED   dirty, in the queue of its heat, owned by nobody
 *   OWNED    by one lane, from pop until release. New dirty bits wait for the release
 *
 * and it goes round: IDLE -> QUEUED (offer), QUEUED -> OWNED (pop), OWNED -> IDLE or QUEUED
 * (release). A lane releases a chunk only behind a FLUSH; the chunks of a lost lane stay OWNED by
 * it until the target has fenced that lane, then reclaim releases them.
 *
 * Words shared between threads are plain integers accessed with __atomic builtins.
 *
 * Threads: marking and offering is for any thread; pop, take, release and the maybe_nonzero bits
 * of a chunk are for the lane that owns it; reclaim is for the control thread, after the lane has
 * stopped for good. Nothing here locks, allocates (after create) or sleeps.
 */
#ifndef SLUICE_ENGINE_LANE_LEDGER_H
#define SLUICE_ENGINE_LANE_LEDGER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/bits.h"
#include "engine/lane/queue.h"

#define SLUICE_LEDGER_HEATS 4 /* queues, coldest first */

struct sluice_ledger_region {
	uint8_t *base; /* the engine's mapping; borrowed */
	uint64_t pages; /* of 4 KiB */
	uint32_t first_chunk; /* index of its first chunk in the ledger */
	uint32_t chunks; /* the last one may be short */
	uint64_t *dirty; /* one bit per page, chunk aligned; atomic access */
	uint64_t *maybe_nonzero; /* clear only where the target is known to hold zeros */
};

struct sluice_ledger_chunk {
	uint32_t state;
	uint32_t region;
	uint32_t heat; /* 0: cold. Written by the owner, read by whoever queues the chunk */
};

struct sluice_ledger {
	struct sluice_ledger_region *regions;
	uint32_t region_count;
	struct sluice_ledger_chunk *chunks;
	uint32_t chunk_count;
	struct sluice_queue queues[SLUICE_LEDGER_HEATS];
	_Alignas(SLUICE_CACHE_LINE) uint64_t pages_dirty; /* dirty bits set */
	uint32_t outstanding; /* chunks QUEUED or OWNED; never too small */
};

struct sluice_ledger_span {
	void *base; /* page aligned */
	uint64_t len_bytes;
};

/* All pages clean, all maybe_nonzero set. -ENOMEM. */
int sluice_ledger_create(
	const struct sluice_ledger_span *spans, uint32_t count, struct sluice_ledger **ret_ledger);
void sluice_ledger_destroy(struct sluice_ledger *ledger);

/* Set dirty bits in one word of a region and offer its chunk. Returns how many were clear. */
uint32_t sluice_ledger_mark(
	struct sluice_ledger *ledger, uint32_t region, uint64_t word, uint64_t bits);
/* Mark whole pages [first, first + count) of a region; clipped to the region. */
void sluice_ledger_mark_pages(
	struct sluice_ledger *ledger, uint32_t region, uint64_t first, uint64_t count);

/* The coldest queued chunk, now owned by @lane. */
bool sluice_ledger_pop(struct sluice_ledger *ledger, uint32_t lane, uint32_t *ret_chunk);
/* Owner: move the chunk's dirty bits out, before any of its content is read. Returns pages. */
uint32_t sluice_ledger_take(
	struct sluice_ledger *ledger, uint32_t chunk, uint64_t ret_bits[SLUICE_CHUNK_WORDS]);
/* Owner, or control for a stopped lane: these pages were taken but not placed. */
void sluice_ledger_put_back(
	struct sluice_ledger *ledger, uint32_t chunk, uint32_t first_page, uint32_t pages);
/* Owner, behind a FLUSH: hand the chunk back. */
void sluice_ledger_release(struct sluice_ledger *ledger, uint32_t chunk, uint32_t lane);
/* Control, behind a fence: hand back all chunks of a lost lane. Returns how many. */
uint32_t sluice_ledger_reclaim(struct sluice_ledger *ledger, uint32_t lane);

static inline struct sluice_ledger_region *sluice_ledger_region_of(
	const struct sluice_ledger *ledger, uint32_t chunk)
{
	return &ledger->regions[ledger->chunks[chunk].region];
}

/* Bytes from the region's start to the chunk's. */
static inline uint64_t sluice_ledger_offset_of(const struct sluice_ledger *ledger, uint32_t chunk)
{
	return (uint64_t)(chunk - sluice_ledger_region_of(ledger, chunk)->first_chunk)
	       << SLUICE_CHUNK_SHIFT;
}

/* The 8 words of a chunk within a region's bitmap. */
static inline uint64_t *sluice_ledger_words(
	const struct sluice_ledger *ledger, uint32_t chunk, uint64_t *region_bitmap)
{
	uint32_t first = sluice_ledger_region_of(ledger, chunk)->first_chunk;

	return region_bitmap + (uint64_t)(chunk - first) * SLUICE_CHUNK_WORDS;
}

static inline uint64_t sluice_ledger_pages_dirty(const struct sluice_ledger *ledger)
{
	return __atomic_load_n(&ledger->pages_dirty, __ATOMIC_RELAXED);
}

/* True when no chunk is queued or owned. Final only when nobody marks any more. */
static inline bool sluice_ledger_is_drained(const struct sluice_ledger *ledger)
{
	return __atomic_load_n(&ledger->outstanding, __ATOMIC_SEQ_CST) == 0;
}

#endif
