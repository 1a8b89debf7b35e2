/* SPDX-License-Identifier: BSD-3-Clause */
/* lane_test.c: what the lanes of a session do together: share work, window and bandwidth. */
#include "tests/unit/lane_pair.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "base/clock.h"
#include "base/zero.h"
#include "engine/lane/crew.h"
#include "engine/lane/lane.h"
#include "tests/unit/unit.h"

#define MIB     (1ull << 20)
#define TURN_NS (200 * SLUICE_NS_PER_US)

static uint64_t sent_bytes(const struct lane_pair *pair)
{
	struct sluice_lane_counters sum;

	sluice_lane_set_sum(&pair->source.lanes, &sum);
	return sum.pages_sent << SLUICE_PAGE_SHIFT;
}

static void mark_all(struct lane_pair *pair)
{
	sluice_ledger_mark_pages(pair->source.work.ledger, 0, 0, UINT64_MAX);
}

/* ---- work ---- */

static bool has_queued(const struct sluice_ledger *ledger)
{
	for (uint32_t heat = 0; heat < SLUICE_LEDGER_HEATS; heat++)
		if (!sluice_queue_is_empty(&ledger->homes[SLUICE_HOME_ANY].queues[heat]))
			return true;
	return false;
}

/* One bit anywhere, and a page is not zero; what lies around it does not matter. */
static void test_one_bit_makes_a_page(void)
{
	static _Alignas(4096) uint8_t pages[3 * SLUICE_PAGE_BYTES];
	uint8_t *page = pages + SLUICE_PAGE_BYTES;
	uint32_t missed = 0;

	memset(pages, 0xff, sizeof(pages));
	memset(page, 0, SLUICE_PAGE_BYTES);
	CU_ASSERT_TRUE(sluice_page_is_zero(page));
	for (uint32_t at = 0; at < SLUICE_PAGE_BYTES; at++) {
		page[at] = (uint8_t)(1u << (at % 8));
		missed += sluice_page_is_zero(page);
		page[at] = 0;
	}
	CU_ASSERT_EQUAL(missed, 0);
}

/* One lane's far end does nothing: the others do all the work that it has not taken. */
static void test_idle_lanes_take_over(void)
{
	struct lane_pair_opts opts = {
		.lanes = 4, .memory_bytes = 64 * MIB, .budget_bytes = 16 * MIB};
	struct lane_pair pair;
	uint64_t held_back;

	lane_pair_open(&pair, &opts);
	pair.stalled = 2;
	mark_all(&pair);
	for (uint32_t turn = 0; turn < 1000000 && sent_bytes(&pair) < 64 * MIB - 8 * MIB; turn++)
		lane_pair_turn(&pair);
	for (uint32_t turn = 0; turn < 1000; turn++)
		lane_pair_turn(&pair);
	CU_ASSERT_FALSE(has_queued(pair.source.work.ledger));
	held_back = sluice_lane_backlog_bytes(pair.source.lanes.slots[2].lane);
	CU_ASSERT_TRUE(held_back > 0);
	/* Its window, and the chunk that it was cutting when the window shut. */
	CU_ASSERT_TRUE(held_back <= 4 * MIB + SLUICE_CHUNK_BYTES);
	CU_ASSERT_EQUAL(sluice_lane_set_backlog_bytes(&pair.source.lanes), held_back);
	pair.stalled = -1;
	CU_ASSERT_TRUE(lane_pair_drain(&pair));
	CU_ASSERT_TRUE(lane_pair_same(&pair));
	lane_pair_close(&pair);
}

