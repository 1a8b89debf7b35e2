/* SPDX-License-Identifier: BSD-3-Clause */
/* bits.h: sizes of pages and chunks, and arithmetic on powers of two. Pure. */
#ifndef SLUICE_BASE_BITS_H
#define SLUICE_BASE_BITS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SLUICE_PAGE_SHIFT  12
#define SLUICE_PAGE_BYTES  (1ull << SLUICE_PAGE_SHIFT)
#define SLUICE_CHUNK_SHIFT 21
#define SLUICE_CHUNK_BYTES (1ull << SLUICE_CHUNK_SHIFT)
#define SLUICE_CHUNK_PAGES (SLUICE_CHUNK_BYTES / SLUICE_PAGE_BYTES)
#define SLUICE_WORD_PAGES  64ull
#define SLUICE_CHUNK_WORDS (SLUICE_CHUNK_PAGES / SLUICE_WORD_PAGES)

#define SLUICE_ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))

static inline uint64_t sluice_align_down(uint64_t value, uint64_t power_of_two)
{
	return value & ~(power_of_two - 1);
}

static inline uint64_t sluice_align_up(uint64_t value, uint64_t power_of_two)
{
	return sluice_align_down(value + power_of_two - 1, power_of_two);
}

static inline bool sluice_is_aligned(uint64_t value, uint64_t power_of_two)
{
	return (value & (power_of_two - 1)) == 0;
}

static inline uint64_t sluice_div_up(uint64_t value, uint64_t by)
{
	return value / by + (value % by != 0);
}

/* True when [offset, offset + len) lies inside [0, size). No overflow for any input. */
static inline bool sluice_range_inside(uint64_t offset, uint64_t len, uint64_t size)
{
	return offset <= size && len <= size - offset;
}

#endif
