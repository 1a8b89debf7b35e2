/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * resume_test.c: a peer link that is lost with each message that was under way, in either
 * direction, and a session that goes on as if nothing had been. Also what is refused, how long it
 * is tried, and how a session that ends without a link ends at the other side.
 */
#include <errno.h>

#include "base/clock.h"
#include "engine/lane/lane_internal.h"
#include "engine/lane/lane_set.h"
#include "tests/unit/session_pair.h"
#include "tests/unit/unit.h"

static bool source_is(const struct pair *pair, const char *status)
{
	return strcmp(sluice_source_status(pair->source), status) == 0;
}

static bool target_is(const struct pair *pair, const char *status)
{
	return strcmp(sluice_target_status(pair->target), status) == 0;
}

static const json_t *said(struct pair *pair, enum pair_host from, const char *type)
{
	for (unsigned int i = 0; i < pair->side[from].out_count; i++)
		if (strcmp(json_string_value(json_object_get(pair->side[from].out[i], "type")),
			    type) == 0)
			return pair->side[from].out[i];
	return NULL;
}

/* Both ends learn of it; what was said and not heard is gone. */
static void cut(struct pair *pair)
{
	pair_forget(pair, PAIR_SOURCE);
	pair_forget(pair, PAIR_TARGET);
	sluice_source_peer_lost(pair->source, -ECONNRESET, "cut");
	sluice_target_peer_lost(pair->target, "cut");
}

/* The source has asked for a connection, and gets one. */
static void connect_again(struct pair *pair)
{
	unsigned int reconnects = pair->side[PAIR_SOURCE].reconnects;

	for (int i = 0; i < 200 && pair->side[PAIR_SOURCE].reconnects == reconnects; i++)
		pair_pass_ms(pair, 50);
	CU_ASSERT_TRUE_FATAL(pair->side[PAIR_SOURCE].reconnects > reconnects);
	sluice_source_connected(pair->source);
	sluice_target_peer_back(pair->target);
}

static void resume(struct pair *pair)
{
	connect_again(pair);
	CU_ASSERT_PTR_NOT_NULL(said(pair, PAIR_SOURCE, "resume"));
	pair_deliver(pair, PAIR_SOURCE);
	CU_ASSERT_PTR_NOT_NULL(said(pair, PAIR_TARGET, "resumed"));
	pair_deliver(pair, PAIR_TARGET);
	CU_ASSERT_FALSE(sluice_source_is_over(pair->source));
}

static void check_memory(const struct pair *pair)
{
	CU_ASSERT_EQUAL(memcmp(pair->side[PAIR_SOURCE].memory, pair->side[PAIR_TARGET].memory,
				PAIR_REGION_BYTES),
		0);
}

/* ---- each message ---- */

/* At each step: what was said last, by either side, is lost with the link. */
static void cut_and_go_on(enum pair_step step, unsigned int times)
{
	struct pair pair;

	pair_start(&pair, step);
	for (unsigned int i = 0; i < times; i++) {
		cut(&pair);
		CU_ASSERT_TRUE(source_is(&pair, "paused"));
		resume(&pair);
	}
	pair_finish(&pair);
	CU_ASSERT_TRUE(source_is(&pair, "completed"));
	CU_ASSERT_TRUE(target_is(&pair, "completed"));
	check_memory(&pair);
	pair_stop(&pair);
}

static void test_cut_at_each_step(void)
{
	for (int step = PAIR_ACTIVE; step <= PAIR_ASK; step++)
		for (unsigned int times = 1; times <= 3; times++)
			cut_and_go_on((enum pair_step)step, times);
}

/* `resumed` itself is lost: the next one says the same. */
static void test_resumed_is_lost(void)
{
	struct pair pair;

	for (int step = PAIR_ACTIVE; step <= PAIR_ASK; step++) {
		pair_start(&pair, (enum pair_step)step);
		cut(&pair);
		connect_again(&pair);
		pair_deliver(&pair, PAIR_SOURCE);
		CU_ASSERT_PTR_NOT_NULL(said(&pair, PAIR_TARGET, "resumed"));
		cut(&pair);
		resume(&pair);
		pair_finish(&pair);
		CU_ASSERT_TRUE(target_is(&pair, "completed"));
		check_memory(&pair);
		pair_stop(&pair);
	}
}

