/* SPDX-License-Identifier: BSD-3-Clause */
/* cases_order.c: what is promised about before and after. */
#include <string.h>

#include "tests/conformance/harness.h"

static void zero_flush_write(void)
{
	struct fixture *f = fixture_open();
	struct lane *lane;

	if (f == NULL)
		return;
	lane = lane_connect(f);
	for (int i = 0; i < 20; i++) {
		struct sluice_op zero = op_zero_modelled(f, 0, 4 * SLUICE_PAGE_BYTES);
		struct sluice_op write =
			op_write_modelled(f, 0, SLUICE_PAGE_BYTES, SLUICE_PAGE_BYTES);

		CU_ASSERT(end_submit(f, &lane->source, &zero, 1));
		CU_ASSERT(end_flush(f, &lane->source));
		CU_ASSERT(end_submit(f, &lane->source, &write, 1));
		CU_ASSERT(end_flush(f, &lane->source));
		CU_ASSERT(memory_as_modelled(f));
	}
	fixture_close(f);
}

/*
 * The target's CPU is slow, and a ZERO may be its work: the WRITE behind it waits, others do not.
 * Then the other way round: nothing of a ZERO is done before the WRITE in front of it.
 */
static void zero_write_slow_target(void)
{
	struct fixture *f = fixture_open();
	struct lane *lane;

	if (f == NULL)
		return;
	lane = lane_connect(f);
	for (int i = 0; i < 20 && (f->pair.driver->flags & CONFORMANCE_OVERLAPS_IN_ORDER); i++) {
		struct sluice_op ops[] = {
			op_zero_modelled(f, 0, 4 * SLUICE_PAGE_BYTES),
			op_write_modelled(f, 0, SLUICE_PAGE_BYTES, SLUICE_PAGE_BYTES),
			op_write_modelled(f, 4096, 64 * SLUICE_PAGE_BYTES, SLUICE_PAGE_BYTES),
			op_zero_modelled(f, 64 * SLUICE_PAGE_BYTES, SLUICE_PAGE_BYTES),
		};
		uint32_t taken;

		lane->target_sleeps = true;
		taken = end_offer(f, &lane->source, ops, 4);
		CU_ASSERT(taken > 0);
		for (int turn = 0; turn < 100; turn++)
			fixture_step(f);
		if (taken < 4)
			taken += end_offer(f, &lane->source, ops + taken, 4 - taken);
		CU_ASSERT(!end_has_placed(&lane->source, ops[0].seq));
		lane->target_sleeps = false;
		CU_ASSERT(end_submit(f, &lane->source, ops + taken, 4 - taken));
		CU_ASSERT(end_flush(f, &lane->source));
		CU_ASSERT(memory_as_modelled(f));
	}
	fixture_close(f);
}

/* A message that says "page i is there" is right. */
static void send_behind_writes(void)
{
	struct fixture *f = fixture_open();
	struct lane *lane;

	if (f == NULL)
		return;
	lane = lane_connect(f);
	for (uint32_t i = 0; i < 64; i++) {
		uint64_t offset = i * 16 * SLUICE_PAGE_BYTES;
		uint32_t before = lane->target.message_count;
		struct sluice_op ops[] = {
			op_write_modelled(f, offset, offset, 16 * SLUICE_PAGE_BYTES),
			op_zero_modelled(f, offset, SLUICE_PAGE_BYTES),
			op_send(&i, sizeof(i)),
		};

		/* A page cannot be written and zeroed without a FLUSH between. */
		ops[0].remote_offset += SLUICE_PAGE_BYTES;
		ops[0].local = f->local + offset + SLUICE_PAGE_BYTES;
		ops[0].len_bytes -= (uint32_t)SLUICE_PAGE_BYTES;
		CU_ASSERT(end_submit(f, &lane->source, ops, 3));
		if (!STEP_UNTIL(f, lane->target.message_count == before + 1))
			break;
		CU_ASSERT(memory_as_modelled(f)); /* now, whatever the source knows */
		CU_ASSERT_EQUAL(lane->target.message_bytes[before % MESSAGES_MAX], 4);
		CU_ASSERT(memcmp(lane->target.messages[before % MESSAGES_MAX], &i, 4) == 0);
	}
	fixture_close(f);
}

