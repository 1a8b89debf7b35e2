/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * messages.h: checking what a peer says. A message is a JSON object with a `type`; the rest is
 * checked against engine/peer/peer-link.json before anybody looks at it. Pure; any thread.
 */
#ifndef SLUICE_ENGINE_PEER_MESSAGES_H
#define SLUICE_ENGINE_PEER_MESSAGES_H

#include <jansson.h>

#include <sluice/error.h>

/* 0, or -EPROTO with the member that does not fit. */
int sluice_peer_check(const json_t *message, struct sluice_error *err);
static inline const char *sluice_peer_type(const json_t *message)
{
	return json_string_value(json_object_get(message, "type"));
}

#endif
