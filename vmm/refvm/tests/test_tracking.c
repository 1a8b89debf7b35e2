/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * test_tracking.c: what a mechanism reports is what the guest wrote, shown by comparing
 * memory before and after. Argument: log, manual, ring, uffd, or thread (uffd without KVM).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <sluice/sluice.h>

#include "vmm/refvm/tests/fixture.h"

static int accel = REFVM_ACCEL_KVM;
static int tracking;

static void clear_bitmaps(struct refvm_vm *vm)
{
	unsigned int i;

	for (i = 0; i < vm->memory.count; i++)
		memset(vm->memory.region[i].dirty, 0,
			sluice_bitmap_bytes(vm->memory.region[i].bytes));
}

static uint8_t *snapshot(const struct refvm_region *region)
{
	uint8_t *copy = malloc(region->bytes);

	if (copy == NULL)
		abort();
	memcpy(copy, region->hva, region->bytes);
	return copy;
}

/* Its own stack is where the guest may write what is there already. */
static bool is_stack(uint64_t gpa)
{
	return gpa >= REFVM_GPA_STACK && gpa < REFVM_GPA_STACK + 16 * REFVM_STACK_BYTES;
}

struct outcome {
	uint64_t changed, missed, surplus;
};

static void compare(
	const struct refvm_region *region, const uint8_t *before, struct outcome *outcome)
{
	uint64_t page, pages = region->bytes / REFVM_PAGE_BYTES;

	for (page = 0; page < pages; page++) {
		uint64_t at = page * REFVM_PAGE_BYTES;
		bool tracked = region->dirty[page / 64] >> page % 64 & 1;
		bool changed = memcmp(before + at, region->hva + at, REFVM_PAGE_BYTES) != 0;

		outcome->changed += changed;
		outcome->missed += changed && !tracked;
		outcome->surplus += tracked && !changed && !is_stack(region->gpa + at);
	}
}

static void harvest(struct refvm_vm *vm)
{
	struct sluice_error err = {.code = 0};

	if (refvm_tracking_harvest(vm, &err) < 0)
		fprintf(stderr, "%s: %s\n", err.where, err.text);
	CU_ASSERT_EQUAL(err.code, 0);
}

/* One interval: harvested while the guest runs, too, as a migration does. */
static struct outcome observe(struct refvm_vm *vm, uint64_t ops)
{
	struct outcome outcome = {0, 0, 0};
	uint8_t *before[REFVM_REGIONS_MAX];
	unsigned int i;

	refvm_vm_stop(vm);
	harvest(vm);
	clear_bitmaps(vm);
	for (i = 0; i < vm->memory.count; i++)
		before[i] = snapshot(&vm->memory.region[i]);
	refvm_vm_start(vm);
	for (i = 0; i < 4; i++) {
		fixture_work(vm, ops / 4);
		harvest(vm);
	}
	refvm_vm_stop(vm);
	harvest(vm);
	for (i = 0; i < vm->memory.count; i++) {
		compare(&vm->memory.region[i], before[i], &outcome);
		free(before[i]);
	}
	return outcome;
}

static void check_exact(uint32_t pattern, uint64_t rate, uint64_t changed_min)
{
	struct refvm_vm_opts opts = fixture_opts(accel, tracking);
	struct sluice_error err = {.code = 0};
	struct outcome outcome;
	struct refvm_vm vm;
	unsigned int round;

	opts.memory.regions = 3;
	if (!fixture_boot(&vm, &opts))
		return;
	fixture_set(&vm, pattern, rate);
	CU_ASSERT_EQUAL(refvm_tracking_start(&vm, REFVM_TRACKING_FOR_MIGRATION, &err), 0);
	for (round = 0; round < 3; round++) {
		outcome = observe(&vm, 4 * changed_min);
		CU_ASSERT(outcome.changed >= changed_min);
		CU_ASSERT_EQUAL(outcome.missed, 0);
		/* A vCPU may stop between the fault, which marks the page, and the store. */
		CU_ASSERT(outcome.surplus <= vm.vcpus);
	}
	refvm_tracking_stop(&vm, REFVM_TRACKING_FOR_MIGRATION);
	CU_ASSERT_EQUAL(fixture_errors(&vm), 0);
	refvm_vm_destroy(&vm);
}

