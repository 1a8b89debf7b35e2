/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * bulk.h: how fast the lanes were while they had nothing but memory to move: between the first and
 * the last answer to query-migrate that found something placed and something left. What comes
 * before (attaching, connecting, registering) and after it (switching over) has figures of its
 * own. Pure.
 */
#ifndef SLUICE_PERF_BULK_H
#define SLUICE_PERF_BULK_H

#include <stdbool.h>
#include <stdint.h>

#include <jansson.h>

struct perf_bulk { /* zeroed at first */
	uint64_t first_ns, last_ns; /* CLOCK_MONOTONIC; first_ns 0: nothing yet */
	double first_bytes, last_bytes; /* placed by then */
};

/* One more answer, which came at @now_ns. */
void perf_bulk_add(struct perf_bulk *bulk, const json_t *migrate, uint64_t now_ns);
/* Bytes per second; false when the answers span less than half of the @placed_bytes in total, so
   that the rate would be one of beginnings and ends. */
bool perf_bulk_rate(const struct perf_bulk *bulk, double placed_bytes, double *ret_bytes_per_s);

#endif
