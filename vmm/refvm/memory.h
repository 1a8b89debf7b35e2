/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * memory.h: guest RAM: regions with gaps between them, and a dirty bitmap for each.
 *
 * All regions are mapped in one reserved range of addresses, so that the address of guest
 * memory is `base + gpa` wherever it is. A region's bitmap is shared with the engine; who
 * finds a page dirty publishes it here, after the page is protected again (tracking.h).
 *
 * Threading: created and destroyed by the main thread; publishing from any thread.
 */
#ifndef REFVM_MEMORY_H
#define REFVM_MEMORY_H

#include <stdbool.h>
#include <stdint.h>

#include <sluice/error.h>

#include "vmm/refvm/guest/abi.h"

enum refvm_backing {
	REFVM_BACKING_MEMFD,
	REFVM_BACKING_SHM, /* an unlinked file in /dev/shm: cannot be sealed */
	REFVM_BACKING_HUGETLB, /* a memfd of 2 MiB pages */
};

struct refvm_memory_opts {
	uint64_t bytes; /* of all regions; a multiple of 2 MiB per region */
	unsigned int regions;
	int backing; /* enum refvm_backing */
	bool separate; /* a descriptor for each region instead of one for all */
	bool prealloc;
};

#define REFVM_SLOTS_MAX      (REFVM_REGIONS_MAX + REFVM_DIMMS_MAX)
#define REFVM_DIMM_BYTES_MAX (8ull << 30)

struct refvm_region {
	char id[16];
	int fd; /* may be shared with other regions; owned by the memory */
	uint64_t fd_offset;
	uint64_t bytes; /* 0: there is none */
	uint64_t gpa;
	uint8_t *hva;
	int dirty_fd; /* sealed memfd, handed to the engine */
	uint64_t *dirty; /* its mapping */
	bool leaving; /* a DIMM that only the engine still has */
	uint64_t *since; /* the same layout, private: pages written since refvm_memory_since() */
};

struct refvm_memory {
	struct refvm_region region[REFVM_SLOTS_MAX]; /* DIMMs from REFVM_REGIONS_MAX on */
	unsigned int count; /* behind the last one; other threads than the monitor's ask
			       refvm_memory_count(), as a DIMM may come meanwhile */
	uint8_t *base;
	uint64_t span_bytes; /* reserved from base */
	uint64_t page_bytes; /* of the backing */
	uint64_t dimm_gpa; /* of the first DIMM; REFVM_DIMM_BYTES_MAX for each */
	bool since_on; /* atomic */
};

/* Any thread: the regions below it are filled in. */
static inline unsigned int refvm_memory_count(const struct refvm_memory *memory)
{
	return __atomic_load_n(&memory->count, __ATOMIC_ACQUIRE);
}

int refvm_memory_create(const struct refvm_memory_opts *opts, struct refvm_memory *ret_memory,
	struct sluice_error *err);
void refvm_memory_destroy(struct refvm_memory *memory); /* zeroed memory is allowed */

/* Memory for a DIMM, in all but the list: put into `region` by refvm_tracking_plug(). Taken away
   again when the guest does not use it, and nobody looks at the list meanwhile. */
int refvm_memory_create_dimm(struct refvm_memory *memory, unsigned int dimm, uint64_t bytes,
	struct refvm_region *ret_region, struct sluice_error *err);
void refvm_memory_destroy_dimm(struct refvm_memory *memory, struct refvm_region *region);

/* The address of guest memory. Asserts that the range is inside one region. */
void *refvm_memory_at(const struct refvm_memory *memory, uint64_t gpa, uint64_t bytes);

/* Publish pages found dirty: bit n of @bits is page @word * 64 + n of the region. */
void refvm_memory_publish(
	struct refvm_memory *memory, unsigned int region, uint64_t word, uint64_t bits);
/* The VMM itself has written this range; to be called after the store. */
void refvm_memory_written(struct refvm_memory *memory, uint64_t gpa, uint64_t bytes);
/* Start (with none) or stop to collect published pages in `since`. */
void refvm_memory_since(struct refvm_memory *memory, bool on);

#endif
