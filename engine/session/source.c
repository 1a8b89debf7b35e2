/* SPDX-License-Identifier: BSD-3-Clause */
/* source.c: the state machine of a source; its states are in source_internal.h. Control thread. */
#include "engine/session/source.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/bits.h"
#include "base/clock.h"
#include "base/plant.h"
#include "base/text.h"
#include "engine/lane/crew.h"
#include "engine/session/source_internal.h"

#define PROGRESS_NS       (200 * SLUICE_NS_PER_MS)
#define RETRY_NS          (200 * SLUICE_NS_PER_MS)
#define RETRY_MAX_NS      (5 * SLUICE_NS_PER_S)
#define PINGS_PER_TIMEOUT 4
#define ROUND_TRIP_NS     (100 * SLUICE_NS_PER_MS) /* between two measurements of it */
#define REASON_NS         (100 * SLUICE_NS_PER_MS)

#define IN(state) (1u << SOURCE_##state)

bool source_guest_is_ours(enum source_state state)
{
	return state <= SOURCE_ASK;
}

bool sluice_source_is_over(const struct sluice_source *source)
{
	return source->state >= SOURCE_COMPLETED;
}

bool sluice_source_is_in_doubt(const struct sluice_source *source)
{
	return source->state == SOURCE_DOUBT;
}

static uint64_t now(const struct sluice_source *s)
{
	return s->env.now_ns(s->env.ctx);
}

void source_wake_lanes(struct sluice_source *s)
{
	if (s->conf.crew != NULL)
		sluice_crew_wake(s->conf.crew);
}

void source_tell_throttle(struct sluice_source *s, uint32_t percent)
{
	if (percent == s->throttle_told)
		return;
	s->throttle_told = percent;
	s->env.vmm_event(
		s->env.ctx, "THROTTLE", json_pack("{s:I}", "percent", (json_int_t)percent));
}

void source_enter(struct sluice_source *s, enum source_state state)
{
	const char *before = sluice_source_status(s);

	SLUICE_ASSERT(!sluice_source_is_over(s));
	s->state = state;
	if (sluice_source_is_over(s)) {
		s->over_ns = now(s);
		__atomic_store_n(&s->work.gate, 0, __ATOMIC_RELEASE);
		sluice_lane_set_close_all(&s->lanes);
		source_tell_throttle(s, 0);
	}
	if (strcmp(before, sluice_source_status(s)) != 0)
		source_tell_status(s);
}

static void send_simple(struct sluice_source *s, const char *type)
{
	if (s->link_up)
		s->env.peer_send(s->env.ctx, json_pack("{s:s}", "type", type));
}

static void send_abort(struct sluice_source *s, const char *reason)
{
	if (s->link_up)
		s->env.peer_send(
			s->env.ctx, json_pack("{s:s, s:s}", "type", "abort", "reason", reason));
}

/*
 * Only while the guest is ours. The target may still be told to commit by nobody: no commit was
 * recorded, and without the record none is ever sent.
 */
void source_fail(struct sluice_source *s, const struct sluice_error *error)
{
	SLUICE_ASSERT(source_guest_is_ours(s->state));
	if (&s->error != error)
		s->error = *error;
	send_abort(s, s->error.text);
	source_enter(s, SOURCE_FAILED);
}

void source_fail_text(struct sluice_source *s, int code, const char *fmt, ...)
{
	struct sluice_error error = {
		.code = code, .scope = SLUICE_SCOPE_SESSION, .where = "source"};
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(error.text, sizeof(error.text), fmt, ap);
	va_end(ap);
	sluice_text_make_utf8(error.text);
	source_fail(s, &error);
}

int sluice_source_create(const struct sluice_session_conf *conf,
	const struct sluice_session_env *env, struct sluice_source **ret_source)
{
	struct sluice_ledger_span spans[64];
	struct sluice_source *s = calloc(1, sizeof(*s));
	int r;

	SLUICE_ASSERT(conf->region_count <= SLUICE_ARRAY_LEN(spans));
	SLUICE_ASSERT(conf->lanes >= 1 && conf->lanes <= SLUICE_LANES_MAX);
	if (s == NULL)
		return -ENOMEM;
	for (uint32_t i = 0; i < conf->region_count; i++)
		spans[i] = (struct sluice_ledger_span){
			.base = conf->regions[i].base, .len_bytes = conf->regions[i].len_bytes};
	r = sluice_ledger_create(spans, conf->region_count, &s->ledger);
	if (r < 0) {
		free(s);
		return r;
	}
	s->conf = *conf;
	s->env = *env;
	s->work.ledger = s->ledger;
	s->work.regions = s->regions;
	s->work.wake = conf->wake;
	s->work.wake_ctx = conf->wake_ctx;
	s->lanes.transport = conf->transport;
	s->lanes.rail = conf->rail;
	s->lanes.crew = conf->crew;
	s->lanes.work = &s->work;
	s->lanes.role = SLUICE_ROLE_SOURCE;
	s->lanes.count = conf->lanes;
	conf->transport->rail_limits(conf->rail, &s->lanes.limits);
	s->lanes.window_bytes =
		sluice_align_down(conf->memory_budget_bytes / conf->lanes, SLUICE_PAGE_BYTES);
	if (s->lanes.window_bytes < SLUICE_PAGE_BYTES)
		s->lanes.window_bytes = SLUICE_PAGE_BYTES;
	s->start_ns = now(s);
	s->heard_ns = s->start_ns;
	source_tell_status(s);
	*ret_source = s;
	return 0;
}

