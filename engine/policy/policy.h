/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * policy.h: when to switch over, how hard to throttle, when to look again. Pure functions from
 * measurements to decisions: no clock, no I/O, no state but what is passed in.
 */
#ifndef SLUICE_ENGINE_POLICY_H
#define SLUICE_ENGINE_POLICY_H

#include <stdbool.h>
#include <stdint.h>

#define SLUICE_THROTTLE_MAX_PERCENT 99

/* Measured over the last interval (one dirty sync to the next). */
struct sluice_measure {
	uint64_t interval_ns;
	uint64_t pages_dirtied; /* reported by the feeds */
	uint64_t pages_dirty; /* waiting in the ledger, or taken and not placed */
	uint64_t bytes_placed; /* in the interval */
	uint64_t busy_ns; /* time within the interval in which lanes had work */
	uint64_t
		sync_ns; /* DIRTY_SYNC until dirty-sync-done, the quickest: of a stopped guest there is least to find */
	uint64_t sync_last_ns; /* the last one: so long went the guest on behind its pages */
	uint64_t vmm_rtt_ns; /* VMM socket, typically: without what the VMM did meanwhile */
	uint64_t peer_rtt_ns; /* peer link, the quickest: at the switchover lanes are empty */
	uint64_t record_ns; /* what the commit's records take at both ends, one after the other */
	uint64_t elapsed_ns; /* since pages began to move */
	uint32_t lanes; /* to be closed at the target before it is prepared */
};

struct sluice_policy_conf {
	uint64_t downtime_limit_ns;
	uint64_t vmm_switchover_ns; /* both VMMs: stop, save, load and resume, without waiting */
	uint64_t device_bytes; /* expected size of the devices' state; 0 when unknown */
	uint64_t sync_interval_ns; /* longest time between dirty syncs */
	uint64_t throttle_after_ns;
	uint64_t throttle_initial_percent;
	uint64_t throttle_step_percent;
	bool throttle;
};

/* What the policy remembers from one decision to the next. Zeroed before the first. */
struct sluice_policy_state {
	uint64_t placed_bytes, placed_ns; /* of lately, older ones fading: what the rate is of */
	uint64_t placed_bytes_per_s;
	uint32_t measures; /* of that rate, so far */
	uint64_t dirty_bytes_per_s; /* smoothed */
	uint32_t throttle_percent;
	uint32_t intervals;
	uint32_t rounds_below_limit; /* decisions with a prediction within the limit */
};

/* A pause, phase by phase, as the source sees it: what a prediction is made of, and what came. */
struct sluice_downtime {
	uint64_t
		stop_ns; /* SWITCHOVER_READY until migrate-continue: vCPUs stop, devices are added */
	uint64_t sync_ns; /* the last dirty sync */
	uint64_t drain_ns; /* memory and devices that are left */
	uint64_t load_ns; /* finish until prepared: the target closes lanes, its VMM loads */
	uint64_t give_ns; /* SWITCHOVER_COMMIT until its answer */
	uint64_t commit_ns; /* records at both ends, commit and its answer, the guest is let go */
};

struct sluice_decision_out {
	bool switch_over;
	uint64_t predicted_downtime_ns; /* if the guest were stopped now */
	struct sluice_downtime predicted; /* the same by phase */
	uint32_t throttle_percent;
	uint64_t next_sync_ns; /* from now */
};

/* All phases together, nanoseconds. Pure. */
uint64_t sluice_downtime_sum(const struct sluice_downtime *downtime);

/*
 * One decision, after each dirty sync: switch over or go on, how long, how much slower the guest.
 * @state: zeros at first, then what the last call left; one call per @measure. Pure: no clock, no
 * allocation, so that the simulation and a table of cases can drive it.
 */
void sluice_policy_decide(const struct sluice_policy_conf *conf,
	const struct sluice_measure *measure, struct sluice_policy_state *state,
	struct sluice_decision_out *ret_decision);

#endif
