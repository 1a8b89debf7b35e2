/* SPDX-License-Identifier: BSD-3-Clause */
/* state.c: what all vCPUs are, as one blob, and what must fit before it is loaded. */
#include "vmm/refvm/state.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"

int refvm_state_save(struct refvm_vm *vm, uint64_t generation, bool running, uint8_t **ret_bytes,
	size_t *ret_len, struct sluice_error *err)
{
	struct refvm_blob blob = {
		.header =
			{
				.vcpus = vm->vcpus,
				.running = running,
				.generation = generation,
				.tick_hz = vm->tick_hz,
			},
	};
	unsigned int i;
	int rc = 0;

	SLUICE_ASSERT(!refvm_vm_running(vm));
	snprintf(blob.header.accel, sizeof(blob.header.accel), "%s", vm->accel->name);
	for (i = 0; rc == 0 && i < vm->vcpus; i++)
		rc = vm->accel->vcpu_save(&vm->vcpu[i], &blob, err);
	if (rc == 0 && vm->ballast.bytes > 0)
		rc = refvm_blob_add(
			&blob, REFVM_SECTION_BALLAST, 0, &vm->ballast, sizeof(vm->ballast), err);
	if (rc == 0)
		rc = refvm_blob_seal(&blob, ret_bytes, ret_len, err);
	refvm_blob_free(&blob);
	return rc;
}

static int check_fits(
	const struct refvm_vm *vm, const struct refvm_blob *blob, struct sluice_error *err)
{
	if (strcmp(blob->header.accel, vm->accel->name) != 0)
		return sluice_fail(err, -EINVAL, "vcpus",
			"The guest ran with accelerator %s, which cannot go on with %s.",
			blob->header.accel, vm->accel->name);
	if (blob->header.vcpus != vm->vcpus)
		return sluice_fail(err, -EINVAL, "vcpus",
			"The guest has %" PRIu32 " vCPUs; this machine was made with %u.",
			blob->header.vcpus, vm->vcpus);
	return 0;
}

/* The guest paces itself; tell it this host's clock. */
static void tell_tick_hz(struct refvm_vm *vm)
{
	struct refvm_guest_control *control =
		refvm_memory_at(&vm->memory, REFVM_GPA_CONTROL, sizeof(*control));

	if (control->tick_hz == vm->tick_hz)
		return;
	__atomic_store_n(&control->tick_hz, vm->tick_hz, __ATOMIC_RELAXED);
	refvm_memory_written(&vm->memory, REFVM_GPA_CONTROL, sizeof(*control));
}

int refvm_state_load(struct refvm_vm *vm, const struct refvm_blob *blob, struct sluice_error *err)
{
	unsigned int i;
	int rc;

	SLUICE_ASSERT(!refvm_vm_running(vm));
	rc = check_fits(vm, blob, err);
	if (rc < 0)
		return rc;
	__atomic_store_n(&vm->loaded, false, __ATOMIC_RELEASE);
	for (i = 0; i < vm->vcpus; i++) {
		rc = vm->accel->vcpu_load(&vm->vcpu[i], blob, err);
		if (rc < 0)
			return rc;
	}
	return 0;
}

void refvm_state_enter(struct refvm_vm *vm)
{
	SLUICE_ASSERT(!refvm_vm_running(vm));
	tell_tick_hz(vm);
	__atomic_store_n(&vm->loaded, true, __ATOMIC_RELEASE);
}