void sluice_source_destroy(struct sluice_source *s)
{
	if (s == NULL)
		return;
	sluice_lane_set_close_all(&s->lanes);
	for (uint32_t i = 0; i < s->conf.region_count; i++)
		s->conf.transport->mem_forget(s->remotes[i]);
	s->conf.transport->mem_forget(s->staging);
	s->conf.transport->mem_unregister(s->outbox_mem);
	sluice_outbox_destroy(s->conf.outbox);
	sluice_ledger_destroy(s->ledger);
	free(s);
}

/* ---- lanes ---- */

static void reclaim(struct sluice_source *s, uint32_t lane)
{
	sluice_ledger_reclaim(s->ledger, lane);
	sluice_outbox_reclaim(s->conf.outbox, lane);
	source_wake_lanes(s);
}

static void lane_lost(struct sluice_source *s, uint32_t lane, int status)
{
	uint32_t epoch = s->lanes.slots[lane].epoch;

	if (s->state == SOURCE_SETUP) {
		source_fail_text(
			s, status, "lane %u could not be connected: %s", lane, strerror(-status));
		return;
	}
	sluice_lane_set_lost(&s->lanes, lane);
	if (sluice_lane_set_standing(&s->lanes, SLUICE_LANE_ACTIVE) == 0) {
		s->last_lane_status = status;
		s->lanes_gone_ns = now(s);
		return;
	}
	s->env.peer_send(s->env.ctx, json_pack("{s:s, s:I, s:I}", "type", "fence", "lane",
					     (json_int_t)lane, "epoch", (json_int_t)epoch));
	if (SLUICE_PLANTED(NO_FENCE))
		reclaim(s, lane);
}

/* Segments that the target has from the lost lane are not sent again: see outbox.h. */
static int keep_held(struct sluice_source *s, uint32_t lane, const json_t *held)
{
	for (size_t i = 0; i < json_array_size(held); i++) {
		uint32_t slot = (uint32_t)json_integer_value(json_array_get(held, i));
		int r = sluice_outbox_keep(s->conf.outbox, slot, lane, &s->error);

		if (r < 0)
			return r;
	}
	return 0;
}

static void on_fenced(struct sluice_source *s, const json_t *message)
{
	uint32_t lane = (uint32_t)json_integer_value(json_object_get(message, "lane"));
	uint32_t epoch = (uint32_t)json_integer_value(json_object_get(message, "epoch"));

	if (lane >= s->conf.lanes || s->lanes.slots[lane].standing != SLUICE_LANE_FENCING ||
		s->lanes.slots[lane].epoch != epoch) {
		source_fail_text(s, -EPROTO,
			"the peer fenced lane %u, epoch %u, which was not "
			"asked for",
			lane, epoch);
		return;
	}
	if (keep_held(s, lane, json_object_get(message, "held")) < 0) {
		source_fail(s, &s->error);
		return;
	}
	reclaim(s, lane);
	sluice_lane_set_close(&s->lanes, lane);
}

static void on_note(struct sluice_source *s, uint32_t lane, const struct sluice_note *note)
{
	switch (note->kind) {
	case SLUICE_NOTE_CONNECTED:
		s->lanes.slots[lane].standing = SLUICE_LANE_ACTIVE;
		source_activate_when_ready(s);
		break;
	case SLUICE_NOTE_LOST:
		lane_lost(s, lane, note->status);
		break;
	case SLUICE_NOTE_RECEIVED:
		source_fail_text(s, -EPROTO,
			"the peer sent a message on lane %u, where only the "
			"source speaks",
			lane);
		break;
	}
}

