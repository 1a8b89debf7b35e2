/* SPDX-License-Identifier: BSD-3-Clause */
/* plan_test.c: placements of machines that are only described. One row is one machine and wish. */
#include <errno.h>
#include <stdarg.h>

#include "base/bits.h"
#include "engine/placement/plan.h"
#include "tests/unit/unit.h"

#define GBIT (1000000000ull / 8)

struct row {
	const char *name;
	const char *machine; /* for hwloc */
	/* What the machine's description cannot say. */
	const char *allowed, *isolated, *no_memory; /* NULL: all, none, none (nodes) */
	/* Wishes and facts. */
	uint32_t lanes, workers;
	bool numa_off;
	const char *worker_cores, *vcpu_cores;
	uint32_t guest[8]; /* shares by node */
	struct {
		uint64_t nodes, gbit;
	} rails[3]; /* ends with 0,0; none at all: one that nothing is known of */
	/* "0@1[2-3]x4": worker 0 on node 1, CPUs 2-3, 4 lanes; '!' instead of '@': not bound */
	const char *workers_are;
	const char *rails_are; /* per lane; NULL: not looked at */
	const char *homes_are; /* per lane */
	const char *error; /* a part of it */
};

static const struct row rows[] = {
	{.name = "one node, few cores: all of them, not bound",
		.machine = "pack:1 core:2 pu:1",
		.workers_are = "0![0-1]x2 1![0-1]x2",
		.homes_are = "0 0 0 0"},
	{.name = "one core", .machine = "core:1 pu:1", .lanes = 3, .workers_are = "0![0]x3"},
	{.name = "one node: half of the cores, core 0 left out",
		.machine = "pack:1 core:8 pu:1",
		.workers_are = "0@[1-7]x2 1@[1-7]x1 2@[1-7]x1"},
	{.name = "more than 4 cores are needed to spare one",
		.machine = "pack:1 core:4 pu:1",
		.workers_are = "0![0-3]x2 1![0-3]x2"},
	{.name = "two nodes: spread evenly, bound to their node",
		.machine = "pack:2 [numa] core:8 pu:2",
		.workers_are = "0@0[2-15]x1 1@1[16-31]x1 2@0[2-15]x1 3@1[16-31]x1",
		.homes_are = "1 2 1 2"},
	{.name = "hyperthreads do not count as cores",
		.machine = "pack:1 core:6 pu:2",
		.lanes = 8,
		.workers_are = "0@[2-11]x4 1@[2-11]x4"},
	{.name = "workers go where the guest is",
		.machine = "pack:2 [numa] core:8 pu:1",
		.guest = {0, 100},
		.workers_are = "0@1[8-15]x1 1@1[8-15]x1 2@1[8-15]x1 3@1[8-15]x1",
		.homes_are = "2 2 2 2"},
	{.name = "in proportion, and a small share is not forgotten",
		.machine = "pack:2 [numa] core:8 pu:1",
		.guest = {25, 75},
		.workers_are = "0@1[8-15]x1 1@0[1-7]x1 2@1[8-15]x1 3@1[8-15]x1",
		.homes_are = "2 1 2 2"},
	{.name = "a tie goes to the rail's node",
		.machine = "pack:2 [numa] core:8 pu:1",
		.lanes = 1,
		.rails = {{.nodes = 2}},
		.workers_are = "0@1[8-15]x1",
		.rails_are = "0",
		.homes_are = "2"},
	{.name = "sub-NUMA clustering: four nodes in two packages",
		.machine = "pack:2 numa:2 core:4 pu:1",
		.lanes = 8,
		.workers_are = "0@0[1-3]x2 1@1[4-7]x1 2@2[8-11]x1 3@3[12-15]x1 4@0[1-3]x1 "
			       "5@1[4-7]x1 6@2[8-11]x1",
		.homes_are = "1 2 3 4 1 2 3 1"},
	{.name = "memory beside the packages (CXL) has queues and no workers",
		.machine = "[numa] pack:2 [numa] core:2 pu:1",
		.guest = {0, 0, 10},
		.workers_are = "0@0[0-1]x2 1@0[0-1]x2",
		.homes_are = "1 1 1 1"},
	{.name = "HBM beside DRAM: cores belong to one of the two",
		.machine = "pack:2 [numa(memory=64GB)] [numa(memory=16GB)] core:2 pu:1",
		.workers_are = "0@0[0-1]x2 1@2[2-3]x2",
		.homes_are = "1 3 1 3"},
	{.name = "a node without memory: its lanes are at home in the nearest one",
		.machine = "pack:2 numa:2 core:2 pu:1",
		.no_memory = "1",
		.workers_are = "0@0[1]x2 1@1[2-3]x1 2@2[4-5]x1",
		.homes_are = "1 1 2 1"},
	{.name = "two nodes, one with memory: one kind of queue is enough",
		.machine = "node-without-memory.xml",
		.workers_are = "0@0[1]x4",
		.homes_are = "0 0 0 0"},
	{.name = "a large machine from XML, rail on node 1, guest on both packages",
		.machine = "snc-cxl-nics.xml",
		.lanes = 6,
		.guest = {10, 10, 10, 10, 0},
		.rails = {{.nodes = 2, .gbit = 100}},
		.workers_are = "0@1[16-31]x1 1@0[2-15]x1 2@2[32-47]x1 3@3[48-63]x1 4@1[16-31]x1 "
			       "5@0[2-15]x1",
		.homes_are = "2 1 3 4 2 1"},
	{.name = "a guest in CXL memory: workers on the node nearest to it",
		.machine = "snc-cxl-nics.xml",
		.lanes = 2,
		.guest = {0, 1, 0, 0, 10},
		.workers_are = "0@0[2-15]x1 1@0[2-15]x1",
		.homes_are = "1 1"},
	{.name = "a very large machine",
		.machine = "pack:8 numa:2 core:28 pu:2",
		.lanes = 16,
		.guest = {0, 0, 0, 0, 0, 0, 5, 5},
		.workers_are = "0@6[336-391]x1 1@7[392-447]x1 2@6[336-391]x1 3@7[392-447]x1 "
			       "4@6[336-391]x1 5@7[392-447]x1 6@6[336-391]x1 7@7[392-447]x1 "
			       "8@6[336-391]x1 9@7[392-447]x1 10@6[336-391]x1 11@7[392-447]x1 "
			       "12@6[336-391]x1 13@7[392-447]x1 14@6[336-391]x1 15@7[392-447]x1"},
	{.name = "numa=off: as if there was one node",
		.machine = "pack:2 [numa] core:2 pu:1",
		.numa_off = true,
		.workers_are = "0![0-3]x2 1![0-3]x2",
		.homes_are = "0 0 0 0"},
	{.name = "a cpuset: only what is allowed, and no binding beyond it",
		.machine = "pack:2 [numa] core:4 pu:1",
		.allowed = "4-6",
		.workers_are = "0![4-6]x4",
		.homes_are = "2 2 2 2"},
	{.name = "a cpuset over two nodes",
		.machine = "pack:2 [numa] core:4 pu:1",
		.allowed = "3-6",
		.workers_are = "0@0[3]x2 1@1[4-6]x2",
		.homes_are = "1 2 1 2"},
	{.name = "isolated cores are left alone",
		.machine = "pack:1 core:8 pu:1",
		.isolated = "4-7",
		.workers_are = "0@[0-3]x2 1@[0-3]x2"},
	{.name = "nothing but isolated cores: one each",
		.machine = "pack:1 core:8 pu:1",
		.allowed = "4-7",
		.isolated = "2-7",
		.workers_are = "0@[4]x2 1@[5]x2"},
	{.name = "the vCPUs' cores are left alone, and their hyperthreads",
		.machine = "pack:1 core:4 pu:2",
		.vcpu_cores = "2,4",
		.workers_are = "0@[0-1,6-7]x2 1@[0-1,6-7]x2"},
	{.name = "workers as set, with one core for three",
		.machine = "core:1 pu:1",
		.workers = 3,
		.workers_are = "0![0]x2 1![0]x1 2![0]x1"},
	{.name = "never more workers than lanes",
		.machine = "core:8 pu:1",
		.lanes = 2,
		.workers = 6,
		.workers_are = "0@[1-7]x1 1@[1-7]x1"},
	{.name = "worker-cores: one worker each, core 0 too when it is named",
		.machine = "core:8 pu:1",
		.worker_cores = "0,3-4",
		.workers_are = "0@[0]x2 1@[3]x1 2@[4]x1"},
	{.name = "worker-cores on two nodes: dealt out by the guest's memory",
		.machine = "pack:2 [numa] core:4 pu:1",
		.worker_cores = "1-2,5-6",
		.guest = {1, 3},
		.workers_are = "0@1[5]x1 1@0[1]x1 2@1[6]x1 3@0[2]x1",
		.homes_are = "2 1 2 1"},
	{.name = "worker-cores: cores before hyperthreads",
		.machine = "core:2 pu:2",
		.worker_cores = "0-3",
		.workers = 2,
		.workers_are = "0@[0]x2 1@[2]x2"},
	{.name = "fewer workers than worker-cores",
		.machine = "pack:2 [numa] core:4 pu:1",
		.worker_cores = "1-7",
		.workers = 2,
		.workers_are = "0@0[1]x2 1@1[4]x2"},
	{.name = "isolated cores may be named",
		.machine = "core:4 pu:1",
		.isolated = "2-3",
		.worker_cores = "3",
		.workers_are = "0@[3]x4"},
	{.name = "a fast link has more lanes",
		.machine = "core:32 pu:1",
		.rails = {{.nodes = 1, .gbit = 200}},
		.workers_are = "0@[1-31]x1 1@[1-31]x1 2@[1-31]x1 3@[1-31]x1 4@[1-31]x1 5@[1-31]x1 "
			       "6@[1-31]x1 7@[1-31]x1"},
	{.name = "two rails on two nodes: each lane the nearer one",
		.machine = "pack:2 [numa] core:2 pu:1",
		.rails = {{.nodes = 2, .gbit = 50}, {.nodes = 1, .gbit = 50}},
		.workers_are = "0@0[0-1]x2 1@1[2-3]x2",
		.rails_are = "1 0 1 0"},
	{.name = "two rails on one node: both are used",
		.machine = "pack:2 [numa] core:2 pu:1",
		.rails = {{.nodes = 1, .gbit = 50}, {.nodes = 1, .gbit = 50}},
		.workers_are = "0@0[0-1]x2 1@1[2-3]x2",
		.rails_are = "0 1 0 1"},
	{.name = "rails get lanes by their speed",
		.machine = "core:2 pu:1",
		.lanes = 4,
		.rails = {{.nodes = 1, .gbit = 75}, {.nodes = 1, .gbit = 25}},
		.workers_are = "0![0-1]x2 1![0-1]x2",
		.rails_are = "0 0 0 1"},
	{.name = "a core that is not there",
		.machine = "core:4 pu:1",
		.worker_cores = "2,9",
		.error = "this machine has no core 9; it has 0-3"},
	{.name = "a core that is not allowed",
		.machine = "core:4 pu:1",
		.allowed = "0,2-3",
		.worker_cores = "1-2",
		.error = "may not use core 1 (CPU affinity or cpuset); it may use 0,2-3"},
	{.name = "a vCPU's core that is not there",
		.machine = "core:4 pu:1",
		.vcpu_cores = "4",
		.error = "this machine has no core 4"},
	{.name = "cores for both",
		.machine = "core:4 pu:1",
		.worker_cores = "1-2",
		.vcpu_cores = "2-3",
		.error = "name 2 too"},
	{.name = "no core left",
		.machine = "core:4 pu:1",
		.vcpu_cores = "0-3",
		.error = "no core is left to the engine, which may use 0-3"},
	{.name = "more workers than worker-cores",
		.machine = "core:4 pu:1",
		.worker_cores = "1",
		.workers = 2,
		.error = "workers=2 and worker-cores names 1"},
	{0},
};

