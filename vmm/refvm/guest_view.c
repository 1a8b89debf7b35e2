/* SPDX-License-Identifier: BSD-3-Clause */
/* guest_view.c: see guest_view.h. Everything by relaxed atomics: the guest runs meanwhile. */
#include "vmm/refvm/guest_view.h"

#define GET(field)        __atomic_load_n(&(field), __ATOMIC_RELAXED)
#define SET(field, value) __atomic_store_n(&(field), (value), __ATOMIC_RELAXED)

static const struct refvm_guest_cpu *cpu_at(const struct refvm_vm *vm, unsigned int i)
{
	return refvm_memory_at(
		&vm->memory, REFVM_GPA_CPU + i * REFVM_PAGE_BYTES, sizeof(struct refvm_guest_cpu));
}

static struct refvm_guest_control *control_of(const struct refvm_vm *vm)
{
	return refvm_memory_at(&vm->memory, REFVM_GPA_CONTROL, sizeof(struct refvm_guest_control));
}

uint64_t refvm_guest_ops(const struct refvm_vm *vm)
{
	uint64_t ops = 0;
	unsigned int i;

	for (i = 0; i < vm->vcpus; i++)
		ops += GET(cpu_at(vm, i)->ops);
	return ops;
}

void refvm_guest_totals(const struct refvm_vm *vm, struct refvm_guest_totals *ret_totals)
{
	struct refvm_guest_totals totals = {.pages = GET(control_of(vm)->pages)};
	unsigned int i, kind, slot;

	for (i = 0; i < vm->vcpus; i++) {
		const struct refvm_guest_cpu *cpu = cpu_at(vm, i);

		totals.cpu[i].ops = GET(cpu->ops);
		totals.cpu[i].filled = GET(cpu->filled);
		totals.cpu[i].error_page = GET(cpu->error_page);
		totals.ops += totals.cpu[i].ops;
		totals.filled += totals.cpu[i].filled;
		for (slot = 0; slot < REFVM_DIMMS_MAX; slot++)
			if (GET(control_of(vm)->dimm[slot].epoch) == GET(cpu->dimm_epoch[slot]))
				totals.dimm_ops += GET(cpu->dimm_ops[slot]);
		for (kind = 0; kind < REFVM_ERROR_KINDS; kind++) {
			totals.cpu[i].errors[kind] = GET(cpu->errors[kind]);
			totals.error_kinds[kind] += totals.cpu[i].errors[kind];
			totals.errors += totals.cpu[i].errors[kind];
		}
	}
	*ret_totals = totals;
}

void refvm_guest_settings_get(const struct refvm_vm *vm, struct refvm_guest_settings *ret_settings)
{
	const struct refvm_guest_control *control = control_of(vm);

	*ret_settings = (struct refvm_guest_settings){
		.pattern = (int)GET(control->pattern),
		.rate = GET(control->rate),
		.ramp_per_s = GET(control->ramp_per_s),
		.hot_writes_percent = GET(control->hot_writes_percent),
		.hot_pages_percent = GET(control->hot_pages_percent),
	};
}

void refvm_guest_settings_set(struct refvm_vm *vm, const struct refvm_guest_settings *settings)
{
	struct refvm_guest_control *control = control_of(vm);

	SET(control->pattern, (uint32_t)settings->pattern);
	SET(control->rate, settings->rate);
	SET(control->ramp_per_s, settings->ramp_per_s);
	SET(control->hot_writes_percent, (uint32_t)settings->hot_writes_percent);
	SET(control->hot_pages_percent, (uint32_t)settings->hot_pages_percent);
	SET(control->ramp_epoch, GET(control->ramp_epoch) + 1);
	refvm_memory_written(&vm->memory, REFVM_GPA_CONTROL, sizeof(*control));
}
