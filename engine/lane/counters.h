/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * counters.h: what a lane counts. A counter stands here once; JSON output, the sums over lanes
 * and the test that none is missed come from this list.
 *
 * Written by the lane's worker with relaxed atomics, read by anyone.
 */
#ifndef SLUICE_ENGINE_LANE_COUNTERS_H
#define SLUICE_ENGINE_LANE_COUNTERS_H

#include <stdint.h>

/* X(name, help) */
#define SLUICE_LANE_COUNTERS(X)                                                                    \
	X(bytes_placed, "payload bytes that reached the target's memory")                          \
	X(bytes_resent, "payload bytes given up with a lost lane, to be sent again")               \
	X(pages_given_up, "pages that a lost lane had in hand and not placed")                     \
	X(chunks_astray, "chunks of a lost lane sent again as a whole: the target's NIC had died") \
	X(pages_sent, "pages written with their content")                                          \
	X(pages_zero, "pages found zero: not sent, or zeroed at the target")                       \
	X(pages_zeroed, "of these, pages the target was told to zero")                             \
	X(extents, "WRITE and ZERO operations of guest memory")                                    \
	X(chunks, "times a chunk was taken")                                                       \
	X(chunks_stolen, "of these, whose memory is on another node than the lane's worker")       \
	X(flushes, "FLUSH operations completed")                                                   \
	X(segments, "device segments sent")                                                        \
	X(window_waits, "times the window ran out")                                                \
	X(pace_waits, "times the bandwidth limit held it back")                                    \
	X(inflight_bytes_peak, "most payload bytes in flight at once")                             \
	X(busy_ns, "time in steps that did something")                                             \
	X(idle_ns, "time in steps that found nothing to do, and asleep")

struct sluice_lane_counters {
#define X(name, help) uint64_t name;
	SLUICE_LANE_COUNTERS(X)
#undef X
};

#define SLUICE_COUNT_ADD(counter, value)                                                      \
	__atomic_store_n(&(counter), __atomic_load_n(&(counter), __ATOMIC_RELAXED) + (value), \
		__ATOMIC_RELAXED)
#define SLUICE_COUNT_MAX(counter, value)                                        \
	do {                                                                    \
		uint64_t value_ = (value);                                      \
		if (value_ > __atomic_load_n(&(counter), __ATOMIC_RELAXED))     \
			__atomic_store_n(&(counter), value_, __ATOMIC_RELAXED); \
	} while (0)
#define SLUICE_COUNT_READ(counter) __atomic_load_n(&(counter), __ATOMIC_RELAXED)

#endif