/* While there are chunks in the queues, a lane whose window is open has something to do. */
static void test_no_lane_waits_while_chunks_are_queued(void)
{
	struct lane_pair_opts opts = {
		.lanes = 8, .memory_bytes = 64 * MIB, .budget_bytes = 32 * MIB};
	struct lane_pair pair;
	uint32_t looked = 0;

	lane_pair_open(&pair, &opts);
	mark_all(&pair);
	while (!sluice_ledger_is_drained(pair.source.work.ledger) && pair.source.lost == 0) {
		lane_pair_turn(&pair);
		if (!has_queued(pair.source.work.ledger))
			continue;
		looked++;
		for (uint32_t i = 0; i < opts.lanes; i++)
			CU_ASSERT_TRUE(
				sluice_lane_backlog_bytes(pair.source.lanes.slots[i].lane) > 0);
	}
	CU_ASSERT_TRUE(looked > 0);
	CU_ASSERT_TRUE(lane_pair_same(&pair));
	lane_pair_close(&pair);
}

static uint64_t pages_there(uint8_t *memory, uint64_t first, uint64_t pages)
{
	unsigned char there[1024];
	uint64_t sum = 0;

	CU_ASSERT_TRUE_FATAL(pages <= sizeof(there));
	CU_ASSERT_EQUAL_FATAL(
		mincore(memory + first * SLUICE_PAGE_BYTES, pages * SLUICE_PAGE_BYTES, there), 0);
	for (uint64_t i = 0; i < pages; i++)
		sum += there[i] & 1;
	return sum;
}

/* Within this host the lanes of a worker together keep little in the kernel, however many they are; a
   lane that is alone has its window. */
static uint64_t most_in_flight(uint32_t lanes)
{
	struct lane_pair_opts opts = {
		.lanes = lanes, .memory_bytes = 64 * MIB, .budget_bytes = 16 * MIB};
	uint64_t inflight, most = 0;
	struct lane_pair pair;

	lane_pair_open(&pair, &opts);
	pair.by_crew = true;
	mark_all(&pair);
	while (!sluice_ledger_is_drained(pair.source.work.ledger) && pair.source.lost == 0) {
		sluice_crew_step(pair.source.crew, pair.now_ns);
		inflight = sluice_lane_set_inflight_bytes(&pair.source.lanes);
		most = inflight > most ? inflight : most;
		lane_pair_turn(&pair);
	}
	CU_ASSERT_TRUE(lane_pair_same(&pair));
	lane_pair_close(&pair);
	return most;
}

static void test_lanes_within_this_host_share_the_cache(void)
{
	CU_ASSERT_TRUE(most_in_flight(16) <= 4 * MIB);
	CU_ASSERT_TRUE(most_in_flight(1) > 4 * MIB);
}

/* Holes are zeros at the target and stay holes at the source. One that was written is sent: that it was
   noted as a hole does no harm. */
static void test_holes_stay_holes(void)
{
	enum { FIRST = 300, PAGES = 700, WRITTEN = 512 };

	struct lane_pair_opts opts = {
		.lanes = 2, .memory_bytes = 8 * MIB, .budget_bytes = 16 * MIB};
	struct sluice_ledger *ledger;
	struct lane_pair pair;
	uint8_t *memory;

	lane_pair_open(&pair, &opts);
	memory = pair.source.memory;
	ledger = pair.source.work.ledger;
	CU_ASSERT_EQUAL_FATAL(
		madvise(memory + FIRST * SLUICE_PAGE_BYTES, PAGES * SLUICE_PAGE_BYTES, MADV_REMOVE),
		0);
	sluice_ledger_set_holes(ledger, 0, FIRST, PAGES);
	mark_all(&pair);
	CU_ASSERT_TRUE(lane_pair_drain(&pair));
	CU_ASSERT_EQUAL(pages_there(memory, FIRST, PAGES), 0);
	memory[WRITTEN * SLUICE_PAGE_BYTES + 7] = 1;
	sluice_ledger_mark(ledger, 0, WRITTEN / 64, 1ull << (WRITTEN % 64));
	CU_ASSERT_TRUE(lane_pair_drain(&pair));
	CU_ASSERT_EQUAL(pages_there(memory, FIRST, PAGES), 1);
	CU_ASSERT_TRUE(lane_pair_same(&pair)); /* reads, and so fills, the rest */
	lane_pair_close(&pair);
}

