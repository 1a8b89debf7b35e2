/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * lane.c: stepping a lane: events in, operations out. What the operations are (extents, zeros,
 * segments, flushes) is decided in build.c. See lane.h for the rules and the threads.
 */
#include "engine/lane/lane.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "engine/lane/lane_internal.h"
#include "engine/placement/node_memory.h"

/* Whole pages, and at least one. */
static uint32_t extent_bytes_max(const struct sluice_lane_conf *conf)
{
	uint64_t wanted = conf->extent_bytes != 0 ? conf->extent_bytes : SLUICE_LANE_EXTENT_BYTES;
	uint64_t most =
		conf->pair->limits.op_bytes_max < wanted ? conf->pair->limits.op_bytes_max : wanted;

	most = sluice_align_down(most, SLUICE_PAGE_BYTES);
	/* At least four extents to a window: one that holds one or two runs dry between them. */
	while (most > SLUICE_PAGE_BYTES && most > conf->window_bytes / 4)
		most = sluice_align_up(most / 2, SLUICE_PAGE_BYTES);
	return (uint32_t)(most > SLUICE_PAGE_BYTES ? most : SLUICE_PAGE_BYTES);
}

int sluice_lane_create(const struct sluice_lane_conf *conf, struct sluice_lane **ret_lane)
{
	struct sluice_lane *lane = sluice_node_alloc(sizeof(*lane)); /* zeros */

	SLUICE_ASSERT(conf->window_bytes >= SLUICE_PAGE_BYTES);
	SLUICE_ASSERT(conf->pair->limits.op_bytes_max >= SLUICE_PAGE_BYTES);
	if (lane == NULL)
		return -ENOMEM;
	lane->conf = *conf;
	lane->depth = SLUICE_LANE_DEPTH_MAX;
	while (lane->depth > conf->pair->limits.depth_max)
		lane->depth /= 2;
	lane->extent_bytes_max = extent_bytes_max(conf);
	lane->current = SLUICE_NO_CHUNK;
	lane->state = LANE_CONNECTING;
	*ret_lane = lane;
	return 0;
}

void sluice_lane_destroy(struct sluice_lane *lane)
{
	if (lane == NULL)
		return;
	lane->conf.pair->transport->lane_close(lane->conf.conn);
	sluice_node_free(lane, sizeof(*lane));
}

static void note(
	struct sluice_lane *lane, enum sluice_note_kind kind, const struct sluice_event *event)
{
	sluice_mailbox_put(&lane->mailbox, kind, event->status, event->data,
		kind == SLUICE_NOTE_RECEIVED ? event->len_bytes : 0);
	lane->conf.work->wake(lane->conf.work->wake_ctx);
}

/* The oldest operations up to @seq are placed: their bytes leave the window. */
static void retire(struct sluice_lane *lane, uint64_t seq)
{
	while (lane->head < lane->sent && lane->head < seq) {
		const struct sluice_lane_op *op = &lane->ring[lane->head & (lane->depth - 1)];

		if (op->kind == SLUICE_OP_FLUSH)
			break; /* completes by FLUSHED only */
		sluice_lane_op_placed(lane, op);
		lane->inflight_bytes -= op->window_bytes;
		lane->head++;
	}
}

/* Hand back the chunks that were finished before this FLUSH was built. */
static void flushed(struct sluice_lane *lane, uint64_t seq)
{
	struct sluice_ledger *ledger = lane->conf.work->ledger;
	const struct sluice_lane_op *op;
	bool again = false;

	retire(lane, seq - 1);
	SLUICE_ASSERT(lane->head + 1 == seq);
	op = &lane->ring[lane->head & (lane->depth - 1)];
	SLUICE_ASSERT(op->kind == SLUICE_OP_FLUSH);
	for (; lane->held_head != op->held_end; lane->held_head++)
		again |= sluice_ledger_release(ledger,
			lane->held[lane->held_head % SLUICE_LANE_HELD_MAX], lane->conf.lane);
	lane->head++;
	SLUICE_COUNT_ADD(lane->counters.flushes, 1);
	/* What is queued again is anybody's, and others may rest: control wakes them. */
	if (again || sluice_ledger_is_drained(ledger))
		lane->conf.work->wake(lane->conf.work->wake_ctx);
}

