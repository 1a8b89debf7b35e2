/* SPDX-License-Identifier: BSD-3-Clause */
/* loop_test.c: timers, watches that remove each other, wakes from another thread, idleness. */
#include <errno.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/loop.h"
#include "tests/unit/unit.h"

static struct sluice_loop *new_loop(void)
{
	struct sluice_loop *loop = NULL;

	CU_ASSERT_EQUAL_FATAL(sluice_loop_create(&loop), 0);
	return loop;
}

/* ---- timers ---- */

struct order {
	char seen[16];
	struct sluice_loop *loop;
	struct sluice_timer *timers[3];
};

static void note(struct order *order, char c)
{
	size_t length = strlen(order->seen);

	if (length + 1 < sizeof(order->seen))
		order->seen[length] = c;
}

static void on_a(void *ctx, uint64_t now_ns)
{
	(void)now_ns;
	note(ctx, 'a');
}

static void on_b(void *ctx, uint64_t now_ns)
{
	(void)now_ns;
	note(ctx, 'b');
}

static void on_stop(void *ctx, uint64_t now_ns)
{
	struct order *order = ctx;

	(void)now_ns;
	sluice_loop_stop(order->loop, 42);
}

static void test_timer_order(void)
{
	struct order order = {.loop = new_loop()};
	uint64_t now_ns = sluice_now_ns();

	sluice_timer_add(order.loop, on_a, &order, &order.timers[0]);
	sluice_timer_add(order.loop, on_b, &order, &order.timers[1]);
	sluice_timer_add(order.loop, on_stop, &order, &order.timers[2]);
	sluice_timer_set(order.timers[0], now_ns + 4 * SLUICE_NS_PER_MS);
	sluice_timer_set(order.timers[1], now_ns + 2 * SLUICE_NS_PER_MS);
	sluice_timer_set(order.timers[2], now_ns + 6 * SLUICE_NS_PER_MS);
	CU_ASSERT_EQUAL(sluice_loop_run(order.loop), 42);
	CU_ASSERT_STRING_EQUAL(order.seen, "ba");
	CU_ASSERT_TRUE(sluice_now_ns() - now_ns >= 6 * SLUICE_NS_PER_MS);
	sluice_loop_destroy(order.loop);
}

static void test_timer_moved_and_off(void)
{
	struct order order = {.loop = new_loop()};

	sluice_timer_add(order.loop, on_a, &order, &order.timers[0]);
	sluice_timer_add(order.loop, on_b, &order, &order.timers[1]);
	sluice_timer_set(order.timers[0], 1);
	sluice_timer_set(order.timers[0], SLUICE_NEVER);
	sluice_timer_set(order.timers[1], sluice_now_ns() + 3600 * SLUICE_NS_PER_S);
	sluice_timer_set(order.timers[1], 1);
	sluice_loop_turn(order.loop, 0);
	sluice_loop_turn(order.loop, 0);
	CU_ASSERT_STRING_EQUAL(order.seen, "b"); /* once: timers are one-shot */
	sluice_loop_destroy(order.loop);
}

/* A timer that sets itself to now runs once per turn; a turn always ends. */
static void on_again(void *ctx, uint64_t now_ns)
{
	struct order *order = ctx;

	note(order, 'r');
	sluice_timer_set(order->timers[0], now_ns);
}

static void test_timer_rearmed(void)
{
	struct order order = {.loop = new_loop()};

	sluice_timer_add(order.loop, on_again, &order, &order.timers[0]);
	sluice_timer_set(order.timers[0], 1);
	for (int i = 0; i < 3; i++)
		sluice_loop_turn(order.loop, -1);
	CU_ASSERT_STRING_EQUAL(order.seen, "rrr");
	sluice_loop_destroy(order.loop);
}

/* A due timer removes itself and the next due one. */
static void on_remove_both(void *ctx, uint64_t now_ns)
{
	struct order *order = ctx;

	(void)now_ns;
	note(order, 'x');
	sluice_timer_remove(order->timers[0]);
	sluice_timer_remove(order->timers[1]);
}

static void test_timer_removed_while_due(void)
{
	struct order order = {.loop = new_loop()};

	sluice_timer_add(order.loop, on_remove_both, &order, &order.timers[0]);
	sluice_timer_add(order.loop, on_b, &order, &order.timers[1]);
	sluice_timer_set(order.timers[0], 1);
	sluice_timer_set(order.timers[1], 2);
	sluice_loop_turn(order.loop, 0);
	sluice_loop_turn(order.loop, 0);
	CU_ASSERT_STRING_EQUAL(order.seen, "x");
	sluice_loop_destroy(order.loop);
}

/* ---- watches ---- */

struct two {
	struct sluice_watch *watches[2];
	int calls;
};

static void on_remove_two(void *ctx, uint32_t events)
{
	struct two *two = ctx;

	(void)events;
	two->calls++;
	sluice_watch_remove(two->watches[0]);
	sluice_watch_remove(two->watches[1]);
}

