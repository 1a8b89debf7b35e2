/* SPDX-License-Identifier: BSD-3-Clause */
/* clock.h: the one clock. Nanoseconds of CLOCK_MONOTONIC; UINT64_MAX means never. */
#ifndef SLUICE_BASE_CLOCK_H
#define SLUICE_BASE_CLOCK_H

#include <stdint.h>
#include <time.h>

#define SLUICE_NS_PER_US 1000ull
#define SLUICE_NS_PER_MS 1000000ull
#define SLUICE_NS_PER_S  1000000000ull
#define SLUICE_NEVER     UINT64_MAX

static inline uint64_t sluice_clock_read(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return (uint64_t)t.tv_sec * SLUICE_NS_PER_S + (uint64_t)t.tv_nsec;
}

static inline uint64_t sluice_now_ns(void)
{
	return sluice_clock_read(CLOCK_MONOTONIC);
}

#endif
