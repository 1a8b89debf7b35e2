/* SPDX-License-Identifier: BSD-3-Clause */
/* oracle.c: see oracle.h. */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "tests/sim/oracle.h"

#define NOBODY 0u

/* One sector at the target. Connections are numbered from 1; NOBODY has flushed nothing. */
struct sector {
	uint64_t flushed; /* newest version behind a FLUSH ... */
	uint64_t flushed_other; /* ... and the newest of any other connection */
	uint16_t flusher;
};

/* A sector that a connection has landed since its last FLUSH. */
struct pending {
	uint32_t region;
	uint64_t sector;
	uint64_t tick;
};

struct connection {
	uint32_t lane, epoch;
	struct pending *pending;
	size_t count, capacity;
};

struct chunk {
	uint16_t writer; /* last connection that landed here */
	uint64_t generation; /* of its flushes at that time */
};

struct target_region {
	uint8_t *memory;
	struct sector *sectors;
	struct chunk *chunks;
	uint64_t *known_zero; /* a bit per page */
	bool there;
};

struct oracle {
	const struct guest *guest;
	struct target_region regions[GUEST_REGIONS_MAX];
	struct connection *connections; /* [number - 1] */
	uint64_t *generations; /* flushes per connection */
	uint16_t connection_count;
	uint32_t known_zero_ppm;
	bool source_running, target_running, committed;
	uint64_t violations, landings;
	char first[256];
};

void oracle_complain(struct oracle *oracle, const char *fmt, ...)
{
	va_list ap;

	if (oracle->violations++ > 0)
		return;
	va_start(ap, fmt);
	vsnprintf(oracle->first, sizeof(oracle->first), fmt, ap);
	va_end(ap);
}

uint64_t oracle_violations(const struct oracle *oracle)
{
	return oracle->violations;
}

const char *oracle_first_violation(const struct oracle *oracle)
{
	return oracle->first;
}

uint64_t oracle_landings(const struct oracle *oracle)
{
	return oracle->landings;
}

/* ---- Creation ---- */

static void region_fill(struct oracle *oracle, struct target_region *target,
	const struct guest_region *region, uint32_t known_zero_ppm)
{
	struct sluice_random random;

	sluice_random_seed(&random, oracle->guest->opts.seed ^ region->len_bytes);
	memset(target->memory, ORACLE_FILL, region->len_bytes);
	for (uint32_t page = 0; page < region->pages; page++) {
		if (!sluice_random_chance(&random, known_zero_ppm))
			continue;
		target->known_zero[page / 64] |= 1ull << (page % 64);
		memset(target->memory + page * SLUICE_PAGE_BYTES, 0, SLUICE_PAGE_BYTES);
	}
}

static bool region_create(struct target_region *target, const struct guest_region *region)
{
	target->memory = aligned_alloc(SLUICE_PAGE_BYTES, region->len_bytes);
	target->sectors =
		calloc((size_t)region->pages * GUEST_PAGE_SECTORS, sizeof(*target->sectors));
	target->chunks = calloc(
		sluice_div_up(region->len_bytes, SLUICE_CHUNK_BYTES), sizeof(*target->chunks));
	target->known_zero = calloc(region->words, sizeof(*target->known_zero));
	return target->memory != NULL && target->sectors != NULL && target->chunks != NULL &&
	       target->known_zero != NULL;
}

struct oracle *oracle_create(const struct guest *guest, uint32_t known_zero_ppm)
{
	struct oracle *oracle = calloc(1, sizeof(*oracle));

	if (oracle == NULL)
		return NULL;
	oracle->guest = guest;
	oracle->known_zero_ppm = known_zero_ppm;
	oracle->source_running = true;
	for (uint32_t i = 0; i < guest->region_count; i++) {
		if (!region_create(&oracle->regions[i], &guest->regions[i])) {
			oracle_destroy(oracle);
			return NULL;
		}
		region_fill(oracle, &oracle->regions[i], &guest->regions[i], known_zero_ppm);
		oracle->regions[i].there = guest->regions[i].plugged;
	}
	return oracle;
}

void oracle_destroy(struct oracle *oracle)
{
	if (oracle == NULL)
		return;
	for (uint32_t i = 0; i < GUEST_REGIONS_MAX; i++) {
		free(oracle->regions[i].memory);
		free(oracle->regions[i].sectors);
		free(oracle->regions[i].chunks);
		free(oracle->regions[i].known_zero);
	}
	for (uint32_t i = 0; i < oracle->connection_count; i++)
		free(oracle->connections[i].pending);
	free(oracle->connections);
	free(oracle->generations);
	free(oracle);
}

void oracle_target_is_stale(struct oracle *oracle, uint32_t r)
{
	memset(oracle->regions[r].known_zero, 0,
		oracle->guest->regions[r].words * sizeof(uint64_t));
}

