/* SPDX-License-Identifier: BSD-3-Clause */
/* placing.c: plans made for sessions, and carried out. See placing.h. */
#include "engine/placing.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "engine/engine.h"
#include "engine/lane/lane_set.h"
#include "engine/lane/ledger.h"
#include "engine/placement/homes.h"
#include "engine/placement/params.h"
#include "engine/placement/report.h"

#define HOMES_STEP_NS  SLUICE_NS_PER_MS /* between two looks at some chunks */
#define HOMES_ROUND_NS SLUICE_NS_PER_S /* between two rounds: holes fill up */

_Static_assert(SLUICE_PLAN_LANES_MAX == SLUICE_LANES_MAX, "every lane has a place");
_Static_assert(SLUICE_PLAN_WORKERS_MAX == SLUICE_CREW_WORKERS_MAX, "every worker has a place");
_Static_assert(SLUICE_PLAN_RAILS_MAX >= SLUICE_RAILS_MAX, "every rail has a place");
_Static_assert(SLUICE_PLAN_HOMES_MAX == SLUICE_LEDGER_HOMES_MAX, "every node has its queues");

/* What a plan is made from. */
struct wishes {
	struct sluice_plan_conf conf;
	uint32_t rail_of[SLUICE_RAILS_MAX]; /* the engine's rail that each of the conf's is */
};

/* Made at the first session: an engine that never migrates does not look at the machine. */
struct sluice_placing {
	struct sluice_topology *topology;
	struct wishes wishes; /* of the plan */
	struct sluice_plan plan;
	struct sluice_homes homes;
	struct sluice_timer *timer; /* homes; set while they are looked for */
};

static int ready(struct sluice_engine *engine, struct sluice_error *err)
{
	struct sluice_placing *placing = engine->placing;
	int r;

	if (placing != NULL)
		return sluice_topology_refresh(placing->topology, err);
	placing = calloc(1, sizeof(*placing));
	if (placing == NULL)
		return sluice_fail(err, -ENOMEM, "placement", "out of memory");
	r = sluice_topology_read(SLUICE_TOPOLOGY_LIVE, NULL, &placing->topology, err);
	if (r < 0) {
		free(placing);
		return r;
	}
	engine->placing = placing;
	return 0;
}

/* The rail's own word, or the operator's, counts first; a NIC that has its address comes second. */
static void describe_rail(
	const struct sluice_engine *engine, uint32_t index, struct sluice_plan_rail *rail)
{
	const struct sluice_engine_rail *own = &engine->rails.list[index];
	const struct sluice_topology *topology = engine->placing->topology;
	const struct sluice_topology_nic *nic = sluice_topology_nic_of(topology, own->name);

	*rail = (struct sluice_plan_rail){.link_bytes_per_s = own->limits.link_bytes_per_s};
	snprintf(rail->name, sizeof(rail->name), "%.*s", (int)sizeof(rail->name) - 1, own->name);
	if (own->limits.numa_node >= 0)
		rail->nodes = sluice_topology_set_of(topology, (uint32_t)own->limits.numa_node);
	else if (nic != NULL)
		rail->nodes = nic->nodes;
	if (rail->link_bytes_per_s == 0 && nic != NULL)
		rail->link_bytes_per_s = nic->link_bytes_per_s;
}

/* Lanes of a session use the rails of one transport; NULL: the preferred one that there is. */
static void describe_rails(const struct sluice_engine *engine,
	const struct sluice_transport *transport, struct wishes *wishes)
{
	wishes->conf.rail_count = 0;
	for (uint32_t i = 0; i < engine->rails.count; i++) {
		const struct sluice_engine_rail *rail = &engine->rails.list[i];

		if (rail->rail == NULL || (transport != NULL && rail->transport != transport))
			continue;
		transport = rail->transport;
		describe_rail(engine, i, &wishes->conf.rails[wishes->conf.rail_count]);
		wishes->rail_of[wishes->conf.rail_count++] = i;
	}
	SLUICE_ASSERT(wishes->conf.rail_count > 0);
}

