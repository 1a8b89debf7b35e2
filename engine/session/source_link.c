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

#define PINGS_PER_TIMEOUT 4
#define ALIVE_NS          (100 * SLUICE_NS_PER_MS) /* between two while pages move */
#define SETUP_PONGS       8

#define IN(state) (1u << SOURCE_##state)
#define OURS \
	(IN(SETUP) | IN(ACTIVE) | IN(READY) | IN(DRAIN) | IN(PREPARE) | IN(ASK)) /* the guest */

void source_send_now(struct sluice_source *s, json_t *message)
{
	if (s->link_up)
		s->env.peer_send(s->env.ctx, message);
	else
		json_decref(message);
}

bool source_link_usable(const struct sluice_source *s)
{
	return s->link_up && !s->resuming;
}

void source_send(struct sluice_source *s, json_t *message)
{
	if (source_link_usable(s))
		s->env.peer_send(s->env.ctx, message);
	else
		json_decref(message);
}

void source_send_abort(struct sluice_source *s, const char *reason)
{
	source_send_now(s, json_pack("{s:s, s:s}", "type", "abort", "reason", reason));
}

static void ask_decision(struct sluice_source *s, const char *decision)
{
	source_send_now(s, json_pack("{s:s, s:s, s:s}", "type", "resolve", "session",
				   s->conf.session, "decision", decision));
}

void sluice_source_connected(struct sluice_source *s)
{
	s->link_up = true;
	s->attempt_ns = 0;
	s->refusals = 0;
	s->heard_ns = source_now(s);
	if (sluice_source_is_over(s)) {
		if (s->farewell)
			ask_decision(s, "undecided");
		else
			s->env.peer_disconnect(s->env.ctx);
	} else if (s->state == SOURCE_DOUBT) {
		ask_decision(s, "committed");
	} else if (s->pause != PAUSE_NONE) {
		source_say_resume(s);
	} else if (s->state == SOURCE_SETUP && !s->hello_said) {
		source_say_hello(s);
		source_ask_sync(s);
	}
}

void sluice_source_peer_bad(struct sluice_source *s, const char *why)
{
	if (source_guest_is_ours(s->state))
		source_fail_text(s, -EPROTO, "the target broke the protocol: %s", why);
}

/* Before the welcome nothing has been shared that could be resumed. */
static void lost_while_ours(struct sluice_source *s, int code, bool was_up, const char *why)
{
	if (s->conf.outbox != NULL)
		source_pause_for_link(s, code, was_up, why);
	else
		source_fail_text(s, -ECONNRESET,
			was_up ? "the peer link was lost: %s"
			       : "the target's engine cannot be reached: %s",
			why);
}

void sluice_source_peer_lost(struct sluice_source *s, int code, const char *why)
{
	bool was_up = s->link_up && !s->resuming;

	s->link_up = false;
	s->resuming = false;
	s->attempt_ns = 0;
	if (sluice_source_is_over(s)) {
		source_farewell_lost(s, code);
	} else if (source_guest_is_ours(s->state)) {
		lost_while_ours(s, code, was_up, why);
	} else {
		if (s->state == SOURCE_COMMIT) {
			source_reset_retries(s);
			source_enter(s, SOURCE_DOUBT);
		}
		source_schedule_retry(s);
	}
}

void sluice_source_vmm_lost(struct sluice_source *s)
{
	if (!sluice_source_is_over(s) && source_guest_is_ours(s->state))
		source_fail_text(s, -EPIPE, "the VMM closed its connection");
}

