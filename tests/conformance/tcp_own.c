/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * tcp_own.c: what only this transport can be asked: addresses, registrations, sleeping on a
 * full socket, page faults, threads, and that a running lane allocates nothing.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/params.h"
#include "tests/conformance/tcp_raw.h"

/* ---- addresses ---- */

static const struct tcp_conf plain = {.nodelay = true};

static void addresses(void)
{
	static const struct {
		const char *text;
		int expected;
	} rows[] = {
		{"", 0},
		{"127.0.0.1", 0},
		{"127.0.0.1:0", 0},
		{"127.3.4.5:7000", 0},
		{"[::1]:0", 0},
		{"[::1]", 0},
		{"[::ffff:127.0.0.1]:0", 0},
		{"192.0.2.1:7000", 0},
		{"0.0.0.0:7000", 0},
		{"[::]:7000", 0},
		{"[::ffff:192.0.2.1]:7000", 0},
		{"[2001:db8::1]:7000", 0},
		{"localhost:7000", -EINVAL}, /* no name is looked up */
		{"::1", -EINVAL},
		{"[::1", -EINVAL},
		{"[::1]x", -EINVAL},
		{"[]:1", -EINVAL},
		{":7000", -EINVAL},
		{"127.0.0.1:", -EINVAL},
		{"127.0.0.1:http", -EINVAL},
		{"127.0.0.1:7000:8000", -EINVAL},
	};

	for (size_t i = 0; i < SLUICE_ARRAY_LEN(rows); i++) {
		struct sluice_rail *rail = NULL;
		struct sluice_error err = {0};
		int r = raw_tcp->rail_open(&plain, rows[i].text, &rail, &err);

		CU_ASSERT_EQUAL(r, rows[i].expected);
		CU_ASSERT_EQUAL(err.code, rows[i].expected);
		CU_ASSERT((r == 0) == (rail != NULL));
		raw_tcp->rail_close(rail);
	}
}

static void parameters(void)
{
	struct tcp_conf conf;
	struct sluice_error err = {0};

	memset(&conf, 0xff, sizeof(conf));
	sluice_params_defaults(sluice_tcp_params, &conf);
	CU_ASSERT(conf.nodelay);
	CU_ASSERT_EQUAL(conf.send_buffer_bytes, 0);
	CU_ASSERT_EQUAL(conf.receive_buffer_bytes, 0);
	CU_ASSERT_EQUAL(raw_tcp->conf_size, sizeof(conf));
	CU_ASSERT_EQUAL(sluice_params_assign(sluice_tcp_params, &conf, "send-buffer=4M", &err), 0);
	CU_ASSERT_EQUAL(conf.send_buffer_bytes, 4 << 20);
	CU_ASSERT(sluice_params_assign(sluice_tcp_params, &conf, "receive-buffer=2G", &err) < 0);
}

/* Who may use which is the engine's decision; the transport only tells them apart. */
static void what_is_local(void)
{
	static const struct {
		const char *text;
		bool local;
	} rows[] = {
		{"127.0.0.1:7000", true},
		{"127.255.255.254:0", true},
		{"[::1]:7000", true},
		{"[::ffff:127.0.0.1]:7000", true},
		{"192.0.2.1:7000", false},
		{"0.0.0.0:7000", false},
		{"[::]:7000", false},
		{"[::ffff:192.0.2.1]:7000", false},
		{"[2001:db8::1]:7000", false},
		{"localhost:7000", false}, /* no address, so nobody can tell */
		{"", false},
	};

	for (size_t i = 0; i < SLUICE_ARRAY_LEN(rows); i++)
		CU_ASSERT_EQUAL(raw_tcp->address_is_local(rows[i].text), rows[i].local);
}

