/* SPDX-License-Identifier: BSD-3-Clause */
/* guest.c: see guest.h. */
#include <stdlib.h>
#include <string.h>

#include <sluice/sluice.h>

#include "base/assert.h"
#include "tests/sim/guest.h"

void guest_opts_defaults(struct guest_opts *ret_opts)
{
	*ret_opts = (struct guest_opts){
		.seed = 1,
		.region_count = 2,
		/* One with a short last chunk and a short last word, one smaller than a chunk. */
		.region_pages = {2 * SLUICE_CHUNK_PAGES + 100, 70},
		.hot_pages = 40,
		.hot_ppm = 800000,
		.zero_ppm = 150000,
		.whole_ppm = 400000,
		.untouched_ppm = 300000,
	};
}

static uint8_t *sector_at(const struct guest_region *region, uint64_t sector)
{
	return region->memory + sector * GUEST_SECTOR_BYTES;
}

static void sector_fill(uint8_t *sector, uint64_t tick)
{
	uint64_t words[GUEST_SECTOR_BYTES / sizeof(uint64_t)];

	for (size_t i = 0; i < SLUICE_ARRAY_LEN(words); i++)
		words[i] = tick;
	memcpy(sector, words, sizeof(words));
}

uint64_t guest_sector_tick(const uint8_t *sector)
{
	uint64_t first;

	/* All its words are equal when it equals itself one word further. */
	memcpy(&first, sector, sizeof(first));
	if (memcmp(sector, sector + sizeof(first), GUEST_SECTOR_BYTES - sizeof(first)) != 0)
		return UINT64_MAX;
	return first;
}

static bool bit_test(const uint64_t *bits, uint32_t index)
{
	return bits[index / 64] >> (index % 64) & 1;
}

static void bit_set(uint64_t *bits, uint32_t index)
{
	bits[index / 64] |= 1ull << (index % 64);
}

static void bit_clear(uint64_t *bits, uint32_t index)
{
	bits[index / 64] &= ~(1ull << (index % 64));
}

/* ---- Creation ---- */

static bool region_create(struct guest_region *region, uint32_t pages)
{
	uint64_t sectors = (uint64_t)pages * GUEST_PAGE_SECTORS;

	region->pages = pages;
	region->words = (uint32_t)sluice_div_up(pages, SLUICE_WORD_PAGES);
	region->len_bytes = pages * SLUICE_PAGE_BYTES;
	region->memory = aligned_alloc(SLUICE_PAGE_BYTES, region->len_bytes);
	region->ticks = calloc(sectors, sizeof(uint64_t));
	region->cleared = calloc(sectors, sizeof(uint64_t));
	region->log = calloc(region->words, sizeof(uint64_t));
	region->protected = calloc(region->words, sizeof(uint64_t));
	region->bitmap = calloc(1, sluice_bitmap_bytes(region->len_bytes));
	if (region->memory == NULL || region->ticks == NULL || region->cleared == NULL ||
		region->log == NULL || region->protected == NULL || region->bitmap == NULL)
		return false;
	memset(region->memory, 0, region->len_bytes);
	return true;
}

static void region_destroy(struct guest_region *region)
{
	free(region->memory);
	free(region->ticks);
	free(region->cleared);
	free(region->log);
	free(region->protected);
	free(region->bitmap);
}

static void region_page_of(
	const struct guest *guest, uint32_t page, uint32_t *ret_region, uint32_t *ret_page)
{
	uint32_t region = 0;

	for (; page >= guest->regions[region].pages; region++)
		page -= guest->regions[region].pages;
	*ret_region = region;
	*ret_page = page;
}

static void guest_first_content(struct guest *guest)
{
	for (uint32_t r = 0; r < guest->region_count; r++) {
		struct guest_region *region = &guest->regions[r];

		for (uint32_t page = 0; page < region->pages; page++) {
			bit_set(region->protected, page);
			bit_set(region->bitmap, page);
			if (region->plugged &&
				!sluice_random_chance(&guest->random, guest->opts.untouched_ppm))
				guest_store_sectors(guest, r, page, 0xff);
		}
	}
}

struct guest *guest_create(const struct guest_opts *opts)
{
	struct guest *guest = calloc(1, sizeof(*guest));
	bool whole = true;

	SLUICE_ASSERT(opts->region_count <= GUEST_REGIONS_MAX);
	if (guest == NULL)
		return NULL;
	guest->opts = *opts;
	guest->region_count = opts->region_count;
	sluice_random_seed(&guest->random, opts->seed);
	for (uint32_t i = 0; i < opts->region_count; i++) {
		whole = region_create(&guest->regions[i], opts->region_pages[i]) && whole;
		guest->regions[i].plugged = i < opts->region_count - opts->spare_count;
		guest->pages += opts->region_pages[i];
	}
	guest->hot = calloc(opts->hot_pages + 1, sizeof(*guest->hot));
	if (!whole || guest->hot == NULL) {
		guest_destroy(guest);
		return NULL;
	}
	for (uint32_t i = 0; i < opts->hot_pages; i++)
		guest->hot[i] = (uint32_t)sluice_random_below(&guest->random, guest->pages);
	guest->running = true;
	guest_first_content(guest);
	return guest;
}

