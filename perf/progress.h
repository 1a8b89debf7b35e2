/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * progress.h: one line that says how far things are: rewritten in place on a terminal, a
 * line per second elsewhere. On stderr, so that stdout carries results only.
 */
#ifndef SLUICE_PERF_PROGRESS_H
#define SLUICE_PERF_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

#include <jansson.h>

struct perf_progress {
	bool quiet;
	bool terminal;
	bool line_open; /* the cursor stands behind an unfinished line */
	uint64_t next_ns;
	char prefix[64]; /* "run 2 of 5" */
};

void perf_progress_init(struct perf_progress *progress, bool quiet);
/* A line that stays. */
void perf_progress_say(struct perf_progress *progress, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));
/* From an answer to query-migrate; prints only as often as is useful. */
void perf_progress_migration(struct perf_progress *progress, const json_t *migrate);
/* End an unfinished line. */
void perf_progress_end(struct perf_progress *progress);

#endif
