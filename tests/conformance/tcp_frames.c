/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * tcp_frames.c: a source that holds a valid ticket and sends what it must not. Its lane is
 * lost; memory and every other lane do not notice.
 */
#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/conformance/tcp_raw.h"

/* One field of a valid frame, replaced. */
struct poke {
	const char *what;
	enum tcp_frame_kind base;
	size_t offset;
	unsigned int bytes;
	uint64_t value;
};

#define H(field) \
	offsetof(struct raw_frame, header.field), sizeof(((struct raw_frame *)0)->header.field)
#define E(index, field)                                   \
	offsetof(struct raw_frame, entries[index].field), \
		sizeof(((struct raw_frame *)0)->entries[0].field)
#define DATA TCP_FRAME_DATA
#define LAST (RAW_REGION_BYTES - 8)

static const struct poke pokes[] = {
	{"magic", DATA, H(magic), TCP_HELLO_MAGIC},
	{"version 0", DATA, H(version), 0},
	{"the next version", DATA, H(version), TCP_WIRE_VERSION + 1},
	{"kind 0", DATA, H(kind), 0},
	{"kind 4", DATA, H(kind), 4},
	{"kind 255", DATA, H(kind), 255},
	{"an ACK with a table", DATA, H(kind), TCP_FRAME_ACK},
	{"a SEND with payload", DATA, H(kind), TCP_FRAME_SEND},
	{"no entries", DATA, H(count), 0},
	{"fewer entries than the body", DATA, H(count), 2},
	{"more entries than the body", DATA, H(count), 4},
	{"too many entries", DATA, H(count), TCP_FRAME_ENTRIES_MAX + 1},
	{"65535 entries", DATA, H(count), 65535},
	{"empty body", DATA, H(body_bytes), 0},
	{"body of half an entry more", DATA, H(body_bytes), 84},
	{"huge body", DATA, H(body_bytes), UINT32_MAX},
	{"less payload than the table", DATA, H(payload_bytes), 8184},
	{"more payload than the table", DATA, H(payload_bytes), 8200},
	{"no payload", DATA, H(payload_bytes), 0},
	{"too much payload", DATA, H(payload_bytes), TCP_FRAME_PLACE_BYTES_MAX + 8},
	{"huge payload", DATA, H(payload_bytes), UINT32_MAX},
	{"operations left out", DATA, H(first_op), 1},
	{"operations from the end of time", DATA, H(first_op), UINT64_MAX},
	{"an acknowledgement of nothing sent", DATA, H(ack_ops), 1},
	{"an acknowledgement of everything", DATA, H(ack_ops), UINT64_MAX},
	{"entry kind 0", DATA, E(2, kind), 0},
	{"entry kind SEND", DATA, E(2, kind), SLUICE_OP_SEND},
	{"entry kind FLUSH", DATA, E(2, kind), SLUICE_OP_FLUSH},
	{"entry kind 255", DATA, E(2, kind), 255},
	{"a ZERO that has payload", DATA, E(2, kind), SLUICE_OP_ZERO},
	{"a WRITE that has none", DATA, E(1, kind), SLUICE_OP_WRITE},
	{"reserved bytes", DATA, E(2, reserved), 1},
	{"unknown memory", DATA, E(2, mem_id), 12345},
	{"unknown memory, ZERO", DATA, E(1, mem_id), 12345},
	{"memory without remote write access", DATA, E(2, mem_id), RAW_READONLY_ID},
	{"memory without access, ZERO", DATA, E(1, mem_id), RAW_READONLY_ID},
	{"offset at the end", DATA, E(2, offset), RAW_REGION_BYTES},
	{"offset near the end", DATA, E(2, offset), LAST},
	{"offset near the end, ZERO", DATA, E(1, offset), LAST},
	{"offset that overflows", DATA, E(2, offset), UINT64_MAX - 7},
	{"offset that overflows, ZERO", DATA, E(1, offset), UINT64_MAX - 4095},
	{"offset of the guard before", DATA, E(2, offset), -RAW_GUARD_BYTES},
	{"offset unaligned", DATA, E(2, offset), 4},
	{"length 0", DATA, E(1, len_bytes), 0},
	{"length unaligned", DATA, E(1, len_bytes), 4},
	{"length too big", DATA, E(1, len_bytes), TCP_OP_BYTES_MAX + 8},
	{"length huge", DATA, E(1, len_bytes), UINT32_MAX - 7},
	{"length unlike the payload", DATA, E(2, len_bytes), 4088},
	{"SEND too long", TCP_FRAME_SEND, H(body_bytes), TCP_SEND_BYTES_MAX + 1},
	{"SEND with entries", TCP_FRAME_SEND, H(count), 1},
	{"SEND with payload", TCP_FRAME_SEND, H(payload_bytes), 8},
	{"SEND out of order", TCP_FRAME_SEND, H(first_op), 7},
	{"ACK with a body", TCP_FRAME_ACK, H(body_bytes), 8},
	{"ACK with a count", TCP_FRAME_ACK, H(count), 1},
	{"ACK with payload", TCP_FRAME_ACK, H(payload_bytes), 8},
	{"ACK with an operation", TCP_FRAME_ACK, H(first_op), 1},
	{"ACK of the future", TCP_FRAME_ACK, H(ack_ops), 1},
};

