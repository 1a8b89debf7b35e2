/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * source_lanes.c: what becomes of a source's lanes: connected, lost, fenced, handed on. Control
 * thread.
 */
#include <errno.h>
#include <string.h>

#include "base/clock.h"
#include "base/plant.h"
#include "engine/session/source_internal.h"

#define REASON_NS (100 * SLUICE_NS_PER_MS)

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
		s->lanes_gone_ns = source_now(s);
		return;
	}
	source_send(s, json_pack("{s:s, s:I, s:I}", "type", "fence", "lane", (json_int_t)lane,
			       "epoch", (json_int_t)epoch));
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

void source_on_fenced(struct sluice_source *s, const json_t *message)
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
void source_fail_when_lanes_are_gone(struct sluice_source *s, uint64_t now_ns)
{
	if (s->lanes_gone_ns != 0 && now_ns - s->lanes_gone_ns > REASON_NS &&
		source_guest_is_ours(s->state))
		source_fail_text(s, s->last_lane_status, "all %u lanes were lost; the last one: %s",
			s->conf.lanes, strerror(-s->last_lane_status));
}

/* From PREPARE on everything is flushed, and the target closes the lanes: no news, no loss. */
void source_read_mailboxes(struct sluice_source *s)
{
	for (uint32_t lane = 0; lane < s->conf.lanes; lane++) {
		struct sluice_note note;

		while (s->state < SOURCE_PREPARE && s->lanes.slots[lane].lane != NULL &&
			s->lanes.slots[lane].standing != SLUICE_LANE_FENCING &&
			sluice_mailbox_take(sluice_lane_mailbox(s->lanes.slots[lane].lane), &note))
			on_note(s, lane, &note);
	}
}

uint64_t source_lanes_deadline_ns(const struct sluice_source *s)
{
	return s->lanes_gone_ns != 0 ? s->lanes_gone_ns + REASON_NS + 1 : SLUICE_NEVER;
}
