/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * tcp_payload.c: payload with checksums, and payload that the kernel does not copy.
 *
 * Loopback always copies and never runs out of notifications. Three calls are led through
 * this file (--wrap), so that a test can keep the kernel's notifications back for a while, refuse
 * what a kernel without room refuses, and see how a socket is closed.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/conformance/tcp_raw.h"

#define PAYLOAD_BYTES 8192u

ssize_t __real_sendmsg(int fd, const struct msghdr *message, int flags);
ssize_t __real_recvmsg(int fd, struct msghdr *message, int flags);
ssize_t __wrap_sendmsg(int fd, const struct msghdr *message, int flags);
ssize_t __wrap_recvmsg(int fd, struct msghdr *message, int flags);
int __real_close(int fd);
int __wrap_close(int fd);

static uint32_t no_room; /* so many zero-copy sends are refused */
static bool notifications_held;
static bool closed_by_reset; /* the last socket that was closed; atomic, others have threads */

int __wrap_close(int fd)
{
	struct linger linger = {0};
	socklen_t len = sizeof(linger);

	getsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, &len);
	__atomic_store_n(
		&closed_by_reset, linger.l_onoff != 0 && linger.l_linger == 0, __ATOMIC_RELAXED);
	return __real_close(fd);
}

ssize_t __wrap_sendmsg(int fd, const struct msghdr *message, int flags)
{
	if ((flags & MSG_ZEROCOPY) && no_room > 0) {
		no_room--;
		errno = ENOBUFS;
		return -1;
	}
	return __real_sendmsg(fd, message, flags);
}

ssize_t __wrap_recvmsg(int fd, struct msghdr *message, int flags)
{
	if ((flags & MSG_ERRQUEUE) && notifications_held) {
		errno = EAGAIN;
		return -1;
	}
	return __real_recvmsg(fd, message, flags);
}

/* ---- checksums, from outside ---- */

static uint8_t payload[PAYLOAD_BYTES];

/* Two pages of @fill with a zero page between them, and @sum behind. */
static void send_frame(struct raw *r, uint64_t first_op, uint8_t fill, uint64_t spoil)
{
	struct raw_frame frame;
	sluice_le64 sum;

	raw_frame_data(&frame);
	frame.header.first_op = sluice_put64(first_op);
	raw_frame_seal(&frame);
	memset(payload, fill, sizeof(payload));
	sum = sluice_put64(XXH3_64bits(payload, sizeof(payload)) ^ spoil);
	CU_ASSERT(raw_write(r->fd, &frame, raw_frame_bytes(&frame)));
	CU_ASSERT(raw_write(r->fd, payload, sizeof(payload)));
	CU_ASSERT(raw_write(r->fd, &sum, sizeof(sum)));
}

static void model_frame(struct raw *r, uint8_t fill)
{
	memset(r->model + RAW_GUARD_BYTES, fill, 4096);
	memset(r->model + RAW_GUARD_BYTES + 8192, 0, 4096);
	memset(r->model + RAW_GUARD_BYTES + 16384, fill, 4096);
}

/* Whether the target acknowledges @ops operations next. */
static bool acknowledges(struct raw *r, uint64_t ops)
{
	uint64_t end_ns = sluice_now_ns() + 5 * SLUICE_NS_PER_S, said = 0;
	struct tcp_frame_header header;

	while (said < ops && sluice_now_ns() < end_ns) {
		raw_pump(r);
		while (recv(r->fd, &header, sizeof(header), MSG_DONTWAIT) == sizeof(header))
			said = sluice_get64(header.ack_ops);
	}
	return said == ops;
}

static void a_right_sum_is_accepted(void)
{
	struct raw r;

	if (!raw_open(&r))
		return;
	if (raw_victim_greet(&r, TCP_FLAG_CHECKSUM)) {
		send_frame(&r, 0, 0xe1, 0);
		send_frame(&r, 3, 0xe2, 0);
		model_frame(&r, 0xe2);
		CU_ASSERT(acknowledges(&r, 6));
		CU_ASSERT(!r.victim_lost);
		CU_ASSERT_EQUAL(raw_tcp->lane_stats(r.victim)->payload_damaged, 0);
	}
	raw_close(&r);
}

