/* SPDX-License-Identifier: BSD-3-Clause */
/* tool.c: see tool.h. */
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "perf/experiment.h"
#include "perf/tool.h"

#define WORDS_MAX        40
#define START_TIMEOUT_NS (10 * SLUICE_NS_PER_S)
#define POLL_US          5000
#define POLL_MS          50
#define TCP_LISTEN_STATE 0x0a /* in /proc/net/tcp */

bool perf_tool_installed(const char *program)
{
	char copy[4096], path[4200], *rest = copy, *folder;

	snprintf(copy, sizeof(copy), "%s", getenv("PATH") != NULL ? getenv("PATH") : "");
	while ((folder = strsep(&rest, ":")) != NULL) {
		snprintf(path, sizeof(path), "%s/%s", folder, program);
		if (access(path, X_OK) == 0)
			return true;
	}
	return false;
}

uint16_t perf_tool_free_port(void)
{
	struct sockaddr_in address = {
		.sin_family = AF_INET, .sin_addr = {.s_addr = htonl(INADDR_ANY)}};
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

/* proc(5): "  sl  local_address rem_address   st ...", addresses as hexadecimal ADDRESS:PORT. */
static bool table_has_listener(const char *path, uint16_t port)
{
	FILE *table = fopen(path, "re");
	unsigned int local_port, state;
	char line[512];
	bool found = false;

	while (table != NULL && !found && fgets(line, sizeof(line), table) != NULL)
		found = sscanf(line, " %*u: %*[0-9A-F]:%x %*[0-9A-F]:%*x %x", &local_port,
				&state) == 2 &&
			local_port == port && state == TCP_LISTEN_STATE;
	if (table != NULL)
		fclose(table);
	return found;
}

bool perf_tool_port_served(uint16_t port)
{
	return table_has_listener("/proc/net/tcp", port) ||
	       table_has_listener("/proc/net/tcp6", port);
}

int perf_tool_start(struct perf_process *process, const char *program, const char *role,
	uint32_t index, const char *dir, const char *options, struct sluice_error *err)
{
	char name[PERF_TOOL_OPTIONS_MAX], copy[PERF_TOOL_OPTIONS_MAX], *rest = copy, *word;
	char log_path[PERF_LOG_PATH_MAX];
	char *argv[WORDS_MAX + 2] = {name};
	int words = 0;

	snprintf(name, sizeof(name), "%s", program);
	snprintf(copy, sizeof(copy), "%s", options);
	while (words < WORDS_MAX && (word = strsep(&rest, " ")) != NULL)
		if (word[0] != '\0')
			argv[1 + words++] = word;
	snprintf(log_path, sizeof(log_path), "%s/%s-%s-%u.log", dir, program, role, index);
	unlink(log_path);
	return perf_process_start(process, role, log_path, argv, err);
}

int perf_tool_wait_served(
	const struct perf_process *process, uint16_t port, struct sluice_error *err)
{
	uint64_t end_ns = sluice_now_ns() + START_TIMEOUT_NS;

	while (!perf_tool_port_served(port)) {
		if (perf_experiment_interrupted())
			return sluice_fail(err, -EINTR, "run", "interrupted");
		if (!perf_process_alive(process))
			return sluice_fail(err, -EPIPE, process->name,
				"it ended instead of serving port %u", port);
		if (sluice_now_ns() > end_ns)
			return sluice_fail(
				err, -ETIMEDOUT, process->name, "it does not serve port %u", port);
		usleep(POLL_US);
	}
	return 0;
}

int perf_tool_wait_end(struct perf_process *process, uint64_t end_ns, struct sluice_error *err)
{
	while (!perf_process_wait(process, POLL_MS)) {
		if (perf_experiment_interrupted())
			return sluice_fail(err, -EINTR, "run", "interrupted");
		if (sluice_now_ns() > end_ns)
			return sluice_fail(err, -ETIMEDOUT, process->name, "not done in time");
	}
	return 0;
}