/* While nothing can be sent, what becomes dirty is collected once a second, with all sent, too. */
static void test_a_paused_migration_syncs_seldom(void)
{
	struct pair_side *source;
	unsigned int syncs = 0;
	struct pair pair;

	pair_start(&pair, PAIR_ACTIVE);
	source = &pair.side[PAIR_SOURCE];
	pair_pass_ms(&pair, 20); /* all is sent */
	cut(&pair);
	for (unsigned int ms = 0; ms < 3000; ms++) {
		unsigned int id = source->pending_sync;

		pair_pass_ms(&pair, 1);
		if (id == 0)
			continue;
		source->pending_sync = 0;
		CU_ASSERT_EQUAL(sluice_source_dirty_sync_done(pair.source, id, 0, NULL), 0);
		syncs++;
	}
	CU_ASSERT_TRUE(source_is(&pair, "paused"));
	CU_ASSERT_TRUE(syncs >= 2 && syncs <= 4);
	resume(&pair);
	pair_finish(&pair);
	CU_ASSERT_TRUE(source_is(&pair, "completed"));
	check_memory(&pair);
	pair_stop(&pair);
}

/* A ticket is lost: the target's lane has an epoch that the source never heard of. */
static void test_a_ticket_is_lost(void)
{
	struct pair pair;

	pair_start(&pair, PAIR_ACTIVE);
	cut(&pair);
	resume(&pair);
	pair_pass_ms(&pair, 1);
	CU_ASSERT_PTR_NOT_NULL_FATAL(said(&pair, PAIR_SOURCE, "lane-open"));
	pair_deliver(&pair, PAIR_SOURCE);
	CU_ASSERT_PTR_NOT_NULL_FATAL(said(&pair, PAIR_TARGET, "lane-ticket"));
	cut(&pair);
	resume(&pair);
	CU_ASSERT_EQUAL(sluice_source_lanes(pair.source)->slots[0].epoch, 2);
	pair_finish(&pair);
	CU_ASSERT_TRUE(target_is(&pair, "completed"));
	CU_ASSERT_EQUAL(sluice_source_lanes(pair.source)->slots[0].epoch, 3);
	check_memory(&pair);
	pair_stop(&pair);
}

static void finish_whole(struct pair *pair)
{
	pair_finish(pair);
	CU_ASSERT_TRUE(source_is(pair, "completed"));
	CU_ASSERT_TRUE(target_is(pair, "completed"));
	check_memory(pair);
	pair_stop(pair);
}

static void test_a_device_is_lost(void)
{
	struct pair pair;

	pair_start(&pair, PAIR_READY);
	CU_ASSERT_EQUAL(sluice_source_device_add(pair.source, PAIR_DEVICE, -1, NULL), 0);
	pair.side[PAIR_SOURCE].device_added = true;
	CU_ASSERT_PTR_NOT_NULL(said(&pair, PAIR_SOURCE, "device"));
	cut(&pair);
	CU_ASSERT_FALSE(pair.side[PAIR_TARGET].open_asked);
	resume(&pair);
	finish_whole(&pair);
}

/* The reader has one segment in each of the target's slots that it may use; the credit is lost. */
static void test_a_credit_is_lost(void)
{
	struct pair pair;

	pair_start(&pair, PAIR_DRAIN);
	for (int i = 0; i < 1000 && said(&pair, PAIR_TARGET, "credit") == NULL; i++)
		pair_pass_ms(&pair, 1);
	CU_ASSERT_PTR_NOT_NULL_FATAL(said(&pair, PAIR_TARGET, "credit"));
	CU_ASSERT_EQUAL(sluice_source_outbox(pair.source)->unaccepted, 1);
	cut(&pair);
	resume(&pair);
	CU_ASSERT_EQUAL(sluice_source_outbox(pair.source)->unaccepted, 0);
	finish_whole(&pair);
}

