/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * target_link.c: a target's end of the peer link: which message may come in which state, a link
 * that is lost, silent, back; and the decision. Control thread.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/bits.h"
#include "base/text.h"
#include "engine/session/target_internal.h"

#define PINGS_PER_TIMEOUT 4

#define IN(state) (1u << TARGET_##state)

void target_send(struct sluice_target *t, json_t *message)
{
	if (t->link_up)
		t->env.peer_send(t->env.ctx, message);
	else
		json_decref(message);
}

static void on_finish(struct sluice_target *t, const json_t *message)
{
	uint32_t devices = (uint32_t)json_integer_value(json_object_get(message, "devices"));

	if (devices != t->device_count) {
		target_burn(t, -EPROTO, "the source finished %u devices and announced %u", devices,
			t->device_count);
		return;
	}
	if (target_waits_for_region(t)) {
		target_burn(t, -EPROTO, "the source finished without a region that it had added");
		return;
	}
	target_enter(t, TARGET_LOAD);
	target_prepare_when_loaded(t);
}

static void say_decision(struct sluice_target *t, const char *decision)
{
	target_send(t, json_pack("{s:s, s:s, s:s}", "type", "decision", "session", t->conf.session,
			       "decision", decision));
}

/* Recorded first, then the VMM runs, then the source hears: each step may be repeated. */
static void commit(struct sluice_target *t)
{
	struct sluice_error err = {0};
	int r = sluice_session_commit(&t->env, t->conf.session, &err);

	if (r < 0) {
		target_burn(t, r, "%s", err.text);
		/* The source has given the guest away and waits for this word, whatever failed. */
		say_decision(t, "aborted");
		return;
	}
	target_enter(t, TARGET_COMPLETED);
	target_send(t, json_pack("{s:s}", "type", "committed"));
	sluice_lane_set_close_all(&t->lanes);
}

static void on_commit(struct sluice_target *t, const json_t *message)
{
	(void)message;
	if (t->state == TARGET_PREPARED)
		commit(t);
	else
		say_decision(t, t->state == TARGET_COMPLETED ? "committed" : "aborted");
}

static void on_abort(struct sluice_target *t, const json_t *message)
{
	target_burn(t, -ECANCELED, "the source gave up: %s",
		json_string_value(json_object_get(message, "reason")));
}

/*
 * The source lost the link and came back, or its successor did. Told "committed", a prepared
 * target commits. Asked without that, or not prepared, it burns the session: the answer must hold
 * for good.
 */
static void on_resolve(struct sluice_target *t, const json_t *message)
{
	const char *decision = json_string_value(json_object_get(message, "decision"));

	if (t->state == TARGET_PREPARED && strcmp(decision, "committed") == 0)
		commit(t);
	else if (!sluice_target_is_over(t))
		target_burn(
			t, -ECANCELED, "the source asked about the session before it was decided");
	say_decision(t, t->state == TARGET_COMPLETED ? "committed" : "aborted");
}

static void on_ping(struct sluice_target *t, const json_t *message)
{
	target_send(t, json_pack("{s:s, s:O}", "type", "pong", "n", json_object_get(message, "n")));
}

static void on_pong(struct sluice_target *t, const json_t *message)
{
	(void)t;
	(void)message;
}

