/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * session_test.c: misuse of source and target: each message of the peer link and each command of
 * a VMM, at each step of a session. Nothing may trip an assertion, the guest is never given away
 * without a record, and the target never takes it without a commit.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/bits.h"
#include "engine/lane/lane_set.h"
#include "tests/unit/session_pair.h"
#include "tests/unit/unit.h"

#define TICKET "00000000000000000000000000000000000000000000000000000000000000" /* less 2 */

static const char *const messages[] = {
	"{'type': 'hello', 'protocol': 1, 'version': '1', 'features': [], 'session': '" PAIR_SESSION
	"', 'instance': '" PAIR_SESSION "', 'transports': ['sim'], 'lanes': 128, 'regions': []}",
	"{'type': 'welcome', 'protocol': 1, 'version': '1', 'features': [], 'instance': "
	"'" PAIR_SESSION "', 'lacks': [], 'regions': [], 'slots': 1,"
	"  'slot-bytes': 4097, 'record-us': 0}",
	"{'type': 'rail', 'rail': 0, 'transport': 'sim', 'address': 'sim:9', 'keys': ['00'], "
	"'staging-key': '00'}",
	"{'type': 'rail', 'rail': 7, 'transport': 'none', 'address': 'x', 'keys': [], "
	"'staging-key': 'zz'}",
	"{'type': 'refuse', 'error': 'no'}",
	"{'type': 'fence', 'lane': 0, 'epoch': 1}",
	"{'type': 'fence', 'lane': 127, 'epoch': 4294967295}",
	"{'type': 'fenced', 'lane': 0, 'epoch': 1, 'astray': false, 'held': []}",
	"{'type': 'fenced', 'lane': 127, 'epoch': 1, 'astray': true, 'held': [255]}",
	"{'type': 'device', 'device': 'surprise'}",
	"{'type': 'device', 'device': '" PAIR_DEVICE "'}",
	"{'type': 'credit', 'slots': [0]}",
	"{'type': 'credit', 'slots': [0, 0, 255]}",
	"{'type': 'credit', 'slots': []}",
	"{'type': 'finish', 'devices': 0}",
	"{'type': 'finish', 'devices': 256}",
	"{'type': 'prepared'}",
	"{'type': 'commit'}",
	"{'type': 'committed'}",
	"{'type': 'abort', 'reason': 'enough'}",
	"{'type': 'abort', 'reason': ''}",
	"{'type': 'resolve', 'session': '" PAIR_SESSION "', 'decision': 'committed'}",
	"{'type': 'resolve', 'session': '" PAIR_SESSION "', 'decision': 'undecided'}",
	"{'type': 'decision', 'session': '" PAIR_SESSION "', 'decision': 'committed'}",
	"{'type': 'decision', 'session': '" PAIR_SESSION "', 'decision': 'aborted'}",
	"{'type': 'lane-open', 'lane': 0, 'epoch': 2, 'rail': 1}",
	"{'type': 'lane-open', 'lane': 127, 'epoch': 1, 'rail': 7}",
	"{'type': 'lane-ticket', 'lane': 0, 'epoch': 2}",
	"{'type': 'lane-ticket', 'lane': 0, 'epoch': 2, 'ticket': 'zz" TICKET "'}",
	"{'type': 'lane-ticket', 'lane': 127, 'epoch': 4294967295, 'ticket': 'aa" TICKET "'}",
	"{'type': 'resume', 'session': '" PAIR_SESSION "', 'instance': '" PAIR_SESSION
	"', 'attempt': 1}",
	"{'type': 'resume', 'session': '" PAIR_SESSION
	"', 'instance': 'ffffffffffffffffffffffffffffffff', 'attempt': 2}",
	"{'type': 'resumed', 'state': 'receive', 'devices': 0, 'held': [], "
	"'credits': [0, 0, 0, 0], 'epochs': [1, 1], 'astray': [], "
	"'rails': [{'rail': 0, 'address': 'sim:7'}]}",
	"{'type': 'resumed', 'state': 'prepared', 'devices': 256, 'held': [255, 0], "
	"'credits': [4294967295], 'epochs': [], 'astray': [127], 'rails': []}",
	"{'type': 'ping', 'n': 9223372036854775807}",
	"{'type': 'pong', 'n': 0}",
};

