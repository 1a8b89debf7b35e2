/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * rdma_hostile.c: peers with verbs of their own: strangers at the door, sources that reach outside
 * of what they were given, targets that reach back. Needs two RDMA ports that reach each other.
 */
#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <CUnit/Basic.h>

#include "base/bits.h"
#include "tests/conformance/rdma_ports.h"
#include "tests/conformance/rdma_raw.h"
#include "tests/support/lane_guard.h"

/* ---- strangers ---- */

static void check_refused(struct raw *r, const void *hello, uint8_t bytes)
{
	CU_ASSERT(!raw_connect(r, hello, bytes));
	CU_ASSERT(!r->victim_connected && !r->victim_lost);
	raw_disconnect(r);
}

static void check_right_one_is_welcome(struct raw *r)
{
	struct rdma_hello hello;

	raw_hello(&hello);
	CU_ASSERT(raw_connect(r, &hello, sizeof(hello)) && RAW_WAIT(r, r->victim_connected));
	raw_check(r);
}

static void garbage(void)
{
	const struct sluice_rail_stats *stats;
	uint8_t bytes[56];
	struct raw r;

	raw_open(&r);
	stats = raw_rdma->rail_stats(r.target_rail);
	raw_victim_open(&r, SLUICE_ROLE_TARGET);
	check_refused(&r, NULL, 0);
	srandom(2);
	for (int i = 0; i < 8; i++) {
		for (size_t k = 0; k < sizeof(bytes); k++)
			bytes[k] = (uint8_t)random();
		check_refused(&r, bytes, (uint8_t)(7 * i + 7));
	}
	CU_ASSERT_EQUAL(stats->refused_hello, 9);
	check_right_one_is_welcome(&r);
	raw_close(&r);
}

/* One byte of each field of a right hello changed, and one byte too many. */
static void nearly_right(void)
{
	static const uint8_t at[] = {0, 3, 4, 6, 8, 11, 12, 15, 16, 30, 47};
	const struct sluice_rail_stats *stats;
	uint8_t bytes[56] = {0};
	struct rdma_hello hello;
	struct raw r;

	raw_open(&r);
	stats = raw_rdma->rail_stats(r.target_rail);
	raw_victim_open(&r, SLUICE_ROLE_TARGET);
	for (size_t i = 0; i < SLUICE_ARRAY_LEN(at); i++) {
		raw_hello(&hello);
		((uint8_t *)&hello)[at[i]] ^= 1;
		check_refused(&r, &hello, sizeof(hello));
	}
	CU_ASSERT_EQUAL(stats->refused_hello, 4);
	CU_ASSERT_EQUAL(stats->refused_ticket, 7);
	raw_hello(&hello);
	memcpy(bytes, &hello, sizeof(hello));
	bytes[55] = 1;
	check_refused(&r, bytes, sizeof(bytes));
	check_right_one_is_welcome(&r);
	raw_close(&r);
}

static void replayed(void)
{
	struct rdma_cm_id *first;
	struct rdma_hello hello;
	struct raw r, again;

	raw_open(&r);
	CU_ASSERT_FATAL(raw_be_source(&r));
	first = r.id;
	/* A second peer, with a channel of its own, that has seen the hello. */
	again = r;
	raw_hello(&hello);
	CU_ASSERT(!raw_connect(&again, &hello, sizeof(hello)));
	raw_disconnect(&again);
	CU_ASSERT_EQUAL(raw_rdma->rail_stats(r.target_rail)->refused_ticket, 1);
	CU_ASSERT_PTR_EQUAL(first, r.id);
	CU_ASSERT(!r.victim_lost);
	raw_check(&r);
	raw_close(&r);
}

/* ---- hostile sources ---- */

static uint64_t region_address(const struct raw *r)
{
	return sluice_get64(r->key.address);
}

static void check_victim_lost(struct raw *r)
{
	CU_ASSERT(RAW_WAIT(r, r->victim_lost));
	raw_check(r);
	raw_disconnect(r);
	raw_victim_close(r);
}

