/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * memory.c: a rail's registrations and the keys that name them to the peer.
 *
 * Control thread, except sluice_tcp_mem_find(), which workers call for every operation that
 * arrives. Registering costs nothing here: sockets need no pinned memory. What a registration
 * gives is the permission to write, while it admits. Refusing again takes that back, and
 * unregistering for good: when either returns, no worker of this rail touches the memory any more.
 */
#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/assert.h"
#include "base/bits.h"
#include "transports/tcp/internal.h"

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22 /* Linux 5.14 */
#endif

#define WORD_BITS 64u

const struct sluice_mem *sluice_tcp_mem_find(
	const struct sluice_rail *rail, uint32_t id, uint32_t *hint)
{
	uint32_t end = atomic_load_explicit(&rail->mems_end, memory_order_acquire);
	uint32_t first = *hint < end ? *hint : 0;

	for (uint32_t i = 0; i < end; i++) {
		uint32_t slot = first + i < end ? first + i : first + i - end;
		/* Sequentially consistent, as the store in unregister: see there. */
		const struct sluice_mem *mem = atomic_load(&rail->mems[slot]);

		if (mem != NULL && mem->id == id) {
			*hint = slot;
			return mem;
		}
	}
	return NULL;
}

/* The kernel's blocks are aligned addresses, wherever a registration begins. */
static uint64_t block_of(const uint8_t *addr)
{
	return (uintptr_t)addr / TCP_FAULT_BYTES;
}

/*
 * Copying into a page for the first time takes a page fault, and write faults come one page at a
 * time: that was more than half of what a target spent. Faulting in for reading takes the
 * neighbours along that are there and written (fault-around, 64 KiB), and shared memory is mapped
 * writable then, too. So one page of a block is asked for: asked for all, the kernel looks up each
 * that it just mapped. One that is not there yet is allocated as the copy would have done it. So
 * this waits for nothing that the copy would not wait for, and fails only where the copy will.
 *
 * A block is asked for once per registration. Pages of it that come into being later fault as ever.
 */
void sluice_tcp_mem_fault_in(const struct sluice_mem *mem, uint64_t offset, uint32_t len_bytes)
{
	uint8_t *at = mem->addr + sluice_align_down(offset, SLUICE_PAGE_BYTES);
	const uint8_t *end = mem->addr + offset + len_bytes;

	while (at < end) {
		uint64_t block = block_of(at) - block_of(mem->addr);
		uint64_t *word = &mem->faulted[block / WORD_BITS];
		uint64_t bit = 1ull << (block % WORD_BITS);

		if (!(__atomic_load_n(word, __ATOMIC_RELAXED) & bit)) {
			__atomic_fetch_or(word, bit, __ATOMIC_RELAXED);
			madvise(at, SLUICE_PAGE_BYTES, MADV_POPULATE_READ);
		}
		at += TCP_FAULT_BYTES - (uintptr_t)at % TCP_FAULT_BYTES;
	}
}

static uint64_t *faulted_alloc(const struct sluice_span *span)
{
	const uint8_t *first = span->addr;
	uint64_t blocks = block_of(first + span->len_bytes - 1) - block_of(first) + 1;

	return calloc(sluice_div_up(blocks, WORD_BITS), sizeof(uint64_t));
}

int sluice_tcp_mem_register(struct sluice_rail *rail, const struct sluice_span *span,
	uint32_t access, struct sluice_mem **ret_mem, struct sluice_error *err)
{
	uint32_t slot, end = atomic_load(&rail->mems_end), hint = 0;
	struct sluice_mem *mem;

	if (!sluice_is_aligned((uintptr_t)span->addr, SLUICE_PAGE_BYTES) || span->len_bytes == 0 ||
		span->len_bytes > UINTPTR_MAX - (uintptr_t)span->addr)
		return sluice_fail(err, -EINVAL, "tcp-memory",
			"memory %u is empty or does not start at a page", span->id);
	if (sluice_tcp_mem_find(rail, span->id, &hint) != NULL)
		return sluice_fail(err, -EEXIST, "tcp-memory",
			"memory %u is registered already; unregister it first", span->id);
	for (slot = 0; slot < end; slot++) {
		if (atomic_load(&rail->mems[slot]) == NULL)
			break;
	}
	if (slot == TCP_MEMS_MAX)
		return sluice_fail(err, -ENOSPC, "tcp-memory",
			"a rail holds at most %u registrations", TCP_MEMS_MAX);
	mem = malloc(sizeof(*mem));
	if (mem == NULL)
		return sluice_fail(err, -ENOMEM, "tcp-memory", "out of memory");
	*mem = (struct sluice_mem){
		.rail = rail,
		.id = span->id,
		.access = access,
		.slot = slot,
		.addr = span->addr,
		.len_bytes = span->len_bytes,
	};
	if (access & SLUICE_ACCESS_REMOTE_WRITE) {
		mem->faulted = faulted_alloc(span);
		if (mem->faulted == NULL) {
			free(mem);
			return sluice_fail(err, -ENOMEM, "tcp-memory", "out of memory");
		}
	}
	atomic_store(&rail->mems[slot], mem);
	if (slot == end)
		atomic_store_explicit(&rail->mems_end, end + 1, memory_order_release);
	*ret_mem = mem;
	return 0;
}

