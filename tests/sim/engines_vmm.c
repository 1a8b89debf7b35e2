/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * engines_vmm.c: the two VMMs. Each hears its engine's events in order, some time after they were
 * sent, and answers with commands. The guest at the source is stopped for SWITCHOVER_READY, given
 * away with the answer to SWITCHOVER_COMMIT, and runs again when the migration ends otherwise.
 * See engines_internal.h.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "tests/sim/engines_internal.h"

static const char *const device_names[ENGINES_DEVICES_MAX] = {"disk", "net"};

/* ---- events ---- */

void vmm_tell(struct vmm *vmm, const char *name, json_t *data, uint64_t delay_ns)
{
	struct vmm_event *event = calloc(1, sizeof(*event));

	SLUICE_ASSERT(event != NULL);
	snprintf(event->name, sizeof(event->name), "%s", name);
	event->data = data;
	event->due_ns = run_now(vmm->run) + delay_ns;
	if (event->due_ns < vmm->last_due_ns)
		event->due_ns = vmm->last_due_ns;
	vmm->last_due_ns = event->due_ns;
	if (vmm->last == NULL)
		vmm->first = event;
	else
		vmm->last->next = event;
	vmm->last = event;
}

static void event_free(struct vmm_event *event)
{
	json_decref(event->data);
	free(event);
}

void vmm_destroy(struct vmm *vmm)
{
	while (vmm->first != NULL) {
		struct vmm_event *event = vmm->first;

		vmm->first = event->next;
		event_free(event);
	}
	vmm->last = NULL;
}

void vmm_engine_gone(struct vmm *vmm)
{
	struct vmm_event **next = &vmm->first;

	/* What reached the socket is read; the rest died with the engine. */
	while (*next != NULL && run_chance(vmm->run, 500000))
		next = &(*next)->next;
	while (*next != NULL) {
		struct vmm_event *event = *next;

		*next = event->next;
		event_free(event);
	}
	vmm->last = vmm->first;
	while (vmm->last != NULL && vmm->last->next != NULL)
		vmm->last = vmm->last->next;
	vmm_tell(vmm, "(engine gone)", json_object(),
		run_delay(vmm->run, vmm->run->plan.vmm_ns_max));
}

static const char *text(const json_t *data, const char *key)
{
	const char *value = json_string_value(json_object_get(data, key));

	return value != NULL ? value : "";
}

/*
 * Between honest engines a migration fails for reasons that lie outside of them. Any other reason
 * is a mistake of the engines.
 */
static void check_reason(struct run *run, const char *reason)
{
	static const char *const expected[] = {"the peer link was lost",
		"the target's engine cannot be reached", "all ", "cancelled at the ",
		"the state of device", "resolved as aborted by the operator",
		"the target aborted the session for good", "the source asked about the session",
		"the target refused: there is no guest memory",
		"the target refused: the target's engine", "the target cannot resume: the ",
		"with the guest stopped the migration was paused",
		"the rest of the guest took longer", "the target took longer",
		"the VMM took longer", "region \"", "the commit could not be recorded",
		"the target, its lanes or the VMM's first dirty sync took longer"};
	static const char *const wrapped[] = {"the target gave up: ", "the source gave up: "};
	const char *inner = reason;

	for (size_t i = 0; i < SLUICE_ARRAY_LEN(wrapped); i++)
		if (strncmp(inner, wrapped[i], strlen(wrapped[i])) == 0)
			inner += strlen(wrapped[i]);
	for (size_t i = 0; i < SLUICE_ARRAY_LEN(expected); i++)
		if (strncmp(inner, expected[i], strlen(expected[i])) == 0)
			return;
	if (strncmp(inner, "lane ", 5) == 0 && strstr(inner, "could not be connected") != NULL)
		return;
	oracle_complain(run->oracle, "it failed because %s", reason);
}

/* ---- source ---- */

static struct sluice_source *source_of(const struct vmm *vmm)
{
	return vmm->run->engines[SOURCE].source;
}

static void guest_run(struct vmm *vmm, bool runs)
{
	vmm->run->guest->running = runs;
	oracle_source_runs(vmm->run->oracle, runs);
}

void vmm_source_ended(struct vmm *vmm, bool given_away)
{
	vmm->switching = false;
	vmm->must_query = false;
	vmm->over = true;
	if (given_away) {
		vmm->completed = true;
		if (!vmm->gave)
			oracle_complain(vmm->run->oracle, "completed, and the VMM was not asked");
		return;
	}
	if (vmm->gave)
		vmm->run->stats->gave_up_after_commit++;
	vmm->run->throttle_percent = 0;
	if (!vmm->run->guest->running)
		guest_run(vmm, true);
}

static void source_add_device(struct vmm *vmm)
{
	struct sluice_error err = {0};

	if (source_of(vmm) == NULL || vmm->devices_added == vmm->run->plan.devices)
		return;
	if (sluice_source_device_add(source_of(vmm), device_names[vmm->devices_added], -1, &err) ==
		0)
		vmm->devices_added++;
}