static void one_write(struct raw *r, uint64_t address, uint32_t rkey, uint32_t bytes)
{
	CU_ASSERT_FATAL(raw_be_source(r));
	CU_ASSERT_EQUAL(raw_write(r, address, rkey, bytes), IBV_WC_REM_ACCESS_ERR);
	check_victim_lost(r);
}

static void writes_outside(void)
{
	struct raw r;

	raw_open(&r);
	one_write(&r, region_address(&r) + RAW_REGION_BYTES, r.rkey, 4096);
	one_write(&r, region_address(&r) + RAW_REGION_BYTES - 64, r.rkey, 128);
	one_write(&r, region_address(&r) - 4096, r.rkey, 4096);
	one_write(&r, UINT64_MAX - 4095, r.rkey, 4096);
	/* The process's own address, which the key does not tell. */
	one_write(&r, (uintptr_t)r.region, r.rkey, 4096);
	one_write(&r, region_address(&r), r.rkey ^ 1, 64);
	one_write(&r, region_address(&r), r.rkey + 0x100, 64);
	/* Registered, but not for writing. */
	one_write(&r, sluice_get64(r.secret_key.address), r.secret_rkey, 64);
	/* What peers read to flush. */
	CU_ASSERT_FATAL(raw_be_source(&r));
	CU_ASSERT_EQUAL(raw_write(&r, 0, r.cell_rkey, 8), IBV_WC_REM_ACCESS_ERR);
	check_victim_lost(&r);
	raw_close(&r);
}

/* A peer may write a guest's memory, and never read it. */
static void reads(void)
{
	struct raw r;

	raw_open(&r);
	CU_ASSERT_FATAL(raw_be_source(&r));
	CU_ASSERT_EQUAL(raw_read(&r, region_address(&r), r.rkey, 4096), IBV_WC_REM_ACCESS_ERR);
	CU_ASSERT_EQUAL(r.buffer[0], 0x77);
	check_victim_lost(&r);
	CU_ASSERT_FATAL(raw_be_source(&r));
	CU_ASSERT_EQUAL(raw_read(&r, sluice_get64(r.secret_key.address), r.secret_rkey, 4096),
		IBV_WC_REM_ACCESS_ERR);
	CU_ASSERT_EQUAL(r.buffer[0], 0x77);
	check_victim_lost(&r);
	raw_close(&r);
}

/* The migration is over: the lane is fenced, the guest's registration stays. */
static void old_key(void)
{
	const struct sluice_span span = {RAW_REGION_ID, NULL, RAW_REGION_BYTES};
	struct sluice_span again = span;
	struct raw r;

	raw_open(&r);
	CU_ASSERT_FATAL(raw_be_source(&r));
	memset(r.buffer, 0xa5, 4096); /* what is there */
	CU_ASSERT_EQUAL(raw_write(&r, region_address(&r) + RAW_REGION_BYTES / 2, r.rkey, 4096),
		IBV_WC_SUCCESS);
	raw_rdma->lane_fence(r.victim);
	memset(r.buffer, 0xee, 4096);
	CU_ASSERT_NOT_EQUAL(raw_write(&r, region_address(&r), r.rkey, 4096), IBV_WC_SUCCESS);
	raw_check(&r);
	raw_disconnect(&r);
	raw_victim_close(&r);
	/* Registered again: a key of before is none, on any lane. The good lane's is gone, too. */
	raw_rdma->lane_close(r.good_source);
	raw_rdma->lane_close(r.good_target);
	r.good_source = r.good_target = NULL;
	raw_rdma->mem_unregister(r.region_mem);
	again.addr = r.region;
	CU_ASSERT_EQUAL(raw_rdma->mem_register(r.target_rail, &again, SLUICE_ACCESS_REMOTE_WRITE,
				&r.region_mem, NULL),
		0);
	raw_rdma->mem_admit(r.region_mem, true);
	CU_ASSERT_FATAL(raw_be_source(&r));
	CU_ASSERT_EQUAL(raw_write(&r, region_address(&r), r.rkey, 4096), IBV_WC_REM_ACCESS_ERR);
	CU_ASSERT(RAW_WAIT(&r, r.victim_lost));
	CU_ASSERT(memcmp(r.region, r.model, RAW_REGION_BYTES) == 0);
	raw_close(&r);
}

