/* SPDX-License-Identifier: BSD-3-Clause */
/* memory.c: creating, sealing and mapping guest RAM, and publishing its dirty pages. */
#include "vmm/refvm/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/memfd.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <sluice/sluice.h>

#include "base/assert.h"
#include "base/bits.h"

#define GIB                (1ull << 30)
#define REGION_ALIGN_BYTES (2ull << 20) /* page tables and huge pages */
#define LOW_BYTES_MAX      (3ull * GIB) /* below the hole for devices */
#define BYTES_MIN          (16ull << 20) /* the guest program's own pages, and some to work on */

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

static const char *const region_ids[REFVM_REGIONS_MAX] = {
	"ram-low", "ram-high", "ram-far", "ram-farther"};

/* Sizes and addresses: ram-low at 0, ram-high at 4 GiB, then a free GiB before each. */
static int lay_out(
	const struct refvm_memory_opts *opts, struct refvm_memory *memory, struct sluice_error *err)
{
	uint64_t share, left = opts->bytes, offset = 0, gpa = 0;
	unsigned int i;

	if (opts->regions < 1 || opts->regions > REFVM_REGIONS_MAX)
		return sluice_fail(err, -EINVAL, "memory", "regions must be 1 to %d, not %u.",
			REFVM_REGIONS_MAX, opts->regions);
	if (!sluice_is_aligned(opts->bytes, REGION_ALIGN_BYTES) || opts->bytes < BYTES_MIN)
		return sluice_fail(err, -EINVAL, "memory",
			"The guest's memory must be a multiple of 2 MiB, at least 16 MiB.");
	share = sluice_align_up(opts->bytes / opts->regions, REGION_ALIGN_BYTES);
	if (share > LOW_BYTES_MAX && opts->regions > 1)
		share = LOW_BYTES_MAX;
	memory->count = opts->regions;
	for (i = 0; i < opts->regions; i++) {
		struct refvm_region *region = &memory->region[i];

		snprintf(region->id, sizeof(region->id), "%s", region_ids[i]);
		region->bytes = i + 1 == opts->regions || share > left ? left : share;
		region->gpa = gpa;
		region->fd_offset = opts->separate ? 0 : offset;
		left -= region->bytes;
		offset += region->bytes;
		gpa = i == 0 ? 4 * GIB : sluice_align_up(gpa + region->bytes, GIB) + GIB;
		memory->span_bytes = region->gpa + region->bytes;
		if (region->bytes == 0)
			return sluice_fail(err, -EINVAL, "memory",
				"%" PRIu64 " bytes are too few for %u regions.", opts->bytes,
				opts->regions);
	}
	if (memory->region[0].bytes > LOW_BYTES_MAX || memory->span_bytes > REFVM_GPA_MAX)
		return sluice_fail(err, -EINVAL, "memory",
			"%" PRIu64 " bytes do not fit: at most 3 GiB below 4 GiB, and %" PRIu64
			" GiB of addresses; use more regions.",
			opts->bytes, (uint64_t)(REFVM_GPA_MAX / GIB));
	return 0;
}

static int seal(int fd)
{
	return fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) < 0 ? -errno : 0;
}

static int open_memfd(const char *name, unsigned int flags, uint64_t bytes, int *ret_fd)
{
	int rc, fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING | flags);

	if (fd < 0)
		return -errno;
	rc = ftruncate(fd, (off_t)bytes) < 0 ? -errno : seal(fd);
	if (rc < 0) {
		close(fd);
		return rc;
	}
	*ret_fd = fd;
	return 0;
}