void guest_destroy(struct guest *guest)
{
	if (guest == NULL)
		return;
	for (uint32_t i = 0; i < guest->region_count; i++)
		region_destroy(&guest->regions[i]);
	free(guest->hot);
	free(guest);
}

/* ---- Stores ---- */

/* The write fault comes before the store, as on hardware. */
static void page_fault(struct guest_region *region, uint32_t page)
{
	if (!bit_test(region->protected, page))
		return;
	bit_set(region->log, page);
	bit_clear(region->protected, page);
}

void guest_store_sectors(struct guest *guest, uint32_t r, uint32_t page, uint8_t sectors)
{
	struct guest_region *region = &guest->regions[r];

	SLUICE_ASSERT(guest->running);
	page_fault(region, page);
	guest->tick++;
	for (uint32_t i = 0; i < GUEST_PAGE_SECTORS; i++) {
		uint64_t sector = (uint64_t)page * GUEST_PAGE_SECTORS + i;

		if ((sectors >> i & 1) == 0)
			continue;
		region->ticks[sector] = guest->tick;
		sector_fill(sector_at(region, sector), guest->tick);
	}
	guest->stores++;
}

void guest_clear_page(struct guest *guest, uint32_t r, uint32_t page)
{
	struct guest_region *region = &guest->regions[r];

	SLUICE_ASSERT(guest->running);
	page_fault(region, page);
	guest->tick++;
	for (uint32_t i = 0; i < GUEST_PAGE_SECTORS; i++) {
		uint64_t sector = (uint64_t)page * GUEST_PAGE_SECTORS + i;

		if (region->ticks[sector] != 0)
			region->cleared[sector] = guest->tick;
		region->ticks[sector] = 0;
	}
	memset(region->memory + page * SLUICE_PAGE_BYTES, 0, SLUICE_PAGE_BYTES);
	guest->stores++;
}

void guest_store(struct guest *guest)
{
	struct sluice_random *random = &guest->random;
	uint32_t number = (uint32_t)sluice_random_below(random, guest->pages);
	uint32_t region, page;

	if (guest->opts.hot_pages > 0 && sluice_random_chance(random, guest->opts.hot_ppm))
		number = guest->hot[sluice_random_below(random, guest->opts.hot_pages)];
	region_page_of(guest, number, &region, &page);
	if (!guest->regions[region].plugged) {
		region = 0;
		page %= guest->regions[0].pages;
	}
	if (sluice_random_chance(random, guest->opts.zero_ppm))
		guest_clear_page(guest, region, page);
	else if (sluice_random_chance(random, guest->opts.whole_ppm))
		guest_store_sectors(guest, region, page, 0xff);
	else
		guest_store_sectors(guest, region, page,
			(uint8_t)(1u << sluice_random_below(random, GUEST_PAGE_SECTORS)));
}

void guest_plug(struct guest *guest, uint32_t r, bool plugged)
{
	SLUICE_ASSERT(r > 0 && guest->regions[r].plugged != plugged);
	guest->regions[r].plugged = plugged;
}

bool guest_memory_intact(const struct guest *guest)
{
	for (uint32_t r = 0; r < guest->region_count; r++) {
		const struct guest_region *region = &guest->regions[r];

		for (uint64_t s = 0; s < (uint64_t)region->pages * GUEST_PAGE_SECTORS; s++) {
			if (guest_sector_tick(sector_at(region, s)) != region->ticks[s])
				return false;
		}
	}
	return true;
}

/* ---- The dirty log ---- */

void guest_sync_start(struct guest *guest)
{
	SLUICE_ASSERT(!guest->syncing);
	guest->syncing = true;
	guest->word_taken = false;
	guest->sync_region = guest->sync_word = 0;
	guest->syncs++;
}

/* GET_DIRTY_LOG: take the bits and protect their pages, in one atomic step. */
static void word_protect(struct guest *guest, struct guest_region *region)
{
	guest->word = region->log[guest->sync_word];
	region->log[guest->sync_word] = 0;
	region->protected[guest->sync_word] |= guest->word;
}

static void word_publish(struct guest *guest, struct guest_region *region)
{
	sluice_bitmap_publish(region->bitmap, guest->sync_word, guest->word);
}

bool guest_sync_step(struct guest *guest)
{
	struct guest_region *region = &guest->regions[guest->sync_region];

	if (!guest->syncing)
		return false;
	if (guest->opts.publish_first && !guest->word_taken) {
		guest->word = region->log[guest->sync_word];
		word_publish(guest, region);
	} else if (guest->opts.publish_first || !guest->word_taken) {
		word_protect(guest, region);
	} else {
		word_publish(guest, region);
	}
	guest->word_taken = !guest->word_taken;
	if (guest->word_taken)
		return true;
	if (++guest->sync_word == region->words) {
		guest->sync_word = 0;
		guest->sync_region++;
	}
	guest->syncing = guest->sync_region < guest->region_count;
	return guest->syncing;
}

uint64_t guest_bitmap_exchange(struct guest_region *region, uint32_t word)
{
	return __atomic_exchange_n(&region->bitmap[word], 0, __ATOMIC_ACQUIRE);
}