/* `fence` is lost, and once more `fenced`. */
static void test_a_fence_is_lost(void)
{
	for (int heard = 0; heard < 2; heard++) {
		const struct sluice_lane_slot *slot;
		struct pair pair;

		pair_start(&pair, PAIR_ACTIVE);
		slot = &sluice_source_lanes(pair.source)->slots[0];
		sluice_sim_lane_kill(slot->lane->conf.conn);
		for (int i = 0; i < 1000 && said(&pair, PAIR_SOURCE, "fence") == NULL; i++)
			pair_pass_ms(&pair, 1);
		CU_ASSERT_PTR_NOT_NULL_FATAL(said(&pair, PAIR_SOURCE, "fence"));
		if (heard)
			pair_deliver(&pair, PAIR_SOURCE);
		CU_ASSERT_EQUAL(slot->standing, SLUICE_LANE_FENCING);
		cut(&pair);
		resume(&pair);
		CU_ASSERT_EQUAL(slot->standing, SLUICE_LANE_CLOSED);
		finish_whole(&pair);
	}
}

/* ---- a NIC that dies with what it had placed ---- */

/* Lane 0 has begun its chunk; of what it has placed some is not in the target's memory. */
static void break_nic(struct pair *pair)
{
	struct sluice_lane_counters counters = {0};

	pair_start(pair, PAIR_ACTIVE);
	for (int i = 0; i < 1000 && counters.bytes_placed < SLUICE_CHUNK_BYTES / 2; i++) {
		pair_pass_us(pair, 20);
		sluice_lane_set_counters(sluice_source_lanes(pair->source), 0, &counters);
	}
	sluice_sim_rail_break(pair->side[PAIR_TARGET].rails[0].rail);
	CU_ASSERT_TRUE_FATAL(sluice_sim_world_stats(pair->world)->vanished > 0);
	for (int i = 0; i < 1000 && said(pair, PAIR_SOURCE, "fence") == NULL; i++)
		pair_pass_ms(pair, 1);
	CU_ASSERT_PTR_NOT_NULL_FATAL(said(pair, PAIR_SOURCE, "fence"));
}

static void whole_after_broken_nic(struct pair *pair)
{
	struct sluice_lane_counters counters;

	sluice_lane_set_counters(sluice_source_lanes(pair->source), 0, &counters);
	CU_ASSERT_TRUE(counters.chunks_astray > 0);
	CU_ASSERT_EQUAL(sluice_source_lanes(pair->source)->slots[0].standing, SLUICE_LANE_CLOSED);
	sluice_sim_rail_set_down(pair->side[PAIR_TARGET].rails[0].rail, false);
	finish_whole(pair);
}

static void test_a_broken_nic(void)
{
	struct pair pair;

	break_nic(&pair);
	pair_deliver(&pair, PAIR_SOURCE);
	CU_ASSERT_TRUE(json_is_true(json_object_get(said(&pair, PAIR_TARGET, "fenced"), "astray")));
	pair_deliver(&pair, PAIR_TARGET);
	whole_after_broken_nic(&pair);
}

/* Whatever message is lost behind it: the target goes on saying so. */
static void test_a_broken_nic_is_not_forgotten(void)
{
	for (int lost = 0; lost < 3; lost++) {
		struct pair pair;

		break_nic(&pair);
		if (lost > 0)
			pair_deliver(&pair, PAIR_SOURCE); /* `fenced` is lost */
		cut(&pair);
		if (lost > 1) {
			connect_again(&pair);
			pair_deliver(&pair, PAIR_SOURCE); /* and `resumed` */
			cut(&pair);
		}
		resume(&pair);
		whole_after_broken_nic(&pair);
	}
}

/* What the first connection left behind says nothing of the second. */
static void test_a_broken_nic_is_over(void)
{
	const json_t *resumed;
	struct pair pair;

	break_nic(&pair);
	pair_deliver(&pair, PAIR_SOURCE);
	pair_deliver(&pair, PAIR_TARGET);
	sluice_sim_rail_set_down(pair.side[PAIR_TARGET].rails[0].rail, false);
	for (int i = 0; i < 1000 && said(&pair, PAIR_SOURCE, "lane-open") == NULL; i++)
		pair_pass_ms(&pair, 1);
	pair_deliver(&pair, PAIR_SOURCE);
	cut(&pair);
	connect_again(&pair);
	pair_deliver(&pair, PAIR_SOURCE);
	resumed = said(&pair, PAIR_TARGET, "resumed");
	CU_ASSERT_PTR_NOT_NULL_FATAL(resumed);
	CU_ASSERT_EQUAL(json_array_size(json_object_get(resumed, "astray")), 0);
	pair_deliver(&pair, PAIR_TARGET);
	finish_whole(&pair);
}

