/* SPDX-License-Identifier: BSD-3-Clause */
/* footprint.c: see footprint.h. */
#include <stdbool.h>
#include <string.h>

#include "perf/footprint.h"

#define LINE_BYTES 512

/* A mapping's first line begins with its addresses, all others with a word. */
static bool begins_mapping(const char *line)
{
	size_t digits = strspn(line, "0123456789abcdef");

	return digits > 0 && line[digits] == '-';
}

/* refvm's memory: a memfd of that name, or an unnamed file in /dev/shm. */
static bool is_guest_ram(const char *line)
{
	return strstr(line, "memfd:refvm-ram") != NULL || strstr(line, "/dev/shm/") != NULL ||
	       strstr(line, "anon_hugepage") != NULL;
}

uint64_t perf_footprint_parse(FILE *smaps)
{
	char line[LINE_BYTES];
	bool counts = false;
	uint64_t bytes = 0;

	while (fgets(line, sizeof(line), smaps) != NULL) {
		unsigned long long kib;

		if (begins_mapping(line))
			counts = !is_guest_ram(line);
		else if (counts && sscanf(line, "Pss: %llu kB", &kib) == 1)
			bytes += kib << 10;
	}
	return bytes;
}

uint64_t perf_footprint_bytes(pid_t pid)
{
	char path[64];
	uint64_t bytes;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/smaps", (int)pid);
	file = fopen(path, "re");
	if (file == NULL)
		return 0;
	bytes = perf_footprint_parse(file);
	fclose(file);
	return bytes;
}