static void a_wrong_sum_ends_the_lane(void)
{
	struct raw r;

	if (!raw_open(&r))
		return;
	if (raw_victim_greet(&r, TCP_FLAG_CHECKSUM)) {
		send_frame(&r, 0, 0xe1, 0);
		CU_ASSERT(acknowledges(&r, 3));
		send_frame(&r, 3, 0xe2, 1ull << 40);
		CU_ASSERT(RAW_WAIT(&r, r.victim_lost));
		CU_ASSERT_EQUAL(r.victim_status, -EBADMSG);
		CU_ASSERT_EQUAL(raw_tcp->lane_stats(r.victim)->payload_damaged, 1);
		/* Nothing more was acknowledged. */
		CU_ASSERT(recv(r.fd, payload, sizeof(payload), MSG_DONTWAIT) <= 0);
		model_frame(&r, 0xe2); /* placed, and to be written again */
	}
	raw_check(&r);
	raw_close(&r);
}

/* Operations of a frame may overlap: what was written over has been sent, too. */
static void a_sum_covers_what_was_overwritten(void)
{
	struct raw_frame frame;
	struct raw r;
	sluice_le64 sum;

	if (!raw_open(&r))
		return;
	if (raw_victim_greet(&r, TCP_FLAG_CHECKSUM)) {
		raw_frame_data(&frame);
		raw_entry(&frame.entries[2], SLUICE_OP_WRITE, 2048, 4096);
		raw_entry(&frame.entries[1], SLUICE_OP_ZERO, 1024, 8);
		raw_frame_seal(&frame);
		memset(payload, 0xd1, 4096);
		memset(payload + 4096, 0xd2, 4096);
		sum = sluice_put64(XXH3_64bits(payload, sizeof(payload)));
		CU_ASSERT(raw_write(r.fd, &frame, raw_frame_bytes(&frame)));
		CU_ASSERT(raw_write(r.fd, payload, sizeof(payload)));
		CU_ASSERT(raw_write(r.fd, &sum, sizeof(sum)));
		CU_ASSERT(acknowledges(&r, 3));
		memset(r.model + RAW_GUARD_BYTES, 0xd1, 4096);
		memset(r.model + RAW_GUARD_BYTES + 1024, 0, 8);
		memset(r.model + RAW_GUARD_BYTES + 2048, 0xd2, 4096);
		CU_ASSERT(!r.victim_lost);
	}
	raw_check(&r);
	raw_close(&r);
}

/* ---- two rails with settings of their own ---- */

struct duo {
	struct sluice_rail *source_rail, *target_rail;
	struct sluice_conn *source, *target;
	struct sluice_mem *mem;
	struct sluice_remote *remote;
	uint8_t *local, *region;
	uint64_t placed;
	bool source_up, target_up, source_lost, target_lost;
};

static void duo_pump(struct duo *d)
{
	struct sluice_event events[8];
	uint32_t count;

	raw_tcp->rail_step(d->target_rail, sluice_now_ns());
	count = raw_tcp->poll(d->source, events, 8, sluice_now_ns());
	for (uint32_t i = 0; i < count; i++) {
		d->source_up |= events[i].kind == SLUICE_EVENT_CONNECTED;
		d->source_lost |= events[i].kind == SLUICE_EVENT_LOST;
		if (events[i].kind == SLUICE_EVENT_PLACED)
			d->placed = events[i].seq;
	}
	count = raw_tcp->poll(d->target, events, 8, sluice_now_ns());
	for (uint32_t i = 0; i < count; i++) {
		d->target_up |= events[i].kind == SLUICE_EVENT_CONNECTED;
		d->target_lost |= events[i].kind == SLUICE_EVENT_LOST;
	}
}

