/* SPDX-License-Identifier: BSD-3-Clause */
/* target.c: the state machine of a target. Control thread. */
#include "engine/session/target.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/bits.h"
#include "base/clock.h"
#include "base/text.h"
#include "engine/session/target_internal.h"

bool sluice_target_is_over(const struct sluice_target *t)
{
	return t->state >= TARGET_COMPLETED;
}

bool sluice_target_is_prepared(const struct sluice_target *t)
{
	return t->state == TARGET_PREPARED;
}

const char *sluice_target_status(const struct sluice_target *t)
{
	if (target_is_paused(t))
		return "paused";
	switch (t->state) {
	case TARGET_RECEIVE:
		return "active";
	case TARGET_LOAD:
		return "device";
	case TARGET_PREPARED:
		return t->link_up ? "device" : "in-doubt";
	case TARGET_COMPLETED:
		return "completed";
	case TARGET_FAILED:
		return "failed";
	}
	return "failed";
}

const char *sluice_target_session(const struct sluice_target *t)
{
	return t->conf.session;
}

const struct sluice_lane_set *sluice_target_lanes(const struct sluice_target *t)
{
	return &t->lanes;
}

void target_tell_status(struct sluice_target *t)
{
	json_t *data = json_pack(
		"{s:s, s:s}", "status", sluice_target_status(t), "session", t->conf.session);

	if (t->state == TARGET_FAILED)
		json_object_set_new(data, "error-desc", json_string(t->error.text));
	if (target_is_paused(t))
		json_object_set_new(data, "reason", json_string(t->link_reason));
	t->env.vmm_event(t->env.ctx, "MIGRATION", data);
}

void target_enter(struct sluice_target *t, enum target_state state)
{
	const char *before = sluice_target_status(t);

	SLUICE_ASSERT(!sluice_target_is_over(t));
	if (t->state < TARGET_PREPARED && state >= TARGET_PREPARED)
		target_regions_shut(t); /* each lane is fenced or closed */
	t->state = state;
	if (sluice_target_is_over(t))
		t->over_ns = target_now(t);
	if (strcmp(before, sluice_target_status(t)) != 0)
		target_tell_status(t);
}

/*
 * Give up and burn the session. When even that cannot be recorded the answer is still "failed":
 * without a recorded commit nobody may run the guest here.
 */
void target_burn(struct sluice_target *t, int code, const char *fmt, ...)
{
	enum sluice_decision decision = SLUICE_ABORTED;
	struct sluice_error err = {0};
	va_list ap;

	if (sluice_target_is_over(t))
		return;
	t->error = (struct sluice_error){.code = code, .scope = SLUICE_SCOPE_SESSION};
	va_start(ap, fmt);
	vsnprintf(t->error.text, sizeof(t->error.text), fmt, ap);
	va_end(ap);
	sluice_text_make_utf8(t->error.text);
	sluice_lane_set_close_all(&t->lanes);
	t->env.decide(t->env.ctx, t->conf.session, SLUICE_ABORTED, &decision, &err);
	target_send(t, json_pack("{s:s, s:s}", "type", "abort", "reason", t->error.text));
	target_enter(t, TARGET_FAILED);
}

int sluice_target_create(const struct sluice_session_conf *conf,
	const struct sluice_session_env *env, const json_t *hello,
	struct sluice_target **ret_target, struct sluice_error *err)
{
	struct sluice_target *t;
	int r = target_check_hello(conf, hello, err);

	SLUICE_ASSERT(conf->rail_count >= 1 && conf->rail_count <= SLUICE_RAILS_MAX);
	if (r < 0)
		return r;
	t = calloc(1, sizeof(*t));
	if (t == NULL)
		return sluice_fail(err, -ENOMEM, "hello", "out of memory");
	t->conf = *conf;
	t->env = *env;
	snprintf(t->conf.session, sizeof(t->conf.session), "%s",
		json_string_value(json_object_get(hello, "session")));
	snprintf(t->peer_instance, sizeof(t->peer_instance), "%s",
		json_string_value(json_object_get(hello, "instance")));
	t->work.wake = conf->wake;
	t->work.wake_ctx = conf->wake_ctx;
	t->lanes.pairs = t->pairs;
	t->lanes.pair_count = conf->rail_count;
	t->lanes.crew = conf->crew;
	t->lanes.work = &t->work;
	t->lanes.role = SLUICE_ROLE_TARGET;
	t->lanes.count = (uint32_t)json_integer_value(json_object_get(hello, "lanes"));
	t->lanes.window_bytes = SLUICE_PAGE_BYTES;
	for (uint32_t i = 0; i < conf->rail_count; i++) {
		const struct sluice_session_rail *rail = &conf->rails[i];

		t->pairs[i] = (struct sluice_rail_pair){.transport = rail->transport,
			.rail = rail->rail,
			.ours = i,
			.nodes = rail->nodes};
		if (rail->rail != NULL)
			rail->transport->rail_limits(rail->rail, &t->pairs[i].limits);
	}
	t->link_up = true;
	t->start_ns = target_now(t);
	t->heard_ns = t->start_ns;
	target_regions_begin(t, hello);
	target_say_rails(t, hello);
	target_say_welcome(t);
	target_tell_status(t);
	*ret_target = t;
	return 0;
}

void sluice_target_destroy(struct sluice_target *t)
{
	if (t == NULL)
		return;
	sluice_lane_set_close_all(&t->lanes);
	if (t->state < TARGET_PREPARED)
		target_regions_shut(t);
	free(t);
}

int sluice_target_cancel(struct sluice_target *t, struct sluice_error *err)
{
	if (sluice_target_is_over(t))
		return sluice_fail(err, -EINVAL, "migrate_cancel", "no migration is running");
	if (t->state == TARGET_PREPARED)
		return sluice_fail(err, -EBUSY, "migrate_cancel",
			"the source may have given the guest away; see session-resolve");
	target_burn(t, -ECANCELED, "cancelled at the target");
	return 0;
}

void sluice_target_tick(struct sluice_target *t)
{
	uint64_t now_ns = target_now(t);

	if (sluice_target_is_over(t))
		return;
	target_read_mailboxes(t);
	if (!sluice_target_is_over(t))
		target_keep_alive(t, now_ns);
	target_give_up_waiting(t, now_ns);
}

uint64_t sluice_target_deadline_ns(const struct sluice_target *t)
{
	if (target_is_paused(t))
		return t->lost_ns + t->conf.recover_timeout_ns + 1;
	if (sluice_target_is_over(t) || !t->link_up)
		return SLUICE_NEVER;
	return t->pinged_ns + target_ping_gap_ns(t);
}

json_t *sluice_target_query(const struct sluice_target *t)
{
	uint64_t end_ns = t->over_ns != 0 ? t->over_ns : target_now(t);
	json_t *reply = json_pack("{s:s, s:s, s:I}", "status", sluice_target_status(t), "session",
		t->conf.session, "total-time",
		(json_int_t)((end_ns - t->start_ns) / SLUICE_NS_PER_MS));

	if (t->state == TARGET_FAILED)
		json_object_set_new(reply, "error-desc", json_string(t->error.text));
	target_pause_json(t, reply);
	target_rails_json(t, reply);
	return reply;
}
