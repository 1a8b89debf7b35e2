/* SPDX-License-Identifier: BSD-3-Clause */
/* suite.c: every case over one driver. */
#include <stdio.h>

#include <CUnit/Basic.h>

#include "tests/conformance/harness.h"

int conformance_main(const struct conformance_driver *driver)
{
	CU_SuiteInfo suites[] = {
		{"connecting", NULL, NULL, NULL, NULL, cases_connect},
		{"placing", NULL, NULL, NULL, NULL, cases_place},
		{"order", NULL, NULL, NULL, NULL, cases_order},
		{"loss", NULL, NULL, NULL, NULL, cases_loss},
		{"sleeping", NULL, NULL, NULL, NULL, cases_arm},
		CU_SUITE_INFO_NULL,
	};
	unsigned int failures, run;

	conformance_driver = driver;
	if (CU_initialize_registry() != CUE_SUCCESS || CU_register_suites(suites) != CUE_SUCCESS) {
		fprintf(stderr, "conformance: %s\n", CU_get_error_msg());
		return 1;
	}
	CU_basic_set_mode(CU_BRM_VERBOSE);
	CU_basic_run_tests();
	failures = CU_get_number_of_failures() + CU_get_number_of_suites_failed();
	run = CU_get_number_of_tests_run();
	CU_cleanup_registry();
	return failures == 0 && run > 0 ? 0 : 1;
}
