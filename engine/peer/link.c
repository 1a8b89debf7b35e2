/* SPDX-License-Identifier: BSD-3-Clause */
/* link.c: see link.h. Framing and JSON are the QMP wire's (base/qmp.h): one object per line. */
#include "engine/peer/link.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/loop.h"
#include "base/qmp.h"
#include "engine/peer/messages.h"

struct sluice_link {
	struct sluice_loop *loop;
	struct sluice_link_handlers handlers;
	struct sluice_wire *wire;
	struct sluice_watch *watch;
	bool connecting;
	bool down;
	int error; /* 0: not known */
	char send_failed[64]; /* why nothing can be sent any more; "" while it can */
	unsigned int busy; /* inside handlers: freed when it comes back to 0 */
	bool closed;
};

struct sluice_link_listener {
	int fd;
	int reserve_fd; /* given up for a moment to refuse a peer when descriptors run out */
	struct sluice_watch *watch;
	void (*accepted)(void *ctx, int fd);
	void *ctx;
};

union address {
	struct sockaddr any;
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;
};

static bool is_loopback(const union address *a)
{
	if (a->any.sa_family == AF_INET)
		return (ntohl(a->v4.sin_addr.s_addr) >> 24) == 127;
	return IN6_IS_ADDR_LOOPBACK(&a->v6.sin6_addr);
}

static int parse_port(const char *text, uint16_t *ret_port)
{
	char *end;
	unsigned long port = strtoul(text, &end, 10);

	if (*text < '0' || *text > '9' || *end != '\0' || port > 65535)
		return -EINVAL;
	*ret_port = htons((uint16_t)port);
	return 0;
}

static int parse_uri(
	const char *uri, union address *ret_address, socklen_t *ret_len, struct sluice_error *err)
{
	char host[64];
	const char *colon = strrchr(uri, ':');
	const char *begin = uri + 4;
	size_t len;
	bool v6;

	memset(ret_address, 0, sizeof(*ret_address));
	if (strncmp(uri, "tcp:", 4) != 0 || colon == NULL || colon < begin)
		goto out_bad;
	v6 = *begin == '[' && colon > begin + 1 && colon[-1] == ']';
	len = (size_t)(colon - begin) - (v6 ? 2 : 0);
	if (len == 0 || len >= sizeof(host))
		goto out_bad;
	memcpy(host, begin + (v6 ? 1 : 0), len);
	host[len] = '\0';
	if (v6) {
		ret_address->v6.sin6_family = AF_INET6;
		*ret_len = sizeof(ret_address->v6);
		if (inet_pton(AF_INET6, host, &ret_address->v6.sin6_addr) != 1 ||
			parse_port(colon + 1, &ret_address->v6.sin6_port) < 0)
			goto out_bad;
	} else {
		ret_address->v4.sin_family = AF_INET;
		*ret_len = sizeof(ret_address->v4);
		if (inet_pton(AF_INET, host, &ret_address->v4.sin_addr) != 1 ||
			parse_port(colon + 1, &ret_address->v4.sin_port) < 0)
			goto out_bad;
	}
	if (!is_loopback(ret_address))
		return sluice_fail(err, -EPERM, "uri",
			"\"%s\" is not on this host, and peer links "
			"are not encrypted yet; use 127.0.0.1 or [::1]",
			uri);
	return 0;

out_bad:
	return sluice_fail(err, -EINVAL, "uri",
		"\"%s\" is not tcp:HOST:PORT with a numeric host, such as tcp:127.0.0.1:4444 or "
		"tcp:[::1]:4444",
		uri);
}

