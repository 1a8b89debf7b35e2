/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * link.h: the peer link's connection: JSON messages over TCP between two engines.
 *
 * Threads: the loop's thread. Blocking: never. A handler may close its own link.
 */
#ifndef SLUICE_ENGINE_PEER_LINK_H
#define SLUICE_ENGINE_PEER_LINK_H

#include <stdbool.h>

#include <jansson.h>

#include <sluice/error.h>

struct sluice_link;
struct sluice_link_listener;
struct sluice_loop;

#define SLUICE_URI_BYTES 256

struct sluice_link_handlers {
	void (*up)(void *ctx); /* a connection that was started is made; NULL for adopted ones */
	void (*message)(void *ctx, const json_t *message); /* checked against the schema */
	/* The last call; then close it. Never from inside sluice_link_send(), and only when
	   everything the peer had sent has been given to message(). */
	void (*down)(void *ctx, const char *why);
	void *ctx;
};

/* "tcp:HOST:PORT", numeric host, IPv6 in brackets. Loopback only until peer links are encrypted. */
int sluice_link_connect(struct sluice_loop *loop, const char *uri,
	const struct sluice_link_handlers *handlers, struct sluice_link **ret_link,
	struct sluice_error *err);
/* Take over an accepted socket. */
int sluice_link_adopt(struct sluice_loop *loop, int fd, const struct sluice_link_handlers *handlers,
	struct sluice_link **ret_link);
/* Other handlers from the next message on. */
void sluice_link_set_handlers(
	struct sluice_link *link, const struct sluice_link_handlers *handlers);
/* Steals @message. A link that is down swallows it. Never calls a handler: a failure is told from
   the loop. */
void sluice_link_send(struct sluice_link *link, json_t *message);
/* Why it is down, as -errno; -ECONNRESET when nothing else is known. */
int sluice_link_error(const struct sluice_link *link);
/* Closes after what was sent has been handed to the kernel. NULL is allowed. */
void sluice_link_close(struct sluice_link *link);

/* @accepted gets each new socket. @ret_uri: where peers connect, with the real port. */
int sluice_link_listen(struct sluice_loop *loop, const char *uri,
	void (*accepted)(void *ctx, int fd), void *ctx, char ret_uri[SLUICE_URI_BYTES],
	struct sluice_link_listener **ret_listener, struct sluice_error *err);
void sluice_link_unlisten(struct sluice_link_listener *listener); /* NULL is allowed */

#endif