/* A chunk that is dirty when it is given back is anybody's, and others may rest: control is told. */
static void test_what_is_queued_again_is_told(void)
{
	struct lane_pair_opts opts = {
		.lanes = 2, .memory_bytes = 8 * MIB, .budget_bytes = 16 * MIB};
	struct sluice_ledger *ledger;
	struct lane_pair pair;
	uint32_t wakes = 0;

	lane_pair_open(&pair, &opts);
	ledger = pair.source.work.ledger;
	sluice_ledger_mark_pages(ledger, 0, 0, 1);
	while (sluice_ledger_pages_dirty(ledger) > 0)
		lane_pair_turn(&pair);
	sluice_ledger_mark_pages(ledger, 0, 0, 1); /* it is on its way */
	CU_ASSERT_FALSE(has_queued(ledger));
	while (sluice_ledger_queued_again(ledger) == 0 && pair.source.lost == 0) {
		wakes = pair.source.wakes;
		lane_pair_turn(&pair);
	}
	CU_ASSERT_TRUE(pair.source.wakes > wakes);
	CU_ASSERT_TRUE(lane_pair_drain(&pair));
	lane_pair_close(&pair);
}

/* ---- window ---- */

static uint64_t peak_bytes(const struct lane_pair *pair)
{
	struct sluice_lane_counters sum;

	sluice_lane_set_sum(&pair->source.lanes, &sum);
	return sum.inflight_bytes_peak;
}

static void test_a_hundred_lanes_keep_a_small_budget(void)
{
	struct lane_pair_opts opts = {
		.lanes = 100, .memory_bytes = 208 * MIB, .budget_bytes = 8 * MIB};
	struct lane_pair pair;

	lane_pair_open(&pair, &opts);
	mark_all(&pair);
	CU_ASSERT_TRUE(lane_pair_drain(&pair));
	CU_ASSERT_TRUE(lane_pair_same(&pair));
	/* The sum of the lanes' peaks bounds what was in flight at once. */
	CU_ASSERT_TRUE(peak_bytes(&pair) <= 8 * MIB);
	CU_ASSERT_TRUE(peak_bytes(&pair) > 4 * MIB);
	lane_pair_close(&pair);
}

/* One step of the source. @shut: the window had run out in the step before. */
static bool step_and_look(struct lane_pair *pair, bool shut)
{
	struct sluice_lane *lane = pair->source.lanes.slots[0].lane;
	const struct sluice_lane_counters *c = sluice_lane_counters(lane);
	uint64_t window = pair->source.lanes.window_bytes;
	uint64_t waits = c->window_waits, sent = sent_bytes(pair), inflight;

	sluice_lane_step(lane, pair->now_ns, 0);
	inflight = sent - c->bytes_placed; /* when it decided */
	if (shut && sent_bytes(pair) > sent)
		CU_ASSERT_TRUE(inflight <= window / 2);
	if (shut && sent_bytes(pair) == sent)
		CU_ASSERT_TRUE(inflight > window / 2);
	CU_ASSERT_TRUE(sent_bytes(pair) - c->bytes_placed <= window);
	return c->window_waits > waits || (shut && sent_bytes(pair) == sent);
}

/* A window that ran out opens when its older half is free, not before and not later. */
static void test_a_window_waits_for_its_older_half(void)
{
	struct lane_pair_opts opts = {
		.lanes = 1, .memory_bytes = 96 * MIB, .budget_bytes = 16 * MIB};
	uint32_t opened = 0, turns = 0;
	struct lane_pair pair;
	bool shut = false;

	lane_pair_open(&pair, &opts);
	mark_all(&pair);
	while (sent_bytes(&pair) < 80 * MIB && pair.source.lost == 0 && turns++ < 1000000) {
		uint64_t sent = sent_bytes(&pair);
		bool was_shut = shut;

		shut = step_and_look(&pair, shut);
		opened += was_shut && sent_bytes(&pair) > sent;
		if (turns % 3 == 0)
			sluice_lane_step(pair.target.lanes.slots[0].lane, pair.now_ns, 0);
	}
	CU_ASSERT_TRUE(opened > 0);
	CU_ASSERT_TRUE(lane_pair_drain(&pair));
	CU_ASSERT_TRUE(lane_pair_same(&pair));
	lane_pair_close(&pair);
}