/* A socket for @uri; a descriptor, or negative. */
static int open_socket(
	const char *uri, union address *ret_address, socklen_t *ret_len, struct sluice_error *err)
{
	int r = parse_uri(uri, ret_address, ret_len, err);
	int fd;

	if (r < 0)
		return r;
	fd = socket(ret_address->any.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	return fd < 0 ? sluice_fail(err, -errno, "peer link", "no socket: %s", strerror(errno))
		      : fd;
}

static void go_down(struct sluice_link *link, const char *why)
{
	if (link->down)
		return;
	link->down = true;
	sluice_watch_remove(link->watch);
	link->watch = NULL;
	link->handlers.down(link->handlers.ctx, why);
}

static void link_free(struct sluice_link *link)
{
	sluice_watch_remove(link->watch);
	sluice_wire_destroy(link->wire);
	free(link);
}

static void watch_output(struct sluice_link *link, bool wanted)
{
	if (link->watch != NULL)
		sluice_watch_events(link->watch, EPOLLIN | (wanted ? EPOLLOUT : 0));
}

/*
 * Whoever sends is in the middle of something and must not learn of the end from inside: down()
 * comes from the loop, when what the peer said before it left has been read. The shutdown sees to
 * it that the loop finds the socket readable, whatever the reason.
 */
static void fail_sending(struct sluice_link *link, const char *why)
{
	snprintf(link->send_failed, sizeof(link->send_failed), "%s", why);
	shutdown(sluice_wire_fd(link->wire), SHUT_RDWR);
	watch_output(link, false);
}

static void flush(struct sluice_link *link)
{
	int r = sluice_wire_flush(link->wire);

	if (r < 0)
		fail_sending(link, strerror(-r));
	else
		watch_output(link, r == 0);
}

static const char *why_it_ended(const struct sluice_link *link, int code, const char *text)
{
	if (link->send_failed[0] != '\0')
		return link->send_failed;
	return code == -EPIPE ? "the peer closed it" : text;
}

static void read_messages(struct sluice_link *link)
{
	struct sluice_error err = {0};
	int received = sluice_wire_receive(link->wire, &err);

	while (!link->closed && !link->down) {
		json_t *message = NULL;
		int r = sluice_wire_next(link->wire, &message, &err);

		if (r == 0)
			break;
		if (r > 0)
			r = sluice_peer_check(message, &err);
		if (r < 0)
			go_down(link, err.text);
		else
			link->handlers.message(link->handlers.ctx, message);
		json_decref(message);
	}
	if (received < 0 && !link->closed)
		go_down(link, why_it_ended(link, received, err.text));
}

static void finish_connecting(struct sluice_link *link)
{
	int error = 0;
	socklen_t len = sizeof(error);

	getsockopt(sluice_wire_fd(link->wire), SOL_SOCKET, SO_ERROR, &error, &len);
	link->connecting = false;
	if (error != 0) {
		link->error = -error;
		go_down(link, strerror(error));
		return;
	}
	watch_output(link, false);
	link->handlers.up(link->handlers.ctx);
}

static void on_ready(void *ctx, uint32_t events)
{
	struct sluice_link *link = ctx;

	link->busy++;
	if (link->connecting)
		finish_connecting(link);
	if (!link->closed && !link->down && link->send_failed[0] == '\0' && (events & EPOLLOUT))
		flush(link);
	if (!link->closed && !link->down && (events & (EPOLLIN | EPOLLHUP | EPOLLERR)))
		read_messages(link);
	if (--link->busy == 0 && link->closed)
		link_free(link);
}

static int make(struct sluice_loop *loop, int fd, bool connecting,
	const struct sluice_link_handlers *handlers, struct sluice_link **ret_link)
{
	struct sluice_link *link = calloc(1, sizeof(*link));
	int one = 1;
	int r;

	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	if (link == NULL) {
		close(fd);
		return -ENOMEM;
	}
	link->loop = loop;
	link->handlers = *handlers;
	link->connecting = connecting;
	r = sluice_wire_create(fd, &link->wire);
	if (r == 0)
		r = sluice_watch_add(
			loop, fd, connecting ? EPOLLOUT : EPOLLIN, on_ready, link, &link->watch);
	if (r < 0) {
		link_free(link);
		return r;
	}
	*ret_link = link;
	return 0;
}

int sluice_link_connect(struct sluice_loop *loop, const char *uri,
	const struct sluice_link_handlers *handlers, struct sluice_link **ret_link,
	struct sluice_error *err)
{
	union address address;
	socklen_t len = 0;
	int fd, r;

	fd = open_socket(uri, &address, &len, err);
	if (fd < 0)
		return fd;
	if (connect(fd, &address.any, len) < 0 && errno != EINPROGRESS) {
		r = -errno;
		close(fd);
		return sluice_fail(
			err, r, "peer link", "%s cannot be reached: %s", uri, strerror(-r));
	}
	r = make(loop, fd, true, handlers, ret_link);
	return r < 0 ? sluice_fail(err, r, "peer link", "%s", strerror(-r)) : 0;
}

int sluice_link_adopt(struct sluice_loop *loop, int fd, const struct sluice_link_handlers *handlers,
	struct sluice_link **ret_link)
{
	return make(loop, fd, false, handlers, ret_link);
}

void sluice_link_set_handlers(struct sluice_link *link, const struct sluice_link_handlers *handlers)
{
	link->handlers = *handlers;
}

void sluice_link_send(struct sluice_link *link, json_t *message)
{
	if (link->down || link->closed || link->send_failed[0] != '\0') {
		json_decref(message);
		return;
	}
	if (sluice_wire_send(link->wire, message, -1) < 0)
		fail_sending(link, "the peer does not read");
	else if (!link->connecting)
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
	if (!link->down && !link->connecting && link->send_failed[0] == '\0') {
		sluice_wire_flush(link->wire);
		/* Say that nothing follows, instead of a reset that could overtake it. */
		shutdown(sluice_wire_fd(link->wire), SHUT_WR);
	}
	sluice_watch_remove(link->watch);
	link->watch = NULL;
	if (link->busy == 0)
		link_free(link);
}

static void on_accept(void *ctx, uint32_t events)
{
	struct sluice_link_listener *listener = ctx;
	int fd = accept4(listener->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	(void)events;
	if (fd >= 0) {
		listener->accepted(listener->ctx, fd);
		return;
	}
	if (errno != EMFILE && errno != ENFILE)
		return;
	/* Left in the queue the peer would wake us again and again. */
	close(listener->reserve_fd);
	fd = accept4(listener->fd, NULL, NULL, SOCK_CLOEXEC);
	if (fd >= 0)
		close(fd);
	listener->reserve_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
}

static void format_uri(const union address *a, char uri[SLUICE_URI_BYTES])
{
	char host[INET6_ADDRSTRLEN];

	if (a->any.sa_family == AF_INET) {
		inet_ntop(AF_INET, &a->v4.sin_addr, host, sizeof(host));
		snprintf(uri, SLUICE_URI_BYTES, "tcp:%s:%u", host, ntohs(a->v4.sin_port));
	} else {
		inet_ntop(AF_INET6, &a->v6.sin6_addr, host, sizeof(host));
		snprintf(uri, SLUICE_URI_BYTES, "tcp:[%s]:%u", host, ntohs(a->v6.sin6_port));
	}
}

int sluice_link_listen(struct sluice_loop *loop, const char *uri,
	void (*accepted)(void *ctx, int fd), void *ctx, char ret_uri[SLUICE_URI_BYTES],
	struct sluice_link_listener **ret_listener, struct sluice_error *err)
{
	struct sluice_link_listener *listener;
	union address address;
	socklen_t len = 0;
	int one = 1;
	int fd, r;

	fd = open_socket(uri, &address, &len, err);
	if (fd < 0)
		return fd;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(fd, &address.any, len) < 0 || listen(fd, 8) < 0 ||
		getsockname(fd, &address.any, &len) < 0) {
		r = sluice_fail(
			err, -errno, "peer link", "cannot wait at %s: %s", uri, strerror(errno));
		goto out_close;
	}
	listener = calloc(1, sizeof(*listener));
	if (listener == NULL) {
		r = sluice_fail(err, -ENOMEM, "peer link", "out of memory");
		goto out_close;
	}
	*listener = (struct sluice_link_listener){.fd = fd,
		.reserve_fd = open("/dev/null", O_RDONLY | O_CLOEXEC),
		.accepted = accepted,
		.ctx = ctx};
	r = sluice_watch_add(loop, fd, EPOLLIN, on_accept, listener, &listener->watch);
	if (r < 0) {
		sluice_fail(err, r, "peer link", "%s", strerror(-r));
		goto out_free;
	}
	format_uri(&address, ret_uri);
	*ret_listener = listener;
	return 0;

out_free:
	close(listener->reserve_fd);
	free(listener);
out_close:
	close(fd);
	return r;
}

void sluice_link_unlisten(struct sluice_link_listener *listener)
{
	if (listener == NULL)
		return;
	sluice_watch_remove(listener->watch);
	close(listener->reserve_fd);
	close(listener->fd);
	free(listener);
}
