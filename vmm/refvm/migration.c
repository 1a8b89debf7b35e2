/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * migration.c: the VMM's side of a migration, event by event. See migration.h.
 *
 * One rule stands above all: the guest runs here only while it is OWNED. Every way back to
 * OWNED is a call of resume(), and from GIVEN there is one only: the engine's answer that
 * the session is aborted.
 */
#include "vmm/refvm/migration.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <jansson.h>

#include "base/assert.h"
#include "base/clock.h"
#include "vmm/refvm/plug.h"
#include "vmm/refvm/refvm.h"
#include "vmm/refvm/state.h"

#define RESOLVE_INTERVAL_NS (300 * SLUICE_NS_PER_MS)

static void say(const struct sluice_error *err)
{
	fprintf(stderr, "refvm: %s: %s\n", err->where, err->text);
}

/* ---- Running and stopping ---- */

static void run_guest(struct refvm *r)
{
	struct sluice_error err = {.code = 0};
	int rc = refvm_witness_take(&r->witness, &err);

	if (rc == -EBUSY || rc == -ESTALE)
		refvm_witness_violated(&r->witness, &err);
	if (rc < 0) {
		say(&err);
		return;
	}
	refvm_vm_start(&r->vm);
}

static void halt_guest(struct refvm *r)
{
	refvm_vm_stop(&r->vm);
	refvm_witness_release(&r->witness);
}

/* Nothing of the migration that has ended stays with the guest. */
static void clean_up(struct refvm *r)
{
	struct refvm_migration *m = &r->migration;

	refvm_device_destroy(m->device);
	m->device = NULL;
	m->resolving = false;
	sluice_timer_set(m->timer, SLUICE_NEVER);
	refvm_tracking_stop(&r->vm, REFVM_TRACKING_FOR_MIGRATION);
	refvm_vm_throttle(&r->vm, 0);
}

/* The guest goes on here, or stays paused as the operator wants it. */
static void resume(struct refvm *r)
{
	clean_up(r);
	r->migration.ownership = REFVM_OWNED;
	if (r->migration.want_running && !refvm_vm_running(&r->vm))
		run_guest(r);
}

void refvm_migration_verified(struct refvm *r)
{
	r->migration.verify_possible = false;
	refvm_memory_since(&r->vm.memory, false);
	refvm_tracking_stop(&r->vm, REFVM_TRACKING_FOR_VERIFY);
}

/* The guest runs elsewhere. */
static void let_go(struct refvm *r)
{
	clean_up(r);
	refvm_migration_verified(r);
	r->migration.ownership = REFVM_GONE;
}

/* Nothing came, or it is not accepted: wait for another one. */
static void drop_arrival(struct refvm *r)
{
	clean_up(r);
	r->migration.ownership = REFVM_AWAITED;
}

/* We cannot go on with this migration; before the commit the guest stays where it is. */
static void give_up(struct refvm *r, const struct sluice_error *why)
{
	struct sluice_error err = {.code = 0};

	say(why);
	if (refvm_engine_command(r, "migrate_cancel", NULL, NULL, &err) < 0)
		say(&err);
	if (r->migration.ownership == REFVM_SWITCHOVER)
		resume(r);
}

static void refuse(struct refvm *r, const char *event)
{
	struct sluice_error err = {.code = 0};

	sluice_fail(
		&err, -EPROTO, event, "Not while the guest is %s.", refvm_migration_state_name(r));
	give_up(r, &err);
}

/* ---- Source ---- */

/*
 * The guest is stopped once, for a moment, and all is done that a switchover will have to do: only so
 * can anybody know what that takes, and the engine predicts with it. Once, because what is repeated at
 * once goes quicker, and a switchover will not be. The target's half, loading and resuming, is taken to
 * be as long.
 */