static void listening_twice(void)
{
	char address[SLUICE_ADDRESS_MAX], other[SLUICE_ADDRESS_MAX];
	struct sluice_rail *first, *second;
	struct sluice_error err = {0};

	CU_ASSERT_EQUAL_FATAL(raw_tcp->rail_open(&plain, "", &first, NULL), 0);
	CU_ASSERT_EQUAL(raw_tcp->rail_listen(first, address, NULL), 0);
	CU_ASSERT_EQUAL(raw_tcp->rail_listen(first, other, NULL), -EALREADY);
	CU_ASSERT_EQUAL_FATAL(raw_tcp->rail_open(&plain, address, &second, NULL), 0);
	CU_ASSERT_EQUAL(raw_tcp->rail_listen(second, other, &err), -EADDRINUSE);
	CU_ASSERT(strstr(err.text, address) != NULL);
	raw_tcp->rail_close(second);
	raw_tcp->rail_close(first);
}

static void memory_ids(void)
{
	uint8_t *page = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	struct sluice_span span = {1, page, 4096};
	struct sluice_mem *mem, *again;
	struct sluice_rail *rail;

	CU_ASSERT_EQUAL_FATAL(raw_tcp->rail_open(&plain, "", &rail, NULL), 0);
	CU_ASSERT_EQUAL(raw_tcp->mem_register(rail, &span, 0, &mem, NULL), 0);
	CU_ASSERT_EQUAL(raw_tcp->mem_register(rail, &span, 0, &again, NULL), -EEXIST);
	raw_tcp->mem_unregister(mem);
	CU_ASSERT_EQUAL(raw_tcp->mem_register(rail, &span, 0, &mem, NULL), 0);
	span.id = 2;
	span.addr = page + 8;
	CU_ASSERT_EQUAL(raw_tcp->mem_register(rail, &span, 0, &again, NULL), -EINVAL);
	span.addr = page;
	span.len_bytes = 0;
	CU_ASSERT_EQUAL(raw_tcp->mem_register(rail, &span, 0, &again, NULL), -EINVAL);
	raw_tcp->mem_unregister(mem);
	raw_tcp->rail_close(rail);
	munmap(page, 8192);
}

/* ---- sleeping ---- */

/* Ten messages arrive together; a worker with room for one event must not fall asleep. */
static void messages_keep_awake(void)
{
	enum { MESSAGES = 10, BYTES = 56 };
	uint8_t stream[MESSAGES * BYTES];
	struct sluice_event event;
	struct sluice_arm arm;
	struct raw_frame frame;
	struct raw r;

	if (!raw_open(&r))
		return;
	for (uint32_t i = 0; i < MESSAGES; i++) {
		raw_frame_bare(&frame, TCP_FRAME_SEND, 16);
		frame.header.first_op = sluice_put64(i);
		raw_frame_seal(&frame);
		memcpy(stream + i * BYTES, &frame, BYTES);
	}
	if (raw_victim_connect(&r)) {
		CU_ASSERT(raw_write(r.fd, stream, sizeof(stream)));
		CU_ASSERT(raw_tcp->arm(r.victim, &arm));
		CU_ASSERT_EQUAL(poll(&(struct pollfd){arm.fd, arm.events, 0}, 1, 60000), 1);
		for (uint32_t i = 0; i < MESSAGES; i++) {
			CU_ASSERT_EQUAL(raw_tcp->poll(r.victim, &event, 1, sluice_now_ns()), 1);
			CU_ASSERT_EQUAL(event.kind, SLUICE_EVENT_RECEIVED);
			CU_ASSERT_EQUAL(raw_tcp->arm(r.victim, &arm), i == MESSAGES - 1);
		}
	}
	raw_close(&r);
}

struct sleeper {
	struct sluice_conn *conn;
	struct pollfd fd;
	bool asleep;
	bool connected;
	uint64_t flushed;
};

