/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * topology_hwloc.c: from hwloc's tree to struct sluice_topology. The tree is read, copied and
 * freed: an engine keeps a few KiB of it. See topology.h.
 */
#include <errno.h>
#include <hwloc.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/assert.h"
#include "engine/placement/topology.h"

static void copy_cpus(hwloc_const_cpuset_t from, struct sluice_cpus *to)
{
	int cpu;

	hwloc_bitmap_foreach_begin(cpu, from)
	{
		if (cpu >= (int)SLUICE_CPUS_MAX)
			break;
		sluice_cpus_add(to, (uint32_t)cpu);
	}
	hwloc_bitmap_foreach_end();
}

/* The node that a core's memory comes from: of those around it the one with the fewest CPUs, of
   equals (DRAM and HBM of one package) the first. */
static uint32_t node_of(hwloc_topology_t tree, hwloc_obj_t core)
{
	int count = hwloc_get_nbobjs_by_type(tree, HWLOC_OBJ_NUMANODE);
	int best = -1, best_cpus = 0;

	for (int i = 0; i < count && i < SLUICE_NODES_MAX; i++) {
		hwloc_obj_t node = hwloc_get_obj_by_type(tree, HWLOC_OBJ_NUMANODE, (unsigned int)i);
		int cpus = hwloc_bitmap_weight(node->cpuset);

		if (!hwloc_bitmap_isincluded(core->cpuset, node->cpuset))
			continue;
		if (best < 0 || cpus < best_cpus) {
			best = i;
			best_cpus = cpus;
		}
	}
	return best < 0 ? 0 : (uint32_t)best;
}

static int read_nodes(
	hwloc_topology_t tree, struct sluice_topology *topology, struct sluice_error *err)
{
	int count = hwloc_get_nbobjs_by_type(tree, HWLOC_OBJ_NUMANODE);
	uint32_t packages[SLUICE_NODES_MAX] = {0};

	if (count < 1 || count > SLUICE_NODES_MAX)
		return sluice_fail(err, -EINVAL, "topology",
			"a machine has 1 to %d NUMA nodes, and %s has %d", SLUICE_NODES_MAX,
			topology->source, count);
	for (int i = 0; i < count; i++) {
		hwloc_obj_t obj = hwloc_get_obj_by_type(tree, HWLOC_OBJ_NUMANODE, (unsigned int)i);
		hwloc_obj_t package = hwloc_get_ancestor_obj_by_type(tree, HWLOC_OBJ_PACKAGE, obj);
		struct sluice_topology_node *node = &topology->nodes[i];

		node->number = obj->os_index;
		node->memory_bytes = obj->attr->numanode.local_memory;
		node->has_memory = node->memory_bytes > 0;
		node->is_allowed =
			hwloc_bitmap_isset(hwloc_topology_get_allowed_nodeset(tree), obj->os_index);
		/* Memory beside the packages is equally far from all of them. */
		packages[i] = package != NULL ? package->logical_index : UINT32_MAX - (uint32_t)i;
	}
	topology->node_count = (uint32_t)count;
	sluice_topology_guess_distances(topology, packages);
	return 0;
}

/* A machine whose tables do not say how much memory there is has it everywhere. */
static void assume_memory(struct sluice_topology *topology)
{
	bool any = false;

	for (uint32_t i = 0; i < topology->node_count; i++)
		any |= topology->nodes[i].has_memory;
	for (uint32_t i = 0; i < topology->node_count && !any; i++)
		topology->nodes[i].has_memory = true;
}

static void read_distances(hwloc_topology_t tree, struct sluice_topology *topology)
{
	struct hwloc_distances_s *matrix;
	unsigned int found = 1;

	if (hwloc_distances_get_by_type(tree, HWLOC_OBJ_NUMANODE, &found, &matrix,
		    HWLOC_DISTANCES_KIND_MEANS_LATENCY, 0) < 0 ||
		found == 0)
		return;
	for (unsigned int a = 0; a < matrix->nbobjs; a++)
		for (unsigned int b = 0; b < matrix->nbobjs; b++) {
			unsigned int from = matrix->objs[a]->logical_index;
			unsigned int to = matrix->objs[b]->logical_index;

			if (from < topology->node_count && to < topology->node_count)
				topology->nodes[from].distance[to] =
					(uint32_t)matrix->values[a * matrix->nbobjs + b];
		}
	hwloc_distances_release(tree, matrix);
}

/* Machines that know no cores (some virtual ones) have one per hardware thread. */
static int read_cores(hwloc_topology_t tree, struct sluice_topology *topology)
{
	hwloc_obj_type_t type =
		hwloc_get_nbobjs_by_type(tree, HWLOC_OBJ_CORE) > 0 ? HWLOC_OBJ_CORE : HWLOC_OBJ_PU;
	int count = hwloc_get_nbobjs_by_type(tree, type);

	topology->cores = calloc((size_t)count + 1, sizeof(*topology->cores));
	if (topology->cores == NULL)
		return -ENOMEM;
	for (int i = 0; i < count; i++) {
		hwloc_obj_t obj = hwloc_get_obj_by_type(tree, type, (unsigned int)i);
		struct sluice_topology_core *core = &topology->cores[topology->core_count];

		copy_cpus(obj->cpuset, &core->cpus);
		if (sluice_cpus_is_empty(&core->cpus))
			continue; /* beyond SLUICE_CPUS_MAX */
		core->node = node_of(tree, obj);
		sluice_cpus_add_all(&topology->nodes[core->node].cpus, &core->cpus);
		sluice_cpus_add_all(&topology->present, &core->cpus);
		topology->core_count++;
	}
	return topology->core_count > 0 ? 0 : -EINVAL;
}

