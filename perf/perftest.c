/* SPDX-License-Identifier: BSD-3-Clause */
/* perftest.c: see perftest.h. */
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <stdbool.h>
#include <string.h>

#include "perf/perftest.h"

#define LINE_MAX_BYTES 512
#define FOLDER_MAX     512
#define GIDS_MAX       256 /* of a port */

/* ---- the report ---- */

/* Bytes per second of one unit of the column "BW average[...]"; 0: not that heading. Up to version
   4.5 the programs write MB/sec and mean 2^20 bytes; later ones write MiB/sec. */
static double unit_of(const char *heading)
{
	if (strstr(heading, "#bytes") == NULL)
		return 0;
	if (strstr(heading, "BW average[MB/sec]") != NULL ||
		strstr(heading, "BW average[MiB/sec]") != NULL)
		return 1024.0 * 1024;
	return strstr(heading, "BW average[Gb/sec]") != NULL ? 1e9 / 8 : 0;
}

/* Warnings may stand between the heading and the row. The programs count the CPU's cycles, and how many
   those are in a second they measure once, at their end, against gettimeofday(): where that does not fit a
   straight line ("Correlation coefficient r^2"), as on a busy host in a VM, they write 0.00. */
int perf_perftest_read(FILE *report, struct perf_perftest_row *ret_row, struct sluice_error *err)
{
	char line[LINE_MAX_BYTES], last[LINE_MAX_BYTES] = "nothing";
	unsigned long long bytes, messages;
	double unit = 0, peak, average;

	while (fgets(line, sizeof(line), report) != NULL) {
		if (unit == 0)
			unit = unit_of(line);
		else if (sscanf(line, " %llu %llu %lf %lf", &bytes, &messages, &peak, &average) ==
			 4) {
			if (average <= 0)
				return sluice_fail(err, -EAGAIN, "perftest",
					"its report says 0: it could not measure how fast the "
					"CPU's cycle counter runs; the machine is too busy");
			*ret_row = (struct perf_perftest_row){.message_bytes = bytes,
				.messages = messages,
				.bytes_per_s = average * unit};
			return 0;
		}
		line[strcspn(line, "\r\n")] = '\0';
		if (line[strspn(line, " \t-*")] != '\0')
			memcpy(last, line, sizeof(last));
	}
	return sluice_fail(
		err, -EPROTO, "perftest", "no bandwidth in its report; it ends with: %s", last);
}

/* ---- devices ---- */

/* The first line of a file; false when it cannot be read. */
static bool read_line(const char *path, char *line, size_t bytes)
{
	FILE *file = fopen(path, "re");
	bool found = file != NULL && fgets(line, (int)bytes, file) != NULL;

	if (file != NULL)
		fclose(file);
	if (found)
		line[strcspn(line, "\n")] = '\0';
	return found;
}

/* The address as its GID has it: an IPv4 address is mapped into IPv6. */
static bool parse_address(const char *text, char address[64], struct in6_addr *ret_gid)
{
	char mapped[80];
	size_t len = strlen(text);

	if (text[0] == '[') {
		text++;
		len = strcspn(text, "]");
	} else if (strchr(text, ':') != NULL && strchr(text, ':') == strrchr(text, ':')) {
		len = strcspn(text, ":");
	}
	if (len >= 64)
		return false;
	memcpy(address, text, len);
	address[len] = '\0';
	snprintf(mapped, sizeof(mapped), "::ffff:%s", address);
	return inet_pton(AF_INET6, address, ret_gid) == 1 ||
	       inet_pton(AF_INET6, mapped, ret_gid) == 1;
}

/* Indices have gaps: every address of the interface comes and goes. */
static bool port_has(
	const char port_folder[FOLDER_MAX], const struct in6_addr *gid, unsigned int *ret_index)
{
	char path[FOLDER_MAX + 32], line[64];
	struct in6_addr other;

	for (unsigned int i = 0; i < GIDS_MAX; i++) {
		snprintf(path, sizeof(path), "%s/gids/%u", port_folder, i);
		if (!read_line(path, line, sizeof(line)) ||
			inet_pton(AF_INET6, line, &other) != 1 ||
			memcmp(&other, gid, sizeof(other)) != 0)
			continue;
		snprintf(path, sizeof(path), "%s/gid_attrs/types/%u", port_folder, i);
		if (read_line(path, line, sizeof(line)) && strcmp(line, "RoCE v2") == 0) {
			*ret_index = i;
			return true;
		}
	}
	return false;
}

static bool device_has(const char *folder, const char *device, const struct in6_addr *gid,
	unsigned int *ret_port, unsigned int *ret_index)
{
	char ports[FOLDER_MAX - 16], port_folder[FOLDER_MAX];
	const struct dirent *entry;
	bool found = false;
	DIR *dir;

	snprintf(ports, sizeof(ports), "%s/%s/ports", folder, device);
	dir = opendir(ports);
	while (!found && dir != NULL && (entry = readdir(dir)) != NULL) {
		if (sscanf(entry->d_name, "%u", ret_port) != 1)
			continue;
		snprintf(port_folder, sizeof(port_folder), "%s/%u", ports, *ret_port);
		found = port_has(port_folder, gid, ret_index);
	}
	if (dir != NULL)
		closedir(dir);
	return found;
}

int perf_perftest_find_rail(const char *folder, const char *text,
	struct perf_perftest_rail *ret_rail, struct sluice_error *err)
{
	struct perf_perftest_rail rail = {.port = 0};
	const struct dirent *entry;
	struct in6_addr gid;
	bool found = false;
	DIR *dir;

	if (!parse_address(text, rail.address, &gid))
		return sluice_fail(err, -EINVAL, "rails", "'%s' is no numeric address", text);
	dir = opendir(folder);
	while (!found && dir != NULL && (entry = readdir(dir)) != NULL) {
		if (entry->d_name[0] == '.' || strlen(entry->d_name) >= sizeof(rail.device))
			continue;
		snprintf(rail.device, sizeof(rail.device), "%.63s", entry->d_name);
		found = device_has(folder, rail.device, &gid, &rail.port, &rail.gid_index);
	}
	if (dir != NULL)
		closedir(dir);
	if (!found)
		return sluice_fail(err, -ENODEV, "rails",
			"no RDMA device of this host has the address %s (rdma link; in a VM with "
			"soft-RoCE: scripts/lab perf)",
			rail.address);
	*ret_rail = rail;
	return 0;
}
