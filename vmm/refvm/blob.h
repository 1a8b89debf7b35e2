/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * blob.h: the device blob "vcpus": one header and a row of sections, as a byte stream.
 *
 *	header	 magic, version, vCPUs, accelerator, generation, bytes and XXH3-64 of the rest
 *	section	 type, vCPU, bytes, then the content, padded to 8 bytes
 *
 * Integers are little-endian; contents are the structures of linux/kvm.h as they are, which
 * are part of the kernel's stable interface. What a blob says is checked before use: it
 * comes from another host.
 *
 * Threading: plain data, one thread at a time.
 */
#ifndef REFVM_BLOB_H
#define REFVM_BLOB_H

#include <stddef.h>
#include <stdint.h>

#include <sluice/error.h>

#define REFVM_BLOB_MAGIC     0x5550434d56464552ull /* "REFVMCPU" */
#define REFVM_BLOB_VERSION   1
#define REFVM_BLOB_BYTES_MAX (16u << 20)
#define REFVM_BLOB_ACCEL_MAX 16

struct refvm_blob_header {
	uint64_t magic;
	uint32_t version;
	uint32_t vcpus;
	uint32_t running; /* 1: it ran when it was stopped to be moved; 0: it was paused */
	uint32_t reserved; /* 0 */
	char accel[REFVM_BLOB_ACCEL_MAX];
	uint64_t generation; /* of the guest's ownership (witness.h) */
	uint64_t tick_hz; /* of the guest's time stamp counter */
	uint64_t body_bytes;
	uint64_t body_xxh3;
	uint64_t header_xxh3; /* of all fields above */
};

enum refvm_section {
	REFVM_SECTION_CPUID = 1, /* struct kvm_cpuid_entry2[] */
	REFVM_SECTION_SREGS, /* struct kvm_sregs */
	REFVM_SECTION_REGS, /* struct kvm_regs */
	REFVM_SECTION_XCRS, /* struct kvm_xcrs */
	REFVM_SECTION_XSAVE, /* struct kvm_xsave, as long as the host's features need */
	REFVM_SECTION_DEBUGREGS, /* struct kvm_debugregs */
	REFVM_SECTION_MSRS, /* struct kvm_msr_entry[] */
	REFVM_SECTION_EVENTS, /* struct kvm_vcpu_events */
	REFVM_SECTION_THREAD, /* uint64_t: the operation count of a thread */
	REFVM_SECTION_BALLAST, /* struct refvm_ballast: what follows the body */
};

/* Bytes behind the body that mean nothing, as many as a large device's state has. They stream
   past: holding them in memory would cost more than the device would. */
struct refvm_ballast {
	uint64_t bytes;
	uint64_t xxh3;
};

struct refvm_blob {
	struct refvm_blob_header header;
	uint8_t *body;
	size_t body_bytes;
	size_t room_bytes;
};

void refvm_blob_free(struct refvm_blob *blob); /* zeroed ones are allowed */

/* Append a section. -ENOMEM, or -E2BIG past REFVM_BLOB_BYTES_MAX. */
int refvm_blob_add(struct refvm_blob *blob, enum refvm_section type, unsigned int vcpu,
	const void *data, size_t bytes, struct sluice_error *err);
/* A vCPU's section: its content and *ret_bytes; -ENOENT when there is none, -EINVAL when it
   is not a positive multiple of @unit_bytes long. */
int refvm_blob_find(const struct refvm_blob *blob, enum refvm_section type, unsigned int vcpu,
	size_t unit_bytes, const void **ret_data, size_t *ret_bytes, struct sluice_error *err);

/* Fill in the header's sizes and checksums and return one buffer to send; free() it. */
int refvm_blob_seal(
	struct refvm_blob *blob, uint8_t **ret_bytes, size_t *ret_len, struct sluice_error *err);
/* Read one blob up to the end of @fd and check everything that needs no VM. Blocks. */
int refvm_blob_read(int fd, struct refvm_blob *ret_blob, struct sluice_error *err);

#endif
