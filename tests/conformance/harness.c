/* SPDX-License-Identifier: BSD-3-Clause */
/* harness.c: see harness.h. One thread; real sleeps only under a real-time driver. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "tests/conformance/harness.h"
#include "tests/support/lane_guard.h"

#define PATIENCE_NS        (60 * SLUICE_NS_PER_S) /* real time, on a machine however busy */
#define PATIENCE_TURNS     (1000 * 1000) /* virtual time */
#define TURN_NS_MAX        (10 * SLUICE_NS_PER_MS) /* virtual time per turn */
#define SETTLE_NS          (50 * SLUICE_NS_PER_MS)
#define SETTLE_VIRTUAL_NS  (30 * SLUICE_NS_PER_S)
#define POLL_EVENTS        8
#define IDLE_SLEEP_NS_REAL (20 * SLUICE_NS_PER_US)

const struct conformance_driver *conformance_driver;

uint64_t fixture_random(struct fixture *f)
{
	f->random ^= f->random << 13;
	f->random ^= f->random >> 7;
	f->random ^= f->random << 17;
	return f->random;
}

uint64_t fixture_now(struct fixture *f)
{
	return f->pair.driver->now_ns(&f->pair);
}

bool fixture_virtual(const struct fixture *f)
{
	return f->pair.driver->flags & CONFORMANCE_VIRTUAL_TIME;
}

int conformance_rails_open(struct conformance_pair *pair, const void *conf,
	const char *source_address, const char *target_address)
{
	struct sluice_error err = {0};
	int r;

	r = pair->transport->rail_open(conf, source_address, &pair->source, &err);
	if (r < 0)
		goto out;
	r = pair->transport->rail_open(conf, target_address, &pair->target, &err);
	if (r < 0)
		goto out_source;
	r = pair->transport->rail_listen(pair->target, pair->target_address, &err);
	if (r == 0)
		return 0;
	pair->transport->rail_close(pair->target);
out_source:
	pair->transport->rail_close(pair->source);
out:
	fprintf(stderr, "%s: %s\n", pair->driver->name, err.text);
	return r;
}

void conformance_rails_close(struct conformance_pair *pair)
{
	pair->transport->rail_close(pair->source);
	pair->transport->rail_close(pair->target);
}

static uint8_t *map(uint64_t bytes)
{
	uint8_t *addr = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
		MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

	return addr == MAP_FAILED ? NULL : addr;
}

static bool memory_open(struct fixture *f)
{
	const uint64_t mapped_bytes = REGION_BYTES + 2 * GUARD_BYTES;

	f->local = map(REGION_BYTES);
	f->mapped = map(mapped_bytes);
	f->model = map(mapped_bytes);
	if (f->local == NULL || f->mapped == NULL || f->model == NULL)
		return false;
	f->region = f->mapped + GUARD_BYTES;
	for (uint64_t i = 0; i < REGION_BYTES; i += 8) {
		uint64_t word = fixture_random(f) | 1; /* no zero words */

		memcpy(f->local + i, &word, 8);
	}
	memset(f->mapped, TARGET_FILL, mapped_bytes);
	memset(f->model, TARGET_FILL, mapped_bytes);
	return true;
}

static int memory_share(struct fixture *f)
{
	const struct sluice_transport *t = f->transport;
	const struct sluice_span local = {1, f->local, REGION_BYTES};
	const struct sluice_span region = {REGION_ID, f->region, REGION_BYTES};
	uint8_t key[SLUICE_KEY_BYTES_MAX];
	int r;

	r = t->mem_register(f->pair.source, &local, SLUICE_ACCESS_LOCAL_READ, &f->local_mem, NULL);
	if (r == 0)
		r = t->mem_register(
			f->pair.target, &region, SLUICE_ACCESS_REMOTE_WRITE, &f->region_mem, NULL);
	if (r == 0) {
		t->mem_admit(f->region_mem, true);
		r = t->mem_export(f->region_mem, key, sizeof(key));
	}
	if (r > 0)
		r = t->mem_import(f->pair.source, key, (size_t)r, &f->remote, NULL);
	return r;
}

