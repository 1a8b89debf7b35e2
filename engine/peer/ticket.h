/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * ticket.h: what a lane's connection shows to prove that it belongs to a session.
 *
 * A ticket opens one connection, of one lane and epoch of one session, once, and for as long as
 * the target waits for it. On an encrypted peer link both ends derive it from the TLS session, so
 * it never travels and is worth nothing to another link. On one in clear text it is random, and
 * the target sends it.
 *
 * The only place where tickets are made or known. Pure but for random bytes; any thread.
 */
#ifndef SLUICE_ENGINE_PEER_TICKET_H
#define SLUICE_ENGINE_PEER_TICKET_H

#include <stddef.h>
#include <stdint.h>

#include <sluice/error.h>
#include <sluice/transport.h>

#define SLUICE_TICKET_TEXT_BYTES (2 * SLUICE_TICKET_BYTES + 1)

/*
 * Secret bytes that only the two ends of the peer link know, for @context. 0; -EOPNOTSUPP: the
 * link is in clear text and has none; other errors as they are.
 */
typedef int sluice_derive_fn(
	void *ctx, const void *context, size_t context_bytes, uint8_t *secret, size_t secret_bytes);

struct sluice_ticket_keys {
	sluice_derive_fn *derive;
	void *ctx;
};

/* Which connection it is for. */
struct sluice_ticket_use {
	const char *session; /* its id */
	uint32_t lane, epoch;
};

/* Target: the ticket, and @ret_told, what the source has to be told: hexadecimal, or "" where it
   derives the ticket itself. */
int sluice_ticket_make(const struct sluice_ticket_keys *keys, const struct sluice_ticket_use *use,
	struct sluice_ticket *ret_ticket, char ret_told[SLUICE_TICKET_TEXT_BYTES],
	struct sluice_error *err);
/* Source: the ticket, from what the target told. -EPROTO: it does not fit the link. */
int sluice_ticket_know(const struct sluice_ticket_keys *keys, const struct sluice_ticket_use *use,
	const char *told, struct sluice_ticket *ret_ticket, struct sluice_error *err);

#endif
