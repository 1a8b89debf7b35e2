/* SPDX-License-Identifier: BSD-3-Clause */
/* params.c: see params.h. */
#include "engine/placement/params.h"

#include <errno.h>

enum { NUMA_OFF, NUMA_AUTO };

const char *const sluice_placement_numa_choices[] = {"off", "auto", NULL};

static int parse_list(const char *setting, const char *text, struct sluice_cpus *ret_cpus,
	struct sluice_error *err)
{
	if (sluice_cpus_parse(text, ret_cpus) < 0)
		return sluice_fail(
			err, -EINVAL, setting, "\"%s\" is not a list of cores such as 2-5,8", text);
	return 0;
}

int sluice_placement_set(struct sluice_plan_conf *conf, uint64_t lanes, uint64_t workers,
	const char *worker_cores, const char *vcpu_cores, int numa, struct sluice_error *err)
{
	int r = parse_list("worker-cores", worker_cores, &conf->worker_cores, err);

	conf->lanes = (uint32_t)lanes;
	conf->workers = (uint32_t)workers;
	conf->numa = numa == NUMA_AUTO;
	return r < 0 ? r : parse_list("vcpu-cores", vcpu_cores, &conf->vcpu_cores, err);
}