/* ---- extents ---- */

static uint64_t extents_of(uint64_t extent_bytes, uint64_t budget_bytes)
{
	struct lane_pair_opts opts = {.lanes = 1,
		.memory_bytes = 8 * MIB,
		.budget_bytes = budget_bytes,
		.extent_bytes = extent_bytes};
	struct sluice_lane_counters sum;
	struct lane_pair pair;

	lane_pair_open(&pair, &opts);
	mark_all(&pair);
	CU_ASSERT_TRUE(lane_pair_drain(&pair));
	CU_ASSERT_TRUE(lane_pair_same(&pair));
	sluice_lane_set_sum(&pair.source.lanes, &sum);
	lane_pair_close(&pair);
	return sum.extents;
}

/* Memory without holes is cut into extents of the size asked for, as far as the window allows. */
static void test_extents_have_the_size_asked_for(void)
{
	CU_ASSERT_EQUAL(extents_of(4096, 16 * MIB), 8 * MIB / 4096);
	CU_ASSERT_EQUAL(extents_of(64 << 10, 16 * MIB), 8 * MIB / (64 << 10));
	CU_ASSERT_EQUAL(extents_of(1 * MIB, 16 * MIB), 8);
	CU_ASSERT_EQUAL(extents_of(2 * MIB, 16 * MIB), 4);
	CU_ASSERT_EQUAL(extents_of(0, 16 * MIB), 8 * MIB / SLUICE_LANE_EXTENT_BYTES);
	CU_ASSERT_EQUAL(extents_of(2 * MIB, 2 * MIB), 8 * MIB / (512 << 10)); /* 4 to a window */
	CU_ASSERT_EQUAL(extents_of(5000, 16 * MIB), 8 * MIB / 4096); /* whole pages */
}

/* ---- zeros ---- */

/* Every @every-th page is content, the others are zeros. */
static struct sluice_lane_counters move_zeros(bool one_sided, uint32_t every)
{
	struct lane_pair_opts opts = {.lanes = 1,
		.memory_bytes = 8 * MIB,
		.budget_bytes = 16 * MIB,
		.one_sided = one_sided};
	struct sluice_lane_counters sum;
	struct lane_pair pair;

	lane_pair_open(&pair, &opts);
	for (uint32_t page = 0; page < 8 * MIB / SLUICE_PAGE_BYTES; page++)
		if (page % every != 0)
			memset(pair.source.memory + page * SLUICE_PAGE_BYTES, 0, SLUICE_PAGE_BYTES);
	mark_all(&pair);
	CU_ASSERT_TRUE(lane_pair_drain(&pair));
	CU_ASSERT_TRUE(lane_pair_same(&pair));
	sluice_lane_set_sum(&pair.source.lanes, &sum);
	lane_pair_close(&pair);
	return sum;
}

/* A ZERO takes the target's CPU: short runs of zeros are written where a WRITE does not. */
static void test_short_runs_of_zeros_are_written_one_sided(void)
{
	CU_ASSERT_EQUAL(move_zeros(false, 2).pages_zeroed, 1024);
	CU_ASSERT_EQUAL(move_zeros(true, 2).pages_zeroed, 0);
	CU_ASSERT_EQUAL(move_zeros(true, 2).extents, 8 * MIB / SLUICE_LANE_EXTENT_BYTES);
	CU_ASSERT_EQUAL(move_zeros(true, SLUICE_LANE_ZERO_RUN_MIN).pages_zeroed, 0);
	CU_ASSERT_EQUAL(move_zeros(true, 2 * SLUICE_LANE_ZERO_RUN_MIN).pages_zeroed,
		2048 - 2048 / (2 * SLUICE_LANE_ZERO_RUN_MIN));
}

