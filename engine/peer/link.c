/* SPDX-License-Identifier: BSD-3-Clause */
/* link.c: see link.h. Framing and JSON are the QMP wire's (base/qmp.h): one object per line. */
#include "engine/peer/link.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/loop.h"
#include "base/qmp.h"
#include "base/unix_socket.h"
#include "engine/peer/messages.h"
#include "engine/peer/tls.h"

#define CLEAR_AT_TLS                                                                              \
	"peer links of this engine are encrypted and this one is in clear text; set psk-file at " \
	"both ends to files with the same key, or security: none at both ends"
#define TLS_AT_CLEAR                                                                           \
	"the peer wants an encrypted link and this engine has no key; set psk-file here to a " \
	"file with the same key, or security: none there"

enum link_state {
	LINK_CONNECTING, /* waits for the kernel */
	LINK_GREETING, /* adopted: waits for the first byte, which tells TLS from clear text */
	LINK_HANDSHAKE,
	LINK_UP,
	LINK_DOWN,
};

struct sluice_link {
	struct sluice_loop *loop;
	struct sluice_link_handlers handlers;
	struct sluice_link_opts opts;
	struct sluice_peer_address peer; /* to connect to, */
	uint32_t peer_next; /* and which address is next */
	struct sluice_wire *wire;
	struct sluice_watch *watch;
	struct sluice_timer *timer; /* the deadline */
	const struct sluice_tls_module *module;
	struct sluice_tls *tls;
	enum link_state state;
	int error; /* of the last attempt to connect; 0: not known */
	bool adopted;
	bool refusing; /* the peer speaks clear text where TLS is wanted */
	char send_failed[64]; /* why nothing can be sent any more; "" while it can */
	unsigned int busy; /* inside handlers: freed when it comes back to 0 */
	bool closed;
};

static bool alive(const struct sluice_link *link)
{
	return !link->closed && link->state != LINK_DOWN;
}

static int link_fd(const struct sluice_link *link)
{
	return sluice_wire_fd(link->wire);
}

/* ---- the end ---- */

static void go_down(struct sluice_link *link, const char *why)
{
	if (link->state == LINK_DOWN)
		return;
	link->state = LINK_DOWN;
	sluice_watch_remove(link->watch);
	link->watch = NULL;
	sluice_timer_set(link->timer, SLUICE_NEVER);
	link->handlers.down(link->handlers.ctx, why);
}

static void drop_connection(struct sluice_link *link)
{
	sluice_watch_remove(link->watch);
	link->watch = NULL;
	if (link->tls != NULL)
		link->module->destroy(link->tls);
	link->tls = NULL;
	sluice_wire_destroy(link->wire);
	link->wire = NULL;
}

static void link_free(struct sluice_link *link)
{
	drop_connection(link);
	sluice_timer_remove(link->timer);
	free(link);
}

static void watch_events(struct sluice_link *link, uint32_t events)
{
	if (link->watch != NULL)
		sluice_watch_events(link->watch, events);
}

/* ---- messages ---- */

/*
 * Whoever sends is in the middle of something and must not learn of the end from inside: down()
 * comes from the loop, when what the peer said before it left has been read. The shutdown sees to
 * it that the loop finds the socket readable, whatever the reason.
 */
static void fail_sending(struct sluice_link *link, const char *why)
{
	snprintf(link->send_failed, sizeof(link->send_failed), "%s", why);
	shutdown(link_fd(link), SHUT_RDWR);
	watch_events(link, EPOLLIN);
}

static void flush(struct sluice_link *link)
{
	int r = sluice_wire_flush(link->wire);

	if (r < 0)
		fail_sending(link, strerror(-r));
	else
		watch_events(link, EPOLLIN | (r == 0 ? EPOLLOUT : 0));
}

static const char *why_it_ended(const struct sluice_link *link, int code, const char *text)
{
	if (link->send_failed[0] != '\0')
		return link->send_failed;
	if (code == -EPIPE)
		return "the peer closed it";
	return text[0] != '\0' ? text : strerror(-code);
}

/* Say in clear text why there is no link, for the operator at the other end. */
static void say_refuse(struct sluice_link *link, const char *why)
{
	if (sluice_wire_send(
		    link->wire, json_pack("{s:s, s:s}", "type", "refuse", "error", why), -1) == 0)
		sluice_wire_flush(link->wire);
	shutdown(link_fd(link), SHUT_WR);
}

