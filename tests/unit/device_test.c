/* SPDX-License-Identifier: BSD-3-Clause */
/* device_test.c: credits, order and repetition of device segments, in outbox and inbox. */
#include <errno.h>

#include "engine/device/inbox.h"
#include "engine/device/outbox.h"
#include "tests/unit/unit.h"

#define SLOTS 4u

static void test_no_credit_no_send(void)
{
	struct sluice_outbox *outbox = NULL;
	uint32_t slot = 0;

	CU_ASSERT_EQUAL_FATAL(sluice_outbox_create(SLOTS, 4096, &outbox), 0);
	for (uint32_t i = 0; i < SLOTS; i++) {
		struct sluice_announce a = {.seq = i, .len_bytes = 1};

		CU_ASSERT_TRUE(sluice_outbox_claim(outbox, &a.slot));
		sluice_outbox_ready(outbox, &a);
	}
	CU_ASSERT_FALSE(sluice_outbox_claim(outbox, &slot));
	CU_ASSERT_EQUAL(outbox->unaccepted, SLOTS);
	/* A credit for what was not sent, or does not exist, is the peer's mistake. */
	CU_ASSERT_EQUAL(sluice_outbox_accept(outbox, 0, NULL), -EPROTO);
	CU_ASSERT_EQUAL(sluice_outbox_accept(outbox, SLOTS, NULL), -EPROTO);
	CU_ASSERT_TRUE(sluice_outbox_pop(outbox, 1, &slot));
	CU_ASSERT_EQUAL(sluice_outbox_accept(outbox, slot, NULL), 0);
	CU_ASSERT_EQUAL(sluice_outbox_accept(outbox, slot, NULL), -EPROTO);
	CU_ASSERT_TRUE(sluice_outbox_claim(outbox, &slot));
	sluice_outbox_destroy(outbox);
}

static void test_reclaim_sends_again(void)
{
	struct sluice_outbox *outbox = NULL;
	struct sluice_announce a = {.device = 7, .seq = 3, .len_bytes = 9};
	uint32_t slot = 99;

	CU_ASSERT_EQUAL_FATAL(sluice_outbox_create(SLOTS, 4096, &outbox), 0);
	CU_ASSERT_TRUE(sluice_outbox_claim(outbox, &a.slot));
	sluice_outbox_ready(outbox, &a);
	CU_ASSERT_TRUE(sluice_outbox_pop(outbox, 2, &slot));
	CU_ASSERT_FALSE(sluice_outbox_pop(outbox, 1, &slot));
	CU_ASSERT_EQUAL(sluice_outbox_reclaim(outbox, 1), 0);
	CU_ASSERT_EQUAL(sluice_outbox_reclaim(outbox, 2), 1);
	CU_ASSERT_TRUE(sluice_outbox_pop(outbox, 1, &slot));
	CU_ASSERT_EQUAL(slot, a.slot);
	CU_ASSERT_EQUAL(outbox->segments[slot].announce.seq, 3);
	sluice_outbox_destroy(outbox);
}

/* A segment that the target has is not sent again: its credit is on the way. */
static void test_kept_waits_for_its_credit(void)
{
	struct sluice_outbox *outbox = NULL;
	struct sluice_announce a = {.len_bytes = 9};
	uint32_t slot = 99;

	CU_ASSERT_EQUAL_FATAL(sluice_outbox_create(SLOTS, 4096, &outbox), 0);
	CU_ASSERT_TRUE(sluice_outbox_claim(outbox, &a.slot));
	sluice_outbox_ready(outbox, &a);
	CU_ASSERT_EQUAL(sluice_outbox_keep(outbox, a.slot, 2, NULL), -EPROTO);
	CU_ASSERT_TRUE(sluice_outbox_pop(outbox, 2, &slot));
	CU_ASSERT_EQUAL(sluice_outbox_keep(outbox, a.slot, 1, NULL), -EPROTO);
	CU_ASSERT_EQUAL(sluice_outbox_keep(outbox, SLOTS, 2, NULL), -EPROTO);
	CU_ASSERT_EQUAL(sluice_outbox_keep(outbox, a.slot, 2, NULL), 0);
	CU_ASSERT_EQUAL(sluice_outbox_keep(outbox, a.slot, 2, NULL), -EPROTO);
	CU_ASSERT_EQUAL(sluice_outbox_reclaim(outbox, 2), 0);
	CU_ASSERT_FALSE(sluice_outbox_pop(outbox, 1, &slot));
	CU_ASSERT_EQUAL(outbox->unaccepted, 1);
	CU_ASSERT_EQUAL(sluice_outbox_accept(outbox, a.slot, NULL), 0);
	CU_ASSERT_EQUAL(outbox->unaccepted, 0);
	sluice_outbox_destroy(outbox);
}