struct fixture *fixture_open(void)
{
	struct fixture *f = calloc(1, sizeof(*f));
	int r;

	CU_ASSERT_PTR_NOT_NULL_FATAL(f);
	f->random = 0x9e3779b97f4a7c15ull;
	f->transport = lane_guard_transport(conformance_driver->transport);
	f->pair.driver = conformance_driver;
	f->pair.transport = f->transport;
	r = conformance_driver->pair_open(&f->pair);
	CU_ASSERT_EQUAL(r, 0);
	if (r < 0) {
		free(f);
		return NULL;
	}
	f->transport->rail_limits(f->pair.source, &f->limits);
	r = memory_open(f) ? memory_share(f) : -ENOMEM;
	CU_ASSERT_EQUAL(r, 0);
	if (r == 0)
		return f;
	fixture_close(f);
	return NULL;
}

void fixture_close(struct fixture *f)
{
	const struct sluice_transport *t = f->transport;

	for (uint32_t i = 0; i < f->lane_count; i++)
		lane_close(f, &f->lanes[i]);
	t->mem_forget(f->remote);
	t->mem_unregister(f->local_mem);
	t->mem_unregister(f->region_mem);
	conformance_driver->pair_close(&f->pair);
	if (f->local != NULL)
		munmap(f->local, REGION_BYTES);
	if (f->mapped != NULL)
		munmap(f->mapped, REGION_BYTES + 2 * GUARD_BYTES);
	if (f->model != NULL)
		munmap(f->model, REGION_BYTES + 2 * GUARD_BYTES);
	free(f);
}

/* ---- lanes ---- */

struct lane *lane_add(struct fixture *f)
{
	CU_ASSERT_FATAL(f->lane_count < LANES_MAX);
	return &f->lanes[f->lane_count++];
}

int end_open(struct fixture *f, struct end *end, enum sluice_role role, uint32_t lane,
	uint8_t ticket, uint64_t deadline_ns)
{
	bool source = role == SLUICE_ROLE_SOURCE;
	struct sluice_lane_opts opts = {
		.role = role,
		.lane = lane,
		.epoch = 1,
		.peer_address = source ? f->pair.target_address : NULL,
		.deadline_ns = deadline_ns,
	};
	struct sluice_error err = {0};
	int r;

	memset(opts.ticket.secret, ticket, sizeof(opts.ticket.secret));
	opts.ticket.secret[0] = (uint8_t)lane;
	end->next_seq = 1;
	r = f->transport->lane_open(
		source ? f->pair.source : f->pair.target, &opts, &end->conn, &err);
	if (r < 0)
		fprintf(stderr, "lane_open: %s\n", err.text);
	CU_ASSERT_EQUAL(r, 0);
	return r;
}

struct lane *lane_connect(struct fixture *f)
{
	struct lane *lane = lane_add(f);
	uint32_t index = (uint32_t)(lane - f->lanes);
	uint64_t deadline_ns = fixture_now(f) + LANE_DEADLINE_NS;

	if (end_open(f, &lane->target, SLUICE_ROLE_TARGET, index, 0x42, deadline_ns) == 0 &&
		end_open(f, &lane->source, SLUICE_ROLE_SOURCE, index, 0x42, deadline_ns) == 0)
		STEP_UNTIL(f, lane->source.connected && lane->target.connected);
	return lane;
}

void lane_close(struct fixture *f, struct lane *lane)
{
	f->transport->lane_close(lane->source.conn);
	f->transport->lane_close(lane->target.conn);
	lane->source.conn = NULL;
	lane->target.conn = NULL;
}

/* ---- events ---- */

