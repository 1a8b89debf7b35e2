/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * rail.c: a way out of this host: its listening socket, and connections that have not said
 * yet which lane they are. Control thread only. Never blocks: a stranger who says nothing
 * costs one slot for a few seconds.
 *
 * A stranger learns nothing: whatever is wrong with its hello, it sees a closed connection.
 */
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/secret.h"
#include "transports/tcp/internal.h"

#define LISTENER UINT32_MAX /* epoll's word for the listening socket; else a pending index */

static const char *const checksum_choices[] = {"none", "xxh3", NULL};

const struct sluice_param sluice_tcp_params[] = {
	{"nodelay", SLUICE_PARAM_BOOL, SLUICE_FIELD(struct tcp_conf, nodelay), "yes",
		.help = "send small frames at once (TCP_NODELAY)"},
	{"send-buffer", SLUICE_PARAM_SIZE, SLUICE_FIELD(struct tcp_conf, send_buffer_bytes), "0",
		.min = 0, .max = 1ull << 30,
		.help = "bytes the kernel keeps per lane to send; 0: 256 KiB within this host, "
			"else the kernel chooses"},
	{"receive-buffer", SLUICE_PARAM_SIZE, SLUICE_FIELD(struct tcp_conf, receive_buffer_bytes),
		"0", .min = 0, .max = 1ull << 30,
		.help = "bytes the kernel keeps per lane to receive; 0 lets the kernel choose"},
	{"zero-copy", SLUICE_PARAM_BOOL, SLUICE_FIELD(struct tcp_conf, zero_copy), "no",
		.help = "send guest memory without copying it first (MSG_ZEROCOPY); needs a NIC, "
			"loopback copies anyway"},
	{"checksum", SLUICE_PARAM_CHOICE, SLUICE_FIELD(struct tcp_conf, checksum), "none",
		.choices = checksum_choices,
		.help = "checksum of the payload, which is copied first; used when either end asks "
			"for it"},
	{NULL},
};

static bool address_is_local(const char *address)
{
	struct sluice_inet parsed;

	return sluice_inet_parse(address, &parsed, NULL) == 0 && sluice_inet_is_loopback(&parsed);
}

static int rail_open(const void *conf, const char *address, struct sluice_rail **ret_rail,
	struct sluice_error *err)
{
	struct sluice_rail *rail = calloc(1, sizeof(*rail));
	int r;

	if (rail == NULL)
		return sluice_fail(err, -ENOMEM, "tcp-rail", "out of memory");
	rail->conf = *(const struct tcp_conf *)conf;
	if (rail->conf.zero_copy && rail->conf.checksum != TCP_CHECKSUM_NONE) {
		r = sluice_fail(err, -EINVAL, "tcp-rail",
			"payload with a checksum is copied first, so zero-copy can have no effect; "
			"set zero-copy=no or checksum=none");
		goto out_free;
	}
	rail->listen_fd = -1;
	rail->address_given = address[0] != '\0';
	for (uint32_t i = 0; i < TCP_PENDING_MAX; i++)
		rail->pending[i].fd = -1;
	if (!rail->address_given)
		address = "127.0.0.1:0";
	r = sluice_inet_parse(address, &rail->address, err);
	if (r < 0)
		goto out_free;
	rail->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (rail->epoll_fd < 0) {
		r = sluice_fail(err, -errno, "tcp-rail", "cannot watch sockets: %m");
		goto out_free;
	}
	*ret_rail = rail;
	return 0;

out_free:
	free(rail);
	return r;
}

static void pending_close(struct sluice_rail *rail, struct tcp_pending *pending)
{
	close(pending->fd);
	pending->fd = -1;
	rail->pending_count--;
}

static void rail_close(struct sluice_rail *rail)
{
	if (rail == NULL)
		return;
	SLUICE_ASSERT(rail->conns == NULL);
	for (uint32_t i = 0; i < TCP_PENDING_MAX; i++) {
		if (rail->pending[i].fd >= 0)
			pending_close(rail, &rail->pending[i]);
	}
	if (rail->listen_fd >= 0)
		close(rail->listen_fd);
	close(rail->epoll_fd);
	free(rail);
}

