/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * send.c: operations become work requests, completions become events.
 *
 * The lane's worker. A batch of operations becomes one chain of work requests and one
 * ibv_post_send. Few of them ask for a completion: one in RDMA_SIGNAL_REQUESTS, one per
 * RDMA_SIGNAL_BYTES so that a window moves in small steps, and always the last of a chain.
 */
#include <errno.h>
#include <string.h>

#include "base/assert.h"
#include "base/bits.h"
#include "transports/rdma/internal.h"

/* ---- the chain ---- */

static bool requests_left(const struct sluice_conn *conn, uint32_t wanted)
{
	return conn->tx.request_next - rdma_completed(conn) + wanted <= conn->tx.requests_max;
}

static void post(struct sluice_conn *conn)
{
	struct rdma_tx *tx = &conn->tx;
	struct ibv_send_wr *bad;
	int r;

	if (tx->chain_count == 0)
		return;
	tx->chain[tx->chain_count - 1].next = NULL;
	tx->chain[tx->chain_count - 1].send_flags |= IBV_SEND_SIGNALED;
	tx->unsignalled = 0;
	tx->unsignalled_bytes = 0;
	tx->chain_count = 0;
	/* Before the NIC has them: who snapshots this for a discard must not see too few. */
	atomic_store(&conn->requests_posted, tx->request_next);
	r = ibv_post_send(conn->qp, tx->chain, &bad);
	rdma_stat_add(&conn->stats.syscalls_out, 1);
	if (r != 0) /* there is room, and they are well-formed: the queue pair is broken */
		sluice_rdma_conn_lose(conn, -EIO);
}

/* The next work request, with one piece of memory of ours. */
static struct ibv_send_wr *chain_add(
	struct sluice_conn *conn, uint64_t address, uint32_t len_bytes, uint32_t lkey)
{
	struct rdma_tx *tx = &conn->tx;
	struct ibv_send_wr *request;

	if (tx->chain_count == RDMA_CHAIN)
		post(conn);
	request = &tx->chain[tx->chain_count];
	tx->sges[tx->chain_count] =
		(struct ibv_sge){.addr = address, .length = len_bytes, .lkey = lkey};
	*request = (struct ibv_send_wr){
		.wr_id = tx->request_next++,
		.next = request + 1, /* the last one's is cut off when the chain is posted */
		.sg_list = &tx->sges[tx->chain_count],
		.num_sge = 1,
	};
	tx->chain_count++;
	tx->unsignalled++;
	tx->unsignalled_bytes += len_bytes;
	if (tx->unsignalled >= RDMA_SIGNAL_REQUESTS || tx->unsignalled_bytes >= RDMA_SIGNAL_BYTES) {
		request->send_flags = IBV_SEND_SIGNALED;
		tx->unsignalled = 0;
		tx->unsignalled_bytes = 0;
	}
	rdma_stat_add(&conn->stats.bytes_out, len_bytes);
	return request;
}

/* ---- messages ---- */

static uint32_t credits(const struct sluice_conn *conn)
{
	return RDMA_RECEIVES + conn->tx.given - conn->tx.messages;
}

/*
 * The last credit is for giving credits back, and many of them: so two ends that have talked
 * each other dry can always go on. README.md has the argument.
 */
static bool message_room(const struct sluice_conn *conn)
{
	const struct rdma_tx *tx = &conn->tx;

	return credits(conn) >= 2 && requests_left(conn, 1) &&
	       tx->slot_end_request[tx->slot_next % RDMA_RECEIVES] <= rdma_completed(conn);
}

static void message_add(struct sluice_conn *conn, enum rdma_message_kind kind, const void *body,
	uint32_t body_bytes)
{
	struct rdma_tx *tx = &conn->tx;
	uint32_t slot = tx->slot_next++ % RDMA_RECEIVES;
	uint8_t *bytes = conn->buffers->send[slot];
	struct rdma_message head = {
		.magic = sluice_put32(RDMA_MESSAGE_MAGIC),
		.kind = (uint8_t)kind,
		.body_bytes = sluice_put16((uint16_t)body_bytes),
		.given = sluice_put32(conn->rx.given),
		.done = sluice_put32(conn->rx.done),
	};
	uint32_t len_bytes = (uint32_t)sizeof(head) + body_bytes;
	struct ibv_send_wr *request;

	memcpy(bytes, &head, sizeof(head));
	if (body_bytes > 0)
		memcpy(bytes + sizeof(head), body, body_bytes);
	request = chain_add(conn, (uintptr_t)bytes, len_bytes, conn->buffers_mr->lkey);
	request->opcode = IBV_WR_SEND;
	if (len_bytes <= tx->inline_bytes_max)
		request->send_flags |= IBV_SEND_INLINE;
	tx->slot_end_request[slot] = tx->request_next;
	tx->messages++;
	tx->given_told = conn->rx.given;
	tx->done_told = conn->rx.done;
}

