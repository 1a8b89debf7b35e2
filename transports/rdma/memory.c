/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * memory.c: registrations: pinned once, in pieces, by several threads; keys for the peer.
 *
 * Control thread, except sluice_rdma_mem_find(), which workers call for a ZERO that arrives, and
 * the keys of pieces, which they read for every operation.
 *
 * A registration is cut into power-of-two pieces. Few, so that all their keys fit into what the
 * peer link carries; small, so that a discard registers little anew. The NIC's address of a byte
 * is its offset, plus what keeps it congruent to the process's address up to 1 GiB pages: a key
 * does not tell where this process keeps its memory.
 */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/bits.h"
#include "base/clock.h"
#include "transports/rdma/internal.h"

#define ADDRESS_MASK ((1ull << 30) - 1)

const struct sluice_mem *sluice_rdma_mem_find(const struct sluice_rail *rail, uint32_t id)
{
	uint32_t end = atomic_load_explicit(&rail->mems_end, memory_order_acquire);

	for (uint32_t slot = 0; slot < end; slot++) {
		/* Sequentially consistent, as the store in unregister: see there. */
		const struct sluice_mem *mem = atomic_load(&rail->mems[slot]);

		if (mem != NULL && mem->id == id)
			return mem;
	}
	return NULL;
}

/* ---- registering ---- */

static uint64_t piece_bytes(const struct sluice_mem *mem, uint32_t index)
{
	uint64_t start = (uint64_t)index << mem->piece_shift;
	uint64_t bytes = 1ull << mem->piece_shift;

	return bytes < mem->len_bytes - start ? bytes : mem->len_bytes - start;
}

/* No relaxed ordering: FLUSH relies on what PCIe promises without it. */
static int piece_register(const struct sluice_mem *mem, uint32_t index, struct ibv_mr **ret_mr)
{
	uint64_t start = (uint64_t)index << mem->piece_shift;
	unsigned int access = 0;

	if (mem->access & SLUICE_ACCESS_REMOTE_WRITE)
		access |= IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE;
	errno = 0;
	*ret_mr = ibv_reg_mr_iova(mem->rail->pd, mem->addr + start, piece_bytes(mem, index),
		mem->address + start, access);
	if (*ret_mr == NULL)
		return errno != 0 ? -errno : -EIO;
	return 0;
}

/* Several threads take the pieces one by one: pinning is work for the CPU. */
struct crew {
	struct sluice_mem *mem;
	uint64_t deadline_ns; /* each begins no piece after it but its first */
	atomic_uint next;
	atomic_uint count; /* registered, */
	_Atomic uint64_t bytes; /* and their bytes */
	atomic_int status;
};

static void *register_some(void *arg)
{
	struct crew *crew = arg;
	struct sluice_mem *mem = crew->mem;

	do {
		uint32_t index = atomic_fetch_add(&crew->next, 1);
		struct ibv_mr *mr;
		int r;

		if (index >= mem->piece_count)
			break;
		if (mem->pieces[index].mr != NULL)
			continue;
		r = piece_register(mem, index, &mr);
		if (r < 0) {
			atomic_store(&crew->status, r);
			break;
		}
		mem->pieces[index].mr = mr;
		atomic_store(&mem->pieces[index].lkey, mr->lkey);
		atomic_fetch_add(&crew->count, 1);
		atomic_fetch_add(&crew->bytes, piece_bytes(mem, index));
	} while (atomic_load(&crew->status) == 0 && sluice_now_ns() < crew->deadline_ns);
	return NULL;
}

static void count_registrations(
	struct sluice_rail *rail, uint32_t count, uint64_t bytes, uint64_t start_ns)
{
	uint64_t now_ns = sluice_now_ns();

	rail->counters.registrations += count;
	rail->counters.registered_bytes += bytes;
	rail->counters.register_ns += now_ns - start_ns;
	rail->counters.registered_last_ns = now_ns;
}

