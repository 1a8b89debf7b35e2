/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * source_regions.c: regions that the VMM adds and removes while a migration runs. Control thread.
 *
 *   WAITING   the VMM has added it. The target is told (`region-add`) and answers when its VMM has
 *             added the region too; our VMM adds a feed, and a dirty sync says that tracking is on
 *   MOVING    in the ledger; so are the regions of the hello from the beginning
 *   LEAVING   the VMM takes it back: nothing of it is queued, what lanes own they flush
 *   TOLD      out of the ledger. The target is told (`region-remove`), and confirms
 *   GONE      the mapping, the pin and the registration may go, and have gone
 *
 * A region keeps its index for the whole session, here, in the ledger and in messages; none is used
 * twice. Messages that were lost with the peer link are simply said again after `resumed`: the
 * target answers each of them as often as it hears it.
 *
 * While a region is WAITING, LEAVING or TOLD the guest is not stopped, and from the moment that it
 * is to stop (READY) regions do not change any more.
 */
#include <errno.h>
#include <string.h>

#include "base/assert.h"
#include "base/bits.h"
#include "base/clock.h"
#include "base/plant.h"
#include "engine/lane/crew.h"
#include "engine/session/source_internal.h"

static struct source_region *state_of(struct sluice_source *s, uint32_t region)
{
	SLUICE_ASSERT(region < s->conf.region_count);
	return &s->region_states[region];
}

bool source_region_moves(const struct sluice_source *s, uint32_t region)
{
	return s->region_states[region].standing == REGION_MOVING;
}

bool source_regions_settled(const struct sluice_source *s)
{
	for (uint32_t i = 0; i < s->conf.region_count; i++)
		if (s->region_states[i].standing != REGION_MOVING &&
			s->region_states[i].standing != REGION_GONE)
			return false;
	return true;
}

/* Of a region that is in the ledger now. */
static void tell_file(struct sluice_source *s, uint32_t region)
{
	uint64_t fd_offset;
	int fd;

	if (s->env.file_of == NULL)
		return;
	fd = s->env.file_of(s->env.ctx, region, &fd_offset);
	sluice_ledger_set_file(s->ledger, region, fd, fd_offset);
}

void source_regions_begin(struct sluice_source *s)
{
	s->hello_regions = s->conf.region_count;
	for (uint32_t i = 0; i < s->conf.region_count; i++) {
		s->region_states[i].standing = REGION_MOVING;
		tell_file(s, i);
	}
}

/* Something may be decided now that could not before: not only at the end of the interval. */
static void sync_soon(struct sluice_source *s)
{
	s->next_sync_ns = source_now(s);
	s->conf.wake(s->conf.wake_ctx);
}

/* ---- added ---- */

int sluice_source_may_change(
	const struct sluice_source *s, const char *command, struct sluice_error *err)
{
	if (s->state <= SOURCE_ACTIVE)
		return 0;
	return sluice_fail(err, -EBUSY, command,
		"the guest is being stopped and given away, and memory cannot change any more; do "
		"it when the migration has ended, or migrate_cancel first");
}

void sluice_source_region_add(struct sluice_source *s, uint32_t region)
{
	SLUICE_ASSERT(s->state <= SOURCE_ACTIVE && region == s->conf.region_count);
	SLUICE_ASSERT(region < SLUICE_REGIONS_MAX);
	s->conf.region_count++;
	s->region_states[region] =
		(struct source_region){.standing = REGION_WAITING, .since_ns = source_now(s)};
	s->conf.wake(s->conf.wake_ctx);
}

void sluice_source_region_fed(struct sluice_source *s, uint32_t region)
{
	/* The sync under way may have been answered in part, before there was a feed. */
	state_of(s, region)->sync_from = s->sync_id + 1;
	s->conf.wake(s->conf.wake_ctx);
}

static void say_add(struct sluice_source *s, uint32_t region)
{
	const struct sluice_session_region *r = &s->conf.regions[region];

	state_of(s, region)->said = true;
	state_of(s, region)->asked = true;
	source_send(s, json_pack("{s:s, s:I, s:s, s:I, s:I, s:I}", "type", "region-add", "region",
			       (json_int_t)region, "id", r->id, "gpa", (json_int_t)r->gpa, "size",
			       (json_int_t)r->len_bytes, "page-size", (json_int_t)r->page_bytes));
}

void source_on_region_added(struct sluice_source *s, const json_t *message)
{
	uint32_t region = (uint32_t)json_integer_value(json_object_get(message, "region"));
	const char *error = json_string_value(json_object_get(message, "error"));
	struct source_region *state = &s->region_states[region];

	if (!state->asked) {
		source_fail_text(s, -EPROTO,
			"the peer answered for region %u, which it was not asked for", region);
		return;
	}
	/* It crossed our region-remove; or the question, repeated, crossed the answer. */
	if (state->standing != REGION_WAITING || state->answer != NULL)
		return;
	if (error != NULL) {
		source_fail_text(s, -EINVAL,
			"region \"%s\" was added during the migration, and the target cannot take "
			"it: %s",
			s->conf.regions[region].id, error);
		return;
	}
	if (source_import_keys(s, region, message) < 0) {
		source_fail(s, &s->error);
		return;
	}
	state->answer = json_deep_copy(message);
}

