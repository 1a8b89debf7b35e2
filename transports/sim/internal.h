/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * internal.h: the parts of the simulated network, known to transports/sim only.
 *
 * Three kinds of objects: the world (time, events, rails, memory), a connection per end of
 * a lane, and a pipe per direction of a lane. A pipe belongs to the connection that sends
 * into it but outlives it: late writes fly on when their source is gone. All memory is
 * allocated when a lane is opened; submit, poll, arm and time itself allocate nothing.
 *
 * Threading: one thread for a world.
 */
#ifndef SLUICE_TRANSPORTS_SIM_INTERNAL_H
#define SLUICE_TRANSPORTS_SIM_INTERNAL_H

#include <sluice/transport.h>

#include "base/random.h"
#include "transports/sim/sim.h"

#define SIM_RAILS_MAX       256u
#define SIM_SENDS_WAITING   16u /* delivered to the target's CPU, not yet polled; per lane */
#define SIM_RETRANSMITS_MAX 16u /* per operation: the link is bad, not cut */
#define SIM_HEADER_BYTES    64u /* per operation on the wire */
#define SIM_ALIGN_BYTES     64u
#define SIM_MEM_ANY         0u /* no memory has this number */

enum sim_event_kind {
	SIM_HELLO = 1, /* a source's hello reaches the target's rail */
	SIM_REFUSED, /* the refusal reaches the source */
	SIM_ACCEPTED, /* the acceptance reaches the source */
	SIM_DEADLINE, /* CONNECTED has to be true by now */
	SIM_NOTICE, /* this end learns that its lane is dead */
	SIM_DEATH, /* the lane dies */
	SIM_READ_FRONT, /* the source's NIC reads the first part of a WRITE */
	SIM_READ_BACK, /* and the second */
	SIM_ARRIVE, /* the oldest op under way reaches the target's NIC */
	SIM_VISIBLE, /* the oldest invisible write may become visible */
	SIM_ACK, /* the oldest acknowledgement under way reaches the source */
	SIM_WAKE, /* nothing by itself: a poll or submit is worth while now */
};

struct sim_event {
	uint64_t when_ns, order; /* order breaks ties: first scheduled, first done */
	struct sim_pipe *pipe; /* the out pipe of the connection concerned */
	uint64_t index; /* of the op, for the reads */
	uint8_t kind;
};

/* One operation on its way. Kept until it is reported to the sender and visible. */
struct sim_op {
	uint8_t kind;
	bool done; /* the target has nothing left to do before it acknowledges */
	bool read_front, read_back;
	uint32_t len_bytes, front_bytes; /* the first read takes front_bytes */
	uint32_t mem_number; /* at the target */
	uint64_t seq, remote_offset;
	const uint8_t *local;
	uint8_t *data; /* op_bytes_max, the pipe's own */
	uint64_t arrive_ns, visible_ns, cpu_ns, ack_ns;
};

struct sim_message {
	uint64_t index, ready_ns; /* everything below index is visible before it is delivered */
	uint32_t len_bytes;
	uint8_t data[SLUICE_SEND_BYTES_MAX];
};

/*
 * One direction of a lane: a ring of operations and how far each stage has come. All
 * counters only grow and count operations; slot = counter % slots. Always
 *
 *	reported <= completed <= acked <= arrived <= submitted,
 *	visible <= arrived, executed <= arrived, arrived <= cut.
 */
struct sim_pipe {
	struct sluice_sim_world *world;
	struct sim_pipe *next; /* the world's pipes */
	struct sluice_conn *sender, *receiver; /* NULL once closed (receiver: or not connected) */
	uint32_t lane, epoch;
	uint8_t sender_role;
	bool dead; /* nothing is acknowledged any more */
	bool fenced; /* nothing arrives or becomes visible any more */
	bool death_scheduled;
	bool arrive_armed, visible_armed, ack_armed;

	uint64_t submitted; /* taken from the sender */
	uint64_t arrived; /* at the target's NIC */
	uint64_t visible; /* every WRITE below is in memory */
	uint64_t executed; /* every ZERO and SEND below is done */
	uint64_t acked; /* acknowledgement sent */
	uint64_t completed; /* acknowledgement here */
	uint64_t reported; /* told to the caller */
	uint64_t cut; /* ops from here on never arrive; UINT64_MAX while alive */

	uint64_t latency_ns, wire_free_ns;
	uint64_t arrive_last_ns, visible_last_ns, cpu_last_ns, ack_last_ns; /* keep order */

	uint32_t slots;
	struct sim_op *ops;
	uint8_t *buffers;
	uint32_t sends_first, sends_waiting; /* ring of messages for the receiver's poll */
	struct sim_message sends[SIM_SENDS_WAITING];
};

struct sluice_conn {
	struct sluice_sim_world *world;
	struct sluice_rail *rail;
	struct sluice_conn *next; /* the rail's connections */
	struct sluice_conn *hello_next; /* hellos that wait for the target's rail_step */
	struct sluice_lane_opts opts; /* peer_address is not kept */
	uint32_t peer_rail; /* SOURCE: N of "sim:N" */
	struct sim_pipe *out;
	struct sim_pipe *in; /* NULL until connected */
	bool matched; /* the two ends know each other */
	bool hello_waits; /* in the list of a target's rail */
	bool connected, connected_reported;
	bool lost, lost_reported; /* this end knows; the lane may be dead longer */
	bool fenced;
	bool unsure; /* its NIC died: nobody knows what of the placed writes has landed */
	int lost_status;
	int refused_status; /* of a REFUSED or NOTICE under way */
	uint64_t stalled_until_ns;
	uint64_t seq_last;
	struct sluice_conn_stats stats;
	/* What RECEIVED events of the last poll point to. */
	uint8_t received[SIM_SENDS_WAITING][SLUICE_SEND_BYTES_MAX];
};

