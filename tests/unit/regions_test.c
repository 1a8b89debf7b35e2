/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * regions_test.c: regions that are added and removed during a migration: who waits for whom and
 * for how long, what a lost peer link may swallow, and what is refused when.
 */
#include <errno.h>

#include "engine/lane/lane_set.h"
#include "engine/lane/ledger.h"
#include "tests/unit/session_pair.h"
#include "tests/unit/unit.h"

#define MORE_BYTES (1024u * 1024 + 12288)

static const struct sluice_transport *const sim = &sluice_transport_sim;

static void check_memory(const struct pair *pair, uint32_t here, uint32_t there)
{
	const struct pair_side *source = &pair->side[PAIR_SOURCE],
			       *target = &pair->side[PAIR_TARGET];

	CU_ASSERT_EQUAL(memcmp(source->memory, target->memory, PAIR_REGION_BYTES), 0);
	CU_ASSERT_EQUAL(memcmp(source->plugged[here].memory, target->plugged[there].memory,
				source->region[here].len_bytes),
		0);
}

static void check_completes(struct pair *pair)
{
	pair_finish(pair);
	CU_ASSERT_STRING_EQUAL(sluice_source_status(pair->source), "completed");
	CU_ASSERT_STRING_EQUAL(sluice_target_status(pair->target), "completed");
}

static int plug(struct pair *pair, enum pair_host host, const char *id)
{
	struct sluice_error err = {0};
	int index = pair_plug(pair, host, id, MORE_BYTES, true, &err);

	CU_ASSERT_TRUE_FATAL(index > 0);
	return index;
}

/* Carry messages and time until nothing is under way. */
static void settle(struct pair *pair)
{
	for (int i = 0; i < 20; i++) {
		pair_pass_ms(pair, 1);
		pair_deliver(pair, PAIR_SOURCE);
		pair_deliver(pair, PAIR_TARGET);
	}
}

static void cut_and_resume(struct pair *pair)
{
	unsigned int reconnects = pair->side[PAIR_SOURCE].reconnects;

	pair_forget(pair, PAIR_SOURCE);
	pair_forget(pair, PAIR_TARGET);
	sluice_source_peer_lost(pair->source, -ECONNRESET, "cut");
	sluice_target_peer_lost(pair->target, "cut");
	for (int i = 0; i < 200 && pair->side[PAIR_SOURCE].reconnects == reconnects; i++)
		pair_pass_ms(pair, 50);
	sluice_source_connected(pair->source);
	sluice_target_peer_back(pair->target);
	pair_deliver(pair, PAIR_SOURCE);
	pair_deliver(pair, PAIR_TARGET);
	CU_ASSERT_FALSE_FATAL(sluice_source_is_over(pair->source));
}

/* ---- reached ---- */

/*
 * Somebody with a lane to the target and the key of its region: whether a WRITE lands in its first
 * page. If not the lane is lost. The memory is as it was then.
 */
