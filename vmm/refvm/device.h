/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * device.h: the device "vcpus" on its way to or from the engine: a socket pair, of which the
 * engine gets one end, and a thread that writes or reads the other, unless all of it fits in there.
 *
 * A thread, because the engine reads at the pace of its lanes and writes at the pace of the
 * wire, while the main thread has events to answer. It touches no VM: what it has read is
 * loaded by the main thread.
 */
#ifndef REFVM_DEVICE_H
#define REFVM_DEVICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <sluice/error.h>

#include "vmm/refvm/blob.h"

#define REFVM_DEVICE_ID "vcpus"

struct refvm_device;

/* Send @bytes (stolen, malloc'ed), then @tail (borrowed until the device is destroyed).
   *ret_engine_fd: for device-add; the caller closes it. */
int refvm_device_send(uint8_t *bytes, size_t len, const uint8_t *tail, size_t tail_len,
	struct refvm_device **ret_device, int *ret_engine_fd, struct sluice_error *err);
/* Receive a blob; @on_done(ctx) is called from the thread when it is there, or is refused. */
int refvm_device_receive(void (*on_done)(void *ctx), void *ctx, struct refvm_device **ret_device,
	int *ret_engine_fd, struct sluice_error *err);
bool refvm_device_done(const struct refvm_device *device);
/* After on_done: the blob becomes the caller's, or the error it was refused with. */
int refvm_device_take(
	struct refvm_device *device, struct refvm_blob *ret_blob, struct sluice_error *err);
/* Break off what is under way, and free. NULL is allowed. */
void refvm_device_destroy(struct refvm_device *device);

#endif
