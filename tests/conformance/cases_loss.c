/* SPDX-License-Identifier: BSD-3-Clause */
/* cases_loss.c: fences, deaths, and operations that must not land. */
#include <string.h>

#include "tests/conformance/harness.h"

/* Fill the lane with pages of one byte; nothing of it has landed. Returns ops taken. */
static uint32_t fill_held_lane(struct fixture *f, struct lane *lane, int content)
{
	enum { OPS = 64 };
	struct sluice_op ops[OPS];

	memset(f->local, content, OPS * SLUICE_PAGE_BYTES);
	for (uint32_t i = 0; i < OPS; i++)
		ops[i] = op_write(f, i * SLUICE_PAGE_BYTES, i * SLUICE_PAGE_BYTES, 4096);
	return end_offer(f, &lane->source, ops, OPS);
}

/*
 * The heart of section 5: writes of a dying lane that are still under way when the target
 * fences it must never land, least of all over what a survivor has written since.
 */
static void fenced_writes_never_land(void)
{
	struct fixture *f = fixture_open();
	struct lane *old, *survivor;
	struct sluice_op op;

	if (f == NULL)
		return;
	old = lane_connect(f);
	survivor = lane_connect(f);
	fixture_hold(f, true);
	CU_ASSERT(fill_held_lane(f, old, 0x0d) > 0);
	for (int i = 0; i < 10; i++)
		fixture_step(f);
	CU_ASSERT(memory_as_modelled(f));
	CU_ASSERT(f->transport->lane_fence(old->target.conn));
	CU_ASSERT(memory_as_modelled(f));
	fixture_hold(f, false);

	memset(f->local + REGION_BYTES / 2, 0x5e, 64 * SLUICE_PAGE_BYTES);
	for (uint64_t page = 0; page < 32; page++) {
		op = op_write_modelled(
			f, REGION_BYTES / 2 + page * 4096, page * SLUICE_PAGE_BYTES, 4096);
		CU_ASSERT(end_submit(f, &survivor->source, &op, 1));
	}
	CU_ASSERT(end_flush(f, &survivor->source));
	fixture_settle(f);
	CU_ASSERT(memory_as_modelled(f));
	CU_ASSERT(!old->source.placed); /* nobody may be told that they did */
	CU_ASSERT(f->transport->lane_fence(old->target.conn)); /* idempotent */
	CU_ASSERT(!survivor->source.lost && !survivor->target.lost);
	fixture_close(f);
}

/* Fenced in the middle of a stream: memory is a prefix of it, and stays as it is. */
static void fenced_midway(void)
{
	enum { OPS = 512 };
	struct fixture *f = fixture_open();
	static struct sluice_op ops[OPS];
	struct lane *lane;
	uint32_t taken;

	if (f == NULL)
		return;
	lane = lane_connect(f);
	for (uint32_t i = 0; i < OPS; i++)
		ops[i] = op_write(f, i * SLUICE_PAGE_BYTES, i * SLUICE_PAGE_BYTES, 4096);
	taken = end_offer(f, &lane->source, ops, OPS);
	CU_ASSERT(taken > 0);
	fixture_step(f);
	CU_ASSERT(f->transport->lane_fence(lane->target.conn));
	memcpy(f->model, f->mapped, REGION_BYTES + 2 * GUARD_BYTES);
	STEP_UNTIL(f, lane->source.lost);
	fixture_settle(f);
	CU_ASSERT(memory_as_modelled(f));
	/* Of what the source was told, nothing is missing. */
	for (uint32_t i = 0; i < taken && end_has_placed(&lane->source, ops[i].seq); i++)
		CU_ASSERT(memcmp(f->region + i * SLUICE_PAGE_BYTES,
				  f->local + i * SLUICE_PAGE_BYTES, 4096) == 0);
	fixture_close(f);
}

static void check_takes_nothing(struct fixture *f, struct end *end)
{
	struct sluice_op op = op_send("x", 1);
	uint64_t events = f->events;

	CU_ASSERT_EQUAL(end_offer(f, end, &op, 1), 0);
	for (int i = 0; i < 20; i++)
		end_poll(f, end);
	CU_ASSERT_EQUAL(f->events, events);
}

