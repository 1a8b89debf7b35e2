/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * world.c: virtual time. A heap of events, one generator of randomness, a hash and a trace
 * of all that happens. It knows when things happen, the other files know what they are.
 *
 * Threading: one thread for a world.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/assert.h"
#include "base/bits.h"
#include "base/clock.h"
#include "transports/sim/internal.h"

void sluice_sim_world_defaults(struct sluice_sim_world_opts *ret_opts)
{
	*ret_opts = (struct sluice_sim_world_opts){
		.seed = 1,
		.latency_ns_min = 5 * SLUICE_NS_PER_US,
		.latency_ns_max = 20 * SLUICE_NS_PER_US,
		.jitter_ns_max = 5 * SLUICE_NS_PER_US,
		.lane_bytes_per_s = 3000000000ull,
		.loss_rto_ns = 200 * SLUICE_NS_PER_US,
		.notice_ns_max = 2 * SLUICE_NS_PER_MS,
		.target_unaware_ppm = SLUICE_RANDOM_PPM / 2,
		.late_ns_max = 5 * SLUICE_NS_PER_MS,
		.visible_ns_max = SLUICE_NS_PER_MS,
		.cpu_ns_max = 20 * SLUICE_NS_PER_US,
		.depth_max = 64,
		.op_bytes_max = 64 * 1024,
		.nic_writes_max = 64,
	};
}

struct sluice_sim_world *sluice_sim_world_create(const struct sluice_sim_world_opts *opts)
{
	struct sluice_sim_world *world;

	SLUICE_ASSERT(opts->latency_ns_min <= opts->latency_ns_max);
	SLUICE_ASSERT(opts->depth_max >= 16);
	SLUICE_ASSERT(opts->op_bytes_max >= SLUICE_PAGE_BYTES);
	SLUICE_ASSERT(sluice_is_aligned(opts->op_bytes_max, SLUICE_PAGE_BYTES));
	SLUICE_ASSERT(opts->nic_writes_max >= 1);
	world = calloc(1, sizeof(*world));
	if (world == NULL)
		return NULL;
	world->opts = *opts;
	sluice_random_seed(&world->random, opts->seed);
	return world;
}

void sluice_sim_world_destroy(struct sluice_sim_world *world)
{
	if (world == NULL)
		return;
	for (uint32_t i = 0; i < world->rail_count; i++)
		SLUICE_ASSERT(world->rails[i] == NULL);
	SLUICE_ASSERT(world->pipes == NULL);
	free(world->events);
	free(world);
}

/* ---- The heap ---- */

static bool event_before(const struct sim_event *a, const struct sim_event *b)
{
	return a->when_ns != b->when_ns ? a->when_ns < b->when_ns : a->order < b->order;
}

static void heap_up(struct sim_event *heap, size_t at)
{
	struct sim_event moving = heap[at];

	while (at > 0 && event_before(&moving, &heap[(at - 1) / 2])) {
		heap[at] = heap[(at - 1) / 2];
		at = (at - 1) / 2;
	}
	heap[at] = moving;
}

static void heap_down(struct sim_event *heap, size_t count, size_t at)
{
	struct sim_event moving = heap[at];

	for (;;) {
		size_t child = 2 * at + 1;

		if (child >= count)
			break;
		if (child + 1 < count && event_before(&heap[child + 1], &heap[child]))
			child++;
		if (!event_before(&heap[child], &moving))
			break;
		heap[at] = heap[child];
		at = child;
	}
	heap[at] = moving;
}

int sim_events_reserve(struct sluice_sim_world *world, size_t more)
{
	size_t capacity = world->event_capacity + more;
	struct sim_event *events = realloc(world->events, capacity * sizeof(*events));

	if (events == NULL)
		return -ENOMEM;
	world->events = events;
	world->event_capacity = capacity;
	return 0;
}

void sim_event_add(
	struct sim_pipe *pipe, enum sim_event_kind kind, uint64_t when_ns, uint64_t index)
{
	struct sluice_sim_world *world = pipe->world;

	SLUICE_ASSERT(world->event_count < world->event_capacity);
	SLUICE_ASSERT(when_ns >= world->now_ns);
	world->events[world->event_count] = (struct sim_event){
		.when_ns = when_ns,
		.order = world->order++,
		.pipe = pipe,
		.index = index,
		.kind = (uint8_t)kind,
	};
	heap_up(world->events, world->event_count++);
}

