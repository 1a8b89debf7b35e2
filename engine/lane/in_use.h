/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * in_use.h: for how long at least one lane of a session had operations in flight: what was placed
 * over this time is what the wire does while it is used. Lanes come and go on their own workers;
 * nobody waits. Who begins just while the last other one ends may find the time before counted, too.
 */
#ifndef SLUICE_ENGINE_LANE_IN_USE_H
#define SLUICE_ENGINE_LANE_IN_USE_H

#include <stdint.h>

struct sluice_in_use { /* zeroed at first; all atomic */
	uint32_t users;
	uint64_t since_ns; /* while there are users: when the first of them came */
	uint64_t total_ns; /* of the times that are over */
};

static inline void sluice_in_use_begin(struct sluice_in_use *use, uint64_t now_ns)
{
	if (__atomic_fetch_add(&use->users, 1, __ATOMIC_ACQ_REL) == 0)
		__atomic_store_n(&use->since_ns, now_ns, __ATOMIC_RELEASE);
}

/* `since_ns` is read while we still count: only who comes when nobody is there writes it. */
static inline void sluice_in_use_end(struct sluice_in_use *use, uint64_t now_ns)
{
	uint64_t since_ns = __atomic_load_n(&use->since_ns, __ATOMIC_ACQUIRE);

	if (__atomic_fetch_sub(&use->users, 1, __ATOMIC_ACQ_REL) == 1 && now_ns > since_ns)
		__atomic_fetch_add(&use->total_ns, now_ns - since_ns, __ATOMIC_RELAXED);
}

#endif
