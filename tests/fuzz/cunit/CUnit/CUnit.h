/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * CUnit.h: what tests/unit/session_pair.c uses of CUnit, for fuzz targets: there is no test run
 * to report to, so what does not hold ends the program.
 */
#ifndef SLUICE_TESTS_FUZZ_CUNIT_H
#define SLUICE_TESTS_FUZZ_CUNIT_H

#include "tests/fuzz/fuzz.h"

#define CU_ASSERT(value)                    FUZZ_CHECK(value)
#define CU_ASSERT_TRUE(value)               FUZZ_CHECK(value)
#define CU_ASSERT_TRUE_FATAL(value)         FUZZ_CHECK(value)
#define CU_ASSERT_FATAL(value)              FUZZ_CHECK(value)
#define CU_ASSERT_FALSE(value)              FUZZ_CHECK(!(value))
#define CU_ASSERT_EQUAL(a, b)               FUZZ_CHECK((a) == (b))
#define CU_ASSERT_EQUAL_FATAL(a, b)         FUZZ_CHECK((a) == (b))
#define CU_ASSERT_PTR_NOT_NULL(value)       FUZZ_CHECK((value) != NULL)
#define CU_ASSERT_PTR_NOT_NULL_FATAL(value) FUZZ_CHECK((value) != NULL)
#define CU_ASSERT_STRING_EQUAL(a, b)        FUZZ_CHECK(strcmp(a, b) == 0)

#endif
