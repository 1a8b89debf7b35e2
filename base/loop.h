/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * loop.h: an event loop for one thread: descriptors (epoll) and timers.
 *
 * Threading: everything is called by the loop's own thread, except
 * sluice_loop_wake(), which any thread (and a signal handler) may call.
 * An idle loop sleeps without a time-out and uses no CPU.
 */
#ifndef SLUICE_BASE_LOOP_H
#define SLUICE_BASE_LOOP_H

#include <stdbool.h>
#include <stdint.h>

struct sluice_loop;
struct sluice_watch; /* a descriptor being watched */
struct sluice_timer;

/* @events: EPOLLIN, EPOLLOUT, EPOLLERR, EPOLLHUP. The handler may remove its own watch. */
typedef void sluice_watch_fn(void *ctx, uint32_t events);
typedef void sluice_timer_fn(void *ctx, uint64_t now_ns);

int sluice_loop_create(struct sluice_loop **ret_loop);
void sluice_loop_destroy(struct sluice_loop *loop);

/* Run handlers until sluice_loop_stop(). Returns the code given to stop. */
int sluice_loop_run(struct sluice_loop *loop);
/* One turn: wait at most @timeout_ms (-1: until something happens), run what is due. */
void sluice_loop_turn(struct sluice_loop *loop, int timeout_ms);
void sluice_loop_stop(struct sluice_loop *loop, int code);
/* Make the loop turn soon; the on_wake handler runs. Async-signal-safe, any thread. */
void sluice_loop_wake(struct sluice_loop *loop);
void sluice_loop_on_wake(struct sluice_loop *loop, sluice_timer_fn *fn, void *ctx);

/* The loop does not own @fd: remove the watch before closing it. */
int sluice_watch_add(struct sluice_loop *loop, int fd, uint32_t events, sluice_watch_fn *fn,
	void *ctx, struct sluice_watch **ret_watch);
void sluice_watch_events(struct sluice_watch *watch, uint32_t events);
void sluice_watch_remove(struct sluice_watch *watch); /* NULL is allowed */

/* One-shot timers on CLOCK_MONOTONIC. Setting a set timer moves it. */
int sluice_timer_add(
	struct sluice_loop *loop, sluice_timer_fn *fn, void *ctx, struct sluice_timer **ret_timer);
void sluice_timer_set(struct sluice_timer *timer, uint64_t at_ns); /* SLUICE_NEVER: off */
void sluice_timer_remove(struct sluice_timer *timer); /* NULL is allowed */

#endif
