/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * source_switchover.c: from the stopped guest to the decision: devices, drain, prepare, commit, and
 * what the target or the operator says about it. Control thread.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/bits.h"
#include "base/clock.h"
#include "engine/session/source_internal.h"

void source_end_phase(struct sluice_source *s, uint64_t *ret_ns)
{
	uint64_t now_ns = source_now(s);

	*ret_ns = now_ns - s->phase_ns;
	s->phase_ns = now_ns;
}

static int check_device(struct sluice_source *s, const char *device, struct sluice_error *err)
{
	if (s->state != SOURCE_ACTIVE && s->state != SOURCE_READY)
		return sluice_fail(err, -EINVAL, "device-add",
			"devices are added between "
			"\"active\" and migrate-continue; the migration is \"%s\"",
			sluice_source_status(s));
	if (s->device_count == SLUICE_ARRAY_LEN(s->devices))
		return sluice_fail(err, -ENOSPC, "device-add", "there are already %u devices",
			s->device_count);
	for (uint32_t i = 0; i < s->device_count; i++)
		if (strcmp(s->devices[i], device) == 0)
			return sluice_fail(err, -EEXIST, "device-add",
				"device \"%s\" was added before", device);
	return 0;
}

/* A target that has lost the link hears it when it is back: see source_on_resumed(). */
void source_say_device(struct sluice_source *s, uint32_t device)
{
	source_send(s, json_pack("{s:s, s:s}", "type", "device", "device", s->devices[device]));
}

int sluice_source_device_add(
	struct sluice_source *s, const char *device, int fd, struct sluice_error *err)
{
	uint32_t index = s->device_count;
	int r = check_device(s, device, err);

	if (r < 0) {
		close(fd);
		return r;
	}
	snprintf(s->devices[index], sizeof(s->devices[index]), "%s", device);
	s->device_count++;
	s->devices_reading++;
	source_say_device(s, index);
	r = s->env.device_start(s->env.ctx, index, fd, err);
	if (r < 0)
		source_fail_text(s, r, "device \"%s\" cannot be read", device);
	return r;
}

void sluice_source_device_read(struct sluice_source *s, uint32_t device, int code)
{
	SLUICE_ASSERT(s->devices_reading > 0);
	s->devices_reading--;
	if (code < 0 && source_guest_is_ours(s->state))
		source_fail_text(s, code, "the state of device \"%s\" cannot be read: %s",
			s->devices[device], strerror(-code));
	else
		sluice_source_tick(s);
}

void source_say_finish(struct sluice_source *s)
{
	source_send(s,
		json_pack("{s:s, s:I}", "type", "finish", "devices", (json_int_t)s->device_count));
}

void source_finish_when_drained(struct sluice_source *s)
{
	if (s->state != SOURCE_DRAIN || !source_link_usable(s) || !s->final_sync_done ||
		s->devices_reading > 0 ||
		__atomic_load_n(&s->conf.outbox->unaccepted, __ATOMIC_SEQ_CST) > 0 ||
		sluice_lane_set_standing(&s->lanes, SLUICE_LANE_FENCING) > 0 ||
		!sluice_ledger_is_drained(s->ledger))
		return;
	if (source_fail_when_memory_lost(s))
		return;
	source_end_phase(s, &s->downtime.drain_ns);
	source_enter(s, SOURCE_PREPARE);
	source_say_finish(s);
}

void source_on_prepared(struct sluice_source *s, const json_t *message)
{
	(void)message;
	source_end_phase(s, &s->downtime.load_ns);
	source_enter(s, SOURCE_ASK);
	s->env.vmm_event(
		s->env.ctx, "SWITCHOVER_COMMIT", json_pack("{s:s}", "session", s->conf.session));
}

/*
 * The point of no return. The VMM has given the guest away; once the decision is on record the
 * guest is the target's unless the target itself says that it is burnt.
 */
static int commit(struct sluice_source *s, struct sluice_error *err)
{
	struct sluice_error why = {0};
	int r = sluice_session_commit(&s->env, s->conf.session, &why);

	if (r < 0) {
		source_fail(s, &why);
		return sluice_fail(err, r, "migrate-continue", "%s", why.text);
	}
	s->commit_ns = source_now(s);
	source_enter(s, SOURCE_COMMIT);
	source_send(s, json_pack("{s:s}", "type", "commit"));
	return 0;
}

void source_commit_if_given(struct sluice_source *s)
{
	struct sluice_error err = {0};

	if (s->state == SOURCE_ASK && s->gave)
		commit(s, &err); /* a failure is told by the session's end */
}

