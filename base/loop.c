/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * loop.c: the event loop of loop.h on epoll, with an eventfd for wakes.
 *
 * Handlers run one after the other on the loop's thread and may add and remove any
 * watch or timer, their own included. A watch that is removed stays allocated until
 * the turn is over, because the batch epoll returned may still point to it.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/queue.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/loop.h"

#define EVENTS_PER_TURN 32

struct sluice_watch {
	LIST_ENTRY(sluice_watch) link; /* in loop->watches or loop->removed */
	struct sluice_loop *loop;
	sluice_watch_fn *fn; /* NULL: removed */
	void *ctx;
	uint32_t events;
	int fd;
};

struct sluice_timer {
	LIST_ENTRY(sluice_timer) link; /* in one of the loop's three lists */
	struct sluice_loop *loop;
	sluice_timer_fn *fn;
	void *ctx;
	uint64_t at_ns;
};

LIST_HEAD(watch_list, sluice_watch);
LIST_HEAD(timer_list, sluice_timer);

struct sluice_loop {
	struct watch_list watches, removed;
	struct timer_list set; /* soonest first */
	struct timer_list due; /* taken out of `set` by the running turn */
	struct timer_list off;
	sluice_timer_fn *wake_fn;
	void *wake_ctx;
	int epoll_fd, wake_fd;
	bool in_turn, stopped;
	int code;
};

int sluice_loop_create(struct sluice_loop **ret_loop)
{
	struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
	struct sluice_loop *loop = calloc(1, sizeof(*loop));
	int rc;

	if (loop == NULL)
		return -ENOMEM;
	LIST_INIT(&loop->watches);
	LIST_INIT(&loop->removed);
	LIST_INIT(&loop->set);
	LIST_INIT(&loop->due);
	LIST_INIT(&loop->off);
	loop->wake_fd = -1;
	loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (loop->epoll_fd < 0)
		goto out_destroy;
	loop->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (loop->wake_fd < 0)
		goto out_destroy;
	if (epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, loop->wake_fd, &event) < 0)
		goto out_destroy;
	*ret_loop = loop;
	return 0;

out_destroy:
	rc = -errno;
	sluice_loop_destroy(loop);
	return rc;
}

static void free_watches(struct watch_list *list)
{
	struct sluice_watch *watch;

	while ((watch = LIST_FIRST(list)) != NULL) {
		LIST_REMOVE(watch, link);
		free(watch);
	}
}

static void free_timers(struct timer_list *list)
{
	struct sluice_timer *timer;

	while ((timer = LIST_FIRST(list)) != NULL) {
		LIST_REMOVE(timer, link);
		free(timer);
	}
}

void sluice_loop_destroy(struct sluice_loop *loop)
{
	if (loop == NULL)
		return;
	SLUICE_ASSERT(!loop->in_turn);
	free_watches(&loop->watches);
	free_watches(&loop->removed);
	free_timers(&loop->set);
	free_timers(&loop->due);
	free_timers(&loop->off);
	if (loop->wake_fd >= 0)
		close(loop->wake_fd);
	if (loop->epoll_fd >= 0)
		close(loop->epoll_fd);
	free(loop);
}

/* How long to wait: until the first timer, at most @timeout_ms; NULL: without end. */
static const struct timespec *wait_time(
	const struct sluice_loop *loop, int timeout_ms, struct timespec *store)
{
	const struct sluice_timer *first = LIST_FIRST(&loop->set);
	uint64_t wait_ns = SLUICE_NEVER;

	if (timeout_ms >= 0)
		wait_ns = (uint64_t)timeout_ms * SLUICE_NS_PER_MS;
	if (first != NULL) {
		uint64_t now_ns = sluice_now_ns();
		uint64_t left_ns = first->at_ns > now_ns ? first->at_ns - now_ns : 0;

		if (left_ns < wait_ns)
			wait_ns = left_ns;
	}
	if (wait_ns == SLUICE_NEVER)
		return NULL;
	store->tv_sec = (time_t)(wait_ns / SLUICE_NS_PER_S);
	store->tv_nsec = (long)(wait_ns % SLUICE_NS_PER_S);
	return store;
}

static void run_wake(struct sluice_loop *loop)
{
	uint64_t count;

	/* Emptied before the handler runs: a wake during the handler makes another turn. */
	if (read(loop->wake_fd, &count, sizeof(count)) < 0)
		return;
	if (loop->wake_fn != NULL)
		loop->wake_fn(loop->wake_ctx, sluice_now_ns());
}

/* Timers set by a handler run in the next turn at the earliest, so that no turn is endless. */
static void run_timers(struct sluice_loop *loop)
{
	uint64_t now_ns = sluice_now_ns();
	struct sluice_timer *timer, *last = NULL;

	while ((timer = LIST_FIRST(&loop->set)) != NULL && timer->at_ns <= now_ns) {
		LIST_REMOVE(timer, link);
		if (last == NULL)
			LIST_INSERT_HEAD(&loop->due, timer, link);
		else
			LIST_INSERT_AFTER(last, timer, link);
		last = timer;
	}
	while ((timer = LIST_FIRST(&loop->due)) != NULL) {
		LIST_REMOVE(timer, link);
		LIST_INSERT_HEAD(&loop->off, timer, link);
		timer->at_ns = SLUICE_NEVER;
		timer->fn(timer->ctx, now_ns); /* may free the timer */
	}
}