/* ---- who may not ---- */

static void refuse(const char *instance, const char *session, unsigned int attempt, int code)
{
	struct sluice_error err = {0};
	struct pair pair;
	json_t *message = json_pack("{s:s, s:s, s:s, s:I}", "type", "resume", "session", session,
		"instance", instance, "attempt", (json_int_t)attempt);

	pair_start(&pair, PAIR_ACTIVE);
	cut(&pair);
	resume(&pair); /* attempt 1 */
	CU_ASSERT_EQUAL(sluice_target_check_resume(pair.target, message, &err), code);
	CU_ASSERT_TRUE(code == 0 || err.text[0] != '\0');
	json_decref(message);
	pair_stop(&pair);
}

static void test_only_the_same_session_resumes(void)
{
	refuse(PAIR_SESSION, PAIR_SESSION, 2, 0);
	refuse(PAIR_SESSION, PAIR_SESSION, 1, -EALREADY);
	refuse("ffffffffffffffffffffffffffffffff", PAIR_SESSION, 2, -ESTALE);
	refuse(PAIR_SESSION, "ffffffffffffffffffffffffffffffff", 2, -ENOENT);
}

static void test_a_refused_source_keeps_the_guest(void)
{
	struct pair pair;

	pair_start(&pair, PAIR_ASK);
	cut(&pair);
	connect_again(&pair);
	pair_forget(&pair, PAIR_SOURCE);
	pair_tell(&pair, PAIR_SOURCE,
		json_pack("{s:s, s:s}", "type", "refuse", "error", "another engine"));
	CU_ASSERT_TRUE(source_is(&pair, "failed"));
	CU_ASSERT_EQUAL(pair.side[PAIR_SOURCE].record, SLUICE_UNDECIDED);
	pair_stop(&pair);
}

/* What the target says of slots that cannot be is not believed. */
static void test_resumed_is_checked(void)
{
	static const char *const replies[] = {
		"{'state': 'load', 'devices': 0, 'held': [], 'credits': [0, 0, 0, 0], 'epochs': "
		"[1, 1]}",
		"{'state': 'receive', 'devices': 1, 'held': [], 'credits': [0, 0, 0, 0], 'epochs': "
		"[1, 1]}",
		"{'state': 'receive', 'devices': 0, 'held': [0], 'credits': [0, 0, 0, 0], "
		"'epochs': [1, 1]}",
		"{'state': 'receive', 'devices': 0, 'held': [], 'credits': [1, 0, 0, 0], 'epochs': "
		"[1, 1]}",
		"{'state': 'receive', 'devices': 0, 'held': [], 'credits': [0, 0, 0], 'epochs': "
		"[1, 1]}",
		"{'state': 'receive', 'devices': 0, 'held': [], 'credits': [0, 0, 0, 0], 'epochs': "
		"[1]}",
		"{'state': 'receive', 'devices': 0, 'held': [], 'credits': [0, 0, 0, 0], 'epochs': "
		"[1, 3]}",
		"{'state': 'receive', 'devices': 0, 'held': [], 'credits': [0, 0, 0, 0], 'epochs': "
		"[0, 1]}",
		"{'state': 'receive', 'devices': 0, 'held': [], 'credits': [0, 0, 0, 0], 'epochs': "
		"[1, 1], 'rails': [{'rail': 5, 'address': 'sim:1'}]}",
		"{'state': 'receive', 'devices': 0, 'held': [], 'credits': [0, 0, 0, 0], 'epochs': "
		"[1, 1], 'astray': [2]}",
	};

	for (size_t i = 0; i < sizeof(replies) / sizeof(replies[0]); i++) {
		struct pair pair;
		json_t *reply;
		char text[256];

		snprintf(text, sizeof(text), "%s", replies[i]);
		for (char *c = text; *c != '\0'; c++)
			*c = *c == '\'' ? '"' : *c;
		reply = json_loads(text, 0, NULL);
		CU_ASSERT_PTR_NOT_NULL_FATAL(reply);
		json_object_set_new(reply, "type", json_string("resumed"));
		if (json_object_get(reply, "rails") == NULL)
			json_object_set_new(reply, "rails", json_array());
		if (json_object_get(reply, "astray") == NULL)
			json_object_set_new(reply, "astray", json_array());
		pair_start(&pair, PAIR_ACTIVE);
		cut(&pair);
		connect_again(&pair);
		pair_tell(&pair, PAIR_SOURCE, reply);
		CU_ASSERT_TRUE(source_is(&pair, "failed"));
		pair_stop(&pair);
	}
}

