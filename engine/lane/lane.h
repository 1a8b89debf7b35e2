/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * lane.h: one connection, one window, one step function.
 *
 * A source lane takes device segments first and dirty chunks second, cuts them into operations,
 * and keeps them in a ring until the transport reports them placed. A target lane only carries
 * messages to the control thread; its transport stores the data.
 *
 *   ring:  [head .. sent)  in flight        bytes count against the window
 *          [sent .. tail)  built, not yet taken by the transport
 *
 *   a chunk's tenure:  pop -> take bits -> WRITEs -> ZEROs -> held -> FLUSH completes -> release
 *
 * Within one tenure the WRITEs come before the ZEROs and no page is in both; the next tenure
 * starts behind a FLUSH, hence behind the ZEROs' replies. So no WRITE to a chunk is ever posted
 * while a ZERO to it is not placed.
 *
 * Threads: create, destroy and abandon are for control while no worker steps the lane; step is
 * for one worker (or the test's scheduler). step never sleeps, locks, allocates, logs or fails:
 * news for control goes through the mailbox and the wake function.
 */
#ifndef SLUICE_ENGINE_LANE_LANE_H
#define SLUICE_ENGINE_LANE_LANE_H

#include <stdbool.h>
#include <stdint.h>

#include <sluice/transport.h>

#include "engine/lane/counters.h"
#include "engine/lane/in_use.h"
#include "engine/lane/mailbox.h"
#include "engine/lane/pace.h"
#include "engine/lane/rail_pair.h"

struct sluice_ledger;
struct sluice_outbox;

/* Limits of a lane, in one place. */
#define SLUICE_LANE_DEPTH_MAX    1024 /* ring entries; power of two */
#define SLUICE_LANE_HELD_MAX     256 /* chunks waiting for a FLUSH; power of two */
#define SLUICE_LANE_BATCH_OPS    64 /* given to the transport at once */
#define SLUICE_LANE_BATCH_EVENTS 32
#define SLUICE_LANE_FLUSH_CHUNKS 16 /* a FLUSH is posted behind so many finished chunks */
#define SLUICE_LANE_STEP_PAGES   2048 /* looked at in one step, so that steps stay short */
#define SLUICE_LANE_ZERO_RUN_MIN 16 /* fewer are written where the rail is one-sided */
#define SLUICE_LANE_EXTENT_BYTES (256u << 10) /* longest WRITE unless the conf says another */

/* Shared by the lanes of a session, constant while they run. NULL fields at a target. */
struct sluice_lane_work {
	struct sluice_ledger *ledger;
	struct sluice_outbox *outbox;
	/* Tell the control thread to look at mailboxes and at the ledger. Any thread. */
	void (*wake)(void *ctx);
	void *wake_ctx;
	uint32_t gate; /* atomic; nonzero: lanes may take work */
	struct sluice_pace pace; /* of guest memory; device segments are never held back */
	struct sluice_in_use in_use; /* by lanes with operations in flight */
};

struct sluice_lane_conf {
	const struct sluice_rail_pair *pair; /* the way it goes */
	struct sluice_conn *conn; /* the lane's from create on; closed by destroy */
	uint32_t lane; /* index in the session */
	uint32_t home; /* of the ledger: the node of the worker that steps it */
	uint32_t epoch;
	enum sluice_role role;
	uint64_t window_bytes; /* most payload bytes in flight; at least one extent */
	uint64_t extent_bytes; /* longest WRITE, more is cut; 0: SLUICE_LANE_EXTENT_BYTES */
	struct sluice_lane_work *work;
};

struct sluice_lane;

int sluice_lane_create(const struct sluice_lane_conf *conf, struct sluice_lane **ret_lane);
void sluice_lane_destroy(struct sluice_lane *lane); /* NULL is allowed */

/*
 * Make progress; true when there was some. @thread_bytes: what the lanes of this thread have in flight
 * before the step, this one included; 0 when it is alone. While that is as much as the transport can do
 * with (thread_bytes_max) the lane begins no other chunk, so a step passes it by a window at most.
 * Those that have it in flight go on when it has arrived; where one of them is stalled the others wait
 * until it is given up (lane-timeout).
 */
bool sluice_lane_step(struct sluice_lane *lane, uint64_t now_ns, uint64_t thread_bytes);
/* Payload in flight, built and not sent included. For who steps the lane. */
uint64_t sluice_lane_inflight_bytes(const struct sluice_lane *lane);
/* How to sleep until step may have something to do; false: step again at once. */
bool sluice_lane_arm(struct sluice_lane *lane, struct sluice_arm *ret_arm);
/* Whether waiting on what it arms costs less than stepping it for nothing. */
bool sluice_lane_rests_cheaply(const struct sluice_lane *lane);

/* Control, after its worker let it go: the lane counts as lost, whatever its connection says. */
void sluice_lane_stop(struct sluice_lane *lane);
/* Control, after the lane was lost and its worker let it go: everything it had taken and not
   placed is dirty again. Its chunks stay its own until sluice_ledger_reclaim. */
void sluice_lane_abandon(struct sluice_lane *lane);
/* Control, at the target, while no worker steps it: nothing of this lane lands any more. False: what
   the source believes to be placed may not have landed either. */
bool sluice_lane_fence(struct sluice_lane *lane);

/* Control, after LOST: what the transport says became of the connection; "" when nothing. */
void sluice_lane_why_lost(const struct sluice_lane *lane, char *text, size_t text_bytes);

/* The nodes (kernel's numbers) that its memory is on; 0 when nobody says. */
uint64_t sluice_lane_memory_nodes(const struct sluice_lane *lane);
struct sluice_mailbox *sluice_lane_mailbox(struct sluice_lane *lane);
const struct sluice_lane_counters *sluice_lane_counters(const struct sluice_lane *lane);
struct sluice_lane_counters *sluice_lane_counters_for_worker(struct sluice_lane *lane);
/* Bytes that the lane has taken from ledger and outbox and that are not placed yet. Any thread. */
uint64_t sluice_lane_backlog_bytes(const struct sluice_lane *lane);
/* Operations that the transport has and that have not completed. Any thread. @ret_completed: how
   many have, ever; while this stands still and something is posted the lane makes no progress. */
uint64_t sluice_lane_posted(const struct sluice_lane *lane, uint64_t *ret_completed);
const struct sluice_conn_stats *sluice_lane_conn_stats(const struct sluice_lane *lane);

#endif
