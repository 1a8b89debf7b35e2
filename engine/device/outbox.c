/* SPDX-License-Identifier: BSD-3-Clause */
/* outbox.c: see outbox.h for a slot's states. */
#include "engine/device/outbox.h"

#include <errno.h>
#include <stdlib.h>

#include "base/assert.h"
#include "base/bits.h"
#include "engine/placement/node_memory.h"

enum slot_state { SLOT_FREE, SLOT_FILLING, SLOT_READY, SLOT_KEPT, SLOT_SENT_BY_0 };

int sluice_outbox_create(uint32_t slots, uint32_t slot_bytes, struct sluice_outbox **ret_outbox)
{
	struct sluice_outbox *outbox = aligned_alloc(
		SLUICE_CACHE_LINE, sluice_align_up(sizeof(*outbox), SLUICE_CACHE_LINE));

	SLUICE_ASSERT(sluice_is_aligned(slot_bytes, SLUICE_PAGE_BYTES));
	if (outbox == NULL)
		return -ENOMEM;
	memset(outbox, 0, sizeof(*outbox));
	outbox->slots = slots;
	outbox->slot_bytes = slot_bytes;
	outbox->segments = calloc(slots, sizeof(*outbox->segments));
	outbox->pool = sluice_node_alloc((size_t)slots * slot_bytes);
	if (outbox->segments == NULL || outbox->pool == NULL ||
		sluice_queue_init(&outbox->free, slots) < 0 ||
		sluice_queue_init(&outbox->ready, slots) < 0) {
		sluice_outbox_destroy(outbox);
		return -ENOMEM;
	}
	for (uint32_t slot = 0; slot < slots; slot++)
		sluice_queue_push(&outbox->free, slot);
	*ret_outbox = outbox;
	return 0;
}

void sluice_outbox_destroy(struct sluice_outbox *outbox)
{
	if (outbox == NULL)
		return;
	sluice_queue_fini(&outbox->free);
	sluice_queue_fini(&outbox->ready);
	free(outbox->segments);
	sluice_node_free(outbox->pool, (size_t)outbox->slots * outbox->slot_bytes);
	free(outbox);
}

static void move(struct sluice_outbox *outbox, uint32_t slot, uint32_t from, uint32_t to)
{
	uint32_t old = __atomic_exchange_n(&outbox->segments[slot].state, to, __ATOMIC_ACQ_REL);

	SLUICE_ASSERT(old == from);
}

bool sluice_outbox_claim(struct sluice_outbox *outbox, uint32_t *ret_slot)
{
	if (!sluice_queue_pop(&outbox->free, ret_slot))
		return false;
	move(outbox, *ret_slot, SLOT_FREE, SLOT_FILLING);
	__atomic_fetch_add(&outbox->unaccepted, 1, __ATOMIC_SEQ_CST);
	return true;
}

void sluice_outbox_ready(struct sluice_outbox *outbox, const struct sluice_announce *announce)
{
	SLUICE_ASSERT(announce->slot < outbox->slots);
	SLUICE_ASSERT(announce->len_bytes <= outbox->slot_bytes);
	outbox->segments[announce->slot].announce = *announce;
	move(outbox, announce->slot, SLOT_FILLING, SLOT_READY);
	sluice_queue_push(&outbox->ready, announce->slot);
}

bool sluice_outbox_pop(struct sluice_outbox *outbox, uint32_t lane, uint32_t *ret_slot)
{
	if (!sluice_queue_pop(&outbox->ready, ret_slot))
		return false;
	move(outbox, *ret_slot, SLOT_READY, SLOT_SENT_BY_0 + lane);
	return true;
}

int sluice_outbox_accept(struct sluice_outbox *outbox, uint32_t slot, struct sluice_error *err)
{
	if (slot >= outbox->slots)
		return sluice_fail_scope(err, SLUICE_SCOPE_SESSION, -EPROTO, "credit",
			"the peer returned slot %u, but there are %u slots", slot, outbox->slots);
	if (__atomic_load_n(&outbox->segments[slot].state, __ATOMIC_ACQUIRE) < SLOT_KEPT)
		return sluice_fail_scope(err, SLUICE_SCOPE_SESSION, -EPROTO, "credit",
			"the peer returned slot %u, which was not sent", slot);
	outbox->segments[slot].credits++;
	__atomic_store_n(&outbox->segments[slot].state, SLOT_FREE, __ATOMIC_RELEASE);
	__atomic_fetch_sub(&outbox->unaccepted, 1, __ATOMIC_SEQ_CST);
	sluice_queue_push(&outbox->free, slot);
	return 0;
}

int sluice_outbox_keep(
	struct sluice_outbox *outbox, uint32_t slot, uint32_t lane, struct sluice_error *err)
{
	if (slot >= outbox->slots || __atomic_load_n(&outbox->segments[slot].state,
					     __ATOMIC_ACQUIRE) != SLOT_SENT_BY_0 + lane)
		return sluice_fail_scope(err, SLUICE_SCOPE_SESSION, -EPROTO, "fenced",
			"the peer holds slot %u of lane %u, which did not send it", slot, lane);
	move(outbox, slot, SLOT_SENT_BY_0 + lane, SLOT_KEPT);
	return 0;
}

/* Only SENT and KEPT slots are looked at: the others belong to readers, or wait for a lane. */
int sluice_outbox_resume(struct sluice_outbox *outbox, uint32_t slot, uint32_t credits, bool held,
	struct sluice_error *err)
{
	const struct sluice_segment *segment = &outbox->segments[slot];
	uint32_t state = __atomic_load_n(&segment->state, __ATOMIC_ACQUIRE);
	uint32_t lost = credits - segment->credits;

	if (lost > 1 || ((lost == 1 || held) && state < SLOT_KEPT) || (lost == 1 && held) ||
		(lost == 0 && !held && state == SLOT_KEPT))
		return sluice_fail_scope(err, SLUICE_SCOPE_SESSION, -EPROTO, "resumed",
			"the peer says of slot %u what cannot be: returned %u times, here %u; %s",
			slot, credits, segment->credits, held ? "held" : "not held");
	if (lost == 1)
		return sluice_outbox_accept(outbox, slot, err);
	if (state < SLOT_SENT_BY_0)
		return 0;
	move(outbox, slot, state, held ? SLOT_KEPT : SLOT_READY);
	if (!held)
		sluice_queue_push(&outbox->ready, slot);
	return 0;
}

uint32_t sluice_outbox_reclaim(struct sluice_outbox *outbox, uint32_t lane)
{
	uint32_t count = 0;

	for (uint32_t slot = 0; slot < outbox->slots; slot++) {
		const uint32_t *state = &outbox->segments[slot].state;

		if (__atomic_load_n(state, __ATOMIC_ACQUIRE) != SLOT_SENT_BY_0 + lane)
			continue;
		move(outbox, slot, SLOT_SENT_BY_0 + lane, SLOT_READY);
		sluice_queue_push(&outbox->ready, slot);
		count++;
	}
	return count;
}