int sluice_source_continue(struct sluice_source *s, const char *state, struct sluice_error *err)
{
	if (s->state == SOURCE_READY && strcmp(state, "pre-switchover") == 0) {
		source_end_phase(s, &s->downtime.stop_ns);
		s->stopped_ns = s->phase_ns;
		/* A stopped guest is never held up by a limit that protects the network. */
		sluice_source_set_max_bandwidth(s, s->conf.max_bandwidth_bytes_per_s);
		source_enter(s, SOURCE_DRAIN);
		source_ask_sync(s);
		return 0;
	}
	if (s->state == SOURCE_ASK && strcmp(state, "commit") == 0) {
		/* A commit that the target cannot hear would put the guest in doubt: it waits for the
		   link, and until it is on record the guest can still come back. */
		if (!s->gave)
			source_end_phase(s, &s->downtime.give_ns);
		s->gave = true;
		return source_link_usable(s) ? commit(s, err) : 0;
	}
	return sluice_fail(err, -EINVAL, "migrate-continue",
		"the migration is \"%s\" and does not wait for \"%s\"", sluice_source_status(s),
		state);
}

void source_on_committed(struct sluice_source *s, const json_t *message)
{
	(void)message;
	source_enter(s, SOURCE_COMPLETED);
}

/* The target's word is final: committed there, or burnt there and the guest is ours again. */
void source_on_decision(struct sluice_source *s, const json_t *message)
{
	if (strcmp(json_string_value(json_object_get(message, "session")), s->conf.session) != 0)
		return; /* about another session: it decides nothing here */
	if (strcmp(json_string_value(json_object_get(message, "decision")), "committed") == 0) {
		source_enter(s, SOURCE_COMPLETED);
		return;
	}
	s->error = (struct sluice_error){.code = -ECANCELED, .scope = SLUICE_SCOPE_SESSION};
	snprintf(s->error.text, sizeof(s->error.text),
		"the target aborted the session for good; the guest is the source's again");
	source_enter(s, SOURCE_FAILED);
}

void source_on_abort(struct sluice_source *s, const json_t *message)
{
	if (!source_guest_is_ours(s->state))
		return; /* it crossed our commit; the answer to that decides */
	s->peer_ended = true;
	source_fail_text(s, -ECANCELED, "the target gave up: %s",
		json_string_value(json_object_get(message, "reason")));
}

int sluice_source_resolve(
	struct sluice_source *s, enum sluice_decision decision, struct sluice_error *err)
{
	if (s->state != SOURCE_DOUBT)
		return sluice_fail(err, -EINVAL, "session-resolve",
			"the session is \"%s\", not in doubt", sluice_source_status(s));
	if (decision == SLUICE_COMMITTED) {
		source_enter(s, SOURCE_COMPLETED);
		return 0;
	}
	s->error = (struct sluice_error){.code = -ECANCELED, .scope = SLUICE_SCOPE_SESSION};
	snprintf(s->error.text, sizeof(s->error.text), "resolved as aborted by the operator");
	source_enter(s, SOURCE_FAILED);
	return 0;
}

/* A target that lives and says nothing about the commit is asked again, on a new link. */
void source_doubt_when_unanswered(struct sluice_source *s, uint64_t now_ns)
{
	if (s->state == SOURCE_COMMIT &&
		sluice_has_passed(now_ns, s->commit_ns, s->conf.peer_timeout_ns))
		sluice_source_peer_lost(s, -ETIMEDOUT, "the peer does not answer the commit");
}

/* Whoever it is that does not go on, the guest has waited long enough. */
void source_fail_when_stopped_too_long(struct sluice_source *s, uint64_t now_ns)
{
	if (s->conf.switchover_timeout_ns == 0 || s->stopped_ns == 0 ||
		!source_guest_is_ours(s->state) ||
		!sluice_has_passed(now_ns, s->stopped_ns, s->conf.switchover_timeout_ns))
		return;
	if (s->pause != PAUSE_NONE) {
		source_fail_text(s, -ETIMEDOUT,
			"with the guest stopped the migration was paused, and switchover-timeout "
			"is "
			"over: %s",
			s->pause_reason);
		return;
	}
	source_fail_text(s, -ETIMEDOUT,
		s->state == SOURCE_DRAIN
			? "the rest of the guest took longer than switchover-timeout to move"
		: s->state == SOURCE_PREPARE
			? "the target took longer than switchover-timeout to load the devices"
			: "the VMM took longer than switchover-timeout to give the guest away");
}