static void end_message(struct end *end, const struct sluice_event *event)
{
	uint32_t index = end->message_count % MESSAGES_MAX;

	CU_ASSERT(event->len_bytes <= SLUICE_SEND_BYTES_MAX);
	if (event->len_bytes > SLUICE_SEND_BYTES_MAX)
		return;
	end->message_bytes[index] = event->len_bytes;
	memcpy(end->messages[index], event->data, event->len_bytes);
	end->message_count++;
}

static void end_event(struct end *end, const struct sluice_event *event)
{
	CU_ASSERT(!end->lost); /* LOST is final */
	CU_ASSERT(end->connected || event->kind == SLUICE_EVENT_CONNECTED ||
		  event->kind == SLUICE_EVENT_LOST);
	switch (event->kind) {
	case SLUICE_EVENT_CONNECTED:
		CU_ASSERT(!end->connected);
		end->connected = true;
		break;
	case SLUICE_EVENT_PLACED:
		CU_ASSERT(event->seq < end->next_seq);
		CU_ASSERT(!end->placed || event->seq > end->placed_seq);
		end->placed = true;
		end->placed_seq = event->seq;
		break;
	case SLUICE_EVENT_FLUSHED:
		CU_ASSERT(event->seq < end->next_seq);
		CU_ASSERT(end->flush_count < end->flush_asked);
		CU_ASSERT_EQUAL(event->seq, end->flush_seqs[end->flush_count % FLUSHES_MAX]);
		end->flushed_seq = event->seq;
		end->flush_count++;
		break;
	case SLUICE_EVENT_RECEIVED:
		end_message(end, event);
		break;
	case SLUICE_EVENT_LOST:
		CU_ASSERT(event->status < 0);
		end->lost = true;
		end->lost_status = event->status;
		break;
	default:
		CU_FAIL("an event of no known kind");
	}
}

void end_poll(struct fixture *f, struct end *end)
{
	struct sluice_event events[POLL_EVENTS];
	/* Any room for events must do; little room finds more mistakes. */
	uint32_t max = 1 + (uint32_t)(fixture_random(f) % POLL_EVENTS);
	uint32_t count;

	if (end->conn == NULL)
		return;
	count = f->transport->poll(end->conn, events, max, fixture_now(f));
	CU_ASSERT(count <= max);
	for (uint32_t i = 0; i < count; i++)
		end_event(end, &events[i]);
	f->events += count;
}

static void sleep_ns(uint64_t ns)
{
	const struct timespec t = {.tv_nsec = (long)ns};

	nanosleep(&t, NULL);
}

static void step(struct fixture *f, uint64_t turn_ns_max)
{
	uint64_t before = f->events;
	bool target_first = fixture_random(f) & 1;

	f->pair.driver->turn(&f->pair, turn_ns_max);
	for (uint32_t i = 0; i < f->lane_count; i++) {
		struct lane *lane = &f->lanes[i];

		if (!target_first)
			end_poll(f, &lane->source);
		if (!lane->target_sleeps)
			end_poll(f, &lane->target);
		if (target_first)
			end_poll(f, &lane->source);
	}
	if (f->events == before && !fixture_virtual(f))
		sleep_ns(IDLE_SLEEP_NS_REAL);
}

void fixture_step(struct fixture *f)
{
	step(f, TURN_NS_MAX);
}

void fixture_settle(struct fixture *f)
{
	uint64_t ns = fixture_virtual(f) ? SETTLE_VIRTUAL_NS : SETTLE_NS;
	uint64_t end_ns = fixture_now(f) + ns;

	for (uint64_t i = 0; i < PATIENCE_TURNS && fixture_now(f) < end_ns; i++)
		fixture_step(f);
}

void fixture_hold(struct fixture *f, bool hold)
{
	if (f->pair.driver->hold != NULL)
		f->pair.driver->hold(&f->pair, hold);
	for (uint32_t i = 0; i < f->lane_count; i++)
		f->lanes[i].target_sleeps = hold;
}

