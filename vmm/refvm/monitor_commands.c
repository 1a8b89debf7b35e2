/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * monitor_commands.c: what the monitor's commands do. Arguments are checked against
 * refvm-monitor.json before they come here; each returns a value, or NULL with *err described.
 * Main thread.
 */
#include "vmm/refvm/monitor.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/bits.h"
#include "base/clock.h"
#include "base/schema.h"
#include "refvm-monitor-schema.h"
#include "vmm/refvm/guest_view.h"
#include "vmm/refvm/plug.h"
#include "vmm/refvm/refvm.h"
#include "vmm/refvm/verify.h"

static json_t *number(uint64_t value)
{
	return json_integer((json_int_t)value);
}

/* The member @name, or @otherwise when it is not given. */
static uint64_t member(const json_t *args, const char *name, uint64_t otherwise)
{
	const json_t *value = json_object_get(args, name);

	return value != NULL ? (uint64_t)json_integer_value(value) : otherwise;
}

static bool has_guest(struct refvm *r, const char *command, struct sluice_error *err)
{
	if (__atomic_load_n(&r->vm.loaded, __ATOMIC_ACQUIRE))
		return true;
	sluice_fail(err, -ENOENT, command, "There is no guest here yet.");
	return false;
}

static json_t *query_commands(struct refvm *r, json_t *args, struct sluice_error *err)
{
	const struct sluice_schema *schema = &sluice_schema_refvm_monitor;
	json_t *list = json_array();
	size_t i;

	(void)r;
	(void)args;
	(void)err;
	for (i = 0; i < schema->command_count; i++)
		json_array_append_new(list, json_pack("{s:s}", "name", schema->commands[i].name));
	return list;
}

static json_t *engine_status(const struct refvm_engine *engine)
{
	const char *state = engine->timer == NULL                   ? "none"
			    : engine->vmm == NULL || engine->broken ? "lost"
								    : "up";

	return json_pack("{s:s, s:i, s:i}", "state", state, "pid", (int)engine->pid, "launches",
		(int)engine->launches);
}

static json_t *query_status(struct refvm *r, json_t *args, struct sluice_error *err)
{
	bool failed = r->vm.failure.code != 0;
	json_t *status = json_pack("{s:s, s:b, s:s, s:s, s:b, s:I, s:I, s:s, s:o}", "state",
		failed ? "internal-error" : refvm_migration_state_name(r), "running",
		refvm_vm_running(&r->vm), "accel", r->vm.accel->name, "tracking",
		r->vm.tracking.ops->name, "tracking-on", r->vm.tracking.users != 0,
		"throttle-percent",
		(json_int_t)__atomic_load_n(&r->vm.throttle_percent, __ATOMIC_RELAXED),
		"generation", (json_int_t)r->witness.generation, "session", r->migration.session,
		"engine", engine_status(&r->engine));

	(void)args;
	(void)err;
	if (failed)
		json_object_set_new(status, "error", json_string(r->vm.failure.text));
	return status;
}

static json_t *vcpu_list(const struct refvm *r, const struct refvm_guest_totals *totals)
{
	json_t *list = json_array();
	unsigned int i, kind;

	for (i = 0; i < r->vm.vcpus; i++) {
		uint64_t errors = 0;

		for (kind = 0; kind < REFVM_ERROR_KINDS; kind++)
			errors += totals->cpu[i].errors[kind];
		json_array_append_new(
			list, json_pack("{s:o, s:o}", "ops", number(totals->cpu[i].ops), "errors",
				      number(errors)));
	}
	return list;
}

static json_t *query_guest(struct refvm *r, json_t *args, struct sluice_error *err)
{
	static const char *const kinds[REFVM_ERROR_KINDS] = {
		[REFVM_ERROR_VERSION] = "errors-version",
		[REFVM_ERROR_CHECKSUM] = "errors-checksum",
		[REFVM_ERROR_FILLER] = "errors-filler",
		[REFVM_ERROR_COUNT] = "errors-count",
	};
	struct refvm_guest_settings settings;
	struct refvm_guest_totals totals;
	unsigned int kind;
	json_t *guest;

	(void)args;
	if (!has_guest(r, "query-guest", err))
		return NULL;
	refvm_guest_totals(&r->vm, &totals);
	refvm_guest_settings_get(&r->vm, &settings);
	guest = json_pack("{s:o, s:o, s:o, s:o, s:b, s:s, s:o, s:o}", "ops", number(totals.ops),
		"errors", number(totals.errors), "pages", number(totals.pages), "filled",
		number(totals.filled), "ready", totals.filled == totals.pages, "pattern",
		refvm_pattern_names[settings.pattern], "rate", number(settings.rate), "vcpus",
		vcpu_list(r, &totals));
	json_object_set_new(guest, "dimm-ops", number(totals.dimm_ops));
	for (kind = 0; kind < REFVM_ERROR_KINDS; kind++)
		json_object_set_new(guest, kinds[kind], number(totals.error_kinds[kind]));
	return guest;
}