/* Pieces that are not registered; not all of them where the deadline passes. */
static int register_missing(struct sluice_mem *mem, uint64_t deadline_ns)
{
	struct crew crew = {.mem = mem, .deadline_ns = deadline_ns};
	uint64_t start_ns = sluice_now_ns();
	pthread_t threads[RDMA_REGISTER_THREADS];
	long cores = sysconf(_SC_NPROCESSORS_ONLN);
	uint32_t wanted =
		mem->piece_count < RDMA_REGISTER_THREADS ? mem->piece_count : RDMA_REGISTER_THREADS;
	uint32_t count = 0;

	while (count + 1 < wanted && count + 1 < (uint32_t)(cores > 0 ? cores : 1) &&
		pthread_create(&threads[count], NULL, register_some, &crew) == 0)
		count++;
	register_some(&crew);
	for (uint32_t i = 0; i < count; i++)
		pthread_join(threads[i], NULL);
	count_registrations(
		mem->rail, atomic_load(&crew.count), atomic_load(&crew.bytes), start_ns);
	return atomic_load(&crew.status);
}

static void deregister(struct sluice_mem *mem, uint32_t first, uint32_t last)
{
	for (uint32_t i = first; i <= last; i++) {
		if (mem->pieces[i].mr != NULL)
			ibv_dereg_mr(mem->pieces[i].mr);
		mem->pieces[i].mr = NULL;
	}
}

static void deregister_all(struct sluice_mem *mem)
{
	deregister(mem, 0, mem->piece_count - 1);
}

/* Bytes that this process has pinned, as the kernel counts them against the limit. */
static uint64_t pinned_bytes(void)
{
	FILE *file = fopen("/proc/self/status", "re");
	unsigned long long kib = 0;
	char line[128];

	while (file != NULL && fgets(line, sizeof(line), file) != NULL) {
		if (sscanf(line, "VmPin: %llu kB", &kib) == 1)
			break;
	}
	if (file != NULL)
		fclose(file);
	return kib * 1024;
}

/* Called when nothing of what failed is pinned any more. */
static int explain(const struct sluice_mem *mem, int status, struct sluice_error *err)
{
	uint64_t needed_bytes = pinned_bytes() + mem->len_bytes + RDMA_MEMLOCK_SPARE;
	struct rlimit limit = {0};

	getrlimit(RLIMIT_MEMLOCK, &limit);
	if (status == -ENOMEM && limit.rlim_cur != RLIM_INFINITY && limit.rlim_cur < needed_bytes)
		return sluice_fail(err, status, "rdma-memory",
			"cannot register %llu MiB with %s: this process may lock %llu KiB, and "
			"that is not enough; set its memlock limit to %llu KiB (ulimit -l, or "
			"LimitMEMLOCK= of its unit), which leaves %llu MiB for lanes and staging",
			(unsigned long long)(mem->len_bytes >> 20), mem->rail->device_name,
			(unsigned long long)(limit.rlim_cur >> 10),
			(unsigned long long)(needed_bytes >> 10),
			(unsigned long long)(RDMA_MEMLOCK_SPARE >> 20));
	return sluice_fail(err, status, "rdma-memory",
		"cannot register %llu MiB in pieces of %llu MiB with %s: %s; its limits are %llu "
		"registrations of %llu MiB",
		(unsigned long long)(mem->len_bytes >> 20), (1ull << mem->piece_shift) >> 20,
		mem->rail->device_name, strerror(-status),
		(unsigned long long)mem->rail->device.max_mr,
		(unsigned long long)(mem->rail->device.max_mr_size >> 20));
}

static uint32_t log2_down(uint64_t value)
{
	return 63u - (uint32_t)__builtin_clzll(value);
}

