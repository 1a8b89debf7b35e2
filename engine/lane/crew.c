/* SPDX-License-Identifier: BSD-3-Clause */
/* crew.c: which worker steps which lane. See crew.h; what a worker does is in worker.c. */
#include "engine/lane/crew.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/assert.h"
#include "engine/lane/worker.h"

struct sluice_crew {
	struct sluice_crew_opts opts;
	uint32_t worker_count; /* 0 when stepped by hand: workers[0] then only holds the lanes */
	struct sluice_worker *workers;
	struct sluice_crew_lane *lanes; /* opts.lanes: our copy */
};

void sluice_crew_wake(struct sluice_crew *crew)
{
	for (uint32_t i = 0; i < crew->worker_count; i++)
		sluice_worker_wake(&crew->workers[i]);
}

static uint32_t holders_of(const struct sluice_crew *crew)
{
	return crew->worker_count > 0 ? crew->worker_count : 1;
}

int sluice_crew_create(const struct sluice_crew_opts *opts, struct sluice_crew **ret_crew)
{
	struct sluice_crew *crew = calloc(1, sizeof(*crew));
	int r = 0;

	SLUICE_ASSERT(opts->workers <= SLUICE_CREW_WORKERS_MAX);
	if (crew == NULL)
		return -ENOMEM;
	crew->opts = *opts;
	crew->worker_count = opts->workers;
	crew->workers = calloc(holders_of(crew), sizeof(*crew->workers));
	crew->lanes = calloc(opts->lane_count + 1, sizeof(*crew->lanes));
	if (crew->workers == NULL || crew->lanes == NULL) {
		free(crew->workers);
		free(crew->lanes);
		free(crew);
		return -ENOMEM;
	}
	for (uint32_t i = 0; i < opts->lane_count; i++)
		crew->lanes[i] = opts->lanes[i];
	for (uint32_t i = 0; i < holders_of(crew); i++)
		sluice_worker_init(&crew->workers[i], &crew->opts, i);
	for (uint32_t i = 0; i < opts->workers && r == 0; i++) {
		char name[16];

		snprintf(name, sizeof(name), "sluice-w%u", i % 1000);
		r = sluice_worker_start(
			&crew->workers[i], name, opts->cpus != NULL ? &opts->cpus[i] : NULL);
	}
	crew->opts.cpus = NULL; /* borrowed: used up by now */
	crew->opts.lanes = NULL;
	if (r < 0) {
		sluice_crew_destroy(crew);
		return r;
	}
	*ret_crew = crew;
	return 0;
}

void sluice_crew_destroy(struct sluice_crew *crew)
{
	if (crew == NULL)
		return;
	for (uint32_t i = 0; i < holders_of(crew); i++)
		sluice_worker_fini(&crew->workers[i]);
	free(crew->workers);
	free(crew->lanes);
	free(crew);
}

struct sluice_crew_lane sluice_crew_lane(const struct sluice_crew *crew, uint32_t lane)
{
	if (lane < crew->opts.lane_count)
		return crew->lanes[lane];
	return (struct sluice_crew_lane){.worker = SLUICE_CREW_ANY, .node = -1};
}

struct sluice_crew_lane sluice_crew_lane_near(
	const struct sluice_crew *crew, uint32_t lane, uint64_t nodes)
{
	const struct sluice_crew_lane *best = NULL;
	uint32_t count = crew->opts.lane_count, best_lanes = 0;
	bool best_near = false;

	if (nodes == 0 || lane >= count || crew->worker_count == 0)
		return sluice_crew_lane(crew, lane);
	/* Every worker has planned lanes, so this comes by all of them; first by this lane's. */
	for (uint32_t i = 0; i < count; i++) {
		const struct sluice_crew_lane *place = &crew->lanes[(lane + i) % count];
		uint32_t lanes = crew->workers[place->worker].wanted_count;
		bool near = place->node >= 0 && (nodes >> place->node & 1);

		if (lanes * crew->worker_count >= count)
			continue; /* has its share */
		if (best == NULL || (near && !best_near) ||
			(near == best_near && lanes < best_lanes)) {
			best = place;
			best_lanes = lanes;
			best_near = near;
		}
	}
	return best != NULL ? *best : crew->lanes[lane];
}

int sluice_crew_add(struct sluice_crew *crew, struct sluice_lane *lane, uint32_t worker)
{
	struct sluice_worker *best = &crew->workers[worker == SLUICE_CREW_ANY ? 0 : worker];

	SLUICE_ASSERT(worker == SLUICE_CREW_ANY || worker == 0 || worker < crew->worker_count);
	for (uint32_t i = 1; i < crew->worker_count && worker == SLUICE_CREW_ANY; i++)
		if (crew->workers[i].wanted_count < best->wanted_count)
			best = &crew->workers[i];
	return sluice_worker_add(best, lane);
}

uint32_t sluice_crew_worker_of(const struct sluice_crew *crew, const struct sluice_lane *lane)
{
	for (uint32_t i = 0; i < crew->worker_count; i++)
		if (sluice_worker_has(&crew->workers[i], lane))
			return i;
	return SLUICE_CREW_ANY;
}

struct sluice_crew_lane sluice_crew_lane_now(
	const struct sluice_crew *crew, uint32_t index, const struct sluice_lane *lane)
{
	struct sluice_crew_lane place = sluice_crew_lane(crew, index);
	uint32_t worker = sluice_crew_worker_of(crew, lane);

	if (worker == SLUICE_CREW_ANY || worker == place.worker)
		return place;
	for (uint32_t i = 0; i < crew->opts.lane_count; i++)
		if (crew->lanes[i].worker == worker)
			return crew->lanes[i];
	place.worker = worker;
	return place;
}

void sluice_crew_remove_all(struct sluice_crew *crew)
{
	for (uint32_t i = 0; i < holders_of(crew); i++)
		sluice_worker_clear(&crew->workers[i]);
	for (uint32_t i = 0; i < holders_of(crew); i++)
		sluice_worker_wait(&crew->workers[i]);
}

void sluice_crew_remove(struct sluice_crew *crew, struct sluice_lane *lane)
{
	for (uint32_t i = 0; i < holders_of(crew); i++)
		if (sluice_worker_remove(&crew->workers[i], lane))
			return;
}

uint32_t sluice_crew_workers(const struct sluice_crew *crew)
{
	return crew->worker_count;
}

void sluice_crew_stats(
	struct sluice_crew *crew, uint32_t worker, struct sluice_worker_stats *ret_stats)
{
	SLUICE_ASSERT(worker < crew->worker_count);
	sluice_worker_stats(&crew->workers[worker], ret_stats);
}

bool sluice_crew_step(struct sluice_crew *crew, uint64_t now_ns)
{
	SLUICE_ASSERT(crew->worker_count == 0);
	return sluice_worker_step(&crew->workers[0], now_ns);
}