static bool is_reached(struct pair *pair, uint32_t region)
{
	const struct pair_side *from = &pair->side[PAIR_SOURCE], *to = &pair->side[PAIR_TARGET];
	struct sluice_lane_opts opts = {.role = SLUICE_ROLE_TARGET,
		.lane = 100,
		.epoch = 1,
		.peer_address = to->addresses[0],
		.deadline_ns = sluice_sim_world_now(pair->world) + SLUICE_NS_PER_S};
	struct sluice_op op = {.kind = SLUICE_OP_WRITE,
		.len_bytes = SLUICE_PAGE_BYTES,
		.seq = 1,
		.local = from->memory,
		.mem = from->region[0].mems[0]};
	struct sluice_mem *mem = region == 0 ? to->region[0].mems[0] : to->plugged[region].mems[0];
	uint8_t *page = region == 0 ? to->memory : to->plugged[region].memory;
	uint8_t before[SLUICE_PAGE_BYTES], key[SLUICE_KEY_BYTES_MAX];
	struct sluice_event events[4];
	struct sluice_remote *remote;
	struct sluice_conn *source, *target;
	bool lost = false, landed;
	int bytes = sim->mem_export(mem, key, sizeof(key));

	memcpy(before, page, sizeof(before));
	memset(page, 0x11, sizeof(before));
	CU_ASSERT_EQUAL_FATAL(
		sim->mem_import(from->rails[0].rail, key, (size_t)bytes, &remote, NULL), 0);
	CU_ASSERT_EQUAL_FATAL(sim->lane_open(to->rails[0].rail, &opts, &target, NULL), 0);
	opts.role = SLUICE_ROLE_SOURCE;
	CU_ASSERT_EQUAL_FATAL(sim->lane_open(from->rails[0].rail, &opts, &source, NULL), 0);
	op.remote = remote;
	for (int i = 0; i < 20 && !lost; i++) {
		uint32_t count;

		pair_pass_ms(pair, 1);
		count = sim->poll(source, events, 4, sluice_sim_world_now(pair->world));
		for (uint32_t k = 0; k < count; k++)
			lost |= events[k].kind == SLUICE_EVENT_LOST;
		sim->poll(target, events, 4, sluice_sim_world_now(pair->world));
		if (op.seq == 1 &&
			sim->submit(source, &op, 1, sluice_sim_world_now(pair->world)) == 1)
			op.seq++;
	}
	landed = memcmp(page, from->memory, sizeof(before)) == 0;
	CU_ASSERT_EQUAL(op.seq, 2);
	CU_ASSERT_EQUAL(lost, !landed);
	CU_ASSERT_TRUE(landed || (page[0] == 0x11 && memcmp(page, page + 1, 4095) == 0));
	sim->lane_close(source);
	sim->lane_close(target);
	sim->mem_forget(remote);
	memcpy(page, before, sizeof(before));
	return landed;
}

/* A peer may write into the regions of its session, and only while they are that. */
static void test_only_the_session_s_regions_are_reached(void)
{
	struct pair pair;

	pair_start(&pair, PAIR_ACTIVE);
	CU_ASSERT_TRUE(is_reached(&pair, 0));
	plug(&pair, PAIR_TARGET, "spare");
	plug(&pair, PAIR_TARGET, "dimm");
	CU_ASSERT_FALSE(is_reached(&pair, 1));
	CU_ASSERT_FALSE(is_reached(&pair, 2)); /* the source has not spoken of it */
	plug(&pair, PAIR_SOURCE, "dimm");
	settle(&pair);
	CU_ASSERT_FALSE(is_reached(&pair, 1));
	CU_ASSERT_TRUE(is_reached(&pair, 2));
	CU_ASSERT_EQUAL_FATAL(sluice_source_region_remove(pair.source, 1, NULL), 0);
	settle(&pair);
	CU_ASSERT_STRING_EQUAL(pair.side[PAIR_TARGET].released, "dimm");
	CU_ASSERT_FALSE(is_reached(&pair, 2));
	CU_ASSERT_TRUE(is_reached(&pair, 0));
	check_completes(&pair);
	CU_ASSERT_FALSE(is_reached(&pair, 0));
	pair_stop(&pair);
}

static void test_nothing_is_reached_when_it_is_over(void)
{
	struct pair pair;

	pair_start(&pair, PAIR_PREPARED);
	CU_ASSERT_FALSE(is_reached(&pair, 0));
	pair_stop(&pair);
	pair_start(&pair, PAIR_ACTIVE);
	CU_ASSERT_EQUAL(sluice_target_cancel(pair.target, NULL), 0);
	CU_ASSERT_FALSE(is_reached(&pair, 0));
	pair_stop(&pair);
}

/* ---- added ---- */

static void test_the_target_adds_it_later(void)
{
	struct pair pair;

	for (int step = PAIR_WELCOMED; step <= PAIR_ACTIVE; step++) {
		pair_start(&pair, (enum pair_step)step);
		plug(&pair, PAIR_SOURCE, "dimm");
		CU_ASSERT_STRING_EQUAL(
			sluice_source_region_standing(pair.source, 1), "waits-for-target");
		settle(&pair);
		CU_ASSERT_STRING_EQUAL(pair.side[PAIR_TARGET].wanted, "dimm");
		plug(&pair, PAIR_TARGET, "dimm");
		CU_ASSERT_TRUE(pair_said(&pair, PAIR_TARGET, "region-added"));
		check_completes(&pair);
		CU_ASSERT_STRING_EQUAL(sluice_source_region_standing(pair.source, 1), "moving");
		check_memory(&pair, 1, 1);
		pair_stop(&pair);
	}
}