static void check_message(const struct end *end, uint32_t index, uint32_t expected)
{
	uint32_t value;

	memcpy(&value, end->messages[index % MESSAGES_MAX], sizeof(value));
	CU_ASSERT_EQUAL(value, expected);
}

/* Both ends talk at once; every length up to the longest; order is kept. */
static void send_both_ways(void)
{
	struct fixture *f = fixture_open();
	uint8_t message[SLUICE_SEND_BYTES_MAX];
	uint32_t sent = 0;
	struct lane *lane;

	if (f == NULL)
		return;
	lane = lane_connect(f);
	memset(message, 0x3c, sizeof(message));
	for (; sent < 1000; sent++) {
		uint32_t len = 4 + sent % (SLUICE_SEND_BYTES_MAX - 3);
		struct sluice_op out = op_send(message, len), in = op_send(message, len);

		memcpy(message, &sent, sizeof(sent));
		if (!end_submit(f, &lane->source, &out, 1) || !end_submit(f, &lane->target, &in, 1))
			break;
		if (sent % 32 != 31)
			continue;
		if (!STEP_UNTIL(f, lane->target.message_count == sent + 1) ||
			!STEP_UNTIL(f, lane->source.message_count == sent + 1))
			break;
		for (uint32_t i = sent - 31; i <= sent; i++) {
			check_message(&lane->source, i, i);
			check_message(&lane->target, i, i);
			CU_ASSERT_EQUAL(lane->target.message_bytes[i % MESSAGES_MAX],
				4 + i % (SLUICE_SEND_BYTES_MAX - 3));
		}
	}
	CU_ASSERT(end_flush(f, &lane->target)); /* a target's messages are placed as well */
	CU_ASSERT(lane->target.placed);
	fixture_close(f);
}

/* The harness checks that PLACED only grows; here: that it comes for all, and may be believed. */
static void placed_is_cumulative(void)
{
	enum { OPS = 300 };
	struct fixture *f = fixture_open();
	struct sluice_op ops[OPS];
	struct lane *lane;
	uint32_t checked = 0;

	if (f == NULL)
		return;
	lane = lane_connect(f);
	for (uint32_t i = 0; i < OPS; i++)
		ops[i] = op_write(f, i * SLUICE_PAGE_BYTES, i * SLUICE_PAGE_BYTES, 4096);
	for (uint32_t i = 0; i < OPS; i += 10)
		CU_ASSERT(end_submit(f, &lane->source, ops + i, 10));
	for (uint32_t turn = 0; turn < 1000000 && checked < OPS; turn++) {
		fixture_step(f);
		if (checked < OPS && end_has_placed(&lane->source, ops[checked].seq))
			CU_ASSERT(end_show_placed(f, &lane->source));
		for (; checked < OPS && end_has_placed(&lane->source, ops[checked].seq); checked++)
			CU_ASSERT(memcmp(f->region + checked * SLUICE_PAGE_BYTES,
					  f->local + checked * SLUICE_PAGE_BYTES, 4096) == 0);
		if (turn % 100 == 99 && lane->source.lost)
			break;
	}
	CU_ASSERT_EQUAL(checked, OPS);
	fixture_close(f);
}

static void flush_completes_last(void)
{
	enum { ROUNDS = 100, WRITES = 40 };
	struct fixture *f = fixture_open();
	struct lane *lane;

	if (f == NULL)
		return;
	lane = lane_connect(f);
	for (uint32_t round = 0; round < ROUNDS; round++) {
		struct sluice_op ops[WRITES + 2];

		for (uint32_t i = 0; i < WRITES; i++) {
			uint64_t offset = (round * WRITES + i) % 2000 * SLUICE_PAGE_BYTES;

			ops[i] = i % 8 == 0 ? op_zero_modelled(f, offset, SLUICE_PAGE_BYTES)
					    : op_write_modelled(
						      f, (round * 7 + i) * 512, offset, 4096);
		}
		ops[WRITES] = op_flush();
		ops[WRITES + 1] = op_flush();
		CU_ASSERT(end_submit(f, &lane->source, ops, WRITES + 2));
		if (!STEP_UNTIL(f, lane->source.flushed_seq >= ops[WRITES].seq))
			break;
		CU_ASSERT(memory_as_modelled(f));
		if (!STEP_UNTIL(f, lane->source.flushed_seq == ops[WRITES + 1].seq))
			break;
	}
	CU_ASSERT_EQUAL(lane->source.flush_count, 2 * ROUNDS);
	fixture_close(f);
}

