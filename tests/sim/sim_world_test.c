/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * sim_world_test.c: the simulated network does what sim.h says, and really shows the
 * hazards that it exists for. A hazard that may happen is looked for over many seeds; that
 * it never happens where it must not, is checked on every one of them.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/random.h"
#include "tests/sim/net.h"
#include "tests/unit/unit.h"

#define SEEDS 300u

static const struct sluice_transport *const sim = &sluice_transport_sim;

static struct sluice_sim_world_opts opts_of(uint64_t seed)
{
	struct sluice_sim_world_opts opts;

	sluice_sim_world_defaults(&opts);
	opts.seed = seed;
	return opts;
}

/* A busy hour of four lanes with loss, stalls and deaths; returns the world's hash. */
static uint64_t busy_run(uint64_t seed)
{
	struct sluice_sim_world_opts opts = opts_of(seed);
	struct sluice_random random;
	struct net net;
	uint64_t hash;

	opts.loss_ppm = 50000;
	opts.stall_ppm = 100000;
	opts.death_ppm = 5000;
	sluice_random_seed(&random, seed);
	net_open(&net, &opts);
	for (unsigned int lane = 0; lane < NET_LANES_MAX; lane++)
		net_lane_connect(&net, lane);
	for (unsigned int i = 0; i < 400; i++) {
		unsigned int lane = (unsigned int)sluice_random_below(&random, NET_LANES_MAX);
		uint32_t page = (uint32_t)sluice_random_below(&random, NET_PAGES);

		switch (sluice_random_below(&random, 10)) {
		case 0:
			net_zero(&net, lane, page);
			break;
		case 1:
			net_send(&net, lane, i);
			break;
		case 2:
			net_flush(&net, lane);
			break;
		default:
			net_fill(&net, page, (uint8_t)i);
			net_write(&net, lane, page);
		}
		if (sluice_random_chance(&random, 300000))
			net_turn(&net);
	}
	net_settle(&net);
	hash = sluice_sim_world_hash(net.world);
	net_close(&net);
	return hash;
}

static void test_one_seed_one_run(void)
{
	uint64_t before = 0;

	for (uint64_t seed = 1; seed <= 40; seed++) {
		uint64_t hash = busy_run(seed);

		CU_ASSERT_EQUAL(hash, busy_run(seed));
		CU_ASSERT_NOT_EQUAL(hash, before);
		before = hash;
	}
}

static void test_tickets(void)
{
	struct sluice_sim_world_opts opts = opts_of(1);
	struct sluice_lane_opts again = {
		.role = SLUICE_ROLE_SOURCE, .lane = 1, .epoch = 1, .deadline_ns = SLUICE_NEVER};
	struct net net;

	net_open(&net, &opts);
	net_lane_open(&net, 0, 1, 2, SLUICE_NEVER);
	net_wait_lost(&net, 0);
	CU_ASSERT_EQUAL(net.source[0].status, -EACCES);
	CU_ASSERT_FALSE(net.source[0].connected);
	CU_ASSERT_FALSE(net.target[0].connected);

	/* A ticket is good for one connection. */
	net_lane_connect(&net, 1);
	sim->lane_close(net.source[1].conn);
	net.source[1] = (struct net_end){0};
	memset(&again.ticket, 7, sizeof(again.ticket));
	again.peer_address = net.address;
	CU_ASSERT_EQUAL(sim->lane_open(net.source_rail, &again, &net.source[1].conn, NULL), 0);
	net_wait_lost(&net, 1);
	CU_ASSERT_EQUAL(net.source[1].status, -EACCES);
	net_close(&net);
}

static void test_nobody_listens(void)
{
	struct sluice_sim_world_opts opts = opts_of(1);
	struct sluice_error err = {0};
	struct sluice_lane_opts lane = {.role = SLUICE_ROLE_SOURCE, .deadline_ns = SLUICE_NEVER};
	struct net net;

	net_open(&net, &opts);
	lane.peer_address = "sim:0"; /* the source's own rail does not listen */
	CU_ASSERT_EQUAL(sim->lane_open(net.source_rail, &lane, &net.source[0].conn, &err), 0);
	lane.peer_address = "sim:200";
	CU_ASSERT_EQUAL(sim->lane_open(net.source_rail, &lane, &net.source[1].conn, &err), 0);
	net_wait_lost(&net, 0);
	net_wait_lost(&net, 1);
	CU_ASSERT_EQUAL(net.source[0].status, -ECONNREFUSED);
	CU_ASSERT_EQUAL(net.source[1].status, -ECONNREFUSED);
	lane.peer_address = "sim:1 ";
	CU_ASSERT_EQUAL(sim->lane_open(net.source_rail, &lane, &net.source[2].conn, &err), -EINVAL);
	CU_ASSERT_EQUAL(err.code, -EINVAL);
	net_close(&net);
}