static const uint8_t payload[16384] = {[0 ... 16383] = 0xee};

static void base_frame(struct raw_frame *frame, enum tcp_frame_kind base)
{
	if (base == TCP_FRAME_DATA)
		raw_frame_data(frame);
	else
		raw_frame_bare(frame, base, base == TCP_FRAME_SEND ? 16 : 0);
}

/* The victim must be lost for this frame, with nothing stored or reported. */
static void attack(struct raw *r, const char *what, const struct raw_frame *frame)
{
	bool lost;

	if (!raw_victim_connect(r))
		return;
	raw_write(r->fd, frame, raw_frame_bytes(frame));
	raw_write(r->fd, payload, 8192);
	lost = RAW_WAIT(r, r->victim_lost);
	if (!lost || r->victim_status != -EPROTO)
		fprintf(stderr, "not refused: %s (status %d)\n", what, r->victim_status);
	CU_ASSERT(lost);
	CU_ASSERT_EQUAL(r->victim_status, -EPROTO);
	CU_ASSERT_EQUAL(r->victim_messages, 0);
	raw_victim_close(r);
	raw_check(r);
}

static void every_field(void)
{
	struct raw_frame frame;
	struct raw r;

	if (!raw_open(&r))
		return;
	for (size_t i = 0; i < SLUICE_ARRAY_LEN(pokes); i++) {
		uint64_t value = htole64(pokes[i].value);

		base_frame(&frame, pokes[i].base);
		/* Little-endian: the low bytes come first. */
		memcpy((uint8_t *)&frame + pokes[i].offset, &value,
			pokes[i].bytes < 8 ? pokes[i].bytes : 8);
		raw_frame_seal(&frame);
		attack(&r, pokes[i].what, &frame);
	}
	raw_close(&r);
}

/* The same frame, unspoilt, is accepted: else the cases above would prove nothing. */
static void valid_frames_are_accepted(void)
{
	static const enum tcp_frame_kind kinds[] = {TCP_FRAME_DATA, TCP_FRAME_SEND, TCP_FRAME_ACK};
	struct raw_frame frame;
	struct raw r;

	if (!raw_open(&r))
		return;
	memset(r.model + RAW_GUARD_BYTES, 0xee, 4096);
	memset(r.model + RAW_GUARD_BYTES + 8192, 0, 4096);
	memset(r.model + RAW_GUARD_BYTES + 16384, 0xee, 4096);
	for (size_t i = 0; i < SLUICE_ARRAY_LEN(kinds); i++) {
		if (!raw_victim_connect(&r))
			break;
		base_frame(&frame, kinds[i]);
		raw_frame_seal(&frame);
		CU_ASSERT(raw_write(r.fd, &frame, raw_frame_bytes(&frame)));
		if (kinds[i] == TCP_FRAME_DATA)
			CU_ASSERT(raw_write(r.fd, payload, 8192));
		if (kinds[i] == TCP_FRAME_SEND)
			CU_ASSERT(RAW_WAIT(&r, r.victim_messages == 1));
		raw_check(&r);
		CU_ASSERT(!r.victim_lost);
		raw_victim_close(&r);
	}
	raw_close(&r);
}