struct sluice_rail {
	struct sluice_sim_world *world;
	uint32_t index;
	bool listening, down;
	struct sluice_conn *conns;
	struct sluice_conn *hellos; /* oldest first */
	struct sluice_mem *mems;
};

struct sluice_mem {
	struct sluice_rail *rail;
	struct sluice_mem *next;
	struct sluice_span span;
	uint32_t access;
	bool admits; /* the peer's writes, now */
	uint32_t number; /* never reused in a world */
};

struct sluice_remote {
	struct sluice_rail *rail;
	uint32_t number;
	uint64_t len_bytes;
};

struct sluice_sim_world {
	struct sluice_sim_world_opts opts;
	struct sluice_random random;
	struct sluice_sim_stats stats;
	uint64_t now_ns, hash, order;
	bool held;
	uint32_t mem_numbers;
	uint32_t rail_count;
	struct sluice_rail *rails[SIM_RAILS_MAX]; /* NULL once closed; numbers are not reused */
	struct sim_pipe *pipes;
	struct sim_event *events; /* a binary heap by (when_ns, order) */
	size_t event_count, event_capacity;
};

/* ---- world.c ---- */
/* Make room for @more events in flight; 0 or -ENOMEM. */
int sim_events_reserve(struct sluice_sim_world *world, size_t more);
void sim_event_add(
	struct sim_pipe *pipe, enum sim_event_kind kind, uint64_t when_ns, uint64_t index);
/* Forget the events of @pipe whose kind is in the mask of (1 << kind). */
void sim_events_drop(struct sim_pipe *pipe, uint32_t kinds);
/* Add to the world's hash, and to the trace if somebody listens. */
void sim_trace(const struct sim_pipe *pipe, const char *what, uint64_t a, uint64_t b);
/* min .. max of the world's generator. */
uint64_t sim_draw(struct sluice_sim_world *world, uint64_t min, uint64_t max);
bool sim_chance(struct sluice_sim_world *world, uint32_t ppm);

/* ---- pipe.c ---- */
struct sim_pipe *sim_pipe_create(struct sluice_conn *sender);
void sim_pipe_release_if_unused(struct sim_pipe *pipe);
bool sim_pipe_has_room(const struct sim_pipe *pipe);
void sim_pipe_submit(struct sim_pipe *pipe, const struct sluice_op *op);
void sim_pipe_read(struct sim_pipe *pipe, uint64_t index, enum sim_event_kind which);
void sim_pipe_arrive(struct sim_pipe *pipe);
void sim_pipe_arm_arrival(struct sim_pipe *pipe);
void sim_pipe_become_visible(struct sim_pipe *pipe);
void sim_pipe_show(struct sim_pipe *pipe, uint64_t upto);
void sim_pipe_ack_arrive(struct sim_pipe *pipe);
/* What the target's CPU does when it polls: ZEROs, and SENDs into the ring of messages. */
void sim_pipe_execute(struct sim_pipe *pipe);
/* The next message that is due, valid until the next call into the pipe; NULL: none. */
const struct sim_message *sim_pipe_take_message(struct sim_pipe *pipe);
bool sim_pipe_has_cpu_work(const struct sim_pipe *pipe);
/* The lane dies: a random part of what is under way still arrives, the rest never. */
void sim_pipe_die(struct sim_pipe *pipe);
/* The sender learns it or goes: its memory is not read any more after this. */
void sim_pipe_abandon(struct sim_pipe *pipe);
/* Nothing arrives or becomes visible after this. */
void sim_pipe_fence(struct sim_pipe *pipe);
/* The target's NIC is gone, with what it had placed and not yet brought to memory: a fence too. */
void sim_pipe_vanish(struct sim_pipe *pipe);
bool sim_pipe_reads_from(const struct sim_pipe *pipe, const struct sluice_span *span);

/* ---- rail.c ---- */
/* The memory that a peer's op may touch, or NULL: unknown, not admitted or out of range. */
const struct sluice_mem *sim_mem_find(
	const struct sluice_rail *rail, uint32_t number, uint64_t offset, uint64_t len_bytes);

/* ---- conn.c ---- */
int sim_lane_open(struct sluice_rail *rail, const struct sluice_lane_opts *opts,
	struct sluice_conn **ret_conn, struct sluice_error *err);
bool sim_lane_fence(struct sluice_conn *conn);
void sim_lane_close(struct sluice_conn *conn);
/* Try the hello of @source on every waiting connection of the target's rail. */
void sim_conn_greet(struct sluice_rail *rail, struct sluice_conn *source);
void sim_conn_forget_hello(struct sluice_conn *source);
void sim_conn_refuse(struct sluice_conn *source, int status);
/* The lane between two matched ends dies; each end learns it in its own time. */
void sim_conn_kill(struct sluice_conn *conn, int status);
void sim_conn_event(struct sim_pipe *pipe, enum sim_event_kind kind);

/* ---- fast.c ---- */
uint32_t sim_submit(
	struct sluice_conn *conn, const struct sluice_op *ops, uint32_t count, uint64_t now_ns);
uint32_t sim_poll(
	struct sluice_conn *conn, struct sluice_event *events, uint32_t max, uint64_t now_ns);
bool sim_arm(struct sluice_conn *conn, struct sluice_arm *ret_arm);

#endif