/* A target that gives up closes its lanes, and its reason follows on the peer link: wait for it. */
static void fail_when_lanes_are_gone(struct sluice_source *s, uint64_t now_ns)
{
	if (s->lanes_gone_ns != 0 && now_ns - s->lanes_gone_ns > REASON_NS &&
		source_guest_is_ours(s->state))
		source_fail_text(s, s->last_lane_status, "all %u lanes were lost; the last one: %s",
			s->conf.lanes, strerror(-s->last_lane_status));
}

/* From PREPARE on everything is flushed, and the target closes the lanes: no news, no loss. */
static void read_mailboxes(struct sluice_source *s)
{
	for (uint32_t lane = 0; lane < s->conf.lanes; lane++) {
		struct sluice_note note;

		while (s->state < SOURCE_PREPARE && s->lanes.slots[lane].lane != NULL &&
			s->lanes.slots[lane].standing != SLUICE_LANE_FENCING &&
			sluice_mailbox_take(sluice_lane_mailbox(s->lanes.slots[lane].lane), &note))
			on_note(s, lane, &note);
	}
}

/* ---- switchover ---- */

static int check_device(struct sluice_source *s, const char *device, struct sluice_error *err)
{
	if (s->state != SOURCE_ACTIVE && s->state != SOURCE_READY)
		return sluice_fail(err, -EINVAL, "device-add",
			"devices are added between "
			"\"active\" and migrate-continue; the migration is \"%s\"",
			sluice_source_status(s));
	if (s->device_count == SLUICE_ARRAY_LEN(s->devices))
		return sluice_fail(err, -ENOSPC, "device-add", "there are already %u devices",
			s->device_count);
	for (uint32_t i = 0; i < s->device_count; i++)
		if (strcmp(s->devices[i], device) == 0)
			return sluice_fail(err, -EEXIST, "device-add",
				"device \"%s\" was added before", device);
	return 0;
}

int sluice_source_device_add(
	struct sluice_source *s, const char *device, int fd, struct sluice_error *err)
{
	uint32_t index = s->device_count;
	int r = check_device(s, device, err);

	if (r < 0) {
		close(fd);
		return r;
	}
	snprintf(s->devices[index], sizeof(s->devices[index]), "%s", device);
	s->device_count++;
	s->devices_reading++;
	s->env.peer_send(s->env.ctx, json_pack("{s:s, s:s}", "type", "device", "device", device));
	r = s->env.device_start(s->env.ctx, index, fd, err);
	if (r < 0)
		source_fail_text(s, r, "device \"%s\" cannot be read", device);
	return r;
}

void sluice_source_device_read(struct sluice_source *s, uint32_t device, int code)
{
	SLUICE_ASSERT(s->devices_reading > 0);
	s->devices_reading--;
	if (code < 0 && source_guest_is_ours(s->state))
		source_fail_text(s, code, "the state of device \"%s\" cannot be read: %s",
			s->devices[device], strerror(-code));
	else
		sluice_source_tick(s);
}

static void finish_when_drained(struct sluice_source *s)
{
	if (s->state != SOURCE_DRAIN || !s->final_sync_done || s->devices_reading > 0 ||
		__atomic_load_n(&s->conf.outbox->unaccepted, __ATOMIC_SEQ_CST) > 0 ||
		sluice_lane_set_standing(&s->lanes, SLUICE_LANE_FENCING) > 0 ||
		!sluice_ledger_is_drained(s->ledger))
		return;
	if (s->env.memory_lost(s->env.ctx)) {
		source_fail_text(s, -EIO,
			"a file that backs guest memory shrank; what was read "
			"from it is not the guest's memory");
		return;
	}
	source_enter(s, SOURCE_PREPARE);
	s->env.peer_send(s->env.ctx,
		json_pack("{s:s, s:I}", "type", "finish", "devices", (json_int_t)s->device_count));
}

static void on_prepared(struct sluice_source *s, const json_t *message)
{
	(void)message;
	source_enter(s, SOURCE_ASK);
	s->env.vmm_event(
		s->env.ctx, "SWITCHOVER_COMMIT", json_pack("{s:s}", "session", s->conf.session));
}

/*
 * The point of no return. The VMM has given the guest away; once the decision is on record the
 * guest is the target's unless the target itself says that it is burnt.
 */
static int commit(struct sluice_source *s, struct sluice_error *err)
{
	struct sluice_error why = {0};
	int r = sluice_session_commit(&s->env, s->conf.session, &why);

	if (r < 0) {
		source_fail(s, &why);
		return sluice_fail(err, r, "migrate-continue", "%s", why.text);
	}
	s->commit_ns = now(s);
	source_enter(s, SOURCE_COMMIT);
	if (s->link_up)
		send_simple(s, "commit");
	else
		sluice_source_peer_lost(s, "the peer link was lost before the commit");
	return 0;
}

