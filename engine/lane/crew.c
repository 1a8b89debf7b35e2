/* SPDX-License-Identifier: BSD-3-Clause */
/* crew.c: workers: threads that step lanes, with adaptive polling. See crew.h. */
#include "engine/lane/crew.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/bits.h"
#include "base/clock.h"
#include "base/random.h"
#include "engine/lane/lane.h"

#define NOTE_CORE_TURNS 1024 /* where a worker runs is looked at so often: it costs some ns */

struct worker {
	struct sluice_crew *crew;
	pthread_t thread_handle;
	bool started;
	int eventfd;
	uint32_t sleeping; /* atomic: it sleeps, or is about to */
	uint32_t changed; /* atomic: `wanted` differs from what the worker steps */
	uint32_t stop; /* atomic */
	int thread; /* kernel's id; atomic, 0 until it runs */
	int core; /* last seen; atomic */
	int node;
	uint64_t sleeps; /* atomic */

	/* What control wants stepped, under the lock; `seen` is the generation in use. */
	pthread_mutex_t lock;
	pthread_cond_t cond;
	struct sluice_lane *wanted[SLUICE_CREW_LANES_PER_WORKER_MAX];
	uint32_t wanted_count;
	uint64_t wanted_generation, seen_generation;

	/* The worker's own. */
	struct sluice_lane *lanes[SLUICE_CREW_LANES_PER_WORKER_MAX];
	uint32_t lane_count;
	uint64_t patience_ns; /* it polls for so long before it sleeps, see learn(); atomic */
	struct sluice_random random;
};

struct sluice_crew {
	struct sluice_crew_opts opts;
	uint32_t worker_count; /* 0 when stepped by hand: workers[0] then only holds the lanes */
	struct worker *workers;
	struct sluice_crew_lane *lanes; /* opts.lanes: our copy */
};

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

static void adopt(struct worker *w)
{
	pthread_mutex_lock(&w->lock);
	memcpy(w->lanes, w->wanted, w->wanted_count * sizeof(w->lanes[0]));
	w->lane_count = w->wanted_count;
	w->seen_generation = w->wanted_generation;
	__atomic_store_n(&w->changed, 0, __ATOMIC_RELAXED);
	pthread_cond_broadcast(&w->cond);
	pthread_mutex_unlock(&w->lock);
}

/*
 * Under a bandwidth limit the lane that asks first gets what there is. Which one that is is drawn
 * anew each turn: else those stepped last could keep a chunk half sent for as long as the limit
 * lasts, and turns in a fixed order, whatever it is, can fall into step with the limit.
 */
static bool step_all(struct worker *w, uint64_t now_ns)
{
	uint32_t first = (uint32_t)sluice_random_below(&w->random, w->lane_count);
	bool busy = false;

	for (uint32_t i = first; i < w->lane_count; i++)
		busy |= sluice_lane_step(w->lanes[i], now_ns);
	for (uint32_t i = 0; i < first; i++)
		busy |= sluice_lane_step(w->lanes[i], now_ns);
	return busy;
}

/* Account the time since the last turn to all lanes, busy or idle as the turn was. */
static void account(struct worker *w, bool busy, uint64_t elapsed_ns)
{
	for (uint32_t i = 0; i < w->lane_count; i++) {
		struct sluice_lane_counters *c = sluice_lane_counters_for_worker(w->lanes[i]);

		if (busy)
			SLUICE_COUNT_ADD(c->busy_ns, elapsed_ns / w->lane_count);
		else
			SLUICE_COUNT_ADD(c->idle_ns, elapsed_ns);
	}
}

/* Collect what the lanes sleep on. False when one of them does not want to sleep. */
static bool arm_all(struct worker *w, struct pollfd *fds, uint64_t *ret_deadline_ns)
{
	*ret_deadline_ns = SLUICE_NEVER;
	fds[0] = (struct pollfd){.fd = w->eventfd, .events = POLLIN};
	for (uint32_t i = 0; i < w->lane_count; i++) {
		struct sluice_arm arm;

		if (!sluice_lane_arm(w->lanes[i], &arm))
			return false;
		fds[1 + i] = (struct pollfd){.fd = arm.fd, .events = arm.events};
		if (arm.deadline_ns < *ret_deadline_ns)
			*ret_deadline_ns = arm.deadline_ns;
	}
	return true;
}