void oracle_target_has(struct oracle *oracle, uint32_t r, bool has)
{
	struct target_region *target = &oracle->regions[r];
	const struct guest_region *region = &oracle->guest->regions[r];

	if (has && !target->there) {
		oracle_target_is_stale(oracle, r);
		region_fill(oracle, target, region, oracle->known_zero_ppm);
		memset(target->sectors, 0,
			(size_t)region->pages * GUEST_PAGE_SECTORS * sizeof(*target->sectors));
		memset(target->chunks, 0,
			sluice_div_up(region->len_bytes, SLUICE_CHUNK_BYTES) *
				sizeof(*target->chunks));
	}
	target->there = has;
}

uint8_t *oracle_target_memory(struct oracle *oracle, uint32_t region)
{
	return oracle->regions[region].memory;
}

bool oracle_target_page_known_zero(const struct oracle *oracle, uint32_t region, uint32_t page)
{
	return oracle->regions[region].known_zero[page / 64] >> (page % 64) & 1;
}

/* ---- Landings ---- */

static uint16_t connection_number(struct oracle *oracle, uint32_t lane, uint32_t epoch)
{
	uint16_t number = 1;
	struct connection *connections;
	uint64_t *generations;

	for (; number <= oracle->connection_count; number++) {
		const struct connection *known = &oracle->connections[number - 1];

		if (known->lane == lane && known->epoch == epoch)
			return number;
	}
	connections = realloc(oracle->connections, number * sizeof(*connections));
	SLUICE_ASSERT(connections != NULL);
	generations = realloc(oracle->generations, number * sizeof(*generations));
	SLUICE_ASSERT(generations != NULL);
	oracle->connections = connections;
	oracle->generations = generations;
	connections[number - 1] = (struct connection){.lane = lane, .epoch = epoch};
	generations[number - 1] = 0;
	oracle->connection_count = number;
	return number;
}

static void sector_flushed(struct sector *sector, uint16_t number, uint64_t tick)
{
	if (sector->flusher == number) {
		if (tick > sector->flushed)
			sector->flushed = tick;
	} else if (tick > sector->flushed) {
		sector->flushed_other = sector->flushed;
		sector->flushed = tick;
		sector->flusher = number;
	} else if (tick > sector->flushed_other) {
		sector->flushed_other = tick;
	}
}

static void connection_flushed(struct oracle *oracle, uint16_t number)
{
	struct connection *connection = &oracle->connections[number - 1];

	oracle->generations[number - 1]++;
	for (size_t i = 0; i < connection->count; i++) {
		const struct pending *pending = &connection->pending[i];

		sector_flushed(&oracle->regions[pending->region].sectors[pending->sector], number,
			pending->tick);
	}
	connection->count = 0;
}

static void connection_remember(struct connection *connection, const struct pending *pending)
{
	if (connection->count == connection->capacity) {
		size_t capacity = connection->capacity == 0 ? 1024 : 2 * connection->capacity;
		struct pending *more = realloc(connection->pending, capacity * sizeof(*more));

		SLUICE_ASSERT(more != NULL);
		connection->pending = more;
		connection->capacity = capacity;
	}
	connection->pending[connection->count++] = *pending;
}

/*
 * The version that has just landed. Zeroes do not tell theirs: they count as the newest zero
 * content that the guest ever had there, so that this check never cries wolf.
 */
static uint64_t landed_tick(struct oracle *oracle, uint32_t r, uint64_t sector, uint32_t lane)
{
	const struct guest_region *region = &oracle->guest->regions[r];
	uint64_t tick = guest_sector_tick(oracle->regions[r].memory + sector * GUEST_SECTOR_BYTES);

	if (tick == 0)
		return region->cleared[sector];
	/* A store while the NIC reads may tear a sector; it is dirty again then. */
	if (tick == UINT64_MAX)
		return UINT64_MAX;
	if (tick > oracle->guest->tick)
		oracle_complain(oracle,
			"lane %u landed something that the guest never wrote at region %u sector "
			"%" PRIu64,
			lane, r, sector);
	return tick;
}

static void sector_landed(struct oracle *oracle, uint16_t number, uint32_t r, uint64_t index)
{
	struct connection *connection = &oracle->connections[number - 1];
	const struct sector *sector = &oracle->regions[r].sectors[index];
	uint64_t tick = landed_tick(oracle, r, index, connection->lane);
	uint64_t others = sector->flusher == number ? sector->flushed_other : sector->flushed;

	if (tick == UINT64_MAX)
		return;
	if (tick < others)
		oracle_complain(oracle,
			"region %u page %" PRIu64 " went back from version %" PRIu64 " to %" PRIu64
			" by lane %u.%u",
			r, index / GUEST_PAGE_SECTORS, others, tick, connection->lane,
			connection->epoch);
	connection_remember(
		connection, &(struct pending){.region = r, .sector = index, .tick = tick});
}

