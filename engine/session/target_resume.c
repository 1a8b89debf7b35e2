/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * target_resume.c: a target whose source vanished before it was prepared: paused for a while, and
 * resumed. Control thread.
 *
 * Each message that was under way when the link was lost may have been heard or not, in either
 * direction. `resumed` says what was heard here and repeats what was said, so that nothing has to
 * be known about the others:
 *
 *   fence, fenced          every lane is fenced now; astray: those of which not all has landed
 *   lane-open, lane-ticket epochs: the latest connection of each lane that was opened here
 *   region-add, -added     the source repeats them while it waits, and is answered each time
 *   region-remove, -removed   the same
 *   device                 devices: how many were heard of; the source repeats the rest
 *   credit                 credits: how often each slot was given back, ever; held: what is here
 *   finish, prepared       state
 *   commit, committed      not here: a source that has committed says `resolve`
 */
#include <errno.h>
#include <string.h>

#include "base/clock.h"
#include "base/plant.h"
#include "engine/session/target_internal.h"

bool target_is_paused(const struct sluice_target *t)
{
	return t->state < TARGET_PREPARED && !t->link_up;
}

/* Sessions outlive no process: whoever is not the engine of the welcome has none of the pages. */
int sluice_target_check_resume(
	const struct sluice_target *t, const json_t *message, struct sluice_error *err)
{
	const char *session = json_string_value(json_object_get(message, "session"));
	const char *instance = json_string_value(json_object_get(message, "instance"));
	uint32_t attempt = (uint32_t)json_integer_value(json_object_get(message, "attempt"));

	if (strcmp(instance, t->conf.instance) != 0)
		return sluice_fail_scope(err, SLUICE_SCOPE_SESSION, -ESTALE, "resume",
			"the target's engine is another one than before; migrate anew");
	if (strcmp(session, t->conf.session) != 0)
		return sluice_fail_scope(err, SLUICE_SCOPE_SESSION, -ENOENT, "resume",
			"the target's engine does not hold session %s", session);
	if (sluice_target_is_over(t))
		return sluice_fail_scope(err, SLUICE_SCOPE_SESSION, -ESTALE, "resume",
			"the session has ended at the target: %s",
			t->state == TARGET_FAILED ? t->error.text : "completed");
	/* What was sent on a connection that its sender has given up since. */
	if (attempt <= t->attempt)
		return sluice_fail_scope(err, SLUICE_SCOPE_SESSION, -EALREADY, "resume",
			"the session was resumed by a later connection");
	return 0;
}

static const char *state_name(const struct sluice_target *t)
{
	return t->state == TARGET_RECEIVE ? "receive"
	       : t->state == TARGET_LOAD  ? "load"
					  : "prepared";
}

static void say_resumed(struct sluice_target *t)
{
	json_t *credits = json_array(), *epochs = json_array(), *astray = json_array();

	for (uint32_t slot = 0; slot < t->conf.inbox->slots; slot++)
		json_array_append_new(credits, json_integer((json_int_t)t->credits[slot]));
	for (uint32_t lane = 0; lane < t->lanes.count; lane++) {
		json_array_append_new(epochs, json_integer((json_int_t)t->lanes.slots[lane].epoch));
		if (t->lanes.slots[lane].astray)
			json_array_append_new(astray, json_integer((json_int_t)lane));
	}
	target_send(
		t, json_pack("{s:s, s:s, s:I, s:o, s:o, s:o, s:o, s:o}", "type", "resumed", "state",
			   state_name(t), "devices", (json_int_t)t->device_count, "held",
			   target_held_slots(t, TARGET_ALL_LANES), "credits", credits, "epochs",
			   epochs, "astray", astray, "rails", target_rail_addresses(t)));
}

void target_on_resume(struct sluice_target *t, const json_t *message)
{
	struct sluice_error err = {0};

	if (sluice_target_check_resume(t, message, &err) < 0) {
		target_send(t, json_pack("{s:s, s:s}", "type", "refuse", "error", err.text));
		return;
	}
	t->attempt = (uint32_t)json_integer_value(json_object_get(message, "attempt"));
	target_read_mailboxes(t); /* what was announced before a lane is fenced has arrived */
	if (sluice_target_is_over(t))
		return;
	if (!SLUICE_PLANTED(RESUME_WITHOUT_FENCE))
		sluice_lane_set_close_all(&t->lanes);
	target_rails_resumed(t);
	say_resumed(t);
	target_prepare_when_loaded(t);
}

void sluice_target_superseded(struct sluice_target *t, const json_t *hello)
{
	if (target_is_paused(t) && strcmp(json_string_value(json_object_get(hello, "instance")),
					   t->peer_instance) == 0)
		target_burn(t, -ECANCELED, "the source has begun another migration");
}

void target_give_up_waiting(struct sluice_target *t, uint64_t now_ns)
{
	if (target_is_paused(t) &&
		sluice_has_passed(now_ns, t->lost_ns, t->conf.recover_timeout_ns))
		target_burn(t, -ETIMEDOUT,
			"%s; the source did not come back within recover-timeout", t->link_reason);
}

void target_pause_json(const struct sluice_target *t, json_t *reply)
{
	uint64_t paused_ns = t->paused_ns;

	if (target_is_paused(t)) {
		uint64_t end_ns = t->lost_ns + t->conf.recover_timeout_ns, now_ns = target_now(t);

		paused_ns += now_ns - t->lost_ns;
		json_object_set_new(reply, "pause-reason", json_string(t->link_reason));
		json_object_set_new(reply, "gives-up-in",
			json_integer((json_int_t)((end_ns > now_ns ? end_ns - now_ns : 0) /
						  SLUICE_NS_PER_MS)));
	}
	json_object_set_new(reply, "pauses", json_integer((json_int_t)t->pauses));
	json_object_set_new(
		reply, "paused-time", json_integer((json_int_t)(paused_ns / SLUICE_NS_PER_MS)));
}