/* ---- how long ---- */

static void test_retries_end_and_an_operator_goes_on(void)
{
	struct pair pair;
	json_t *query;

	pair_start(&pair, PAIR_ACTIVE);
	cut(&pair);
	for (int i = 0; i < 200; i++) {
		unsigned int reconnects = pair.side[PAIR_SOURCE].reconnects;

		pair_pass_ms(&pair, 20);
		if (pair.side[PAIR_SOURCE].reconnects > reconnects)
			sluice_source_peer_lost(pair.source, -EHOSTUNREACH, "no route");
	}
	CU_ASSERT_EQUAL(pair.side[PAIR_SOURCE].reconnects, PAIR_RETRIES);
	CU_ASSERT_TRUE(source_is(&pair, "paused"));
	query = sluice_source_query(pair.source);
	CU_ASSERT_PTR_NULL(json_object_get(query, "retry-in"));
	UNIT_CONTAINS(json_string_value(json_object_get(query, "pause-reason")), "migrate-recover");
	json_decref(query);
	CU_ASSERT_EQUAL(sluice_source_recover(pair.source, false, NULL), 0);
	CU_ASSERT_EQUAL(pair.side[PAIR_SOURCE].reconnects, PAIR_RETRIES + 1);
	sluice_source_connected(pair.source);
	sluice_target_peer_back(pair.target);
	pair_finish(&pair);
	CU_ASSERT_TRUE(target_is(&pair, "completed"));
	check_memory(&pair);
	pair_stop(&pair);
}

/* The host answers and nobody listens: the engine is gone, and with it the session. */
static void test_a_dead_target_is_known(void)
{
	struct pair pair;

	pair_start(&pair, PAIR_ACTIVE);
	cut(&pair);
	for (int i = 0; i < 3 && source_is(&pair, "paused"); i++) {
		unsigned int reconnects = pair.side[PAIR_SOURCE].reconnects;

		while (pair.side[PAIR_SOURCE].reconnects == reconnects)
			pair_pass_ms(&pair, 20);
		sluice_source_peer_lost(pair.source, -ECONNREFUSED, "refused");
	}
	CU_ASSERT_TRUE(source_is(&pair, "failed"));
	pair_stop(&pair);
}

static void test_a_target_waits_for_a_while(void)
{
	struct pair pair;

	pair_start(&pair, PAIR_ACTIVE);
	sluice_target_peer_lost(pair.target, "cut");
	CU_ASSERT_TRUE(target_is(&pair, "paused"));
	pair_pass_ms(&pair, 9000);
	CU_ASSERT_TRUE(target_is(&pair, "paused"));
	pair_pass_ms(&pair, 1500);
	CU_ASSERT_TRUE(target_is(&pair, "failed"));
	CU_ASSERT_EQUAL(pair.side[PAIR_TARGET].record, SLUICE_ABORTED);
	pair_stop(&pair);
}

/* ---- ends without a link ---- */

/* A prepared target would wait for an operator: the source that gave up comes back to say so. */
static void test_a_prepared_target_hears_of_the_end(void)
{
	struct sluice_error err = {0};
	struct pair pair;

	pair_start(&pair, PAIR_ASK);
	cut(&pair);
	CU_ASSERT_TRUE(target_is(&pair, "in-doubt"));
	CU_ASSERT_EQUAL(sluice_source_cancel(pair.source, &err), 0);
	CU_ASSERT_TRUE(source_is(&pair, "cancelled"));
	connect_again(&pair);
	CU_ASSERT_PTR_NOT_NULL(said(&pair, PAIR_SOURCE, "resolve"));
	pair_deliver(&pair, PAIR_SOURCE);
	CU_ASSERT_TRUE(target_is(&pair, "failed"));
	pair_deliver(&pair, PAIR_TARGET);
	CU_ASSERT_EQUAL(sluice_source_deadline_ns(pair.source), SLUICE_NEVER);
	pair_stop(&pair);
}

