/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * source_pause.c: a session that does not go on for a while: paused, resumed, given up.
 *
 * Without a peer link nothing can be fenced, and without a lane nothing can move. The guest runs
 * on, what it writes is collected, and nothing is decided. The source connects again, with growing
 * waits and up to a limit; then, and after migrate-pause, an operator says when. `resume` names the
 * target's engine as it was at the welcome: only that process still has the pages and segments that
 * were placed. It fences every lane before it answers, so that nothing that was under way can land
 * after what is sent from now on. Control thread.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/plant.h"
#include "base/text.h"
#include "engine/session/source_internal.h"

#define PAUSE_MAX_NS (5 * SLUICE_NS_PER_S) /* the longest wait between two attempts */
#define REFUSALS_MAX 3 /* in a row: the target's host lives, its engine does not */

/* ---- paused, and not ---- */

void source_set_pause(struct sluice_source *s, enum source_pause pause, const char *fmt, ...)
{
	char reason[sizeof(s->pause_reason)];
	bool changed;
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(reason, sizeof(reason), fmt, ap);
	va_end(ap);
	sluice_text_make_utf8(reason);
	changed = pause != s->pause || strcmp(reason, s->pause_reason) != 0;
	if (s->pause == PAUSE_NONE && pause != PAUSE_NONE) {
		s->pause_since_ns = source_now(s);
		s->pauses++;
		source_tell_throttle(s, 0); /* slower, it would not converge any sooner */
	} else if (s->pause != PAUSE_NONE && pause == PAUSE_NONE) {
		s->paused_ns += source_now(s) - s->pause_since_ns;
		source_interval_anew(s);
	}
	s->pause = pause;
	memcpy(s->pause_reason, reason, sizeof(reason));
	if (changed)
		source_tell_status(s);
}

bool source_is_held(const struct sluice_source *s)
{
	return s->pause != PAUSE_NONE || !source_link_usable(s) ||
	       sluice_lane_set_standing(&s->lanes, SLUICE_LANE_ACTIVE) == 0;
}

uint64_t source_longer_pause_ns(const struct sluice_source *s, uint64_t pause_ns)
{
	uint64_t first_ns = s->conf.recover_pause_ns;
	uint64_t max_ns = first_ns > PAUSE_MAX_NS ? first_ns : PAUSE_MAX_NS;

	if (pause_ns == 0)
		return first_ns;
	return pause_ns * 2 < max_ns ? pause_ns * 2 : max_ns;
}

/* ---- connecting again ---- */

void source_reset_retries(struct sluice_source *s)
{
	s->retries = 0;
	s->refusals = 0;
	s->retry_pause_ns = source_longer_pause_ns(s, 0);
}

bool source_schedule_retry(struct sluice_source *s)
{
	/* In doubt somebody's guest stands still: that is asked for ever. */
	if (s->state != SOURCE_DOUBT && s->retries >= s->conf.recover_retries) {
		s->retry_ns = SLUICE_NEVER;
		return false;
	}
	s->retries++;
	s->retry_ns = source_now(s) + s->retry_pause_ns;
	s->retry_pause_ns = source_longer_pause_ns(s, s->retry_pause_ns);
	return true;
}

/* How often in a row the target's host said that nobody listens there. */
static bool nobody_listens(struct sluice_source *s, int code)
{
	s->refusals = code == -ECONNREFUSED ? s->refusals + 1 : 0;
	return s->refusals >= REFUSALS_MAX;
}

void source_pause_for_link(struct sluice_source *s, int code, bool was_up, const char *why)
{
	const char *what = was_up ? "the peer link was lost" : "the target cannot be reached";

	source_lose_lanes(s);
	if (was_up)
		source_reset_retries(s);
	else if (nobody_listens(s, code)) {
		source_fail_text(s, code,
			"the peer link was lost, and the target's engine is gone: nobody listens "
			"at its address any more");
		return;
	}
	if (source_schedule_retry(s))
		source_set_pause(s, PAUSE_LINK, "%s: %s", what, why);
	else
		source_set_pause(s, PAUSE_LINK,
			"%s: %s; given up after %u tries, migrate-recover tries again", what, why,
			s->retries);
}