/*
 * Polling pays only where work comes before it ends: it takes the core from whoever makes that
 * work. So a worker expects of its next wait what it saw of the last ones: after a sleep that
 * polling would have seen the end of, it polls for as long as it may; each longer one halves that.
 */
static void learn(struct worker *w, uint64_t slept_ns)
{
	uint64_t most_ns = w->crew->opts.spin_ns + w->crew->opts.yield_ns;

	__atomic_store_n(&w->patience_ns, slept_ns <= most_ns ? most_ns : w->patience_ns / 2,
		__ATOMIC_RELAXED);
}

static void sleep_on(struct worker *w, struct pollfd *fds, uint64_t deadline_ns)
{
	uint64_t now_ns = sluice_now_ns();
	struct timespec timeout = {0};
	uint64_t drained;

	if (deadline_ns > now_ns) {
		timeout.tv_sec = (time_t)((deadline_ns - now_ns) / SLUICE_NS_PER_S);
		timeout.tv_nsec = (long)((deadline_ns - now_ns) % SLUICE_NS_PER_S);
	}
	SLUICE_COUNT_ADD(w->sleeps, 1);
	ppoll(fds, 1 + w->lane_count, deadline_ns == SLUICE_NEVER ? NULL : &timeout, NULL);
	learn(w, sluice_now_ns() - now_ns);
	if (fds[0].revents & POLLIN)
		while (read(w->eventfd, &drained, sizeof(drained)) < 0 && errno == EINTR)
			;
}

/*
 * Sleep until there may be work. `sleeping` is set before the last look at the lanes, and
 * sluice_crew_wake() looks at it after the work was published: one of the two sees the other.
 */
static void go_to_sleep(struct worker *w)
{
	struct pollfd fds[1 + SLUICE_CREW_LANES_PER_WORKER_MAX];
	uint64_t deadline_ns;

	__atomic_store_n(&w->sleeping, 1, __ATOMIC_SEQ_CST);
	full_fence();
	if (__atomic_load_n(&w->changed, __ATOMIC_SEQ_CST) == 0 &&
		__atomic_load_n(&w->stop, __ATOMIC_SEQ_CST) == 0 && !step_all(w, sluice_now_ns()) &&
		arm_all(w, fds, &deadline_ns))
		sleep_on(w, fds, deadline_ns);
	__atomic_store_n(&w->sleeping, 0, __ATOMIC_SEQ_CST);
}

static void note_core(struct worker *w)
{
	unsigned int core, node;

	if (getcpu(&core, &node) == 0) {
		__atomic_store_n(&w->core, (int)core, __ATOMIC_RELAXED);
		__atomic_store_n(&w->node, (int)node, __ATOMIC_RELAXED);
	}
}

/* Before its first step; whoever made the crew waits for it, and then knows the thread. */
static void report_for_work(struct worker *w)
{
	note_core(w);
	pthread_mutex_lock(&w->lock);
	__atomic_store_n(&w->thread, (int)gettid(), __ATOMIC_RELAXED);
	pthread_cond_broadcast(&w->cond);
	pthread_mutex_unlock(&w->lock);
}

static void *worker_main(void *arg)
{
	struct worker *w = arg;
	const struct sluice_crew_opts *opts = &w->crew->opts;
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
		busy = step_all(w, now_ns);
		account(w, busy, now_ns - last_ns);
		last_ns = now_ns;
		if (turns++ % NOTE_CORE_TURNS == 0)
			note_core(w);
		if (busy) {
			busy_until_ns = now_ns;
			continue;
		}
		idle_ns = now_ns - busy_until_ns;
		if (!opts->busy_poll && idle_ns >= w->patience_ns)
			go_to_sleep(w);
		else if (opts->busy_poll || idle_ns < opts->spin_ns)
			relax();
		else
			sched_yield();
	}
	return NULL;
}

static void wake(struct worker *w)
{
	uint64_t one = 1;

	if (__atomic_load_n(&w->sleeping, __ATOMIC_SEQ_CST) == 0)
		return;
	/* Fails only when the counter is full: then it is readable already. */
	if (write(w->eventfd, &one, sizeof(one)) < 0)
		SLUICE_ASSERT(errno == EAGAIN);
}

void sluice_crew_wake(struct sluice_crew *crew)
{
	full_fence();
	for (uint32_t i = 0; i < crew->worker_count; i++)
		wake(&crew->workers[i]);
}

/* Bound before it runs: its stack is touched on its own node. */
static int create_thread(struct worker *w, const struct sluice_cpus *cpus)
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

