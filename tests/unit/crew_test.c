/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * crew_test.c: workers on their CPUs, lanes with their workers, memory on its node, and which
 * node guest memory is found on. Lanes are tcp's, to a rail of this process.
 */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "base/bits.h"
#include "base/clock.h"
#include "engine/config.h"
#include "engine/lane/crew.h"
#include "engine/lane/lane_set.h"
#include "engine/lane/ledger.h"
#include "engine/placement/homes.h"
#include "engine/placement/node_memory.h"
#include "tests/unit/unit.h"

static struct sluice_settings *settings;
static struct sluice_rail *rail;
static char address[SLUICE_ADDRESS_MAX];

static void wake(void *ctx)
{
	(void)ctx;
}

static struct sluice_cpus first_cpu(void)
{
	struct sluice_cpus cpus = {0}, first = {0};

	CU_ASSERT_EQUAL_FATAL(
		sched_getaffinity(0, sizeof(cpus.words), (cpu_set_t *)(void *)cpus.words), 0);
	sluice_cpus_add(&first, sluice_cpus_next(&cpus, 0));
	return first;
}

static void test_workers_stay_on_their_cpus(void)
{
	struct sluice_cpus cpus[2] = {first_cpu(), {{0}}}, all = {0}, is = {0};
	struct sluice_crew_opts opts = {.workers = 2, .cpus = cpus};
	struct sluice_worker_stats stats;
	struct sluice_crew *crew;

	sched_getaffinity(0, sizeof(all.words), (cpu_set_t *)(void *)all.words);
	CU_ASSERT_EQUAL_FATAL(sluice_crew_create(&opts, &crew), 0);
	sluice_crew_stats(crew, 0, &stats);
	CU_ASSERT_EQUAL(stats.core, (int)sluice_cpus_next(&cpus[0], 0));
	CU_ASSERT_TRUE(stats.node >= 0);
	CU_ASSERT_TRUE(stats.thread > 0 && stats.thread != getpid());
	sched_getaffinity(stats.thread, sizeof(is.words), (cpu_set_t *)(void *)is.words);
	CU_ASSERT_TRUE(sluice_cpus_is_equal(&is, &cpus[0]));
	sluice_crew_stats(crew, 1, &stats); /* empty: not bound */
	sched_getaffinity(stats.thread, sizeof(is.words), (cpu_set_t *)(void *)is.words);
	CU_ASSERT_TRUE(sluice_cpus_is_equal(&is, &all));
	sluice_crew_destroy(crew);
	/* A CPU that is not there: refused, and nothing is left behind. */
	sluice_cpus_add(&cpus[1], SLUICE_CPUS_MAX - 1);
	CU_ASSERT_EQUAL(sluice_crew_create(&opts, &crew), -EINVAL);
}

/* The worker, asleep once more than @sleeps times. */
static struct sluice_worker_stats asleep_again(struct sluice_crew *crew, uint64_t sleeps)
{
	struct sluice_worker_stats stats;

	do {
		sched_yield();
		sluice_crew_stats(crew, 0, &stats);
	} while (stats.sleeps <= sleeps);
	return stats;
}

/* Polling before a long sleep is for nothing, so it ends; before short ones it comes back. */
static void test_a_worker_learns_how_long_to_poll(void)
{
	struct sluice_crew_opts opts = {
		.workers = 1, .spin_ns = SLUICE_NS_PER_MS, .yield_ns = 9 * SLUICE_NS_PER_MS};
	const uint64_t most_ns = opts.spin_ns + opts.yield_ns;
	struct sluice_worker_stats stats;
	struct sluice_crew *crew;
	uint32_t tries;

	CU_ASSERT_EQUAL_FATAL(sluice_crew_create(&opts, &crew), 0);
	stats = asleep_again(crew, 0);
	for (uint64_t expected = most_ns; expected > most_ns / 8; expected /= 2) {
		CU_ASSERT_EQUAL(stats.patience_ns, expected);
		usleep((useconds_t)(2 * most_ns / SLUICE_NS_PER_US));
		sluice_crew_wake(crew);
		stats = asleep_again(crew, stats.sleeps);
	}
	/* A busy machine may make any sleep a long one, but not all of them. */
	for (tries = 0; tries < 1000 && stats.patience_ns < most_ns; tries++) {
		sluice_crew_wake(crew);
		stats = asleep_again(crew, stats.sleeps);
	}
	CU_ASSERT_EQUAL(stats.patience_ns, most_ns);
	sluice_crew_destroy(crew);
}