static void target_closes_midway(void)
{
	struct fixture *f = fixture_open();
	struct lane *lane;

	if (f == NULL)
		return;
	lane = lane_connect(f);
	CU_ASSERT(fill_held_lane(f, lane, 1) > 0);
	fixture_step(f);
	f->transport->lane_close(lane->target.conn);
	lane->target.conn = NULL;
	if (STEP_UNTIL(f, lane->source.lost))
		check_takes_nothing(f, &lane->source);
	fixture_close(f);
}

static void source_closes_midway(void)
{
	struct fixture *f = fixture_open();
	struct lane *lane;

	if (f == NULL)
		return;
	lane = lane_connect(f);
	CU_ASSERT(fill_held_lane(f, lane, 1) > 0);
	f->transport->lane_close(lane->source.conn);
	lane->source.conn = NULL;
	if (STEP_UNTIL(f, lane->target.lost))
		check_takes_nothing(f, &lane->target);
	fixture_close(f);
}

static void peer_dies_silently(void)
{
	struct fixture *f = fixture_open();
	struct sluice_op flush = op_flush();
	struct lane *lane;

	if (f == NULL)
		return;
	if (f->pair.driver->kill_peer == NULL) {
		fixture_close(f);
		return;
	}
	lane = lane_connect(f);
	CU_ASSERT(fill_held_lane(f, lane, 1) > 0);
	f->pair.driver->kill_peer(&f->pair, lane->source.conn);
	/* The pages may all have been placed by then: only who asks learns that nobody is there. */
	end_offer(f, &lane->source, &flush, 1);
	if (STEP_UNTIL(f, lane->source.lost))
		check_takes_nothing(f, &lane->source);
	fixture_close(f);
}

/* A lane may take nothing for a while, whatever it is offered. */
static void offer_until_lost(struct fixture *f, struct end *end, struct sluice_op op)
{
	for (int turn = 0; turn < 1000 && !end->lost && end_offer(f, end, &op, 1) == 0; turn++)
		fixture_step(f);
	STEP_UNTIL(f, end->lost);
}

/* A caller's mistake is not worth an error path: the lane is lost, memory is untouched. */
static void check_refused(struct fixture *f, struct sluice_op op)
{
	struct lane *lane = lane_connect(f), *other = lane_connect(f);
	struct sluice_op fine = op_write_modelled(f, 0, 0, 4096);

	offer_until_lost(f, &lane->source, op);
	CU_ASSERT(!lane->source.placed);
	check_takes_nothing(f, &lane->source);
	/* Only this lane. */
	CU_ASSERT(end_submit(f, &other->source, &fine, 1));
	CU_ASSERT(end_flush(f, &other->source));
	CU_ASSERT(memory_as_modelled(f));
}

static void unaligned(void)
{
	struct fixture *f = fixture_open();

	if (f == NULL)
		return;
	if (f->limits.align_bytes > 1) {
		uint32_t align = f->limits.align_bytes;

		check_refused(f, op_write(f, 0, 1, align));
		check_refused(f, op_write(f, 0, 0, align + 1));
		check_refused(f, op_zero(f, align / 2, align));
		check_refused(f, op_zero(f, 0, align / 2));
	}
	fixture_close(f);
}

static void empty_or_too_long(void)
{
	struct fixture *f = fixture_open();

	if (f == NULL)
		return;
	check_refused(f, op_write(f, 0, 0, 0));
	check_refused(f, op_zero(f, 0, 0));
	if (f->limits.op_bytes_max < REGION_BYTES) {
		check_refused(f, op_write(f, 0, 0, f->limits.op_bytes_max + 4096));
		check_refused(f, op_zero(f, 0, f->limits.op_bytes_max + 4096));
	}
	check_refused(f, op_send(f->local, f->limits.send_bytes_max + 1));
	fixture_close(f);
}

static void past_the_region(void)
{
	struct fixture *f = fixture_open();

	if (f == NULL)
		return;
	check_refused(f, op_write(f, 0, REGION_BYTES, 4096));
	check_refused(f, op_write(f, 0, REGION_BYTES - 4096, 8192));
	check_refused(f, op_zero(f, REGION_BYTES - 4096, 8192));
	check_refused(f, op_write(f, 0, UINT64_MAX - 4095, 4096));
	check_refused(f, op_zero(f, UINT64_MAX - 4095, 8192));
	fixture_close(f);
}

