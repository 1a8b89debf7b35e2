/* SPDX-License-Identifier: BSD-3-Clause */
/* footprint.h: what a process holds besides the guest's memory. Reads /proc; one thread. */
#ifndef SLUICE_PERF_FOOTPRINT_H
#define SLUICE_PERF_FOOTPRINT_H

#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

/* Bytes of proportional set size in the lines of smaps(5), without mappings of guest RAM. */
uint64_t perf_footprint_parse(FILE *smaps);
/* Of a process; 0 when it cannot be read. */
uint64_t perf_footprint_bytes(pid_t pid);

#endif
