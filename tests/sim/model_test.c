/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * model_test.c: the parts of a simulated migration do what they say: the guest's dirty log
 * loses nothing, the oracle sees every kind of violation and none where there is none, the
 * scheduler wakes who is to be woken. At the end a whole migration with planted mistakes.
 *
 * SLUICE_SEEDS: how many seeds of the correct migration are run (default 100).
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "tests/sim/oracle.h"
#include "tests/sim/toy.h"
#include "tests/unit/unit.h"

#define PLANT_SEEDS_MAX 500u

static uint64_t seeds_wanted(void)
{
	const char *text = getenv("SLUICE_SEEDS");

	return text != NULL ? strtoull(text, NULL, 0) : 100;
}

/* ---- The guest ---- */

/*
 * Play the engine on one region: take words, copy what is dirty, while the guest stores and
 * the VMM harvests in between. After the stop and the last sync the copy must be exact.
 * Returns how many pages differ.
 */
static uint64_t dirty_log_run(uint64_t seed, bool publish_first)
{
	struct guest_opts opts;
	struct sluice_random random;
	struct guest_region *region;
	struct guest *guest;
	uint64_t different = 0;
	uint8_t *copy;

	guest_opts_defaults(&opts);
	opts.seed = seed;
	opts.region_count = 1;
	opts.region_pages[0] = 300;
	opts.publish_first = publish_first;
	guest = guest_create(&opts);
	CU_ASSERT_PTR_NOT_NULL_FATAL(guest);
	region = &guest->regions[0];
	copy = calloc(1, region->len_bytes);
	CU_ASSERT_PTR_NOT_NULL_FATAL(copy);
	sluice_random_seed(&random, seed);
	for (unsigned int i = 0; i < 6000; i++) {
		uint32_t word = (uint32_t)sluice_random_below(&random, region->words);
		uint64_t bits = 0;

		if (i == 5000)
			guest->running = false;
		if (i >= 5990) { /* the last sync, and all words once more */
			while (guest_sync_step(guest))
				;
			guest_sync_start(guest);
			while (guest_sync_step(guest))
				;
			word = i - 5990;
			bits = word < region->words ? guest_bitmap_exchange(region, word) : 0;
		} else if (guest->running && sluice_random_chance(&random, 400000)) {
			guest_store(guest);
		} else if (sluice_random_chance(&random, 700000)) {
			if (!guest_sync_step(guest))
				guest_sync_start(guest);
		} else {
			bits = guest_bitmap_exchange(region, word);
		}
		for (; bits != 0; bits &= bits - 1) {
			uint64_t at =
				(word * 64 + (uint64_t)__builtin_ctzll(bits)) * SLUICE_PAGE_BYTES;

			memcpy(copy + at, region->memory + at, SLUICE_PAGE_BYTES);
		}
	}
	for (uint64_t at = 0; at < region->len_bytes; at += SLUICE_PAGE_BYTES)
		different += memcmp(copy + at, region->memory + at, SLUICE_PAGE_BYTES) != 0;
	CU_ASSERT_TRUE(guest_memory_intact(guest));
	region->memory[5000] ^= 1;
	CU_ASSERT_FALSE(guest_memory_intact(guest));
	free(copy);
	guest_destroy(guest);
	return different;
}

static void test_dirty_log_loses_nothing(void)
{
	uint64_t wrong = 0;

	for (uint64_t seed = 1; seed <= 50; seed++) {
		CU_ASSERT_EQUAL(dirty_log_run(seed, false), 0);
		wrong += dirty_log_run(seed, true) != 0;
	}
	CU_ASSERT(wrong > 10); /* the wrong order is really wrong here */
}

static void test_sectors_tell_their_version(void)
{
	struct guest_opts opts;
	struct guest *guest;
	uint8_t *page;

	guest_opts_defaults(&opts);
	guest = guest_create(&opts);
	CU_ASSERT_PTR_NOT_NULL_FATAL(guest);
	page = guest->regions[1].memory + 3 * SLUICE_PAGE_BYTES;
	guest_store_sectors(guest, 1, 3, 0x02);
	CU_ASSERT_EQUAL(guest_sector_tick(page + GUEST_SECTOR_BYTES), guest->tick);
	CU_ASSERT_NOT_EQUAL(guest_sector_tick(page), guest->tick);
	page[GUEST_SECTOR_BYTES + 9]++;
	CU_ASSERT_EQUAL(guest_sector_tick(page + GUEST_SECTOR_BYTES), UINT64_MAX);
	guest_clear_page(guest, 1, 3);
	CU_ASSERT_EQUAL(guest_sector_tick(page + GUEST_SECTOR_BYTES), 0);
	CU_ASSERT_TRUE(guest_memory_intact(guest));
	guest_destroy(guest);
}

