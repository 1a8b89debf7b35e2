/* SPDX-License-Identifier: BSD-3-Clause */
/* tcp_raw.c: see tcp_raw.h. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/conformance/tcp_raw.h"

#define MAPPED_BYTES (RAW_REGION_BYTES + 2 * RAW_GUARD_BYTES)
#define FILL         0xa5

const struct sluice_transport *raw_tcp;

static uint8_t *map(uint64_t bytes, int fill)
{
	uint8_t *addr =
		mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (addr == MAP_FAILED)
		abort();
	memset(addr, fill, bytes);
	return addr;
}

static uint64_t deadline(void)
{
	return sluice_now_ns() + RAW_PATIENCE_NS;
}

static bool share(struct raw *r)
{
	const struct sluice_span region = {RAW_REGION_ID, r->region, RAW_REGION_BYTES};
	const struct sluice_span readonly = {RAW_READONLY_ID, r->mapped, RAW_GUARD_BYTES};
	uint8_t key[SLUICE_KEY_BYTES_MAX];
	int bytes;

	if (raw_tcp->mem_register(r->target_rail, &region, SLUICE_ACCESS_REMOTE_WRITE,
		    &r->region_mem, NULL) < 0 ||
		raw_tcp->mem_register(r->target_rail, &readonly, SLUICE_ACCESS_LOCAL_READ,
			&r->readonly_mem, NULL) < 0)
		return false;
	raw_tcp->mem_admit(r->region_mem, true);
	bytes = raw_tcp->mem_export(r->region_mem, key, sizeof(key));
	return bytes > 0 &&
	       raw_tcp->mem_import(r->source_rail, key, (size_t)bytes, &r->remote, NULL) == 0;
}

bool raw_open(struct raw *r)
{
	const struct tcp_conf conf = {.nodelay = true};
	struct sluice_lane_opts opts = {.deadline_ns = deadline(), .peer_address = r->address};
	bool ok;

	memset(r, 0, sizeof(*r));
	r->fd = -1;
	r->mapped = map(MAPPED_BYTES, FILL);
	r->model = map(MAPPED_BYTES, FILL);
	r->local = map(RAW_REGION_BYTES, 0x11);
	r->region = r->mapped + RAW_GUARD_BYTES;
	ok = raw_tcp->rail_open(&conf, "", &r->source_rail, NULL) == 0 &&
	     raw_tcp->rail_open(&conf, "", &r->target_rail, NULL) == 0 &&
	     raw_tcp->rail_listen(r->target_rail, r->address, NULL) == 0 && share(r);
	opts.role = SLUICE_ROLE_TARGET;
	ok = ok && raw_tcp->lane_open(r->target_rail, &opts, &r->good_target, NULL) == 0;
	opts.role = SLUICE_ROLE_SOURCE;
	ok = ok && raw_tcp->lane_open(r->source_rail, &opts, &r->good_source, NULL) == 0;
	CU_ASSERT_FATAL(ok);
	raw_check(r);
	return ok;
}

void raw_close(struct raw *r)
{
	raw_victim_close(r);
	raw_tcp->lane_close(r->good_source);
	raw_tcp->lane_close(r->good_target);
	raw_tcp->mem_forget(r->remote);
	raw_tcp->mem_unregister(r->region_mem);
	raw_tcp->mem_unregister(r->readonly_mem);
	raw_tcp->rail_close(r->source_rail);
	raw_tcp->rail_close(r->target_rail);
	munmap(r->mapped, MAPPED_BYTES);
	munmap(r->model, MAPPED_BYTES);
	munmap(r->local, RAW_REGION_BYTES);
}

/* ---- stepping ---- */

static void victim_event(struct raw *r, const struct sluice_event *event)
{
	switch (event->kind) {
	case SLUICE_EVENT_CONNECTED:
		r->victim_connected = true;
		break;
	case SLUICE_EVENT_LOST:
		r->victim_lost = true;
		r->victim_status = event->status;
		break;
	case SLUICE_EVENT_RECEIVED:
		r->victim_messages++;
		break;
	case SLUICE_EVENT_PLACED:
		r->victim_placed = event->seq;
		break;
	case SLUICE_EVENT_FLUSHED:
		r->victim_flushed = event->seq;
		break;
	default:
		CU_FAIL("an event of no known kind");
	}
}

