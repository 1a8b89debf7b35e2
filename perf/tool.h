/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * tool.h: other people's programs that sluice-perf runs beside sluice: a server that serves one
 * client, and that client. Whether they are there, a free port, starting, waiting. One thread.
 */
#ifndef SLUICE_PERF_TOOL_H
#define SLUICE_PERF_TOOL_H

#include <stdbool.h>
#include <stdint.h>

#include <sluice/error.h>

#include "perf/process.h"

#define PERF_TOOL_OPTIONS_MAX 256

/* Whether PATH has a program of that name. */
bool perf_tool_installed(const char *program);

/* A TCP port that nobody listens on now; somebody else may take it first. 0: none. */
uint16_t perf_tool_free_port(void);
/* Whether somebody of this network namespace listens on it, asked without connecting: a server
   that serves once would be used up. */
bool perf_tool_port_served(uint16_t port);

/*
 * Start @program with the words of @options. Its output goes into a fresh file in @dir, named by
 * the program, @role and @index.
 */
int perf_tool_start(struct perf_process *process, const char *program, const char *role,
	uint32_t index, const char *dir, const char *options, struct sluice_error *err);
/* Until @process listens on @port: -EPIPE when it ends instead, -ETIMEDOUT after ten seconds. */
int perf_tool_wait_served(
	const struct perf_process *process, uint16_t port, struct sluice_error *err);
/* Until it has ended; -ETIMEDOUT after @end_ns (CLOCK_MONOTONIC), -EINTR when interrupted. */
int perf_tool_wait_end(struct perf_process *process, uint64_t end_ns, struct sluice_error *err);

#endif