int sluice_source_continue(struct sluice_source *s, const char *state, struct sluice_error *err)
{
	if (s->state == SOURCE_READY && strcmp(state, "pre-switchover") == 0) {
		s->stopped_ns = now(s);
		source_enter(s, SOURCE_DRAIN);
		source_ask_sync(s);
		return 0;
	}
	if (s->state == SOURCE_ASK && strcmp(state, "commit") == 0)
		return commit(s, err);
	return sluice_fail(err, -EINVAL, "migrate-continue",
		"the migration is \"%s\" and does not wait for \"%s\"", sluice_source_status(s),
		state);
}

static void completed(struct sluice_source *s, const json_t *message)
{
	(void)message;
	source_enter(s, SOURCE_COMPLETED);
}

/* The target's word is final: committed there, or burnt there and the guest is ours again. */
static void on_decision(struct sluice_source *s, const json_t *message)
{
	if (strcmp(json_string_value(json_object_get(message, "session")), s->conf.session) != 0)
		return; /* about another session: it decides nothing here */
	if (strcmp(json_string_value(json_object_get(message, "decision")), "committed") == 0) {
		source_enter(s, SOURCE_COMPLETED);
		return;
	}
	s->error = (struct sluice_error){.code = -ECANCELED, .scope = SLUICE_SCOPE_SESSION};
	snprintf(s->error.text, sizeof(s->error.text),
		"the target aborted the session for good; the guest is the source's again");
	source_enter(s, SOURCE_FAILED);
}

static void on_abort(struct sluice_source *s, const json_t *message)
{
	if (!source_guest_is_ours(s->state))
		return; /* it crossed our commit; the answer to that decides */
	source_fail_text(s, -ECANCELED, "the target gave up: %s",
		json_string_value(json_object_get(message, "reason")));
}

int sluice_source_cancel(struct sluice_source *s, struct sluice_error *err)
{
	if (sluice_source_is_over(s))
		return sluice_fail(err, -EINVAL, "migrate_cancel", "no migration is running");
	if (!source_guest_is_ours(s->state))
		return sluice_fail(err, -EBUSY, "migrate_cancel",
			"the guest has been given to the target; it is too late to cancel");
	send_abort(s, "cancelled at the source");
	source_enter(s, SOURCE_CANCELLED);
	return 0;
}

int sluice_source_resolve(
	struct sluice_source *s, enum sluice_decision decision, struct sluice_error *err)
{
	if (s->state != SOURCE_DOUBT)
		return sluice_fail(err, -EINVAL, "session-resolve",
			"the session is \"%s\", not in doubt", sluice_source_status(s));
	if (decision == SLUICE_COMMITTED) {
		source_enter(s, SOURCE_COMPLETED);
		return 0;
	}
	s->error = (struct sluice_error){.code = -ECANCELED, .scope = SLUICE_SCOPE_SESSION};
	snprintf(s->error.text, sizeof(s->error.text), "resolved as aborted by the operator");
	source_enter(s, SOURCE_FAILED);
	return 0;
}

/* ---- the peer link ---- */

void sluice_source_connected(struct sluice_source *s)
{
	s->link_up = true;
	s->heard_ns = now(s);
	if (s->state == SOURCE_DOUBT) {
		s->env.peer_send(
			s->env.ctx, json_pack("{s:s, s:s, s:s}", "type", "resolve", "session",
					    s->conf.session, "decision", "committed"));
	} else if (s->state == SOURCE_SETUP) {
		source_say_hello(s);
		source_ask_sync(s);
	}
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
	s->retry_ns = now(s) + s->retry_pause_ns;
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
	s->env.peer_send(s->env.ctx,
		json_pack("{s:s, s:O}", "type", "pong", "n", json_object_get(message, "n")));
}

static void on_pong(struct sluice_source *s, const json_t *message)
{
	if ((uint64_t)json_integer_value(json_object_get(message, "n")) == s->ping_n)
		s->peer_rtt_ns = now(s) - s->pinged_ns;
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
		{"fenced", IN(ACTIVE) | IN(READY) | IN(DRAIN), on_fenced},
		{"credit", IN(ACTIVE) | IN(READY) | IN(DRAIN), on_credit},
		{"prepared", IN(PREPARE), on_prepared},
		{"committed", IN(COMMIT) | IN(DOUBT), completed},
		{"decision", IN(COMMIT) | IN(DOUBT), on_decision},
		{"abort", UINT32_MAX, on_abort},
		{"ping", UINT32_MAX, on_ping},
		{"pong", UINT32_MAX, on_pong},
	};
	const char *type = json_string_value(json_object_get(message, "type"));

	s->heard_ns = now(s);
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

