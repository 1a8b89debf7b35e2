/* SPDX-License-Identifier: BSD-3-Clause */
/* inbox.c: see inbox.h. */
#include "engine/device/inbox.h"

#include <errno.h>
#include <stdlib.h>

#include "base/assert.h"
#include "base/bits.h"
#include "engine/placement/node_memory.h"

static const char where[] = "device segment";

int sluice_inbox_create(uint32_t slots, uint32_t slot_bytes, struct sluice_inbox **ret_inbox)
{
	struct sluice_inbox *inbox = calloc(1, sizeof(*inbox));

	SLUICE_ASSERT(slots > 0 && slots <= SLUICE_SLOTS_MAX);
	SLUICE_ASSERT(sluice_is_aligned(slot_bytes, SLUICE_PAGE_BYTES));
	if (inbox == NULL)
		return -ENOMEM;
	inbox->slots = slots;
	inbox->slot_bytes = slot_bytes;
	inbox->pool = sluice_node_alloc((size_t)slots * slot_bytes);
	if (inbox->pool == NULL) {
		free(inbox);
		return -ENOMEM;
	}
	*ret_inbox = inbox;
	return 0;
}

void sluice_inbox_destroy(struct sluice_inbox *inbox)
{
	if (inbox == NULL)
		return;
	sluice_node_free(inbox->pool, (size_t)inbox->slots * inbox->slot_bytes);
	free(inbox);
}

static bool same(const struct sluice_announce *a, const struct sluice_announce *b)
{
	return a->device == b->device && a->seq == b->seq && a->slot == b->slot &&
	       a->len_bytes == b->len_bytes && a->last == b->last;
}

int sluice_inbox_announced(
	struct sluice_inbox *inbox, const struct sluice_announce *a, struct sluice_error *err)
{
	struct sluice_inbox_slot *slot;

	/* A segment may be faster than the peer link's message that names its device. */
	if (a->device >= SLUICE_DEVICES_MAX || a->slot >= inbox->slots ||
		a->len_bytes > inbox->slot_bytes)
		return sluice_fail_scope(err, SLUICE_SCOPE_SESSION, -EPROTO, where,
			"the peer announced device %u, slot %u, %u bytes; there may be %d devices "
			"and there are %u slots of %u bytes",
			a->device, a->slot, a->len_bytes, SLUICE_DEVICES_MAX, inbox->slots,
			inbox->slot_bytes);
	slot = &inbox->slot[a->slot];
	if (a->seq < inbox->device[a->device].next_seq ||
		(slot->state != INBOX_EMPTY && same(&slot->announce, a))) {
		inbox->duplicates++;
		return 0;
	}
	if (slot->state != INBOX_EMPTY || inbox->device[a->device].ended)
		return sluice_fail_scope(err, SLUICE_SCOPE_SESSION, -EPROTO, where,
			"the peer filled slot %u without a credit, or went on after device %u "
			"ended",
			a->slot, a->device);
	slot->state = INBOX_WAITING;
	slot->announce = *a;
	return 1;
}

bool sluice_inbox_next(
	struct sluice_inbox *inbox, uint32_t device, struct sluice_announce *ret_announce)
{
	for (uint32_t i = 0; i < inbox->slots; i++) {
		struct sluice_inbox_slot *slot = &inbox->slot[i];

		if (slot->state != INBOX_WAITING || slot->announce.device != device ||
			slot->announce.seq != inbox->device[device].next_seq)
			continue;
		slot->state = INBOX_LOADING;
		*ret_announce = slot->announce;
		return true;
	}
	return false;
}

void sluice_inbox_loaded(struct sluice_inbox *inbox, const struct sluice_announce *announce)
{
	struct sluice_inbox_slot *slot = &inbox->slot[announce->slot];

	SLUICE_ASSERT(slot->state == INBOX_LOADING);
	slot->state = INBOX_EMPTY;
	inbox->device[announce->device].next_seq = announce->seq + 1;
	inbox->device[announce->device].ended = announce->last;
}
