/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * tracking_log.c: KVM's dirty log.
 *
 * Plain: KVM_GET_DIRTY_LOG protects every page again before it returns. Manual:
 * KVM_GET_DIRTY_LOG only reads, KVM_CLEAR_DIRTY_LOG protects what is given to it. Either way
 * a page is protected before its bit is published.
 */
#include "vmm/refvm/kvm.h"

#include <sluice/sluice.h>

#include "base/bits.h"

/* KVM clears at most this many pages under one lock, so that vCPUs get in between. */
#define CLEAR_PAGES 4096ull

static int log_start(struct refvm_vm *vm, struct sluice_error *err)
{
	return refvm_kvm_log_pages(vm, true, err);
}

static void log_stop(struct refvm_vm *vm)
{
	refvm_kvm_log_pages(vm, false, NULL);
}

static int get_log(struct refvm_vm *vm, unsigned int slot, struct sluice_error *err)
{
	struct kvm_dirty_log log = {.slot = slot, .dirty_bitmap = vm->tracking.scratch};

	return REFVM_KVM(vm->kvm.vm_fd, KVM_GET_DIRTY_LOG, &log, err);
}

static int clear_log(struct refvm_vm *vm, unsigned int slot, struct sluice_error *err)
{
	uint64_t pages = vm->memory.region[slot].bytes / SLUICE_PAGE_BYTES, first;
	int rc;

	for (first = 0; first < pages; first += CLEAR_PAGES) {
		struct kvm_clear_dirty_log clear = {
			.slot = slot,
			.first_page = first,
			.num_pages = (uint32_t)(pages - first < CLEAR_PAGES ? pages - first
									    : CLEAR_PAGES),
			.dirty_bitmap = vm->tracking.scratch + first / 64,
		};

		rc = REFVM_KVM(vm->kvm.vm_fd, KVM_CLEAR_DIRTY_LOG, &clear, err);
		if (rc < 0)
			return rc;
	}
	return 0;
}

static void publish(struct refvm_vm *vm, unsigned int slot)
{
	uint64_t words = sluice_bitmap_bytes(vm->memory.region[slot].bytes) / sizeof(uint64_t);
	uint64_t word;

	for (word = 0; word < words; word++)
		refvm_memory_publish(&vm->memory, slot, word, vm->tracking.scratch[word]);
}

static int log_harvest(struct refvm_vm *vm, struct sluice_error *err)
{
	bool manual = vm->tracking.ops == &refvm_tracking_log_manual;
	unsigned int slot;
	int rc;

	for (slot = 0; slot < vm->memory.count; slot++) {
		if (vm->memory.region[slot].bytes == 0)
			continue;
		rc = get_log(vm, slot, err);
		if (rc == 0 && manual)
			rc = clear_log(vm, slot, err);
		if (rc < 0)
			return rc;
		publish(vm, slot);
	}
	return 0;
}

const struct refvm_tracking_ops refvm_tracking_log = {
	.name = "log",
	.start = log_start,
	.stop = log_stop,
	.harvest = log_harvest,
};

const struct refvm_tracking_ops refvm_tracking_log_manual = {
	.name = "manual",
	.start = log_start,
	.stop = log_stop,
	.harvest = log_harvest,
};
