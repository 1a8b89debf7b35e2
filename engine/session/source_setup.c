/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * source_setup.c: from hello to the first page: what the target must know, what it answers, and
 * which pages are dirty at the start. Control thread.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/bits.h"
#include "base/clock.h"
#include "engine/placement/node_memory.h"
#include "engine/session/source_internal.h"

void source_say_hello(struct sluice_source *s)
{
	json_t *regions = json_array();

	s->hello_said = true;
	for (uint32_t i = 0; i < s->hello_regions; i++) {
		const struct sluice_session_region *r = &s->conf.regions[i];

		json_array_append_new(
			regions, json_pack("{s:s, s:I, s:I, s:I}", "id", r->id, "gpa",
					 (json_int_t)r->gpa, "size", (json_int_t)r->len_bytes,
					 "page-size", (json_int_t)r->page_bytes));
	}
	source_send(s, json_pack("{s:s, s:i, s:s, s:[], s:s, s:s, s:o, s:I, s:o}", "type", "hello",
			       "protocol", SLUICE_PROTOCOL_VERSION, "version", SLUICE_VERSION,
			       "features", "session", s->conf.session, "instance", s->conf.instance,
			       "transports", sluice_session_transports(&s->conf), "lanes",
			       (json_int_t)s->conf.lanes, "regions", regions));
}

int source_read_region(struct sluice_source *s, uint32_t region, const json_t *entry)
{
	int r = sluice_chunk_map_apply(json_object_get(entry, "nonzero"), s->ledger, region);

	if (r < 0)
		return sluice_fail_scope(&s->error, SLUICE_SCOPE_SESSION, r, "welcome",
			"the peer's chunk map of region \"%s\" is longer than the region",
			s->conf.regions[region].id);
	s->peer_page_bytes[region] =
		(uint64_t)json_integer_value(json_object_get(entry, "page-size"));
	return 0;
}

/* Those of the hello; what the VMM has changed since is said behind the welcome. */
static int read_regions(struct sluice_source *s, const json_t *message)
{
	const json_t *regions = json_object_get(message, "regions");
	int r = 0;

	if (json_array_size(regions) != s->hello_regions)
		return sluice_fail_scope(&s->error, SLUICE_SCOPE_SESSION, -EPROTO, "welcome",
			"the peer answered for %zu regions instead of %u", json_array_size(regions),
			s->hello_regions);
	for (uint32_t i = 0; i < s->hello_regions && r == 0; i++)
		if (source_region_moves(s, i))
			r = source_read_region(s, i, json_array_get(regions, i));
	return r;
}

static int make_outbox(struct sluice_source *s, const json_t *message)
{
	uint32_t slots = (uint32_t)json_integer_value(json_object_get(message, "slots"));
	uint32_t slot_bytes = (uint32_t)json_integer_value(json_object_get(message, "slot-bytes"));
	struct sluice_node_policy policy;
	int r;

	if (!sluice_is_aligned(slot_bytes, SLUICE_PAGE_BYTES))
		return sluice_fail_scope(&s->error, SLUICE_SCOPE_SESSION, -EPROTO, "welcome",
			"the peer's slots of %u bytes are not a multiple of 4096", slot_bytes);
	if ((uint64_t)slots * slot_bytes > SLUICE_STAGING_BYTES_MAX)
		return sluice_fail_scope(&s->error, SLUICE_SCOPE_SESSION, -EPROTO, "welcome",
			"the peer's %u slots of %u bytes are more than 1 GiB; lower device-slots "
			"or "
			"device-slot-size there",
			slots, slot_bytes);
	sluice_node_prefer(s->conf.staging_nodes, &policy);
	r = sluice_outbox_create(slots, slot_bytes, &s->conf.outbox);
	sluice_node_restore(&policy);
	if (r < 0)
		return sluice_fail(&s->error, r, "welcome", "out of memory for %u slots", slots);
	s->work.outbox = s->conf.outbox;
	return 0;
}

void source_on_welcome(struct sluice_source *s, const json_t *message)
{
	int protocol = (int)json_integer_value(json_object_get(message, "protocol"));
	int r = 0;

	if (s->conf.outbox != NULL) {
		source_fail_text(s, -EPROTO, "the peer sent \"welcome\" twice");
		return;
	}
	if (protocol != SLUICE_PROTOCOL_VERSION)
		r = sluice_fail_scope(&s->error, SLUICE_SCOPE_SESSION, -EPROTO, "welcome",
			"the peer speaks protocol %d, this engine %d; use engines of the same "
			"version",
			protocol, SLUICE_PROTOCOL_VERSION);
	s->peer_record_ns = SLUICE_NS_PER_US *
			    (uint64_t)json_integer_value(json_object_get(message, "record-us"));
	snprintf(s->peer_instance, sizeof(s->peer_instance), "%s",
		json_string_value(json_object_get(message, "instance")));
	if (r == 0)
		r = read_regions(s, message);
	if (r == 0)
		r = make_outbox(s, message);
	if (r == 0)
		r = source_choose_rails(s, message);
	if (r < 0) {
		source_fail(s, &s->error);
		return;
	}
	source_open_lanes(s);
	source_ping(s);
}

uint64_t sluice_source_peer_page_bytes(const struct sluice_source *s, uint32_t region)
{
	SLUICE_ASSERT(region < s->conf.region_count);
	return s->peer_page_bytes[region];
}
