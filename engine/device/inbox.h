/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * inbox.h: device segments at the target: which staging slot holds which piece of which device,
 * and in which order they are loaded. The twin of outbox.h.
 *
 * A slot is EMPTY (its credit is at the source), WAITING (announced, not loaded), or LOADING.
 * Loading it returns the credit. Announcements come from a peer: each field is checked.
 *
 * Threads: none of its own. The caller serialises (control and the loaders hold one lock).
 */
#ifndef SLUICE_ENGINE_DEVICE_INBOX_H
#define SLUICE_ENGINE_DEVICE_INBOX_H

#include <stdbool.h>
#include <stdint.h>

#include <sluice/error.h>

#include "engine/device/announce.h"

#define SLUICE_DEVICES_MAX 256
#define SLUICE_SLOTS_MAX   256

struct sluice_inbox_slot {
	enum { INBOX_EMPTY, INBOX_WAITING, INBOX_LOADING } state;
	struct sluice_announce announce;
};

struct sluice_inbox_device {
	uint32_t next_seq; /* to be loaded next */
	bool ended; /* the last segment was loaded */
};

struct sluice_inbox {
	uint32_t slots, slot_bytes;
	uint8_t *pool; /* the staging region: slots * slot_bytes, page aligned */
	struct sluice_inbox_slot slot[SLUICE_SLOTS_MAX];
	struct sluice_inbox_device device[SLUICE_DEVICES_MAX];
	uint64_t duplicates; /* announcements repeated after a fence, and recognised */
};

int sluice_inbox_create(uint32_t slots, uint32_t slot_bytes, struct sluice_inbox **ret_inbox);
void sluice_inbox_destroy(struct sluice_inbox *inbox); /* NULL is allowed */

/* An announcement arrived. 1: new. 0: known already. -EPROTO: it cannot be. */
int sluice_inbox_announced(struct sluice_inbox *inbox, const struct sluice_announce *announce,
	struct sluice_error *err);
/* The device's next segment in order, now LOADING; false when it is not there yet. */
bool sluice_inbox_next(
	struct sluice_inbox *inbox, uint32_t device, struct sluice_announce *ret_announce);
/* It was loaded: the slot is empty and its credit may go back. */
void sluice_inbox_loaded(struct sluice_inbox *inbox, const struct sluice_announce *announce);

static inline uint8_t *sluice_inbox_data(const struct sluice_inbox *inbox, uint32_t slot)
{
	return inbox->pool + (uint64_t)slot * inbox->slot_bytes;
}

#endif