static int worker_start(struct sluice_crew *crew, uint32_t index)
{
	const struct sluice_cpus *cpus = crew->opts.cpus;
	struct worker *w = &crew->workers[index];
	char name[16];
	int r;

	w->eventfd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (w->eventfd < 0)
		return -errno;
	r = create_thread(w, cpus != NULL ? &cpus[index] : NULL);
	if (r < 0)
		return r;
	w->started = true;
	snprintf(name, sizeof(name), "sluice-w%u", index % 1000);
	pthread_setname_np(w->thread_handle, name);
	pthread_mutex_lock(&w->lock);
	while (w->thread == 0)
		pthread_cond_wait(&w->cond, &w->lock);
	pthread_mutex_unlock(&w->lock);
	return 0;
}

int sluice_crew_create(const struct sluice_crew_opts *opts, struct sluice_crew **ret_crew)
{
	struct sluice_crew *crew = calloc(1, sizeof(*crew));
	uint32_t holders = opts->workers > 0 ? opts->workers : 1;
	int r = 0;

	SLUICE_ASSERT(opts->workers <= SLUICE_CREW_WORKERS_MAX);
	if (crew == NULL)
		return -ENOMEM;
	crew->opts = *opts;
	crew->workers = calloc(holders, sizeof(*crew->workers));
	crew->lanes = calloc(opts->lane_count + 1, sizeof(*crew->lanes));
	if (crew->workers == NULL || crew->lanes == NULL) {
		free(crew->workers);
		free(crew->lanes);
		free(crew);
		return -ENOMEM;
	}
	for (uint32_t i = 0; i < opts->lane_count; i++)
		crew->lanes[i] = opts->lanes[i];
	for (uint32_t i = 0; i < holders; i++) {
		crew->workers[i].crew = crew;
		crew->workers[i].eventfd = -1;
		crew->workers[i].core = -1;
		crew->workers[i].node = -1;
		crew->workers[i].patience_ns = opts->spin_ns + opts->yield_ns;
		sluice_random_seed(&crew->workers[i].random, i);
		pthread_mutex_init(&crew->workers[i].lock, NULL);
		pthread_cond_init(&crew->workers[i].cond, NULL);
	}
	crew->worker_count = opts->workers;
	for (uint32_t i = 0; i < opts->workers && r == 0; i++)
		r = worker_start(crew, i);
	crew->opts.cpus = NULL; /* borrowed: used up by now */
	crew->opts.lanes = NULL;
	if (r < 0) {
		sluice_crew_destroy(crew);
		return r;
	}
	*ret_crew = crew;
	return 0;
}

void sluice_crew_destroy(struct sluice_crew *crew)
{
	uint32_t holders;

	if (crew == NULL)
		return;
	holders = crew->worker_count > 0 ? crew->worker_count : 1;
	for (uint32_t i = 0; i < holders; i++) {
		struct worker *w = &crew->workers[i];

		SLUICE_ASSERT(w->wanted_count == 0);
		if (w->started) {
			__atomic_store_n(&w->stop, 1, __ATOMIC_SEQ_CST);
			wake(w);
			pthread_join(w->thread_handle, NULL);
		}
		if (w->eventfd >= 0)
			close(w->eventfd);
		pthread_mutex_destroy(&w->lock);
		pthread_cond_destroy(&w->cond);
	}
	free(crew->workers);
	free(crew->lanes);
	free(crew);
}

/* Tell the worker about its new lanes. */
static void publish(struct worker *w)
{
	w->wanted_generation++;
	__atomic_store_n(&w->changed, 1, __ATOMIC_SEQ_CST);
	wake(w);
}

/* Until it steps exactly those. */
static void wait_for(struct worker *w)
{
	uint64_t generation = w->wanted_generation;

	while (w->started && w->seen_generation < generation)
		pthread_cond_wait(&w->cond, &w->lock);
}

struct sluice_crew_lane sluice_crew_lane(const struct sluice_crew *crew, uint32_t lane)
{
	if (lane < crew->opts.lane_count)
		return crew->lanes[lane];
	return (struct sluice_crew_lane){.worker = SLUICE_CREW_ANY, .node = -1};
}

