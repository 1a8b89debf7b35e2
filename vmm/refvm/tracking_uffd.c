/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * tracking_uffd.c: our own mapping of guest RAM, write-protected by a userfaultfd in
 * asynchronous mode. The kernel lifts a page's protection at its first write without telling
 * us; PAGEMAP_SCAN finds such pages and protects them again in one atomic step. Sees vCPUs of
 * KVM and threads alike, not writes through other mappings. Linux 6.7 or later.
 *
 * Formats: Documentation/admin-guide/mm/{userfaultfd,pagemap}.rst.
 */
#include "vmm/refvm/tracking.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/userfaultfd.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/bits.h"
#include "vmm/refvm/vm.h"

/* What older headers lack. */
#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif
#ifndef UFFD_FEATURE_WP_HUGETLBFS_SHMEM
#define UFFD_FEATURE_WP_HUGETLBFS_SHMEM (1 << 12)
#endif
#ifndef UFFD_FEATURE_WP_UNPOPULATED
#define UFFD_FEATURE_WP_UNPOPULATED (1 << 13)
#endif
#ifndef UFFD_FEATURE_WP_ASYNC
#define UFFD_FEATURE_WP_ASYNC (1 << 15)
#endif

struct scan_range {
	uint64_t start, end, categories;
};

struct scan_args {
	uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
	uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};

#define SCAN_IOCTL         _IOWR('f', 16, struct scan_args)
#define SCAN_WP_MATCHING   (1u << 0)
#define SCAN_CHECK_WPASYNC (1u << 1)
#define SCAN_IS_WRITTEN    (1u << 1)
#define SCAN_RANGES        512

#define FEATURES \
	(UFFD_FEATURE_WP_ASYNC | UFFD_FEATURE_WP_UNPOPULATED | UFFD_FEATURE_WP_HUGETLBFS_SHMEM)

static void uffd_stop(struct refvm_vm *vm)
{
	struct refvm_tracking *tracking = &vm->tracking;

	/* Closing it takes the registration and the protection away. */
	if (tracking->uffd >= 0)
		close(tracking->uffd);
	if (tracking->pagemap_fd >= 0)
		close(tracking->pagemap_fd);
	tracking->uffd = -1;
	tracking->pagemap_fd = -1;
}

static int open_both(struct refvm_tracking *tracking, struct sluice_error *err)
{
	struct uffdio_api api = {.api = UFFD_API, .features = FEATURES};
	int rc;

	tracking->uffd =
		(int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
	if (tracking->uffd < 0) {
		rc = -errno;
		return sluice_fail(err, rc, "tracking", "userfaultfd: %s.", strerror(-rc));
	}
	if (ioctl(tracking->uffd, UFFDIO_API, &api) < 0)
		return sluice_fail(err, -ENOTSUP, "tracking",
			"This kernel's userfaultfd has no asynchronous write protection; Linux 6.7 "
			"has.");
	tracking->pagemap_fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	if (tracking->pagemap_fd < 0) {
		rc = -errno;
		return sluice_fail(err, rc, "tracking", "/proc/self/pagemap: %s.", strerror(-rc));
	}
	return 0;
}

static int protect(int uffd, const struct refvm_region *region, struct sluice_error *err)
{
	struct uffdio_register reg = {
		.range = {.start = (uintptr_t)region->hva, .len = region->bytes},
		.mode = UFFDIO_REGISTER_MODE_WP,
	};
	struct uffdio_writeprotect wp = {
		.range = reg.range,
		.mode = UFFDIO_WRITEPROTECT_MODE_WP,
	};

	if (ioctl(uffd, UFFDIO_REGISTER, &reg) < 0 || ioctl(uffd, UFFDIO_WRITEPROTECT, &wp) < 0) {
		int rc = -errno;

		return sluice_fail(
			err, rc, "tracking", "Write-protecting %s: %s.", region->id, strerror(-rc));
	}
	return 0;
}

static int uffd_start(struct refvm_vm *vm, struct sluice_error *err)
{
	unsigned int i;
	int rc = open_both(&vm->tracking, err);

	for (i = 0; rc == 0 && i < vm->memory.count; i++)
		if (vm->memory.region[i].bytes != 0)
			rc = protect(vm->tracking.uffd, &vm->memory.region[i], err);
	if (rc < 0)
		uffd_stop(vm);
	return rc;
}

static int uffd_add(
	struct refvm_vm *vm, const struct refvm_region *region, struct sluice_error *err)
{
	return protect(vm->tracking.uffd, region, err);
}

/* Pages [first, first + count) into the scratch bitmap. */
static void note(uint64_t *bitmap, uint64_t first, uint64_t count)
{
	uint64_t page;

	for (page = first; page < first + count; page++)
		bitmap[page / 64] |= 1ull << page % 64;
}

static int scan_region(struct refvm_vm *vm, unsigned int index, struct sluice_error *err)
{
	const struct refvm_region *region = &vm->memory.region[index];
	uint64_t start = (uintptr_t)region->hva, end = start + region->bytes;
	struct scan_range ranges[SCAN_RANGES];
	int i, count;

	while (start < end) {
		struct scan_args args = {
			.size = sizeof(args),
			.flags = SCAN_WP_MATCHING | SCAN_CHECK_WPASYNC,
			.start = start,
			.end = end,
			.vec = (uintptr_t)ranges,
			.vec_len = SCAN_RANGES,
			.category_mask = SCAN_IS_WRITTEN,
			.return_mask = SCAN_IS_WRITTEN,
		};

		count = ioctl(vm->tracking.pagemap_fd, SCAN_IOCTL, &args);
		if (count < 0 && errno == EINTR)
			continue;
		if (count < 0) {
			int rc = -errno;

			return sluice_fail(err, rc, "tracking", "PAGEMAP_SCAN of %s: %s.",
				region->id, strerror(-rc));
		}
		for (i = 0; i < count; i++)
			note(vm->tracking.scratch,
				(ranges[i].start - (uintptr_t)region->hva) / SLUICE_PAGE_BYTES,
				(ranges[i].end - ranges[i].start) / SLUICE_PAGE_BYTES);
		SLUICE_ASSERT(args.walk_end > start);
		start = args.walk_end;
	}
	return 0;
}

static int uffd_harvest(struct refvm_vm *vm, struct sluice_error *err)
{
	uint64_t word, words;
	unsigned int i;
	int rc;

	for (i = 0; i < vm->memory.count; i++) {
		if (vm->memory.region[i].bytes == 0)
			continue;
		words = sluice_align_up(vm->memory.region[i].bytes / SLUICE_PAGE_BYTES, 64) / 64;
		memset(vm->tracking.scratch, 0, words * sizeof(uint64_t));
		rc = scan_region(vm, i, err);
		/* What was protected again must be published, also when the scan broke off. */
		for (word = 0; word < words; word++)
			refvm_memory_publish(&vm->memory, i, word, vm->tracking.scratch[word]);
		if (rc < 0)
			return rc;
	}
	return 0;
}

const struct refvm_tracking_ops refvm_tracking_uffd = {
	.name = "uffd",
	.start = uffd_start,
	.stop = uffd_stop,
	.harvest = uffd_harvest,
	.add = uffd_add,
};