/* ---- The oracle, with landings made by hand ---- */

struct stage {
	struct guest *guest;
	struct oracle *oracle;
};

static struct stage stage_open(void)
{
	struct guest_opts opts;
	struct stage stage;

	guest_opts_defaults(&opts);
	opts.untouched_ppm = 0;
	stage.guest = guest_create(&opts);
	CU_ASSERT_PTR_NOT_NULL_FATAL(stage.guest);
	stage.oracle = oracle_create(stage.guest, 0);
	CU_ASSERT_PTR_NOT_NULL_FATAL(stage.oracle);
	return stage;
}

/* Close, and check the number of violations; @words: part of the first one. */
static void stage_close(struct stage *stage, uint64_t violations, const char *words)
{
	CU_ASSERT_EQUAL(oracle_violations(stage->oracle), violations);
	CU_ASSERT_PTR_NOT_NULL(strstr(oracle_first_violation(stage->oracle), words));
	oracle_destroy(stage->oracle);
	guest_destroy(stage->guest);
}

/* @lane lands the bytes of a page of region 0 as @content says. */
static void stage_land(struct stage *stage, uint32_t lane, uint32_t page, const uint8_t *content)
{
	uint8_t *addr = oracle_target_memory(stage->oracle, 0) + page * SLUICE_PAGE_BYTES;

	memcpy(addr, content, SLUICE_PAGE_BYTES);
	oracle_on_landing(stage->oracle, &(struct sluice_sim_landing){
						 .kind = SLUICE_OP_WRITE,
						 .from = SLUICE_ROLE_SOURCE,
						 .lane = lane,
						 .epoch = 1,
						 .len_bytes = SLUICE_PAGE_BYTES,
						 .addr = addr,
					 });
}

static void stage_land_now(struct stage *stage, uint32_t lane, uint32_t page)
{
	stage_land(stage, lane, page, stage->guest->regions[0].memory + page * SLUICE_PAGE_BYTES);
}

static void stage_flush(struct stage *stage, uint32_t lane)
{
	oracle_on_landing(stage->oracle, &(struct sluice_sim_landing){
						 .kind = SLUICE_OP_FLUSH,
						 .from = SLUICE_ROLE_SOURCE,
						 .lane = lane,
						 .epoch = 1,
					 });
}

static void test_oracle_ownership(void)
{
	struct stage stage = stage_open();

	stage_land_now(&stage, 0, 1);
	stage_land_now(&stage, 0, 1);
	stage_flush(&stage, 0);
	stage_land_now(&stage, 1, 2); /* the same chunk, behind a flush */
	stage_land_now(&stage, 0, SLUICE_CHUNK_PAGES);
	CU_ASSERT_EQUAL(oracle_violations(stage.oracle), 0);
	stage_flush(&stage, 0); /* not the owner's */
	stage_land_now(&stage, 0, 1);
	stage_close(&stage, 1, "has not flushed");
}

static void test_oracle_backwards(void)
{
	struct stage stage = stage_open();
	uint8_t old[SLUICE_PAGE_BYTES];

	memcpy(old, stage.guest->regions[0].memory + SLUICE_PAGE_BYTES, sizeof(old));
	guest_store_sectors(stage.guest, 0, 1, 0x10);
	stage_land_now(&stage, 0, 1);
	stage_land(&stage, 0, 1, old); /* a lane by itself may, until it flushes */
	stage_land_now(&stage, 0, 1);
	stage_flush(&stage, 0);
	CU_ASSERT_EQUAL(oracle_violations(stage.oracle), 0);
	stage_land(&stage, 1, 1, old);
	stage_close(&stage, 1, "went back");
}

