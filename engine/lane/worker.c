/* SPDX-License-Identifier: BSD-3-Clause */
/* worker.c: see worker.h. The thread's half is above, control's below. */
#include "engine/lane/worker.h"

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"
#include "engine/lane/lane.h"

#define NOTE_CORE_TURNS 1024 /* where a worker runs is looked at so often: it costs some ns */
#define REST_TURNS      8 /* idle in a row, while others are busy: then a lane rests */
#define EVENTS_PER_LOOK 32
#define WAKE_EVENT      UINT64_MAX /* the worker's own descriptor */

static void relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ __volatile__("yield" ::: "memory");
#endif
}

/* Between "I published" or "I sleep" and the look at what the other side did. */
static void full_fence(void)
{
#ifdef __SANITIZE_THREAD__
	static uint32_t shared; /* ThreadSanitizer does not know fences; this orders as much */

	__atomic_fetch_add(&shared, 1, __ATOMIC_SEQ_CST);
#else
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
#endif
}

/* ---- lanes that rest ---- */

static void rouse(struct sluice_worker *w, struct sluice_worker_lane *slot)
{
	if (!slot->rests)
		return;
	slot->rests = false;
	slot->idle_turns = 0;
	w->resting_count--;
}

/* For one step: what there was to see when they were woken shows in that. */
static void rouse_to_look(struct sluice_worker *w, struct sluice_worker_lane *slot)
{
	if (!slot->rests)
		return;
	rouse(w, slot);
	slot->idle_turns = REST_TURNS - 1;
}

static void rouse_all(struct sluice_worker *w)
{
	for (uint32_t i = 0; i < w->lane_count; i++)
		rouse_to_look(w, &w->lanes[i]);
	w->rest_until_ns = SLUICE_NEVER;
}

/* Those that rested only because the worker slept. */
static void rouse_pollers(struct sluice_worker *w)
{
	for (uint32_t i = 0; i < w->lane_count; i++)
		if (!sluice_lane_rests_cheaply(w->lanes[i].lane))
			rouse(w, &w->lanes[i]);
}

/* Those whose time has come; and when the next one's will. */
static void rouse_due(struct sluice_worker *w, uint64_t now_ns)
{
	w->rest_until_ns = SLUICE_NEVER;
	for (uint32_t i = 0; i < w->lane_count; i++) {
		struct sluice_worker_lane *slot = &w->lanes[i];

		if (!slot->rests)
			continue;
		if (slot->deadline_ns <= now_ns)
			rouse_to_look(w, slot);
		else if (slot->deadline_ns < w->rest_until_ns)
			w->rest_until_ns = slot->deadline_ns;
	}
}

/* An event names the slot, and the set of lanes that it was asked for: slots are given anew with
   each set. What an earlier set asked for comes once at most, and is nobody's. */
static uint64_t event_name(const struct sluice_worker *w, uint32_t slot)
{
	return w->seen_generation << 32 | slot;
}

/* Look for up to @timeout; NULL: for ever. */
static void look(struct sluice_worker *w, const struct timespec *timeout)
{
	struct epoll_event events[EVENTS_PER_LOOK];
	int count = epoll_pwait2(w->epoll_fd, events, EVENTS_PER_LOOK, timeout, NULL);

	SLUICE_ASSERT(count >= 0 || errno == EINTR);
	for (int i = 0; i < count; i++) {
		uint32_t slot = (uint32_t)events[i].data.u64;
		uint64_t drained;

		if (events[i].data.u64 == WAKE_EVENT)
			while (read(w->wake_fd, &drained, sizeof(drained)) < 0 && errno == EINTR)
				;
		else if (slot < w->lane_count && events[i].data.u64 == event_name(w, slot))
			rouse(w, &w->lanes[slot]);
	}
}

/* Ask once for the descriptor. A lane's may be another one each time, and an earlier one closed. */
static bool watch(struct sluice_worker *w, uint32_t slot, const struct sluice_arm *arm)
{
	struct epoll_event event = {
		.events = EPOLLONESHOT | (arm->events & POLLIN ? (uint32_t)EPOLLIN : 0) |
			  (arm->events & POLLOUT ? (uint32_t)EPOLLOUT : 0),
		.data.u64 = event_name(w, slot),
	};

	return arm->fd < 0 || epoll_ctl(w->epoll_fd, EPOLL_CTL_MOD, arm->fd, &event) == 0 ||
	       (errno == ENOENT && epoll_ctl(w->epoll_fd, EPOLL_CTL_ADD, arm->fd, &event) == 0);
}