static void rail_limits(const struct sluice_rail *rail, struct sluice_rail_limits *ret_limits)
{
	*ret_limits = (struct sluice_rail_limits){
		.caps = SLUICE_CAP_KERNEL_POLL,
		.align_bytes = TCP_ALIGN_BYTES,
		.op_bytes_max = TCP_OP_BYTES_MAX,
		.depth_max = TCP_DEPTH_MAX,
		.send_bytes_max = TCP_SEND_BYTES_MAX,
		.thread_bytes_max =
			sluice_inet_is_loopback(&rail->address) ? TCP_LOOPBACK_THREAD_BYTES : 0,
		.link_bytes_per_s = 0,
		.numa_node = -1,
	};
}

static const struct sluice_rail_stats *rail_stats(const struct sluice_rail *rail)
{
	return &rail->counters;
}

/* 0: as the kernel likes it. */
static void set_buffer(int fd, int option, uint64_t bytes)
{
	int value = (int)bytes;

	if (value != 0)
		setsockopt(fd, SOL_SOCKET, option, &value, sizeof(value));
}

void sluice_tcp_socket_setup(const struct sluice_rail *rail, int fd, bool sends_over_loopback)
{
	const struct tcp_conf *conf = &rail->conf;
	uint64_t send_bytes = conf->send_buffer_bytes;
	int on = 1;

	if (send_bytes == 0 && sends_over_loopback)
		send_bytes = TCP_LOOPBACK_SEND_BYTES;
	/* None of these can make a lane wrong, only slower: failures are not errors. */
	if (conf->nodelay)
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	set_buffer(fd, SO_SNDBUF, send_bytes);
	set_buffer(fd, SO_RCVBUF, conf->receive_buffer_bytes);
}

static int listener_watch(struct sluice_rail *rail)
{
	struct epoll_event event = {.events = EPOLLIN, .data.u32 = LISTENER};

	return epoll_ctl(rail->epoll_fd, EPOLL_CTL_ADD, rail->listen_fd, &event);
}

static int rail_listen(
	struct sluice_rail *rail, char ret_address[SLUICE_ADDRESS_MAX], struct sluice_error *err)
{
	struct sluice_inet bound = {.len = sizeof(bound.u)};
	char text[SLUICE_ADDRESS_MAX];
	int fd, r, on = 1;

	sluice_inet_format(&rail->address, text);
	if (rail->listen_fd >= 0)
		return sluice_fail(err, -EALREADY, "tcp-rail", "%s listens already", text);
	fd = socket(rail->address.u.any.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return sluice_fail(err, -errno, "tcp-rail", "cannot open a socket: %m");
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	sluice_tcp_socket_setup(rail, fd, false);
	if (bind(fd, &rail->address.u.any, rail->address.len) < 0 || listen(fd, TCP_BACKLOG) < 0 ||
		getsockname(fd, &bound.u.any, &bound.len) < 0) {
		r = sluice_fail(err, -errno, "tcp-rail", "cannot listen on %s: %m", text);
		goto out_close;
	}
	rail->listen_fd = fd;
	if (listener_watch(rail) < 0) {
		r = sluice_fail(err, -errno, "tcp-rail", "cannot watch %s: %m", text);
		goto out_forget;
	}
	sluice_inet_format(&bound, ret_address);
	return 0;

out_forget:
	rail->listen_fd = -1;
out_close:
	close(fd);
	return r;
}

static int rail_fd(struct sluice_rail *rail)
{
	return rail->epoll_fd;
}

/* A slot for a new connection; the oldest stranger goes when there is none. */
static struct tcp_pending *pending_take(struct sluice_rail *rail)
{
	struct tcp_pending *oldest = &rail->pending[0];