static void test_deadline(void)
{
	struct sluice_sim_world_opts opts = opts_of(1);
	struct net net;

	net_open(&net, &opts);
	/* Nobody steps the target's rail, so nobody answers. */
	net_lane_open(&net, 0, 1, 1, SLUICE_NS_PER_S);
	sluice_sim_world_advance(net.world, SLUICE_NS_PER_S - 1);
	CU_ASSERT_EQUAL(sluice_sim_world_next_ns(net.world), SLUICE_NS_PER_S);
	sluice_sim_world_advance(net.world, SLUICE_NS_PER_S);
	net_settle(&net);
	CU_ASSERT_EQUAL(net.source[0].status, -ETIMEDOUT);
	CU_ASSERT_EQUAL(net.target[0].status, -ETIMEDOUT);
	net_close(&net);
}

/* PLACED says nothing about what the target's CPU sees; FLUSHED does. */
static void test_placed_is_not_visible(void)
{
	unsigned int invisible = 0, visible = 0;

	for (uint64_t seed = 1; seed <= SEEDS; seed++) {
		struct sluice_sim_world_opts opts = opts_of(seed);
		struct net net;

		net_open(&net, &opts);
		net_lane_connect(&net, 0);
		net_fill(&net, 3, 0x11);
		net_wait_placed(&net, 0, net_write(&net, 0, 3));
		if (net_look(&net, 3) == 0x11)
			visible++;
		else
			invisible++;
		net_wait_flushed(&net, 0, net_flush(&net, 0));
		CU_ASSERT_EQUAL(net_look(&net, 3), 0x11);
		net_close(&net);
	}
	CU_ASSERT(invisible > SEEDS / 20);
	CU_ASSERT(visible > SEEDS / 20);
}

static void test_placed_is_visible_when_asked(void)
{
	for (uint64_t seed = 1; seed <= SEEDS; seed++) {
		struct sluice_sim_world_opts opts = opts_of(seed);
		struct net net;

		opts.placed_is_visible = true;
		net_open(&net, &opts);
		net_lane_connect(&net, 0);
		net_fill(&net, 3, 0x11);
		net_wait_placed(&net, 0, net_write(&net, 0, 3));
		CU_ASSERT_EQUAL(net_look(&net, 3), 0x11);
		net_close(&net);
	}
}

/* Two versions of one page over two lanes: what stays, without and with a FLUSH between? */
static unsigned int count_reordered(bool flush_between)
{
	unsigned int reordered = 0;

	for (uint64_t seed = 1; seed <= SEEDS; seed++) {
		struct sluice_sim_world_opts opts = opts_of(seed);
		struct net net;

		net_open(&net, &opts);
		net_lane_connect(&net, 0);
		net_lane_connect(&net, 1);
		net_fill(&net, 5, 1);
		net_wait_placed(&net, 0, net_write(&net, 0, 5));
		if (flush_between)
			net_wait_flushed(&net, 0, net_flush(&net, 0));
		net_fill(&net, 5, 2);
		net_wait_placed(&net, 1, net_write(&net, 1, 5));
		net_settle(&net);
		reordered += net_look(&net, 5) == 1;
		net_close(&net);
	}
	return reordered;
}

static void test_lanes_overtake_without_flush(void)
{
	CU_ASSERT(count_reordered(false) > 0);
	CU_ASSERT_EQUAL(count_reordered(true), 0);
}

/* A lane that dies with writes under way: some land after the source knows, none after the
   fence, and whatever was PLACED is there after the fence. */
