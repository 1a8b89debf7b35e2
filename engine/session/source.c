/* SPDX-License-Identifier: BSD-3-Clause */
/* source.c: the state machine of a source; its states are in source_internal.h. Control thread. */
#include "engine/session/source.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/bits.h"
#include "base/clock.h"
#include "base/text.h"
#include "engine/lane/crew.h"
#include "engine/session/source_internal.h"

#define PROGRESS_NS (200 * SLUICE_NS_PER_MS)

bool source_guest_is_ours(enum source_state state)
{
	return state <= SOURCE_ASK;
}

bool sluice_source_is_over(const struct sluice_source *source)
{
	return source->state >= SOURCE_COMPLETED;
}

bool sluice_source_is_in_doubt(const struct sluice_source *source)
{
	return source->state == SOURCE_DOUBT;
}

void source_wake_lanes(struct sluice_source *s)
{
	if (s->conf.crew != NULL)
		sluice_crew_wake(s->conf.crew);
}

void source_tell_throttle(struct sluice_source *s, uint32_t percent)
{
	if (percent == s->throttle_told)
		return;
	s->throttle_told = percent;
	s->env.vmm_event(
		s->env.ctx, "THROTTLE", json_pack("{s:I}", "percent", (json_int_t)percent));
}

void source_enter(struct sluice_source *s, enum source_state state)
{
	const char *before = sluice_source_status(s);

	SLUICE_ASSERT(!sluice_source_is_over(s));
	if (state >= SOURCE_FAILED && source_guest_is_ours(s->state))
		source_begin_farewell(s);
	s->state = state;
	if (state == SOURCE_COMPLETED)
		source_end_phase(s, &s->downtime.commit_ns);
	if (sluice_source_is_over(s)) {
		if (s->pause != PAUSE_NONE)
			s->paused_ns += source_now(s) - s->pause_since_ns;
		s->pause = PAUSE_NONE;
		s->over_ns = source_now(s);
		__atomic_store_n(&s->work.gate, 0, __ATOMIC_RELEASE);
		sluice_lane_set_close_all(&s->lanes);
		source_regions_over(s);
		source_tell_throttle(s, 0);
	}
	if (strcmp(before, sluice_source_status(s)) != 0)
		source_tell_status(s);
}

/*
 * Only while the guest is ours. The target may still be told to commit by nobody: no commit was
 * recorded, and without the record none is ever sent.
 */
void source_fail(struct sluice_source *s, const struct sluice_error *error)
{
	SLUICE_ASSERT(source_guest_is_ours(s->state));
	if (&s->error != error)
		s->error = *error;
	source_send_abort(s, s->error.text);
	source_enter(s, SOURCE_FAILED);
}

void source_fail_text(struct sluice_source *s, int code, const char *fmt, ...)
{
	struct sluice_error error = {
		.code = code, .scope = SLUICE_SCOPE_SESSION, .where = "source"};
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(error.text, sizeof(error.text), fmt, ap);
	va_end(ap);
	sluice_text_make_utf8(error.text);
	source_fail(s, &error);
}

int sluice_source_create(const struct sluice_session_conf *conf,
	const struct sluice_session_env *env, struct sluice_source **ret_source)
{
	struct sluice_ledger_span spans[SLUICE_REGIONS_MAX];
	struct sluice_source *s = calloc(1, sizeof(*s));
	int r;

	SLUICE_ASSERT(conf->region_count <= SLUICE_ARRAY_LEN(spans));
	SLUICE_ASSERT(conf->lanes >= 1 && conf->lanes <= SLUICE_LANES_MAX);
	if (s == NULL)
		return -ENOMEM;
	for (uint32_t i = 0; i < conf->region_count; i++)
		spans[i] = (struct sluice_ledger_span){
			.base = conf->regions[i].base, .len_bytes = conf->regions[i].len_bytes};
	r = sluice_ledger_create(spans, conf->region_count, &s->ledger);
	if (r < 0) {
		free(s);
		return r;
	}
	s->conf = *conf;
	s->env = *env;
	s->work.ledger = s->ledger;
	sluice_pace_set(&s->work.pace, conf->max_bandwidth_bytes_per_s);
	s->work.wake = conf->wake;
	s->work.wake_ctx = conf->wake_ctx;
	s->lanes.crew = conf->crew;
	s->lanes.work = &s->work;
	s->lanes.role = SLUICE_ROLE_SOURCE;
	s->lanes.count = conf->lanes;
	s->lanes.extent_bytes = conf->extent_bytes;
	s->lanes.window_bytes =
		sluice_align_down(conf->memory_budget_bytes / conf->lanes, SLUICE_PAGE_BYTES);
	if (s->lanes.window_bytes < SLUICE_PAGE_BYTES)
		s->lanes.window_bytes = SLUICE_PAGE_BYTES;
	for (uint32_t lane = 0; lane < conf->lanes; lane++)
		s->lanes.slots[lane].retry_ns = SLUICE_NEVER;
	source_regions_begin(s);
	s->retry_ns = SLUICE_NEVER;
	s->start_ns = source_now(s);
	s->heard_ns = s->start_ns;
	source_tell_status(s);
	*ret_source = s;
	return 0;
}