	for (uint32_t i = 0; i < TCP_PENDING_MAX; i++) {
		struct tcp_pending *pending = &rail->pending[i];

		if (pending->fd < 0)
			return pending;
		if (pending->deadline_ns < oldest->deadline_ns)
			oldest = pending;
	}
	rail->counters.refused_deadline++;
	pending_close(rail, oldest);
	return oldest;
}

static void pending_add(struct sluice_rail *rail, int fd, uint64_t now_ns)
{
	struct tcp_pending *pending = pending_take(rail);
	struct epoll_event event = {
		.events = EPOLLIN | EPOLLRDHUP,
		.data.u32 = (uint32_t)(pending - rail->pending),
	};

	rail->counters.accepted++;
	if (epoll_ctl(rail->epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0) {
		close(fd);
		return;
	}
	pending->fd = fd;
	pending->have_bytes = 0;
	pending->deadline_ns = now_ns + TCP_HELLO_DEADLINE_NS;
	rail->pending_count++;
}

static void accept_some(struct sluice_rail *rail, uint64_t now_ns)
{
	for (int i = 0; i < TCP_STEP_EVENTS_MAX; i++) {
		int fd = accept4(rail->listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

		if (fd >= 0) {
			pending_add(rail, fd, now_ns);
			continue;
		}
		if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
			/* It would stay readable and keep the control thread busy. */
			epoll_ctl(rail->epoll_fd, EPOLL_CTL_DEL, rail->listen_fd, NULL);
			rail->accept_again_ns = now_ns + TCP_ACCEPT_PAUSE_NS;
		}
		return;
	}
}

static bool hello_sound(const struct tcp_hello *hello)
{
	return sluice_get32(hello->magic) == TCP_HELLO_MAGIC &&
	       sluice_get16(hello->version) == TCP_WIRE_VERSION &&
	       (sluice_get16(hello->flags) & ~TCP_FLAG_CHECKSUM) == 0 &&
	       sluice_get64(hello->checksum) == tcp_checksum(hello, sizeof(*hello));
}

/* The lane that waits for exactly this hello: same ticket, lane and epoch. */
static struct sluice_conn *find_waiting(
	const struct sluice_rail *rail, const struct tcp_hello *said)
{
	struct tcp_hello plain = *said, *hello = &plain;
	struct sluice_conn *found = NULL;

	plain.flags = sluice_put16(0);
	plain.checksum = sluice_put64(tcp_checksum(&plain, sizeof(plain)));
	for (struct sluice_conn *conn = rail->conns; conn != NULL; conn = conn->next) {
		bool open = conn->role == SLUICE_ROLE_TARGET &&
			    atomic_load(&conn->handover) == TCP_HANDOVER_OPEN;

		if (sluice_secret_equal(&conn->hello, hello, sizeof(*hello)) && open)
			found = conn;
	}
	return found;
}

/* Say welcome and give the socket to the lane's worker. False: the caller closes it. */
static bool hand_over(struct sluice_rail *rail, struct sluice_conn *conn, int fd)
{
	int open = TCP_HANDOVER_OPEN;
	uint64_t one = 1;

	sluice_tcp_socket_setup(rail, fd, false);
	/* A new socket takes these few bytes at once, or there is something wrong with it. */
	if (send(fd, &conn->welcome, sizeof(conn->welcome), MSG_NOSIGNAL) !=
		(ssize_t)sizeof(conn->welcome))
		return false;
	epoll_ctl(rail->epoll_fd, EPOLL_CTL_DEL, fd, NULL);
	/* Fails when the worker has just given up waiting: the ticket is void. */
	if (!atomic_compare_exchange_strong(&conn->handover, &open, fd))
		return false;
	if (write(conn->handover_eventfd, &one, sizeof(one)) < 0)
		SLUICE_ASSERT(errno == EAGAIN);
	return true;
}

static void greet(struct sluice_rail *rail, struct tcp_pending *pending)
{
	struct sluice_conn *conn;
	struct tcp_hello hello;

	memcpy(&hello, pending->hello, sizeof(hello));
	if (!hello_sound(&hello)) {
		rail->counters.refused_hello++;
		pending_close(rail, pending);
		return;
	}
	conn = find_waiting(rail, &hello);
	if (conn != NULL)
		sluice_tcp_greeting_agree(
			conn, (sluice_get16(hello.flags) & TCP_FLAG_CHECKSUM) != 0);
	if (conn == NULL || (rail->conf.checksum != TCP_CHECKSUM_NONE && !conn->checksum) ||
		!hand_over(rail, conn, pending->fd)) {
		rail->counters.refused_ticket++;
		pending_close(rail, pending);
		return;
	}
	rail->counters.welcomed++;
	rail->pending_count--;
	pending->fd = -1;
}

static void pending_step(struct sluice_rail *rail, struct tcp_pending *pending)
{
	ssize_t got;

	if (pending->fd < 0)
		return;
	/* Not a byte more than the hello: what follows is for the worker. */
	got = recv(pending->fd, pending->hello + pending->have_bytes,
		sizeof(pending->hello) - pending->have_bytes, 0);
	if (got < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (got <= 0) {
		rail->counters.refused_hello++;
		pending_close(rail, pending);
		return;
	}
	pending->have_bytes += (uint32_t)got;
	if (pending->have_bytes == sizeof(pending->hello))
		greet(rail, pending);
}

static void expire(struct sluice_rail *rail, uint64_t now_ns)
{
	for (uint32_t i = 0; i < TCP_PENDING_MAX && rail->pending_count > 0; i++) {
		struct tcp_pending *pending = &rail->pending[i];

		if (pending->fd >= 0 && now_ns >= pending->deadline_ns) {
			rail->counters.refused_deadline++;
			pending_close(rail, pending);
		}
	}
}

static void rail_step(struct sluice_rail *rail, uint64_t now_ns)
{
	struct epoll_event events[TCP_STEP_EVENTS_MAX];
	int count;

	if (rail->listen_fd < 0)
		return;
	if (rail->accept_again_ns != 0 && now_ns >= rail->accept_again_ns &&
		listener_watch(rail) == 0)
		rail->accept_again_ns = 0;
	count = epoll_wait(rail->epoll_fd, events, TCP_STEP_EVENTS_MAX, 0);
	for (int i = 0; i < count; i++) {
		if (events[i].data.u32 == LISTENER)
			accept_some(rail, now_ns);
		else
			pending_step(rail, &rail->pending[events[i].data.u32]);
	}
	expire(rail, now_ns);
}

const struct sluice_transport sluice_transport_tcp = {
	.abi = SLUICE_TRANSPORT_ABI,
	.size = sizeof(struct sluice_transport),
	.name = "tcp",
	.summary = "TCP sockets; batched frames, received straight into guest memory",
	.params = sluice_tcp_params,
	.conf_size = sizeof(struct tcp_conf),
	.rail_open = rail_open,
	.address_is_local = address_is_local,
	.rail_close = rail_close,
	.rail_limits = rail_limits,
	.rail_listen = rail_listen,
	.rail_step = rail_step,
	.rail_fd = rail_fd,
	.rail_stats = rail_stats,
	.mem_register = sluice_tcp_mem_register,
	.mem_unregister = sluice_tcp_mem_unregister,
	.mem_admit = sluice_tcp_mem_admit,
	.mem_export = sluice_tcp_mem_export,
	.mem_import = sluice_tcp_mem_import,
	.mem_forget = sluice_tcp_mem_forget,
	.lane_open = sluice_tcp_lane_open,
	.lane_fence = sluice_tcp_lane_fence,
	.lane_close = sluice_tcp_lane_close,
	.lane_stats = sluice_tcp_lane_stats,
	.submit = sluice_tcp_submit,
	.poll = sluice_tcp_poll,
	.arm = sluice_tcp_arm,
};