/* A worker that is awake has its turn and goes to sleep when it may. */
static void sleeper_turn(struct sleeper *sleeper)
{
	struct sluice_event events[4];
	struct sluice_arm arm;
	uint32_t count;

	if (sleeper->asleep)
		return;
	count = raw_tcp->poll(sleeper->conn, events, 4, sluice_now_ns());
	for (uint32_t i = 0; i < count; i++) {
		CU_ASSERT(events[i].kind != SLUICE_EVENT_LOST);
		sleeper->connected |= events[i].kind == SLUICE_EVENT_CONNECTED;
		if (events[i].kind == SLUICE_EVENT_FLUSHED)
			sleeper->flushed = events[i].seq;
	}
	sleeper->asleep = raw_tcp->arm(sleeper->conn, &arm);
	sleeper->fd = (struct pollfd){.fd = arm.fd, .events = arm.events};
}

/* Both workers in turn; each is woken by its own descriptor only. False: nobody was. */
static bool sleepers_turn(struct sleeper *source, struct sleeper *target)
{
	struct pollfd fds[2];

	sleeper_turn(source);
	sleeper_turn(target);
	if (!source->asleep || !target->asleep || source->flushed != 0)
		return true;
	fds[0] = source->fd;
	fds[1] = target->fd;
	if (poll(fds, 2, 60000) == 0)
		return false;
	source->asleep = fds[0].revents == 0;
	target->asleep = fds[1].revents == 0;
	return true;
}

/* Both workers in turn, whether they sleep or not. */
static void waking_turn(struct sleeper *source, struct sleeper *target)
{
	source->asleep = target->asleep = false;
	sleeper_turn(source);
	sleeper_turn(target);
}

/* A lane of its own: both ends on one rail, into one registration. */
struct own_lane {
	struct sluice_rail *rail;
	struct sluice_mem *mem;
	struct sleeper source, target;
};

static void own_lane_open(
	struct own_lane *lane, const struct tcp_conf *conf, const struct sluice_span *span)
{
	struct sluice_lane_opts opts = {.deadline_ns = sluice_now_ns() + RAW_PATIENCE_NS};
	char address[SLUICE_ADDRESS_MAX];

	*lane = (struct own_lane){0};
	CU_ASSERT_EQUAL_FATAL(raw_tcp->rail_open(conf, "", &lane->rail, NULL), 0);
	CU_ASSERT_EQUAL(raw_tcp->mem_register(
				lane->rail, span, SLUICE_ACCESS_REMOTE_WRITE, &lane->mem, NULL),
		0);
	raw_tcp->mem_admit(lane->mem, true);
	CU_ASSERT_EQUAL_FATAL(raw_tcp->rail_listen(lane->rail, address, NULL), 0);
	opts.role = SLUICE_ROLE_TARGET;
	CU_ASSERT_EQUAL_FATAL(raw_tcp->lane_open(lane->rail, &opts, &lane->target.conn, NULL), 0);
	opts.role = SLUICE_ROLE_SOURCE;
	opts.peer_address = address;
	CU_ASSERT_EQUAL_FATAL(raw_tcp->lane_open(lane->rail, &opts, &lane->source.conn, NULL), 0);
	while (!(lane->source.connected && lane->target.connected) &&
		sluice_now_ns() < opts.deadline_ns) {
		raw_tcp->rail_step(lane->rail, sluice_now_ns());
		waking_turn(&lane->source, &lane->target);
	}
}

static void own_lane_close(struct own_lane *lane)
{
	raw_tcp->lane_close(lane->source.conn);
	raw_tcp->lane_close(lane->target.conn);
	raw_tcp->mem_unregister(lane->mem);
	raw_tcp->rail_close(lane->rail);
}

/*
 * One WRITE, far larger than what the socket holds: no acknowledgement can wake the source
 * before the last byte has left, so only POLLOUT keeps it going.
 */
