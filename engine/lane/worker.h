/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * worker.h: a thread that steps the lanes it was given, each in turn, and sleeps when none of them
 * has anything to do.
 *
 *   AWAKE --idle for a while, or all are--> RESTING --its descriptor, its deadline, a wake--> AWAKE
 *
 * A lane that rests is not stepped: the worker's epoll set holds the descriptor that it arms. So
 * lanes without work cost a busy worker one system call per turn, however many there are, and a
 * sleep costs as much as the lanes that end it. A worker sleeps when all of its lanes rest, and
 * before that polls for a time that it learns, see crew.h.
 *
 * Threads: wake is for any thread; what else is here for the control thread, except that the
 * worker itself runs behind it.
 */
#ifndef SLUICE_ENGINE_LANE_WORKER_H
#define SLUICE_ENGINE_LANE_WORKER_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/cpus.h"
#include "base/random.h"
#include "engine/lane/crew.h"

/* A lane and how it is waited for. The worker's own. */
struct sluice_worker_lane {
	struct sluice_lane *lane;
	uint32_t idle_turns; /* in a row */
	bool rests;
	uint64_t deadline_ns; /* while it rests */
};

struct sluice_worker {
	const struct sluice_crew_opts *opts; /* the crew's */
	pthread_t thread_handle;
	bool started;
	int epoll_fd, wake_fd; /* wake_fd is in the set as well */
	uint32_t sleeping; /* atomic: it sleeps, or is about to */
	uint32_t woken; /* atomic: no lane may rest on what it knew before */
	uint32_t changed; /* atomic: `wanted` differs from what the worker steps */
	uint32_t stop; /* atomic */
	int thread; /* kernel's id; atomic, 0 until it runs */
	int core; /* last seen; atomic */
	int node;
	uint64_t sleeps; /* atomic */

	/* What control wants stepped, under the lock; `seen` is the generation in use. */
	pthread_mutex_t lock;
	pthread_cond_t cond;
	struct sluice_lane *wanted[SLUICE_CREW_LANES_PER_WORKER_MAX];
	uint32_t wanted_count;
	uint64_t wanted_generation, seen_generation;

	/* The worker's own. */
	struct sluice_worker_lane lanes[SLUICE_CREW_LANES_PER_WORKER_MAX];
	uint32_t lane_count, resting_count;
	uint64_t rest_until_ns; /* the first deadline of those that rest */
	uint64_t inflight_bytes; /* of all lanes */
	uint64_t patience_ns; /* it polls for so long before it sleeps, see learn(); atomic */
	struct sluice_random random;
};

/* Without a thread: for sluice_worker_step(). @seed: of the turns' order. */
void sluice_worker_init(
	struct sluice_worker *worker, const struct sluice_crew_opts *opts, uint64_t seed);
/* Returns when the thread runs. @cpus: where; NULL or empty: anywhere. 0 or -errno. */
int sluice_worker_start(
	struct sluice_worker *worker, const char *name, const struct sluice_cpus *cpus);
/* Ends the thread, if there is one. No lane may be left. */
void sluice_worker_fini(struct sluice_worker *worker);

int sluice_worker_add(struct sluice_worker *worker, struct sluice_lane *lane); /* 0 or -ENOSPC */
/* Returns when the lane is not stepped any more; false: it never was. */
bool sluice_worker_remove(struct sluice_worker *worker, struct sluice_lane *lane);
/* All of them; returns at once, wait returns when none is stepped any more. */
void sluice_worker_clear(struct sluice_worker *worker);
void sluice_worker_wait(struct sluice_worker *worker);
bool sluice_worker_has(const struct sluice_worker *worker, const struct sluice_lane *lane);
void sluice_worker_wake(struct sluice_worker *worker);
void sluice_worker_stats(struct sluice_worker *worker, struct sluice_worker_stats *ret_stats);

/* A worker without a thread: step each lane once; true when one was busy. */
bool sluice_worker_step(struct sluice_worker *worker, uint64_t now_ns);

#endif