struct sluice_crew_lane sluice_crew_lane_near(
	const struct sluice_crew *crew, uint32_t lane, uint64_t nodes)
{
	const struct sluice_crew_lane *best = NULL;
	uint32_t count = crew->opts.lane_count, best_lanes = 0;
	bool best_near = false;

	if (nodes == 0 || lane >= count || crew->worker_count == 0)
		return sluice_crew_lane(crew, lane);
	/* Every worker has planned lanes, so this comes by all of them; first by this lane's. */
	for (uint32_t i = 0; i < count; i++) {
		const struct sluice_crew_lane *place = &crew->lanes[(lane + i) % count];
		uint32_t lanes = crew->workers[place->worker].wanted_count;
		bool near = place->node >= 0 && (nodes >> place->node & 1);

		if (lanes * crew->worker_count >= count)
			continue; /* has its share */
		if (best == NULL || (near && !best_near) ||
			(near == best_near && lanes < best_lanes)) {
			best = place;
			best_lanes = lanes;
			best_near = near;
		}
	}
	return best != NULL ? *best : crew->lanes[lane];
}

int sluice_crew_add(struct sluice_crew *crew, struct sluice_lane *lane, uint32_t worker)
{
	struct worker *best = &crew->workers[worker == SLUICE_CREW_ANY ? 0 : worker];

	SLUICE_ASSERT(worker == SLUICE_CREW_ANY || worker == 0 || worker < crew->worker_count);
	for (uint32_t i = 1; i < crew->worker_count && worker == SLUICE_CREW_ANY; i++)
		if (crew->workers[i].wanted_count < best->wanted_count)
			best = &crew->workers[i];
	if (best->wanted_count == SLUICE_CREW_LANES_PER_WORKER_MAX)
		return -ENOSPC;
	pthread_mutex_lock(&best->lock);
	best->wanted[best->wanted_count++] = lane;
	publish(best);
	pthread_mutex_unlock(&best->lock);
	return 0;
}

uint32_t sluice_crew_worker_of(const struct sluice_crew *crew, const struct sluice_lane *lane)
{
	for (uint32_t i = 0; i < crew->worker_count; i++)
		for (uint32_t n = 0; n < crew->workers[i].wanted_count; n++)
			if (crew->workers[i].wanted[n] == lane)
				return i;
	return SLUICE_CREW_ANY;
}

struct sluice_crew_lane sluice_crew_lane_now(
	const struct sluice_crew *crew, uint32_t index, const struct sluice_lane *lane)
{
	struct sluice_crew_lane place = sluice_crew_lane(crew, index);
	uint32_t worker = sluice_crew_worker_of(crew, lane);

	if (worker == SLUICE_CREW_ANY || worker == place.worker)
		return place;
	for (uint32_t i = 0; i < crew->opts.lane_count; i++)
		if (crew->lanes[i].worker == worker)
			return crew->lanes[i];
	place.worker = worker;
	return place;
}

static bool worker_remove(struct worker *w, struct sluice_lane *lane)
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

void sluice_crew_remove_all(struct sluice_crew *crew)
{
	uint32_t holders = crew->worker_count > 0 ? crew->worker_count : 1;

	for (uint32_t i = 0; i < holders; i++) {
		struct worker *w = &crew->workers[i];

		pthread_mutex_lock(&w->lock);
		if (w->wanted_count > 0)
			publish(w);
		w->wanted_count = 0;
		pthread_mutex_unlock(&w->lock);
	}
	for (uint32_t i = 0; i < holders; i++) {
		pthread_mutex_lock(&crew->workers[i].lock);
		wait_for(&crew->workers[i]);
		pthread_mutex_unlock(&crew->workers[i].lock);
	}
}

void sluice_crew_remove(struct sluice_crew *crew, struct sluice_lane *lane)
{
	uint32_t holders = crew->worker_count > 0 ? crew->worker_count : 1;

	for (uint32_t i = 0; i < holders; i++)
		if (worker_remove(&crew->workers[i], lane))
			return;
}

uint32_t sluice_crew_workers(const struct sluice_crew *crew)
{
	return crew->worker_count;
}

void sluice_crew_stats(
	struct sluice_crew *crew, uint32_t worker, struct sluice_worker_stats *ret_stats)
{
	struct worker *w = &crew->workers[worker];
	clockid_t clock;

	SLUICE_ASSERT(worker < crew->worker_count);
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

bool sluice_crew_step(struct sluice_crew *crew, uint64_t now_ns)
{
	struct worker *w = &crew->workers[0];

	SLUICE_ASSERT(crew->worker_count == 0);
	adopt(w);
	return step_all(w, now_ns);
}