void sluice_target_peer_message(struct sluice_target *t, const json_t *message)
{
	static const struct {
		const char *type;
		uint32_t states;
		void (*handle)(struct sluice_target *t, const json_t *message);
	} table[] = {
		{"resume", UINT32_MAX, target_on_resume},
		{"fence", IN(RECEIVE), target_on_fence},
		{"lane-open", IN(RECEIVE), target_on_lane_open},
		{"region-add", IN(RECEIVE), target_on_region_add},
		{"region-remove", IN(RECEIVE), target_on_region_remove},
		{"device", IN(RECEIVE), target_on_device},
		{"finish", IN(RECEIVE), on_finish},
		{"commit", IN(PREPARED) | IN(COMPLETED) | IN(FAILED), on_commit},
		{"abort", IN(RECEIVE) | IN(LOAD) | IN(PREPARED), on_abort},
		{"resolve", UINT32_MAX, on_resolve},
		{"ping", UINT32_MAX, on_ping},
		{"pong", UINT32_MAX, on_pong},
	};
	const char *type = json_string_value(json_object_get(message, "type"));

	t->heard_ns = target_now(t);
	for (size_t i = 0; i < SLUICE_ARRAY_LEN(table); i++) {
		if (strcmp(type, table[i].type) != 0)
			continue;
		if (table[i].states & (1u << t->state)) {
			table[i].handle(t, message);
			return;
		}
		break;
	}
	if (t->state < TARGET_PREPARED)
		target_burn(t, -EPROTO, "the source sent \"%s\" while the migration is \"%s\"",
			type, sluice_target_status(t));
}

void sluice_target_peer_bad(struct sluice_target *t, const char *why)
{
	if (t->state < TARGET_PREPARED)
		target_burn(t, -EPROTO, "the source broke the protocol: %s", why);
}

void sluice_target_peer_lost(struct sluice_target *t, const char *why)
{
	if (!t->link_up || sluice_target_is_over(t)) {
		t->link_up = false;
		return;
	}
	t->link_up = false;
	t->lost_ns = target_now(t);
	t->pauses += target_is_paused(t);
	snprintf(t->link_reason, sizeof(t->link_reason), "the peer link was lost: %s", why);
	sluice_text_make_utf8(t->link_reason);
	target_void_tickets(t);
	if (!sluice_target_is_over(t))
		target_tell_status(t); /* paused; or in doubt: the source may have committed */
}

void sluice_target_peer_back(struct sluice_target *t)
{
	const char *before = sluice_target_status(t);

	if (target_is_paused(t))
		t->paused_ns += target_now(t) - t->lost_ns;
	t->link_up = true;
	t->heard_ns = target_now(t);
	if (strcmp(before, sluice_target_status(t)) != 0)
		target_tell_status(t);
}

/* Without its VMM the guest cannot run here: nobody may be told that it does. */
void sluice_target_vmm_lost(struct sluice_target *t)
{
	if (!sluice_target_is_over(t))
		target_burn(t, -EPIPE, "the target's VMM closed its connection");
}

int sluice_target_resolve(
	struct sluice_target *t, enum sluice_decision decision, struct sluice_error *err)
{
	if (t->state != TARGET_PREPARED || t->link_up)
		return sluice_fail(err, -EINVAL, "session-resolve",
			"the session is \"%s\", not in doubt", sluice_target_status(t));
	if (decision == SLUICE_COMMITTED) {
		commit(t);
		return t->state == TARGET_COMPLETED
			       ? 0
			       : sluice_fail(err, t->error.code, "session-resolve", "%s",
					 t->error.text);
	}
	target_burn(t, -ECANCELED, "resolved as aborted by the operator");
	return 0;
}

/* ---- time ---- */

uint64_t target_ping_gap_ns(const struct sluice_target *t)
{
	return t->conf.peer_timeout_ns / PINGS_PER_TIMEOUT;
}

void target_keep_alive(struct sluice_target *t, uint64_t now_ns)
{
	if (!t->link_up)
		return;
	if (sluice_has_passed(now_ns, t->heard_ns, t->conf.peer_timeout_ns)) {
		t->env.peer_disconnect(t->env.ctx);
		sluice_target_peer_lost(t, "the peer is silent");
		return;
	}
	if (sluice_has_passed(now_ns, t->pinged_ns, target_ping_gap_ns(t))) {
		t->pinged_ns = now_ns;
		target_send(t, json_pack("{s:s, s:I}", "type", "ping", "n", (json_int_t)0));
	}
}
