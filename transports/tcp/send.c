/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * send.c: operations become frames, frames go to the kernel, acknowledgements come back as
 * PLACED and FLUSHED. The lane's worker only; no allocation, no lock, no waiting.
 *
 * Operations that are submitted together share a frame, and so do those that wait together
 * for a full socket: a frame takes operations until its first byte has left.
 */
#include <errno.h>
#include <string.h>

#include "base/assert.h"
#include "base/bits.h"
#include "transports/tcp/internal.h"

static struct tcp_tx_frame *frame_at(struct tcp_tx *tx, uint32_t index)
{
	return &tx->frames[index % TCP_TX_FRAMES];
}

static struct tcp_inflight *inflight_at(struct tcp_tx *tx, uint32_t index)
{
	return &tx->inflight[index % TCP_DEPTH_MAX];
}

/* ---- taking operations ---- */

static bool has_depth(const struct tcp_tx *tx)
{
	uint64_t ops = tx->ops_queued - tx->ops_completed;

	return ops + tx->flush_count < TCP_DEPTH_MAX;
}

static struct tcp_tx_frame *frame_add(struct tcp_tx *tx, enum tcp_frame_kind kind)
{
	struct tcp_tx_frame *frame;

	if (tx->frame_tail - tx->frame_head == TCP_TX_FRAMES)
		return NULL;
	frame = frame_at(tx, tx->frame_tail++);
	frame->kind = (uint8_t)kind;
	frame->started = false;
	frame->sealed = kind != TCP_FRAME_DATA;
	frame->count = 0;
	frame->body_bytes = 0;
	frame->payload_bytes = 0;
	frame->place_bytes = 0;
	frame->iov_first = 0;
	frame->iov_count = 1;
	frame->copy_first = 1;
	frame->copy_bytes = 0;
	frame->checked = false;
	frame->first_op = tx->ops_queued;
	return frame;
}

/* Depth bounds the entries, as each stands for at least one operation or FLUSH. */
static struct tcp_inflight *inflight_add(struct tcp_tx *tx, bool flush)
{
	struct tcp_inflight *entry = inflight_at(tx, tx->inflight_tail);

	SLUICE_ASSERT(tx->inflight_tail - tx->inflight_head < TCP_DEPTH_MAX);
	tx->inflight_tail++;
	entry->flush = flush;
	entry->end_ops = tx->ops_queued;
	entry->zerocopy_end = tx->zerocopy.next; /* and what it sends itself, when it does */
	return entry;
}

static struct tcp_tx_frame *frame_last(struct tcp_tx *tx)
{
	return tx->frame_head == tx->frame_tail ? NULL : frame_at(tx, tx->frame_tail - 1);
}

static bool frame_takes(const struct tcp_tx_frame *frame, const struct sluice_op *op)
{
	return frame != NULL && !frame->started && !frame->sealed &&
	       frame->count < TCP_FRAME_ENTRIES_MAX &&
	       frame->place_bytes + op->len_bytes <= TCP_FRAME_BYTES;
}

static void entry_add(struct tcp_tx_frame *frame, const struct sluice_op *op)
{
	const struct tcp_frame_entry entry = {
		.offset = sluice_put64(op->remote_offset),
		.mem_id = sluice_put32(op->remote->id),
		.len_bytes = sluice_put32(op->len_bytes),
		.kind = op->kind,
	};

	memcpy(frame->head + sizeof(struct tcp_frame_header) + frame->body_bytes, &entry,
		sizeof(entry));
	frame->body_bytes += (uint32_t)sizeof(entry);
	frame->count++;
	frame->place_bytes += op->len_bytes;
	if (op->kind == SLUICE_OP_ZERO)
		return;
	frame->payload_bytes += op->len_bytes;
	frame->iov[frame->iov_count++] = (struct iovec){
		.iov_base = (void *)(uintptr_t)op->local, /* only read from */
		.iov_len = op->len_bytes,
	};
}

/* WRITE or ZERO. 1: taken; 0: no room; -errno: not a valid operation. */
static int take_data(struct sluice_conn *conn, const struct sluice_op *op)
{
	struct tcp_tx *tx = &conn->tx;
	struct tcp_tx_frame *frame = frame_last(tx);
	struct tcp_inflight *entry;

	if (conn->role != SLUICE_ROLE_SOURCE || op->remote == NULL || op->len_bytes == 0 ||
		op->len_bytes > TCP_OP_BYTES_MAX ||
		!sluice_is_aligned(op->len_bytes | op->remote_offset, TCP_ALIGN_BYTES) ||
		!sluice_range_inside(op->remote_offset, op->len_bytes, op->remote->len_bytes))
		return -EINVAL;
	if (frame_takes(frame, op)) {
		entry = inflight_at(tx, tx->inflight_tail - 1);
	} else {
		frame = frame_add(tx, TCP_FRAME_DATA);
		if (frame == NULL)
			return 0;
		frame->inflight = tx->inflight_tail;
		entry = inflight_add(tx, false);
	}
	entry_add(frame, op);
	entry->seq = op->seq;
	entry->end_ops = ++tx->ops_queued;
	return 1;
}

