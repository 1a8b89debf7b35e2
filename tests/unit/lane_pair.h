/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * lane_pair.h: the lanes of both ends over real tcp rails, stepped by hand in one thread. The
 * clock that lanes are given is the test's: time passes when the test says so.
 */
#ifndef SLUICE_TESTS_UNIT_LANE_PAIR_H
#define SLUICE_TESTS_UNIT_LANE_PAIR_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/lane/lane_set.h"
#include "engine/lane/ledger.h"

struct lane_pair_opts {
	uint32_t lanes;
	uint64_t memory_bytes;
	uint64_t budget_bytes; /* in flight, all lanes together */
	bool one_sided; /* treat the rail like one that needs no CPU at the target */
	uint64_t extent_bytes; /* 0: as it is unless somebody says another */
	const char *settings; /* of tcp, "name=value name=value"; NULL: the defaults */
	uint64_t flip_at; /* this byte of what lane 0 sends arrives changed; 0: none */
};

struct lane_pair_end {
	struct sluice_rail *rail;
	struct sluice_crew *crew;
	uint8_t *memory;
	int memory_fd;
	struct sluice_mem *mem;
	struct sluice_lane_region region;
	struct sluice_rail_pair way;
	struct sluice_lane_work work;
	struct sluice_lane_set lanes;
	uint32_t lost; /* lanes */
	uint32_t wakes; /* of control, by lanes */
	int lost_status; /* of the last one */
};

/* Between the ends of lane 0, when a byte is to be changed. */
struct lane_pair_relay {
	int listen_fd, in_fd, out_fd; /* -1: none */
	uint64_t flip_at, passed_bytes;
	char target_address[SLUICE_ADDRESS_MAX];
};

struct lane_pair {
	struct lane_pair_relay relay;
	struct lane_pair_end source, target;
	struct sluice_remote *remote;
	uint64_t now_ns;
	int stalled; /* this lane's target end is not stepped; -1: none */
	bool by_crew; /* lanes are stepped as a worker does it, not one after the other */
};

/* Connected lanes; the source's memory is random, the target's 0xa5. Fails the test otherwise. */
void lane_pair_open(struct lane_pair *pair, const struct lane_pair_opts *opts);
void lane_pair_close(struct lane_pair *pair);
/* Step every lane of both ends once. */
void lane_pair_turn(struct lane_pair *pair);
/* Let go of lanes that were lost, as sessions do: closed at the target first, then reclaimed. */
void lane_pair_fence_lost(struct lane_pair *pair);
/* Turns until every dirty chunk is released, time standing still. False: a limit was reached. */
bool lane_pair_drain(struct lane_pair *pair);
bool lane_pair_same(const struct lane_pair *pair); /* memory of both ends */

#endif
