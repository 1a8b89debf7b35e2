/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * pipe.c: one direction of a lane, from submit to memory and back. Stages are counters over
 * one ring (internal.h); at most one event per stage is under way, always for its oldest op.
 *
 * It knows nothing of hellos, tickets and who is told what: conn.c and fast.c do that.
 * Threading: one thread for a world.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/assert.h"
#include "base/clock.h"
#include "transports/sim/internal.h"

#define KIND(kind_) (1u << (kind_))

static struct sim_op *op_at(const struct sim_pipe *pipe, uint64_t index)
{
	return &pipe->ops[index % pipe->slots];
}

static uint64_t max_u64(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

/* The first op that will not arrive, as far as is known. */
static uint64_t arrivals_end(const struct sim_pipe *pipe)
{
	return pipe->submitted < pipe->cut ? pipe->submitted : pipe->cut;
}

/* Mapped, not allocated: most of it is never touched, and tests open lanes by the thousand. */
static size_t buffers_bytes(const struct sim_pipe *pipe)
{
	return (size_t)pipe->slots * pipe->world->opts.op_bytes_max;
}

static uint8_t *buffers_map(const struct sim_pipe *pipe)
{
	void *addr = mmap(NULL, buffers_bytes(pipe), PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return addr == MAP_FAILED ? NULL : addr;
}

static void buffers_unmap(struct sim_pipe *pipe)
{
	if (pipe->buffers != NULL)
		munmap(pipe->buffers, buffers_bytes(pipe));
}

struct sim_pipe *sim_pipe_create(struct sluice_conn *sender)
{
	struct sluice_sim_world *world = sender->world;
	struct sim_pipe *pipe = calloc(1, sizeof(*pipe));

	if (pipe == NULL)
		return NULL;
	pipe->world = world;
	pipe->sender = sender;
	pipe->lane = sender->opts.lane;
	pipe->epoch = sender->opts.epoch;
	pipe->sender_role = (uint8_t)sender->opts.role;
	pipe->cut = UINT64_MAX;
	pipe->slots = world->opts.depth_max + world->opts.nic_writes_max + SIM_SENDS_WAITING;
	pipe->ops = calloc(pipe->slots, sizeof(*pipe->ops));
	pipe->buffers = buffers_map(pipe);
	/* Two reads and a wake per op, one event per stage of the pipe and
	   the few of the connection. */
	if (pipe->ops == NULL || pipe->buffers == NULL ||
		sim_events_reserve(world, 3 * pipe->slots + 16) < 0) {
		buffers_unmap(pipe);
		free(pipe->ops);
		free(pipe);
		return NULL;
	}
	for (uint32_t i = 0; i < pipe->slots; i++)
		pipe->ops[i].data = pipe->buffers + (size_t)i * world->opts.op_bytes_max;
	pipe->next = world->pipes;
	world->pipes = pipe;
	return pipe;
}

void sim_pipe_release_if_unused(struct sim_pipe *pipe)
{
	struct sim_pipe **link;

	if (pipe == NULL || pipe->sender != NULL || pipe->receiver != NULL)
		return;
	sim_events_drop(pipe, UINT32_MAX);
	for (link = &pipe->world->pipes; *link != pipe; link = &(*link)->next)
		SLUICE_ASSERT(*link != NULL);
	*link = pipe->next;
	buffers_unmap(pipe);
	free(pipe->ops);
	free(pipe);
}

/* ---- The sender's side: submit, the wire, reading local memory ---- */

bool sim_pipe_has_room(const struct sim_pipe *pipe)
{
	return pipe->submitted - pipe->reported < pipe->world->opts.depth_max;
}

static uint64_t wire_arrival(struct sim_pipe *pipe, uint32_t len_bytes)
{
	struct sluice_sim_world *world = pipe->world;
	const struct sluice_sim_world_opts *opts = &world->opts;
	uint64_t depart_ns = max_u64(world->now_ns, pipe->wire_free_ns);
	uint64_t flight_ns = pipe->latency_ns + sim_draw(world, 0, opts->jitter_ns_max);

	if (opts->lane_bytes_per_s != 0)
		depart_ns += ((uint64_t)len_bytes + SIM_HEADER_BYTES) * SLUICE_NS_PER_S /
			     opts->lane_bytes_per_s;
	pipe->wire_free_ns = depart_ns;
	for (uint32_t i = 0; i < SIM_RETRANSMITS_MAX && sim_chance(world, opts->loss_ppm); i++) {
		flight_ns += opts->loss_rto_ns;
		world->stats.losses++;
	}
	/* Reliable and in order: what comes behind a lost packet waits for it. */
	pipe->arrive_last_ns = max_u64(pipe->arrive_last_ns, depart_ns + flight_ns);
	return pipe->arrive_last_ns;
}

static void schedule_reads(struct sim_pipe *pipe, struct sim_op *op, uint64_t index)
{
	struct sluice_sim_world *world = pipe->world;
	uint64_t first_ns = sim_draw(world, world->now_ns, op->arrive_ns);
	uint64_t second_ns = sim_draw(world, world->now_ns, op->arrive_ns);

	op->front_bytes = (uint32_t)sim_draw(world, 0, op->len_bytes / SIM_ALIGN_BYTES);
	op->front_bytes *= SIM_ALIGN_BYTES;
	if (first_ns != second_ns && op->front_bytes != 0 && op->front_bytes != op->len_bytes)
		world->stats.torn_reads++;
	sim_event_add(pipe, SIM_READ_FRONT, first_ns, index);
	sim_event_add(pipe, SIM_READ_BACK, second_ns, index);
}

static void schedule_death(struct sim_pipe *pipe, const struct sim_op *op)
{
	struct sluice_sim_world *world = pipe->world;

	if (!sim_chance(world, world->opts.death_ppm) || pipe->death_scheduled)
		return;
	pipe->death_scheduled = true;
	sim_event_add(pipe, SIM_DEATH, sim_draw(world, world->now_ns, op->arrive_ns), 0);
}

void sim_pipe_submit(struct sim_pipe *pipe, const struct sluice_op *op)
{
	uint64_t index = pipe->submitted;
	struct sim_op *own = op_at(pipe, index);
	uint8_t *data = own->data;

	SLUICE_ASSERT(sim_pipe_has_room(pipe));
	SLUICE_ASSERT(index - pipe->visible < pipe->slots || pipe->dead);
	*own = (struct sim_op){
		.kind = op->kind,
		.len_bytes = op->len_bytes,
		.mem_number = op->remote != NULL ? op->remote->number : SIM_MEM_ANY,
		.seq = op->seq,
		.remote_offset = op->remote_offset,
		.local = op->local,
		.data = data,
	};
	pipe->submitted++;
	pipe->world->stats.ops++;
	sim_trace(pipe, "submit", op->seq, (uint64_t)op->kind << 32 | op->len_bytes);
	if (op->kind == SLUICE_OP_SEND)
		memcpy(data, op->local, op->len_bytes);
	if (pipe->dead) /* nobody knows yet; it goes nowhere */
		return;
	own->arrive_ns = wire_arrival(pipe,
		op->kind == SLUICE_OP_WRITE || op->kind == SLUICE_OP_SEND ? op->len_bytes : 0);
	if (op->kind == SLUICE_OP_WRITE)
		schedule_reads(pipe, own, index);
	schedule_death(pipe, own);
	sim_pipe_arm_arrival(pipe);
}

void sim_pipe_read(struct sim_pipe *pipe, uint64_t index, enum sim_event_kind which)
{
	struct sim_op *op = op_at(pipe, index);

	if (index >= pipe->cut)
		return;
	if (which == SIM_READ_FRONT && !op->read_front) {
		memcpy(op->data, op->local, op->front_bytes);
		op->read_front = true;
	} else if (which == SIM_READ_BACK && !op->read_back) {
		memcpy(op->data + op->front_bytes, op->local + op->front_bytes,
			op->len_bytes - op->front_bytes);
		op->read_back = true;
	}
}

bool sim_pipe_reads_from(const struct sim_pipe *pipe, const struct sluice_span *span)
{
	const uint8_t *first = span->addr;

	for (uint64_t i = pipe->arrived; i < arrivals_end(pipe); i++) {
		const struct sim_op *op = op_at(pipe, i);

		if (op->kind == SLUICE_OP_WRITE && !(op->read_front && op->read_back) &&
			op->local >= first && op->local < first + span->len_bytes)
			return true;
	}
	return false;
}

void sim_pipe_ack_arrive(struct sim_pipe *pipe)
{
	struct sluice_sim_world *world = pipe->world;

	pipe->ack_armed = false;
	while (pipe->completed < pipe->acked &&
		op_at(pipe, pipe->completed)->ack_ns <= world->now_ns) {
		sim_trace(pipe, "placed", op_at(pipe, pipe->completed)->seq, 0);
		pipe->completed++;
	}
	if (pipe->completed < pipe->acked) {
		sim_event_add(pipe, SIM_ACK, op_at(pipe, pipe->completed)->ack_ns, 0);
		pipe->ack_armed = true;
	}
}

/* ---- The target's side: NIC, memory, CPU ---- */

static void tell_flushed(const struct sim_pipe *pipe, uint64_t seq)
{
	const struct sluice_sim_world_opts *opts = &pipe->world->opts;

	if (opts->on_landing == NULL)
		return;
	opts->on_landing(opts->ctx, &(struct sluice_sim_landing){
					    .kind = SLUICE_OP_FLUSH,
					    .late = pipe->dead,
					    .lane = pipe->lane,
					    .epoch = pipe->epoch,
					    .seq = seq,
				    });
}

static void acknowledge(struct sim_pipe *pipe)
{
	struct sluice_sim_world *world = pipe->world;

	if (pipe->dead)
		return;
	while (pipe->acked < pipe->arrived && op_at(pipe, pipe->acked)->done) {
		pipe->ack_last_ns = max_u64(
			pipe->ack_last_ns, world->now_ns + pipe->latency_ns +
						   sim_draw(world, 0, world->opts.jitter_ns_max));
		op_at(pipe, pipe->acked)->ack_ns = pipe->ack_last_ns;
		/* Not before its turn: a ZERO in front of it may have waited for the CPU. */
		if (op_at(pipe, pipe->acked)->kind == SLUICE_OP_FLUSH)
			tell_flushed(pipe, op_at(pipe, pipe->acked)->seq);
		pipe->acked++;
	}
	if (!pipe->ack_armed && pipe->completed < pipe->acked) {
		sim_event_add(pipe, SIM_ACK, op_at(pipe, pipe->completed)->ack_ns, 0);
		pipe->ack_armed = true;
	}
}

/* WRITE or ZERO changes the target's memory, unless it was let in and is not any more. */
static void land(struct sim_pipe *pipe, const struct sim_op *op)
{
	struct sluice_sim_world *world = pipe->world;
	const struct sluice_mem *mem = sim_mem_find(
		pipe->receiver->rail, op->mem_number, op->remote_offset, op->len_bytes);
	struct sluice_sim_landing landing = {
		.kind = op->kind,
		.from = pipe->sender_role,
		.late = pipe->dead,
		.lane = pipe->lane,
		.epoch = pipe->epoch,
		.seq = op->seq,
		.offset = op->remote_offset,
		.len_bytes = op->len_bytes,
	};
	uint8_t *addr;

	SLUICE_ASSERT(!pipe->fenced);
	if (mem == NULL) {
		world->stats.refused++;
		return;
	}
	addr = (uint8_t *)mem->span.addr + op->remote_offset;
	if (op->kind == SLUICE_OP_WRITE)
		memcpy(addr, op->data, op->len_bytes);
	else
		memset(addr, 0, op->len_bytes);
	if (pipe->sender == NULL || pipe->sender->lost)
		world->stats.late_landings++;
	sim_trace(pipe, pipe->dead ? "lands late" : "lands", op->seq,
		(uint64_t)mem->span.id << 48 ^ op->remote_offset);
	if (world->opts.on_landing == NULL)
		return;
	landing.span_id = mem->span.id;
	landing.addr = addr;
	world->opts.on_landing(world->opts.ctx, &landing);
}

void sim_pipe_show(struct sim_pipe *pipe, uint64_t upto)
{
	SLUICE_ASSERT(upto <= pipe->arrived);
	for (; pipe->visible < upto; pipe->visible++) {
		const struct sim_op *op = op_at(pipe, pipe->visible);

		if (op->kind != SLUICE_OP_WRITE)
			continue;
		if (op->visible_ns > pipe->world->now_ns)
			pipe->world->stats.forced_visible++;
		land(pipe, op);
	}
}

/* Show what is due, and come back for the next. */
static void show_due(struct sim_pipe *pipe)
{
	while (pipe->visible < pipe->arrived) {
		const struct sim_op *op = op_at(pipe, pipe->visible);

		if (op->kind == SLUICE_OP_WRITE && op->visible_ns > pipe->world->now_ns)
			break;
		sim_pipe_show(pipe, pipe->visible + 1);
	}
	if (pipe->visible < pipe->arrived && !pipe->visible_armed) {
		sim_event_add(pipe, SIM_VISIBLE, op_at(pipe, pipe->visible)->visible_ns, 0);
		pipe->visible_armed = true;
	}
}

void sim_pipe_become_visible(struct sim_pipe *pipe)
{
	pipe->visible_armed = false;
	show_due(pipe);
}

/* Most writes show soon, a few very late: the exponent is drawn first. */
static uint64_t draw_invisible_ns(struct sluice_sim_world *world)
{
	uint64_t max = world->opts.visible_ns_max;
	unsigned int bits = max == 0 ? 0 : 64 - (unsigned int)__builtin_clzll(max);
	uint64_t limit = 1ull << sim_draw(world, 0, bits < 63 ? bits : 63);

	return sim_draw(world, 0, limit < max ? limit : max);
}

static void write_arrives(struct sim_pipe *pipe, struct sim_op *op)
{
	struct sluice_sim_world *world = pipe->world;

	/* A read drawn for this very moment may be behind this arrival in the heap. */
	sim_pipe_read(pipe, pipe->arrived - 1, SIM_READ_FRONT);
	sim_pipe_read(pipe, pipe->arrived - 1, SIM_READ_BACK);
	op->visible_ns = world->now_ns;
	if (!world->opts.placed_is_visible)
		op->visible_ns += draw_invisible_ns(world);
	pipe->visible_last_ns = max_u64(pipe->visible_last_ns, op->visible_ns);
	op->visible_ns = pipe->visible_last_ns;
	op->done = true;
	if (op->visible_ns > world->now_ns)
		world->stats.placed_invisible++;
	if (pipe->arrived - pipe->visible > world->opts.nic_writes_max)
		sim_pipe_show(pipe, pipe->visible + 1);
}

/* The oldest ZERO or SEND that waits for the CPU, or NULL. */
static struct sim_op *next_for_cpu(struct sim_pipe *pipe)
{
	while (pipe->executed < pipe->arrived) {
		struct sim_op *op = op_at(pipe, pipe->executed);

		if (op->kind == SLUICE_OP_ZERO || op->kind == SLUICE_OP_SEND)
			return op;
		pipe->executed++;
	}
	return NULL;
}

static void queue_message(struct sim_pipe *pipe, struct sim_op *op)
{
	struct sim_message *message =
		&pipe->sends[(pipe->sends_first + pipe->sends_waiting) % SIM_SENDS_WAITING];

	SLUICE_ASSERT(pipe->sends_waiting < SIM_SENDS_WAITING);
	message->index = pipe->executed;
	message->ready_ns = op->cpu_ns;
	message->len_bytes = op->len_bytes;
	memcpy(message->data, op->data, op->len_bytes);
	pipe->sends_waiting++;
	pipe->executed++;
	op->done = true;
}

static void cpu_op_arrives(struct sim_pipe *pipe, struct sim_op *op)
{
	struct sluice_sim_world *world = pipe->world;

	pipe->cpu_last_ns = max_u64(
		pipe->cpu_last_ns, world->now_ns + sim_draw(world, 0, world->opts.cpu_ns_max));
	op->cpu_ns = pipe->cpu_last_ns;
	sim_event_add(pipe, SIM_WAKE, op->cpu_ns, 0);
	/* A message goes into a posted receive buffer: acknowledged before any CPU saw it. */
	if (op->kind == SLUICE_OP_SEND && next_for_cpu(pipe) == op &&
		pipe->sends_waiting < SIM_SENDS_WAITING)
		queue_message(pipe, op);
}

/* A peer that reaches outside its memory loses the lane, as with a NIC. */
static bool op_permitted(const struct sim_pipe *pipe, const struct sim_op *op)
{
	return (op->kind != SLUICE_OP_WRITE && op->kind != SLUICE_OP_ZERO) ||
	       sim_mem_find(pipe->receiver->rail, op->mem_number, op->remote_offset,
		       op->len_bytes) != NULL;
}

static void arrive_one(struct sim_pipe *pipe)
{
	struct sim_op *op = op_at(pipe, pipe->arrived);

	if (!op_permitted(pipe, op)) {
		sim_trace(pipe, "refused", op->seq, op->remote_offset);
		pipe->world->stats.refused++;
		if (!pipe->dead)
			sim_conn_kill(pipe->receiver, -EACCES);
		pipe->cut = pipe->arrived;
		return;
	}
	pipe->arrived++;
	pipe->world->stats.arrivals++;
	pipe->world->stats.late_arrivals += pipe->dead;
	sim_trace(pipe, pipe->dead ? "arrives late" : "arrives", op->seq, op->kind);
	switch (op->kind) {
	case SLUICE_OP_WRITE:
		write_arrives(pipe, op);
		break;
	case SLUICE_OP_FLUSH:
		sim_pipe_show(pipe, pipe->arrived);
		op->done = true;
		break;
	default:
		cpu_op_arrives(pipe, op);
		break;
	}
}

void sim_pipe_arm_arrival(struct sim_pipe *pipe)
{
	struct sluice_sim_world *world = pipe->world;

	if (pipe->arrive_armed || world->held || pipe->arrived >= arrivals_end(pipe))
		return;
	sim_event_add(
		pipe, SIM_ARRIVE, max_u64(world->now_ns, op_at(pipe, pipe->arrived)->arrive_ns), 0);
	pipe->arrive_armed = true;
}

void sim_pipe_arrive(struct sim_pipe *pipe)
{
	struct sluice_sim_world *world = pipe->world;

	pipe->arrive_armed = false;
	while (!world->held && pipe->arrived < arrivals_end(pipe) &&
		op_at(pipe, pipe->arrived)->arrive_ns <= world->now_ns)
		arrive_one(pipe);
	show_due(pipe);
	acknowledge(pipe);
	sim_pipe_arm_arrival(pipe);
}

bool sim_pipe_has_cpu_work(const struct sim_pipe *pipe)
{
	uint64_t now_ns = pipe->world->now_ns;

	if (pipe->sends_waiting > 0)
		return pipe->sends[pipe->sends_first].ready_ns <= now_ns;
	for (uint64_t i = pipe->executed; i < pipe->arrived; i++) {
		const struct sim_op *op = op_at(pipe, i);

		if (op->kind == SLUICE_OP_ZERO || op->kind == SLUICE_OP_SEND)
			return op->cpu_ns <= now_ns;
	}
	return false;
}

void sim_pipe_execute(struct sim_pipe *pipe)
{
	struct sim_op *op;

	while ((op = next_for_cpu(pipe)) != NULL && op->cpu_ns <= pipe->world->now_ns) {
		if (op->kind == SLUICE_OP_SEND) {
			if (pipe->sends_waiting == SIM_SENDS_WAITING)
				break;
			queue_message(pipe, op);
			continue;
		}
		sim_pipe_show(pipe, pipe->executed); /* as a SEND would: earlier writes first */
		land(pipe, op);
		op->done = true;
		pipe->executed++;
	}
	acknowledge(pipe);
}

const struct sim_message *sim_pipe_take_message(struct sim_pipe *pipe)
{
	struct sim_message *message = &pipe->sends[pipe->sends_first];

	if (pipe->sends_waiting == 0 || message->ready_ns > pipe->world->now_ns)
		return NULL;
	if (pipe->visible < message->index)
		sim_pipe_show(pipe, message->index);
	pipe->sends_first = (pipe->sends_first + 1) % SIM_SENDS_WAITING;
	pipe->sends_waiting--;
	return message;
}

/* ---- The end of a lane ---- */

/* Of the first write that does not survive, the beginning may still arrive. */
static void cut_short(struct sim_pipe *pipe)
{
	struct sim_op *op = op_at(pipe, pipe->cut);

	if (op->kind != SLUICE_OP_WRITE || op->len_bytes <= SIM_ALIGN_BYTES ||
		!sim_chance(pipe->world, SLUICE_RANDOM_PPM / 2))
		return;
	op->len_bytes = SIM_ALIGN_BYTES *
			(uint32_t)sim_draw(pipe->world, 1, op->len_bytes / SIM_ALIGN_BYTES - 1);
	if (op->front_bytes > op->len_bytes)
		op->front_bytes = op->len_bytes;
	pipe->cut++;
	pipe->world->stats.cut_short++;
}

void sim_pipe_die(struct sim_pipe *pipe)
{
	struct sluice_sim_world *world = pipe->world;
	uint64_t under_way = pipe->submitted - pipe->arrived;
	uint64_t survivors, when_ns = world->now_ns;

	if (pipe->dead)
		return;
	pipe->dead = true;
	sim_events_drop(pipe, KIND(SIM_ACK) | KIND(SIM_ARRIVE));
	pipe->ack_armed = pipe->arrive_armed = false;
	survivors = sim_draw(world, 0, under_way);
	pipe->cut = pipe->arrived + survivors;
	if (survivors < under_way)
		cut_short(pipe);
	for (uint64_t i = pipe->arrived; i < pipe->cut; i++) {
		struct sim_op *op = op_at(pipe, i);

		when_ns = max_u64(when_ns, op->arrive_ns) +
			  sim_draw(world, 0, world->opts.late_ns_max / (survivors + 1));
		op->arrive_ns = when_ns;
	}
	sim_trace(pipe, "dies", under_way, pipe->cut - pipe->arrived);
	sim_pipe_arm_arrival(pipe);
}

void sim_pipe_abandon(struct sim_pipe *pipe)
{
	for (uint64_t i = pipe->arrived; i < arrivals_end(pipe); i++) {
		if (op_at(pipe, i)->kind != SLUICE_OP_WRITE)
			continue;
		sim_pipe_read(pipe, i, SIM_READ_FRONT);
		sim_pipe_read(pipe, i, SIM_READ_BACK);
	}
	sim_events_drop(pipe, KIND(SIM_READ_FRONT) | KIND(SIM_READ_BACK));
}

/* Everything that is still on its way here ends. Returns the WRITEs among what had arrived. */
static uint64_t discard(struct sim_pipe *pipe)
{
	uint64_t writes = 0;

	for (uint64_t i = pipe->visible; i < pipe->arrived; i++)
		writes += op_at(pipe, i)->kind == SLUICE_OP_WRITE;
	tell_flushed(pipe, 0);
	pipe->visible = pipe->executed = pipe->cut = pipe->arrived;
	pipe->sends_waiting = 0;
	pipe->dead = pipe->fenced = true;
	pipe->arrive_armed = pipe->visible_armed = pipe->ack_armed = false;
	sim_events_drop(
		pipe, KIND(SIM_ARRIVE) | KIND(SIM_VISIBLE) | KIND(SIM_ACK) | KIND(SIM_DEATH));
	return writes;
}

void sim_pipe_fence(struct sim_pipe *pipe)
{
	struct sluice_sim_world *world = pipe->world;
	uint64_t visible_before = pipe->visible;
	uint64_t under_way = arrivals_end(pipe) - pipe->arrived;

	if (pipe->fenced)
		return;
	if (!world->opts.fence_discards_unflushed)
		sim_pipe_show(pipe, pipe->arrived);
	world->stats.fences++;
	sim_trace(pipe, "fenced", pipe->visible - visible_before, under_way);
	world->stats.discarded_by_fence += discard(pipe) + under_way;
}

void sim_pipe_vanish(struct sim_pipe *pipe)
{
	uint64_t writes;

	if (pipe->fenced)
		return;
	writes = discard(pipe);
	pipe->world->stats.vanished += writes;
	sim_trace(pipe, "vanishes", writes, 0);
}
