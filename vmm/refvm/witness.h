/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * witness.h: proof that never two guests run.
 *
 * All refvms of one guest name the same file. While vCPUs may run, the VMM holds an exclusive
 * lock on it (of the open file: it vanishes with the process, however that ends), and the
 * file holds the highest generation that ever ran. A generation is one stay of the guest on
 * one host: each attempt to send the guest away offers the next one. So a second guest either
 * finds the lock taken, or runs first and is found out by the one that is older.
 *
 * It watches the protocol and takes no part in it: a violation is a bug elsewhere.
 *
 * Threading: main thread.
 */
#ifndef REFVM_WITNESS_H
#define REFVM_WITNESS_H

#include <stdbool.h>
#include <stdint.h>

#include <sluice/error.h>

#define REFVM_WITNESS_EXIT 99

struct refvm_witness {
	int fd; /* -1: no witness */
	char path[1024];
	uint64_t generation; /* of the guest we have */
	uint64_t offered; /* the highest that we have sent away with it */
	bool held;
};

/* @path may be empty: then nothing is witnessed. */
int refvm_witness_open(struct refvm_witness *witness, const char *path, struct sluice_error *err);
void refvm_witness_close(struct refvm_witness *witness);

/* Before vCPUs run. -EBUSY or -ESTALE: another guest runs, or a later one has run. */
int refvm_witness_take(struct refvm_witness *witness, struct sluice_error *err);
/* After vCPUs have stopped. */
void refvm_witness_release(struct refvm_witness *witness);
/* The generation for a guest that is about to be sent away. */
uint64_t refvm_witness_offer(struct refvm_witness *witness);
/* A guest of this generation has arrived. */
void refvm_witness_accept(struct refvm_witness *witness, uint64_t generation);

/* Write the violation beside the file and end the process. */
__attribute__((noreturn)) void refvm_witness_violated(
	const struct refvm_witness *witness, const struct sluice_error *why);

#endif
