/* SPDX-License-Identifier: BSD-3-Clause */
/* region.c: adding and removing ranges of guest memory. See region.h. */
#include "engine/memory/region.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/bits.h"
#include "base/clock.h"
#include "engine/feeds/bitmap.h"
#include "engine/memory/guard.h"
#include "engine/memory/populate.h"

#ifndef MLOCK_ONFAULT
#define MLOCK_ONFAULT 1
#endif

#define STAT_BLOCK_BYTES 512u /* whatever the file system is */
#define DATA_SAMPLES     64u /* evenly spread; 64 us */

static const char where[] = "memory-add";

static int check_range(const struct sluice_region_opts *opts, struct sluice_error *err)
{
	size_t id_bytes = strlen(opts->id);

	if (id_bytes == 0 || id_bytes >= SLUICE_REGION_ID_BYTES)
		return sluice_fail(err, -EINVAL, where, "a region id has 1 to %d bytes, not %zu",
			SLUICE_REGION_ID_BYTES - 1, id_bytes);
	if (opts->len_bytes == 0 || opts->len_bytes > SLUICE_REGION_BYTES_MAX ||
		!sluice_is_aligned(opts->len_bytes, SLUICE_PAGE_BYTES) ||
		!sluice_is_aligned(opts->fd_offset, SLUICE_PAGE_BYTES) ||
		!sluice_is_aligned(opts->gpa, SLUICE_PAGE_BYTES))
		return sluice_fail(err, -EINVAL, where,
			"region \"%s\": size (%llu), offset (%llu) and gpa (%llu) must be "
			"multiples "
			"of 4096, and the size between 4096 bytes and 64 TiB",
			opts->id, (unsigned long long)opts->len_bytes,
			(unsigned long long)opts->fd_offset, (unsigned long long)opts->gpa);
	if (opts->gpa + opts->len_bytes < opts->gpa)
		return sluice_fail(err, -EINVAL, where,
			"region \"%s\" wraps around the guest-physical address space", opts->id);
	return 0;
}

static int check_overlap(const struct sluice_memory *memory, const struct sluice_region_opts *opts,
	struct sluice_error *err)
{
	if (memory->count == SLUICE_REGIONS_MAX)
		return sluice_fail(err, -ENOSPC, where,
			"there are already %d regions, the most "
			"that an engine holds",
			SLUICE_REGIONS_MAX);
	for (uint32_t i = 0; i < memory->count; i++) {
		const struct sluice_region *r = memory->regions[i];

		if (opts->gpa < r->gpa + r->len_bytes && r->gpa < opts->gpa + opts->len_bytes)
			return sluice_fail(err, -EINVAL, where,
				"region \"%s\" overlaps region \"%s\" in guest-physical addresses",
				opts->id, r->id);
	}
	return 0;
}

/* 1: the region of this id is here already, the very same memory. 0: there is none. -EEXIST. */
static int adopt(const struct sluice_memory *memory, const struct sluice_region_opts *opts,
	struct sluice_region **ret_region, struct sluice_error *err)
{
	struct sluice_region *region = sluice_memory_find(memory, opts->id);
	struct stat st;

	if (region == NULL)
		return 0;
	if (fstat(opts->fd, &st) < 0 || st.st_dev != region->dev || st.st_ino != region->ino ||
		opts->fd_offset != region->fd_offset || opts->len_bytes != region->len_bytes ||
		opts->gpa != region->gpa)
		return sluice_fail(err, -EEXIST, where,
			"region \"%s\" was added before with another file, offset, size or "
			"address; "
			"add it as it was (query-memory), or memory-remove it first",
			opts->id);
	*ret_region = region;
	return 1;
}