static int make_wishes(const struct sluice_engine *engine, const struct sluice_config *config,
	struct wishes *wishes, struct sluice_error *err)
{
	*wishes = (struct wishes){0};
	describe_rails(engine, NULL, wishes);
	return sluice_placement_set(&wishes->conf, config->lanes, config->workers,
		config->worker_cores, config->vcpu_cores, config->numa, err);
}

uint64_t sluice_placing_link_bytes_per_s(
	struct sluice_engine *engine, char *names, size_t names_bytes)
{
	struct wishes wishes;
	uint64_t bytes_per_s = 0;

	*names = '\0';
	if (ready(engine, NULL) < 0)
		return 0;
	describe_rails(engine, NULL, &wishes);
	for (uint32_t i = 0; i < wishes.conf.rail_count; i++) {
		const struct sluice_plan_rail *rail = &wishes.conf.rails[i];

		if (rail->link_bytes_per_s == 0)
			continue;
		bytes_per_s += rail->link_bytes_per_s;
		snprintf(names + strlen(names), names_bytes - strlen(names), "%s%s",
			*names != '\0' ? ", " : "", rail->name);
	}
	return bytes_per_s;
}

int sluice_placing_check(
	struct sluice_engine *engine, const struct sluice_config *config, struct sluice_error *err)
{
	struct wishes wishes;
	struct sluice_plan *plan;
	int r;

	/* Only these can be wrong on one machine and right on another. */
	if (config->worker_cores[0] == '\0' && config->vcpu_cores[0] == '\0')
		return 0;
	plan = malloc(sizeof(*plan));
	if (plan == NULL)
		return sluice_fail(err, -ENOMEM, "placement", "out of memory");
	r = ready(engine, err);
	if (r == 0)
		r = make_wishes(engine, config, &wishes, err);
	if (r == 0)
		r = sluice_plan_make(engine->placing->topology, &wishes.conf, plan, err);
	free(plan);
	return r;
}

/* ---- a session ---- */

/* A set of nodes by index as one by kernel number. */
static uint64_t by_number(const struct sluice_topology *topology, uint64_t nodes)
{
	uint64_t numbers = 0;

	for (uint32_t i = 0; i < topology->node_count; i++)
		if ((nodes >> i & 1) && topology->nodes[i].number < 64)
			numbers |= 1ull << topology->nodes[i].number;
	return numbers;
}

static int start_crew(struct sluice_engine *engine, struct sluice_error *err)
{
	const struct sluice_placing *placing = engine->placing;
	const struct sluice_plan *plan = &placing->plan;
	struct sluice_cpus *cpus = calloc(plan->worker_count, sizeof(*cpus));
	struct sluice_crew_lane lanes[SLUICE_LANES_MAX];
	struct sluice_crew_opts opts = {.workers = plan->worker_count,
		.spin_ns = engine->config.spin_ns,
		.yield_ns = engine->config.yield_ns,
		.busy_poll = engine->config.busy_poll,
		.cpus = cpus,
		.lanes = lanes,
		.lane_count = plan->lane_count};
	int r;

	if (cpus == NULL)
		return sluice_fail(err, -ENOMEM, "workers", "out of memory");
	for (uint32_t i = 0; i < plan->worker_count; i++)
		if (plan->workers[i].is_bound)
			cpus[i] = plan->workers[i].cpus;
	for (uint32_t i = 0; i < plan->lane_count; i++) {
		const struct sluice_plan_worker *w = &plan->workers[plan->lanes[i].worker];
		uint64_t node = plan->lanes[i].memory_nodes;

		lanes[i] = (struct sluice_crew_lane){.worker = plan->lanes[i].worker,
			.home = plan->lanes[i].home,
			.node = w->node == SLUICE_NO_NODE
					? -1
					: (int)placing->topology->nodes[w->node].number,
			.memory_nodes = by_number(placing->topology, node)};
	}
	r = sluice_crew_create(&opts, &engine->crew);
	free(cpus);
	return r < 0 ? sluice_fail(err, r, "workers", "%u workers cannot be started: %s",
			       opts.workers, strerror(-r))
		     : 0;
}

