/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * tcp_target.c: fuzz target: a source with a valid ticket, and what it sends to a target's lane.
 *
 * The input is a row of pieces. Each begins with a byte of options, then 40 bytes of a frame's
 * header, then its body. Options mend what random bytes would not hit: magic and version, the
 * count of operations before, lengths, memory, the checksum. The payload is not in the input.
 */
#include <errno.h>
#include <sys/socket.h>

#include "tests/fuzz/tcp_world.h"
#include "transports/tcp/tcp.h"

#define LANE     3u
#define SENDABLE (64u << 10)

enum {
	MEND_MAGIC = 1,
	MEND_ORDER = 2, /* operations sent before this frame */
	MEND_LENGTHS = 4, /* count, body and payload fit each other */
	MEND_ENTRIES = 8, /* kind and memory of each entry exist */
	MEND_CHECKSUM = 16,
	NO_PAYLOAD = 32,
	IN_PIECES = 64,
};

static const struct sluice_transport *const tcp = &sluice_transport_tcp;

struct lane {
	struct sluice_conn *conn;
	int fd;
	bool connected, lost;
	uint64_t ops; /* that a sound stream would have sent */
};

static void poll_lane(struct lane *lane)
{
	struct sluice_event events[3];
	uint32_t count;

	tcp->rail_step(tcp_world()->rail, 0);
	count = tcp->poll(lane->conn, events, 3, 1);
	FUZZ_CHECK(count <= 3);
	for (uint32_t i = 0; i < count; i++) {
		FUZZ_CHECK(!lane->lost);
		switch (events[i].kind) {
		case SLUICE_EVENT_CONNECTED:
			lane->connected = true;
			break;
		case SLUICE_EVENT_RECEIVED:
			FUZZ_CHECK(events[i].len_bytes <= TCP_SEND_BYTES_MAX);
			break;
		case SLUICE_EVENT_LOST:
			lane->lost = true;
			/* Not -EFAULT: nothing was received to where nothing is. */
			FUZZ_CHECK(events[i].status == -EPROTO || events[i].status == -ECONNRESET);
			break;
		default:
			FUZZ_CHECK(!"a target that sent nothing has nothing placed");
		}
	}
}

static void open_lane(struct lane *lane)
{
	struct sluice_lane_opts opts = {
		.role = SLUICE_ROLE_TARGET, .lane = LANE, .epoch = 1, .deadline_ns = UINT64_MAX};
	struct tcp_hello hello = {.magic = sluice_put32(TCP_HELLO_MAGIC),
		.version = sluice_put16(TCP_WIRE_VERSION),
		.lane = sluice_put32(LANE),
		.epoch = sluice_put32(1)};

	memset(opts.ticket.secret, 0x66, sizeof(opts.ticket.secret));
	memset(hello.ticket, 0x66, sizeof(hello.ticket));
	hello.checksum = sluice_put64(tcp_checksum(&hello, sizeof(hello)));
	FUZZ_CHECK(tcp->lane_open(tcp_world()->rail, &opts, &lane->conn, NULL) == 0);
	lane->fd = tcp_world_connect(tcp_world()->address);
	tcp_world_write(lane->fd, &hello, sizeof(hello));
	for (int i = 0; i < 1000 && !lane->connected; i++)
		poll_lane(lane);
	FUZZ_CHECK(lane->connected);
}

struct frame {
	struct tcp_frame_header header;
	uint8_t body[TCP_TABLE_BYTES_MAX];
	size_t body_bytes;
};

static void mend_entries(struct frame *frame, uint32_t count, uint32_t *ret_payload_bytes)
{
	*ret_payload_bytes = 0;
	for (uint32_t i = 0; i < count; i++) {
		struct tcp_frame_entry entry;
		uint8_t *at = frame->body + i * sizeof(entry);
		uint32_t len_bytes;

		memcpy(&entry, at, sizeof(entry));
		entry.kind = entry.kind % 2 ? SLUICE_OP_WRITE : SLUICE_OP_ZERO;
		entry.mem_id = sluice_put32(TCP_REGION_ID);
		memset(entry.reserved, 0, sizeof(entry.reserved));
		/* Mostly inside the region, aligned. */
		len_bytes = (sluice_get32(entry.len_bytes) % (TCP_REGION_BYTES + 16)) & ~7u;
		entry.len_bytes = sluice_put32(len_bytes);
		entry.offset = sluice_put64(
			(sluice_get64(entry.offset) % (TCP_REGION_BYTES + 16)) & ~7ull);
		memcpy(at, &entry, sizeof(entry));
		if (entry.kind == SLUICE_OP_WRITE)
			*ret_payload_bytes += len_bytes;
	}
}

