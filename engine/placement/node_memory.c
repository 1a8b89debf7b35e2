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

static _Thread_local uint64_t preferred; /* nodes, while sluice_node_prefer() holds */

static int mode_for(uint64_t nodes)
{
	return (nodes & (nodes - 1)) == 0 ? MPOL_PREFERRED : MPOL_INTERLEAVE;
}

void sluice_node_prefer(uint64_t nodes, struct sluice_node_policy *ret_before)
{
	unsigned long mask[2] = {(unsigned long)nodes, 0};

	ret_before->is_set = false;
	ret_before->preferred = preferred;
	if (nodes == 0 || !sluice_node_memory_differs() ||
		get_mempolicy(&ret_before->mode, ret_before->nodes, POLICY_NODES, NULL, 0) < 0)
		return;
	if (set_mempolicy(mode_for(nodes), mask, 8 * sizeof(mask)) < 0)
		return; /* a node without memory, or one that the cpuset forbids */
	ret_before->is_set = true;
	preferred = nodes;
}

void sluice_node_restore(const struct sluice_node_policy *before)
{
	bool is_default = before->mode == MPOL_DEFAULT;

	if (!before->is_set)
		return;
	preferred = before->preferred;
	SLUICE_ASSERT(set_mempolicy(before->mode, is_default ? NULL : before->nodes,
			      is_default ? 0 : POLICY_NODES) == 0);
}

static void bind_range(void *memory, size_t bytes)
{
	unsigned long mask[2] = {(unsigned long)preferred, 0};

	/* Refused like any other policy: then the memory lies where the kernel puts it. */
	if (preferred != 0)
		(void)mbind(memory, bytes, mode_for(preferred), mask, 8 * sizeof(mask), 0);
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

static void bind_range(void *memory, size_t bytes)
{
	(void)memory;
	(void)bytes;
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
	void *memory;

	bytes = sluice_align_up(bytes, SLUICE_PAGE_BYTES);
	memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		return NULL;
	bind_range(memory, bytes);
	return memory;
}

void sluice_node_free(void *memory, size_t bytes)
{
	if (memory != NULL)
		munmap(memory, sluice_align_up(bytes, SLUICE_PAGE_BYTES));
}

uint64_t sluice_node_set_of(const void *memory, size_t bytes)
{
	uintptr_t at = sluice_align_down((uintptr_t)memory, SLUICE_PAGE_BYTES);
	uintptr_t end = (uintptr_t)memory + bytes;
	uint64_t set = 0;

	while (at < end) {
		void *pages[64];
		int nodes[64];
		size_t count = 0;

		for (; at < end && count < 64; at += SLUICE_PAGE_BYTES)
			pages[count++] = (void *)at;
		sluice_node_of_pages(pages, count, nodes);
		for (size_t i = 0; i < count; i++)
			if (nodes[i] >= 0 && nodes[i] < 64)
				set |= 1ull << nodes[i];
	}
	return set;
}
