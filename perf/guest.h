/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * guest.h: what refvm's monitor says about the guest: when it stopped and ran, what it did
 * in each 10 ms, whether it found an error, whether memory is the same on both sides.
 */
#ifndef SLUICE_PERF_GUEST_H
#define SLUICE_PERF_GUEST_H

#include <stdint.h>

#include <jansson.h>

#include "perf/node.h"

struct perf_guest_times {
	uint64_t stopped_ns; /* CLOCK_MONOTONIC; 0: never */
	uint64_t running_ns;
};

int perf_guest_times(
	struct perf_node *node, struct perf_guest_times *ret_times, struct sluice_error *err);

/* Wait until the guest has filled its memory and works. */
int perf_guest_wait_ready(struct perf_node *node, uint64_t timeout_ns, struct sluice_error *err);
/* Errors that the guest has found so far. */
int perf_guest_errors(struct perf_node *node, uint64_t *ret_errors, struct sluice_error *err);

struct perf_verify {
	uint64_t compared, mismatched, skipped; /* pages */
};

/* Compare all memory of @target with that of the stopped @source. Pages that the guest has
   written since it runs at the target are skipped: the guest checks those itself. */
int perf_guest_verify(struct perf_node *target, struct perf_node *source,
	struct perf_verify *ret_verify, struct sluice_error *err);

/* The moments of a migration, CLOCK_MONOTONIC. */
struct perf_guest_span {
	uint64_t start_ns; /* the migration began */
	uint64_t held_ns; /* lanes were held back so long from then on */
	uint64_t before_ns; /* the guest had worked at least so long by then */
	uint64_t stopped_ns; /* at the source */
	uint64_t running_ns; /* at the target */
};

/* guest_ops_per_s: before, during and after a migration, with the bins. A new reference. */
int perf_guest_ops(struct perf_node *source, struct perf_node *target,
	const struct perf_guest_span *span, json_t **ret_ops, struct sluice_error *err);

#endif