static void chunk_landed(struct oracle *oracle, uint16_t number, uint32_t r, uint64_t index)
{
	struct chunk *chunk = &oracle->regions[r].chunks[index];

	if (chunk->writer != NOBODY && chunk->writer != number &&
		chunk->generation == oracle->generations[chunk->writer - 1]) {
		const struct connection *old = &oracle->connections[chunk->writer - 1];
		const struct connection *new = &oracle->connections[number - 1];

		oracle_complain(oracle,
			"lane %u.%u landed in region %u chunk %" PRIu64
			" where lane %u.%u has not flushed",
			new->lane, new->epoch, r, index, old->lane, old->epoch);
	}
	chunk->writer = number;
	chunk->generation = oracle->generations[number - 1];
}

static bool landing_place(const struct oracle *oracle, const struct sluice_sim_landing *landing,
	uint32_t *ret_region, uint64_t *ret_offset)
{
	for (uint32_t r = 0; r < oracle->guest->region_count; r++) {
		uintptr_t first = (uintptr_t)oracle->regions[r].memory;
		uint64_t offset = (uintptr_t)landing->addr - first;

		if ((uintptr_t)landing->addr < first ||
			!sluice_range_inside(
				offset, landing->len_bytes, oracle->guest->regions[r].len_bytes))
			continue;
		*ret_region = r;
		*ret_offset = offset;
		return true;
	}
	return false;
}

void oracle_on_landing(void *ctx, const struct sluice_sim_landing *landing)
{
	struct oracle *oracle = ctx;
	uint64_t offset, end;
	uint16_t number;
	uint32_t region;

	if (landing->from != SLUICE_ROLE_SOURCE)
		return;
	number = connection_number(oracle, landing->lane, landing->epoch);
	if (landing->kind == SLUICE_OP_FLUSH) {
		connection_flushed(oracle, number);
		return;
	}
	oracle->landings++;
	if (!landing_place(oracle, landing, &region, &offset)) {
		oracle_complain(oracle, "lane %u landed outside guest memory", landing->lane);
		return;
	}
	if (oracle->committed)
		oracle_complain(
			oracle, "lane %u.%u landed after commit", landing->lane, landing->epoch);
	if (!oracle->regions[region].there)
		oracle_complain(oracle, "lane %u.%u landed in region %u, which was removed",
			landing->lane, landing->epoch, region);
	end = offset + landing->len_bytes;
	for (uint64_t at = sluice_align_down(offset, SLUICE_CHUNK_BYTES); at < end;
		at += SLUICE_CHUNK_BYTES)
		chunk_landed(oracle, number, region, at / SLUICE_CHUNK_BYTES);
	/* A write cut short may end within a sector: that one is torn and waits. */
	for (uint64_t at = offset; at + GUEST_SECTOR_BYTES <= end; at += GUEST_SECTOR_BYTES)
		sector_landed(oracle, number, region, at / GUEST_SECTOR_BYTES);
}

/* ---- Who runs ---- */

void oracle_source_runs(struct oracle *oracle, bool runs)
{
	if (runs && oracle->committed)
		oracle_complain(oracle, "the source runs after commit");
	if (runs && oracle->target_running)
		oracle_complain(oracle, "both sides run");
	oracle->source_running = runs;
}

void oracle_target_runs(struct oracle *oracle)
{
	if (oracle->source_running)
		oracle_complain(oracle, "both sides run");
	if (!oracle->committed)
		oracle_complain(oracle, "the target runs before commit");
	oracle->target_running = true;
}

uint64_t oracle_pages_different(const struct oracle *oracle)
{
	uint64_t different = 0;

	for (uint32_t r = 0; r < oracle->guest->region_count; r++) {
		const struct guest_region *region = &oracle->guest->regions[r];

		if (region->plugged && !oracle->regions[r].there)
			different += region->pages;
		for (uint64_t at = 0; region->plugged && at < region->len_bytes;
			at += SLUICE_PAGE_BYTES)
			different += memcmp(region->memory + at, oracle->regions[r].memory + at,
					     SLUICE_PAGE_BYTES) != 0;
	}
	return different;
}

void oracle_commit(struct oracle *oracle)
{
	uint64_t different = oracle_pages_different(oracle);

	if (oracle->source_running)
		oracle_complain(oracle, "commit while the source runs");
	if (oracle->committed)
		oracle_complain(oracle, "committed twice");
	if (different != 0)
		oracle_complain(oracle, "%" PRIu64 " pages differ at commit", different);
	if (!guest_memory_intact(oracle->guest))
		oracle_complain(oracle, "somebody wrote to the source's memory");
	oracle->committed = true;
}

void oracle_aborted(struct oracle *oracle)
{
	if (oracle->committed)
		oracle_complain(oracle, "aborted after commit");
	if (!oracle->source_running)
		oracle_complain(oracle, "the migration failed and the source does not run");
}