/* Behind a step that was idle. False when the lane does not want to rest. */
static bool rest(struct sluice_worker *w, uint32_t slot)
{
	struct sluice_worker_lane *entry = &w->lanes[slot];
	struct sluice_arm arm;

	if (entry->rests)
		return true;
	if (!sluice_lane_arm(entry->lane, &arm) || !watch(w, slot, &arm))
		return false;
	entry->rests = true;
	entry->deadline_ns = arm.deadline_ns;
	w->resting_count++;
	if (arm.deadline_ns < w->rest_until_ns)
		w->rest_until_ns = arm.deadline_ns;
	return true;
}

/* ---- turns ---- */

static void adopt(struct sluice_worker *w)
{
	uint64_t inflight_bytes = 0;

	pthread_mutex_lock(&w->lock);
	for (uint32_t i = 0; i < w->wanted_count; i++) {
		w->lanes[i] = (struct sluice_worker_lane){.lane = w->wanted[i]};
		inflight_bytes += sluice_lane_inflight_bytes(w->wanted[i]);
	}
	w->lane_count = w->wanted_count;
	w->resting_count = 0;
	w->inflight_bytes = inflight_bytes;
	w->rest_until_ns = SLUICE_NEVER;
	w->seen_generation = w->wanted_generation;
	__atomic_store_n(&w->changed, 0, __ATOMIC_RELAXED);
	pthread_cond_broadcast(&w->cond);
	pthread_mutex_unlock(&w->lock);
}

static bool step(struct sluice_worker *w, uint32_t slot, uint64_t now_ns)
{
	struct sluice_worker_lane *entry = &w->lanes[slot];
	uint64_t before;
	bool busy;

	if (entry->rests)
		return false;
	before = sluice_lane_inflight_bytes(entry->lane);
	/* One that is alone has its own window. */
	busy = sluice_lane_step(entry->lane, now_ns, w->lane_count > 1 ? w->inflight_bytes : 0);
	w->inflight_bytes += sluice_lane_inflight_bytes(entry->lane) - before;
	if (busy) {
		entry->idle_turns = 0;
		return true;
	}
	if (++entry->idle_turns >= REST_TURNS && sluice_lane_rests_cheaply(entry->lane))
		rest(w, slot);
	return false;
}

/*
 * Under a bandwidth limit the lane that asks first gets what there is. Which one that is is drawn
 * anew each turn: else those stepped last could keep a chunk half sent for as long as the limit
 * lasts, and turns in a fixed order, whatever it is, can fall into step with the limit.
 */
static bool step_all(struct sluice_worker *w, uint64_t now_ns)
{
	uint32_t first = (uint32_t)sluice_random_below(&w->random, w->lane_count);
	bool busy = false;

	for (uint32_t i = first; i < w->lane_count; i++)
		busy |= step(w, i, now_ns);
	for (uint32_t i = 0; i < first; i++)
		busy |= step(w, i, now_ns);
	return busy;
}

static bool turn(struct sluice_worker *w, uint64_t now_ns)
{
	static const struct timespec at_once;

	if (__atomic_load_n(&w->woken, __ATOMIC_RELAXED) != 0 &&
		__atomic_exchange_n(&w->woken, 0, __ATOMIC_SEQ_CST) != 0)
		rouse_all(w);
	if (w->rest_until_ns <= now_ns)
		rouse_due(w, now_ns);
	if (w->resting_count > 0)
		look(w, &at_once);
	return step_all(w, now_ns);
}

/* Account the time since the last turn to all lanes, busy or idle as the turn was. */
static void account(struct sluice_worker *w, bool busy, uint64_t elapsed_ns)
{
	for (uint32_t i = 0; i < w->lane_count; i++) {
		struct sluice_lane_counters *c = sluice_lane_counters_for_worker(w->lanes[i].lane);

		if (busy)
			SLUICE_COUNT_ADD(c->busy_ns, elapsed_ns / w->lane_count);
		else
			SLUICE_COUNT_ADD(c->idle_ns, elapsed_ns);
	}
}

/* ---- sleep ---- */

/*
 * Polling pays only where work comes before it ends: it takes the core from whoever makes that
 * work. So a worker expects of its next wait what it saw of the last ones: after a sleep that
 * polling would have seen the end of, it polls for as long as it may; each longer one halves that.
 */
static void learn(struct sluice_worker *w, uint64_t slept_ns)
{
	uint64_t most_ns = w->opts->spin_ns + w->opts->yield_ns;

	__atomic_store_n(&w->patience_ns, slept_ns <= most_ns ? most_ns : w->patience_ns / 2,
		__ATOMIC_RELAXED);
}

static void sleep_now(struct sluice_worker *w)
{
	uint64_t now_ns = sluice_now_ns();
	struct timespec timeout = {0};

	if (w->rest_until_ns > now_ns) {
		timeout.tv_sec = (time_t)((w->rest_until_ns - now_ns) / SLUICE_NS_PER_S);
		timeout.tv_nsec = (long)((w->rest_until_ns - now_ns) % SLUICE_NS_PER_S);
	}
	SLUICE_COUNT_ADD(w->sleeps, 1);
	look(w, w->rest_until_ns == SLUICE_NEVER ? NULL : &timeout);
	learn(w, sluice_now_ns() - now_ns);
	rouse_pollers(w);
}