struct patience patience_start(struct fixture *f)
{
	return (struct patience){.start_ns = fixture_now(f)};
}

bool patience_left(struct fixture *f, struct patience *patience)
{
	if (fixture_virtual(f))
		return patience->turns++ < PATIENCE_TURNS;
	return fixture_now(f) - patience->start_ns < PATIENCE_NS;
}

/* ---- operations ---- */

struct sluice_op op_write(struct fixture *f, uint64_t local_offset, uint64_t offset, uint32_t len)
{
	return (struct sluice_op){
		.kind = SLUICE_OP_WRITE,
		.len_bytes = len,
		.local = f->local + local_offset,
		.mem = f->local_mem,
		.remote = f->remote,
		.remote_offset = offset,
	};
}

struct sluice_op op_zero(struct fixture *f, uint64_t offset, uint32_t len)
{
	return (struct sluice_op){
		.kind = SLUICE_OP_ZERO,
		.len_bytes = len,
		.remote = f->remote,
		.remote_offset = offset,
	};
}

struct sluice_op op_send(const void *message, uint32_t len)
{
	return (struct sluice_op){.kind = SLUICE_OP_SEND, .len_bytes = len, .local = message};
}

struct sluice_op op_flush(void)
{
	return (struct sluice_op){.kind = SLUICE_OP_FLUSH};
}

struct sluice_op op_write_modelled(
	struct fixture *f, uint64_t local_offset, uint64_t offset, uint32_t len)
{
	memcpy(f->model + GUARD_BYTES + offset, f->local + local_offset, len);
	return op_write(f, local_offset, offset, len);
}

struct sluice_op op_zero_modelled(struct fixture *f, uint64_t offset, uint32_t len)
{
	memset(f->model + GUARD_BYTES + offset, 0, len);
	return op_zero(f, offset, len);
}

uint32_t end_offer(struct fixture *f, struct end *end, struct sluice_op *ops, uint32_t count)
{
	uint32_t taken;

	/* Seqs may have gaps. */
	for (uint32_t i = 0; i < count; i++)
		ops[i].seq = end->next_seq + 3ull * i;
	taken = f->transport->submit(end->conn, ops, count, fixture_now(f));
	CU_ASSERT(taken <= count);
	end->next_seq += 3ull * taken;
	for (uint32_t i = 0; i < taken; i++) {
		if (ops[i].kind == SLUICE_OP_FLUSH)
			end->flush_seqs[end->flush_asked++ % FLUSHES_MAX] = ops[i].seq;
	}
	CU_ASSERT(end->flush_asked - end->flush_count <= FLUSHES_MAX);
	return taken;
}

bool end_submit(struct fixture *f, struct end *end, struct sluice_op *ops, uint32_t count)
{
	struct patience patience = patience_start(f);
	uint32_t done = 0;

	while (done < count && !end->lost && patience_left(f, &patience)) {
		uint32_t taken = end_offer(f, end, ops + done, count - done);

		done += taken;
		if (done < count)
			fixture_step(f);
	}
	CU_ASSERT_EQUAL(done, count);
	return done == count;
}

bool end_flush(struct fixture *f, struct end *end)
{
	struct sluice_op flush = op_flush();

	return end_submit(f, end, &flush, 1) && STEP_UNTIL(f, end->flushed_seq == flush.seq);
}

bool end_show_placed(struct fixture *f, struct end *end)
{
	return (f->pair.driver->flags & CONFORMANCE_PLACED_UNSEEN) == 0 || end_flush(f, end);
}

bool end_has_placed(const struct end *end, uint64_t seq)
{
	/* FLUSHED says it too. */
	return (end->placed && end->placed_seq >= seq) || end->flushed_seq >= seq;
}

bool memory_as_modelled(struct fixture *f)
{
	return memcmp(f->mapped, f->model, REGION_BYTES + 2 * GUARD_BYTES) == 0;
}
