/* SPDX-License-Identifier: BSD-3-Clause */
/* session.c: small things that both ends of a session need. See session.h. */
#include "engine/session/session.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/hex.h"

json_t *sluice_hex(const uint8_t *bytes, size_t count)
{
	char *text = malloc(2 * count + 1);
	json_t *value;

	if (text == NULL)
		return NULL;
	sluice_hex_write(bytes, count, text);
	value = json_stringn(text, 2 * count);
	free(text);
	return value;
}

int sluice_unhex(const char *text, uint8_t *bytes, size_t max)
{
	return sluice_hex_read(text, strlen(text), bytes, max);
}

struct chunk_map {
	uint8_t *bits;
};

static void map_data(void *ctx, uint64_t offset, uint64_t len_bytes)
{
	struct chunk_map *map = ctx;
	uint64_t last;

	if (len_bytes == 0)
		return;
	last = (offset + len_bytes - 1) >> SLUICE_CHUNK_SHIFT;
	for (uint64_t chunk = offset >> SLUICE_CHUNK_SHIFT; chunk <= last; chunk++)
		map->bits[chunk / 8] |= (uint8_t)(1u << (chunk % 8));
}

json_t *sluice_chunk_map(const struct sluice_session_conf *conf,
	const struct sluice_session_env *env, uint32_t region)
{
	uint64_t chunks = sluice_div_up(conf->regions[region].len_bytes, SLUICE_CHUNK_BYTES);
	size_t bytes = (size_t)sluice_div_up(chunks, 8);
	struct chunk_map map = {.bits = calloc(bytes, 1)};
	json_t *value;

	if (map.bits == NULL)
		return NULL;
	env->for_each_data(env->ctx, region, map_data, &map);
	value = sluice_hex(map.bits, bytes);
	free(map.bits);
	return value;
}

/*
 * A try that fails may have left its record in place (only its durability is open then), or
 * nothing. Deciding "aborted" tells which: what holds after it holds for every engine.
 */
int sluice_session_commit(
	const struct sluice_session_env *env, const char *session, struct sluice_error *err)
{
	enum sluice_decision decision = SLUICE_UNDECIDED;
	struct sluice_error why = {0}, ignored = {0};
	int r = env->decide(env->ctx, session, SLUICE_COMMITTED, &decision, &why);

	if (r < 0)
		env->decide(env->ctx, session, SLUICE_ABORTED, &decision, &ignored);
	if (decision == SLUICE_COMMITTED)
		return 0;
	if (r < 0)
		return sluice_fail_scope(err, SLUICE_SCOPE_SESSION, r, "session record",
			"the commit could not be recorded: %s", why.text);
	return sluice_fail_scope(err, SLUICE_SCOPE_SESSION, -ECANCELED, "session record",
		"the session was aborted by another engine; the guest is not given away");
}
