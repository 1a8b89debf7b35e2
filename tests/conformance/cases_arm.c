/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * cases_arm.c: a worker that sleeps exactly as arm() says misses nothing.
 *
 * In real time the whole exchange sleeps in poll(2): a time-out is a missed event. In virtual
 * time the same sleep moves the clock to the earliest deadline; sleeping for ever is the miss.
 */
#include <errno.h>
#include <poll.h>
#include <string.h>

#include "tests/conformance/harness.h"

#define SLEEP_MS         100 /* the longest time between two rail_step */
#define SLEEPS_MAX       20 /* without an event: one was missed */
#define SLEEP_NS_VIRTUAL (60 * SLUICE_NS_PER_S)

struct sleeper {
	uint32_t idle_sleeps;
	uint64_t sleeps;
	bool missed;
};

/* The worker of an end that is awake: poll, then sleep if the transport says how. */
static void worker_turn(struct fixture *f, struct end *end)
{
	if (end->conn == NULL || end->asleep)
		return;
	end_poll(f, end);
	end->asleep = f->transport->arm(end->conn, &end->arm);
}

static void wake_at_deadline(struct fixture *f, struct end *end)
{
	if (end->asleep && fixture_now(f) >= end->arm.deadline_ns)
		end->asleep = false;
}

/*
 * Ends are collected as source, target, source, ... A closed end never is asleep and never
 * has a worker.
 */
static struct end *end_at(struct fixture *f, uint32_t index)
{
	struct lane *lane = &f->lanes[index / 2];

	return index % 2 == 0 ? &lane->source : &lane->target;
}

static uint64_t first_deadline(struct fixture *f)
{
	uint64_t deadline_ns = SLUICE_NEVER;

	for (uint32_t i = 0; i < 2 * f->lane_count; i++) {
		const struct end *end = end_at(f, i);

		if (end->conn != NULL && end->arm.deadline_ns < deadline_ns)
			deadline_ns = end->arm.deadline_ns;
	}
	return deadline_ns;
}

/*
 * Move the clock to what comes first. A simulated network cannot wake a sleeper, so all are
 * asked again what they wait for: the other ends have gone on meanwhile.
 */
static void sleep_virtual(struct fixture *f, struct sleeper *sleeper)
{
	uint64_t now_ns = fixture_now(f), deadline_ns = first_deadline(f);
	uint64_t ns = deadline_ns == SLUICE_NEVER ? SLEEP_NS_VIRTUAL : deadline_ns - now_ns;

	/* One turn is one thing that happens; a lane may sleep through others' things. */
	f->pair.driver->turn(&f->pair, deadline_ns <= now_ns ? 1 : ns);
	sleeper->missed |= deadline_ns == SLUICE_NEVER && ++sleeper->idle_sleeps > SLEEPS_MAX;
	for (uint32_t i = 0; i < 2 * f->lane_count; i++) {
		struct end *end = end_at(f, i);

		if (end->conn == NULL)
			continue;
		end->asleep = f->transport->arm(end->conn, &end->arm);
		wake_at_deadline(f, end);
	}
}

/* Only what poll(2) reports, or a deadline, wakes a worker. */
static void sleep_real(struct fixture *f, struct sleeper *sleeper)
{
	uint64_t now_ns = fixture_now(f), deadline_ns = first_deadline(f);
	struct pollfd fds[2 * LANES_MAX + 1];
	uint32_t count = 2 * f->lane_count;
	int timeout_ms = SLEEP_MS;

	if (deadline_ns <= now_ns)
		timeout_ms = 0;
	else if (deadline_ns - now_ns < SLEEP_MS * SLUICE_NS_PER_MS)
		timeout_ms = (int)((deadline_ns - now_ns) / SLUICE_NS_PER_MS + 1);
	for (uint32_t i = 0; i < count; i++) {
		const struct end *end = end_at(f, i);
		int fd = end->conn == NULL ? -1 : end->arm.fd;

		fds[i] = (struct pollfd){.fd = fd, .events = end->arm.events};
	}
	fds[count].fd = f->transport->rail_fd(f->pair.target);
	fds[count].events = POLLIN;
	if (poll(fds, count + 1, timeout_ms) == 0)
		sleeper->missed |= ++sleeper->idle_sleeps > SLEEPS_MAX;
	f->pair.driver->turn(&f->pair, 1);
	for (uint32_t i = 0; i < count; i++) {
		if (fds[i].revents != 0)
			end_at(f, i)->asleep = false;
		wake_at_deadline(f, end_at(f, i));
	}
}

