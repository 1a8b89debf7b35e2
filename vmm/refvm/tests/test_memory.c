/* SPDX-License-Identifier: BSD-3-Clause */
/* test_memory.c: regions, their backings and seals, and that a guest runs on each of them. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vmm/refvm/tests/fixture.h"

#define MIB (1ull << 20)
#define GIB (1ull << 30)

static struct refvm_memory_opts opts_of(uint64_t bytes, unsigned int regions)
{
	return (struct refvm_memory_opts){.bytes = bytes, .regions = regions};
}

static void test_layout(void)
{
	struct refvm_memory_opts opts = opts_of(96 * MIB, 3);
	struct refvm_memory memory;
	unsigned int i;

	CU_ASSERT_EQUAL_FATAL(refvm_memory_create(&opts, &memory, NULL), 0);
	CU_ASSERT_STRING_EQUAL(memory.region[0].id, "ram-low");
	CU_ASSERT_STRING_EQUAL(memory.region[1].id, "ram-high");
	CU_ASSERT_EQUAL(memory.region[0].gpa, 0);
	CU_ASSERT_EQUAL(memory.region[1].gpa, 4 * GIB);
	CU_ASSERT_EQUAL(memory.region[2].gpa, 6 * GIB);
	for (i = 0; i < 3; i++) {
		CU_ASSERT_EQUAL(memory.region[i].bytes, 32 * MIB);
		CU_ASSERT_EQUAL(memory.region[i].fd_offset, i * 32 * MIB);
		CU_ASSERT_EQUAL(memory.region[i].fd, memory.region[0].fd);
		CU_ASSERT_PTR_EQUAL(
			memory.region[i].hva, refvm_memory_at(&memory, memory.region[i].gpa, 1));
	}
	refvm_memory_destroy(&memory);
}

/* At most 3 GiB lie below 4 GiB, whatever the size; nothing is allocated by creating it. */
static void test_large(void)
{
	struct refvm_memory_opts opts = opts_of(64 * GIB, 2);
	struct refvm_memory memory;
	struct stat st;

	CU_ASSERT_EQUAL_FATAL(refvm_memory_create(&opts, &memory, NULL), 0);
	CU_ASSERT_EQUAL(memory.region[0].bytes, 3 * GIB);
	CU_ASSERT_EQUAL(memory.region[1].bytes, 61 * GIB);
	CU_ASSERT_EQUAL(fstat(memory.region[0].fd, &st), 0);
	CU_ASSERT_EQUAL(st.st_blocks, 0);
	refvm_memory_destroy(&memory);
}

static void test_refused(void)
{
	static const struct {
		uint64_t bytes;
		unsigned int regions;
	} wrong[] = {
		{64 * MIB, 0}, {64 * MIB, REFVM_REGIONS_MAX + 1}, {64 * MIB + 4096, 2},
		{2 * MIB, 1}, {4 * GIB, 1}, /* does not fit below 4 GiB */
		{512 * GIB, 2}, /* beyond the page tables */
	};
	struct refvm_memory memory;
	size_t i;

	for (i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		struct refvm_memory_opts opts = opts_of(wrong[i].bytes, wrong[i].regions);
		struct sluice_error err = {.code = 0};

		CU_ASSERT_EQUAL(refvm_memory_create(&opts, &memory, &err), -EINVAL);
		CU_ASSERT(err.text[0] != '\0');
	}
}

static void test_seals(void)
{
	int want = F_SEAL_SHRINK | F_SEAL_GROW;
	struct refvm_memory_opts opts = opts_of(64 * MIB, 2);
	struct refvm_memory memory;

	CU_ASSERT_EQUAL_FATAL(refvm_memory_create(&opts, &memory, NULL), 0);
	CU_ASSERT_EQUAL(fcntl(memory.region[0].fd, F_GET_SEALS) & want, want);
	CU_ASSERT_EQUAL(fcntl(memory.region[1].dirty_fd, F_GET_SEALS) & want, want);
	CU_ASSERT_EQUAL(ftruncate(memory.region[0].fd, 4096), -1);
	refvm_memory_destroy(&memory);
}

static void run_guest_on(const struct refvm_memory_opts *memory)
{
	struct refvm_vm_opts opts = fixture_opts(REFVM_ACCEL_AUTO, REFVM_TRACKING_AUTO);
	struct refvm_vm vm;

	opts.memory = *memory;
	if (!fixture_boot(&vm, &opts))
		return;
	fixture_work(&vm, 100);
	refvm_vm_stop(&vm);
	CU_ASSERT(fixture_ops(&vm) > 0);
	CU_ASSERT_EQUAL(fixture_errors(&vm), 0);
	refvm_vm_destroy(&vm);
}

static void test_shm_separate(void)
{
	struct refvm_memory_opts opts = opts_of(64 * MIB, 4);

	opts.backing = REFVM_BACKING_SHM;
	opts.separate = true;
	opts.prealloc = true;
	run_guest_on(&opts);
}

static void test_one_region(void)
{
	struct refvm_memory_opts opts = opts_of(32 * MIB, 1);

	run_guest_on(&opts);
}

/* Where there are huge pages, the guest runs on them; where not, the error says what to do. */
static void test_hugetlb(void)
{
	struct refvm_memory_opts opts = opts_of(32 * MIB, 2);
	struct sluice_error err = {.code = 0};
	struct refvm_memory memory;

	opts.backing = REFVM_BACKING_HUGETLB;
	if (refvm_memory_create(&opts, &memory, &err) < 0) {
		CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "nr_hugepages"));
		return;
	}
	CU_ASSERT_EQUAL(memory.page_bytes, 2 * MIB);
	refvm_memory_destroy(&memory);
	run_guest_on(&opts);
}

int main(void)
{
	static const struct fixture_case cases[] = {
		{"layout", test_layout},
		{"a large guest", test_large},
		{"what is refused", test_refused},
		{"seals", test_seals},
		{"one region", test_one_region},
		{"four files in /dev/shm", test_shm_separate},
		{"huge pages", test_hugetlb},
		{NULL, NULL},
	};

	return fixture_main("memory", cases);
}