static int read_machine(
	const char *machine, struct sluice_topology **ret_topology, struct sluice_error *err)
{
	char path[512];

	if (strstr(machine, ".xml") == NULL)
		return sluice_topology_read(SLUICE_TOPOLOGY_SYNTHETIC, machine, ret_topology, err);
	snprintf(path, sizeof(path), "%s/topology/%s", getenv("SLUICE_TEST_DATA"), machine);
	return sluice_topology_read(SLUICE_TOPOLOGY_XML, path, ret_topology, err);
}

static struct sluice_topology *machine_of(const struct row *row)
{
	struct sluice_topology *t = NULL;
	struct sluice_error err = {0};
	struct sluice_cpus nodes = {0};

	if (read_machine(row->machine, &t, &err) < 0) {
		fprintf(stderr, "\n%s: %s\n", row->name, err.text);
		CU_FAIL_FATAL("the machine cannot be read");
	}
	if (row->allowed != NULL)
		CU_ASSERT_EQUAL(sluice_cpus_parse(row->allowed, &t->allowed), 0);
	if (row->isolated != NULL)
		CU_ASSERT_EQUAL(sluice_cpus_parse(row->isolated, &t->isolated), 0);
	if (row->no_memory != NULL)
		CU_ASSERT_EQUAL(sluice_cpus_parse(row->no_memory, &nodes), 0);
	for (uint32_t i = 0; i < t->node_count; i++)
		if (sluice_cpus_has(&nodes, i))
			t->nodes[i].has_memory = false;
	return t;
}

