/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * guest_thread.c: threads that stand in for vCPUs where there is no KVM. They run the guest's
 * own workload over the same memory, in our address space; the operation count that a vCPU
 * keeps in registers is kept beside the thread and travels in its state.
 */
#include "vmm/refvm/vm.h"

#include <errno.h>
#include <time.h>

#include "base/assert.h"
#include "base/clock.h"

#define CALIBRATE_NS (20 * SLUICE_NS_PER_MS)

/* The guest paces itself by the time stamp counter, whose frequency only a measurement tells
   portably. */
static uint64_t measure_tick_hz(void)
{
	struct timespec nap = {.tv_nsec = CALIBRATE_NS};
	uint64_t tick = __builtin_ia32_rdtsc(), ns = sluice_now_ns();

	nanosleep(&nap, NULL);
	tick = __builtin_ia32_rdtsc() - tick;
	ns = sluice_now_ns() - ns;
	return (uint64_t)((unsigned __int128)tick * SLUICE_NS_PER_S / ns);
}

static int vm_create(struct refvm_vm *vm, struct sluice_error *err)
{
	(void)err;
	vm->tick_hz = measure_tick_hz();
	return 0;
}

static void vm_destroy(struct refvm_vm *vm)
{
	(void)vm;
}

static int vcpu_create(struct refvm_vcpu *vcpu, struct sluice_error *err)
{
	(void)err;
	vcpu->ops = 0;
	return 0;
}

static void vcpu_destroy(struct refvm_vcpu *vcpu)
{
	(void)vcpu;
}

static int vcpu_boot(struct refvm_vcpu *vcpu, struct sluice_error *err)
{
	(void)err;
	vcpu->ops = 0;
	return 0;
}

static enum refvm_exit vcpu_run(
	struct refvm_vcpu *vcpu, uint32_t *ret_yield_us, struct sluice_error *err)
{
	uint64_t bias = (uintptr_t)vcpu->vm->memory.base;
	struct refvm_guest_result result;

	(void)err;
	while (!__atomic_load_n(&vcpu->kicked, __ATOMIC_ACQUIRE)) {
		result = refvm_guest_step(bias, vcpu->index, vcpu->ops, vcpu->ops);
		vcpu->ops += result.ops;
		if (result.yield_us != 0) {
			*ret_yield_us = (uint32_t)result.yield_us;
			return REFVM_EXIT_YIELD;
		}
	}
	return REFVM_EXIT_KICKED;
}

static void vcpu_settle(struct refvm_vcpu *vcpu)
{
	(void)vcpu;
}

static void vcpu_kick(struct refvm_vcpu *vcpu)
{
	__atomic_store_n(&vcpu->kicked, true, __ATOMIC_RELEASE);
}

static void vcpu_unkick(struct refvm_vcpu *vcpu)
{
	__atomic_store_n(&vcpu->kicked, false, __ATOMIC_RELEASE);
}

static int vcpu_save(struct refvm_vcpu *vcpu, struct refvm_blob *blob, struct sluice_error *err)
{
	return refvm_blob_add(
		blob, REFVM_SECTION_THREAD, vcpu->index, &vcpu->ops, sizeof(vcpu->ops), err);
}

static int vcpu_load(
	struct refvm_vcpu *vcpu, const struct refvm_blob *blob, struct sluice_error *err)
{
	const uint64_t *ops;
	const void *data;
	size_t bytes;
	int rc = refvm_blob_find(
		blob, REFVM_SECTION_THREAD, vcpu->index, sizeof(*ops), &data, &bytes, err);

	if (rc < 0)
		return rc;
	ops = data; /* sections are aligned to 8 bytes */
	vcpu->ops = *ops;
	return 0;
}

const struct refvm_accel refvm_accel_thread = {
	.name = "thread",
	.vm_create = vm_create,
	.vm_destroy = vm_destroy,
	.vcpu_create = vcpu_create,
	.vcpu_destroy = vcpu_destroy,
	.vcpu_boot = vcpu_boot,
	.vcpu_run = vcpu_run,
	.vcpu_settle = vcpu_settle,
	.vcpu_kick = vcpu_kick,
	.vcpu_unkick = vcpu_unkick,
	.vcpu_save = vcpu_save,
	.vcpu_load = vcpu_load,
};
