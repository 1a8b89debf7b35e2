/* SPDX-License-Identifier: BSD-3-Clause */
/* fixture.h: what refvm's tests share: small machines, waiting for the guest, reading its
   counters. Each test program has one machine at a time. */
#ifndef REFVM_TESTS_FIXTURE_H
#define REFVM_TESTS_FIXTURE_H

#include <CUnit/Basic.h>
#include <CUnit/CUnit.h>

#include "vmm/refvm/vm.h"

#define TEST_SKIP 77

/* 64 MiB in two regions, two vCPUs, uniform, as fast as it can. */
struct refvm_vm_opts fixture_opts(int accel, int tracking);
/* Create, start, and wait until the guest has filled its memory. False after a CUnit failure. */
bool fixture_boot(struct refvm_vm *vm, const struct refvm_vm_opts *opts);
void fixture_sleep_ms(unsigned int ms);
/* Wait until @condition holds, a minute at most: the machine may be slow. Counts as a failed check
   when it never does. */
#define FIXTURE_WAIT(condition)                                                   \
	do {                                                                      \
		for (unsigned int ms_ = 0; !(condition) && ms_ < 60000; ms_ += 5) \
			fixture_sleep_ms(5);                                      \
		CU_ASSERT(condition);                                             \
	} while (0)
/* Let the guest do @ops operations more. */
void fixture_work(const struct refvm_vm *vm, uint64_t ops);

uint64_t fixture_ops(const struct refvm_vm *vm);
uint64_t fixture_errors(const struct refvm_vm *vm);
bool fixture_filled(const struct refvm_vm *vm);
/* Change a setting of the running guest. */
void fixture_set(struct refvm_vm *vm, uint32_t pattern, uint64_t rate);
/* Make it idle, and return when every vCPU is: from then on each sleeps nearly all of the time. */
void fixture_idle(struct refvm_vm *vm);

bool fixture_has_kvm(void);
bool fixture_has_uffd(void); /* with asynchronous write protection */

struct fixture_case {
	const char *name;
	void (*run)(void);
};
/* Run a table of cases, ended by a NULL name. Returns main()'s exit code. */
int fixture_main(const char *suite, const struct fixture_case *cases);

#endif