/* Each FLUSH answers for what stands before it, also in one submit, and for itself alone. */
static void flushes_between_writes(void)
{
	enum { GROUPS = 8, WRITES = 7, OPS = GROUPS * (WRITES + 1) };
	struct fixture *f = fixture_open();
	struct lane *lane;

	if (f == NULL)
		return;
	lane = lane_connect(f);
	for (uint32_t round = 0; round < 50; round++) {
		uint64_t before = lane->source.flush_count;
		struct sluice_op ops[OPS];

		for (uint32_t i = 0; i < OPS; i++) {
			uint64_t local = (round * 31 + i) * 1024, offset = i * SLUICE_PAGE_BYTES;

			ops[i] = i % (WRITES + 1) == WRITES ? op_flush()
							    : op_write(f, local, offset, 4096);
		}
		if (!end_submit(f, &lane->source, ops, OPS))
			break;
		for (uint32_t group = 0; group < GROUPS; group++) {
			if (!STEP_UNTIL(f, lane->source.flush_count > before + group))
				break;
			for (uint32_t i = 0; i < (group + 1) * (WRITES + 1); i++) {
				if (ops[i].kind == SLUICE_OP_WRITE)
					CU_ASSERT(memcmp(f->region + ops[i].remote_offset,
							  ops[i].local, 4096) == 0);
			}
		}
	}
	CU_ASSERT_EQUAL(lane->source.flush_count, 50 * GROUPS);
	fixture_close(f);
}

static void flush_of_nothing(void)
{
	struct fixture *f = fixture_open();
	struct lane *lane;

	if (f == NULL)
		return;
	lane = lane_connect(f);
	for (int i = 0; i < 10; i++)
		CU_ASSERT(end_flush(f, &lane->source));
	CU_ASSERT_EQUAL(lane->source.flush_count, 10);
	CU_ASSERT(!lane->source.placed);
	fixture_close(f);
}

/* The target stands still until the transport takes no more; then everything arrives. */
static void back_pressure(void)
{
	enum { PAGES = REGION_BYTES / SLUICE_PAGE_BYTES, TRIES = 50000 };
	struct fixture *f = fixture_open();
	struct lane *lane;
	uint64_t page = 0, refused = 0, taken_all = 0;

	if (f == NULL)
		return;
	lane = lane_connect(f);
	fixture_hold(f, true);
	for (uint32_t i = 0; i < TRIES && refused < 20; i++) {
		struct sluice_op ops[8];
		uint32_t taken;

		for (uint32_t k = 0; k < 8; k++)
			ops[k] = op_write(f, (page + k) * 512 % (REGION_BYTES - 4096) / 8 * 8,
				(page + k) % PAGES * SLUICE_PAGE_BYTES, 4096);
		taken = end_offer(f, &lane->source, ops, 8);
		for (uint32_t k = 0; k < taken; k++)
			memcpy(f->model + GUARD_BYTES + ops[k].remote_offset, ops[k].local, 4096);
		page += taken;
		taken_all += taken;
		refused += taken < 8;
		if (taken < 8)
			fixture_step(f);
	}
	CU_ASSERT(refused > 0);
	CU_ASSERT(taken_all >= 16);
	fixture_hold(f, false);
	CU_ASSERT(end_flush(f, &lane->source));
	CU_ASSERT(memory_as_modelled(f));
	fixture_close(f);
}