static void handle(struct sluice_lane *lane, const struct sluice_event *event)
{
	switch (event->kind) {
	case SLUICE_EVENT_CONNECTED:
		SLUICE_ASSERT(lane->state == LANE_CONNECTING);
		lane->state = LANE_RUNNING;
		note(lane, SLUICE_NOTE_CONNECTED, event);
		break;
	case SLUICE_EVENT_PLACED:
		retire(lane, event->seq);
		break;
	case SLUICE_EVENT_FLUSHED:
		flushed(lane, event->seq);
		break;
	case SLUICE_EVENT_RECEIVED:
		note(lane, SLUICE_NOTE_RECEIVED, event);
		break;
	case SLUICE_EVENT_LOST:
		lane->state = LANE_LOST;
		note(lane, SLUICE_NOTE_LOST, event);
		break;
	default:
		SLUICE_ASSERT(!"an event kind of the contract");
	}
}

static bool poll_events(struct sluice_lane *lane, uint64_t now_ns)
{
	struct sluice_event events[SLUICE_LANE_BATCH_EVENTS];
	uint32_t room = sluice_mailbox_room(&lane->mailbox);
	uint32_t max = room < SLUICE_LANE_BATCH_EVENTS ? room : SLUICE_LANE_BATCH_EVENTS;
	uint32_t count;

	if (max == 0)
		return false;
	count = lane->conf.pair->transport->poll(lane->conf.conn, events, max, now_ns);
	SLUICE_ASSERT(count <= max);
	for (uint32_t i = 0; i < count; i++)
		handle(lane, &events[i]);
	return count > 0;
}

static bool submit(struct sluice_lane *lane, uint64_t now_ns)
{
	struct sluice_op ops[SLUICE_LANE_BATCH_OPS];
	uint8_t announce[SLUICE_LANE_BATCH_OPS][SLUICE_ANNOUNCE_BYTES];
	bool progress = false;

	while (lane->sent < lane->tail) {
		uint32_t count = 0;
		uint32_t taken;

		while (count < SLUICE_LANE_BATCH_OPS && lane->sent + count < lane->tail) {
			uint64_t at = lane->sent + count;

			sluice_lane_op_express(lane, &lane->ring[at & (lane->depth - 1)], at + 1,
				announce[count], &ops[count]);
			count++;
		}
		taken = lane->conf.pair->transport->submit(lane->conf.conn, ops, count, now_ns);
		SLUICE_ASSERT(taken <= count);
		lane->sent += taken;
		progress |= taken > 0;
		if (taken < count)
			break;
	}
	return progress;
}

static void tell_backlog(struct sluice_lane *lane)
{
	uint64_t bytes = lane->inflight_bytes +
			 ((uint64_t)sluice_lane_pages_in_hand(lane) << SLUICE_PAGE_SHIFT);

	__atomic_store_n(&lane->backlog_bytes, bytes, __ATOMIC_RELAXED);
	__atomic_store_n(&lane->head_told, lane->head, __ATOMIC_RELAXED);
	__atomic_store_n(&lane->sent_told, lane->sent, __ATOMIC_RELAXED);
}

static void note_use(struct sluice_lane *lane, uint64_t now_ns)
{
	bool in_use = lane->head < lane->sent;

	if (in_use == lane->in_use)
		return;
	lane->in_use = in_use;
	if (in_use)
		sluice_in_use_begin(&lane->conf.work->in_use, now_ns);
	else
		sluice_in_use_end(&lane->conf.work->in_use, now_ns);
}

bool sluice_lane_step(struct sluice_lane *lane, uint64_t now_ns, uint64_t thread_bytes)
{
	uint64_t most = lane->conf.pair->limits.thread_bytes_max;
	bool progress;

	if (lane->state == LANE_LOST)
		return false;
	progress = poll_events(lane, now_ns);
	if (lane->state != LANE_RUNNING || lane->conf.role != SLUICE_ROLE_SOURCE)
		return progress;
	lane->now_ns = now_ns;
	lane->again_ns = 0;
	lane->crowded = most != 0 && thread_bytes >= most;
	progress |= sluice_lane_build(lane);
	note_use(lane, now_ns); /* what was placed before more is given */
	progress |= submit(lane, now_ns);
	note_use(lane, now_ns);
	if (progress)
		tell_backlog(lane);
	return progress;
}

