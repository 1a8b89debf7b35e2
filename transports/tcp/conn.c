/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * conn.c: a lane's connection from open to close: who speaks first, how it is lost, how a
 * worker sleeps on it. send.c and receive.c do the work in between.
 *
 * open, fence and close: control thread. poll and arm: the lane's worker; they make
 * non-blocking system calls and nothing else that could wait.
 */
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"
#include "transports/tcp/internal.h"

void sluice_tcp_conn_lose(struct sluice_conn *conn, int status)
{
	SLUICE_ASSERT(status < 0);
	if (conn->state == TCP_CONN_LOST)
		return;
	conn->state = TCP_CONN_LOST;
	conn->lost_status = status;
	if (conn->fd >= 0) {
		sluice_tcp_zerocopy_abort(conn);
		close(conn->fd);
	}
	conn->fd = -1;
}

/* No more handing over; returns a socket that was handed over and not taken yet, or -1. */
static int handover_close(struct sluice_conn *conn)
{
	int fd = atomic_exchange(&conn->handover, TCP_HANDOVER_CLOSED);

	return fd >= 0 ? fd : -1;
}

/* ---- opening ---- */

static void greeting_seal(struct sluice_conn *conn)
{
	conn->hello.checksum = sluice_put64(tcp_checksum(&conn->hello, sizeof(conn->hello)));
	conn->welcome.checksum = sluice_put64(tcp_checksum(&conn->welcome, sizeof(conn->welcome)));
}

/* A TARGET expects a hello without flags: what is said about them is taken out before. */
static void greeting_fill(struct sluice_conn *conn, const struct sluice_lane_opts *opts)
{
	uint16_t flags = conn->checksum ? TCP_FLAG_CHECKSUM : 0;
	struct tcp_hello *hello = &conn->hello;
	struct tcp_welcome *welcome = &conn->welcome;

	*hello = (struct tcp_hello){
		.magic = sluice_put32(TCP_HELLO_MAGIC),
		.version = sluice_put16(TCP_WIRE_VERSION),
		.flags = sluice_put16(flags),
		.lane = sluice_put32(opts->lane),
		.epoch = sluice_put32(opts->epoch),
	};
	memcpy(hello->ticket, opts->ticket.secret, sizeof(hello->ticket));

	*welcome = (struct tcp_welcome){
		.magic = sluice_put32(TCP_WELCOME_MAGIC),
		.version = sluice_put16(TCP_WIRE_VERSION),
		.flags = sluice_put16(flags),
		.lane = sluice_put32(opts->lane),
		.epoch = sluice_put32(opts->epoch),
	};
	greeting_seal(conn);
}

/* The worker sees it behind the handover. */
void sluice_tcp_greeting_agree(struct sluice_conn *conn, bool checksum)
{
	conn->checksum = checksum;
	conn->welcome.flags = sluice_put16(checksum ? TCP_FLAG_CHECKSUM : 0);
	greeting_seal(conn);
}

static int open_target(struct sluice_conn *conn, struct sluice_error *err)
{
	if (conn->rail->listen_fd < 0)
		return sluice_fail(err, -EINVAL, "tcp-lane",
			"the rail does not listen, so nobody could connect this lane");
	conn->handover_eventfd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (conn->handover_eventfd < 0)
		return sluice_fail(err, -errno, "tcp-lane", "cannot create an eventfd: %m");
	atomic_store(&conn->handover, TCP_HANDOVER_OPEN);
	conn->state = TCP_CONN_WAITING;
	return 0;
}

/* Lanes of a rail that was given an address leave from it, from any port. */
static int bind_local(const struct sluice_conn *conn, struct sluice_error *err)
{
	struct sluice_inet local = conn->rail->address;
	char text[SLUICE_ADDRESS_MAX];
	int on = 1;

	if (!conn->rail->address_given)
		return 0;
	sluice_inet_set_port(&local, 0);
	setsockopt(conn->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof(on));
	if (bind(conn->fd, &local.u.any, local.len) == 0)
		return 0;
	sluice_inet_format(&local, text);
	return sluice_fail(err, -errno, "tcp-lane", "cannot leave from %s: %m", text);
}

static int open_source(
	struct sluice_conn *conn, const struct sluice_lane_opts *opts, struct sluice_error *err)
{
	int r = sluice_inet_parse(opts->peer_address, &conn->peer, err);

	if (r < 0)
		return r;
	if (sluice_inet_port(&conn->peer) == 0)
		return sluice_fail(err, -EINVAL, "tcp-lane", "%s has no port", opts->peer_address);
	conn->fd =
		socket(conn->peer.u.any.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (conn->fd < 0)
		return sluice_fail(err, -errno, "tcp-lane", "cannot open a socket: %m");
	sluice_tcp_socket_setup(conn->rail, conn->fd, sluice_inet_is_loopback(&conn->peer));
	sluice_tcp_zerocopy_setup(conn);
	conn->state = TCP_CONN_CONNECTING;
	return bind_local(conn, err);
}

int sluice_tcp_lane_open(struct sluice_rail *rail, const struct sluice_lane_opts *opts,
	struct sluice_conn **ret_conn, struct sluice_error *err)
{
	struct sluice_conn *conn;
	int r;

