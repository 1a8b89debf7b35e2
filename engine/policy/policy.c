/* SPDX-License-Identifier: BSD-3-Clause */
/* policy.c: see policy.h. Includes nothing that could read a clock or do I/O. */
#include "engine/policy/policy.h"

#define PAGE_BYTES             4096ull
#define NS_PER_S               1000000000ull
#define NS_PER_MS              1000000ull
#define MIN_SYNC_NS            (2 * NS_PER_MS)
#define MIN_MEASURE_NS         (NS_PER_MS / 5)
#define RATE_WINDOW_NS         (200 * NS_PER_MS)
#define WORTH_NS               NS_PER_MS /* a round that saves less downtime is not worth it */
#define ROUNDS_BELOW_LIMIT_MAX 20

/*
 * What a switchover waits for between "stop" and "running", besides the last sync, bytes, records
 * and the VMMs' own work. Round trips at the VMM sockets, by phase; one on the peer link for the
 * last bytes and their credit, one for finish and prepared, one for commit; and each lane that the
 * target closes (a socket, its memory), which cannot be measured before: what it took on the machine
 * of perf/RESULTS.md.
 */
#define STOP_VMM_TURNS   2 /* SWITCHOVER_READY, device-add, migrate-continue */
#define DRAIN_VMM_TURNS  1 /* DEVICE_OPEN and its answer */
#define LOAD_VMM_TURNS   1 /* device-loaded */
#define GIVE_VMM_TURNS   1 /* SWITCHOVER_COMMIT and its answer */
#define COMMIT_VMM_TURNS 1 /* MIGRATION completed */
#define LANE_CLOSE_NS    (10 * 1000ull)

static uint64_t per_second(uint64_t amount, uint64_t ns)
{
	/* 128 bits: a terabyte in a nanosecond-counted hour does not fit into 64. */
	return ns == 0 ? 0 : (uint64_t)((unsigned __int128)amount * NS_PER_S / ns);
}

static uint64_t time_for(uint64_t bytes, uint64_t bytes_per_s)
{
	if (bytes == 0)
		return 0;
	if (bytes_per_s == 0)
		return UINT64_MAX /
		       4; /* nothing has moved yet: no prediction short of "too long" */
	return (uint64_t)((unsigned __int128)bytes * NS_PER_S / bytes_per_s);
}

/* Halfway towards the new value: quick enough to follow a change, slow enough to skip a blip. */
static uint64_t smooth(uint64_t old, uint64_t fresh)
{
	return old == 0 ? fresh : old / 2 + fresh / 2 + (old & fresh & 1);
}

/*
 * Over the last RATE_WINDOW_NS in which lanes had work. A measure counts as much as it is long: a
 * few pages that went into an empty socket at the speed of memory say nothing about the network.
 * The first measure is too low by what the network holds, because it began with none of it under
 * way: the second one replaces it.
 */
static void update_placed(const struct sluice_measure *m, struct sluice_policy_state *state)
{
	uint64_t keep_ns = m->busy_ns < RATE_WINDOW_NS ? RATE_WINDOW_NS - m->busy_ns : 0;

	if (state->measures == 1 && m->busy_ns >= state->placed_ns / 2)
		keep_ns = 0;
	state->measures++;
	if (state->placed_ns > keep_ns) {
		state->placed_bytes = (uint64_t)((unsigned __int128)state->placed_bytes * keep_ns /
						 state->placed_ns);
		state->placed_ns = keep_ns;
	}
	state->placed_bytes += m->bytes_placed;
	state->placed_ns += m->busy_ns;
	state->placed_bytes_per_s = per_second(state->placed_bytes, state->placed_ns);
}

static void update_rates(const struct sluice_measure *m, struct sluice_policy_state *state)
{
	if (m->bytes_placed > 0 && m->busy_ns > 0)
		update_placed(m, state);
	if (m->interval_ns >= MIN_MEASURE_NS)
		state->dirty_bytes_per_s = smooth(state->dirty_bytes_per_s,
			per_second(m->pages_dirtied * PAGE_BYTES, m->interval_ns));
	state->intervals++;
}

uint64_t sluice_downtime_sum(const struct sluice_downtime *d)
{
	return d->stop_ns + d->sync_ns + d->drain_ns + d->load_ns + d->give_ns + d->commit_ns;
}

/* What the pause takes when all memory is placed: no further round makes it shorter. */
static struct sluice_downtime fixed_part(const struct sluice_policy_conf *conf,
	const struct sluice_measure *m, const struct sluice_policy_state *state)
{
	return (struct sluice_downtime){
		.stop_ns = STOP_VMM_TURNS * m->vmm_rtt_ns + conf->vmm_switchover_ns,
		.sync_ns = m->sync_ns,
		.drain_ns = m->peer_rtt_ns + DRAIN_VMM_TURNS * m->vmm_rtt_ns +
			    time_for(conf->device_bytes, state->placed_bytes_per_s),
		.load_ns =
			m->peer_rtt_ns + m->lanes * LANE_CLOSE_NS + LOAD_VMM_TURNS * m->vmm_rtt_ns,
		.give_ns = GIVE_VMM_TURNS * m->vmm_rtt_ns,
		.commit_ns = m->peer_rtt_ns + m->record_ns + COMMIT_VMM_TURNS * m->vmm_rtt_ns,
	};
}

