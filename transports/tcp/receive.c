/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * receive.c: bytes from the peer become placed operations, messages and acknowledgements.
 * The lane's worker only; no allocation, no lock, no waiting.
 *
 * A frame's head (header and body) is read into a buffer of ours, checked as a whole, and
 * only then does anything happen in guest memory. The payload goes from the socket straight
 * to its extents; the same system call also fetches the beginning of the next frame into the
 * buffer, so that heads usually cost no call of their own. Whatever payload slips into the
 * buffer that way is copied.
 */
#include <errno.h>
#include <string.h>

#include "base/assert.h"
#include "base/bits.h"
#include "base/zero.h"
#include "transports/tcp/internal.h"

/* What came of looking at the next bytes of the stream. */
enum step { STEP_DONE, STEP_NEEDS_INPUT, STEP_STALLED, STEP_REFUSED, STEP_DAMAGED };

/* ---- a frame's head ---- */

static void fill_header(const struct tcp_rx *rx, struct tcp_frame_header *ret_header)
{
	SLUICE_ASSERT(rx->have_bytes >= sizeof(*ret_header));
	memcpy(ret_header, rx->buffer, sizeof(*ret_header));
}

/* Everything that can be said before the body is there; foremost how long it is. */
static bool header_sound(const struct tcp_frame_header *header)
{
	uint32_t count = sluice_get16(header->count);
	uint32_t body_bytes = sluice_get32(header->body_bytes);
	uint32_t payload_bytes = sluice_get32(header->payload_bytes);

	if (sluice_get32(header->magic) != TCP_FRAME_MAGIC || header->version != TCP_WIRE_VERSION)
		return false;
	switch (header->kind) {
	case TCP_FRAME_DATA:
		return count > 0 && count <= TCP_FRAME_ENTRIES_MAX &&
		       body_bytes == count * sizeof(struct tcp_frame_entry) &&
		       payload_bytes <= TCP_FRAME_PLACE_BYTES_MAX;
	case TCP_FRAME_SEND:
		return count == 0 && body_bytes <= TCP_SEND_BYTES_MAX && payload_bytes == 0;
	case TCP_FRAME_ACK:
		return count == 0 && body_bytes == 0 && payload_bytes == 0 &&
		       sluice_get64(header->first_op) == 0;
	default:
		return false;
	}
}

/* An acknowledgement never goes back, and never covers what has not been sent. */
static bool take_ack(struct sluice_conn *conn, const struct tcp_frame_header *header)
{
	uint64_t ack_ops = sluice_get64(header->ack_ops);

	if (ack_ops < conn->tx.ops_acked || ack_ops > conn->tx.ops_sent)
		return false;
	conn->tx.ops_acked = ack_ops;
	return true;
}

/* ---- data frames ---- */

static bool entry_resolve(
	struct sluice_conn *conn, const uint8_t *bytes, struct tcp_extent *ret_extent)
{
	static const uint8_t zeroes[7];
	const struct sluice_mem *mem;
	struct tcp_frame_entry entry;
	uint64_t offset;
	uint32_t len_bytes;

	memcpy(&entry, bytes, sizeof(entry));
	offset = sluice_get64(entry.offset);
	len_bytes = sluice_get32(entry.len_bytes);
	if (entry.kind != SLUICE_OP_WRITE && entry.kind != SLUICE_OP_ZERO)
		return false;
	if (len_bytes == 0 || len_bytes > TCP_OP_BYTES_MAX ||
		!sluice_is_aligned(len_bytes | offset, TCP_ALIGN_BYTES) ||
		memcmp(entry.reserved, zeroes, sizeof(zeroes)) != 0)
		return false;
	mem = sluice_tcp_mem_find(conn->rail, sluice_get32(entry.mem_id), &conn->rx.mem_hint);
	if (mem == NULL || !atomic_load(&mem->admits) ||
		!sluice_range_inside(offset, len_bytes, mem->len_bytes))
		return false;
	*ret_extent = (struct tcp_extent){
		.mem = mem,
		.addr = mem->addr + offset,
		.offset = offset,
		.len_bytes = len_bytes,
		.mem_id = mem->id,
		.zero = entry.kind == SLUICE_OP_ZERO,
	};
	return true;
}

