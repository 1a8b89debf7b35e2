/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * engines_homes.c: a source on a machine with several NUMA nodes: which node a chunk's memory is
 * on is found out bit by bit while the migration runs, and sometimes changes. Where a chunk is
 * only decides who sends it; nothing else may depend on it, so any answer at any moment is fair.
 */
#include "engine/lane/crew.h"
#include "engine/lane/lane_set.h"
#include "engine/lane/ledger.h"
#include "tests/sim/engines_internal.h"

/* Lane n belongs to node n of the machine, over and over. */
void engine_homes_spread(const struct run *run, struct sluice_crew_lane *lanes)
{
	for (uint32_t lane = 0; lane < run->plan.lanes; lane++)
		lanes[lane] = (struct sluice_crew_lane){.worker = SLUICE_CREW_ANY,
			.home = run->plan.nodes > 1 ? 1 + lane % run->plan.nodes : SLUICE_HOME_ANY,
			.node = -1};
}

void engine_homes_make(struct engine *engine)
{
	struct sluice_ledger *ledger = sluice_source_lanes(engine->source)->work->ledger;

	sluice_random_seed(&engine->run->home_random, engine->run->seed ^ 0x686f6d65ull);
	if (engine->run->plan.nodes > 1)
		SLUICE_ASSERT(
			sluice_ledger_set_homes(ledger, 1 + engine->run->plan.nodes, NULL) == 0);
}

uint64_t engine_homes_step(void *ctx, uint64_t now_ns)
{
	struct run *run = ctx;
	struct sluice_source *source = run->engines[SOURCE].source;
	struct sluice_ledger *ledger;

	if (run->plan.nodes == 1 || source == NULL || sluice_source_is_over(source) ||
		run->homes_found == run->plan.homes)
		return SLUICE_NEVER;
	if (run->home_next_ns > now_ns)
		return run->home_next_ns;
	ledger = sluice_source_lanes(source)->work->ledger;
	sluice_ledger_set_home(ledger,
		(uint32_t)sluice_random_below(&run->home_random, ledger->chunk_count),
		(uint32_t)sluice_random_below(&run->home_random, ledger->home_count));
	run->homes_found++;
	run->stats->homes_found++;
	run->home_next_ns = now_ns + run->plan.home_ns;
	return run->home_next_ns;
}
