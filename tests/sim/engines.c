/* SPDX-License-Identifier: BSD-3-Clause */
/* engines.c: one seed, from the world's creation to its end. See engines.h. */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/bits.h"
#include "engine/device/inbox.h"
#include "engine/feeds/bitmap.h"
#include "tests/sim/engines_internal.h"

#define TURNS_MAX    8000000u
#define AFTERMATH_NS (20 * SLUICE_NS_PER_MS)
#define CALM_NS      (30 * SLUICE_NS_PER_MS) /* after the downtime limit was lifted */

static const struct sluice_transport *const sim = &sluice_transport_sim;

uint64_t run_now(const struct run *run)
{
	return sluice_sim_world_now(run->world);
}

uint64_t run_delay(struct run *run, uint64_t max_ns)
{
	return 1 + sluice_random_below(&run->random, max_ns);
}

bool run_chance(struct run *run, uint32_t ppm)
{
	return sluice_random_chance(&run->random, ppm);
}

void run_say(struct run *run, const char *fmt, ...)
{
	va_list ap;

	if (!run->trace)
		return;
	printf("%12" PRIu64 " ", run_now(run));
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	putchar('\n');
}

/* ---- the network's news ---- */

/* The oracle knows guest memory; the rest of the target's memory is the staging region. */
static void on_landing(void *ctx, const struct sluice_sim_landing *landing)
{
	struct run *run = ctx;
	const struct sluice_inbox *inbox = run->engines[TARGET].inbox;
	const struct sluice_target *target = run->engines[TARGET].target;

	if (target != NULL && landing->kind != SLUICE_OP_FLUSH && sluice_target_is_prepared(target))
		oracle_complain(run->oracle, "lane %u.%u landed after prepared", landing->lane,
			landing->epoch);
	if (landing->kind == SLUICE_OP_WRITE && inbox != NULL) {
		uint64_t offset = (uintptr_t)landing->addr - (uintptr_t)inbox->pool;

		if ((uintptr_t)landing->addr >= (uintptr_t)inbox->pool &&
			offset < (uint64_t)inbox->slots * inbox->slot_bytes)
			return; /* what the loaders get is compared byte by byte */
	}
	oracle_on_landing(run->oracle, landing);
}

static void on_trace(void *ctx, const char *line)
{
	(void)ctx;
	puts(line);
}

/* ---- building ---- */

void register_with_all(
	struct run *run, enum host host, uint32_t region, const struct sluice_span *span)
{
	uint32_t access = host == SOURCE ? SLUICE_ACCESS_LOCAL_READ : SLUICE_ACCESS_REMOTE_WRITE;

	for (uint32_t i = 0; i < run->plan.rails[host]; i++)
		SLUICE_ASSERT(sim->mem_register(run->rails[host][i], span, access,
				      &run->mems[host][region][i], NULL) == 0);
}

static void build_memory(struct run *run)
{
	for (uint32_t i = 0; i < run->guest->region_count; i++) {
		struct guest_region *region = &run->guest->regions[i];
		struct sluice_span span = {
			.id = i + 1, .addr = region->memory, .len_bytes = region->len_bytes};

		if (!region->plugged)
			continue;
		register_with_all(run, SOURCE, i, &span);
		span.addr = oracle_target_memory(run->oracle, i);
		register_with_all(run, TARGET, i, &span);
		SLUICE_ASSERT(sluice_bitmap_feed_create_over(
				      region->bitmap, region->pages, &run->feeds[i]) == 0);
		/* What was written before tracking is for the source to find. */
		if (run->plan.clean_start) {
			memset(region->bitmap, 0, region->words * sizeof(*region->bitmap));
			memset(region->log, 0, region->words * sizeof(*region->log));
			memset(region->protected, 0xff, region->words * sizeof(*region->protected));
		}
	}
}