static void on_refuse(struct sluice_source *s, const json_t *message)
{
	s->peer_ended = true;
	source_fail_text(s, -ECONNREFUSED,
		s->resuming ? "the target cannot resume: %s" : "the target refused: %s",
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
	source_send_now(
		s, json_pack("{s:s, s:O}", "type", "pong", "n", json_object_get(message, "n")));
}

/*
 * The round trip is part of the predicted downtime, in which lanes have nothing under way: so it is
 * measured a few times while they connect, and whenever a dirty sync is asked: at the latest before
 * the last one they have sent all there is. The number that comes back is when the ping was sent:
 * several may be under way at once.
 */
void source_ping(struct sluice_source *s)
{
	s->pinged_ns = source_now(s);
	source_send_now(s, json_pack("{s:s, s:I}", "type", "ping", "n",
				   (json_int_t)(s->pinged_ns - s->start_ns)));
}

/* The quickest one counts: others waited behind the lanes' data. */
static void on_pong(struct sluice_source *s, const json_t *message)
{
	uint64_t now_ns = source_now(s) - s->start_ns;
	uint64_t sent_ns = (uint64_t)json_integer_value(json_object_get(message, "n"));

	if (sent_ns < now_ns && (s->peer_rtt_ns == 0 || now_ns - sent_ns < s->peer_rtt_ns))
		s->peer_rtt_ns = now_ns - sent_ns;
	if (s->state == SOURCE_SETUP && ++s->pongs < SETUP_PONGS)
		source_ping(s);
}

void sluice_source_peer_message(struct sluice_source *s, const json_t *message)
{
	static const struct {
		const char *type;
		uint32_t states;
		void (*handle)(struct sluice_source *s, const json_t *message);
		bool resuming; /* also between resume and resumed */
	} table[] = {
		{"rail", OURS, source_on_rail},
		{"welcome", IN(SETUP), source_on_welcome},
		{"refuse", OURS, on_refuse, true},
		{"resumed", OURS, source_on_resumed, true},
		{"fenced", IN(SETUP) | IN(ACTIVE) | IN(READY) | IN(DRAIN), source_on_fenced},
		{"lane-ticket", OURS, source_on_lane_ticket},
		{"region-added", OURS, source_on_region_added},
		{"region-removed", IN(SETUP) | IN(ACTIVE), source_on_region_removed},
		{"credit", IN(ACTIVE) | IN(READY) | IN(DRAIN), on_credit},
		{"prepared", IN(PREPARE), source_on_prepared},
		{"committed", IN(COMMIT) | IN(DOUBT), source_on_committed},
		{"decision", IN(COMMIT) | IN(DOUBT), source_on_decision},
		{"abort", UINT32_MAX, source_on_abort, true},
		{"ping", UINT32_MAX, on_ping, true},
		{"pong", UINT32_MAX, on_pong, true},
	};
	const char *type = json_string_value(json_object_get(message, "type"));

	s->heard_ns = source_now(s);
	if (sluice_source_is_over(s)) {
		source_end_farewell(s, type);
		return;
	}
	for (size_t i = 0; i < SLUICE_ARRAY_LEN(table); i++) {
		if (strcmp(type, table[i].type) != 0)
			continue;
		if ((table[i].states & (1u << s->state)) && (!s->resuming || table[i].resuming)) {
			table[i].handle(s, message);
			return;
		}
		break;
	}
	if (source_guest_is_ours(s->state))
		source_fail_text(s, -EPROTO, "the peer sent \"%s\" while the migration is \"%s\"",
			type, sluice_source_status(s));
}

/* While pages move a silent peer is noticed soon: until it is heard, no lane is blamed. */
static uint64_t ping_gap_ns(const struct sluice_source *s)
{
	uint64_t gap_ns = s->conf.peer_timeout_ns / PINGS_PER_TIMEOUT;

	return s->state <= SOURCE_DRAIN && gap_ns > ALIVE_NS ? ALIVE_NS : gap_ns;
}

bool source_peer_lives(const struct sluice_source *s, uint64_t now_ns)
{
	return s->link_up && !sluice_has_passed(now_ns, s->heard_ns, 2 * ping_gap_ns(s));
}

void source_keep_alive(struct sluice_source *s, uint64_t now_ns)
{
	if (s->attempt_ns != 0 && sluice_has_passed(now_ns, s->attempt_ns, SOURCE_CONNECT_NS)) {
		s->env.peer_disconnect(s->env.ctx);
		sluice_source_peer_lost(s, -ETIMEDOUT, "no answer");
		return;
	}
	if (!s->link_up)
		return;
	if (sluice_has_passed(now_ns, s->heard_ns, s->conf.peer_timeout_ns)) {
		s->env.peer_disconnect(s->env.ctx);
		sluice_source_peer_lost(s, -ETIMEDOUT, "the peer is silent");
		return;
	}
	if (!sluice_source_is_over(s) && sluice_has_passed(now_ns, s->pinged_ns, ping_gap_ns(s)))
		source_ping(s);
}
