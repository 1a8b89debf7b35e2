/* SPDX-License-Identifier: BSD-3-Clause */
/* homes.c: see homes.h. */
#include "engine/placement/homes.h"

#include <string.h>
#include <unistd.h>

#include "base/bits.h"
#include "engine/lane/ledger.h"
#include "engine/placement/node_memory.h"

#define SURVEY_CHUNKS 64u /* looked at per region, evenly spread */

/* Offset in the region of the first data at or behind @offset; the region's length when none. */
static uint64_t next_data(const struct sluice_region *region, uint64_t offset)
{
	off_t at;

	if (region->backing_page_bytes > SLUICE_PAGE_BYTES)
		return offset; /* hugetlb does not tell */
	at = lseek(region->fd, (off_t)(region->fd_offset + offset), SEEK_DATA);
	if (at < 0)
		return region->len_bytes;
	offset = (uint64_t)at - region->fd_offset;
	return offset < region->len_bytes ? offset : region->len_bytes;
}

/* The page at @offset, made known to the kernel's tables of this process where that is harmless. */
static void *look_at(const struct sluice_region *region, uint64_t offset)
{
	uint8_t *page = region->base + sluice_align_down(offset, SLUICE_PAGE_BYTES);

	if (region->backing_page_bytes == SLUICE_PAGE_BYTES)
		(void)*(volatile const uint8_t *)page;
	return page;
}

struct batch {
	void *pages[SLUICE_HOMES_STEP_CHUNKS];
	uint32_t chunks[SLUICE_HOMES_STEP_CHUNKS];
	int nodes[SLUICE_HOMES_STEP_CHUNKS];
	uint32_t count;
};

static void settle(struct sluice_homes *homes, struct batch *batch)
{
	sluice_node_of_pages(batch->pages, batch->count, batch->nodes);
	for (uint32_t i = 0; i < batch->count; i++) {
		uint32_t home = SLUICE_HOME_ANY;

		if (batch->nodes[i] != SLUICE_NODE_UNKNOWN)
			home = sluice_plan_home_of(
				homes->topology, homes->plan, (uint32_t)batch->nodes[i]);
		if (home == SLUICE_HOME_ANY)
			continue;
		sluice_ledger_set_home(homes->ledger, batch->chunks[i], home);
		homes->found++;
	}
}

/* The memory behind a region of the ledger; NULL when it was removed meanwhile. */
static const struct sluice_region *region_behind(
	const struct sluice_memory *memory, const struct sluice_ledger_region *r)
{
	for (uint32_t i = 0; i < memory->count; i++)
		if (memory->regions[i]->base == r->base)
			return memory->regions[i];
	return NULL;
}

/* The next chunk of the current region that holds data and has no home; false: none is left. */
static bool next_chunk(
	struct sluice_homes *homes, const struct sluice_region *region, uint64_t *ret_data)
{
	const struct sluice_ledger_region *r = &homes->ledger->regions[homes->region];

	for (; homes->chunk < r->chunks; homes->chunk++) {
		uint64_t data;

		if (sluice_ledger_home_of(homes->ledger, r->first_chunk + homes->chunk) !=
			SLUICE_HOME_ANY)
			continue;
		data = next_data(region, (uint64_t)homes->chunk << SLUICE_CHUNK_SHIFT);
		if (data == region->len_bytes)
			return false;
		if (data >> SLUICE_CHUNK_SHIFT == homes->chunk) {
			*ret_data = data;
			return true;
		}
		homes->chunk = (uint32_t)(data >> SLUICE_CHUNK_SHIFT) - 1; /* over the hole */
	}
	return false;
}

bool sluice_homes_step(struct sluice_homes *homes)
{
	const struct sluice_ledger *ledger = homes->ledger;
	struct batch batch = {.count = 0};

	while (homes->region < ledger->region_count && batch.count < SLUICE_HOMES_STEP_CHUNKS) {
		const struct sluice_ledger_region *r = &ledger->regions[homes->region];
		const struct sluice_region *region = region_behind(homes->memory, r);
		uint64_t data;

		if (region == NULL || !next_chunk(homes, region, &data)) {
			homes->region++;
			homes->chunk = 0;
			continue;
		}
		batch.pages[batch.count] = look_at(region, data);
		batch.chunks[batch.count++] = r->first_chunk + homes->chunk++;
	}
	if (batch.count > 0)
		settle(homes, &batch);
	if (homes->region < ledger->region_count)
		return true;
	homes->region = 0;
	return false;
}

static uint32_t index_of(const struct sluice_topology *topology, int number)
{
	uint32_t i = 0;

	while (i < topology->node_count && topology->nodes[i].number != (uint32_t)number)
		i++;
	return i;
}

void sluice_homes_survey(const struct sluice_memory *memory, const struct sluice_topology *topology,
	uint64_t ret_bytes[SLUICE_NODES_MAX])
{
	memset(ret_bytes, 0, SLUICE_NODES_MAX * sizeof(*ret_bytes));
	for (uint32_t i = 0; i < memory->count; i++) {
		const struct sluice_region *region = memory->regions[i];
		uint64_t stride = sluice_align_up(
			sluice_div_up(region->len_bytes, SURVEY_CHUNKS), SLUICE_PAGE_BYTES);
		struct batch batch = {.count = 0};

		for (uint64_t at = 0; at < region->len_bytes; at += stride) {
			uint64_t data = next_data(region, at);

			if (data - at < stride && data < region->len_bytes)
				batch.pages[batch.count++] = look_at(region, data);
		}
		if (batch.count > 0)
			sluice_node_of_pages(batch.pages, batch.count, batch.nodes);
		for (uint32_t p = 0; p < batch.count; p++) {
			uint32_t node = batch.nodes[p] == SLUICE_NODE_UNKNOWN
						? topology->node_count
						: index_of(topology, batch.nodes[p]);

			if (node < topology->node_count)
				ret_bytes[node] += stride;
		}
	}
}
