/* SPDX-License-Identifier: BSD-3-Clause */
/* iperf.c: see iperf.h. */
#include <errno.h>
#include <stdio.h>

#include "base/clock.h"
#include "perf/iperf.h"
#include "perf/tool.h"

#define PROGRAM     "iperf3"
#define STREAMS_MAX 64
#define TAIL_LINES  20

struct stream {
	struct perf_process server, client;
	uint16_t port;
};

struct iperf {
	const char *dir;
	uint64_t bytes, end_ns;
	uint32_t count;
	struct stream stream[STREAMS_MAX];
};

static int start_server(
	const struct iperf *x, struct stream *s, uint32_t index, struct sluice_error *err)
{
	char options[PERF_TOOL_OPTIONS_MAX];
	int r;

	s->port = perf_tool_free_port();
	snprintf(options, sizeof(options), "-s -1 -B 127.0.0.1 -p %u", s->port);
	r = perf_tool_start(&s->server, PROGRAM, "server", index, x->dir, options, err);
	return r < 0 ? r : perf_tool_wait_served(&s->server, s->port, err);
}

static int start_client(
	const struct iperf *x, struct stream *s, uint32_t index, struct sluice_error *err)
{
	char options[PERF_TOOL_OPTIONS_MAX];

	snprintf(options, sizeof(options), "-c 127.0.0.1 -p %u -n %llu -J", s->port,
		(unsigned long long)(x->bytes / x->count));
	return perf_tool_start(&s->client, PROGRAM, "client", index, x->dir, options, err);
}

/* All streams together: from the first one's begin to the longest one's end. */
struct total {
	double bytes, seconds, cpu_s[2];
};

static int add_client(const struct stream *s, struct total *total, struct sluice_error *err)
{
	json_error_t json_error;
	json_t *answer = json_load_file(s->client.log_path, 0, &json_error);
	const json_t *end = json_object_get(answer, "end");
	const json_t *received = json_object_get(end, "sum_received");
	const json_t *cpu = json_object_get(end, "cpu_utilization_percent");
	const char *why = json_string_value(json_object_get(answer, "error"));
	double seconds = json_number_value(json_object_get(received, "seconds"));
	int r = 0;

	if (answer == NULL || why != NULL || seconds <= 0)
		r = sluice_fail(err, -EPROTO, PROGRAM, "%s: %s", s->client.log_path,
			why != NULL      ? why
			: answer == NULL ? json_error.text
					 : "nothing was received");
	total->bytes += json_number_value(json_object_get(received, "bytes"));
	if (seconds > total->seconds)
		total->seconds = seconds;
	total->cpu_s[0] += json_number_value(json_object_get(cpu, "host_total")) / 100 * seconds;
	total->cpu_s[1] += json_number_value(json_object_get(cpu, "remote_total")) / 100 * seconds;
	json_decref(answer);
	return r;
}

static int run_streams(struct iperf *x, struct total *total, struct sluice_error *err)
{
	int r = 0;

	for (uint32_t i = 0; r == 0 && i < x->count; i++)
		r = start_server(x, &x->stream[i], i, err);
	for (uint32_t i = 0; r == 0 && i < x->count; i++)
		r = start_client(x, &x->stream[i], i, err);
	for (uint32_t i = 0; r == 0 && i < x->count; i++)
		r = perf_tool_wait_end(&x->stream[i].client, x->end_ns, err);
	for (uint32_t i = 0; r == 0 && i < x->count; i++)
		r = add_client(&x->stream[i], total, err);
	for (uint32_t i = 0; i < x->count; i++) {
		if (r < 0 && r != -EINTR && x->stream[i].client.log_path[0] != '\0')
			perf_process_print_tail(&x->stream[i].client, TAIL_LINES, stderr);
		perf_process_end(&x->stream[i].client);
		perf_process_end(&x->stream[i].server);
	}
	return r;
}

int perf_iperf_run(const struct perf_config *config, const char *dir, json_t **ret_run,
	struct sluice_error *err)
{
	struct iperf x = {.dir = dir,
		.bytes = config->ram_bytes,
		.end_ns = sluice_now_ns() + config->timeout_ns,
		.count = config->lanes != 0 ? (uint32_t)config->lanes : 1};
	struct total total = {0};
	int r;

	if (!perf_tool_installed(PROGRAM)) {
		*ret_run = json_pack("{s:s, s:s}", "status", "skipped", "reason",
			"iperf3 is not installed (scripts/deps)");
		return 0;
	}
	if (x.count > STREAMS_MAX)
		return sluice_fail(
			err, -EINVAL, PROGRAM, "at most %d streams, not %u", STREAMS_MAX, x.count);
	for (uint32_t i = 0; i < x.count; i++)
		x.stream[i].server = x.stream[i].client = PERF_PROCESS_NONE;
	r = run_streams(&x, &total, err);
	if (r < 0)
		return r;
	*ret_run = json_pack("{s:s, s:f, s:I, s:f, s:f, s:f}", "status", "completed", "total_ms",
		total.seconds * 1e3, "bytes_placed", (json_int_t)total.bytes, "placed_bytes_per_s",
		total.bytes / total.seconds, "cpu_s_source", total.cpu_s[0], "cpu_s_target",
		total.cpu_s[1]);
	return 0;
}