/* What is sent while the guest writes is old or new, never a third thing; the last one wins. */
static void guest_writes_meanwhile(void)
{
	enum { PAGES = 256 };
	struct fixture *f = fixture_open();
	struct lane *lane;

	if (f == NULL)
		return;
	lane = lane_connect(f);
	for (uint32_t round = 1; round <= 40; round++) {
		struct sluice_op ops[PAGES], again[PAGES];
		const uint8_t *page = f->region;

		memset(f->local, (int)round, PAGES * SLUICE_PAGE_BYTES);
		for (uint32_t i = 0; i < PAGES; i++)
			ops[i] = again[i] = op_write_modelled(
				f, i * SLUICE_PAGE_BYTES, i * SLUICE_PAGE_BYTES, 4096);
		CU_ASSERT(end_submit(f, &lane->source, ops, PAGES));
		memset(f->local, (int)(round + 100), PAGES * SLUICE_PAGE_BYTES);
		if (!STEP_UNTIL(f, end_has_placed(&lane->source, ops[PAGES - 1].seq)) ||
			!end_show_placed(f, &lane->source))
			break;
		for (uint64_t i = 0; i < PAGES * SLUICE_PAGE_BYTES; i++) {
			if (page[i] != round && page[i] != round + 100) {
				CU_FAIL("a byte that the guest never wrote");
				break;
			}
		}
		CU_ASSERT(end_submit(f, &lane->source, again, PAGES));
		CU_ASSERT(end_flush(f, &lane->source));
		memset(f->model + GUARD_BYTES, (int)(round + 100), PAGES * SLUICE_PAGE_BYTES);
		CU_ASSERT(memory_as_modelled(f));
	}
	fixture_close(f);
}

/* A lane may send a page again without waiting: its own writes keep their order. */
static void later_write_of_a_lane_wins(void)
{
	enum { OPS = 64 };
	struct fixture *f = fixture_open();
	struct lane *lane;

	if (f == NULL)
		return;
	lane = lane_connect(f);
	for (int round = 0; round < 20; round++) {
		struct sluice_op ops[OPS];

		for (uint32_t i = 0; i < OPS; i++)
			ops[i] = op_write_modelled(f, fixture_random(f) % 1000 * SLUICE_PAGE_BYTES,
				fixture_random(f) % 4 * SLUICE_PAGE_BYTES, 4096);
		CU_ASSERT(end_submit(f, &lane->source, ops, OPS));
		CU_ASSERT(end_flush(f, &lane->source));
		CU_ASSERT(memory_as_modelled(f));
	}
	fixture_close(f);
}

/* A chunk changes hands behind a FLUSH: the later owner's content stands. */
static void ownership_changes(void)
{
	enum { LANES = 4, WRITES = 16 };
	struct fixture *f = fixture_open();

	if (f == NULL)
		return;
	for (int i = 0; i < LANES; i++)
		lane_connect(f);
	for (int round = 0; round < 200; round++) {
		struct end *owner = &f->lanes[fixture_random(f) % LANES].source;
		struct sluice_op ops[WRITES];

		for (uint32_t i = 0; i < WRITES; i++)
			ops[i] = op_write_modelled(f, fixture_random(f) % 900 * SLUICE_PAGE_BYTES,
				i * 8 * SLUICE_PAGE_BYTES, 8 * 4096);
		if (!end_submit(f, owner, ops, WRITES) || !end_flush(f, owner))
			break;
		/* The next owner may start the moment FLUSHED is seen. */
	}
	CU_ASSERT(memory_as_modelled(f));
	fixture_close(f);
}

CU_TestInfo cases_order[] = {
	{"ZERO, FLUSH, WRITE", zero_flush_write},
	{"ZERO and WRITE of the same page, and a slow target", zero_write_slow_target},
	{"a message comes behind the writes before it", send_behind_writes},
	{"messages both ways", send_both_ways},
	{"PLACED is cumulative and true", placed_is_cumulative},
	{"FLUSH completes behind everything before it", flush_completes_last},
	{"FLUSHes between the writes of one submit", flushes_between_writes},
	{"FLUSH of nothing", flush_of_nothing},
	{"back-pressure loses nothing", back_pressure},
	{"guest writes during the sending", guest_writes_meanwhile},
	{"a later write of the same lane wins", later_write_of_a_lane_wins},
	{"ownership changes behind FLUSH", ownership_changes},
	CU_TEST_INFO_NULL,
};
