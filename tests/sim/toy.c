/* SPDX-License-Identifier: BSD-3-Clause */
/* toy.c: see toy.h. Broken expectations of the toy itself are assertions. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "tests/sim/oracle.h"
#include "tests/sim/toy.h"

#define LANES_MAX    8u
#define CHUNKS_MAX   16u
#define EXTENT_PAGES 4u
#define TURNS_MAX    2000000u
#define NO_CHUNK     UINT32_MAX

enum owner { OWNER_NONE = -1, OWNER_FENCE = -2 };

enum phase { PHASE_PRECOPY, PHASE_LAST_SYNC, PHASE_DRAIN, PHASE_DONE };

struct toy_chunk {
	uint32_t region, first_page, pages;
	int owner; /* lane, or enum owner */
	uint64_t dirty[SLUICE_CHUNK_WORDS];
	uint64_t nonzero[SLUICE_CHUNK_WORDS]; /* maybe, at the target */
};

struct toy_lane {
	struct toy *toy;
	uint32_t index, epoch;
	struct sluice_conn *source, *target;
	bool up, lost;
	uint64_t fence_ns; /* lost: when the target hears of it */
	uint32_t chunk;
	uint64_t sent[SLUICE_CHUNK_WORDS]; /* pages since the last FLUSH */
	uint64_t seq, placed, zero_seq, flush_seq;
};

struct toy {
	struct toy_opts opts;
	struct sluice_random random;
	struct sluice_sim_world *world;
	struct guest *guest;
	struct oracle *oracle;
	struct scheduler scheduler;
	struct sluice_rail *source_rail, *target_rail;
	char address[SLUICE_ADDRESS_MAX];
	struct sluice_mem *source_mem[GUEST_REGIONS_MAX], *target_mem[GUEST_REGIONS_MAX];
	struct sluice_remote *remote[GUEST_REGIONS_MAX];
	struct toy_chunk chunks[CHUNKS_MAX];
	uint32_t chunk_count;
	struct toy_lane lanes[LANES_MAX];
	enum phase phase;
	uint64_t stop_ns; /* end of pre-copy */
	uint64_t next_store_ns, next_sync_ns;
};

static const struct sluice_transport *const sim = &sluice_transport_sim;