static void test_all_pages(void)
{
	check_exact(REFVM_PATTERN_UNIFORM, 0, 3000);
}

static void test_few_pages(void)
{
	check_exact(REFVM_PATTERN_UNIFORM, 5000, 100);
}

static void test_idle(void)
{
	check_exact(REFVM_PATTERN_IDLE, 0, 1);
}

/* The VMM's own writes are published by hand, whatever the mechanism. */
static void test_own_writes(void)
{
	struct refvm_vm_opts opts = fixture_opts(accel, tracking);
	struct refvm_vm vm;
	uint64_t *dirty;

	if (!fixture_boot(&vm, &opts))
		return;
	refvm_vm_stop(&vm);
	clear_bitmaps(&vm);
	refvm_memory_written(&vm.memory, vm.memory.region[1].gpa + 4095, 2);
	dirty = vm.memory.region[1].dirty;
	CU_ASSERT_EQUAL(dirty[0], 3);
	CU_ASSERT_EQUAL(dirty[1], 0);
	refvm_vm_destroy(&vm);
}

/* Two users: the second to leave switches it off; a new one starts with nothing pending. */
static void test_users(void)
{
	struct refvm_vm_opts opts = fixture_opts(accel, tracking);
	struct sluice_error err = {.code = 0};
	struct refvm_vm vm;
	uint64_t *since;
	uint64_t word, words, pages = 0;
	unsigned int i;

	if (!fixture_boot(&vm, &opts))
		return;
	CU_ASSERT_EQUAL(refvm_tracking_start(&vm, REFVM_TRACKING_FOR_MIGRATION, &err), 0);
	CU_ASSERT_EQUAL(refvm_tracking_start(&vm, REFVM_TRACKING_FOR_VERIFY, &err), 0);
	refvm_memory_since(&vm.memory, true);
	refvm_tracking_stop(&vm, REFVM_TRACKING_FOR_MIGRATION);
	fixture_work(&vm, 1000);
	harvest(&vm);
	for (i = 0; i < vm.memory.count; i++) {
		since = vm.memory.region[i].since;
		words = sluice_bitmap_bytes(vm.memory.region[i].bytes) / sizeof(uint64_t);
		for (word = 0; word < words; word++)
			pages += (uint64_t)__builtin_popcountll(since[word]);
	}
	CU_ASSERT(pages > 100);
	refvm_tracking_stop(&vm, REFVM_TRACKING_FOR_VERIFY);
	CU_ASSERT_EQUAL(vm.tracking.users, 0);
	refvm_vm_destroy(&vm);
}

static int choose(const char *name)
{
	static const char *const names[] = {"", "log", "manual", "ring", "uffd"};
	int i;

	if (strcmp(name, "thread") == 0) {
		accel = REFVM_ACCEL_THREAD;
		return REFVM_TRACKING_UFFD;
	}
	for (i = REFVM_TRACKING_LOG; i <= REFVM_TRACKING_UFFD; i++) {
		if (strcmp(name, names[i]) == 0)
			return i;
	}
	return REFVM_TRACKING_AUTO;
}

int main(int argc, char **argv)
{
	static const struct fixture_case cases[] = {
		{"a guest that writes everywhere", test_all_pages},
		{"a guest that writes little", test_few_pages},
		{"an idle guest", test_idle},
		{"the VMM's own writes", test_own_writes},
		{"two users", test_users},
		{NULL, NULL},
	};

	tracking = choose(argc > 1 ? argv[1] : "log");
	if (accel == REFVM_ACCEL_KVM && !fixture_has_kvm()) {
		fprintf(stderr, "skipped: /dev/kvm cannot be opened\n");
		return TEST_SKIP;
	}
	if (tracking == REFVM_TRACKING_UFFD && !fixture_has_uffd()) {
		fprintf(stderr, "skipped: userfaultfd has no asynchronous write protection\n");
		return TEST_SKIP;
	}
	return fixture_main("tracking", cases);
}