bool source_regions_want_sync(const struct sluice_source *s)
{
	for (uint32_t i = 0; i < s->conf.region_count; i++)
		if (s->region_states[i].standing == REGION_WAITING &&
			s->region_states[i].sync_from > s->sync_id)
			return true;
	return false;
}

/* Each region that has a feed by now is tracked when this sync was asked behind it. */
void source_regions_synced(struct sluice_source *s, uint64_t id)
{
	for (uint32_t i = 0; i < s->conf.region_count; i++) {
		struct source_region *state = &s->region_states[i];

		if (state->sync_from != 0 && id >= state->sync_from)
			state->tracked = true;
	}
}

/*
 * Into the ledger, while no lane is stepped; then the first look at its holes. Tracking is on, so
 * what is written behind that is reported.
 */
static void let_move(struct sluice_source *s, uint32_t region)
{
	const struct sluice_session_region *r = &s->conf.regions[region];
	struct sluice_ledger_span span = {.base = r->base, .len_bytes = r->len_bytes};
	struct source_region *state = state_of(s, region);
	int result;

	sluice_lane_set_hold(&s->lanes);
	result = sluice_ledger_add_region(s->ledger, region, &span);
	if (result < 0)
		sluice_fail_scope(&s->error, SLUICE_SCOPE_SESSION, result, "memory-add",
			"region \"%s\" cannot join the migration: %s", r->id, strerror(-result));
	else
		result = source_read_region(s, region, state->answer);
	if (result == 0) {
		/* Lanes may take its chunks before the look: until then any page may be a hole. */
		tell_file(s, region);
		sluice_ledger_set_holes(s->ledger, region, 0, UINT64_MAX);
	}
	sluice_lane_set_go_on(&s->lanes);
	if (result < 0) {
		source_fail(s, &s->error);
		return;
	}
	state->standing = REGION_MOVING;
	source_look(s, region);
	source_wake_lanes(s);
	sync_soon(s);
}

/* Nobody waits for ever for somebody who was not told what to do. */
static bool waits_too_long(struct sluice_source *s, uint32_t region, uint64_t now_ns)
{
	const struct sluice_session_region *r = &s->conf.regions[region];
	const struct source_region *state = state_of(s, region);

	if (!source_link_usable(s) ||
		!sluice_has_passed(now_ns, state->since_ns, s->conf.region_timeout_ns))
		return false;
	if (state->answer == NULL)
		source_fail_text(s, -ETIMEDOUT,
			"region \"%s\" (%llu bytes at %#llx) was added during the migration, and "
			"the "
			"target's VMM has not added it within region-timeout; memory-add it there "
			"too, or memory-remove it here, then migrate again",
			r->id, (unsigned long long)r->len_bytes, (unsigned long long)r->gpa);
	else if (state->sync_from == 0)
		source_fail_text(s, -ETIMEDOUT,
			"region \"%s\" was added during the migration, and has had no feed within "
			"region-timeout: nobody says which of its pages become dirty; feed-add "
			"one, "
			"or memory-remove it, then migrate again",
			r->id);
	else
		return false; /* the sync is the VMM's to answer, as ever */
	return true;
}

static void step_waiting(struct sluice_source *s, uint32_t region, uint64_t now_ns)
{
	struct source_region *state = state_of(s, region);

	/* The welcome comes first. */
	if (!state->said && s->conf.outbox != NULL && source_link_usable(s))
		say_add(s, region);
	if (s->state == SOURCE_ACTIVE && state->answer != NULL && state->tracked)
		let_move(s, region);
	else
		waits_too_long(s, region, now_ns);
}

/* ---- removed ---- */

int sluice_source_region_remove(struct sluice_source *s, uint32_t region, struct sluice_error *err)
{
	struct source_region *state = state_of(s, region);
	int r = sluice_source_may_change(s, "memory-remove", err);

	if (r < 0)
		return r;
	if (state->standing == REGION_MOVING) {
		sluice_lane_set_hold(&s->lanes);
		sluice_ledger_close_region(s->ledger, region);
		sluice_lane_set_go_on(&s->lanes);
		state->standing = REGION_LEAVING;
	} else if (state->standing == REGION_WAITING) {
		state->standing = REGION_TOLD;
		state->said = false;
	} else {
		return sluice_fail(err, -EALREADY, "memory-remove",
			"region \"%s\" is being removed; MEMORY_REMOVED says when it is gone",
			s->conf.regions[region].id);
	}
	s->conf.wake(s->conf.wake_ctx);
	return 0;
}

static void gone(struct sluice_source *s, uint32_t region)
{
	struct source_region *state = state_of(s, region);

	state->standing = REGION_GONE;
	json_decref(state->answer);
	state->answer = NULL;
	s->env.region_gone(s->env.ctx, region);
	if (!sluice_source_is_over(s))
		sync_soon(s); /* perhaps the migration waited for this */
}

