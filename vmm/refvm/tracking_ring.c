/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * tracking_ring.c: KVM's dirty ring: every vCPU reports the pages it writes in a ring shared
 * with us, and leaves the guest when the ring is full.
 *
 * A harvest takes the entries of all rings, hands them back, makes KVM protect their pages
 * again, and publishes them after that. Entries may repeat a page.
 *
 * A processor with page-modification logging keeps written pages to itself until the vCPU
 * leaves the guest; so vCPUs are kicked out once before a harvest that must be complete.
 */
#include "vmm/refvm/kvm.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "base/assert.h"
#include "base/bits.h"

/* Entries taken at once, remembered until KVM has protected their pages. */
#define TURN_ENTRIES 4096

struct page_ref {
	uint32_t region;
	uint64_t page;
};

int refvm_ring_enable(struct refvm_vm *vm, struct sluice_error *err)
{
	struct kvm_enable_cap cap = {
		.cap = KVM_CAP_DIRTY_LOG_RING_ACQ_REL,
		.args = {vm->kvm.ring_entries * sizeof(struct kvm_dirty_gfn)},
	};
	int bytes_max = ioctl(vm->kvm.vm_fd, KVM_CHECK_EXTENSION, cap.cap);

	if (bytes_max <= 0)
		return sluice_fail(err, -ENOTSUP, "tracking",
			"This kernel has no dirty ring with acquire and release; use log.");
	if (cap.args[0] > (uint64_t)bytes_max)
		return sluice_fail(err, -EINVAL, "tracking",
			"This kernel's dirty rings have at most %zu entries.",
			(size_t)bytes_max / sizeof(struct kvm_dirty_gfn));
	return REFVM_KVM(vm->kvm.vm_fd, KVM_ENABLE_CAP, &cap, err);
}

static size_t ring_bytes(const struct refvm_vcpu *vcpu)
{
	return vcpu->vm->kvm.ring_entries * sizeof(struct kvm_dirty_gfn);
}

int refvm_ring_map(struct refvm_vcpu *vcpu, struct sluice_error *err)
{
	void *map;

	if (vcpu->vm->kvm.ring_entries == 0)
		return 0;
	map = mmap(NULL, ring_bytes(vcpu), PROT_READ | PROT_WRITE, MAP_SHARED, vcpu->fd,
		KVM_DIRTY_LOG_PAGE_OFFSET * (off_t)SLUICE_PAGE_BYTES);
	if (map == MAP_FAILED) {
		int rc = -errno;

		return sluice_fail(err, rc, "tracking", "Mapping the dirty ring of vCPU %u: %s.",
			vcpu->index, strerror(-rc));
	}
	vcpu->ring = map;
	vcpu->ring_next = 0;
	return 0;
}

void refvm_ring_unmap(struct refvm_vcpu *vcpu)
{
	if (vcpu->ring != NULL)
		munmap(vcpu->ring, ring_bytes(vcpu));
	vcpu->ring = NULL;
}

static int ring_start(struct refvm_vm *vm, struct sluice_error *err)
{
	return refvm_kvm_log_pages(vm, true, err);
}

/* Take up to @max entries of one ring and hand them back to KVM, which reads the flag with
   acquire; it protects them when told to reset. */
static uint32_t take(struct refvm_vcpu *vcpu, struct page_ref *pages, uint32_t max)
{
	uint32_t mask = vcpu->vm->kvm.ring_entries - 1, count;

	for (count = 0; count < max; count++) {
		struct kvm_dirty_gfn *entry = &vcpu->ring[vcpu->ring_next & mask];

		if ((__atomic_load_n(&entry->flags, __ATOMIC_ACQUIRE) & KVM_DIRTY_GFN_F_DIRTY) == 0)
			break;
		pages[count].region = entry->slot & 0xffff;
		pages[count].page = entry->offset;
		__atomic_store_n(&entry->flags, KVM_DIRTY_GFN_F_RESET, __ATOMIC_RELEASE);
		vcpu->ring_next++;
	}
	return count;
}

/* All that is in a vCPU's ring now: at most as many entries as it has room for. What the
   vCPU adds meanwhile may wait. */
static int harvest_vcpu(struct refvm_vcpu *vcpu, struct sluice_error *err)
{
	struct refvm_vm *vm = vcpu->vm;
	struct page_ref pages[TURN_ENTRIES];
	uint32_t left, max, count, i;
	int rc;

	for (left = vm->kvm.ring_entries; left > 0; left -= count) {
		max = left < TURN_ENTRIES ? left : TURN_ENTRIES;
		count = take(vcpu, pages, max);
		if (count == 0)
			break;
		rc = REFVM_KVM(vm->kvm.vm_fd, KVM_RESET_DIRTY_RINGS, NULL, err);
		if (rc < 0)
			return rc;
		for (i = 0; i < count; i++) {
			SLUICE_ASSERT(pages[i].region < refvm_memory_count(&vm->memory));
			if (vm->memory.region[pages[i].region].bytes == 0)
				continue; /* written before it was taken away */
			refvm_memory_publish(&vm->memory, pages[i].region, pages[i].page / 64,
				1ull << pages[i].page % 64);
		}
	}
	return 0;
}

static int ring_harvest(struct refvm_vm *vm, struct sluice_error *err)
{
	unsigned int i;
	int rc;

	for (i = 0; i < vm->vcpus; i++) {
		if (vm->vcpu[i].ring == NULL)
			continue;
		rc = harvest_vcpu(&vm->vcpu[i], err);
		if (rc < 0)
			return rc;
	}
	return 0;
}

/* Pages that are left in the rings are published too: nobody has to read them. */
static void ring_stop(struct refvm_vm *vm)
{
	refvm_kvm_log_pages(vm, false, NULL);
	ring_harvest(vm, NULL);
}

const struct refvm_tracking_ops refvm_tracking_ring = {
	.name = "ring",
	.start = ring_start,
	.stop = ring_stop,
	.harvest = ring_harvest,
	.kick_first = true,
};
