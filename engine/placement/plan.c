/* SPDX-License-Identifier: BSD-3-Clause */
/* plan.c: the decisions, one function each, in the order of the rules in plan.h. */
#include "engine/placement/plan.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/bits.h"

#define LANES_DEFAULT      4u
#define LANES_AUTO_MAX     16u
#define WORKERS_AUTO_MAX   16u
#define LANE_BYTES_PER_S   (25000000000ull / 8) /* what one lane carries on one core, roughly */
#define CORE_0_SPARED_FROM 5u /* usable cores */

#define REASONS_AFTER_NODES 11

struct making {
	const struct sluice_topology *topology;
	const struct sluice_plan_conf *conf;
	struct sluice_plan *plan;
	bool by_node; /* more than one node has usable CPUs or memory, and numa is on */
	bool one_cpu_each; /* set by hand, or isolated */
	uint64_t weight[SLUICE_NODES_MAX]; /* guest memory near to each node's cores */
};

static void because(struct making *m, const char *about, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

static void because(struct making *m, const char *about, const char *fmt, ...)
{
	struct sluice_plan_reason *reason;
	va_list ap;

	SLUICE_ASSERT(m->plan->reason_count < SLUICE_PLAN_REASONS_MAX);
	reason = &m->plan->reasons[m->plan->reason_count++];
	reason->about = about;
	va_start(ap, fmt);
	vsnprintf(reason->text, sizeof(reason->text), fmt, ap);
	va_end(ap);
}

/* ---- lanes ---- */

static void choose_lanes(struct making *m)
{
	uint32_t lanes = m->conf->lanes;
	uint64_t bytes_per_s = 0;

	for (uint32_t i = 0; i < m->conf->rail_count; i++)
		bytes_per_s += m->conf->rails[i].link_bytes_per_s;
	if (lanes != 0) {
		because(m, "lanes", "%u lanes, as set", lanes);
	} else if (bytes_per_s / LANE_BYTES_PER_S <= LANES_DEFAULT) {
		lanes = LANES_DEFAULT;
		because(m, "lanes", "%u lanes, the default%s", lanes,
			bytes_per_s == 0 ? "; the link speed is not known" : "");
	} else {
		lanes = (uint32_t)sluice_div_up(bytes_per_s, LANE_BYTES_PER_S);
		if (lanes > LANES_AUTO_MAX)
			lanes = LANES_AUTO_MAX;
		because(m, "lanes", "%u lanes: one per 25 Gbit/s of link, at most %u", lanes,
			LANES_AUTO_MAX);
	}
	SLUICE_ASSERT(lanes <= SLUICE_PLAN_LANES_MAX);
	m->plan->lane_count = lanes;
}

/* ---- CPUs ---- */

/* Every CPU of @list must exist and, where @must_be_allowed, be one that we may use. */
static int check_list(const struct making *m, const char *setting, const struct sluice_cpus *list,
	bool must_be_allowed, struct sluice_error *err)
{
	const struct sluice_topology *t = m->topology;
	uint32_t cpu = sluice_cpus_next(list, 0);
	char text[SLUICE_CPUS_TEXT_BYTES];

	for (; cpu < SLUICE_CPUS_MAX; cpu = sluice_cpus_next(list, cpu + 1)) {
		if (!sluice_cpus_has(&t->present, cpu))
			return sluice_fail(err, -EINVAL, setting,
				"this machine has no core %u; it has %s", cpu,
				sluice_cpus_format(&t->present, text, sizeof(text)));
		if (must_be_allowed && !sluice_cpus_has(&t->allowed, cpu))
			return sluice_fail(err, -EINVAL, setting,
				"the engine may not use core %u (CPU affinity or cpuset); it may "
				"use %s",
				cpu, sluice_cpus_format(&t->allowed, text, sizeof(text)));
	}
	return 0;
}

/* With all hardware threads: what runs on one slows the other down. */
static struct sluice_cpus whole_cores(
	const struct sluice_topology *topology, const struct sluice_cpus *cpus)
{
	struct sluice_cpus whole = *cpus;

	for (uint32_t i = 0; i < topology->core_count; i++)
		if (sluice_cpus_meet(&topology->cores[i].cpus, cpus))
			sluice_cpus_add_all(&whole, &topology->cores[i].cpus);
	return whole;
}

static uint32_t count_cores(const struct making *m, uint32_t node)
{
	uint32_t count = 0;

	for (uint32_t i = 0; i < m->topology->core_count; i++)
		count += (node == SLUICE_NO_NODE || m->topology->cores[i].node == node) &&
			 sluice_cpus_meet(&m->topology->cores[i].cpus, &m->plan->usable);
	return count;
}

static int take_worker_cores(struct making *m, struct sluice_error *err)
{
	const struct sluice_plan_conf *conf = m->conf;
	char text[SLUICE_CPUS_TEXT_BYTES];
	struct sluice_cpus both = conf->worker_cores;
	int r = check_list(m, "worker-cores", &conf->worker_cores, true, err);

	if (r < 0)
		return r;
	sluice_cpus_keep_only(&both, &conf->vcpu_cores);
	if (!sluice_cpus_is_empty(&both))
		return sluice_fail(err, -EINVAL, "worker-cores",
			"vcpu-cores, which are to be left alone, name %s too",
			sluice_cpus_format(&both, text, sizeof(text)));
	m->plan->usable = conf->worker_cores;
	m->one_cpu_each = true;
	because(m, "cpus", "cores %s, as set by worker-cores",
		sluice_cpus_format(&m->plan->usable, text, sizeof(text)));
	return 0;
}

static void spare_core_0(struct making *m)
{
	const struct sluice_topology_core *core = sluice_topology_core_of(m->topology, 0);

	if (core == NULL || !sluice_cpus_meet(&core->cpus, &m->plan->usable) ||
		count_cores(m, SLUICE_NO_NODE) < CORE_0_SPARED_FROM)
		return;
	sluice_cpus_remove_all(&m->plan->usable, &core->cpus);
	because(m, "cpus", "core 0 is left to the kernel's own work");
}

static int choose_cpus(struct making *m, struct sluice_error *err)
{
	const struct sluice_topology *t = m->topology;
	struct sluice_cpus *usable = &m->plan->usable, avoid, rest;
	char text[SLUICE_CPUS_TEXT_BYTES];
	int r = check_list(m, "vcpu-cores", &m->conf->vcpu_cores, false, err);

	if (r < 0)
		return r;
	if (!sluice_cpus_is_empty(&m->conf->worker_cores))
		return take_worker_cores(m, err);
	*usable = t->allowed;
	if (!sluice_cpus_is_equal(&t->allowed, &t->present))
		because(m, "cpus", "the engine may use cores %s (CPU affinity or cpuset)",
			sluice_cpus_format(usable, text, sizeof(text)));
	avoid = whole_cores(t, &m->conf->vcpu_cores);
	if (sluice_cpus_meet(&avoid, usable)) {
		sluice_cpus_remove_all(usable, &avoid);
		because(m, "cpus", "cores %s are left to the guest's vCPUs (vcpu-cores)",
			sluice_cpus_format(&avoid, text, sizeof(text)));
	}
	if (sluice_cpus_is_empty(usable))
		return sluice_fail(err, -EINVAL, "vcpu-cores",
			"no core is left to the engine, which may use %s; take some out",
			sluice_cpus_format(&t->allowed, text, sizeof(text)));
	rest = *usable;
	sluice_cpus_remove_all(&rest, &t->isolated);
	if (sluice_cpus_is_empty(&rest)) {
		m->one_cpu_each = true;
	} else if (!sluice_cpus_is_equal(&rest, usable)) {
		*usable = rest;
		because(m, "cpus", "isolated cores %s are left alone; worker-cores can name them",
			sluice_cpus_format(&t->isolated, text, sizeof(text)));
	}
	spare_core_0(m);
	return 0;
}

/* ---- nodes ---- */

static bool has_usable(const struct making *m, uint32_t node)
{
	return sluice_cpus_meet(&m->topology->nodes[node].cpus, &m->plan->usable);
}

static uint64_t rail_nodes(const struct making *m)
{
	uint64_t nodes = 0;

	for (uint32_t i = 0; i < m->conf->rail_count; i++)
		nodes |= m->conf->rails[i].nodes;
	return nodes;
}

/* The nearest node to @node that @is_wanted; itself first. SLUICE_NO_NODE: none is. */
static uint32_t nearest(const struct making *m, uint32_t node,
	bool (*is_wanted)(const struct making *m, uint32_t node))
{
	uint32_t best = SLUICE_NO_NODE;

	for (uint32_t i = 0; i < m->topology->node_count; i++) {
		const uint32_t *distance = m->topology->nodes[node].distance;

		if (is_wanted(m, i) && (best == SLUICE_NO_NODE || distance[i] < distance[best]))
			best = i;
	}
	return best;
}

static bool has_memory(const struct making *m, uint32_t node)
{
	return m->topology->nodes[node].has_memory;
}

/* Guest memory counts for the nearest node whose CPUs can be used: memory-only nodes have none. */
static void weigh_nodes(struct making *m)
{
	uint32_t count = m->topology->node_count, usable = 0;
	uint64_t total = 0;

	for (uint32_t i = 0; i < count; i++)
		usable += has_usable(m, i);
	m->by_node = m->conf->numa && count > 1;
	if (!m->by_node) {
		if (count > 1)
			because(m, "nodes", "numa=off: the machine's %u nodes do not count", count);
		else
			because(m, "nodes", "the machine has one node: nothing to choose");
		return;
	}
	for (uint32_t i = 0; i < count; i++) {
		m->weight[nearest(m, i, has_usable)] += m->conf->guest_bytes[i];
		total += m->conf->guest_bytes[i];
	}
	for (uint32_t i = 0; i < count && total == 0; i++)
		m->weight[i] = has_usable(m, i);
	if (total == 0)
		because(m, "nodes",
			"nobody knows yet which nodes hold the guest's memory: workers are spread "
			"evenly over %u node%s",
			usable, usable == 1 ? "" : "s");
	for (uint32_t i = 0; i < count; i++)
		if (m->conf->guest_bytes[i] > 0 &&
			m->plan->reason_count < SLUICE_PLAN_REASONS_MAX - REASONS_AFTER_NODES)
			because(m, "nodes", "node %u holds %.0f %% of the guest's memory%s",
				m->topology->nodes[i].number,
				(double)m->conf->guest_bytes[i] * 100 / (double)total,
				has_usable(m, i) ? "" : ", and none of its cores can be used");
}

/* ---- workers ---- */

static int choose_worker_count(struct making *m, struct sluice_error *err)
{
	uint32_t listed = sluice_cpus_count(&m->conf->worker_cores);
	uint32_t cores = count_cores(m, SLUICE_NO_NODE);
	uint32_t workers = m->conf->workers;
	const char *why = "as set";

	if (listed > 0 && workers > listed)
		return sluice_fail(err, -EINVAL, "workers",
			"workers=%u and worker-cores names %u; give every worker a core, or leave "
			"workers at 0",
			workers, listed);
	if (workers == 0 && listed > 0) {
		workers = listed;
		why = "one per core of worker-cores";
	} else if (workers == 0) {
		workers = cores > 2 ? cores / 2 : cores;
		why = cores > 2 ? "half of the usable cores" : "all usable cores, which are few";
		if (workers > WORKERS_AUTO_MAX) {
			workers = WORKERS_AUTO_MAX;
			why = "the most that are chosen unasked";
		}
	}
	if (workers > m->plan->lane_count) {
		workers = m->plan->lane_count;
		why = "one per lane; more would have nothing to do";
	}
	if (workers > SLUICE_PLAN_WORKERS_MAX)
		workers = SLUICE_PLAN_WORKERS_MAX;
	m->plan->worker_count = workers;
	because(m, "workers", "%u worker%s: %s", workers, workers == 1 ? "" : "s", why);
	if (workers > cores)
		because(m, "workers", "%u workers on %u cores share them, or their hyperthreads",
			workers, cores);
	return 0;
}

/*
 * Sainte-Lague: the next worker goes where weight / (2 * workers there + 1) is highest. The result
 * is interleaved: the first workers, hence the first lanes, are already spread.
 */
static uint32_t next_node(const struct making *m, const uint32_t *workers_on)
{
	uint64_t rails = rail_nodes(m);
	uint32_t best = SLUICE_NO_NODE;
	double best_share = -1;

	for (uint32_t i = 0; i < m->topology->node_count; i++) {
		double share = (double)m->weight[i] / (2.0 * workers_on[i] + 1);
		bool tie = share == best_share && (rails >> i & 1) && !(rails >> best & 1);

		if (has_usable(m, i) && (share > best_share || tie)) {
			best = i;
			best_share = share;
		}
	}
	SLUICE_ASSERT(best != SLUICE_NO_NODE);
	return best;
}

/* The @nth CPU of a node (or of all): first one thread of every core, then the second ones. */
static uint32_t nth_cpu(const struct making *m, uint32_t node, uint32_t nth)
{
	const struct sluice_topology *t = m->topology;
	struct sluice_cpus left = m->plan->usable;

	for (;;) {
		bool any = false;

		for (uint32_t i = 0; i < t->core_count; i++) {
			struct sluice_cpus mine = t->cores[i].cpus;
			uint32_t cpu;

			sluice_cpus_keep_only(&mine, &left);
			cpu = sluice_cpus_next(&mine, 0);
			if (cpu == SLUICE_CPUS_MAX ||
				(node != SLUICE_NO_NODE && t->cores[i].node != node))
				continue;
			any = true;
			if (nth-- == 0)
				return cpu;
			mine = (struct sluice_cpus){0};
			sluice_cpus_add(&mine, cpu);
			sluice_cpus_remove_all(&left, &mine);
		}
		if (!any)
			left = m->plan->usable; /* more workers than CPUs: again from the first */
	}
}

static void place_workers(struct making *m)
{
	uint32_t workers_on[SLUICE_NODES_MAX] = {0};
	struct sluice_plan *plan = m->plan;

	for (uint32_t i = 0; i < plan->worker_count; i++) {
		struct sluice_plan_worker *w = &plan->workers[i];
		uint32_t nth = i;

		w->node = SLUICE_NO_NODE;
		w->cpus = plan->usable;
		if (m->by_node) {
			w->node = next_node(m, workers_on);
			nth = workers_on[w->node]++;
			sluice_cpus_keep_only(&w->cpus, &m->topology->nodes[w->node].cpus);
		}
		if (m->one_cpu_each) {
			uint32_t cpu = nth_cpu(m, w->node, nth);

			w->cpus = (struct sluice_cpus){0};
			sluice_cpus_add(&w->cpus, cpu);
		}
		w->is_bound = !sluice_cpus_is_equal(&w->cpus, &m->topology->allowed);
	}
}

/*
 * Cores named by hand are all used, so the nodes follow from them. To keep the first lanes spread
 * they are dealt out node by node all the same; a node's share is bounded by its cores.
 */
static void place_workers_by_hand(struct making *m)
{
	uint32_t workers_on[SLUICE_NODES_MAX] = {0};
	struct sluice_plan *plan = m->plan;
	struct sluice_cpus left = plan->usable;

	for (uint32_t i = 0; i < plan->worker_count; i++) {
		struct sluice_plan_worker *w = &plan->workers[i];
		uint32_t nth = i;

		w->node = SLUICE_NO_NODE;
		w->is_bound = true;
		if (m->by_node) {
			plan->usable = left; /* only nodes with a free core */
			w->node = next_node(m, workers_on);
			plan->usable = m->conf->worker_cores;
			nth = workers_on[w->node]++;
		}
		sluice_cpus_add(&w->cpus, nth_cpu(m, w->node, nth));
		sluice_cpus_remove_all(&left, &w->cpus);
	}
}

static void explain_binding(struct making *m)
{
	const struct sluice_plan *plan = m->plan;
	bool any = false;

	for (uint32_t i = 0; i < plan->worker_count; i++)
		any |= plan->workers[i].is_bound;
	if (!sluice_cpus_is_empty(&m->conf->worker_cores))
		because(m, "binding", "one core per worker, as set by worker-cores");
	else if (m->one_cpu_each)
		because(m, "binding",
			"one core per worker: all usable cores are isolated, and the kernel "
			"balances nothing there");
	else if (any && m->by_node)
		because(m, "binding",
			"each worker stays on the usable cores of its node, and the kernel chooses "
			"among them: other engines choose too. worker-cores gives it one core");
	else if (any)
		because(m, "binding", "workers stay on the usable cores; the kernel chooses");
	else
		because(m, "binding", "workers are not bound: every core that is allowed will do");
}

/* ---- rails ---- */

static void choose_rails(struct making *m)
{
	const struct sluice_plan_conf *conf = m->conf;
	uint32_t lanes_on[SLUICE_PLAN_RAILS_MAX] = {0};

	for (uint32_t lane = 0; lane < m->plan->lane_count; lane++) {
		uint32_t node = m->plan->workers[m->plan->lanes[lane].worker].node;
		uint32_t best = 0;
		double best_load = 0;

		for (uint32_t i = 0; i < conf->rail_count; i++) {
			const struct sluice_plan_rail *rail = &conf->rails[i];
			double speed =
				rail->link_bytes_per_s > 0 ? (double)rail->link_bytes_per_s : 1;
			double load = (lanes_on[i] + 1) / speed;
			bool near = node != SLUICE_NO_NODE && (rail->nodes >> node & 1);
			bool best_near =
				node != SLUICE_NO_NODE && (conf->rails[best].nodes >> node & 1);

			if (i == 0 || load < best_load ||
				(load == best_load && near && !best_near)) {
				best = i;
				best_load = load;
			}
		}
		lanes_on[best]++;
		m->plan->lanes[lane].rail = best;
	}
	for (uint32_t i = 0; i < conf->rail_count && i < 4; i++) {
		const struct sluice_plan_rail *rail = &conf->rails[i];
		uint32_t first = (uint32_t)__builtin_ffsll((long long)rail->nodes);

		if (rail->nodes == 0)
			because(m, "rails",
				"rail %s: %u lanes; no node is nearer to it than another",
				rail->name, lanes_on[i]);
		else
			because(m, "rails", "rail %s: %u lanes; it is near to node %u%s",
				rail->name, lanes_on[i], m->topology->nodes[first - 1].number,
				(rail->nodes & (rail->nodes - 1)) != 0 ? " and others" : "");
	}
}

/* ---- queues and memory ---- */

static void make_homes(struct making *m)
{
	const struct sluice_topology *t = m->topology;
	struct sluice_plan *plan = m->plan;
	uint32_t homes = 1;

	for (uint32_t i = 0; i < t->node_count && m->by_node; i++)
		if (t->nodes[i].has_memory)
			plan->homes[homes++ - 1] = i;
	plan->home_count = homes == 2 ? 1 : homes; /* one node with memory: nothing to tell apart */
	homes = plan->home_count;
	for (uint32_t home = 0; home < homes; home++) {
		uint8_t *row = plan->order + (size_t)home * homes;
		uint32_t count = 0;

		row[count++] = (uint8_t)home;
		if (home != 0)
			row[count++] = 0;
		/* By distance; of equals the next one by number, so that not all rob the same. */
		for (uint32_t step = 1; step < homes; step++) {
			uint32_t other = (home + step - 1) % (homes - 1) + 1;
			uint32_t at = count;

			if (home == 0)
				other = step;
			if (other == home)
				continue;
			for (; home != 0 && at > 2; at--) {
				const uint32_t *distance = t->nodes[plan->homes[home - 1]].distance;

				if (distance[plan->homes[row[at - 1] - 1]] <=
					distance[plan->homes[other - 1]])
					break;
				row[at] = row[at - 1];
			}
			row[at] = (uint8_t)other;
			count++;
		}
		SLUICE_ASSERT(count == homes);
	}
}

static uint32_t home_of_index(const struct sluice_plan *plan, uint32_t node)
{
	for (uint32_t home = 1; home < plan->home_count; home++)
		if (plan->homes[home - 1] == node)
			return home;
	return 0;
}

static bool may_allocate(const struct making *m, uint32_t node)
{
	return m->topology->nodes[node].has_memory && m->topology->nodes[node].is_allowed;
}

static void place_lanes(struct making *m)
{
	struct sluice_plan *plan = m->plan;

	for (uint32_t lane = 0; lane < plan->lane_count; lane++) {
		struct sluice_plan_worker *w = &plan->workers[lane % plan->worker_count];
		uint32_t memory;

		plan->lanes[lane].worker = lane % plan->worker_count;
		w->lanes++;
		if (!m->by_node)
			continue;
		memory = nearest(m, w->node, may_allocate);
		if (memory != SLUICE_NO_NODE)
			plan->lanes[lane].memory_nodes = 1ull << memory;
		if (plan->home_count > 1)
			plan->lanes[lane].home =
				home_of_index(plan, nearest(m, w->node, has_memory));
	}
}

static void place_memory(struct making *m)
{
	uint64_t rails = rail_nodes(m), near_rails = 0, near_workers = 0;

	if (!m->by_node)
		return;
	for (uint32_t i = 0; i < m->topology->node_count; i++) {
		uint32_t node = nearest(m, i, may_allocate);

		if (node == SLUICE_NO_NODE)
			return; /* then the kernel chooses */
		if (rails >> i & 1)
			near_rails |= 1ull << node;
		for (uint32_t w = 0; w < m->plan->worker_count; w++)
			if (m->plan->workers[w].node == i)
				near_workers |= 1ull << node;
	}
	m->plan->bitmap_nodes = near_workers;
	m->plan->staging_nodes = near_rails != 0 ? near_rails : near_workers;
	because(m, "memory",
		"lanes: on their worker's node; bitmaps: spread over the workers' nodes");
	because(m, "memory", "staging of device state: %s",
		near_rails != 0 ? "on the rail's node" : "beside the workers");
}

int sluice_plan_make(const struct sluice_topology *topology, const struct sluice_plan_conf *conf,
	struct sluice_plan *ret_plan, struct sluice_error *err)
{
	struct making m = {.topology = topology, .conf = conf, .plan = ret_plan};
	int r;

	SLUICE_ASSERT(conf->rail_count >= 1 && conf->rail_count <= SLUICE_PLAN_RAILS_MAX);
	memset(ret_plan, 0, sizeof(*ret_plan));
	choose_lanes(&m);
	r = choose_cpus(&m, err);
	if (r < 0)
		return r;
	weigh_nodes(&m);
	r = choose_worker_count(&m, err);
	if (r < 0)
		return r;
	if (sluice_cpus_is_empty(&conf->worker_cores))
		place_workers(&m);
	else
		place_workers_by_hand(&m);
	explain_binding(&m);
	make_homes(&m);
	place_lanes(&m);
	choose_rails(&m);
	place_memory(&m);
	return 0;
}

void sluice_plan_rails(const struct sluice_topology *topology, const struct sluice_plan_conf *conf,
	struct sluice_plan *plan)
{
	struct making m = {.topology = topology, .conf = conf, .plan = plan};
	uint32_t kept = 0;

	SLUICE_ASSERT(conf->rail_count >= 1 && conf->rail_count <= SLUICE_PLAN_RAILS_MAX);
	for (uint32_t i = 0; i < plan->reason_count; i++)
		if (strcmp(plan->reasons[i].about, "rails") != 0)
			plan->reasons[kept++] = plan->reasons[i];
	plan->reason_count = kept;
	choose_rails(&m);
}

uint32_t sluice_plan_home_of(const struct sluice_topology *topology, const struct sluice_plan *plan,
	uint32_t node_number)
{
	for (uint32_t i = 0; i < topology->node_count; i++)
		if (topology->nodes[i].number == node_number)
			return home_of_index(plan, i);
	return 0;
}
