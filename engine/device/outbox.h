/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * outbox.h: device segments at the source, on their way into the target's staging slots.
 *
 * A slot is a piece of local memory and, under the same index, a piece of the target's staging
 * region. Having a slot means having the credit for it: no credit, no send; the slots are the
 * budget. A slot goes round:
 *
 *   FREE     the target's slot is empty          -> claim (reader thread)
 *   FILLING  the reader writes the segment       -> ready
 *   READY    waits for a lane                    -> pop (any lane)
 *   SENT     written and announced by one lane   -> accept (the target returned the credit) FREE
 *                                                -> keep (lane lost, but the target has it) KEPT
 *                                                -> reclaim (that lane was lost and fenced) READY
 *   KEPT     waits for its credit                -> accept FREE
 *
 * A segment that the target has must not be sent again: its credit is on the way, and behind it
 * the slot gets new content, here and there, while the old one would still be under way.
 *
 * Threads: claim and ready for a device's reader, pop for lanes, accept and reclaim for control.
 */
#ifndef SLUICE_ENGINE_DEVICE_OUTBOX_H
#define SLUICE_ENGINE_DEVICE_OUTBOX_H

#include <stdbool.h>
#include <stdint.h>

#include <sluice/error.h>

#include "engine/device/announce.h"
#include "engine/lane/queue.h"

struct sluice_segment {
	uint32_t state;
	uint32_t credits; /* how often the target has returned this slot; control only */
	struct sluice_announce announce;
};

struct sluice_outbox {
	uint32_t slots;
	uint32_t slot_bytes;
	uint8_t *pool; /* slots * slot_bytes, page aligned */
	struct sluice_segment *segments;
	struct sluice_queue free, ready;
	uint32_t unaccepted; /* segments FILLING, READY or SENT */
};

int sluice_outbox_create(uint32_t slots, uint32_t slot_bytes, struct sluice_outbox **ret_outbox);
void sluice_outbox_destroy(struct sluice_outbox *outbox);

static inline uint8_t *sluice_outbox_slot(const struct sluice_outbox *outbox, uint32_t slot)
{
	return outbox->pool + (uint64_t)slot * outbox->slot_bytes;
}

/* An empty slot to fill; false while the target holds all of them. */
bool sluice_outbox_claim(struct sluice_outbox *outbox, uint32_t *ret_slot);
void sluice_outbox_ready(struct sluice_outbox *outbox, const struct sluice_announce *announce);
bool sluice_outbox_pop(struct sluice_outbox *outbox, uint32_t lane, uint32_t *ret_slot);
/* A credit from the peer; -EPROTO when that slot was not sent. */
int sluice_outbox_accept(struct sluice_outbox *outbox, uint32_t slot, struct sluice_error *err);
/* The target has this segment of a lost lane; -EPROTO when that lane did not send it. */
int sluice_outbox_keep(
	struct sluice_outbox *outbox, uint32_t slot, uint32_t lane, struct sluice_error *err);
/*
 * After a lost peer link, when every lane is fenced: bring a slot in line with what the target says.
 * @credits: how often it has returned this slot; one more than we heard of is a credit that was
 * lost. @held: it has the slot's segment and will return the credit later. What was sent and is
 * neither goes again. -EPROTO when it cannot be.
 */
int sluice_outbox_resume(struct sluice_outbox *outbox, uint32_t slot, uint32_t credits, bool held,
	struct sluice_error *err);
/* What else a lost lane had sent is ready again. Returns how many. */
uint32_t sluice_outbox_reclaim(struct sluice_outbox *outbox, uint32_t lane);

#endif
