/* SPDX-License-Identifier: BSD-3-Clause */
/* lane_set.c: see lane_set.h. */
#include "engine/lane/lane_set.h"

#include <errno.h>
#include <string.h>

#include "base/assert.h"
#include "base/text.h"
#include "engine/lane/crew.h"
#include "engine/placement/node_memory.h"

static void add_counters(struct sluice_lane_counters *to, const struct sluice_lane_counters *from)
{
#define X(name, help) to->name += SLUICE_COUNT_READ(from->name);
	SLUICE_LANE_COUNTERS(X)
#undef X
}

static void add_conn_stats(struct sluice_conn_stats *to, const struct sluice_conn_stats *from)
{
#define X(name, help) to->name += SLUICE_COUNT_READ(from->name);
	SLUICE_CONN_STATS(X)
#undef X
}

/* Connections of one lane follow each other: the peak is the highest, not the sum. */
static void join_counters(struct sluice_lane_counters *to, const struct sluice_lane_counters *from)
{
	uint64_t peak = to->inflight_bytes_peak;

	add_counters(to, from);
	to->inflight_bytes_peak = peak;
	SLUICE_COUNT_MAX(to->inflight_bytes_peak, SLUICE_COUNT_READ(from->inflight_bytes_peak));
}

static int make_lane(struct sluice_lane_conf *conf, const struct sluice_lane_opts *opts,
	struct sluice_lane **ret_lane, struct sluice_error *err)
{
	const struct sluice_transport *transport = conf->pair->transport;
	int r = transport->lane_open(conf->pair->rail, opts, &conf->conn, err);

	if (r < 0)
		return r;
	r = sluice_lane_create(conf, ret_lane);
	if (r < 0) {
		transport->lane_close(conf->conn);
		return sluice_fail(err, r, "lane", "out of memory");
	}
	return 0;
}

int sluice_lane_set_open(struct sluice_lane_set *set, uint32_t lane, uint32_t pair,
	const struct sluice_ticket *ticket, uint64_t deadline_ns, struct sluice_error *err)
{
	struct sluice_lane_slot *slot = &set->slots[lane];
	struct sluice_lane_opts opts = {
		.role = set->role,
		.lane = lane,
		.epoch = slot->epoch + 1,
		.ticket = *ticket,
		.peer_address = set->pairs[pair].peer_address,
		.deadline_ns = deadline_ns,
	};
	/* A source has chosen the rail by where the lane is, a target's was chosen for it. */
	struct sluice_crew_lane place =
		set->role == SLUICE_ROLE_SOURCE
			? sluice_crew_lane(set->crew, lane)
			: sluice_crew_lane_near(set->crew, lane, set->pairs[pair].nodes);
	struct sluice_lane_conf conf = {
		.pair = &set->pairs[pair],
		.lane = lane,
		.home = place.home,
		.epoch = opts.epoch,
		.role = set->role,
		.window_bytes = set->window_bytes,
		.extent_bytes = set->extent_bytes,
		.work = set->work,
	};
	struct sluice_node_policy policy;
	int r;

	SLUICE_ASSERT(lane < set->count && pair < set->pair_count);
	SLUICE_ASSERT(slot->standing == SLUICE_LANE_CLOSED);
	SLUICE_ASSERT(slot->lane == NULL);
	sluice_node_prefer(place.memory_nodes, &policy);
	r = make_lane(&conf, &opts, &slot->lane, err);
	sluice_node_restore(&policy);
	if (r < 0)
		return r;
	r = sluice_crew_add(set->crew, slot->lane, place.worker);
	if (r < 0) {
		sluice_lane_destroy(slot->lane);
		slot->lane = NULL;
		return sluice_fail(err, r, "lane",
			"the workers hold as many lanes as they can; use fewer lanes or more "
			"workers");
	}
	slot->epoch = opts.epoch;
	slot->astray = false;
	slot->pair = pair;
	slot->standing = SLUICE_LANE_CONNECTING;
	return 0;
}

/* What it held is gone, what it counted is kept. */
static void free_lane(struct sluice_lane_slot *slot)
{
	join_counters(&slot->past, sluice_lane_counters(slot->lane));
	add_conn_stats(&slot->past_conn, sluice_lane_conn_stats(slot->lane));
	sluice_lane_destroy(slot->lane);
	slot->lane = NULL;
}

void sluice_lane_set_lost(struct sluice_lane_set *set, uint32_t lane)
{
	struct sluice_lane_slot *slot = &set->slots[lane];

	SLUICE_ASSERT(slot->lane != NULL && set->role == SLUICE_ROLE_SOURCE);
	sluice_crew_remove(set->crew, slot->lane);
	sluice_lane_why_lost(slot->lane, slot->why_lost, sizeof(slot->why_lost));
	sluice_text_make_utf8(slot->why_lost);
	sluice_lane_stop(slot->lane);
	sluice_lane_abandon(slot->lane);
	free_lane(slot);
	slot->losses++;
	slot->standing = SLUICE_LANE_FENCING;
}

