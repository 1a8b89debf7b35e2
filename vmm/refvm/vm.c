/* SPDX-License-Identifier: BSD-3-Clause */
/* vm.c: putting the machine together, and the gate through which vCPUs enter the guest. */
#include "vmm/refvm/vm.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/random.h"
#include "vmm/refvm/guest_boot.h"

#define THROTTLE_RUN_NS_MAX (2 * REFVM_TICK_NS) /* of running that a nap makes up for */

static unsigned int throttle_percent(const struct refvm_vm *vm)
{
	return (unsigned int)__atomic_load_n(&vm->throttle_percent, __ATOMIC_RELAXED);
}

/* Sleep, gate locked, until @end_ns; less when vCPUs shall stop, or a throttle's nap when
   throttling is over. */
static void nap(struct refvm_vm *vm, uint64_t end_ns, bool throttled)
{
	struct timespec until = {
		.tv_sec = (time_t)(end_ns / SLUICE_NS_PER_S),
		.tv_nsec = (long)(end_ns % SLUICE_NS_PER_S),
	};

	while (vm->gate.running && (!throttled || throttle_percent(vm) != 0)) {
		if (pthread_cond_timedwait(&vm->gate.open, &vm->gate.lock, &until) != 0)
			return;
	}
}

/* Sleep for as long as it takes to make the time since the last nap the share that is left.
   From what was, not from what was meant to be: late wake-ups do not change the share. */
static void throttle(struct refvm_vcpu *vcpu)
{
	uint64_t now_ns = sluice_now_ns(), ran_ns = now_ns - vcpu->run_from_ns;
	unsigned int percent = throttle_percent(vcpu->vm);

	if (ran_ns > THROTTLE_RUN_NS_MAX)
		ran_ns = THROTTLE_RUN_NS_MAX;
	vcpu->napping = true;
	nap(vcpu->vm, now_ns + ran_ns * percent / (100 - percent), true);
	vcpu->napping = false;
	vcpu->nap_due = false;
	vcpu->run_from_ns = sluice_now_ns();
}

/* Wait, gate locked, until this vCPU may enter the guest; false when it shall end. */
static bool pass_gate(struct refvm_vcpu *vcpu)
{
	struct refvm_vm *vm = vcpu->vm;
	struct refvm_gate *gate = &vm->gate;

	if (gate->running && vcpu->nap_due)
		throttle(vcpu);
	while (!gate->running && !gate->quit) {
		if (!vcpu->parked) {
			if (vcpu->has_run)
				vm->accel->vcpu_settle(vcpu);
			vcpu->parked = true;
			pthread_cond_broadcast(&gate->parked);
		}
		pthread_cond_wait(&gate->open, &gate->lock);
	}
	if (vcpu->parked)
		vcpu->run_from_ns = sluice_now_ns();
	vcpu->parked = false;
	vm->accel->vcpu_unkick(vcpu); /* kicks are given with the gate locked: none is lost */
	return !gate->quit;
}

/* The guest cannot go on: nobody enters any more, and the main thread is told. */
static void fail(struct refvm_vcpu *vcpu, const struct sluice_error *why)
{
	struct refvm_vm *vm = vcpu->vm;
	unsigned int i;

	if (vm->failure.code == 0)
		vm->failure = *why;
	vm->gate.running = false;
	for (i = 0; i < vm->vcpus; i++)
		vm->accel->vcpu_kick(&vm->vcpu[i]);
	pthread_cond_broadcast(&vm->gate.open);
	if (vm->on_failure != NULL)
		vm->on_failure(vm->on_failure_ctx);
}

/* Gate locked, but for the time in the guest. */
static void handle_exit(
	struct refvm_vcpu *vcpu, enum refvm_exit why, uint32_t yield_us, struct sluice_error *error)
{
	struct refvm_gate *gate = &vcpu->vm->gate;

	switch (why) {
	case REFVM_EXIT_KICKED:
		break;
	case REFVM_EXIT_YIELD:
		yield_us = yield_us < REFVM_YIELD_US_MAX ? yield_us : REFVM_YIELD_US_MAX;
		nap(vcpu->vm, sluice_now_ns() + yield_us * SLUICE_NS_PER_US, false);
		break;
	case REFVM_EXIT_RING_FULL:
		pthread_mutex_unlock(&gate->lock);
		refvm_tracking_relieve(vcpu->vm, error);
		pthread_mutex_lock(&gate->lock);
		break;
	case REFVM_EXIT_FAILED:
		break;
	}
	if (error->code != 0)
		fail(vcpu, error);
}

