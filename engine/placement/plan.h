/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * plan.h: from a machine, settings and the guest's whereabouts to a placement: how many workers
 * and on which CPUs, which lanes each of them steps, over which rail, near to which node, and
 * where the engine's own memory goes. A pure function: no I/O, no state, any thread.
 *
 * The rules:
 *
 *   lanes    as set; else 4, or one per 25 Gbit/s of the rails where their speed is known (4..16)
 *   CPUs     those allowed, without the cores of vcpu-cores, without isolated ones, and where
 *            more than 4 cores are left without the core of CPU 0. worker-cores overrides it
 *   workers  as set; else one per core of worker-cores; else half of the cores (all when there are
 *            two), at most 16. Never more than lanes
 *   nodes    workers are dealt out to nodes in proportion to the guest memory that the nodes hold
 *            (Sainte-Lague: a node with little comes late, not never); evenly when nobody knows.
 *            Ties go to the node of a rail
 *   binding  a worker may run on any usable CPU of its node, and the kernel chooses: engines do not
 *            know of each other, and two that chose the same core would halve each other. Only
 *            cores set by hand, or isolated ones (nothing is balanced there), are one per worker
 *   lanes    lane i belongs to worker i mod workers
 *   rails    every rail gets its share by speed; of equals the one nearest to the lane's worker
 *   memory   a lane's structures on its worker's node; the bitmaps spread over the workers' nodes;
 *            staging on the rails' node, or beside the workers where that is not known
 */
#ifndef SLUICE_ENGINE_PLACEMENT_PLAN_H
#define SLUICE_ENGINE_PLACEMENT_PLAN_H

#include <stdbool.h>
#include <stdint.h>

#include <sluice/error.h>

#include "base/cpus.h"
#include "engine/placement/topology.h"

#define SLUICE_PLAN_WORKERS_MAX 64
#define SLUICE_PLAN_LANES_MAX   128
#define SLUICE_PLAN_RAILS_MAX   16
#define SLUICE_PLAN_HOMES_MAX   (SLUICE_NODES_MAX + 1)
#define SLUICE_PLAN_REASONS_MAX 24
#define SLUICE_NO_NODE          UINT32_MAX

struct sluice_plan_rail {
	char name[SLUICE_NIC_NAME_MAX * 2];
	uint64_t nodes; /* set of nodes that it is near to; 0: not known */
	uint64_t link_bytes_per_s; /* 0: not known */
};

/* What is wished, and what is known. Nodes are indices into the topology. */
struct sluice_plan_conf {
	uint32_t lanes, workers; /* 0: choose */
	bool numa; /* false: as on a machine with one node */
	struct sluice_cpus worker_cores; /* empty: choose */
	struct sluice_cpus vcpu_cores; /* left alone; empty: not known */
	struct sluice_plan_rail rails[SLUICE_PLAN_RAILS_MAX];
	uint32_t rail_count; /* at least 1 */
	uint64_t guest_bytes[SLUICE_NODES_MAX]; /* guest memory seen on each node; 0: not known */
};

struct sluice_plan_worker {
	struct sluice_cpus cpus; /* where it may run */
	bool is_bound; /* fewer than the process may use */
	uint32_t node; /* or SLUICE_NO_NODE */
	uint32_t lanes; /* count */
};

struct sluice_plan_lane {
	uint32_t worker, rail;
	uint32_t home; /* of the ledger: 0 any, else homes[home - 1] is its node */
	uint64_t memory_nodes; /* set: where its structures go; 0: the kernel's choice */
};

struct sluice_plan_reason {
	const char *about; /* "lanes", "cpus", "workers", "nodes", "binding", "rails", "memory" */
	char text[240]; /* one sentence in plain words */
};

struct sluice_plan {
	struct sluice_plan_worker workers[SLUICE_PLAN_WORKERS_MAX];
	uint32_t worker_count;
	struct sluice_plan_lane lanes[SLUICE_PLAN_LANES_MAX];
	uint32_t lane_count;
	uint32_t homes[SLUICE_NODES_MAX]; /* nodes that have queues of their own */
	uint32_t
		home_count; /* with the queue of unknown chunks: 1 + nodes, 1 when there are none */
	uint8_t order[SLUICE_PLAN_HOMES_MAX * SLUICE_PLAN_HOMES_MAX]; /* home_count rows */
	uint64_t staging_nodes, bitmap_nodes; /* sets; 0: the kernel's choice */
	struct sluice_cpus usable;
	struct sluice_plan_reason reasons[SLUICE_PLAN_REASONS_MAX];
	uint32_t reason_count;
};

/* -EINVAL: settings that contradict the machine or each other; the error says which are right. */
int sluice_plan_make(const struct sluice_topology *topology, const struct sluice_plan_conf *conf,
	struct sluice_plan *ret_plan, struct sluice_error *err);
/* The same plan with other rails: only which lane uses which of @conf's rails is chosen anew. */
void sluice_plan_rails(const struct sluice_topology *topology, const struct sluice_plan_conf *conf,
	struct sluice_plan *plan);
/* The home of a node by the kernel's number; 0 when it has no queues of its own. */
uint32_t sluice_plan_home_of(const struct sluice_topology *topology, const struct sluice_plan *plan,
	uint32_t node_number);

#endif