static void open_lanes(struct sluice_lane_set *set, uint32_t count)
{
	struct sluice_error err = {0};

	for (uint32_t lane = 0; lane < count; lane++) {
		struct sluice_ticket ticket = {{(uint8_t)lane}};

		if (sluice_lane_set_open(set, lane, 0, &ticket, SLUICE_NEVER, &err) < 0)
			CU_FAIL_FATAL("a lane cannot be opened");
	}
}

static struct sluice_lane_set make_set(struct sluice_crew *crew, struct sluice_lane_work *work)
{
	static struct sluice_rail_pair pair;
	struct sluice_lane_set set = {.pairs = &pair,
		.pair_count = 1,
		.crew = crew,
		.work = work,
		.role = SLUICE_ROLE_SOURCE,
		.window_bytes = 1 << 20,
		.count = 6};

	pair = (struct sluice_rail_pair){.transport = sluice_transports[0], .rail = rail};
	snprintf(pair.peer_address, sizeof(pair.peer_address), "%s", address);
	pair.transport->rail_limits(rail, &pair.limits);
	return set;
}

static void test_lanes_go_to_their_workers(void)
{
	static const struct sluice_crew_lane places[] = {{.worker = 2, .node = -1},
		{.worker = 2, .node = -1}, {.worker = 0, .node = 3, .home = 1},
		{.worker = 2, .node = -1}};
	struct sluice_crew_opts opts = {.workers = 3, .lanes = places, .lane_count = 4};
	static const uint32_t lanes_on[] = {2, 1, 3};
	struct sluice_lane_work work = {.wake = wake};
	struct sluice_worker_stats stats;
	struct sluice_lane_set set;
	struct sluice_crew *crew;

	CU_ASSERT_EQUAL_FATAL(sluice_crew_create(&opts, &crew), 0);
	set = make_set(crew, &work);
	open_lanes(&set, 6); /* the last two have no place: where there are fewest */
	for (uint32_t lane = 0; lane < 4; lane++)
		CU_ASSERT_EQUAL(
			sluice_crew_worker_of(crew, set.slots[lane].lane), places[lane].worker);
	CU_ASSERT_EQUAL(sluice_crew_lane(crew, 2).node, 3);
	CU_ASSERT_EQUAL(sluice_crew_lane(crew, 4).worker, SLUICE_CREW_ANY);
	for (uint32_t worker = 0; worker < 3; worker++) {
		sluice_crew_stats(crew, worker, &stats);
		CU_ASSERT_EQUAL(stats.lanes, lanes_on[worker]);
	}
	/* Held, nobody steps them; then each goes back to where it was. */
	sluice_lane_set_hold(&set);
	for (uint32_t worker = 0; worker < 3; worker++) {
		sluice_crew_stats(crew, worker, &stats);
		CU_ASSERT_EQUAL(stats.lanes, 0);
	}
	sluice_lane_set_go_on(&set);
	for (uint32_t worker = 0; worker < 3; worker++) {
		sluice_crew_stats(crew, worker, &stats);
		CU_ASSERT_EQUAL(stats.lanes, lanes_on[worker]);
	}
	/* Opened again after a loss it comes back to the same worker. */
	sluice_lane_set_close(&set, 3);
	CU_ASSERT_EQUAL(sluice_crew_worker_of(crew, NULL), SLUICE_CREW_ANY);
	CU_ASSERT_EQUAL(
		sluice_lane_set_open(&set, 3, 0, &(struct sluice_ticket){{9}}, SLUICE_NEVER, NULL),
		0);
	CU_ASSERT_EQUAL(sluice_crew_worker_of(crew, set.slots[3].lane), 2);
	sluice_lane_set_close_all(&set);
	sluice_crew_destroy(crew);
}

