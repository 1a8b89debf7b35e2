/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * topology.h: a machine as placement sees it: nodes with memory, cores with their threads, NICs,
 * and which CPUs this process may use. Read by hwloc from this machine, from a file (lstopo
 * FILE.xml) or from a description ("pack:2 numa:2 core:8 pu:2"). Without hwloc this machine is
 * one node with the CPUs that the process may use, and the other two are refused.
 *
 * Reading does I/O and belongs to the control thread; the result is a plain value.
 */
#ifndef SLUICE_ENGINE_PLACEMENT_TOPOLOGY_H
#define SLUICE_ENGINE_PLACEMENT_TOPOLOGY_H

#include <stdbool.h>
#include <stdint.h>

#include <sluice/error.h>

#include "base/cpus.h"

#define SLUICE_NODES_MAX    64 /* a set of nodes is the bits of a uint64_t */
#define SLUICE_NICS_MAX     64
#define SLUICE_NIC_NAME_MAX 64

struct sluice_topology_node {
	uint32_t number; /* the kernel's; nodes are named by their index here */
	uint64_t memory_bytes; /* 0: it has none, or nobody says */
	bool has_memory;
	bool is_allowed; /* this process may allocate there (cpuset.mems) */
	struct sluice_cpus cpus; /* nearest to its memory; empty: a node of memory only */
	uint32_t distance[SLUICE_NODES_MAX]; /* to each node, 10 = itself, as in ACPI's SLIT */
};

struct sluice_topology_core {
	struct sluice_cpus cpus; /* its hardware threads */
	uint32_t node; /* index */
};

struct sluice_topology_nic {
	char name[SLUICE_NIC_NAME_MAX]; /* "eth0", "mlx5_0" */
	bool is_rdma; /* an RDMA device, not a network interface */
	uint64_t nodes; /* set of the nodes that it is near to; 0: not known, or near to all */
	uint64_t link_bytes_per_s; /* 0: not known */
};

struct sluice_topology {
	char source[96]; /* "this machine", "XML file big.xml", ... */
	bool is_this_machine;
	struct sluice_topology_node nodes[SLUICE_NODES_MAX];
	uint32_t node_count; /* at least 1 */
	struct sluice_topology_core *cores;
	uint32_t core_count;
	struct sluice_topology_nic nics[SLUICE_NICS_MAX];
	uint32_t nic_count;
	struct sluice_cpus present;
	struct sluice_cpus allowed; /* by affinity mask and cpuset of this process */
	struct sluice_cpus isolated; /* isolcpus=: the kernel balances nothing on them */
};

enum sluice_topology_kind { SLUICE_TOPOLOGY_LIVE, SLUICE_TOPOLOGY_SYNTHETIC, SLUICE_TOPOLOGY_XML };

/* @text: the description or the path. -EINVAL, -ENOENT, -ENOMEM, -ENOTSUP without hwloc. */
int sluice_topology_read(enum sluice_topology_kind kind, const char *text,
	struct sluice_topology **ret_topology, struct sluice_error *err);
void sluice_topology_destroy(struct sluice_topology *topology); /* NULL is allowed */

/* Of this machine: which CPUs are allowed may have changed since. */
int sluice_topology_refresh(struct sluice_topology *topology, struct sluice_error *err);
/* The set with one node, by the kernel's number; 0 when there is none. */
uint64_t sluice_topology_set_of(const struct sluice_topology *topology, uint32_t number);
/* The core that a CPU is a thread of, or NULL. */
const struct sluice_topology_core *sluice_topology_core_of(
	const struct sluice_topology *topology, uint32_t cpu);
/* The NIC of this name, or on this machine the one that has the address of "HOST:PORT". NULL:
   none, or an address that every NIC has. */
const struct sluice_topology_nic *sluice_topology_nic_of(
	const struct sluice_topology *topology, const char *rail);

/* For the files that fill one in. */
struct sluice_topology_nic *sluice_topology_add_nic(
	struct sluice_topology *topology, const char *name, bool is_rdma);
/* Distances where the firmware's are not known: 10, 12 within a package, else 21. */
void sluice_topology_guess_distances(
	struct sluice_topology *topology, const uint32_t *package_of_node);
/* topology_hwloc.c: read by hwloc into an empty topology. */
int sluice_topology_read_hwloc(enum sluice_topology_kind kind, const char *text,
	struct sluice_topology *topology, struct sluice_error *err);

#endif
