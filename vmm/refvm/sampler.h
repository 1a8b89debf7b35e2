/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * sampler.h: the ticker: every 10 ms it begins a throttling period and notes how many
 * operations the guest has done, so that pauses and brown-outs show.
 *
 * Threading: one thread of its own; reading from any thread.
 */
#ifndef REFVM_SAMPLER_H
#define REFVM_SAMPLER_H

#include <jansson.h>

#include "vmm/refvm/vm.h"

#define REFVM_SAMPLES_MAX 24000 /* four minutes; all of them fit into one message */

struct refvm_sampler;

int refvm_sampler_start(
	struct refvm_vm *vm, struct refvm_sampler **ret_sampler, struct sluice_error *err);
void refvm_sampler_stop(struct refvm_sampler *sampler); /* NULL is allowed */

/* {"bin_ns", "t_ns": [...], "ops": [...]}: the guest's operations in total at these moments of
   CLOCK_MONOTONIC, from the first sample after @since_ns. NULL without memory. */
json_t *refvm_sampler_json(struct refvm_sampler *sampler, uint64_t since_ns);

#endif