/* A source chose the rails: a target's lanes go near to them, as long as no worker has too many. */
static void test_a_targets_lanes_go_near_their_rail(void)
{
	static const struct sluice_crew_lane places[] = {{.worker = 0, .node = 0},
		{.worker = 1, .node = 1}, {.worker = 0, .node = 0}, {.worker = 1, .node = 1}};
	struct sluice_crew_opts opts = {.workers = 2, .lanes = places, .lane_count = 4};
	static const struct {
		uint64_t nodes[4]; /* of each lane's rail */
		uint32_t workers[4];
	} cases[] = {
		{{0, 0, 0, 0}, {0, 1, 0, 1}},
		{{1 << 1, 1 << 0, 1 << 1, 1 << 0}, {1, 0, 1, 0}},
		{{1 << 1, 1 << 1, 1 << 1, 1 << 1}, {1, 1, 0, 0}},
		{{1 << 5, 1 << 5, 1 << 5, 1 << 5}, {0, 1, 0, 1}},
		{{3, 3, 3, 3}, {0, 1, 0, 1}},
	};
	struct sluice_lane_work work = {.wake = wake};
	struct sluice_rail_pair near;
	struct sluice_crew_lane now;
	struct sluice_lane_set set;
	struct sluice_crew *crew;

	for (size_t i = 0; i < SLUICE_ARRAY_LEN(cases); i++) {
		CU_ASSERT_EQUAL_FATAL(sluice_crew_create(&opts, &crew), 0);
		set = make_set(crew, &work);
		set.role = SLUICE_ROLE_TARGET;
		near = set.pairs[0];
		set.pairs = &near;
		for (uint32_t lane = 0; lane < 4; lane++) {
			near.nodes = cases[i].nodes[lane];
			CU_ASSERT_EQUAL(sluice_lane_set_open(&set, lane, 0,
						&(struct sluice_ticket){{(uint8_t)(1 + lane)}},
						SLUICE_NEVER, NULL),
				0);
			CU_ASSERT_EQUAL(sluice_crew_worker_of(crew, set.slots[lane].lane),
				cases[i].workers[lane]);
			now = sluice_crew_lane_now(crew, lane, set.slots[lane].lane);
			CU_ASSERT_EQUAL(now.worker, cases[i].workers[lane]);
			CU_ASSERT_EQUAL(now.node, (int)cases[i].workers[lane]);
		}
		/* Nobody steps them: they are where they are planned. */
		sluice_crew_remove_all(crew);
		for (uint32_t lane = 0; lane < 4; lane++) {
			now = sluice_crew_lane_now(crew, lane, set.slots[lane].lane);
			CU_ASSERT_EQUAL(now.worker, places[lane].worker);
			CU_ASSERT_EQUAL(now.node, places[lane].node);
		}
		sluice_lane_set_close_all(&set);
		sluice_crew_destroy(crew);
	}
}

/* The nodes of this machine that have memory, by number. */
static uint64_t memory_nodes(void)
{
	struct sluice_topology *t;
	uint64_t nodes = 0;

	CU_ASSERT_EQUAL_FATAL(sluice_topology_read(SLUICE_TOPOLOGY_LIVE, NULL, &t, NULL), 0);
	for (uint32_t i = 0; i < t->node_count; i++)
		if (t->nodes[i].has_memory && t->nodes[i].is_allowed && t->nodes[i].number < 64)
			nodes |= 1ull << t->nodes[i].number;
	sluice_topology_destroy(t);
	return nodes;
}

static void test_memory_goes_to_its_node(void)
{
	uint64_t nodes = memory_nodes();

	if (!sluice_node_memory_differs() || (nodes & (nodes - 1)) == 0) {
		puts("\n    skipped: this machine has one node with memory, or no libnuma");
		return;
	}
	for (uint64_t rest = nodes; rest != 0; rest &= rest - 1) {
		struct sluice_crew_lane place = {
			.worker = 0, .memory_nodes = rest & -rest, .node = -1};
		struct sluice_crew_opts opts = {.workers = 1, .lanes = &place, .lane_count = 1};
		struct sluice_lane_work work = {.wake = wake};
		struct sluice_node_policy policy;
		struct sluice_lane_set set;
		struct sluice_crew *crew;
		unsigned char *pool;

		CU_ASSERT_EQUAL_FATAL(sluice_crew_create(&opts, &crew), 0);
		set = make_set(crew, &work);
		open_lanes(&set, 1);
		CU_ASSERT_EQUAL(sluice_lane_memory_nodes(set.slots[0].lane), place.memory_nodes);
		sluice_lane_set_close_all(&set);
		sluice_crew_destroy(crew);
		/* Touched when the policy is another one already. */
		sluice_node_prefer(place.memory_nodes, &policy);
		pool = sluice_node_alloc(1 << 20);
		sluice_node_restore(&policy);
		CU_ASSERT_PTR_NOT_NULL_FATAL(pool);
		memset(pool, 1, 1 << 20);
		CU_ASSERT_EQUAL(sluice_node_set_of(pool, 1 << 20), place.memory_nodes);
		sluice_node_free(pool, 1 << 20);
	}
}

/* ---- where guest memory is ---- */

#define REGION_CHUNKS 700u /* more than two steps' worth */

