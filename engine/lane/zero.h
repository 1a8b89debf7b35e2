/* SPDX-License-Identifier: BSD-3-Clause */
/* zero.h: is a page all zero? Reads at most 4 KiB; pages that are not end early. */
#ifndef SLUICE_ENGINE_LANE_ZERO_H
#define SLUICE_ENGINE_LANE_ZERO_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "base/bits.h"

static inline bool sluice_page_is_zero(const uint8_t *page)
{
	for (uint32_t at = 0; at < SLUICE_PAGE_BYTES; at += 256) {
		uint64_t words[32];
		uint64_t any = 0;

		memcpy(words, page + at, sizeof(words));
		for (uint32_t i = 0; i < SLUICE_ARRAY_LEN(words); i++)
			any |= words[i];
		if (any != 0)
			return false;
	}
	return true;
}

#endif