/* As the configuration says; longer where the keys would be too many. */
static uint32_t piece_shift_for(const struct sluice_rail *rail, uint64_t len_bytes)
{
	uint32_t shift = log2_down(rail->conf.registration_bytes);

	while (sluice_div_up(len_bytes, 1ull << shift) > RDMA_PIECES_MAX)
		shift++;
	while (shift > RDMA_PIECE_SHIFT_MIN && (1ull << shift) > rail->device.max_mr_size)
		shift--;
	return shift;
}

/* One piece twice: a discard registers it anew first. Of one region, or of several: they have no
   longer pieces than one of them all would. */
uint64_t sluice_rdma_lock_bytes(const struct sluice_rail *rail, uint64_t guest_bytes)
{
	uint64_t piece = 1ull << piece_shift_for(rail, guest_bytes);

	return guest_bytes + (piece < guest_bytes ? piece : guest_bytes) + RDMA_MEMLOCK_SPARE;
}

static int choose_pieces(const struct sluice_rail *rail, uint64_t len_bytes, uint32_t *ret_shift,
	struct sluice_error *err)
{
	uint64_t max_bytes = rail->device.max_mr_size;
	uint32_t shift = piece_shift_for(rail, len_bytes);

	if (sluice_div_up(len_bytes, 1ull << shift) > RDMA_PIECES_MAX ||
		(max_bytes < 1ull << shift && max_bytes < len_bytes))
		return sluice_fail(err, -E2BIG, "rdma-memory",
			"%llu MiB cannot be registered with %s, which takes at most %llu MiB at a "
			"time, in %u registrations",
			(unsigned long long)(len_bytes >> 20), rail->device_name,
			(unsigned long long)(max_bytes >> 20), RDMA_PIECES_MAX);
	*ret_shift = shift;
	return 0;
}

static int check_span(
	struct sluice_rail *rail, const struct sluice_span *span, struct sluice_error *err)
{
	if (!sluice_is_aligned((uintptr_t)span->addr, SLUICE_PAGE_BYTES) || span->len_bytes == 0 ||
		span->len_bytes > UINTPTR_MAX - (uintptr_t)span->addr)
		return sluice_fail(err, -EINVAL, "rdma-memory",
			"memory %u is empty or does not start at a page", span->id);
	if (sluice_rdma_mem_find(rail, span->id) != NULL)
		return sluice_fail(err, -EEXIST, "rdma-memory",
			"memory %u is registered already; unregister it first", span->id);
	return 0;
}

static int find_slot(const struct sluice_rail *rail, uint32_t *ret_slot, struct sluice_error *err)
{
	for (uint32_t slot = 0; slot < RDMA_MEMS_MAX; slot++) {
		if (atomic_load(&rail->mems[slot]) == NULL) {
			*ret_slot = slot;
			return 0;
		}
	}
	return sluice_fail(err, -ENOSPC, "rdma-memory", "a rail holds at most %u registrations",
		RDMA_MEMS_MAX);
}

int sluice_rdma_mem_register(struct sluice_rail *rail, const struct sluice_span *span,
	uint32_t access, struct sluice_mem **ret_mem, struct sluice_error *err)
{
	uint32_t slot = 0, shift = 0, count;
	struct sluice_mem *mem;
	int r;

	r = check_span(rail, span, err);
	if (r == 0)
		r = find_slot(rail, &slot, err);
	if (r == 0)
		r = choose_pieces(rail, span->len_bytes, &shift, err);
	if (r < 0)
		return r;
	count = (uint32_t)sluice_div_up(span->len_bytes, 1ull << shift);
	mem = calloc(1, sizeof(*mem) + count * sizeof(mem->pieces[0]));
	if (mem == NULL)
		return sluice_fail(err, -ENOMEM, "rdma-memory", "out of memory");
	mem->rail = rail;
	mem->id = span->id;
	mem->access = access;
	mem->slot = slot;
	mem->addr = span->addr;
	mem->len_bytes = span->len_bytes;
	mem->address = (uintptr_t)span->addr & ADDRESS_MASK;
	mem->piece_shift = shift;
	mem->piece_count = count;
	r = rail->gone ? 0 : register_missing(mem, SLUICE_NEVER); /* gone: when it is back */
	if (r < 0) {
		deregister_all(mem);
		r = explain(mem, r, err);
		free(mem);
		return r;
	}
	atomic_store(&rail->mems[slot], mem);
	if (slot >= atomic_load(&rail->mems_end))
		atomic_store_explicit(&rail->mems_end, slot + 1, memory_order_release);
	*ret_mem = mem;
	return 0;
}