/* tmpfs and hugetlbfs only: what a mapping shows must be what the guest sees. */
static int check_file(const struct sluice_region_opts *opts, struct stat *ret_stat,
	uint64_t *ret_page_bytes, struct sluice_error *err)
{
	struct statfs fs;

	if (fstat(opts->fd, ret_stat) < 0 || fstatfs(opts->fd, &fs) < 0)
		return sluice_fail(err, -errno, where,
			"region \"%s\": the descriptor cannot be "
			"examined: %s",
			opts->id, strerror(errno));
	if (!S_ISREG(ret_stat->st_mode) ||
		(fs.f_type != TMPFS_MAGIC && fs.f_type != HUGETLBFS_MAGIC))
		return sluice_fail(err, -EINVAL, where,
			"region \"%s\": the descriptor must be a "
			"memfd, a hugetlb memfd or a file in /dev/shm; back guest memory with "
			"share=on",
			opts->id);
	/* The engine's own opening of it must not get around what the VMM has not given. */
	if ((fcntl(opts->fd, F_GETFL) & O_ACCMODE) != O_RDWR)
		return sluice_fail(err, -EACCES, where,
			"region \"%s\": the descriptor is not open for reading and writing",
			opts->id);
	*ret_page_bytes = (uint64_t)fs.f_bsize;
	if (!sluice_range_inside(opts->fd_offset, opts->len_bytes, (uint64_t)ret_stat->st_size))
		return sluice_fail(err, -EINVAL, where,
			"region \"%s\" needs bytes %llu to %llu of "
			"the file, which has only %lld; grow it before adding it",
			opts->id, (unsigned long long)opts->fd_offset,
			(unsigned long long)(opts->fd_offset + opts->len_bytes),
			(long long)ret_stat->st_size);
	if (!sluice_is_aligned(opts->fd_offset | opts->len_bytes, *ret_page_bytes))
		return sluice_fail(err, -EINVAL, where,
			"region \"%s\": offset and size must be "
			"multiples of the backing page size, %llu bytes",
			opts->id, (unsigned long long)*ret_page_bytes);
	return 0;
}

static bool is_memfd(int fd)
{
	char link[64], target[64];
	ssize_t n;

	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	n = readlink(link, target, sizeof(target) - 1);
	return n > 7 && memcmp(target, "/memfd:", 7) == 0;
}

/* A memfd must not shrink. Files in /dev/shm cannot be sealed: those are guarded. */
static int check_seals(struct sluice_region *region, int fd, struct sluice_error *err)
{
	int seals = fcntl(fd, F_GET_SEALS);

	if (seals >= 0 && (seals & F_SEAL_SHRINK))
		return 0;
	if (fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK) == 0)
		return 0;
	if (is_memfd(fd))
		return sluice_fail(err, -EPERM, where,
			"region \"%s\": the memfd is not sealed "
			"against shrinking and does not accept the seal; create it with "
			"MFD_ALLOW_SEALING",
			region->id);
	region->guarded = true;
	return 0;
}

/* Our own open file description, so that our lseek does not move the VMM's file position. */
static int reopen(int fd)
{
	char link[64];
	int own;

	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	own = open(link, O_RDWR | O_CLOEXEC);
	return own >= 0 ? own : fcntl(fd, F_DUPFD_CLOEXEC, 3);
}

bool sluice_memory_may_lock_all(void)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = {0};

	return syscall(SYS_capget, &header, data) == 0 &&
	       (data[0].effective & (1u << CAP_IPC_LOCK)) != 0;
}

uint64_t sluice_memory_lock_bytes(const struct sluice_memory *memory, uint64_t guest_bytes)
{
	uint64_t locked = memory->pin == SLUICE_PIN_NONE ? 0 : guest_bytes;
	uint64_t pinned = memory->rails_lock_bytes == NULL
				  ? 0
				  : memory->rails_lock_bytes(memory->rails_ctx, guest_bytes);

	return locked > pinned ? locked : pinned;
}

static int cannot_lock(const struct sluice_memory *memory, const struct sluice_region *region,
	int code, struct sluice_error *err)
{
	uint64_t guest_bytes = sluice_memory_bytes(memory) + region->len_bytes;
	struct rlimit limit = {0};

	getrlimit(RLIMIT_MEMLOCK, &limit);
	return sluice_fail(err, code, where,
		"region \"%s\" cannot be locked (%s): the memlock limit is %llu bytes and %llu are "
		"needed; raise it (ulimit -l %llu, LimitMEMLOCK=%llu) or set pin=none",
		region->id, strerror(-code), (unsigned long long)limit.rlim_cur,
		(unsigned long long)sluice_memory_lock_bytes(memory, guest_bytes),
		(unsigned long long)(sluice_memory_lock_bytes(memory, guest_bytes) + 1023) / 1024,
		(unsigned long long)sluice_memory_lock_bytes(memory, guest_bytes));
}

