/* SPDX-License-Identifier: BSD-3-Clause */
/* guard.c: see guard.h. A fixed table, because the handler may neither lock nor allocate. */
#include "engine/memory/guard.h"

#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

#include "base/bits.h"
#include "engine/memory/region.h"

struct guard {
	uintptr_t base; /* 0: unused. Written last by enter, first by leave */
	size_t len_bytes;
	uint32_t lost;
};

static struct guard guards[SLUICE_REGIONS_MAX];
static struct sigaction previous;
static bool installed;

static struct guard *find(uintptr_t address)
{
	for (size_t i = 0; i < SLUICE_ARRAY_LEN(guards); i++) {
		uintptr_t base = __atomic_load_n(&guards[i].base, __ATOMIC_ACQUIRE);

		if (base != 0 && address - base < guards[i].len_bytes)
			return &guards[i];
	}
	return NULL;
}

/* Zero pages from the fault to the end of the range: a file shrinks from its end. */
static void on_sigbus(int signal_number, siginfo_t *info, void *context)
{
	uintptr_t page = (uintptr_t)info->si_addr & ~(uintptr_t)(SLUICE_PAGE_BYTES - 1);
	struct guard *guard = find(page);
	int saved_errno = errno;
	void *zeros = MAP_FAILED;

	(void)context;
	if (guard != NULL)
		zeros = mmap((void *)page, guard->base + guard->len_bytes - page,
			PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	if (zeros == MAP_FAILED) {
		sigaction(signal_number, &previous, NULL); /* the access faults again */
		errno = saved_errno;
		return;
	}
	__atomic_store_n(&guard->lost, 1, __ATOMIC_RELEASE);
	errno = saved_errno;
}

int sluice_guard_enter(void *base, size_t len_bytes)
{
	struct sigaction action = {.sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO};

	if (!installed) {
		if (sigaction(SIGBUS, &action, &previous) < 0)
			return -errno;
		installed = true;
	}
	for (size_t i = 0; i < SLUICE_ARRAY_LEN(guards); i++) {
		if (guards[i].base != 0)
			continue;
		guards[i].len_bytes = len_bytes;
		guards[i].lost = 0;
		__atomic_store_n(&guards[i].base, (uintptr_t)base, __ATOMIC_RELEASE);
		return 0;
	}
	return -ENOSPC;
}

void sluice_guard_leave(void *base)
{
	struct guard *guard = find((uintptr_t)base);

	if (guard != NULL)
		__atomic_store_n(&guard->base, 0, __ATOMIC_RELEASE);
}

bool sluice_guard_is_lost(const void *base)
{
	struct guard *guard = find((uintptr_t)base);

	return guard != NULL && __atomic_load_n(&guard->lost, __ATOMIC_ACQUIRE) != 0;
}