static int rehearse_switchover(struct refvm *r, struct sluice_error *err)
{
	uint64_t running_ns = r->vm.running_ns, stopped_ns = r->vm.stopped_ns;
	uint64_t begin_ns = sluice_now_ns(), took_ns;
	struct refvm_device *device = NULL;
	uint8_t *bytes;
	size_t len;
	int rc, unused_fd;

	refvm_vm_stop(&r->vm);
	rc = refvm_state_save(&r->vm, r->witness.generation, true, &bytes, &len, err);
	if (rc == 0)
		rc = refvm_device_send(bytes, len, NULL, 0, &device, &unused_fd, err);
	if (rc == 0) {
		close(unused_fd);
		rc = refvm_tracking_harvest(&r->vm, err);
	}
	refvm_vm_start(&r->vm);
	took_ns = sluice_now_ns() - begin_ns;
	refvm_device_destroy(device);
	r->vm.running_ns = running_ns; /* query-timestamps tells of the real ones */
	r->vm.stopped_ns = stopped_ns;
	if (rc < 0)
		return rc;
	return refvm_engine_check(r,
		refvm_engine_set(r, "vmm-switchover", 2 * took_ns / SLUICE_NS_PER_US, "us", err));
}

/* The first one of a migration: from here on writes are tracked. What was written before, the engine
   sends anyway. */
static int begin_tracking(struct refvm *r, struct sluice_error *err)
{
	int rc = refvm_tracking_start(&r->vm, REFVM_TRACKING_FOR_MIGRATION, err);

	if (rc == 0)
		rc = refvm_tracking_harvest(&r->vm, err);
	if (rc == 0 && r->migration.ownership == REFVM_OWNED && refvm_vm_running(&r->vm))
		rc = rehearse_switchover(r, err);
	return rc;
}

static void on_dirty_sync(struct refvm *r, uint64_t id)
{
	struct sluice_error err = {.code = 0};
	int rc = 0;

	if (r->migration.ownership > REFVM_GIVEN)
		; /* nothing is ours to look at */
	else if ((r->vm.tracking.users & REFVM_TRACKING_FOR_MIGRATION) == 0)
		rc = begin_tracking(r, &err);
	else
		rc = refvm_tracking_harvest(&r->vm, &err);
	if (rc < 0) {
		give_up(r, &err);
		return;
	}
	if (refvm_engine_check(r, sluice_vmm_dirty_sync_done(r->engine.vmm, id, &err)) < 0)
		say(&err);
}

static int send_state(struct refvm *r, struct sluice_error *err)
{
	uint8_t *bytes;
	size_t len;
	int rc, engine_fd;

	rc = refvm_state_save(&r->vm, refvm_witness_offer(&r->witness), r->migration.want_running,
		&bytes, &len, err);
	if (rc < 0)
		return rc;
	rc = refvm_device_send(bytes, len, r->vm.ballast_data, r->vm.ballast.bytes,
		&r->migration.device, &engine_fd, err);
	if (rc < 0)
		return rc;
	rc = refvm_engine_check(
		r, sluice_vmm_device_add(r->engine.vmm, REFVM_DEVICE_ID, engine_fd, err));
	close(engine_fd);
	return rc;
}

static void on_switchover_ready(struct refvm *r)
{
	struct sluice_error err = {.code = 0};
	int rc;

	if (r->migration.ownership != REFVM_OWNED) {
		refuse(r, "SWITCHOVER_READY");
		return;
	}
	halt_guest(r);
	r->migration.ownership = REFVM_SWITCHOVER;
	rc = send_state(r, &err);
	if (rc == 0)
		rc = refvm_tracking_harvest(&r->vm, &err);
	if (rc == 0)
		rc = refvm_engine_check(
			r, sluice_vmm_migrate_continue(r->engine.vmm, "pre-switchover", &err));
	/* A lost engine is dealt with when it is replaced. */
	if (rc < 0 && !r->engine.broken)
		give_up(r, &err);
}

