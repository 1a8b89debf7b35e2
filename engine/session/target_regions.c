/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * target_regions.c: which of our regions each of the source's is, also of those that come and go
 * during the migration. Control thread.
 *
 * Messages number regions as the source does. The VMM here may add a region before the source
 * speaks of it, or after; MEMORY_WANTED tells it. A region that the source has let go of
 * (MEMORY_RELEASED) stays the VMM's: to remove it, or to keep it for the next of that id.
 *
 * The source repeats what a lost peer link may have swallowed, so each message here is answered as
 * often as it comes. Nothing lands in a region before it is answered for, so an answer stays true.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "engine/session/target_internal.h"

/* Whether the source's lanes reach a region of ours. */
static void admit(struct sluice_target *t, uint32_t region, bool yes)
{
	for (uint32_t i = 0; i < t->conf.rail_count; i++)
		t->conf.rails[i].transport->mem_admit(t->conf.regions[region].mems[i], yes);
}

static void admit_staging(struct sluice_target *t, bool yes)
{
	for (uint32_t i = 0; i < t->conf.rail_count; i++)
		t->conf.rails[i].transport->mem_admit(t->conf.rails[i].staging, yes);
}

void target_regions_shut(struct sluice_target *t)
{
	for (uint32_t n = 0; n < SLUICE_REGIONS_MAX; n++)
		if (t->wire[n].standing == WIRE_HERE)
			admit(t, t->wire[n].region, false);
	admit_staging(t, false);
}

void target_regions_begin(struct sluice_target *t, const json_t *hello)
{
	const json_t *regions = json_object_get(hello, "regions");

	admit_staging(t, true);
	for (uint32_t i = 0; i < t->conf.region_count; i++) {
		t->wire[i] = (struct target_wire_region){.standing = WIRE_HERE, .region = i};
		admit(t, i, true);
		t->peer_page_bytes[i] = (uint64_t)json_integer_value(
			json_object_get(json_array_get(regions, i), "page-size"));
	}
}

/* Which of the source's regions ours is; SLUICE_REGIONS_MAX: none of them. */
static uint32_t wire_of(const struct sluice_target *t, uint32_t region)
{
	for (uint32_t n = 0; n < SLUICE_REGIONS_MAX; n++)
		if (t->wire[n].standing == WIRE_HERE && t->wire[n].region == region)
			return n;
	return SLUICE_REGIONS_MAX;
}

static void say_cannot(struct sluice_target *t, uint32_t n, const char *error)
{
	target_send(t, json_pack("{s:s, s:I, s:s}", "type", "region-added", "region", (json_int_t)n,
			       "error", error));
}

static void say_added(struct sluice_target *t, uint32_t n)
{
	json_t *message = target_region_json(t, t->wire[n].region);

	json_object_set_new(message, "type", json_string("region-added"));
	json_object_set_new(message, "region", json_integer((json_int_t)n));
	json_object_set_new(message, "keys", target_region_keys(t, t->wire[n].region));
	target_send(t, message);
}

static int check_same(const struct target_wire_region *wire, const struct sluice_session_region *r,
	struct sluice_error *err)
{
	if (wire->len_bytes == r->len_bytes && wire->gpa == r->gpa)
		return 0;
	return sluice_fail_scope(err, SLUICE_SCOPE_SESSION, -EINVAL, "memory-add",
		"region \"%s\" has %llu bytes at guest-physical %#llx at the source, and %llu at "
		"%#llx at the target",
		r->id, (unsigned long long)wire->len_bytes, (unsigned long long)wire->gpa,
		(unsigned long long)r->len_bytes, (unsigned long long)r->gpa);
}

static void take_region(struct sluice_target *t, uint32_t n, uint32_t region)
{
	t->wire[n].standing = WIRE_HERE;
	t->wire[n].region = region;
	t->peer_page_bytes[region] = t->wire[n].page_bytes;
	admit(t, region, true);
	say_added(t, n);
}

/* Our region of that id, which may be here already. */
static uint32_t find(const struct sluice_target *t, const char *id)
{
	uint32_t region = 0;

	while (region < t->conf.region_count && strcmp(t->conf.regions[region].id, id) != 0)
		region++;
	return region;
}

/* It was said before, and the same. */
static bool is_repeated(const struct target_wire_region *wire, const json_t *message)
{
	return (wire->standing == WIRE_WANTED || wire->standing == WIRE_HERE) &&
	       strcmp(wire->id, json_string_value(json_object_get(message, "id"))) == 0;
}