/* Every worker that is awake has its turn; when none is, time passes. */
static void sleeping_step(struct fixture *f, struct sleeper *sleeper)
{
	uint64_t before = f->events;
	bool awake = false;

	for (uint32_t i = 0; i < 2 * f->lane_count; i++) {
		struct end *end = end_at(f, i);

		worker_turn(f, end);
		awake |= end->conn != NULL && !end->asleep;
	}
	if (f->events != before)
		sleeper->idle_sleeps = 0;
	if (awake || f->events != before)
		return;
	sleeper->sleeps++;
	if (fixture_virtual(f))
		sleep_virtual(f, sleeper);
	else
		sleep_real(f, sleeper);
}

#define SLEEP_UNTIL(f, sleeper, condition)                                                       \
	({                                                                                       \
		struct patience patience_ = patience_start(f);                                   \
		while (!(condition) && !(sleeper)->missed && patience_left(f, &patience_))       \
			sleeping_step(f, sleeper);                                               \
		bool reached_ = (condition);                                                     \
		CU_assertImplementation(reached_, __LINE__, "comes true: " #condition, __FILE__, \
			__func__, CU_FALSE);                                                     \
		reached_;                                                                        \
	})

static struct lane *connect_sleeping(struct fixture *f, struct sleeper *sleeper)
{
	struct lane *lane = lane_add(f);
	uint32_t index = (uint32_t)(lane - f->lanes);
	uint64_t deadline_ns = fixture_now(f) + LANE_DEADLINE_NS;

	end_open(f, &lane->target, SLUICE_ROLE_TARGET, index, 9, deadline_ns);
	end_open(f, &lane->source, SLUICE_ROLE_SOURCE, index, 9, deadline_ns);
	SLEEP_UNTIL(f, sleeper, lane->source.connected && lane->target.connected);
	return lane;
}

/* Submit, sleeping while the lane takes no more. */
static bool submit_sleeping(struct fixture *f, struct end *end, struct sluice_op *ops,
	uint32_t count, struct sleeper *sleeper)
{
	struct patience patience = patience_start(f);
	uint32_t done = 0;

	while (done < count && !sleeper->missed && !end->lost && patience_left(f, &patience)) {
		done += end_offer(f, end, ops + done, count - done);
		end->asleep = false; /* whoever submits is awake, and asks arm again */
		if (done < count)
			sleeping_step(f, sleeper);
	}
	CU_ASSERT_EQUAL(done, count);
	return done == count;
}

/* A question with a page, an answer back, one at a time: nothing else ever wakes anybody. */
static void ping_pong(void)
{
	struct fixture *f = fixture_open();
	struct sleeper sleeper = {0};
	struct lane *lane;

	if (f == NULL)
		return;
	lane = connect_sleeping(f, &sleeper);
	for (uint32_t i = 0; i < 500; i++) {
		struct sluice_op ask[] = {
			op_write_modelled(f, i * 4096ull, i * 4096ull, 4096),
			op_send("ask", 3),
		};
		struct sluice_op answer = op_send("answer", 6);

		if (!submit_sleeping(f, &lane->source, ask, 2, &sleeper) ||
			!SLEEP_UNTIL(f, &sleeper, lane->target.message_count == i + 1))
			break;
		CU_ASSERT(memcmp(f->region + i * 4096ull, f->local + i * 4096ull, 4096) == 0);
		if (!submit_sleeping(f, &lane->target, &answer, 1, &sleeper) ||
			!SLEEP_UNTIL(f, &sleeper, lane->source.message_count == i + 1))
			break;
	}
	SLEEP_UNTIL(f, &sleeper, end_has_placed(&lane->source, lane->source.next_seq - 3));
	CU_ASSERT(memory_as_modelled(f));
	CU_ASSERT(!sleeper.missed);
	CU_ASSERT(sleeper.sleeps > 0);
	fixture_close(f);
}

