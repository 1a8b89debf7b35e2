/* SPDX-License-Identifier: BSD-3-Clause */
/* cases_connect.c: how a lane comes to be, and who does not get one. */
#include <errno.h>

#include "tests/conformance/harness.h"

static void right_ticket(void)
{
	struct fixture *f = fixture_open();
	struct lane *lane;

	if (f == NULL)
		return;
	lane = lane_connect(f);
	CU_ASSERT(!lane->source.lost && !lane->target.lost);
	CU_ASSERT_EQUAL(f->events, 2);
	fixture_close(f);
}

static void limits_are_sane(void)
{
	struct fixture *f = fixture_open();

	if (f == NULL)
		return;
	CU_ASSERT(f->limits.align_bytes > 0 && f->limits.align_bytes <= SLUICE_PAGE_BYTES);
	CU_ASSERT(sluice_is_aligned(SLUICE_PAGE_BYTES, f->limits.align_bytes));
	CU_ASSERT(f->limits.op_bytes_max >= SLUICE_PAGE_BYTES);
	CU_ASSERT(f->limits.depth_max >= 16);
	CU_ASSERT(f->limits.send_bytes_max >= SLUICE_SEND_BYTES_MAX);
	fixture_close(f);
}

/* A lane that carries writes and messages both ways works. */
static void check_lane_works(struct fixture *f, struct lane *lane)
{
	struct sluice_op ops[] = {
		op_write_modelled(f, 0, SLUICE_PAGE_BYTES, SLUICE_PAGE_BYTES),
		op_send("hello", 5),
	};

	CU_ASSERT(end_submit(f, &lane->source, ops, 2));
	STEP_UNTIL(f, lane->target.message_count == 1);
	CU_ASSERT(memory_as_modelled(f));
}

static void wrong_ticket(void)
{
	struct fixture *f = fixture_open();
	struct lane *wrong, *right;
	uint64_t deadline_ns;

	if (f == NULL)
		return;
	deadline_ns = fixture_now(f) + LANE_DEADLINE_NS;
	right = lane_add(f);
	wrong = lane_add(f);
	end_open(f, &right->target, SLUICE_ROLE_TARGET, 0, 0x11, deadline_ns);
	end_open(f, &wrong->source, SLUICE_ROLE_SOURCE, 0, 0x12, deadline_ns);
	STEP_UNTIL(f, wrong->source.lost);
	CU_ASSERT(!wrong->source.connected);
	CU_ASSERT(!right->target.connected && !right->target.lost);
	/* The right one is still welcome. */
	end_open(f, &right->source, SLUICE_ROLE_SOURCE, 0, 0x11, deadline_ns);
	if (STEP_UNTIL(f, right->source.connected && right->target.connected))
		check_lane_works(f, right);
	fixture_close(f);
}

static void used_ticket(void)
{
	struct fixture *f = fixture_open();
	struct lane *lane, *again;

	if (f == NULL)
		return;
	lane = lane_connect(f);
	again = lane_add(f);
	end_open(f, &again->source, SLUICE_ROLE_SOURCE, 0, 0x42, fixture_now(f) + LANE_DEADLINE_NS);
	STEP_UNTIL(f, again->source.lost);
	CU_ASSERT(!again->source.connected);
	CU_ASSERT(!lane->source.lost && !lane->target.lost);
	check_lane_works(f, lane);
	fixture_close(f);
}

static void nobody_comes(void)
{
	struct fixture *f = fixture_open();
	struct lane *lane;
	uint64_t deadline_ns;

	if (f == NULL)
		return;
	deadline_ns = fixture_now(f) + 100 * SLUICE_NS_PER_MS;
	lane = lane_add(f);
	end_open(f, &lane->target, SLUICE_ROLE_TARGET, 0, 1, deadline_ns);
	STEP_UNTIL(f, lane->target.lost);
	CU_ASSERT(fixture_now(f) >= deadline_ns);
	CU_ASSERT(!fixture_virtual(f) || fixture_now(f) < deadline_ns + 5 * SLUICE_NS_PER_S);
	CU_ASSERT_EQUAL(lane->target.lost_status, -ETIMEDOUT);
	CU_ASSERT(!lane->target.connected);
	/* Too late now. */
	end_open(f, &lane->source, SLUICE_ROLE_SOURCE, 0, 1,
		fixture_now(f) + 100 * SLUICE_NS_PER_MS);
	STEP_UNTIL(f, lane->source.lost);
	CU_ASSERT(!lane->source.connected);
	fixture_close(f);
}