static void build_world(struct run *run)
{
	struct sluice_sim_world_opts opts = run->plan.world;
	struct sluice_sim_conf conf;

	opts.on_landing = on_landing;
	opts.on_trace = run->trace ? on_trace : NULL;
	opts.ctx = run;
	run->world = sluice_sim_world_create(&opts);
	SLUICE_ASSERT(run->world != NULL);
	conf.world = run->world;
	for (int host = 0; host < HOSTS; host++)
		for (uint32_t i = 0; i < run->plan.rails[host]; i++)
			SLUICE_ASSERT(sim->rail_open(&conf, "", &run->rails[host][i], NULL) == 0);
	for (uint32_t i = 0; i < run->plan.rails[TARGET]; i++)
		SLUICE_ASSERT(
			sim->rail_listen(run->rails[TARGET][i], run->addresses[i], NULL) == 0);
	run->guest = guest_create(&run->plan.guest);
	SLUICE_ASSERT(run->guest != NULL);
	run->oracle = oracle_create(run->guest, run->plan.known_zero_ppm);
	SLUICE_ASSERT(run->oracle != NULL);
	build_memory(run);
	plug_begin(run);
}

/* ---- actors ---- */

static uint64_t guest_step(void *ctx, uint64_t now_ns)
{
	struct run *run = ctx;
	uint64_t pace_ns = run->plan.store_ns;

	if (!run->guest->running)
		return SLUICE_NEVER;
	if (run->store_next_ns > now_ns)
		return run->store_next_ns;
	guest_store(run->guest);
	/* Nobody looks, or everybody waits for a time-out: spare the machine that simulates. */
	if (run->vmms[SOURCE].over)
		pace_ns = SLUICE_NS_PER_S / 10;
	else if (now_ns > run->plan.patience_ns + CALM_NS)
		pace_ns *= 50;
	run->store_next_ns = now_ns + pace_ns * 100 / (100 - run->throttle_percent) *
					      sluice_random_between(&run->random, 1, 3) / 2;
	return run->store_next_ns;
}

static uint64_t rail_actor_step(void *ctx, uint64_t now_ns)
{
	struct run *run = ctx;

	for (uint32_t i = 0; i < run->plan.rails[TARGET]; i++)
		sim->rail_step(run->rails[TARGET][i], now_ns);
	return SLUICE_NEVER;
}

static void build_actors(struct run *run)
{
	struct scheduler *scheduler = &run->scheduler;

	scheduler_init(scheduler, run->world, run->seed);
	scheduler_add(scheduler, "guest", guest_step, run, 4);
	scheduler_add(scheduler, "rail", rail_actor_step, run, 1);
	scheduler_add(scheduler, "peer link", links_step, run, 2);
	scheduler_add(scheduler, "chaos", chaos_step, run, 1);
	scheduler_add(scheduler, "operator", operator_step, run, 1);
	scheduler_add(scheduler, "plugs", plug_step, run, 1);
	scheduler_add(scheduler, "homes", engine_homes_step, run, 1);
	for (int host = 0; host < HOSTS; host++) {
		struct engine *engine = &run->engines[host];

		run->vmms[host] = (struct vmm){.run = run, .host = (enum host)host};
		scheduler_add(
			scheduler, host == SOURCE ? "source" : "target", engine_step, engine, 2);
		scheduler_add(
			scheduler, host == SOURCE ? "readers" : "loaders", device_step, engine, 1);
		scheduler_add(scheduler, host == SOURCE ? "source VMM" : "target VMM", vmm_step,
			&run->vmms[host], 2);
		for (uint32_t lane = 0; lane < run->plan.lanes; lane++) {
			struct lane_actor *actor = &run->lane_actors[host][lane];

			*actor = (struct lane_actor){run, (enum host)host, lane};
			scheduler_add(scheduler, host == SOURCE ? "source lane" : "target lane",
				engine_lane_step, actor,
				(uint32_t)sluice_random_between(&run->random, 1, 4));
		}
	}
}

/* ---- the end ---- */

static bool run_done(void *ctx)
{
	const struct run *run = ctx;

	if (oracle_violations(run->oracle) > 0)
		return true;
	return run->vmms[SOURCE].over && !link_any_letters(run) &&
	       (run->vmms[TARGET].over || (!run->session_seen && !run->vmms[TARGET].must_query));
}

static bool aftermath_done(void *ctx)
{
	const struct run *run = ctx;

	return run_now(run) >= run->hash; /* borrowed for the time until the hash is known */
}