/* Every chunk was released, so each write to it is behind a FLUSH, or its lane behind a fence. */
static void step_leaving(struct sluice_source *s, uint32_t region)
{
	if (SLUICE_PLANTED(REMOVE_WITHOUT_FLUSH)) {
		state_of(s, region)->standing = REGION_TOLD;
		return;
	}
	if (!sluice_ledger_region_is_free(s->ledger, region))
		return;
	sluice_lane_set_hold(&s->lanes);
	sluice_ledger_drop_region(s->ledger, region);
	sluice_lane_set_go_on(&s->lanes);
	source_forget_keys(s, region);
	state_of(s, region)->standing = REGION_TOLD;
	state_of(s, region)->said = false;
}

static void step_told(struct sluice_source *s, uint32_t region)
{
	struct source_region *state = state_of(s, region);

	if (region >= s->hello_regions && !state->asked) {
		gone(s, region); /* the target has never heard of it */
	} else if (!state->said && s->conf.outbox != NULL && source_link_usable(s)) {
		state->said = true;
		source_send(s, json_pack("{s:s, s:I}", "type", "region-remove", "region",
				       (json_int_t)region));
	}
}

void source_on_region_removed(struct sluice_source *s, const json_t *message)
{
	uint32_t region = (uint32_t)json_integer_value(json_object_get(message, "region"));

	if (s->region_states[region].standing != REGION_TOLD || !s->region_states[region].said) {
		source_fail_text(s, -EPROTO,
			"the peer let go of region %u, which it was not asked for", region);
		return;
	}
	gone(s, region);
}

/* ---- time, lost links, the end ---- */

void source_step_regions(struct sluice_source *s, uint64_t now_ns)
{
	for (uint32_t i = 0; i < s->conf.region_count && s->state <= SOURCE_ACTIVE; i++) {
		if (s->region_states[i].standing == REGION_LEAVING)
			step_leaving(s, i);
		if (s->region_states[i].standing == REGION_TOLD)
			step_told(s, i);
		else if (s->region_states[i].standing == REGION_WAITING)
			step_waiting(s, i, now_ns);
	}
	source_look_again(s);
}

uint64_t source_regions_deadline_ns(const struct sluice_source *s)
{
	uint64_t at_ns = SLUICE_NEVER;

	for (uint32_t i = 0; i < s->conf.region_count && source_link_usable(s); i++) {
		const struct source_region *state = &s->region_states[i];
		uint64_t end_ns = state->since_ns + s->conf.region_timeout_ns + 1;

		if (state->standing == REGION_WAITING && end_ns < at_ns &&
			(state->answer == NULL || state->sync_from == 0))
			at_ns = end_ns;
	}
	return at_ns;
}

/* What was said and not answered is said again. A lost link is nobody's time. */
void source_regions_resumed(struct sluice_source *s)
{
	for (uint32_t i = 0; i < s->conf.region_count; i++) {
		struct source_region *state = &s->region_states[i];

		if (state->answer == NULL || state->standing == REGION_TOLD)
			state->said = false;
		state->since_ns = source_now(s);
	}
}

/* No lane is left, and nobody is told anything any more. */
void source_regions_over(struct sluice_source *s)
{
	for (uint32_t i = 0; i < s->conf.region_count; i++)
		if (s->region_states[i].standing == REGION_LEAVING ||
			s->region_states[i].standing == REGION_TOLD)
			gone(s, i);
}

void source_regions_destroy(struct sluice_source *s)
{
	for (uint32_t i = 0; i < s->conf.region_count; i++)
		json_decref(s->region_states[i].answer);
}

bool sluice_source_region_leaves(const struct sluice_source *s, uint32_t region)
{
	enum source_region_standing standing = s->region_states[region].standing;

	return standing == REGION_LEAVING || standing == REGION_TOLD || standing == REGION_GONE;
}

const char *sluice_source_region_standing(const struct sluice_source *s, uint32_t region)
{
	const struct source_region *state = &s->region_states[region];

	switch (state->standing) {
	case REGION_WAITING:
		return state->sync_from == 0   ? "waits-for-feed"
		       : state->answer == NULL ? "waits-for-target"
					       : "waits-for-sync";
	case REGION_MOVING:
		return "moving";
	case REGION_LEAVING:
	case REGION_TOLD:
	case REGION_GONE:
		break;
	}
	return "leaving";
}

/* The first that is in the way. */
void source_regions_json(const struct sluice_source *s, json_t *reply)
{
	uint32_t i = 0;
	const char *who;

	while (i < s->conf.region_count && (s->region_states[i].standing == REGION_MOVING ||
						   s->region_states[i].standing == REGION_GONE))
		i++;
	if (i == s->conf.region_count)
		return;
	if (s->region_states[i].standing != REGION_WAITING)
		who = "is being removed";
	else if (s->region_states[i].sync_from == 0)
		who = "has no feed: the source's VMM adds it with feed-add";
	else if (s->region_states[i].answer == NULL)
		who = "is not at the target: its VMM adds it with memory-add";
	else
		who = "is not tracked yet: the source's VMM answers DIRTY_SYNC";
	json_object_set_new(
		reply, "waits-for", json_sprintf("region \"%s\" %s", s->conf.regions[i].id, who));
}
