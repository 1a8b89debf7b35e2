/* SPDX-License-Identifier: BSD-3-Clause */
/* bulk.c: see bulk.h. */
#include "perf/bulk.h"

#include "base/clock.h"

void perf_bulk_add(struct perf_bulk *bulk, const json_t *migrate, uint64_t now_ns)
{
	const json_t *ram = json_object_get(migrate, "ram");
	double placed = json_number_value(json_object_get(ram, "transferred"));
	double left = json_number_value(json_object_get(ram, "remaining"));

	if (placed <= 0 || left <= 0)
		return;
	if (bulk->first_ns == 0) {
		bulk->first_ns = now_ns;
		bulk->first_bytes = placed;
	}
	bulk->last_ns = now_ns;
	bulk->last_bytes = placed;
}

bool perf_bulk_rate(const struct perf_bulk *bulk, double placed_bytes, double *ret_bytes_per_s)
{
	double bytes = bulk->last_bytes - bulk->first_bytes;

	if (bulk->last_ns <= bulk->first_ns || bytes * 2 < placed_bytes)
		return false;
	*ret_bytes_per_s = bytes / ((double)(bulk->last_ns - bulk->first_ns) / SLUICE_NS_PER_S);
	return true;
}