#define DUO_WAIT(d, condition)                                            \
	({                                                                \
		uint64_t end_ns_ = sluice_now_ns() + 5 * SLUICE_NS_PER_S; \
		while (!(condition) && sluice_now_ns() < end_ns_)         \
			duo_pump(d);                                      \
		(condition);                                              \
	})

static void duo_open(struct duo *d, const struct tcp_conf *source, const struct tcp_conf *target)
{
	struct sluice_lane_opts opts = {.deadline_ns = SLUICE_NEVER};
	struct sluice_span span = {.id = 1, .len_bytes = RAW_REGION_BYTES};
	char address[SLUICE_ADDRESS_MAX];
	uint8_t key[SLUICE_KEY_BYTES_MAX];
	int bytes;

	memset(d, 0, sizeof(*d));
	d->local = aligned_alloc(4096, RAW_REGION_BYTES);
	d->region = aligned_alloc(4096, RAW_REGION_BYTES);
	for (uint32_t i = 0; i < RAW_REGION_BYTES; i++)
		d->local[i] = (uint8_t)(i * 7 + i / 4096);
	memset(d->region, 0, RAW_REGION_BYTES);
	span.addr = d->region;
	CU_ASSERT_EQUAL_FATAL(raw_tcp->rail_open(source, "", &d->source_rail, NULL), 0);
	CU_ASSERT_EQUAL_FATAL(raw_tcp->rail_open(target, "", &d->target_rail, NULL), 0);
	CU_ASSERT_EQUAL_FATAL(raw_tcp->rail_listen(d->target_rail, address, NULL), 0);
	CU_ASSERT_EQUAL_FATAL(raw_tcp->mem_register(d->target_rail, &span,
				      SLUICE_ACCESS_REMOTE_WRITE, &d->mem, NULL),
		0);
	raw_tcp->mem_admit(d->mem, true);
	bytes = raw_tcp->mem_export(d->mem, key, sizeof(key));
	CU_ASSERT_EQUAL_FATAL(
		raw_tcp->mem_import(d->source_rail, key, (size_t)bytes, &d->remote, NULL), 0);
	opts.role = SLUICE_ROLE_TARGET;
	CU_ASSERT_EQUAL_FATAL(raw_tcp->lane_open(d->target_rail, &opts, &d->target, NULL), 0);
	opts.role = SLUICE_ROLE_SOURCE;
	opts.peer_address = address;
	CU_ASSERT_EQUAL_FATAL(raw_tcp->lane_open(d->source_rail, &opts, &d->source, NULL), 0);
	CU_ASSERT(DUO_WAIT(d, d->source_up && d->target_up));
}

static void duo_close(struct duo *d)
{
	raw_tcp->lane_close(d->source);
	raw_tcp->lane_close(d->target);
	raw_tcp->mem_forget(d->remote);
	raw_tcp->mem_unregister(d->mem);
	raw_tcp->rail_close(d->source_rail);
	raw_tcp->rail_close(d->target_rail);
	free(d->local);
	free(d->region);
}

/* One WRITE of 256 KiB, numbered from 1. */
static void duo_write(struct duo *d, uint64_t seq)
{
	uint64_t offset = (seq - 1) * (256u << 10) % RAW_REGION_BYTES;
	struct sluice_op op = {
		.kind = SLUICE_OP_WRITE,
		.len_bytes = 256u << 10,
		.seq = seq,
		.local = d->local + offset,
		.remote = d->remote,
		.remote_offset = offset,
	};

	bool taken = false;

	CU_ASSERT_FATAL(DUO_WAIT(
		d, taken || (taken = raw_tcp->submit(d->source, &op, 1, sluice_now_ns()) == 1)));
}

/* ---- who asks for checksums ---- */

