/* SPDX-License-Identifier: BSD-3-Clause */
/* record_test.c: a session is decided once, by whoever is first, also across processes. */
#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine/peer/record.h"
#include "tests/unit/unit.h"

static const char session[] = "0123456789abcdef0123456789abcdef";
static char dir[] = "/tmp/sluice-record-XXXXXX";

static void test_first_decision_wins(void)
{
	enum sluice_decision decision = SLUICE_COMMITTED;

	CU_ASSERT_EQUAL(sluice_record_read(dir, SLUICE_RECORD_SOURCE, session, &decision, NULL), 0);
	CU_ASSERT_EQUAL(decision, SLUICE_UNDECIDED);
	CU_ASSERT_EQUAL(sluice_record_decide(dir, SLUICE_RECORD_SOURCE, session, SLUICE_ABORTED,
				&decision, NULL),
		0);
	CU_ASSERT_EQUAL(decision, SLUICE_ABORTED);
	CU_ASSERT_EQUAL(sluice_record_decide(dir, SLUICE_RECORD_SOURCE, session, SLUICE_COMMITTED,
				&decision, NULL),
		0);
	CU_ASSERT_EQUAL(decision, SLUICE_ABORTED);
	CU_ASSERT_EQUAL(sluice_record_read(dir, SLUICE_RECORD_SOURCE, session, &decision, NULL), 0);
	CU_ASSERT_EQUAL(decision, SLUICE_ABORTED);
	/* The other side has its own record. */
	CU_ASSERT_EQUAL(sluice_record_read(dir, SLUICE_RECORD_TARGET, session, &decision, NULL), 0);
	CU_ASSERT_EQUAL(decision, SLUICE_UNDECIDED);
}

/* Two engines at once: whatever each of them wanted, both see the same. */
static void test_race(void)
{
	for (int round = 0; round < 50; round++) {
		enum sluice_decision mine, child;
		char id[SLUICE_SESSION_ID_BYTES];
		int status = 0;
		pid_t pid;

		snprintf(id, sizeof(id), "%032x", round);
		pid = fork();
		if (pid == 0) {
			if (sluice_record_decide(dir, SLUICE_RECORD_SOURCE, id, SLUICE_ABORTED,
				    &child, NULL) < 0)
				_exit(99);
			_exit((int)child);
		}
		CU_ASSERT_EQUAL(sluice_record_decide(dir, SLUICE_RECORD_SOURCE, id,
					SLUICE_COMMITTED, &mine, NULL),
			0);
		waitpid(pid, &status, 0);
		CU_ASSERT_TRUE(WIFEXITED(status));
		CU_ASSERT_EQUAL(WEXITSTATUS(status), (int)mine);
	}
}

static void test_bad_input(void)
{
	static const char *const bad[] = {"", "x", "../../../../etc/passwd0000000000000",
		"0123456789ABCDEF0123456789abcdef", "0123456789abcdef0123456789abcdef0"};
	enum sluice_decision decision = SLUICE_ABORTED;
	struct sluice_error err = {0};
	char path[128];
	FILE *file;

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		CU_ASSERT_EQUAL(
			sluice_record_read(dir, SLUICE_RECORD_SOURCE, bad[i], &decision, NULL),
			-EINVAL);
	snprintf(path, sizeof(path), "%s/session-%s.target", dir, session);
	file = fopen(path, "w");
	fputs("{\"decision\": \"may", file);
	fclose(file);
	CU_ASSERT_EQUAL(
		sluice_record_read(dir, SLUICE_RECORD_TARGET, session, &decision, &err), -EIO);
	UNIT_CONTAINS(err.text, path);
	CU_ASSERT_EQUAL(decision, SLUICE_ABORTED); /* untouched */
	err = (struct sluice_error){0};
	CU_ASSERT_TRUE(sluice_record_prepare("/proc/nowhere", &err) < 0);
	UNIT_CONTAINS(err.text, "runtime-dir");
	CU_ASSERT_EQUAL(sluice_record_prepare(dir, NULL), 0);
	CU_ASSERT_TRUE(sluice_record_decide("/proc/nowhere", SLUICE_RECORD_SOURCE, session,
			       SLUICE_ABORTED, &decision, NULL) < 0);
}

static void put(const char *path, const char *text)
{
	FILE *file = fopen(path, "w");

	CU_ASSERT_PTR_NOT_NULL_FATAL(file);
	fputs(text, file);
	fclose(file);
}