static void *vcpu_main(void *ctx)
{
	struct refvm_vcpu *vcpu = ctx;
	struct refvm_gate *gate = &vcpu->vm->gate;
	struct sluice_error error = {.code = 0};
	enum refvm_exit why;
	uint32_t yield_us = 0;

	pthread_mutex_lock(&gate->lock);
	while (pass_gate(vcpu)) {
		vcpu->inside = true;
		vcpu->has_run = true;
		pthread_mutex_unlock(&gate->lock);
		why = vcpu->vm->accel->vcpu_run(vcpu, &yield_us, &error);
		pthread_mutex_lock(&gate->lock);
		vcpu->inside = false;
		vcpu->exits++;
		pthread_cond_broadcast(&gate->parked);
		handle_exit(vcpu, why, yield_us, &error);
	}
	pthread_mutex_unlock(&gate->lock);
	return NULL;
}

static bool all_parked(const struct refvm_vm *vm)
{
	unsigned int i;

	for (i = 0; i < vm->vcpus; i++) {
		if (vm->vcpu[i].thread_started && !vm->vcpu[i].parked)
			return false;
	}
	return true;
}

void refvm_vm_start(struct refvm_vm *vm)
{
	pthread_mutex_lock(&vm->gate.lock);
	if (!vm->gate.running && vm->failure.code == 0) {
		vm->gate.running = true;
		vm->running_ns = sluice_now_ns();
		pthread_cond_broadcast(&vm->gate.open);
	}
	pthread_mutex_unlock(&vm->gate.lock);
}

void refvm_vm_stop(struct refvm_vm *vm)
{
	unsigned int i;

	pthread_mutex_lock(&vm->gate.lock);
	if (vm->gate.running) {
		vm->stopped_ns = sluice_now_ns();
		vm->gate.running = false;
		for (i = 0; i < vm->vcpus; i++)
			vm->accel->vcpu_kick(&vm->vcpu[i]);
		pthread_cond_broadcast(&vm->gate.open);
	}
	while (!all_parked(vm))
		pthread_cond_wait(&vm->gate.parked, &vm->gate.lock);
	pthread_mutex_unlock(&vm->gate.lock);
}

void refvm_vm_kick_round(struct refvm_vm *vm)
{
	uint64_t exits[REFVM_VCPUS_MAX];
	unsigned int i;

	pthread_mutex_lock(&vm->gate.lock);
	for (i = 0; i < vm->vcpus; i++) {
		exits[i] = vm->vcpu[i].exits;
		if (vm->vcpu[i].inside)
			vm->accel->vcpu_kick(&vm->vcpu[i]);
	}
	for (i = 0; i < vm->vcpus; i++) {
		while (vm->vcpu[i].inside && vm->vcpu[i].exits == exits[i])
			pthread_cond_wait(&vm->gate.parked, &vm->gate.lock);
	}
	pthread_mutex_unlock(&vm->gate.lock);
}

bool refvm_vm_running(struct refvm_vm *vm)
{
	bool running;

	pthread_mutex_lock(&vm->gate.lock);
	running = vm->gate.running;
	pthread_mutex_unlock(&vm->gate.lock);
	return running;
}

void refvm_vm_throttle(struct refvm_vm *vm, unsigned int percent)
{
	pthread_mutex_lock(&vm->gate.lock);
	__atomic_store_n(&vm->throttle_percent, percent < 99 ? percent : 99, __ATOMIC_RELAXED);
	pthread_cond_broadcast(&vm->gate.open);
	pthread_mutex_unlock(&vm->gate.lock);
}

void refvm_vm_tick(struct refvm_vm *vm)
{
	unsigned int i;

	if (throttle_percent(vm) == 0)
		return;
	pthread_mutex_lock(&vm->gate.lock);
	for (i = 0; vm->gate.running && i < vm->vcpus; i++) {
		if (vm->vcpu[i].napping)
			continue;
		vm->vcpu[i].nap_due = true;
		vm->accel->vcpu_kick(&vm->vcpu[i]);
	}
	pthread_mutex_unlock(&vm->gate.lock);
}

static bool kvm_usable(void)
{
	int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);

	if (fd < 0)
		return false;
	close(fd);
	return true;
}

static void choose_accel(struct refvm_vm *vm, int kind)
{
	if (kind == REFVM_ACCEL_AUTO)
		kind = kvm_usable() ? REFVM_ACCEL_KVM : REFVM_ACCEL_THREAD;
	vm->accel = kind == REFVM_ACCEL_KVM ? &refvm_accel_kvm : &refvm_accel_thread;
	vm->kvm.fd = -1;
	vm->kvm.vm_fd = -1;
}