void raw_pump(struct raw *r)
{
	struct sluice_event events[4];
	uint32_t count;

	raw_tcp->rail_step(r->target_rail, r->rail_now_ns != 0 ? r->rail_now_ns : sluice_now_ns());
	count = raw_tcp->poll(r->good_target, events, 4, sluice_now_ns());
	for (uint32_t i = 0; i < count; i++)
		CU_ASSERT(events[i].kind != SLUICE_EVENT_LOST);
	count = raw_tcp->poll(r->good_source, events, 4, sluice_now_ns());
	for (uint32_t i = 0; i < count; i++) {
		CU_ASSERT(events[i].kind != SLUICE_EVENT_LOST);
		if (events[i].kind == SLUICE_EVENT_FLUSHED)
			r->good_flushed = events[i].seq;
	}
	if (r->victim == NULL)
		return;
	count = raw_tcp->poll(r->victim, events, 4, sluice_now_ns());
	for (uint32_t i = 0; i < count; i++)
		victim_event(r, &events[i]);
}

void raw_pump_some(struct raw *r)
{
	uint64_t end_ns = sluice_now_ns() + 5 * SLUICE_NS_PER_MS;

	while (sluice_now_ns() < end_ns)
		raw_pump(r);
}

/* The healthy lane carries a page, and nobody has touched anything else. */
void raw_check(struct raw *r)
{
	struct sluice_op ops[2] = {
		{
			.kind = SLUICE_OP_WRITE,
			.len_bytes = SLUICE_PAGE_BYTES,
			.seq = r->good_seq + 1,
			.local = r->local,
			.remote = r->remote,
			.remote_offset = RAW_REGION_BYTES - SLUICE_PAGE_BYTES,
		},
		{.kind = SLUICE_OP_FLUSH, .seq = r->good_seq + 2},
	};
	uint64_t end_ns = deadline();
	uint32_t done = 0;

	r->good_seq += 2;
	memset(r->local, (int)r->good_seq, SLUICE_PAGE_BYTES);
	memset(r->model + RAW_GUARD_BYTES + ops[0].remote_offset, (int)r->good_seq,
		SLUICE_PAGE_BYTES);
	while (r->good_flushed != r->good_seq && sluice_now_ns() < end_ns) {
		done += raw_tcp->submit(r->good_source, ops + done, 2 - done, sluice_now_ns());
		raw_pump(r);
	}
	CU_ASSERT_EQUAL(r->good_flushed, r->good_seq);
	/* What an attacker was allowed to write may still be on its way. */
	CU_ASSERT(RAW_WAIT(r, memcmp(r->mapped, r->model, MAPPED_BYTES) == 0));
}

/* ---- sockets ---- */

int raw_connect(const char *address)
{
	const char *colon = strrchr(address, ':');
	struct sockaddr_in in = {
		.sin_family = AF_INET,
		.sin_port = htons((uint16_t)strtoul(colon + 1, NULL, 10)),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK),
	};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;

	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	CU_ASSERT_EQUAL_FATAL(connect(fd, (const struct sockaddr *)&in, sizeof(in)), 0);
	return fd;
}

bool raw_write(int fd, const void *bytes, size_t count)
{
	return send(fd, bytes, count, MSG_NOSIGNAL) == (ssize_t)count;
}

static bool is_closed(int fd)
{
	uint8_t byte;
	ssize_t got = recv(fd, &byte, 1, MSG_DONTWAIT);

	CU_ASSERT(got <= 0); /* strangers are told nothing */
	return got == 0 || (got < 0 && errno != EAGAIN);
}

bool raw_closed(struct raw *r, int fd)
{
	return RAW_WAIT(r, is_closed(fd));
}