/* All of the table, before the first byte is stored. */
static bool data_begin(struct sluice_conn *conn, const struct tcp_frame_header *header)
{
	struct tcp_rx *rx = &conn->rx;
	uint32_t count = sluice_get16(header->count);
	uint64_t payload_bytes = 0, place_bytes = 0;

	if (conn->role != SLUICE_ROLE_TARGET || sluice_get64(header->first_op) != rx->ops_placed)
		return false;
	rx->generation = atomic_load(&conn->rail->mems_generation);
	for (uint32_t i = 0; i < count; i++) {
		const uint8_t *bytes =
			rx->buffer + sizeof(*header) + i * sizeof(struct tcp_frame_entry);

		if (!entry_resolve(conn, bytes, &rx->extents[i]))
			return false;
		place_bytes += rx->extents[i].len_bytes;
		if (!rx->extents[i].zero)
			payload_bytes += rx->extents[i].len_bytes;
	}
	if (place_bytes > TCP_FRAME_PLACE_BYTES_MAX ||
		payload_bytes != sluice_get32(header->payload_bytes))
		return false;
	rx->in_payload = true;
	rx->extent_count = count;
	rx->extent_next = 0;
	rx->iov_first = rx->iov_count = 0;
	rx->batch_bytes = 0;
	rx->frame_bytes = (uint32_t)place_bytes;
	sluice_tcp_checksum_begin(conn, (uint32_t)payload_bytes);
	return true;
}

/*
 * Collect the next extents to receive into. Zeroes are stored on the way; operations take
 * effect in order, so one that may overlap a write collected here has to wait for it.
 */
static void batch_fill(struct tcp_rx *rx, bool checksum)
{
	uintptr_t low = UINTPTR_MAX, high = 0; /* around the batch's writes */

	rx->iov_first = rx->iov_count = 0;
	for (; rx->extent_next < rx->extent_count; rx->extent_next++) {
		const struct tcp_extent *extent = &rx->extents[rx->extent_next];
		uintptr_t start = (uintptr_t)extent->addr, end = start + extent->len_bytes;

		if (extent->zero) {
			if (start < high && end > low)
				return;
			sluice_make_zero(extent->addr, extent->len_bytes);
			continue;
		}
		/* What is written over before it was hashed would spoil the sum. */
		if (checksum && start < high && end > low)
			return;
		sluice_tcp_mem_fault_in(extent->mem, extent->offset, extent->len_bytes);
		rx->iov[rx->iov_count++] = (struct iovec){extent->addr, extent->len_bytes};
		rx->batch_bytes += extent->len_bytes;
		low = start < low ? start : low;
		high = end > high ? end : high;
	}
}

static void batch_advance(struct tcp_rx *rx, uint32_t bytes)
{
	SLUICE_ASSERT(bytes <= rx->batch_bytes);
	tcp_iov_advance(rx->iov, &rx->iov_first, rx->iov_count, bytes);
	rx->batch_bytes -= bytes;
}

static void buffer_drop(struct tcp_rx *rx, uint32_t bytes)
{
	SLUICE_ASSERT(bytes <= rx->have_bytes);
	rx->have_bytes -= bytes;
	memmove(rx->buffer, rx->buffer + bytes, rx->have_bytes);
}

/* Payload that came along with a head. */
static void batch_copy(struct tcp_rx *rx)
{
	uint32_t done = 0;

	while (rx->batch_bytes > 0 && done < rx->have_bytes) {
		const struct iovec *iov = &rx->iov[rx->iov_first];
		uint32_t bytes = rx->have_bytes - done;

		if (bytes > iov->iov_len)
			bytes = (uint32_t)iov->iov_len;
		memcpy(iov->iov_base, rx->buffer + done, bytes);
		batch_advance(rx, bytes);
		done += bytes;
	}
	buffer_drop(rx, done);
}