static void seq_goes_back(void)
{
	struct fixture *f = fixture_open();
	struct sluice_op op;
	struct lane *lane;

	if (f == NULL)
		return;
	lane = lane_connect(f);
	op = op_write_modelled(f, 0, 0, 4096);
	CU_ASSERT(end_submit(f, &lane->source, &op, 1));
	CU_ASSERT(end_flush(f, &lane->source));
	op = op_write(f, 4096, 4096, 4096);
	op.seq = 1;
	for (int turn = 0; turn < 1000 && !lane->source.lost; turn++) {
		CU_ASSERT_EQUAL(f->transport->submit(lane->source.conn, &op, 1, fixture_now(f)), 0);
		fixture_step(f);
	}
	STEP_UNTIL(f, lane->source.lost);
	CU_ASSERT(memory_as_modelled(f));
	fixture_close(f);
}

/* Import the key of [addr, addr + len) registered with @access; then maybe unregister it. */
static struct sluice_remote *share(struct fixture *f, const struct sluice_span *span,
	uint32_t access, struct sluice_mem **ret_mem)
{
	const struct sluice_transport *t = f->transport;
	struct sluice_remote *remote = NULL;
	uint8_t key[SLUICE_KEY_BYTES_MAX];
	int bytes;

	CU_ASSERT_EQUAL(t->mem_register(f->pair.target, span, access, ret_mem, NULL), 0);
	bytes = t->mem_export(*ret_mem, key, sizeof(key));
	CU_ASSERT(bytes > 0);
	CU_ASSERT_EQUAL(t->mem_import(f->pair.source, key, (size_t)bytes, &remote, NULL), 0);
	return remote;
}

static void check_remote_refused(struct fixture *f, uint32_t access, bool unregister)
{
	struct sluice_span span = {.id = 99, .len_bytes = 16 * SLUICE_PAGE_BYTES};
	struct sluice_remote *remote;
	struct sluice_mem *mem;
	struct sluice_op op;

	/* The guard in front of the region: mapped, in the model, but not the peer's to write. */
	span.addr = f->mapped;
	remote = share(f, &span, access, &mem);
	if (unregister) {
		f->transport->mem_unregister(mem);
		mem = NULL;
	}
	op = op_write(f, 0, 0, 4096);
	op.remote = remote;
	check_refused(f, op);
	op = op_zero(f, 4096, 4096);
	op.remote = remote;
	check_refused(f, op);
	f->transport->mem_forget(remote);
	f->transport->mem_unregister(mem);
}

static void no_remote_write_access(void)
{
	struct fixture *f = fixture_open();

	if (f == NULL)
		return;
	check_remote_refused(f, SLUICE_ACCESS_LOCAL_READ, false);
	fixture_close(f);
}

static void unknown_id(void)
{
	struct fixture *f = fixture_open();

	if (f == NULL)
		return;
	check_remote_refused(f, SLUICE_ACCESS_REMOTE_WRITE, true);
	fixture_close(f);
}

static bool keys_stay(const struct fixture *f)
{
	return (f->pair.driver->flags & CONFORMANCE_KEYS_STAY) != 0;
}

static void check_shut(struct fixture *f, struct sluice_remote *remote)
{
	struct sluice_op op = op_zero(f, 4096, 4096);

	op.remote = remote;
	check_refused(f, op);
	op = op_write(f, 0, 0, 4096);
	op.remote = remote;
	if (!keys_stay(f))
		check_refused(f, op);
}