static void conf_of(const struct row *row, struct sluice_plan_conf *conf)
{
	*conf = (struct sluice_plan_conf){
		.lanes = row->lanes, .workers = row->workers, .numa = !row->numa_off};
	if (row->worker_cores != NULL)
		CU_ASSERT_EQUAL(sluice_cpus_parse(row->worker_cores, &conf->worker_cores), 0);
	if (row->vcpu_cores != NULL)
		CU_ASSERT_EQUAL(sluice_cpus_parse(row->vcpu_cores, &conf->vcpu_cores), 0);
	for (uint32_t i = 0; i < 8; i++)
		conf->guest_bytes[i] = (uint64_t)row->guest[i] << 30;
	for (; conf->rail_count < 3 && row->rails[conf->rail_count].nodes != 0; conf->rail_count++)
		conf->rails[conf->rail_count] = (struct sluice_plan_rail){.name = "r",
			.nodes = row->rails[conf->rail_count].nodes,
			.link_bytes_per_s = row->rails[conf->rail_count].gbit * GBIT};
	if (conf->rail_count == 0)
		conf->rail_count = 1;
}

static void add(char *text, size_t bytes, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

static void add(char *text, size_t bytes, const char *fmt, ...)
{
	size_t at = strlen(text);
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text + at, bytes - at, fmt, ap);
	va_end(ap);
}

