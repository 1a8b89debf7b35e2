/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * typical.h: how long something takes when little is in its way, from how long it took lately. Of the
 * last nine times the third quickest: lone quick ones are luck, slow ones had to wait. Pure.
 */
#ifndef SLUICE_ENGINE_TYPICAL_H
#define SLUICE_ENGINE_TYPICAL_H

#include <stdint.h>

#define SLUICE_TYPICAL_SAMPLES 9

/* Zeroed before the first. */
struct sluice_typical {
	uint64_t samples[SLUICE_TYPICAL_SAMPLES];
	uint32_t count; /* ever */
};

void sluice_typical_add(struct sluice_typical *typical, uint64_t sample);
/* 0 before the first; of fewer than nine the one as far from the quickest. */
uint64_t sluice_typical_read(const struct sluice_typical *typical);

#endif