/* ---- time ---- */

/*
 * The round trip is part of the predicted downtime: while pages move it is measured often enough
 * that one slow answer (the first comes behind the target's setup) does not hold up the switchover.
 */
static uint64_t ping_gap_ns(const struct sluice_source *s)
{
	uint64_t gap_ns = s->conf.peer_timeout_ns / PINGS_PER_TIMEOUT;

	return s->state == SOURCE_ACTIVE && gap_ns > ROUND_TRIP_NS ? ROUND_TRIP_NS : gap_ns;
}

static void keep_alive(struct sluice_source *s, uint64_t now_ns)
{
	if (!s->link_up)
		return;
	if (now_ns - s->heard_ns > s->conf.peer_timeout_ns) {
		sluice_source_peer_lost(s, "the peer is silent");
		return;
	}
	if (now_ns - s->pinged_ns > ping_gap_ns(s)) {
		s->pinged_ns = now_ns;
		s->env.peer_send(s->env.ctx,
			json_pack("{s:s, s:I}", "type", "ping", "n", (json_int_t)++s->ping_n));
	}
}

/* A target that lives and says nothing about the commit is asked again, on a new link. */
static void doubt_when_unanswered(struct sluice_source *s, uint64_t now_ns)
{
	if (s->state == SOURCE_COMMIT && now_ns - s->commit_ns > s->conf.peer_timeout_ns)
		sluice_source_peer_lost(s, "the peer does not answer the commit");
}

/* Whoever it is that does not go on, the guest has waited long enough. */
static void fail_when_stopped_too_long(struct sluice_source *s, uint64_t now_ns)
{
	if (s->conf.switchover_timeout_ns == 0 || s->stopped_ns == 0 ||
		!source_guest_is_ours(s->state) ||
		now_ns - s->stopped_ns <= s->conf.switchover_timeout_ns)
		return;
	source_fail_text(s, -ETIMEDOUT,
		s->state == SOURCE_DRAIN
			? "the rest of the guest took longer than switchover-timeout to move"
		: s->state == SOURCE_PREPARE
			? "the target took longer than switchover-timeout to load the devices"
			: "the VMM took longer than switchover-timeout to give the guest away");
}

void sluice_source_tick(struct sluice_source *s)
{
	uint64_t now_ns = now(s);

	if (sluice_source_is_over(s))
		return;
	if (s->state == SOURCE_SETUP && now_ns > s->start_ns + s->conf.setup_timeout_ns) {
		source_fail_text(s, -ETIMEDOUT,
			"the target, its lanes or the VMM's first dirty "
			"sync took longer than setup-timeout");
		return;
	}
	keep_alive(s, now_ns);
	doubt_when_unanswered(s, now_ns);
	read_mailboxes(s);
	if (s->state == SOURCE_ACTIVE)
		source_sync_when_due(s, now_ns);
	finish_when_drained(s);
	fail_when_lanes_are_gone(s, now_ns);
	fail_when_stopped_too_long(s, now_ns);
	if (s->state == SOURCE_DOUBT && !s->link_up && now_ns >= s->retry_ns) {
		s->retry_ns = SLUICE_NEVER;
		s->env.peer_reconnect(s->env.ctx);
	}
	if (!sluice_source_is_over(s) && now_ns - s->progress_ns >= PROGRESS_NS) {
		s->progress_ns = now_ns;
		source_tell_progress(s, now_ns);
	}
}

uint64_t sluice_source_deadline_ns(const struct sluice_source *s)
{
	uint64_t at_ns = s->progress_ns + PROGRESS_NS;

	if (sluice_source_is_over(s))
		return SLUICE_NEVER;
	if (source_next_sync_ns(s) < at_ns)
		at_ns = source_next_sync_ns(s);
	if (s->lanes_gone_ns != 0 && s->lanes_gone_ns + REASON_NS < at_ns)
		at_ns = s->lanes_gone_ns + REASON_NS + 1;
	if (s->state == SOURCE_DOUBT && s->retry_ns < at_ns)
		at_ns = s->retry_ns;
	return at_ns;
}

void sluice_source_set_policy(struct sluice_source *s, const struct sluice_policy_conf *policy)
{
	s->conf.policy = *policy;
}

struct sluice_outbox *sluice_source_outbox(struct sluice_source *s)
{
	return s->conf.outbox;
}

const struct sluice_lane_set *sluice_source_lanes(const struct sluice_source *s)
{
	return &s->lanes;
}