static void test_the_target_adds_it_first(void)
{
	struct pair pair;

	pair_start(&pair, PAIR_ACTIVE);
	plug(&pair, PAIR_TARGET, "spare");
	plug(&pair, PAIR_TARGET, "dimm");
	plug(&pair, PAIR_SOURCE, "dimm");
	check_completes(&pair);
	CU_ASSERT_STRING_EQUAL(pair.side[PAIR_TARGET].wanted, "");
	CU_ASSERT_TRUE(sluice_target_region_is_bound(pair.target, 2));
	CU_ASSERT_FALSE(sluice_target_region_is_bound(pair.target, 1));
	check_memory(&pair, 1, 2);
	pair_stop(&pair);
}

/* Before the hello, which does not name it: it is said behind the welcome. */
static void test_added_before_the_link_is_up(void)
{
	struct pair pair;

	pair_start(&pair, PAIR_CONNECTING);
	plug(&pair, PAIR_SOURCE, "dimm");
	sluice_source_connected(pair.source);
	pair_pass_ms(&pair, 1);
	pair_deliver(&pair, PAIR_SOURCE);
	pair_deliver(&pair, PAIR_TARGET);
	plug(&pair, PAIR_TARGET, "dimm");
	check_completes(&pair);
	check_memory(&pair, 1, 1);
	pair_stop(&pair);
}

/* What is written until the first sync that covers it is in the look at its holes, later writes in
   the bitmap. A sync that was asked before the feed was there does not count. */
static void test_a_sync_of_before_does_not_count(void)
{
	struct pair pair;
	unsigned int id;

	pair_start(&pair, PAIR_ACTIVE);
	while (pair.side[PAIR_SOURCE].pending_sync == 0)
		pair_pass_ms(&pair, 1);
	plug(&pair, PAIR_TARGET, "dimm");
	plug(&pair, PAIR_SOURCE, "dimm");
	settle(&pair);
	id = pair.side[PAIR_SOURCE].pending_sync;
	pair.side[PAIR_SOURCE].pending_sync = 0;
	CU_ASSERT_EQUAL(sluice_source_dirty_sync_done(pair.source, id, 0, NULL), 0);
	CU_ASSERT_STRING_EQUAL(sluice_source_region_standing(pair.source, 1), "waits-for-sync");
	pair_pass_ms(&pair, 3);
	CU_ASSERT_EQUAL_FATAL(pair.side[PAIR_SOURCE].pending_sync, id + 1);
	pair.side[PAIR_SOURCE].pending_sync = 0;
	CU_ASSERT_EQUAL(sluice_source_dirty_sync_done(pair.source, id + 1, 0, NULL), 0);
	pair_pass_ms(&pair, 1);
	CU_ASSERT_STRING_EQUAL(sluice_source_region_standing(pair.source, 1), "moving");
	check_completes(&pair);
	check_memory(&pair, 1, 1);
	pair_stop(&pair);
}

/* Whatever is lost with the link, and however often. */
static void test_add_with_lost_links(void)
{
	struct pair pair;

	for (int lost = 0; lost < 4; lost++) {
		pair_start(&pair, PAIR_ACTIVE);
		plug(&pair, PAIR_SOURCE, "dimm");
		pair_pass_ms(&pair, 1);
		CU_ASSERT_TRUE(pair_said(&pair, PAIR_SOURCE, "region-add"));
		if (lost >= 1)
			pair_deliver(&pair, PAIR_SOURCE);
		if (lost == 2)
			plug(&pair, PAIR_TARGET, "dimm"); /* the answer is lost */
		cut_and_resume(&pair);
		if (lost == 3) {
			pair_pass_ms(&pair, 1);
			cut_and_resume(&pair);
		}
		if (lost != 2)
			plug(&pair, PAIR_TARGET, "dimm");
		check_completes(&pair);
		check_memory(&pair, 1, 1);
		pair_stop(&pair);
	}
}

