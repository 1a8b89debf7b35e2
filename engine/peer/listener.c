/* SPDX-License-Identifier: BSD-3-Clause */
/* listener.c: waiting for peers: the listening half of link.h. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "base/loop.h"
#include "base/unix_socket.h"
#include "engine/peer/link.h"

#define BACKLOG 8

struct sluice_link_listener {
	int fd;
	int reserve_fd; /* given up for a moment to refuse a peer when descriptors run out */
	bool is_unix;
	struct sluice_unix_file file;
	struct sluice_watch *watch;
	void (*accepted)(void *ctx, int fd);
	void *ctx;
};

static void on_accept(void *ctx, uint32_t events)
{
	struct sluice_link_listener *listener = ctx;
	int fd = accept4(listener->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	(void)events;
	if (fd >= 0 && listener->is_unix && !sluice_unix_peer_is_ours(fd)) {
		close(fd);
		return;
	}
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

/* A listening socket at one address; the descriptor, or -errno. */
static int open_at(
	struct sluice_link_listener *listener, const union sluice_sockaddr *addr, socklen_t len)
{
	int fd = socket(addr->any.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	int one = 1, r = 0;

	if (fd < 0)
		return -errno;
	listener->is_unix = addr->any.sa_family == AF_UNIX;
	if (listener->is_unix) {
		r = sluice_unix_listen(fd, &addr->un, BACKLOG, &listener->file);
	} else {
		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
		if (bind(fd, &addr->any, len) < 0 || listen(fd, BACKLOG) < 0)
			r = -errno;
	}
	if (r == 0)
		return fd;
	close(fd);
	return r;
}

/* The first address that works. */
static int open_any(struct sluice_link_listener *listener,
	const struct sluice_peer_address *address, char ret_uri[SLUICE_URI_BYTES],
	struct sluice_error *err)
{
	union sluice_sockaddr bound;
	socklen_t len = sizeof(bound);
	int r = -EADDRNOTAVAIL;

	for (uint32_t i = 0; i < address->count && r < 0; i++)
		r = open_at(listener, &address->list[i].addr, address->list[i].len);
	if (r == -EADDRINUSE && listener->is_unix)
		return sluice_fail(err, r, "peer link",
			"cannot wait at %.200s: another engine does, or it is not a socket",
			address->uri);
	if (r < 0)
		return sluice_fail(err, r, "peer link", "cannot wait at %.200s: %s", address->uri,
			strerror(-r));
	listener->fd = r;
	if (getsockname(listener->fd, &bound.any, &len) < 0)
		return sluice_fail(err, -errno, "peer link", "%s", strerror(errno));
	sluice_sockaddr_format(&bound, len, ret_uri);
	return 0;
}

int sluice_link_listen(struct sluice_loop *loop, const struct sluice_peer_address *address,
	void (*accepted)(void *ctx, int fd), void *ctx, char ret_uri[SLUICE_URI_BYTES],
	struct sluice_link_listener **ret_listener, struct sluice_error *err)
{
	struct sluice_link_listener *listener = calloc(1, sizeof(*listener));
	int r;

	if (listener == NULL)
		return sluice_fail(err, -ENOMEM, "peer link", "out of memory");
	listener->fd = -1;
	listener->reserve_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	listener->accepted = accepted;
	listener->ctx = ctx;
	r = open_any(listener, address, ret_uri, err);
	if (r == 0) {
		r = sluice_watch_add(
			loop, listener->fd, EPOLLIN, on_accept, listener, &listener->watch);
		if (r < 0)
			sluice_fail(err, r, "peer link", "%s", strerror(-r));
	}
	if (r < 0) {
		sluice_link_unlisten(listener);
		return r;
	}
	*ret_listener = listener;
	return 0;
}

void sluice_link_unlisten(struct sluice_link_listener *listener)
{
	if (listener == NULL)
		return;
	sluice_watch_remove(listener->watch);
	sluice_unix_unlink(&listener->file);
	close(listener->reserve_fd);
	if (listener->fd >= 0)
		close(listener->fd);
	free(listener);
}