/* Registered, with a key that the peer has: not let in yet, let in, not any more. */
static void not_let_in(void)
{
	struct fixture *f = fixture_open();
	struct sluice_span span = {.id = 99, .len_bytes = 16 * SLUICE_PAGE_BYTES};
	struct sluice_remote *remote;
	struct sluice_mem *mem;
	struct sluice_op op;
	struct lane *lane;

	if (f == NULL)
		return;
	span.addr = f->mapped; /* the guard in front of the region */
	remote = share(f, &span, SLUICE_ACCESS_REMOTE_WRITE, &mem);
	check_shut(f, remote);
	f->transport->mem_admit(mem, true);
	lane = lane_connect(f);
	op = op_write(f, 0, 0, 4096);
	op.remote = remote;
	CU_ASSERT(end_submit(f, &lane->source, &op, 1));
	op = op_zero(f, 4096, 4096);
	op.remote = remote;
	CU_ASSERT(end_submit(f, &lane->source, &op, 1));
	CU_ASSERT(end_flush(f, &lane->source));
	memcpy(f->model, f->local, 4096);
	memset(f->model + 4096, 0, 4096);
	CU_ASSERT(memory_as_modelled(f));
	f->transport->mem_admit(mem, false);
	memset(f->model + 4096, 0x11, 4096); /* so that a ZERO would be seen */
	memset(f->mapped + 4096, 0x11, 4096);
	memset(f->local, 0x22, 4096);
	check_shut(f, remote);
	CU_ASSERT(!lane->source.lost); /* who brings nothing there loses nothing */
	f->transport->mem_forget(remote);
	f->transport->mem_unregister(mem);
	fixture_close(f);
}

/* Memory that is shut while writes to it are under way. */
static void shut_midway(void)
{
	struct fixture *f = fixture_open();
	struct lane *lane;

	if (f == NULL)
		return;
	if (!keys_stay(f)) {
		lane = lane_connect(f);
		fixture_hold(f, true);
		CU_ASSERT(fill_held_lane(f, lane, 0x78) > 0);
		f->transport->mem_admit(f->region_mem, false);
		fixture_hold(f, false);
		STEP_UNTIL(f, lane->source.lost);
		fixture_settle(f);
		CU_ASSERT(memory_as_modelled(f));
	}
	fixture_close(f);
}

/* Memory that goes away while writes to it are under way. */
static void unregistered_midway(void)
{
	struct fixture *f = fixture_open();
	struct lane *lane;

	if (f == NULL)
		return;
	lane = lane_connect(f);
	fixture_hold(f, true);
	CU_ASSERT(fill_held_lane(f, lane, 0x77) > 0);
	f->transport->mem_unregister(f->region_mem);
	f->region_mem = NULL;
	fixture_hold(f, false);
	STEP_UNTIL(f, lane->source.lost);
	fixture_settle(f);
	CU_ASSERT(memory_as_modelled(f));
	fixture_close(f);
}

static void bad_keys(void)
{
	struct fixture *f = fixture_open();
	struct sluice_remote *remote;
	uint8_t key[SLUICE_KEY_BYTES_MAX];
	int bytes;

	if (f == NULL)
		return;
	bytes = f->transport->mem_export(f->region_mem, key, sizeof(key));
	CU_ASSERT(bytes > 0 && bytes <= SLUICE_KEY_BYTES_MAX);
	for (int i = 0; i < bytes; i++) {
		struct sluice_error err = {0};
		int r = f->transport->mem_import(f->pair.source, key, (size_t)i, &remote, &err);

		CU_ASSERT(r < 0);
		CU_ASSERT(err.code == r && err.text[0] != '\0');
	}
	fixture_close(f);
}

CU_TestInfo cases_loss[] = {
	{"late writes of a fenced lane never land", fenced_writes_never_land},
	{"a fence in the middle of a stream", fenced_midway},
	{"the target closes in the middle", target_closes_midway},
	{"the source closes in the middle", source_closes_midway},
	{"a peer dies without a word", peer_dies_silently},
	{"unaligned operations", unaligned},
	{"empty and too long operations", empty_or_too_long},
	{"offsets past the region", past_the_region},
	{"a seq that goes back", seq_goes_back},
	{"memory without remote write access", no_remote_write_access},
	{"memory that is not registered any more", unknown_id},
	{"memory unregistered while writes are under way", unregistered_midway},
	{"memory that the peer is not let into, yet or any more", not_let_in},
	{"memory shut while writes are under way", shut_midway},
	{"keys that are cut short", bad_keys},
	CU_TEST_INFO_NULL,
};
