/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * target_setup.c: the source's hello, and the welcome that answers it. Control thread.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "engine/device/inbox.h"
#include "engine/session/target_internal.h"

static int match_regions(
	const struct sluice_session_conf *conf, const json_t *hello, struct sluice_error *err)
{
	const json_t *regions = json_object_get(hello, "regions");
	size_t count = json_array_size(regions);

	if (count != conf->region_count)
		return sluice_fail_scope(err, SLUICE_SCOPE_SESSION, -EINVAL, "regions",
			"the source has %zu memory regions and the target %u; add the same regions "
			"on both hosts",
			count, conf->region_count);
	for (uint32_t i = 0; i < conf->region_count; i++) {
		const struct sluice_session_region *r = &conf->regions[i];
		const json_t *entry = json_array_get(regions, i);
		const char *id = json_string_value(json_object_get(entry, "id"));
		uint64_t size = (uint64_t)json_integer_value(json_object_get(entry, "size"));
		uint64_t gpa = (uint64_t)json_integer_value(json_object_get(entry, "gpa"));

		if (strcmp(id, r->id) != 0)
			return sluice_fail_scope(err, SLUICE_SCOPE_SESSION, -EINVAL, "regions",
				"the source has a region \"%s\" where the target has \"%s\"; use "
				"the same ids on both hosts",
				id, r->id);
		if (size != r->len_bytes)
			return sluice_fail_scope(err, SLUICE_SCOPE_SESSION, -EINVAL, "regions",
				"region \"%s\" has %llu bytes at the source and %llu at the target",
				id, (unsigned long long)size, (unsigned long long)r->len_bytes);
		if (gpa != r->gpa)
			return sluice_fail_scope(err, SLUICE_SCOPE_SESSION, -EINVAL, "regions",
				"region \"%s\" is at guest-physical %#llx at the source and %#llx "
				"at the target",
				id, (unsigned long long)gpa, (unsigned long long)r->gpa);
	}
	return 0;
}

static int refuse_transports(
	const struct sluice_session_conf *conf, const json_t *hello, struct sluice_error *err)
{
	json_t *ours = sluice_session_transports(conf);
	char *theirs_text = json_dumps(json_object_get(hello, "transports"), JSON_COMPACT);
	char *ours_text = json_dumps(ours, JSON_COMPACT);

	sluice_fail_scope(err, SLUICE_SCOPE_SESSION, -EPROTO, "hello",
		"the source's lanes can use the transports %.100s, the target's %.100s; set the "
		"same `transport` on both hosts",
		theirs_text != NULL ? theirs_text : "?", ours_text != NULL ? ours_text : "?");
	free(theirs_text);
	free(ours_text);
	json_decref(ours);
	return -EPROTO;
}

int target_check_hello(
	const struct sluice_session_conf *conf, const json_t *hello, struct sluice_error *err)
{
	int protocol = (int)json_integer_value(json_object_get(hello, "protocol"));

	if (protocol != SLUICE_PROTOCOL_VERSION)
		return sluice_fail_scope(err, SLUICE_SCOPE_SESSION, -EPROTO, "hello",
			"the source speaks protocol %d, the target %d; use engines of the same "
			"version",
			protocol, SLUICE_PROTOCOL_VERSION);
	for (uint32_t i = 0; i < conf->rail_count; i++)
		if (target_rail_is_wanted(conf, i, hello))
			return match_regions(conf, hello, err);
	return refuse_transports(conf, hello, err);
}

uint64_t sluice_target_peer_page_bytes(const struct sluice_target *t, uint32_t region)
{
	SLUICE_ASSERT(region < t->conf.region_count);
	return t->peer_page_bytes[region];
}

static json_t *lacks(const struct sluice_target *t)
{
	json_t *array = json_array();

	for (uint32_t i = 0; i < t->conf.lack_count; i++)
		json_array_append_new(
			array, json_pack("{s:s, s:s}", "transport", t->conf.lacks[i].transport,
				       "reason", t->conf.lacks[i].reason));
	return array;
}

/* The page sizes of both ends may differ: a guest on huge pages may go to a host that has none to
   spare. It is told. */
json_t *target_region_json(struct sluice_target *t, uint32_t region)
{
	return json_pack("{s:o, s:I}", "nonzero", sluice_chunk_map(&t->conf, &t->env, region),
		"page-size", (json_int_t)t->conf.regions[region].page_bytes);
}

void target_say_welcome(struct sluice_target *t)
{
	json_t *regions = json_array();

	for (uint32_t i = 0; i < t->conf.region_count; i++)
		json_array_append_new(regions, target_region_json(t, i));
	target_send(
		t, json_pack("{s:s, s:i, s:s, s:[], s:s, s:o, s:o, s:I, s:I, s:I}", "type",
			   "welcome", "protocol", SLUICE_PROTOCOL_VERSION, "version",
			   SLUICE_VERSION, "features", "instance", t->conf.instance, "lacks",
			   lacks(t), "regions", regions, "slots", (json_int_t)t->conf.inbox->slots,
			   "slot-bytes", (json_int_t)t->conf.inbox->slot_bytes, "record-us",
			   (json_int_t)(t->conf.record_ns / SLUICE_NS_PER_US)));
}
