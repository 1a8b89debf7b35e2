/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * target_rails.c: a target's rails: which of them the source is told, with the keys of all memory.
 * Control thread.
 */
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "engine/session/target_internal.h"

bool target_rail_is_wanted(
	const struct sluice_session_conf *conf, uint32_t index, const json_t *hello)
{
	const struct sluice_session_rail *rail = &conf->rails[index];
	const json_t *name, *transports = json_object_get(hello, "transports");
	size_t i;

	if (rail->rail == NULL || rail->address[0] == '\0')
		return false;
	json_array_foreach (transports, i, name)
		if (strcmp(json_string_value(name), rail->transport->name) == 0)
			return true;
	return false;
}

static json_t *export_key(const struct sluice_transport *transport, const struct sluice_mem *mem)
{
	uint8_t key[SLUICE_KEY_BYTES_MAX];
	int bytes = transport->mem_export(mem, key, sizeof(key));

	SLUICE_ASSERT(bytes >= 0 && bytes <= (int)sizeof(key));
	return sluice_hex(key, (size_t)bytes);
}

bool target_offers(const struct sluice_target *t, uint32_t rail)
{
	return rail < t->conf.rail_count && t->told_rails >> rail & 1;
}

/* A rail that listens on every address is told as the one that the source came by. */
static void address_of(
	const struct sluice_target *t, uint32_t rail, char ret_address[SLUICE_ADDRESS_MAX])
{
	snprintf(ret_address, SLUICE_ADDRESS_MAX, "%s", t->conf.rails[rail].address);
	if (t->env.rail_address != NULL)
		t->env.rail_address(t->env.ctx, rail, ret_address);
}

json_t *target_rail_addresses(const struct sluice_target *t)
{
	json_t *rails = json_array();

	for (uint32_t i = 0; i < t->conf.rail_count; i++) {
		char address[SLUICE_ADDRESS_MAX];

		if (!target_offers(t, i))
			continue;
		address_of(t, i, address);
		json_array_append_new(
			rails, json_pack("{s:I, s:s}", "rail", (json_int_t)i, "address", address));
	}
	return rails;
}

static uint64_t returns_of(const struct sluice_target *t, uint32_t index)
{
	const struct sluice_session_rail *rail = &t->conf.rails[index];

	return rail->transport->rail_stats(rail->rail)->returns;
}

/* By the source's numbers; a region that is not here has none. */
static json_t *keys_of(const struct sluice_target *t, uint32_t index)
{
	const struct sluice_session_rail *rail = &t->conf.rails[index];
	json_t *keys = json_array();
	uint32_t count = SLUICE_REGIONS_MAX;

	while (count > 0 && t->wire[count - 1].standing != WIRE_HERE)
		count--;
	for (uint32_t n = 0; n < count; n++) {
		const struct sluice_session_region *region = &t->conf.regions[t->wire[n].region];

		json_array_append_new(
			keys, t->wire[n].standing == WIRE_HERE
				      ? export_key(rail->transport, region->mems[index])
				      : json_string(""));
	}
	return keys;
}

static void say_rail(struct sluice_target *t, uint32_t index)
{
	const struct sluice_session_rail *rail = &t->conf.rails[index];
	char address[SLUICE_ADDRESS_MAX];

	address_of(t, index, address);
	t->told_returns[index] = returns_of(t, index);
	target_send(t, json_pack("{s:s, s:I, s:s, s:s, s:o, s:o}", "type", "rail", "rail",
			       (json_int_t)index, "transport", rail->transport->name, "address",
			       address, "keys", keys_of(t, index), "staging-key",
			       export_key(rail->transport, rail->staging)));
}

json_t *target_region_keys(const struct sluice_target *t, uint32_t region)
{
	json_t *keys = json_array();

	for (uint32_t i = 0; i < t->conf.rail_count; i++)
		if (target_offers(t, i))
			json_array_append_new(
				keys, json_pack("{s:I, s:o}", "rail", (json_int_t)i, "key",
					      export_key(t->conf.rails[i].transport,
						      t->conf.regions[region].mems[i])));
	return keys;
}

void target_say_rails(struct sluice_target *t, const json_t *hello)
{
	for (uint32_t i = 0; i < t->conf.rail_count; i++) {
		if (target_rail_is_wanted(&t->conf, i, hello)) {
			t->told_rails |= 1u << i;
			say_rail(t, i);
		}
	}
}

void target_say_rail_anew(struct sluice_target *t, uint32_t rail)
{
	if (t->told_returns[rail] != returns_of(t, rail))
		say_rail(t, rail);
}

void target_rails_resumed(struct sluice_target *t)
{
	for (uint32_t i = 0; i < t->conf.rail_count; i++)
		if (target_offers(t, i) && returns_of(t, i) > 0)
			t->told_returns[i] = UINT64_MAX;
}

void target_rails_json(const struct sluice_target *t, json_t *reply)
{
	json_t *rails = json_array();

	for (uint32_t i = 0; i < t->conf.rail_count; i++) {
		uint32_t active, lanes = 0;

		if (!target_offers(t, i))
			continue;
		active = sluice_lane_set_standing_over(&t->lanes, i, SLUICE_LANE_ACTIVE);
		for (uint32_t lane = 0; lane < t->lanes.count; lane++)
			lanes += t->lanes.slots[lane].epoch != 0 && t->lanes.slots[lane].pair == i;
		if (active > 0)
			json_object_set_new(
				reply, "transport", json_string(t->conf.rails[i].transport->name));
		json_array_append_new(
			rails, json_pack("{s:s, s:I, s:I}", "rail", t->conf.rails[i].name, "lanes",
				       (json_int_t)lanes, "lanes-active", (json_int_t)active));
	}
	json_object_set_new(reply, "rails", rails);
}