void sluice_lane_set_close(struct sluice_lane_set *set, uint32_t lane)
{
	struct sluice_lane_slot *slot = &set->slots[lane];

	slot->standing = SLUICE_LANE_CLOSED;
	if (slot->lane == NULL)
		return;
	sluice_crew_remove(set->crew, slot->lane);
	if (set->role == SLUICE_ROLE_TARGET && !sluice_lane_fence(slot->lane))
		slot->astray = true;
	free_lane(slot);
}

/* The workers let go of all lanes at once: one by one would cost a switchover with many lanes. */
void sluice_lane_set_close_all(struct sluice_lane_set *set)
{
	if (set->crew != NULL)
		sluice_crew_remove_all(set->crew);
	for (uint32_t lane = 0; lane < set->count; lane++)
		sluice_lane_set_close(set, lane);
}

void sluice_lane_set_fence_all(struct sluice_lane_set *set)
{
	SLUICE_ASSERT(set->role == SLUICE_ROLE_TARGET);
	if (set->crew != NULL)
		sluice_crew_remove_all(set->crew);
	for (uint32_t lane = 0; lane < set->count; lane++) {
		if (set->slots[lane].lane != NULL)
			sluice_lane_fence(set->slots[lane].lane);
		set->slots[lane].standing = SLUICE_LANE_CLOSED;
	}
}

/* A lane that was lost is not the crew's any more. */
static bool is_stepped(const struct sluice_lane_slot *slot)
{
	return slot->standing == SLUICE_LANE_CONNECTING || slot->standing == SLUICE_LANE_ACTIVE;
}

void sluice_lane_set_hold(struct sluice_lane_set *set)
{
	SLUICE_ASSERT(set->role == SLUICE_ROLE_SOURCE);
	for (uint32_t lane = 0; lane < set->count; lane++)
		if (is_stepped(&set->slots[lane]))
			set->slots[lane].worker =
				sluice_crew_worker_of(set->crew, set->slots[lane].lane);
	if (set->crew != NULL)
		sluice_crew_remove_all(set->crew);
}

void sluice_lane_set_go_on(struct sluice_lane_set *set)
{
	for (uint32_t lane = 0; lane < set->count; lane++) {
		struct sluice_lane_slot *slot = &set->slots[lane];

		if (is_stepped(slot)) /* there is room: it was there before */
			SLUICE_ASSERT(sluice_crew_add(set->crew, slot->lane, slot->worker) == 0);
	}
}

uint32_t sluice_lane_set_standing(
	const struct sluice_lane_set *set, enum sluice_lane_standing standing)
{
	uint32_t count = 0;

	for (uint32_t lane = 0; lane < set->count; lane++)
		count += set->slots[lane].standing == standing;
	return count;
}

uint32_t sluice_lane_set_standing_over(
	const struct sluice_lane_set *set, uint32_t pair, enum sluice_lane_standing standing)
{
	uint32_t count = 0;

	for (uint32_t lane = 0; lane < set->count; lane++)
		count += set->slots[lane].standing == standing && set->slots[lane].pair == pair;
	return count;
}

static uint64_t sum_bytes(
	const struct sluice_lane_set *set, uint64_t (*bytes_of)(const struct sluice_lane *lane))
{
	uint64_t bytes = 0;

	for (uint32_t lane = 0; lane < set->count; lane++)
		if (set->slots[lane].lane != NULL)
			bytes += bytes_of(set->slots[lane].lane);
	return bytes;
}

uint64_t sluice_lane_set_backlog_bytes(const struct sluice_lane_set *set)
{
	return sum_bytes(set, sluice_lane_backlog_bytes);
}

uint64_t sluice_lane_set_inflight_bytes(const struct sluice_lane_set *set)
{
	return sum_bytes(set, sluice_lane_inflight_bytes);
}

void sluice_lane_set_counters(
	const struct sluice_lane_set *set, uint32_t lane, struct sluice_lane_counters *ret_counters)
{
	*ret_counters = set->slots[lane].past;
	if (set->slots[lane].lane != NULL)
		join_counters(ret_counters, sluice_lane_counters(set->slots[lane].lane));
}

void sluice_lane_set_conn_stats(
	const struct sluice_lane_set *set, uint32_t lane, struct sluice_conn_stats *ret_stats)
{
	const struct sluice_lane_slot *slot = &set->slots[lane];

	*ret_stats = slot->past_conn;
	if (slot->lane != NULL)
		add_conn_stats(ret_stats, sluice_lane_conn_stats(slot->lane));
}

void sluice_lane_set_sum(
	const struct sluice_lane_set *set, struct sluice_lane_counters *ret_counters)
{
	memset(ret_counters, 0, sizeof(*ret_counters));
	for (uint32_t lane = 0; lane < set->count; lane++) {
		struct sluice_lane_counters one;

		sluice_lane_set_counters(set, lane, &one);
		add_counters(ret_counters, &one);
	}
}
