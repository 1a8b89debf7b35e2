/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * node_memory.h: on which NUMA node memory comes to lie, and where it lies. Node numbers are the
 * kernel's. With one node, without libnuma, or where the kernel says no, everything goes on and
 * memory lies where the kernel puts it: sluice_node_of_pages() tells the truth.
 *
 * Threads: the policy is the calling thread's.
 */
#ifndef SLUICE_ENGINE_PLACEMENT_NODE_MEMORY_H
#define SLUICE_ENGINE_PLACEMENT_NODE_MEMORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SLUICE_NODE_UNKNOWN (-1) /* not touched yet, or nobody says */

/* What a thread's policy was, to put it back. */
struct sluice_node_policy {
	bool is_set;
	uint64_t preferred;
	int mode;
	unsigned long nodes[16];
};

/*
 * Until the policy is restored, memory that this thread touches first lies on one of @nodes (bits
 * by kernel number; several: interleaved), or elsewhere when they are full. 0: nothing changes.
 * Scopes may nest.
 */
void sluice_node_prefer(uint64_t nodes, struct sluice_node_policy *ret_before);
void sluice_node_restore(const struct sluice_node_policy *before);

/* Whole pages of zeros. Under sluice_node_prefer() they lie where it says, whoever touches them
   first and whenever. NULL: out of memory. */
void *sluice_node_alloc(size_t bytes);
void sluice_node_free(void *memory, size_t bytes); /* NULL is allowed */

/* The node of each page, SLUICE_NODE_UNKNOWN for those that this process has not touched. */
void sluice_node_of_pages(void *const *pages, size_t count, int *ret_nodes);
/* The nodes below 64 that hold a range of this process's memory; 0 when nobody says. */
uint64_t sluice_node_set_of(const void *memory, size_t bytes);
/* More than one node with memory, and a libnuma that can tell. */
bool sluice_node_memory_differs(void);

#endif
