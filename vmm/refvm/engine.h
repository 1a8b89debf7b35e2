/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * engine.h: the engine's process, as its VMM sees it: launched, given the guest's memory,
 * listened to, and launched again when it dies.
 *
 * Threading: main thread. Calls to the engine block until it answers.
 */
#ifndef REFVM_ENGINE_H
#define REFVM_ENGINE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include <sluice/sluice.h>

#include "base/loop.h"

struct refvm;

struct refvm_engine {
	struct sluice_vmm *vmm; /* NULL while there is no engine */
	pid_t pid;
	struct sluice_watch *watch;
	struct sluice_timer *timer;
	bool broken; /* to be replaced at the next turn of the loop */
	uint64_t launched_ns;
	unsigned int failures; /* in a row: launches that failed, engines that died soon */
	unsigned int launches;
};

/* Launch the first one and add all memory; an engine that cannot even start is an error. */
int refvm_engine_start(struct refvm *r, struct sluice_error *err);
void refvm_engine_stop(struct refvm *r);
/*
 * Close the connection and attach again by the engine's own socket, as a VMM does that executed
 * itself anew: the same memory, a feed that counts from now. An engine that cannot be reached is
 * replaced.
 */
int refvm_engine_reattach(struct refvm *r, struct sluice_error *err);

/* memory-add and feed-add. To be checked as any call. */
struct refvm_region;
int refvm_engine_add_region(
	struct refvm *r, const struct refvm_region *region, struct sluice_error *err);
/* One of its parameters, a whole number of @unit ("" for bytes). To be checked as any call. */
int refvm_engine_set(struct refvm *r, const char *parameter, uint64_t value, const char *unit,
	struct sluice_error *err);

/*
 * To be called with the result of every call to the engine. One that is gone or does not
 * answer is given up: it is killed and replaced at the next turn of the loop. Returns @rc.
 */
int refvm_engine_check(struct refvm *r, int rc);
/* A command whose answer is of use to somebody. *ret_json: free() it. */
int refvm_engine_command(struct refvm *r, const char *name, const char *args_json, char **ret_json,
	struct sluice_error *err);

#endif
