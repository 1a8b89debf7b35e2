/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * record.c: fuzz target: a session record in the runtime directory that somebody else wrote. The
 * input is the file. Reading it decides nothing that it does not say, and deciding does not
 * replace it.
 */
#include <fcntl.h>
#include <unistd.h>

#include <jansson.h>

#include "engine/peer/record.h"
#include "tests/fuzz/fuzz.h"

#define SESSION "0123456789abcdef0123456789abcdef"

static char dir[64], path[128];

static void remove_dir(void)
{
	unlink(path);
	rmdir(dir);
}

static void make_dir(void)
{
	if (dir[0] != '\0')
		return;
	snprintf(dir, sizeof(dir), "/dev/shm/sluice-fuzz-XXXXXX");
	FUZZ_CHECK(mkdtemp(dir) != NULL);
	snprintf(path, sizeof(path), "%s/session-%s.source", dir, SESSION);
	atexit(remove_dir);
}

/* What the input says by the rules of the format, read in another way. */
static enum sluice_decision said(const uint8_t *data, size_t size)
{
	json_t *record = json_loadb((const char *)data, size, JSON_REJECT_DUPLICATES, NULL);
	const char *session = json_string_value(json_object_get(record, "session"));
	const char *decision = json_string_value(json_object_get(record, "decision"));
	enum sluice_decision result = SLUICE_UNDECIDED;

	if (session != NULL && decision != NULL && strcmp(session, SESSION) == 0) {
		if (strcmp(decision, "committed") == 0)
			result = SLUICE_COMMITTED;
		else if (strcmp(decision, "aborted") == 0)
			result = SLUICE_ABORTED;
	}
	json_decref(record);
	return result;
}

static void check(enum sluice_decision expected, int r, enum sluice_decision got,
	const struct sluice_error *err)
{
	FUZZ_CHECK((r == 0) == (expected != SLUICE_UNDECIDED));
	FUZZ_CHECK((r == 0) == (err->code == 0));
	FUZZ_CHECK(r != 0 || got == expected);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	enum sluice_decision decision = SLUICE_UNDECIDED, expected = said(data, size);
	struct sluice_error err = {0};
	int fd, r;

	make_dir();
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	FUZZ_CHECK(fd >= 0 && write(fd, data, size) == (ssize_t)size);
	close(fd);
	r = sluice_record_read(dir, SLUICE_RECORD_SOURCE, SESSION, &decision, &err);
	check(expected, r, decision, &err);
	err.code = 0;
	r = sluice_record_decide(
		dir, SLUICE_RECORD_SOURCE, SESSION, SLUICE_COMMITTED, &decision, &err);
	check(expected, r, decision, &err);
	return 0;
}
