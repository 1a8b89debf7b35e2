/* SPDX-License-Identifier: BSD-3-Clause */
/* tcp_hostile.c: main of the tests that only the tcp transport has. */
#include <stdio.h>

#include <CUnit/Basic.h>

#include "tests/conformance/tcp_raw.h"

int main(void)
{
	CU_SuiteInfo suites[] = {
		{"strangers", NULL, NULL, NULL, NULL, cases_tcp_hello},
		{"hostile sources", NULL, NULL, NULL, NULL, cases_tcp_frames},
		{"hostile targets", NULL, NULL, NULL, NULL, cases_tcp_source},
		{"payload", NULL, NULL, NULL, NULL, cases_tcp_payload},
		{"the rest", NULL, NULL, NULL, NULL, cases_tcp_own},
		CU_SUITE_INFO_NULL,
	};
	unsigned int failures;

	if (CU_initialize_registry() != CUE_SUCCESS || CU_register_suites(suites) != CUE_SUCCESS) {
		fprintf(stderr, "tcp_hostile: %s\n", CU_get_error_msg());
		return 1;
	}
	CU_basic_set_mode(CU_BRM_VERBOSE);
	CU_basic_run_tests();
	failures = CU_get_number_of_failures() + CU_get_number_of_suites_failed();
	CU_cleanup_registry();
	return failures == 0 ? 0 : 1;
}
