/* SPDX-License-Identifier: BSD-3-Clause */
/* populate.c: see populate.h. */
#include "engine/memory/populate.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stddef.h>
#include <sys/mman.h>

#include "base/bits.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

#define THREADS_MAX      16
#define THREAD_MIN_BYTES (256ull << 20) /* less is not worth a thread */
#define STEP_BYTES       (32ull << 20) /* taken at once: 16 chunks */

struct populate {
	uint8_t *base;
	uint64_t len_bytes;
	uint64_t next; /* atomic: bytes taken so far */
	int status; /* atomic: the first error */
};

static void *populate_some(void *ctx)
{
	struct populate *p = ctx;
	uint64_t at;

	while (__atomic_load_n(&p->status, __ATOMIC_RELAXED) == 0 &&
		(at = __atomic_fetch_add(&p->next, STEP_BYTES, __ATOMIC_RELAXED)) < p->len_bytes) {
		uint64_t left = p->len_bytes - at;
		int r;

		do {
			r = madvise(p->base + at, left < STEP_BYTES ? left : STEP_BYTES,
				MADV_POPULATE_WRITE);
		} while (r < 0 && errno == EINTR);
		if (r < 0)
			__atomic_store_n(&p->status, -errno, __ATOMIC_RELAXED);
	}
	return NULL;
}

static uint32_t choose_threads(uint64_t len_bytes)
{
	uint64_t threads = len_bytes / THREAD_MIN_BYTES;
	cpu_set_t cpus;

	if (sched_getaffinity(0, sizeof(cpus), &cpus) == 0 && threads > (uint64_t)CPU_COUNT(&cpus))
		threads = (uint64_t)CPU_COUNT(&cpus);
	return threads < THREADS_MAX ? (uint32_t)threads : THREADS_MAX;
}

int sluice_populate(void *base, uint64_t len_bytes)
{
	struct populate p = {.base = base, .len_bytes = len_bytes};
	pthread_t threads[THREADS_MAX];
	uint32_t wanted = choose_threads(len_bytes), count = 0;

	/* The caller is one of them; where no thread can be had it does everything. */
	while (count + 1 < wanted && pthread_create(&threads[count], NULL, populate_some, &p) == 0)
		count++;
	populate_some(&p);
	for (uint32_t i = 0; i < count; i++)
		pthread_join(threads[i], NULL);
	return p.status;
}