/*
 * How long the stopped guest waits for memory. Lanes go on while the VMM stops it and looks for what
 * it wrote last, so what is known to be dirty has that time for nothing. What the guest wrote while
 * this sync was answered, and writes until it is told to stop, comes behind that.
 */
static uint64_t memory_ns(const struct sluice_policy_conf *conf, const struct sluice_measure *m,
	const struct sluice_policy_state *state, const struct sluice_downtime *fixed)
{
	uint64_t known_ns = time_for(m->pages_dirty * PAGE_BYTES, state->placed_bytes_per_s);
	uint64_t late_bytes = (uint64_t)((unsigned __int128)state->dirty_bytes_per_s *
					 (m->sync_last_ns + m->vmm_rtt_ns) / NS_PER_S);
	/* Of the VMMs' own work the target's part comes later. */
	uint64_t meanwhile_ns = fixed->stop_ns - conf->vmm_switchover_ns / 2 + fixed->sync_ns;

	return (known_ns > meanwhile_ns ? known_ns - meanwhile_ns : 0) +
	       time_for(late_bytes, state->placed_bytes_per_s);
}

/*
 * The limit is a bound, not a goal. Where the next round would at least halve what is left, and
 * that is worth more than a moment, go on: the guest runs meanwhile. Each round halves, so there
 * are few; their number is bounded all the same.
 */
static bool go_on_for_less(const struct sluice_policy_state *state, uint64_t left_ns)
{
	return state->rounds_below_limit < ROUNDS_BELOW_LIMIT_MAX &&
	       state->dirty_bytes_per_s < state->placed_bytes_per_s / 2 && left_ns > WORTH_NS;
}

/* Nobody is stopped for more than a moment on the word of a first measure. */
static bool rate_is_known(const struct sluice_policy_state *state, uint64_t left_ns)
{
	return state->intervals >= 2 || left_ns <= WORTH_NS;
}

/*
 * Two triggers, either is enough: it takes too long, or the guest dirties faster than lanes
 * place. When neither holds, the brake is loosened by half a step.
 */
static uint32_t throttle(const struct sluice_policy_conf *conf, const struct sluice_measure *m,
	const struct sluice_policy_state *state)
{
	uint64_t percent = state->throttle_percent;
	bool too_fast = state->intervals >= 3 && state->placed_bytes_per_s > 0 &&
			state->dirty_bytes_per_s > state->placed_bytes_per_s / 10 * 7;
	bool too_long = m->elapsed_ns > conf->throttle_after_ns;

	if (!conf->throttle)
		return 0;
	if (too_fast || too_long) {
		percent = percent == 0 ? conf->throttle_initial_percent
				       : percent + conf->throttle_step_percent;
	} else if (percent > 0) {
		uint64_t less = conf->throttle_step_percent / 2 + 1;

		percent = percent > less ? percent - less : 0;
	}
	return percent < SLUICE_THROTTLE_MAX_PERCENT ? (uint32_t)percent
						     : SLUICE_THROTTLE_MAX_PERCENT;
}

/* Look again when the pages known to be dirty will be gone, at the latest after the interval. */
static uint64_t next_sync(const struct sluice_policy_conf *conf, const struct sluice_measure *m,
	const struct sluice_policy_state *state)
{
	uint64_t gone_ns = time_for(m->pages_dirty * PAGE_BYTES, state->placed_bytes_per_s);

	if (gone_ns < MIN_SYNC_NS)
		return MIN_SYNC_NS;
	return gone_ns < conf->sync_interval_ns ? gone_ns : conf->sync_interval_ns;
}

void sluice_policy_decide(const struct sluice_policy_conf *conf,
	const struct sluice_measure *measure, struct sluice_policy_state *state,
	struct sluice_decision_out *ret_decision)
{
	struct sluice_downtime predicted;
	uint64_t left_ns, fixed;
	bool below_limit;

	update_rates(measure, state);
	predicted = fixed_part(conf, measure, state);
	fixed = sluice_downtime_sum(&predicted);
	left_ns = memory_ns(conf, measure, state, &predicted);
	predicted.drain_ns += left_ns;
	ret_decision->predicted = predicted;
	ret_decision->predicted_downtime_ns = fixed + left_ns;
	/* Waiting shortens only what is left. A limit that the rest alone exceeds is not to be had:
	   then a moment for what is left is the best there is. */
	below_limit = fixed + left_ns <= conf->downtime_limit_ns ||
		      (fixed + WORTH_NS > conf->downtime_limit_ns && left_ns <= WORTH_NS);
	ret_decision->switch_over =
		below_limit && rate_is_known(state, left_ns) && !go_on_for_less(state, left_ns);
	if (below_limit)
		state->rounds_below_limit++;
	state->throttle_percent = throttle(conf, measure, state);
	ret_decision->throttle_percent = state->throttle_percent;
	ret_decision->next_sync_ns = next_sync(conf, measure, state);
}