static void sleeping_on_a_full_socket(void)
{
	const struct tcp_conf small = {.send_buffer_bytes = 32768, .receive_buffer_bytes = 32768};
	struct own_lane lane;
	bool woken = true;
	struct raw r;

	if (!raw_open(&r))
		return;
	const struct sluice_span span = {RAW_REGION_ID, r.region, RAW_REGION_BYTES};
	const struct sluice_op ops[2] = {
		{
			.kind = SLUICE_OP_WRITE,
			.len_bytes = TCP_OP_BYTES_MAX,
			.seq = 1,
			.local = r.local,
			.remote = r.remote,
		},
		{.kind = SLUICE_OP_FLUSH, .seq = 2},
	};
	own_lane_open(&lane, &small, &span);
	CU_ASSERT_EQUAL(raw_tcp->submit(lane.source.conn, ops, 2, sluice_now_ns()), 2);
	lane.source.asleep = false;
	for (int i = 0; i < 1000000 && woken && lane.source.flushed == 0; i++)
		woken = sleepers_turn(&lane.source, &lane.target);
	CU_ASSERT(woken);
	CU_ASSERT_EQUAL(lane.source.flushed, 2);
	CU_ASSERT(memcmp(r.region, r.local, TCP_OP_BYTES_MAX) == 0);
	own_lane_close(&lane);
	raw_close(&r);
}

/* ---- page faults ---- */

static bool is_mapped(int pagemap, const uint8_t *page)
{
	off_t at = (off_t)((uintptr_t)page / SLUICE_PAGE_BYTES * sizeof(uint64_t));
	uint64_t entry = 0;

	CU_ASSERT_EQUAL(pread(pagemap, &entry, sizeof(entry), at), sizeof(entry));
	return (entry & 1ull << 63) != 0;
}

static void write_pages(struct own_lane *lane, const struct raw *r, uint64_t offset, uint32_t pages)
{
	const uint64_t seq = lane->source.flushed + 2;
	const struct sluice_op ops[2] = {
		{
			.kind = SLUICE_OP_WRITE,
			.len_bytes = pages * SLUICE_PAGE_BYTES,
			.seq = seq - 1,
			.local = r->local,
			.remote = r->remote,
			.remote_offset = offset,
		},
		{.kind = SLUICE_OP_FLUSH, .seq = seq},
	};
	uint64_t end_ns = sluice_now_ns() + RAW_PATIENCE_NS;

	CU_ASSERT_EQUAL(raw_tcp->submit(lane->source.conn, ops, 2, sluice_now_ns()), 2);
	while (lane->source.flushed < seq && sluice_now_ns() < end_ns)
		waking_turn(&lane->source, &lane->target);
	CU_ASSERT_EQUAL(lane->source.flushed, seq);
}

/*
 * The target's memory is there, but this process has not mapped it yet. A page that is written maps
 * the 64 KiB of addresses around it. The region begins within such a block and ends within one.
 */
