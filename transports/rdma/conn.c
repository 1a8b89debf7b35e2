/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * conn.c: a lane's connection from open to close, and how its worker polls and sleeps.
 *
 * open, fence and close: control thread. poll and arm: the lane's worker. They call what verbs
 * define for this: post, poll and ask for a notification. A software device (rxe) enters the
 * kernel there, and never waits.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"
#include "transports/rdma/internal.h"

void sluice_rdma_conn_lose(struct sluice_conn *conn, int status)
{
	uint64_t one = 1;

	SLUICE_ASSERT(status < 0);
	if (conn->lost)
		return;
	conn->lost = true;
	conn->lost_status = status;
	/* The control thread tells the peer: that is nothing for a worker. */
	atomic_store(&conn->wants_disconnect, true);
	if (write(conn->rail->wake_fd, &one, sizeof(one)) < 0)
		SLUICE_ASSERT(errno == EAGAIN);
}

/* ---- opening ---- */

static void hello_fill(struct sluice_conn *conn, const struct sluice_lane_opts *opts)
{
	conn->hello = (struct rdma_hello){
		.magic = sluice_put32(RDMA_HELLO_MAGIC),
		.version = sluice_put16(RDMA_WIRE_VERSION),
		.receives = sluice_put16(RDMA_RECEIVES),
		.lane = sluice_put32(opts->lane),
		.epoch = sluice_put32(opts->epoch),
	};
	memcpy(conn->hello.ticket, opts->ticket.secret, sizeof(conn->hello.ticket));
}