static void check_fails_with(struct pair *pair, const char *first, const char *second)
{
	json_t *reply;
	const char *text;

	CU_ASSERT_STRING_EQUAL_FATAL(sluice_source_status(pair->source), "failed");
	reply = sluice_source_query(pair->source);
	text = json_string_value(json_object_get(reply, "error-desc"));
	CU_ASSERT_PTR_NOT_NULL_FATAL(strstr(text, first));
	CU_ASSERT_PTR_NOT_NULL(strstr(text, second));
	CU_ASSERT_PTR_NOT_NULL(strstr(text, "\"dimm\""));
	json_decref(reply);
}

static void test_the_target_never_adds_it(void)
{
	struct pair pair;
	json_t *reply;

	pair_start(&pair, PAIR_ACTIVE);
	plug(&pair, PAIR_SOURCE, "dimm");
	for (unsigned int i = 0; i < PAIR_REGION_TIMEOUT_MS / 100 - 1; i++) {
		pair_pass_ms(&pair, 100);
		pair_deliver(&pair, PAIR_SOURCE);
		pair_deliver(&pair, PAIR_TARGET);
		if (pair.side[PAIR_SOURCE].pending_sync != 0) {
			unsigned int id = pair.side[PAIR_SOURCE].pending_sync;

			pair.side[PAIR_SOURCE].pending_sync = 0;
			sluice_source_dirty_sync_done(pair.source, id, 0, NULL);
		}
	}
	reply = sluice_source_query(pair.source);
	CU_ASSERT_PTR_NOT_NULL_FATAL(json_object_get(reply, "waits-for"));
	CU_ASSERT_STRING_EQUAL(json_string_value(json_object_get(reply, "waits-for")),
		"region \"dimm\" is not at the target: its VMM adds it with memory-add");
	json_decref(reply);
	/* All else was sent long ago, and yet the guest was not stopped. */
	CU_ASSERT_STRING_EQUAL(sluice_source_status(pair.source), "active");
	CU_ASSERT_FALSE(pair.side[PAIR_SOURCE].ready_asked);
	pair_pass_ms(&pair, 200);
	check_fails_with(&pair, "memory-add it there", "region-timeout");
	pair_stop(&pair);
}

static void test_it_never_has_a_feed(void)
{
	struct sluice_error err = {0};
	struct pair pair;

	pair_start(&pair, PAIR_ACTIVE);
	plug(&pair, PAIR_TARGET, "dimm");
	CU_ASSERT_EQUAL(pair_plug(&pair, PAIR_SOURCE, "dimm", MORE_BYTES, false, &err), 1);
	CU_ASSERT_STRING_EQUAL(sluice_source_region_standing(pair.source, 1), "waits-for-feed");
	for (unsigned int i = 0; i < PAIR_REGION_TIMEOUT_MS / 50; i++) {
		pair_pass_ms(&pair, 52);
		pair_deliver(&pair, PAIR_SOURCE);
		pair_deliver(&pair, PAIR_TARGET);
	}
	check_fails_with(&pair, "feed-add", "region-timeout");
	pair_stop(&pair);
}

/* The clock stands while the peer link is lost. */
static void test_a_lost_link_is_nobodys_time(void)
{
	struct pair pair;

	pair_start(&pair, PAIR_ACTIVE);
	plug(&pair, PAIR_SOURCE, "dimm");
	settle(&pair);
	for (int i = 0; i < 3; i++) {
		pair_pass_ms(&pair, PAIR_REGION_TIMEOUT_MS - 1500);
		cut_and_resume(&pair);
	}
	plug(&pair, PAIR_TARGET, "dimm");
	check_completes(&pair);
	pair_stop(&pair);
}