/*
 * What was taken back before is taken back from every lane. One in poll has either stored `polling`
 * before we load it, and then we wait, or it looks after we took back, and then it finds nothing.
 * That needs one total order of these four accesses, hence no relaxed ones. A frame half placed
 * keeps addresses over several polls: the generation tells it to look them up again.
 */
static void wait_for_workers(struct sluice_rail *rail)
{
	atomic_fetch_add(&rail->mems_generation, 1);
	for (struct sluice_conn *conn = rail->conns; conn != NULL; conn = conn->next) {
		while (atomic_load(&conn->polling)) /* poll never sleeps: this ends soon */
			sched_yield();
	}
}

void sluice_tcp_mem_admit(struct sluice_mem *mem, bool admit)
{
	if (mem == NULL)
		return;
	SLUICE_ASSERT(mem->access & SLUICE_ACCESS_REMOTE_WRITE);
	atomic_store(&mem->admits, admit);
	if (!admit)
		wait_for_workers(mem->rail);
}

void sluice_tcp_mem_unregister(struct sluice_mem *mem)
{
	if (mem == NULL)
		return;
	atomic_store(&mem->rail->mems[mem->slot], NULL);
	wait_for_workers(mem->rail);
	free(mem->faulted);
	free(mem);
}

int sluice_tcp_mem_export(const struct sluice_mem *mem, uint8_t *key, size_t key_bytes_max)
{
	struct tcp_key wire = {
		.magic = sluice_put32(TCP_KEY_MAGIC),
		.version = sluice_put16(TCP_WIRE_VERSION),
		.flags = sluice_put16(
			mem->rail->conf.checksum != TCP_CHECKSUM_NONE ? TCP_FLAG_CHECKSUM : 0),
		.mem_id = sluice_put32(mem->id),
		.access = sluice_put32(mem->access),
		.len_bytes = sluice_put64(mem->len_bytes),
	};

	if (key_bytes_max < sizeof(wire))
		return -ENOBUFS;
	wire.checksum = sluice_put64(tcp_checksum(&wire, sizeof(wire)));
	memcpy(key, &wire, sizeof(wire));
	return (int)sizeof(wire);
}

int sluice_tcp_mem_import(struct sluice_rail *rail, const uint8_t *key, size_t key_bytes,
	struct sluice_remote **ret_remote, struct sluice_error *err)
{
	struct sluice_remote *remote;
	struct tcp_key wire;

	if (key_bytes != sizeof(wire))
		return sluice_fail(err, -EPROTO, "tcp-memory",
			"the peer's memory key has %zu bytes instead of %zu; does its rail use "
			"tcp?",
			key_bytes, sizeof(wire));
	memcpy(&wire, key, sizeof(wire));
	if (sluice_get32(wire.magic) != TCP_KEY_MAGIC ||
		sluice_get64(wire.checksum) != tcp_checksum(&wire, sizeof(wire)))
		return sluice_fail(err, -EPROTO, "tcp-memory",
			"the peer's memory key is damaged, or not one of tcp");
	if (sluice_get16(wire.version) != TCP_WIRE_VERSION ||
		(sluice_get16(wire.flags) & ~TCP_FLAG_CHECKSUM) != 0)
		return sluice_fail(err, -EPROTONOSUPPORT, "tcp-memory",
			"the peer's memory key has version %u, this engine speaks %u",
			sluice_get16(wire.version), TCP_WIRE_VERSION);
	remote = malloc(sizeof(*remote));
	if (remote == NULL)
		return sluice_fail(err, -ENOMEM, "tcp-memory", "out of memory");
	remote->id = sluice_get32(wire.mem_id);
	remote->len_bytes = sluice_get64(wire.len_bytes);
	rail->peer_checksum = (sluice_get16(wire.flags) & TCP_FLAG_CHECKSUM) != 0;
	*ret_remote = remote;
	return 0;
}

void sluice_tcp_mem_forget(struct sluice_remote *remote)
{
	free(remote);
}