void source_retry_when_due(struct sluice_source *s, uint64_t now_ns)
{
	if (s->link_up || s->attempt_ns != 0 || now_ns < s->retry_ns)
		return;
	s->retry_ns = SLUICE_NEVER;
	s->attempt_ns = now_ns;
	s->env.peer_reconnect(s->env.ctx);
}

uint64_t source_retry_deadline_ns(const struct sluice_source *s)
{
	if (sluice_source_is_over(s) && !s->farewell)
		return SLUICE_NEVER;
	if (s->link_up)
		return s->heard_ns + s->conf.peer_timeout_ns + 1;
	return s->attempt_ns != 0 ? s->attempt_ns + SOURCE_CONNECT_NS + 1 : s->retry_ns;
}

/* ---- resuming ---- */

void source_say_resume(struct sluice_source *s)
{
	s->resuming = true;
	source_send_now(
		s, json_pack("{s:s, s:s, s:s, s:I}", "type", "resume", "session", s->conf.session,
			   "instance", s->peer_instance, "attempt", (json_int_t)++s->attempt));
}

bool source_is_listed(const json_t *numbers, uint32_t number)
{
	for (size_t i = 0; i < json_array_size(numbers); i++)
		if ((uint32_t)json_integer_value(json_array_get(numbers, i)) == number)
			return true;
	return false;
}

static int resume_slots(struct sluice_source *s, const json_t *message)
{
	const json_t *credits = json_object_get(message, "credits");
	const json_t *held = json_object_get(message, "held");
	struct sluice_outbox *outbox = s->conf.outbox;

	if (json_array_size(credits) != outbox->slots)
		return sluice_fail_scope(&s->error, SLUICE_SCOPE_SESSION, -EPROTO, "resumed",
			"the peer speaks of %zu slots instead of %u", json_array_size(credits),
			outbox->slots);
	for (uint32_t slot = 0; slot < outbox->slots; slot++) {
		uint32_t count = (uint32_t)json_integer_value(json_array_get(credits, slot));
		bool is_held = source_is_listed(held, slot);
		int r;

		if (SLUICE_PLANTED(FORGET_CREDITS) && !is_held)
			continue;
		r = sluice_outbox_resume(outbox, slot, count, is_held, &s->error);
		if (r < 0)
			return r;
	}
	return 0;
}

/* The target may have opened a connection that we never heard of. */
static int resume_epochs(struct sluice_source *s, const json_t *message)
{
	const json_t *epochs = json_object_get(message, "epochs");

	if (json_array_size(epochs) != s->conf.lanes)
		return sluice_fail_scope(&s->error, SLUICE_SCOPE_SESSION, -EPROTO, "resumed",
			"the peer speaks of %zu lanes instead of %u", json_array_size(epochs),
			s->conf.lanes);
	for (uint32_t lane = 0; lane < s->conf.lanes; lane++) {
		uint32_t *epoch = &s->lanes.slots[lane].epoch;
		uint32_t theirs = (uint32_t)json_integer_value(json_array_get(epochs, lane));

		if (theirs != *epoch && theirs != *epoch + 1)
			return sluice_fail_scope(&s->error, SLUICE_SCOPE_SESSION, -EPROTO,
				"resumed", "lane %u has epoch %u here and %u there", lane, *epoch,
				theirs);
		*epoch = theirs;
	}
	return 0;
}

static int check_astray(struct sluice_source *s, const json_t *message)
{
	const json_t *astray = json_object_get(message, "astray");

	for (size_t i = 0; i < json_array_size(astray); i++) {
		json_int_t lane = json_integer_value(json_array_get(astray, i));

		if (lane >= s->conf.lanes)
			return sluice_fail_scope(&s->error, SLUICE_SCOPE_SESSION, -EPROTO,
				"resumed", "the peer speaks of lane %lld, but there are %u lanes",
				(long long)lane, s->conf.lanes);
	}
	return 0;
}

