/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * target_devices.c: devices at a target: announced, opened, loaded; and *prepared*, when all are.
 * Control thread.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "engine/session/target_internal.h"

static struct target_device *find_device(struct sluice_target *t, const char *name)
{
	for (uint32_t i = 0; i < t->device_count; i++)
		if (strcmp(t->devices[i].name, name) == 0)
			return &t->devices[i];
	return NULL;
}

void target_on_device(struct sluice_target *t, const json_t *message)
{
	const char *name = json_string_value(json_object_get(message, "device"));

	if (t->device_count == SLUICE_DEVICES_MAX) {
		target_burn(t, -EPROTO, "the source announced more than %d devices",
			SLUICE_DEVICES_MAX);
		return;
	}
	if (find_device(t, name) != NULL) {
		target_burn(t, -EPROTO, "the source announced device \"%s\" twice", name);
		return;
	}
	snprintf(t->devices[t->device_count].name, DEVICE_NAME_BYTES, "%s", name);
	t->device_count++;
	t->env.vmm_event(t->env.ctx, "DEVICE_OPEN",
		json_pack("{s:s, s:s}", "device", name, "session", t->conf.session));
}

int sluice_target_device_add(
	struct sluice_target *t, const char *name, int fd, struct sluice_error *err)
{
	struct target_device *device = find_device(t, name);
	int r;

	if (device == NULL || device->opened || t->state > TARGET_LOAD) {
		close(fd);
		return sluice_fail(err, -EINVAL, "device-add",
			"device \"%s\" does not wait for a descriptor; answer DEVICE_OPEN once per "
			"device",
			name);
	}
	device->opened = true;
	r = t->env.device_start(t->env.ctx, (uint32_t)(device - t->devices), fd, err);
	if (r < 0)
		target_burn(t, r, "device \"%s\" cannot be written", name);
	return r;
}

void target_prepare_when_loaded(struct sluice_target *t)
{
	/* Prepared, it would wait for a word: that the source is there to say it is known first. */
	if (t->state != TARGET_LOAD || !t->link_up)
		return;
	for (uint32_t i = 0; i < t->device_count; i++)
		if (!t->devices[i].written || !t->devices[i].loaded)
			return;
	if (t->env.memory_lost(t->env.ctx)) {
		target_burn(t, -EIO, "a file that backs guest memory shrank at the target");
		return;
	}
	/* Nothing may land after this: each connection is fenced and gone. */
	sluice_lane_set_fence_all(&t->lanes);
	target_enter(t, TARGET_PREPARED);
	target_send(t, json_pack("{s:s}", "type", "prepared"));
}

/* A session that failed meanwhile is told by its event; the answer that crossed it is no mistake. */
int sluice_target_device_loaded(struct sluice_target *t, const char *name, struct sluice_error *err)
{
	struct target_device *device = find_device(t, name);

	if (device == NULL || !device->opened || device->loaded)
		return sluice_fail(
			err, -EINVAL, "device-loaded", "device \"%s\" is not being loaded", name);
	device->loaded = true;
	target_prepare_when_loaded(t);
	return 0;
}

void sluice_target_device_written(struct sluice_target *t, uint32_t device, int code)
{
	if (sluice_target_is_over(t))
		return;
	if (code < 0) {
		target_burn(t, code, "the state of device \"%s\" cannot be written to the VMM: %s",
			t->devices[device].name, strerror(-code));
		return;
	}
	t->devices[device].written = true;
	target_prepare_when_loaded(t);
}

void sluice_target_segment_loaded(struct sluice_target *t, uint32_t slot)
{
	t->held_from[slot] = 0;
	t->credits[slot]++;
	if (t->state < TARGET_PREPARED)
		target_send(
			t, json_pack("{s:s, s:[I]}", "type", "credit", "slots", (json_int_t)slot));
}
