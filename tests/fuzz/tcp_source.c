/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * tcp_source.c: fuzz target: a target that answers a source's lane with what it likes.
 *
 * The input is a row of steps: the lane submits operations, or the target sends a frame, mended
 * as the step's options say. What the source is told to be placed must have been acknowledged by
 * a frame that made sense.
 */
#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/fuzz/tcp_world.h"
#include "transports/tcp/tcp.h"

enum {
	MEND_MAGIC = 1,
	MEND_ACK = 2, /* acknowledge at most a little more than was submitted */
	MEND_REST = 4, /* lengths of a frame that is no data */
	MEND_CHECKSUM = 8,
};

static const struct sluice_transport *const tcp = &sluice_transport_tcp;

struct lane {
	struct sluice_conn *conn;
	int fd; /* of the target */
	bool connected, lost;
	uint64_t seq; /* of the last operation submitted */
	uint64_t ops; /* submitted, FLUSHes not counted */
	uint64_t first_seq; /* of the first of them */
	uint64_t placed; /* the highest seq reported */
	bool may_be_placed; /* an acknowledgement was sent at all */
};

static void on_event(struct lane *lane, const struct sluice_event *event)
{
	FUZZ_CHECK(!lane->lost);
	switch (event->kind) {
	case SLUICE_EVENT_CONNECTED:
		FUZZ_CHECK(!lane->connected);
		lane->connected = true;
		break;
	case SLUICE_EVENT_PLACED:
	case SLUICE_EVENT_FLUSHED:
		FUZZ_CHECK(lane->connected);
		FUZZ_CHECK(event->seq <= lane->seq && event->seq >= lane->placed);
		lane->placed = event->seq;
		break;
	case SLUICE_EVENT_RECEIVED:
		FUZZ_CHECK(event->len_bytes <= TCP_SEND_BYTES_MAX);
		break;
	case SLUICE_EVENT_LOST:
		lane->lost = true;
		FUZZ_CHECK(event->status < 0 && event->status != -EFAULT);
		break;
	default:
		FUZZ_CHECK(!"an event of no kind");
	}
}

static void poll_lane(struct lane *lane)
{
	struct sluice_event events[2];
	uint32_t count = tcp->poll(lane->conn, events, 2, 1);
	uint8_t drain[4096];

	FUZZ_CHECK(count <= 2);
	for (uint32_t i = 0; i < count; i++)
		on_event(lane, &events[i]);
	while (lane->fd >= 0 && recv(lane->fd, drain, sizeof(drain), MSG_DONTWAIT) > 0)
		;
}

/* Everybody's first words; the target's may be spoilt. */
static void greet(struct lane *lane, struct fuzz_input *input, int listen_fd)
{
	struct tcp_welcome welcome = {.magic = sluice_put32(TCP_WELCOME_MAGIC),
		.version = sluice_put16(TCP_WIRE_VERSION),
		.lane = sluice_put32(1),
		.epoch = sluice_put32(1)};
	uint8_t at = fuzz_byte(input), spoil = fuzz_byte(input);

	poll_lane(lane);
	lane->fd = accept(listen_fd, NULL, NULL);
	FUZZ_CHECK(lane->fd >= 0);
	((uint8_t *)&welcome)[8 + at % (sizeof(welcome) - 8)] ^= spoil;
	welcome.checksum = sluice_put64(tcp_checksum(&welcome, sizeof(welcome)));
	tcp_world_write(lane->fd, &welcome, sizeof(welcome));
	for (int i = 0; i < 100 && !lane->connected && !lane->lost; i++)
		poll_lane(lane);
	FUZZ_CHECK(spoil != 0 ? lane->lost : lane->connected);
}