static int make_plan(struct sluice_engine *engine, uint32_t lanes, struct sluice_error *err)
{
	struct sluice_placing *placing = engine->placing;
	int r = make_wishes(engine, &engine->config, &placing->wishes, err);

	if (r < 0)
		return r;
	placing->wishes.conf.lanes = lanes;
	if (sluice_node_memory_differs())
		sluice_homes_survey(
			&engine->memory, placing->topology, placing->wishes.conf.guest_bytes);
	return sluice_plan_make(placing->topology, &placing->wishes.conf, &placing->plan, err);
}

int sluice_placing_begin(struct sluice_engine *engine, uint32_t lanes, struct sluice_error *err)
{
	int r = ready(engine, err);

	if (r == 0)
		r = make_plan(engine, lanes, err);
	return r < 0 ? r : start_crew(engine, err);
}

uint32_t sluice_placing_lanes(const struct sluice_engine *engine)
{
	return engine->placing->plan.lane_count;
}

void sluice_placing_rails(
	struct sluice_engine *engine, const struct sluice_transport *transport, uint32_t *ret_rails)
{
	struct sluice_placing *placing = engine->placing;

	if (engine->rails.list[placing->wishes.rail_of[0]].transport != transport) {
		describe_rails(engine, transport, &placing->wishes);
		sluice_plan_rails(placing->topology, &placing->wishes.conf, &placing->plan);
	}
	for (uint32_t lane = 0; lane < placing->plan.lane_count; lane++)
		ret_rails[lane] = placing->wishes.rail_of[placing->plan.lanes[lane].rail];
}

uint64_t sluice_placing_rail_nodes(const struct sluice_engine *engine, uint32_t rail)
{
	const struct sluice_placing *placing = engine->placing;
	struct sluice_plan_rail described;

	if (placing == NULL)
		return 0;
	describe_rail(engine, rail, &described);
	return by_number(placing->topology, described.nodes);
}

uint64_t sluice_placing_bitmap_nodes(const struct sluice_engine *engine)
{
	return by_number(engine->placing->topology, engine->placing->plan.bitmap_nodes);
}

uint64_t sluice_placing_staging_nodes(const struct sluice_engine *engine)
{
	return by_number(engine->placing->topology, engine->placing->plan.staging_nodes);
}

static void on_timer(void *ctx, uint64_t now_ns)
{
	struct sluice_engine *engine = ctx;

	if (engine->source == NULL || sluice_source_is_over(engine->source))
		return;
	sluice_timer_set(engine->placing->timer,
		now_ns + (sluice_homes_step(&engine->placing->homes) ? HOMES_STEP_NS
								     : HOMES_ROUND_NS));
}

int sluice_placing_source(struct sluice_engine *engine, struct sluice_error *err)
{
	struct sluice_placing *placing = engine->placing;
	struct sluice_ledger *ledger = sluice_source_lanes(engine->source)->work->ledger;
	int r = 0;

	placing->homes = (struct sluice_homes){0};
	if (placing->plan.home_count == 1)
		return 0; /* nothing to tell apart, nothing to look for */
	r = sluice_ledger_set_homes(ledger, placing->plan.home_count, placing->plan.order);
	if (r == 0 && placing->timer == NULL)
		r = sluice_timer_add(engine->loop, on_timer, engine, &placing->timer);
	if (r < 0)
		return sluice_fail(err, r, "placement", "%s", strerror(-r));
	placing->homes = (struct sluice_homes){.memory = &engine->memory,
		.topology = placing->topology,
		.plan = &placing->plan,
		.ledger = ledger};
	sluice_timer_set(placing->timer, sluice_now_ns());
	return 0;
}