/* ---- time in flight ---- */

/* Lanes that overlap count once, and what is between does not. */
static void test_time_in_flight_is_that_of_any_lane(void)
{
	struct lane_pair_opts opts = {.lanes = 2, .memory_bytes = 8 * MIB, .budget_bytes = 4 * MIB};
	struct sluice_in_use use = {0};
	struct sluice_in_use *lanes;
	struct lane_pair pair;
	uint64_t start_ns, busy_ns;

	sluice_in_use_begin(&use, 100);
	sluice_in_use_begin(&use, 150);
	sluice_in_use_end(&use, 200);
	CU_ASSERT_EQUAL(use.total_ns, 0);
	sluice_in_use_end(&use, 300);
	CU_ASSERT_EQUAL(use.total_ns, 200);
	sluice_in_use_begin(&use, 500);
	sluice_in_use_end(&use, 600);
	CU_ASSERT_EQUAL(use.total_ns, 300);

	lane_pair_open(&pair, &opts);
	lanes = &pair.source.work.in_use;
	start_ns = pair.now_ns;
	mark_all(&pair);
	for (uint32_t turn = 0; turn < 100000 && sent_bytes(&pair) < 8 * MIB; turn++) {
		lane_pair_turn(&pair);
		pair.now_ns += TURN_NS;
	}
	CU_ASSERT_TRUE(lane_pair_drain(&pair)); /* no time passes */
	CU_ASSERT_EQUAL(lanes->users, 0);
	busy_ns = lanes->total_ns;
	CU_ASSERT_TRUE(busy_ns > 0);
	CU_ASSERT_TRUE(busy_ns <= pair.now_ns - start_ns);
	pair.now_ns += SLUICE_NS_PER_S;
	lane_pair_turn(&pair);
	CU_ASSERT_EQUAL(lanes->total_ns, busy_ns);
	lane_pair_close(&pair);
}

/* ---- checksums ---- */

/*
 * A byte of payload changes on its way. The lane is lost, the target counts why, and what it had
 * placed wrongly is written again by the other lane.
 */
static void test_a_damaged_byte_costs_a_lane_and_no_more(void)
{
	struct lane_pair_opts opts = {.lanes = 2,
		.memory_bytes = 64 * MIB,
		.budget_bytes = 32 * MIB,
		.settings = "checksum=xxh3",
		.flip_at = 5 * MIB};
	struct sluice_conn_stats stats;
	struct lane_pair pair;

	lane_pair_open(&pair, &opts);
	mark_all(&pair);
	for (uint32_t turn = 0; turn < 10000000 && pair.source.lost == 0; turn++)
		lane_pair_turn(&pair);
	CU_ASSERT_EQUAL(pair.source.lost, 1);
	CU_ASSERT_EQUAL(pair.target.lost, 1);
	CU_ASSERT_EQUAL(pair.target.lost_status, -EBADMSG);
	lane_pair_fence_lost(&pair);
	pair.source.lost = 0;
	CU_ASSERT_TRUE(lane_pair_drain(&pair));
	CU_ASSERT_TRUE(lane_pair_same(&pair));
	sluice_lane_set_conn_stats(&pair.target.lanes, 0, &stats);
	CU_ASSERT_EQUAL(stats.payload_damaged, 1);
	CU_ASSERT_EQUAL(pair.source.work.in_use.users, 0);
	lane_pair_close(&pair);
}

/* ---- bandwidth ---- */

#define RATE (100 * MIB)

static uint64_t allowed_bytes(uint64_t elapsed_ns, uint32_t lanes)
{
	return (uint64_t)((double)RATE * (double)(elapsed_ns + SLUICE_PACE_BURST_NS) / 1e9) +
	       (uint64_t)lanes * SLUICE_LANE_EXTENT_BYTES;
}