/* Every single bit of header and table is covered by the checksum. */
static void every_bit(void)
{
	struct raw_frame frame;
	struct raw r;

	if (!raw_open(&r))
		return;
	raw_frame_data(&frame);
	for (size_t bit = 0; bit < raw_frame_bytes(&frame) * 8; bit += 3) {
		raw_frame_data(&frame);
		raw_frame_seal(&frame);
		((uint8_t *)&frame)[bit / 8] ^= (uint8_t)(1 << bit % 8);
		if (!raw_victim_connect(&r))
			break;
		raw_write(r.fd, &frame, sizeof(frame.header) + 3 * sizeof(frame.entries[0]));
		raw_write(r.fd, payload, 8192);
		/* A longer body by accident waits for bytes that never come. */
		shutdown(r.fd, SHUT_WR);
		CU_ASSERT(RAW_WAIT(&r, r.victim_lost));
		CU_ASSERT(r.victim_status == -EPROTO || r.victim_status == -ECONNRESET);
		raw_victim_close(&r);
		if (bit % 64 < 3)
			raw_check(&r);
	}
	raw_check(&r);
	raw_close(&r);
}

/* Each entry is fine, together they are more than a frame may place. */
static void too_much_in_one_frame(void)
{
	struct raw_frame frame;
	struct raw r;

	if (!raw_open(&r))
		return;
	raw_frame_bare(&frame, TCP_FRAME_DATA, 3 * sizeof(frame.entries[0]));
	frame.header.count = sluice_put16(3);
	for (int i = 0; i < 3; i++)
		raw_entry(&frame.entries[i], SLUICE_OP_ZERO, 0, TCP_OP_BYTES_MAX);
	raw_frame_seal(&frame);
	attack(&r, "three longest ZEROs", &frame);
	raw_close(&r);
}

/* The connection ends somewhere in the frame: of a head nothing is acted on. */
static void truncated(void)
{
	struct raw_frame frame;
	struct raw r;

	if (!raw_open(&r))
		return;
	raw_frame_data(&frame);
	raw_frame_seal(&frame);
	for (size_t bytes = 0; bytes < raw_frame_bytes(&frame); bytes += 1 + bytes / 16) {
		if (!raw_victim_connect(&r))
			break;
		if (bytes > 0)
			raw_write(r.fd, &frame, bytes);
		raw_pump_some(&r);
		CU_ASSERT(!r.victim_lost);
		shutdown(r.fd, SHUT_WR);
		CU_ASSERT(RAW_WAIT(&r, r.victim_lost));
		CU_ASSERT_EQUAL(r.victim_status, -ECONNRESET);
		raw_victim_close(&r);
		raw_check(&r);
	}
	raw_close(&r);
}

/* The same stream in pieces of every size; also shows where payload slips into the buffer. */
static void in_pieces(void)
{
	enum { FRAMES = 4, FRAME_BYTES = 40 + 72 + 8192 };
	uint8_t *stream = malloc(FRAMES * FRAME_BYTES);
	struct raw_frame frame;
	struct raw r;

	if (stream == NULL || !raw_open(&r))
		return;
	for (uint32_t i = 0; i < FRAMES; i++) {
		uint8_t *at = stream + i * FRAME_BYTES;

		raw_frame_data(&frame);
		frame.header.first_op = sluice_put64(3ull * i);
		for (int k = 0; k < 3; k++)
			raw_entry(&frame.entries[k], k == 1 ? SLUICE_OP_ZERO : SLUICE_OP_WRITE,
				(i * 8ull + 2 * (uint64_t)k) * 4096, 4096);
		raw_frame_seal(&frame);
		memcpy(at, &frame, 112);
		memset(at + 112, (int)(i + 1), 4096);
		memset(at + 112 + 4096, (int)(i + 101), 4096);
		memset(r.model + RAW_GUARD_BYTES + i * 32768, (int)(i + 1), 4096);
		memset(r.model + RAW_GUARD_BYTES + i * 32768 + 8192, 0, 4096);
		memset(r.model + RAW_GUARD_BYTES + i * 32768 + 16384, (int)(i + 101), 4096);
	}
	for (size_t piece = 7; piece < 2 * FRAME_BYTES; piece = piece * 5 / 3) {
		memset(r.region, 0xa5, 20 * 8192);
		if (!raw_victim_connect(&r))
			break;
		for (size_t sent = 0; sent < FRAMES * FRAME_BYTES; sent += piece) {
			size_t left = FRAMES * FRAME_BYTES - sent;

			raw_write(r.fd, stream + sent, left < piece ? left : piece);
			raw_pump(&r);
			raw_pump(&r);
		}
		raw_check(&r);
		CU_ASSERT(!r.victim_lost);
		raw_victim_close(&r);
	}
	free(stream);
	raw_close(&r);
}

