/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * kvm_state.c: a vCPU's state to and from the device blob.
 *
 * Main thread, the vCPU parked and settled. What is loaded was checked for damage and shape;
 * KVM judges the values and its refusal is passed on.
 */
#include "vmm/refvm/kvm.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "base/assert.h"
#include "base/bits.h"

/* Registers a 64-bit guest may depend on, where the host has them. The guest program needs
   but the time stamp counter; a VMM for real systems takes KVM_GET_MSR_INDEX_LIST whole. */
static const uint32_t msr_indices[] = {
	0x00000010, /* TSC */
	0x0000003b, /* TSC_ADJUST */
	0x00000174, /* SYSENTER_CS */
	0x00000175, /* SYSENTER_ESP */
	0x00000176, /* SYSENTER_EIP */
	0x000001a0, /* MISC_ENABLE */
	0x00000277, /* PAT */
	0xc0000081, /* STAR */
	0xc0000082, /* LSTAR */
	0xc0000083, /* CSTAR */
	0xc0000084, /* FMASK */
	0xc0000102, /* KERNEL_GS_BASE */
	0xc0000103, /* TSC_AUX */
};

union msrs {
	struct kvm_msrs head;
	uint8_t room[sizeof(struct kvm_msrs) + REFVM_MSRS_MAX * sizeof(struct kvm_msr_entry)];
};

/* One structure, read by an ioctl of its own. */
static int save_plain(struct refvm_vcpu *vcpu, struct refvm_blob *blob, unsigned long request,
	const char *name, enum refvm_section type, size_t bytes, struct sluice_error *err)
{
	uint64_t buffer[1024];
	int rc;

	SLUICE_ASSERT(bytes <= sizeof(buffer));
	memset(buffer, 0, sizeof(buffer));
	rc = refvm_kvm_ioctl(vcpu->fd, request, name, buffer, err);
	if (rc < 0)
		return rc;
	return refvm_blob_add(blob, type, vcpu->index, buffer, bytes, err);
}

static int save_cpuid(struct refvm_vcpu *vcpu, struct refvm_blob *blob, struct sluice_error *err)
{
	struct kvm_cpuid2 *cpuid =
		calloc(1, sizeof(*cpuid) + REFVM_CPUID_MAX * sizeof(cpuid->entries[0]));
	int rc;

	if (cpuid == NULL)
		return sluice_fail(err, -ENOMEM, "kvm", "No memory for CPUID.");
	cpuid->nent = REFVM_CPUID_MAX;
	rc = REFVM_KVM(vcpu->fd, KVM_GET_CPUID2, cpuid, err);
	if (rc == 0)
		rc = refvm_blob_add(blob, REFVM_SECTION_CPUID, vcpu->index, cpuid->entries,
			cpuid->nent * sizeof(cpuid->entries[0]), err);
	free(cpuid);
	return rc;
}

static int save_xsave(struct refvm_vcpu *vcpu, struct refvm_blob *blob, struct sluice_error *err)
{
	size_t bytes = vcpu->vm->kvm.xsave_bytes;
	void *xsave = calloc(1, bytes);
	int rc;

	if (xsave == NULL)
		return sluice_fail(err, -ENOMEM, "kvm", "No memory for the XSAVE area.");
	if (bytes > sizeof(struct kvm_xsave))
		rc = REFVM_KVM(vcpu->fd, KVM_GET_XSAVE2, xsave, err);
	else
		rc = REFVM_KVM(vcpu->fd, KVM_GET_XSAVE, xsave, err);
	if (rc == 0)
		rc = refvm_blob_add(blob, REFVM_SECTION_XSAVE, vcpu->index, xsave, bytes, err);
	free(xsave);
	return rc;
}

/* Each by itself: KVM stops at the first one that the host does not have. */
static int save_msrs(struct refvm_vcpu *vcpu, struct refvm_blob *blob, struct sluice_error *err)
{
	struct kvm_msr_entry saved[SLUICE_ARRAY_LEN(msr_indices)];
	union msrs msrs;
	size_t i, count = 0;

	memset(saved, 0, sizeof(saved));
	for (i = 0; i < SLUICE_ARRAY_LEN(msr_indices); i++) {
		memset(&msrs, 0, sizeof(msrs));
		msrs.head.nmsrs = 1;
		msrs.head.entries[0].index = msr_indices[i];
		if (ioctl(vcpu->fd, KVM_GET_MSRS, &msrs) == 1)
			saved[count++] = msrs.head.entries[0];
	}
	if (count == 0)
		return sluice_fail(err, -EIO, "kvm", "KVM_GET_MSRS gives no register at all.");
	return refvm_blob_add(
		blob, REFVM_SECTION_MSRS, vcpu->index, saved, count * sizeof(saved[0]), err);
}