/* One side runs the guest; which one is what was decided. */
static void check_end(struct run *run)
{
	uint64_t refused = sluice_sim_world_stats(run->world)->refused;

	if (refused > 0)
		oracle_complain(run->oracle,
			"%llu operations reached for memory that the target does not let them into",
			(unsigned long long)refused);
	if (run->vmms[SOURCE].completed != run->vmms[TARGET].runs)
		oracle_complain(run->oracle, "the source thinks that the target %s, and it %s",
			run->vmms[SOURCE].completed ? "runs" : "does not run",
			run->vmms[TARGET].runs ? "does" : "does not");
	if (!run->vmms[TARGET].runs)
		oracle_aborted(run->oracle);
	if (run->vmms[TARGET].runs && oracle_pages_different(run->oracle) > 0)
		oracle_complain(run->oracle, "the target's memory changed after commit");
}

static void play(struct run *run)
{
	enum scheduler_end end;

	engine_migrate(&run->engines[SOURCE]);
	end = scheduler_run(&run->scheduler, run_done, run, TURNS_MAX);
	if (oracle_violations(run->oracle) > 0)
		return;
	if (end != SCHEDULER_DONE) {
		oracle_complain(run->oracle, "it never ends: source %s, target %s",
			engine_session_status(&run->engines[SOURCE]),
			engine_session_status(&run->engines[TARGET]));
		if (run->trace)
			scheduler_explain(&run->scheduler);
		return;
	}
	/* What is still under way may come now, and must change nothing. */
	run->hash = run_now(run) + AFTERMATH_NS;
	scheduler_run(&run->scheduler, aftermath_done, run, TURNS_MAX);
	check_end(run);
}

static void count(struct run *run)
{
	const struct sluice_sim_stats *world = sluice_sim_world_stats(run->world);
	struct engines_stats *stats = run->stats;

	stats->completed += run->vmms[TARGET].runs;
	stats->cancelled += run->vmms[SOURCE].cancelled;
	stats->failed += !run->vmms[TARGET].runs && !run->vmms[SOURCE].cancelled;
	stats->in_doubt += run->was_in_doubt;
	stats->settled_by_operator += run->operator_decided;
	stats->settled_by_engines += run->was_in_doubt && !run->operator_decided;
	stats->paused += run->was_paused;
	stats->paused_completed += run->was_paused && run->vmms[TARGET].runs;
	stats->paused_failed += run->was_paused && !run->vmms[TARGET].runs;
	stats->paused_by_operator += run->was_paused_by_operator;
	stats->throttled += run->was_throttled;
	stats->lane_deaths += world->deaths;
	stats->late_landings += world->late_landings;
	stats->vanished += world->vanished;
	stats->stores += run->guest->stores;
	stats->turns += run->scheduler.turns;
}

static void unbuild(struct run *run)
{
	for (int host = 0; host < HOSTS; host++)
		engine_clear(&run->engines[host]);
	links_destroy(run);
	plug_end(run);
	for (int host = 0; host < HOSTS; host++) {
		vmm_destroy(&run->vmms[host]);
		for (uint32_t k = 0; k < run->plan.rails[host]; k++) {
			for (uint32_t i = 0; i < run->guest->region_count; i++)
				sim->mem_unregister(run->mems[host][i][k]);
			sim->rail_close(run->rails[host][k]);
		}
	}
	for (uint32_t i = 0; i < run->guest->region_count; i++)
		sluice_bitmap_feed_destroy(run->feeds[i]);
	sluice_sim_world_destroy(run->world);
	oracle_destroy(run->oracle);
	guest_destroy(run->guest);
}

void engines_run(
	uint64_t seed, bool trace, struct engines_stats *stats, struct engines_result *ret_result)
{
	struct run *run = calloc(1, sizeof(*run));

	SLUICE_ASSERT(run != NULL);
	*ret_result = (struct engines_result){0};
	run->seed = seed;
	run->trace = trace;
	run->stats = stats;
	sluice_random_seed(&run->random, seed);
	plan_make(&run->plan, seed);
	build_world(run);
	for (int host = 0; host < HOSTS; host++)
		engine_init(run, (enum host)host);
	build_actors(run);
	play(run);
	count(run);
	ret_result->hash = sluice_sim_world_hash(run->world);
	ret_result->turns = run->scheduler.turns;
	/* The lanes' windows are checked when the engines are cleared. */
	for (int host = 0; host < HOSTS; host++)
		engine_clear(&run->engines[host]);
	snprintf(ret_result->violation, sizeof(ret_result->violation), "%s",
		oracle_first_violation(run->oracle));
	unbuild(run);
	free(run);
}
