/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * kvm_vcpu.c: a vCPU in KVM: created, booted into ring 3, run, kicked.
 *
 * A kick is immediate_exit and a signal: the flag for a vCPU that is about to enter the
 * guest, the signal for one that is inside.
 */
#include "vmm/refvm/kvm.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/assert.h"
#include "vmm/refvm/guest_boot.h"

#define SIGNAL_KICK  SIGUSR1
#define SETTLE_TRIES 16 /* one suffices for the accesses that the guest makes */

/* Control registers and flags of ring-3 long mode (Intel SDM volume 3, 2.5 and 2.3). */
#define CR0_RING3    0x80050033ull /* PG, AM, WP, NE, ET, MP, PE */
#define CR4_RING3    0x620ull /* PAE, OSFXSR, OSXMMEXCPT */
#define EFER_LONG    0x500ull /* LMA, LME */
#define RFLAGS_RING3 0x3002ull /* IOPL 3: the guest may use ports; interrupts off */

static void on_kick(int signal_number)
{
	(void)signal_number;
}

static void install_kick_handler(void)
{
	struct sigaction action = {.sa_handler = on_kick}; /* no SA_RESTART: KVM_RUN must return */

	sigaction(SIGNAL_KICK, &action, NULL);
}

/* The host's features, with this vCPU's number where a processor says its own. */
static int set_cpuid(struct refvm_vcpu *vcpu, struct sluice_error *err)
{
	struct kvm_cpuid2 *cpuid =
		calloc(1, sizeof(*cpuid) + REFVM_CPUID_MAX * sizeof(cpuid->entries[0]));
	uint32_t i;
	int rc;

	if (cpuid == NULL)
		return sluice_fail(err, -ENOMEM, "kvm", "No memory for CPUID.");
	cpuid->nent = REFVM_CPUID_MAX;
	rc = REFVM_KVM(vcpu->vm->kvm.fd, KVM_GET_SUPPORTED_CPUID, cpuid, err);
	if (rc < 0)
		goto out;
	for (i = 0; i < cpuid->nent; i++) {
		struct kvm_cpuid_entry2 *entry = &cpuid->entries[i];

		if (entry->function == 1)
			entry->ebx = (entry->ebx & 0x00ffffffu) | vcpu->index << 24;
		else if (entry->function == 0xb || entry->function == 0x1f)
			entry->edx = vcpu->index;
	}
	rc = REFVM_KVM(vcpu->fd, KVM_SET_CPUID2, cpuid, err);
out:
	free(cpuid);
	return rc;
}

static int map_run(struct refvm_vcpu *vcpu, struct sluice_error *err)
{
	int bytes = REFVM_KVM(vcpu->vm->kvm.fd, KVM_GET_VCPU_MMAP_SIZE, NULL, err);
	void *map;

	if (bytes < 0)
		return bytes;
	map = mmap(NULL, (size_t)bytes, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu->fd, 0);
	if (map == MAP_FAILED) {
		int rc = -errno;

		return sluice_fail(
			err, rc, "kvm", "Mapping vCPU %u: %s.", vcpu->index, strerror(-rc));
	}
	vcpu->run = map;
	vcpu->run_bytes = (size_t)bytes;
	return 0;
}

static void vcpu_destroy(struct refvm_vcpu *vcpu)
{
	refvm_ring_unmap(vcpu);
	if (vcpu->run != NULL)
		munmap(vcpu->run, vcpu->run_bytes);
	if (vcpu->fd >= 0)
		close(vcpu->fd);
	vcpu->run = NULL;
	vcpu->fd = -1;
}

static int vcpu_create(struct refvm_vcpu *vcpu, struct sluice_error *err)
{
	struct refvm_vm *vm = vcpu->vm;
	int rc;

	install_kick_handler();
	rc = refvm_kvm_ioctl(vm->kvm.vm_fd, KVM_CREATE_VCPU, "KVM_CREATE_VCPU",
		(void *)(uintptr_t)vcpu->index, err);
	if (rc < 0)
		return rc;
	vcpu->fd = rc;
	rc = map_run(vcpu, err);
	if (rc == 0)
		rc = refvm_ring_map(vcpu, err);
	if (rc == 0)
		rc = set_cpuid(vcpu, err);
	if (rc == 0)
		rc = REFVM_KVM(vcpu->fd, KVM_GET_TSC_KHZ, NULL, err);
	if (rc < 0) {
		vcpu_destroy(vcpu);
		return rc;
	}
	vm->kvm.tsc_khz = (uint32_t)rc;
	vm->tick_hz = (uint64_t)rc * 1000;
	return 0;
}

static void set_segments(struct kvm_sregs *sregs)
{
	struct kvm_segment code = {
		.selector = REFVM_SELECTOR_CODE,
		.limit = 0xffffffff,
		.type = 11, /* execute, read, accessed */
		.present = 1,
		.dpl = 3,
		.s = 1,
		.l = 1,
		.g = 1,
	};
	struct kvm_segment data = code;

	data.selector = REFVM_SELECTOR_DATA;
	data.type = 3; /* read, write, accessed */
	data.l = 0;
	data.db = 1;
	sregs->cs = code;
	sregs->ds = data;
	sregs->es = data;
	sregs->fs = data;
	sregs->gs = data;
	sregs->ss = data;
}