static void test_inbox_loads_in_order(void)
{
	struct sluice_announce a = {
		.device = 1, .seq = 1, .slot = 0, .len_bytes = 10, .last = true};
	struct sluice_announce b = {.device = 1, .seq = 0, .slot = 3, .len_bytes = 10};
	struct sluice_announce next;
	struct sluice_inbox *inbox = NULL;

	CU_ASSERT_EQUAL_FATAL(sluice_inbox_create(SLOTS, 4096, &inbox), 0);
	CU_ASSERT_EQUAL(sluice_inbox_announced(inbox, &a, NULL), 1);
	CU_ASSERT_FALSE(sluice_inbox_next(inbox, 1, &next));
	CU_ASSERT_EQUAL(sluice_inbox_announced(inbox, &b, NULL), 1);
	CU_ASSERT_EQUAL(sluice_inbox_announced(inbox, &b, NULL), 0); /* repeated after a fence */
	CU_ASSERT_TRUE(sluice_inbox_next(inbox, 1, &next));
	CU_ASSERT_EQUAL(next.slot, 3);
	CU_ASSERT_EQUAL(sluice_inbox_announced(inbox, &b, NULL), 0); /* while it is loaded */
	sluice_inbox_loaded(inbox, &next);
	CU_ASSERT_EQUAL(sluice_inbox_announced(inbox, &b, NULL), 0); /* and after */
	CU_ASSERT_TRUE(sluice_inbox_next(inbox, 1, &next));
	CU_ASSERT_TRUE(next.last);
	sluice_inbox_loaded(inbox, &next);
	CU_ASSERT_TRUE(inbox->device[1].ended);
	CU_ASSERT_EQUAL(inbox->duplicates, 3);
	sluice_inbox_destroy(inbox);
}

static void test_inbox_refuses(void)
{
	static const struct sluice_announce bad[] = {
		{.device = SLUICE_DEVICES_MAX},
		{.slot = SLOTS},
		{.slot = UINT32_MAX},
		{.len_bytes = 4097},
		{.len_bytes = UINT32_MAX},
		{.slot = 2, .seq = 5}, /* taken, and not the same segment */
		{.device = 1, .slot = 2},
	};
	struct sluice_announce taken = {.slot = 2, .seq = 4};
	struct sluice_inbox *inbox = NULL;

	CU_ASSERT_EQUAL_FATAL(sluice_inbox_create(SLOTS, 4096, &inbox), 0);
	CU_ASSERT_EQUAL(sluice_inbox_announced(inbox, &taken, NULL), 1);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct sluice_error err = {0};

		CU_ASSERT_EQUAL(sluice_inbox_announced(inbox, &bad[i], &err), -EPROTO);
		CU_ASSERT_EQUAL(err.scope, SLUICE_SCOPE_SESSION);
	}
	sluice_inbox_destroy(inbox);
}

static void test_announcement_on_the_wire(void)
{
	struct sluice_announce in = {
		.device = 65535, .last = true, .seq = 7, .slot = 255, .len_bytes = 1u << 20};
	struct sluice_announce out = {0};
	uint8_t bytes[SLUICE_ANNOUNCE_BYTES];

	sluice_announce_write(&in, bytes);
	CU_ASSERT_TRUE(sluice_announce_read(bytes, sizeof(bytes), &out));
	CU_ASSERT_TRUE(in.device == out.device && in.last == out.last && in.seq == out.seq &&
		       in.slot == out.slot && in.len_bytes == out.len_bytes);
	CU_ASSERT_FALSE(sluice_announce_read(bytes, sizeof(bytes) - 1, &out));
	bytes[7] = 1; /* a flag that does not exist */
	CU_ASSERT_FALSE(sluice_announce_read(bytes, sizeof(bytes), &out));
	bytes[7] = 0;
	bytes[0] ^= 1;
	CU_ASSERT_FALSE(sluice_announce_read(bytes, sizeof(bytes), &out));
}

int main(void)
{
	static const struct unit_test tests[] = {
		{"no credit, no send", test_no_credit_no_send},
		{"a lost lane's segments are sent again", test_reclaim_sends_again},
		{"kept segments wait for their credit", test_kept_waits_for_its_credit},
		{"segments are loaded in order, once", test_inbox_loads_in_order},
		{"impossible announcements are refused", test_inbox_refuses},
		{"the announcement on the wire", test_announcement_on_the_wire},
		{0},
	};

	return unit_run("device", tests);
}
