/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * source_link.c: a source's end of the peer link: up, lost, silent, and which message may come in
 * which state. Control thread.
 */
#include <errno.h>
#include <string.h>

#include "base/bits.h"
#include "base/clock.h"
#include "engine/session/source_internal.h"

#define RETRY_NS          (200 * SLUICE_NS_PER_MS)
#define RETRY_MAX_NS      (5 * SLUICE_NS_PER_S)
#define PINGS_PER_TIMEOUT 4
#define ROUND_TRIP_NS     (100 * SLUICE_NS_PER_MS) /* between two measurements of it */

#define IN(state) (1u << SOURCE_##state)

void source_send(struct sluice_source *s, json_t *message)
{
	if (s->link_up)
		s->env.peer_send(s->env.ctx, message);
	else
		json_decref(message);
}

void source_send_abort(struct sluice_source *s, const char *reason)
{
	source_send(s, json_pack("{s:s, s:s}", "type", "abort", "reason", reason));
}

void sluice_source_connected(struct sluice_source *s)
{
	s->link_up = true;
	s->heard_ns = source_now(s);
	if (s->state == SOURCE_DOUBT) {
		source_send(s, json_pack("{s:s, s:s, s:s}", "type", "resolve", "session",
				       s->conf.session, "decision", "committed"));
	} else if (s->state == SOURCE_SETUP) {
		source_say_hello(s);
		source_ask_sync(s);
	}
}

void sluice_source_peer_bad(struct sluice_source *s, const char *why)
{
	if (source_guest_is_ours(s->state))
		source_fail_text(s, -EPROTO, "the target broke the protocol: %s", why);
}

void sluice_source_peer_lost(struct sluice_source *s, const char *why)
{
	bool was_up = s->link_up;

	s->link_up = false;
	if (sluice_source_is_over(s))
		return;
	if (source_guest_is_ours(s->state)) {
		source_fail_text(s, -ECONNRESET,
			was_up ? "the peer link was lost: %s"
			       : "the target's engine cannot be reached: %s",
			why);
		return;
	}
	if (s->state == SOURCE_COMMIT) {
		s->retry_pause_ns = RETRY_NS;
		source_enter(s, SOURCE_DOUBT);
	}
	s->retry_ns = source_now(s) + s->retry_pause_ns;
	s->retry_pause_ns =
		s->retry_pause_ns * 2 < RETRY_MAX_NS ? s->retry_pause_ns * 2 : RETRY_MAX_NS;
}

void sluice_source_vmm_lost(struct sluice_source *s)
{
	if (!sluice_source_is_over(s) && source_guest_is_ours(s->state))
		source_fail_text(s, -EPIPE, "the VMM closed its connection");
}

static void on_refuse(struct sluice_source *s, const json_t *message)
{
	source_fail_text(s, -ECONNREFUSED, "the target refused: %s",
		json_string_value(json_object_get(message, "error")));
}

static void on_credit(struct sluice_source *s, const json_t *message)
{
	const json_t *slots = json_object_get(message, "slots");

	for (size_t i = 0; i < json_array_size(slots); i++) {
		uint32_t slot = (uint32_t)json_integer_value(json_array_get(slots, i));

		if (sluice_outbox_accept(s->conf.outbox, slot, &s->error) < 0) {
			source_fail(s, &s->error);
			return;
		}
	}
	s->conf.wake(s->conf.wake_ctx); /* readers wait for slots; the drain may be over */
}

static void on_ping(struct sluice_source *s, const json_t *message)
{
	source_send(s, json_pack("{s:s, s:O}", "type", "pong", "n", json_object_get(message, "n")));
}

static void on_pong(struct sluice_source *s, const json_t *message)
{
	if ((uint64_t)json_integer_value(json_object_get(message, "n")) == s->ping_n)
		s->peer_rtt_ns = source_now(s) - s->pinged_ns;
}

void sluice_source_peer_message(struct sluice_source *s, const json_t *message)
{
	static const struct {
		const char *type;
		uint32_t states;
		void (*handle)(struct sluice_source *s, const json_t *message);
	} table[] = {
		{"welcome", IN(SETUP), source_on_welcome},
		{"refuse", IN(SETUP), on_refuse},
		{"fenced", IN(ACTIVE) | IN(READY) | IN(DRAIN), source_on_fenced},
		{"credit", IN(ACTIVE) | IN(READY) | IN(DRAIN), on_credit},
		{"prepared", IN(PREPARE), source_on_prepared},
		{"committed", IN(COMMIT) | IN(DOUBT), source_on_committed},
		{"decision", IN(COMMIT) | IN(DOUBT), source_on_decision},
		{"abort", UINT32_MAX, source_on_abort},
		{"ping", UINT32_MAX, on_ping},
		{"pong", UINT32_MAX, on_pong},
	};
	const char *type = json_string_value(json_object_get(message, "type"));

	s->heard_ns = source_now(s);
	if (sluice_source_is_over(s))
		return;
	for (size_t i = 0; i < SLUICE_ARRAY_LEN(table); i++) {
		if (strcmp(type, table[i].type) != 0)
			continue;
		if (table[i].states & (1u << s->state)) {
			table[i].handle(s, message);
			return;
		}
		break;
	}
	if (source_guest_is_ours(s->state))
		source_fail_text(s, -EPROTO, "the peer sent \"%s\" while the migration is \"%s\"",
			type, sluice_source_status(s));
}

/*
 * The round trip is part of the predicted downtime: while pages move it is measured often enough
 * that one slow answer (the first comes behind the target's setup) does not hold up the switchover.
 */
static uint64_t ping_gap_ns(const struct sluice_source *s)
{
	uint64_t gap_ns = s->conf.peer_timeout_ns / PINGS_PER_TIMEOUT;

	return s->state == SOURCE_ACTIVE && gap_ns > ROUND_TRIP_NS ? ROUND_TRIP_NS : gap_ns;
}

void source_keep_alive(struct sluice_source *s, uint64_t now_ns)
{
	if (!s->link_up)
		return;
	if (now_ns - s->heard_ns > s->conf.peer_timeout_ns) {
		sluice_source_peer_lost(s, "the peer is silent");
		return;
	}
	if (now_ns - s->pinged_ns > ping_gap_ns(s)) {
		s->pinged_ns = now_ns;
		source_send(
			s, json_pack("{s:s, s:I}", "type", "ping", "n", (json_int_t)++s->ping_n));
	}
}
