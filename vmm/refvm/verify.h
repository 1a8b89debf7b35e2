/* SPDX-License-Identifier: BSD-3-Clause */
/* verify.h: comparing guest memory with another process's. Main thread, vCPUs stopped. */
#ifndef REFVM_VERIFY_H
#define REFVM_VERIFY_H

#include <sys/types.h>

#include "vmm/refvm/memory.h"

struct refvm_verify_source {
	char id[64];
	int fd; /* in the other process */
	uint64_t offset;
};

struct refvm_verify_result {
	uint64_t pages_compared, pages_skipped, mismatched_pages;
	const char *first_region; /* NULL: none differs */
	uint64_t first_page;
};

/* @skip_since: leave out pages in the regions' `since`. All regions must be given. */
int refvm_verify(const struct refvm_memory *memory, pid_t pid,
	const struct refvm_verify_source *sources, unsigned int count, bool skip_since,
	struct refvm_verify_result *ret_result, struct sluice_error *err);

#endif
