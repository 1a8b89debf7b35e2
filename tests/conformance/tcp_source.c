/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * tcp_source.c: a source whose target is us: one that writes back, acknowledges what it has
 * not got, or takes its time. And a source whose own memory vanishes.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/conformance/tcp_raw.h"

struct fake_target {
	struct raw r; /* its victim is a SOURCE whose peer is us */
	int listen_fd;
};

/* Let a source connect to us and welcome it. */
static bool fake_open(struct fake_target *fake)
{
	struct sockaddr_in in = {
		.sin_family = AF_INET,
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK),
	};
	struct raw *r = &fake->r;
	struct sluice_lane_opts opts = {
		.role = SLUICE_ROLE_SOURCE,
		.lane = 5,
		.epoch = 2,
		.deadline_ns = sluice_now_ns() + RAW_PATIENCE_NS,
	};
	struct tcp_welcome welcome = {
		.magic = sluice_put32(TCP_WELCOME_MAGIC),
		.version = sluice_put16(TCP_WIRE_VERSION),
		.lane = sluice_put32(5),
		.epoch = sluice_put32(2),
	};
	socklen_t len = sizeof(in);
	char address[SLUICE_ADDRESS_MAX];
	struct tcp_hello hello;
	int on = 1;

	if (!raw_open(r))
		return false;
	fake->listen_fd = socket(AF_INET, SOCK_STREAM, 0);
	CU_ASSERT_EQUAL(bind(fake->listen_fd, (const struct sockaddr *)&in, len), 0);
	CU_ASSERT_EQUAL(listen(fake->listen_fd, 1), 0);
	getsockname(fake->listen_fd, (struct sockaddr *)&in, &len);
	snprintf(address, sizeof(address), "127.0.0.1:%u", ntohs(in.sin_port));
	opts.peer_address = address;
	CU_ASSERT_EQUAL_FATAL(raw_tcp->lane_open(r->source_rail, &opts, &r->victim, NULL), 0);
	raw_pump(r);
	r->fd = accept(fake->listen_fd, NULL, NULL);
	setsockopt(r->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	CU_ASSERT(RAW_WAIT(
		r, recv(r->fd, &hello, sizeof(hello), MSG_PEEK | MSG_DONTWAIT) == sizeof(hello)));
	CU_ASSERT_EQUAL(recv(r->fd, &hello, sizeof(hello), 0), sizeof(hello));
	CU_ASSERT_EQUAL(sluice_get32(hello.lane), 5);
	welcome.checksum = sluice_put64(tcp_checksum(&welcome, sizeof(welcome)));
	CU_ASSERT(!r->victim_connected);
	CU_ASSERT(raw_write(r->fd, &welcome, sizeof(welcome)));
	return RAW_WAIT(r, r->victim_connected);
}

static void fake_close(struct fake_target *fake)
{
	raw_check(&fake->r);
	close(fake->listen_fd);
	raw_close(&fake->r);
}

/* Even where the source's own rail would let somebody write. */
static void target_writes(void)
{
	static const uint8_t payload[8192];
	struct fake_target fake;
	struct raw_frame frame;
	struct sluice_mem *mem;

	CU_ASSERT_FATAL(fake_open(&fake));
	const struct sluice_span span = {RAW_REGION_ID, fake.r.local, RAW_REGION_BYTES};
	const uint8_t before = fake.r.local[SLUICE_PAGE_BYTES - 1];
	CU_ASSERT_EQUAL(raw_tcp->mem_register(
				fake.r.source_rail, &span, SLUICE_ACCESS_REMOTE_WRITE, &mem, NULL),
		0);
	raw_tcp->mem_admit(mem, true);
	raw_frame_data(&frame);
	raw_frame_seal(&frame);
	raw_write(fake.r.fd, &frame, raw_frame_bytes(&frame));
	raw_write(fake.r.fd, payload, sizeof(payload));
	CU_ASSERT(RAW_WAIT(&fake.r, fake.r.victim_lost));
	CU_ASSERT_EQUAL(fake.r.victim_status, -EPROTO);
	CU_ASSERT_EQUAL(fake.r.local[SLUICE_PAGE_BYTES - 1], before);
	raw_tcp->mem_unregister(mem);
	fake_close(&fake);
}

static void submit_page(struct fake_target *fake, uint64_t seq, const void *local)
{
	const struct sluice_op op = {
		.kind = SLUICE_OP_WRITE,
		.len_bytes = 4096,
		.seq = seq,
		.local = local,
		.remote = fake->r.remote,
	};

	CU_ASSERT_EQUAL(raw_tcp->submit(fake->r.victim, &op, 1, sluice_now_ns()), 1);
}

static void ack(struct fake_target *fake, uint64_t ops)
{
	struct raw_frame frame;

	raw_frame_bare(&frame, TCP_FRAME_ACK, 0);
	frame.header.ack_ops = sluice_put64(ops);
	raw_frame_seal(&frame);
	raw_write(fake->r.fd, &frame, raw_frame_bytes(&frame));
}

