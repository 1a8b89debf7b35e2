/* SPDX-License-Identifier: BSD-3-Clause */
/* iperf.h: iperf3 over loopback, beside sluice. It sends the same small buffer again and again,
   so that it says what the network can do without any memory to move. One thread. */
#ifndef SLUICE_PERF_IPERF_H
#define SLUICE_PERF_IPERF_H

#include <jansson.h>

#include <sluice/error.h>

#include "perf/config.h"

/*
 * Send `ram` bytes over `lanes` connections, each with a client and a server process of its own:
 * one iperf3 is one thread up to version 3.15. @dir is for its output. *ret_run (a new reference)
 * is as perf_plain_run()'s; where iperf3 is not installed, its status is "skipped" with a reason,
 * which is no error.
 */
int perf_iperf_run(const struct perf_config *config, const char *dir, json_t **ret_run,
	struct sluice_error *err);

#endif