static void fenced_run(uint64_t seed, uint64_t *late, uint64_t *discarded)
{
	struct sluice_sim_world_opts opts = opts_of(seed);
	uint8_t after_fence[NET_PAGES * NET_PAGE];
	const struct sluice_sim_stats *stats;
	struct net net;
	uint64_t seq[NET_PAGES];

	net_open(&net, &opts);
	stats = sluice_sim_world_stats(net.world);
	net_lane_connect(&net, 0);
	for (uint32_t page = 0; page < NET_PAGES; page++) {
		net_fill(&net, page, 0x33);
		seq[page] = net_write(&net, 0, page);
		if (page % 8 == 7)
			net_turn(&net);
	}
	sluice_sim_lane_kill(net.source[0].conn);
	net_wait_lost(&net, 0);
	CU_ASSERT_EQUAL(net.source[0].status, -ECONNRESET);
	/* Its memory is not read any more: these bytes must never be seen at the target. */
	memset(net.source_bytes, 0xee, NET_PAGES * NET_PAGE);
	sluice_sim_world_advance(net.world, sluice_sim_world_now(net.world) + SLUICE_NS_PER_MS);
	CU_ASSERT_TRUE(sim->lane_fence(net.target[0].conn));
	CU_ASSERT_TRUE(sim->lane_fence(net.target[0].conn));
	for (uint32_t page = 0; page < NET_PAGES; page++) {
		CU_ASSERT_NOT_EQUAL(net_look(&net, page), 0xee);
		if (seq[page] <= net.source[0].placed)
			CU_ASSERT_EQUAL(net_look(&net, page), 0x33);
	}
	memcpy(after_fence, net.target_bytes, sizeof(after_fence));
	net_settle(&net);
	sluice_sim_world_advance(net.world, sluice_sim_world_now(net.world) + SLUICE_NS_PER_S);
	CU_ASSERT_EQUAL(memcmp(after_fence, net.target_bytes, sizeof(after_fence)), 0);
	CU_ASSERT_TRUE(net.target[0].lost);
	*late += stats->late_landings;
	*discarded += stats->discarded_by_fence;
	net_close(&net);
}

static void test_late_writes_until_fence(void)
{
	uint64_t late = 0, discarded = 0;

	for (uint64_t seed = 1; seed <= SEEDS; seed++)
		fenced_run(seed, &late, &discarded);
	CU_ASSERT(late > SEEDS);
	CU_ASSERT(discarded > SEEDS);
}

/* The source's end may be closed while its writes still fly. */
static void test_late_writes_outlive_their_lane(void)
{
	uint64_t late = 0;

	for (uint64_t seed = 1; seed <= SEEDS; seed++) {
		struct sluice_sim_world_opts opts = opts_of(seed);
		struct net net;

		net_open(&net, &opts);
		net_lane_connect(&net, 0);
		for (uint32_t page = 0; page < 32; page++)
			net_write(&net, 0, page);
		sim->lane_close(net.source[0].conn);
		net.source[0] = (struct net_end){0};
		net_settle(&net);
		CU_ASSERT_TRUE(net.target[0].lost); /* a close is always noticed */
		late += sluice_sim_world_stats(net.world)->late_landings;
		net_close(&net);
	}
	CU_ASSERT(late > SEEDS);
}

static void test_target_may_never_notice(void)
{
	unsigned int unaware = 0;

	for (uint64_t seed = 1; seed <= 100; seed++) {
		struct sluice_sim_world_opts opts = opts_of(seed);
		struct net net;

		net_open(&net, &opts);
		net_lane_connect(&net, 0);
		sluice_sim_lane_kill(net.target[0].conn);
		net_settle(&net);
		CU_ASSERT_TRUE(net.source[0].lost);
		unaware += !net.target[0].lost;
		net_close(&net);
	}
	CU_ASSERT(unaware > 20);
	CU_ASSERT(unaware < 80);
}

/* A lane that has brought 9s: page 1 is flushed, page 2 placed only. */
static void open_with_writes(struct net *net, const struct sluice_sim_world_opts *opts)
{
	net_open(net, opts);
	net_lane_connect(net, 0);
	net_fill(net, 1, 9);
	net_fill(net, 2, 9);
	net_write(net, 0, 1);
	net_wait_flushed(net, 0, net_flush(net, 0));
	net_wait_placed(net, 0, net_write(net, 0, 2));
}

/* The harsh fence: a write that was placed but never flushed may be gone. */
static void test_harsh_fence(void)
{
	unsigned int gone = 0;

	for (uint64_t seed = 1; seed <= SEEDS; seed++) {
		struct sluice_sim_world_opts opts = opts_of(seed);
		struct net net;

		opts.fence_discards_unflushed = true;
		open_with_writes(&net, &opts);
		sim->lane_fence(net.target[0].conn);
		net_settle(&net);
		CU_ASSERT_EQUAL(net_look(&net, 1), 9);
		gone += net_look(&net, 2) != 9;
		net_close(&net);
	}
	CU_ASSERT(gone > SEEDS / 20);
}

