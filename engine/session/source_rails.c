/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * source_rails.c: the rails of a session: which transport of those that both ends have, which rail
 * of ours goes with which of the target's, how memory is reached over each such pair, and which
 * lane goes over which. Control thread.
 *
 * The target tells its rails before its welcome, one message each: keys of 64 regions would not fit
 * into one for all. At the welcome the source chooses.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/bits.h"
#include "base/text.h"
#include "engine/session/source_internal.h"

#define ANY_RAIL UINT32_MAX

static const char *text_of(const json_t *object, const char *key)
{
	return json_string_value(json_object_get(object, key));
}

static int bad_rail(struct sluice_source *s, const char *text)
{
	return sluice_fail_scope(
		&s->error, SLUICE_SCOPE_SESSION, -EPROTO, "rail", "the peer %s", text);
}

/* ---- which transport ---- */

static bool peer_has(const struct sluice_source *s, uint32_t index, const char *transport)
{
	const json_t *said = s->peer_rails[index].said;

	return said != NULL && strcmp(text_of(said, "transport"), transport) == 0;
}

static bool any_of_peer(const struct sluice_source *s, const char *transport)
{
	for (uint32_t i = 0; i < SLUICE_RAILS_MAX; i++)
		if (peer_has(s, i, transport))
			return true;
	return false;
}

/* The peer says where its lanes wait: not even it may lead memory out of the host unasked. */
static int check_ways(struct sluice_source *s, const struct sluice_transport *transport)
{
	for (uint32_t i = 0; i < SLUICE_RAILS_MAX; i++)
		if (peer_has(s, i, transport->name) && !s->conf.lanes_may_leave &&
			!transport->address_is_local(s->peer_rails[i].address))
			return sluice_fail_scope(&s->error, SLUICE_SCOPE_SESSION, -EPERM, "welcome",
				"the peer's lanes wait at %.120s, and guest memory would go there "
				"in clear text; set lane-security: none at both ends if you trust "
				"that network",
				s->peer_rails[i].address);
	return 0;
}