/* Operations of one frame take effect in their order, also where they overlap. */
static void overlapping_in_one_frame(void)
{
	struct raw_frame frame;
	struct raw r;

	if (!raw_open(&r))
		return;
	raw_frame_bare(&frame, TCP_FRAME_DATA, 5 * sizeof(frame.entries[0]));
	frame.header.count = sluice_put16(5);
	frame.header.payload_bytes = sluice_put32(3 * 4096);
	raw_entry(&frame.entries[0], SLUICE_OP_ZERO, 0, 8192);
	raw_entry(&frame.entries[1], SLUICE_OP_WRITE, 0, 4096);
	raw_entry(&frame.entries[2], SLUICE_OP_WRITE, 8192, 4096);
	raw_entry(&frame.entries[3], SLUICE_OP_ZERO, 8192, 2048);
	raw_entry(&frame.entries[4], SLUICE_OP_WRITE, 12288, 4096);
	raw_frame_seal(&frame);
	memset(r.model + RAW_GUARD_BYTES, 0xee, 16384);
	memset(r.model + RAW_GUARD_BYTES + 4096, 0, 4096);
	memset(r.model + RAW_GUARD_BYTES + 8192, 0, 2048);
	if (raw_victim_connect(&r)) {
		raw_write(r.fd, &frame, raw_frame_bytes(&frame));
		raw_write(r.fd, payload, 6000);
		raw_pump_some(&r);
		raw_write(r.fd, payload, 3 * 4096 - 6000);
	}
	raw_check(&r);
	CU_ASSERT(!r.victim_lost);
	raw_close(&r);
}

/* Valid frames spoilt at random, checksum made right again: guards must stand. */
static void spoilt_at_random(void)
{
	struct raw_frame frame;
	struct raw r;

	if (!raw_open(&r))
		return;
	srandom(1);
	for (int i = 0; i < 1500; i++) {
		uint8_t *bytes = (uint8_t *)&frame;

		raw_frame_data(&frame);
		for (long n = random() % 4; n >= 0; n--)
			bytes[8 + random() % 104] = (uint8_t)(random() % 3 ? random() : 0);
		raw_frame_seal(&frame);
		if (!raw_victim_connect(&r))
			break;
		raw_write(r.fd, &frame, 112);
		raw_write(r.fd, payload, sizeof(payload));
		shutdown(r.fd, SHUT_WR);
		CU_ASSERT(RAW_WAIT(&r, r.victim_lost));
		raw_victim_close(&r);
		/* Inside the region it may write what it likes. */
		memcpy(r.model + RAW_GUARD_BYTES, r.region, RAW_REGION_BYTES);
		if (i % 50 == 0)
			raw_check(&r);
	}
	raw_check(&r);
	raw_close(&r);
}

