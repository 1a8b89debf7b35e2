/* SPDX-License-Identifier: BSD-3-Clause */
/* migration.h: one migration from one node to another, and what it measured. One thread. */
#ifndef SLUICE_PERF_MIGRATION_H
#define SLUICE_PERF_MIGRATION_H

#include "perf/config.h"
#include "perf/node.h"
#include "perf/progress.h"

/*
 * Migrate the guest that runs in @source to @target, which waits for one, let it run there
 * for a while, and compare memory. *ret_run describes it, also when the migration failed or
 * the guest was hurt, which is reported as an error too. A new reference.
 */
int perf_migration_run(const struct perf_config *config, struct perf_node *source,
	struct perf_node *target, struct perf_progress *progress, json_t **ret_run,
	struct sluice_error *err);

#endif