/* Single quotes keep the table readable. */
static json_t *message_of(const char *text)
{
	char copy[1024];
	json_t *message;

	snprintf(copy, sizeof(copy), "%s", text);
	for (char *c = copy; *c != '\0'; c++)
		*c = *c == '\'' ? '"' : *c;
	message = json_loads(copy, 0, NULL);
	CU_ASSERT_PTR_NOT_NULL_FATAL(message);
	return message;
}

static bool source_is(const struct pair *pair, const char *status)
{
	return strcmp(sluice_source_status(pair->source), status) == 0;
}

static bool target_is(const struct pair *pair, const char *status)
{
	return pair->target != NULL && strcmp(sluice_target_status(pair->target), status) == 0;
}

/* What must hold whatever was said. */
static void check_promises(const struct pair *pair, bool target_was_told)
{
	const struct pair_side *source = &pair->side[PAIR_SOURCE];
	const struct pair_side *target = &pair->side[PAIR_TARGET];

	if (source->record == SLUICE_COMMITTED)
		CU_ASSERT_TRUE(source->vmm_gave);
	if (source_is(pair, "completed"))
		CU_ASSERT_EQUAL(source->record, SLUICE_COMMITTED);
	if (source_is(pair, "cancelled"))
		CU_ASSERT_NOT_EQUAL(source->record, SLUICE_COMMITTED);
	if (target_is(pair, "completed")) {
		CU_ASSERT_EQUAL(target->record, SLUICE_COMMITTED);
		CU_ASSERT_TRUE(target_was_told || source->record == SLUICE_COMMITTED);
	}
	if (target_is(pair, "failed"))
		CU_ASSERT_NOT_EQUAL(target->record, SLUICE_COMMITTED);
}

static bool is_commit(const char *text)
{
	return strstr(text, "'commit'") != NULL ||
	       (strstr(text, "'resolve'") != NULL && strstr(text, "'committed'") != NULL);
}

static void say_at(enum pair_step step, enum pair_host to, const char *text)
{
	struct pair pair;

	pair_start(&pair, step);
	if (to == PAIR_TARGET && pair.target == NULL) {
		pair_stop(&pair);
		return; /* a stranger's message: the engine's business */
	}
	pair_tell(&pair, to, message_of(text));
	pair_pass_ms(&pair, 1);
	check_promises(&pair, to == PAIR_TARGET && is_commit(text));
	pair_tell(&pair, to, message_of(text)); /* and once more */
	pair_deliver(&pair, PAIR_TARGET);
	pair_deliver(&pair, PAIR_SOURCE);
	pair_pass_ms(&pair, 1);
	check_promises(&pair, to == PAIR_TARGET && is_commit(text));
	pair_stop(&pair);
}

static void test_each_message_at_each_step(void)
{
	for (int step = PAIR_CONNECTING; step < PAIR_STEPS; step++)
		for (size_t i = 0; i < SLUICE_ARRAY_LEN(messages); i++)
			for (int to = 0; to < PAIR_HOSTS; to++)
				say_at((enum pair_step)step, (enum pair_host)to, messages[i]);
}

/* ---- commands ---- */

enum command {
	SYNC_DONE_UNASKED,
	SYNC_DONE_OLD,
	DEVICE_ADD,
	DEVICE_ADD_TWICE,
	STOPPED,
	GIVE,
	GIVE_TWICE,
	CONTINUE_NONSENSE,
	CANCEL,
	RESOLVE_COMMITTED,
	RESOLVE_ABORTED,
	VMM_LOST,
	LINK_LOST,
	CONNECTED_AGAIN,
	PAUSE,
	RECOVER,
	PAUSE_AND_RECOVER,
	LINK_LOST_TWICE,
	COMMANDS,
};

