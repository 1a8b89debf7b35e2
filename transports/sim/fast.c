/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fast.c: submit, poll, arm. What the lane's worker calls; allocates nothing. The caller's
 * mistakes (an offset that is not aligned, memory of another rail) are found here, the peer's
 * in pipe.c.
 *
 * Threading: one thread for a world.
 */
#include <errno.h>
#include <string.h>

#include "base/assert.h"
#include "base/bits.h"
#include "base/clock.h"
#include "transports/sim/internal.h"

static void count(uint64_t *counter, uint64_t more)
{
	__atomic_store_n(
		counter, __atomic_load_n(counter, __ATOMIC_RELAXED) + more, __ATOMIC_RELAXED);
}

static bool local_is_registered(const struct sluice_conn *conn, const struct sluice_op *op)
{
	const struct sluice_mem *mem = op->mem;
	uintptr_t first = mem != NULL ? (uintptr_t)mem->span.addr : 0;

	return mem != NULL && mem->rail == conn->rail &&
	       (mem->access & SLUICE_ACCESS_LOCAL_READ) != 0 && (uintptr_t)op->local >= first &&
	       sluice_range_inside(
		       (uintptr_t)op->local - first, op->len_bytes, mem->span.len_bytes);
}

static bool remote_is_possible(const struct sluice_conn *conn, const struct sluice_op *op)
{
	return op->remote != NULL && op->remote->rail == conn->rail && op->len_bytes > 0 &&
	       op->len_bytes <= conn->world->opts.op_bytes_max &&
	       sluice_is_aligned(op->len_bytes, SIM_ALIGN_BYTES) &&
	       sluice_is_aligned(op->remote_offset, SIM_ALIGN_BYTES);
}

static bool op_is_sound(const struct sluice_conn *conn, const struct sluice_op *op)
{
	if (op->seq <= conn->seq_last && conn->out->submitted > 0)
		return false;
	switch (op->kind) {
	case SLUICE_OP_WRITE:
		return remote_is_possible(conn, op) && local_is_registered(conn, op);
	case SLUICE_OP_ZERO:
		return remote_is_possible(conn, op);
	case SLUICE_OP_SEND:
		return op->len_bytes <= SLUICE_SEND_BYTES_MAX;
	default:
		return op->kind == SLUICE_OP_FLUSH;
	}
}

/* Now and then a NIC takes only some operations, and none for a while. */
static uint32_t stall(struct sluice_conn *conn, uint32_t count_wanted)
{
	struct sluice_sim_world *world = conn->world;

	if (!sim_chance(world, world->opts.stall_ppm))
		return count_wanted;
	world->stats.stalls++;
	conn->stalled_until_ns = world->now_ns + sim_draw(world, 1, world->opts.latency_ns_max + 1);
	sim_event_add(conn->out, SIM_WAKE, conn->stalled_until_ns, 0);
	return (uint32_t)sim_draw(world, 0, count_wanted);
}

uint32_t sim_submit(
	struct sluice_conn *conn, const struct sluice_op *ops, uint32_t op_count, uint64_t now_ns)
{
	uint64_t bytes = 0;
	uint32_t taken = 0;

	SLUICE_ASSERT(now_ns <= conn->world->now_ns);
	if (!conn->connected_reported || conn->lost || op_count == 0 ||
		conn->world->now_ns < conn->stalled_until_ns)
		return 0;
	op_count = stall(conn, op_count);
	for (; taken < op_count && sim_pipe_has_room(conn->out); taken++) {
		const struct sluice_op *op = &ops[taken];

		if (!op_is_sound(conn, op)) {
			SLUICE_ASSERT(conn->world->opts.mistakes_lose_lane);
			sim_conn_kill(conn, -EINVAL);
			break;
		}
		conn->seq_last = op->seq;
		sim_pipe_submit(conn->out, op);
		bytes += SIM_HEADER_BYTES;
		if (op->kind == SLUICE_OP_WRITE || op->kind == SLUICE_OP_SEND)
			bytes += op->len_bytes;
	}
	count(&conn->stats.bytes_out, bytes);
	count(&conn->stats.syscalls_out, 1);
	return taken;
}

/* A FLUSHED says what is placed too: whether a PLACED comes before it is left to chance. */
static uint32_t report_completions(
	struct sluice_conn *conn, struct sluice_event *events, uint32_t max)
{
	struct sim_pipe *pipe = conn->out;
	uint32_t used = 0;

	while (pipe->reported < pipe->completed && used < max) {
		const struct sim_op *op = &pipe->ops[pipe->reported % pipe->slots];
		struct sluice_event *last = used > 0 ? &events[used - 1] : NULL;
		bool flush = op->kind == SLUICE_OP_FLUSH;

		if (last != NULL && last->kind == SLUICE_EVENT_PLACED &&
			(!flush || sim_chance(conn->world, SLUICE_RANDOM_PPM / 2)))
			used--;
		events[used++] = (struct sluice_event){
			.kind = flush ? SLUICE_EVENT_FLUSHED : SLUICE_EVENT_PLACED,
			.seq = op->seq,
		};
		pipe->reported++;
	}
	return used;
}

static uint32_t report_messages(struct sluice_conn *conn, struct sluice_event *events, uint32_t max)
{
	const struct sim_message *message;
	uint32_t used = 0;

	if (max > SIM_SENDS_WAITING)
		max = SIM_SENDS_WAITING;
	while (used < max && (message = sim_pipe_take_message(conn->in)) != NULL) {
		memcpy(conn->received[used], message->data, message->len_bytes);
		count(&conn->stats.bytes_in, SIM_HEADER_BYTES + (uint64_t)message->len_bytes);
		events[used] = (struct sluice_event){
			.kind = SLUICE_EVENT_RECEIVED,
			.len_bytes = message->len_bytes,
			.data = conn->received[used],
		};
		used++;
	}
	return used;
}

uint32_t sim_poll(
	struct sluice_conn *conn, struct sluice_event *events, uint32_t max, uint64_t now_ns)
{
	uint32_t used = 0;

	SLUICE_ASSERT(now_ns <= conn->world->now_ns);
	count(&conn->stats.syscalls_in, 1);
	if (conn->connected && !conn->connected_reported && used < max) {
		events[used++] = (struct sluice_event){.kind = SLUICE_EVENT_CONNECTED};
		conn->connected_reported = true;
	}
	used += report_completions(conn, events + used, max - used);
	if (conn->in != NULL && !conn->lost) {
		sim_pipe_execute(conn->in);
		used += report_messages(conn, events + used, max - used);
	}
	if (conn->lost && !conn->lost_reported && used < max) {
		events[used++] = (struct sluice_event){
			.kind = SLUICE_EVENT_LOST, .status = conn->lost_status};
		conn->lost_reported = true;
	}
	return used;
}

bool sim_arm(struct sluice_conn *conn, struct sluice_arm *ret_arm)
{
	if ((conn->connected && !conn->connected_reported) || (conn->lost && !conn->lost_reported))
		return false;
	if (conn->out->reported < conn->out->completed)
		return false;
	if (!conn->lost && conn->in != NULL && sim_pipe_has_cpu_work(conn->in))
		return false;
	*ret_arm = (struct sluice_arm){
		.fd = -1,
		.deadline_ns = sluice_sim_world_next_ns(conn->world),
	};
	return true;
}
