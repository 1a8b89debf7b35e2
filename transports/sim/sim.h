/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * sim.h: the simulated network behind the transport `sim`. For tests only: it is not in
 * the table of transports that the engine is built with.
 *
 * A world is a network in virtual time. Everything that happens in it follows from its
 * seed and from the order of the calls made, so a failure is replayed by its seed. Time
 * moves in sluice_sim_world_advance() only.
 *
 * What it models, and why:
 * - A lane is reliable and keeps its own order. Loss is hidden by retransmission and shows
 *   as delay; lanes overtake each other.
 * - A WRITE's local bytes are read in two pieces at two random moments between submit and
 *   its arrival, as a NIC would while the guest goes on writing.
 * - A WRITE is PLACED when the target's NIC has it. It becomes visible in memory later, in
 *   the order of its lane but in any order with the writes of other lanes, unless a FLUSH
 *   or SEND of its lane forces it. This is what makes a missing FLUSH findable.
 * - ZERO and SEND need the target's CPU: they are done when the target's lane is polled.
 *   A WRITE posted behind a ZERO that is not PLACED yet may land before it.
 * - A lane that dies tells its source after a while and its target after a while or never.
 *   Some of what was under way still lands at the target ("late writes"), the last of it
 *   perhaps cut short, until the target's lane_fence.
 * - A NIC that dies takes along what it has not yet brought to memory (sluice_sim_rail_break).
 *
 * Threading: one thread for a world and everything in it. Never the real clock.
 */
#ifndef SLUICE_TRANSPORTS_SIM_H
#define SLUICE_TRANSPORTS_SIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <sluice/transport.h>

struct sluice_sim_world;

/*
 * Something final has just happened at the target. SLUICE_OP_WRITE: became visible in memory.
 * SLUICE_OP_ZERO: was done. SLUICE_OP_FLUSH: all that this connection has landed so far is
 * ordered before whatever the others write from now on, by a FLUSH or by lane_fence.
 */
struct sluice_sim_landing {
	uint8_t kind; /* enum sluice_op_kind */
	uint8_t from; /* enum sluice_role: the end that submitted it */
	bool late; /* the lane was dead already */
	uint32_t lane, epoch;
	uint64_t seq;
	uint32_t span_id; /* of the memory's registration */
	uint64_t offset; /* bytes from the start of that registration */
	uint32_t len_bytes;
	void *addr;
};

struct sluice_sim_world_opts {
	uint64_t seed;

	uint64_t latency_ns_min, latency_ns_max; /* one way; drawn once per connection */
	uint64_t jitter_ns_max; /* added per operation */
	uint64_t lane_bytes_per_s; /* 0: no limit */
	uint32_t loss_ppm; /* per operation and attempt */
	uint64_t loss_rto_ns; /* what one loss costs */

	uint32_t death_ppm; /* per operation: its lane dies while it is under way */
	uint64_t notice_ns_max; /* LOST comes at most this long after the death */
	uint32_t target_unaware_ppm; /* the target never notices a death */
	uint64_t late_ns_max; /* spread of the late writes behind the death */
	bool fence_discards_unflushed; /* lane_fence drops what is placed but not yet visible,
					   instead of letting it land: harsher than a NIC */

	bool placed_is_visible; /* true: as tcp; false: as RDMA, PLACED promises nothing */
	uint64_t visible_ns_max; /* how long a placed write may stay invisible */
	uint64_t cpu_ns_max; /* the target's CPU sees ZERO and SEND up to this much later */
	uint32_t stall_ppm; /* per submit: only some ops are taken, and for a while none */

	bool mistakes_lose_lane; /* an unsound operation ends its lane with -EINVAL, as it would
				    elsewhere; false: it ends the test, with an assertion */

	uint32_t depth_max; /* operations in flight per connection, at least 16 */
	uint32_t op_bytes_max; /* a multiple of 4096 */
	uint64_t thread_bytes_max; /* as in struct sluice_rail_limits */
	uint32_t nic_writes_max; /* placed writes per lane that may be invisible at once */

	/* Both may be NULL. Called with the world busy: look, do not call back into it. */
	void (*on_landing)(void *ctx, const struct sluice_sim_landing *landing);
	void (*on_trace)(void *ctx, const char *line); /* without a newline */
	void *ctx;
};

/* What has happened so far; also proof that a test met what it wanted to meet. */
struct sluice_sim_stats {
	uint64_t ops, arrivals, losses, deaths, fences;
	uint64_t late_arrivals; /* arrived on a dead lane */
	uint64_t late_landings; /* changed memory after the source had its LOST */
	uint64_t placed_invisible; /* arrived and not visible at that moment */
	uint64_t forced_visible; /* made visible by a FLUSH, SEND or ZERO behind them */
	uint64_t cut_short; /* late writes of which only the beginning arrived */
	uint64_t torn_reads; /* both halves were read at different moments */
	uint64_t discarded_by_fence; /* arrived or under way, and never landed */
	uint64_t refused; /* reached for memory that the target did not let them into */
	uint64_t vanished; /* placed, and lost with the target's NIC */
	uint64_t stalls;
};

/* A well-behaved 10 us network with RDMA-like visibility, without loss and deaths. */
void sluice_sim_world_defaults(struct sluice_sim_world_opts *ret_opts);
/* NULL when out of memory; asserts that the options make sense. */
struct sluice_sim_world *sluice_sim_world_create(const struct sluice_sim_world_opts *opts);
/* All lanes, memory and rails are closed by then. NULL is allowed. */
void sluice_sim_world_destroy(struct sluice_sim_world *world);

uint64_t sluice_sim_world_now(const struct sluice_sim_world *world);
/* When the next thing happens by itself; UINT64_MAX: nothing will. */
uint64_t sluice_sim_world_next_ns(const struct sluice_sim_world *world);
/* Let everything up to and including @to_ns happen, in order; then it is @to_ns. */
void sluice_sim_world_advance(struct sluice_sim_world *world, uint64_t to_ns);
/* While held, nothing that was not there yet arrives at any target; lanes stay alive. */
void sluice_sim_world_hold(struct sluice_sim_world *world, bool hold);

const struct sluice_sim_stats *sluice_sim_world_stats(const struct sluice_sim_world *world);
/* A hash over everything that has happened and when: equal seeds and calls, equal hash. */
uint64_t sluice_sim_world_hash(const struct sluice_sim_world *world);

/* The connection of this end (either end) dies now. Nothing when it is not connected. */
void sluice_sim_lane_kill(struct sluice_conn *conn);

/* A rail dies now, with every lane of it, or is there again. While it is down no lane can be opened
   with it, and a hello that is sent to it goes unanswered until its deadline. */
void sluice_sim_rail_set_down(struct sluice_rail *rail, bool down);
/* The same, and its NIC takes along what it has not yet brought to memory: writes to this end that
   are placed and not visible never land, and lane_fence does not vouch for any (but where PLACED
   means visible). sluice_sim_rail_set_down(rail, false) brings it back. */
void sluice_sim_rail_break(struct sluice_rail *rail);

/* The transport's configuration; the table of parameters is empty. */
struct sluice_sim_conf {
	struct sluice_sim_world *world;
};

extern const struct sluice_transport sluice_transport_sim;

#endif