static void test_another_size(void)
{
	struct sluice_error err = {0};
	struct pair pair;

	/* Here already: the source is told. */
	pair_start(&pair, PAIR_ACTIVE);
	CU_ASSERT_EQUAL(pair_plug(&pair, PAIR_TARGET, "dimm", 4096, true, &err), 1);
	plug(&pair, PAIR_SOURCE, "dimm");
	settle(&pair);
	check_fails_with(&pair, "4096 at", "the target cannot take it");
	pair_stop(&pair);
	/* Not yet: the target's VMM is told. */
	pair_start(&pair, PAIR_ACTIVE);
	plug(&pair, PAIR_SOURCE, "dimm");
	settle(&pair);
	CU_ASSERT_EQUAL(pair_plug(&pair, PAIR_TARGET, "dimm", 4096, true, &err), -EINVAL);
	CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "4096 at"));
	plug(&pair, PAIR_TARGET, "dimm");
	check_completes(&pair);
	pair_stop(&pair);
}

/* ---- removed ---- */

static void plug_both(struct pair *pair)
{
	plug(pair, PAIR_TARGET, "dimm");
	plug(pair, PAIR_SOURCE, "dimm");
	for (int i = 0; i < 400; i++) {
		unsigned int id = pair->side[PAIR_SOURCE].pending_sync;

		if (strcmp(sluice_source_region_standing(pair->source, 1), "moving") == 0)
			return;
		pair->side[PAIR_SOURCE].pending_sync = 0;
		if (id != 0)
			sluice_source_dirty_sync_done(pair->source, id, 0, NULL);
		pair_pass_ms(pair, 1);
		pair_deliver(pair, PAIR_SOURCE);
		pair_deliver(pair, PAIR_TARGET);
	}
	CU_FAIL_FATAL("it never joins the migration");
}

static void unplug(struct pair *pair, uint32_t region)
{
	struct sluice_error err = {0};

	CU_ASSERT_EQUAL_FATAL(sluice_source_region_remove(pair->source, region, &err), 0);
	CU_ASSERT_EQUAL(sluice_source_region_remove(pair->source, region, &err), -EALREADY);
}

static bool is_gone(const struct pair *pair, uint32_t region)
{
	return (pair->side[PAIR_SOURCE].gone >> region & 1) != 0;
}

static struct sluice_ledger *ledger_of(const struct pair *pair)
{
	return sluice_source_lanes(pair->source)->work->ledger;
}

/* The order: flushed by the lanes, told, confirmed, and only then let go of. */
static void test_removed_in_order(void)
{
	struct sluice_error err = {0};
	struct pair pair;

	pair_start(&pair, PAIR_ACTIVE);
	plug_both(&pair);
	CU_ASSERT_EQUAL(sluice_target_may_remove(pair.target, 1, &err), -EBUSY);
	sluice_ledger_mark_pages(ledger_of(&pair), 1, 0, UINT64_MAX);
	pair_pass_ms(&pair, 0);
	unplug(&pair, 1);
	sluice_source_tick(pair.source);
	CU_ASSERT_FALSE(is_gone(&pair, 1));
	pair_pass_ms(&pair, 20);
	CU_ASSERT_TRUE(sluice_ledger_is_drained(ledger_of(&pair)));
	CU_ASSERT_EQUAL(ledger_of(&pair)->regions[1].chunks, 0);
	CU_ASSERT_TRUE(pair_said(&pair, PAIR_SOURCE, "region-remove"));
	CU_ASSERT_FALSE(is_gone(&pair, 1));
	pair_deliver(&pair, PAIR_SOURCE);
	CU_ASSERT_STRING_EQUAL(pair.side[PAIR_TARGET].released, "dimm");
	CU_ASSERT_EQUAL(sluice_target_may_remove(pair.target, 1, &err), 0);
	CU_ASSERT_FALSE(is_gone(&pair, 1));
	pair_deliver(&pair, PAIR_TARGET);
	CU_ASSERT_TRUE(is_gone(&pair, 1));
	check_completes(&pair);
	pair_stop(&pair);
}