/* Near are the nodes whose CPUs are below the same part of the tree. All of them: near to none. */
static uint64_t nodes_near(const struct sluice_topology *topology, hwloc_obj_t part)
{
	struct sluice_cpus cpus = {0};
	uint64_t near = 0, all = 0;

	if (part != NULL)
		copy_cpus(part->cpuset, &cpus);
	for (uint32_t i = 0; i < topology->node_count; i++) {
		if (sluice_cpus_meet(&topology->nodes[i].cpus, &cpus))
			near |= 1ull << i;
		if (!sluice_cpus_is_empty(&topology->nodes[i].cpus))
			all |= 1ull << i;
	}
	return near == all ? 0 : near;
}

static void read_nics(hwloc_topology_t tree, struct sluice_topology *topology)
{
	for (hwloc_obj_t obj = hwloc_get_next_osdev(tree, NULL); obj != NULL;
		obj = hwloc_get_next_osdev(tree, obj)) {
		bool is_rdma = obj->attr->osdev.type == HWLOC_OBJ_OSDEV_OPENFABRICS;
		struct sluice_topology_nic *nic;

		if (!is_rdma && obj->attr->osdev.type != HWLOC_OBJ_OSDEV_NETWORK)
			continue;
		nic = sluice_topology_add_nic(topology, obj->name, is_rdma);
		if (nic == NULL)
			return;
		nic->nodes = nodes_near(topology, hwloc_get_non_io_ancestor_obj(tree, obj));
	}
}

static int not_a_machine(const char *path, struct sluice_error *err)
{
	return sluice_fail(err, -EINVAL, "topology",
		"%s is not a machine as hwloc writes it; lstopo FILE.xml makes one", path);
}

static int open_tree(enum sluice_topology_kind kind, const char *text,
	struct sluice_topology *topology, hwloc_topology_t tree, struct sluice_error *err)
{
	if (kind == SLUICE_TOPOLOGY_SYNTHETIC) {
		snprintf(topology->source, sizeof(topology->source), "synthetic \"%.70s\"", text);
		if (hwloc_topology_set_synthetic(tree, text) < 0)
			return sluice_fail(err, -EINVAL, "topology",
				"\"%s\" does not describe a machine to hwloc; for example \"pack:2 "
				"numa:2 core:8 pu:2\"",
				text);
	} else if (kind == SLUICE_TOPOLOGY_XML) {
		snprintf(topology->source, sizeof(topology->source), "XML file %.80s", text);
		if (access(text, R_OK) < 0)
			return sluice_fail(err, -errno, "topology", "%s cannot be read: %s", text,
				strerror(errno));
		if (hwloc_topology_set_xml(tree, text) < 0)
			return not_a_machine(text, err);
	}
	/* Also what this process may not use, to tell "not there" from "not allowed". */
	hwloc_topology_set_flags(tree, HWLOC_TOPOLOGY_FLAG_INCLUDE_DISALLOWED);
	/* NICs, but not the PCI devices between them and their node: each costs hwloc a read of its
	   configuration space, 12 ms for a handful of them in a VM. */
	hwloc_topology_set_io_types_filter(tree, HWLOC_TYPE_FILTER_KEEP_NONE);
	hwloc_topology_set_type_filter(tree, HWLOC_OBJ_OS_DEVICE, HWLOC_TYPE_FILTER_KEEP_IMPORTANT);
	if (hwloc_topology_load(tree) < 0)
		return kind == SLUICE_TOPOLOGY_XML
			       ? not_a_machine(text, err)
			       : sluice_fail(err, -EINVAL, "topology", "hwloc cannot read %s",
					 topology->source);
	return 0;
}

int sluice_topology_read_hwloc(enum sluice_topology_kind kind, const char *text,
	struct sluice_topology *topology, struct sluice_error *err)
{
	hwloc_topology_t tree;
	int r;

	if (hwloc_topology_init(&tree) < 0)
		return sluice_fail(err, -ENOMEM, "topology", "out of memory");
	r = open_tree(kind, text, topology, tree, err);
	if (r == 0)
		r = read_nodes(tree, topology, err);
	if (r == 0)
		r = read_cores(tree, topology);
	if (r == 0) {
		assume_memory(topology);
		read_distances(tree, topology);
		read_nics(tree, topology);
	}
	/* Of this machine the affinity mask says it; see topology.c. */
	if (r == 0 && kind != SLUICE_TOPOLOGY_LIVE)
		copy_cpus(hwloc_topology_get_allowed_cpuset(tree), &topology->allowed);
	hwloc_topology_destroy(tree);
	return r;
}