uint64_t sluice_lane_inflight_bytes(const struct sluice_lane *lane)
{
	return lane->inflight_bytes;
}

bool sluice_lane_arm(struct sluice_lane *lane, struct sluice_arm *ret_arm)
{
	if (lane->state == LANE_LOST) {
		*ret_arm = (struct sluice_arm){.fd = -1, .deadline_ns = UINT64_MAX};
		return true;
	}
	/* Without room for news it does not poll, and its descriptor stays readable. */
	if (sluice_mailbox_room(&lane->mailbox) == 0 ||
		!lane->conf.pair->transport->arm(lane->conf.conn, ret_arm))
		return false;
	if (lane->again_ns != 0 && lane->again_ns < ret_arm->deadline_ns)
		ret_arm->deadline_ns = lane->again_ns;
	return true;
}

bool sluice_lane_rests_cheaply(const struct sluice_lane *lane)
{
	return lane->state == LANE_LOST ||
	       (lane->conf.pair->limits.caps & SLUICE_CAP_KERNEL_POLL) != 0;
}

void sluice_lane_stop(struct sluice_lane *lane)
{
	lane->state = LANE_LOST;
}

void sluice_lane_abandon(struct sluice_lane *lane)
{
	struct sluice_ledger *ledger = lane->conf.work->ledger;

	SLUICE_ASSERT(lane->state == LANE_LOST);
	if (ledger == NULL)
		return;
	for (; lane->head < lane->tail; lane->head++) {
		const struct sluice_lane_op *op = &lane->ring[lane->head & (lane->depth - 1)];

		if (op->kind == SLUICE_OP_WRITE && op->chunk != SLUICE_NO_CHUNK &&
			lane->head < lane->sent)
			SLUICE_COUNT_ADD(lane->counters.bytes_resent, op->window_bytes);
		if (op->chunk == SLUICE_NO_CHUNK)
			continue;
		SLUICE_COUNT_ADD(lane->counters.pages_given_up, op->pages);
		sluice_ledger_put_back(ledger, op->chunk, op->first_page, op->pages);
	}
	sluice_lane_put_back_current(lane);
	lane->sent = lane->tail;
	lane->inflight_bytes = 0;
	note_use(lane, lane->now_ns);
	tell_backlog(lane);
}

bool sluice_lane_fence(struct sluice_lane *lane)
{
	lane->state = LANE_LOST;
	return lane->conf.pair->transport->lane_fence(lane->conf.conn);
}

uint64_t sluice_lane_memory_nodes(const struct sluice_lane *lane)
{
	return sluice_node_set_of(lane, sizeof(*lane));
}

struct sluice_mailbox *sluice_lane_mailbox(struct sluice_lane *lane)
{
	return &lane->mailbox;
}

const struct sluice_lane_counters *sluice_lane_counters(const struct sluice_lane *lane)
{
	return &lane->counters;
}

struct sluice_lane_counters *sluice_lane_counters_for_worker(struct sluice_lane *lane)
{
	return &lane->counters;
}

uint64_t sluice_lane_backlog_bytes(const struct sluice_lane *lane)
{
	return __atomic_load_n(&lane->backlog_bytes, __ATOMIC_RELAXED);
}

uint64_t sluice_lane_posted(const struct sluice_lane *lane, uint64_t *ret_completed)
{
	uint64_t completed = __atomic_load_n(&lane->head_told, __ATOMIC_RELAXED);
	uint64_t posted = __atomic_load_n(&lane->sent_told, __ATOMIC_RELAXED);

	*ret_completed = completed;
	return posted > completed ? posted - completed : 0;
}

const struct sluice_conn_stats *sluice_lane_conn_stats(const struct sluice_lane *lane)
{
	return lane->conf.pair->transport->lane_stats(lane->conf.conn);
}

void sluice_lane_why_lost(const struct sluice_lane *lane, char *text, size_t text_bytes)
{
	*text = '\0';
	if (lane->conf.pair->transport->lane_why_lost != NULL)
		lane->conf.pair->transport->lane_why_lost(lane->conf.conn, text, text_bytes);
}