/* A NIC that dies: what was flushed is there, what was only placed may be gone, and the fence says
   that it does not know. Not so where nothing is acknowledged before it is in memory. */
static unsigned int count_vanished(bool placed_is_visible)
{
	unsigned int gone = 0;

	for (uint64_t seed = 1; seed <= SEEDS; seed++) {
		struct sluice_sim_world_opts opts = opts_of(seed);
		struct net net;

		opts.placed_is_visible = placed_is_visible;
		open_with_writes(&net, &opts);
		sluice_sim_rail_break(net.target_rail);
		CU_ASSERT_EQUAL(sim->lane_fence(net.target[0].conn), placed_is_visible);
		CU_ASSERT_EQUAL(sim->lane_fence(net.target[0].conn), placed_is_visible);
		net_settle(&net);
		CU_ASSERT_TRUE(net.source[0].lost);
		CU_ASSERT_EQUAL(net_look(&net, 1), 9);
		gone += net_look(&net, 2) != 9;
		CU_ASSERT_EQUAL(sluice_sim_world_stats(net.world)->vanished,
			net_look(&net, 2) != 9 ? 1 : 0);
		net_close(&net);
	}
	return gone;
}

static void test_a_nic_takes_its_writes_along(void)
{
	CU_ASSERT(count_vanished(false) > SEEDS / 20);
	CU_ASSERT_EQUAL(count_vanished(true), 0);
}

struct order {
	uint64_t seq_last[NET_LANES_MAX];
	unsigned int landings, backwards;
};

static void on_landing(void *ctx, const struct sluice_sim_landing *landing)
{
	struct order *order = ctx;

	if (landing->kind == SLUICE_OP_FLUSH)
		return;
	order->landings++;
	order->backwards += landing->seq <= order->seq_last[landing->lane];
	order->seq_last[landing->lane] = landing->seq;
}

/* Loss costs time and nothing else: all arrives, each lane in its own order. */
static void test_loss_is_only_delay(void)
{
	for (uint64_t seed = 1; seed <= 20; seed++) {
		struct sluice_sim_world_opts opts = opts_of(seed);
		struct order order = {0};
		struct net net;

		opts.loss_ppm = 200000;
		opts.stall_ppm = 100000;
		opts.on_landing = on_landing;
		opts.ctx = &order;
		net_open(&net, &opts);
		net_lane_connect(&net, 0);
		net_lane_connect(&net, 1);
		for (unsigned int i = 0; i < 500; i++) {
			net_fill(&net, i % NET_PAGES, (uint8_t)(i + 1));
			net_write(&net, i % 2, i % NET_PAGES);
		}
		net_settle(&net);
		CU_ASSERT_EQUAL(order.landings, 500);
		CU_ASSERT_EQUAL(order.backwards, 0);
		CU_ASSERT(sluice_sim_world_stats(net.world)->losses > 50);
		CU_ASSERT_EQUAL(net.source[0].placed, 499);
		CU_ASSERT_EQUAL(net.source[1].placed, 500);
		CU_ASSERT_EQUAL(
			memcmp(net.source_bytes, net.target_bytes, NET_PAGES * NET_PAGE), 0);
		net_close(&net);
	}
}

/* ZERO and SEND need the target's CPU; a WRITE does not and may overtake a ZERO. */
static void test_cpu_operations(void)
{
	unsigned int overtaken = 0;

	for (uint64_t seed = 1; seed <= 100; seed++) {
		struct sluice_sim_world_opts opts = opts_of(seed);
		uint64_t seq;
		struct net net;

		net_open(&net, &opts);
		net_lane_connect(&net, 0);
		net.target_sleeps = true;
		net_fill(&net, 1, 0x44);
		net_zero(&net, 0, 1);
		net_write(&net, 0, 1);
		net_fill(&net, 2, 0x55);
		net_write(&net, 0, 2);
		seq = net_send(&net, 0, 4711);
		net_settle(&net);
		CU_ASSERT_EQUAL(net.source[0].placed, 0);
		overtaken += net_look(&net, 1) == 0x44;
		net.target_sleeps = false;
		net_wait_placed(&net, 0, seq);
		net_settle(&net);
		CU_ASSERT_EQUAL(net.target[0].received, 1);
		CU_ASSERT_EQUAL(net.target[0].received_last, 4711);
		CU_ASSERT_EQUAL(net_look(&net, 1), 0); /* the ZERO came last */
		net_close(&net);
	}
	CU_ASSERT_EQUAL(overtaken, 100);
}

