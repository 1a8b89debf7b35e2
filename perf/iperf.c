/* SPDX-License-Identifier: BSD-3-Clause */
/* iperf.c: see iperf.h. */
#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/clock.h"
#include "perf/experiment.h"
#include "perf/iperf.h"
#include "perf/process.h"

#define PROGRAM          "iperf3"
#define STREAMS_MAX      64
#define WORDS_MAX        15
#define OPTIONS_MAX      128
#define START_TIMEOUT_NS (10 * SLUICE_NS_PER_S)
#define POLL_US          2000
#define POLL_MS          50
#define TAIL_LINES       20

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

static bool is_installed(void)
{
	char copy[4096], path[4200], *rest = copy, *folder;

	snprintf(copy, sizeof(copy), "%s", getenv("PATH") != NULL ? getenv("PATH") : "");
	while ((folder = strsep(&rest, ":")) != NULL) {
		snprintf(path, sizeof(path), "%s/" PROGRAM, folder);
		if (access(path, X_OK) == 0)
			return true;
	}
	return false;
}

/* A port that nobody listens on now. Somebody else may take it first: iperf3 then says so. */
static uint16_t free_port(void)
{
	struct sockaddr_in address = {
		.sin_family = AF_INET, .sin_addr = {.s_addr = htonl(INADDR_LOOPBACK)}};
	socklen_t bytes = sizeof(address);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return 0;
	if (bind(fd, (const struct sockaddr *)&address, sizeof(address)) < 0 ||
		getsockname(fd, (struct sockaddr *)&address, &bytes) < 0)
		address.sin_port = 0;
	close(fd);
	return ntohs(address.sin_port);
}

/* Connecting to find out would use up a server that serves once: its output says it. */
static bool log_says(const struct perf_process *process, const char *word)
{
	FILE *file = fopen(process->log_path, "re");
	char line[256];
	bool found = false;

	while (file != NULL && !found && fgets(line, sizeof(line), file) != NULL)
		found = strstr(line, word) != NULL;
	if (file != NULL)
		fclose(file);
	return found;
}

/* Start it with the words of @options; its output goes into a fresh file. */
static int start(const struct iperf *x, struct perf_process *process, const char *log_name,
	uint32_t index, char *options, struct sluice_error *err)
{
	char program[] = PROGRAM, log_path[PERF_LOG_PATH_MAX];
	char *argv[WORDS_MAX + 2] = {program};
	int words = 0;

	while (words < WORDS_MAX && (argv[1 + words] = strsep(&options, " ")) != NULL)
		words++;
	snprintf(log_path, sizeof(log_path), "%s/iperf3-%s-%u.log", x->dir, log_name, index);
	unlink(log_path);
	return perf_process_start(process, log_name, log_path, argv, err);
}

static int start_server(
	const struct iperf *x, struct stream *s, uint32_t index, struct sluice_error *err)
{
	uint64_t end_ns = sluice_now_ns() + START_TIMEOUT_NS;
	char options[OPTIONS_MAX];
	int r;

	s->port = free_port();
	snprintf(options, sizeof(options), "-s -1 -B 127.0.0.1 -p %u --forceflush", s->port);
	r = start(x, &s->server, "server", index, options, err);
	while (r == 0 && !log_says(&s->server, "listening")) {
		if (!perf_process_alive(&s->server) || sluice_now_ns() > end_ns)
			return sluice_fail(err, -EPIPE, PROGRAM,
				"the server on port %u does not start", s->port);
		usleep(POLL_US);
	}
	return r;
}

static int start_client(
	const struct iperf *x, struct stream *s, uint32_t index, struct sluice_error *err)
{
	char options[OPTIONS_MAX];

	snprintf(options, sizeof(options), "-c 127.0.0.1 -p %u -n %llu -J", s->port,
		(unsigned long long)(x->bytes / x->count));
	return start(x, &s->client, "client", index, options, err);
}

static int wait_client(const struct iperf *x, struct stream *s, struct sluice_error *err)
{
	while (!perf_process_wait(&s->client, POLL_MS)) {
		if (perf_experiment_interrupted())
			return sluice_fail(err, -EINTR, "run", "interrupted");
		if (sluice_now_ns() > x->end_ns)
			return sluice_fail(err, -ETIMEDOUT, PROGRAM, "not done in time");
	}
	return 0;
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
		r = wait_client(x, &x->stream[i], err);
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

	if (!is_installed()) {
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