static int open_shm(uint64_t bytes, int *ret_fd)
{
	int rc, fd = open("/dev/shm", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

	if (fd < 0)
		return -errno;
	if (ftruncate(fd, (off_t)bytes) < 0) {
		rc = -errno;
		close(fd);
		return rc;
	}
	*ret_fd = fd;
	return 0;
}

static int open_backing(int backing, uint64_t bytes, int *ret_fd, struct sluice_error *err)
{
	int rc;

	if (backing == REFVM_BACKING_SHM)
		rc = open_shm(bytes, ret_fd);
	else if (backing == REFVM_BACKING_HUGETLB)
		rc = open_memfd("refvm-ram", MFD_HUGETLB | MFD_HUGE_2MB, bytes, ret_fd);
	else
		rc = open_memfd("refvm-ram", 0, bytes, ret_fd);
	if (rc < 0)
		return sluice_fail(err, rc, "memory", "Guest RAM of %" PRIu64 " bytes: %s.%s",
			bytes, strerror(-rc),
			backing == REFVM_BACKING_HUGETLB
				? " Reserve 2 MiB pages in /proc/sys/vm/nr_hugepages."
				: "");
	return 0;
}

static int map_region(struct refvm_memory *memory, struct refvm_region *region,
	const struct refvm_memory_opts *opts, struct sluice_error *err)
{
	void *want = memory->base + region->gpa;
	void *got = mmap(want, region->bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
		region->fd, (off_t)region->fd_offset);
	int rc;

	if (got == MAP_FAILED) {
		rc = -errno;
		return sluice_fail(err, rc, "memory", "Mapping %s: %s.%s", region->id,
			strerror(-rc),
			opts->backing == REFVM_BACKING_HUGETLB
				? " Reserve 2 MiB pages in /proc/sys/vm/nr_hugepages."
				: "");
	}
	region->hva = got;
	if (opts->prealloc && madvise(got, region->bytes, MADV_POPULATE_WRITE) < 0) {
		rc = -errno;
		return sluice_fail(err, rc, "memory", "Allocating %s in advance: %s.", region->id,
			strerror(-rc));
	}
	return 0;
}

static int create_bitmaps(struct refvm_region *region, struct sluice_error *err)
{
	size_t bytes = sluice_bitmap_bytes(region->bytes);
	void *map;
	int rc = open_memfd("refvm-dirty", 0, bytes, &region->dirty_fd);

	if (rc < 0)
		return sluice_fail(err, rc, "memory", "The dirty bitmap of %s: %s.", region->id,
			strerror(-rc));
	map = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, region->dirty_fd, 0);
	if (map == MAP_FAILED)
		goto fail;
	region->dirty = map;
	map = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (map == MAP_FAILED)
		goto fail;
	region->since = map;
	return 0;
fail:
	rc = -errno;
	return sluice_fail(err, rc, "memory", "Mapping the dirty bitmap of %s: %s.", region->id,
		strerror(-rc));
}

/* A range of addresses for all regions, aligned for huge pages. */
static int reserve(struct refvm_memory *memory, struct sluice_error *err)
{
	uint64_t bytes = memory->span_bytes + REGION_ALIGN_BYTES, head;
	uint8_t *base =
		mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (base == MAP_FAILED) {
		int rc = -errno;

		return sluice_fail(
			err, rc, "memory", "Reserving addresses for the guest: %s.", strerror(-rc));
	}
	head = sluice_align_up((uintptr_t)base, REGION_ALIGN_BYTES) - (uintptr_t)base;
	if (head > 0)
		munmap(base, head);
	if (head < REGION_ALIGN_BYTES)
		munmap(base + head + memory->span_bytes, REGION_ALIGN_BYTES - head);
	memory->base = base + head;
	return 0;
}

static int create_region(struct refvm_memory *memory, unsigned int i,
	const struct refvm_memory_opts *opts, struct sluice_error *err)
{
	struct refvm_region *region = &memory->region[i];
	int rc = 0;

	if (i == 0 || opts->separate)
		rc = open_backing(opts->backing, opts->separate ? region->bytes : opts->bytes,
			&region->fd, err);
	else
		region->fd = memory->region[0].fd;
	if (rc == 0)
		rc = map_region(memory, region, opts, err);
	if (rc == 0)
		rc = create_bitmaps(region, err);
	return rc;
}

int refvm_memory_create(const struct refvm_memory_opts *opts, struct refvm_memory *ret_memory,
	struct sluice_error *err)
{
	struct refvm_memory memory = {.count = 0};
	unsigned int i;
	int rc;

	for (i = 0; i < REFVM_SLOTS_MAX; i++) {
		memory.region[i].fd = -1;
		memory.region[i].dirty_fd = -1;
	}
	memory.page_bytes =
		opts->backing == REFVM_BACKING_HUGETLB ? REGION_ALIGN_BYTES : SLUICE_PAGE_BYTES;
	rc = lay_out(opts, &memory, err);
	if (rc < 0)
		return rc;
	memory.dimm_gpa = sluice_align_up(memory.span_bytes, GIB) + GIB;
	if (memory.dimm_gpa + REFVM_DIMMS_MAX * REFVM_DIMM_BYTES_MAX <= REFVM_GPA_MAX)
		memory.span_bytes = memory.dimm_gpa + REFVM_DIMMS_MAX * REFVM_DIMM_BYTES_MAX;
	rc = reserve(&memory, err);
	for (i = 0; rc == 0 && i < memory.count; i++)
		rc = create_region(&memory, i, opts, err);
	if (rc < 0) {
		refvm_memory_destroy(&memory);
		return rc;
	}
	*ret_memory = memory;
	return 0;
}

static void destroy_bitmaps(struct refvm_region *region)
{
	size_t bytes = sluice_bitmap_bytes(region->bytes);

	if (region->dirty != NULL)
		munmap(region->dirty, bytes);
	if (region->since != NULL)
		munmap(region->since, bytes);
	if (region->dirty_fd >= 0)
		close(region->dirty_fd);
}