static void is(const struct row *row, const char *what, const char *got, const char *wanted)
{
	if (wanted == NULL || strcmp(got, wanted) == 0)
		return;
	fprintf(stderr, "\n%s: %s\n  are    %s\n  wanted %s\n", row->name, what, got, wanted);
	CU_FAIL("another plan");
}

static void check_plan(const struct row *row, const struct sluice_plan *plan)
{
	char workers[1024] = "", rails[256] = "", homes[256] = "", cpus[SLUICE_CPUS_TEXT_BYTES];

	for (uint32_t i = 0; i < plan->worker_count; i++) {
		const struct sluice_plan_worker *w = &plan->workers[i];

		add(workers, sizeof(workers), "%s%u%s", i > 0 ? " " : "", i,
			w->is_bound ? "@" : "!");
		if (w->node != SLUICE_NO_NODE && w->is_bound)
			add(workers, sizeof(workers), "%u", w->node);
		add(workers, sizeof(workers), "[%s]x%u",
			sluice_cpus_format(&w->cpus, cpus, sizeof(cpus)), w->lanes);
	}
	for (uint32_t i = 0; i < plan->lane_count; i++) {
		add(rails, sizeof(rails), "%s%u", i > 0 ? " " : "", plan->lanes[i].rail);
		add(homes, sizeof(homes), "%s%u", i > 0 ? " " : "", plan->lanes[i].home);
	}
	is(row, "workers", workers, row->workers_are);
	is(row, "rails", rails, row->rails_are);
	is(row, "homes", homes, row->homes_are);
}

static void test_rows(void)
{
	for (const struct row *row = rows; row->name != NULL; row++) {
		struct sluice_topology *t = machine_of(row);
		struct sluice_plan_conf conf;
		struct sluice_plan plan;
		struct sluice_error err = {0};
		int r;

		conf_of(row, &conf);
		r = sluice_plan_make(t, &conf, &plan, &err);
		if (r == 0 && row->error == NULL) {
			check_plan(row, &plan);
		} else if (row->error == NULL || !unit_contains(err.text, row->error)) {
			fprintf(stderr, "\n%s: %s\n", row->name, r < 0 ? err.text : "no error");
			CU_FAIL("another outcome");
		} else {
			CU_ASSERT_EQUAL(r, -EINVAL);
		}
		sluice_topology_destroy(t);
	}
}

static void make(const char *machine, const struct sluice_plan_conf *conf,
	struct sluice_topology **ret_topology, struct sluice_plan *plan)
{
	struct sluice_error err = {0};

	CU_ASSERT_EQUAL_FATAL(read_machine(machine, ret_topology, &err), 0);
	CU_ASSERT_EQUAL_FATAL(sluice_plan_make(*ret_topology, conf, plan, &err), 0);
}