static void on_switchover_commit(struct refvm *r)
{
	struct sluice_error err = {.code = 0};
	int rc;

	if (r->migration.ownership != REFVM_SWITCHOVER) {
		refuse(r, "SWITCHOVER_COMMIT");
		return;
	}
	/* Before the call: when the engine dies in it, it may have taken the guest. */
	r->migration.ownership = REFVM_GIVEN;
	rc = refvm_engine_check(r, sluice_vmm_migrate_continue(r->engine.vmm, "commit", &err));
	if (rc == 0 || r->engine.broken)
		return;
	/* The engine answered that it does not take it. */
	r->migration.ownership = REFVM_SWITCHOVER;
	give_up(r, &err);
}

/* ---- Target ---- */

/* Early, so that the cost of protecting all memory is not part of the downtime. */
static void expect_guest(struct refvm *r)
{
	struct sluice_error err = {.code = 0};

	r->migration.ownership = REFVM_AWAITED;
	__atomic_store_n(&r->vm.loaded, false, __ATOMIC_RELEASE);
	if (r->options.track_after_resume &&
		refvm_tracking_start(&r->vm, REFVM_TRACKING_FOR_VERIFY, &err) < 0)
		say(&err);
}

static void on_device_open(struct refvm *r, const char *device)
{
	struct refvm_migration *m = &r->migration;
	struct sluice_error err = {.code = 0};
	int rc, engine_fd;

	if ((m->ownership != REFVM_AWAITED && m->ownership != REFVM_GONE) || m->device != NULL) {
		refuse(r, "DEVICE_OPEN");
		return;
	}
	if (strcmp(device, REFVM_DEVICE_ID) != 0) {
		sluice_fail(&err, -ENODEV, "DEVICE_OPEN", "There is no device %s.", device);
		give_up(r, &err);
		return;
	}
	expect_guest(r);
	rc = refvm_device_receive(
		refvm_migration_device_done, r->loop, &m->device, &engine_fd, &err);
	if (rc == 0) {
		rc = refvm_engine_check(
			r, sluice_vmm_device_add(r->engine.vmm, device, engine_fd, &err));
		close(engine_fd);
	}
	if (rc < 0 && !r->engine.broken)
		give_up(r, &err);
}

void refvm_migration_device_done(void *loop)
{
	sluice_loop_wake(loop);
}

static int load_arrival(struct refvm *r, struct sluice_error *err)
{
	struct refvm_blob blob;
	int rc = refvm_device_take(r->migration.device, &blob, err);

	if (rc < 0)
		return rc;
	rc = refvm_state_load(&r->vm, &blob, err);
	if (rc == 0) {
		refvm_witness_accept(&r->witness, blob.header.generation);
		r->migration.want_running = blob.header.running != 0;
	}
	refvm_blob_free(&blob);
	return rc;
}

void refvm_migration_on_wake(struct refvm *r)
{
	struct refvm_migration *m = &r->migration;
	struct sluice_error err = {.code = 0};
	int rc;

	if (m->ownership != REFVM_AWAITED || m->device == NULL || !refvm_device_done(m->device))
		return;
	rc = load_arrival(r, &err);
	refvm_device_destroy(m->device);
	m->device = NULL;
	if (rc == 0 && r->engine.vmm != NULL && !r->engine.broken) {
		/* Before the call: from here on the engine may decide that it is ours. */
		m->ownership = REFVM_LOADED;
		rc = refvm_engine_check(
			r, sluice_vmm_device_loaded(r->engine.vmm, REFVM_DEVICE_ID, &err));
		if (rc < 0 && !r->engine.broken)
			m->ownership = REFVM_AWAITED;
	}
	if (rc < 0 && !r->engine.broken)
		give_up(r, &err);
}

/* The guest is ours: memory is complete, its state is loaded, the decision is recorded. */
static void arrive(struct refvm *r)
{
	bool tracked = (r->vm.tracking.users & REFVM_TRACKING_FOR_VERIFY) != 0;

	if (tracked)
		refvm_memory_since(&r->vm.memory, true);
	r->migration.verify_possible = tracked;
	refvm_state_enter(&r->vm);
	resume(r);
}