static void test_oracle_zero_is_no_step_back(void)
{
	struct stage stage = stage_open();
	uint8_t zeroes[SLUICE_PAGE_BYTES] = {0};

	stage_land_now(&stage, 0, 1);
	stage_flush(&stage, 0);
	guest_clear_page(stage.guest, 0, 1);
	stage_land(&stage, 1, 1, zeroes);
	stage_flush(&stage, 1);
	CU_ASSERT_EQUAL(oracle_violations(stage.oracle), 0);
	guest_store_sectors(stage.guest, 0, 2, 0xff);
	stage_land_now(&stage, 0, 2);
	stage_flush(&stage, 0);
	stage_land(&stage, 1, 2, zeroes); /* this page was never clear */
	stage_close(&stage, GUEST_PAGE_SECTORS, "went back");
}

static void test_oracle_foreign_content(void)
{
	struct stage stage = stage_open();
	uint8_t foreign[SLUICE_PAGE_BYTES];

	memset(foreign, 0x77, sizeof(foreign));
	stage_land(&stage, 0, 1, foreign);
	stage_close(&stage, GUEST_PAGE_SECTORS, "never wrote");
}

static void stage_copy_all(struct stage *stage)
{
	for (uint32_t r = 0; r < stage->guest->region_count; r++)
		memcpy(oracle_target_memory(stage->oracle, r), stage->guest->regions[r].memory,
			stage->guest->regions[r].len_bytes);
}

static void test_oracle_commit(void)
{
	struct stage stage = stage_open();

	stage_copy_all(&stage);
	oracle_target_memory(stage.oracle, 1)[70 * SLUICE_PAGE_BYTES - 1] ^= 1;
	oracle_source_runs(stage.oracle, false);
	oracle_commit(stage.oracle);
	stage_close(&stage, 1, "1 pages differ");

	stage = stage_open();
	stage_copy_all(&stage);
	oracle_source_runs(stage.oracle, false);
	oracle_commit(stage.oracle);
	oracle_target_runs(stage.oracle);
	CU_ASSERT_EQUAL(oracle_violations(stage.oracle), 0);
	stage_land_now(&stage, 0, 1);
	stage_close(&stage, 1, "after commit");
}

static void test_oracle_who_runs(void)
{
	struct stage stage = stage_open();

	oracle_aborted(stage.oracle); /* it runs: fine */
	oracle_source_runs(stage.oracle, false);
	oracle_source_runs(stage.oracle, true);
	CU_ASSERT_EQUAL(oracle_violations(stage.oracle), 0);
	oracle_target_runs(stage.oracle); /* both run, and it is before commit */
	stage_close(&stage, 2, "both sides run");

	stage = stage_open();
	stage_copy_all(&stage);
	oracle_source_runs(stage.oracle, false);
	oracle_aborted(stage.oracle);
	CU_ASSERT_EQUAL(oracle_violations(stage.oracle), 1);
	oracle_commit(stage.oracle);
	oracle_source_runs(stage.oracle, true);
	stage_close(&stage, 2, "does not run");
}

/* ---- The scheduler ---- */

struct counter {
	uint64_t steps, wants_ns, period_ns, last_ns;
};

static uint64_t counter_step(void *ctx, uint64_t now_ns)
{
	struct counter *counter = ctx;

	counter->steps++;
	counter->last_ns = now_ns;
	if (counter->period_ns != 0 && now_ns >= counter->wants_ns)
		counter->wants_ns = now_ns + counter->period_ns;
	return counter->wants_ns;
}

static bool counter_at_1s(void *ctx)
{
	const struct counter *counter = ctx;

	return counter->last_ns >= SLUICE_NS_PER_S;
}

static void test_scheduler(void)
{
	struct sluice_sim_world_opts opts;
	struct counter sleeper = {.wants_ns = SLUICE_NEVER};
	struct counter clock = {.period_ns = 100 * SLUICE_NS_PER_MS};
	struct counter busy = {0};
	struct sluice_sim_world *world;
	struct scheduler scheduler;

	sluice_sim_world_defaults(&opts);
	world = sluice_sim_world_create(&opts);
	scheduler_init(&scheduler, world, 1);
	scheduler_add(&scheduler, "sleeper", counter_step, &sleeper, 1);
	CU_ASSERT_EQUAL(scheduler_run(&scheduler, counter_at_1s, &sleeper, 1000), SCHEDULER_STUCK);
	CU_ASSERT_EQUAL(sluice_sim_world_now(world), 0);
	scheduler_add(&scheduler, "clock", counter_step, &clock, 1);
	CU_ASSERT_EQUAL(scheduler_run(&scheduler, counter_at_1s, &clock, 1000), SCHEDULER_DONE);
	CU_ASSERT_EQUAL(sluice_sim_world_now(world), SLUICE_NS_PER_S); /* it woke in time */
	/* Somebody busy: time creeps, and everybody gets turns by weight. */
	sleeper = (struct counter){.wants_ns = SLUICE_NEVER};
	scheduler_add(&scheduler, "busy", counter_step, &busy, 3);
	CU_ASSERT_EQUAL(scheduler_run(&scheduler, counter_at_1s, &(struct counter){0}, 10000),
		SCHEDULER_TIRED);
	CU_ASSERT(busy.steps > 5000);
	CU_ASSERT(sleeper.steps > 1000);
	sluice_sim_world_destroy(world);
}