/* A peer that stops reading: our messages wait, the lane neither spins nor blocks others. */
static void peer_never_reads(void)
{
	struct sluice_op op = {.kind = SLUICE_OP_SEND, .local = payload, .len_bytes = 256};
	uint32_t refused = 0;
	struct raw r;

	if (!raw_open(&r))
		return;
	if (raw_victim_connect(&r)) {
		for (uint32_t i = 0; i < 200000 && refused < 10; i++) {
			op.seq++;
			if (raw_tcp->submit(r.victim, &op, 1, sluice_now_ns()) == 0)
				refused++;
		}
		CU_ASSERT_EQUAL(refused, 10);
		CU_ASSERT(!r.victim_lost);
	}
	raw_victim_close(&r);
	raw_check(&r);
	raw_close(&r);
}

/* What comes in behind a fence, be it the rest of a frame that had begun to land. */
static void bytes_after_a_fence(void)
{
	struct raw_frame frame;
	struct raw r;

	if (!raw_open(&r))
		return;
	raw_frame_data(&frame);
	raw_frame_seal(&frame);
	if (raw_victim_connect(&r)) {
		raw_write(r.fd, &frame, raw_frame_bytes(&frame));
		raw_write(r.fd, payload, 1000);
		CU_ASSERT(RAW_WAIT(&r, r.region[0] == payload[0]));
		raw_tcp->lane_fence(r.victim);
		memcpy(r.model + RAW_GUARD_BYTES, r.region, RAW_REGION_BYTES);
		raw_write(r.fd, payload, 7192);
		raw_write(r.fd, &frame, raw_frame_bytes(&frame));
		raw_write(r.fd, payload, 8192);
		raw_pump_some(&r);
		CU_ASSERT(r.region[4095] != payload[0]);
	}
	raw_check(&r);
	raw_victim_close(&r);
	raw_check(&r);
	raw_close(&r);
}

/* Frames that cost the sender next to nothing: others get their turn, memory does not grow. */
static void a_flood_of_small_frames(void)
{
	enum { FLOOD = 20000 };
	static const enum tcp_frame_kind kinds[] = {TCP_FRAME_ACK, TCP_FRAME_SEND};
	struct raw_frame frame;
	struct raw r;

	if (!raw_open(&r))
		return;
	for (size_t k = 0; k < SLUICE_ARRAY_LEN(kinds) && raw_victim_connect(&r); k++) {
		for (uint32_t i = 0; i < FLOOD; i++) {
			raw_frame_bare(&frame, kinds[k], 0);
			if (kinds[k] == TCP_FRAME_SEND)
				frame.header.first_op = sluice_put64(i);
			raw_frame_seal(&frame);
			CU_ASSERT(raw_write(r.fd, &frame, raw_frame_bytes(&frame)));
			if (i % 500 == 0)
				raw_check(&r);
			else if (i % 50 == 0)
				raw_pump(&r);
		}
		if (kinds[k] == TCP_FRAME_SEND)
			CU_ASSERT(RAW_WAIT(&r, r.victim_messages == FLOOD));
		CU_ASSERT(!r.victim_lost);
		raw_victim_close(&r);
	}
	raw_check(&r);
	raw_close(&r);
}

/* For docs/hostile-input.md: scripts/hostile-list. */
void list_tcp_pokes(void)
{
	const char *got = "the lane is lost with EPROTO; nothing of the frame is stored or "
			  "reported";

	for (size_t i = 0; i < SLUICE_ARRAY_LEN(pokes); i++)
		printf("Lanes\ta frame of kind %s: %s\t%s\n",
			pokes[i].base == TCP_FRAME_DATA   ? "DATA"
			: pokes[i].base == TCP_FRAME_SEND ? "SEND"
							  : "ACK",
			pokes[i].what, got);
}

CU_TestInfo cases_tcp_frames[] = {
	{"valid frames are accepted", valid_frames_are_accepted},
	{"every field of a frame out of range", every_field},
	{"every bit flipped", every_bit},
	{"more than a frame may place", too_much_in_one_frame},
	{"truncated frames", truncated},
	{"frames in pieces", in_pieces},
	{"overlapping operations in one frame", overlapping_in_one_frame},
	{"frames spoilt at random", spoilt_at_random},
	{"a peer that never reads", peer_never_reads},
	{"bytes after a fence", bytes_after_a_fence},
	{"a flood of small frames", a_flood_of_small_frames},
	CU_TEST_INFO_NULL,
};