/* ---- How it ended ---- */

static void read_session(struct refvm *r, const struct sluice_vmm_event *event)
{
	json_t *data = json_loads(event->data_json, 0, NULL);
	const char *session = json_string_value(json_object_get(data, "session"));

	if (session != NULL)
		snprintf(r->migration.session, sizeof(r->migration.session), "%s", session);
	json_decref(data);
}

/* What query-session answers: "" when it cannot be known now. */
static void ask_session(struct refvm *r, char *ret_status, size_t status_bytes)
{
	const char *session = r->migration.session, *status;
	json_t *args = session[0] != '\0' ? json_pack("{s:s}", "session", session) : json_object();
	char *text = json_dumps(args, JSON_COMPACT), *answer = NULL;
	json_t *value;

	ret_status[0] = '\0';
	if (text != NULL && refvm_engine_command(r, "query-session", text, &answer, NULL) == 0) {
		value = json_loads(answer, 0, NULL);
		status = json_string_value(json_object_get(value, "status"));
		snprintf(ret_status, status_bytes, "%s", status != NULL ? status : "");
		json_decref(value);
	}
	free(answer);
	free(text);
	json_decref(args);
}

/* An engine was lost, or does not know, at a moment when the guest could be on either side:
   only the record of the session tells. Ask until it does. */
static void resolve(struct refvm *r)
{
	bool given = r->migration.ownership == REFVM_GIVEN;
	char status[32];

	SLUICE_ASSERT(given || r->migration.ownership == REFVM_LOADED);
	r->migration.resolving = true;
	ask_session(r, status, sizeof(status));
	if (strcmp(status, "committed") == 0 && given)
		let_go(r);
	else if (strcmp(status, "committed") == 0)
		arrive(r);
	else if (strcmp(status, "aborted") == 0 && given)
		resume(r);
	else if (strcmp(status, "aborted") == 0 || (strcmp(status, "none") == 0 && !given))
		drop_arrival(r);
	else
		sluice_timer_set(r->migration.timer, sluice_now_ns() + RESOLVE_INTERVAL_NS);
}

static void on_resolve_timer(void *ctx, uint64_t now_ns)
{
	struct refvm *r = ctx;

	(void)now_ns;
	if (r->migration.resolving)
		resolve(r);
}

static void on_completed(struct refvm *r)
{
	switch (r->migration.ownership) {
	case REFVM_GIVEN:
		let_go(r);
		break;
	case REFVM_LOADED:
		arrive(r);
		break;
	case REFVM_OWNED:
	case REFVM_SWITCHOVER:
		/* Never acknowledged, so never committed: the engine is out of its mind. */
		fprintf(stderr, "refvm: MIGRATION completed, but the guest was not given away\n");
		break;
	case REFVM_GONE:
	case REFVM_AWAITED:
		break;
	}
}

static void on_failed(struct refvm *r)
{
	switch (r->migration.ownership) {
	case REFVM_OWNED:
	case REFVM_SWITCHOVER:
		resume(r);
		break;
	case REFVM_GIVEN:
		resolve(r);
		break;
	case REFVM_AWAITED:
	case REFVM_LOADED:
		drop_arrival(r);
		break;
	case REFVM_GONE:
		break;
	}
}

static void on_migration(struct refvm *r, const char *status)
{
	enum refvm_ownership ownership = r->migration.ownership;

	if (strcmp(status, "completed") == 0)
		on_completed(r);
	else if (strcmp(status, "failed") == 0 || strcmp(status, "cancelled") == 0)
		on_failed(r);
	else if (strcmp(status, "in-doubt") == 0 && ownership == REFVM_GIVEN)
		resolve(r);
	else if ((strcmp(status, "setup") == 0 || strcmp(status, "active") == 0) &&
		 (ownership == REFVM_GONE || ownership == REFVM_AWAITED))
		expect_guest(r);
}