static int command_source(struct pair *pair, enum command command, struct sluice_error *err)
{
	struct sluice_source *s = pair->source;

	switch (command) {
	case SYNC_DONE_UNASKED:
		return sluice_source_dirty_sync_done(s, 1u << 20, 0, err);
	case SYNC_DONE_OLD:
		return sluice_source_dirty_sync_done(s, 0, 0, err);
	case DEVICE_ADD_TWICE:
		if (sluice_source_device_add(s, "twice", -1, err) == 0)
			return sluice_source_device_add(s, "twice", -1, err);
		return err->code;
	case DEVICE_ADD:
		return sluice_source_device_add(s, PAIR_DEVICE, -1, err);
	case STOPPED:
		return sluice_source_continue(s, "pre-switchover", err);
	case GIVE_TWICE:
		pair_give(pair, NULL);
		return pair_give(pair, err);
	case GIVE:
		return pair_give(pair, err);
	case CONTINUE_NONSENSE:
		return sluice_source_continue(s, "nonsense", err);
	case CANCEL:
		return sluice_source_cancel(s, err);
	case RESOLVE_COMMITTED:
		return sluice_source_resolve(s, SLUICE_COMMITTED, err);
	case RESOLVE_ABORTED:
		return sluice_source_resolve(s, SLUICE_ABORTED, err);
	case VMM_LOST:
		sluice_source_vmm_lost(s);
		return 0;
	case CONNECTED_AGAIN:
	case LINK_LOST:
		sluice_source_peer_lost(s, -ECONNRESET, "cut");
		if (command == CONNECTED_AGAIN)
			sluice_source_connected(s);
		return 0;
	case LINK_LOST_TWICE:
		sluice_source_peer_lost(s, -ECONNRESET, "cut");
		sluice_source_peer_lost(s, -ECONNREFUSED, "nobody there");
		return 0;
	case PAUSE:
		return sluice_source_pause(s, err);
	case RECOVER:
		return sluice_source_recover(s, false, err);
	case PAUSE_AND_RECOVER:
		if (sluice_source_pause(s, err) < 0)
			return err->code;
		return sluice_source_recover(s, true, err);
	case COMMANDS:
		break;
	}
	return 0;
}

static int command_target(struct pair *pair, enum command command, struct sluice_error *err)
{
	struct sluice_target *t = pair->target;

	switch (command) {
	case DEVICE_ADD:
		return sluice_target_device_add(t, "unknown", -1, err);
	case DEVICE_ADD_TWICE:
		sluice_target_device_add(t, PAIR_DEVICE, -1, NULL);
		return sluice_target_device_add(t, PAIR_DEVICE, -1, err);
	case SYNC_DONE_OLD:
	case SYNC_DONE_UNASKED:
		return sluice_target_device_loaded(t, "unknown", err);
	case STOPPED:
	case GIVE:
	case GIVE_TWICE:
		sluice_target_device_loaded(t, PAIR_DEVICE, NULL);
		return sluice_target_device_loaded(t, PAIR_DEVICE, err);
	case CANCEL:
		return sluice_target_cancel(t, err);
	case RESOLVE_ABORTED:
		return sluice_target_resolve(t, SLUICE_ABORTED, err);
	case RESOLVE_COMMITTED:
		/* In doubt the operator may; otherwise not. */
		return sluice_target_resolve(t, SLUICE_COMMITTED, err);
	case VMM_LOST:
		sluice_target_vmm_lost(t);
		return 0;
	case CONNECTED_AGAIN:
	case LINK_LOST:
		sluice_target_peer_lost(t, "cut");
		if (command == CONNECTED_AGAIN)
			sluice_target_peer_back(t);
		return 0;
	case LINK_LOST_TWICE:
		sluice_target_peer_lost(t, "cut");
		sluice_target_peer_lost(t, "cut again");
		return 0;
	case PAUSE:
	case RECOVER:
	case PAUSE_AND_RECOVER:
	case CONTINUE_NONSENSE:
	case COMMANDS:
		break;
	}
	return 0;
}

