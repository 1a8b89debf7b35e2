/* SPDX-License-Identifier: BSD-3-Clause */
/* record.c: see record.h. A record is one line of JSON in SESSION.source or SESSION.target. */
#include "engine/peer/record.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <jansson.h>

#include "base/assert.h"
#include "base/clock.h"

#define PATH_BYTES       512
#define RECORD_BYTES_MAX 512
#define REHEARSALS \
	9 /* the one in the middle counts: some wait for the guest's CPUs, as none will then */

static const char where[] = "session record";

const char *sluice_decision_name(enum sluice_decision decision)
{
	static const char *const names[] = {"undecided", "committed", "aborted"};

	return names[decision];
}

static int path_of(const char *dir, enum sluice_record_side side, const char *session,
	const char *suffix, char path[PATH_BYTES], struct sluice_error *err)
{
	int n;

	if (strlen(session) != SLUICE_SESSION_ID_BYTES - 1 ||
		strspn(session, "0123456789abcdef") != SLUICE_SESSION_ID_BYTES - 1)
		return sluice_fail(
			err, -EINVAL, where, "a session id is 32 lower-case hexadecimal digits");
	n = snprintf(path, PATH_BYTES, "%s/session-%s.%s%s", dir, session,
		side == SLUICE_RECORD_SOURCE ? "source" : "target", suffix);
	if (n < 0 || n >= PATH_BYTES)
		return sluice_fail(err, -ENAMETOOLONG, where,
			"the runtime directory's name is "
			"too long");
	return 0;
}

static void sync_dir(const char *dir)
{
	int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0)
		return;
	fsync(fd);
	close(fd);
}

static int write_file(const char *path, const char *text)
{
	size_t len = strlen(text);
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	int r = 0;

	if (fd < 0)
		return -errno;
	if (write(fd, text, len) != (ssize_t)len)
		r = errno != 0 ? -errno : -EIO;
	if (r == 0 && fsync(fd) < 0)
		r = -errno;
	if (close(fd) < 0 && r == 0)
		r = -errno;
	return r;
}

/*
 * The record's text: its length, 0 when there is no record, or negative. Only a plain file of our
 * own: a link would let somebody else's file decide, and a pipe would never end.
 */
static int read_text(const char *path, char text[RECORD_BYTES_MAX])
{
	int fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	struct stat st;
	ssize_t bytes;

	if (fd < 0)
		return errno == ENOENT ? 0 : -errno;
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) ||
		(st.st_uid != geteuid() && st.st_uid != 0) || st.st_size >= RECORD_BYTES_MAX) {
		close(fd);
		return -EINVAL;
	}
	bytes = read(fd, text, RECORD_BYTES_MAX);
	close(fd);
	return bytes > 0 && bytes < RECORD_BYTES_MAX ? (int)bytes : -EINVAL;
}

/* What a record says about @session; SLUICE_UNDECIDED when it says nothing that is sure. */
static enum sluice_decision parse(const char *text, size_t bytes, const char *session)
{
	json_t *record = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, NULL);
	const char *whose = json_string_value(json_object_get(record, "session"));
	const char *decision = json_string_value(json_object_get(record, "decision"));
	enum sluice_decision result = SLUICE_UNDECIDED;

	if (whose != NULL && decision != NULL && strcmp(whose, session) == 0) {
		if (strcmp(decision, sluice_decision_name(SLUICE_COMMITTED)) == 0)
			result = SLUICE_COMMITTED;
		else if (strcmp(decision, sluice_decision_name(SLUICE_ABORTED)) == 0)
			result = SLUICE_ABORTED;
	}
	json_decref(record);
	return result;
}

int sluice_record_read(const char *dir, enum sluice_record_side side, const char *session,
	enum sluice_decision *ret_decision, struct sluice_error *err)
{
	enum sluice_decision decision = SLUICE_UNDECIDED;
	char path[PATH_BYTES], text[RECORD_BYTES_MAX];
	int r = path_of(dir, side, session, "", path, err);

	if (r < 0)
		return r;
	r = read_text(path, text);
	if (r > 0)
		decision = parse(text, (size_t)r, session);
	if (r != 0 && decision == SLUICE_UNDECIDED)
		return sluice_fail(err, -EIO, where,
			"%s cannot be read as a session record; look at "
			"it, and at the other host's, before running the guest anywhere",
			path);
	*ret_decision = decision;
	return 0;
}

int sluice_record_prepare(const char *dir, struct sluice_error *err)
{
	struct stat st;

	if ((mkdir(dir, 0700) < 0 && errno != EEXIST) || stat(dir, &st) < 0 ||
		access(dir, R_OK | W_OK | X_OK) < 0)
		return sluice_fail(err, -errno, where,
			"the runtime directory %s cannot be used: %s; make it, or choose another "
			"one with --set runtime-dir=PATH",
			dir, strerror(errno));
	if (!S_ISDIR(st.st_mode))
		return sluice_fail(err, -ENOTDIR, where,
			"the runtime directory %s is not a directory; choose another one with "
			"--set runtime-dir=PATH",
			dir);
	/* Whoever may write there may decide where a guest runs. */
	if ((st.st_uid != geteuid() && st.st_uid != 0) || (st.st_mode & S_IWOTH))
		return sluice_fail(err, -EPERM, where,
			"the runtime directory %s belongs to another user, or everybody may write "
			"to it; give the engine one of its own (mode 0700) with --set "
			"runtime-dir=PATH",
			dir);
	return 0;
}

