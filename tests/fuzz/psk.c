/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * psk.c: fuzz target: a file of pre-shared keys that somebody else wrote. The input is the file.
 */
#include <fcntl.h>
#include <unistd.h>

#include "engine/peer/psk.h"
#include "tests/fuzz/fuzz.h"

static char path[64];

static void remove_file(void)
{
	unlink(path);
}

static void find(const char *identity)
{
	struct sluice_psk psk = {.key_bytes = 0};
	struct sluice_error err = {0};
	int r = sluice_psk_find(path, identity, &psk, &err);

	FUZZ_CHECK((r < 0) == (err.code != 0));
	if (r < 0) {
		FUZZ_CHECK(psk.key_bytes == 0);
		for (size_t i = 0; i < sizeof(psk.key); i++)
			FUZZ_CHECK(psk.key[i] == 0);
		return;
	}
	FUZZ_CHECK(psk.key_bytes >= SLUICE_PSK_KEY_BYTES_MIN &&
		   psk.key_bytes <= SLUICE_PSK_KEY_BYTES_MAX);
	FUZZ_CHECK(strlen(psk.identity) > 0 && strlen(psk.identity) <= SLUICE_PSK_IDENTITY_MAX);
	if (identity != NULL && identity[0] != '\0')
		FUZZ_CHECK(strcmp(psk.identity, identity) == 0);
	sluice_psk_wipe(&psk);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	int fd;

	if (path[0] == '\0') {
		snprintf(path, sizeof(path), "/dev/shm/sluice-fuzz-psk-XXXXXX");
		fd = mkostemp(path, O_CLOEXEC);
		FUZZ_CHECK(fd >= 0);
		close(fd);
		atexit(remove_file);
	}
	fd = open(path, O_WRONLY | O_TRUNC | O_CLOEXEC);
	FUZZ_CHECK(fd >= 0 && write(fd, data, size) == (ssize_t)size);
	close(fd);
	find("");
	find(NULL);
	find("vm1");
	return 0;
}
