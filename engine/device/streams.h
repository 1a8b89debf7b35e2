/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * streams.h: the threads that read device state at the source and write it at the target, one per
 * device: device descriptors block, and devices are slow in their own ways.
 *
 * A reader fills slots of the outbox; without a credit it waits. A writer loads the inbox's
 * segments in order. Both tell the control thread by notes, and end when told to stop.
 *
 * Threads: everything here is called by the control thread, except the threads themselves.
 */
#ifndef SLUICE_ENGINE_DEVICE_STREAMS_H
#define SLUICE_ENGINE_DEVICE_STREAMS_H

#include <stdbool.h>
#include <stdint.h>

#include <sluice/error.h>

#include "engine/device/announce.h"

struct sluice_inbox;
struct sluice_outbox;
struct sluice_streams;

/* What the threads tell. */
struct sluice_stream_handlers {
	void (*wake)(void *ctx); /* any thread: call sluice_streams_poll soon */
	void (*lanes_wake)(void *ctx); /* any thread: a segment is ready for a lane */
	/* From sluice_streams_poll, on the control thread: */
	void (*slot_loaded)(void *ctx, uint32_t slot);
	void (*device_done)(void *ctx, uint32_t device, int code); /* 0 or -errno */
	void *ctx;
};

int sluice_streams_create(
	const struct sluice_stream_handlers *handlers, struct sluice_streams **ret_streams);
/* Stops and joins all threads; takes as long as one read or write of a device. */
void sluice_streams_destroy(struct sluice_streams *streams);

/* Source: read @fd to its end. Target: write the device's segments to @fd, then close it.
   Both own @fd from here on and make it non-blocking. */
int sluice_streams_read(struct sluice_streams *streams, struct sluice_outbox *outbox,
	uint32_t device, int fd, struct sluice_error *err);
int sluice_streams_write(struct sluice_streams *streams, struct sluice_inbox *inbox,
	uint32_t device, int fd, struct sluice_error *err);
/* Target: see sluice_inbox_announced; wakes the writer. */
int sluice_streams_announced(struct sluice_streams *streams, struct sluice_inbox *inbox,
	const struct sluice_announce *announce, struct sluice_error *err);
/* Source: credits came back; readers that wait look again. */
void sluice_streams_credits(struct sluice_streams *streams);
/* Deliver what the threads told. */
void sluice_streams_poll(struct sluice_streams *streams);

#endif
