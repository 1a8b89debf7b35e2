/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * monitor.h: refvm's own QMP-grammar socket. The commands are in refvm-monitor.json, from which
 * their checks and their page are made.
 *
 * Threading: main thread. Blocking: verify compares memory, and commands for the engine wait
 * for its answer; nothing else blocks.
 */
#ifndef REFVM_MONITOR_H
#define REFVM_MONITOR_H

#include <jansson.h>

#include <sluice/error.h>

struct refvm;
struct refvm_monitor;

/* Serve @path, mode 0600. A stale socket there is replaced. */
int refvm_monitor_create(struct refvm *r, const char *path, struct refvm_monitor **ret_monitor,
	struct sluice_error *err);
void refvm_monitor_destroy(struct refvm_monitor *monitor); /* NULL is allowed */

/* Run a checked command: the value to return, or NULL and *err. monitor_commands.c. */
json_t *refvm_monitor_run(
	struct refvm *r, const char *name, json_t *args, struct sluice_error *err);

#endif
