/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * rail_pair.h: a rail of ours and one of the peer's: a way between the hosts, and how both ends'
 * memory is reached over it. Each lane goes over one pair at a time; memory is registered once per
 * rail, so the same bytes have another registration and another key over each pair.
 *
 * Built by a session, constant while lanes go over it, freed when they are gone.
 */
#ifndef SLUICE_ENGINE_LANE_RAIL_PAIR_H
#define SLUICE_ENGINE_LANE_RAIL_PAIR_H

#include <sluice/transport.h>

/* Its NIC was removed and is not back. */
static inline bool sluice_rail_is_gone(
	const struct sluice_transport *transport, const struct sluice_rail *rail)
{
	const struct sluice_rail_stats *stats = transport->rail_stats(rail);

	return stats->returns < stats->removals;
}

/* How a pair reaches the memory of one region; index = region index of the ledger. */
struct sluice_lane_region {
	const struct sluice_mem *mem; /* local registration, or NULL */
	const struct sluice_remote *remote; /* the target's region */
};

struct sluice_rail_pair {
	const struct sluice_transport *transport;
	struct sluice_rail *rail; /* ours */
	struct sluice_rail_limits limits; /* of ours */
	uint32_t ours; /* its index in the session's rails */
	uint64_t nodes; /* NUMA nodes near to ours, by number; 0: none is nearer than another */
	/* The rest at a source only: a target's lanes are written to. */
	uint32_t theirs; /* the number of the peer's rail */
	const char *why; /* these two */
	char peer_address[SLUICE_ADDRESS_MAX];
	const struct sluice_lane_region *regions;
	const struct sluice_mem *outbox_mem;
	const struct sluice_remote *staging;
};

#endif
