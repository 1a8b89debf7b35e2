/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * process.h: programs that sluice-perf starts, and engines that those start. Each is ended
 * by its own id (a pidfd, so that a reused number is never hit), on every way out.
 *
 * Threading: the main thread. A child gets SIGKILL when sluice-perf dies in any way.
 */
#ifndef SLUICE_PERF_PROCESS_H
#define SLUICE_PERF_PROCESS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

#include <sluice/error.h>

#define PERF_LOG_PATH_MAX 640

struct perf_process {
	pid_t pid; /* 0: none */
	int pidfd;
	bool is_child; /* ours to reap */
	int exit_status; /* of a child that has ended by itself; -1: by a signal */
	char name[32];
	char log_path[PERF_LOG_PATH_MAX]; /* "" when it writes into another one's log */
};

#define PERF_PROCESS_NONE ((struct perf_process){.pidfd = -1})

/* Start argv[0] with its output in @log_path (appended). */
int perf_process_start(struct perf_process *process, const char *name, const char *log_path,
	char *const argv[], struct sluice_error *err);
/* Watch a process that somebody else started. */
int perf_process_adopt(
	struct perf_process *process, const char *name, pid_t pid, struct sluice_error *err);

/* True while it has not ended. */
bool perf_process_alive(const struct perf_process *process);
/* Wait for its end, at most @timeout_ms; true when it has ended. */
bool perf_process_wait(struct perf_process *process, int timeout_ms);
/* Make sure that it has ended: SIGTERM, five seconds later SIGKILL. Idempotent. */
void perf_process_end(struct perf_process *process);

/* User and system time that it has used so far, in seconds; -1 when it is gone. */
double perf_process_cpu_s(const struct perf_process *process);

/* The last @lines lines of its log. */
void perf_process_print_tail(const struct perf_process *process, int lines, FILE *out);

#endif