static void take_message(struct sluice_link *link, const json_t *message)
{
	sluice_timer_set(link->timer, SLUICE_NEVER);
	if (!link->refusing) {
		link->handlers.message(link->handlers.ctx, message);
		return;
	}
	say_refuse(link, CLEAR_AT_TLS);
	go_down(link, CLEAR_AT_TLS);
}

static void take_nonsense(struct sluice_link *link, const char *why)
{
	if (!link->refusing && link->handlers.bad != NULL)
		link->handlers.bad(link->handlers.ctx, why);
	if (alive(link))
		go_down(link, why);
}

static void read_messages(struct sluice_link *link)
{
	struct sluice_error err = {0};
	int received = sluice_wire_receive(link->wire, &err);

	while (alive(link)) {
		json_t *message = NULL;
		int r = sluice_wire_next(link->wire, &message, &err);

		if (r == 0)
			break;
		if (r > 0)
			r = sluice_peer_check(message, &err);
		if (r < 0)
			take_nonsense(link, err.text);
		else
			take_message(link, message);
		json_decref(message);
	}
	if (received < 0 && alive(link))
		go_down(link, why_it_ended(link, received, err.text));
}

/* ---- beginning: connection, TLS ---- */

/* A record is always taken whole. So nothing waits inside TLS, where it would wake nobody, when
   the wire stops reading because its buffer is full. */
_Static_assert(SLUICE_WIRE_READ_BYTES >= SLUICE_TLS_RECORD_BYTES_MAX, "a record fits");

static ssize_t tls_read(void *ctx, void *data, size_t bytes, struct sluice_error *err)
{
	struct sluice_link *link = ctx;

	return link->module->read(link->tls, data, bytes, err);
}

static ssize_t tls_write(void *ctx, const void *data, size_t bytes)
{
	struct sluice_link *link = ctx;

	return link->module->write(link->tls, data, bytes);
}

static void become_up(struct sluice_link *link)
{
	link->state = LINK_UP;
	watch_events(link, EPOLLIN);
	if (link->adopted)
		return; /* the deadline goes on until the peer's first message */
	sluice_timer_set(link->timer, SLUICE_NEVER);
	link->handlers.up(link->handlers.ctx);
}

/* The next byte without taking it: 0..255; -1 none yet; -2 the end. */
static int peek(const struct sluice_link *link)
{
	uint8_t byte;
	ssize_t got = recv(link_fd(link), &byte, 1, MSG_PEEK | MSG_DONTWAIT);

	if (got == 1)
		return byte;
	return got < 0 && (errno == EAGAIN || errno == EINTR) ? -1 : -2;
}

static bool begins_tls(int byte)
{
	return byte >= SLUICE_TLS_RECORD_FIRST && byte <= SLUICE_TLS_RECORD_LAST;
}

static void handshake(struct sluice_link *link)
{
	struct sluice_error err = {0};
	uint32_t events = EPOLLIN;
	int r;

	r = link->module->handshake(link->tls, &events, &err);
	if (r < 0)
		go_down(link, err.text);
	else if (r == 0)
		watch_events(link, events);
	else
		become_up(link);
}

static void begin_tls(struct sluice_link *link)
{
	struct sluice_tls_opts opts = {.fd = link_fd(link),
		.role = link->adopted ? SLUICE_TLS_ACCEPTS : SLUICE_TLS_CONNECTS,
		.psk_file = link->opts.psk_file,
		.psk_identity = link->opts.psk_identity};
	struct sluice_wire_stream stream = {.read = tls_read, .write = tls_write, .ctx = link};
	struct sluice_error err = {0};
	int r = sluice_tls_load(&link->module, &err);

	if (r == 0)
		r = link->module->create(&opts, &link->tls, &err);
	if (r < 0) {
		go_down(link, err.text);
		return;
	}
	sluice_wire_set_stream(link->wire, &stream);
	link->state = LINK_HANDSHAKE;
	handshake(link);
}

/* What the peer had sent is taken away first: closing would answer it with a reset, which could
   overtake our words. */