/* How far each side may be when the other is where it says it is. */
static bool fits(const struct sluice_source *s, const char *there, json_int_t devices)
{
	if (devices > s->device_count)
		return false;
	if (s->state == SOURCE_PREPARE)
		return true;
	return strcmp(there, s->state == SOURCE_ASK ? "prepared" : "receive") == 0;
}

static int check_resumed(struct sluice_source *s, const json_t *message)
{
	const char *there = json_string_value(json_object_get(message, "state"));
	json_int_t devices = json_integer_value(json_object_get(message, "devices"));
	int r;

	if (!s->resuming || !fits(s, there, devices))
		return sluice_fail_scope(&s->error, SLUICE_SCOPE_SESSION, -EPROTO, "resumed",
			"the peer resumed in \"%s\" with %lld devices, which does not fit here",
			there, (long long)devices);
	r = check_astray(s, message);
	if (r == 0)
		r = resume_epochs(s, message);
	if (r == 0)
		r = source_update_rails(s, message);
	return r < 0 ? r : resume_slots(s, message);
}

/* What was said last may have been lost: it is said again. */
static void go_on(struct sluice_source *s, const char *there)
{
	if (s->state == SOURCE_PREPARE && strcmp(there, "receive") == 0)
		source_say_finish(s);
	else if (s->state == SOURCE_PREPARE && strcmp(there, "prepared") == 0)
		source_on_prepared(s, NULL);
	source_commit_if_given(s);
}

void source_on_resumed(struct sluice_source *s, const json_t *message)
{
	const char *there = json_string_value(json_object_get(message, "state"));
	uint32_t devices = (uint32_t)json_integer_value(json_object_get(message, "devices"));

	if (check_resumed(s, message) < 0) {
		source_fail(s, &s->error);
		return;
	}
	s->resuming = false;
	source_reset_retries(s);
	source_reclaim_lanes(s, message);
	source_regions_resumed(s);
	while (devices < s->device_count)
		source_say_device(s, devices++);
	if (s->state > SOURCE_SETUP && s->state <= SOURCE_DRAIN)
		source_set_pause(s, PAUSE_LANES, "%s", "the lanes are being opened again");
	else
		source_set_pause(s, PAUSE_NONE, "%s", "");
	go_on(s, there);
	s->conf.wake(s->conf.wake_ctx); /* readers wait for slots */
}

/* ---- the operator ---- */

/* And with it the lanes: nobody could fence one, or say what it brought. */
static void give_up_link(struct sluice_source *s)
{
	s->env.peer_disconnect(s->env.ctx);
	s->link_up = false;
	s->resuming = false;
	s->attempt_ns = 0;
	source_lose_lanes(s);
}

int sluice_source_pause(struct sluice_source *s, struct sluice_error *err)
{
	if (sluice_source_is_over(s))
		return sluice_fail(err, -EINVAL, "migrate-pause", "no migration is running");
	if (s->conf.outbox == NULL || s->state > SOURCE_DRAIN)
		return sluice_fail(err, -EBUSY, "migrate-pause",
			"the migration is \"%s\" and cannot be paused now; migrate_cancel ends it",
			sluice_source_status(s));
	give_up_link(s);
	s->retry_ns = SLUICE_NEVER;
	source_set_pause(s, PAUSE_OPERATOR, "%s", "paused by migrate-pause");
	return 0;
}

static void reopen_lanes_now(struct sluice_source *s)
{
	for (uint32_t lane = 0; lane < s->conf.lanes; lane++) {
		struct sluice_lane_slot *slot = &s->lanes.slots[lane];

		slot->pause_ns = 0;
		slot->tries = 0;
		if (slot->standing == SLUICE_LANE_CLOSED)
			slot->retry_ns = source_now(s);
	}
}