/* An abort into a network that is dead: it is said again on another connection. */
static void test_an_unheard_abort_is_said_again(void)
{
	struct sluice_error err = {0};
	struct pair pair;

	pair_start(&pair, PAIR_ACTIVE);
	CU_ASSERT_EQUAL(sluice_source_cancel(pair.source, &err), 0);
	pair_forget(&pair, PAIR_SOURCE);
	sluice_target_peer_lost(pair.target, "silent");
	connect_again(&pair);
	pair_deliver(&pair, PAIR_SOURCE);
	CU_ASSERT_TRUE(target_is(&pair, "failed"));
	pair_stop(&pair);
}

/* The VMM gave the guest away while the link was down: not committed until the target can hear. */
static void test_a_commit_waits_for_the_link(void)
{
	struct sluice_error err = {0};
	struct pair pair;

	pair_start(&pair, PAIR_ASK);
	cut(&pair);
	CU_ASSERT_EQUAL(pair_give(&pair, &err), 0);
	CU_ASSERT_EQUAL(pair.side[PAIR_SOURCE].record, SLUICE_UNDECIDED);
	CU_ASSERT_TRUE(source_is(&pair, "paused"));
	resume(&pair);
	CU_ASSERT_EQUAL(pair.side[PAIR_SOURCE].record, SLUICE_COMMITTED);
	pair_deliver(&pair, PAIR_SOURCE);
	CU_ASSERT_TRUE(target_is(&pair, "completed"));
	pair_deliver(&pair, PAIR_TARGET);
	CU_ASSERT_TRUE(source_is(&pair, "completed"));
	pair_stop(&pair);
}

/* Loaded while nobody is there to hear of it: prepared only when the source is back. */
static void test_not_prepared_without_a_link(void)
{
	struct sluice_error err = {0};
	struct pair pair;

	pair_start(&pair, PAIR_LOAD);
	cut(&pair);
	CU_ASSERT_EQUAL(sluice_target_device_loaded(pair.target, PAIR_DEVICE, &err), 0);
	pair.side[PAIR_TARGET].device_loaded = true;
	CU_ASSERT_TRUE(target_is(&pair, "paused"));
	resume(&pair);
	CU_ASSERT_TRUE(sluice_target_is_prepared(pair.target));
	pair_finish(&pair);
	CU_ASSERT_TRUE(target_is(&pair, "completed"));
	pair_stop(&pair);
}

static const struct unit_test tests[] = {
	{"cut at each step", test_cut_at_each_step},
	{"resumed is lost", test_resumed_is_lost},
	{"a paused migration syncs seldom", test_a_paused_migration_syncs_seldom},
	{"a ticket is lost", test_a_ticket_is_lost},
	{"a device is lost", test_a_device_is_lost},
	{"a credit is lost", test_a_credit_is_lost},
	{"a fence is lost", test_a_fence_is_lost},
	{"a broken NIC", test_a_broken_nic},
	{"a broken NIC is not forgotten", test_a_broken_nic_is_not_forgotten},
	{"a broken NIC is over", test_a_broken_nic_is_over},
	{"only the same session resumes", test_only_the_same_session_resumes},
	{"a refused source keeps the guest", test_a_refused_source_keeps_the_guest},
	{"resumed is checked", test_resumed_is_checked},
	{"retries end and an operator goes on", test_retries_end_and_an_operator_goes_on},
	{"a dead target is known", test_a_dead_target_is_known},
	{"a target waits for a while", test_a_target_waits_for_a_while},
	{"a prepared target hears of the end", test_a_prepared_target_hears_of_the_end},
	{"an unheard abort is said again", test_an_unheard_abort_is_said_again},
	{"a commit waits for the link", test_a_commit_waits_for_the_link},
	{"not prepared without a link", test_not_prepared_without_a_link},
	{0},
};

int main(void)
{
	return unit_run("resume", tests);
}