static void turn_away_tls(struct sluice_link *link)
{
	char scratch[4096];

	while (recv(link_fd(link), scratch, sizeof(scratch), MSG_DONTWAIT) > 0)
		;
	say_refuse(link, TLS_AT_CLEAR);
	go_down(link, TLS_AT_CLEAR);
}

/* An accepted connection says something for the first time. */
static void greet(struct sluice_link *link)
{
	bool tls = link->opts.psk_file != NULL;
	int byte = peek(link);

	if (byte == -1)
		return;
	if (byte == -2 && tls) {
		go_down(link, "the peer closed it before it had said anything");
	} else if (tls && begins_tls(byte)) {
		begin_tls(link);
	} else if (!tls && begins_tls(byte)) {
		turn_away_tls(link);
	} else {
		link->refusing = tls;
		become_up(link);
	}
}

static void on_ready(void *ctx, uint32_t events);

static int open_connection(struct sluice_link *link, int fd)
{
	bool connecting = link->state == LINK_CONNECTING;
	int one = 1;
	int r = sluice_wire_create(fd, &link->wire);

	if (r < 0)
		return r;
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	return sluice_watch_add(
		link->loop, fd, connecting ? EPOLLOUT : EPOLLIN, on_ready, link, &link->watch);
}

/* Start with the next address that can be started with. -errno: there is none. */
static int connect_next(struct sluice_link *link, int r)
{
	while (link->peer_next < link->peer.count) {
		uint32_t i = link->peer_next++;
		const struct sockaddr *addr = &link->peer.list[i].addr.any;
		int fd = socket(addr->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

		if (fd < 0)
			return -errno;
		if (connect(fd, addr, link->peer.list[i].len) == 0 || errno == EINPROGRESS)
			return open_connection(link, fd);
		r = -errno;
		close(fd);
	}
	return r;
}

static bool is_foreign(const struct sluice_link *link)
{
	return link->peer.list[0].addr.any.sa_family == AF_UNIX &&
	       !sluice_unix_peer_is_ours(link_fd(link));
}

static void finish_connecting(struct sluice_link *link)
{
	int error = 0, r;
	socklen_t len = sizeof(error);

	getsockopt(link_fd(link), SOL_SOCKET, SO_ERROR, &error, &len);
	if (error != 0) {
		drop_connection(link);
		r = connect_next(link, -error);
		link->error = r;
		if (r < 0)
			go_down(link, strerror(-r));
	} else if (is_foreign(link)) {
		go_down(link, "the process that waits there belongs to another user");
	} else if (link->opts.psk_file != NULL) {
		begin_tls(link);
	} else {
		become_up(link);
	}
}

static void release(struct sluice_link *link)
{
	if (--link->busy == 0 && link->closed)
		link_free(link);
}

static void on_ready(void *ctx, uint32_t events)
{
	struct sluice_link *link = ctx;

	link->busy++;
	if (link->state == LINK_CONNECTING)
		finish_connecting(link);
	else if (link->state == LINK_HANDSHAKE)
		handshake(link);
	else if (link->state == LINK_GREETING)
		greet(link);
	if (alive(link) && link->state == LINK_UP) {
		if (link->send_failed[0] == '\0' && (events & EPOLLOUT))
			flush(link);
		if (events & (EPOLLIN | EPOLLHUP | EPOLLERR))
			read_messages(link);
	}
	release(link);
}

static void on_deadline(void *ctx, uint64_t now_ns)
{
	struct sluice_link *link = ctx;
	unsigned int ms = (unsigned int)(link->opts.deadline_ns / SLUICE_NS_PER_MS);
	char why[128];

	(void)now_ns;
	link->busy++;
	snprintf(why, sizeof(why), "the peer did not %s within %u ms",
		link->state == LINK_CONNECTING  ? "answer"
		: link->state == LINK_HANDSHAKE ? "finish the TLS handshake"
						: "say what it wants",
		ms);
	go_down(link, why);
	release(link);
}

/* ---- life ---- */

static int make(struct sluice_loop *loop, const struct sluice_link_opts *opts,
	const struct sluice_link_handlers *handlers, struct sluice_link **ret_link)
{
	struct sluice_link *link = calloc(1, sizeof(*link));
	int r;

	if (link == NULL)
		return -ENOMEM;
	link->loop = loop;
	link->opts = *opts;
	link->handlers = *handlers;
	r = sluice_timer_add(loop, on_deadline, link, &link->timer);
	if (r < 0) {
		free(link);
		return r;
	}
	if (opts->deadline_ns != 0)
		sluice_timer_set(link->timer, sluice_now_ns() + opts->deadline_ns);
	*ret_link = link;
	return 0;
}

int sluice_link_connect(struct sluice_loop *loop, const struct sluice_peer_address *address,
	const struct sluice_link_opts *opts, const struct sluice_link_handlers *handlers,
	struct sluice_link **ret_link, struct sluice_error *err)
{
	struct sluice_link *link;
	int r = make(loop, opts, handlers, &link);

	if (r < 0)
		return sluice_fail(err, r, "peer link", "%s", strerror(-r));
	link->peer = *address;
	link->state = LINK_CONNECTING;
	r = connect_next(link, -EADDRNOTAVAIL);
	if (r < 0) {
		link_free(link);
		return sluice_fail(err, r, "peer link", "%.200s cannot be reached: %s",
			address->uri, strerror(-r));
	}
	*ret_link = link;
	return 0;
}

int sluice_link_adopt(struct sluice_loop *loop, int fd, const struct sluice_link_opts *opts,
	const struct sluice_link_handlers *handlers, struct sluice_link **ret_link)
{
	struct sluice_link *link;
	int r = make(loop, opts, handlers, &link);

	if (r < 0) {
		close(fd);
		return r;
	}
	link->adopted = true;
	link->state = LINK_GREETING;
	r = open_connection(link, fd);
	if (r < 0) {
		link_free(link);
		return r;
	}
	*ret_link = link;
	return 0;
}

void sluice_link_set_handlers(struct sluice_link *link, const struct sluice_link_handlers *handlers)
{
	link->handlers = *handlers;
}

void sluice_link_send(struct sluice_link *link, json_t *message)
{
	if (link->closed || link->state != LINK_UP || link->send_failed[0] != '\0') {
		json_decref(message);
		return;
	}
	if (sluice_wire_send(link->wire, message, -1) < 0)
		fail_sending(link, "the peer does not read");
	else
		flush(link);
}

int sluice_link_error(const struct sluice_link *link)
{
	return link->error != 0 ? link->error : -ECONNRESET;
}

void sluice_link_close(struct sluice_link *link)
{
	if (link == NULL || link->closed)
		return;
	link->closed = true;
	if (link->state == LINK_UP && link->send_failed[0] == '\0') {
		sluice_wire_flush(link->wire);
		if (link->tls != NULL)
			link->module->end(link->tls);
		/* Say that nothing follows, instead of a reset that could overtake it. */
		shutdown(link_fd(link), SHUT_WR);
	}
	sluice_watch_remove(link->watch);
	link->watch = NULL;
	if (link->busy == 0)
		link_free(link);
}

void sluice_link_local_host(const struct sluice_link *link, char *host, size_t host_bytes)
{
	union sluice_sockaddr own = {0};
	socklen_t len = sizeof(own);

	*host = '\0';
	if (link->wire == NULL || getsockname(link_fd(link), &own.any, &len) < 0)
		return;
	if (own.any.sa_family == AF_UNIX)
		snprintf(host, host_bytes, "127.0.0.1");
	else if (own.any.sa_family == AF_INET6 && IN6_IS_ADDR_V4MAPPED(&own.v6.sin6_addr))
		inet_ntop(AF_INET, &own.v6.sin6_addr.s6_addr[12], host, (socklen_t)host_bytes);
	else if (own.any.sa_family == AF_INET6)
		inet_ntop(AF_INET6, &own.v6.sin6_addr, host, (socklen_t)host_bytes);
	else if (own.any.sa_family == AF_INET)
		inet_ntop(AF_INET, &own.v4.sin_addr, host, (socklen_t)host_bytes);
}

const char *sluice_link_identity(const struct sluice_link *link)
{
	return link->tls != NULL && link->state == LINK_UP ? link->module->identity(link->tls)
							   : NULL;
}

int sluice_link_export(struct sluice_link *link, const void *context, size_t context_bytes,
	uint8_t *secret, size_t secret_bytes)
{
	if (link->tls == NULL || link->state != LINK_UP)
		return -EOPNOTSUPP;
	return link->module->export(link->tls, context, context_bytes, secret, secret_bytes);
}