static json_t *guest_set(struct refvm *r, json_t *args, struct sluice_error *err)
{
	const char *pattern = json_string_value(json_object_get(args, "pattern"));
	struct refvm_guest_settings settings;
	int i;

	if (!has_guest(r, "guest-set", err))
		return NULL;
	if (r->migration.ownership != REFVM_OWNED && r->migration.ownership != REFVM_SWITCHOVER) {
		sluice_fail(err, -EPERM, "guest-set", "The guest is not here: %s.",
			refvm_migration_state_name(r));
		return NULL;
	}
	refvm_guest_settings_get(&r->vm, &settings);
	for (i = 0; pattern != NULL && refvm_pattern_names[i] != NULL; i++) {
		if (strcmp(pattern, refvm_pattern_names[i]) == 0)
			settings.pattern = i;
	}
	settings.rate = member(args, "rate", settings.rate);
	settings.ramp_per_s = member(args, "ramp", settings.ramp_per_s);
	settings.hot_writes_percent = member(args, "hot-writes", settings.hot_writes_percent);
	settings.hot_pages_percent = member(args, "hot-pages", settings.hot_pages_percent);
	refvm_guest_settings_set(&r->vm, &settings);
	return json_object();
}

static json_t *stop(struct refvm *r, json_t *args, struct sluice_error *err)
{
	(void)args;
	return refvm_migration_stop(r, err) < 0 ? NULL : json_object();
}

static json_t *cont(struct refvm *r, json_t *args, struct sluice_error *err)
{
	(void)args;
	return refvm_migration_cont(r, err) < 0 ? NULL : json_object();
}

static json_t *query_timestamps(struct refvm *r, json_t *args, struct sluice_error *err)
{
	(void)args;
	(void)err;
	return json_pack("{s:o, s:o, s:o}", "now_ns", number(sluice_now_ns()), "stopped_ns",
		number(r->vm.stopped_ns), "running_ns", number(r->vm.running_ns));
}

static json_t *query_bins(struct refvm *r, json_t *args, struct sluice_error *err)
{
	(void)err;
	return refvm_sampler_json(r->sampler, member(args, "since_ns", 0));
}

static json_t *query_memory(struct refvm *r, json_t *args, struct sluice_error *err)
{
	json_t *list = json_array();
	unsigned int i;

	(void)args;
	(void)err;
	for (i = 0; i < r->vm.memory.count; i++) {
		const struct refvm_region *region = &r->vm.memory.region[i];

		if (region->bytes == 0)
			continue;
		json_array_append_new(list,
			json_pack("{s:s, s:o, s:o, s:o, s:i, s:i}", "id", region->id, "gpa",
				number(region->gpa), "size", number(region->bytes), "offset",
				number(region->fd_offset), "fd", region->fd, "pid", (int)getpid()));
	}
	return list;
}

/* ---- verify ---- */

static unsigned int read_sources(const struct refvm *r, const json_t *regions,
	struct refvm_verify_source *sources, unsigned int max)
{
	unsigned int count = 0, j;
	size_t i;

	for (i = 0; i < json_array_size(regions) && count < max; i++) {
		const json_t *given = json_array_get(regions, i);
		struct refvm_verify_source *source = &sources[count++];

		*source = (struct refvm_verify_source){.fd = (int)member(given, "fd", 0)};
		snprintf(source->id, sizeof(source->id), "%s",
			json_string_value(json_object_get(given, "id")));
		for (j = 0; j < r->vm.memory.count; j++) {
			if (strcmp(r->vm.memory.region[j].id, source->id) == 0)
				source->offset = r->vm.memory.region[j].fd_offset;
		}
		source->offset = member(given, "offset", source->offset);
	}
	return count;
}

static json_t *verify_json(const struct refvm_verify_result *result)
{
	json_t *value = json_pack("{s:o, s:o, s:o}", "pages_compared",
		number(result->pages_compared), "pages_skipped", number(result->pages_skipped),
		"mismatched_pages", number(result->mismatched_pages));

	if (result->first_region != NULL)
		json_object_set_new(value, "first_mismatch",
			json_pack("{s:s, s:o}", "region", result->first_region, "page",
				number(result->first_page)));
	return value;
}