void sluice_rdma_acknowledge(struct sluice_conn *conn)
{
	const struct rdma_tx *tx = &conn->tx;
	bool many = conn->rx.given - tx->given_told >= RDMA_RECEIVES / 2;

	if (!many && conn->rx.done == tx->done_told)
		return;
	if (!message_room(conn) && !(many && credits(conn) == 1 && requests_left(conn, 1) &&
					   tx->slot_end_request[tx->slot_next % RDMA_RECEIVES] <=
						   rdma_completed(conn)))
		return;
	message_add(conn, RDMA_MESSAGE_ACK, NULL, 0);
	post(conn);
}

bool sluice_rdma_told(struct sluice_conn *conn, uint32_t given, uint32_t done)
{
	struct rdma_tx *tx = &conn->tx;

	if (given - tx->given > tx->messages - tx->given ||
		done - tx->replies > tx->replies_wanted - tx->replies)
		return false;
	tx->given = given;
	tx->replies = done;
	while (tx->zero_head != tx->zero_tail &&
		(int32_t)(done - tx->zeroing[tx->zero_head % RDMA_RECEIVES].reply_end) >= 0)
		tx->zero_head++;
	return true;
}

/* ---- operations ---- */

enum verdict { TAKEN, NO_ROOM, MISTAKE };

static bool remote_sound(const struct sluice_conn *conn, const struct sluice_op *op)
{
	return conn->role == SLUICE_ROLE_SOURCE && op->len_bytes > 0 &&
	       op->len_bytes <= RDMA_OP_BYTES_MAX && op->remote != NULL &&
	       sluice_is_aligned(op->remote_offset | op->len_bytes, RDMA_ALIGN_BYTES) &&
	       sluice_range_inside(op->remote_offset, op->len_bytes, op->remote->len_bytes);
}

/* No WRITE overtakes a ZERO of the same bytes: the target's CPU does those in its own time. */
static bool waits_for_zero(const struct rdma_tx *tx, const struct sluice_op *op)
{
	uint64_t end = op->remote_offset + op->len_bytes;

	for (uint32_t i = tx->zero_head; i != tx->zero_tail; i++) {
		const struct rdma_zeroing *zeroing = &tx->zeroing[i % RDMA_RECEIVES];

		if (zeroing->remote->id == op->remote->id && zeroing->offset < end &&
			op->remote_offset < zeroing->end)
			return true;
	}
	return false;
}

static uint32_t bytes_to_end_of_piece(uint64_t offset, uint32_t shift, uint32_t len_bytes)
{
	uint64_t left = (1ull << shift) - (offset & ((1ull << shift) - 1));

	return left < len_bytes ? (uint32_t)left : len_bytes;
}

static enum verdict add_write(struct sluice_conn *conn, const struct sluice_op *op)
{
	const struct sluice_remote *remote = op->remote;
	const struct sluice_mem *mem = op->mem;
	uint64_t to = op->remote_offset, from;
	uint32_t left = op->len_bytes;

	if (!remote_sound(conn, op) || mem == NULL || (const uint8_t *)op->local < mem->addr)
		return MISTAKE;
	from = (uint64_t)((const uint8_t *)op->local - mem->addr);
	if (!sluice_range_inside(from, left, mem->len_bytes))
		return MISTAKE;
	if (!requests_left(conn, RDMA_OP_REQUESTS_MAX + RDMA_CONTROL_REQUESTS / 2) ||
		waits_for_zero(&conn->tx, op))
		return NO_ROOM;
	while (left > 0) {
		uint32_t bytes = bytes_to_end_of_piece(to, remote->piece_shift, left);
		struct ibv_send_wr *request;

		bytes = bytes_to_end_of_piece(from, mem->piece_shift, bytes);
		request = chain_add(conn, mem->address + from, bytes,
			atomic_load_explicit(
				&mem->pieces[from >> mem->piece_shift].lkey, memory_order_relaxed));
		request->opcode = IBV_WR_RDMA_WRITE;
		request->wr.rdma.remote_addr = remote->address + to;
		request->wr.rdma.rkey = remote->rkeys[to >> remote->piece_shift];
		to += bytes;
		from += bytes;
		left -= bytes;
	}
	return TAKEN;
}

static enum verdict add_zero(struct sluice_conn *conn, const struct sluice_op *op)
{
	struct rdma_tx *tx = &conn->tx;
	struct rdma_zero zero;

	if (!remote_sound(conn, op))
		return MISTAKE;
	if (!message_room(conn) || tx->zero_tail - tx->zero_head == RDMA_RECEIVES)
		return NO_ROOM;
	zero = (struct rdma_zero){
		.mem_id = sluice_put32(op->remote->id),
		.len_bytes = sluice_put32(op->len_bytes),
		.offset = sluice_put64(op->remote_offset),
	};
	message_add(conn, RDMA_MESSAGE_ZERO, &zero, sizeof(zero));
	tx->replies_wanted++;
	tx->zeroing[tx->zero_tail++ % RDMA_RECEIVES] = (struct rdma_zeroing){
		.reply_end = tx->replies_wanted,
		.remote = op->remote,
		.offset = op->remote_offset,
		.end = op->remote_offset + op->len_bytes,
	};
	return TAKEN;
}

