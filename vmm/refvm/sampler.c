/* SPDX-License-Identifier: BSD-3-Clause */
/* sampler.c: see sampler.h. */
#include "vmm/refvm/sampler.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "vmm/refvm/guest_view.h"

struct sample {
	uint64_t ns, ops;
};

struct refvm_sampler {
	struct refvm_vm *vm;
	pthread_t thread;
	bool quit; /* atomic */
	pthread_mutex_t lock;
	uint64_t count; /* ever taken; the last REFVM_SAMPLES_MAX are kept */
	struct sample ring[REFVM_SAMPLES_MAX];
};

static void take_sample(struct refvm_sampler *sampler, uint64_t now_ns)
{
	struct sample *sample;
	uint64_t ops;

	/* Memory that waits for a guest stays untouched: reading would allocate it. */
	if (!__atomic_load_n(&sampler->vm->loaded, __ATOMIC_ACQUIRE))
		return;
	ops = refvm_guest_ops(sampler->vm);
	pthread_mutex_lock(&sampler->lock);
	sample = &sampler->ring[sampler->count % REFVM_SAMPLES_MAX];
	sample->ns = now_ns;
	sample->ops = ops;
	sampler->count++;
	pthread_mutex_unlock(&sampler->lock);
}

static void sleep_until(uint64_t ns)
{
	struct timespec until = {
		.tv_sec = (time_t)(ns / SLUICE_NS_PER_S),
		.tv_nsec = (long)(ns % SLUICE_NS_PER_S),
	};

	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) == EINTR)
		;
}

static void *sampler_main(void *ctx)
{
	struct refvm_sampler *sampler = ctx;
	uint64_t next = sluice_now_ns(), now;

	while (!__atomic_load_n(&sampler->quit, __ATOMIC_RELAXED)) {
		refvm_vm_tick(sampler->vm);
		now = sluice_now_ns();
		take_sample(sampler, now);
		next += REFVM_TICK_NS;
		if (next < now) /* late: no burst of ticks to make good */
			next = now + REFVM_TICK_NS;
		sleep_until(next);
	}
	return NULL;
}

int refvm_sampler_start(
	struct refvm_vm *vm, struct refvm_sampler **ret_sampler, struct sluice_error *err)
{
	struct refvm_sampler *sampler = calloc(1, sizeof(*sampler));
	int rc;

	if (sampler == NULL)
		return sluice_fail(err, -ENOMEM, "sampler", "No memory for samples.");
	sampler->vm = vm;
	pthread_mutex_init(&sampler->lock, NULL);
	rc = -pthread_create(&sampler->thread, NULL, sampler_main, sampler);
	if (rc < 0) {
		pthread_mutex_destroy(&sampler->lock);
		free(sampler);
		return sluice_fail(err, rc, "sampler", "A thread: %s.", strerror(-rc));
	}
	*ret_sampler = sampler;
	return 0;
}

void refvm_sampler_stop(struct refvm_sampler *sampler)
{
	if (sampler == NULL)
		return;
	__atomic_store_n(&sampler->quit, true, __ATOMIC_RELAXED);
	pthread_join(sampler->thread, NULL);
	pthread_mutex_destroy(&sampler->lock);
	free(sampler);
}

json_t *refvm_sampler_json(struct refvm_sampler *sampler, uint64_t since_ns)
{
	json_t *t = json_array(), *ops = json_array();
	uint64_t i;

	pthread_mutex_lock(&sampler->lock);
	i = sampler->count > REFVM_SAMPLES_MAX ? sampler->count - REFVM_SAMPLES_MAX : 0;
	for (; i < sampler->count; i++) {
		const struct sample *sample = &sampler->ring[i % REFVM_SAMPLES_MAX];

		if (sample->ns <= since_ns)
			continue;
		json_array_append_new(t, json_integer((json_int_t)sample->ns));
		json_array_append_new(ops, json_integer((json_int_t)sample->ops));
	}
	pthread_mutex_unlock(&sampler->lock);
	return json_pack(
		"{s:I, s:o, s:o}", "bin_ns", (json_int_t)REFVM_TICK_NS, "t_ns", t, "ops", ops);
}