void sluice_loop_turn(struct sluice_loop *loop, int timeout_ms)
{
	struct epoll_event events[EVENTS_PER_TURN];
	struct timespec store;
	int count;

	SLUICE_ASSERT(!loop->in_turn);
	loop->in_turn = true;
	count = epoll_pwait2(
		loop->epoll_fd, events, EVENTS_PER_TURN, wait_time(loop, timeout_ms, &store), NULL);
	if (count < 0)
		SLUICE_ASSERT(errno == EINTR);
	for (int i = 0; i < count; i++) {
		struct sluice_watch *watch = events[i].data.ptr;

		if (watch == NULL)
			run_wake(loop);
		else if (watch->fn != NULL)
			watch->fn(watch->ctx, events[i].events);
	}
	run_timers(loop);
	free_watches(&loop->removed);
	loop->in_turn = false;
}

int sluice_loop_run(struct sluice_loop *loop)
{
	loop->stopped = false;
	while (!loop->stopped)
		sluice_loop_turn(loop, -1);
	return loop->code;
}

void sluice_loop_stop(struct sluice_loop *loop, int code)
{
	loop->stopped = true;
	loop->code = code;
}

void sluice_loop_wake(struct sluice_loop *loop)
{
	int saved_errno = errno; /* a signal handler must not change it */
	uint64_t one = 1;
	ssize_t done = write(loop->wake_fd, &one, sizeof(one));

	(void)done; /* fails only when the counter is full: then it is readable anyway */
	errno = saved_errno;
}

void sluice_loop_on_wake(struct sluice_loop *loop, sluice_timer_fn *fn, void *ctx)
{
	loop->wake_fn = fn;
	loop->wake_ctx = ctx;
}

int sluice_watch_add(struct sluice_loop *loop, int fd, uint32_t events, sluice_watch_fn *fn,
	void *ctx, struct sluice_watch **ret_watch)
{
	struct sluice_watch *watch = calloc(1, sizeof(*watch));
	struct epoll_event event = {.events = events, .data.ptr = watch};

	SLUICE_ASSERT(fn != NULL);
	if (watch == NULL)
		return -ENOMEM;
	if (epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0) {
		int rc = -errno;

		free(watch);
		return rc;
	}
	watch->loop = loop;
	watch->fd = fd;
	watch->fn = fn;
	watch->ctx = ctx;
	watch->events = events;
	LIST_INSERT_HEAD(&loop->watches, watch, link);
	*ret_watch = watch;
	return 0;
}

void sluice_watch_events(struct sluice_watch *watch, uint32_t events)
{
	struct epoll_event event = {.events = events, .data.ptr = watch};
	int rc;

	SLUICE_ASSERT(watch->fn != NULL);
	if (watch->events == events)
		return;
	rc = epoll_ctl(watch->loop->epoll_fd, EPOLL_CTL_MOD, watch->fd, &event);
	SLUICE_ASSERT(rc == 0);
	watch->events = events;
}

void sluice_watch_remove(struct sluice_watch *watch)
{
	int rc;

	if (watch == NULL)
		return;
	SLUICE_ASSERT(watch->fn != NULL);
	rc = epoll_ctl(watch->loop->epoll_fd, EPOLL_CTL_DEL, watch->fd, NULL);
	SLUICE_ASSERT(rc == 0); /* otherwise the descriptor was closed first */
	watch->fn = NULL;
	LIST_REMOVE(watch, link);
	if (watch->loop->in_turn)
		LIST_INSERT_HEAD(&watch->loop->removed, watch, link);
	else
		free(watch);
}

int sluice_timer_add(
	struct sluice_loop *loop, sluice_timer_fn *fn, void *ctx, struct sluice_timer **ret_timer)
{
	struct sluice_timer *timer = calloc(1, sizeof(*timer));

	SLUICE_ASSERT(fn != NULL);
	if (timer == NULL)
		return -ENOMEM;
	timer->loop = loop;
	timer->fn = fn;
	timer->ctx = ctx;
	timer->at_ns = SLUICE_NEVER;
	LIST_INSERT_HEAD(&loop->off, timer, link);
	*ret_timer = timer;
	return 0;
}

/* A sorted list, not a heap: a process has about ten timers. */
static void insert_sorted(struct timer_list *list, struct sluice_timer *timer)
{
	struct sluice_timer *other, *before = NULL;

	LIST_FOREACH(other, list, link)
	{
		if (other->at_ns > timer->at_ns)
			break;
		before = other;
	}
	if (before == NULL)
		LIST_INSERT_HEAD(list, timer, link);
	else
		LIST_INSERT_AFTER(before, timer, link);
}

void sluice_timer_set(struct sluice_timer *timer, uint64_t at_ns)
{
	LIST_REMOVE(timer, link);
	timer->at_ns = at_ns;
	if (at_ns == SLUICE_NEVER)
		LIST_INSERT_HEAD(&timer->loop->off, timer, link);
	else
		insert_sorted(&timer->loop->set, timer);
}

void sluice_timer_remove(struct sluice_timer *timer)
{
	if (timer == NULL)
		return;
	LIST_REMOVE(timer, link);
	free(timer);
}