/* vCPUs are stopped: what they wrote since they arrived is in `since` after one harvest. */
static int verify_stopped(struct refvm *r, const json_t *args,
	struct refvm_verify_result *ret_result, struct sluice_error *err)
{
	struct refvm_verify_source sources[16];
	unsigned int count = read_sources(
		r, json_object_get(args, "regions"), sources, SLUICE_ARRAY_LEN(sources));
	bool tracked = r->migration.verify_possible;
	int rc = tracked ? refvm_tracking_harvest(&r->vm, err) : 0;

	if (rc < 0)
		return rc;
	return refvm_verify(&r->vm.memory, (pid_t)member(args, "source-pid", 0), sources, count,
		tracked, ret_result, err);
}

static bool may_verify(struct refvm *r, struct sluice_error *err)
{
	if (r->migration.ownership != REFVM_OWNED) {
		sluice_fail(err, -EPERM, "verify", "The guest is not here: %s.",
			refvm_migration_state_name(r));
		return false;
	}
	if (!r->migration.verify_possible && r->vm.running_ns != 0) {
		sluice_fail(err, -EPERM, "verify",
			"What the guest has written here is not known: start with "
			"--track-after-resume, and verify once.");
		return false;
	}
	return true;
}

static json_t *verify(struct refvm *r, json_t *args, struct sluice_error *err)
{
	bool was_running = refvm_vm_running(&r->vm);
	uint64_t stopped_ns = r->vm.stopped_ns, running_ns = r->vm.running_ns;
	struct refvm_verify_result result;
	int rc;

	if (!may_verify(r, err))
		return NULL;
	refvm_vm_stop(&r->vm);
	rc = verify_stopped(r, args, &result, err);
	if (rc == 0)
		refvm_migration_verified(r);
	if (was_running)
		refvm_vm_start(&r->vm);
	/* This pause is ours: query-timestamps goes on to tell of the migration. */
	r->vm.stopped_ns = stopped_ns;
	r->vm.running_ns = running_ns;
	return rc < 0 ? NULL : verify_json(&result);
}

static json_t *plug(struct refvm *r, json_t *args, struct sluice_error *err)
{
	return refvm_plug(r, (unsigned int)member(args, "dimm", 0), member(args, "size", 0), err) <
			       0
		       ? NULL
		       : json_object();
}

static json_t *unplug(struct refvm *r, json_t *args, struct sluice_error *err)
{
	int rc = refvm_unplug(r, (unsigned int)member(args, "dimm", 0), err);

	return rc < 0 ? NULL : json_pack("{s:b}", "removed", rc == 0);
}

static json_t *reattach(struct refvm *r, json_t *args, struct sluice_error *err)
{
	(void)args;
	return refvm_engine_reattach(r, err) < 0 ? NULL : json_object();
}

static json_t *quit(struct refvm *r, json_t *args, struct sluice_error *err)
{
	(void)args;
	if (r->migration.ownership == REFVM_GIVEN) {
		sluice_fail(err, -EBUSY, "quit",
			"The guest is given away, and it is not known whether it arrived.");
		return NULL;
	}
	sluice_loop_stop(r->loop, 0);
	return json_object();
}

/* ---- Dispatch ---- */

static json_t *pass_on(struct refvm *r, const char *name, json_t *args, struct sluice_error *err)
{
	char *text = json_dumps(args, JSON_COMPACT), *answer = NULL;
	json_t *value;
	int rc;

	rc = text != NULL ? refvm_engine_command(r, name, text, &answer, err) : -ENOMEM;
	free(text);
	if (rc < 0) {
		sluice_fail(err, rc, name, "No memory.");
		return NULL;
	}
	value = json_loads(answer, JSON_DECODE_ANY, NULL);
	free(answer);
	if (value == NULL)
		sluice_fail(err, -EPROTO, name, "The engine's answer is not JSON.");
	return value;
}

json_t *refvm_monitor_run(struct refvm *r, const char *name, json_t *args, struct sluice_error *err)
{
	static const struct {
		const char *name;
		json_t *(*run)(struct refvm *r, json_t *args, struct sluice_error *err);
	} commands[] = {
		{"query-commands", query_commands},
		{"query-status", query_status},
		{"query-guest", query_guest},
		{"guest-set", guest_set},
		{"stop", stop},
		{"cont", cont},
		{"query-timestamps", query_timestamps},
		{"query-bins", query_bins},
		{"query-memory", query_memory},
		{"verify", verify},
		{"plug", plug},
		{"unplug", unplug},
		{"reattach", reattach},
		{"quit", quit},
	};
	size_t i;

	for (i = 0; i < SLUICE_ARRAY_LEN(commands); i++) {
		if (strcmp(commands[i].name, name) == 0)
			return commands[i].run(r, args, err);
	}
	return pass_on(r, name, args, err);
}
