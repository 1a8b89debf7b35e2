/* SPDX-License-Identifier: BSD-3-Clause */
/* report.h: a machine and a plan as JSON, for `sluice topology --json` and query-placement. */
#ifndef SLUICE_ENGINE_PLACEMENT_REPORT_H
#define SLUICE_ENGINE_PLACEMENT_REPORT_H

#include <jansson.h>

#include "engine/placement/plan.h"

/* {"source": ..., "nodes": [...], "nics": [...]}. */
json_t *sluice_topology_json(const struct sluice_topology *topology);
/* {"workers": [...], "lanes": [...], "staging-nodes": [...], "reasons": [...], ...}. */
json_t *sluice_plan_json(const struct sluice_topology *topology,
	const struct sluice_plan_conf *conf, const struct sluice_plan *plan);

#endif