void target_on_region_add(struct sluice_target *t, const json_t *message)
{
	uint32_t n = (uint32_t)json_integer_value(json_object_get(message, "region"));
	const char *id = json_string_value(json_object_get(message, "id"));
	struct target_wire_region *wire = &t->wire[n];
	struct sluice_error err = {0};
	uint32_t region = find(t, id);

	if (is_repeated(wire, message)) {
		if (wire->standing == WIRE_HERE)
			say_added(t, n);
		return;
	}
	if (wire->standing != WIRE_NONE ||
		(region < t->conf.region_count && wire_of(t, region) != SLUICE_REGIONS_MAX)) {
		target_burn(t, -EPROTO,
			"the source added region %u, \"%s\", and has had one of that number or id",
			n, id);
		return;
	}
	*wire = (struct target_wire_region){.standing = WIRE_WANTED,
		.gpa = (uint64_t)json_integer_value(json_object_get(message, "gpa")),
		.len_bytes = (uint64_t)json_integer_value(json_object_get(message, "size")),
		.page_bytes = (uint64_t)json_integer_value(json_object_get(message, "page-size"))};
	snprintf(wire->id, sizeof(wire->id), "%s", id);
	if (region == t->conf.region_count)
		t->env.vmm_event(t->env.ctx, "MEMORY_WANTED",
			json_pack("{s:s, s:I, s:I}", "id", id, "gpa", (json_int_t)wire->gpa, "size",
				(json_int_t)wire->len_bytes));
	else if (check_same(wire, &t->conf.regions[region], &err) < 0)
		say_cannot(t, n, err.text);
	else
		take_region(t, n, region);
}

/* Its lanes have flushed it, and none will write there. None can, once it is the VMM's again. */
void target_on_region_remove(struct sluice_target *t, const json_t *message)
{
	uint32_t n = (uint32_t)json_integer_value(json_object_get(message, "region"));
	struct target_wire_region *wire = &t->wire[n];

	if (wire->standing == WIRE_HERE) {
		admit(t, wire->region, false);
		t->env.vmm_event(t->env.ctx, "MEMORY_RELEASED",
			json_pack("{s:s}", "id", t->conf.regions[wire->region].id));
	}
	wire->standing = WIRE_GONE;
	target_send(t, json_pack("{s:s, s:I}", "type", "region-removed", "region", (json_int_t)n));
}

bool target_waits_for_region(const struct sluice_target *t)
{
	for (uint32_t n = 0; n < SLUICE_REGIONS_MAX; n++)
		if (t->wire[n].standing == WIRE_WANTED)
			return true;
	return false;
}

/* ---- what the VMM does ---- */

int sluice_target_may_add(const struct sluice_target *t, const struct sluice_session_region *r,
	struct sluice_error *err)
{
	if (t->state != TARGET_RECEIVE)
		return sluice_fail(err, -EBUSY, "memory-add",
			"the source has stopped the guest, and its memory cannot change any more; "
			"do it when the migration has ended, or migrate_cancel first");
	for (uint32_t n = 0; n < SLUICE_REGIONS_MAX; n++)
		if (t->wire[n].standing == WIRE_WANTED && strcmp(t->wire[n].id, r->id) == 0)
			return check_same(&t->wire[n], r, err);
	return 0;
}

void sluice_target_region_add(struct sluice_target *t, uint32_t region)
{
	const struct sluice_session_region *r = &t->conf.regions[region];

	SLUICE_ASSERT(region == t->conf.region_count && region < SLUICE_REGIONS_MAX);
	t->conf.region_count++;
	for (uint32_t n = 0; n < SLUICE_REGIONS_MAX; n++)
		if (t->wire[n].standing == WIRE_WANTED && strcmp(t->wire[n].id, r->id) == 0)
			take_region(t, n, region);
}

int sluice_target_may_remove(
	const struct sluice_target *t, uint32_t region, struct sluice_error *err)
{
	if (wire_of(t, region) == SLUICE_REGIONS_MAX)
		return 0;
	return sluice_fail(err, -EBUSY, "memory-remove",
		"the source's guest has region \"%s\", and its memory arrives here: remove it at "
		"the source first (MEMORY_RELEASED tells when), or migrate_cancel",
		t->conf.regions[region].id);
}

bool sluice_target_region_is_bound(const struct sluice_target *t, uint32_t region)
{
	return wire_of(t, region) != SLUICE_REGIONS_MAX;
}