static int vcpu_boot(struct refvm_vcpu *vcpu, struct sluice_error *err)
{
	struct kvm_regs regs = {
		.rip = REFVM_GPA_PROGRAM,
		.rflags = RFLAGS_RING3,
		.rdi = vcpu->index,
		.rsp = REFVM_GPA_STACK + (vcpu->index + 1) * REFVM_STACK_BYTES,
	};
	struct kvm_sregs sregs;
	int rc;

	rc = REFVM_KVM(vcpu->fd, KVM_GET_SREGS, &sregs, err);
	if (rc < 0)
		return rc;
	set_segments(&sregs);
	sregs.cr0 = CR0_RING3;
	sregs.cr3 = REFVM_GPA_PML4;
	sregs.cr4 = CR4_RING3;
	sregs.efer = EFER_LONG;
	sregs.gdt.base = REFVM_GPA_GDT;
	sregs.gdt.limit = 3 * 8 - 1;
	rc = REFVM_KVM(vcpu->fd, KVM_SET_SREGS, &sregs, err);
	if (rc < 0)
		return rc;
	return REFVM_KVM(vcpu->fd, KVM_SET_REGS, &regs, err);
}

static enum refvm_exit unexpected_exit(struct refvm_vcpu *vcpu, struct sluice_error *err)
{
	struct kvm_regs regs = {.rip = 0};

	ioctl(vcpu->fd, KVM_GET_REGS, &regs);
	sluice_fail(err, -EIO, "guest",
		"vCPU %u left the guest for KVM exit reason %" PRIu32 " (%" PRIu32
		") at rip %#" PRIx64 ".",
		vcpu->index, vcpu->run->exit_reason,
		vcpu->run->exit_reason == KVM_EXIT_INTERNAL_ERROR ? vcpu->run->internal.suberror
								  : 0,
		(uint64_t)regs.rip);
	return REFVM_EXIT_FAILED;
}

static enum refvm_exit port_exit(
	struct refvm_vcpu *vcpu, uint32_t *ret_yield_us, struct sluice_error *err)
{
	const struct kvm_run *run = vcpu->run;

	if (run->io.direction != KVM_EXIT_IO_OUT || run->io.port != REFVM_PORT_YIELD ||
		run->io.size != sizeof(uint32_t) || run->io.count != 1)
		return unexpected_exit(vcpu, err);
	memcpy(ret_yield_us, (const uint8_t *)run + run->io.data_offset, sizeof(*ret_yield_us));
	return REFVM_EXIT_YIELD;
}

static enum refvm_exit vcpu_run(
	struct refvm_vcpu *vcpu, uint32_t *ret_yield_us, struct sluice_error *err)
{
	int rc = ioctl(vcpu->fd, KVM_RUN, 0);

	if (rc < 0 && (errno == EINTR || errno == EAGAIN))
		return REFVM_EXIT_KICKED;
	if (rc < 0) {
		sluice_fail(err, -errno, "guest", "vCPU %u: KVM_RUN: %s.", vcpu->index,
			strerror(errno));
		return REFVM_EXIT_FAILED;
	}
	switch (vcpu->run->exit_reason) {
	case KVM_EXIT_IO:
		return port_exit(vcpu, ret_yield_us, err);
	case KVM_EXIT_DIRTY_RING_FULL:
		return REFVM_EXIT_RING_FULL;
	case KVM_EXIT_INTR:
		return REFVM_EXIT_KICKED;
	default:
		return unexpected_exit(vcpu, err);
	}
}

/* KVM finishes a port access when the vCPU is entered again. Entering it with immediate_exit
   does that and no more; only then the registers are those after the instruction. */
static void vcpu_settle(struct refvm_vcpu *vcpu)
{
	unsigned int tries;

	__atomic_store_n(&vcpu->run->immediate_exit, 1, __ATOMIC_RELAXED);
	for (tries = 0; tries < SETTLE_TRIES; tries++) {
		if (ioctl(vcpu->fd, KVM_RUN, 0) < 0 && errno == EINTR)
			return;
	}
}

static void vcpu_kick(struct refvm_vcpu *vcpu)
{
	__atomic_store_n(&vcpu->run->immediate_exit, 1, __ATOMIC_RELAXED);
	pthread_kill(vcpu->thread, SIGNAL_KICK);
}

static void vcpu_unkick(struct refvm_vcpu *vcpu)
{
	__atomic_store_n(&vcpu->run->immediate_exit, 0, __ATOMIC_RELAXED);
}

const struct refvm_accel refvm_accel_kvm = {
	.name = "kvm",
	.vm_create = refvm_kvm_vm_create,
	.vm_destroy = refvm_kvm_vm_destroy,
	.vcpu_create = vcpu_create,
	.vcpu_destroy = vcpu_destroy,
	.vcpu_boot = vcpu_boot,
	.vcpu_run = vcpu_run,
	.vcpu_settle = vcpu_settle,
	.vcpu_kick = vcpu_kick,
	.vcpu_unkick = vcpu_unkick,
	.vcpu_save = refvm_kvm_vcpu_save,
	.vcpu_load = refvm_kvm_vcpu_load,
};
