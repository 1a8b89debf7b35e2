/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * rail.c: rails, registered memory, and the transport's table. A key carries the memory's
 * number in the world; the target looks it up when an operation arrives and checks range and
 * access there, so a forged key reaches nothing.
 *
 * Threading: one thread for a world.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/bits.h"
#include "transports/sim/internal.h"

#define KEY_MAGIC 0x6d69732d65746f72ull

struct sim_key {
	uint64_t magic;
	uint64_t number;
	uint64_t len_bytes;
};

static int rail_open(const void *conf_void, const char *address, struct sluice_rail **ret_rail,
	struct sluice_error *err)
{
	const struct sluice_sim_conf *conf = conf_void;
	struct sluice_sim_world *world = conf->world;
	struct sluice_rail *rail;

	SLUICE_ASSERT(world != NULL);
	if (address != NULL && address[0] != '\0')
		return sluice_fail(err, -EINVAL, "sim",
			"\"%s\": rails of the simulated network are numbered by it; leave the "
			"address empty.",
			address);
	if (world->rail_count == SIM_RAILS_MAX)
		return sluice_fail(
			err, -ENOSPC, "sim", "No more than %u rails in one world.", SIM_RAILS_MAX);
	rail = calloc(1, sizeof(*rail));
	if (rail == NULL)
		return sluice_fail(err, -ENOMEM, "sim", "No memory for a rail.");
	rail->world = world;
	rail->index = world->rail_count++;
	world->rails[rail->index] = rail;
	*ret_rail = rail;
	return 0;
}

static bool address_is_local(const char *address)
{
	(void)address;
	return true;
}

static const struct sluice_rail_stats *rail_stats(const struct sluice_rail *rail)
{
	static const struct sluice_rail_stats none;

	(void)rail;
	return &none;
}

static void rail_close(struct sluice_rail *rail)
{
	if (rail == NULL)
		return;
	SLUICE_ASSERT(rail->conns == NULL);
	SLUICE_ASSERT(rail->mems == NULL);
	while (rail->hellos != NULL) {
		struct sluice_conn *source = rail->hellos;

		sim_conn_forget_hello(source);
		sim_conn_refuse(source, -ECONNREFUSED);
	}
	rail->world->rails[rail->index] = NULL;
	free(rail);
}

static void rail_limits(const struct sluice_rail *rail, struct sluice_rail_limits *ret_limits)
{
	const struct sluice_sim_world_opts *opts = &rail->world->opts;

	*ret_limits = (struct sluice_rail_limits){
		.caps = SLUICE_CAP_REGISTERS_MEMORY | SLUICE_CAP_ONE_SIDED,
		.align_bytes = SIM_ALIGN_BYTES,
		.op_bytes_max = opts->op_bytes_max,
		.depth_max = opts->depth_max,
		.send_bytes_max = SLUICE_SEND_BYTES_MAX,
		.thread_bytes_max = opts->thread_bytes_max,
		.link_bytes_per_s = opts->lane_bytes_per_s,
		.numa_node = -1,
	};
}

static int rail_listen(
	struct sluice_rail *rail, char ret_address[SLUICE_ADDRESS_MAX], struct sluice_error *err)
{
	(void)err;
	rail->listening = true;
	snprintf(ret_address, SLUICE_ADDRESS_MAX, "sim:%u", rail->index);
	return 0;
}

static void rail_step(struct sluice_rail *rail, uint64_t now_ns)
{
	SLUICE_ASSERT(now_ns <= rail->world->now_ns);
	while (rail->hellos != NULL) {
		struct sluice_conn *source = rail->hellos;

		sim_conn_forget_hello(source);
		sim_conn_greet(rail, source);
	}
}

static int rail_fd(struct sluice_rail *rail)
{
	(void)rail;
	return -1;
}

/* ---- Memory ---- */

static int mem_register(struct sluice_rail *rail, const struct sluice_span *span, uint32_t access,
	struct sluice_mem **ret_mem, struct sluice_error *err)
{
	struct sluice_mem *mem;

	if (!sluice_is_aligned((uintptr_t)span->addr, SLUICE_PAGE_BYTES) ||
		!sluice_is_aligned(span->len_bytes, SLUICE_PAGE_BYTES) || span->len_bytes == 0)
		return sluice_fail(err, -EINVAL, "sim", "Memory to register is not page aligned.");
	for (mem = rail->mems; mem != NULL; mem = mem->next)
		if (mem->span.id == span->id)
			return sluice_fail(err, -EEXIST, "sim",
				"Memory %u is registered with this rail already.", span->id);
	mem = calloc(1, sizeof(*mem));
	if (mem == NULL)
		return sluice_fail(err, -ENOMEM, "sim", "No memory for a registration.");
	mem->rail = rail;
	mem->span = *span;
	mem->access = access;
	mem->number = ++rail->world->mem_numbers;
	mem->next = rail->mems;
	rail->mems = mem;
	*ret_mem = mem;
	return 0;
}

