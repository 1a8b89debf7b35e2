/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * disturb.h: what a configuration does to a migration under way: lanes that are held back, so that
 * only tracking costs the guest something, and lanes whose connections break. One thread.
 */
#ifndef SLUICE_PERF_DISTURB_H
#define SLUICE_PERF_DISTURB_H

#include <jansson.h>

#include "perf/config.h"
#include "perf/node.h"

struct perf_disturb {
	const struct perf_config *config;
	struct perf_node *source;
	uint16_t lane_port; /* 0: no lane is cut */
	uint64_t active_ns; /* when pages began to move; 0: not yet */
	uint64_t held_until_ns; /* 0: not held, or no longer */
	uint64_t next_cut_ns;
	uint64_t broken; /* connections so far */
};

/* Before `migrate`, to the address @uri that @target waits at. -EPERM and -EOPNOTSUPP with a
   reason where connections cannot be broken. */
int perf_disturb_prepare(struct perf_disturb *disturb, const struct perf_config *config,
	struct perf_node *source, struct perf_node *target, const char *uri,
	struct sluice_error *err);
/* Whether there is something to do for perf_disturb_step(), which is best called every 20 ms then. */
bool perf_disturb_steps(const struct perf_config *config);
/* Again and again while it migrates, with query-migrate's status. @now_ns is CLOCK_MONOTONIC. */
int perf_disturb_step(struct perf_disturb *disturb, const char *status, uint64_t now_ns,
	struct sluice_error *err);
/* lanes_cut, lanes_lost, bytes_resent; pages_again, what was sent more than once, and resent_of_bound,
   that over what must be: in flight when connections were lost, or dirtied meanwhile. @lanes, @ram:
   from query-lanes and query-migrate. */
void perf_disturb_describe(const struct perf_disturb *disturb, const json_t *stats,
	const json_t *lanes, const json_t *ram, json_t *run);

#endif