static void submit(struct lane *lane, struct fuzz_input *input)
{
	struct sluice_op op = {.seq = lane->seq + 1 + fuzz_byte(input) % 3,
		.kind = (uint8_t)(SLUICE_OP_WRITE + fuzz_byte(input) % 4),
		.len_bytes = 4096};

	if (op.kind == SLUICE_OP_WRITE || op.kind == SLUICE_OP_ZERO) {
		op.remote = tcp_world()->remote;
		op.remote_offset = (fuzz_byte(input) % 15) * 4096ull;
	}
	if (op.kind == SLUICE_OP_SEND)
		op.len_bytes = fuzz_byte(input);
	if (op.kind == SLUICE_OP_FLUSH)
		op.len_bytes = 0;
	if (op.kind == SLUICE_OP_WRITE || op.kind == SLUICE_OP_SEND)
		op.local = tcp_world()->readonly;
	if (tcp->submit(lane->conn, &op, 1, 1) == 0)
		return;
	lane->seq = op.seq;
	if (lane->ops == 0 && op.kind != SLUICE_OP_FLUSH)
		lane->first_seq = op.seq;
	lane->ops += op.kind != SLUICE_OP_FLUSH;
}

static void answer(struct lane *lane, struct fuzz_input *input)
{
	struct {
		struct tcp_frame_header header;
		uint8_t body[256];
	} frame = {0};
	uint8_t options = fuzz_byte(input);
	size_t header_bytes = sizeof(frame.header), body_bytes = fuzz_byte(input);
	struct tcp_frame_header *h = &frame.header;

	memcpy(h, fuzz_take(input, &header_bytes), header_bytes);
	memcpy(frame.body, fuzz_take(input, &body_bytes), body_bytes);
	if (options & MEND_MAGIC) {
		h->magic = sluice_put32(TCP_FRAME_MAGIC);
		h->version = TCP_WIRE_VERSION;
		h->kind = h->kind % 4;
	}
	if (options & MEND_ACK) {
		h->first_op = sluice_put64(0);
		h->ack_ops = sluice_put64(sluice_get64(h->ack_ops) % (lane->ops + 2));
	}
	if (options & MEND_REST) {
		body_bytes = h->kind == TCP_FRAME_ACK ? 0 : body_bytes;
		h->count = sluice_put16(0);
		h->body_bytes = sluice_put32((uint32_t)body_bytes);
		h->payload_bytes = sluice_put32(0);
	}
	if (options & MEND_CHECKSUM)
		h->checksum = sluice_put64(tcp_checksum(&frame, sizeof(*h) + body_bytes));
	lane->may_be_placed |= sluice_get64(h->ack_ops) > 0;
	tcp_world_write(lane->fd, &frame, sizeof(*h) + body_bytes);
	poll_lane(lane);
}

/* Nothing is placed before the target has said so; a FLUSH of nothing needs no word. */
static void check_placed(const struct lane *lane)
{
	FUZZ_CHECK(lane->may_be_placed || lane->ops == 0 || lane->placed < lane->first_seq);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct sluice_lane_opts opts = {
		.role = SLUICE_ROLE_SOURCE, .lane = 1, .epoch = 1, .deadline_ns = UINT64_MAX};
	struct fuzz_input input = {data, size};
	struct lane lane = {.fd = -1};
	static char address[SLUICE_ADDRESS_MAX];
	static int listen_fd = -1;

	if (listen_fd < 0)
		listen_fd = tcp_world_listen(address);
	opts.peer_address = address;
	FUZZ_CHECK(tcp->lane_open(tcp_world()->rail, &opts, &lane.conn, NULL) == 0);
	greet(&lane, &input, listen_fd);
	for (int steps = 0; steps < 64 && input.left > 0 && !lane.lost; steps++) {
		if (fuzz_byte(&input) % 2 == 0)
			submit(&lane, &input);
		else
			answer(&lane, &input);
		poll_lane(&lane);
		check_placed(&lane);
	}
	tcp_world_reset(lane.fd);
	lane.fd = -1;
	for (int i = 0; i < 100 && !lane.lost; i++)
		poll_lane(&lane);
	FUZZ_CHECK(lane.lost);
	tcp->lane_close(lane.conn);
	return 0;
}