static bool planted(const struct toy *toy, enum toy_plant plant)
{
	return (toy->opts.plants & plant) != 0;
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

static bool chunk_dirty(const struct toy_chunk *chunk)
{
	for (uint32_t word = 0; word < SLUICE_CHUNK_WORDS; word++) {
		if (chunk->dirty[word] != 0)
			return true;
	}
	return false;
}

static uint64_t draw(struct toy *toy, uint64_t min, uint64_t max)
{
	return sluice_random_between(&toy->random, min, max);
}

/* ---- The VMM and the feed ---- */

static uint64_t guest_step(void *ctx, uint64_t now_ns)
{
	struct toy *toy = ctx;

	if (!toy->guest->running)
		return SLUICE_NEVER;
	if (now_ns >= toy->next_store_ns) {
		guest_store(toy->guest);
		toy->next_store_ns = now_ns + draw(toy, 0, 4 * SLUICE_NS_PER_US);
	}
	return toy->next_store_ns;
}

static uint64_t vmm_step(void *ctx, uint64_t now_ns)
{
	struct toy *toy = ctx;

	if (guest_sync_step(toy->guest))
		return now_ns;
	if (toy->phase != PHASE_PRECOPY)
		return SLUICE_NEVER;
	if (now_ns >= toy->next_sync_ns) {
		guest_sync_start(toy->guest);
		toy->next_sync_ns = now_ns + draw(toy, 0, 300 * SLUICE_NS_PER_US);
	}
	return toy->next_sync_ns;
}

static void harvest_word(struct toy *toy, struct toy_chunk *chunk, uint32_t word)
{
	struct guest_region *region = &toy->guest->regions[chunk->region];
	uint32_t index = chunk->first_page / 64 + word;

	if (word * 64 >= chunk->pages)
		return;
	if (planted(toy, TOY_CLEAR_AFTER_READ))
		chunk->dirty[word] |= region->bitmap[index];
	else
		chunk->dirty[word] |= guest_bitmap_exchange(region, index);
}

static void harvest_all(struct toy *toy)
{
	for (uint32_t i = 0; i < toy->chunk_count; i++) {
		for (uint32_t word = 0; word < SLUICE_CHUNK_WORDS; word++)
			harvest_word(toy, &toy->chunks[i], word);
	}
}

static uint64_t harvest_step(void *ctx, uint64_t now_ns)
{
	struct toy *toy = ctx;

	if (toy->phase != PHASE_PRECOPY)
		return SLUICE_NEVER;
	harvest_word(toy, &toy->chunks[draw(toy, 0, toy->chunk_count - 1)],
		(uint32_t)draw(toy, 0, SLUICE_CHUNK_WORDS - 1));
	return now_ns + draw(toy, 1, 2 * SLUICE_NS_PER_US);
}

/* ---- A lane of the source ---- */

static void lane_open(struct toy_lane *lane)
{
	struct toy *toy = lane->toy;
	struct sluice_lane_opts opts = {
		.role = SLUICE_ROLE_TARGET,
		.lane = lane->index,
		.epoch = ++lane->epoch,
		.deadline_ns = SLUICE_NEVER,
	};

	memset(&opts.ticket, (int)draw(toy, 0, 255), sizeof(opts.ticket));
	SLUICE_ASSERT(sim->lane_open(toy->target_rail, &opts, &lane->target, NULL) == 0);
	opts.role = SLUICE_ROLE_SOURCE;
	opts.peer_address = toy->address;
	SLUICE_ASSERT(sim->lane_open(toy->source_rail, &opts, &lane->source, NULL) == 0);
	lane->up = lane->lost = false;
	lane->chunk = NO_CHUNK;
	lane->seq = lane->placed = lane->zero_seq = lane->flush_seq = 0;
}

static void lane_release(struct toy_lane *lane)
{
	lane->toy->chunks[lane->chunk].owner = OWNER_NONE;
	lane->chunk = NO_CHUNK;
	lane->flush_seq = 0;
	memset(lane->sent, 0, sizeof(lane->sent));
}

static void lane_lose(struct toy_lane *lane, uint64_t now_ns)
{
	struct toy *toy = lane->toy;

	lane->lost = true;
	lane->up = false;
	lane->fence_ns = now_ns + draw(toy, 0, 4 * SLUICE_NS_PER_MS);
	sim->lane_close(lane->source);
	lane->source = NULL;
	if (lane->chunk == NO_CHUNK)
		return;
	for (uint32_t word = 0; word < SLUICE_CHUNK_WORDS; word++) {
		if (!planted(toy, TOY_FORGETS_LOST))
			toy->chunks[lane->chunk].dirty[word] |= lane->sent[word];
	}
	toy->chunks[lane->chunk].owner = planted(toy, TOY_NO_FENCE) ? OWNER_NONE : OWNER_FENCE;
	memset(lane->sent, 0, sizeof(lane->sent));
}

/* The peer link, in short: the target fences, says so, and the lane is opened again. */
static void lane_fenced(struct toy_lane *lane)
{
	sim->lane_fence(lane->target);
	sim->lane_close(lane->target);
	lane->target = NULL;
	if (lane->chunk != NO_CHUNK && lane->toy->chunks[lane->chunk].owner == OWNER_FENCE)
		lane->toy->chunks[lane->chunk].owner = OWNER_NONE;
	lane_open(lane);
}

static void lane_placed(struct toy_lane *lane, uint64_t seq)
{
	struct toy *toy = lane->toy;

	lane->placed = seq;
	if (!planted(toy, TOY_CLEAR_AFTER_READ) || lane->chunk == NO_CHUNK || seq < lane->seq)
		return;
	for (uint32_t word = 0; word < SLUICE_CHUNK_WORDS; word++) {
		const struct toy_chunk *chunk = &toy->chunks[lane->chunk];

		if (lane->sent[word] != 0)
			toy->guest->regions[chunk->region].bitmap[chunk->first_page / 64 + word] &=
				~lane->sent[word];
	}
}

static void lane_poll(struct toy_lane *lane, uint64_t now_ns)
{
	struct sluice_event events[4];
	uint32_t count = sim->poll(lane->source, events, 4, now_ns);

	for (uint32_t i = 0; i < count; i++) {
		switch (events[i].kind) {
		case SLUICE_EVENT_CONNECTED:
			lane->up = true;
			break;
		case SLUICE_EVENT_PLACED:
			lane_placed(lane, events[i].seq);
			break;
		case SLUICE_EVENT_FLUSHED:
			lane_placed(lane, events[i].seq);
			SLUICE_ASSERT(events[i].seq == lane->flush_seq);
			lane_release(lane);
			break;
		case SLUICE_EVENT_LOST:
			lane_lose(lane, now_ns);
			return;
		}
	}
}

static bool submit(struct toy_lane *lane, struct sluice_op *op, uint64_t now_ns)
{
	op->seq = lane->seq + 1;
	if (sim->submit(lane->source, op, 1, now_ns) == 0)
		return false;
	lane->seq++;
	return true;
}

static bool page_zero(const struct toy *toy, const struct toy_chunk *chunk, uint32_t page)
{
	const uint8_t *bytes = toy->guest->regions[chunk->region].memory +
			       (chunk->first_page + page) * SLUICE_PAGE_BYTES;

	return bytes[0] == 0 && memcmp(bytes, bytes + 1, SLUICE_PAGE_BYTES - 1) == 0;
}

/* A zero page: skipped where the target has zeroes already. False: try again later. */
static bool push_zero(
	struct toy_lane *lane, struct toy_chunk *chunk, uint32_t page, uint64_t now_ns)
{
	struct sluice_op op = {
		.kind = SLUICE_OP_ZERO,
		.len_bytes = SLUICE_PAGE_BYTES,
		.remote = lane->toy->remote[chunk->region],
		.remote_offset = (chunk->first_page + page) * SLUICE_PAGE_BYTES,
	};

	if (!bit_test(chunk->nonzero, page) || planted(lane->toy, TOY_ZERO_ON_A_GUESS))
		return true;
	if (!submit(lane, &op, now_ns))
		return false;
	lane->zero_seq = lane->seq;
	bit_set(lane->sent, page);
	return true;
}

static bool push_write(struct toy_lane *lane, struct toy_chunk *chunk, uint32_t page,
	uint32_t pages, uint64_t now_ns)
{
	const struct toy *toy = lane->toy;
	uint64_t offset = (chunk->first_page + page) * SLUICE_PAGE_BYTES;
	struct sluice_op op = {
		.kind = SLUICE_OP_WRITE,
		.len_bytes = (uint32_t)(pages * SLUICE_PAGE_BYTES),
		.local = toy->guest->regions[chunk->region].memory + offset,
		.mem = toy->source_mem[chunk->region],
		.remote = toy->remote[chunk->region],
		.remote_offset = offset,
	};

	if (lane->zero_seq > lane->placed && !planted(toy, TOY_WRITE_BEHIND_ZERO))
		return false;
	if (!submit(lane, &op, now_ns))
		return false;
	for (uint32_t i = page; i < page + pages; i++) {
		bit_set(lane->sent, i);
		bit_set(chunk->nonzero, i);
	}
	return true;
}

/* The next run of dirty pages. The bits are cleared before the content is looked at. */
static bool push(struct toy_lane *lane, struct toy_chunk *chunk, uint64_t now_ns)
{
	uint32_t page = 0, pages = 0;
	bool pushed;

	while (!bit_test(chunk->dirty, page))
		page++;
	while (pages < EXTENT_PAGES && page + pages < chunk->pages &&
		bit_test(chunk->dirty, page + pages)) {
		bit_clear(chunk->dirty, page + pages);
		if (page_zero(lane->toy, chunk, page + pages)) {
			if (pages > 0)
				bit_set(chunk->dirty, page + pages);
			break;
		}
		pages++;
	}
	if (pages == 0)
		pushed = push_zero(lane, chunk, page, now_ns);
	else
		pushed = push_write(lane, chunk, page, pages, now_ns);
	for (uint32_t i = page; !pushed && i < page + (pages == 0 ? 1 : pages); i++)
		bit_set(chunk->dirty, i);
	return pushed;
}

static bool lane_take_chunk(struct toy_lane *lane)
{
	struct toy *toy = lane->toy;
	uint32_t first = (uint32_t)draw(toy, 0, toy->chunk_count - 1);

	for (uint32_t i = 0; i < toy->chunk_count; i++) {
		uint32_t index = (first + i) % toy->chunk_count;
		struct toy_chunk *chunk = &toy->chunks[index];

		if (chunk->owner != OWNER_NONE || !chunk_dirty(chunk))
			continue;
		chunk->owner = (int)lane->index;
		lane->chunk = index;
		return true;
	}
	return false;
}

/* Returns whether there is more to do at once. */
static bool lane_work(struct toy_lane *lane, uint64_t now_ns)
{
	struct sluice_op flush = {.kind = SLUICE_OP_FLUSH};
	struct toy_chunk *chunk;

	if (lane->chunk == NO_CHUNK && !lane_take_chunk(lane))
		return false;
	chunk = &lane->toy->chunks[lane->chunk];
	if (lane->flush_seq != 0)
		return false;
	if (chunk_dirty(chunk) && draw(lane->toy, 0, 63) != 0) /* or stop half-way */
		return push(lane, chunk, now_ns);
	if (planted(lane->toy, TOY_RELEASE_WITHOUT_FLUSH)) {
		if (lane->placed < lane->seq)
			return false;
		lane_release(lane);
		return true;
	}
	if (submit(lane, &flush, now_ns))
		lane->flush_seq = lane->seq;
	return false;
}

static uint64_t lane_step(void *ctx, uint64_t now_ns)
{
	struct toy_lane *lane = ctx;
	struct sluice_arm arm;

	if (lane->toy->phase == PHASE_DONE)
		return SLUICE_NEVER;
	if (lane->lost) {
		if (now_ns >= lane->fence_ns)
			lane_fenced(lane);
		return lane->lost ? lane->fence_ns : now_ns;
	}
	lane_poll(lane, now_ns);
	if (lane->lost || (lane->up && lane_work(lane, now_ns)))
		return now_ns;
	return sim->arm(lane->source, &arm) ? arm.deadline_ns : now_ns;
}

/* ---- The target, and the control of both ---- */

static uint64_t target_step(void *ctx, uint64_t now_ns)
{
	struct toy_lane *lane = ctx;
	struct sluice_event events[4];
	struct sluice_arm arm;

	sim->rail_step(lane->toy->target_rail, now_ns);
	if (lane->target == NULL)
		return SLUICE_NEVER;
	sim->poll(lane->target, events, 4, now_ns);
	return sim->arm(lane->target, &arm) ? arm.deadline_ns : now_ns;
}

static bool drained(const struct toy *toy)
{
	for (uint32_t i = 0; i < toy->chunk_count; i++) {
		if (toy->chunks[i].owner != OWNER_NONE || chunk_dirty(&toy->chunks[i]))
			return false;
	}
	return true;
}

static void lanes_close(struct toy *toy)
{
	for (uint32_t i = 0; i < toy->opts.lanes; i++) {
		sim->lane_close(toy->lanes[i].target);
		sim->lane_close(toy->lanes[i].source);
		toy->lanes[i].target = toy->lanes[i].source = NULL;
	}
}

static void switch_over(struct toy *toy)
{
	lanes_close(toy);
	if (planted(toy, TOY_RUNS_EARLY))
		oracle_target_runs(toy->oracle);
	oracle_commit(toy->oracle);
	oracle_target_runs(toy->oracle);
	toy->phase = PHASE_DONE;
}

static uint64_t control_step(void *ctx, uint64_t now_ns)
{
	struct toy *toy = ctx;

	switch (toy->phase) {
	case PHASE_PRECOPY:
		if (now_ns < toy->stop_ns)
			return toy->stop_ns;
		if (toy->guest->syncing)
			return SLUICE_NEVER;
		toy->guest->running = false;
		oracle_source_runs(toy->oracle, false);
		if (!planted(toy, TOY_NO_LAST_SYNC))
			guest_sync_start(toy->guest);
		toy->phase = PHASE_LAST_SYNC;
		return now_ns;
	case PHASE_LAST_SYNC:
		if (toy->guest->syncing)
			return SLUICE_NEVER;
		harvest_all(toy);
		toy->phase = PHASE_DRAIN;
		return now_ns;
	case PHASE_DRAIN:
		if (drained(toy))
			switch_over(toy);
		return SLUICE_NEVER;
	case PHASE_DONE:
		break;
	}
	return SLUICE_NEVER;
}

/* ---- Start and end ---- */

static void memory_share(struct toy *toy, uint32_t r)
{
	struct guest_region *region = &toy->guest->regions[r];
	uint8_t key[SLUICE_KEY_BYTES_MAX];
	int bytes;

	SLUICE_ASSERT(sim->mem_register(toy->source_rail,
			      &(struct sluice_span){r, region->memory, region->len_bytes},
			      SLUICE_ACCESS_LOCAL_READ, &toy->source_mem[r], NULL) == 0);
	SLUICE_ASSERT(sim->mem_register(toy->target_rail,
			      &(struct sluice_span){
				      r, oracle_target_memory(toy->oracle, r), region->len_bytes},
			      SLUICE_ACCESS_REMOTE_WRITE, &toy->target_mem[r], NULL) == 0);
	sim->mem_admit(toy->target_mem[r], true);
	bytes = sim->mem_export(toy->target_mem[r], key, sizeof(key));
	SLUICE_ASSERT(
		sim->mem_import(toy->source_rail, key, (size_t)bytes, &toy->remote[r], NULL) == 0);
}

static void chunks_make(struct toy *toy, uint32_t r)
{
	uint32_t pages = toy->guest->regions[r].pages;

	for (uint32_t first = 0; first < pages; first += SLUICE_CHUNK_PAGES) {
		struct toy_chunk *chunk = &toy->chunks[toy->chunk_count++];

		SLUICE_ASSERT(toy->chunk_count <= CHUNKS_MAX);
		chunk->region = r;
		chunk->first_page = first;
		chunk->pages = pages - first < SLUICE_CHUNK_PAGES ? pages - first
								  : (uint32_t)SLUICE_CHUNK_PAGES;
		chunk->owner = OWNER_NONE;
		for (uint32_t page = 0; page < chunk->pages; page++) {
			if (!oracle_target_page_known_zero(toy->oracle, r, first + page))
				bit_set(chunk->nonzero, page);
		}
	}
}

static void actors_add(struct toy *toy)
{
	static const char *const source_names[LANES_MAX] = {
		"lane 0", "lane 1", "lane 2", "lane 3", "lane 4", "lane 5", "lane 6", "lane 7"};

	scheduler_init(&toy->scheduler, toy->world, toy->opts.seed + 1);
	scheduler_add(&toy->scheduler, "guest", guest_step, toy, 4);
	scheduler_add(&toy->scheduler, "vmm", vmm_step, toy, 4);
	scheduler_add(&toy->scheduler, "harvest", harvest_step, toy, 4);
	scheduler_add(&toy->scheduler, "control", control_step, toy, 1);
	for (uint32_t i = 0; i < toy->opts.lanes; i++) {
		struct toy_lane *lane = &toy->lanes[i];

		lane->toy = toy;
		lane->index = i;
		lane_open(lane);
		scheduler_add(&toy->scheduler, source_names[i], lane_step, lane, 4);
		scheduler_add(&toy->scheduler, "target lane", target_step, lane, 2);
	}
}

static struct toy *toy_create(const struct toy_opts *opts)
{
	struct toy *toy = calloc(1, sizeof(*toy));
	struct sluice_sim_conf conf;

	SLUICE_ASSERT(toy != NULL);
	SLUICE_ASSERT(opts->lanes >= 1);
	SLUICE_ASSERT(opts->lanes <= LANES_MAX);
	toy->opts = *opts;
	sluice_random_seed(&toy->random, opts->seed);
	toy->guest = guest_create(&opts->guest);
	SLUICE_ASSERT(toy->guest != NULL);
	toy->oracle = oracle_create(toy->guest, 200000);
	SLUICE_ASSERT(toy->oracle != NULL);
	toy->opts.world.on_landing = oracle_on_landing;
	toy->opts.world.ctx = toy->oracle;
	toy->world = sluice_sim_world_create(&toy->opts.world);
	SLUICE_ASSERT(toy->world != NULL);
	conf.world = toy->world;
	SLUICE_ASSERT(sim->rail_open(&conf, "", &toy->source_rail, NULL) == 0);
	SLUICE_ASSERT(sim->rail_open(&conf, "", &toy->target_rail, NULL) == 0);
	SLUICE_ASSERT(sim->rail_listen(toy->target_rail, toy->address, NULL) == 0);
	for (uint32_t r = 0; r < toy->guest->region_count; r++) {
		memory_share(toy, r);
		chunks_make(toy, r);
	}
	toy->stop_ns = draw(toy, SLUICE_NS_PER_MS / 4, 3 * SLUICE_NS_PER_MS);
	actors_add(toy);
	return toy;
}

static void toy_destroy(struct toy *toy)
{
	lanes_close(toy);
	for (uint32_t r = 0; r < toy->guest->region_count; r++) {
		sim->mem_forget(toy->remote[r]);
		sim->mem_unregister(toy->source_mem[r]);
		sim->mem_unregister(toy->target_mem[r]);
	}
	sim->rail_close(toy->source_rail);
	sim->rail_close(toy->target_rail);
	sluice_sim_world_destroy(toy->world);
	oracle_destroy(toy->oracle);
	guest_destroy(toy->guest);
	free(toy);
}

static bool toy_done(void *ctx)
{
	const struct toy *toy = ctx;

	return toy->phase == PHASE_DONE;
}

void toy_opts_random(struct toy_opts *ret_opts, uint64_t seed)
{
	struct sluice_random random;

	sluice_random_seed(&random, seed);
	*ret_opts = (struct toy_opts){.seed = seed};
	ret_opts->lanes = (uint32_t)sluice_random_between(&random, 1, 4);
	guest_opts_defaults(&ret_opts->guest);
	ret_opts->guest.seed = sluice_random_u64(&random);
	sluice_sim_world_defaults(&ret_opts->world);
	ret_opts->world.seed = sluice_random_u64(&random);
	ret_opts->world.op_bytes_max = (uint32_t)(EXTENT_PAGES * SLUICE_PAGE_BYTES);
	ret_opts->world.loss_ppm = (uint32_t)sluice_random_below(&random, 50000);
	ret_opts->world.stall_ppm = (uint32_t)sluice_random_below(&random, 50000);
	ret_opts->world.death_ppm = (uint32_t)sluice_random_below(&random, 4000);
}

void toy_run(const struct toy_opts *opts, struct toy_result *ret_result)
{
	struct toy *toy = toy_create(opts);

	*ret_result = (struct toy_result){0};
	ret_result->end = scheduler_run(&toy->scheduler, toy_done, toy, TURNS_MAX);
	if (ret_result->end != SCHEDULER_DONE)
		oracle_complain(toy->oracle, "the migration never ended");
	ret_result->violations = oracle_violations(toy->oracle);
	snprintf(ret_result->first, sizeof(ret_result->first), "%s",
		oracle_first_violation(toy->oracle));
	ret_result->hash = sluice_sim_world_hash(toy->world);
	ret_result->stores = toy->guest->stores;
	ret_result->syncs = toy->guest->syncs;
	ret_result->turns = toy->scheduler.turns;
	ret_result->elapsed_ns = sluice_sim_world_now(toy->world);
	ret_result->stats = *sluice_sim_world_stats(toy->world);
	toy_destroy(toy);
}
