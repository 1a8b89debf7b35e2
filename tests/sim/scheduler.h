/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * scheduler.h: who steps next. Actors (engines, VMMs, guests, lanes) are stepped in a random
 * order from one seed, in one thread, while virtual time moves in random small amounts, and
 * to the next thing that happens when nobody is busy.
 *
 * Threading: one thread.
 */
#ifndef SLUICE_TESTS_SIM_SCHEDULER_H
#define SLUICE_TESTS_SIM_SCHEDULER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/random.h"
#include "transports/sim/sim.h"

#define SCHEDULER_ACTORS_MAX 256u

/*
 * One step. Returns when it wants the next one: @now_ns (or less) means at once, there is
 * work left; UINT64_MAX means only when something happens. It may be stepped sooner.
 */
typedef uint64_t scheduler_step_fn(void *ctx, uint64_t now_ns);

struct scheduler_actor {
	const char *name;
	scheduler_step_fn *step;
	void *ctx;
	uint32_t weight;
	uint64_t wants_ns;
};

struct scheduler {
	struct sluice_sim_world *world;
	struct sluice_random random;
	uint64_t creep_ns_max; /* time passes by up to this while somebody is busy */
	struct scheduler_actor actors[SCHEDULER_ACTORS_MAX];
	uint32_t count, weight_total;
	uint64_t turns;
};

enum scheduler_end {
	SCHEDULER_DONE, /* @done said so */
	SCHEDULER_STUCK, /* nobody wants anything and nothing will happen */
	SCHEDULER_TIRED, /* @turns_max are over */
};

void scheduler_init(struct scheduler *scheduler, struct sluice_sim_world *world, uint64_t seed);
/* @weight: how often it is chosen, relative to the others; 1 or more. */
void scheduler_add(struct scheduler *scheduler, const char *name, scheduler_step_fn *step,
	void *ctx, uint32_t weight);
/* Step until @done(@ctx). */
enum scheduler_end scheduler_run(
	struct scheduler *scheduler, bool (*done)(void *ctx), void *ctx, uint64_t turns_max);
/* What everybody waits for, on stderr. */
void scheduler_explain(const struct scheduler *scheduler);

#endif
