/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * migration.h: whose the guest is, and the answers a VMM owes its engine. This is the part of
 * refvm to read for connecting another VMM; README.md has the same as a table.
 *
 * Threading: main thread, but for refvm_migration_device_done().
 */
#ifndef REFVM_MIGRATION_H
#define REFVM_MIGRATION_H

#include <stdbool.h>
#include <stdint.h>

#include <sluice/sluice.h>

#include "base/loop.h"
#include "vmm/refvm/device.h"

struct refvm;

enum refvm_ownership {
	/* Ours. It runs, or the operator has paused it. */
	REFVM_OWNED,
	/* Ours, stopped to be sent away. Whatever goes wrong now, it goes on here. */
	REFVM_SWITCHOVER,
	/* Given away: SWITCHOVER_COMMIT is acknowledged. It goes on here only if the session is
	   known to be aborted, whatever happens to engines meanwhile. */
	REFVM_GIVEN,
	/* It runs elsewhere. Our memory is left as it was when it stopped. */
	REFVM_GONE,
	/* None here; one may arrive. */
	REFVM_AWAITED,
	/* One has arrived and is accepted; it runs when the engine says so. */
	REFVM_LOADED,
};

struct refvm_migration {
	enum refvm_ownership ownership;
	bool want_running; /* the guest runs unless it is being moved: start, stop, cont */
	bool resolving; /* GIVEN or LOADED, and the engine must be asked how it ended */
	char session[64]; /* of the migration that is under way, "" when not known */
	bool verify_possible; /* since the guest arrived, all its writes are known */
	struct refvm_device *device;
	struct sluice_timer *timer; /* asks again while resolving */
};

int refvm_migration_init(struct refvm *r, struct sluice_error *err);
void refvm_migration_fini(struct refvm *r);

/* From engine.c. */
void refvm_migration_event(struct refvm *r, const struct sluice_vmm_event *event);
void refvm_migration_engine_lost(struct refvm *r);
void refvm_migration_engine_back(struct refvm *r);
/* A device's thread has ended; @loop is woken. Any thread. */
void refvm_migration_device_done(void *loop);
/* The loop was woken: a device's state may be complete. */
void refvm_migration_on_wake(struct refvm *r);

/* The operator's stop and cont. -EPERM, described, when the guest is not ours to run. */
int refvm_migration_stop(struct refvm *r, struct sluice_error *err);
int refvm_migration_cont(struct refvm *r, struct sluice_error *err);
/* The guest's memory has been verified: it need not be tracked for that any more. */
void refvm_migration_verified(struct refvm *r);
/* A word for query-status. */
const char *refvm_migration_state_name(struct refvm *r);

#endif