/* Place what is here already. STEP_DONE: the frame is complete. */
static enum step data_step(struct sluice_conn *conn)
{
	struct tcp_rx *rx = &conn->rx;

	while (rx->batch_bytes > 0 || rx->extent_next < rx->extent_count) {
		if (rx->batch_bytes == 0) {
			sluice_tcp_checksum_placed(conn); /* before it is written over */
			batch_fill(rx, conn->checksum);
		}
		batch_copy(rx);
		if (rx->batch_bytes > 0)
			return STEP_NEEDS_INPUT;
	}
	if (rx->sum_due) {
		sluice_tcp_checksum_placed(conn);
		if (rx->have_bytes < sizeof(sluice_le64))
			return STEP_NEEDS_INPUT;
		if (!sluice_tcp_checksum_right(conn))
			return STEP_DAMAGED;
		buffer_drop(rx, sizeof(sluice_le64));
		rx->sum_due = false;
	}
	rx->in_payload = false;
	rx->ops_placed += rx->extent_count;
	rx->placed_now_bytes += rx->frame_bytes;
	rx->unacked_bytes += rx->frame_bytes;
	return STEP_DONE;
}

/* A registration has gone, or admits no more, since the frame was checked: is all as it was for
   the rest of it? */
static bool data_still_valid(struct sluice_conn *conn)
{
	struct tcp_rx *rx = &conn->rx;

	rx->generation = atomic_load(&conn->rail->mems_generation);
	for (uint32_t i = 0; i < rx->extent_count; i++) {
		struct tcp_extent *extent = &rx->extents[i];
		const struct sluice_mem *mem =
			sluice_tcp_mem_find(conn->rail, extent->mem_id, &rx->mem_hint);

		if (mem == NULL || !atomic_load(&mem->admits) ||
			!sluice_range_inside(extent->offset, extent->len_bytes, mem->len_bytes) ||
			mem->addr + extent->offset != extent->addr)
			return false;
		extent->mem = mem;
	}
	return true;
}

/* ---- messages ---- */

static bool message_take(struct sluice_conn *conn, const struct tcp_frame_header *header,
	struct sluice_event *ret_event)
{
	struct tcp_rx *rx = &conn->rx;
	uint32_t len_bytes = sluice_get32(header->body_bytes);
	uint8_t *message = rx->messages[rx->message_count];

	if (sluice_get64(header->first_op) != rx->ops_placed)
		return false;
	memcpy(message, rx->buffer + sizeof(*header), len_bytes);
	rx->message_count++;
	rx->ops_placed++;
	*ret_event = (struct sluice_event){
		.kind = SLUICE_EVENT_RECEIVED,
		.len_bytes = len_bytes,
		.data = message,
	};
	return true;
}

/* ---- the stream ---- */

static enum step frame_begin(
	struct sluice_conn *conn, struct sluice_event *events, uint32_t max, uint32_t *count)
{
	struct tcp_rx *rx = &conn->rx;
	struct tcp_frame_header header;
	uint32_t head_bytes;

	if (rx->have_bytes < sizeof(header))
		return STEP_NEEDS_INPUT;
	fill_header(rx, &header);
	if (!header_sound(&header))
		return STEP_REFUSED;
	head_bytes = (uint32_t)sizeof(header) + sluice_get32(header.body_bytes);
	if (rx->have_bytes < head_bytes)
		return STEP_NEEDS_INPUT;
	if (rx->placed_now_bytes >= TCP_POLL_PLACE_BYTES_MAX)
		return STEP_STALLED;
	if (header.kind == TCP_FRAME_SEND &&
		(*count == max || rx->message_count == TCP_POLL_MESSAGES_MAX))
		return STEP_STALLED;
	if (sluice_get64(header.checksum) != tcp_checksum(rx->buffer, head_bytes) ||
		!take_ack(conn, &header))
		return STEP_REFUSED;
	if (header.kind == TCP_FRAME_DATA && !data_begin(conn, &header))
		return STEP_REFUSED;
	if (header.kind == TCP_FRAME_SEND) {
		if (!message_take(conn, &header, &events[*count]))
			return STEP_REFUSED;
		(*count)++;
	}
	buffer_drop(rx, head_bytes);
	return STEP_DONE;
}

