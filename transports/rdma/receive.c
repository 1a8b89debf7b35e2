/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * receive.c: messages that have come, and the receives that take them.
 *
 * The lane's worker. Every field of a message is checked before it is used; what is not exactly
 * as wire.h says ends the connection.
 */
#include <errno.h>
#include <string.h>

#include "base/assert.h"
#include "base/bits.h"
#include "base/zero.h"
#include "transports/rdma/internal.h"

static void prepare(struct sluice_conn *conn, uint32_t slot)
{
	struct rdma_rx *rx = &conn->rx;
	uint32_t i = rx->repost_count++;

	rx->repost_sges[i] = (struct ibv_sge){
		.addr = (uintptr_t)conn->buffers->receive[slot],
		.length = RDMA_MESSAGE_BYTES_MAX,
		.lkey = conn->buffers_mr->lkey,
	};
	rx->repost[i] = (struct ibv_recv_wr){
		.wr_id = ~(uint64_t)slot,
		.next = &rx->repost[i] + 1, /* the last one's is cut off when they are posted */
		.sg_list = &rx->repost_sges[i],
		.num_sge = 1,
	};
}

static int post_prepared(struct sluice_conn *conn)
{
	struct rdma_rx *rx = &conn->rx;
	struct ibv_recv_wr *bad;

	if (rx->repost_count == 0)
		return 0;
	rx->repost[rx->repost_count - 1].next = NULL;
	rx->repost_count = 0;
	return -ibv_post_recv(conn->qp, rx->repost, &bad);
}

int sluice_rdma_receives_post_all(struct sluice_conn *conn)
{
	int r = 0;

	for (uint32_t slot = 0; slot < RDMA_RECEIVES && r == 0; slot++) {
		prepare(conn, slot);
		if (conn->rx.repost_count == RDMA_REPOST)
			r = post_prepared(conn);
	}
	return r == 0 ? post_prepared(conn) : r;
}

void sluice_rdma_repost(struct sluice_conn *conn)
{
	uint32_t count = conn->rx.repost_count;

	if (post_prepared(conn) == 0)
		conn->rx.given += count;
	else
		sluice_rdma_conn_lose(conn, -EIO);
}

/* ---- messages ---- */

/* Of ZEROs, which a worker does. A NIC knows nothing of it: see README.md on keys. */
void sluice_rdma_mem_admit(struct sluice_mem *mem, bool admit)
{
	if (mem == NULL)
		return;
	SLUICE_ASSERT(mem->access & SLUICE_ACCESS_REMOTE_WRITE);
	atomic_store(&mem->admits, admit); /* ordered as the store in unregister: see there */
	if (!admit)
		sluice_rdma_wait_for_workers(mem->rail);
}

static bool zero_sound(const struct rdma_zero *zero, const struct sluice_mem *mem)
{
	uint64_t offset = sluice_get64(zero->offset);
	uint32_t len_bytes = sluice_get32(zero->len_bytes);

	return mem != NULL && atomic_load(&mem->admits) && len_bytes > 0 &&
	       len_bytes <= RDMA_OP_BYTES_MAX &&
	       sluice_is_aligned(offset | len_bytes, RDMA_ALIGN_BYTES) &&
	       sluice_range_inside(offset, len_bytes, mem->len_bytes);
}

static bool take_zero(struct sluice_conn *conn, const uint8_t *body, uint32_t body_bytes)
{
	const struct sluice_mem *mem;
	struct rdma_zero zero;

	if (conn->role != SLUICE_ROLE_TARGET || body_bytes != sizeof(zero))
		return false;
	memcpy(&zero, body, sizeof(zero));
	mem = sluice_rdma_mem_find(conn->rail, sluice_get32(zero.mem_id));
	if (!zero_sound(&zero, mem))
		return false;
	sluice_make_zero(mem->addr + sluice_get64(zero.offset), sluice_get32(zero.len_bytes));
	conn->rx.zeroed_bytes += sluice_get32(zero.len_bytes);
	conn->rx.done++;
	return true;
}

static void report(struct sluice_conn *conn, const uint8_t *body, uint32_t body_bytes,
	struct sluice_event *event)
{
	uint8_t *copy = conn->rx.inbox[conn->rx.inbox_count++];

	memcpy(copy, body, body_bytes);
	*event = (struct sluice_event){
		.kind = SLUICE_EVENT_RECEIVED,
		.len_bytes = body_bytes,
		.data = copy,
	};
	conn->rx.done++;
}

/* One message of sound length; false: it is not one of ours. */
static bool take_message(struct sluice_conn *conn, const struct rdma_message *head,
	const uint8_t *body, struct sluice_event *events, uint32_t *count)
{
	uint32_t body_bytes = sluice_get16(head->body_bytes);

	if (!sluice_rdma_told(conn, sluice_get32(head->given), sluice_get32(head->done)))
		return false;
	switch (head->kind) {
	case RDMA_MESSAGE_ACK:
		return body_bytes == 0;
	case RDMA_MESSAGE_ZERO:
		return take_zero(conn, body, body_bytes);
	case RDMA_MESSAGE_SEND:
		report(conn, body, body_bytes, &events[(*count)++]);
		return true;
	default:
		return false;
	}
}

bool sluice_rdma_receive(struct sluice_conn *conn, uint32_t slot, uint32_t bytes,
	struct sluice_event *events, uint32_t *count, uint32_t max)
{
	const uint8_t *buffer;
	struct rdma_message head;

	SLUICE_ASSERT(slot < RDMA_RECEIVES);
	if (conn->lost)
		return true;
	buffer = conn->buffers->receive[slot];
	memcpy(&head, buffer, sizeof(head));
	if (bytes < sizeof(head) || bytes > RDMA_MESSAGE_BYTES_MAX ||
		sluice_get32(head.magic) != RDMA_MESSAGE_MAGIC || head.reserved != 0 ||
		sluice_get16(head.body_bytes) != bytes - sizeof(head)) {
		sluice_rdma_conn_lose(conn, -EPROTO);
		return true;
	}
	if (head.kind == RDMA_MESSAGE_SEND && (*count == max || conn->rx.inbox_count == RDMA_INBOX))
		return false;
	if (head.kind == RDMA_MESSAGE_ZERO && conn->rx.zeroed_bytes >= RDMA_POLL_ZERO_BYTES)
		return false;
	rdma_stat_add(&conn->stats.bytes_in, bytes);
	if (!take_message(conn, &head, buffer + sizeof(head), events, count)) {
		sluice_rdma_conn_lose(conn, -EPROTO);
		return true;
	}
	prepare(conn, slot);
	if (conn->rx.repost_count == RDMA_REPOST)
		sluice_rdma_repost(conn);
	return true;
}