static void command_at(enum pair_step step, enum pair_host host, enum command command)
{
	struct sluice_error err = {0};
	struct pair pair;
	int r;

	pair_start(&pair, step);
	if (host == PAIR_SOURCE || pair.target != NULL) {
		r = host == PAIR_SOURCE ? command_source(&pair, command, &err)
					: command_target(&pair, command, &err);
		CU_ASSERT_EQUAL(r < 0, err.text[0] != '\0');
		pair_pass_ms(&pair, 1);
		check_promises(&pair, false);
		pair_deliver(&pair, PAIR_SOURCE);
		pair_deliver(&pair, PAIR_TARGET);
		pair_pass_ms(&pair, 1);
		check_promises(&pair, false);
		if (source_is(&pair, "failed") || source_is(&pair, "cancelled"))
			CU_ASSERT_FALSE(target_is(&pair, "completed"));
	}
	pair_stop(&pair);
}

static void test_each_command_at_each_step(void)
{
	for (int step = PAIR_CONNECTING; step < PAIR_STEPS; step++)
		for (int command = 0; command < COMMANDS; command++)
			for (int host = 0; host < PAIR_HOSTS; host++)
				command_at((enum pair_step)step, (enum pair_host)host,
					(enum command)command);
}

/* ---- what was found by reading ---- */

static void test_a_second_welcome_is_refused(void)
{
	struct pair pair;
	json_t *welcome, *reply;

	pair_start(&pair, PAIR_HELLO);
	pair_deliver(&pair, PAIR_SOURCE);
	CU_ASSERT_TRUE_FATAL(pair_said(&pair, PAIR_TARGET, "welcome"));
	welcome = json_deep_copy(pair.side[PAIR_TARGET].out[pair.side[PAIR_TARGET].out_count - 1]);
	pair_deliver(&pair, PAIR_TARGET);
	pair_tell(&pair, PAIR_SOURCE, welcome);
	CU_ASSERT_TRUE(source_is(&pair, "failed"));
	reply = sluice_source_query(pair.source);
	UNIT_CONTAINS(json_string_value(json_object_get(reply, "error-desc")), "twice");
	json_decref(reply);
	pair_stop(&pair);
}

/* The source has given the guest away: it must hear what became of it. */
static void test_a_target_that_cannot_record_says_so(void)
{
	struct pair pair;

	pair_start(&pair, PAIR_COMMIT);
	pair.side[PAIR_TARGET].cannot_record = true;
	pair_deliver(&pair, PAIR_SOURCE);
	CU_ASSERT_TRUE(target_is(&pair, "failed"));
	pair_deliver(&pair, PAIR_TARGET);
	CU_ASSERT_TRUE(source_is(&pair, "failed"));
	pair_stop(&pair);
}

/* An error after the record was put in place: what is on record holds, here and there. */
static void test_a_record_in_place_holds(void)
{
	for (int host = 0; host < PAIR_HOSTS; host++) {
		struct sluice_error err = {0};
		struct pair pair;

		pair_start(&pair, PAIR_ASK);
		pair.side[host].recorded_but_failed = true;
		CU_ASSERT_EQUAL(pair_give(&pair, &err), 0);
		CU_ASSERT_EQUAL(err.code, 0);
		pair_deliver(&pair, PAIR_SOURCE);
		CU_ASSERT_TRUE(target_is(&pair, "completed"));
		pair_deliver(&pair, PAIR_TARGET);
		CU_ASSERT_TRUE(source_is(&pair, "completed"));
		check_promises(&pair, false);
		pair_stop(&pair);
	}
}

static void test_a_source_that_cannot_record_keeps_the_guest(void)
{
	struct sluice_error err = {0};
	struct pair pair;

	pair_start(&pair, PAIR_ASK);
	pair.side[PAIR_SOURCE].cannot_record = true;
	CU_ASSERT_TRUE(pair_give(&pair, &err) < 0);
	CU_ASSERT_TRUE(source_is(&pair, "failed"));
	pair_deliver(&pair, PAIR_SOURCE);
	CU_ASSERT_TRUE(target_is(&pair, "failed"));
	pair_stop(&pair);
}