static void source_status(struct vmm *vmm, const json_t *data)
{
	const char *status = text(data, "status");

	if (strcmp(status, "active") == 0 && run_chance(vmm->run, 300000)) {
		source_add_device(vmm); /* one whose state can be read while it runs */
	} else if (strcmp(status, "completed") == 0) {
		vmm_source_ended(vmm, true);
	} else if (strcmp(status, "failed") == 0 || strcmp(status, "cancelled") == 0) {
		vmm->cancelled = strcmp(status, "cancelled") == 0;
		vmm->run->stats->plugs_expired +=
			strstr(text(data, "error-desc"), "has not added it") != NULL;
		if (!vmm->cancelled)
			check_reason(vmm->run, text(data, "error-desc"));
		vmm_source_ended(vmm, false);
	}
}

static void source_switchover(struct vmm *vmm)
{
	guest_run(vmm, false);
	vmm->switching = true;
	vmm->next_ns = run_now(vmm->run) + run_delay(vmm->run, vmm->run->plan.vmm_ns_max);
}

static void source_give_away(struct vmm *vmm)
{
	struct sluice_error err = {0};

	if (source_of(vmm) == NULL)
		return; /* its end is in the queue behind this event */
	/* First it is given away, then the engine hears of it. */
	vmm->gave = true;
	sluice_source_continue(source_of(vmm), "commit", &err);
	chaos_message_sent(vmm->run, "continue commit");
}

/* The engine is gone. Before the guest was given away it is still ours, afterwards only its
   successor can say. */
static void source_engine_gone(struct vmm *vmm)
{
	if (vmm->over)
		return;
	if (vmm->gave)
		vmm->must_query = true;
	else
		vmm_source_ended(vmm, false);
}

static void source_event(struct vmm *vmm, const struct vmm_event *event)
{
	const json_t *data = event->data;

	if (strcmp(event->name, "(engine gone)") == 0) {
		source_engine_gone(vmm);
	} else if (vmm->over) {
		return;
	} else if (strcmp(event->name, "DIRTY_SYNC") == 0) {
		vmm->sync_id = (uint64_t)json_integer_value(json_object_get(data, "id"));
		vmm->run->stats->syncs++;
		guest_sync_start(vmm->run->guest);
	} else if (strcmp(event->name, "THROTTLE") == 0) {
		vmm->run->throttle_percent =
			(uint32_t)json_integer_value(json_object_get(data, "percent"));
		vmm->run->was_throttled |= vmm->run->throttle_percent > 0;
	} else if (strcmp(event->name, "SWITCHOVER_READY") == 0) {
		source_switchover(vmm);
	} else if (strcmp(event->name, "SWITCHOVER_COMMIT") == 0) {
		source_give_away(vmm);
	} else if (strcmp(event->name, "MIGRATION") == 0) {
		source_status(vmm, data);
	}
}

static void sync_step(struct vmm *vmm)
{
	struct sluice_error err = {0};

	if (guest_sync_step(vmm->run->guest) || source_of(vmm) == NULL)
		return;
	/* An error means that the session ended meanwhile. */
	if (sluice_source_dirty_sync_done(source_of(vmm), vmm->sync_id, 0, &err) < 0 &&
		!sluice_source_is_over(source_of(vmm)))
		oracle_complain(vmm->run->oracle, "the answer to a sync is refused: %s", err.text);
}

static void switch_step(struct vmm *vmm)
{
	struct sluice_error err = {0};

	vmm->next_ns = run_now(vmm->run) + run_delay(vmm->run, vmm->run->plan.vmm_ns_max);
	if (source_of(vmm) == NULL || sluice_source_is_over(source_of(vmm))) {
		vmm->switching = false; /* the news is on its way */
	} else if (vmm->devices_added < vmm->run->plan.devices) {
		source_add_device(vmm);
	} else {
		vmm->switching = false;
		if (sluice_source_continue(source_of(vmm), "pre-switchover", &err) < 0)
			oracle_complain(vmm->run->oracle, "migrate-continue: %s", err.text);
	}
}

/* Ask the successor of the engine that died. Committed: the guest is not ours; whether the target
   has it is the operator's to find out. */
static void source_query(struct vmm *vmm)
{
	if (!vmm->run->engines[SOURCE].alive)
		return;
	vmm->must_query = false;
	if (strcmp(engine_session_status(&vmm->run->engines[SOURCE]), "aborted") == 0)
		vmm_source_ended(vmm, false);
}

/* ---- target ---- */

static void target_run(struct vmm *vmm)
{
	if (vmm->runs)
		return;
	vmm->runs = true;
	vmm->over = true;
	run_say(vmm->run, "the guest runs at the target");
	for (uint32_t i = 0; i < vmm->run->plan.devices; i++)
		if (!vmm->loaded[i])
			oracle_complain(vmm->run->oracle,
				"the target runs and device %u was not loaded", i);
	oracle_target_runs(vmm->run->oracle);
}

