/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * engines_chaos.c: what goes wrong, and the operator who settles what is in doubt when the
 * engines cannot. See engines_internal.h.
 */
#include <string.h>

#include "engine/lane/lane_internal.h"
#include "engine/lane/lane_set.h"
#include "tests/sim/engines_internal.h"

/* ---- faults ---- */

void chaos_message_sent(struct run *run, const char *type)
{
	for (uint32_t i = 0; i < run->plan.fault_count; i++) {
		struct fault *fault = &run->plan.faults[i];

		if (fault->after_message == NULL || strcmp(fault->after_message, type) != 0)
			continue;
		fault->after_message = NULL;
		fault->due_ns = run_now(run) + fault->delay_ns;
	}
}

static void cut(struct run *run)
{
	struct link *link = run->engines[SOURCE].link;

	if (link == NULL || link->connecting)
		link = run->engines[TARGET].link;
	if (link == NULL)
		return;
	link_cut(run, link);
	run->partition_until_ns =
		run_now(run) + (run_chance(run, 500000) ? 0 : run_delay(run, 4 * SLUICE_NS_PER_S));
}

static void kill_lane(struct run *run)
{
	const struct sluice_source *source = run->engines[SOURCE].source;
	uint32_t lane = (uint32_t)sluice_random_below(&run->random, run->plan.lanes);
	const struct sluice_lane_slot *slot;

	if (source == NULL)
		return;
	slot = &sluice_source_lanes(source)->slots[lane];
	if (slot->standing == SLUICE_LANE_ACTIVE)
		sluice_sim_lane_kill(slot->lane->conf.conn);
}

static void kill_lanes(struct run *run)
{
	const struct sluice_source *source = run->engines[SOURCE].source;

	for (uint32_t lane = 0; source != NULL && lane < run->plan.lanes; lane++) {
		const struct sluice_lane_slot *slot = &sluice_source_lanes(source)->slots[lane];

		if (slot->standing == SLUICE_LANE_ACTIVE)
			sluice_sim_lane_kill(slot->lane->conf.conn);
	}
}

/* With its NIC: that is the target's, since nobody misses what a source's had. */
static void kill_rail(struct run *run, bool nic)
{
	enum host host = !nic && run_chance(run, 500000) ? SOURCE : TARGET;
	uint32_t rail = (uint32_t)sluice_random_below(&run->random, run->plan.rails[host]);

	if (run->rail_back_ns[host][rail] != 0)
		return;
	run_say(run, "rail %u of the %s dies", rail, host == SOURCE ? "source" : "target");
	run->stats->rail_deaths++;
	if (nic) {
		run->stats->nics_broken++;
		sluice_sim_rail_break(run->rails[host][rail]);
	} else {
		sluice_sim_rail_set_down(run->rails[host][rail], true);
	}
	run->rail_back_ns[host][rail] = run_now(run) + run_delay(run, run->plan.rail_down_ns_max);
	/* For good, when another one is left to go by. */
	if (run->plan.rails[host] > 1 && rail > 0 && run_chance(run, 300000))
		run->rail_back_ns[host][rail] = SLUICE_NEVER;
}

static uint64_t revive_rails(struct run *run, uint64_t now_ns)
{
	uint64_t next_ns = SLUICE_NEVER;

	for (int host = 0; host < HOSTS; host++)
		for (uint32_t i = 0; i < run->plan.rails[host]; i++) {
			uint64_t *back_ns = &run->rail_back_ns[host][i];

			if (*back_ns != 0 && *back_ns <= now_ns) {
				*back_ns = 0;
				run->stats->rails_back++;
				sluice_sim_rail_set_down(run->rails[host][i], false);
			} else if (*back_ns != 0 && *back_ns < next_ns) {
				next_ns = *back_ns;
			}
		}
	return next_ns;
}

static void pause_source(struct run *run)
{
	struct sluice_error err = {0};

	if (run->engines[SOURCE].source == NULL ||
		sluice_source_pause(run->engines[SOURCE].source, &err) < 0)
		return;
	run_say(run, "migrate-pause");
	run->was_paused_by_operator = true;
}