/*
 * Sleep until there may be work. `sleeping` is set before the last look at `woken`, and
 * sluice_worker_wake() looks at it after it has set that: one of the two sees the other. Work that
 * a lane could have seen in its last step was published before that wake.
 */
static void go_to_sleep(struct sluice_worker *w)
{
	for (uint32_t i = 0; i < w->lane_count; i++) {
		if (!rest(w, i)) {
			sched_yield(); /* perhaps to who it waits for: control has its mailbox */
			return;
		}
	}
	__atomic_store_n(&w->sleeping, 1, __ATOMIC_SEQ_CST);
	full_fence();
	if (__atomic_load_n(&w->changed, __ATOMIC_SEQ_CST) == 0 &&
		__atomic_load_n(&w->stop, __ATOMIC_SEQ_CST) == 0 &&
		__atomic_load_n(&w->woken, __ATOMIC_SEQ_CST) == 0)
		sleep_now(w);
	__atomic_store_n(&w->sleeping, 0, __ATOMIC_SEQ_CST);
}

/* ---- the thread ---- */

static void note_core(struct sluice_worker *w)
{
	unsigned int core, node;

	if (getcpu(&core, &node) == 0) {
		__atomic_store_n(&w->core, (int)core, __ATOMIC_RELAXED);
		__atomic_store_n(&w->node, (int)node, __ATOMIC_RELAXED);
	}
}

/* Before its first step; whoever started the worker waits for it, and then knows the thread. */
static void report_for_work(struct sluice_worker *w)
{
	note_core(w);
	pthread_mutex_lock(&w->lock);
	__atomic_store_n(&w->thread, (int)gettid(), __ATOMIC_RELAXED);
	pthread_cond_broadcast(&w->cond);
	pthread_mutex_unlock(&w->lock);
}

static void *worker_main(void *arg)
{
	struct sluice_worker *w = arg;
	uint64_t turns = 0;
	uint64_t last_ns = sluice_now_ns();
	uint64_t busy_until_ns = last_ns;

	report_for_work(w);
	while (__atomic_load_n(&w->stop, __ATOMIC_ACQUIRE) == 0) {
		uint64_t now_ns = sluice_now_ns();
		uint64_t idle_ns;
		bool busy;

		if (__atomic_load_n(&w->changed, __ATOMIC_ACQUIRE) != 0)
			adopt(w);
		busy = turn(w, now_ns);
		account(w, busy, now_ns - last_ns);
		last_ns = now_ns;
		if (turns++ % NOTE_CORE_TURNS == 0)
			note_core(w);
		if (busy) {
			busy_until_ns = now_ns;
			continue;
		}
		idle_ns = now_ns - busy_until_ns;
		if (!w->opts->busy_poll && idle_ns >= w->patience_ns)
			go_to_sleep(w);
		else if (w->opts->busy_poll || idle_ns < w->opts->spin_ns)
			relax();
		else
			sched_yield();
	}
	return NULL;
}

/* ---- control ---- */

void sluice_worker_init(struct sluice_worker *w, const struct sluice_crew_opts *opts, uint64_t seed)
{
	*w = (struct sluice_worker){
		.opts = opts,
		.epoll_fd = -1,
		.wake_fd = -1,
		.core = -1,
		.node = -1,
		.rest_until_ns = SLUICE_NEVER,
		.patience_ns = opts->spin_ns + opts->yield_ns,
	};
	sluice_random_seed(&w->random, seed);
	pthread_mutex_init(&w->lock, NULL);
	pthread_cond_init(&w->cond, NULL);
}

/* Bound before it runs: its stack is touched on its own node. */
static int create_thread(struct sluice_worker *w, const struct sluice_cpus *cpus)
{
	pthread_attr_t attr;
	int r = pthread_attr_init(&attr);

	if (r != 0)
		return -r;
	if (cpus != NULL && !sluice_cpus_is_empty(cpus))
		r = pthread_attr_setaffinity_np(
			&attr, sizeof(cpus->words), (const cpu_set_t *)(const void *)cpus->words);
	if (r == 0)
		r = pthread_create(&w->thread_handle, &attr, worker_main, w);
	pthread_attr_destroy(&attr);
	return -r;
}

static int open_descriptors(struct sluice_worker *w)
{
	struct epoll_event event = {.events = EPOLLIN, .data.u64 = WAKE_EVENT};

	w->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (w->epoll_fd < 0)
		return -errno;
	w->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (w->wake_fd < 0 || epoll_ctl(w->epoll_fd, EPOLL_CTL_ADD, w->wake_fd, &event) < 0)
		return -errno;
	return 0;
}

