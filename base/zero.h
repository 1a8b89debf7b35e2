/* SPDX-License-Identifier: BSD-3-Clause */
/* zero.h: is a page all zero, and making memory so. Reads at most a page; one that is not ends early.
   Any thread. */
#ifndef SLUICE_BASE_ZERO_H
#define SLUICE_BASE_ZERO_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "base/bits.h"

static inline bool sluice_bytes_are_zero(const uint8_t *bytes, uint32_t count)
{
	uint64_t any = 0;

	for (uint32_t at = 0; at < count; at += 64) {
		uint64_t words[8];

		memcpy(words, bytes + at, sizeof(words));
		for (uint32_t i = 0; i < SLUICE_ARRAY_LEN(words); i++)
			any |= words[i];
	}
	return any == 0;
}

#if defined(__x86_64__)
/* The same over a whole page, at the speed of memory: the loop above is slower than that. */
__attribute__((target("avx2"))) static inline bool sluice_page_is_zero_avx2(const uint8_t *page)
{
	const __m256i *at = (const __m256i *)(const void *)page;
	const __m256i *end = at + SLUICE_PAGE_BYTES / sizeof(*at);

	for (; at < end; at += 8) {
		__m256i low = (at[0] | at[1]) | (at[2] | at[3]);
		__m256i high = (at[4] | at[5]) | (at[6] | at[7]);

		if (!_mm256_testz_si256(low | high, low | high))
			return false;
	}
	return true;
}
#endif

static inline bool sluice_page_is_zero(const uint8_t *page)
{
	/* Nearly every page that is not zero says so in its first cache line. */
	if (!sluice_bytes_are_zero(page, 64))
		return false;
#if defined(__x86_64__)
	if (__builtin_cpu_supports("avx2"))
		return sluice_page_is_zero_avx2(page);
#endif
	for (uint32_t at = 0; at < SLUICE_PAGE_BYTES; at += 512)
		if (!sluice_bytes_are_zero(page + at, 512))
			return false;
	return true;
}

/*
 * Make @bytes at @addr zero. What is zero already, as a fresh target's memory, is only read: storing
 * costs about twice the memory traffic. Of memory that is not aligned to pages the ends are stored.
 */
static inline void sluice_make_zero(uint8_t *addr, uint64_t bytes)
{
	uint64_t head = -(uintptr_t)addr % SLUICE_PAGE_BYTES;

	if (head > bytes)
		head = bytes;
	memset(addr, 0, head);
	addr += head;
	bytes -= head;
	for (; bytes >= SLUICE_PAGE_BYTES; bytes -= SLUICE_PAGE_BYTES, addr += SLUICE_PAGE_BYTES)
		if (!sluice_page_is_zero(addr))
			memset(addr, 0, SLUICE_PAGE_BYTES);
	memset(addr, 0, bytes);
}

#endif
