/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * toy.h: the smallest correct migration over the transport contract, to test the simulation
 * with: the oracle must find nothing in it, and must find each mistake that can be planted
 * in it. It shares no code with the engine; its shortcuts (a peer link that is a function
 * call with a delay, decisions without policy) are no models for anything.
 *
 * Threading: one thread.
 */
#ifndef SLUICE_TESTS_SIM_TOY_H
#define SLUICE_TESTS_SIM_TOY_H

#include <stdbool.h>
#include <stdint.h>

#include "tests/sim/guest.h"
#include "tests/sim/scheduler.h"
#include "transports/sim/sim.h"

enum toy_plant {
	TOY_RELEASE_WITHOUT_FLUSH = 1 << 0, /* a chunk is free when its writes are PLACED */
	TOY_CLEAR_AFTER_READ = 1 << 1, /* dirty bits are cleared when the pages are PLACED */
	TOY_ZERO_ON_A_GUESS = 1 << 2, /* zero pages are skipped whatever the target has */
	TOY_NO_FENCE = 1 << 3, /* a lost lane's chunk is free at once */
	TOY_WRITE_BEHIND_ZERO = 1 << 4, /* WRITEs do not wait for the ZEROs before them */
	TOY_NO_LAST_SYNC = 1 << 5, /* nobody asks the VMM once more after the stop */
	TOY_FORGETS_LOST = 1 << 6, /* what a lost lane had not flushed stays clean */
	TOY_RUNS_EARLY = 1 << 7, /* the target runs when it is prepared */
};

struct toy_opts {
	uint64_t seed; /* of everything that the others do not set */
	uint32_t lanes;
	uint32_t plants; /* enum toy_plant */
	struct guest_opts guest;
	struct sluice_sim_world_opts world; /* on_landing and ctx are overwritten */
};

struct toy_result {
	enum scheduler_end end;
	uint64_t violations;
	char first[256]; /* the first violation, or why it did not end */
	uint64_t hash; /* of the world */
	uint64_t stores, syncs, turns, elapsed_ns;
	struct sluice_sim_stats stats;
};

/* A plausible network and guest for @seed, with loss, stalls, and deaths. */
void toy_opts_random(struct toy_opts *ret_opts, uint64_t seed);
/* One migration from start to commit. */
void toy_run(const struct toy_opts *opts, struct toy_result *ret_result);

#endif