static void target_status(struct vmm *vmm, const json_t *data)
{
	const char *status = text(data, "status");

	if (strcmp(status, "completed") == 0) {
		target_run(vmm);
	} else if (strcmp(status, "failed") == 0) {
		check_reason(vmm->run, text(data, "error-desc"));
		vmm->over = true;
	}
}

static void target_open_device(struct vmm *vmm, const char *name)
{
	struct sluice_target *target = vmm->run->engines[TARGET].target;
	struct sluice_error err = {0};

	for (uint32_t i = 0; i < ENGINES_DEVICES_MAX; i++) {
		if (strcmp(name, device_names[i]) != 0 || target == NULL)
			continue;
		if (vmm->opened[i])
			oracle_complain(vmm->run->oracle, "%s is opened twice", name);
		vmm->opened[i] = true;
		if (sluice_target_device_add(target, name, -1, &err) < 0 &&
			!sluice_target_is_over(target))
			oracle_complain(vmm->run->oracle, "device-add: %s", err.text);
	}
}

static void target_event(struct vmm *vmm, const struct vmm_event *event)
{
	if (strcmp(event->name, "(engine gone)") == 0)
		vmm->must_query = !vmm->over;
	else if (strcmp(event->name, "DEVICE_OPEN") == 0)
		target_open_device(vmm, text(event->data, "device"));
	else if (strcmp(event->name, "MEMORY_WANTED") == 0)
		plug_wanted(vmm->run, text(event->data, "id"));
	else if (strcmp(event->name, "MEMORY_RELEASED") == 0)
		plug_released(vmm->run, text(event->data, "id"));
	else if (strcmp(event->name, "MIGRATION") == 0)
		target_status(vmm, event->data);
}

/* A device whose state is loaded is accepted. Returns when the next one is. */
static uint64_t target_load_step(struct vmm *vmm, uint64_t now_ns)
{
	struct sluice_target *target = vmm->run->engines[TARGET].target;
	uint64_t next_ns = SLUICE_NEVER;
	struct sluice_error err = {0};

	for (uint32_t i = 0; i < ENGINES_DEVICES_MAX && target != NULL && !vmm->over; i++) {
		if (vmm->loaded_ns[i] == 0 || vmm->loaded[i])
			continue;
		if (vmm->loaded_ns[i] > now_ns) {
			if (vmm->loaded_ns[i] < next_ns)
				next_ns = vmm->loaded_ns[i];
			continue;
		}
		vmm->loaded[i] = true;
		if (sluice_target_device_loaded(target, device_names[i], &err) < 0)
			oracle_complain(vmm->run->oracle, "device-loaded: %s", err.text);
	}
	return next_ns;
}

static void target_query(struct vmm *vmm)
{
	if (!vmm->run->engines[TARGET].alive)
		return;
	vmm->must_query = false;
	if (strcmp(engine_session_status(&vmm->run->engines[TARGET]), "committed") == 0)
		target_run(vmm);
	vmm->over = true;
}

/* ---- both ---- */

static void say_event(struct vmm *vmm, const struct vmm_event *event)
{
	char *data;

	if (!vmm->run->trace)
		return;
	data = json_dumps(event->data, JSON_COMPACT);
	run_say(vmm->run, "%s VMM hears %s %.160s", vmm->host == SOURCE ? "source" : "target",
		event->name, data);
	free(data);
}

static void take_event(struct vmm *vmm)
{
	struct vmm_event *event = vmm->first;

	vmm->first = event->next;
	if (vmm->first == NULL)
		vmm->last = NULL;
	say_event(vmm, event);
	if (vmm->host == SOURCE)
		source_event(vmm, event);
	else
		target_event(vmm, event);
	event_free(event);
}

static uint64_t earlier(uint64_t a_ns, uint64_t b_ns)
{
	return a_ns < b_ns ? a_ns : b_ns;
}

uint64_t vmm_step(void *ctx, uint64_t now_ns)
{
	struct vmm *vmm = ctx;
	uint64_t next_ns = SLUICE_NEVER;

	if (vmm->host == SOURCE && vmm->run->guest->syncing) {
		sync_step(vmm);
		return now_ns;
	}
	if (vmm->first != NULL && vmm->first->due_ns <= now_ns) {
		take_event(vmm);
		return now_ns;
	}
	if (vmm->switching && vmm->next_ns <= now_ns) {
		switch_step(vmm);
		return now_ns;
	}
	if (vmm->must_query) {
		if (vmm->host == SOURCE)
			source_query(vmm);
		else
			target_query(vmm);
	}
	if (vmm->host == TARGET)
		next_ns = target_load_step(vmm, now_ns);
	if (vmm->switching)
		next_ns = earlier(next_ns, vmm->next_ns);
	return vmm->first != NULL ? earlier(next_ns, vmm->first->due_ns) : next_ns;
}
