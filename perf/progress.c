/* SPDX-License-Identifier: BSD-3-Clause */
/* progress.c: see progress.h. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "perf/progress.h"

#define BAR_WIDTH         24
#define TERMINAL_INTERVAL (100 * SLUICE_NS_PER_MS)
#define LOG_INTERVAL      SLUICE_NS_PER_S

void perf_progress_init(struct perf_progress *progress, bool quiet)
{
	*progress = (struct perf_progress){.quiet = quiet, .terminal = isatty(STDERR_FILENO)};
}

void perf_progress_end(struct perf_progress *progress)
{
	if (progress->line_open)
		fputc('\n', stderr);
	progress->line_open = false;
	progress->next_ns = 0;
}

void perf_progress_say(struct perf_progress *progress, const char *fmt, ...)
{
	va_list args;

	if (progress->quiet)
		return;
	perf_progress_end(progress);
	va_start(args, fmt);
	vfprintf(stderr, fmt, args);
	va_end(args);
	fputc('\n', stderr);
}

static double number(const json_t *object, const char *key)
{
	return json_number_value(json_object_get(object, key));
}

static void print_bar(double share)
{
	int full = (int)(share * BAR_WIDTH + 0.5);

	fputc('[', stderr);
	for (int i = 0; i < BAR_WIDTH; i++)
		fputc(i < full ? '#' : '.', stderr);
	fputc(']', stderr);
}

void perf_progress_migration(struct perf_progress *progress, const json_t *migrate)
{
	const json_t *ram = json_object_get(migrate, "ram");
	const char *status = json_string_value(json_object_get(migrate, "status"));
	double total = number(ram, "total"), remaining = number(ram, "remaining");
	uint64_t now_ns = sluice_now_ns();

	/* Before the lanes are there nothing is known yet. */
	if (progress->quiet || total == 0 || (status != NULL && strcmp(status, "setup") == 0))
		return;
	if (now_ns < progress->next_ns)
		return;
	progress->next_ns = now_ns + (progress->terminal ? TERMINAL_INTERVAL : LOG_INTERVAL);
	fprintf(stderr, "%s%s ", progress->terminal ? "\r" : "", progress->prefix);
	print_bar(1 - remaining / total);
	fprintf(stderr,
		" %-14s %6.0f MB placed %6.0f MB left %8.0f pages/s dirty %6.1f ms predicted",
		status != NULL ? status : "?", number(ram, "transferred") / 1e6, remaining / 1e6,
		number(ram, "dirty-pages-rate"), number(migrate, "expected-downtime-us") / 1e3);
	fputs(progress->terminal ? "\033[K" : "\n", stderr);
	fflush(stderr);
	progress->line_open = progress->terminal;
}