/* ---- All of it ---- */

static void test_correct_migration(void)
{
	uint64_t seeds = seeds_wanted();
	struct sluice_sim_stats sum = {0};

	for (uint64_t seed = 1; seed <= seeds; seed++) {
		struct toy_result result;
		struct toy_opts opts;

		toy_opts_random(&opts, seed);
		toy_run(&opts, &result);
		if (result.violations != 0)
			fprintf(stderr, "\n    seed %" PRIu64 ": %s", seed, result.first);
		CU_ASSERT_EQUAL(result.violations, 0);
		sum.deaths += result.stats.deaths;
		sum.late_landings += result.stats.late_landings;
		sum.forced_visible += result.stats.forced_visible;
		sum.torn_reads += result.stats.torn_reads;
	}
	printf("%" PRIu64 " seeds, %" PRIu64 " deaths, %" PRIu64 " late landings ... ", seeds,
		sum.deaths, sum.late_landings);
	CU_ASSERT(sum.deaths > seeds);
	CU_ASSERT(sum.late_landings > seeds / 2);
	CU_ASSERT(sum.forced_visible > seeds);
	CU_ASSERT(sum.torn_reads > seeds);
}

static void test_replay(void)
{
	for (uint64_t seed = 1; seed <= 5; seed++) {
		struct toy_result first, second;
		struct toy_opts opts;

		toy_opts_random(&opts, seed);
		toy_run(&opts, &first);
		toy_run(&opts, &second);
		CU_ASSERT_EQUAL(first.hash, second.hash);
		CU_ASSERT_EQUAL(first.turns, second.turns);
	}
}

static void find_plant(const char *name, uint32_t plants, bool publish_first)
{
	struct toy_result result = {0};
	uint64_t seed = 0;

	while (result.violations == 0 && seed++ < PLANT_SEEDS_MAX) {
		struct toy_opts opts;

		toy_opts_random(&opts, seed);
		opts.plants = plants;
		opts.guest.publish_first = publish_first;
		toy_run(&opts, &result);
	}
	CU_ASSERT_NOT_EQUAL(result.violations, 0);
	printf("\n    %s: seed %" PRIu64 ": %s", name, seed, result.first);
}

static void test_planted_mistakes_are_found(void)
{
	find_plant("release without flush", TOY_RELEASE_WITHOUT_FLUSH, false);
	find_plant("clear after read", TOY_CLEAR_AFTER_READ, false);
	find_plant("zero on a guess", TOY_ZERO_ON_A_GUESS, false);
	find_plant("no fence", TOY_NO_FENCE, false);
	find_plant("write behind zero", TOY_WRITE_BEHIND_ZERO, false);
	find_plant("no last sync", TOY_NO_LAST_SYNC, false);
	find_plant("lost pages forgotten", TOY_FORGETS_LOST, false);
	find_plant("runs early", TOY_RUNS_EARLY, false);
	find_plant("published before protected", 0, true);
	printf("\n    ");
}

int main(void)
{
	static const struct unit_test tests[] = {
		{"sectors tell their version", test_sectors_tell_their_version},
		{"the dirty log loses nothing", test_dirty_log_loses_nothing},
		{"oracle: ownership", test_oracle_ownership},
		{"oracle: no page goes back", test_oracle_backwards},
		{"oracle: zeroes are no step back", test_oracle_zero_is_no_step_back},
		{"oracle: foreign content", test_oracle_foreign_content},
		{"oracle: commit", test_oracle_commit},
		{"oracle: who runs", test_oracle_who_runs},
		{"scheduler", test_scheduler},
		{"replay", test_replay},
		{"a correct migration", test_correct_migration},
		{"planted mistakes are found", test_planted_mistakes_are_found},
		{0},
	};

	return unit_run("model", tests);
}
