/* SPDX-License-Identifier: BSD-3-Clause */
/* part.c: see part.h. */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "perf/experiment.h"
#include "perf/node.h"
#include "perf/part.h"
#include "perf/process.h"

#define POLL_MS    50
#define TAIL_LINES 5

static int wait_end(struct perf_process *process, uint64_t timeout_ns, struct sluice_error *err)
{
	uint64_t end_ns = sluice_now_ns() + timeout_ns;

	while (!perf_process_wait(process, POLL_MS)) {
		if (perf_experiment_interrupted())
			return sluice_fail(err, -EINTR, "run", "interrupted");
		if (sluice_now_ns() > end_ns)
			return sluice_fail(err, -ETIMEDOUT, process->name, "not done in time");
	}
	return 0;
}

int perf_part_harvest(const struct perf_config *config, const char *dir, json_t **ret_run,
	struct sluice_error *err)
{
	char program[PERF_PATH_MAX], guest[] = "--guest", bytes[24];
	char *const argv[] = {program, guest, bytes, NULL};
	char log_path[PERF_LOG_PATH_MAX];
	struct perf_process process;
	json_error_t json_error;
	int r;

	perf_find_program("", "bench-harvest", "tests/bench", program);
	snprintf(bytes, sizeof(bytes), "%llu", (unsigned long long)config->ram_bytes);
	snprintf(log_path, sizeof(log_path), "%s/bench-harvest.log", dir);
	unlink(log_path);
	r = perf_process_start(&process, "bench-harvest", log_path, argv, err);
	if (r < 0)
		return r;
	r = wait_end(&process, config->timeout_ns, err);
	perf_process_end(&process);
	if (r < 0)
		return r;
	*ret_run = json_load_file(log_path, 0, &json_error);
	if (*ret_run == NULL) {
		perf_process_print_tail(&process, TAIL_LINES, stderr);
		return sluice_fail(
			err, -EPROTO, "bench-harvest", "it prints no result: %s", json_error.text);
	}
	return 0;
}
