/* SPDX-License-Identifier: BSD-3-Clause */
/* guest_view.h: looking into the guest's control block, and changing its settings. Any thread
   while the machine holds a guest (vm->loaded); setting by the main thread. */
#ifndef REFVM_GUEST_VIEW_H
#define REFVM_GUEST_VIEW_H

#include "vmm/refvm/vm.h"

struct refvm_guest_totals {
	uint64_t ops;
	uint64_t errors; /* of all kinds */
	uint64_t error_kinds[REFVM_ERROR_KINDS];
	uint64_t filled; /* pages */
	uint64_t pages;
	uint64_t dimm_ops; /* writes to memory that is plugged in now */
	struct refvm_guest_cpu cpu[REFVM_VCPUS_MAX];
};

struct refvm_guest_settings {
	int pattern; /* enum refvm_pattern */
	uint64_t rate, ramp_per_s, hot_writes_percent, hot_pages_percent;
};

uint64_t refvm_guest_ops(const struct refvm_vm *vm);
void refvm_guest_totals(const struct refvm_vm *vm, struct refvm_guest_totals *ret_totals);
void refvm_guest_settings_get(const struct refvm_vm *vm, struct refvm_guest_settings *ret_settings);
/* Takes effect at each vCPU's next step; a ramp starts anew. Published as a write of ours. */
void refvm_guest_settings_set(struct refvm_vm *vm, const struct refvm_guest_settings *settings);

#endif