/* A target that answers pings and not the commit: after a while the source asks anew. */
static void test_no_answer_to_commit_is_doubt(void)
{
	struct pair pair;

	pair_start(&pair, PAIR_COMMIT);
	pair_forget(&pair, PAIR_SOURCE);
	for (int i = 0; i < 40 && !source_is(&pair, "in-doubt"); i++) {
		pair_tell(&pair, PAIR_SOURCE, message_of("{'type': 'ping', 'n': 0}"));
		pair_pass_ms(&pair, 100);
		pair_forget(&pair, PAIR_SOURCE);
		pair_forget(&pair, PAIR_TARGET);
	}
	CU_ASSERT_TRUE(source_is(&pair, "in-doubt"));
	pair_pass_ms(&pair, 300);
	CU_ASSERT_TRUE(pair.side[PAIR_SOURCE].reconnects > 0);
	sluice_target_peer_lost(pair.target, "cut");
	sluice_target_peer_back(pair.target);
	sluice_source_connected(pair.source);
	pair_deliver(&pair, PAIR_SOURCE);
	pair_deliver(&pair, PAIR_TARGET);
	CU_ASSERT_TRUE(source_is(&pair, "completed"));
	CU_ASSERT_TRUE(target_is(&pair, "completed"));
	pair_stop(&pair);
}

static json_int_t number_of(const json_t *object, const char *key)
{
	return json_integer_value(json_object_get(object, key));
}

/* Each part of the pause is told beside what was expected of it, and together they are the pause. */
static void test_the_pause_is_told_by_phase(void)
{
	static const char *const keys[] = {
		"stop-us", "sync-us", "drain-us", "load-us", "give-us", "commit-us"};
	const json_t *phases, *expected;
	json_int_t us = 0, expected_us = 0;
	struct pair pair;
	json_t *reply;

	pair_start(&pair, PAIR_ASK);
	pair_pass_ms(&pair, 7);
	CU_ASSERT_EQUAL(pair_give(&pair, NULL), 0);
	pair_pass_ms(&pair, 5);
	pair_deliver(&pair, PAIR_SOURCE);
	pair_deliver(&pair, PAIR_TARGET);
	reply = sluice_source_query(pair.source);
	phases = json_object_get(reply, "downtime-phases");
	expected = json_object_get(reply, "expected-downtime-phases");
	for (size_t i = 0; i < SLUICE_ARRAY_LEN(keys); i++) {
		us += number_of(phases, keys[i]);
		expected_us += number_of(expected, keys[i]);
	}
	CU_ASSERT_TRUE(number_of(phases, "give-us") >= 7000);
	CU_ASSERT_TRUE(number_of(phases, "give-us") < 12000);
	CU_ASSERT_TRUE(number_of(phases, "commit-us") >= 5000);
	CU_ASSERT_TRUE(llabs(us - number_of(reply, "downtime-us")) < 10);
	CU_ASSERT_TRUE(llabs(expected_us - number_of(reply, "expected-downtime-us")) < 10);
	json_decref(reply);
	pair_stop(&pair);
}

static void test_a_decision_about_another_session_is_not_ours(void)
{
	struct pair pair;

	pair_start(&pair, PAIR_COMMIT);
	pair_tell(&pair, PAIR_SOURCE,
		message_of("{'type': 'decision', 'session': 'ffffffffffffffffffffffffffffffff', "
			   "'decision': 'aborted'}"));
	CU_ASSERT_FALSE(sluice_source_is_over(pair.source));
	pair_deliver(&pair, PAIR_SOURCE);
	pair_deliver(&pair, PAIR_TARGET);
	CU_ASSERT_TRUE(source_is(&pair, "completed"));
	pair_stop(&pair);
}

