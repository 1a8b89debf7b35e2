/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * vm.h: the virtual machine: memory, vCPUs and the gate that lets them run.
 *
 * Threading: one thread per vCPU, one ticker (throttling and sampling), and the main thread
 * which owns everything else and alone calls the functions here, unless said otherwise. vCPU
 * state is read and written by the main thread while all vCPUs are parked at the gate.
 */
#ifndef REFVM_VM_H
#define REFVM_VM_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include <sluice/error.h>

#include "vmm/refvm/blob.h"
#include "vmm/refvm/memory.h"
#include "vmm/refvm/tracking.h"

struct refvm_vm;
struct refvm_vcpu;

enum refvm_accel_kind {
	REFVM_ACCEL_AUTO, /* kvm where it works, thread otherwise */
	REFVM_ACCEL_KVM,
	REFVM_ACCEL_THREAD,
};

/* Why a vCPU left the guest. */
enum refvm_exit {
	REFVM_EXIT_KICKED,
	REFVM_EXIT_YIELD,
	REFVM_EXIT_RING_FULL,
	REFVM_EXIT_FAILED,
};

/* How vCPUs run. Functions of a vCPU are called by its thread, but for kick (any thread),
   and boot, save, load, create and destroy (main thread, the vCPU parked). */
struct refvm_accel {
	const char *name;
	int (*vm_create)(struct refvm_vm *vm, struct sluice_error *err);
	void (*vm_destroy)(struct refvm_vm *vm);
	int (*vcpu_create)(struct refvm_vcpu *vcpu, struct sluice_error *err);
	void (*vcpu_destroy)(struct refvm_vcpu *vcpu);
	/* Put it at the guest program's first instruction. */
	int (*vcpu_boot)(struct refvm_vcpu *vcpu, struct sluice_error *err);
	/* Run until something happens. YIELD: *ret_yield_us. FAILED: *err. */
	enum refvm_exit (*vcpu_run)(
		struct refvm_vcpu *vcpu, uint32_t *ret_yield_us, struct sluice_error *err);
	/* The state is about to be read: finish what an exit left half done. */
	void (*vcpu_settle)(struct refvm_vcpu *vcpu);
	/* Make vcpu_run() return soon, also when it is only about to be called. */
	void (*vcpu_kick)(struct refvm_vcpu *vcpu);
	void (*vcpu_unkick)(struct refvm_vcpu *vcpu);
	int (*vcpu_save)(
		struct refvm_vcpu *vcpu, struct refvm_blob *blob, struct sluice_error *err);
	int (*vcpu_load)(
		struct refvm_vcpu *vcpu, const struct refvm_blob *blob, struct sluice_error *err);
};

extern const struct refvm_accel refvm_accel_kvm;
extern const struct refvm_accel refvm_accel_thread;

struct kvm_run;
struct kvm_dirty_gfn;

struct refvm_vcpu {
	struct refvm_vm *vm;
	unsigned int index;
	pthread_t thread;
	bool thread_started;

	/* Under the gate's lock. */
	bool parked;
	bool nap_due; /* throttling: it has run for a while */
	bool napping;
	bool inside; /* the guest, or about to be */
	bool has_run;
	uint64_t run_from_ns; /* since it last napped or stood still */
	uint64_t exits; /* times it has left the guest */

	/* kvm */
	int fd;
	struct kvm_run *run;
	size_t run_bytes;
	struct kvm_dirty_gfn *ring; /* under the tracking's lock */
	uint32_t ring_next;

	/* thread */
	bool kicked; /* atomic */
	uint64_t ops; /* stands in for the count in registers */
};

/* What all vCPUs wait at. */
struct refvm_gate {
	pthread_mutex_t lock;
	pthread_cond_t open; /* running changed, or a nap is over early */
	pthread_cond_t parked; /* a vCPU parked, or failed */
	bool running;
	bool quit;
};

struct refvm_kvm {
	int fd;
	int vm_fd;
	uint32_t ring_entries; /* 0: no dirty ring */
	uint32_t xsave_bytes;
	uint32_t tsc_khz;
};

struct refvm_guest_opts {
	unsigned int vcpus;
	uint64_t touch_bytes; /* of data pages; UINT64_MAX: all there is room for */
	uint64_t seed;
	int fill; /* enum refvm_fill */
	int pattern; /* enum refvm_pattern */
	uint64_t rate;
	uint64_t ramp_per_s;
	uint64_t hot_writes_percent;
	uint64_t hot_pages_percent;
};

struct refvm_vm_opts {
	struct refvm_memory_opts memory;
	struct refvm_guest_opts guest;
	int accel; /* enum refvm_accel_kind */
	int tracking; /* enum refvm_tracking_kind */
	uint32_t ring_entries;
	uint64_t ballast_bytes; /* of state that means nothing */
	bool incoming; /* leave memory untouched: its content will arrive */
};

struct refvm_vm {
	const struct refvm_accel *accel;
	struct refvm_memory memory;
	struct refvm_tracking tracking;
	struct refvm_gate gate;
	struct refvm_vcpu vcpu[REFVM_VCPUS_MAX];
	unsigned int vcpus;
	struct refvm_kvm kvm;
	uint64_t tick_hz; /* of the guest's time stamp counter on this host */
	struct refvm_ballast ballast;
	uint8_t *ballast_data; /* incompressible */
	bool loaded; /* memory and vCPUs hold a guest; atomic, the ticker reads it */

	uint64_t throttle_percent; /* atomic */
	uint64_t stopped_ns; /* CLOCK_MONOTONIC; when vCPUs were last told to stop */
	uint64_t running_ns; /* and when they were let go; 0: never */

	/* A vCPU that cannot go on describes why, once, and calls this from its thread. */
	struct sluice_error failure; /* under the gate's lock */
	void (*on_failure)(void *ctx);
	void *on_failure_ctx;
};

/* Create everything; vCPUs are parked. @vm must not move afterwards. */
int refvm_vm_create(
	const struct refvm_vm_opts *opts, struct refvm_vm *vm, struct sluice_error *err);
void refvm_vm_destroy(struct refvm_vm *vm);

/* Let vCPUs run; does not wait. */
void refvm_vm_start(struct refvm_vm *vm);
/* Take vCPUs out of the guest; returns when all are parked and settled. */
void refvm_vm_stop(struct refvm_vm *vm);
/* Make every vCPU leave the guest once; returns when all have. */
void refvm_vm_kick_round(struct refvm_vm *vm);
bool refvm_vm_running(struct refvm_vm *vm);
/* vCPUs sleep @percent of the time, 0 to 99. */
void refvm_vm_throttle(struct refvm_vm *vm, unsigned int percent);
/* Throttled vCPUs take their next nap. Ticker thread, every REFVM_TICK_NS. */
void refvm_vm_tick(struct refvm_vm *vm);

#define REFVM_TICK_NS 10000000ull

#endif