static void mem_unregister(struct sluice_mem *mem)
{
	struct sluice_mem **link;

	if (mem == NULL)
		return;
	for (struct sim_pipe *pipe = mem->rail->world->pipes; pipe != NULL; pipe = pipe->next) {
		if (pipe->sender != NULL && pipe->sender->rail == mem->rail)
			SLUICE_ASSERT(!sim_pipe_reads_from(pipe, &mem->span));
		/* As with a NIC: what it holds for this memory is written before it is let go. */
		if (pipe->receiver != NULL && pipe->receiver->rail == mem->rail && !pipe->fenced)
			sim_pipe_show(pipe, pipe->arrived);
	}
	for (link = &mem->rail->mems; *link != mem; link = &(*link)->next)
		SLUICE_ASSERT(*link != NULL);
	*link = mem->next;
	free(mem);
}

/* What a NIC holds for it is dropped: whoever shuts memory has seen to it that nothing is missed. */
static void mem_admit(struct sluice_mem *mem, bool admit)
{
	if (mem == NULL)
		return;
	SLUICE_ASSERT(mem->access & SLUICE_ACCESS_REMOTE_WRITE);
	mem->admits = admit;
}

static int mem_export(const struct sluice_mem *mem, uint8_t *key, size_t key_bytes_max)
{
	struct sim_key own = {
		.magic = KEY_MAGIC, .number = mem->number, .len_bytes = mem->span.len_bytes};

	if (key_bytes_max < sizeof(own))
		return -ENOSPC;
	memcpy(key, &own, sizeof(own));
	return (int)sizeof(own);
}

static int mem_import(struct sluice_rail *rail, const uint8_t *key, size_t key_bytes,
	struct sluice_remote **ret_remote, struct sluice_error *err)
{
	struct sluice_remote *remote;
	struct sim_key peers;

	if (key_bytes != sizeof(peers))
		return sluice_fail(err, -EBADMSG, "sim", "The peer's key has %zu bytes, not %zu.",
			key_bytes, sizeof(peers));
	memcpy(&peers, key, sizeof(peers));
	if (peers.magic != KEY_MAGIC || peers.number == SIM_MEM_ANY || peers.number > UINT32_MAX)
		return sluice_fail(err, -EBADMSG, "sim", "The peer's key is not one of ours.");
	remote = calloc(1, sizeof(*remote));
	if (remote == NULL)
		return sluice_fail(err, -ENOMEM, "sim", "No memory for a key.");
	remote->rail = rail;
	remote->number = (uint32_t)peers.number;
	remote->len_bytes = peers.len_bytes;
	*ret_remote = remote;
	return 0;
}

static void mem_forget(struct sluice_remote *remote)
{
	free(remote);
}

const struct sluice_mem *sim_mem_find(
	const struct sluice_rail *rail, uint32_t number, uint64_t offset, uint64_t len_bytes)
{
	const struct sluice_mem *mem = rail->mems;

	while (mem != NULL && mem->number != number)
		mem = mem->next;
	if (mem == NULL || !mem->admits ||
		!sluice_range_inside(offset, len_bytes, mem->span.len_bytes))
		return NULL;
	return mem;
}

static const struct sluice_conn_stats *lane_stats(const struct sluice_conn *conn)
{
	return &conn->stats;
}

static const struct sluice_param no_params[] = {{0}};

const struct sluice_transport sluice_transport_sim = {
	.abi = SLUICE_TRANSPORT_ABI,
	.size = sizeof(struct sluice_transport),
	.name = "sim",
	.summary = "a simulated network in virtual time, for tests",
	.params = no_params,
	.conf_size = sizeof(struct sluice_sim_conf),
	.rail_open = rail_open,
	.address_is_local = address_is_local,
	.rail_close = rail_close,
	.rail_stats = rail_stats,
	.rail_limits = rail_limits,
	.rail_listen = rail_listen,
	.rail_step = rail_step,
	.rail_fd = rail_fd,
	.mem_register = mem_register,
	.mem_unregister = mem_unregister,
	.mem_admit = mem_admit,
	.mem_export = mem_export,
	.mem_import = mem_import,
	.mem_forget = mem_forget,
	.lane_open = sim_lane_open,
	.lane_fence = sim_lane_fence,
	.lane_close = sim_lane_close,
	.lane_stats = lane_stats,
	.submit = sim_submit,
	.poll = sim_poll,
	.arm = sim_arm,
};