struct said {
	struct rdma_message head;
	union {
		struct rdma_zero zero;
		uint8_t bytes[RDMA_SEND_BYTES_MAX];
	} body;
};

static struct said say(enum rdma_message_kind kind, uint32_t body_bytes)
{
	struct said said = {
		.head = {.magic = sluice_put32(RDMA_MESSAGE_MAGIC),
			.kind = (uint8_t)kind,
			.body_bytes = sluice_put16((uint16_t)body_bytes)},
	};

	return said;
}

static struct said say_zero(uint32_t mem, uint64_t offset, uint32_t len_bytes)
{
	struct said said = say(RDMA_MESSAGE_ZERO, sizeof(struct rdma_zero));

	said.body.zero = (struct rdma_zero){
		.mem_id = sluice_put32(mem),
		.len_bytes = sluice_put32(len_bytes),
		.offset = sluice_put64(offset),
	};
	return said;
}

static void check_message(struct raw *r, const struct said *said, uint32_t bytes)
{
	CU_ASSERT_FATAL(raw_be_source(r));
	CU_ASSERT_EQUAL(raw_send(r, said, bytes), IBV_WC_SUCCESS);
	CU_ASSERT(RAW_WAIT(r, r->victim_lost));
	CU_ASSERT_EQUAL(r->victim_status, -EPROTO);
	CU_ASSERT_EQUAL(r->victim_messages, 0);
	check_victim_lost(r);
}

static void spoilt_messages(void)
{
	const uint32_t head = sizeof(struct rdma_message);
	struct said said;
	struct raw r;

	raw_open(&r);
	said = say(RDMA_MESSAGE_ACK, 0);
	check_message(&r, &said, head - 1);
	check_message(&r, &said, head + 1);
	said.head.magic = sluice_put32(1);
	check_message(&r, &said, head);
	said = say(RDMA_MESSAGE_ACK, 0);
	said.head.kind = 0;
	check_message(&r, &said, head);
	said.head.kind = 4;
	check_message(&r, &said, head);
	said = say(RDMA_MESSAGE_ACK, 0);
	said.head.reserved = 1;
	check_message(&r, &said, head);
	said = say(RDMA_MESSAGE_ACK, 0);
	said.head.given = sluice_put32(1); /* the victim has sent nothing */
	check_message(&r, &said, head);
	said.head.given = sluice_put32(UINT32_MAX);
	check_message(&r, &said, head);
	said = say(RDMA_MESSAGE_SEND, 4);
	said.head.done = sluice_put32(1);
	check_message(&r, &said, head + 4);
	said = say(RDMA_MESSAGE_SEND, 5);
	check_message(&r, &said, head + 4);
	said = say_zero(RAW_REGION_ID, 0, 4096);
	said.head.body_bytes = sluice_put16(8);
	check_message(&r, &said, head + 8);
	raw_close(&r);
}

static void spoilt_zeros(void)
{
	const uint32_t all = sizeof(struct rdma_message) + sizeof(struct rdma_zero);
	const struct said tried[] = {
		say_zero(RAW_REGION_ID + 100, 0, 4096),
		say_zero(RAW_SECRET_ID, 0, 4096),
		say_zero(RAW_REGION_ID, RAW_REGION_BYTES, 4096),
		say_zero(RAW_REGION_ID, RAW_REGION_BYTES - 4096, 8192),
		say_zero(RAW_REGION_ID, UINT64_MAX - 4095, 8192),
		say_zero(RAW_REGION_ID, 4, 4096),
		say_zero(RAW_REGION_ID, 0, 4),
		say_zero(RAW_REGION_ID, 0, 0),
		say_zero(RAW_REGION_ID, 0, RDMA_OP_BYTES_MAX + 8),
	};
	struct raw r;

	raw_open(&r);
	for (size_t i = 0; i < SLUICE_ARRAY_LEN(tried); i++)
		check_message(&r, &tried[i], all);
	raw_close(&r);
}

