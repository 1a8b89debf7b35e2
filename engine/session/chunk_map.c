/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * chunk_map.c: which chunks of a region may hold other than zeros, as the target tells the source.
 *
 * Lengths of runs, in chunks, in turn: zeros, data, zeros, data. What is behind the last run is
 * zeros. So a sparse guest of any size takes a few bytes. A map that would take more than its
 * share of a message gets coarser: short runs of zeros between data count as data. That is always
 * right (the source sends them), and costs the wire something only where there are that many
 * holes.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/assert.h"
#include "base/bits.h"
#include "engine/lane/ledger.h"
#include "engine/session/session.h"

#define RUNS_MAX 30000 /* of all regions: with 9 digits each, half of a message */

struct run {
	uint64_t first, end; /* chunks that may hold data */
};

struct runs {
	struct run *run;
	uint32_t count, max;
	uint64_t gap; /* so many chunks of zeros are not told */
};

/* Tell fewer of the gaps, until half of the room is free. */
static void coarsen(struct runs *runs)
{
	while (runs->count > runs->max / 2) {
		uint32_t kept = 0;

		runs->gap = 2 * runs->gap + 1;
		for (uint32_t i = 1; i < runs->count; i++) {
			if (runs->run[i].first <= runs->run[kept].end + runs->gap)
				runs->run[kept].end = runs->run[i].end;
			else
				runs->run[++kept] = runs->run[i];
		}
		runs->count = kept + 1;
	}
}

static void add_data(void *ctx, uint64_t offset, uint64_t len_bytes)
{
	struct runs *runs = ctx;
	struct run *last = runs->count > 0 ? &runs->run[runs->count - 1] : NULL;
	uint64_t first = offset >> SLUICE_CHUNK_SHIFT;
	uint64_t end = sluice_div_up(offset + len_bytes, SLUICE_CHUNK_BYTES);

	if (len_bytes == 0)
		return;
	if (last != NULL && first <= last->end + runs->gap) {
		SLUICE_ASSERT(first >= last->first);
		last->end = end > last->end ? end : last->end;
		return;
	}
	if (runs->count == runs->max)
		coarsen(runs);
	runs->run[runs->count++] = (struct run){.first = first, .end = end};
}

json_t *sluice_chunk_map(const struct sluice_session_conf *conf,
	const struct sluice_session_env *env, uint32_t region)
{
	struct runs runs = {.max = RUNS_MAX / conf->region_count};
	json_t *map = json_array();
	uint64_t at = 0;

	runs.run = calloc(runs.max, sizeof(*runs.run));
	if (runs.run == NULL || map == NULL) {
		free(runs.run);
		json_decref(map);
		return NULL;
	}
	env->for_each_data(env->ctx, region, 0, conf->regions[region].len_bytes, add_data, &runs);
	for (uint32_t i = 0; i < runs.count; i++) {
		json_array_append_new(map, json_integer((json_int_t)(runs.run[i].first - at)));
		json_array_append_new(
			map, json_integer((json_int_t)(runs.run[i].end - runs.run[i].first)));
		at = runs.run[i].end;
	}
	free(runs.run);
	return map;
}

static void clear_maybe_nonzero(struct sluice_ledger_region *region, uint64_t first, uint64_t end)
{
	for (uint64_t word = first * SLUICE_CHUNK_WORDS; word < end * SLUICE_CHUNK_WORDS; word++)
		region->maybe_nonzero[word] = 0;
}

int sluice_chunk_map_apply(const json_t *map, struct sluice_ledger *ledger, uint32_t index)
{
	struct sluice_ledger_region *region = &ledger->regions[index];
	uint64_t at = 0;
	size_t i;
	const json_t *value;

	json_array_foreach (map, i, value) {
		uint64_t count = (uint64_t)json_integer_value(value);

		if (count > region->chunks - at)
			return -EPROTO;
		if (i % 2 == 0)
			clear_maybe_nonzero(region, at, at + count);
		else
			sluice_ledger_mark_pages(
				ledger, index, at * SLUICE_CHUNK_PAGES, count * SLUICE_CHUNK_PAGES);
		at += count;
	}
	clear_maybe_nonzero(region, at, region->chunks);
	return 0;
}