static void mend(struct lane *lane, struct frame *frame, uint8_t options)
{
	struct tcp_frame_header *h = &frame->header;
	uint32_t payload_bytes = sluice_get32(h->payload_bytes), count;

	if (options & MEND_MAGIC) {
		h->magic = sluice_put32(TCP_FRAME_MAGIC);
		h->version = TCP_WIRE_VERSION;
		h->kind = h->kind % 4;
		h->ack_ops = sluice_put64(sluice_get64(h->ack_ops) & 1);
	}
	if (options & MEND_ORDER)
		h->first_op = sluice_put64(h->kind == TCP_FRAME_ACK ? 0 : lane->ops);
	count = (uint32_t)(frame->body_bytes / sizeof(struct tcp_frame_entry));
	if (options & MEND_ENTRIES)
		mend_entries(frame, count, &payload_bytes);
	if (options & MEND_LENGTHS) {
		bool data = h->kind == TCP_FRAME_DATA;

		if (data)
			frame->body_bytes = count * sizeof(struct tcp_frame_entry);
		if (h->kind == TCP_FRAME_ACK)
			frame->body_bytes = 0;
		h->count = sluice_put16(data ? (uint16_t)count : 0);
		h->body_bytes = sluice_put32((uint32_t)frame->body_bytes);
		h->payload_bytes = sluice_put32(data ? payload_bytes : 0);
	}
	if (options & MEND_CHECKSUM)
		h->checksum = sluice_put64(tcp_checksum(h, sizeof(*h) + frame->body_bytes));
}

static void send_bytes(struct lane *lane, const void *bytes, size_t count, bool in_pieces)
{
	for (size_t at = 0; at < count;) {
		size_t piece = in_pieces && count - at > 7 ? 7 + at : count - at;

		if (piece > count - at)
			piece = count - at;
		tcp_world_write(lane->fd, (const uint8_t *)bytes + at, piece);
		at += piece;
		poll_lane(lane);
	}
}

static void send_frame(struct lane *lane, struct fuzz_input *input)
{
	static const uint8_t payload[SENDABLE] = {[0 ... SENDABLE - 1] = 0xee};
	uint8_t options = fuzz_byte(input);
	struct frame frame = {0};
	size_t header_bytes = sizeof(frame.header), payload_bytes;

	memcpy(&frame.header, fuzz_take(input, &header_bytes), header_bytes);
	frame.body_bytes = fuzz_byte(input) * 4u;
	memcpy(frame.body, fuzz_take(input, &frame.body_bytes), frame.body_bytes);
	mend(lane, &frame, options);
	send_bytes(
		lane, &frame.header, sizeof(frame.header) + frame.body_bytes, options & IN_PIECES);
	payload_bytes = options & NO_PAYLOAD ? 0 : sluice_get32(frame.header.payload_bytes);
	for (size_t left = payload_bytes < 1u << 20 ? payload_bytes : 1u << 20; left > 0;) {
		size_t bytes = left < SENDABLE ? left : SENDABLE;

		send_bytes(lane, payload, bytes, options & IN_PIECES);
		left -= bytes;
	}
	if (frame.header.kind == TCP_FRAME_DATA)
		lane->ops += sluice_get16(frame.header.count);
	if (frame.header.kind == TCP_FRAME_SEND)
		lane->ops++;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz_input input = {data, size};
	struct lane lane = {.fd = -1};

	open_lane(&lane);
	for (int frames = 0; frames < 16 && input.left > 0 && !lane.lost; frames++)
		send_frame(&lane, &input);
	shutdown(lane.fd, SHUT_WR);
	for (int i = 0; i < 1000 && !lane.lost; i++)
		poll_lane(&lane);
	FUZZ_CHECK(lane.lost);
	tcp_world_reset(lane.fd);
	tcp->lane_close(lane.conn);
	for (size_t i = 0; i < TCP_REGION_BYTES; i++)
		FUZZ_CHECK(tcp_world()->readonly[i] == TCP_READONLY);
	return 0;
}