void sim_events_drop(struct sim_pipe *pipe, uint32_t kinds)
{
	struct sluice_sim_world *world = pipe->world;
	size_t kept = 0;

	for (size_t i = 0; i < world->event_count; i++) {
		const struct sim_event *event = &world->events[i];

		if (event->pipe != pipe || (kinds & (1u << event->kind)) == 0)
			world->events[kept++] = *event;
	}
	world->event_count = kept;
	/* What is done first depends on (when_ns, order) only, not on the heap's shape. */
	for (size_t i = kept / 2; i-- > 0;)
		heap_down(world->events, kept, i);
}

static struct sim_event event_take(struct sluice_sim_world *world)
{
	struct sim_event first = world->events[0];

	world->events[0] = world->events[--world->event_count];
	if (world->event_count > 0)
		heap_down(world->events, world->event_count, 0);
	return first;
}

/* ---- Time ---- */

static void event_run(const struct sim_event *event)
{
	switch ((enum sim_event_kind)event->kind) {
	case SIM_READ_FRONT:
	case SIM_READ_BACK:
		sim_pipe_read(event->pipe, event->index, (enum sim_event_kind)event->kind);
		break;
	case SIM_ARRIVE:
		sim_pipe_arrive(event->pipe);
		break;
	case SIM_VISIBLE:
		sim_pipe_become_visible(event->pipe);
		break;
	case SIM_ACK:
		sim_pipe_ack_arrive(event->pipe);
		break;
	case SIM_WAKE:
		break;
	case SIM_HELLO:
	case SIM_REFUSED:
	case SIM_ACCEPTED:
	case SIM_DEADLINE:
	case SIM_NOTICE:
	case SIM_DEATH:
		sim_conn_event(event->pipe, (enum sim_event_kind)event->kind);
		break;
	}
}

uint64_t sluice_sim_world_now(const struct sluice_sim_world *world)
{
	return world->now_ns;
}

uint64_t sluice_sim_world_next_ns(const struct sluice_sim_world *world)
{
	return world->event_count > 0 ? world->events[0].when_ns : SLUICE_NEVER;
}

void sluice_sim_world_advance(struct sluice_sim_world *world, uint64_t to_ns)
{
	SLUICE_ASSERT(to_ns >= world->now_ns);
	SLUICE_ASSERT(to_ns != SLUICE_NEVER);
	while (sluice_sim_world_next_ns(world) <= to_ns) {
		struct sim_event event = event_take(world);

		SLUICE_ASSERT(event.when_ns >= world->now_ns);
		world->now_ns = event.when_ns;
		event_run(&event);
	}
	world->now_ns = to_ns;
}

void sluice_sim_world_hold(struct sluice_sim_world *world, bool hold)
{
	world->held = hold;
	for (struct sim_pipe *pipe = world->pipes; pipe != NULL && !hold; pipe = pipe->next)
		sim_pipe_arm_arrival(pipe);
}

/* ---- Randomness, statistics, trace ---- */

uint64_t sim_draw(struct sluice_sim_world *world, uint64_t min, uint64_t max)
{
	return sluice_random_between(&world->random, min, max);
}

bool sim_chance(struct sluice_sim_world *world, uint32_t ppm)
{
	return sluice_random_chance(&world->random, ppm);
}

const struct sluice_sim_stats *sluice_sim_world_stats(const struct sluice_sim_world *world)
{
	return &world->stats;
}

uint64_t sluice_sim_world_hash(const struct sluice_sim_world *world)
{
	return world->hash;
}

void sim_trace(const struct sim_pipe *pipe, const char *what, uint64_t a, uint64_t b)
{
	struct sluice_sim_world *world = pipe->world;
	uint64_t hash = world->hash;
	char line[160];

	hash = sluice_random_mix(hash ^ world->now_ns);
	for (const char *c = what; *c != '\0'; c++)
		hash = (hash ^ (uint8_t)*c) * 0x100000001b3ull;
	hash = sluice_random_mix(hash ^ ((uint64_t)pipe->lane << 32 | pipe->epoch));
	hash = sluice_random_mix(hash ^ a);
	world->hash = sluice_random_mix(hash ^ b);
	if (world->opts.on_trace == NULL)
		return;
	snprintf(line, sizeof(line), "%12" PRIu64 " lane %u.%u %s %s %" PRIu64 " %" PRIu64,
		world->now_ns, pipe->lane, pipe->epoch,
		pipe->sender_role == SLUICE_ROLE_SOURCE ? "->" : "<-", what, a, b);
	world->opts.on_trace(world->opts.ctx, line);
}