static void add_reason(struct sluice_source *s, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

static void add_reason(struct sluice_source *s, const char *fmt, ...)
{
	size_t used = strlen(s->transport_why);
	va_list ap;

	if (used > 0)
		used += (size_t)snprintf(
			s->transport_why + used, sizeof(s->transport_why) - used, "; ");
	if (used >= sizeof(s->transport_why))
		return;
	va_start(ap, fmt);
	vsnprintf(s->transport_why + used, sizeof(s->transport_why) - used, fmt, ap);
	va_end(ap);
}

static void add_lacks(struct sluice_source *s, const json_t *message)
{
	const json_t *entry, *lacks = json_object_get(message, "lacks");
	size_t i;

	for (uint32_t k = 0; k < s->conf.lack_count; k++)
		add_reason(
			s, "no %s here: %s", s->conf.lacks[k].transport, s->conf.lacks[k].reason);
	json_array_foreach (lacks, i, entry)
		add_reason(s, "no %s at the target: %s", text_of(entry, "transport"),
			text_of(entry, "reason"));
}

/* The first of ours that the peer has too, and that may be used for where its rails are. */
static int choose_transport(struct sluice_source *s, const json_t *message)
{
	const struct sluice_transport *last = NULL;
	int r = -ENOENT;

	for (uint32_t i = 0; i < s->conf.rail_count; i++) {
		const struct sluice_transport *t = s->conf.rails[i].transport;

		if (t == last || s->conf.rails[i].rail == NULL)
			continue;
		last = t;
		if (!any_of_peer(s, t->name)) {
			add_reason(s, "the target offers no rail of %s", t->name);
			continue;
		}
		s->error = (struct sluice_error){0};
		r = check_ways(s, t);
		if (r == 0) {
			s->transport = t;
			break;
		}
		add_reason(s, "not %s: %s", t->name, s->error.text);
	}
	add_lacks(s, message);
	sluice_text_make_utf8(s->transport_why);
	if (s->transport == NULL && r == -ENOENT)
		sluice_fail_scope(&s->error, SLUICE_SCOPE_SESSION, -EPROTO, "welcome",
			"the target offers no rail of a transport that this engine has: %s",
			s->transport_why);
	if (s->transport != NULL && s->transport_why[0] == '\0')
		add_reason(s, "both ends have it");
	return s->transport != NULL ? 0 : r;
}

/* ---- pairs, and what is reached over them ---- */

static int import_key(struct sluice_source *s, struct sluice_rail *rail, const char *hex,
	struct sluice_remote **ret_remote)
{
	uint8_t key[SLUICE_KEY_BYTES_MAX];
	int bytes = sluice_unhex(hex, key, sizeof(key));

	if (bytes < 0)
		return bad_rail(s, "sent a memory key that is not hexadecimal");
	return s->transport->mem_import(rail, key, (size_t)bytes, ret_remote, &s->error);
}

/* The outbox is registered once with each rail of ours, whatever pairs it is in. */
static int register_outbox(struct sluice_source *s, uint32_t ours)
{
	struct sluice_rail_limits limits;
	struct sluice_span span = {.id = UINT32_MAX,
		.addr = s->conf.outbox->pool,
		.len_bytes = (uint64_t)s->conf.outbox->slots * s->conf.outbox->slot_bytes};

	s->transport->rail_limits(s->conf.rails[ours].rail, &limits);
	if (s->outbox_mems[ours] != NULL || !(limits.caps & SLUICE_CAP_REGISTERS_MEMORY))
		return 0;
	return s->transport->mem_register(s->conf.rails[ours].rail, &span, SLUICE_ACCESS_LOCAL_READ,
		&s->outbox_mems[ours], &s->error);
}

static int reach_region(struct sluice_source *s, uint32_t pair, uint32_t region, const char *key)
{
	int r = import_key(s, s->pairs[pair].rail, key, &s->remotes[pair][region]);

	s->regions[pair][region] = (struct sluice_lane_region){
		.mem = s->conf.regions[region].mems[s->pairs[pair].ours],
		.remote = s->remotes[pair][region]};
	return r;
}

static int reach(struct sluice_source *s, uint32_t index)
{
	struct sluice_rail_pair *pair = &s->pairs[index];
	const json_t *said = s->peer_rails[pair->theirs].said;
	const json_t *keys = json_object_get(said, "keys");
	int r = register_outbox(s, pair->ours);

	if (r == 0)
		r = import_key(s, pair->rail, text_of(said, "staging-key"), &s->stagings[index]);
	for (uint32_t i = 0; i < s->hello_regions && r == 0; i++)
		r = reach_region(s, index, i, json_string_value(json_array_get(keys, i)));
	pair->regions = s->regions[index];
	pair->outbox_mem = s->outbox_mems[pair->ours];
	pair->staging = s->stagings[index];
	return r;
}

/* The key of rail @rail in a `region-added`; one that is missing is none. */
static const char *key_of(const json_t *message, uint32_t rail)
{
	const json_t *entry, *keys = json_object_get(message, "keys");
	size_t i;

	json_array_foreach (keys, i, entry)
		if ((uint32_t)json_integer_value(json_object_get(entry, "rail")) == rail)
			return text_of(entry, "key");
	return "";
}

int source_import_keys(struct sluice_source *s, uint32_t region, const json_t *message)
{
	int r = 0;

	for (uint32_t i = 0; i < s->pair_count && r == 0; i++)
		r = reach_region(s, i, region, key_of(message, s->pairs[i].theirs));
	return r;
}

void source_forget_keys(struct sluice_source *s, uint32_t region)
{
	for (uint32_t i = 0; i < s->pair_count; i++) {
		s->transport->mem_forget(s->remotes[i][region]);
		s->remotes[i][region] = NULL;
		s->regions[i][region] = (struct sluice_lane_region){.mem = NULL};
	}
}

static int renew_pair(struct sluice_source *s, uint32_t index, const json_t *message)
{
	struct sluice_rail_pair *pair = &s->pairs[index];
	const json_t *key, *keys = json_object_get(message, "keys");
	struct sluice_remote *remote;
	size_t i;
	int r;

	source_lose_lanes_over(s, index);
	if (sluice_source_is_over(s))
		return 0; /* those were the last lanes that could be connected */
	memcpy(pair->peer_address, s->peer_rails[pair->theirs].address, SLUICE_ADDRESS_MAX);
	r = import_key(s, pair->rail, text_of(message, "staging-key"), &remote);
	if (r < 0)
		return r;
	s->transport->mem_forget(s->stagings[index]);
	pair->staging = s->stagings[index] = remote;
	json_array_foreach (keys, i, key) {
		/* One that is coming or going has no key at one of the ends. */
		if (s->remotes[index][i] == NULL || *json_string_value(key) == '\0')
			continue;
		r = import_key(s, pair->rail, json_string_value(key), &remote);
		if (r < 0)
			return r;
		s->transport->mem_forget(s->remotes[index][i]);
		s->regions[index][i].remote = s->remotes[index][i] = remote;
	}
	return 0;
}

/* The device of a rail of the target's was gone and is back: its keys are others now. */
static void rail_renewed(struct sluice_source *s, uint32_t index, const json_t *message)
{
	struct source_peer_rail *rail = &s->peer_rails[index];
	int r = 0;

	if (s->state > SOURCE_DRAIN)
		return; /* it crossed `finish`: nothing goes over it any more */
	if (rail->said == NULL ||
		strcmp(text_of(rail->said, "transport"), text_of(message, "transport")) != 0)
		r = bad_rail(s, "told a rail behind its welcome");
	if (r == 0) {
		snprintf(rail->address, sizeof(rail->address), "%s", text_of(message, "address"));
		r = check_ways(s, s->transport);
	}
	for (uint32_t i = 0; i < s->pair_count && r == 0; i++)
		if (s->pairs[i].theirs == index)
			r = renew_pair(s, i, message);
	if (r < 0)
		source_fail(s, &s->error);
}

void source_on_rail(struct sluice_source *s, const json_t *message)
{
	uint32_t index = (uint32_t)json_integer_value(json_object_get(message, "rail"));
	const json_t *keys = json_object_get(message, "keys");
	int r = 0;

	SLUICE_ASSERT(index < SLUICE_RAILS_MAX); /* by the schema */
	if (s->conf.outbox != NULL) {
		rail_renewed(s, index, message);
		return;
	}
	if (s->peer_rails[index].said != NULL)
		r = bad_rail(s, "told one rail twice");
	else if (json_array_size(keys) != s->hello_regions)
		r = bad_rail(s, "told a rail with keys of other regions than were asked for");
	if (r < 0) {
		source_fail(s, &s->error);
		return;
	}
	s->peer_rails[index].said = json_incref((json_t *)(uintptr_t)message);
	snprintf(s->peer_rails[index].address, SLUICE_ADDRESS_MAX, "%s",
		text_of(message, "address"));
}

static void make_pairs(struct sluice_source *s)
{
	uint32_t ours[SLUICE_RAILS_MAX], theirs[SLUICE_RAILS_MAX], our_count = 0, their_count = 0;
	struct sluice_rail_match matches[SLUICE_RAILS_MAX];
	struct sluice_subnet subnets[SLUICE_RAILS_MAX];
	const char *addresses[SLUICE_RAILS_MAX];

	for (uint32_t i = 0; i < s->conf.rail_count; i++)
		if (s->conf.rails[i].transport == s->transport && s->conf.rails[i].rail != NULL) {
			subnets[our_count] = s->conf.rails[i].subnet;
			ours[our_count++] = i;
		}
	for (uint32_t i = 0; i < SLUICE_RAILS_MAX; i++)
		if (peer_has(s, i, s->transport->name)) {
			addresses[their_count] = s->peer_rails[i].address;
			theirs[their_count++] = i;
		}
	s->pair_count = sluice_rails_match(
		subnets, our_count, addresses, their_count, s->conf.pairs_by_order, matches);
	for (uint32_t i = 0; i < s->pair_count; i++) {
		struct sluice_rail_pair *pair = &s->pairs[i];

		*pair = (struct sluice_rail_pair){.transport = s->transport,
			.ours = ours[matches[i].ours],
			.theirs = theirs[matches[i].theirs],
			.why = matches[i].why};
		pair->rail = s->conf.rails[pair->ours].rail;
		s->transport->rail_limits(pair->rail, &pair->limits);
		memcpy(pair->peer_address, s->peer_rails[pair->theirs].address, SLUICE_ADDRESS_MAX);
	}
}

/* ---- which lane goes where ---- */

static uint32_t lanes_over(const struct sluice_source *s, uint32_t pair)
{
	uint32_t count = 0;

	for (uint32_t lane = 0; lane < s->conf.lanes; lane++)
		count += s->lane_pairs[lane] == pair;
	return count;
}

/* Of the pairs with our rail @ours the one with the fewest lanes, or SOURCE_NO_PAIR. */
static uint32_t emptiest(const struct sluice_source *s, uint32_t ours)
{
	uint32_t best = SOURCE_NO_PAIR;

	for (uint32_t i = 0; i < s->pair_count; i++)
		if ((ours == ANY_RAIL || s->pairs[i].ours == ours) &&
			(best == SOURCE_NO_PAIR || lanes_over(s, i) < lanes_over(s, best)))
			best = i;
	return best;
}

static void place_lanes(struct sluice_source *s)
{
	uint32_t planned[SLUICE_LANES_MAX];

	memset(planned, 0xff, sizeof(planned));
	memset(s->lane_pairs, 0xff, sizeof(s->lane_pairs));
	if (s->env.plan_lanes != NULL)
		s->env.plan_lanes(s->env.ctx, s->transport, planned);
	for (uint32_t lane = 0; lane < s->conf.lanes; lane++) {
		uint32_t pair = emptiest(s, planned[lane]);

		s->lane_pairs[lane] = pair != SOURCE_NO_PAIR ? pair : emptiest(s, ANY_RAIL);
	}
}

int source_choose_rails(struct sluice_source *s, const json_t *message)
{
	int r = choose_transport(s, message);

	if (r < 0)
		return r;
	make_pairs(s);
	for (uint32_t i = 0; i < s->pair_count && r == 0; i++)
		r = reach(s, i);
	s->lanes.pairs = s->pairs;
	s->lanes.pair_count = s->pair_count;
	place_lanes(s);
	return r;
}

/* The target may be reached by another address now, and its rails with it. Lanes are all closed. */
int source_update_rails(struct sluice_source *s, const json_t *message)
{
	const json_t *entry, *rails = json_object_get(message, "rails");
	size_t k;

	json_array_foreach (rails, k, entry) {
		uint32_t index = (uint32_t)json_integer_value(json_object_get(entry, "rail"));

		if (s->peer_rails[index].said == NULL)
			return sluice_fail_scope(&s->error, SLUICE_SCOPE_SESSION, -EPROTO,
				"resumed", "the peer speaks of rail %u, which it never told",
				index);
		snprintf(s->peer_rails[index].address, SLUICE_ADDRESS_MAX, "%s",
			text_of(entry, "address"));
	}
	if (check_ways(s, s->transport) < 0)
		return -EPERM;
	for (uint32_t i = 0; i < s->pair_count; i++)
		memcpy(s->pairs[i].peer_address, s->peer_rails[s->pairs[i].theirs].address,
			SLUICE_ADDRESS_MAX);
	return 0;
}

void source_forget_rails(struct sluice_source *s)
{
	for (uint32_t i = 0; i < s->pair_count; i++)
		s->transport->mem_forget(s->stagings[i]);
	for (uint32_t i = 0; i < SLUICE_RAILS_MAX; i++) {
		if (s->outbox_mems[i] != NULL)
			s->transport->mem_unregister(s->outbox_mems[i]);
		json_decref(s->peer_rails[i].said);
	}
}

/* ---- a rail that is dead ---- */

/*
 * Lanes of a dead rail try it again and again, with growing waits. When that does not help, all but
 * the first of them go over a rail that lives; the first one stays, and finds out when the rail is
 * back. Where no rail lives nobody moves: the session is paused, and every rail may come back.
 */
uint32_t source_pair_to_try(struct sluice_source *s, uint32_t lane)
{
	uint32_t mine = s->lane_pairs[lane], best = mine;
	bool first = true;

	if (s->lanes.slots[lane].tries < SOURCE_TRIES_OF_A_RAIL ||
		sluice_lane_set_standing_over(&s->lanes, mine, SLUICE_LANE_ACTIVE) > 0)
		return mine;
	for (uint32_t other = 0; other < lane; other++)
		first &= s->lane_pairs[other] != mine;
	for (uint32_t i = 0; i < s->pair_count && !first; i++)
		if (sluice_lane_set_standing_over(&s->lanes, i, SLUICE_LANE_ACTIVE) > 0 &&
			(best == mine || lanes_over(s, i) < lanes_over(s, best)))
			best = i;
	if (best != mine) {
		s->lane_pairs[lane] = best;
		s->lanes.slots[lane].moved++;
	}
	return best;
}

/* ---- telling ---- */

void source_gone_rails(const struct sluice_source *s, char *text, size_t text_bytes)
{
	size_t used = 0;

	text[0] = '\0';
	for (uint32_t i = 0; i < s->conf.rail_count && used < text_bytes; i++)
		if (s->conf.rails[i].transport == s->transport && s->conf.rails[i].rail != NULL &&
			sluice_rail_is_gone(s->transport, s->conf.rails[i].rail))
			used += (size_t)snprintf(text + used, text_bytes - used, "%s%s",
				used == 0 ? " (device removed: " : ", ", s->conf.rails[i].name);
	if (used > 0 && used < text_bytes)
		snprintf(text + used, text_bytes - used, ")");
}

void source_rails_json(const struct sluice_source *s, json_t *reply)
{
	json_t *rails = json_array();

	if (s->transport != NULL) {
		json_object_set_new(reply, "transport", json_string(s->transport->name));
		json_object_set_new(reply, "transport-reason", json_string(s->transport_why));
	}
	for (uint32_t i = 0; i < s->pair_count; i++) {
		const struct sluice_rail_pair *pair = &s->pairs[i];

		json_array_append_new(
			rails, json_pack("{s:s, s:s, s:s, s:I, s:I}", "rail",
				       s->conf.rails[pair->ours].name, "peer", pair->peer_address,
				       "paired", pair->why, "lanes", (json_int_t)lanes_over(s, i),
				       "lanes-active",
				       (json_int_t)sluice_lane_set_standing_over(
					       &s->lanes, i, SLUICE_LANE_ACTIVE)));
	}
	json_object_set_new(reply, "rails", rails);
}
