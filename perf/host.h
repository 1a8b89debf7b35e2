/* SPDX-License-Identifier: BSD-3-Clause */
/* host.h: what a result says about where and when it was measured. */
#ifndef SLUICE_PERF_HOST_H
#define SLUICE_PERF_HOST_H

#include <jansson.h>

/* Cores, kernel, processor model, memory. A new reference. */
json_t *perf_host_json(void);
/* Now, as ISO 8601 in UTC. A new reference. */
json_t *perf_date_json(void);
/* The commit that sluice-perf was built from. */
const char *perf_commit(void);

#endif
