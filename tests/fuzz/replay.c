/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * replay.c: main() of a fuzz target where there is no libFuzzer: runs the files that it is given,
 * or all files of folders. So every build and every sanitizer sees the seeds and the old finds.
 */
#include <dirent.h>
#include <errno.h>
#include <sys/stat.h>

#include "tests/fuzz/fuzz.h"

static unsigned int runs;

static int replay_file(const char *path)
{
	FILE *file = fopen(path, "rb");
	uint8_t *data = NULL;
	size_t size = 0, capacity = 0;

	if (file == NULL) {
		fprintf(stderr, "%s: %s\n", path, strerror(errno));
		return 1;
	}
	do {
		if (capacity - size < 65536) {
			capacity += 1 << 20;
			data = realloc(data, capacity);
			FUZZ_CHECK(data != NULL);
		}
		size += fread(data + size, 1, 65536, file);
	} while (!feof(file) && !ferror(file));
	fclose(file);
	/* A block of exactly this size: a sanitizer sees the first byte that is read behind it. */
	data = realloc(data, size > 0 ? size : 1);
	fprintf(stderr, "%s: %zu bytes\n", path, size);
	LLVMFuzzerTestOneInput(data, size);
	free(data);
	runs++;
	return 0;
}

static int replay(const char *path)
{
	char inner[4096];
	struct dirent *entry;
	struct stat st;
	int failed = 0;
	DIR *folder;

	if (stat(path, &st) < 0 || !S_ISDIR(st.st_mode))
		return replay_file(path);
	folder = opendir(path);
	FUZZ_CHECK(folder != NULL);
	while ((entry = readdir(folder)) != NULL) {
		if (entry->d_name[0] == '.')
			continue;
		snprintf(inner, sizeof(inner), "%s/%s", path, entry->d_name);
		failed |= replay_file(inner);
	}
	closedir(folder);
	return failed;
}

int main(int argc, char **argv)
{
	int failed = 0;

	for (int i = 1; i < argc; i++)
		failed |= replay(argv[i]);
	fprintf(stderr, "%u inputs\n", runs);
	return failed != 0 || runs == 0;
}