static void either_end_may_ask_for_checksums(void)
{
	static const struct tcp_conf plain = {.nodelay = true};
	static const struct tcp_conf sums = {.nodelay = true, .checksum = TCP_CHECKSUM_XXH3};
	const struct tcp_conf *rows[][2] = {{&plain, &sums}, {&sums, &plain}, {&sums, &sums}};
	const uint64_t extra_bytes = sizeof(sluice_le64);
	uint64_t plain_bytes = 0;

	for (size_t i = 0; i <= SLUICE_ARRAY_LEN(rows); i++) {
		struct duo d;
		uint64_t bytes;

		duo_open(&d, i == 0 ? &plain : rows[i - 1][0], i == 0 ? &plain : rows[i - 1][1]);
		duo_write(&d, 1);
		CU_ASSERT(DUO_WAIT(&d, d.placed == 1));
		CU_ASSERT_EQUAL(memcmp(d.local, d.region, 256u << 10), 0);
		bytes = raw_tcp->lane_stats(d.source)->bytes_out;
		if (i == 0)
			plain_bytes = bytes;
		else
			CU_ASSERT_EQUAL(bytes, plain_bytes + extra_bytes);
		duo_close(&d);
	}
}

/* A target that asks for them takes no lane without. */
static void a_lane_without_is_refused(void)
{
	static const struct tcp_conf sums = {.nodelay = true, .checksum = TCP_CHECKSUM_XXH3};
	struct sluice_lane_opts opts = {.role = SLUICE_ROLE_TARGET, .deadline_ns = SLUICE_NEVER};
	char address[SLUICE_ADDRESS_MAX];
	struct sluice_rail *rail;
	struct sluice_conn *conn;
	struct tcp_hello hello;
	uint8_t byte;
	int fd;

	CU_ASSERT_EQUAL_FATAL(raw_tcp->rail_open(&sums, "", &rail, NULL), 0);
	CU_ASSERT_EQUAL_FATAL(raw_tcp->rail_listen(rail, address, NULL), 0);
	memset(opts.ticket.secret, 0x66, sizeof(opts.ticket.secret));
	CU_ASSERT_EQUAL_FATAL(raw_tcp->lane_open(rail, &opts, &conn, NULL), 0);
	raw_hello(&hello, 0, 0, 0x66);
	fd = raw_connect(address);
	CU_ASSERT(raw_write(fd, &hello, sizeof(hello)));
	for (uint64_t end_ns = sluice_now_ns() + 5 * SLUICE_NS_PER_S;
		recv(fd, &byte, 1, MSG_DONTWAIT) < 0 && errno == EAGAIN &&
		sluice_now_ns() < end_ns;)
		raw_tcp->rail_step(rail, sluice_now_ns());
	CU_ASSERT_EQUAL(recv(fd, &byte, 1, MSG_DONTWAIT), 0);
	CU_ASSERT_EQUAL(raw_tcp->rail_stats(rail)->refused_ticket, 1);
	close(fd);
	raw_tcp->lane_close(conn);
	raw_tcp->rail_close(rail);
}

static void checksums_exclude_zero_copy(void)
{
	static const struct tcp_conf both = {.zero_copy = true, .checksum = TCP_CHECKSUM_XXH3};
	struct sluice_error err = {0};
	struct sluice_rail *rail = NULL;

	CU_ASSERT_EQUAL(raw_tcp->rail_open(&both, "", &rail, &err), -EINVAL);
	CU_ASSERT_PTR_NULL(rail);
	CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "zero-copy=no"));
}

/* ---- zero-copy ---- */

static const struct tcp_conf zero_copy = {.nodelay = true, .zero_copy = true};

/* Stored at the target is not enough: the kernel may still read what it was given. */
static void placed_waits_for_the_kernel(void)
{
	const struct sluice_conn_stats *stats;
	struct sluice_arm arm;
	struct duo d;

	duo_open(&d, &zero_copy, &zero_copy);
	stats = raw_tcp->lane_stats(d.source);
	notifications_held = true;
	duo_write(&d, 1);
	CU_ASSERT(DUO_WAIT(&d, memcmp(d.local, d.region, 256u << 10) == 0));
	for (int i = 0; i < 2000; i++)
		duo_pump(&d);
	CU_ASSERT(stats->zerocopy_sent > 0);
	CU_ASSERT_EQUAL(stats->zerocopy_copied, 0);
	CU_ASSERT_EQUAL(d.placed, 0);
	CU_ASSERT(raw_tcp->arm(d.source, &arm)); /* nothing but the notification to wait for */
	notifications_held = false;
	CU_ASSERT(DUO_WAIT(&d, d.placed == 1));
	CU_ASSERT_EQUAL(stats->zerocopy_copied, stats->zerocopy_sent); /* it is loopback */
	duo_close(&d);
}

