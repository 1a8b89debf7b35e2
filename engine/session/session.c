/* SPDX-License-Identifier: BSD-3-Clause */
/* session.c: small things that both ends of a session need. See session.h. */
#include "engine/session/session.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/hex.h"

json_t *sluice_session_transports(const struct sluice_session_conf *conf)
{
	const struct sluice_transport *last = NULL;
	json_t *names = json_array();

	for (uint32_t i = 0; i < conf->rail_count; i++) {
		if (conf->rails[i].rail != NULL && conf->rails[i].transport != last) {
			last = conf->rails[i].transport;
			json_array_append_new(names, json_string(last->name));
		}
	}
	return names;
}

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