void refvm_migration_event(struct refvm *r, const struct sluice_vmm_event *event)
{
	const char *name = event->name;

	if (strcmp(name, "DIRTY_SYNC") == 0) {
		on_dirty_sync(r, event->id);
		return;
	}
	if (strcmp(name, "MIGRATION_PROGRESS") == 0)
		return;
	read_session(r, event);
	if (strcmp(name, "THROTTLE") == 0)
		refvm_vm_throttle(&r->vm, (unsigned int)event->id);
	else if (strcmp(name, "SWITCHOVER_READY") == 0)
		on_switchover_ready(r);
	else if (strcmp(name, "SWITCHOVER_COMMIT") == 0)
		on_switchover_commit(r);
	else if (strcmp(name, "DEVICE_OPEN") == 0)
		on_device_open(r, event->text);
	else if (strcmp(name, "MEMORY_REMOVED") == 0)
		refvm_unplugged(r, event->text);
	else if (strcmp(name, "MIGRATION") == 0)
		on_migration(r, event->text);
}

void refvm_migration_engine_lost(struct refvm *r)
{
	switch (r->migration.ownership) {
	case REFVM_OWNED:
	case REFVM_SWITCHOVER:
		resume(r);
		break;
	case REFVM_GIVEN:
	case REFVM_LOADED:
		r->migration.resolving = true;
		break;
	case REFVM_AWAITED:
		drop_arrival(r);
		break;
	case REFVM_GONE:
		break;
	}
}

void refvm_migration_engine_back(struct refvm *r)
{
	if (r->migration.resolving)
		resolve(r);
}

/* ---- The operator ---- */

static int check_owned(struct refvm *r, const char *command, struct sluice_error *err)
{
	if (r->vm.failure.code != 0)
		return sluice_fail(
			err, -EIO, command, "The guest has failed: %s", r->vm.failure.text);
	if (r->migration.ownership == REFVM_OWNED || r->migration.ownership == REFVM_SWITCHOVER)
		return 0;
	return sluice_fail(
		err, -EPERM, command, "The guest is not here: %s.", refvm_migration_state_name(r));
}

int refvm_migration_stop(struct refvm *r, struct sluice_error *err)
{
	int rc = check_owned(r, "stop", err);

	if (rc < 0)
		return rc;
	r->migration.want_running = false;
	halt_guest(r);
	return 0;
}

int refvm_migration_cont(struct refvm *r, struct sluice_error *err)
{
	int rc = check_owned(r, "cont", err);

	if (rc < 0)
		return rc;
	r->migration.want_running = true;
	if (r->migration.ownership == REFVM_OWNED && !refvm_vm_running(&r->vm))
		run_guest(r);
	return 0;
}

const char *refvm_migration_state_name(struct refvm *r)
{
	bool running = refvm_vm_running(&r->vm);

	switch (r->migration.ownership) {
	case REFVM_OWNED:
		return running ? "running" : "paused";
	case REFVM_SWITCHOVER:
		return "finish-migrate";
	case REFVM_GIVEN:
		return r->migration.resolving ? "in-doubt" : "given-away";
	case REFVM_GONE:
		return "postmigrate";
	case REFVM_AWAITED:
	case REFVM_LOADED:
		break;
	}
	return "inmigrate";
}

int refvm_migration_init(struct refvm *r, struct sluice_error *err)
{
	int rc;

	r->migration = (struct refvm_migration){
		.ownership = r->options.incoming ? REFVM_AWAITED : REFVM_OWNED,
		.want_running = !r->options.paused,
	};
	rc = sluice_timer_add(r->loop, on_resolve_timer, r, &r->migration.timer);
	if (rc < 0)
		return sluice_fail(err, rc, "migration", "A timer: %s.", strerror(-rc));
	if (!r->options.incoming && !r->options.paused)
		run_guest(r);
	return 0;
}

void refvm_migration_fini(struct refvm *r)
{
	refvm_device_destroy(r->migration.device);
	sluice_timer_remove(r->migration.timer);
	r->migration.device = NULL;
	r->migration.timer = NULL;
}