static int start_vcpu(struct refvm_vm *vm, unsigned int index, struct sluice_error *err)
{
	struct refvm_vcpu *vcpu = &vm->vcpu[index];
	int rc;

	vcpu->vm = vm;
	vcpu->index = index;
	vcpu->fd = -1;
	rc = vm->accel->vcpu_create(vcpu, err);
	if (rc < 0)
		return rc;
	rc = -pthread_create(&vcpu->thread, NULL, vcpu_main, vcpu);
	if (rc < 0) {
		vm->accel->vcpu_destroy(vcpu);
		return sluice_fail(
			err, rc, "vm", "A thread for vCPU %u: %s.", index, strerror(-rc));
	}
	vcpu->thread_started = true;
	return 0;
}

static void create_gate(struct refvm_gate *gate)
{
	pthread_condattr_t attr;

	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_mutex_init(&gate->lock, NULL);
	pthread_cond_init(&gate->open, &attr);
	pthread_cond_init(&gate->parked, &attr);
	pthread_condattr_destroy(&attr);
}

static int create_ballast(struct refvm_vm *vm, uint64_t bytes, struct sluice_error *err)
{
	struct sluice_random random;

	if (bytes == 0)
		return 0;
	vm->ballast_data = malloc(bytes);
	if (vm->ballast_data == NULL)
		return sluice_fail(err, -ENOMEM, "vm", "No memory for a device's state.");
	sluice_random_seed(&random, bytes);
	for (uint64_t i = 0; i < bytes; i++)
		vm->ballast_data[i] = (uint8_t)sluice_random_u64(&random);
	vm->ballast = (struct refvm_ballast){
		.bytes = bytes, .xxh3 = XXH3_64bits(vm->ballast_data, bytes)};
	return 0;
}

static int create_parts(
	const struct refvm_vm_opts *opts, struct refvm_vm *vm, struct sluice_error *err)
{
	unsigned int i;
	int rc = refvm_memory_create(&opts->memory, &vm->memory, err);

	if (rc == 0)
		rc = create_ballast(vm, opts->ballast_bytes, err);
	if (rc == 0)
		rc = refvm_tracking_create(vm, opts->tracking, err);
	if (rc == 0)
		rc = vm->accel->vm_create(vm, err);
	for (i = 0; rc == 0 && i < opts->guest.vcpus; i++) {
		rc = start_vcpu(vm, i, err);
		if (rc == 0)
			vm->vcpus++;
	}
	if (rc < 0)
		return rc;
	refvm_vm_stop(vm); /* all are at the gate: their state may be set */
	if (!opts->incoming) {
		rc = refvm_guest_boot(vm, &opts->guest, err);
		vm->loaded = rc == 0;
	}
	return rc;
}

int refvm_vm_create(const struct refvm_vm_opts *opts, struct refvm_vm *vm, struct sluice_error *err)
{
	int rc;

	*vm = (struct refvm_vm){.vcpus = 0};
	if (opts->guest.vcpus < 1 || opts->guest.vcpus > REFVM_VCPUS_MAX)
		return sluice_fail(err, -EINVAL, "vm", "vcpus must be 1 to %d, not %u.",
			REFVM_VCPUS_MAX, opts->guest.vcpus);
	choose_accel(vm, opts->accel);
	vm->kvm.ring_entries = opts->ring_entries;
	create_gate(&vm->gate);
	rc = create_parts(opts, vm, err);
	if (rc < 0)
		refvm_vm_destroy(vm);
	return rc;
}

void refvm_vm_destroy(struct refvm_vm *vm)
{
	unsigned int i;

	pthread_mutex_lock(&vm->gate.lock);
	vm->gate.running = false;
	vm->gate.quit = true;
	for (i = 0; i < vm->vcpus; i++)
		vm->accel->vcpu_kick(&vm->vcpu[i]);
	pthread_cond_broadcast(&vm->gate.open);
	pthread_mutex_unlock(&vm->gate.lock);
	for (i = 0; i < vm->vcpus; i++)
		pthread_join(vm->vcpu[i].thread, NULL);
	refvm_tracking_destroy(vm);
	for (i = 0; i < vm->vcpus; i++)
		vm->accel->vcpu_destroy(&vm->vcpu[i]);
	vm->accel->vm_destroy(vm);
	refvm_memory_destroy(&vm->memory);
	free(vm->ballast_data);
	pthread_cond_destroy(&vm->gate.parked);
	pthread_cond_destroy(&vm->gate.open);
	pthread_mutex_destroy(&vm->gate.lock);
	*vm = (struct refvm_vm){.vcpus = 0};
}
