/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * populate.h: allocate and map every page of a mapping, with as many threads as help. Which NUMA
 * node a page comes from is for the VMM to say: a policy that it set on a shared file (mbind)
 * holds for whoever touches the page first.
 *
 * Threads: any; blocks until all pages are there.
 */
#ifndef SLUICE_ENGINE_MEMORY_POPULATE_H
#define SLUICE_ENGINE_MEMORY_POPULATE_H

#include <stdint.h>

/* @base: of a writable mapping, page aligned. 0, or -errno when a page cannot be had. */
int sluice_populate(void *base, uint64_t len_bytes);

#endif
