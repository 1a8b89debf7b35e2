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
 * Queues. Every chunk has a home: the NUMA node that its memory is on, or SLUICE_HOME_ANY while
 * nobody knows (a machine with one node has no other). There is one queue per home and heat. A
 * lane looks for work by heat first and by home second:
 *
 *   cold:  its own home, ANY, the other homes from near to far      (the last is stealing)
 *   warm:  the same again, and so on up to the hottest
 *
 * Heat comes first because a hot chunk that is sent early is sent twice, which costs wire; a cold
 * one from another node only costs a longer way through the machine. While a migration still has
 * cold chunks everywhere (its bulk) each lane stays at home.
 *
 * Colder chunks never run out where the guest writes more than may be sent: few of them, dirty
 * again soon and sent in no time, would keep all others waiting for good, also those whose writer
 * has long gone elsewhere. So once twice as many chunks were taken as there ever were to send, one
 * turn in SLUICE_LEDGER_WARM_TURN begins with a warmer heat, each in its turn: as every queue is
 * first in, first out, every chunk has its turn.
 *
 * Words shared between threads are plain integers accessed with __atomic builtins.
 *
 * Regions come and go while a migration runs. That is rare, and so it costs lanes nothing: the
 * arrays that they read without a lock change only while no lane is stepped at all (the control
 * thread holds them between two steps, see sluice_lane_set_hold()). A region that goes is closed
 * first: none of its chunks is queued any more and none will be. Those that lanes own are released
 * as ever, behind a FLUSH or a fence; then it is free and may be dropped. The chunk numbers of a
 * region that was dropped are not used again.
 *
 * Threads: marking and offering is for any thread; pop, take, release and the maybe_nonzero bits
 * of a chunk are for the lane that owns it; reclaim is for the control thread, after the lane has
 * stopped for good. Nothing that a lane calls locks, allocates or sleeps; it may wait for a page of
 * the guest, as any first touch does.
 */
#ifndef SLUICE_ENGINE_LANE_LEDGER_H
#define SLUICE_ENGINE_LANE_LEDGER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/bits.h"
#include "engine/lane/queue.h"

#define SLUICE_LEDGER_HEATS       4 /* queues of a home, coldest first */
#define SLUICE_LEDGER_WARM_TURN   8
#define SLUICE_HOME_ANY           0 /* the home of chunks whose node is not known */
#define SLUICE_LEDGER_HOMES_MAX   65 /* ANY and 64 nodes */
#define SLUICE_LEDGER_REGIONS_MAX 64 /* that are part of one migration, ever */
#define SLUICE_LEDGER_CHUNKS_MAX  (1u << 29) /* 1 PiB */

struct sluice_ledger_region {
	uint8_t *base; /* the engine's mapping; borrowed */
	uint64_t pages; /* of 4 KiB */
	uint32_t first_chunk; /* index of its first chunk in the ledger */
	uint32_t chunks; /* the last one may be short */
	uint64_t *dirty; /* one bit per page, chunk aligned; atomic access */
	uint64_t *maybe_nonzero; /* clear only where the target is known to hold zeros */
	uint64_t *maybe_hole; /* atomic; set where the file may have no page: see set_holes() */
	int fd; /* that the memory is of, borrowed; -1: not known */
	uint64_t fd_offset; /* of its first byte */
	bool closed; /* it goes: what is marked here is nobody's */
};

struct sluice_ledger_chunk {
	uint32_t state;
	uint32_t region;
	uint16_t heat; /* 0: cold. Written by the owner, read by whoever queues the chunk */
	uint16_t home; /* atomic; where it is queued next */
};

struct sluice_ledger_home {
	struct sluice_queue queues[SLUICE_LEDGER_HEATS];
	uint8_t order[SLUICE_LEDGER_HOMES_MAX]; /* homes as its lanes look through them */
};

struct sluice_ledger {
	struct sluice_ledger_region *regions; /* SLUICE_LEDGER_REGIONS_MAX of them */
	uint32_t region_count; /* behind the last one; one that is not there has no chunks */
	struct sluice_ledger_chunk *chunks;
	uint32_t chunk_count;
	struct sluice_ledger_home *homes;
	uint32_t home_count; /* 1: only ANY */
	_Alignas(SLUICE_CACHE_LINE) uint64_t pages_dirty; /* dirty bits set */
	uint32_t outstanding; /* chunks QUEUED or OWNED; never too small */
	uint32_t outstanding_peak; /* about the most there were at once */
	uint64_t pops; /* chunks taken from queues */
	uint64_t pages_marked; /* dirty bits set by mark(), ever: not those put back */
	uint64_t queued_again; /* chunks that were dirty when a lane gave them back, ever */
};

struct sluice_ledger_span {
	void *base; /* page aligned */
	uint64_t len_bytes;
};

/* All pages clean, all maybe_nonzero set, all chunks at home in ANY. -ENOMEM. */
int sluice_ledger_create(
	const struct sluice_ledger_span *spans, uint32_t count, struct sluice_ledger **ret_ledger);
void sluice_ledger_destroy(struct sluice_ledger *ledger);

