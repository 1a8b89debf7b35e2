/* SPDX-License-Identifier: BSD-3-Clause */
/* record_test.c: a session is decided once, by whoever is first, also across processes. */
#include <errno.h>
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

int main(void)
{
	static const struct unit_test tests[] = {
		{"the first decision wins", test_first_decision_wins},
		{"two engines decide at once", test_race},
		{"bad ids, bad files, bad folders", test_bad_input},
		{0},
	};
	int r;

	if (mkdtemp(dir) == NULL)
		return EXIT_FAILURE;
	r = unit_run("record", tests);
	unit_remove_folder(dir);
	return r;
}
