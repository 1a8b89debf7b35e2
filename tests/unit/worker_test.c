/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * worker_test.c: which lanes a worker steps and which it lets rest. The lanes' transport is the
 * test's own: a connection is busy or idle as it is told, and counts how often it was asked.
 */
#include <poll.h>
#include <sched.h>
#include <sys/eventfd.h>

#include "base/bits.h"
#include "base/clock.h"
#include "engine/lane/crew.h"
#include "engine/lane/lane.h"
#include "tests/unit/unit.h"

#define LANES 3

/* Any field but fd: atomic, the worker's and the test's. */
struct sluice_conn {
	int fd; /* an eventfd: readable when somebody has work for the connection */
	uint32_t busy; /* every poll has an event */
	uint32_t restless; /* arm refuses */
	uint64_t deadline_ns;
	uint64_t polls, arms;
};

static struct sluice_conn conns[LANES];
static struct sluice_lane *lanes[LANES];
static struct sluice_crew *crew;
static struct sluice_rail_pair pair;

static uint32_t fake_poll(
	struct sluice_conn *conn, struct sluice_event *events, uint32_t max, uint64_t now_ns)
{
	(void)now_ns;
	__atomic_fetch_add(&conn->polls, 1, __ATOMIC_RELAXED);
	if (max == 0 || __atomic_load_n(&conn->busy, __ATOMIC_RELAXED) == 0)
		return 0;
	events[0] = (struct sluice_event){.kind = SLUICE_EVENT_PLACED}; /* of nothing */
	return 1;
}

static bool fake_arm(struct sluice_conn *conn, struct sluice_arm *ret_arm)
{
	__atomic_fetch_add(&conn->arms, 1, __ATOMIC_RELAXED);
	*ret_arm = (struct sluice_arm){.fd = conn->fd,
		.events = POLLIN,
		.deadline_ns = __atomic_load_n(&conn->deadline_ns, __ATOMIC_RELAXED)};
	return __atomic_load_n(&conn->restless, __ATOMIC_RELAXED) == 0;
}

static uint32_t fake_submit(
	struct sluice_conn *conn, const struct sluice_op *ops, uint32_t count, uint64_t now_ns)
{
	(void)conn, (void)ops, (void)count, (void)now_ns;
	return 0;
}

static void fake_close(struct sluice_conn *conn)
{
	close(conn->fd);
}

static const struct sluice_transport fake = {
	.poll = fake_poll, .arm = fake_arm, .submit = fake_submit, .lane_close = fake_close};

static void wake_nobody(void *ctx)
{
	(void)ctx;
}

/* One worker and its lanes, all idle. */
static void make(uint32_t caps)
{
	static struct sluice_lane_work work = {.wake = wake_nobody};
	struct sluice_crew_opts opts = {.workers = 1};

	pair = (struct sluice_rail_pair){.transport = &fake};
	pair.limits = (struct sluice_rail_limits){
		.caps = caps, .op_bytes_max = 1 << 20, .depth_max = 64, .align_bytes = 1};
	CU_ASSERT_EQUAL_FATAL(sluice_crew_create(&opts, &crew), 0);
	for (uint32_t i = 0; i < LANES; i++) {
		struct sluice_lane_conf conf = {.pair = &pair,
			.conn = &conns[i],
			.lane = i,
			.role = SLUICE_ROLE_TARGET,
			.window_bytes = 1 << 20,
			.work = &work};

		conns[i] = (struct sluice_conn){
			.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), .deadline_ns = SLUICE_NEVER};
		CU_ASSERT_EQUAL_FATAL(sluice_lane_create(&conf, &lanes[i]), 0);
		CU_ASSERT_EQUAL_FATAL(sluice_crew_add(crew, lanes[i], 0), 0);
	}
}

static void end(void)
{
	sluice_crew_remove_all(crew);
	for (uint32_t i = 0; i < LANES; i++)
		sluice_lane_destroy(lanes[i]);
	sluice_crew_destroy(crew);
}

static void set_busy(uint32_t lane, uint32_t busy)
{
	__atomic_store_n(&conns[lane].busy, busy, __ATOMIC_RELAXED);
}

static uint64_t polls(uint32_t lane)
{
	return __atomic_load_n(&conns[lane].polls, __ATOMIC_RELAXED);
}

static uint64_t arms(uint32_t lane)
{
	return __atomic_load_n(&conns[lane].arms, __ATOMIC_RELAXED);
}

/* Until the lane was asked more than @count times. */
static void see_polls(uint32_t lane, uint64_t count)
{
	while (polls(lane) <= count)
		sched_yield();
}

/* Of a busy lane: @count turns go by. */
static void see_turns(uint32_t lane, uint64_t count)
{
	see_polls(lane, polls(lane) + count);
}

static void knock(uint32_t lane)
{
	CU_ASSERT_EQUAL(eventfd_write(conns[lane].fd, 1), 0);
}

