/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * source_lanes.c: what becomes of a source's lanes: connected, lost, fenced, handed on, opened
 * again. Control thread.
 *
 * A lane that was lost keeps its chunks until the target has fenced that connection. Then they are
 * anybody's, and the lane is opened again after a wait that grows each time the new connection did
 * not stand longer than the wait before it. A ticket comes from the target (`lane-open`,
 * `lane-ticket`). A lane without pending work is not needed, so none is opened once everything has
 * been sent (PREPARE and later).
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/plant.h"
#include "engine/session/source_internal.h"

/* A target that gives up closes its lanes, and its reason follows on the peer link: before lanes
   that are gone count as a pause, it has this long. A lane that is back by then was no pause. */
#define REASON_NS (100 * SLUICE_NS_PER_MS)

static bool lanes_wanted(const struct sluice_source *s)
{
	return s->state <= SOURCE_DRAIN;
}

static struct sluice_lane_slot *slot_of(struct sluice_source *s, uint32_t lane)
{
	return &s->lanes.slots[lane];
}

static uint32_t count_standing(const struct sluice_source *s, enum sluice_lane_standing standing)
{
	return sluice_lane_set_standing(&s->lanes, standing);
}

/* ---- losing ---- */

/* @astray: the target does not know whether all that was placed has landed. */
static void reclaim(struct sluice_source *s, uint32_t lane, bool astray)
{
	sluice_ledger_reclaim(s->ledger, lane, astray && !SLUICE_PLANTED(TRUST_A_DEAD_NIC));
	sluice_outbox_reclaim(s->conf.outbox, lane);
	source_wake_lanes(s);
}

static void ask_fence(struct sluice_source *s, uint32_t lane)
{
	source_send(s, json_pack("{s:s, s:I, s:I}", "type", "fence", "lane", (json_int_t)lane,
			       "epoch", (json_int_t)slot_of(s, lane)->epoch));
}

/* How long to wait before the lane is opened again. */
static void choose_pause(struct sluice_source *s, struct sluice_lane_slot *slot)
{
	uint64_t stood_ns = slot->stood_since_ns != 0 ? source_now(s) - slot->stood_since_ns : 0;

	if (stood_ns > slot->pause_ns) {
		slot->pause_ns = 0;
		slot->tries = 0;
	}
	slot->pause_ns = source_longer_pause_ns(s, slot->pause_ns);
	slot->stood_since_ns = 0;
	slot->tries++;
}

/* In setup a lane that is gone while none stands, nor is on its way, ends it all: whether it did. */
static bool was_last_hope(struct sluice_source *s, uint32_t lane, int status)
{
	if (s->state != SOURCE_SETUP || count_standing(s, SLUICE_LANE_ACTIVE) != 0 ||
		count_standing(s, SLUICE_LANE_CONNECTING) != 0 ||
		count_standing(s, SLUICE_LANE_OPENING) != 0)
		return false;
	source_fail_text(s, status, "lane %u could not be connected, nor any other: %s", lane,
		s->last_lane_why);
	return true;
}

/* A lane that ended by itself knows more than its errno. */
static void lane_lost(struct sluice_source *s, uint32_t lane, int status, bool ended)
{
	const char *why;

	choose_pause(s, slot_of(s, lane));
	sluice_lane_set_lost(&s->lanes, lane);
	why = slot_of(s, lane)->why_lost;
	snprintf(s->last_lane_why, sizeof(s->last_lane_why), "%s",
		ended && *why != '\0' ? why : strerror(-status));
	if (was_last_hope(s, lane, status))
		return;
	ask_fence(s, lane);
	if (SLUICE_PLANTED(NO_FENCE))
		reclaim(s, lane, false);
	source_activate_when_ready(s);
}

void source_lose_lanes_over(struct sluice_source *s, uint32_t pair)
{
	for (uint32_t lane = 0; lanes_wanted(s) && lane < s->conf.lanes; lane++) {
		struct sluice_lane_slot *slot = slot_of(s, lane);

		if (slot->lane != NULL && slot->pair == pair &&
			slot->standing != SLUICE_LANE_FENCING)
			lane_lost(s, lane, -ECONNRESET, false);
	}
}

/* With the peer link go all lanes: nobody could fence one, or say what it brought. */
void source_lose_lanes(struct sluice_source *s)
{
	for (uint32_t lane = 0; lanes_wanted(s) && lane < s->conf.lanes; lane++) {
		struct sluice_lane_slot *slot = slot_of(s, lane);

		if (slot->lane != NULL && slot->standing != SLUICE_LANE_FENCING)
			sluice_lane_set_lost(&s->lanes, lane);
		else if (slot->standing == SLUICE_LANE_OPENING)
			slot->standing = SLUICE_LANE_CLOSED;
		slot->stood_since_ns = 0;
		slot->retry_ns = SLUICE_NEVER;
	}
}