/* They never sleep there: it ends soon. */
void sluice_rdma_wait_for_workers(const struct sluice_rail *rail)
{
	for (struct sluice_conn *conn = rail->conns; conn != NULL; conn = conn->next) {
		while (atomic_load(&conn->polling))
			sched_yield();
	}
}

/*
 * A worker has either stored `polling` before we load it, and then we wait, or it loads the slot
 * after we emptied it, and then it finds nothing. That needs one total order of these four
 * accesses, hence no relaxed ones. What NICs have under way fails when the keys are gone.
 */
void sluice_rdma_mem_unregister(struct sluice_mem *mem)
{
	struct sluice_rail *rail;

	if (mem == NULL)
		return;
	rail = mem->rail;
	atomic_store(&rail->mems[mem->slot], NULL);
	sluice_rdma_wait_for_workers(rail);
	deregister_all(mem);
	free(mem);
	sluice_rdma_mem_drain(rail);
}

/* ---- discards ---- */

/* Nothing that a lane posted before the last snapshot is under way any more. */
static bool all_drained(const struct sluice_rail *rail)
{
	for (struct sluice_conn *conn = rail->conns; conn != NULL; conn = conn->next) {
		if (conn->qp != NULL &&
			atomic_load(&conn->requests_completed) < conn->drain_request)
			return false;
	}
	return true;
}

static void release(struct rdma_retired **list)
{
	while (*list != NULL) {
		struct rdma_retired *first = *list;

		*list = first->next;
		ibv_dereg_mr(first->mr);
		free(first);
	}
}

/*
 * Two lists: one waits for its snapshot to pass, the other for its turn. So no piece waits for
 * what was posted long after it retired, however often memory is discarded.
 */
void sluice_rdma_mem_drain(struct sluice_rail *rail)
{
	if (rail->draining != NULL && all_drained(rail))
		release(&rail->draining);
	if (rail->draining != NULL || rail->retired == NULL)
		return;
	sluice_rdma_wait_for_workers(rail);
	for (struct sluice_conn *conn = rail->conns; conn != NULL; conn = conn->next)
		conn->drain_request = atomic_load(&conn->requests_posted);
	rail->draining = rail->retired;
	rail->retired = NULL;
	if (all_drained(rail))
		release(&rail->draining);
}

void sluice_rdma_mem_release_all(struct sluice_rail *rail)
{
	release(&rail->draining);
	release(&rail->retired);
	for (uint32_t slot = 0; slot < atomic_load(&rail->mems_end); slot++) {
		struct sluice_mem *mem = atomic_load(&rail->mems[slot]);

		if (mem != NULL)
			deregister_all(mem);
	}
}

static bool is_whole(const struct sluice_mem *mem)
{
	for (uint32_t i = 0; i < mem->piece_count; i++) {
		if (mem->pieces[i].mr == NULL)
			return false;
	}
	return true;
}

int sluice_rdma_mem_refill(struct sluice_rail *rail, uint64_t deadline_ns, struct sluice_error *err)
{
	for (uint32_t slot = 0; slot < atomic_load(&rail->mems_end); slot++) {
		struct sluice_mem *mem = atomic_load(&rail->mems[slot]);
		int r;

		if (mem == NULL || is_whole(mem))
			continue;
		if (sluice_now_ns() >= deadline_ns)
			return 0;
		r = register_missing(mem, deadline_ns);
		if (r < 0)
			return explain(mem, r, err);
		if (!is_whole(mem))
			return 0;
	}
	return 1;
}