/* No message is as long; the NIC has nowhere to put it. */
static void too_long_a_message(void)
{
	uint8_t bytes[RDMA_MESSAGE_BYTES_MAX + 1] = {0};
	struct raw r;

	raw_open(&r);
	CU_ASSERT_FATAL(raw_be_source(&r));
	CU_ASSERT_NOT_EQUAL(raw_send(&r, bytes, sizeof(bytes)), IBV_WC_SUCCESS);
	check_victim_lost(&r);
	raw_close(&r);
}

/* Every bit of a valid ZERO of one page that is zero already, one at a time. */
static void every_bit_flipped(void)
{
	const uint32_t all = sizeof(struct rdma_message) + sizeof(struct rdma_zero);
	struct raw r;

	raw_open(&r);
	memset(r.region, 0, RAW_REGION_BYTES);
	memset(r.model, 0, RAW_REGION_BYTES);
	for (uint32_t bit = 0; bit < 8 * all; bit += 5) {
		struct said said = say_zero(RAW_REGION_ID, 4096, 4096);

		((uint8_t *)&said)[bit / 8] ^= (uint8_t)(1u << bit % 8);
		CU_ASSERT_FATAL(raw_be_source(&r));
		raw_send(&r, &said, all);
		for (int i = 0; i < 20; i++)
			raw_pump(&r);
		CU_ASSERT_EQUAL(r.victim_messages, 0);
		CU_ASSERT(memcmp(r.region, r.model, RAW_REGION_BYTES) == 0);
		raw_disconnect(&r);
		raw_victim_close(&r);
	}
	raw_check(&r);
	raw_close(&r);
}

/* More messages than the other end has room for, and it does not poll: its NIC says so. */
static void floods(void)
{
	struct said said = say(RDMA_MESSAGE_SEND, 8);
	struct sluice_conn *victim;
	uint32_t bytes = sizeof(struct rdma_message) + 8, sent = 0;
	struct raw r;

	raw_open(&r);
	CU_ASSERT_FATAL(raw_be_source(&r));
	victim = r.victim;
	r.victim = NULL; /* nobody polls it */
	while (sent < 4 * RDMA_RECEIVES && raw_send(&r, &said, bytes) == IBV_WC_SUCCESS)
		sent++;
	CU_ASSERT_EQUAL(sent, RDMA_RECEIVES);
	r.victim = victim;
	raw_check(&r);
	raw_close(&r);
}

/* ---- hostile targets ---- */

/* A source's queue pair gives its peer no right at all, whatever its memory is registered for. */
static void reaches_back(void)
{
	struct rdma_key key;
	uint8_t bytes[SLUICE_KEY_BYTES_MAX];
	sluice_le32 rkey;
	struct raw r;

	raw_open(&r);
	CU_ASSERT(raw_rdma->mem_export(r.local_mem, bytes, sizeof(bytes)) > 0);
	memcpy(&key, bytes, sizeof(key));
	memcpy(&rkey, bytes + sizeof(key), sizeof(rkey));
	CU_ASSERT_FATAL(raw_be_target(&r, NULL));
	CU_ASSERT_NOT_EQUAL(
		raw_write(&r, sluice_get64(key.address), sluice_get32(rkey), 4096), IBV_WC_SUCCESS);
	check_victim_lost(&r);
	CU_ASSERT_FATAL(raw_be_target(&r, NULL));
	CU_ASSERT_NOT_EQUAL(
		raw_read(&r, sluice_get64(key.address), sluice_get32(rkey), 4096), IBV_WC_SUCCESS);
	CU_ASSERT_EQUAL(r.buffer[0], 0x77);
	check_victim_lost(&r);
	raw_close(&r);
}

static void spoilt_welcome(void)
{
	const struct rdma_welcome right = {
		.magic = sluice_put32(RDMA_WELCOME_MAGIC),
		.version = sluice_put16(RDMA_WIRE_VERSION),
		.receives = sluice_put16(RDMA_RECEIVES),
		.lane = sluice_put32(RAW_VICTIM_LANE),
		.epoch = sluice_put32(1),
	};
	static const uint8_t at[] = {0, 4, 6, 8, 12, 28};
	struct raw r;

	raw_open(&r);
	for (size_t i = 0; i < SLUICE_ARRAY_LEN(at); i++) {
		struct rdma_welcome welcome = right;

		((uint8_t *)&welcome)[at[i]] ^= 1;
		CU_ASSERT(!raw_be_target(&r, &welcome));
		CU_ASSERT(RAW_WAIT(&r, r.victim_lost));
		CU_ASSERT_EQUAL(r.victim_status, -EPROTO);
		CU_ASSERT(!r.victim_connected);
		check_victim_lost(&r);
	}
	raw_close(&r);
}