static void writes_map_their_neighbours(void)
{
	enum { BLOCK = 64 << 10, BYTES = 16 * BLOCK, FIRST = 5 * SLUICE_PAGE_BYTES };
	int fd = memfd_create("neighbours", MFD_CLOEXEC),
	    pagemap = open("/proc/self/pagemap", O_RDONLY);
	struct own_lane lane;
	struct raw r;
	uint8_t *map, *base;

	if (!raw_open(&r))
		return;
	CU_ASSERT_EQUAL_FATAL(ftruncate(fd, BYTES), 0);
	for (off_t at = 0; at < BYTES; at += SLUICE_PAGE_BYTES)
		CU_ASSERT_EQUAL(pwrite(fd, "x", 1, at), 1);
	map = mmap(NULL, BYTES + BLOCK, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	base = (uint8_t *)sluice_align_up((uintptr_t)map, BLOCK);
	base = mmap(base, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0);
	CU_ASSERT_FATAL(pagemap >= 0 && base != MAP_FAILED);
	const struct sluice_span span = {
		RAW_REGION_ID, base + FIRST, BYTES - FIRST - 3 * SLUICE_PAGE_BYTES};
	own_lane_open(&lane, &plain, &span);

	CU_ASSERT_FALSE(is_mapped(pagemap, base + 3 * BLOCK));
	write_pages(&lane, &r, 3 * BLOCK + 7 * SLUICE_PAGE_BYTES - FIRST, 1);
	for (uint32_t at = 0; at < BLOCK; at += SLUICE_PAGE_BYTES)
		CU_ASSERT(is_mapped(pagemap, base + 3 * BLOCK + at));
	write_pages(&lane, &r, 0, 1);
	CU_ASSERT(is_mapped(pagemap, base + BLOCK - SLUICE_PAGE_BYTES));
	write_pages(&lane, &r, span.len_bytes - SLUICE_PAGE_BYTES, 1);
	CU_ASSERT(is_mapped(pagemap, base + BYTES - BLOCK));
	write_pages(&lane, &r, 8 * BLOCK - SLUICE_PAGE_BYTES - FIRST, 2);
	CU_ASSERT(is_mapped(pagemap, base + 7 * BLOCK));
	CU_ASSERT(is_mapped(pagemap, base + 9 * BLOCK - SLUICE_PAGE_BYTES));

	own_lane_close(&lane);
	raw_close(&r);
	munmap(map, BYTES + BLOCK);
	close(fd);
	close(pagemap);
}

/* ---- threads ---- */

struct worker {
	struct sluice_conn *conn;
	atomic_bool stop;
	atomic_bool connected, lost;
	atomic_int status;
};

static void *worker_run(void *arg)
{
	struct worker *worker = arg;

	while (!atomic_load(&worker->stop)) {
		struct sluice_event events[4];
		struct sluice_arm arm;
		uint32_t count = raw_tcp->poll(worker->conn, events, 4, sluice_now_ns());

		for (uint32_t i = 0; i < count; i++) {
			if (events[i].kind == SLUICE_EVENT_CONNECTED)
				atomic_store(&worker->connected, true);
			if (events[i].kind != SLUICE_EVENT_LOST)
				continue;
			atomic_store(&worker->status, events[i].status);
			atomic_store(&worker->lost, true);
		}
		if (count == 0 && raw_tcp->arm(worker->conn, &arm)) {
			struct pollfd fd = {.fd = arm.fd, .events = arm.events};

			poll(&fd, 1, 10);
		}
	}
	return NULL;
}

/* Our side of the flood: writes and zeroes over all of the region until the lane is gone. */
static void flood(struct sluice_conn *source, const struct sluice_remote *remote,
	const uint8_t *local, uint64_t *seq)
{
	struct sluice_event events[4];

	for (int i = 0; i < 32; i++) {
		struct sluice_op op = {
			.kind = i % 4 == 3 ? SLUICE_OP_ZERO : SLUICE_OP_WRITE,
			.len_bytes = 65536,
			.local = local,
			.remote = remote,
			.remote_offset = (uint64_t)(i * 65536),
			.seq = ++*seq,
		};

		raw_tcp->submit(source, &op, 1, sluice_now_ns());
	}
	raw_tcp->poll(source, events, 4, sluice_now_ns());
}

enum { FLOODED_BYTES = 4 << 20 };

/* It belongs to nobody but us from here on: it is gone, or filled anew. */
static void take_flooded(struct sluice_mem *mem, uint8_t *addr, bool unregister)
{
	if (unregister) {
		raw_tcp->mem_unregister(mem);
		munmap(addr, FLOODED_BYTES);
	} else {
		raw_tcp->mem_admit(mem, false);
		memset(addr, 0xee, FLOODED_BYTES);
	}
}

static void check_untouched(struct sluice_mem *mem, uint8_t *addr)
{
	CU_ASSERT(addr[0] == 0xee && memcmp(addr, addr + 1, FLOODED_BYTES - 1) == 0);
	raw_tcp->mem_unregister(mem);
	munmap(addr, FLOODED_BYTES);
}

/*
 * The control thread takes memory away while a worker receives into it: unregisters it, or lets the
 * peer in no more, in turn. When that has returned the memory may be unmapped, or used: whoever
 * still wrote to it would crash here, see EFAULT, or be seen. The lane must end because of where it
 * writes.
 */
static void take_while_receiving(void)
{
	struct sluice_lane_opts opts = {0};
	pthread_t thread;
	struct raw r;

	if (!raw_open(&r))
		return;
	for (uint32_t round = 0; round < 40; round++) {
		struct worker worker = {0};
		uint8_t *addr = mmap(NULL, FLOODED_BYTES, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		const struct sluice_span span = {1000 + round, addr, FLOODED_BYTES};
		uint64_t seq = 0, end_ns = sluice_now_ns() + RAW_PATIENCE_NS;
		uint8_t key[SLUICE_KEY_BYTES_MAX];
		struct sluice_remote *remote;
		struct sluice_conn *source;
		struct sluice_mem *mem;
		int bytes;

		opts = (struct sluice_lane_opts){
			.lane = 100 + round,
			.deadline_ns = end_ns,
			.peer_address = r.address,
		};
		raw_tcp->mem_register(r.target_rail, &span, SLUICE_ACCESS_REMOTE_WRITE, &mem, NULL);
		raw_tcp->mem_admit(mem, true);
		bytes = raw_tcp->mem_export(mem, key, sizeof(key));
		raw_tcp->mem_import(r.source_rail, key, (size_t)bytes, &remote, NULL);
		opts.role = SLUICE_ROLE_TARGET;
		raw_tcp->lane_open(r.target_rail, &opts, &worker.conn, NULL);
		pthread_create(&thread, NULL, worker_run, &worker);
		opts.role = SLUICE_ROLE_SOURCE;
		raw_tcp->lane_open(r.source_rail, &opts, &source, NULL);
		for (int i = 0; i < 3 + (int)round % 5 || !atomic_load(&worker.connected); i++) {
			raw_tcp->rail_step(r.target_rail, sluice_now_ns());
			flood(source, remote, r.local, &seq);
			if (sluice_now_ns() > end_ns)
				break;
		}
		take_flooded(mem, addr, round % 2 == 0);
		while (!atomic_load(&worker.lost) && sluice_now_ns() < end_ns)
			flood(source, remote, r.local, &seq);
		CU_ASSERT(atomic_load(&worker.lost));
		CU_ASSERT_EQUAL(atomic_load(&worker.status), -EPROTO);
		atomic_store(&worker.stop, true);
		pthread_join(thread, NULL);
		raw_tcp->lane_close(worker.conn);
		raw_tcp->lane_close(source);
		raw_tcp->mem_forget(remote);
		if (round % 2 != 0)
			check_untouched(mem, addr);
	}
	raw_check(&r);
	raw_close(&r);
}

static void counters_of_a_lane(void)
{
	const struct sluice_conn_stats *out, *in;
	struct raw r;

	if (!raw_open(&r))
		return;
	out = raw_tcp->lane_stats(r.good_source);
	in = raw_tcp->lane_stats(r.good_target);
	/* raw_open sent one page: greeting, header, one entry, content; an ACK came back. */
	CU_ASSERT_EQUAL(out->bytes_out, 56 + 40 + 24 + 4096);
	CU_ASSERT_EQUAL(in->bytes_in, 40 + 24 + 4096);
	CU_ASSERT_EQUAL(out->bytes_in, 24 + 40);
	CU_ASSERT_EQUAL(in->bytes_out, 40);
	CU_ASSERT(out->syscalls_out > 0 && in->syscalls_in > 0);
	raw_close(&r);
}

CU_TestInfo cases_tcp_own[] = {
	{"addresses", addresses},
	{"parameters", parameters},
	{"what is local", what_is_local},
	{"listening twice", listening_twice},
	{"memory ids", memory_ids},
	{"messages left in the buffer keep a worker awake", messages_keep_awake},
	{"sleeping on a frame that no buffer holds", sleeping_on_a_full_socket},
	{"writes map their neighbours", writes_map_their_neighbours},
	{"memory taken away while a worker receives", take_while_receiving},
	{"counters of a lane", counters_of_a_lane},
	CU_TEST_INFO_NULL,
};