	/* Zeros, and not touched as a whole: of many lanes most carry little, and to allocate what
	   they never use (100 KiB each) was half of what opening them took. */
	conn = mmap(
		NULL, sizeof(*conn), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (conn == MAP_FAILED)
		return sluice_fail(err, -ENOMEM, "tcp-lane", "out of memory");
	conn->rail = rail;
	conn->role = opts->role;
	conn->fd = -1;
	conn->handover_eventfd = -1;
	conn->deadline_ns = opts->deadline_ns;
	atomic_init(&conn->handover, TCP_HANDOVER_CLOSED);
	conn->checksum = opts->role == SLUICE_ROLE_SOURCE &&
			 (rail->conf.checksum != TCP_CHECKSUM_NONE || rail->peer_checksum);
	greeting_fill(conn, opts);
	if (sluice_tcp_checksum_open(conn) < 0) {
		r = sluice_fail(err, -ENOMEM, "tcp-lane", "out of memory");
		goto out_free;
	}
	r = opts->role == SLUICE_ROLE_TARGET ? open_target(conn, err)
					     : open_source(conn, opts, err);
	if (r < 0)
		goto out_free;
	conn->next = rail->conns;
	rail->conns = conn;
	*ret_conn = conn;
	return 0;

out_free:
	if (conn->fd >= 0)
		close(conn->fd);
	sluice_tcp_checksum_close(conn);
	munmap(conn, sizeof(*conn));
	return r;
}

/* ---- the end ---- */

/*
 * Nothing lands without this process reading the socket, and only poll reads it, which does
 * not run now (the contract) and finds no socket later.
 */
bool sluice_tcp_lane_fence(struct sluice_conn *conn)
{
	int fd = handover_close(conn);

	if (fd >= 0)
		close(fd);
	sluice_tcp_conn_lose(conn, -ESHUTDOWN);
	/* What the peer had acknowledged is not reported any more: the lane's state is gone. */
	conn->tx.inflight_head = conn->tx.inflight_tail;
	return true; /* nothing is acknowledged before it is stored */
}

void sluice_tcp_lane_close(struct sluice_conn *conn)
{
	struct sluice_conn **link;

	if (conn == NULL)
		return;
	sluice_tcp_lane_fence(conn);
	for (link = &conn->rail->conns; *link != conn; link = &(*link)->next)
		SLUICE_ASSERT(*link != NULL);
	*link = conn->next;
	if (conn->handover_eventfd >= 0)
		close(conn->handover_eventfd);
	sluice_tcp_checksum_close(conn);
	munmap(conn, sizeof(*conn));
}

const struct sluice_conn_stats *sluice_tcp_lane_stats(const struct sluice_conn *conn)
{
	return &conn->stats;
}

/* ---- connecting ---- */

static void take_handover(struct sluice_conn *conn)
{
	int fd;

	if (atomic_load_explicit(&conn->handover, memory_order_relaxed) < 0)
		return;
	fd = handover_close(conn);
	SLUICE_ASSERT(fd >= 0);
	conn->fd = fd;
	conn->state = TCP_CONN_CONNECTED;
}

static void connect_step(struct sluice_conn *conn)
{
	conn->connect_started = true;
	/* Asked again, connect says how the first one went. */
	if (connect(conn->fd, &conn->peer.u.any, conn->peer.len) == 0 || errno == EISCONN)
		conn->state = TCP_CONN_GREETING;
	else if (errno != EINPROGRESS && errno != EALREADY && errno != EINTR)
		sluice_tcp_conn_lose(conn, -errno);
}

static bool retry_later(int error)
{
	return error == EAGAIN || error == EINTR;
}

static void hello_step(struct sluice_conn *conn)
{
	const uint8_t *bytes = (const uint8_t *)&conn->hello;
	ssize_t sent = send(conn->fd, bytes + conn->greeting_out_bytes,
		sizeof(conn->hello) - conn->greeting_out_bytes, MSG_NOSIGNAL);

	if (sent >= 0) {
		conn->greeting_out_bytes += (uint32_t)sent;
		tcp_stat_add(&conn->stats.bytes_out, (uint64_t)sent);
		tcp_stat_add(&conn->stats.syscalls_out, 1);
	} else if (!retry_later(errno)) {
		sluice_tcp_conn_lose(conn, -ECONNREFUSED);
	}
}

static void welcome_step(struct sluice_conn *conn)
{
	uint8_t bytes[sizeof(conn->welcome)];
	uint32_t have = conn->greeting_in_bytes;
	ssize_t got = recv(conn->fd, bytes, sizeof(bytes) - have, 0);

	if (got < 0 && retry_later(errno))
		return;
	if (got <= 0) { /* refused: the ticket, the lane, or the version */
		sluice_tcp_conn_lose(conn, -ECONNREFUSED);
		return;
	}
	tcp_stat_add(&conn->stats.bytes_in, (uint64_t)got);
	tcp_stat_add(&conn->stats.syscalls_in, 1);
	/* Only one answer is right, so it is compared as it comes, whatever the pieces. */
	if (memcmp(bytes, (const uint8_t *)&conn->welcome + have, (size_t)got) != 0) {
		sluice_tcp_conn_lose(conn, -EPROTO);
		return;
	}
	conn->greeting_in_bytes += (uint32_t)got;
	if (conn->greeting_in_bytes == sizeof(conn->welcome))
		conn->state = TCP_CONN_CONNECTED;
}

static void before_connected(struct sluice_conn *conn, uint64_t now_ns)
{
	if (conn->state == TCP_CONN_WAITING)
		take_handover(conn);
	if (conn->state == TCP_CONN_CONNECTING)
		connect_step(conn);
	if (conn->state == TCP_CONN_GREETING && conn->greeting_out_bytes < sizeof(conn->hello))
		hello_step(conn);
	if (conn->state == TCP_CONN_GREETING && conn->greeting_out_bytes == sizeof(conn->hello))
		welcome_step(conn);
	if (conn->state < TCP_CONN_CONNECTED && now_ns >= conn->deadline_ns) {
		int fd = handover_close(conn);

		if (fd >= 0)
			close(fd);
		sluice_tcp_conn_lose(conn, -ETIMEDOUT);
	}
}

/* ---- stepping ---- */

static uint32_t poll_connected(struct sluice_conn *conn, struct sluice_event *events, uint32_t max)
{
	uint32_t count = 0;

	if (!conn->connected_reported) {
		conn->connected_reported = true;
		events[count++] = (struct sluice_event){.kind = SLUICE_EVENT_CONNECTED};
	}
	sluice_tcp_zerocopy_reap(conn);
	count += sluice_tcp_complete(conn, events + count, max - count);
	count += sluice_tcp_receive(conn, events + count, max - count);
	count += sluice_tcp_complete(conn, events + count, max - count);
	if (conn->state == TCP_CONN_CONNECTED)
		sluice_tcp_push(conn);
	return count;
}

uint32_t sluice_tcp_poll(
	struct sluice_conn *conn, struct sluice_event *events, uint32_t max, uint64_t now_ns)
{
	uint32_t count = 0;

