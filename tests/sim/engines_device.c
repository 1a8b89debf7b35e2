/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * engines_device.c: readers of device state at the source and loaders at the target, in place of
 * the threads of engine/device/streams.c. What device d holds at byte n follows from the seed, so
 * the loader knows each byte that it must get. See engines_internal.h.
 */
#include <errno.h>

#include "base/assert.h"
#include "base/bits.h"
#include "engine/device/inbox.h"
#include "engine/device/outbox.h"
#include "tests/sim/engines_internal.h"

static uint8_t content(const struct run *run, uint32_t device, uint64_t at)
{
	uint64_t word = sluice_random_mix(run->seed ^ ((uint64_t)device << 56) ^ (at / 8));

	return (uint8_t)(word >> (8 * (at % 8)));
}

/* ---- source ---- */

static void segment_fill(
	const struct run *run, uint32_t index, uint64_t at, uint8_t *bytes, uint32_t len_bytes)
{
	for (uint32_t i = 0; i < len_bytes; i++)
		bytes[i] = content(run, index, at + i);
}

static void device_end(struct engine *engine, struct device *device, int code)
{
	device->ended = true;
	device->code = code;
	engine->woken = true;
}

/* Claim a slot, fill it, hand it to the lanes. False: no credit. */
static bool read_segment(struct engine *engine, uint32_t index)
{
	struct sluice_outbox *outbox = sluice_source_outbox(engine->source);
	struct device *device = &engine->devices[index];
	struct run *run = engine->run;
	struct sluice_announce a = {.device = (uint16_t)index, .seq = device->seq};
	uint64_t left = run->plan.device_bytes[index] - device->at_bytes;

	if (!sluice_outbox_claim(outbox, &a.slot))
		return false;
	if (run_chance(run, run->plan.device_error_ppm)) {
		device_end(engine, device, -EIO);
		return true;
	}
	a.len_bytes = (uint32_t)sluice_random_between(&run->random, 1, outbox->slot_bytes);
	if (run_chance(run, 600000))
		a.len_bytes = outbox->slot_bytes;
	if (a.len_bytes > left)
		a.len_bytes = (uint32_t)left;
	a.last = a.len_bytes == left;
	segment_fill(run, index, device->at_bytes, sluice_outbox_slot(outbox, a.slot), a.len_bytes);
	device->at_bytes += a.len_bytes;
	device->seq++;
	sluice_outbox_ready(outbox, &a);
	if (a.last)
		device_end(engine, device, 0);
	return true;
}

static uint64_t reader_step(struct engine *engine, uint32_t index, uint64_t now_ns)
{
	struct device *device = &engine->devices[index];

	if (sluice_source_is_over(engine->source))
		return SLUICE_NEVER;
	if (device->next_ns > now_ns)
		return device->next_ns;
	if (!read_segment(engine, index)) {
		engine->run->stats->credit_waits++;
		/* Rarer and rarer: a paused session lets it wait for seconds. */
		device->wait_ns = device->wait_ns == 0                 ? SLUICE_NS_PER_US * 20
				  : device->wait_ns < SLUICE_NS_PER_MS ? device->wait_ns * 5 / 4
								       : device->wait_ns;
		device->next_ns = now_ns + device->wait_ns;
		return device->next_ns;
	}
	device->wait_ns = 0;
	device->next_ns = now_ns + run_delay(engine->run, engine->run->plan.device_ns_max);
	return now_ns;
}

/* ---- target ---- */

/* Looked at when the loader takes the segment, and again when it has it: a slot that is being
   loaded must not change. */
static void segment_check(struct engine *engine, const struct device *device, uint32_t index)
{
	const struct sluice_announce *a = &device->announce;
	const uint8_t *bytes = sluice_inbox_data(engine->inbox, a->slot);

	for (uint32_t i = 0; i < a->len_bytes; i++) {
		if (bytes[i] == content(engine->run, index, device->at_bytes + i))
			continue;
		oracle_complain(engine->run->oracle,
			"device %u, segment %u in slot %u: byte %llu is not what was read", index,
			a->seq, a->slot, (unsigned long long)(device->at_bytes + i));
		return;
	}
}

static void segment_loaded(struct engine *engine, struct device *device, uint32_t index)
{
	struct run *run = engine->run;

	segment_check(engine, device, index);
	device->loading = false;
	device->at_bytes += device->announce.len_bytes;
	sluice_inbox_loaded(engine->inbox, &device->announce);
	SLUICE_ASSERT(engine->loaded_count < SLUICE_ARRAY_LEN(engine->loaded));
	engine->loaded[engine->loaded_count++] = device->announce.slot;
	engine->woken = true;
	if (!device->announce.last)
		return;
	if (device->at_bytes != run->plan.device_bytes[index])
		oracle_complain(run->oracle, "device %u ended after %llu bytes of %u", index,
			(unsigned long long)device->at_bytes, run->plan.device_bytes[index]);
	device_end(engine, device, 0);
	run->vmms[TARGET].loaded_ns[index] = run_now(run) + run_delay(run, run->plan.vmm_ns_max);
}

static uint64_t loader_step(struct engine *engine, uint32_t index, uint64_t now_ns)
{
	struct device *device = &engine->devices[index];
	struct run *run = engine->run;

	if (sluice_target_is_over(engine->target))
		return SLUICE_NEVER;
	if (device->loading) {
		if (device->next_ns > now_ns)
			return device->next_ns;
		segment_loaded(engine, device, index);
		return now_ns;
	}
	if (!sluice_inbox_next(engine->inbox, index, &device->announce))
		return SLUICE_NEVER;
	device->loading = true;
	device->next_ns = now_ns + run_delay(run, run->plan.device_ns_max);
	segment_check(engine, device, index);
	if (run_chance(run, run->plan.device_error_ppm))
		device_end(engine, device, -EIO);
	return now_ns;
}

/* ---- both ---- */

uint64_t device_step(void *ctx, uint64_t now_ns)
{
	struct engine *engine = ctx;
	uint64_t next_ns = SLUICE_NEVER;

	for (uint32_t i = 0; i < ENGINES_DEVICES_MAX; i++) {
		const struct device *device = &engine->devices[i];
		uint64_t at_ns;

		if (!device->started || device->ended)
			continue;
		at_ns = engine->source != NULL ? reader_step(engine, i, now_ns)
					       : loader_step(engine, i, now_ns);
		if (at_ns < next_ns)
			next_ns = at_ns;
	}
	return next_ns;
}

static void tell_end(struct engine *engine, uint32_t index)
{
	struct device *device = &engine->devices[index];

	if (!device->ended || device->told)
		return;
	device->told = true;
	if (engine->source != NULL)
		sluice_source_device_read(engine->source, index, device->code);
	else if (engine->target != NULL)
		sluice_target_device_written(engine->target, index, device->code);
}

void device_poll(struct engine *engine)
{
	uint32_t count = engine->loaded_count;

	engine->loaded_count = 0;
	for (uint32_t i = 0; i < count && engine->target != NULL; i++)
		sluice_target_segment_loaded(engine->target, engine->loaded[i]);
	for (uint32_t i = 0; i < ENGINES_DEVICES_MAX; i++)
		tell_end(engine, i);
}