/* A chunk that a lost lane owns may still be written to, until the target has fenced that lane. */
static void test_a_lost_lane_owns_it(void)
{
	struct pair pair;
	uint32_t chunk;

	pair_start(&pair, PAIR_ACTIVE);
	plug_both(&pair);
	sluice_ledger_mark_pages(ledger_of(&pair), 1, 0, UINT64_MAX);
	CU_ASSERT_TRUE_FATAL(
		sluice_ledger_pop(ledger_of(&pair), 77, SLUICE_HOME_ANY, &chunk)); /* lost */
	unplug(&pair, 1);
	settle(&pair);
	CU_ASSERT_STRING_EQUAL(sluice_source_region_standing(pair.source, 1), "leaving");
	CU_ASSERT_TRUE(sluice_source_region_leaves(pair.source, 1));
	CU_ASSERT_FALSE(sluice_source_region_leaves(pair.source, 0));
	CU_ASSERT_STRING_EQUAL(pair.side[PAIR_TARGET].released, "");
	sluice_ledger_reclaim(ledger_of(&pair), 77, false); /* fenced */
	settle(&pair);
	CU_ASSERT_TRUE(is_gone(&pair, 1));
	check_completes(&pair);
	pair_stop(&pair);
}

static void test_remove_with_lost_links(void)
{
	struct pair pair;

	for (int heard = 0; heard < 2; heard++) {
		pair_start(&pair, PAIR_ACTIVE);
		plug_both(&pair);
		unplug(&pair, 1);
		pair_pass_ms(&pair, 20);
		CU_ASSERT_TRUE(pair_said(&pair, PAIR_SOURCE, "region-remove"));
		if (heard)
			pair_deliver(&pair, PAIR_SOURCE);
		cut_and_resume(&pair);
		CU_ASSERT_FALSE(is_gone(&pair, 1));
		settle(&pair);
		CU_ASSERT_TRUE(is_gone(&pair, 1));
		check_completes(&pair);
		pair_stop(&pair);
	}
}

/* While the target is still waited for; it may have heard of it, or never. */
static void test_removed_while_it_waits(void)
{
	struct pair pair;

	for (int heard = 0; heard < 3; heard++) {
		pair_start(&pair, PAIR_ACTIVE);
		plug(&pair, PAIR_SOURCE, "dimm");
		if (heard >= 1)
			pair_pass_ms(&pair, 1);
		if (heard == 1)
			cut_and_resume(&pair); /* said, and not heard */
		if (heard == 2) {
			pair_deliver(&pair, PAIR_SOURCE);
			plug(&pair, PAIR_TARGET, "dimm"); /* its answer crosses ours */
		}
		unplug(&pair, 1);
		settle(&pair);
		CU_ASSERT_TRUE(is_gone(&pair, 1));
		plug(&pair, PAIR_SOURCE, "dimm"); /* once more: another number */
		if (heard != 2)
			plug(&pair, PAIR_TARGET, "dimm");
		check_completes(&pair);
		check_memory(&pair, 2, 1);
		pair_stop(&pair);
	}
}

/* The session's end is the region's. */
static void test_the_end_lets_go(void)
{
	struct pair pair;

	pair_start(&pair, PAIR_ACTIVE);
	plug_both(&pair);
	plug(&pair, PAIR_SOURCE, "stays");
	unplug(&pair, 1);
	CU_ASSERT_EQUAL(sluice_source_cancel(pair.source, NULL), 0);
	CU_ASSERT_TRUE(is_gone(&pair, 1));
	CU_ASSERT_FALSE(is_gone(&pair, 2));
	pair_stop(&pair);
}

/* ---- when it is too late ---- */

static void test_refused_when_the_guest_stops(void)
{
	struct sluice_error err = {0};
	struct pair pair;

	for (int step = PAIR_READY; step <= PAIR_COMMIT; step++) {
		pair_start(&pair, (enum pair_step)step);
		CU_ASSERT_EQUAL(pair_plug(&pair, PAIR_SOURCE, "dimm", 4096, true, &err), -EBUSY);
		CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "migrate_cancel"));
		CU_ASSERT_EQUAL(sluice_source_region_remove(pair.source, 0, &err), -EBUSY);
		CU_ASSERT_EQUAL(sluice_target_may_remove(pair.target, 0, &err), -EBUSY);
		if (step >= PAIR_LOAD)
			CU_ASSERT_EQUAL(
				pair_plug(&pair, PAIR_TARGET, "dimm", 4096, true, &err), -EBUSY);
		check_completes(&pair);
		pair_stop(&pair);
	}
}

