/* SPDX-License-Identifier: BSD-3-Clause */
/* tcp_hello.c: strangers at the door. They learn nothing, change nothing and block nobody. */
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/conformance/tcp_raw.h"

/* The victim's lane is still waiting for its source, and gets it. */
static void check_right_one_is_welcome(struct raw *r)
{
	struct tcp_hello hello;

	CU_ASSERT(!r->victim_connected && !r->victim_lost);
	r->fd = raw_connect(r->address);
	raw_hello(&hello, RAW_VICTIM_LANE, 1, 0x66);
	CU_ASSERT(raw_write(r->fd, &hello, sizeof(hello)));
	CU_ASSERT(RAW_WAIT(r, r->victim_connected));
	raw_check(r);
}

static void check_refused(struct raw *r, const void *bytes, size_t count)
{
	int fd = raw_connect(r->address);

	raw_write(fd, bytes, count);
	CU_ASSERT(raw_closed(r, fd));
	CU_ASSERT(!r->victim_connected);
	close(fd);
}

static void garbage(void)
{
	static const char http[] = "GET / HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n"
				   "User-Agent: stranger\r\n\r\n";
	uint8_t bytes[200];
	struct raw r;

	if (!raw_open(&r))
		return;
	raw_victim_open(&r);
	check_refused(&r, http, sizeof(http) - 1);
	srandom(2);
	for (int i = 0; i < 50; i++) {
		for (size_t k = 0; k < sizeof(bytes); k++)
			bytes[k] = (uint8_t)random();
		check_refused(&r, bytes, sizeof(struct tcp_hello) + (size_t)i);
	}
	CU_ASSERT_EQUAL(raw_tcp->rail_stats(r.target_rail)->refused_hello, 51);
	check_right_one_is_welcome(&r);
	raw_close(&r);
}

/* Any byte of a right hello changed, with the checksum made right again and without. */
static void nearly_right(void)
{
	const struct sluice_rail_stats *counters;
	struct tcp_hello hello;
	struct raw r;

	if (!raw_open(&r))
		return;
	counters = raw_tcp->rail_stats(r.target_rail);
	raw_victim_open(&r);
	for (size_t i = 0; i < sizeof(hello); i++) {
		raw_hello(&hello, RAW_VICTIM_LANE, 1, 0x66);
		/* The lowest flag is a choice, the others are not known. */
		((uint8_t *)&hello)[i] ^= i == offsetof(struct tcp_hello, flags) ? 2 : 1;
		check_refused(&r, &hello, sizeof(hello));
		if (i < sizeof(hello.checksum))
			continue;
		hello.checksum = sluice_put64(tcp_checksum(&hello, sizeof(hello)));
		check_refused(&r, &hello, sizeof(hello));
	}
	/* Lane, epoch and ticket are 40 bytes; magic, version and flags are 8. */
	CU_ASSERT_EQUAL(counters->refused_ticket, 40);
	CU_ASSERT_EQUAL(counters->refused_hello, sizeof(hello) + 8);
	check_right_one_is_welcome(&r);
	raw_close(&r);
}

/* A ticket works once, also for somebody who has seen it. */
static void replayed(void)
{
	struct tcp_hello hello;
	struct raw r;
	int fd;

	if (!raw_open(&r))
		return;
	if (raw_victim_connect(&r)) {
		raw_hello(&hello, RAW_VICTIM_LANE, 1, 0x66);
		fd = raw_connect(r.address);
		raw_write(fd, &hello, sizeof(hello));
		CU_ASSERT(raw_closed(&r, fd));
		close(fd);
		CU_ASSERT_EQUAL(raw_tcp->rail_stats(r.target_rail)->refused_ticket, 1);
		CU_ASSERT(!r.victim_lost);
	}
	raw_check(&r);
	raw_close(&r);
}

