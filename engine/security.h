/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * security.h: who may be this engine's peer and what may travel in clear text: from settings to
 * decisions, and what is told about them.
 *
 * The rule: what is not encrypted stays on this host, unless the operator has written out that
 * the network is trusted. Lanes and the peer link each have their own word for that.
 *
 * Threads: the control thread. Blocks for reading the key file.
 */
#ifndef SLUICE_ENGINE_SECURITY_H
#define SLUICE_ENGINE_SECURITY_H

#include <jansson.h>

#include "engine/peer/link.h"

struct sluice_config;
struct sluice_engine;

/* Whether a peer link may be made at, or to, @address with these settings, and lanes next to it:
   -EPERM, -EINVAL, or what is wrong with the key file. The error says what to set. */
int sluice_security_check(const struct sluice_engine *engine,
	const struct sluice_peer_address *address, enum sluice_address_use use,
	struct sluice_error *err);
/* @uri as an address that sluice_security_check allows: -EINVAL, or as there. */
int sluice_security_address(const struct sluice_engine *engine, const char *uri,
	enum sluice_address_use use, struct sluice_peer_address *ret_address,
	struct sluice_error *err);
/* Lanes may go over a network in clear text. */
bool sluice_security_lanes_may_leave(const struct sluice_config *config);
/* Whether lanes of this rail may go to a peer whose engine is at @peer, or comes from there. */
bool sluice_security_rail_fits(
	const struct sluice_engine *engine, uint32_t rail, const struct sluice_peer_address *peer);
/* How a link is made; borrows from @config. */
void sluice_security_link_opts(const struct sluice_config *config, uint64_t deadline_ns,
	struct sluice_link_opts *ret_opts);

/* For preflight: "ok", "warning" or "failed", and why in @text. */
const char *sluice_security_preflight(
	const struct sluice_engine *engine, char *text, size_t text_bytes);

/* A peer was turned away, or left, before a session: counted, and told as PEER_REFUSED, at most
   once a second. */
void sluice_security_refused(struct sluice_engine *engine, const char *why);
/* The member `security` of query-migrate. */
json_t *sluice_security_query(const struct sluice_engine *engine);

#endif
