/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * checksum.c: lanes whose payload carries a checksum. The lane's worker, except open and close.
 *
 * The guest may change a page while it is being sent, so payload is copied first, and the copy is
 * what is hashed and sent. It goes through one small buffer per lane; the hash of a frame's
 * payload follows the payload. The target places payload as ever, hashes what it has placed and
 * compares. Where that differs the connection ends: nothing of the frame is acknowledged, so all
 * of its pages are dirty again at the source and are written again before anybody uses them.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "transports/tcp/internal.h"

int sluice_tcp_checksum_open(struct sluice_conn *conn)
{
	bool source = conn->role == SLUICE_ROLE_SOURCE;

	/* A target learns only from the hello whether it needs this. */
	if (source && !conn->checksum)
		return 0;
	conn->hash = XXH3_createState();
	if (source) {
		conn->tx.bounce = malloc(TCP_BOUNCE_BYTES);
		if (conn->tx.bounce != NULL) /* no page faults while the lane runs */
			memset(conn->tx.bounce, 0, TCP_BOUNCE_BYTES);
	}
	if (conn->hash == NULL || (source && conn->tx.bounce == NULL)) {
		sluice_tcp_checksum_close(conn);
		return -ENOMEM;
	}
	return 0;
}

void sluice_tcp_checksum_close(struct sluice_conn *conn)
{
	XXH3_freeState(conn->hash);
	free(conn->tx.bounce);
	conn->hash = NULL;
	conn->tx.bounce = NULL;
}

/* ---- sending ---- */

/* The next piece of the frame's payload, and behind its last one the checksum. */
static void bounce_fill(struct sluice_conn *conn, struct tcp_tx_frame *frame)
{
	struct tcp_tx *tx = &conn->tx;

	tx->bounce_at = tx->bounce_end = 0;
	if (frame->checked)
		return;
	if (frame->copy_first == 1 && frame->copy_bytes == 0)
		XXH3_64bits_reset(conn->hash);
	while (frame->copy_first < frame->iov_count) {
		struct iovec *iov = &frame->iov[frame->copy_first];
		size_t room = TCP_BOUNCE_BYTES - sizeof(sluice_le64) - tx->bounce_end;
		size_t bytes = iov->iov_len < room ? iov->iov_len : room;

		memcpy(tx->bounce + tx->bounce_end, iov->iov_base, bytes);
		tx->bounce_end += (uint32_t)bytes;
		tcp_iov_advance(frame->iov, &frame->copy_first, frame->iov_count, bytes);
		if (bytes == room)
			break;
	}
	frame->copy_bytes += tx->bounce_end;
	XXH3_64bits_update(conn->hash, tx->bounce, tx->bounce_end);
	if (frame->copy_first == frame->iov_count) {
		sluice_le64 sum = sluice_put64(XXH3_64bits_digest(conn->hash));

		SLUICE_ASSERT(frame->copy_bytes == frame->payload_bytes);
		memcpy(tx->bounce + tx->bounce_end, &sum, sizeof(sum));
		tx->bounce_end += (uint32_t)sizeof(sum);
		frame->checked = true;
	}
}

uint32_t sluice_tcp_checksum_pieces(
	struct sluice_conn *conn, struct tcp_tx_frame *frame, struct iovec pieces[2])
{
	struct tcp_tx *tx = &conn->tx;
	uint32_t count = 0;

	if (tx->bounce_at == tx->bounce_end)
		bounce_fill(conn, frame);
	if (frame->iov_first == 0)
		pieces[count++] = frame->iov[0];
	if (tx->bounce_at < tx->bounce_end)
		pieces[count++] = (struct iovec){
			.iov_base = tx->bounce + tx->bounce_at,
			.iov_len = tx->bounce_end - tx->bounce_at,
		};
	return count;
}

void sluice_tcp_checksum_sent(struct sluice_conn *conn, struct tcp_tx_frame *frame, size_t bytes)
{
	if (frame->iov_first == 0) {
		size_t head = frame->iov[0].iov_len < bytes ? frame->iov[0].iov_len : bytes;

		tcp_iov_advance(frame->iov, &frame->iov_first, 1, head);
		bytes -= head;
	}
	conn->tx.bounce_at += (uint32_t)bytes;
	SLUICE_ASSERT(conn->tx.bounce_at <= conn->tx.bounce_end);
}

/* ---- receiving ---- */

void sluice_tcp_checksum_begin(struct sluice_conn *conn, uint32_t payload_bytes)
{
	conn->rx.hash_next = 0;
	conn->rx.sum_due = conn->checksum && payload_bytes > 0;
	if (conn->rx.sum_due)
		XXH3_64bits_reset(conn->hash);
}

/* All extents before extent_next are placed: those that are new here go into the sum. */
void sluice_tcp_checksum_placed(struct sluice_conn *conn)
{
	struct tcp_rx *rx = &conn->rx;

	for (; rx->hash_next < rx->extent_next; rx->hash_next++) {
		const struct tcp_extent *extent = &rx->extents[rx->hash_next];

		if (rx->sum_due && !extent->zero)
			XXH3_64bits_update(conn->hash, extent->addr, extent->len_bytes);
	}
}

bool sluice_tcp_checksum_right(struct sluice_conn *conn)
{
	sluice_le64 sum;

	memcpy(&sum, conn->rx.buffer, sizeof(sum));
	return sluice_get64(sum) == XXH3_64bits_digest(conn->hash);
}