int sluice_worker_start(struct sluice_worker *w, const char *name, const struct sluice_cpus *cpus)
{
	int r = open_descriptors(w);

	if (r == 0)
		r = create_thread(w, cpus);
	if (r < 0)
		return r;
	w->started = true;
	pthread_setname_np(w->thread_handle, name);
	pthread_mutex_lock(&w->lock);
	while (w->thread == 0)
		pthread_cond_wait(&w->cond, &w->lock);
	pthread_mutex_unlock(&w->lock);
	return 0;
}

void sluice_worker_wake(struct sluice_worker *w)
{
	uint64_t one = 1;

	__atomic_store_n(&w->woken, 1, __ATOMIC_SEQ_CST);
	full_fence();
	if (!w->started || __atomic_load_n(&w->sleeping, __ATOMIC_SEQ_CST) == 0)
		return;
	/* Fails only when the counter is full: then it is readable already. */
	if (write(w->wake_fd, &one, sizeof(one)) < 0)
		SLUICE_ASSERT(errno == EAGAIN);
}

void sluice_worker_fini(struct sluice_worker *w)
{
	SLUICE_ASSERT(w->wanted_count == 0);
	if (w->started) {
		__atomic_store_n(&w->stop, 1, __ATOMIC_SEQ_CST);
		sluice_worker_wake(w);
		pthread_join(w->thread_handle, NULL);
	}
	if (w->wake_fd >= 0)
		close(w->wake_fd);
	if (w->epoll_fd >= 0)
		close(w->epoll_fd);
	pthread_mutex_destroy(&w->lock);
	pthread_cond_destroy(&w->cond);
}

/* Tell the worker about its new lanes; under the lock. */
static void publish(struct sluice_worker *w)
{
	w->wanted_generation++;
	__atomic_store_n(&w->changed, 1, __ATOMIC_SEQ_CST);
	sluice_worker_wake(w);
}

/* Until it steps exactly those; under the lock. */
static void wait_for(struct sluice_worker *w)
{
	uint64_t generation = w->wanted_generation;

	while (w->started && w->seen_generation < generation)
		pthread_cond_wait(&w->cond, &w->lock);
}

int sluice_worker_add(struct sluice_worker *w, struct sluice_lane *lane)
{
	if (w->wanted_count == SLUICE_CREW_LANES_PER_WORKER_MAX)
		return -ENOSPC;
	pthread_mutex_lock(&w->lock);
	w->wanted[w->wanted_count++] = lane;
	publish(w);
	pthread_mutex_unlock(&w->lock);
	return 0;
}

bool sluice_worker_has(const struct sluice_worker *w, const struct sluice_lane *lane)
{
	for (uint32_t i = 0; i < w->wanted_count; i++)
		if (w->wanted[i] == lane)
			return true;
	return false;
}

bool sluice_worker_remove(struct sluice_worker *w, struct sluice_lane *lane)
{
	bool found = false;

	pthread_mutex_lock(&w->lock);
	for (uint32_t i = 0; i < w->wanted_count && !found; i++) {
		if (w->wanted[i] != lane)
			continue;
		w->wanted[i] = w->wanted[--w->wanted_count];
		found = true;
		publish(w);
		wait_for(w);
	}
	pthread_mutex_unlock(&w->lock);
	return found;
}

void sluice_worker_clear(struct sluice_worker *w)
{
	pthread_mutex_lock(&w->lock);
	if (w->wanted_count > 0)
		publish(w);
	w->wanted_count = 0;
	pthread_mutex_unlock(&w->lock);
}

void sluice_worker_wait(struct sluice_worker *w)
{
	pthread_mutex_lock(&w->lock);
	wait_for(w);
	pthread_mutex_unlock(&w->lock);
}

void sluice_worker_stats(struct sluice_worker *w, struct sluice_worker_stats *ret_stats)
{
	clockid_t clock;

	*ret_stats = (struct sluice_worker_stats){
		.thread = __atomic_load_n(&w->thread, __ATOMIC_RELAXED),
		.core = __atomic_load_n(&w->core, __ATOMIC_RELAXED),
		.node = __atomic_load_n(&w->node, __ATOMIC_RELAXED),
		.sleeps = SLUICE_COUNT_READ(w->sleeps),
		.patience_ns = __atomic_load_n(&w->patience_ns, __ATOMIC_RELAXED),
		.lanes = w->wanted_count,
	};
	if (pthread_getcpuclockid(w->thread_handle, &clock) == 0)
		ret_stats->cpu_ns = sluice_clock_read(clock);
}

bool sluice_worker_step(struct sluice_worker *w, uint64_t now_ns)
{
	SLUICE_ASSERT(!w->started);
	adopt(w); /* so that none has been idle for long, and rests */
	return step_all(w, now_ns);
}
