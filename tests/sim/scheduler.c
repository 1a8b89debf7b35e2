/* SPDX-License-Identifier: BSD-3-Clause */
/* scheduler.c: see scheduler.h. */
#include <inttypes.h>
#include <stdio.h>

#include "base/assert.h"
#include "base/clock.h"
#include "tests/sim/scheduler.h"

void scheduler_init(struct scheduler *scheduler, struct sluice_sim_world *world, uint64_t seed)
{
	*scheduler = (struct scheduler){.world = world, .creep_ns_max = SLUICE_NS_PER_US};
	sluice_random_seed(&scheduler->random, seed);
}

void scheduler_add(struct scheduler *scheduler, const char *name, scheduler_step_fn *step,
	void *ctx, uint32_t weight)
{
	SLUICE_ASSERT(scheduler->count < SCHEDULER_ACTORS_MAX);
	SLUICE_ASSERT(weight > 0);
	scheduler->actors[scheduler->count++] =
		(struct scheduler_actor){.name = name, .step = step, .ctx = ctx, .weight = weight};
	scheduler->weight_total += weight;
}

static struct scheduler_actor *choose(struct scheduler *scheduler)
{
	uint64_t ticket = sluice_random_below(&scheduler->random, scheduler->weight_total);
	struct scheduler_actor *actor = scheduler->actors;

	for (; ticket >= actor->weight; actor++)
		ticket -= actor->weight;
	return actor;
}

/* Returns whether it is busy. */
static bool step(struct scheduler *scheduler, struct scheduler_actor *actor)
{
	uint64_t now_ns = sluice_sim_world_now(scheduler->world);

	actor->wants_ns = actor->step(actor->ctx, now_ns);
	scheduler->turns++;
	return actor->wants_ns <= now_ns;
}

/* Everybody once: is there really nobody with something to do now? */
static bool anybody_busy(struct scheduler *scheduler)
{
	for (uint32_t i = 0; i < scheduler->count; i++) {
		if (step(scheduler, &scheduler->actors[i]))
			return true;
	}
	return false;
}

static uint64_t next_ns(const struct scheduler *scheduler)
{
	uint64_t next = sluice_sim_world_next_ns(scheduler->world);

	for (uint32_t i = 0; i < scheduler->count; i++) {
		if (scheduler->actors[i].wants_ns < next)
			next = scheduler->actors[i].wants_ns;
	}
	return next;
}

static void creep(struct scheduler *scheduler)
{
	uint64_t by_ns =
		sluice_random_below(&scheduler->random, 4) == 0
			? sluice_random_below(&scheduler->random, scheduler->creep_ns_max + 1)
			: 0;

	sluice_sim_world_advance(scheduler->world, sluice_sim_world_now(scheduler->world) + by_ns);
}

enum scheduler_end scheduler_run(
	struct scheduler *scheduler, bool (*done)(void *ctx), void *ctx, uint64_t turns_max)
{
	uint64_t last_turn = scheduler->turns + turns_max;
	uint32_t idle_streak = 0;

	while (!done(ctx)) {
		if (scheduler->turns >= last_turn)
			return SCHEDULER_TIRED;
		if (step(scheduler, choose(scheduler))) {
			idle_streak = 0;
			creep(scheduler);
			continue;
		}
		if (++idle_streak < scheduler->count)
			continue;
		idle_streak = 0;
		/* A message between two actors may have come after the first one's step. */
		if (anybody_busy(scheduler) || anybody_busy(scheduler) || done(ctx))
			continue;
		if (next_ns(scheduler) == SLUICE_NEVER)
			return SCHEDULER_STUCK;
		sluice_sim_world_advance(scheduler->world, next_ns(scheduler));
	}
	return SCHEDULER_DONE;
}

void scheduler_explain(const struct scheduler *scheduler)
{
	uint64_t now_ns = sluice_sim_world_now(scheduler->world);

	fprintf(stderr, "after %" PRIu64 " turns at %" PRIu64 " ns; the world's next event: ",
		scheduler->turns, now_ns);
	fprintf(stderr, "%" PRIu64 "\n", sluice_sim_world_next_ns(scheduler->world));
	for (uint32_t i = 0; i < scheduler->count; i++) {
		const struct scheduler_actor *actor = &scheduler->actors[i];

		fprintf(stderr, "  %-16s ", actor->name);
		if (actor->wants_ns == SLUICE_NEVER)
			fprintf(stderr, "waits\n");
		else
			fprintf(stderr, "wants a step at %" PRIu64 "\n", actor->wants_ns);
	}
}
