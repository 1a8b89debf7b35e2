/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * link.h: the peer link's connection: JSON messages between two engines, over TCP or a UNIX
 * socket, in the clear or inside TLS (tls.h).
 *
 * A link never falls back from TLS to clear text. Two ends that disagree about it tell each other
 * so, in words for their operators, and part.
 *
 * Threads: the loop's thread. Blocking: never. A handler may close its own link.
 */
#ifndef SLUICE_ENGINE_PEER_LINK_H
#define SLUICE_ENGINE_PEER_LINK_H

#include <stdbool.h>
#include <stdint.h>

#include <jansson.h>

#include <sluice/error.h>

#include "engine/peer/address.h"

struct sluice_link;
struct sluice_link_listener;
struct sluice_loop;

struct sluice_link_handlers {
	void (*up)(void *ctx); /* a connection that was started is made; NULL for adopted ones */
	void (*message)(void *ctx, const json_t *message); /* checked against the schema */
	/* The peer said what is no message of the peer link; down() follows. It may still be told
	   so. May be NULL. */
	void (*bad)(void *ctx, const char *why);
	/* The last call; then close it. Never from inside sluice_link_send(), and only when
	   everything the peer had sent has been given to message(). */
	void (*down)(void *ctx, const char *why);
	void *ctx;
};

/* How a link is protected. */
struct sluice_link_opts {
	const char *psk_file; /* TLS with a key from this file; NULL: clear text. Borrowed for the
				 life of the link */
	const char *psk_identity; /* whom the connecting end says it is; "": the only one */
	uint64_t deadline_ns; /* how long connecting and the TLS handshake may take, and an
				 adopted link's first message; 0: as long as it likes */
};

/* Tries the addresses of @address one after the other. Messages can be sent from up() on. */
int sluice_link_connect(struct sluice_loop *loop, const struct sluice_peer_address *address,
	const struct sluice_link_opts *opts, const struct sluice_link_handlers *handlers,
	struct sluice_link **ret_link, struct sluice_error *err);
/* Take over an accepted socket; it is closed on failure too. Messages can be sent once one has
   arrived. */
int sluice_link_adopt(struct sluice_loop *loop, int fd, const struct sluice_link_opts *opts,
	const struct sluice_link_handlers *handlers, struct sluice_link **ret_link);
/* Other handlers from the next message on. */
void sluice_link_set_handlers(
	struct sluice_link *link, const struct sluice_link_handlers *handlers);
/* Steals @message. A link that is down, or not up yet, swallows it. Never calls a handler: a
   failure is told from the loop. */
void sluice_link_send(struct sluice_link *link, json_t *message);
/* Why it is down, as -errno; -ECONNRESET when nothing else is known. */
int sluice_link_error(const struct sluice_link *link);
/* Closes after what was sent has been handed to the kernel. NULL is allowed. */
void sluice_link_close(struct sluice_link *link);

/* Our end's IP address, by which the peer reaches this host: numbers only, "127.0.0.1" for a UNIX
   socket; "" when it is not known. */
void sluice_link_local_host(const struct sluice_link *link, char *host, size_t host_bytes);
/* The identity whose key protects the link; NULL for one in clear text, or not up yet. */
const char *sluice_link_identity(const struct sluice_link *link);
/* Secret bytes that only the two ends of this connection know, for @context (RFC 8446, 7.5).
   -EOPNOTSUPP: the link has no keys to derive them from. */
int sluice_link_export(struct sluice_link *link, const void *context, size_t context_bytes,
	uint8_t *secret, size_t secret_bytes);

/* @accepted gets each new socket. @ret_uri: where peers connect, with the real port. A UNIX
   socket gets mode 0600, and only peers of our user or root are accepted. */
int sluice_link_listen(struct sluice_loop *loop, const struct sluice_peer_address *address,
	void (*accepted)(void *ctx, int fd), void *ctx, char ret_uri[SLUICE_URI_BYTES],
	struct sluice_link_listener **ret_listener, struct sluice_error *err);
void sluice_link_unlisten(struct sluice_link_listener *listener); /* NULL is allowed */

#endif
