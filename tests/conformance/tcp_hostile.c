/* SPDX-License-Identifier: BSD-3-Clause */
/* tcp_hostile.c: main of the tests that only the tcp transport has. */
#include <stdio.h>
#include <string.h>

#include <CUnit/Basic.h>

#include "tests/conformance/tcp_raw.h"
#include "tests/support/lane_guard.h"

/* What each of the tests sees; "" for those that try nothing bad. */
static const struct {
	const char *test, *got;
} outcomes[] = {
	{"garbage", "closed without a word; the right source still gets its lane"},
	{"a hello that is nearly right", "each of its bytes changed, with and without a right "
					 "checksum: closed without a word"},
	{"a replayed hello", "closed without a word; the lane goes on"},
	{"half a hello, then nothing", "closed after 5 s"},
	{"a hello byte by byte", ""},
	{"a frame right behind the hello", ""},
	{"a crowd of silent strangers", "the oldest are closed; the right source gets its lane"},
	{"valid frames are accepted", ""},
	{"every field of a frame out of range", ""}, /* listed one by one */
	{"every bit flipped", "the lane is lost with EPROTO, or waits for a longer frame's rest"},
	{"more than a frame may place", "the lane is lost with EPROTO; nothing is stored"},
	{"truncated frames", "wait for the rest; nothing of them is stored"},
	{"frames in pieces", ""},
	{"overlapping operations in one frame", "take effect in their order"},
	{"frames spoilt at random", "no byte outside of the session's memory changes"},
	{"a peer that never reads", "no more is taken from the lane; the others go on"},
	{"bytes after a fence", "never land"},
	{"a flood of small frames", "taken in their turn; the other lanes go on"},
	{"a target that writes", "the source's lane is lost with EPROTO; its memory is unchanged"},
	{"false acknowledgements", "of more than was sent, of less than before: the source's lane "
				   "is lost with EPROTO"},
	{"FLUSH waits for acknowledgements", ""},
	{"events that find no room", ""},
	{"source memory vanishes", "the lane is lost; nothing else is touched"},
};

static const char *outcome_of(const char *test)
{
	for (size_t i = 0; i < SLUICE_ARRAY_LEN(outcomes); i++)
		if (strcmp(outcomes[i].test, test) == 0)
			return outcomes[i].got;
	return NULL;
}

/* Rows for docs/hostile-input.md; a test without an outcome is a mistake. */
static int list(void)
{
	CU_TestInfo *const suites[] = {cases_tcp_hello, cases_tcp_frames, cases_tcp_source};
	int status = 0;

	for (size_t s = 0; s < SLUICE_ARRAY_LEN(suites); s++) {
		for (const CU_TestInfo *test = suites[s]; test->pName != NULL; test++) {
			const char *got = outcome_of(test->pName);

			if (got == NULL) {
				fprintf(stderr, "what does \"%s\" see?\n", test->pName);
				status = 1;
			} else if (got[0] != '\0') {
				printf("Lanes\t%s\t%s\n", test->pName, got);
			}
		}
	}
	list_tcp_pokes();
	return status;
}

int main(int argc, char **argv)
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

	if (argc > 1 && strcmp(argv[1], "--list") == 0)
		return list();
	raw_tcp = lane_guard_transport(&sluice_transport_tcp);
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
