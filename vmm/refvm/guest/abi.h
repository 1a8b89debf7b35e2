/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * abi.h: what refvm and its guest program agree on: where things stand in guest-physical
 * memory, the control block, and one step of the workload.
 *
 * The guest runs in ring 3 with every region mapped at its guest-physical address, so that
 * a pointer is `bias + gpa` with bias 0. Where threads stand in for vCPUs the same code
 * runs in the VMM's own address space, where bias is the base of the guest's mapping.
 *
 * Threading: the control block is written by the VMM and read by all vCPUs, a vCPU's page
 * is written by that vCPU and read by the VMM; both by relaxed atomics.
 */
#ifndef REFVM_GUEST_ABI_H
#define REFVM_GUEST_ABI_H

#include <stdint.h>

#define REFVM_VCPUS_MAX    16
#define REFVM_REGIONS_MAX  4 /* from the start */
#define REFVM_DIMMS_MAX    4 /* plugged in and out while it runs */
#define REFVM_PAGE_BYTES   4096ull
#define REFVM_PORT_YIELD   0x10 /* out eax: sleep this many microseconds */
#define REFVM_YIELD_US_MAX 10000

/* Guest-physical layout of the first 2 MiB; all of it lies in "ram-low". */
#define REFVM_GPA_GDT     0x1000ull
#define REFVM_GPA_PML4    0x2000ull
#define REFVM_GPA_PDPT    0x3000ull
#define REFVM_GPA_CONTROL 0x4000ull
#define REFVM_GPA_CPU     0x5000ull /* one page per vCPU */
#define REFVM_GPA_PD      0x20000ull /* one page per GiB of guest-physical address */
#define REFVM_GPA_PROGRAM 0x180000ull /* also in guest.ld */
#define REFVM_GPA_STACK   0x1a0000ull /* one per vCPU */
#define REFVM_GPA_TABLE   0x200000ull /* expected versions, uint32_t per data page */
#define REFVM_GPA_MAX     (256ull << 30) /* what the page directories have room for */

#define REFVM_PROGRAM_BYTES_MAX (REFVM_GPA_STACK - REFVM_GPA_PROGRAM)
#define REFVM_STACK_BYTES       0x4000ull

enum refvm_pattern {
	REFVM_PATTERN_IDLE, /* a heartbeat in the vCPU's own page, no data page */
	REFVM_PATTERN_SEQUENTIAL, /* page after page */
	REFVM_PATTERN_UNIFORM, /* any page, all alike */
	REFVM_PATTERN_HOTSET, /* hot_writes_percent of writes in hot_pages_percent of pages */
	REFVM_PATTERN_RAMP, /* uniform, at a rate that rises by ramp_per_s every second */
};

enum refvm_fill {
	REFVM_FILL_RANDOM, /* incompressible, from the page's number and the seed */
	REFVM_FILL_ZERO, /* touched, but zero until first written by the workload */
	REFVM_FILL_ALTERNATE, /* even pages random, odd ones untouched: content in single pages */
};

/* A range of data pages. The pages of all segments are numbered through, from 0. */
struct refvm_guest_segment {
	uint64_t gpa;
	uint64_t pages;
};

/*
 * Memory that was plugged in. It begins with a count of writes per vCPU, which has to be what that
 * vCPU knows; then expected versions, uint32_t per page, and from @data on the pages. vCPU n works
 * on each page whose number is n modulo the vCPUs. All of it is zero at first.
 */
struct refvm_guest_dimm {
	uint64_t epoch; /* another one for each time it is plugged in; 0: it is not there */
	uint64_t gpa;
	uint64_t data; /* gpa of the first page */
	uint64_t pages;
};

/* At REFVM_GPA_CONTROL. Settings may change at any time; a vCPU reads them every step. */
struct refvm_guest_control {
	uint64_t seed;
	uint64_t tick_hz; /* of the time stamp counter, as vCPUs of this host see it */
	uint64_t rate; /* page writes per second of the whole guest; 0: as fast as it can */
	uint64_t ramp_per_s;
	uint64_t ramp_epoch; /* another value starts the ramp anew */
	uint64_t pages; /* data pages of all segments */
	uint32_t vcpus;
	uint32_t pattern; /* enum refvm_pattern */
	uint32_t fill; /* enum refvm_fill; fixed at boot */
	uint32_t hot_writes_percent;
	uint32_t hot_pages_percent;
	uint32_t segments;
	struct refvm_guest_segment segment[REFVM_REGIONS_MAX];
	uint64_t dimm_change; /* grows behind each change of @dimm */
	struct refvm_guest_dimm dimm[REFVM_DIMMS_MAX];
};

enum refvm_guest_error {
	REFVM_ERROR_VERSION, /* a page is not at the version the table expects */
	REFVM_ERROR_CHECKSUM, /* its checksum does not fit its number and version */
	REFVM_ERROR_FILLER, /* its constant part has changed */
	REFVM_ERROR_COUNT, /* the counts in RAM and in the registers, or in a DIMM, differ */
	REFVM_ERROR_KINDS,
};

/* At REFVM_GPA_CPU + vCPU * REFVM_PAGE_BYTES. */
struct refvm_guest_cpu {
	uint64_t ops; /* page writes done (heartbeats when idle); equals the registers' count */
	uint64_t filled; /* of its own pages, how many it has filled */
	uint64_t errors[REFVM_ERROR_KINDS];
	uint64_t error_page; /* number of the last page with an error */
	uint64_t cursor; /* sequential: next page of its share */
	uint64_t random; /* state of the generator */
	uint64_t next_tick; /* when the next write is due */
	uint64_t ramp_epoch;
	uint64_t ramp_ticks; /* how long the ramp has gone on */
	uint64_t ramp_seen; /* tick up to which ramp_ticks counts */
	uint64_t dimm_change; /* a whole step was done since the control block said so */
	uint64_t dimm_epoch[REFVM_DIMMS_MAX]; /* that dimm_ops counts for */
	uint64_t dimm_ops[REFVM_DIMMS_MAX]; /* writes to it */
};

/* A data page. */
struct refvm_guest_page {
	uint64_t version;
	uint64_t checksum;
	uint64_t filler[510];
};

/* Returned in rax:rdx by the System V calling convention, which start.S relies on. */
struct refvm_guest_result {
	uint64_t ops; /* done in this step, to be added to the registers' count */
	uint64_t yield_us; /* nothing due: sleep so long, 0 to go on */
};

/*
 * A slice of work by vCPU @vcpu: at most some tens of page writes. @ops and @ops_sse are the
 * number of operations since boot as two kinds of registers know it.
 */
struct refvm_guest_result refvm_guest_step(
	uint64_t bias, uint64_t vcpu, uint64_t ops, uint64_t ops_sse);

/* Number of the first data page that belongs to vCPU @vcpu; its share ends where the next
   one's begins. */
static inline uint64_t refvm_guest_share(const struct refvm_guest_control *control, uint64_t vcpu)
{
	return control->pages * vcpu / control->vcpus;
}

#endif
