/* SPDX-License-Identifier: BSD-3-Clause */
/* net.c: see net.h. Broken expectations of the fixture itself are assertions. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "tests/sim/net.h"
#include "tests/support/lane_guard.h"

#define TURNS_MAX 1000000u

static const struct sluice_transport *sim; /* guarded, see lane_guard.h */

void net_open(struct net *net, const struct sluice_sim_world_opts *opts)
{
	struct sluice_sim_conf conf;
	uint8_t key[SLUICE_KEY_BYTES_MAX];
	int key_bytes;

	*net = (struct net){0};
	sim = lane_guard_transport(&sluice_transport_sim);
	net->world = sluice_sim_world_create(opts);
	SLUICE_ASSERT(net->world != NULL);
	conf.world = net->world;
	SLUICE_ASSERT(sim->rail_open(&conf, "", &net->source_rail, NULL) == 0);
	SLUICE_ASSERT(sim->rail_open(&conf, "", &net->target_rail, NULL) == 0);
	SLUICE_ASSERT(sim->rail_listen(net->target_rail, net->address, NULL) == 0);
	net->source_bytes = aligned_alloc(NET_PAGE, NET_PAGES * NET_PAGE);
	net->target_bytes = aligned_alloc(NET_PAGE, NET_PAGES * NET_PAGE);
	memset(net->source_bytes, 0, NET_PAGES * NET_PAGE);
	memset(net->target_bytes, 0xa5, NET_PAGES * NET_PAGE);
	SLUICE_ASSERT(sim->mem_register(net->source_rail,
			      &(struct sluice_span){1, net->source_bytes, NET_PAGES * NET_PAGE},
			      SLUICE_ACCESS_LOCAL_READ, &net->source_mem, NULL) == 0);
	SLUICE_ASSERT(sim->mem_register(net->target_rail,
			      &(struct sluice_span){1, net->target_bytes, NET_PAGES * NET_PAGE},
			      SLUICE_ACCESS_REMOTE_WRITE, &net->target_mem, NULL) == 0);
	sim->mem_admit(net->target_mem, true);
	key_bytes = sim->mem_export(net->target_mem, key, sizeof(key));
	SLUICE_ASSERT(key_bytes > 0);
	SLUICE_ASSERT(
		sim->mem_import(net->source_rail, key, (size_t)key_bytes, &net->remote, NULL) == 0);
}

void net_close(struct net *net)
{
	for (unsigned int i = 0; i < NET_LANES_MAX; i++) {
		sim->lane_close(net->source[i].conn);
		sim->lane_close(net->target[i].conn);
	}
	sim->mem_forget(net->remote);
	sim->mem_unregister(net->source_mem);
	sim->mem_unregister(net->target_mem);
	sim->rail_close(net->source_rail);
	sim->rail_close(net->target_rail);
	sluice_sim_world_destroy(net->world);
	free(net->source_bytes);
	free(net->target_bytes);
}

void net_lane_open(struct net *net, unsigned int index, uint8_t source_ticket,
	uint8_t target_ticket, uint64_t deadline_ns)
{
	struct sluice_lane_opts opts = {
		.role = SLUICE_ROLE_TARGET, .lane = index, .epoch = 1, .deadline_ns = deadline_ns};

	memset(&opts.ticket, target_ticket, sizeof(opts.ticket));
	SLUICE_ASSERT(sim->lane_open(net->target_rail, &opts, &net->target[index].conn, NULL) == 0);
	memset(&opts.ticket, source_ticket, sizeof(opts.ticket));
	opts.role = SLUICE_ROLE_SOURCE;
	opts.peer_address = net->address;
	SLUICE_ASSERT(sim->lane_open(net->source_rail, &opts, &net->source[index].conn, NULL) == 0);
}

static void end_poll(struct net *net, struct net_end *end)
{
	struct sluice_event events[8];
	uint32_t count;

	if (end->conn == NULL)
		return;
	count = sim->poll(end->conn, events, 8, sluice_sim_world_now(net->world));
	for (uint32_t i = 0; i < count; i++) {
		const struct sluice_event *event = &events[i];

		SLUICE_ASSERT(!end->lost); /* nothing after LOST */
		switch (event->kind) {
		case SLUICE_EVENT_CONNECTED:
			end->connected = true;
			break;
		case SLUICE_EVENT_FLUSHED:
			end->flushed = event->seq;
			end->placed = event->seq;
			break;
		case SLUICE_EVENT_PLACED:
			end->placed = event->seq;
			break;
		case SLUICE_EVENT_RECEIVED:
			end->received++;
			memcpy(&end->received_last, event->data, sizeof(end->received_last));
			break;
		default:
			end->lost = true;
			end->status = event->status;
		}
	}
}