static void check_unreadable(const char *path, const char *id)
{
	enum sluice_decision decision = SLUICE_UNDECIDED;
	struct sluice_error err = {0};

	CU_ASSERT_EQUAL(sluice_record_read(dir, SLUICE_RECORD_SOURCE, id, &decision, &err), -EIO);
	UNIT_CONTAINS(err.text, path);
	/* Nor is it replaced: whoever asks for a decision is told the same. */
	CU_ASSERT_EQUAL(sluice_record_decide(
				dir, SLUICE_RECORD_SOURCE, id, SLUICE_ABORTED, &decision, NULL),
		-EIO);
	CU_ASSERT_EQUAL(decision, SLUICE_UNDECIDED);
	unlink(path);
	rmdir(path);
}

/* What stands in a record's place and is none. */
static void test_not_a_record(void)
{
	static const char id[] = "fedcba9876543210fedcba9876543210";
	char path[128], other[128], long_text[4096];

	snprintf(path, sizeof(path), "%s/session-%s.source", dir, id);
	snprintf(other, sizeof(other), "%s/other", dir);
	snprintf(long_text, sizeof(long_text),
		"{\"session\":\"%s\",\"decision\":\"aborted\"}%2000s", id, "");
	put(other, "{\"session\":\"fedcba9876543210fedcba9876543210\",\"decision\":\"aborted\"}");
	CU_ASSERT_EQUAL(symlink(other, path), 0);
	check_unreadable(path, id);
	CU_ASSERT_EQUAL(symlink("/nowhere", path), 0);
	check_unreadable(path, id);
	CU_ASSERT_EQUAL(mkfifo(path, 0600), 0);
	check_unreadable(path, id);
	CU_ASSERT_EQUAL(mkdir(path, 0700), 0);
	check_unreadable(path, id);
	put(path, "");
	check_unreadable(path, id);
	put(path, long_text);
	check_unreadable(path, id);
	put(path, "{\"session\":\"0123456789abcdef0123456789abcdef\",\"decision\":\"aborted\"}");
	check_unreadable(path, id);
	put(path, "{\"session\":\"fedcba9876543210fedcba9876543210\","
		  "\"decision\":\"aborted\",\"decision\":\"committed\"}");
	check_unreadable(path, id);
	if (geteuid() == 0) {
		put(path, "{\"session\":\"fedcba9876543210fedcba9876543210\","
			  "\"decision\":\"aborted\"}");
		CU_ASSERT_EQUAL(chown(path, 65534, 65534), 0);
		check_unreadable(path, id);
	}
	unlink(other);
}

static void check_unfit(const char *path, const char *words)
{
	struct sluice_error err = {0};

	CU_ASSERT_TRUE(sluice_record_prepare(path, &err) < 0);
	UNIT_CONTAINS(err.text, words);
	UNIT_CONTAINS(err.text, "runtime-dir");
}

/* A directory that others may write to must not decide where a guest runs. */
static void test_unfit_directory(void)
{
	char path[128];

	snprintf(path, sizeof(path), "%s/unfit", dir);
	put(path, "");
	CU_ASSERT_EQUAL(chmod(path, 0700), 0);
	check_unfit(path, "not a directory");
	unlink(path);
	CU_ASSERT_EQUAL(mkdir(path, 0700), 0);
	CU_ASSERT_EQUAL(sluice_record_prepare(path, NULL), 0);
	CU_ASSERT_EQUAL(chmod(path, 0777), 0);
	check_unfit(path, "everybody");
	CU_ASSERT_EQUAL(chmod(path, 0700), 0);
	if (geteuid() == 0) {
		CU_ASSERT_EQUAL(chown(path, 65534, 65534), 0);
		check_unfit(path, "another user");
	}
	rmdir(path);
}

/* It leaves nothing behind, says how long a record takes, and fails where one would. */
static void test_rehearsal(void)
{
	char folder[64], file[96];
	struct sluice_error err = {0};
	uint64_t ns = 0;

	snprintf(folder, sizeof(folder), "%s/rehearsal", dir);
	CU_ASSERT_EQUAL(sluice_record_rehearse(folder, &ns, &err), 0);
	CU_ASSERT_TRUE(ns > 0);
	CU_ASSERT_EQUAL(rmdir(folder), 0); /* so it is empty */
	snprintf(file, sizeof(file), "%s/rehearsal.%ld", folder, (long)getpid());
	CU_ASSERT_EQUAL(mkdir(folder, 0700), 0);
	CU_ASSERT_EQUAL(mkdir(file, 0700), 0); /* in the way of the rename */
	ns = 0;
	CU_ASSERT_TRUE(sluice_record_rehearse(folder, &ns, &err) < 0);
	CU_ASSERT_EQUAL(ns, 0);
	UNIT_CONTAINS(err.text, "could not be written");
	CU_ASSERT_EQUAL(rmdir(file), 0);
	CU_ASSERT_EQUAL(rmdir(folder), 0);
}

