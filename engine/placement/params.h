/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * params.h: the settings that a plan depends on, as rows of a parameter table: the engine's
 * (engine/config.c) and that of `sluice topology`. FIELD gives a field of the table's own struct.
 */
#ifndef SLUICE_ENGINE_PLACEMENT_PARAMS_H
#define SLUICE_ENGINE_PLACEMENT_PARAMS_H

#include <sluice/error.h>
#include <sluice/param.h>

#include "engine/placement/plan.h"

/* clang-format off */
#define SLUICE_PLACEMENT_PARAMS(FIELD)                                                             \
	{"lanes", SLUICE_PARAM_UINT, FIELD(lanes), "0", 0, SLUICE_PLAN_LANES_MAX, NULL,            \
		"connections that carry pages and device state; 0 chooses by link speed, 4 where " \
		"it is not known",                                                                 \
		false},                                                                            \
	{"workers", SLUICE_PARAM_UINT, FIELD(workers), "0", 0, SLUICE_PLAN_WORKERS_MAX, NULL,      \
		"threads that step lanes; 0 chooses by cores and lanes", false},                   \
	{"worker-cores", SLUICE_PARAM_STRING, FIELD(worker_cores), "", 0, 0, NULL,                 \
		"cores for the workers, one each, such as 2-5,8; without it they stay on the "     \
		"cores of their NUMA node and the kernel chooses",                                 \
		false},                                                                            \
	{"vcpu-cores", SLUICE_PARAM_STRING, FIELD(vcpu_cores), "", 0, 0, NULL,                     \
		"cores of the guest's vCPUs, such as 8-15: workers leave them alone", false},      \
	{"numa", SLUICE_PARAM_CHOICE, FIELD(numa), "auto", 0, 0, sluice_placement_numa_choices,    \
		"auto: workers, lanes and their memory go near to the guest's memory and the "     \
		"rail; off: as on a machine with one node",                                        \
		false}
/* clang-format on */

#define SLUICE_PLACEMENT_LIST_BYTES 256 /* of worker_cores and vcpu_cores */

extern const char *const sluice_placement_numa_choices[];

/* The settings as they stand in either struct, into a conf; rails and the guest stay. -EINVAL. */
int sluice_placement_set(struct sluice_plan_conf *conf, uint64_t lanes, uint64_t workers,
	const char *worker_cores, const char *vcpu_cores, int numa, struct sluice_error *err);

#endif