/* Both are ready in one batch; the first removes both: the second must not run. */
static void test_watch_removed_in_batch(void)
{
	struct sluice_loop *loop = new_loop();
	struct two two = {.calls = 0};
	int a[2], b[2];

	CU_ASSERT_EQUAL_FATAL(pipe(a), 0);
	CU_ASSERT_EQUAL_FATAL(pipe(b), 0);
	CU_ASSERT_EQUAL(write(a[1], "x", 1), 1);
	CU_ASSERT_EQUAL(write(b[1], "x", 1), 1);
	CU_ASSERT_EQUAL(
		sluice_watch_add(loop, a[0], EPOLLIN, on_remove_two, &two, &two.watches[0]), 0);
	CU_ASSERT_EQUAL(
		sluice_watch_add(loop, b[0], EPOLLIN, on_remove_two, &two, &two.watches[1]), 0);
	sluice_loop_turn(loop, 100);
	sluice_loop_turn(loop, 0);
	CU_ASSERT_EQUAL(two.calls, 1);
	for (int i = 0; i < 2; i++) {
		close(a[i]);
		close(b[i]);
	}
	sluice_loop_destroy(loop);
}

static void on_count(void *ctx, uint32_t events)
{
	(void)events;
	(*(int *)ctx)++;
}

static void test_watch_events(void)
{
	struct sluice_loop *loop = new_loop();
	struct sluice_watch *watch;
	int calls = 0;
	int fds[2];

	CU_ASSERT_EQUAL_FATAL(pipe(fds), 0);
	CU_ASSERT_EQUAL(sluice_watch_add(loop, fds[1], 0, on_count, &calls, &watch), 0);
	sluice_loop_turn(loop, 0);
	CU_ASSERT_EQUAL(calls, 0);
	sluice_watch_events(watch, EPOLLOUT);
	sluice_loop_turn(loop, 0);
	CU_ASSERT_EQUAL(calls, 1);
	sluice_watch_events(watch, 0);
	sluice_loop_turn(loop, 0);
	CU_ASSERT_EQUAL(calls, 1);
	sluice_watch_remove(watch);
	CU_ASSERT_EQUAL(sluice_watch_add(loop, -1, EPOLLIN, on_count, &calls, &watch), -EBADF);
	close(fds[0]);
	close(fds[1]);
	sluice_loop_destroy(loop);
}

/* ---- wakes ---- */

struct waked {
	struct sluice_loop *loop;
	int wakes;
};

static void on_wake(void *ctx, uint64_t now_ns)
{
	struct waked *waked = ctx;

	(void)now_ns;
	waked->wakes++;
	sluice_loop_stop(waked->loop, waked->wakes);
}

static void *wake_thread(void *ctx)
{
	struct waked *waked = ctx;

	usleep(5000);
	sluice_loop_wake(waked->loop);
	return NULL;
}

static void test_wake(void)
{
	struct waked waked = {.loop = new_loop()};
	pthread_t thread;

	sluice_loop_on_wake(waked.loop, on_wake, &waked);
	for (int i = 1; i <= 3; i++) {
		CU_ASSERT_EQUAL_FATAL(pthread_create(&thread, NULL, wake_thread, &waked), 0);
		CU_ASSERT_EQUAL(sluice_loop_run(waked.loop), i);
		pthread_join(thread, NULL);
	}
	errno = 7; /* as in a signal handler */
	sluice_loop_wake(waked.loop);
	sluice_loop_wake(waked.loop);
	CU_ASSERT_EQUAL(errno, 7);
	sluice_loop_turn(waked.loop, 0);
	sluice_loop_turn(waked.loop, 0);
	CU_ASSERT_EQUAL(waked.wakes, 4); /* two wakes before a turn are one */
	sluice_loop_destroy(waked.loop);
}

static void test_idle_uses_no_cpu(void)
{
	struct order order = {.loop = new_loop()};
	uint64_t cpu_ns;

	sluice_timer_add(order.loop, on_stop, &order, &order.timers[0]);
	sluice_timer_set(order.timers[0], sluice_now_ns() + 200 * SLUICE_NS_PER_MS);
	cpu_ns = sluice_clock_read(CLOCK_PROCESS_CPUTIME_ID);
	sluice_loop_run(order.loop);
	cpu_ns = sluice_clock_read(CLOCK_PROCESS_CPUTIME_ID) - cpu_ns;
	CU_ASSERT_TRUE(cpu_ns < 100 * SLUICE_NS_PER_MS); /* waiting busily takes all 200 */
	sluice_loop_destroy(order.loop);
}

int main(void)
{
	static const struct unit_test tests[] = {
		{"timers run in order", test_timer_order},
		{"timers move and stop", test_timer_moved_and_off},
		{"a timer sets itself again", test_timer_rearmed},
		{"a due timer is removed", test_timer_removed_while_due},
		{"a watch is removed in its batch", test_watch_removed_in_batch},
		{"watched events change", test_watch_events},
		{"wakes", test_wake},
		{"idle", test_idle_uses_no_cpu},
		{0},
	};

	return unit_run("loop", tests);
}