/* A message is seen only when the writes before it are, though it may be PLACED earlier. */
static void test_send_forces_writes(void)
{
	unsigned int placed_unseen = 0;

	for (uint64_t seed = 1; seed <= 100; seed++) {
		struct sluice_sim_world_opts opts = opts_of(seed);
		struct net net;

		net_open(&net, &opts);
		net_lane_connect(&net, 0);
		net_fill(&net, 2, 0x55);
		net_write(&net, 0, 2);
		net.target_sleeps = true;
		net_wait_placed(&net, 0, net_send(&net, 0, 1));
		net.target_sleeps = false;
		placed_unseen += net_look(&net, 2) != 0x55;
		while (net.target[0].received == 0)
			CU_ASSERT_TRUE_FATAL(net_turn(&net));
		CU_ASSERT_EQUAL(net_look(&net, 2), 0x55);
		net_close(&net);
	}
	CU_ASSERT(placed_unseen > 0);
}

/* More messages than the target takes: back-pressure, order kept, none lost. */
static void test_many_messages(void)
{
	struct sluice_sim_world_opts opts = opts_of(3);
	struct net net;

	net_open(&net, &opts);
	net_lane_connect(&net, 0);
	net.target_sleeps = true;
	for (uint64_t i = 1; i <= opts.depth_max; i++)
		net_send(&net, 0, i);
	net_settle(&net);
	CU_ASSERT(net.source[0].placed < opts.depth_max);
	net.target_sleeps = false;
	net_settle(&net);
	CU_ASSERT_EQUAL(net.target[0].received, opts.depth_max);
	CU_ASSERT_EQUAL(net.target[0].received_last, opts.depth_max);
	CU_ASSERT_EQUAL(net.source[0].placed, opts.depth_max);
	net_close(&net);
}

/* A forged or stale offset reaches nothing and costs the lane. */
static void test_out_of_range(void)
{
	struct sluice_sim_world_opts opts = opts_of(1);
	struct net net;

	net_open(&net, &opts);
	net_lane_connect(&net, 0);
	net_fill(&net, 0, 0x66);
	net_submit(&net, 0,
		&(struct sluice_op){
			.kind = SLUICE_OP_WRITE,
			.len_bytes = 2 * NET_PAGE,
			.local = net.source_bytes,
			.mem = net.source_mem,
			.remote = net.remote,
			.remote_offset = (uint64_t)(NET_PAGES - 1) * NET_PAGE,
		});
	net_write(&net, 0, 0);
	net_settle(&net);
	CU_ASSERT_TRUE(net.source[0].lost);
	CU_ASSERT_EQUAL(net.source[0].status, -EACCES);
	CU_ASSERT_EQUAL(net.source[0].placed, 0);
	for (uint32_t page = 0; page < NET_PAGES; page++)
		CU_ASSERT_EQUAL(net_look(&net, page), 0xa5);
	net_close(&net);
}

/* The guest writes while the NIC reads: both, neither or half of it may travel. */
static void test_reads_may_tear(void)
{
	unsigned int old = 0, torn = 0, new = 0;

	for (uint64_t seed = 1; seed <= SEEDS; seed++) {
		struct sluice_sim_world_opts opts = opts_of(seed);
		const uint8_t *page;
		struct net net;

		net_open(&net, &opts);
		net_lane_connect(&net, 0);
		page = net.target_bytes + NET_PAGE;
		net_fill(&net, 1, 1);
		net_write(&net, 0, 1);
		sluice_sim_world_advance(
			net.world, sluice_sim_world_now(net.world) + opts.latency_ns_min / 2);
		net_fill(&net, 1, 2);
		net_settle(&net);
		if (page[0] != page[NET_PAGE - 1])
			torn++;
		else if (page[0] == 1)
			old++;
		else
			new ++;
		net_close(&net);
	}
	CU_ASSERT(old > 0);
	CU_ASSERT(torn > 0);
	CU_ASSERT(new > 0);
}