struct world {
	struct sluice_memory memory;
	struct sluice_region region;
	struct sluice_topology topology;
	struct sluice_plan plan;
	struct sluice_ledger *ledger;
	struct sluice_homes homes;
};

/* A guest of one region of holes, on a machine whose node @number is home 2 of two. */
static void world_make(struct world *w, uint32_t number)
{
	struct sluice_ledger_span span = {.len_bytes = REGION_CHUNKS * SLUICE_CHUNK_BYTES};

	memset(w, 0, sizeof(*w));
	w->region.fd = memfd_create("guest", MFD_CLOEXEC);
	CU_ASSERT_EQUAL_FATAL(ftruncate(w->region.fd, (off_t)span.len_bytes), 0);
	w->region.len_bytes = span.len_bytes;
	w->region.backing_page_bytes = SLUICE_PAGE_BYTES;
	w->region.base =
		mmap(NULL, span.len_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, w->region.fd, 0);
	CU_ASSERT_PTR_NOT_EQUAL_FATAL(w->region.base, MAP_FAILED);
	span.base = w->region.base;
	w->memory.regions[0] = &w->region;
	w->memory.count = 1;
	w->topology.node_count = 2;
	w->topology.nodes[0].number = 1000;
	w->topology.nodes[1].number = number;
	w->plan.home_count = 3;
	w->plan.homes[0] = 0;
	w->plan.homes[1] = 1;
	CU_ASSERT_EQUAL_FATAL(sluice_ledger_create(&span, 1, &w->ledger), 0);
	CU_ASSERT_EQUAL_FATAL(sluice_ledger_set_homes(w->ledger, 3, NULL), 0);
	w->homes = (struct sluice_homes){.memory = &w->memory,
		.topology = &w->topology,
		.plan = &w->plan,
		.ledger = w->ledger};
}

static void world_end(struct world *w)
{
	sluice_ledger_destroy(w->ledger);
	munmap(w->region.base, w->region.len_bytes);
	close(w->region.fd);
}

static void fill(struct world *w, uint64_t offset)
{
	CU_ASSERT_EQUAL(pwrite(w->region.fd, "x", 1, (off_t)offset), 1);
}

static uint64_t blocks(const struct world *w)
{
	struct stat st;

	CU_ASSERT_EQUAL_FATAL(fstat(w->region.fd, &st), 0);
	return (uint64_t)st.st_blocks;
}

/* Steps until the round is over. */
static uint32_t a_round(struct world *w)
{
	uint32_t steps = 1;

	while (sluice_homes_step(&w->homes) && steps < 100)
		steps++;
	return steps;
}