/* Work through what is in the buffer. */
static uint32_t process(struct sluice_conn *conn, struct sluice_event *events, uint32_t max)
{
	struct tcp_rx *rx = &conn->rx;
	uint32_t count = 0;
	enum step step = STEP_DONE;

	while (step == STEP_DONE) {
		if (rx->in_payload)
			step = data_step(conn);
		else
			step = frame_begin(conn, events, max, &count);
	}
	rx->stalled = step == STEP_STALLED;
	if (step == STEP_REFUSED)
		sluice_tcp_conn_lose(conn, -EPROTO);
	if (step == STEP_DAMAGED) {
		tcp_stat_add(&conn->stats.payload_damaged, 1);
		sluice_tcp_conn_lose(conn, -EBADMSG);
	}
	if (rx->unacked_bytes >= TCP_ACK_BYTES && conn->state == TCP_CONN_CONNECTED) {
		conn->tx.ack_wanted = true;
		sluice_tcp_push(conn);
	}
	return count;
}

/* One system call. True when there may be more to read. */
static bool read_some(struct sluice_conn *conn)
{
	struct tcp_rx *rx = &conn->rx;
	struct msghdr message = {0};
	struct iovec head = {rx->buffer + rx->have_bytes, sizeof(rx->buffer) - rx->have_bytes};
	size_t wanted = rx->batch_bytes + head.iov_len;
	bool direct = rx->batch_bytes > 0; /* else: a head, or the sum behind a payload */
	ssize_t got;

	if (!direct) {
		message.msg_iov = &head;
		message.msg_iovlen = 1;
	} else {
		uint32_t end = rx->iov_count;

		SLUICE_ASSERT(rx->have_bytes == 0);
		if (rx->extent_next == rx->extent_count)
			rx->iov[end++] = head;
		else
			wanted = rx->batch_bytes;
		message.msg_iov = rx->iov + rx->iov_first;
		message.msg_iovlen = end - rx->iov_first;
	}
	got = recvmsg(conn->fd, &message, 0);
	tcp_stat_add(&conn->stats.syscalls_in, 1);
	if (got < 0 && (errno == EAGAIN || errno == EINTR))
		return false;
	if (got <= 0) {
		sluice_tcp_conn_lose(conn, got == 0 ? -ECONNRESET : -errno);
		return false;
	}
	tcp_stat_add(&conn->stats.bytes_in, (uint64_t)got);
	if (direct) {
		uint32_t placed = (size_t)got < rx->batch_bytes ? (uint32_t)got : rx->batch_bytes;

		batch_advance(rx, placed);
		rx->have_bytes = (uint32_t)got - placed;
	} else {
		rx->have_bytes += (uint32_t)got;
	}
	return (size_t)got == wanted;
}

uint32_t sluice_tcp_receive(struct sluice_conn *conn, struct sluice_event *events, uint32_t max)
{
	struct tcp_rx *rx = &conn->rx;
	bool more = true;
	uint32_t count;

	rx->message_count = 0;
	rx->placed_now_bytes = 0;
	if (rx->in_payload && rx->generation != atomic_load(&conn->rail->mems_generation) &&
		!data_still_valid(conn)) {
		sluice_tcp_conn_lose(conn, -EPROTO);
		return 0;
	}
	count = process(conn, events, max);
	for (uint32_t i = 0; i < TCP_POLL_READS_MAX && more; i++) {
		if (conn->state != TCP_CONN_CONNECTED || rx->stalled)
			break;
		more = read_some(conn);
		if (conn->state != TCP_CONN_CONNECTED)
			break;
		count += process(conn, events + count, max - count);
	}
	/* Whoever waits for us must not wait longer; and the last of so many reads, although it brought
	   all that it asked for, may have brought the last byte that comes. */
	if (!rx->stalled)
		conn->tx.ack_wanted = true;
	return count;
}
