/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * target_lanes.c: a target's lanes: opened with a ticket, heard, fenced, opened again. Control
 * thread.
 */
#include <errno.h>

#include "base/plant.h"
#include "engine/session/target_internal.h"

/* A lane that waits for the connection with a fresh ticket. */
static int open_lane(struct sluice_target *t, uint32_t lane, uint32_t rail, json_t **ret_ticket,
	struct sluice_error *err)
{
	struct sluice_ticket_keys keys = {t->env.derive, t->env.ctx};
	struct sluice_ticket_use use = {t->conf.session, lane, t->lanes.slots[lane].epoch + 1};
	char told[SLUICE_TICKET_TEXT_BYTES];
	struct sluice_ticket ticket;
	int r = sluice_ticket_make(&keys, &use, &ticket, told, err);

	if (r == 0)
		r = sluice_lane_set_open(&t->lanes, lane, rail, &ticket,
			target_now(t) + t->conf.lane_timeout_ns, err);
	if (r == 0)
		*ret_ticket = json_string(told);
	return r;
}

/* They end with the peer link that they came by. What has connected waits for its fence. */
void target_void_tickets(struct sluice_target *t)
{
	target_read_mailboxes(t);
	for (uint32_t lane = 0; lane < t->lanes.count && !sluice_target_is_over(t); lane++)
		if (t->lanes.slots[lane].standing == SLUICE_LANE_CONNECTING)
			sluice_lane_set_close(&t->lanes, lane);
}

/* A lane that cannot be opened now is answered without a ticket: the source asks again later. */
void target_on_lane_open(struct sluice_target *t, const json_t *message)
{
	uint32_t lane = (uint32_t)json_integer_value(json_object_get(message, "lane"));
	uint32_t epoch = (uint32_t)json_integer_value(json_object_get(message, "epoch"));
	uint32_t rail = (uint32_t)json_integer_value(json_object_get(message, "rail"));
	json_t *reply, *ticket = NULL;
	struct sluice_error err = {0};

	if (SLUICE_PLANTED(RESUME_WITHOUT_FENCE) && lane == 0)
		sluice_lane_set_close(&t->lanes, lane); /* late; and the others never */
	if (lane >= t->lanes.count || epoch != t->lanes.slots[lane].epoch + 1 ||
		(t->lanes.slots[lane].standing != SLUICE_LANE_CLOSED &&
			!SLUICE_PLANTED(RESUME_WITHOUT_FENCE))) {
		target_burn(t, -EPROTO,
			"the source asked to open lane %u, epoch %u, which is not its turn", lane,
			epoch);
		return;
	}
	if (!target_offers(t, rail)) {
		target_burn(t, -EPROTO,
			"the source asked to open lane %u over rail %u, which it was "
			"not told of",
			lane, rail);
		return;
	}
	target_say_rail_anew(t, rail);
	reply = json_pack("{s:s, s:I, s:I}", "type", "lane-ticket", "lane", (json_int_t)lane,
		"epoch", (json_int_t)epoch);
	if (t->lanes.slots[lane].standing == SLUICE_LANE_CLOSED &&
		open_lane(t, lane, rail, &ticket, &err) == 0)
		json_object_set_new(reply, "ticket", ticket);
	target_send(t, reply);
}

static void on_announcement(struct sluice_target *t, uint32_t lane, const struct sluice_note *note)
{
	struct sluice_announce announce;
	struct sluice_error err = {0};
	int r;

	if (!sluice_announce_read(note->bytes, note->len_bytes, &announce)) {
		target_burn(t, -EPROTO,
			"a lane brought a message that is not a segment's announcement");
		return;
	}
	r = t->env.segment_announced(t->env.ctx, &announce, &err);
	if (r < 0)
		target_burn(t, err.code, "%s", err.text);
	else if (r > 0)
		t->held_from[announce.slot] = (uint8_t)(1 + lane);
}

/* A lost lane is only noted: the source says when to fence it, and goes on with the others. */
void target_read_mailboxes(struct sluice_target *t)
{
	for (uint32_t lane = 0; lane < t->lanes.count; lane++) {
		struct sluice_lane_slot *slot = &t->lanes.slots[lane];
		struct sluice_note note;

		while (t->state < TARGET_PREPARED && slot->lane != NULL &&
			sluice_mailbox_take(sluice_lane_mailbox(slot->lane), &note)) {
			if (note.kind == SLUICE_NOTE_RECEIVED) {
				on_announcement(t, lane, &note);
			} else if (note.kind == SLUICE_NOTE_CONNECTED) {
				slot->standing = SLUICE_LANE_ACTIVE;
			} else if (slot->standing != SLUICE_LANE_FENCING) {
				slot->standing = SLUICE_LANE_FENCING;
				slot->losses++;
			}
		}
	}
}

/* Once told they are no lane's any more: if the same lane is lost again, it has not brought them. */
json_t *target_held_slots(struct sluice_target *t, uint32_t lane)
{
	json_t *slots = json_array();

	for (uint32_t slot = 0; slot < t->conf.inbox->slots; slot++) {
		if (lane == TARGET_ALL_LANES ? t->held_from[slot] == 0
					     : t->held_from[slot] != 1 + lane)
			continue;
		t->held_from[slot] = TARGET_HELD_TOLD;
		json_array_append_new(slots, json_integer((json_int_t)slot));
	}
	return slots;
}

void target_on_fence(struct sluice_target *t, const json_t *message)
{
	uint32_t lane = (uint32_t)json_integer_value(json_object_get(message, "lane"));
	uint32_t epoch = (uint32_t)json_integer_value(json_object_get(message, "epoch"));

	if (lane >= t->lanes.count || epoch != t->lanes.slots[lane].epoch) {
		target_burn(t, -EPROTO,
			"the source asked to fence lane %u, epoch %u, which does not "
			"exist",
			lane, epoch);
		return;
	}
	/* What it announced before is in the mailbox: heard before the lane is gone. */
	target_read_mailboxes(t);
	if (sluice_target_is_over(t))
		return;
	sluice_lane_set_close(&t->lanes, lane);
	target_send(t, json_pack("{s:s, s:I, s:I, s:b, s:o}", "type", "fenced", "lane",
			       (json_int_t)lane, "epoch", (json_int_t)epoch, "astray",
			       t->lanes.slots[lane].astray, "held", target_held_slots(t, lane)));
}
