/* SPDX-License-Identifier: BSD-3-Clause */
/* kvm.h: what the files of the KVM accelerator share. */
#ifndef REFVM_KVM_H
#define REFVM_KVM_H

#include <stddef.h>

#include <linux/kvm.h>

#include "vmm/refvm/vm.h"

#define REFVM_CPUID_MAX 256
#define REFVM_MSRS_MAX  64

/* kvm.c */
int refvm_kvm_vm_create(struct refvm_vm *vm, struct sluice_error *err);
void refvm_kvm_vm_destroy(struct refvm_vm *vm);

/* kvm_state.c */
int refvm_kvm_vcpu_save(struct refvm_vcpu *vcpu, struct refvm_blob *blob, struct sluice_error *err);
int refvm_kvm_vcpu_load(
	struct refvm_vcpu *vcpu, const struct refvm_blob *blob, struct sluice_error *err);

/* tracking_ring.c: before there are vCPUs; then for each of them. */
int refvm_ring_enable(struct refvm_vm *vm, struct sluice_error *err);
int refvm_ring_map(struct refvm_vcpu *vcpu, struct sluice_error *err);
void refvm_ring_unmap(struct refvm_vcpu *vcpu);

/* ioctl() that returns its result or -errno, described. */
int refvm_kvm_ioctl(
	int fd, unsigned long request, const char *name, void *arg, struct sluice_error *err);
#define REFVM_KVM(fd, request, arg, err) refvm_kvm_ioctl(fd, request, #request, arg, err)

#endif
