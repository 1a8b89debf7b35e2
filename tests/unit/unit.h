/* SPDX-License-Identifier: BSD-3-Clause */
/* unit.h: run a table of CUnit tests; main() of each unit test ends with unit_run(). */
#ifndef SLUICE_TESTS_UNIT_UNIT_H
#define SLUICE_TESTS_UNIT_UNIT_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <dirent.h>
#include <unistd.h>

#include <CUnit/Basic.h>

struct unit_test {
	const char *name;
	void (*fn)(void);
};

/* @tests ends with a NULL name. 0 when all passed. */
static inline int unit_run(const char *suite_name, const struct unit_test *tests)
{
	unsigned int failed;
	CU_pSuite suite;

	if (CU_initialize_registry() != CUE_SUCCESS)
		return EXIT_FAILURE;
	suite = CU_add_suite(suite_name, NULL, NULL);
	for (; tests->name != NULL; tests++)
		CU_add_test(suite, tests->name, tests->fn);
	CU_basic_set_mode(CU_BRM_VERBOSE);
	CU_basic_run_tests();
	failed = CU_get_number_of_failures() + CU_get_number_of_suites_failed();
	if (CU_get_number_of_tests_run() == 0)
		failed++;
	CU_cleanup_registry();
	return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

/* Whether @text contains @part; shows both when it does not. */
static inline int unit_contains(const char *text, const char *part)
{
	if (strstr(text, part) != NULL)
		return 1;
	fprintf(stderr, "\n'%s' lacks '%s'\n", text, part);
	return 0;
}

/* Remove a folder that holds files only. */
static inline int unit_remove_folder(const char *path)
{
	DIR *dir = opendir(path);
	struct dirent *entry;

	if (dir == NULL)
		return -1;
	while ((entry = readdir(dir)) != NULL)
		unlinkat(dirfd(dir), entry->d_name, 0);
	closedir(dir);
	return rmdir(path);
}

#define UNIT_CONTAINS(text, part) CU_ASSERT_TRUE(unit_contains(text, part))

#endif