/* Acknowledgements must be of what was sent, and never go back. */
static void false_acks(void)
{
	static const uint64_t third_ack[] = {1, 3};
	struct fake_target fake;

	for (size_t i = 0; i < SLUICE_ARRAY_LEN(third_ack); i++) {
		CU_ASSERT_FATAL(fake_open(&fake));
		submit_page(&fake, 10, fake.r.local);
		submit_page(&fake, 20, fake.r.local);
		ack(&fake, 1);
		CU_ASSERT(RAW_WAIT(&fake.r, fake.r.victim_placed == 10));
		ack(&fake, 2);
		CU_ASSERT(RAW_WAIT(&fake.r, fake.r.victim_placed == 20));
		ack(&fake, 2);
		raw_pump_some(&fake.r);
		CU_ASSERT(!fake.r.victim_lost);
		ack(&fake, third_ack[i]);
		CU_ASSERT(RAW_WAIT(&fake.r, fake.r.victim_lost));
		CU_ASSERT_EQUAL(fake.r.victim_status, -EPROTO);
		fake_close(&fake);
	}
}

/* A FLUSH waits for the acknowledgement of everything before it, and for nothing behind it. */
static void flush_waits_for_acks(void)
{
	const struct sluice_op flush = {.kind = SLUICE_OP_FLUSH, .seq = 30};
	struct fake_target fake;

	CU_ASSERT_FATAL(fake_open(&fake));
	submit_page(&fake, 10, fake.r.local);
	submit_page(&fake, 20, fake.r.local);
	CU_ASSERT_EQUAL(raw_tcp->submit(fake.r.victim, &flush, 1, sluice_now_ns()), 1);
	submit_page(&fake, 40, fake.r.local);
	raw_pump_some(&fake.r);
	CU_ASSERT_EQUAL(fake.r.victim_flushed, 0);
	ack(&fake, 1);
	CU_ASSERT(RAW_WAIT(&fake.r, fake.r.victim_placed == 10));
	CU_ASSERT_EQUAL(fake.r.victim_flushed, 0);
	ack(&fake, 2);
	CU_ASSERT(RAW_WAIT(&fake.r, fake.r.victim_flushed == 30));
	CU_ASSERT_EQUAL(fake.r.victim_placed, 20);
	fake_close(&fake);
}

/* Guest memory that is gone when its turn comes: the lane is lost, the process lives. */
static void source_memory_vanishes(void)
{
	struct fake_target fake;
	uint8_t *page = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int fd = memfd_create("vanishing", MFD_CLOEXEC);
	uint8_t *file;

	/* Unmapped, and mapped beyond the end of its file. */
	munmap(page, 4096);
	CU_ASSERT_EQUAL(ftruncate(fd, 4096), 0);
	file = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
	CU_ASSERT_EQUAL(ftruncate(fd, 0), 0);
	for (int i = 0; i < 2; i++) {
		CU_ASSERT_FATAL(fake_open(&fake));
		submit_page(&fake, 1, i == 0 ? page : file);
		/* The head leaves with the first call, the payload fails in the next. */
		CU_ASSERT(RAW_WAIT(&fake.r, fake.r.victim_lost));
		CU_ASSERT_EQUAL(fake.r.victim_status, -EFAULT);
		fake_close(&fake);
	}
	munmap(file, 4096);
	close(fd);
}

/* Events that found no room keep the worker awake, and come in order. */
static void events_that_wait(void)
{
	static const struct {
		uint8_t kind;
		uint64_t seq;
	} expected[] = {
		{SLUICE_EVENT_PLACED, 10},
		{SLUICE_EVENT_FLUSHED, 20},
		{SLUICE_EVENT_FLUSHED, 30},
		{SLUICE_EVENT_PLACED, 40},
	};
	struct fake_target fake;
	struct sluice_event event;
	struct sluice_arm arm;

	CU_ASSERT_FATAL(fake_open(&fake));
	submit_page(&fake, 10, fake.r.local);
	for (uint64_t seq = 20; seq <= 30; seq += 10) {
		const struct sluice_op flush = {.kind = SLUICE_OP_FLUSH, .seq = seq};

		CU_ASSERT_EQUAL(raw_tcp->submit(fake.r.victim, &flush, 1, sluice_now_ns()), 1);
	}
	submit_page(&fake, 40, fake.r.local);
	CU_ASSERT(raw_tcp->arm(fake.r.victim, &arm));
	ack(&fake, 2);
	CU_ASSERT_EQUAL(poll(&(struct pollfd){arm.fd, arm.events, 0}, 1, 60000), 1);
	for (size_t i = 0; i < SLUICE_ARRAY_LEN(expected); i++) {
		CU_ASSERT_EQUAL(raw_tcp->poll(fake.r.victim, &event, 1, sluice_now_ns()), 1);
		CU_ASSERT_EQUAL(event.kind, expected[i].kind);
		CU_ASSERT_EQUAL(event.seq, expected[i].seq);
		CU_ASSERT_EQUAL(raw_tcp->arm(fake.r.victim, &arm), i == 3);
	}
	fake_close(&fake);
}

CU_TestInfo cases_tcp_source[] = {
	{"a target that writes", target_writes},
	{"false acknowledgements", false_acks},
	{"FLUSH waits for acknowledgements", flush_waits_for_acks},
	{"events that find no room", events_that_wait},
	{"source memory vanishes", source_memory_vanishes},
	CU_TEST_INFO_NULL,
};