static int take_send(struct sluice_conn *conn, const struct sluice_op *op)
{
	struct tcp_tx *tx = &conn->tx;
	struct tcp_tx_frame *frame;
	struct tcp_inflight *entry;

	if (op->len_bytes > TCP_SEND_BYTES_MAX || (op->local == NULL && op->len_bytes > 0))
		return -EINVAL;
	frame = frame_add(tx, TCP_FRAME_SEND);
	if (frame == NULL)
		return 0;
	if (op->len_bytes > 0)
		memcpy(frame->head + sizeof(struct tcp_frame_header), op->local, op->len_bytes);
	frame->body_bytes = op->len_bytes;
	frame->inflight = tx->inflight_tail;
	entry = inflight_add(tx, false);
	entry->seq = op->seq;
	entry->end_ops = ++tx->ops_queued;
	return 1;
}

/* Needs no message: that everything before it was acknowledged as placed is all it asks. */
static int take_flush(struct sluice_conn *conn, const struct sluice_op *op)
{
	struct tcp_tx *tx = &conn->tx;
	struct tcp_tx_frame *last = frame_last(tx);

	if (last != NULL)
		last->sealed = true; /* later operations must not hold it up */
	inflight_add(tx, true)->seq = op->seq;
	tx->flush_count++;
	return 1;
}

static int take(struct sluice_conn *conn, const struct sluice_op *op)
{
	struct tcp_tx *tx = &conn->tx;
	int r;

	if (tx->seq_valid && op->seq <= tx->seq_last)
		return -EINVAL;
	if (!has_depth(tx))
		return 0;
	switch (op->kind) {
	case SLUICE_OP_WRITE:
	case SLUICE_OP_ZERO:
		r = take_data(conn, op);
		break;
	case SLUICE_OP_SEND:
		r = take_send(conn, op);
		break;
	case SLUICE_OP_FLUSH:
		r = take_flush(conn, op);
		break;
	default:
		return -EINVAL;
	}
	if (r == 1) {
		tx->seq_last = op->seq;
		tx->seq_valid = true;
	}
	return r;
}

uint32_t sluice_tcp_submit(
	struct sluice_conn *conn, const struct sluice_op *ops, uint32_t count, uint64_t now_ns)
{
	uint32_t taken = 0;
	int r = 0;

	(void)now_ns;
	/* Every turn but the last ends with full frames, and sends at least one. */
	while (conn->state == TCP_CONN_CONNECTED && conn->connected_reported && taken < count) {
		uint32_t before = taken;

		while (taken < count && (r = take(conn, &ops[taken])) == 1)
			taken++;
		if (r < 0) {
			sluice_tcp_conn_lose(conn, r);
			break;
		}
		if (taken == before)
			break;
		sluice_tcp_push(conn);
	}
	return taken;
}

/* ---- giving frames to the kernel ---- */

static bool ack_due(const struct sluice_conn *conn)
{
	return conn->tx.ack_wanted && conn->rx.ops_placed != conn->tx.ack_sent_ops;
}

/* Finish the header as late as possible: it carries the newest acknowledgement. */
static void frame_start(struct sluice_conn *conn, struct tcp_tx_frame *frame)
{
	struct tcp_frame_header header = {
		.magic = sluice_put32(TCP_FRAME_MAGIC),
		.version = TCP_WIRE_VERSION,
		.kind = frame->kind,
		.count = sluice_put16((uint16_t)frame->count),
		.body_bytes = sluice_put32(frame->body_bytes),
		.payload_bytes = sluice_put32(frame->payload_bytes),
		.first_op = sluice_put64(frame->kind == TCP_FRAME_ACK ? 0 : frame->first_op),
		.ack_ops = sluice_put64(conn->rx.ops_placed),
	};
	size_t head_bytes = sizeof(header) + frame->body_bytes;

	SLUICE_ASSERT(head_bytes <= sizeof(frame->head));
	memcpy(frame->head, &header, sizeof(header));
	header.checksum = sluice_put64(tcp_checksum(frame->head, head_bytes));
	memcpy(frame->head, &header.checksum, sizeof(header.checksum));
	frame->iov[0] = (struct iovec){.iov_base = frame->head, .iov_len = head_bytes};
	frame->started = true;
	conn->tx.ack_sent_ops = conn->rx.ops_placed;
	conn->tx.ack_wanted = false;
	conn->rx.unacked_bytes = 0;
}

/* What a failed sendmsg means. */
static void send_failed(struct sluice_conn *conn)
{
	/* EFAULT: memory that was submitted is gone, and with it the stream's order. */
	if (errno != EAGAIN && errno != EINTR)
		sluice_tcp_conn_lose(conn, errno == EPIPE ? -ECONNRESET : -errno);
}

