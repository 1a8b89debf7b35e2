/* SPDX-License-Identifier: BSD-3-Clause */
/* node_memory.c: libnuma's system calls; see node_memory.h for what happens without them. */
#include "engine/placement/node_memory.h"

#include <sys/mman.h>

#include "base/assert.h"
#include "base/bits.h"

#ifdef SLUICE_HAVE_NUMA
#include <numa.h>
#include <numaif.h>

#define POLICY_NODES (8 * sizeof(((struct sluice_node_policy *)0)->nodes))

void sluice_node_prefer(uint64_t nodes, struct sluice_node_policy *ret_before)
{
	unsigned long mask[2] = {(unsigned long)nodes, 0};
	int mode = (nodes & (nodes - 1)) == 0 ? MPOL_PREFERRED : MPOL_INTERLEAVE;

	ret_before->is_set = false;
	if (nodes == 0 || !sluice_node_memory_differs() ||
		get_mempolicy(&ret_before->mode, ret_before->nodes, POLICY_NODES, NULL, 0) < 0)
		return;
	ret_before->is_set = set_mempolicy(mode, mask, 8 * sizeof(mask)) == 0;
}

void sluice_node_restore(const struct sluice_node_policy *before)
{
	if (before->is_set)
		SLUICE_ASSERT(set_mempolicy(before->mode,
				      before->mode == MPOL_DEFAULT ? NULL : before->nodes,
				      POLICY_NODES) == 0);
}

void sluice_node_of_pages(void *const *pages, size_t count, int *ret_nodes)
{
	bool known = move_pages(0, count, (void **)(uintptr_t)pages, NULL, ret_nodes, 0) >= 0;

	for (size_t i = 0; i < count; i++)
		if (!known || ret_nodes[i] < 0)
			ret_nodes[i] = SLUICE_NODE_UNKNOWN;
}

bool sluice_node_memory_differs(void)
{
	return numa_available() >= 0 && numa_num_configured_nodes() > 1;
}

#else

void sluice_node_prefer(uint64_t nodes, struct sluice_node_policy *ret_before)
{
	(void)nodes;
	ret_before->is_set = false;
}

void sluice_node_restore(const struct sluice_node_policy *before)
{
	(void)before;
}

void sluice_node_of_pages(void *const *pages, size_t count, int *ret_nodes)
{
	(void)pages;
	for (size_t i = 0; i < count; i++)
		ret_nodes[i] = SLUICE_NODE_UNKNOWN;
}

bool sluice_node_memory_differs(void)
{
	return false;
}
#endif

void *sluice_node_alloc(size_t bytes)
{
	void *memory = mmap(NULL, sluice_align_up(bytes, SLUICE_PAGE_BYTES), PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

	return memory == MAP_FAILED ? NULL : memory;
}

void sluice_node_free(void *memory, size_t bytes)
{
	if (memory != NULL)
		munmap(memory, sluice_align_up(bytes, SLUICE_PAGE_BYTES));
}
