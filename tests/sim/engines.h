/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * engines.h: two whole engine cores in a simulated world: sessions, lanes, devices and policy at
 * both ends, the simulated network between them, a peer link that can be cut, two VMMs, a guest
 * that goes on writing, an operator, and faults. One seed is one migration from the first message
 * to its end, whatever the end is, with the oracle looking on.
 *
 * Threading: one thread.
 */
#ifndef SLUICE_TESTS_SIM_ENGINES_H
#define SLUICE_TESTS_SIM_ENGINES_H

#include <stdbool.h>
#include <stdint.h>

/* Summed over seeds: proof that the interesting things happened. X(name, help) */
#define ENGINES_STATS(X)                                                                    \
	X(completed, "the guest runs at the target")                                        \
	X(failed, "ended in \"failed\", the guest runs at the source")                      \
	X(cancelled, "cancelled at the source")                                             \
	X(in_doubt, "seeds in which one side did not know what the other had decided")      \
	X(settled_by_engines, "of these, settled by resolve and decision")                  \
	X(settled_by_operator, "of these, the operator had to decide")                      \
	X(link_cuts, "peer links cut")                                                      \
	X(link_silent, "of these, an end was not told and had to notice the silence")       \
	X(reconnects, "peer links made again")                                              \
	X(paused, "seeds in which the migration was paused")                                \
	X(paused_completed, "of these, the guest moved after all")                          \
	X(paused_failed, "of these, it stayed")                                             \
	X(paused_by_operator, "seeds with migrate-pause")                                   \
	X(recovered_by_operator, "migrate-recover")                                         \
	X(resumes, "sessions resumed")                                                      \
	X(resumes_refused, "attempts to resume that the target refused")                    \
	X(lanes_reopened, "lanes opened again")                                             \
	X(engines_killed, "engines that died")                                              \
	X(burnt_by_query, "sessions that a restarted engine burnt when asked")              \
	X(gave_up_after_commit, "the source got its guest back after it had given it away") \
	X(lane_deaths, "lanes that died")                                                   \
	X(rail_deaths, "rails that died")                                                   \
	X(nics_broken, "of these, with the target's NIC, and what it held")                 \
	X(vanished, "placed writes that were lost with a NIC")                              \
	X(rails_back, "rails that came back")                                               \
	X(lanes_moved, "lanes that went over to another rail")                              \
	X(late_landings, "writes of a dead lane that landed after the source knew")         \
	X(fences, "lanes fenced over the peer link")                                        \
	X(segments_resent, "segments of a lost lane sent again")                            \
	X(resends_spared, "segments of a lost lane that the target had already")            \
	X(credit_waits, "device readers that had to wait for a slot")                       \
	X(window_waits, "times a window ran out")                                           \
	X(pace_waits, "times the bandwidth limit held a lane back")                         \
	X(plugged, "regions added while pages moved")                                       \
	X(plugged_moved, "of these, that had come along when the guest stopped")            \
	X(unplugged, "regions removed while pages moved, confirmed by the target")          \
	X(unplugged_by_end, "of removals, those that the session's end finished")           \
	X(plugs_refused, "additions and removals refused: the guest was being stopped")     \
	X(plugs_expired, "migrations that failed: the target did not add a region in time") \
	X(homes_found, "times a chunk's memory was found on a node")                        \
	X(chunks_stolen, "chunks that a lane of another node took")                         \
	X(throttled, "seeds with a throttled guest")                                        \
	X(pages_skipped, "zero pages skipped: known to be zero at the target")              \
	X(pages_zeroed, "pages that the target was told to zero")                           \
	X(syncs, "dirty syncs")                                                             \
	X(stores, "stores of the guest")                                                    \
	X(turns, "steps of all actors")

struct engines_stats {
#define X(name, help) uint64_t name;
	ENGINES_STATS(X)
#undef X
};

struct engines_result {
	char violation[320]; /* "" when everything held */
	uint64_t hash; /* of all that happened: equal seeds, equal hash */
	uint64_t turns;
};

/* One seed. @trace: say what happens on stdout. Statistics are added to @stats. */
void engines_run(
	uint64_t seed, bool trace, struct engines_stats *stats, struct engines_result *ret_result);

#endif
