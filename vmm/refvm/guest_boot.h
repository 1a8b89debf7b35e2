/* SPDX-License-Identifier: BSD-3-Clause */
/* guest_boot.h: what a VMM's firmware would do: the guest program, its tables and its
   control block in fresh memory. Main thread, before vCPUs run. */
#ifndef REFVM_GUEST_BOOT_H
#define REFVM_GUEST_BOOT_H

#include "vmm/refvm/vm.h"

/* Selectors of the descriptor table at REFVM_GPA_GDT. */
#define REFVM_SELECTOR_CODE 0x0b /* ring 3 */
#define REFVM_SELECTOR_DATA 0x13

int refvm_guest_boot(
	struct refvm_vm *vm, const struct refvm_guest_opts *opts, struct sluice_error *err);

/* Map a region at its guest-physical address, also while the guest runs: entries that were not
   present are in no translation cache. */
void refvm_guest_map(struct refvm_vm *vm, const struct refvm_region *region);

#endif