static uint64_t sleeps(void)
{
	struct sluice_worker_stats stats;

	sluice_crew_stats(crew, 0, &stats);
	return stats.sleeps;
}

static void see_sleep(uint64_t after)
{
	while (sleeps() <= after)
		sched_yield();
}

/* Lane 0 is busy; the others go to rest and stay there over many turns. */
static void others_rest(void)
{
	uint64_t asked[LANES];

	see_turns(0, 100);
	for (uint32_t lane = 1; lane < LANES; lane++)
		asked[lane] = polls(lane);
	see_turns(0, 1000);
	for (uint32_t lane = 1; lane < LANES; lane++)
		CU_ASSERT_EQUAL(polls(lane), asked[lane]);
}

static void make_with_a_busy_lane(uint32_t caps)
{
	make(caps);
	set_busy(0, 1);
	sluice_crew_wake(crew);
}

static void test_an_idle_lane_rests_while_another_is_busy(void)
{
	uint64_t one, two;

	make_with_a_busy_lane(SLUICE_CAP_KERNEL_POLL);
	others_rest();
	/* Its descriptor brings it back; and not the other one. */
	one = polls(1);
	two = polls(2);
	knock(1);
	see_polls(1, one);
	see_turns(0, 1000);
	CU_ASSERT_EQUAL(polls(2), two);
	end();
}

static void test_a_wake_and_a_deadline_end_a_rest(void)
{
	uint64_t one, two;

	make_with_a_busy_lane(SLUICE_CAP_KERNEL_POLL);
	others_rest();
	one = polls(1);
	two = polls(2);
	sluice_crew_wake(crew);
	see_polls(1, one);
	see_polls(2, two);
	others_rest();
	/* The next time it rests with a deadline, and then nothing else is needed. */
	one = polls(1);
	__atomic_store_n(
		&conns[1].deadline_ns, sluice_now_ns() + 20 * SLUICE_NS_PER_MS, __ATOMIC_RELAXED);
	sluice_crew_wake(crew);
	see_polls(1, one);
	while (sluice_now_ns() < __atomic_load_n(&conns[1].deadline_ns, __ATOMIC_RELAXED))
		sched_yield();
	see_polls(1, polls(1));
	end();
}

static void test_polls_without_the_kernel_go_on(void)
{
	uint64_t before;

	make_with_a_busy_lane(0);
	see_turns(0, 100);
	before = arms(1);
	see_turns(1, 1000);
	see_turns(2, 1000);
	CU_ASSERT_EQUAL(arms(1), before);
	end();
}

static void test_a_worker_sleeps_when_all_rest(void)
{
	uint64_t slept, asked;

	make(0);
	see_sleep(0);
	/* Whatever may end the rest of a lane ends the worker's sleep. */
	asked = polls(0);
	slept = sleeps();
	sluice_crew_wake(crew);
	see_polls(0, asked);
	see_sleep(slept);
	asked = polls(2);
	knock(2);
	see_polls(2, asked);
	end();
}

static void test_a_lane_that_will_not_rest_keeps_the_worker_awake(void)
{
	uint64_t slept;

	make(SLUICE_CAP_KERNEL_POLL);
	__atomic_store_n(&conns[1].restless, 1, __ATOMIC_RELAXED);
	sluice_crew_wake(crew);
	see_turns(1, 100);
	slept = sleeps();
	see_turns(1, 1000);
	CU_ASSERT_EQUAL(sleeps(), slept);
	__atomic_store_n(&conns[1].restless, 0, __ATOMIC_RELAXED);
	see_sleep(slept);
	end();
}

/* The descriptor of a lane that left is nobody's, although others have its place in the list. */
static void test_a_lane_that_left_wakes_nobody(void)
{
	uint64_t zero, one;

	make(SLUICE_CAP_KERNEL_POLL);
	see_sleep(0);
	sluice_crew_remove(crew, lanes[0]);
	zero = polls(0);
	one = polls(1);
	knock(0);
	knock(1);
	see_polls(1, one);
	CU_ASSERT_EQUAL(polls(0), zero);
	CU_ASSERT_EQUAL_FATAL(sluice_crew_add(crew, lanes[0], 0), 0);
	see_polls(0, zero);
	end();
}

int main(void)
{
	static const struct unit_test tests[] = {
		{"an idle lane rests while another is busy",
			test_an_idle_lane_rests_while_another_is_busy},
		{"a wake and a deadline end a rest", test_a_wake_and_a_deadline_end_a_rest},
		{"polls without the kernel go on", test_polls_without_the_kernel_go_on},
		{"a worker sleeps when all rest", test_a_worker_sleeps_when_all_rest},
		{"a lane that will not rest keeps the worker awake",
			test_a_lane_that_will_not_rest_keeps_the_worker_awake},
		{"a lane that left wakes nobody", test_a_lane_that_left_wakes_nobody},
		{0},
	};

	return unit_run("worker", tests);
}