/* Many calls, of which the kernel speaks late and all at once. */
static void late_notifications(void)
{
	struct duo d;

	duo_open(&d, &zero_copy, &zero_copy);
	for (uint64_t seq = 1; seq <= 500; seq++) {
		notifications_held = seq % 50 > 0 && seq % 50 < 40;
		duo_write(&d, seq);
		/* Held, nothing is placed, and the lane runs full: let go before it would. */
		if (seq % 50 == 0)
			CU_ASSERT(DUO_WAIT(&d, d.placed == seq));
	}
	CU_ASSERT_EQUAL(memcmp(d.local, d.region, RAW_REGION_BYTES), 0);
	CU_ASSERT(raw_tcp->lane_stats(d.source)->zerocopy_sent > 10);
	CU_ASSERT_EQUAL(raw_tcp->lane_stats(d.source)->zerocopy_copied,
		raw_tcp->lane_stats(d.source)->zerocopy_sent);
	duo_close(&d);
}

static void no_room_for_notifications(void)
{
	const struct sluice_conn_stats *stats;
	struct duo d;

	duo_open(&d, &zero_copy, &zero_copy);
	stats = raw_tcp->lane_stats(d.source);
	no_room = 2;
	for (uint64_t seq = 1; seq <= 400; seq++)
		duo_write(&d, seq);
	CU_ASSERT(DUO_WAIT(&d, d.placed == 400));
	CU_ASSERT_EQUAL(memcmp(d.local, d.region, RAW_REGION_BYTES), 0);
	CU_ASSERT_EQUAL(no_room, 0);
	CU_ASSERT_EQUAL(stats->zerocopy_enobufs, 2);
	CU_ASSERT(stats->zerocopy_sent > 0); /* it is tried again */
	CU_ASSERT(!d.source_lost);
	duo_close(&d);
}

/* Closed while the kernel holds pages: they are not sent from memory that is freed by now. */
static void an_end_drops_what_the_kernel_holds(void)
{
	struct duo d;

	duo_open(&d, &zero_copy, &zero_copy);
	duo_write(&d, 1);
	CU_ASSERT(DUO_WAIT(&d, d.placed == 1));
	raw_tcp->lane_fence(d.source);
	CU_ASSERT(!__atomic_load_n(
		&closed_by_reset, __ATOMIC_RELAXED)); /* nothing is held: an orderly end */
	duo_close(&d);

	duo_open(&d, &zero_copy, &zero_copy);
	notifications_held = true;
	duo_write(&d, 1);
	CU_ASSERT(raw_tcp->lane_stats(d.source)->zerocopy_sent > 0);
	raw_tcp->lane_fence(d.source);
	CU_ASSERT(__atomic_load_n(&closed_by_reset, __ATOMIC_RELAXED));
	notifications_held = false;
	duo_close(&d);
}

CU_TestInfo cases_tcp_payload[] = {
	{"a right checksum is accepted", a_right_sum_is_accepted},
	{"a wrong checksum ends the lane", a_wrong_sum_ends_the_lane},
	{"a checksum covers what was overwritten", a_sum_covers_what_was_overwritten},
	{"either end may ask for checksums", either_end_may_ask_for_checksums},
	{"a lane without checksums is refused", a_lane_without_is_refused},
	{"checksums exclude zero-copy", checksums_exclude_zero_copy},
	{"zero-copy: placed waits for the kernel", placed_waits_for_the_kernel},
	{"zero-copy: late notifications", late_notifications},
	{"zero-copy: no room for notifications", no_room_for_notifications},
	{"zero-copy: an end drops what the kernel holds", an_end_drops_what_the_kernel_holds},
	CU_TEST_INFO_NULL,
};
