/* SPDX-License-Identifier: BSD-3-Clause */
/* plug.c: see plug.h. */
#include "vmm/refvm/plug.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "base/bits.h"
#include "vmm/refvm/guest_boot.h"
#include "vmm/refvm/refvm.h"

#define LET_GO_STEPS 1000
#define LET_GO_US    1000

static struct refvm_guest_control *control_of(struct refvm *r)
{
	return refvm_memory_at(
		&r->vm.memory, REFVM_GPA_CONTROL, sizeof(struct refvm_guest_control));
}

static bool has_guest(const struct refvm *r)
{
	if (r->migration.ownership != REFVM_OWNED && r->migration.ownership != REFVM_SWITCHOVER)
		return false;
	return __atomic_load_n(&r->vm.loaded, __ATOMIC_ACQUIRE);
}

static void tell_guest(struct refvm *r)
{
	struct refvm_guest_control *control = control_of(r);

	__atomic_fetch_add(&control->dimm_change, 1, __ATOMIC_RELEASE);
	refvm_memory_written(&r->vm.memory, REFVM_GPA_CONTROL, sizeof(*control));
}

/* The count and the table come first, then the pages that are left. */
static void give_to_guest(struct refvm *r, unsigned int dimm, const struct refvm_region *region)
{
	struct refvm_guest_dimm *d = &control_of(r)->dimm[dimm];
	uint64_t pages = region->bytes / REFVM_PAGE_BYTES - 1;
	uint64_t table = sluice_align_up(pages * sizeof(uint32_t), REFVM_PAGE_BYTES);

	refvm_guest_map(&r->vm, region);
	/* The guest looks at all of it at any time; it uses it behind the epoch. */
	__atomic_store_n(&d->gpa, region->gpa, __ATOMIC_RELAXED);
	__atomic_store_n(&d->data, region->gpa + REFVM_PAGE_BYTES + table, __ATOMIC_RELAXED);
	__atomic_store_n(&d->pages, pages - table / REFVM_PAGE_BYTES, __ATOMIC_RELAXED);
	__atomic_store_n(&d->epoch, control_of(r)->dimm_change + 1, __ATOMIC_RELEASE);
	tell_guest(r);
}

static bool all_let_go(const struct refvm *r, uint64_t change)
{
	for (unsigned int i = 0; i < r->vm.vcpus; i++) {
		const struct refvm_guest_cpu *cpu = refvm_memory_at(
			&r->vm.memory, REFVM_GPA_CPU + i * REFVM_PAGE_BYTES, sizeof(*cpu));

		if (__atomic_load_n(&cpu->dimm_change, __ATOMIC_ACQUIRE) != change)
			return false;
	}
	return true;
}

/* Every vCPU has begun a step after the DIMM was taken from the control block, and ended it. */
static int take_from_guest(
	struct refvm *r, unsigned int dimm, uint64_t *ret_epoch, struct sluice_error *err)
{
	struct refvm_guest_dimm *d = &control_of(r)->dimm[dimm];
	uint64_t epoch = d->epoch;

	__atomic_store_n(&d->epoch, 0, __ATOMIC_RELEASE);
	tell_guest(r);
	for (int i = 0; i < LET_GO_STEPS; i++) {
		if (all_let_go(r, control_of(r)->dimm_change)) {
			*ret_epoch = epoch;
			return 0;
		}
		usleep(LET_GO_US);
	}
	__atomic_store_n(&d->epoch, epoch, __ATOMIC_RELEASE);
	tell_guest(r);
	return sluice_fail(err, -EBUSY, "unplug",
		"The guest does not let go of it; is it stopped? `cont` lets it go on.");
}

static int check_dimm(unsigned int dimm, const char *command, struct sluice_error *err)
{
	if (dimm < REFVM_DIMMS_MAX)
		return 0;
	return sluice_fail(
		err, -EINVAL, command, "DIMMs have the numbers 0 to %d.", REFVM_DIMMS_MAX - 1);
}

static void destroy(struct refvm *r, unsigned int slot)
{
	struct refvm_region region;

	refvm_tracking_unplug(&r->vm, slot, &region);
	refvm_memory_destroy_dimm(&r->vm.memory, &region);
}

int refvm_plug(struct refvm *r, unsigned int dimm, uint64_t bytes, struct sluice_error *err)
{
	unsigned int slot = REFVM_REGIONS_MAX + dimm;
	struct refvm_region region;
	int rc = check_dimm(dimm, "plug", err);

	if (rc < 0)
		return rc;
	if (r->vm.memory.region[slot].bytes != 0)
		return sluice_fail(err, -EEXIST, "plug", "There is a DIMM %u already.", dimm);
	rc = refvm_memory_create_dimm(&r->vm.memory, dimm, bytes, &region, err);
	if (rc < 0)
		return rc;
	rc = refvm_tracking_plug(&r->vm, slot, &region, err);
	if (rc < 0) {
		refvm_memory_destroy_dimm(&r->vm.memory, &region);
		return rc;
	}
	/* An engine that is lost is given all memory when it is back. */
	if (r->engine.vmm != NULL && !r->engine.broken)
		rc = refvm_engine_check(r, refvm_engine_add_region(r, &region, err));
	if (rc < 0 && !r->engine.broken) {
		destroy(r, slot);
		return rc;
	}
	if (has_guest(r))
		give_to_guest(r, dimm, &region);
	return 0;
}

int refvm_unplug(struct refvm *r, unsigned int dimm, struct sluice_error *err)
{
	unsigned int slot = REFVM_REGIONS_MAX + dimm;
	struct refvm_region *region = &r->vm.memory.region[slot];
	uint64_t epoch = 0;
	int rc = check_dimm(dimm, "unplug", err);

	if (rc < 0)
		return rc;
	if (region->bytes == 0 || region->leaving)
		return sluice_fail(err, -ENOENT, "unplug", "There is no DIMM %u.", dimm);
	if (has_guest(r))
		rc = take_from_guest(r, dimm, &epoch, err);
	if (rc == 0 && r->engine.vmm != NULL && !r->engine.broken)
		rc = refvm_engine_check(
			r, sluice_vmm_memory_remove(r->engine.vmm, region->id, err));
	if (rc < 0 && !r->engine.broken) { /* refused: the guest keeps it */
		if (epoch != 0) {
			__atomic_store_n(&control_of(r)->dimm[dimm].epoch, epoch, __ATOMIC_RELEASE);
			tell_guest(r);
		}
		return rc;
	}
	if (rc == 1) {
		region->leaving = true;
		return 1;
	}
	destroy(r, slot);
	return 0;
}

void refvm_unplugged(struct refvm *r, const char *id)
{
	for (unsigned int slot = REFVM_REGIONS_MAX; slot < REFVM_SLOTS_MAX; slot++)
		if (r->vm.memory.region[slot].leaving &&
			(id == NULL || strcmp(r->vm.memory.region[slot].id, id) == 0))
			destroy(r, slot);
}