void sluice_source_destroy(struct sluice_source *s)
{
	if (s == NULL)
		return;
	sluice_lane_set_close_all(&s->lanes);
	for (uint32_t i = 0; i < s->conf.region_count; i++)
		source_forget_keys(s, i);
	source_regions_destroy(s);
	source_forget_rails(s);
	sluice_outbox_destroy(s->conf.outbox);
	sluice_ledger_destroy(s->ledger);
	free(s);
}

int sluice_source_cancel(struct sluice_source *s, struct sluice_error *err)
{
	if (sluice_source_is_over(s))
		return sluice_fail(err, -EINVAL, "migrate_cancel", "no migration is running");
	if (!source_guest_is_ours(s->state))
		return sluice_fail(err, -EBUSY, "migrate_cancel",
			"the guest has been given to the target; it is too late to cancel");
	source_send_abort(s, "cancelled at the source");
	source_enter(s, SOURCE_CANCELLED);
	return 0;
}

/* Looked at all the time, so that the guest is not stopped for a migration that is to fail; and
   once more when lanes have read their last page. */
bool source_fail_when_memory_lost(struct sluice_source *s)
{
	if (s->state < SOURCE_ACTIVE || s->state > SOURCE_DRAIN || !s->env.memory_lost(s->env.ctx))
		return false;
	source_fail_text(s, -EIO,
		"a file that backs guest memory shrank; what was read from it is not the guest's "
		"memory. Back the guest with sealed memfds");
	return true;
}

void sluice_source_tick(struct sluice_source *s)
{
	uint64_t now_ns = source_now(s);

	if (sluice_source_is_over(s)) {
		source_step_farewell(s, now_ns);
		return;
	}
	if (s->state == SOURCE_SETUP && now_ns > s->start_ns + s->conf.setup_timeout_ns) {
		source_fail_text(s, -ETIMEDOUT,
			"the target, its lanes or the VMM's first dirty "
			"sync took longer than setup-timeout");
		return;
	}
	source_keep_alive(s, now_ns);
	source_doubt_when_unanswered(s, now_ns);
	source_read_mailboxes(s);
	if (source_fail_when_memory_lost(s))
		return;
	source_share_queued_again(s);
	source_step_lanes(s, now_ns);
	source_step_regions(s, now_ns);
	if (s->state == SOURCE_ACTIVE)
		source_sync_when_due(s, now_ns);
	source_finish_when_drained(s);
	source_fail_when_stopped_too_long(s, now_ns);
	source_retry_when_due(s, now_ns);
	if (!sluice_source_is_over(s) && now_ns - s->progress_ns >= PROGRESS_NS) {
		s->progress_ns = now_ns;
		source_tell_progress(s, now_ns);
	}
}

uint64_t sluice_source_deadline_ns(const struct sluice_source *s)
{
	uint64_t at_ns = s->progress_ns + PROGRESS_NS;

	if (sluice_source_is_over(s))
		return source_retry_deadline_ns(s);
	if (source_next_sync_ns(s) < at_ns)
		at_ns = source_next_sync_ns(s);
	if (source_regions_deadline_ns(s) < at_ns)
		at_ns = source_regions_deadline_ns(s);
	if (source_lanes_deadline_ns(s) < at_ns)
		at_ns = source_lanes_deadline_ns(s);
	if (source_retry_deadline_ns(s) < at_ns)
		at_ns = source_retry_deadline_ns(s);
	return at_ns;
}

void sluice_source_set_policy(struct sluice_source *s, const struct sluice_policy_conf *policy)
{
	s->conf.policy = *policy;
}

void sluice_source_set_max_bandwidth(struct sluice_source *s, uint64_t bytes_per_s)
{
	s->conf.max_bandwidth_bytes_per_s = bytes_per_s;
	sluice_pace_set(&s->work.pace, s->stopped_ns == 0 ? bytes_per_s : 0);
	source_wake_lanes(s);
}

struct sluice_outbox *sluice_source_outbox(struct sluice_source *s)
{
	return s->conf.outbox;
}

const struct sluice_lane_set *sluice_source_lanes(const struct sluice_source *s)
{
	return &s->lanes;
}