/* The target's lane is fenced while it waits: its ticket is void. */
static void fenced_while_waiting(void)
{
	struct fixture *f = fixture_open();
	struct lane *lane;

	if (f == NULL)
		return;
	lane = lane_add(f);
	end_open(f, &lane->target, SLUICE_ROLE_TARGET, 0, 1, fixture_now(f) + LANE_DEADLINE_NS);
	f->transport->lane_fence(lane->target.conn);
	f->transport->lane_fence(lane->target.conn);
	end_open(f, &lane->source, SLUICE_ROLE_SOURCE, 0, 1,
		fixture_now(f) + 200 * SLUICE_NS_PER_MS);
	STEP_UNTIL(f, lane->source.lost);
	CU_ASSERT(!lane->source.connected && !lane->target.connected);
	fixture_close(f);
}

static void nothing_before_connected(void)
{
	struct fixture *f = fixture_open();
	struct lane *lane;
	struct sluice_op op;
	uint64_t deadline_ns;

	if (f == NULL)
		return;
	deadline_ns = fixture_now(f) + LANE_DEADLINE_NS;
	lane = lane_add(f);
	op = op_write(f, 0, 0, SLUICE_PAGE_BYTES);
	end_open(f, &lane->target, SLUICE_ROLE_TARGET, 0, 1, deadline_ns);
	end_open(f, &lane->source, SLUICE_ROLE_SOURCE, 0, 1, deadline_ns);
	CU_ASSERT_EQUAL(end_offer(f, &lane->source, &op, 1), 0);
	for (int i = 0; i < 1000 && !lane->source.connected; i++) {
		CU_ASSERT_EQUAL(end_offer(f, &lane->source, &op, 1), 0);
		fixture_step(f);
	}
	STEP_UNTIL(f, lane->source.connected && lane->target.connected);
	CU_ASSERT(memory_as_modelled(f));
	check_lane_works(f, lane);
	fixture_close(f);
}

static bool all_connected(const struct fixture *f)
{
	for (uint32_t i = 0; i < f->lane_count; i++) {
		if (!f->lanes[i].source.connected || !f->lanes[i].target.connected)
			return false;
	}
	return true;
}

static bool all_flushed(const struct fixture *f)
{
	for (uint32_t i = 0; i < f->lane_count; i++) {
		if (f->lanes[i].source.flush_count == 0)
			return false;
	}
	return true;
}

static void hundred_lanes(void)
{
	enum { LANES = 100, PAGES = 16 };
	struct fixture *f = fixture_open();
	uint64_t deadline_ns;

	if (f == NULL)
		return;
	deadline_ns = fixture_now(f) + LANE_DEADLINE_NS;
	for (uint32_t i = 0; i < LANES; i++)
		end_open(f, &lane_add(f)->target, SLUICE_ROLE_TARGET, i, 0x77, deadline_ns);
	for (uint32_t i = LANES; i-- > 0;)
		end_open(f, &f->lanes[i].source, SLUICE_ROLE_SOURCE, i, 0x77, deadline_ns);
	STEP_UNTIL(f, all_connected(f));
	for (uint32_t i = 0; i < LANES; i++) {
		struct sluice_op ops[PAGES + 1];

		for (uint32_t page = 0; page < PAGES; page++) {
			uint64_t offset = (page * LANES + i) * SLUICE_PAGE_BYTES;

			ops[page] = op_write_modelled(f, offset, offset, SLUICE_PAGE_BYTES);
		}
		ops[PAGES] = op_flush();
		end_submit(f, &f->lanes[i].source, ops, PAGES + 1);
	}
	STEP_UNTIL(f, all_flushed(f));
	CU_ASSERT(memory_as_modelled(f));
	fixture_close(f);
}

CU_TestInfo cases_connect[] = {
	{"limits are sane", limits_are_sane},
	{"the right ticket connects", right_ticket},
	{"a wrong ticket is refused, the right one still works", wrong_ticket},
	{"a used ticket is refused", used_ticket},
	{"a target that nobody comes to is lost at its deadline", nobody_comes},
	{"a fence makes a waiting lane's ticket void", fenced_while_waiting},
	{"nothing is taken and nothing reported before CONNECTED", nothing_before_connected},
	{"a hundred lanes on one rail", hundred_lanes},
	CU_TEST_INFO_NULL,
};