void raw_hello(struct tcp_hello *ret_hello, uint32_t lane, uint32_t epoch, uint8_t ticket)
{
	*ret_hello = (struct tcp_hello){
		.magic = sluice_put32(TCP_HELLO_MAGIC),
		.version = sluice_put16(TCP_WIRE_VERSION),
		.lane = sluice_put32(lane),
		.epoch = sluice_put32(epoch),
	};
	memset(ret_hello->ticket, ticket, sizeof(ret_hello->ticket));
	ret_hello->checksum = sluice_put64(tcp_checksum(ret_hello, sizeof(*ret_hello)));
}

void raw_victim_open(struct raw *r)
{
	struct sluice_lane_opts opts = {
		.role = SLUICE_ROLE_TARGET,
		.lane = RAW_VICTIM_LANE,
		.epoch = 1,
		.deadline_ns = deadline(),
	};

	memset(opts.ticket.secret, 0x66, sizeof(opts.ticket.secret));
	r->victim_connected = r->victim_lost = false;
	r->victim_status = 0;
	r->victim_messages = 0;
	r->victim_placed = r->victim_flushed = 0;
	CU_ASSERT_EQUAL_FATAL(raw_tcp->lane_open(r->target_rail, &opts, &r->victim, NULL), 0);
}

bool raw_victim_connect(struct raw *r)
{
	return raw_victim_greet(r, 0);
}

bool raw_victim_greet(struct raw *r, uint16_t flags)
{
	struct tcp_welcome welcome;
	struct tcp_hello hello;

	raw_victim_open(r);
	r->fd = raw_connect(r->address);
	raw_hello(&hello, RAW_VICTIM_LANE, 1, 0x66);
	hello.flags = sluice_put16(flags);
	hello.checksum = sluice_put64(tcp_checksum(&hello, sizeof(hello)));
	CU_ASSERT(raw_write(r->fd, &hello, sizeof(hello)));
	CU_ASSERT(RAW_WAIT(r, r->victim_connected));
	CU_ASSERT_EQUAL(recv(r->fd, &welcome, sizeof(welcome), MSG_DONTWAIT), sizeof(welcome));
	CU_ASSERT_EQUAL(sluice_get32(welcome.magic), TCP_WELCOME_MAGIC);
	CU_ASSERT_EQUAL(sluice_get16(welcome.flags), flags);
	return r->victim_connected;
}

void raw_victim_close(struct raw *r)
{
	raw_tcp->lane_close(r->victim);
	r->victim = NULL;
	if (r->fd >= 0)
		close(r->fd);
	r->fd = -1;
}

/* ---- frames ---- */

void raw_entry(struct tcp_frame_entry *entry, uint8_t kind, uint64_t offset, uint32_t len_bytes)
{
	*entry = (struct tcp_frame_entry){
		.offset = sluice_put64(offset),
		.mem_id = sluice_put32(RAW_REGION_ID),
		.len_bytes = sluice_put32(len_bytes),
		.kind = kind,
	};
}

void raw_frame_bare(struct raw_frame *frame, enum tcp_frame_kind kind, uint32_t body_bytes)
{
	memset(frame, 0, sizeof(*frame));
	frame->header.magic = sluice_put32(TCP_FRAME_MAGIC);
	frame->header.version = TCP_WIRE_VERSION;
	frame->header.kind = (uint8_t)kind;
	frame->header.body_bytes = sluice_put32(body_bytes);
}

void raw_frame_data(struct raw_frame *frame)
{
	raw_frame_bare(frame, TCP_FRAME_DATA, 3 * sizeof(frame->entries[0]));
	frame->header.count = sluice_put16(3);
	frame->header.payload_bytes = sluice_put32(8192);
	raw_entry(&frame->entries[0], SLUICE_OP_WRITE, 0, 4096);
	raw_entry(&frame->entries[1], SLUICE_OP_ZERO, 8192, 4096);
	raw_entry(&frame->entries[2], SLUICE_OP_WRITE, 16384, 4096);
}

size_t raw_frame_bytes(const struct raw_frame *frame)
{
	size_t bytes = sizeof(frame->header) + sluice_get32(frame->header.body_bytes);

	return bytes < sizeof(*frame) ? bytes : sizeof(*frame);
}

void raw_frame_seal(struct raw_frame *frame)
{
	frame->header.checksum = sluice_put64(tcp_checksum(frame, raw_frame_bytes(frame)));
}
