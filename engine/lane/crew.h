/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * crew.h: the workers, and which lanes each of them steps.
 *
 * A worker is a thread that steps its lanes in turn (worker.h). With nothing to do it spins for
 * spin_ns, then yields for yield_ns, then sleeps on what its lanes arm and until a wake. Where its
 * sleeps turn out long it polls for less before the next, down to nothing; a short one brings all
 * of it back. A setting makes it spin for ever. A crew of 0 workers has no threads:
 * sluice_crew_step() steps all lanes, which is how the simulation runs the same code.
 *
 * Threads: add, remove, destroy and step are for the control thread; wake is for any thread.
 */
#ifndef SLUICE_ENGINE_LANE_CREW_H
#define SLUICE_ENGINE_LANE_CREW_H

#include <stdbool.h>
#include <stdint.h>

#include "base/cpus.h"

struct sluice_crew;
struct sluice_lane;

#define SLUICE_CREW_WORKERS_MAX          64
#define SLUICE_CREW_LANES_PER_WORKER_MAX 128

/* Where a lane of the session belongs. */
struct sluice_crew_lane {
	uint32_t worker; /* or SLUICE_CREW_ANY: the one with the fewest lanes */
	uint32_t home; /* of the ledger, or SLUICE_HOME_ANY */
	int node; /* of that worker, by the kernel's number; -1: no node */
	uint64_t memory_nodes; /* for sluice_node_prefer() */
};

#define SLUICE_CREW_ANY UINT32_MAX

struct sluice_crew_opts {
	uint32_t workers; /* 0: stepped by hand */
	uint64_t spin_ns; /* busy polling before yielding, at most */
	uint64_t yield_ns; /* yielding before sleeping, at most */
	bool busy_poll; /* never sleep */
	const struct sluice_cpus *cpus; /* per worker, empty: not bound; NULL: none is bound */
	const struct sluice_crew_lane *lanes; /* by index in the session; NULL: all anywhere */
	uint32_t lane_count;
};

struct sluice_worker_stats {
	uint64_t cpu_ns;
	int thread; /* the kernel's id */
	int core; /* where it was seen last */
	int node;
	uint64_t sleeps; /* counted as it falls asleep */
	uint64_t patience_ns; /* how long it polls before it sleeps; at most spin_ns + yield_ns */
	uint32_t lanes;
};

int sluice_crew_create(const struct sluice_crew_opts *opts, struct sluice_crew **ret_crew);
/* All lanes must have been removed. NULL is allowed. */
void sluice_crew_destroy(struct sluice_crew *crew);

/* Where the plan puts a lane of the session; anywhere when there is none. */
struct sluice_crew_lane sluice_crew_lane(const struct sluice_crew *crew, uint32_t lane);
/*
 * The same for a lane whose rail somebody else has chosen, a target's: beside a planned lane on
 * one of @nodes (by the kernel's number; 0: as planned) whose worker has fewer lanes than its
 * share, else where there are fewest.
 */
struct sluice_crew_lane sluice_crew_lane_near(
	const struct sluice_crew *crew, uint32_t lane, uint64_t nodes);
/* Give a lane to a worker, or with SLUICE_CREW_ANY to the one with the fewest lanes. -ENOSPC when
   it is full. */
int sluice_crew_add(struct sluice_crew *crew, struct sluice_lane *lane, uint32_t worker);
/* Who steps it, or SLUICE_CREW_ANY: nobody, or it is NULL. */
uint32_t sluice_crew_worker_of(const struct sluice_crew *crew, const struct sluice_lane *lane);
/* Where the session's lane of this index is: the place of the worker that steps @lane, or as planned
   where nobody does. */
struct sluice_crew_lane sluice_crew_lane_now(
	const struct sluice_crew *crew, uint32_t index, const struct sluice_lane *lane);
/* Returns when no worker steps the lane any more. A lane that was never added is fine. */
void sluice_crew_remove(struct sluice_crew *crew, struct sluice_lane *lane);
/* The same for all lanes of all workers, in one wait. */
void sluice_crew_remove_all(struct sluice_crew *crew);
/* There may be work: whoever sleeps looks again. */
void sluice_crew_wake(struct sluice_crew *crew);

uint32_t sluice_crew_workers(const struct sluice_crew *crew);
void sluice_crew_stats(
	struct sluice_crew *crew, uint32_t worker, struct sluice_worker_stats *ret_stats);
/* Crews of 0 workers: step each lane once; true when one was busy. */
bool sluice_crew_step(struct sluice_crew *crew, uint64_t now_ns);

#endif