static int open_buffers(struct sluice_conn *conn, struct sluice_error *err)
{
	void *addr = mmap(NULL, sizeof(*conn->buffers), PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (addr == MAP_FAILED)
		return sluice_fail(err, -ENOMEM, "rdma-lane", "out of memory");
	conn->buffers = addr;
	conn->buffers_mr =
		ibv_reg_mr(conn->rail->pd, addr, sizeof(*conn->buffers), IBV_ACCESS_LOCAL_WRITE);
	if (conn->buffers_mr == NULL)
		return sluice_fail(err, -errno, "rdma-lane",
			"cannot register %zu KiB for a lane: %m; if it is the memlock limit, "
			"`sluice preflight` says what is needed",
			sizeof(*conn->buffers) >> 10);
	return 0;
}

/* Inline data saves the NIC a read; not all of them can. */
static int open_qp(struct sluice_conn *conn, uint32_t requests, struct sluice_error *err)
{
	static const uint32_t inline_bytes[] = {
		RDMA_MESSAGE_BYTES_MAX, sizeof(struct rdma_message) + sizeof(struct rdma_zero), 0};

	for (size_t i = 0; i < sizeof(inline_bytes) / sizeof(inline_bytes[0]); i++) {
		struct ibv_qp_init_attr attr = {
			.send_cq = conn->cq,
			.recv_cq = conn->cq,
			.cap = {.max_send_wr = requests,
				.max_recv_wr = RDMA_RECEIVES,
				.max_send_sge = 1,
				.max_recv_sge = 1,
				.max_inline_data = inline_bytes[i]},
			.qp_type = IBV_QPT_RC,
		};

		conn->qp = ibv_create_qp(conn->rail->pd, &attr);
		if (conn->qp != NULL) {
			conn->qp_number = conn->qp->qp_num;
			conn->tx.inline_bytes_max = attr.cap.max_inline_data;
			conn->tx.requests_max = requests;
			return 0;
		}
	}
	return sluice_fail(err, -errno, "rdma-lane", "%s has no queue pair for another lane: %m",
		conn->rail->device_name);
}

/* A completion, or the end of the device, wakes the worker. */
static int open_sleep(struct sluice_conn *conn)
{
	struct epoll_event event = {.events = EPOLLIN};

	conn->sleep_fd = epoll_create1(EPOLL_CLOEXEC);
	if (conn->sleep_fd < 0 ||
		epoll_ctl(conn->sleep_fd, EPOLL_CTL_ADD, conn->channel->fd, &event) < 0 ||
		epoll_ctl(conn->sleep_fd, EPOLL_CTL_ADD, conn->rail->gone_fd, &event) < 0)
		return -errno;
	return 0;
}

static int open_queues(struct sluice_conn *conn, struct sluice_error *err)
{
	struct ibv_context *verbs = conn->rail->verbs;
	struct sluice_rail_limits limits;
	uint32_t requests;
	int flags;

	sluice_transport_rdma.rail_limits(conn->rail, &limits);
	requests = limits.depth_max + RDMA_CONTROL_REQUESTS;
	conn->channel = ibv_create_comp_channel(verbs);
	if (conn->channel == NULL)
		return sluice_fail(
			err, -errno, "rdma-lane", "cannot create a completion channel: %m");
	flags = fcntl(conn->channel->fd, F_GETFL);
	if (flags < 0 || fcntl(conn->channel->fd, F_SETFL, flags | O_NONBLOCK) < 0)
		return sluice_fail(err, -errno, "rdma-lane", "a channel that always waits: %m");
	if (open_sleep(conn) < 0)
		return sluice_fail(err, -errno, "rdma-lane", "cannot watch a channel: %m");
	conn->cq = ibv_create_cq(verbs, (int)(requests + RDMA_RECEIVES), conn, conn->channel, 0);
	if (conn->cq == NULL)
		return sluice_fail(err, -errno, "rdma-lane",
			"%s has no completion queue for another lane: %m", conn->rail->device_name);
	return open_qp(conn, requests, err);
}

/*
 * A driver may say of a device that has died under it that its queue pairs are destroyed (mlx5
 * does), but not that it answers questions. News of it that nobody has read yet may be its end.
 */
static bool device_answers(const struct sluice_rail *rail)
{
	struct pollfd news = {.fd = rail->verbs->async_fd, .events = POLLIN};
	struct ibv_port_attr port;

	return ibv_query_port(rail->verbs, rail->id->port_num, &port) == 0 &&
	       poll(&news, 1, 0) == 0;
}

static void destroy_qp(struct sluice_conn *conn)
{
	if (conn->qp == NULL)
		return;
	if (ibv_destroy_qp(conn->qp) != 0 || !device_answers(conn->rail))
		conn->unsure = true;
	conn->qp = NULL;
}

void sluice_rdma_conn_release(struct sluice_conn *conn)
{
	destroy_qp(conn);
	if (conn->id != NULL)
		rdma_destroy_id(conn->id);
	conn->id = NULL;
	if (conn->cq != NULL) {
		ibv_ack_cq_events(conn->cq, conn->channel_events);
		ibv_destroy_cq(conn->cq);
	}
	conn->cq = NULL;
	if (conn->channel != NULL)
		ibv_destroy_comp_channel(conn->channel);
	conn->channel = NULL;
	if (conn->buffers_mr != NULL)
		ibv_dereg_mr(conn->buffers_mr);
	conn->buffers_mr = NULL;
}

static void conn_destroy(struct sluice_conn *conn)
{
	sluice_rdma_conn_release(conn);
	if (conn->buffers != NULL)
		munmap(conn->buffers, sizeof(*conn->buffers));
	if (conn->opened_fd >= 0)
		close(conn->opened_fd);
	if (conn->sleep_fd >= 0)
		close(conn->sleep_fd);
	free(conn);
}

int sluice_rdma_lane_open(struct sluice_rail *rail, const struct sluice_lane_opts *opts,
	struct sluice_conn **ret_conn, struct sluice_error *err)
{
	struct sluice_conn *conn;
	int r;

	if (rail->gone)
		return sluice_rdma_say_removed(rail, err);
	if (opts->role == SLUICE_ROLE_TARGET && !rail->listening)
		return sluice_fail(err, -EINVAL, "rdma-lane",
			"the rail does not listen, so nobody could connect this lane");
	/* Written to here, so that a running lane takes no page faults on it. */
	conn = aligned_alloc(64, (sizeof(*conn) + 63) / 64 * 64);
	if (conn == NULL)
		return sluice_fail(err, -ENOMEM, "rdma-lane", "out of memory");
	memset(conn, 0, sizeof(*conn));
	conn->rail = rail;
	conn->role = opts->role;
	conn->deadline_ns = opts->deadline_ns;
	conn->sleep_fd = -1;
	atomic_init(&conn->phase, RDMA_OPENING);
	hello_fill(conn, opts);
	conn->opened_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (conn->opened_fd < 0)
		r = sluice_fail(err, -errno, "rdma-lane", "cannot create an eventfd: %m");
	else
		r = open_buffers(conn, err);
	if (r == 0)
		r = open_queues(conn, err);
	if (r == 0 && opts->role == SLUICE_ROLE_SOURCE)
		r = sluice_rdma_cm_connect(conn, opts->peer_address, err);
	if (r < 0) {
		conn_destroy(conn);
		return r;
	}
	conn->next = rail->conns;
	rail->conns = conn;
	*ret_conn = conn;
	return 0;
}

/* ---- the end ---- */

/*
 * The queue pair is the permission to write. When destroying it has returned, the NIC has
 * finished what it had begun to store and takes nothing more for that number: what the source or
 * the network still hold finds no queue pair. What was placed was stored before: the NIC's answer
 * to the destruction comes behind its own writes. Without that answer nobody knows.
 */
bool sluice_rdma_lane_fence(struct sluice_conn *conn)
{
	atomic_store(&conn->phase, RDMA_CLOSED);
	if (conn->qp != NULL) {
		if (conn->id != NULL)
			sluice_rdma_cm_disconnect(conn);
		destroy_qp(conn);
	}
	sluice_rdma_conn_lose(conn, -ESHUTDOWN);
	/* What was complete is not reported any more: the lane's state is gone. */
	conn->tx.op_head = conn->tx.op_tail;
	conn->rx.stash_next = conn->rx.stash_count;
	return !conn->unsure;
}

void sluice_rdma_lane_close(struct sluice_conn *conn)
{
	struct sluice_conn **link;

	if (conn == NULL)
		return;
	sluice_rdma_lane_fence(conn);
	for (link = &conn->rail->conns; *link != conn; link = &(*link)->next)
		SLUICE_ASSERT(*link != NULL);
	*link = conn->next;
	sluice_rdma_mem_drain(conn->rail);
	conn_destroy(conn);
}

const struct sluice_conn_stats *sluice_rdma_lane_stats(const struct sluice_conn *conn)
{
	return &conn->stats;
}

/* ---- completions ---- */

static int status_of(enum ibv_wc_status status)
{
	switch (status) {
	case IBV_WC_WR_FLUSH_ERR:
		return -ECONNRESET; /* the queue pair ended */
	case IBV_WC_RETRY_EXC_ERR:
		return -ECONNRESET; /* the peer is silent */
	case IBV_WC_REM_ACCESS_ERR:
		return -EACCES;
	case IBV_WC_LOC_PROT_ERR:
		return -EFAULT;
	case IBV_WC_REM_INV_REQ_ERR:
	case IBV_WC_REM_OP_ERR:
	case IBV_WC_RNR_RETRY_EXC_ERR:
	case IBV_WC_LOC_LEN_ERR:
		return -EPROTO;
	default:
		return -EIO;
	}
}

static void lose_by_completion(struct sluice_conn *conn, const struct ibv_wc *wc)
{
	int known = atomic_load(&conn->failed_status);

	if (conn->lost)
		return;
	conn->lost_wc_status = wc->status;
	conn->lost_vendor_error = wc->vendor_err;
	/* Where the queue pair was ended, whoever ended it knows why. */
	if (wc->status == IBV_WC_WR_FLUSH_ERR && known != 0)
		sluice_rdma_conn_lose(conn, known);
	else
		sluice_rdma_conn_lose(conn, status_of(wc->status));
}

/* Our work requests are numbered from 0; receive buffers are negative numbers. */
static bool is_receive(const struct ibv_wc *wc)
{
	return (int64_t)wc->wr_id < 0;
}

/* False: no room for what it says; it stays in the stash. */
static bool take(struct sluice_conn *conn, const struct ibv_wc *wc, struct sluice_event *events,
	uint32_t *count, uint32_t max)
{
	if (wc->status != IBV_WC_SUCCESS) {
		lose_by_completion(conn, wc);
		return true;
	}
	if (is_receive(wc))
		return sluice_rdma_receive(
			conn, (uint32_t)~wc->wr_id, wc->byte_len, events, count, max);
	/* One covers all before it. */
	atomic_store_explicit(&conn->requests_completed, wc->wr_id + 1, memory_order_relaxed);
	return true;
}

static bool fill_stash(struct sluice_conn *conn)
{
	int got = ibv_poll_cq(conn->cq, RDMA_STASH, conn->rx.stash);

	rdma_stat_add(&conn->stats.syscalls_in, 1);
	conn->rx.stash_next = 0;
	conn->rx.stash_count = got > 0 ? (uint32_t)got : 0;
	if (got < 0)
		sluice_rdma_conn_lose(conn, -EIO);
	return got > 0;
}

/* Returns whether the queue was seen empty. */
static bool take_all(
	struct sluice_conn *conn, struct sluice_event *events, uint32_t *count, uint32_t max)
{
	struct rdma_rx *rx = &conn->rx;

	for (uint32_t taken = 0; taken < RDMA_POLL_COMPLETIONS; taken++) {
		if (rx->stash_next == rx->stash_count && !fill_stash(conn))
			return true;
		if (!take(conn, &rx->stash[rx->stash_next], events, count, max))
			return false;
		rx->stash_next++;
	}
	return false;
}

/* ---- stepping ---- */

/* Only acknowledged when the queue is destroyed: that takes a mutex. */
static void take_notifications(struct sluice_conn *conn)
{
	struct ibv_cq *cq;
	void *ctx;

	while (ibv_get_cq_event(conn->channel, &cq, &ctx) == 0) {
		conn->channel_events++;
		conn->rx.armed = false;
	}
}

static void before_connected(struct sluice_conn *conn, uint64_t now_ns)
{
	int opening = RDMA_OPENING;

	switch (atomic_load(&conn->phase)) {
	case RDMA_OPENING:
		if (now_ns >= conn->deadline_ns &&
			atomic_compare_exchange_strong(&conn->phase, &opening, RDMA_CLOSED))
			sluice_rdma_conn_lose(conn, -ETIMEDOUT);
		break;
	case RDMA_FAILED:
		sluice_rdma_conn_lose(conn, atomic_load(&conn->failed_status));
		break;
	default:
		break;
	}
}

static uint32_t poll_connected(struct sluice_conn *conn, struct sluice_event *events, uint32_t max)
{
	/* Looked at first: what completed before is reported before. */
	int gone = atomic_load(&conn->failed_status);
	uint32_t count = 0;
	bool empty;

	if (!conn->connected) {
		conn->connected = true;
		events[count++] = (struct sluice_event){.kind = SLUICE_EVENT_CONNECTED};
	}
	if (conn->rx.armed)
		take_notifications(conn);
	conn->rx.inbox_count = 0;
	conn->rx.zeroed_bytes = 0;
	empty = take_all(conn, events, &count, max);
	if (empty && gone != 0)
		sluice_rdma_conn_lose(conn, gone);
	if (!conn->lost) {
		sluice_rdma_repost(conn);
		sluice_rdma_acknowledge(conn);
	}
	return count + sluice_rdma_complete(conn, events + count, max - count);
}

/* What is known to have been placed is still reported; what lies in the queue is not known. */
static uint32_t poll_removed(struct sluice_conn *conn, struct sluice_event *events, uint32_t max)
{
	if (!conn->lost)
		sluice_rdma_conn_lose(conn, atomic_load(&conn->failed_status));
	conn->rx.stash_next = conn->rx.stash_count;
	return sluice_rdma_complete(conn, events, max);
}

uint32_t sluice_rdma_poll(
	struct sluice_conn *conn, struct sluice_event *events, uint32_t max, uint64_t now_ns)
{
	uint32_t count = 0;

	if (max == 0 || conn->lost_reported)
		return 0;
	atomic_store(&conn->polling, true); /* pairs with mem_unregister, and a removal */
	if (!conn->connected && !conn->lost)
		before_connected(conn, now_ns);
	if (atomic_load(&conn->phase) == RDMA_READY)
		count = poll_connected(conn, events, max);
	else if (atomic_load(&conn->phase) == RDMA_REMOVED)
		count = poll_removed(conn, events, max);
	if (conn->lost && count < max && !sluice_rdma_can_complete(conn) &&
		conn->rx.stash_next == conn->rx.stash_count) {
		conn->lost_reported = true;
		events[count++] = (struct sluice_event){
			.kind = SLUICE_EVENT_LOST,
			.status = conn->lost_status,
		};
	}
	atomic_store_explicit(&conn->polling, false, memory_order_release);
	return count;
}

/* Returns whether the worker may sleep. */
static bool ask_for_notice(struct sluice_conn *conn)
{
	if (atomic_load(&conn->phase) != RDMA_READY)
		return false;
	if (!conn->rx.armed) {
		if (ibv_req_notify_cq(conn->cq, 0) != 0)
			return false;
		conn->rx.armed = true;
	}
	/* What came before the notification was asked for is not notified. */
	return !fill_stash(conn) && !conn->lost;
}

bool sluice_rdma_arm(struct sluice_conn *conn, struct sluice_arm *ret_arm)
{
	bool may_sleep;

	*ret_arm = (struct sluice_arm){
		.fd = conn->opened_fd,
		.events = POLLIN,
		.deadline_ns = SLUICE_NEVER,
	};
	if (conn->lost) {
		ret_arm->fd = -1;
		return conn->lost_reported;
	}
	if (!conn->connected) {
		ret_arm->deadline_ns = conn->deadline_ns;
		return atomic_load(&conn->phase) == RDMA_OPENING;
	}
	ret_arm->fd = conn->sleep_fd;
	if (conn->rx.stash_next < conn->rx.stash_count || sluice_rdma_can_complete(conn))
		return false;
	atomic_store(&conn->polling, true); /* pairs with a removal */
	may_sleep = ask_for_notice(conn);
	atomic_store_explicit(&conn->polling, false, memory_order_release);
	return may_sleep;
}