/* A target that claims to have done what nobody asked for, or asks for what only sources may. */
static void false_words(void)
{
	struct said tried[3] = {
		say(RDMA_MESSAGE_ACK, 0), say(RDMA_MESSAGE_ACK, 0), say_zero(1, 0, 4096)};
	uint32_t bytes[] = {16, 16, 32};
	struct raw r;

	tried[0].head.done = sluice_put32(1);
	tried[1].head.given = sluice_put32(1);
	raw_open(&r);
	for (size_t i = 0; i < SLUICE_ARRAY_LEN(tried); i++) {
		CU_ASSERT_FATAL(raw_be_target(&r, NULL));
		CU_ASSERT_EQUAL(raw_send(&r, &tried[i], bytes[i]), IBV_WC_SUCCESS);
		CU_ASSERT(RAW_WAIT(&r, r.victim_lost));
		CU_ASSERT_EQUAL(r.victim_status, -EPROTO);
		check_victim_lost(&r);
	}
	raw_close(&r);
}

/* Each case with what it sees, for docs/hostile-input.md. */
static const struct {
	const char *name, *got;
	void (*run)(void);
} cases[] = {
	{"garbage as private data", "rejected without a word; the right source gets its lane",
		garbage},
	{"a hello that is nearly right", "rejected without a word", nearly_right},
	{"a replayed hello", "rejected without a word; the lane goes on", replayed},
	{"writes outside of the regions", "the NIC refuses; the lane is lost; nothing is stored",
		writes_outside},
	{"reads of guest memory", "the NIC refuses; the lane is lost", reads},
	{"an old key after the migration", "nothing is stored", old_key},
	{"messages with a field out of range", "the lane is lost with EPROTO", spoilt_messages},
	{"ZEROs outside of the regions", "the lane is lost with EPROTO; nothing is zeroed",
		spoilt_zeros},
	{"a message that is too long", "the NIC refuses; the lane is lost", too_long_a_message},
	{"every fifth bit flipped", "no byte outside of the session's memory changes",
		every_bit_flipped},
	{"more messages than there is room for", "the NIC refuses; the other lanes go on", floods},
	{"a target that reaches back", "the NIC refuses; the source's memory is unchanged, unread",
		reaches_back},
	{"a spoilt welcome", "the source's lane is lost with EPROTO", spoilt_welcome},
	{"false acknowledgements over rdma", "the source's lane is lost with EPROTO", false_words},
};

int main(int argc, char **argv)
{
	CU_pSuite suite;
	unsigned int failures;
	int status;

	setvbuf(stdout, NULL, _IOLBF, 0);
	if (argc > 1 && strcmp(argv[1], "--list") == 0) {
		for (size_t i = 0; i < SLUICE_ARRAY_LEN(cases); i++)
			printf("RDMA lanes\t%s\t%s\n", cases[i].name, cases[i].got);
		return 0;
	}
	status = rdma_ports_find(raw_source_address, raw_target_address);
	if (status != 0)
		return status;
	raw_rdma = lane_guard_transport(&sluice_transport_rdma);
	if (CU_initialize_registry() != CUE_SUCCESS)
		return 1;
	suite = CU_add_suite("hostile peers", NULL, NULL);
	for (size_t i = 0; i < SLUICE_ARRAY_LEN(cases); i++)
		CU_add_test(suite, cases[i].name, cases[i].run);
	CU_basic_set_mode(CU_BRM_VERBOSE);
	CU_basic_run_tests();
	failures = CU_get_number_of_failures() + CU_get_number_of_suites_failed();
	CU_cleanup_registry();
	return failures == 0 ? 0 : 1;
}
