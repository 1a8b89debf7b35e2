/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * mailbox.h: notes from one lane to the control thread: a ring with one writer (the lane's
 * worker) and one reader. When it is full the lane stops polling until control has read.
 */
#ifndef SLUICE_ENGINE_LANE_MAILBOX_H
#define SLUICE_ENGINE_LANE_MAILBOX_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include <sluice/transport.h>

#include "base/assert.h"

#define SLUICE_MAILBOX_NOTES 64 /* power of two */

enum sluice_note_kind {
	SLUICE_NOTE_CONNECTED = 1,
	SLUICE_NOTE_RECEIVED, /* a peer's message: bytes, len_bytes */
	SLUICE_NOTE_LOST, /* status is -errno; the lane's last note */
};

struct sluice_note {
	enum sluice_note_kind kind;
	int32_t status;
	uint32_t len_bytes;
	uint8_t bytes[SLUICE_SEND_BYTES_MAX];
};

struct sluice_mailbox {
	struct sluice_note notes[SLUICE_MAILBOX_NOTES];
	uint32_t tail; /* written by the lane */
	uint32_t head; /* written by control */
};

static inline uint32_t sluice_mailbox_room(const struct sluice_mailbox *box)
{
	return SLUICE_MAILBOX_NOTES - (__atomic_load_n(&box->tail, __ATOMIC_RELAXED) -
					      __atomic_load_n(&box->head, __ATOMIC_ACQUIRE));
}

static inline void sluice_mailbox_put(struct sluice_mailbox *box, enum sluice_note_kind kind,
	int32_t status, const void *bytes, uint32_t len_bytes)
{
	uint32_t tail = __atomic_load_n(&box->tail, __ATOMIC_RELAXED);
	struct sluice_note *note = &box->notes[tail % SLUICE_MAILBOX_NOTES];

	SLUICE_ASSERT(sluice_mailbox_room(box) > 0);
	SLUICE_ASSERT(len_bytes <= sizeof(note->bytes));
	note->kind = kind;
	note->status = status;
	note->len_bytes = len_bytes;
	if (len_bytes > 0)
		memcpy(note->bytes, bytes, len_bytes);
	__atomic_store_n(&box->tail, tail + 1, __ATOMIC_RELEASE);
}

static inline bool sluice_mailbox_take(struct sluice_mailbox *box, struct sluice_note *ret_note)
{
	uint32_t head = __atomic_load_n(&box->head, __ATOMIC_RELAXED);

	if (head == __atomic_load_n(&box->tail, __ATOMIC_ACQUIRE))
		return false;
	*ret_note = box->notes[head % SLUICE_MAILBOX_NOTES];
	__atomic_store_n(&box->head, head + 1, __ATOMIC_RELEASE);
	return true;
}

#endif