#define SAVE(vcpu, blob, request, type, bytes, err) \
	save_plain(vcpu, blob, request, #request, type, bytes, err)

int refvm_kvm_vcpu_save(struct refvm_vcpu *vcpu, struct refvm_blob *blob, struct sluice_error *err)
{
	int rc = save_cpuid(vcpu, blob, err);

	if (rc == 0)
		rc = SAVE(vcpu, blob, KVM_GET_SREGS, REFVM_SECTION_SREGS, sizeof(struct kvm_sregs),
			err);
	if (rc == 0)
		rc = SAVE(
			vcpu, blob, KVM_GET_REGS, REFVM_SECTION_REGS, sizeof(struct kvm_regs), err);
	if (rc == 0)
		rc = SAVE(
			vcpu, blob, KVM_GET_XCRS, REFVM_SECTION_XCRS, sizeof(struct kvm_xcrs), err);
	if (rc == 0)
		rc = save_xsave(vcpu, blob, err);
	if (rc == 0)
		rc = SAVE(vcpu, blob, KVM_GET_DEBUGREGS, REFVM_SECTION_DEBUGREGS,
			sizeof(struct kvm_debugregs), err);
	if (rc == 0)
		rc = SAVE(vcpu, blob, KVM_GET_VCPU_EVENTS, REFVM_SECTION_EVENTS,
			sizeof(struct kvm_vcpu_events), err);
	if (rc == 0)
		rc = save_msrs(vcpu, blob, err);
	return rc;
}

static int load_plain(struct refvm_vcpu *vcpu, const struct refvm_blob *blob, unsigned long request,
	const char *name, enum refvm_section type, size_t bytes, struct sluice_error *err)
{
	uint64_t buffer[1024];
	const void *data;
	size_t got;
	int rc;

	SLUICE_ASSERT(bytes <= sizeof(buffer));
	rc = refvm_blob_find(blob, type, vcpu->index, bytes, &data, &got, err);
	if (rc < 0)
		return rc;
	if (got != bytes)
		return sluice_fail(err, -EINVAL, "vcpus",
			"Section %u of vCPU %u has %zu bytes, not %zu.", type, vcpu->index, got,
			bytes);
	memcpy(buffer, data, bytes); /* aligned, and KVM may write to it */
	rc = refvm_kvm_ioctl(vcpu->fd, request, name, buffer, err);
	return rc < 0 ? rc : 0;
}

/* A vCPU that has run refuses even the CPUID it has, on some kernels; so only set another. */
static int load_cpuid(
	struct refvm_vcpu *vcpu, const struct refvm_blob *blob, struct sluice_error *err)
{
	size_t entry_bytes = sizeof(struct kvm_cpuid_entry2), bytes;
	size_t room = sizeof(struct kvm_cpuid2) + REFVM_CPUID_MAX * entry_bytes;
	struct kvm_cpuid2 *cpuid;
	const void *data;
	int rc;

	rc = refvm_blob_find(
		blob, REFVM_SECTION_CPUID, vcpu->index, entry_bytes, &data, &bytes, err);
	if (rc < 0)
		return rc;
	if (bytes > REFVM_CPUID_MAX * entry_bytes)
		return sluice_fail(err, -EINVAL, "vcpus", "The state has %zu CPUID entries.",
			bytes / entry_bytes);
	cpuid = calloc(1, room);
	if (cpuid == NULL)
		return sluice_fail(err, -ENOMEM, "kvm", "No memory for CPUID.");
	cpuid->nent = REFVM_CPUID_MAX;
	rc = REFVM_KVM(vcpu->fd, KVM_GET_CPUID2, cpuid, err);
	if (rc < 0 ||
		(cpuid->nent * entry_bytes == bytes && memcmp(cpuid->entries, data, bytes) == 0))
		goto out;
	memset(cpuid, 0, room);
	cpuid->nent = (uint32_t)(bytes / entry_bytes);
	memcpy(cpuid->entries, data, bytes);
	if (ioctl(vcpu->fd, KVM_SET_CPUID2, cpuid) < 0)
		rc = sluice_fail(err, -errno, "vcpus",
			"This host's KVM refuses the guest's processor features (%s).",
			strerror(errno));
out:
	free(cpuid);
	return rc;
}

static int load_xsave(
	struct refvm_vcpu *vcpu, const struct refvm_blob *blob, struct sluice_error *err)
{
	size_t have = vcpu->vm->kvm.xsave_bytes, bytes;
	const void *data;
	void *xsave;
	int rc;

	rc = refvm_blob_find(blob, REFVM_SECTION_XSAVE, vcpu->index, 4, &data, &bytes, err);
	if (rc < 0)
		return rc;
	if (bytes > have)
		return sluice_fail(err, -EINVAL, "vcpus",
			"The XSAVE area has %zu bytes; this host's KVM takes %zu.", bytes, have);
	xsave = calloc(1, have);
	if (xsave == NULL)
		return sluice_fail(err, -ENOMEM, "kvm", "No memory for the XSAVE area.");
	memcpy(xsave, data, bytes);
	rc = REFVM_KVM(vcpu->fd, KVM_SET_XSAVE, xsave, err);
	free(xsave);
	return rc;
}

static int load_msrs(
	struct refvm_vcpu *vcpu, const struct refvm_blob *blob, struct sluice_error *err)
{
	union msrs msrs;
	const void *data;
	size_t bytes;
	int rc;

	rc = refvm_blob_find(blob, REFVM_SECTION_MSRS, vcpu->index, sizeof(struct kvm_msr_entry),
		&data, &bytes, err);
	if (rc < 0)
		return rc;
	if (bytes > REFVM_MSRS_MAX * sizeof(struct kvm_msr_entry))
		return sluice_fail(err, -EINVAL, "vcpus", "The state has %zu MSRs; at most %d.",
			bytes / sizeof(struct kvm_msr_entry), REFVM_MSRS_MAX);
	memset(&msrs, 0, sizeof(msrs));
	memcpy(msrs.head.entries, data, bytes);
	msrs.head.nmsrs = (uint32_t)(bytes / sizeof(struct kvm_msr_entry));
	rc = REFVM_KVM(vcpu->fd, KVM_SET_MSRS, &msrs, err);
	if (rc < 0)
		return rc;
	if ((uint32_t)rc < msrs.head.nmsrs)
		return sluice_fail(err, -EINVAL, "vcpus",
			"This host's KVM refuses MSR %#" PRIx32 ".", msrs.head.entries[rc].index);
	return 0;
}

/* The guest's clock keeps its pace where the host can scale it; elsewhere the guest is told
   the new one through its control block. */
static void load_tsc_khz(struct refvm_vcpu *vcpu, const struct refvm_blob *blob)
{
	uint64_t khz = blob->header.tick_hz / 1000;
	int now;

	if (khz == vcpu->vm->kvm.tsc_khz || khz == 0 || khz > UINT32_MAX)
		return;
	ioctl(vcpu->fd, KVM_SET_TSC_KHZ, (unsigned long)khz);
	now = ioctl(vcpu->fd, KVM_GET_TSC_KHZ, 0);
	if (now > 0) {
		vcpu->vm->kvm.tsc_khz = (uint32_t)now;
		vcpu->vm->tick_hz = (uint64_t)now * 1000;
	}
}

#define LOAD(vcpu, blob, request, type, bytes, err) \
	load_plain(vcpu, blob, request, #request, type, bytes, err)

/* The order matters: features before what depends on them, control registers before the
   FPU's, events last. */
int refvm_kvm_vcpu_load(
	struct refvm_vcpu *vcpu, const struct refvm_blob *blob, struct sluice_error *err)
{
	int rc = load_cpuid(vcpu, blob, err);

	load_tsc_khz(vcpu, blob);
	if (rc == 0)
		rc = LOAD(vcpu, blob, KVM_SET_SREGS, REFVM_SECTION_SREGS, sizeof(struct kvm_sregs),
			err);
	if (rc == 0)
		rc = LOAD(
			vcpu, blob, KVM_SET_REGS, REFVM_SECTION_REGS, sizeof(struct kvm_regs), err);
	if (rc == 0)
		rc = LOAD(
			vcpu, blob, KVM_SET_XCRS, REFVM_SECTION_XCRS, sizeof(struct kvm_xcrs), err);
	if (rc == 0)
		rc = load_xsave(vcpu, blob, err);
	if (rc == 0)
		rc = LOAD(vcpu, blob, KVM_SET_DEBUGREGS, REFVM_SECTION_DEBUGREGS,
			sizeof(struct kvm_debugregs), err);
	if (rc == 0)
		rc = load_msrs(vcpu, blob, err);
	if (rc == 0)
		rc = LOAD(vcpu, blob, KVM_SET_VCPU_EVENTS, REFVM_SECTION_EVENTS,
			sizeof(struct kvm_vcpu_events), err);
	return rc;
}
