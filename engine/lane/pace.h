/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * pace.h: the bandwidth limit that the lanes of a session share: a token bucket in one word.
 *
 * The word is the moment up to which everything that was let go is paid for. A lane may send while
 * that moment is not in the future, and what it sends moves the moment on. All lanes draw on the
 * same word, so one lane alone gets the whole rate, and the share of an idle lane is not lost. What
 * was not used is kept for SLUICE_PACE_BURST_NS, which makes up for sleeping a little too long.
 *
 * A lane may overdraw by one extent, as it learns the size only when it has built it; the debt is
 * paid before anything else is sent, so the rate holds over any longer time.
 *
 * Threads: open and charge are for lanes, set for the control thread; all of it is lock-free and
 * reads no clock.
 */
#ifndef SLUICE_ENGINE_LANE_PACE_H
#define SLUICE_ENGINE_LANE_PACE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/clock.h"

#define SLUICE_PACE_BURST_NS (10 * SLUICE_NS_PER_MS)
#define SLUICE_PACE_NAP_NS   (1 * SLUICE_NS_PER_MS) /* a lane that must wait sends for so long then */

struct sluice_pace {
	uint64_t bytes_per_s; /* atomic; 0: no limit */
	uint64_t paid_ns; /* atomic */
};

static inline void sluice_pace_set(struct sluice_pace *pace, uint64_t bytes_per_s)
{
	/* What is owed at the old rate is forgiven: a limit that is raised takes effect at once. */
	__atomic_store_n(&pace->paid_ns, 0, __ATOMIC_RELAXED);
	__atomic_store_n(&pace->bytes_per_s, bytes_per_s, __ATOMIC_RELEASE);
}

/* May something be sent now? If not, *ret_again_ns is when to ask again. */
static inline bool sluice_pace_open(
	const struct sluice_pace *pace, uint64_t now_ns, uint64_t *ret_again_ns)
{
	uint64_t paid_ns;

	if (__atomic_load_n(&pace->bytes_per_s, __ATOMIC_ACQUIRE) == 0)
		return true;
	paid_ns = __atomic_load_n(&pace->paid_ns, __ATOMIC_RELAXED);
	if (paid_ns <= now_ns)
		return true;
	*ret_again_ns = paid_ns + SLUICE_PACE_NAP_NS;
	return false;
}

static inline void sluice_pace_charge(struct sluice_pace *pace, uint64_t bytes, uint64_t now_ns)
{
	uint64_t rate = __atomic_load_n(&pace->bytes_per_s, __ATOMIC_ACQUIRE);
	uint64_t paid_ns = __atomic_load_n(&pace->paid_ns, __ATOMIC_RELAXED);
	uint64_t floor_ns = now_ns > SLUICE_PACE_BURST_NS ? now_ns - SLUICE_PACE_BURST_NS : 0;
	uint64_t next_ns;

	if (rate == 0)
		return;
	do {
		next_ns = (paid_ns > floor_ns ? paid_ns : floor_ns) +
			  bytes * SLUICE_NS_PER_S / rate; /* an extent: far below 2^34 bytes */
	} while (!__atomic_compare_exchange_n(
		&pace->paid_ns, &paid_ns, next_ns, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
}

#endif