/* A frame with a checksum, piece by piece; true when all of it left. */
static bool send_checked(struct sluice_conn *conn, struct tcp_tx_frame *frame)
{
	struct iovec pieces[2];
	struct msghdr message = {.msg_iov = pieces};

	while ((message.msg_iovlen = sluice_tcp_checksum_pieces(conn, frame, pieces)) > 0) {
		ssize_t sent = sendmsg(conn->fd, &message, MSG_NOSIGNAL);

		tcp_stat_add(&conn->stats.syscalls_out, 1);
		if (sent < 0) {
			send_failed(conn);
			return false;
		}
		tcp_stat_add(&conn->stats.bytes_out, (uint64_t)sent);
		sluice_tcp_checksum_sent(conn, frame, (size_t)sent);
	}
	return true;
}

/* Give the kernel what is left of the frame's first @iov_end pieces; true when all of that left. */
static bool send_pieces(
	struct sluice_conn *conn, struct tcp_tx_frame *frame, uint32_t iov_end, int flags)
{
	struct msghdr message = {
		.msg_iov = frame->iov + frame->iov_first,
		.msg_iovlen = iov_end - frame->iov_first,
	};
	ssize_t sent = sendmsg(conn->fd, &message, flags | MSG_NOSIGNAL);

	tcp_stat_add(&conn->stats.syscalls_out, 1);
	if (sent < 0 && errno == ENOBUFS && (flags & MSG_ZEROCOPY)) {
		sluice_tcp_zerocopy_refused(conn);
		return send_pieces(conn, frame, iov_end, flags & ~MSG_ZEROCOPY);
	}
	if (sent < 0) {
		send_failed(conn);
		return false;
	}
	if (flags & MSG_ZEROCOPY)
		sluice_tcp_zerocopy_sent(conn, frame);
	tcp_stat_add(&conn->stats.bytes_out, (uint64_t)sent);
	tcp_iov_advance(frame->iov, &frame->iov_first, frame->iov_count, (size_t)sent);
	return frame->iov_first >= iov_end;
}

/* True when the whole frame has left. */
static bool frame_push(struct sluice_conn *conn, struct tcp_tx_frame *frame)
{
	if (conn->checksum && frame->payload_bytes > 0)
		return send_checked(conn, frame);
	if (!sluice_tcp_zerocopy_wanted(conn, frame))
		return send_pieces(conn, frame, frame->iov_count, 0);
	/* The head is copied, by a call of its own: its buffer is used again soon. */
	if (frame->iov_first == 0 && !send_pieces(conn, frame, 1, MSG_MORE))
		return false;
	return send_pieces(conn, frame, frame->iov_count, MSG_ZEROCOPY);
}

void sluice_tcp_push(struct sluice_conn *conn)
{
	struct tcp_tx *tx = &conn->tx;

	for (;;) {
		struct tcp_tx_frame *frame;

		if (tx->frame_head == tx->frame_tail) {
			if (!ack_due(conn))
				return;
			frame_add(tx, TCP_FRAME_ACK);
		}
		frame = frame_at(tx, tx->frame_head);
		if (!frame->started)
			frame_start(conn, frame);
		if (!frame_push(conn, frame))
			return;
		if (frame->kind == TCP_FRAME_DATA)
			tx->ops_sent += frame->count;
		else if (frame->kind == TCP_FRAME_SEND)
			tx->ops_sent++;
		tx->frame_head++;
	}
}

/* ---- reporting ---- */

static bool entry_complete(const struct tcp_tx *tx, uint32_t index)
{
	const struct tcp_inflight *entry = &tx->inflight[index % TCP_DEPTH_MAX];

	return index != tx->inflight_tail && entry->end_ops <= tx->ops_acked &&
	       (int32_t)(tx->zerocopy.released - entry->zerocopy_end) >= 0;
}

bool sluice_tcp_can_complete(const struct sluice_conn *conn)
{
	return entry_complete(&conn->tx, conn->tx.inflight_head);
}

/* One PLACED for a whole run of frames. Returns whether there was one. */
static bool complete_frames(struct tcp_tx *tx, struct sluice_event *event)
{
	bool any = false;

	while (entry_complete(tx, tx->inflight_head)) {
		const struct tcp_inflight *entry = inflight_at(tx, tx->inflight_head);

		if (entry->flush)
			break;
		event->seq = entry->seq;
		tx->ops_completed = entry->end_ops;
		tx->inflight_head++;
		any = true;
	}
	return any;
}

uint32_t sluice_tcp_complete(struct sluice_conn *conn, struct sluice_event *events, uint32_t max)
{
	struct tcp_tx *tx = &conn->tx;
	uint32_t count = 0;

	while (count < max && entry_complete(tx, tx->inflight_head)) {
		struct sluice_event *event = &events[count++];

		*event = (struct sluice_event){.kind = SLUICE_EVENT_PLACED};
		if (complete_frames(tx, event))
			continue;
		event->kind = SLUICE_EVENT_FLUSHED;
		event->seq = inflight_at(tx, tx->inflight_head)->seq;
		tx->inflight_head++;
		tx->flush_count--;
	}
	return count;
}
