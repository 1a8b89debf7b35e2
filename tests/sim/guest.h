/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * guest.h: a simulated guest and its VMM: memory that is written to all the time, and a
 * stand-in for KVM's dirty log with the order of the bitmap feed.
 *
 * Every store of the guest writes whole sectors (512 bytes) and fills each with one number,
 * the guest's tick, which only grows. So any sector found anywhere tells which version it
 * is, a torn one is seen at once, and a zero sector is what a guest that clears memory
 * leaves. The model keeps the tick of every sector apart from the memory: it is the truth.
 *
 * The dirty log: a page is write-protected or not. A store to a protected page sets its bit
 * in the log and unprotects it. The VMM harvests in small steps, between which anything may
 * happen: first protect again (take the bits out of the log), then publish (OR them into
 * the shared bitmap that the engine exchanges words of).
 *
 * Threading: one thread. No engine code in here.
 */
#ifndef SLUICE_TESTS_SIM_GUEST_H
#define SLUICE_TESTS_SIM_GUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/bits.h"
#include "base/random.h"

#define GUEST_REGIONS_MAX  5u
#define GUEST_SECTOR_BYTES 512u
#define GUEST_PAGE_SECTORS 8u /* of SLUICE_PAGE_BYTES */

struct guest_opts {
	uint64_t seed;
	uint32_t region_count;
	uint32_t region_pages[GUEST_REGIONS_MAX]; /* need not be whole chunks */
	uint32_t spare_count; /* of these, so many (the last) are not plugged in at the start */
	uint32_t hot_pages; /* size of the hot set, scattered over all regions */
	uint32_t hot_ppm; /* stores that go there */
	uint32_t zero_ppm; /* stores that clear a whole page */
	uint32_t whole_ppm; /* of the others: those that fill a page, not one sector */
	uint32_t untouched_ppm; /* pages that are still zero at the start */
	bool publish_first; /* planted bug: publish, and protect again only later */
};

struct guest_region {
	bool plugged; /* the guest has it, and writes to it */
	uint8_t *memory; /* page aligned */
	uint64_t len_bytes;
	uint32_t pages, words;
	uint64_t *ticks; /* per sector: the truth; 0 is a zero sector */
	uint64_t *cleared; /* per sector: tick of its last change to zero */
	uint64_t *log; /* KVM's: one bit per page, set at the first store */
	uint64_t *protected; /* one bit per page */
	uint64_t *bitmap; /* shared with the engine */
};

struct guest {
	struct guest_opts opts;
	struct sluice_random random;
	uint64_t tick;
	bool running;
	uint64_t stores;
	uint32_t region_count;
	struct guest_region regions[GUEST_REGIONS_MAX];
	uint32_t *hot; /* page numbers, counted over all regions */
	uint32_t pages; /* of all regions */
	/* A harvest under way: one word of one region at a time, each in two steps. */
	bool syncing;
	bool word_taken; /* the first step of the word is done */
	uint32_t sync_region, sync_word;
	uint64_t word;
	uint64_t syncs;
};

void guest_opts_defaults(struct guest_opts *ret_opts);
/* Everything is dirty at the start: a VMM's first bitmap is all ones. NULL: no memory. */
struct guest *guest_create(const struct guest_opts *opts);
void guest_destroy(struct guest *guest); /* NULL is allowed */

/* One random store. Only while it runs. */
void guest_store(struct guest *guest);
/* Chosen stores, for tests. @sectors: a bit per sector of the page. */
void guest_store_sectors(struct guest *guest, uint32_t region, uint32_t page, uint8_t sectors);
void guest_clear_page(struct guest *guest, uint32_t region, uint32_t page);

/* Give the guest a region, or take it away. It finds it as it left it. */
void guest_plug(struct guest *guest, uint32_t region, bool plugged);

/* Start a harvest; guest_sync_step() until it returns false, then all that was dirty before
   the start is in the shared bitmaps. */
void guest_sync_start(struct guest *guest);
bool guest_sync_step(struct guest *guest);

/* What the engine does with a shared bitmap: take a word. */
uint64_t guest_bitmap_exchange(struct guest_region *region, uint32_t word);

/* Does the source's memory hold what the guest wrote? False: somebody else wrote there. */
bool guest_memory_intact(const struct guest *guest);

/* The tick a sector holds: 0 for zeroes; UINT64_MAX when it is torn or foreign. */
uint64_t guest_sector_tick(const uint8_t *sector);

#endif