/* Never more than the rate and one burst; and not much less, also when half of the lanes idle. */
static void test_lanes_share_a_bandwidth_limit(void)
{
	struct lane_pair_opts opts = {
		.lanes = 4, .memory_bytes = 32 * MIB, .budget_bytes = 16 * MIB};
	struct lane_pair pair;
	uint64_t start_ns;

	lane_pair_open(&pair, &opts);
	sluice_pace_set(&pair.source.work.pace, RATE);
	mark_all(&pair);
	pair.stalled = 1; /* it runs out of window and leaves its share to the others */
	start_ns = pair.now_ns;
	while (sent_bytes(&pair) < 24 * MIB && pair.source.lost == 0) {
		lane_pair_turn(&pair);
		CU_ASSERT_TRUE(sent_bytes(&pair) <= allowed_bytes(pair.now_ns - start_ns, 4));
		pair.now_ns += TURN_NS;
		CU_ASSERT_TRUE_FATAL(pair.now_ns - start_ns < SLUICE_NS_PER_S);
	}
	/* 240 ms at that rate, less one burst. */
	CU_ASSERT_TRUE(pair.now_ns - start_ns < 260 * SLUICE_NS_PER_MS);
	pair.stalled = -1;
	sluice_pace_set(&pair.source.work.pace, 0);
	CU_ASSERT_TRUE(lane_pair_drain(&pair)); /* and no time passes */
	CU_ASSERT_TRUE(lane_pair_same(&pair));
	lane_pair_close(&pair);
}

/* Whoever is stepped last gets its share as well, and gives back what it is done with. */
static void test_no_lane_starves_under_a_limit(void)
{
	struct lane_pair_opts opts = {
		.lanes = 4, .memory_bytes = 64 * MIB, .budget_bytes = 16 * MIB};
	const struct sluice_lane_counters *counters;
	struct lane_pair pair;

	lane_pair_open(&pair, &opts);
	sluice_pace_set(&pair.source.work.pace, RATE);
	mark_all(&pair);
	pair.by_crew = true;
	while (sent_bytes(&pair) < 32 * MIB && pair.source.lost == 0) {
		lane_pair_turn(&pair);
		pair.now_ns += TURN_NS;
		CU_ASSERT_TRUE_FATAL(pair.now_ns < 10 * SLUICE_NS_PER_S);
	}
	for (uint32_t lane = 0; lane < opts.lanes; lane++) {
		counters = sluice_lane_counters(pair.source.lanes.slots[lane].lane);
		CU_ASSERT_TRUE(counters->pages_sent << SLUICE_PAGE_SHIFT > 4 * MIB);
		CU_ASSERT_TRUE(counters->flushes > 1); /* 16 chunks would be all of it */
	}
	sluice_pace_set(&pair.source.work.pace, 0);
	CU_ASSERT_TRUE(lane_pair_drain(&pair));
	lane_pair_close(&pair);
}

/* A lane that is held back sleeps until it may go on, and leaves no deadline behind. */
static void test_a_lane_held_back_sleeps(void)
{
	struct lane_pair_opts opts = {
		.lanes = 1, .memory_bytes = 32 * MIB, .budget_bytes = 32 * MIB};
	struct sluice_lane *lane;
	struct lane_pair pair;
	struct sluice_arm arm;

	lane_pair_open(&pair, &opts);
	lane = pair.source.lanes.slots[0].lane;
	sluice_pace_set(&pair.source.work.pace, RATE);
	mark_all(&pair);
	for (uint32_t turn = 0; turn < 200; turn++) /* until everything sent is acknowledged, too */
		lane_pair_turn(&pair);
	CU_ASSERT_FALSE(sluice_lane_step(lane, pair.now_ns, 0));
	CU_ASSERT_TRUE_FATAL(sluice_lane_arm(lane, &arm));
	CU_ASSERT_TRUE(arm.deadline_ns > pair.now_ns);
	CU_ASSERT_TRUE(arm.deadline_ns < pair.now_ns + 100 * SLUICE_NS_PER_MS);
	pair.now_ns = arm.deadline_ns;
	CU_ASSERT_TRUE(sluice_lane_step(lane, pair.now_ns, 0));
	sluice_pace_set(&pair.source.work.pace, 0);
	CU_ASSERT_TRUE(lane_pair_drain(&pair));
	/* Nothing to do and no limit: no deadline is left behind. */
	sluice_lane_step(lane, pair.now_ns, 0);
	CU_ASSERT_TRUE_FATAL(sluice_lane_arm(lane, &arm));
	CU_ASSERT_EQUAL(arm.deadline_ns, SLUICE_NEVER);
	lane_pair_close(&pair);
}