/* Node 4 is memory beside the packages, nearer to the first one. Homes are nodes + 1. */
static void test_stealing_goes_from_near_to_far(void)
{
	static const uint8_t wanted[6][6] = {{0, 1, 2, 3, 4, 5}, {1, 0, 2, 5, 3, 4},
		{2, 0, 1, 5, 3, 4}, {3, 0, 4, 1, 2, 5}, {4, 0, 3, 1, 2, 5}, {5, 0, 1, 2, 3, 4}};
	struct sluice_plan_conf conf = {.numa = true, .rail_count = 1};
	struct sluice_topology *t;
	struct sluice_plan plan;

	make("snc-cxl-nics.xml", &conf, &t, &plan);
	CU_ASSERT_EQUAL_FATAL(plan.home_count, 6);
	for (size_t home = 0; home < 6; home++)
		CU_ASSERT_EQUAL(memcmp(&plan.order[6 * home], wanted[home], 6), 0);
	CU_ASSERT_EQUAL(sluice_plan_home_of(t, &plan, 4), 5);
	CU_ASSERT_EQUAL(sluice_plan_home_of(t, &plan, 7), 0);
	sluice_topology_destroy(t);
	/* Equally far ones: each home begins with the next. */
	make("pack:4 [numa] core:2 pu:1", &conf, &t, &plan);
	CU_ASSERT_EQUAL_FATAL(plan.home_count, 5);
	CU_ASSERT_EQUAL(memcmp(&plan.order[5], "\1\0\2\3\4", 5), 0);
	CU_ASSERT_EQUAL(memcmp(&plan.order[15], "\3\0\4\1\2", 5), 0);
	sluice_topology_destroy(t);
}

static void test_where_memory_goes(void)
{
	struct sluice_plan_conf conf = {.numa = true, .rail_count = 1};
	struct sluice_topology *t;
	struct sluice_plan plan;

	make("pack:2 [numa] core:4 pu:1", &conf, &t, &plan);
	CU_ASSERT_EQUAL(plan.bitmap_nodes, 3);
	CU_ASSERT_EQUAL(plan.staging_nodes, 3);
	sluice_topology_destroy(t);
	conf.rails[0].nodes = 2;
	conf.guest_bytes[0] = 1;
	make("pack:2 [numa] core:4 pu:1", &conf, &t, &plan);
	CU_ASSERT_EQUAL(plan.bitmap_nodes, 1);
	CU_ASSERT_EQUAL(plan.staging_nodes, 2);
	/* A node that a cpuset forbids gets nothing. */
	t->nodes[1].is_allowed = false;
	CU_ASSERT_EQUAL(sluice_plan_make(t, &conf, &plan, NULL), 0);
	CU_ASSERT_EQUAL(plan.staging_nodes, 1);
	sluice_topology_destroy(t);
	conf.numa = false;
	make("pack:2 [numa] core:4 pu:1", &conf, &t, &plan);
	CU_ASSERT_EQUAL(plan.bitmap_nodes | plan.staging_nodes, 0);
	CU_ASSERT_EQUAL(plan.home_count, 1);
	sluice_topology_destroy(t);
}

static void test_every_choice_has_a_reason(void)
{
	static const char *const topics[] = {
		"lanes", "cpus", "nodes", "workers", "binding", "rails", "memory"};
	struct sluice_plan_conf conf = {.numa = true, .rail_count = 1};
	struct sluice_topology *t;
	struct sluice_plan plan;

	for (uint32_t i = 0; i < SLUICE_NODES_MAX; i++)
		conf.guest_bytes[i] = 1; /* more to say than there is room for */
	conf.rail_count = SLUICE_PLAN_RAILS_MAX;
	make("pack:64 [numa] core:2 pu:1", &conf, &t, &plan);
	for (size_t i = 0; i < SLUICE_ARRAY_LEN(topics); i++) {
		bool found = false;

		for (uint32_t r = 0; r < plan.reason_count; r++)
			found |= strcmp(plan.reasons[r].about, topics[i]) == 0;
		if (!found)
			fprintf(stderr, "\nno reason about %s\n", topics[i]);
		CU_ASSERT_TRUE(found);
	}
	sluice_topology_destroy(t);
}

int main(void)
{
	static const struct unit_test tests[] = {
		{"machines and wishes", test_rows},
		{"stealing goes from near to far", test_stealing_goes_from_near_to_far},
		{"where memory goes", test_where_memory_goes},
		{"every choice has a reason", test_every_choice_has_a_reason},
		{0},
	};

	return unit_run("plan", tests);
}
