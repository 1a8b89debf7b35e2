/* SPDX-License-Identifier: BSD-3-Clause */
/* typical.c: see typical.h. */
#include "engine/policy/typical.h"

void sluice_typical_add(struct sluice_typical *typical, uint64_t sample)
{
	typical->samples[typical->count++ % SLUICE_TYPICAL_SAMPLES] = sample;
}

uint64_t sluice_typical_read(const struct sluice_typical *typical)
{
	uint64_t sorted[SLUICE_TYPICAL_SAMPLES];
	uint32_t count =
		typical->count < SLUICE_TYPICAL_SAMPLES ? typical->count : SLUICE_TYPICAL_SAMPLES;

	for (uint32_t i = 0; i < count; i++) {
		uint32_t at = i;

		for (; at > 0 && sorted[at - 1] > typical->samples[i]; at--)
			sorted[at] = sorted[at - 1];
		sorted[at] = typical->samples[i];
	}
	return count == 0 ? 0 : sorted[(count - 1) / 4];
}