/*
 * What a lost lane of a source holds (a socket, or a queue pair that keeps memory registered) it lets
 * go of at once, however long the target's fence may take: a paused migration may wait for days. Its
 * chunks stay its own, and its counters are kept.
 */
static void test_a_lost_lane_holds_nothing(void)
{
	const struct lane_pair_opts opts = {
		.lanes = 1, .memory_bytes = 4 << 20, .budget_bytes = 1 << 20};
	struct sluice_lane_counters before = {0}, after;
	const struct sluice_lane_slot *slot;
	struct lane_pair pair;

	lane_pair_open(&pair, &opts);
	slot = &pair.source.lanes.slots[0];
	sluice_ledger_mark_pages(pair.source.work.ledger, 0, 0, UINT64_MAX);
	for (int i = 0; i < 1000000 && before.bytes_placed == 0; i++) {
		lane_pair_turn(&pair);
		sluice_lane_set_counters(&pair.source.lanes, 0, &before);
	}
	CU_ASSERT_TRUE(before.bytes_placed > 0);
	sluice_lane_set_lost(&pair.source.lanes, 0);
	CU_ASSERT_EQUAL(slot->standing, SLUICE_LANE_FENCING);
	CU_ASSERT_FALSE(sluice_ledger_is_drained(pair.source.work.ledger));
	for (int i = 0; i < 1000000 && pair.target.lost == 0; i++)
		lane_pair_turn(&pair);
	CU_ASSERT_EQUAL(pair.target.lost, 1); /* the other end hears of it */
	sluice_lane_set_counters(&pair.source.lanes, 0, &after);
	CU_ASSERT_EQUAL(after.bytes_placed, before.bytes_placed);
	sluice_lane_set_close(&pair.target.lanes, 0);
	CU_ASSERT_TRUE(sluice_ledger_reclaim(pair.source.work.ledger, 0, false) > 0);
	sluice_lane_set_close(&pair.source.lanes, 0);
	CU_ASSERT_EQUAL(slot->standing, SLUICE_LANE_CLOSED);
	lane_pair_close(&pair);
}

int main(void)
{
	static const struct unit_test tests[] = {
		{"one bit makes a page", test_one_bit_makes_a_page},
		{"idle lanes take over", test_idle_lanes_take_over},
		{"no lane waits while chunks are queued",
			test_no_lane_waits_while_chunks_are_queued},
		{"lanes within this host share the cache",
			test_lanes_within_this_host_share_the_cache},
		{"holes stay holes", test_holes_stay_holes},
		{"what is queued again is told", test_what_is_queued_again_is_told},
		{"a hundred lanes keep a small budget", test_a_hundred_lanes_keep_a_small_budget},
		{"a window waits for its older half", test_a_window_waits_for_its_older_half},
		{"extents have the size asked for", test_extents_have_the_size_asked_for},
		{"short runs of zeros are written one-sided",
			test_short_runs_of_zeros_are_written_one_sided},
		{"time in flight is that of any lane", test_time_in_flight_is_that_of_any_lane},
		{"a damaged byte costs a lane and no more",
			test_a_damaged_byte_costs_a_lane_and_no_more},
		{"lanes share a bandwidth limit", test_lanes_share_a_bandwidth_limit},
		{"no lane starves under a limit", test_no_lane_starves_under_a_limit},
		{"a lane held back sleeps", test_a_lane_held_back_sleeps},
		{"a lost lane holds nothing", test_a_lost_lane_holds_nothing},
		{NULL},
	};

	return unit_run("lane", tests);
}
