/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * tracking.h: which pages the guest writes. Three mechanisms behind one table.
 *
 * The order that must hold: a page is protected again first, then its bit is published; so
 * whoever takes the bit and then reads the page sees every write up to the bit, and a later
 * write sets the bit again.
 *
 * Threading: start, stop and harvest by the main thread; a vCPU whose dirty ring is full
 * harvests too. The lock keeps harvests apart.
 */
#ifndef REFVM_TRACKING_H
#define REFVM_TRACKING_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include <sluice/error.h>

struct refvm_vm;
struct refvm_region;

enum refvm_tracking_kind {
	REFVM_TRACKING_AUTO, /* log with kvm, uffd with threads */
	REFVM_TRACKING_LOG, /* KVM_GET_DIRTY_LOG, which protects as it reads */
	REFVM_TRACKING_LOG_MANUAL, /* KVM_GET_DIRTY_LOG, then KVM_CLEAR_DIRTY_LOG */
	REFVM_TRACKING_RING, /* a ring of page numbers per vCPU */
	REFVM_TRACKING_UFFD, /* userfaultfd WP_ASYNC and PAGEMAP_SCAN on our own mapping */
};

/* Who wants tracking; it is on while anyone does. */
enum refvm_tracking_user {
	REFVM_TRACKING_FOR_MIGRATION = 1 << 0,
	REFVM_TRACKING_FOR_VERIFY = 1 << 1,
};

/* All called with the lock held. */
struct refvm_tracking_ops {
	const char *name;
	/* From its return on every write is tracked. */
	int (*start)(struct refvm_vm *vm, struct sluice_error *err);
	void (*stop)(struct refvm_vm *vm);
	/* Protect again what was written since the last harvest, then publish it. */
	int (*harvest)(struct refvm_vm *vm, struct sluice_error *err);
	/* This region is here now, and so is tracking. NULL: nothing is to be done. */
	int (*add)(
		struct refvm_vm *vm, const struct refvm_region *region, struct sluice_error *err);
	bool kick_first; /* vCPUs must leave the guest once for a harvest to be complete */
};

extern const struct refvm_tracking_ops refvm_tracking_log;
extern const struct refvm_tracking_ops refvm_tracking_log_manual;
extern const struct refvm_tracking_ops refvm_tracking_ring;
extern const struct refvm_tracking_ops refvm_tracking_uffd;

struct refvm_tracking {
	const struct refvm_tracking_ops *ops;
	pthread_mutex_t lock;
	unsigned int users; /* enum refvm_tracking_user */
	uint64_t *scratch; /* as large as the largest region's bitmap */
	int uffd, pagemap_fd; /* uffd; -1 while off */
};

int refvm_tracking_create(struct refvm_vm *vm, int kind, struct sluice_error *err);
void refvm_tracking_destroy(struct refvm_vm *vm);

/* Nothing happens when @user has it on (or off) already. */
int refvm_tracking_start(
	struct refvm_vm *vm, enum refvm_tracking_user user, struct sluice_error *err);
void refvm_tracking_stop(struct refvm_vm *vm, enum refvm_tracking_user user);
/* When it returns 0, all writes that happened before the call are published. */
int refvm_tracking_harvest(struct refvm_vm *vm, struct sluice_error *err);
/* Make room in a full dirty ring. By the vCPU's thread; promises nothing of other vCPUs. */
int refvm_tracking_relieve(struct refvm_vm *vm, struct sluice_error *err);

/*
 * Give the machine a region, tracked from its first moment while tracking is on; or take it, which
 * no vCPU uses any more. The list of regions changes only here.
 */
int refvm_tracking_plug(struct refvm_vm *vm, unsigned int slot, const struct refvm_region *region,
	struct sluice_error *err);
void refvm_tracking_unplug(struct refvm_vm *vm, unsigned int slot, struct refvm_region *ret_region);

/* KVM's side of it: switch KVM_MEM_LOG_DIRTY_PAGES of all memory slots. */
int refvm_kvm_log_pages(struct refvm_vm *vm, bool on, struct sluice_error *err);
/* One memory slot; a region of 0 bytes takes it away. */
int refvm_kvm_set_slot(struct refvm_vm *vm, unsigned int slot, const struct refvm_region *region,
	bool log, struct sluice_error *err);

#endif
