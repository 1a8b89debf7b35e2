/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * homes.h: on which node each chunk of guest memory is. One page per chunk is looked at, a few
 * hundred chunks at a time, by the control thread; holes are passed over, for there is nothing yet
 * that could be anywhere, and looked at again in the next round.
 *
 * A page has to be in this process's page tables for the kernel to tell. A page that holds data is
 * read for that; a hole is never, since that would allocate it. Of a hugetlb file, which does not
 * tell its holes, only what is mapped already is known: what lanes have read.
 *
 * Threads: the control thread.
 */
#ifndef SLUICE_ENGINE_PLACEMENT_HOMES_H
#define SLUICE_ENGINE_PLACEMENT_HOMES_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/memory/region.h"
#include "engine/placement/plan.h"

struct sluice_ledger;

#define SLUICE_HOMES_STEP_CHUNKS 256 /* 512 MiB of guest: some 0.6 ms when nothing is mapped yet */

struct sluice_homes {
	const struct sluice_memory *memory; /* whose regions may come and go */
	const struct sluice_topology *topology;
	const struct sluice_plan *plan;
	struct sluice_ledger *ledger;
	uint32_t region; /* of the ledger: where this round has come to */
	uint32_t chunk; /* within the region */
	uint64_t found; /* chunks whose node is known, ever */
};

/* Look at the next chunks that have no home; false: the round is over, another may begin. */
bool sluice_homes_step(struct sluice_homes *homes);
/* Bytes of guest memory by node (index of @topology), from some chunks of each region. */
void sluice_homes_survey(const struct sluice_memory *memory, const struct sluice_topology *topology,
	uint64_t ret_bytes[SLUICE_NODES_MAX]);

#endif