/* Pieces that still wait for what lanes have under way count against the memlock limit. True: one
   has gone. */
static bool wait_for_lanes(struct sluice_rail *rail, uint64_t deadline_ns)
{
	const struct timespec pause = {.tv_nsec = SLUICE_NS_PER_MS};
	const struct rdma_retired *draining = rail->draining, *retired = rail->retired;

	while (rail->draining == draining && rail->retired == retired) {
		if ((draining == NULL && retired == NULL) || sluice_now_ns() >= deadline_ns)
			return false;
		nanosleep(&pause, NULL);
		sluice_rdma_mem_drain(rail);
	}
	return true;
}

/* The new registration first: a lane that runs finds a key that is good, at any time. */
static int renew(
	struct sluice_mem *mem, uint32_t index, uint64_t deadline_ns, struct sluice_error *err)
{
	struct rdma_retired *retired = malloc(sizeof(*retired));
	struct ibv_mr *mr;
	int r;

	if (retired == NULL)
		return sluice_fail(err, -ENOMEM, "rdma-memory", "out of memory");
	r = piece_register(mem, index, &mr);
	while (r == -ENOMEM && wait_for_lanes(mem->rail, deadline_ns))
		r = piece_register(mem, index, &mr);
	if (r < 0) {
		free(retired);
		return explain(mem, r, err);
	}
	*retired = (struct rdma_retired){
		.next = mem->rail->retired,
		.mr = mem->pieces[index].mr,
	};
	mem->rail->retired = retired;
	mem->pieces[index].mr = mr;
	atomic_store(&mem->pieces[index].lkey, mr->lkey);
	return 0;
}

int sluice_rdma_mem_discarded(
	struct sluice_mem *mem, uint64_t offset, uint64_t len_bytes, struct sluice_error *err)
{
	uint64_t start_ns = sluice_now_ns(), deadline_ns = start_ns + RDMA_DRAIN_WAIT_NS;
	struct sluice_rail *rail = mem->rail;
	uint32_t first, last;
	int r = 0;

	if (len_bytes == 0 || !sluice_range_inside(offset, len_bytes, mem->len_bytes))
		return sluice_fail(err, -EINVAL, "rdma-memory",
			"the discarded range is empty or not within memory %u", mem->id);
	first = (uint32_t)(offset >> mem->piece_shift);
	last = (uint32_t)((offset + len_bytes - 1) >> mem->piece_shift);
	if (rail->gone)
		deregister(mem, first, last); /* what is there again already */
	for (uint32_t index = first; index <= last && r == 0 && !rail->gone; index++) {
		r = renew(mem, index, deadline_ns, err);
		if (r == 0)
			count_registrations(rail, 1, piece_bytes(mem, index), start_ns);
		/* Now, and not when all are renewed: both count against the memlock limit. */
		sluice_rdma_mem_drain(rail);
		start_ns = sluice_now_ns();
	}
	return r;
}

/* ---- keys ---- */

int sluice_rdma_mem_export(const struct sluice_mem *mem, uint8_t *key, size_t key_bytes_max)
{
	struct {
		struct rdma_key head;
		sluice_le32 rkeys[RDMA_PIECES_MAX];
	} wire;
	size_t bytes = sizeof(wire.head) + mem->piece_count * sizeof(wire.rkeys[0]);

	if (key_bytes_max < bytes)
		return -ENOBUFS;
	wire.head = (struct rdma_key){
		.magic = sluice_put32(RDMA_KEY_MAGIC),
		.version = sluice_put16(RDMA_WIRE_VERSION),
		.mem_id = sluice_put32(mem->id),
		.access = sluice_put32(mem->access),
		.len_bytes = sluice_put64(mem->len_bytes),
		.address = sluice_put64(mem->address),
		.piece_shift = sluice_put32(mem->piece_shift),
		.piece_count = sluice_put32(mem->piece_count),
	};
	for (uint32_t i = 0; i < mem->piece_count; i++)
		wire.rkeys[i] =
			sluice_put32(mem->pieces[i].mr != NULL ? mem->pieces[i].mr->rkey : 0);
	wire.head.checksum = sluice_put64(rdma_key_checksum(&wire.head, bytes));
	memcpy(key, &wire, bytes);
	return (int)bytes;
}