void source_reclaim_lanes(struct sluice_source *s, const json_t *resumed)
{
	const json_t *astray = json_object_get(resumed, "astray");

	for (uint32_t lane = 0; lane < s->conf.lanes; lane++) {
		struct sluice_lane_slot *slot = slot_of(s, lane);

		reclaim(s, lane, source_is_listed(astray, lane));
		sluice_lane_set_close(&s->lanes, lane);
		slot->pause_ns = 0;
		slot->tries = 0;
		slot->retry_ns = lanes_wanted(s) ? source_now(s) : SLUICE_NEVER;
	}
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

void source_on_fenced(struct sluice_source *s, const json_t *message)
{
	uint32_t lane = (uint32_t)json_integer_value(json_object_get(message, "lane"));
	uint32_t epoch = (uint32_t)json_integer_value(json_object_get(message, "epoch"));

	if (lane >= s->conf.lanes || slot_of(s, lane)->standing != SLUICE_LANE_FENCING ||
		slot_of(s, lane)->epoch != epoch) {
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
	reclaim(s, lane, json_is_true(json_object_get(message, "astray")));
	sluice_lane_set_close(&s->lanes, lane);
	slot_of(s, lane)->retry_ns = source_now(s) + slot_of(s, lane)->pause_ns;
}

/* ---- opening ---- */

static int open_lane(struct sluice_source *s, uint32_t lane, const char *text, uint64_t deadline_ns,
	struct sluice_error *err)
{
	struct sluice_ticket_keys keys = {s->env.derive, s->env.ctx};
	struct sluice_ticket_use use = {s->conf.session, lane, s->lanes.slots[lane].epoch + 1};
	struct sluice_ticket ticket;
	int r = sluice_ticket_know(&keys, &use, text, &ticket, err);

	if (r < 0)
		return r;
	return sluice_lane_set_open(
		&s->lanes, lane, s->lane_pairs[lane], &ticket, deadline_ns, err);
}

static void ask_ticket(struct sluice_source *s, uint32_t lane)
{
	struct sluice_lane_slot *slot = slot_of(s, lane);
	const struct sluice_rail_pair *pair;

	slot->pair = source_pair_to_try(s, lane);
	pair = &s->pairs[slot->pair];
	slot->standing = SLUICE_LANE_OPENING;
	slot->retry_ns = SLUICE_NEVER;
	source_send(
		s, json_pack("{s:s, s:I, s:I, s:I}", "type", "lane-open", "lane", (json_int_t)lane,
			   "epoch", (json_int_t)slot->epoch + 1, "rail", (json_int_t)pair->theirs));
}

void source_open_lanes(struct sluice_source *s)
{
	for (uint32_t lane = 0; lane < s->conf.lanes; lane++)
		ask_ticket(s, lane);
}

/* No ticket, or no connection could be started: later, perhaps. */
static void open_failed(struct sluice_source *s, uint32_t lane)
{
	struct sluice_lane_slot *slot = slot_of(s, lane);

	choose_pause(s, slot);
	slot->retry_ns = source_now(s) + slot->pause_ns;
}

void source_on_lane_ticket(struct sluice_source *s, const json_t *message)
{
	uint32_t lane = (uint32_t)json_integer_value(json_object_get(message, "lane"));
	uint32_t epoch = (uint32_t)json_integer_value(json_object_get(message, "epoch"));
	const char *ticket = json_string_value(json_object_get(message, "ticket"));
	struct sluice_error err = {0};
	int r;

	if (!lanes_wanted(s))
		return; /* it crossed `finish`; the target closes what it opened */
	if (lane >= s->conf.lanes || slot_of(s, lane)->standing != SLUICE_LANE_OPENING ||
		slot_of(s, lane)->epoch + 1 != epoch) {
		source_fail_text(s, -EPROTO,
			"the peer sent a ticket for lane %u, epoch %u, which was not asked for",
			lane, epoch);
		return;
	}
	slot_of(s, lane)->standing = SLUICE_LANE_CLOSED;
	if (ticket == NULL) {
		open_failed(s, lane);
		return;
	}
	r = open_lane(s, lane, ticket, source_now(s) + s->conf.lane_timeout_ns, &err);
	if (r == -EPROTO) {
		source_fail(s, &err);
	} else if (r < 0) {
		/* The target waits for this connection: it is as lost as any other. */
		choose_pause(s, slot_of(s, lane));
		slot_of(s, lane)->epoch = epoch;
		slot_of(s, lane)->standing = SLUICE_LANE_FENCING;
		snprintf(s->last_lane_why, sizeof(s->last_lane_why), "%.*s",
			SLUICE_LANE_WHY_BYTES - 1, err.text);
		if (!was_last_hope(s, lane, r))
			ask_fence(s, lane);
	}
}

static void connected(struct sluice_source *s, uint32_t lane)
{
	struct sluice_lane_slot *slot = slot_of(s, lane);

	slot->standing = SLUICE_LANE_ACTIVE;
	slot->stood_since_ns = source_now(s);
	slot->progress_ns = source_now(s);
	slot->completed = 0;
	if (slot->epoch > 1)
		slot->reopened++;
	source_activate_when_ready(s);
}

/* ---- news ---- */

static void on_note(struct sluice_source *s, uint32_t lane, const struct sluice_note *note)
{
	switch (note->kind) {
	case SLUICE_NOTE_CONNECTED:
		connected(s, lane);
		break;
	case SLUICE_NOTE_LOST:
		lane_lost(s, lane, note->status, true);
		break;
	case SLUICE_NOTE_RECEIVED:
		source_fail_text(s, -EPROTO,
			"the peer sent a message on lane %u, where only the "
			"source speaks",
			lane);
		break;
	}
}

/* From PREPARE on everything is flushed, and the target closes the lanes: no news, no loss. */
void source_read_mailboxes(struct sluice_source *s)
{
	for (uint32_t lane = 0; lane < s->conf.lanes; lane++) {
		struct sluice_note note;

		while (lanes_wanted(s) && slot_of(s, lane)->lane != NULL &&
			slot_of(s, lane)->standing != SLUICE_LANE_FENCING &&
			sluice_mailbox_take(sluice_lane_mailbox(slot_of(s, lane)->lane), &note))
			on_note(s, lane, &note);
	}
}

/* ---- time ---- */

/*
 * A lane whose operations do not complete while its peer lives is lost: the network lost it, and
 * its socket may not learn of that for a quarter of an hour. Time counts only while the peer link
 * is heard of: a target that stands still as a whole has lost no lane.
 */
static void watch_progress(struct sluice_source *s, uint32_t lane, uint64_t now_ns)
{
	struct sluice_lane_slot *slot = slot_of(s, lane);
	uint64_t completed;

	if (slot->standing != SLUICE_LANE_ACTIVE)
		return;
	if (sluice_lane_posted(slot->lane, &completed) == 0 || completed != slot->completed ||
		!source_peer_lives(s, now_ns)) {
		slot->completed = completed;
		slot->progress_ns = now_ns;
	} else if (sluice_has_passed(now_ns, slot->progress_ns, s->conf.lane_timeout_ns)) {
		lane_lost(s, lane, -ETIMEDOUT, false);
	}
}

/* A paused migration gives up on its own after so many tries; one that goes on never does. */
static bool may_reopen(const struct sluice_source *s, const struct sluice_lane_slot *slot)
{
	return slot->standing == SLUICE_LANE_CLOSED &&
	       (s->pause == PAUSE_NONE || slot->tries <= s->conf.recover_retries);
}

static void watch_all(struct sluice_source *s, uint64_t now_ns)
{
	char gone[128];

	if (count_standing(s, SLUICE_LANE_ACTIVE) > 0) {
		s->lanes_gone_ns = 0;
		if (s->pause == PAUSE_LANES)
			source_set_pause(s, PAUSE_NONE, "%s", "");
		return;
	}
	if (s->lanes_gone_ns == 0)
		s->lanes_gone_ns = now_ns;
	if (s->pause == PAUSE_NONE && sluice_has_passed(now_ns, s->lanes_gone_ns, REASON_NS)) {
		source_gone_rails(s, gone, sizeof(gone));
		source_set_pause(s, PAUSE_LANES, "all %u lanes were lost%s; the last one: %s",
			s->conf.lanes, gone, s->last_lane_why);
	}
}

void source_step_lanes(struct sluice_source *s, uint64_t now_ns)
{
	if (!lanes_wanted(s) || !source_link_usable(s))
		return;
	if (s->state != SOURCE_SETUP)
		watch_all(s, now_ns);
	for (uint32_t lane = 0; lane < s->conf.lanes && lanes_wanted(s); lane++) {
		watch_progress(s, lane, now_ns);
		if (slot_of(s, lane)->retry_ns <= now_ns && may_reopen(s, slot_of(s, lane)))
			ask_ticket(s, lane);
	}
}

uint64_t source_lanes_deadline_ns(const struct sluice_source *s)
{
	uint64_t at_ns = SLUICE_NEVER;

	if (!lanes_wanted(s) || !source_link_usable(s))
		return SLUICE_NEVER;
	if (s->lanes_gone_ns != 0 && s->pause == PAUSE_NONE)
		at_ns = s->lanes_gone_ns + REASON_NS + 1;
	for (uint32_t lane = 0; lane < s->conf.lanes; lane++)
		if (s->lanes.slots[lane].retry_ns < at_ns && may_reopen(s, &s->lanes.slots[lane]))
			at_ns = s->lanes.slots[lane].retry_ns;
	return at_ns;
}