int sluice_source_recover(struct sluice_source *s, bool elsewhere, struct sluice_error *err)
{
	if (s->pause == PAUSE_NONE)
		return sluice_fail(err, -EINVAL, "migrate-recover",
			"the migration is \"%s\", not paused", sluice_source_status(s));
	source_reset_retries(s);
	if (s->pause == PAUSE_LANES && !elsewhere) {
		reopen_lanes_now(s);
	} else {
		give_up_link(s);
		source_set_pause(s, PAUSE_LINK, "%s", "recovering");
		s->retry_ns = source_now(s);
	}
	sluice_source_tick(s);
	return 0;
}

/* ---- the farewell ---- */

/*
 * A session that ended here must end at the target too: one that has prepared would wait for an
 * operator. `abort` says so, and the target's own `abort` is the answer. Where that does not come,
 * the source connects again for a while and asks: a question without a commit burns the session.
 */
void source_begin_farewell(struct sluice_source *s)
{
	s->farewell = s->hello_said && !s->peer_ended;
	source_reset_retries(s);
	s->heard_ns = source_now(s);
	s->resuming = false;
	s->retry_ns = SLUICE_NEVER;
	if (s->farewell && !s->link_up && s->attempt_ns == 0)
		source_schedule_retry(s);
}

void source_end_farewell(struct sluice_source *s, const char *type)
{
	if (strcmp(type, "abort") == 0 || strcmp(type, "decision") == 0 ||
		strcmp(type, "refuse") == 0)
		s->farewell = false;
}

void source_farewell_lost(struct sluice_source *s, int code)
{
	if (s->farewell && !nobody_listens(s, code) && source_schedule_retry(s))
		return;
	s->farewell = false;
	s->retry_ns = SLUICE_NEVER;
}

void source_step_farewell(struct sluice_source *s, uint64_t now_ns)
{
	if (!s->farewell)
		return;
	source_keep_alive(s, now_ns); /* a peer that does not answer is as good as lost */
	source_retry_when_due(s, now_ns);
}

/* ---- telling ---- */

static json_int_t ms(uint64_t ns)
{
	return (json_int_t)(ns / SLUICE_NS_PER_MS);
}

/* When something is tried again without an operator; SLUICE_NEVER: it is not. */
static uint64_t next_try_ns(const struct sluice_source *s)
{
	if (s->pause != PAUSE_LANES)
		return s->attempt_ns != 0 || s->link_up ? source_now(s) : s->retry_ns;
	if (sluice_lane_set_standing(&s->lanes, SLUICE_LANE_CLOSED) < s->conf.lanes)
		return source_now(s); /* one is on its way */
	return source_lanes_deadline_ns(s);
}

static void add_pause(const struct sluice_source *s, json_t *reply, uint64_t now_ns)
{
	uint64_t try_ns = next_try_ns(s);

	json_object_set_new(reply, "pause-reason", json_string(s->pause_reason));
	json_object_set_new(reply, "retries", json_integer(s->retries));
	if (try_ns != SLUICE_NEVER)
		json_object_set_new(
			reply, "retry-in", json_integer(try_ns > now_ns ? ms(try_ns - now_ns) : 0));
}

void source_pause_json(const struct sluice_source *s, json_t *reply)
{
	uint64_t now_ns = source_now(s), paused_ns = s->paused_ns;
	uint64_t lost = 0, reopened = 0;

	for (uint32_t lane = 0; lane < s->conf.lanes; lane++) {
		lost += s->lanes.slots[lane].losses;
		reopened += s->lanes.slots[lane].reopened;
	}
	if (s->pause != PAUSE_NONE) {
		paused_ns += now_ns - s->pause_since_ns;
		add_pause(s, reply, now_ns);
	}
	json_object_set_new(reply, "lanes-lost", json_integer((json_int_t)lost));
	json_object_set_new(reply, "lanes-reopened", json_integer((json_int_t)reopened));
	json_object_set_new(reply, "pauses", json_integer((json_int_t)s->pauses));
	json_object_set_new(reply, "paused-time", json_integer(ms(paused_ns)));
}
