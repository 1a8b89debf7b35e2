/* SPDX-License-Identifier: BSD-3-Clause */
/* tracking.c: choosing a mechanism, and switching it on while somebody wants it. */
#include "vmm/refvm/tracking.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <sluice/sluice.h>

#include "base/assert.h"
#include "vmm/refvm/vm.h"

static const struct refvm_tracking_ops *const mechanisms[] = {
	[REFVM_TRACKING_LOG] = &refvm_tracking_log,
	[REFVM_TRACKING_LOG_MANUAL] = &refvm_tracking_log_manual,
	[REFVM_TRACKING_RING] = &refvm_tracking_ring,
	[REFVM_TRACKING_UFFD] = &refvm_tracking_uffd,
};

int refvm_tracking_create(struct refvm_vm *vm, int kind, struct sluice_error *err)
{
	bool kvm = vm->accel == &refvm_accel_kvm;
	size_t bytes = 0;
	unsigned int i;

	if (kind == REFVM_TRACKING_AUTO)
		kind = kvm ? REFVM_TRACKING_LOG : REFVM_TRACKING_UFFD;
	if (!kvm && kind != REFVM_TRACKING_UFFD)
		return sluice_fail(err, -EINVAL, "tracking",
			"Threads that stand in for vCPUs can only be tracked by uffd, not by %s.",
			mechanisms[kind]->name);
	for (i = 0; i < vm->memory.count; i++) {
		size_t need = sluice_bitmap_bytes(vm->memory.region[i].bytes);

		bytes = need > bytes ? need : bytes;
	}
	vm->tracking = (struct refvm_tracking){
		.ops = mechanisms[kind],
		.scratch = calloc(1, bytes),
		.uffd = -1,
		.pagemap_fd = -1,
	};
	if (vm->tracking.scratch == NULL)
		return sluice_fail(err, -ENOMEM, "tracking", "No memory for a dirty bitmap.");
	pthread_mutex_init(&vm->tracking.lock, NULL);
	return 0;
}

void refvm_tracking_destroy(struct refvm_vm *vm)
{
	struct refvm_tracking *tracking = &vm->tracking;

	if (tracking->ops == NULL)
		return;
	if (tracking->users != 0)
		tracking->ops->stop(vm);
	pthread_mutex_destroy(&tracking->lock);
	free(tracking->scratch);
	*tracking = (struct refvm_tracking){.ops = NULL};
}

int refvm_tracking_start(
	struct refvm_vm *vm, enum refvm_tracking_user user, struct sluice_error *err)
{
	struct refvm_tracking *tracking = &vm->tracking;
	int rc = 0;

	pthread_mutex_lock(&tracking->lock);
	if (tracking->users == 0)
		rc = tracking->ops->start(vm, err);
	if (rc == 0)
		tracking->users |= user;
	pthread_mutex_unlock(&tracking->lock);
	return rc;
}

void refvm_tracking_stop(struct refvm_vm *vm, enum refvm_tracking_user user)
{
	struct refvm_tracking *tracking = &vm->tracking;

	pthread_mutex_lock(&tracking->lock);
	if (tracking->users == (unsigned int)user)
		tracking->ops->stop(vm);
	tracking->users &= ~(unsigned int)user;
	pthread_mutex_unlock(&tracking->lock);
}

int refvm_tracking_harvest(struct refvm_vm *vm, struct sluice_error *err)
{
	struct refvm_tracking *tracking = &vm->tracking;
	int rc = 0;

	if (tracking->ops->kick_first)
		refvm_vm_kick_round(vm);
	pthread_mutex_lock(&tracking->lock);
	if (tracking->users != 0)
		rc = tracking->ops->harvest(vm, err);
	pthread_mutex_unlock(&tracking->lock);
	return rc;
}

int refvm_tracking_relieve(struct refvm_vm *vm, struct sluice_error *err)
{
	int rc;

	/* Also when tracking has just ended: then the entries only have to go. */
	pthread_mutex_lock(&vm->tracking.lock);
	rc = vm->tracking.ops->harvest(vm, err);
	pthread_mutex_unlock(&vm->tracking.lock);
	return rc;
}

/* Room in the scratch bitmap for the largest region. */
static int grow_scratch(struct refvm_tracking *tracking, uint64_t bytes, struct sluice_error *err)
{
	uint64_t *scratch = realloc(tracking->scratch, bytes);

	if (scratch == NULL)
		return sluice_fail(err, -ENOMEM, "tracking", "No memory for a dirty bitmap.");
	tracking->scratch = scratch;
	memset(scratch, 0, bytes);
	return 0;
}

static uint64_t scratch_bytes(const struct refvm_vm *vm, const struct refvm_region *region)
{
	uint64_t bytes = sluice_bitmap_bytes(region->bytes);
	unsigned int i;

	for (i = 0; i < vm->memory.count; i++) {
		uint64_t need = sluice_bitmap_bytes(vm->memory.region[i].bytes);

		bytes = need > bytes ? need : bytes;
	}
	return bytes;
}

int refvm_tracking_plug(struct refvm_vm *vm, unsigned int slot, const struct refvm_region *region,
	struct sluice_error *err)
{
	struct refvm_tracking *tracking = &vm->tracking;
	bool on, kvm = vm->kvm.vm_fd >= 0;
	int rc;

	pthread_mutex_lock(&tracking->lock);
	on = tracking->users != 0;
	rc = grow_scratch(tracking, scratch_bytes(vm, region), err);
	if (rc == 0 && kvm)
		rc = refvm_kvm_set_slot(vm, slot, region, on && tracking->ops->add == NULL, err);
	if (rc == 0 && on && tracking->ops->add != NULL)
		rc = tracking->ops->add(vm, region, err);
	if (rc == 0) {
		vm->memory.region[slot] = *region;
		if (vm->memory.count <= slot)
			__atomic_store_n(&vm->memory.count, slot + 1, __ATOMIC_RELEASE);
	} else if (kvm) {
		refvm_kvm_set_slot(vm, slot, &(struct refvm_region){.bytes = 0}, false, NULL);
	}
	pthread_mutex_unlock(&tracking->lock);
	return rc;
}

void refvm_tracking_unplug(struct refvm_vm *vm, unsigned int slot, struct refvm_region *ret_region)
{
	pthread_mutex_lock(&vm->tracking.lock);
	*ret_region = vm->memory.region[slot];
	if (vm->kvm.vm_fd >= 0)
		refvm_kvm_set_slot(vm, slot, &(struct refvm_region){.bytes = 0}, false, NULL);
	vm->memory.region[slot] = (struct refvm_region){.fd = -1, .dirty_fd = -1};
	pthread_mutex_unlock(&vm->tracking.lock);
}