void sluice_placing_end(struct sluice_engine *engine)
{
	if (engine->placing != NULL && engine->placing->timer != NULL)
		sluice_timer_set(engine->placing->timer, SLUICE_NEVER);
}

void sluice_placing_destroy(struct sluice_engine *engine)
{
	if (engine->placing == NULL)
		return;
	sluice_timer_remove(engine->placing->timer);
	sluice_topology_destroy(engine->placing->topology);
	free(engine->placing);
	engine->placing = NULL;
}

/* ---- what really is ---- */

static json_t *nodes_json(uint64_t nodes)
{
	json_t *array = json_array();

	for (int node = 0; node < 64; node++)
		if (nodes >> node & 1)
			json_array_append_new(array, json_integer(node));
	return array;
}

/* The kernel's word on a thread, not what it was asked for. */
static void add_worker(struct sluice_engine *engine, uint32_t index, json_t *worker)
{
	struct sluice_cpus cpus = {0};
	struct sluice_worker_stats stats;
	char text[SLUICE_CPUS_TEXT_BYTES];

	sluice_crew_stats(engine->crew, index, &stats);
	json_object_set_new(worker, "thread-id", json_integer(stats.thread));
	json_object_set_new(worker, "core", json_integer(stats.core));
	if (sched_getaffinity(stats.thread, sizeof(cpus.words), (cpu_set_t *)(void *)cpus.words) ==
		0)
		json_object_set_new(worker, "cpus-allowed",
			json_string(sluice_cpus_format(&cpus, text, sizeof(text))));
}

/* A source that lost a rail, and every target, have lanes on other rails or workers than planned. */
static void add_lane(const struct sluice_engine *engine, const struct sluice_lane_set *lanes,
	uint32_t lane, json_t *entry)
{
	const struct sluice_lane_slot *slot = &lanes->slots[lane];
	uint32_t rail = lanes->pairs[slot->pair].ours;

	json_object_set_new(entry, "worker",
		json_integer(
			(json_int_t)sluice_crew_lane_now(engine->crew, lane, slot->lane).worker));
	json_object_set_new(
		entry, "memory-nodes", nodes_json(sluice_lane_memory_nodes(slot->lane)));
	json_object_set_new(entry, "rail", json_string(engine->rails.list[rail].name));
}

static void add_reality(struct sluice_engine *engine, json_t *plan)
{
	const struct sluice_lane_set *lanes = sluice_engine_lanes(engine);
	json_t *entry;
	size_t i;

	json_array_foreach (json_object_get(plan, "workers"), i, entry)
		add_worker(engine, (uint32_t)i, entry);
	json_array_foreach (json_object_get(plan, "lanes"), i, entry)
		if (lanes != NULL && i < lanes->count && lanes->slots[i].lane != NULL)
			add_lane(engine, lanes, (uint32_t)i, entry);
	if (engine->source != NULL)
		json_object_set_new(plan, "chunks-located",
			json_integer((json_int_t)engine->placing->homes.found));
}

json_t *sluice_placing_query(
	void *ctx, struct sluice_client *client, json_t *args, struct sluice_error *err)
{
	struct sluice_engine *engine = ctx;
	struct sluice_placing *placing;
	json_t *plan;
	int r = 0;

	(void)client, (void)args;
	if (engine->crew == NULL) {
		r = ready(engine, err);
		if (r == 0)
			r = make_plan(engine, (uint32_t)engine->config.lanes, err);
	}
	if (r < 0)
		return NULL;
	placing = engine->placing;
	plan = sluice_plan_json(placing->topology, &placing->wishes.conf, &placing->plan);
	if (engine->crew != NULL)
		add_reality(engine, plan);
	sluice_rails_json(engine, plan);
	json_object_set_new(plan, "active", json_boolean(engine->crew != NULL));
	json_object_set_new(plan, "machine", sluice_topology_json(placing->topology));
	return plan;
}