static bool any_busy(struct net *net)
{
	struct sluice_arm arm;

	for (unsigned int i = 0; i < NET_LANES_MAX; i++) {
		if (net->source[i].conn != NULL && !sim->arm(net->source[i].conn, &arm))
			return true;
		if (net->target[i].conn != NULL && !net->target_sleeps &&
			!sim->arm(net->target[i].conn, &arm))
			return true;
	}
	return false;
}

bool net_turn(struct net *net)
{
	sim->rail_step(net->target_rail, sluice_sim_world_now(net->world));
	if (!any_busy(net)) {
		uint64_t next_ns = sluice_sim_world_next_ns(net->world);

		if (next_ns == SLUICE_NEVER)
			return false;
		sluice_sim_world_advance(net->world, next_ns);
	}
	/* Polls come last: when this returns nothing has happened that was not reported. */
	sim->rail_step(net->target_rail, sluice_sim_world_now(net->world));
	for (unsigned int i = 0; i < NET_LANES_MAX; i++) {
		end_poll(net, &net->source[i]);
		if (!net->target_sleeps)
			end_poll(net, &net->target[i]);
	}
	return true;
}

void net_settle(struct net *net)
{
	unsigned int turns = 0;

	while (net_turn(net))
		SLUICE_ASSERT(turns++ < TURNS_MAX);
}

void net_lane_connect(struct net *net, unsigned int index)
{
	net_lane_open(net, index, 7, 7, SLUICE_NEVER);
	for (unsigned int i = 0; i < 100; i++) {
		if (net->source[index].connected && net->target[index].connected)
			return;
		net_turn(net);
	}
	SLUICE_ASSERT(!"connected within 100 turns");
}

/* Turn until *@reached >= @least or the lane is lost; something has to happen meanwhile. */
static void wait_for(
	struct net *net, const struct net_end *end, const uint64_t *reached, uint64_t least)
{
	bool moved = true;

	for (unsigned int i = 0; *reached < least && !end->lost; i++) {
		SLUICE_ASSERT(moved);
		SLUICE_ASSERT(i < TURNS_MAX);
		moved = net_turn(net);
	}
}

void net_wait_placed(struct net *net, unsigned int index, uint64_t seq)
{
	wait_for(net, &net->source[index], &net->source[index].placed, seq);
}

void net_wait_flushed(struct net *net, unsigned int index, uint64_t seq)
{
	wait_for(net, &net->source[index], &net->source[index].flushed, seq);
}

void net_wait_lost(struct net *net, unsigned int index)
{
	wait_for(net, &net->source[index], &(uint64_t){0}, 1);
}

uint64_t net_submit(struct net *net, unsigned int index, struct sluice_op *op)
{
	struct net_end *end = &net->source[index];

	op->seq = ++net->seq;
	for (unsigned int i = 0; i < TURNS_MAX && !end->lost; i++) {
		if (sim->submit(end->conn, op, 1, sluice_sim_world_now(net->world)) == 1)
			return op->seq;
		net_turn(net);
	}
	SLUICE_ASSERT(end->lost);
	return 0;
}

uint64_t net_write(struct net *net, unsigned int index, uint32_t page)
{
	return net_submit(net, index,
		&(struct sluice_op){
			.kind = SLUICE_OP_WRITE,
			.len_bytes = NET_PAGE,
			.local = net->source_bytes + (size_t)page * NET_PAGE,
			.mem = net->source_mem,
			.remote = net->remote,
			.remote_offset = (uint64_t)page * NET_PAGE,
		});
}

uint64_t net_zero(struct net *net, unsigned int index, uint32_t page)
{
	return net_submit(net, index,
		&(struct sluice_op){
			.kind = SLUICE_OP_ZERO,
			.len_bytes = NET_PAGE,
			.remote = net->remote,
			.remote_offset = (uint64_t)page * NET_PAGE,
		});
}

uint64_t net_send(struct net *net, unsigned int index, uint64_t value)
{
	return net_submit(net, index,
		&(struct sluice_op){
			.kind = SLUICE_OP_SEND, .len_bytes = sizeof(value), .local = &value});
}

uint64_t net_flush(struct net *net, unsigned int index)
{
	return net_submit(net, index, &(struct sluice_op){.kind = SLUICE_OP_FLUSH});
}

void net_fill(struct net *net, uint32_t page, uint8_t value)
{
	memset(net->source_bytes + (size_t)page * NET_PAGE, value, NET_PAGE);
}

uint8_t net_look(const struct net *net, uint32_t page)
{
	return net->target_bytes[(size_t)page * NET_PAGE];
}
