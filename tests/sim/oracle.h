/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * oracle.h: what must always hold of a migration, checked from outside while it runs.
 *
 * It watches the target's memory change (the simulated network tells it) and is told by the
 * test what the two VMMs do. It knows the guest, and nothing of how the memory is moved:
 *
 * - A chunk has at most one owner lane: no connection lands on a chunk where another one
 *   has landed something that is not behind a FLUSH or a fence yet.
 * - No page goes backwards: a sector never gets an older version than one that another
 *   connection has flushed.
 * - Every sector that lands is one that the guest wrote.
 * - The source may run until commit and never after it; at most one side runs, ever.
 * - At commit the target's memory equals the model.
 *
 * The first violation is kept in words; all are counted.
 *
 * Threading: one thread.
 */
#ifndef SLUICE_TESTS_SIM_ORACLE_H
#define SLUICE_TESTS_SIM_ORACLE_H

#include <stdbool.h>
#include <stdint.h>

#include "tests/sim/guest.h"
#include "transports/sim/sim.h"

#define ORACLE_FILL 0xa5 /* what the target's memory holds at first */

struct oracle;

/* @known_zero_ppm: pages of the target that are zero from the start, and known to be. */
struct oracle *oracle_create(const struct guest *guest, uint32_t known_zero_ppm);
void oracle_destroy(struct oracle *oracle); /* NULL is allowed */

/* The target's memory of a region: filled with ORACLE_FILL but for the known zero pages. */
uint8_t *oracle_target_memory(struct oracle *oracle, uint32_t region);
bool oracle_target_page_known_zero(const struct oracle *oracle, uint32_t region, uint32_t page);

/* The target's VMM has the region, from the start; or has none, and lands nothing there; or a new
   one. */
void oracle_target_has(struct oracle *oracle, uint32_t region, bool has);
/* It may hold anything: no page of it is known to be zero any more. */
void oracle_target_is_stale(struct oracle *oracle, uint32_t region);

/* For sluice_sim_world_opts.on_landing, with the oracle as ctx. It recognises a landing by
   its address; one elsewhere is a violation. */
void oracle_on_landing(void *oracle, const struct sluice_sim_landing *landing);

/* What the VMMs do. The source runs at the beginning. */
void oracle_source_runs(struct oracle *oracle, bool runs);
void oracle_target_runs(struct oracle *oracle);
/* The decision is recorded: from here on the source is gone. Compares the memories. */
void oracle_commit(struct oracle *oracle);
/* The migration ended without commit: the source has to be running. */
void oracle_aborted(struct oracle *oracle);
/* A rule of the test's own was broken. */
void oracle_complain(struct oracle *oracle, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

uint64_t oracle_violations(const struct oracle *oracle);
const char *oracle_first_violation(const struct oracle *oracle); /* "" when none */
uint64_t oracle_landings(const struct oracle *oracle);
uint64_t oracle_pages_different(const struct oracle *oracle); /* right now */

#endif
