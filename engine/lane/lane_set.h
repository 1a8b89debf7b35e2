/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * lane_set.h: the lanes of one session at one end: opening, losing, fencing, closing, and their
 * sums. Lanes are numbered from 0; each connection of a lane has the next epoch.
 *
 *   CLOSED -> (OPENING, source) -> CONNECTING -> ACTIVE -> FENCING -> CLOSED
 *
 * Threads: the control thread.
 */
#ifndef SLUICE_ENGINE_LANE_SET_H
#define SLUICE_ENGINE_LANE_SET_H

#include <stdbool.h>
#include <stdint.h>

#include <sluice/error.h>
#include <sluice/transport.h>

#include "engine/lane/counters.h"
#include "engine/lane/lane.h"

struct sluice_crew;

#define SLUICE_LANES_MAX      128
#define SLUICE_LANE_WHY_BYTES 320

enum sluice_lane_standing {
	SLUICE_LANE_CLOSED = 0,
	SLUICE_LANE_OPENING, /* source: the peer was asked for a ticket */
	SLUICE_LANE_CONNECTING,
	SLUICE_LANE_ACTIVE,
	SLUICE_LANE_FENCING, /* lost; its chunks wait for the peer's fence */
};

struct sluice_lane_slot {
	enum sluice_lane_standing standing;
	struct sluice_lane *lane; /* NULL when CLOSED or OPENING, but see fence_all(); at a source
				     when FENCING, too */
	uint32_t epoch; /* of the current or last connection; 0: none yet */
	bool astray; /* target: of what this connection had placed, some may not have landed */
	uint32_t pair; /* that it goes over, or went */
	uint32_t losses, reopened, moved; /* moved: source: to another pair of rails */
	char why_lost
		[SLUICE_LANE_WHY_BYTES]; /* its last connection that was; "": the transport has no more to say */
	uint32_t worker; /* while held: who stepped it */
	/* Source: when to open it again, and how long the last wait was; see source_lanes.c. */
	uint64_t retry_ns, pause_ns, stood_since_ns;
	uint32_t tries; /* since it last stood for a while */
	uint64_t completed, progress_ns; /* what it had completed when it last made progress */
	struct sluice_lane_counters past; /* of connections that are gone */
	struct sluice_conn_stats past_conn;
};

struct sluice_lane_set {
	const struct sluice_rail_pair *pairs; /* the session's */
	uint32_t pair_count;
	struct sluice_crew *crew;
	struct sluice_lane_work *work;
	enum sluice_role role;
	uint64_t window_bytes; /* per lane */
	uint64_t extent_bytes; /* as in sluice_lane_conf */
	uint32_t count;
	struct sluice_lane_slot slots[SLUICE_LANES_MAX];
};

/* Open the next connection of a lane that is CLOSED, over a pair of rails, and give it to the
   crew. */
int sluice_lane_set_open(struct sluice_lane_set *set, uint32_t lane, uint32_t pair,
	const struct sluice_ticket *ticket, uint64_t deadline_ns, struct sluice_error *err);
/* Source: the lane was lost, or is given up. It is stepped no more, what was not placed is dirty
   again, and its connection is closed at once: until the target's fence is heard of, which may take as
   long as a pause, it would keep a NIC from being taken back and discarded memory from being freed.
   Its chunks stay its own until sluice_ledger_reclaim(). */
void sluice_lane_set_lost(struct sluice_lane_set *set, uint32_t lane);
/* Fence (at a target, which notes in `astray` whether that said all) and free the connection, if there
   is one; its counters are kept. */
void sluice_lane_set_close(struct sluice_lane_set *set, uint32_t lane);
void sluice_lane_set_close_all(struct sluice_lane_set *set);
/* Target: nothing of any lane lands any more, and no lane is opened again. What they hold is freed by
   close_all(): with many lanes that takes milliseconds, for which a stopped guest need not wait. */
void sluice_lane_set_fence_all(struct sluice_lane_set *set);

/*
 * Source: no lane is stepped from hold until go_on, nothing is lost. For what lanes read without a
 * lock and control must change. Waits for the steps that run: a fraction of a millisecond.
 */
void sluice_lane_set_hold(struct sluice_lane_set *set);
void sluice_lane_set_go_on(struct sluice_lane_set *set);

uint32_t sluice_lane_set_standing(
	const struct sluice_lane_set *set, enum sluice_lane_standing standing);
/* Bytes that lanes have taken and not placed: dirty still, though no longer in the ledger. */
uint64_t sluice_lane_set_backlog_bytes(const struct sluice_lane_set *set);
/* Payload in flight of all lanes. For who steps them itself, without a worker. */
uint64_t sluice_lane_set_inflight_bytes(const struct sluice_lane_set *set);
/* Past and present connections of one lane together. */
void sluice_lane_set_counters(const struct sluice_lane_set *set, uint32_t lane,
	struct sluice_lane_counters *ret_counters);
void sluice_lane_set_conn_stats(
	const struct sluice_lane_set *set, uint32_t lane, struct sluice_conn_stats *ret_stats);
/* Lanes of one pair in a standing. */
uint32_t sluice_lane_set_standing_over(
	const struct sluice_lane_set *set, uint32_t pair, enum sluice_lane_standing standing);
/* All lanes; peaks are added too: that bounds what was in flight at once. */
void sluice_lane_set_sum(
	const struct sluice_lane_set *set, struct sluice_lane_counters *ret_counters);

#endif
