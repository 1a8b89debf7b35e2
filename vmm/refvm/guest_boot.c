/* SPDX-License-Identifier: BSD-3-Clause */
/* guest_boot.c: laying out fresh guest memory. See guest/abi.h for the map. */
#include "vmm/refvm/guest_boot.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/assert.h"
#include "base/bits.h"
#include "vmm/refvm/guest_image.h"

/* Page table bits (Intel SDM volume 3, 4.5). Accessed and dirty are set in advance, so that
   the processor never writes to the tables and they stay clean. */
#define PTE_TABLE       0x27ull /* present, writable, user, accessed */
#define PTE_HUGE        0xe7ull /* the same, dirty, 2 MiB page */
#define HUGE_PAGE_BYTES (2ull << 20)
#define GIB             (1ull << 30)

/* Flat ring-3 segments: 64-bit code (L) and data. */
#define GDT_CODE 0x00affb000000ffffull
#define GDT_DATA 0x00cff3000000ffffull

static uint64_t *table_at(struct refvm_vm *vm, uint64_t gpa)
{
	refvm_memory_written(&vm->memory, gpa, REFVM_PAGE_BYTES);
	return refvm_memory_at(&vm->memory, gpa, REFVM_PAGE_BYTES);
}

void refvm_guest_map(struct refvm_vm *vm, const struct refvm_region *region)
{
	uint64_t *pdpt = table_at(vm, REFVM_GPA_PDPT);
	uint64_t gpa = region->gpa, end = gpa + region->bytes;

	for (; gpa < end; gpa += HUGE_PAGE_BYTES) {
		uint64_t gib = gpa / GIB, pd_gpa = REFVM_GPA_PD + gib * REFVM_PAGE_BYTES;
		uint64_t *pd = table_at(vm, pd_gpa);

		pd[gpa % GIB / HUGE_PAGE_BYTES] = gpa | PTE_HUGE;
		refvm_memory_written(&vm->memory, pd_gpa, REFVM_PAGE_BYTES);
		pdpt[gib] = pd_gpa | PTE_TABLE;
	}
	refvm_memory_written(&vm->memory, REFVM_GPA_PDPT, REFVM_PAGE_BYTES);
}

/* Map every region, and nothing else, at its guest-physical address. */
static void map_identity(struct refvm_vm *vm)
{
	uint64_t *pml4 = table_at(vm, REFVM_GPA_PML4);
	unsigned int i;

	pml4[0] = REFVM_GPA_PDPT | PTE_TABLE;
	for (i = 0; i < vm->memory.count; i++)
		refvm_guest_map(vm, &vm->memory.region[i]);
}

static void write_gdt(struct refvm_vm *vm)
{
	uint64_t *gdt = table_at(vm, REFVM_GPA_GDT);

	gdt[REFVM_SELECTOR_CODE / 8] = GDT_CODE;
	gdt[REFVM_SELECTOR_DATA / 8] = GDT_DATA;
}

/*
 * Which pages the guest works on: what follows the table of versions in ram-low, then the
 * other regions, until @touch_bytes. The table is sized for the most there could be.
 */
static void choose_pages(
	struct refvm_vm *vm, struct refvm_guest_control *control, uint64_t touch_bytes)
{
	uint64_t total = 0, left = touch_bytes / REFVM_PAGE_BYTES, start;
	unsigned int i;

	for (i = 0; i < vm->memory.count; i++)
		total += vm->memory.region[i].bytes / REFVM_PAGE_BYTES;
	if (left > total)
		left = total;
	start = sluice_align_up(REFVM_GPA_TABLE + left * sizeof(uint32_t), REFVM_PAGE_BYTES);
	for (i = 0; i < vm->memory.count && left > 0; i++) {
		const struct refvm_region *region = &vm->memory.region[i];
		uint64_t skip = i == 0 ? start : 0;
		uint64_t pages;

		if (skip >= region->bytes)
			continue;
		pages = (region->bytes - skip) / REFVM_PAGE_BYTES;
		if (pages > left)
			pages = left;
		control->segment[control->segments].gpa = region->gpa + skip;
		control->segment[control->segments].pages = pages;
		control->segments++;
		control->pages += pages;
		left -= pages;
	}
}

static void write_control(struct refvm_vm *vm, const struct refvm_guest_opts *opts)
{
	struct refvm_guest_control *control =
		refvm_memory_at(&vm->memory, REFVM_GPA_CONTROL, sizeof(*control));
	unsigned int i;

	*control = (struct refvm_guest_control){
		.seed = opts->seed,
		.tick_hz = vm->tick_hz,
		.rate = opts->rate,
		.ramp_per_s = opts->ramp_per_s,
		.ramp_epoch = 1,
		.vcpus = vm->vcpus,
		.pattern = (uint32_t)opts->pattern,
		.fill = (uint32_t)opts->fill,
		.hot_writes_percent = (uint32_t)opts->hot_writes_percent,
		.hot_pages_percent = (uint32_t)opts->hot_pages_percent,
	};
	choose_pages(vm, control, opts->touch_bytes);
	refvm_memory_written(&vm->memory, REFVM_GPA_CONTROL, sizeof(*control));
	for (i = 0; i < vm->vcpus; i++) {
		uint64_t gpa = REFVM_GPA_CPU + i * REFVM_PAGE_BYTES;
		struct refvm_guest_cpu *cpu = refvm_memory_at(&vm->memory, gpa, sizeof(*cpu));

		*cpu = (struct refvm_guest_cpu){.random = opts->seed + i};
		refvm_memory_written(&vm->memory, gpa, sizeof(*cpu));
	}
}

int refvm_guest_boot(
	struct refvm_vm *vm, const struct refvm_guest_opts *opts, struct sluice_error *err)
{
	unsigned int i;
	int rc;

	SLUICE_ASSERT(refvm_guest_image_bytes <= REFVM_PROGRAM_BYTES_MAX);
	SLUICE_ASSERT(opts->vcpus == vm->vcpus);
	map_identity(vm);
	write_gdt(vm);
	memcpy(refvm_memory_at(&vm->memory, REFVM_GPA_PROGRAM, refvm_guest_image_bytes),
		refvm_guest_image, refvm_guest_image_bytes);
	refvm_memory_written(&vm->memory, REFVM_GPA_PROGRAM, refvm_guest_image_bytes);
	write_control(vm, opts);
	for (i = 0; i < vm->vcpus; i++) {
		rc = vm->accel->vcpu_boot(&vm->vcpu[i], err);
		if (rc < 0)
			return rc;
	}
	return 0;
}