/* Locked first: a limit that is too low is told before gigabytes are allocated. */
static int pin(struct sluice_memory *memory, struct sluice_region *region, struct sluice_error *err)
{
	uint64_t start_ns = sluice_now_ns();
	int r;

	if (memory->pin == SLUICE_PIN_NONE)
		return 0;
	if (mlock2(region->base, region->len_bytes, MLOCK_ONFAULT) < 0)
		return cannot_lock(memory, region, -errno, err);
	if (memory->pin == SLUICE_PIN_FULL) {
		r = sluice_populate(region->base, region->len_bytes);
		if (r < 0)
			return sluice_fail(err, r, where,
				"region \"%s\" cannot be allocated whole (%s): free memory%s, or "
				"set pin=onfault",
				region->id, strerror(-r),
				region->backing_page_bytes > SLUICE_PAGE_BYTES
					? " or reserve more huge pages (vm.nr_hugepages)"
					: "");
	}
	memory->pages_pinned += region->len_bytes >> SLUICE_PAGE_SHIFT;
	region->pin_ns = sluice_now_ns() - start_ns;
	memory->pin_ns += region->pin_ns;
	return 0;
}

static void region_free(struct sluice_region *region)
{
	if (region == NULL)
		return;
	for (uint32_t i = 0; i < SLUICE_RAILS_MAX; i++)
		SLUICE_ASSERT(region->mems[i] == NULL);
	sluice_bitmap_feed_destroy(region->feed);
	if (region->base != NULL) {
		if (region->guarded)
			sluice_guard_leave(region->base);
		munmap(region->base, region->len_bytes); /* unlocks too */
	}
	if (region->fd >= 0)
		close(region->fd);
	free(region);
}

static int map(struct sluice_region *region, int fd, struct sluice_error *err)
{
	void *base;

	region->fd = reopen(fd);
	if (region->fd < 0)
		return sluice_fail(err, -errno, where,
			"region \"%s\": the descriptor cannot be "
			"opened for reading and writing: %s",
			region->id, strerror(errno));
	base = mmap(NULL, region->len_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, region->fd,
		(off_t)region->fd_offset);
	if (base == MAP_FAILED)
		return sluice_fail(err, -errno, where, "region \"%s\" cannot be mapped: %s",
			region->id, strerror(errno));
	region->base = base;
	if (region->guarded && sluice_guard_enter(base, region->len_bytes) < 0)
		return sluice_fail(
			err, -ENOSPC, where, "region \"%s\": no guard is free", region->id);
	return 0;
}

static void insert(struct sluice_memory *memory, struct sluice_region *region)
{
	uint32_t at = memory->count;

	for (; at > 0 && strcmp(memory->regions[at - 1]->id, region->id) > 0; at--)
		memory->regions[at] = memory->regions[at - 1];
	memory->regions[at] = region;
	memory->count++;
}

int sluice_memory_add(struct sluice_memory *memory, const struct sluice_region_opts *opts,
	struct sluice_region **ret_region, struct sluice_error *err)
{
	struct sluice_region *region;
	uint64_t page_bytes = 0;
	struct stat st;
	int r;