static void test_hold(void)
{
	struct sluice_sim_world_opts opts = opts_of(1);
	uint64_t seq;
	struct net net;

	net_open(&net, &opts);
	net_lane_connect(&net, 0);
	sluice_sim_world_hold(net.world, true);
	net_fill(&net, 1, 1);
	seq = net_write(&net, 0, 1);
	net_settle(&net);
	CU_ASSERT_EQUAL(net.source[0].placed, 0);
	CU_ASSERT_EQUAL(net_look(&net, 1), 0xa5);
	sluice_sim_world_hold(net.world, false);
	net_settle(&net);
	CU_ASSERT_EQUAL(net.source[0].placed, seq);
	CU_ASSERT_EQUAL(net_look(&net, 1), 1);
	net_close(&net);
}

/* With nothing to do nothing happens: a worker could sleep for ever. */
static void test_idle_is_idle(void)
{
	struct sluice_sim_world_opts opts = opts_of(1);
	struct sluice_arm arm;
	struct net net;

	net_open(&net, &opts);
	net_lane_open(&net, 0, 1, 1, 10 * SLUICE_NS_PER_S);
	net_settle(&net);
	CU_ASSERT_TRUE(net.source[0].connected);
	CU_ASSERT(sluice_sim_world_now(net.world) < SLUICE_NS_PER_S);
	CU_ASSERT_TRUE(sim->arm(net.source[0].conn, &arm));
	CU_ASSERT_EQUAL(arm.deadline_ns, SLUICE_NEVER);
	CU_ASSERT_EQUAL(arm.fd, -1);
	net_close(&net);
}

static void test_nothing_before_connected_or_after_lost(void)
{
	struct sluice_sim_world_opts opts = opts_of(1);
	struct sluice_op op = {.kind = SLUICE_OP_FLUSH, .seq = 1};
	struct net net;

	net_open(&net, &opts);
	net_lane_open(&net, 0, 1, 1, SLUICE_NEVER);
	CU_ASSERT_EQUAL(sim->submit(net.source[0].conn, &op, 1, 0), 0);
	net_settle(&net);
	CU_ASSERT_EQUAL(sim->submit(net.source[0].conn, &op, 1, 0), 1);
	sim->lane_fence(net.target[0].conn);
	net_settle(&net);
	CU_ASSERT_TRUE(net.source[0].lost);
	op.seq = 2;
	CU_ASSERT_EQUAL(sim->submit(net.source[0].conn, &op, 1, 0), 0);
	net_close(&net);
}

static void test_malformed_keys(void)
{
	struct sluice_sim_world_opts opts = opts_of(1);
	struct sluice_remote *remote = NULL;
	struct sluice_error err = {0};
	uint8_t key[SLUICE_KEY_BYTES_MAX];
	struct net net;
	int bytes;

	net_open(&net, &opts);
	CU_ASSERT_EQUAL(sim->mem_export(net.target_mem, key, 8), -ENOSPC);
	bytes = sim->mem_export(net.target_mem, key, sizeof(key));
	CU_ASSERT_EQUAL(
		sim->mem_import(net.source_rail, key, (size_t)bytes - 1, &remote, &err), -EBADMSG);
	key[0] ^= 1;
	CU_ASSERT_EQUAL(
		sim->mem_import(net.source_rail, key, (size_t)bytes, &remote, NULL), -EBADMSG);
	CU_ASSERT_PTR_NULL(remote);
	net_close(&net);
}

int main(void)
{
	static const struct unit_test tests[] = {
		{"one seed, one run", test_one_seed_one_run},
		{"tickets", test_tickets},
		{"nobody listens", test_nobody_listens},
		{"deadline", test_deadline},
		{"nothing before CONNECTED or after LOST",
			test_nothing_before_connected_or_after_lost},
		{"malformed keys", test_malformed_keys},
		{"PLACED is not visible", test_placed_is_not_visible},
		{"PLACED is visible when asked", test_placed_is_visible_when_asked},
		{"lanes overtake without a FLUSH", test_lanes_overtake_without_flush},
		{"late writes until the fence", test_late_writes_until_fence},
		{"late writes outlive their lane", test_late_writes_outlive_their_lane},
		{"the target may never notice", test_target_may_never_notice},
		{"the harsh fence", test_harsh_fence},
		{"a NIC takes its writes along", test_a_nic_takes_its_writes_along},
		{"loss is only delay", test_loss_is_only_delay},
		{"ZERO and SEND need the CPU", test_cpu_operations},
		{"SEND forces the writes before it", test_send_forces_writes},
		{"many messages", test_many_messages},
		{"out of range", test_out_of_range},
		{"reads may tear", test_reads_may_tear},
		{"hold", test_hold},
		{"idle is idle", test_idle_is_idle},
		{0},
	};

	return unit_run("sim", tests);
}