/*
 * Control, while no lane is stepped: one more region, at an index that was never used. All its
 * pages are clean, all maybe_nonzero set, all chunks at home in ANY. -ENOMEM, or -ENOSPC: more than
 * SLUICE_LEDGER_CHUNKS_MAX.
 */
int sluice_ledger_add_region(
	struct sluice_ledger *ledger, uint32_t region, const struct sluice_ledger_span *span);
/* Control, while no lane is stepped: the region goes. Its dirty pages are forgotten. */
void sluice_ledger_close_region(struct sluice_ledger *ledger, uint32_t region);
/* Control: no lane owns a chunk of this closed region. Final. */
bool sluice_ledger_region_is_free(const struct sluice_ledger *ledger, uint32_t region);
/* Control, while no lane is stepped (one that released a chunk looks at its bits once more): a
   closed region that is free. Its bitmaps are gone, and it has no chunks any more. */
void sluice_ledger_drop_region(struct sluice_ledger *ledger, uint32_t region);

/*
 * Control, before anything is marked: queues for the nodes 1 .. homes - 1. Row h of @order (homes
 * x homes) says in which order a lane of home h looks for chunks; it begins with h. NULL: h, ANY,
 * then the others in turn. -ENOMEM.
 */
int sluice_ledger_set_homes(struct sluice_ledger *ledger, uint32_t homes, const uint8_t *order);
/* Any thread: where a chunk's memory is. One that is queued moves when a lane comes across it. */
void sluice_ledger_set_home(struct sluice_ledger *ledger, uint32_t chunk, uint32_t home);

/* Set dirty bits in one word of a region and offer its chunk. Returns how many were clear. */
uint32_t sluice_ledger_mark(
	struct sluice_ledger *ledger, uint32_t region, uint64_t word, uint64_t bits);
/* Mark whole pages [first, first + count) of a region; clipped to the region. */
void sluice_ledger_mark_pages(
	struct sluice_ledger *ledger, uint32_t region, uint64_t first, uint64_t count);

/* Control, before set_holes(): the region's memory is @fd's from @fd_offset on. Borrowed. */
void sluice_ledger_set_file(
	struct sluice_ledger *ledger, uint32_t region, int fd, uint64_t fd_offset);
/*
 * Any thread: whole pages [first, first + count) of a region, clipped to it, may be holes of its file.
 * That is a hint, right or wrong: reading such a page through the mapping would fill it, so it is
 * read through the file.
 */
void sluice_ledger_set_holes(
	struct sluice_ledger *ledger, uint32_t region, uint64_t first, uint64_t count);
/* Any thread: mark those of these pages that may be holes. Clipped. */
void sluice_ledger_mark_holes(
	struct sluice_ledger *ledger, uint32_t region, uint64_t first, uint64_t count);
/*
 * Owner: whether a page is zero. One that may be a hole is read through its file, which does not fill
 * it, into @copy (SLUICE_PAGE_BYTES); when it holds something, or cannot be read, it is none.
 */
bool sluice_ledger_page_is_zero(
	struct sluice_ledger *ledger, uint32_t chunk, uint32_t page, uint8_t *copy);

/* The coldest queued chunk, of those the one nearest to @home; now owned by @lane. */
bool sluice_ledger_pop(
	struct sluice_ledger *ledger, uint32_t lane, uint32_t home, uint32_t *ret_chunk);
/* Owner: move the chunk's dirty bits out, before any of its content is read. Returns pages. */
uint32_t sluice_ledger_take(
	struct sluice_ledger *ledger, uint32_t chunk, uint64_t ret_bits[SLUICE_CHUNK_WORDS]);
/* Owner, or control for a stopped lane: these pages were taken but not placed. */
void sluice_ledger_put_back(
	struct sluice_ledger *ledger, uint32_t chunk, uint32_t first_page, uint32_t pages);
/* Owner, behind a FLUSH: hand the chunk back. True: it is dirty again, and queued. */
bool sluice_ledger_release(struct sluice_ledger *ledger, uint32_t chunk, uint32_t lane);
/* Control, behind a fence: hand back all chunks of a lost lane. Returns how many. @astray: of what
   was placed in them some may not have landed, so all their pages are dirty again. What lanes have
   released was FLUSHED, and is there. */
uint32_t sluice_ledger_reclaim(struct sluice_ledger *ledger, uint32_t lane, bool astray);

static inline struct sluice_ledger_region *sluice_ledger_region_of(
	const struct sluice_ledger *ledger, uint32_t chunk)
{
	return &ledger->regions[ledger->chunks[chunk].region];
}

static inline uint32_t sluice_ledger_home_of(const struct sluice_ledger *ledger, uint32_t chunk)
{
	return __atomic_load_n(&ledger->chunks[chunk].home, __ATOMIC_RELAXED);
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

static inline uint64_t sluice_ledger_queued_again(const struct sluice_ledger *ledger)
{
	return __atomic_load_n(&ledger->queued_again, __ATOMIC_RELAXED);
}

/* True when no chunk is queued or owned. Final only when nobody marks any more. */
static inline bool sluice_ledger_is_drained(const struct sluice_ledger *ledger)
{
	return __atomic_load_n(&ledger->outstanding, __ATOMIC_SEQ_CST) == 0;
}

#endif