	r = adopt(memory, opts, ret_region, err);
	if (r != 0)
		return r;
	r = check_range(opts, err);
	if (r == 0)
		r = check_overlap(memory, opts, err);
	if (r == 0)
		r = check_file(opts, &st, &page_bytes, err);
	if (r < 0)
		return r;
	region = calloc(1, sizeof(*region));
	if (region == NULL)
		return sluice_fail(err, -ENOMEM, where, "out of memory");
	snprintf(region->id, sizeof(region->id), "%s", opts->id);
	region->fd = -1;
	region->dev = st.st_dev;
	region->ino = st.st_ino;
	region->fd_offset = opts->fd_offset;
	region->len_bytes = opts->len_bytes;
	region->gpa = opts->gpa;
	region->backing_page_bytes = page_bytes;
	r = check_seals(region, opts->fd, err);
	if (r == 0)
		r = map(region, opts->fd, err);
	if (r == 0)
		r = pin(memory, region, err);
	if (r < 0) {
		region_free(region);
		return r;
	}
	region->wire_id = ++memory->next_wire_id;
	insert(memory, region);
	*ret_region = region;
	return 0;
}

void sluice_memory_remove(struct sluice_memory *memory, struct sluice_region *region)
{
	uint32_t at = 0;

	while (at < memory->count && memory->regions[at] != region)
		at++;
	SLUICE_ASSERT(at < memory->count);
	memory->count--;
	for (; at < memory->count; at++)
		memory->regions[at] = memory->regions[at + 1];
	region_free(region);
}

void sluice_memory_clear(struct sluice_memory *memory)
{
	while (memory->count > 0)
		sluice_memory_remove(memory, memory->regions[memory->count - 1]);
}

struct sluice_region *sluice_memory_find(const struct sluice_memory *memory, const char *id)
{
	for (uint32_t i = 0; i < memory->count; i++)
		if (strcmp(memory->regions[i]->id, id) == 0)
			return memory->regions[i];
	return NULL;
}

uint64_t sluice_memory_bytes(const struct sluice_memory *memory)
{
	uint64_t bytes = 0;

	for (uint32_t i = 0; i < memory->count; i++)
		bytes += memory->regions[i]->len_bytes;
	return bytes;
}

/*
 * No need to walk all pages, some 15 ms per GiB, to find no hole: the file has as many blocks as bytes,
 * and there is data wherever a sample looks. Allocated memory that nobody wrote yet (fallocate) has
 * blocks, too, but counts as a hole; where a sample misses some of it, zeros are read and found.
 */
static bool is_all_data(const struct sluice_region *region, uint64_t at, uint64_t end)
{
	struct stat status;

	if (fstat(region->fd, &status) < 0 ||
		(uint64_t)status.st_blocks * STAT_BLOCK_BYTES != (uint64_t)status.st_size)
		return false;
	for (uint64_t i = 0; i < DATA_SAMPLES; i++) {
		off_t look = (off_t)sluice_align_down(
			at + (end - at) / DATA_SAMPLES * i, SLUICE_PAGE_BYTES);

		if (lseek(region->fd, look, SEEK_DATA) != look)
			return false;
	}
	return true;
}

void sluice_region_for_each_data(const struct sluice_region *region, uint64_t offset,
	uint64_t len_bytes, void (*fn)(void *ctx, uint64_t offset, uint64_t len_bytes), void *ctx)
{
	uint64_t at = region->fd_offset + offset;
	uint64_t end = at + len_bytes;

	if (is_all_data(region, at, end)) {
		fn(ctx, offset, len_bytes);
		return;
	}
	while (at < end) {
		off_t data = lseek(region->fd, (off_t)at, SEEK_DATA);
		off_t hole;

		if (data < 0 && errno == ENXIO)
			return; /* a hole up to the end of the file */
		if (data < 0) {
			fn(ctx, at - region->fd_offset, end - at);
			return;
		}
		if ((uint64_t)data >= end)
			return;
		hole = lseek(region->fd, data, SEEK_HOLE);
		if (hole < 0 || (uint64_t)hole > end)
			hole = (off_t)end;
		fn(ctx, (uint64_t)data - region->fd_offset, (uint64_t)(hole - data));
		at = (uint64_t)hole;
	}
}

bool sluice_memory_is_lost(const struct sluice_memory *memory)
{
	for (uint32_t i = 0; i < memory->count; i++)
		if (memory->regions[i]->guarded && sluice_guard_is_lost(memory->regions[i]->base))
			return true;
	return false;
}