static int check_key(const struct rdma_key *wire, size_t key_bytes, struct sluice_error *err)
{
	uint32_t shift = sluice_get32(wire->piece_shift), count = sluice_get32(wire->piece_count);
	uint64_t len_bytes = sluice_get64(wire->len_bytes);

	if (sluice_get32(wire->magic) != RDMA_KEY_MAGIC ||
		sluice_get64(wire->checksum) != rdma_key_checksum(wire, key_bytes))
		return sluice_fail(err, -EPROTO, "rdma-memory",
			"the peer's memory key is damaged, or not one of rdma");
	if (sluice_get16(wire->version) != RDMA_WIRE_VERSION || sluice_get16(wire->reserved) != 0)
		return sluice_fail(err, -EPROTONOSUPPORT, "rdma-memory",
			"the peer's memory key has version %u, this engine speaks %u",
			sluice_get16(wire->version), RDMA_WIRE_VERSION);
	if (shift < RDMA_PIECE_SHIFT_MIN || shift > RDMA_PIECE_SHIFT_MAX || len_bytes == 0 ||
		count != sluice_div_up(len_bytes, 1ull << shift) || count > RDMA_PIECES_MAX ||
		key_bytes != sizeof(*wire) + count * sizeof(sluice_le32) ||
		len_bytes > UINT64_MAX - sluice_get64(wire->address))
		return sluice_fail(err, -EPROTO, "rdma-memory",
			"the peer's memory key contradicts itself: %llu bytes in %u pieces of 2^%u",
			(unsigned long long)len_bytes, count, shift);
	return 0;
}

int sluice_rdma_mem_import(struct sluice_rail *rail, const uint8_t *key, size_t key_bytes,
	struct sluice_remote **ret_remote, struct sluice_error *err)
{
	struct {
		struct rdma_key head;
		sluice_le32 rkeys[RDMA_PIECES_MAX];
	} wire;
	struct sluice_remote *remote;
	uint32_t count;
	int r;

	(void)rail;
	if (key_bytes < sizeof(wire.head) || key_bytes > sizeof(wire))
		return sluice_fail(err, -EPROTO, "rdma-memory",
			"the peer's memory key has %zu bytes instead of %zu or more; does its rail "
			"use rdma?",
			key_bytes, sizeof(wire.head));
	memcpy(&wire, key, key_bytes);
	r = check_key(&wire.head, key_bytes, err);
	if (r < 0)
		return r;
	count = sluice_get32(wire.head.piece_count);
	remote = malloc(sizeof(*remote) + count * sizeof(remote->rkeys[0]));
	if (remote == NULL)
		return sluice_fail(err, -ENOMEM, "rdma-memory", "out of memory");
	remote->id = sluice_get32(wire.head.mem_id);
	remote->len_bytes = sluice_get64(wire.head.len_bytes);
	remote->address = sluice_get64(wire.head.address);
	remote->piece_shift = sluice_get32(wire.head.piece_shift);
	remote->piece_count = count;
	for (uint32_t i = 0; i < count; i++)
		remote->rkeys[i] = sluice_get32(wire.rkeys[i]);
	*ret_remote = remote;
	return 0;
}

void sluice_rdma_mem_forget(struct sluice_remote *remote)
{
	free(remote);
}