/* A peer's reason is cut to fit; half a character must not make the message unsayable. */
static void test_a_long_reason_is_cut_between_characters(void)
{
	char text[600] = "";
	struct pair pair;
	json_t *reply;

	for (int shift = 0; shift < 2; shift++) {
		text[0] = 'x';
		for (size_t at = (size_t)shift; at + 2 <= 511; at += 2)
			memcpy(text + at, "\xc3\xa4", 3);
		pair_start(&pair, PAIR_ACTIVE);
		pair_tell(&pair, PAIR_SOURCE,
			json_pack("{s:s, s:s}", "type", "abort", "reason", text));
		CU_ASSERT_TRUE(source_is(&pair, "failed"));
		reply = sluice_source_query(pair.source);
		CU_ASSERT_PTR_NOT_NULL_FATAL(json_object_get(reply, "error-desc"));
		UNIT_CONTAINS(json_string_value(json_object_get(reply, "error-desc")), "gave up");
		json_decref(reply);
		pair_stop(&pair);
		pair_start(&pair, PAIR_ACTIVE);
		pair_tell(&pair, PAIR_TARGET,
			json_pack("{s:s, s:s}", "type", "abort", "reason", text));
		CU_ASSERT_TRUE(pair_said(&pair, PAIR_TARGET, "abort"));
		pair_stop(&pair);
	}
}

/* The VMM answers by name: a second one would wait for ever. */
static void test_a_device_is_announced_once(void)
{
	struct pair pair;

	pair_start(&pair, PAIR_DRAIN);
	pair_tell(
		&pair, PAIR_TARGET, message_of("{'type': 'device', 'device': '" PAIR_DEVICE "'}"));
	CU_ASSERT_TRUE(target_is(&pair, "failed"));
	pair_stop(&pair);
}

static uint64_t limit_of(const struct pair *pair)
{
	return sluice_source_lanes(pair->source)->work->pace.bytes_per_s;
}

/* It protects the network from the guest that runs, and never holds up one that is stopped. */
static void test_a_bandwidth_limit_ends_when_the_guest_stops(void)
{
	struct pair pair;

	pair_start(&pair, PAIR_READY);
	CU_ASSERT_EQUAL(limit_of(&pair), 0);
	sluice_source_set_max_bandwidth(pair.source, 1000);
	CU_ASSERT_EQUAL(limit_of(&pair), 1000);
	CU_ASSERT_EQUAL(sluice_source_continue(pair.source, "pre-switchover", NULL), 0);
	CU_ASSERT_EQUAL(limit_of(&pair), 0);
	sluice_source_set_max_bandwidth(pair.source, 1000);
	CU_ASSERT_EQUAL(limit_of(&pair), 0);
	pair_stop(&pair);
}

static void test_the_pair_goes_well(void)
{
	struct pair pair;

	pair_start(&pair, PAIR_COMPLETED);
	CU_ASSERT_TRUE(source_is(&pair, "completed"));
	CU_ASSERT_TRUE(target_is(&pair, "completed"));
	CU_ASSERT_EQUAL(memcmp(pair.side[PAIR_SOURCE].memory, pair.side[PAIR_TARGET].memory,
				PAIR_REGION_BYTES),
		0);
	check_promises(&pair, false);
	pair_stop(&pair);
}

static const struct unit_test tests[] = {
	{"the pair goes well", test_the_pair_goes_well},
	{"a second welcome is refused", test_a_second_welcome_is_refused},
	{"a target that cannot record says so", test_a_target_that_cannot_record_says_so},
	{"a record in place holds", test_a_record_in_place_holds},
	{"a source that cannot record keeps the guest",
		test_a_source_that_cannot_record_keeps_the_guest},
	{"no answer to commit is doubt", test_no_answer_to_commit_is_doubt},
	{"the pause is told by phase", test_the_pause_is_told_by_phase},
	{"a decision about another session is not ours",
		test_a_decision_about_another_session_is_not_ours},
	{"a long reason is cut between characters", test_a_long_reason_is_cut_between_characters},
	{"a device is announced once", test_a_device_is_announced_once},
	{"a bandwidth limit ends when the guest stops",
		test_a_bandwidth_limit_ends_when_the_guest_stops},
	{"each message at each step", test_each_message_at_each_step},
	{"each command at each step", test_each_command_at_each_step},
	{0},
};

int main(void)
{
	return unit_run("session", tests);
}
