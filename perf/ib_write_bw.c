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
#define TRIES          5
#define CLOCKS_DIFFER  1.05 /* at most, where its clock works */

struct writes {
	const char *dir;
	uint64_t message_bytes, iterations, queue_pairs; /* iterations: of each queue pair */
	uint64_t end_ns;
	uint64_t took_ns; /* all of the client */
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
	uint64_t begin_ns;
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
	begin_ns = sluice_now_ns();
	r = perf_tool_start(&x->client, PROGRAM, "client", 0, x->dir, options, err);
	if (r == 0)
		r = perf_tool_wait_end(&x->client, x->end_ns, err);
	x->took_ns = sluice_now_ns() - begin_ns;
	return r;
}

static double seconds_of(const struct perf_perftest_row *row)
{
	return (double)row->message_bytes * (double)row->messages / row->bytes_per_s;
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
	/* Our clock knows no cycles: what its report says cannot have taken longer than all of it. */
	if (r == 0 && seconds_of(ret_row) * SLUICE_NS_PER_S > CLOCKS_DIFFER * (double)x->took_ns)
		r = sluice_fail(err, -EAGAIN, PROGRAM,
			"its report says %.3f s, and it ran for %.3f s: it mistook how fast the "
			"CPU's cycle counter runs; the machine is too busy",
			seconds_of(ret_row), (double)x->took_ns / SLUICE_NS_PER_S);
	return r;
}

/* Once, with both processes ended. */
static int try_once(struct writes *x, struct perf_perftest_row *ret_row, struct sluice_error *err)
{
	int r = run_both(x, err);

	if (r == 0)
		r = read_report(x, ret_row, err);
	if (r < 0 && r != -EINTR) {
		perf_process_print_tail(&x->server, TAIL_LINES, stderr);
		perf_process_print_tail(&x->client, TAIL_LINES, stderr);
	}
	perf_process_end(&x->client);
	perf_process_end(&x->server);
	return r;
}

/* What cannot be had here is a result, too. */
static json_t *skipped(struct sluice_error *err)
{
	json_t *run = json_pack("{s:s, s:s}", "status", "skipped", "reason", err->text);

	*err = (struct sluice_error){.code = 0};
	return run;
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
	*ret_run = skipped(err);
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
	int r;

	x.iterations = iterations_of(config->ram_bytes, &x);
	r = prepare(config, &x, ret_run, err);
	if (r <= 0)
		return r;
	r = -EAGAIN;
	for (int tries = 1; r == -EAGAIN && tries <= TRIES; tries++) {
		r = try_once(&x, &row, err);
		if (r == -EAGAIN)
			fprintf(stderr, "%s, try %d of %d: %s\n", PROGRAM, tries, TRIES, err->text);
	}
	if (r == -EAGAIN)
		*ret_run = skipped(err);
	if (r < 0)
		return r == -EAGAIN ? 0 : r;
	*err = (struct sluice_error){.code = 0}; /* of a try before */
	*ret_run = json_pack("{s:s, s:f, s:I, s:f, s:f}", "status", "completed", "total_ms",
		seconds_of(&row) * 1e3, "bytes_placed",
		(json_int_t)(row.message_bytes * row.messages), "placed_bytes_per_s",
		row.bytes_per_s, "bulk_bytes_per_s", row.bytes_per_s);
	return 0;
}
