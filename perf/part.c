/* SPDX-License-Identifier: BSD-3-Clause */
/* part.c: see part.h. */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "perf/node.h"
#include "perf/part.h"
#include "perf/process.h"
#include "perf/tool.h"

#define TAIL_LINES 5

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
	r = perf_tool_wait_end(&process, sluice_now_ns() + config->timeout_ns, err);
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
