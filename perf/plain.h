/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * plain.h: the yardstick: what plain send() and recv() between guest-like memory reach.
 *
 * Two processes, as the two engines are. The source's memory is a memfd whose pages exist and are
 * incompressible, written through another mapping, as a VMM's guest memory is; the sender maps it
 * for the first time. The target's memory is in the state that refvm's is in: allocated before with
 * `prealloc: yes`, holes with `no`. Each stream has a thread at both ends and an equal share of the
 * memory. No page is looked at, nothing is acknowledged, no state is kept.
 *
 * Threads: the main thread; the two processes end with it.
 */
#ifndef SLUICE_PERF_PLAIN_H
#define SLUICE_PERF_PLAIN_H

#include <jansson.h>

#include <sluice/error.h>

#include "perf/config.h"

#define PERF_STREAMS_MAX 1024

/*
 * Send `ram` bytes over `lanes` loopback connections. *ret_run (a new reference) has total_ms (from
 * before the first connection until the last byte is received), bytes_placed, placed_bytes_per_s,
 * and the CPU seconds of both processes; with `verify` also mismatched_pages.
 */
int perf_plain_run(const struct perf_config *config, json_t **ret_run, struct sluice_error *err);

#endif
