/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * lane_guard_engine.c: sluiced whose workers step guarded lanes. The linker leads crew.c's calls
 * through here (--wrap); the objects are those of the real one.
 *
 * $SLUICE_LANE_GUARD_PLANT=n: the n-th step calls malloc(), so that a test can see the guard bite.
 */
#include <stdatomic.h>
#include <stdlib.h>

#include "engine/lane/lane.h"
#include "tests/support/lane_guard.h"

bool __real_sluice_lane_step(struct sluice_lane *lane, uint64_t now_ns, uint64_t thread_bytes);
bool __wrap_sluice_lane_step(struct sluice_lane *lane, uint64_t now_ns, uint64_t thread_bytes);
bool __real_sluice_lane_arm(struct sluice_lane *lane, struct sluice_arm *ret_arm);
bool __wrap_sluice_lane_arm(struct sluice_lane *lane, struct sluice_arm *ret_arm);

static atomic_long steps;
static long planted;

__attribute__((constructor)) static void read_plant(void)
{
	const char *plant = getenv("SLUICE_LANE_GUARD_PLANT");

	planted = plant != NULL ? strtol(plant, NULL, 10) : 0;
}

bool __wrap_sluice_lane_step(struct sluice_lane *lane, uint64_t now_ns, uint64_t thread_bytes)
{
	bool busy;

	lane_guard_enter();
	if (planted != 0 && atomic_fetch_add(&steps, 1) + 1 == planted) {
		void *volatile addr = malloc(1);

		free(addr);
	}
	busy = __real_sluice_lane_step(lane, now_ns, thread_bytes);
	lane_guard_leave();
	return busy;
}

bool __wrap_sluice_lane_arm(struct sluice_lane *lane, struct sluice_arm *ret_arm)
{
	bool may_sleep;

	lane_guard_enter();
	may_sleep = __real_sluice_lane_arm(lane, ret_arm);
	lane_guard_leave();
	return may_sleep;
}