/* ---- a peer that breaks the rules ---- */

static void check_burnt(struct pair *pair)
{
	CU_ASSERT_STRING_EQUAL(sluice_target_status(pair->target), "failed");
	pair_stop(pair);
}

static json_t *region_add(int region, const char *id)
{
	return json_pack("{s:s, s:i, s:s, s:i, s:i, s:i}", "type", "region-add", "region", region,
		"id", id, "gpa", 0, "size", 4096, "page-size", 4096);
}

static void test_a_source_that_breaks_the_rules(void)
{
	struct pair pair;

	pair_start(&pair, PAIR_ACTIVE);
	pair_tell(&pair, PAIR_TARGET, region_add(0, "other")); /* a number that is taken */
	check_burnt(&pair);
	pair_start(&pair, PAIR_ACTIVE);
	pair_tell(&pair, PAIR_TARGET, region_add(1, "ram")); /* a region that it has */
	check_burnt(&pair);
	pair_start(&pair, PAIR_ACTIVE);
	pair_tell(&pair, PAIR_TARGET, region_add(63, "dimm"));
	pair_tell(&pair, PAIR_TARGET, region_add(63, "other"));
	check_burnt(&pair);
	pair_start(&pair, PAIR_ACTIVE);
	pair_tell(&pair, PAIR_TARGET, region_add(5, "dimm"));
	pair_tell(&pair, PAIR_TARGET, json_pack("{s:s, s:i}", "type", "finish", "devices", 0));
	check_burnt(&pair);
}

static void test_a_target_that_breaks_the_rules(void)
{
	static const char *const answers[] = {"{\"type\": \"region-added\", \"region\": 0}",
		"{\"type\": \"region-added\", \"region\": 63}",
		"{\"type\": \"region-removed\", \"region\": 0}",
		"{\"type\": \"region-removed\", \"region\": 1}",
		"{\"type\": \"region-added\", \"region\": 1}", /* without a key */
		"{\"type\":\"region-added\",\"region\":1,\"keys\":[{\"rail\":0,\"key\":\"xy\"}]}"};
	struct pair pair;

	for (size_t i = 0; i < SLUICE_ARRAY_LEN(answers); i++) {
		pair_start(&pair, PAIR_ACTIVE);
		plug(&pair, PAIR_SOURCE, "dimm");
		settle(&pair);
		pair_tell(&pair, PAIR_SOURCE, json_loads(answers[i], 0, NULL));
		CU_ASSERT_STRING_EQUAL(sluice_source_status(pair.source), "failed");
		pair_stop(&pair);
	}
}

int main(void)
{
	static const struct unit_test tests[] = {
		{"only the session's regions are reached",
			test_only_the_session_s_regions_are_reached},
		{"nothing is reached when it is over", test_nothing_is_reached_when_it_is_over},
		{"the target adds it later", test_the_target_adds_it_later},
		{"the target adds it first", test_the_target_adds_it_first},
		{"added before the link is up", test_added_before_the_link_is_up},
		{"a sync of before does not count", test_a_sync_of_before_does_not_count},
		{"added, with lost links", test_add_with_lost_links},
		{"the target never adds it", test_the_target_never_adds_it},
		{"it never has a feed", test_it_never_has_a_feed},
		{"a lost link is nobody's time", test_a_lost_link_is_nobodys_time},
		{"another size at the target", test_another_size},
		{"removed in order", test_removed_in_order},
		{"a lost lane owns it", test_a_lost_lane_owns_it},
		{"removed, with lost links", test_remove_with_lost_links},
		{"removed while it waits", test_removed_while_it_waits},
		{"the session's end lets go", test_the_end_lets_go},
		{"refused when the guest stops", test_refused_when_the_guest_stops},
		{"a source that breaks the rules", test_a_source_that_breaks_the_rules},
		{"a target that breaks the rules", test_a_target_that_breaks_the_rules},
		{0},
	};

	return unit_run("regions", tests);
}