/* A record stands in the way of ours: so it is that one that holds. */
static int read_decided(const char *dir, enum sluice_record_side side, const char *session,
	enum sluice_decision *ret_decision, struct sluice_error *err)
{
	enum sluice_decision decision;
	int r = sluice_record_read(dir, side, session, &decision, err);

	if (r == 0 && decision == SLUICE_UNDECIDED)
		r = sluice_fail(err, -EIO, where,
			"the record of session %s vanished while it was read; nobody but engines "
			"may write to %s",
			session, dir);
	if (r == 0)
		*ret_decision = decision;
	return r;
}

static int rehearse_once(
	const char *dir, const char *temporary, const char *path, struct sluice_error *err)
{
	int r = write_file(temporary, "{\"rehearsal\": true}\n");

	if (r == 0 && rename(temporary, path) < 0)
		r = -errno;
	if (r == 0)
		sync_dir(dir);
	unlink(r == 0 ? path : temporary);
	return r == 0 ? 0
		      : sluice_fail(err, r, where,
				"a record of the commit could not be written to %s: %s; make room, "
				"or choose another folder with --set runtime-dir=PATH",
				dir, strerror(-r));
}

static int compare_ns(const void *a, const void *b)
{
	const uint64_t *x = a, *y = b;

	return (*x > *y) - (*x < *y);
}

int sluice_record_rehearse(const char *dir, uint64_t *ret_ns, struct sluice_error *err)
{
	char path[PATH_BYTES], temporary[PATH_BYTES];
	uint64_t took_ns[REHEARSALS];
	int r = sluice_record_prepare(dir, err);

	snprintf(path, sizeof(path), "%s/rehearsal.%ld", dir, (long)getpid());
	snprintf(temporary, sizeof(temporary), "%s/rehearsal.%ld.tmp", dir, (long)getpid());
	for (int i = 0; r == 0 && i < REHEARSALS; i++) {
		uint64_t begin_ns = sluice_now_ns();

		r = rehearse_once(dir, temporary, path, err);
		took_ns[i] = sluice_now_ns() - begin_ns;
	}
	if (r < 0)
		return r;
	qsort(took_ns, REHEARSALS, sizeof(*took_ns), compare_ns);
	*ret_ns = took_ns[REHEARSALS / 2];
	return 0;
}

#define BEGUN ".begun"

int sluice_record_begin(const char *dir, const char *session, struct sluice_error *err)
{
	char path[PATH_BYTES];
	int r = path_of(dir, SLUICE_RECORD_TARGET, session, BEGUN, path, err), fd;

	if (r == 0)
		r = sluice_record_prepare(dir, err);
	if (r < 0)
		return r;
	fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return sluice_fail(err, -errno, where,
			"%s cannot be made: %s; make room, or "
			"choose another folder with --set runtime-dir=PATH",
			path, strerror(errno));
	close(fd);
	return 0;
}

void sluice_record_begin_undo(const char *dir, const char *session)
{
	struct sluice_error err = {0};
	char path[PATH_BYTES];

	if (path_of(dir, SLUICE_RECORD_TARGET, session, BEGUN, path, &err) == 0)
		unlink(path);
}

bool sluice_record_has_begun(const char *dir, const char *session)
{
	struct sluice_error err = {0};
	char path[PATH_BYTES];

	/* Not to know is no "no". */
	return path_of(dir, SLUICE_RECORD_TARGET, session, BEGUN, path, &err) == 0 &&
	       (access(path, F_OK) == 0 || errno != ENOENT);
}

int sluice_record_decide(const char *dir, enum sluice_record_side side, const char *session,
	enum sluice_decision decision, enum sluice_decision *ret_decision, struct sluice_error *err)
{
	char path[PATH_BYTES], temporary[PATH_BYTES], suffix[32], text[128];
	int r;

	SLUICE_ASSERT(decision != SLUICE_UNDECIDED);
	snprintf(suffix, sizeof(suffix), ".%ld.tmp", (long)getpid());
	r = path_of(dir, side, session, "", path, err);
	if (r == 0)
		r = path_of(dir, side, session, suffix, temporary, err);
	if (r < 0)
		return r;
	snprintf(text, sizeof(text), "{\"session\": \"%s\", \"decision\": \"%s\"}\n", session,
		sluice_decision_name(decision));
	r = sluice_record_prepare(dir, err);
	if (r < 0)
		return r;
	r = write_file(temporary, text);
	if (r < 0) {
		unlink(temporary);
		return sluice_fail(
			err, r, where, "%s cannot be written: %s", temporary, strerror(-r));
	}
	if (renameat2(AT_FDCWD, temporary, AT_FDCWD, path, RENAME_NOREPLACE) < 0) {
		r = -errno;
		unlink(temporary);
		if (r == -EEXIST)
			return read_decided(dir, side, session, ret_decision, err);
		return sluice_fail(
			err, r, where, "%s cannot be put in place: %s", path, strerror(-r));
	}
	/* In place, so it holds: whoever asks from now on is told this. Should the folder not reach
	   the disk, only a host that loses power forgets it, and its guest with it. */
	sync_dir(dir);
	if (side == SLUICE_RECORD_TARGET)
		sluice_record_begin_undo(dir, session);
	*ret_decision = decision;
	return 0;
}