static void strike(struct run *run, enum fault_kind kind)
{
	struct engine *source = &run->engines[SOURCE], *target = &run->engines[TARGET];
	struct sluice_error err = {0};

	switch (kind) {
	case FAULT_CANCEL_SOURCE:
		run_say(run, "migrate_cancel at the source");
		if (source->source != NULL)
			sluice_source_cancel(source->source, &err);
		break;
	case FAULT_CANCEL_TARGET:
		run_say(run, "migrate_cancel at the target");
		if (target->target != NULL)
			sluice_target_cancel(target->target, &err);
		break;
	case FAULT_CUT_LINK:
		cut(run);
		break;
	case FAULT_KILL_SOURCE:
		if (source->alive)
			engine_kill(source);
		break;
	case FAULT_KILL_TARGET:
		if (target->alive)
			engine_kill(target);
		break;
	case FAULT_KILL_LANE:
		kill_lane(run);
		break;
	case FAULT_KILL_LANES:
		kill_lanes(run);
		break;
	case FAULT_KILL_RAIL:
		kill_rail(run, false);
		break;
	case FAULT_BREAK_NIC:
		kill_rail(run, true);
		break;
	case FAULT_PAUSE:
		pause_source(run);
		break;
	case FAULT_KINDS:
		break;
	}
}

/* A guest that dirties faster than its limit allows would never move: patience ends that. */
static void lift_limit(struct run *run)
{
	run->limit_lifted = true;
	run->plan.policy.downtime_limit_ns = SLUICE_NS_PER_S * 10;
	if (run->engines[SOURCE].source != NULL)
		sluice_source_set_policy(run->engines[SOURCE].source, &run->plan.policy);
	run->plan.max_bandwidth_bytes_per_s = 0;
	if (run->engines[SOURCE].source != NULL)
		sluice_source_set_max_bandwidth(run->engines[SOURCE].source, 0);
}

uint64_t chaos_step(void *ctx, uint64_t now_ns)
{
	struct run *run = ctx;
	uint64_t next_ns = run->limit_lifted ? SLUICE_NEVER : run->plan.patience_ns;

	if (next_ns <= now_ns) {
		lift_limit(run);
		return now_ns;
	}
	if (revive_rails(run, now_ns) < next_ns)
		next_ns = revive_rails(run, now_ns);
	for (uint32_t i = 0; i < run->plan.fault_count; i++) {
		struct fault *fault = &run->plan.faults[i];

		if (fault->due_ns <= now_ns) {
			fault->due_ns = SLUICE_NEVER;
			strike(run, fault->kind);
			return now_ns;
		}
		if (fault->due_ns < next_ns)
			next_ns = fault->due_ns;
	}
	return next_ns;
}

/* ---- the operator ---- */

static bool is(const char *status, const char *name)
{
	return strcmp(status, name) == 0;
}

/* The source gave the guest away, and neither it nor its successor knows whether it arrived. */
static bool source_in_doubt(const struct run *run)
{
	const struct engine *engine = &run->engines[SOURCE];

	if (engine->source != NULL)
		return sluice_source_is_in_doubt(engine->source);
	return engine->alive && engine->successor && !run->vmms[SOURCE].over &&
	       !run->vmms[SOURCE].must_query && run->vmms[SOURCE].gave &&
	       engine->records[SLUICE_RECORD_SOURCE] == SLUICE_COMMITTED;
}

static bool target_in_doubt(const struct run *run)
{
	const struct engine *engine = &run->engines[TARGET];

	return engine->target != NULL && is(sluice_target_status(engine->target), "in-doubt");
}

/* session-resolve at the source, or at its successor as resolve_from_record() does. */
static void resolve_source(struct run *run, enum sluice_decision decision)
{
	struct engine *engine = &run->engines[SOURCE];
	struct sluice_error err = {0};

	run_say(run, "the operator resolves the source as %s",
		decision == SLUICE_COMMITTED ? "committed" : "aborted");
	run->operator_decided = true;
	if (engine->source != NULL) {
		sluice_source_resolve(engine->source, decision, &err);
		return;
	}
	vmm_tell(&run->vmms[SOURCE], "MIGRATION",
		decision == SLUICE_COMMITTED
			? json_pack("{s:s}", "status", "completed")
			: json_pack("{s:s, s:s}", "status", "failed", "error-desc",
				  "resolved as aborted by the operator"),
		0);
}