	if (max == 0)
		return 0;
	atomic_store(&conn->polling, true); /* pairs with mem_unregister */
	if (conn->state < TCP_CONN_CONNECTED)
		before_connected(conn, now_ns);
	if (conn->state == TCP_CONN_CONNECTED)
		count = poll_connected(conn, events, max);
	if (conn->state == TCP_CONN_LOST && !conn->lost_reported) {
		count += sluice_tcp_complete(conn, events + count, max - count);
		if (count < max && !sluice_tcp_can_complete(conn)) {
			conn->lost_reported = true;
			events[count++] = (struct sluice_event){
				.kind = SLUICE_EVENT_LOST,
				.status = conn->lost_status,
			};
		}
	}
	atomic_store_explicit(&conn->polling, false, memory_order_release);
	return count;
}

bool sluice_tcp_arm(struct sluice_conn *conn, struct sluice_arm *ret_arm)
{
	*ret_arm = (struct sluice_arm){
		.fd = conn->fd,
		.events = POLLIN,
		.deadline_ns = SLUICE_NEVER,
	};
	switch (conn->state) {
	case TCP_CONN_WAITING:
		ret_arm->fd = conn->handover_eventfd;
		ret_arm->deadline_ns = conn->deadline_ns;
		return true;
	case TCP_CONN_CONNECTING:
		ret_arm->events = POLLOUT;
		ret_arm->deadline_ns = conn->deadline_ns;
		/* Not called connect yet: the kernel has nothing to tell us. */
		return conn->connect_started;
	case TCP_CONN_GREETING:
		if (conn->greeting_out_bytes < sizeof(conn->hello))
			ret_arm->events = POLLOUT;
		ret_arm->deadline_ns = conn->deadline_ns;
		return true;
	case TCP_CONN_CONNECTED:
		if (conn->tx.frame_head != conn->tx.frame_tail)
			ret_arm->events |= POLLOUT;
		return conn->connected_reported && !conn->rx.stalled &&
		       !sluice_tcp_can_complete(conn);
	case TCP_CONN_LOST:
		return conn->lost_reported;
	}
	return false;
}