/* More than fits into anything, on two lanes, with a FLUSH at the end of each round. */
static void bulk(void)
{
	enum { OPS = 64, LANES = 2, ROUNDS = 6 };
	struct fixture *f = fixture_open();
	struct sleeper sleeper = {0};
	struct lane *lanes[LANES];

	if (f == NULL)
		return;
	for (int i = 0; i < LANES; i++)
		lanes[i] = connect_sleeping(f, &sleeper);
	for (uint32_t round = 0; round < ROUNDS; round++) {
		for (uint32_t i = 0; i < LANES; i++) {
			uint32_t len =
				f->limits.op_bytes_max < 65536 ? f->limits.op_bytes_max : 65536;
			struct sluice_op ops[OPS + 1];

			for (uint32_t k = 0; k < OPS; k++)
				ops[k] = op_write_modelled(f, (round + k) * 4096ull,
					(k * LANES + i) * 65536ull % REGION_BYTES, len);
			ops[OPS] = op_flush();
			submit_sleeping(f, &lanes[i]->source, ops, OPS + 1, &sleeper);
		}
		for (uint32_t i = 0; i < LANES; i++)
			SLEEP_UNTIL(f, &sleeper, lanes[i]->source.flush_count == round + 1);
	}
	CU_ASSERT(memory_as_modelled(f));
	CU_ASSERT(!sleeper.missed);
	fixture_close(f);
}

static void deadline_wakes(void)
{
	struct fixture *f = fixture_open();
	struct sleeper sleeper = {0};
	struct lane *lane;
	uint64_t deadline_ns;

	if (f == NULL)
		return;
	lane = lane_add(f);
	deadline_ns = fixture_now(f) + 250 * SLUICE_NS_PER_MS;
	end_open(f, &lane->target, SLUICE_ROLE_TARGET, 0, 9, deadline_ns);
	SLEEP_UNTIL(f, &sleeper, lane->target.lost);
	CU_ASSERT_EQUAL(lane->target.lost_status, -ETIMEDOUT);
	CU_ASSERT(!fixture_virtual(f) || fixture_now(f) < deadline_ns + SLUICE_NS_PER_S);
	CU_ASSERT(!sleeper.missed);
	fixture_close(f);
}

static void loss_wakes(void)
{
	struct fixture *f = fixture_open();
	struct sleeper sleeper = {0};
	struct lane *lane;

	if (f == NULL)
		return;
	lane = connect_sleeping(f, &sleeper);
	f->transport->lane_close(lane->target.conn);
	lane->target.conn = NULL;
	SLEEP_UNTIL(f, &sleeper, lane->source.lost);
	CU_ASSERT(!sleeper.missed);
	fixture_close(f);
}

/* A lane with nothing to do lets its worker sleep: it is not called back at once. */
static void idle_lane_sleeps(void)
{
	struct fixture *f = fixture_open();
	struct sluice_arm arm;
	struct lane *lane;

	if (f == NULL)
		return;
	lane = lane_connect(f);
	CU_ASSERT(end_flush(f, &lane->source));
	fixture_settle(f);
	CU_ASSERT(f->transport->arm(lane->source.conn, &arm));
	CU_ASSERT(f->transport->arm(lane->target.conn, &arm));
	if (!fixture_virtual(f) && arm.fd >= 0) {
		struct pollfd fd = {.fd = arm.fd, .events = arm.events};

		CU_ASSERT_EQUAL(poll(&fd, 1, 0), 0);
	}
	fixture_close(f);
}

CU_TestInfo cases_arm[] = {
	{"question and answer, sleeping", ping_pong},
	{"bulk, sleeping", bulk},
	{"a deadline wakes", deadline_wakes},
	{"a loss wakes", loss_wakes},
	{"an idle lane sleeps", idle_lane_sleeps},
	CU_TEST_INFO_NULL,
};
