/* SPDX-License-Identifier: BSD-3-Clause */
/* kvm.c: the virtual machine in KVM: capabilities, memory slots, dirty-page logging. */
#include "vmm/refvm/kvm.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/assert.h"

#define TSS_GPA 0xfffbd000ul /* three pages that Intel's real mode wants; no region is there */

int refvm_kvm_ioctl(
	int fd, unsigned long request, const char *name, void *arg, struct sluice_error *err)
{
	int rc = ioctl(fd, request, arg);

	if (rc >= 0)
		return rc;
	rc = -errno;
	return sluice_fail(err, rc, "kvm", "%s: %s.", name, strerror(-rc));
}

static int capability(const struct refvm_vm *vm, unsigned long cap)
{
	return ioctl(vm->kvm.vm_fd, KVM_CHECK_EXTENSION, cap);
}

int refvm_kvm_set_slot(struct refvm_vm *vm, unsigned int i, const struct refvm_region *region,
	bool log, struct sluice_error *err)
{
	struct kvm_userspace_memory_region slot = {
		.slot = i,
		.flags = log ? KVM_MEM_LOG_DIRTY_PAGES : 0,
		.guest_phys_addr = region->gpa,
		.memory_size = region->bytes,
		.userspace_addr = (uintptr_t)region->hva,
	};

	return REFVM_KVM(vm->kvm.vm_fd, KVM_SET_USER_MEMORY_REGION, &slot, err);
}

int refvm_kvm_log_pages(struct refvm_vm *vm, bool on, struct sluice_error *err)
{
	unsigned int i;
	int rc;

	for (i = 0; i < vm->memory.count; i++) {
		if (vm->memory.region[i].bytes == 0)
			continue;
		rc = refvm_kvm_set_slot(vm, i, &vm->memory.region[i], on, err);
		if (rc < 0)
			return rc;
	}
	return 0;
}

/* Tracking mechanisms that must be chosen before there are vCPUs. */
static int choose_tracking(struct refvm_vm *vm, struct sluice_error *err)
{
	struct kvm_enable_cap manual = {
		.cap = KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
		.args = {KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE},
	};

	if (vm->tracking.ops == &refvm_tracking_ring)
		return refvm_ring_enable(vm, err);
	vm->kvm.ring_entries = 0;
	if (vm->tracking.ops == &refvm_tracking_log_manual)
		return REFVM_KVM(vm->kvm.vm_fd, KVM_ENABLE_CAP, &manual, err);
	return 0;
}

static int open_kvm(struct refvm_vm *vm, struct sluice_error *err)
{
	int rc, version;

	vm->kvm.fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (vm->kvm.fd < 0) {
		rc = -errno;
		return sluice_fail(err, rc, "kvm", "/dev/kvm: %s.", strerror(-rc));
	}
	version = ioctl(vm->kvm.fd, KVM_GET_API_VERSION, 0);
	if (version != KVM_API_VERSION)
		return sluice_fail(err, -ENOTSUP, "kvm", "KVM has API version %d, not %d.", version,
			KVM_API_VERSION);
	vm->kvm.vm_fd = REFVM_KVM(vm->kvm.fd, KVM_CREATE_VM, NULL, err);
	return vm->kvm.vm_fd < 0 ? vm->kvm.vm_fd : 0;
}

void refvm_kvm_vm_destroy(struct refvm_vm *vm)
{
	if (vm->kvm.vm_fd >= 0)
		close(vm->kvm.vm_fd);
	if (vm->kvm.fd >= 0)
		close(vm->kvm.fd);
	vm->kvm.vm_fd = -1;
	vm->kvm.fd = -1;
}

int refvm_kvm_vm_create(struct refvm_vm *vm, struct sluice_error *err)
{
	int rc, xsave_bytes;

	rc = open_kvm(vm, err);
	if (rc < 0)
		goto fail;
	if (ioctl(vm->kvm.vm_fd, KVM_SET_TSS_ADDR, TSS_GPA) < 0 && errno != ENOTTY) {
		rc = sluice_fail(err, -errno, "kvm", "KVM_SET_TSS_ADDR: %s.", strerror(errno));
		goto fail;
	}
	rc = choose_tracking(vm, err);
	if (rc < 0)
		goto fail;
	rc = refvm_kvm_log_pages(vm, false, err);
	if (rc < 0)
		goto fail;
	xsave_bytes = capability(vm, KVM_CAP_XSAVE2);
	vm->kvm.xsave_bytes = xsave_bytes > (int)sizeof(struct kvm_xsave)
				      ? (uint32_t)xsave_bytes
				      : (uint32_t)sizeof(struct kvm_xsave);
	return 0;
fail:
	refvm_kvm_vm_destroy(vm);
	return rc;
}
