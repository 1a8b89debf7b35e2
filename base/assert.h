/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * assert.h: invariants of our own code. On in release builds. Never for input
 * from a peer, a VMM, a file or a config: those are validated and refused.
 */
#ifndef SLUICE_BASE_ASSERT_H
#define SLUICE_BASE_ASSERT_H

__attribute__((noreturn, cold)) void sluice_assert_failed(
	const char *expression, const char *file, int line, const char *function);

#define SLUICE_ASSERT(expression)            \
	(__builtin_expect(!!(expression), 1) \
			? (void)0            \
			: sluice_assert_failed(#expression, __FILE__, __LINE__, __func__))

#endif
