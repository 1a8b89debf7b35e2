/* SPDX-License-Identifier: BSD-3-Clause */
/* ib_write_bw.c: see ib_write_bw.h. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "perf/ib_write_bw.h"
#include "perf/perftest.h"
#include "perf/tool.h"

#define PROGRAM        "ib_write_bw"
#define DEVICES        "/sys/class/infiniband"
#define MESSAGE_BYTES  65536 /* its own default */
#define ITERATIONS_MIN 5 /* it refuses less */
#define TAIL_LINES     20
#define MODERATION     100

struct writes {
	const char *dir;
	uint64_t message_bytes, iterations, queue_pairs; /* iterations: of each queue pair */
	uint64_t end_ns;
	struct perf_perftest_rail source, target;
	struct perf_process server, client;
};

/* What both ends must be told alike, and each its device. */
static void describe(const struct writes *x, const struct perf_perftest_rail *rail,
	uint16_t tcp_port, char options[PERF_TOOL_OPTIONS_MAX])
{
	snprintf(options, PERF_TOOL_OPTIONS_MAX,
		"-F -d %s -i %u -x %u -p %u -s %llu -q %llu -n %llu", rail->device, rail->port,
		rail->gid_index, tcp_port, (unsigned long long)x->message_bytes,
		(unsigned long long)x->queue_pairs, (unsigned long long)x->iterations);
}

static int run_both(struct writes *x, struct sluice_error *err)
{
	char options[PERF_TOOL_OPTIONS_MAX];
	uint16_t tcp_port = perf_tool_free_port();
	size_t used;
	int r;

	describe(x, &x->target, tcp_port, options);
	r = perf_tool_start(&x->server, PROGRAM, "server", 0, x->dir, options, err);
	if (r == 0)
		r = perf_tool_wait_served(&x->server, tcp_port, err);
	if (r < 0)
		return r;
	describe(x, &x->source, tcp_port, options);
	used = strlen(options);
	snprintf(options + used, sizeof(options) - used, " %s", x->target.address);
	r = perf_tool_start(&x->client, PROGRAM, "client", 0, x->dir, options, err);
	return r < 0 ? r : perf_tool_wait_end(&x->client, x->end_ns, err);
}

static int read_report(
	const struct writes *x, struct perf_perftest_row *ret_row, struct sluice_error *err)
{
	FILE *report = fopen(x->client.log_path, "re");
	int r;

	if (report == NULL)
		return sluice_fail(
			err, -errno, PROGRAM, "%s: %s", x->client.log_path, strerror(errno));
	r = perf_perftest_read(report, ret_row, err);
	fclose(report);
	if (r == 0 && (ret_row->message_bytes != x->message_bytes ||
			      ret_row->messages != x->iterations * x->queue_pairs))
		r = sluice_fail(err, -EPROTO, PROGRAM,
			"asked for %llu messages of %llu bytes, it reports %llu of %llu",
			(unsigned long long)(x->iterations * x->queue_pairs),
			(unsigned long long)x->message_bytes, (unsigned long long)ret_row->messages,
			(unsigned long long)ret_row->message_bytes);
	return r;
}

/* 1: go on; 0: *ret_run says why it is skipped. */
static int prepare(const struct perf_config *config, struct writes *x, json_t **ret_run,
	struct sluice_error *err)
{
	char rails[PERF_TEXT_MAX], *rest = rails, *source, *target;
	int r;

	snprintf(rails, sizeof(rails), "%s", config->rails);
	source = strsep(&rest, " ");
	target = strsep(&rest, " ");
	if (target == NULL || target[0] == '\0')
		return sluice_fail(err, -EINVAL, PROGRAM,
			"it needs two rails, as in rails: 10.0.0.1 10.0.0.2");
	if (x->iterations < ITERATIONS_MIN)
		return sluice_fail(err, -EINVAL, PROGRAM,
			"ram is less than %d extents for each of %llu queue pairs", ITERATIONS_MIN,
			(unsigned long long)x->queue_pairs);
	if (!perf_tool_installed(PROGRAM)) {
		*ret_run = json_pack("{s:s, s:s}", "status", "skipped", "reason",
			PROGRAM " is not installed (package perftest, scripts/deps)");
		return 0;
	}
	r = perf_perftest_find_rail(DEVICES, source, &x->source, err);
	if (r == 0)
		r = perf_perftest_find_rail(DEVICES, target, &x->target, err);
	if (r != -ENODEV)
		return r < 0 ? r : 1;
	*ret_run = json_pack("{s:s, s:s}", "status", "skipped", "reason", err->text);
	*err = (struct sluice_error){.code = 0};
	return 0;
}

/* Version 4.5 asks for a completion after every hundredth message, and with small ones, several queue
   pairs and a count such as 2048 it waits for ever for the last one. */
static uint64_t iterations_of(uint64_t bytes, const struct writes *x)
{
	uint64_t iterations = bytes / x->message_bytes / x->queue_pairs;

	return iterations - (iterations > MODERATION ? iterations % MODERATION : 0);
}

int perf_ib_write_bw_run(const struct perf_config *config, const char *dir, json_t **ret_run,
	struct sluice_error *err)
{
	struct writes x = {.dir = dir,
		.message_bytes = config->extent_bytes != 0 ? config->extent_bytes : MESSAGE_BYTES,
		.queue_pairs = config->lanes != 0 ? config->lanes : 1,
		.end_ns = sluice_now_ns() + config->timeout_ns,
		.server = PERF_PROCESS_NONE,
		.client = PERF_PROCESS_NONE};
	struct perf_perftest_row row = {0};
	double bytes;
	int r;

	x.iterations = iterations_of(config->ram_bytes, &x);
	r = prepare(config, &x, ret_run, err);
	if (r <= 0)
		return r;
	r = run_both(&x, err);
	if (r == 0)
		r = read_report(&x, &row, err);
	if (r < 0 && r != -EINTR) {
		perf_process_print_tail(&x.server, TAIL_LINES, stderr);
		perf_process_print_tail(&x.client, TAIL_LINES, stderr);
	}
	perf_process_end(&x.client);
	perf_process_end(&x.server);
	if (r < 0)
		return r;
	bytes = (double)row.message_bytes * (double)row.messages;
	*ret_run = json_pack("{s:s, s:f, s:I, s:f, s:f}", "status", "completed", "total_ms",
		bytes / row.bytes_per_s * 1e3, "bytes_placed", (json_int_t)bytes,
		"placed_bytes_per_s", row.bytes_per_s, "bulk_bytes_per_s", row.bytes_per_s);
	return 0;
}
