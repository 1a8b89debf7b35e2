/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * net.h: two rails of one simulated world, memory on both, and lanes between them, driven
 * by hand. For the tests of the simulated network itself.
 *
 * Threading: one thread.
 */
#ifndef SLUICE_TESTS_SIM_NET_H
#define SLUICE_TESTS_SIM_NET_H

#include <stdbool.h>
#include <stdint.h>

#include "transports/sim/sim.h"

#define NET_LANES_MAX 4u
#define NET_PAGES     64u
#define NET_PAGE      4096u

/* One end of a lane and what its polls have said. */
struct net_end {
	struct sluice_conn *conn;
	bool connected, lost;
	int status;
	uint64_t placed, flushed; /* highest seq reported */
	uint32_t received; /* messages */
	uint64_t received_last; /* first 8 bytes of the last one */
};

struct net {
	struct sluice_sim_world *world;
	struct sluice_rail *source_rail, *target_rail;
	char address[SLUICE_ADDRESS_MAX];
	uint8_t *source_bytes, *target_bytes; /* NET_PAGES pages each */
	struct sluice_mem *source_mem, *target_mem;
	struct sluice_remote *remote;
	uint64_t seq; /* of the last operation submitted, over all lanes */
	bool target_sleeps; /* the target's lanes are not polled */
	struct net_end source[NET_LANES_MAX], target[NET_LANES_MAX];
};

void net_open(struct net *net, const struct sluice_sim_world_opts *opts);
void net_close(struct net *net);

/* Open both ends of lane @index; @ticket is filled with the byte given for each end. */
void net_lane_open(struct net *net, unsigned int index, uint8_t source_ticket,
	uint8_t target_ticket, uint64_t deadline_ns);
/* The same with equal tickets, and wait until both ends are connected. */
void net_lane_connect(struct net *net, unsigned int index);

/* Poll what is awake and let the next thing happen. False: nothing will happen any more. */
bool net_turn(struct net *net);
/* Turn until nothing happens any more. */
void net_settle(struct net *net);
/* Turn until the source of @index knows that @seq is placed, or is lost. */
void net_wait_placed(struct net *net, unsigned int index, uint64_t seq);
void net_wait_flushed(struct net *net, unsigned int index, uint64_t seq);
void net_wait_lost(struct net *net, unsigned int index);

/* Submit one operation, turning until it is taken. Returns its seq; 0 when the lane is lost. */
uint64_t net_write(struct net *net, unsigned int index, uint32_t page);
uint64_t net_zero(struct net *net, unsigned int index, uint32_t page);
uint64_t net_send(struct net *net, unsigned int index, uint64_t value);
uint64_t net_flush(struct net *net, unsigned int index);
uint64_t net_submit(struct net *net, unsigned int index, struct sluice_op *op);

/* Fill a page at the source; the first byte of a page at the target. */
void net_fill(struct net *net, uint32_t page, uint8_t value);
uint8_t net_look(const struct net *net, uint32_t page);

#endif