static void half_a_hello_stalls(void)
{
	struct tcp_hello hello;
	struct raw r;
	int fd;

	if (!raw_open(&r))
		return;
	raw_victim_open(&r);
	raw_hello(&hello, RAW_VICTIM_LANE, 1, 0x66);
	r.rail_now_ns = sluice_now_ns(); /* and it stands */
	fd = raw_connect(r.address);
	raw_write(fd, &hello, sizeof(hello) / 2);
	raw_pump_some(&r);
	CU_ASSERT(recv(fd, &hello, 1, MSG_DONTWAIT) < 0);
	r.rail_now_ns += 4900 * SLUICE_NS_PER_MS;
	raw_pump_some(&r);
	CU_ASSERT(recv(fd, &hello, 1, MSG_DONTWAIT) < 0);
	CU_ASSERT_EQUAL(raw_tcp->rail_stats(r.target_rail)->refused_deadline, 0);
	r.rail_now_ns += 200 * SLUICE_NS_PER_MS;
	CU_ASSERT(raw_closed(&r, fd));
	CU_ASSERT_EQUAL(raw_tcp->rail_stats(r.target_rail)->refused_deadline, 1);
	close(fd);
	r.rail_now_ns = 0;
	check_right_one_is_welcome(&r);
	raw_close(&r);
}

static void hello_byte_by_byte(void)
{
	struct tcp_hello hello;
	struct raw r;

	if (!raw_open(&r))
		return;
	raw_victim_open(&r);
	raw_hello(&hello, RAW_VICTIM_LANE, 1, 0x66);
	r.fd = raw_connect(r.address);
	for (size_t i = 0; i < sizeof(hello); i++) {
		CU_ASSERT(!r.victim_connected);
		raw_write(r.fd, (const uint8_t *)&hello + i, 1);
		raw_pump(&r);
	}
	CU_ASSERT(RAW_WAIT(&r, r.victim_connected));
	raw_check(&r);
	raw_close(&r);
}

/* The hello and the first frame in one segment: what follows the hello is not lost. */
static void frame_behind_hello(void)
{
	struct {
		struct tcp_hello hello;
		struct raw_frame frame;
	} bytes;
	struct raw r;

	if (!raw_open(&r))
		return;
	raw_victim_open(&r);
	raw_hello(&bytes.hello, RAW_VICTIM_LANE, 1, 0x66);
	raw_frame_bare(&bytes.frame, TCP_FRAME_SEND, 16);
	raw_frame_seal(&bytes.frame);
	r.fd = raw_connect(r.address);
	raw_write(r.fd, &bytes, sizeof(bytes.hello) + raw_frame_bytes(&bytes.frame));
	CU_ASSERT(RAW_WAIT(&r, r.victim_connected));
	CU_ASSERT(RAW_WAIT(&r, r.victim_messages == 1));
	raw_check(&r);
	raw_close(&r);
}

/* More silent strangers than the rail keeps: the oldest go, the right one gets in. */
static void a_crowd(void)
{
	enum { CROWD = 300 };
	struct raw r;
	int fds[CROWD];

	if (!raw_open(&r))
		return;
	raw_victim_open(&r);
	for (int i = 0; i < CROWD; i++) {
		fds[i] = raw_connect(r.address);
		raw_pump(&r);
	}
	CU_ASSERT(raw_tcp->rail_stats(r.target_rail)->refused_deadline >= 40);
	check_right_one_is_welcome(&r);
	for (int i = 0; i < CROWD; i++)
		close(fds[i]);
	raw_pump_some(&r);
	raw_check(&r);
	raw_close(&r);
}

CU_TestInfo cases_tcp_hello[] = {
	{"garbage", garbage},
	{"a hello that is nearly right", nearly_right},
	{"a replayed hello", replayed},
	{"half a hello, then nothing", half_a_hello_stalls},
	{"a hello byte by byte", hello_byte_by_byte},
	{"a frame right behind the hello", frame_behind_hello},
	{"a crowd of silent strangers", a_crowd},
	CU_TEST_INFO_NULL,
};