static int count_files(const char *folder)
{
	DIR *files = opendir(folder);
	int count = -2; /* . and .. */

	while (files != NULL && readdir(files) != NULL)
		count++;
	if (files != NULL)
		closedir(files);
	return count;
}

/* A note of a session that began is there until it is decided, and is no record. */
static void test_a_session_begins(void)
{
	enum sluice_decision decision = SLUICE_COMMITTED;
	char folder[64], file[160];

	snprintf(folder, sizeof(folder), "%s/begun", dir);
	CU_ASSERT_FALSE(sluice_record_has_begun(folder, session));
	CU_ASSERT_EQUAL(sluice_record_begin(folder, session, NULL), 0);
	CU_ASSERT_EQUAL(sluice_record_begin(folder, session, NULL), 0);
	CU_ASSERT_TRUE(sluice_record_has_begun(folder, session));
	CU_ASSERT_EQUAL(
		sluice_record_read(folder, SLUICE_RECORD_TARGET, session, &decision, NULL), 0);
	CU_ASSERT_EQUAL(decision, SLUICE_UNDECIDED);
	sluice_record_begin_undo(folder, session);
	CU_ASSERT_FALSE(sluice_record_has_begun(folder, session));
	CU_ASSERT_EQUAL(sluice_record_begin(folder, session, NULL), 0);
	CU_ASSERT_EQUAL(sluice_record_decide(folder, SLUICE_RECORD_TARGET, session, SLUICE_ABORTED,
				&decision, NULL),
		0);
	CU_ASSERT_FALSE(sluice_record_has_begun(folder, session));
	CU_ASSERT_EQUAL(count_files(folder), 1);
	CU_ASSERT_TRUE(sluice_record_begin(folder, "../x", NULL) < 0);
	CU_ASSERT_FALSE(sluice_record_has_begun(folder, "../x"));
	snprintf(file, sizeof(file), "%s/session-%s.target", folder, session);
	CU_ASSERT_EQUAL(unlink(file), 0);
	CU_ASSERT_EQUAL(rmdir(folder), 0);
}

/* A record that cannot be written leaves nothing: retries would fill the directory. */
static void test_no_room(void)
{
	struct rlimit before, none;
	enum sluice_decision decision = SLUICE_UNDECIDED;
	struct sluice_error err = {0};
	char folder[64];
	int r;

	snprintf(folder, sizeof(folder), "%s/full", dir);
	CU_ASSERT_EQUAL(mkdir(folder, 0700), 0);
	CU_ASSERT_EQUAL(getrlimit(RLIMIT_FSIZE, &before), 0);
	none = (struct rlimit){.rlim_cur = 0, .rlim_max = before.rlim_max};
	signal(SIGXFSZ, SIG_IGN);
	CU_ASSERT_EQUAL(setrlimit(RLIMIT_FSIZE, &none), 0);
	r = sluice_record_decide(
		folder, SLUICE_RECORD_SOURCE, session, SLUICE_COMMITTED, &decision, &err);
	CU_ASSERT_EQUAL(setrlimit(RLIMIT_FSIZE, &before), 0);
	signal(SIGXFSZ, SIG_DFL);
	CU_ASSERT_EQUAL(r, -EFBIG);
	CU_ASSERT_EQUAL(decision, SLUICE_UNDECIDED);
	UNIT_CONTAINS(err.text, "cannot be written");
	CU_ASSERT_EQUAL(count_files(folder), 0);
	CU_ASSERT_EQUAL(rmdir(folder), 0);
}

int main(void)
{
	static const struct unit_test tests[] = {
		{"the first decision wins", test_first_decision_wins},
		{"two engines decide at once", test_race},
		{"bad ids, bad files, bad folders", test_bad_input},
		{"what is no record", test_not_a_record},
		{"a directory that is unfit", test_unfit_directory},
		{"a rehearsal", test_rehearsal},
		{"a session begins", test_a_session_begins},
		{"no room for a record", test_no_room},
		{0},
	};
	int r;

	if (mkdtemp(dir) == NULL)
		return EXIT_FAILURE;
	r = unit_run("record", tests);
	unit_remove_folder(dir);
	return r;
}