int refvm_memory_create_dimm(struct refvm_memory *memory, unsigned int dimm, uint64_t bytes,
	struct refvm_region *ret_region, struct sluice_error *err)
{
	struct refvm_memory_opts opts = {.backing = REFVM_BACKING_MEMFD};
	struct refvm_region region = {
		.gpa = memory->dimm_gpa + dimm * REFVM_DIMM_BYTES_MAX,
		.bytes = bytes,
		.fd = -1,
		.dirty_fd = -1,
	};
	int rc;

	if (memory->page_bytes != SLUICE_PAGE_BYTES)
		opts.backing = REFVM_BACKING_HUGETLB;
	if (bytes == 0 || bytes > REFVM_DIMM_BYTES_MAX ||
		!sluice_is_aligned(bytes, REGION_ALIGN_BYTES))
		return sluice_fail(
			err, -EINVAL, "plug", "A DIMM has a multiple of 2 MiB, and at most 8 GiB.");
	if (region.gpa + bytes > memory->span_bytes)
		return sluice_fail(err, -ENOSPC, "plug",
			"There are no addresses left behind the guest's memory.");
	snprintf(region.id, sizeof(region.id), "dimm%u", dimm);
	rc = open_backing(opts.backing, bytes, &region.fd, err);
	if (rc == 0)
		rc = map_region(memory, &region, &opts, err);
	if (rc == 0)
		rc = create_bitmaps(&region, err);
	if (rc < 0) {
		refvm_memory_destroy_dimm(memory, &region);
		return rc;
	}
	*ret_region = region;
	return 0;
}

/* The addresses stay reserved. */
void refvm_memory_destroy_dimm(struct refvm_memory *memory, struct refvm_region *region)
{
	void *want = memory->base + region->gpa;

	destroy_bitmaps(region);
	SLUICE_ASSERT(
		mmap(want, region->bytes, PROT_NONE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == want);
	if (region->fd >= 0)
		close(region->fd);
	*region = (struct refvm_region){.fd = -1, .dirty_fd = -1};
}

void refvm_memory_destroy(struct refvm_memory *memory)
{
	unsigned int i;

	for (i = 0; i < memory->count; i++) {
		struct refvm_region *region = &memory->region[i];

		destroy_bitmaps(region);
		if (region->fd >= 0 && (i == 0 || region->fd != memory->region[0].fd))
			close(region->fd);
	}
	if (memory->base != NULL)
		munmap(memory->base, memory->span_bytes);
	*memory = (struct refvm_memory){.count = 0};
}

static const struct refvm_region *find_region(const struct refvm_memory *memory, uint64_t gpa)
{
	unsigned int i;

	for (i = 0; i < refvm_memory_count(memory); i++) {
		const struct refvm_region *region = &memory->region[i];

		if (gpa >= region->gpa && gpa - region->gpa < region->bytes)
			return region;
	}
	return NULL;
}

void *refvm_memory_at(const struct refvm_memory *memory, uint64_t gpa, uint64_t bytes)
{
	const struct refvm_region *region = find_region(memory, gpa);

	SLUICE_ASSERT(region != NULL);
	SLUICE_ASSERT(sluice_range_inside(gpa - region->gpa, bytes, region->bytes));
	return memory->base + gpa;
}

void refvm_memory_publish(
	struct refvm_memory *memory, unsigned int region, uint64_t word, uint64_t bits)
{
	struct refvm_region *r = &memory->region[region];

	SLUICE_ASSERT(region < refvm_memory_count(memory));
	SLUICE_ASSERT(word < sluice_bitmap_bytes(r->bytes) / sizeof(uint64_t));
	sluice_bitmap_publish(r->dirty, (size_t)word, bits);
	if (__atomic_load_n(&memory->since_on, __ATOMIC_RELAXED))
		sluice_bitmap_publish(r->since, (size_t)word, bits);
}

void refvm_memory_written(struct refvm_memory *memory, uint64_t gpa, uint64_t bytes)
{
	const struct refvm_region *region = find_region(memory, gpa);
	uint64_t page, last;

	SLUICE_ASSERT(region != NULL);
	SLUICE_ASSERT(bytes > 0);
	SLUICE_ASSERT(sluice_range_inside(gpa - region->gpa, bytes, region->bytes));
	last = (gpa - region->gpa + bytes - 1) / SLUICE_PAGE_BYTES;
	for (page = (gpa - region->gpa) / SLUICE_PAGE_BYTES; page <= last; page++)
		refvm_memory_publish(memory, (unsigned int)(region - memory->region), page / 64,
			1ull << page % 64);
}

void refvm_memory_since(struct refvm_memory *memory, bool on)
{
	unsigned int i;

	for (i = 0; on && i < memory->count; i++)
		if (memory->region[i].bytes != 0)
			memset(memory->region[i].since, 0,
				sluice_bitmap_bytes(memory->region[i].bytes));
	__atomic_store_n(&memory->since_on, on, __ATOMIC_RELEASE);
}