static enum verdict add_send(struct sluice_conn *conn, const struct sluice_op *op)
{
	if (op->len_bytes > RDMA_SEND_BYTES_MAX)
		return MISTAKE;
	if (!message_room(conn))
		return NO_ROOM;
	message_add(conn, RDMA_MESSAGE_SEND, op->local, op->len_bytes);
	conn->tx.replies_wanted++;
	return TAKEN;
}

/*
 * A READ behind the WRITEs: the target's NIC executes it after them, and its request to memory
 * pushes their data in front of itself. A target writes nothing, so it has nothing to push.
 */
static enum verdict add_flush(struct sluice_conn *conn)
{
	struct ibv_send_wr *request;

	if (conn->role == SLUICE_ROLE_TARGET)
		return TAKEN;
	if (!requests_left(conn, 1 + RDMA_CONTROL_REQUESTS / 2))
		return NO_ROOM;
	request = chain_add(conn, (uintptr_t)&conn->buffers->cell, sizeof(conn->buffers->cell),
		conn->buffers_mr->lkey);
	request->opcode = IBV_WR_RDMA_READ;
	request->wr.rdma.remote_addr = conn->cell_address;
	request->wr.rdma.rkey = conn->cell_rkey;
	return TAKEN;
}

static enum verdict add(struct sluice_conn *conn, const struct sluice_op *op)
{
	struct rdma_tx *tx = &conn->tx;
	enum verdict verdict = MISTAKE;

	if (tx->seq_valid && op->seq <= tx->seq_last)
		return MISTAKE;
	if (tx->op_tail - tx->op_head == RDMA_DEPTH_MAX)
		return NO_ROOM;
	switch (op->kind) {
	case SLUICE_OP_WRITE:
		verdict = add_write(conn, op);
		break;
	case SLUICE_OP_ZERO:
		verdict = add_zero(conn, op);
		break;
	case SLUICE_OP_SEND:
		verdict = add_send(conn, op);
		break;
	case SLUICE_OP_FLUSH:
		verdict = add_flush(conn);
		break;
	default:
		break;
	}
	if (verdict != TAKEN)
		return verdict;
	tx->seq_valid = true;
	tx->seq_last = op->seq;
	tx->ops[tx->op_tail++ % RDMA_DEPTH_MAX] = (struct rdma_op){
		.kind = op->kind,
		.replied = op->kind == SLUICE_OP_ZERO || op->kind == SLUICE_OP_SEND,
		.reply_end = tx->replies_wanted,
		.seq = op->seq,
		.end_request = tx->request_next,
	};
	return TAKEN;
}

uint32_t sluice_rdma_submit(
	struct sluice_conn *conn, const struct sluice_op *ops, uint32_t count, uint64_t now_ns)
{
	enum verdict verdict = TAKEN;
	uint32_t taken = 0;

	(void)now_ns;
	if (!conn->connected || conn->lost)
		return 0;
	atomic_store(&conn->polling, true); /* pairs with mem_unregister, and a removal */
	if (atomic_load(&conn->phase) != RDMA_READY)
		count = 0; /* poll says why */
	while (taken < count && verdict == TAKEN && !conn->lost) {
		verdict = add(conn, &ops[taken]);
		taken += verdict == TAKEN;
	}
	if (!conn->lost)
		post(conn);
	if (verdict == MISTAKE)
		sluice_rdma_conn_lose(conn, -EINVAL);
	atomic_store_explicit(&conn->polling, false, memory_order_release);
	return taken;
}

/* ---- completions ---- */

static bool is_complete(const struct sluice_conn *conn, const struct rdma_op *op)
{
	return op->end_request <= rdma_completed(conn) &&
	       (!op->replied || (int32_t)(conn->tx.replies - op->reply_end) >= 0);
}

static const struct rdma_op *oldest(const struct sluice_conn *conn)
{
	return &conn->tx.ops[conn->tx.op_head % RDMA_DEPTH_MAX];
}

bool sluice_rdma_can_complete(const struct sluice_conn *conn)
{
	return conn->tx.op_head != conn->tx.op_tail && is_complete(conn, oldest(conn));
}

/* Those that are complete, the oldest first: one PLACED for all up to a FLUSH, then that. */
uint32_t sluice_rdma_complete(struct sluice_conn *conn, struct sluice_event *events, uint32_t max)
{
	struct rdma_tx *tx = &conn->tx;
	uint32_t count = 0;

	while (count < max && sluice_rdma_can_complete(conn)) {
		const struct rdma_op *op = oldest(conn);
		uint64_t seq = op->seq;

		if (op->kind == SLUICE_OP_FLUSH) {
			tx->op_head++;
			events[count++] = (struct sluice_event){
				.kind = SLUICE_EVENT_FLUSHED,
				.seq = seq,
			};
			continue;
		}
		do {
			seq = op->seq;
			tx->op_head++;
			op = oldest(conn);
		} while (sluice_rdma_can_complete(conn) && op->kind != SLUICE_OP_FLUSH);
		events[count++] = (struct sluice_event){.kind = SLUICE_EVENT_PLACED, .seq = seq};
	}
	return count;
}