/* The node that this thread's memory comes from, as the kernel says; -1: nobody says. */
static int node_here(void)
{
	void *page = mmap(NULL, SLUICE_PAGE_BYTES, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int node;

	*(volatile char *)page = 1;
	sluice_node_of_pages(&page, 1, &node);
	munmap(page, SLUICE_PAGE_BYTES);
	return node;
}

static void test_chunks_are_found_and_holes_stay_holes(void)
{
	uint64_t before, share[SLUICE_NODES_MAX];
	int node = node_here();
	struct world w;

	if (node < 0 || sluice_node_memory_differs()) {
		puts("\n    skipped: for a machine with one node and with libnuma");
		return;
	}
	world_make(&w, (uint32_t)node);
	CU_ASSERT_EQUAL(a_round(&w), 1); /* nothing but holes */
	fill(&w, 0);
	fill(&w, 5 * SLUICE_CHUNK_BYTES + 77 * SLUICE_PAGE_BYTES);
	fill(&w, REGION_CHUNKS * SLUICE_CHUNK_BYTES - 1);
	before = blocks(&w);
	CU_ASSERT_EQUAL(a_round(&w), 1);
	CU_ASSERT_EQUAL(w.homes.found, 3);
	for (uint32_t chunk = 0; chunk < REGION_CHUNKS; chunk++)
		CU_ASSERT_EQUAL(sluice_ledger_home_of(w.ledger, chunk),
			chunk == 0 || chunk == 5 || chunk == REGION_CHUNKS - 1 ? 2
									       : SLUICE_HOME_ANY);
	CU_ASSERT_EQUAL(blocks(&w), before);
	/* What the guest touches later is found in a later round, some hundred at a time. */
	for (uint64_t chunk = 0; chunk < REGION_CHUNKS; chunk++)
		fill(&w, chunk * SLUICE_CHUNK_BYTES + 3 * SLUICE_PAGE_BYTES);
	CU_ASSERT_EQUAL(a_round(&w), 3);
	CU_ASSERT_EQUAL(w.homes.found, REGION_CHUNKS);
	sluice_homes_survey(&w.memory, &w.topology, share);
	CU_ASSERT_EQUAL(share[0], 0);
	CU_ASSERT_TRUE(share[1] >= w.region.len_bytes * 9 / 10);
	world_end(&w);
}

/* Every other chunk on the last node, the others on the first: all are told apart. */
static void test_chunks_are_found_on_their_nodes(void)
{
	uint64_t nodes = memory_nodes(), share[SLUICE_NODES_MAX], first = nodes & -nodes, last = 0;
	struct world w;

	if (!sluice_node_memory_differs() || nodes == first) {
		puts("\n    skipped: this machine has one node with memory, or no libnuma");
		return;
	}
	last = 1ull << (63 - __builtin_clzll(nodes));
	world_make(&w, (uint32_t)__builtin_ctzll(last));
	w.topology.nodes[0].number = (uint32_t)__builtin_ctzll(first);
	for (uint64_t chunk = 0; chunk < REGION_CHUNKS; chunk++) {
		struct sluice_node_policy policy;

		sluice_node_prefer(chunk % 2 == 0 ? first : last, &policy);
		fill(&w, chunk * SLUICE_CHUNK_BYTES);
		sluice_node_restore(&policy);
	}
	CU_ASSERT_EQUAL(a_round(&w), 3);
	for (uint32_t chunk = 0; chunk < REGION_CHUNKS; chunk++)
		CU_ASSERT_EQUAL(sluice_ledger_home_of(w.ledger, chunk), 1 + chunk % 2);
	sluice_homes_survey(&w.memory, &w.topology, share);
	CU_ASSERT_TRUE(share[0] > w.region.len_bytes / 3 && share[1] > w.region.len_bytes / 3);
	world_end(&w);
}

/* A node without queues of its own: its chunks stay where everybody looks. */
static void test_an_unknown_node_is_no_home(void)
{
	struct world w;

	world_make(&w, 999);
	fill(&w, 0);
	CU_ASSERT_EQUAL(a_round(&w), 1);
	CU_ASSERT_EQUAL(w.homes.found, 0);
	CU_ASSERT_EQUAL(sluice_ledger_home_of(w.ledger, 0), SLUICE_HOME_ANY);
	world_end(&w);
}

/* Regions come and go, and the ledger's order is not the memory's. */
static void test_a_removed_region_is_passed_over(void)
{
	struct world w, other;

	world_make(&w, (uint32_t)(node_here() < 0 ? 0 : node_here()));
	world_make(&other, 999);
	fill(&w, 0);
	w.memory.regions[0] = &other.region;
	CU_ASSERT_FALSE(sluice_homes_step(&w.homes));
	CU_ASSERT_EQUAL(w.homes.found, 0);
	w.memory.regions[1] = &w.region;
	w.memory.count = 2;
	CU_ASSERT_FALSE(sluice_homes_step(&w.homes));
	CU_ASSERT_EQUAL(w.homes.found, node_here() < 0 ? 0 : 1);
	world_end(&other);
	world_end(&w);
}

int main(void)
{
	static const struct unit_test tests[] = {
		{"workers stay on their CPUs", test_workers_stay_on_their_cpus},
		{"a worker learns how long to poll", test_a_worker_learns_how_long_to_poll},
		{"lanes go to their workers", test_lanes_go_to_their_workers},
		{"a target's lanes go near their rail", test_a_targets_lanes_go_near_their_rail},
		{"memory goes to its node", test_memory_goes_to_its_node},
		{"chunks are found, and holes stay holes",
			test_chunks_are_found_and_holes_stay_holes},
		{"chunks are found on their nodes", test_chunks_are_found_on_their_nodes},
		{"an unknown node is no home", test_an_unknown_node_is_no_home},
		{"a removed region is passed over", test_a_removed_region_is_passed_over},
		{0},
	};
	struct sluice_error err = {0};
	int status = EXIT_FAILURE;

	if (sluice_settings_create(&settings) == 0 &&
		sluice_transports[0]->rail_open(
			sluice_settings_transport(settings, 0), "127.0.0.1:0", &rail, &err) == 0 &&
		sluice_transports[0]->rail_listen(rail, address, &err) == 0)
		status = unit_run("crew", tests);
	else
		fprintf(stderr, "%s\n", err.text);
	sluice_transports[0]->rail_close(rail);
	sluice_settings_destroy(settings);
	return status;
}