static void resolve_target(struct run *run, enum sluice_decision decision)
{
	struct sluice_error err = {0};

	run_say(run, "the operator resolves the target as %s",
		decision == SLUICE_COMMITTED ? "committed" : "aborted");
	run->operator_decided = true;
	sluice_target_resolve(run->engines[TARGET].target, decision, &err);
}

/* By the book: look at both hosts, decide only what cannot be otherwise any more. */
static void settle(struct run *run)
{
	const char *source = engine_session_status(&run->engines[SOURCE]);
	const char *target = engine_session_status(&run->engines[TARGET]);

	run_say(run, "the operator sees \"%s\" at the source and \"%s\" at the target", source,
		target);
	if (target_in_doubt(run)) {
		if (is(source, "aborted"))
			resolve_target(run, SLUICE_ABORTED);
		else if (is(source, "committed") || is(source, "in-doubt"))
			resolve_target(run, run_chance(run, 500000) || is(source, "committed")
						    ? SLUICE_COMMITTED
						    : SLUICE_ABORTED);
	} else if (source_in_doubt(run)) {
		if (is(target, "committed"))
			resolve_source(run, SLUICE_COMMITTED);
		else if (is(target, "aborted"))
			resolve_source(run, SLUICE_ABORTED);
	}
}

/* Whether nobody but an operator would go on: retries are exhausted, or migrate-pause was said. */
static bool waits_for_operator(const struct run *run)
{
	const struct sluice_source *source = run->engines[SOURCE].source;
	json_t *query;
	bool waits;

	if (source == NULL || !is(sluice_source_status(source), "paused"))
		return false;
	query = sluice_source_query(source);
	waits = json_object_get(query, "retry-in") == NULL;
	json_decref(query);
	return waits;
}

static void end_pause(struct run *run)
{
	struct sluice_source *source = run->engines[SOURCE].source;
	struct sluice_error err = {0};

	if (run_chance(run, 700000)) {
		run_say(run, "migrate-recover");
		run->stats->recovered_by_operator++;
		if (sluice_source_recover(source, run_chance(run, 300000), &err) < 0)
			oracle_complain(run->oracle, "migrate-recover: %s", err.text);
	} else {
		run_say(run, "migrate_cancel of a paused migration");
		if (sluice_source_cancel(source, &err) < 0)
			oracle_complain(run->oracle, "migrate_cancel: %s", err.text);
	}
}

static uint64_t watch_pause(struct run *run, uint64_t now_ns)
{
	if (run->engines[SOURCE].source != NULL &&
		is(sluice_source_status(run->engines[SOURCE].source), "paused"))
		run->was_paused = true;
	if (!waits_for_operator(run)) {
		run->pause_since_ns = 0;
		return SLUICE_NEVER;
	}
	if (run->pause_since_ns == 0)
		run->pause_since_ns = now_ns;
	if (run->pause_since_ns + run->plan.operator_ns > now_ns)
		return run->pause_since_ns + run->plan.operator_ns;
	run->pause_since_ns = 0;
	end_pause(run);
	return now_ns;
}

uint64_t operator_step(void *ctx, uint64_t now_ns)
{
	struct run *run = ctx;
	uint64_t next_ns = watch_pause(run, now_ns);

	if (!source_in_doubt(run) && !target_in_doubt(run)) {
		run->doubt_since_ns = 0;
		return next_ns;
	}
	run->was_in_doubt = true;
	if (run->doubt_since_ns == 0) {
		run->doubt_since_ns = now_ns;
		run->operator_next_ns = now_ns + run->plan.operator_ns;
	}
	if (run->operator_next_ns > now_ns)
		return run->operator_next_ns;
	run->operator_next_ns = now_ns + 100 * SLUICE_NS_PER_MS;
	settle(run);
	return now_ns;
}
