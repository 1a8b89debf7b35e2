/* SPDX-License-Identifier: BSD-3-Clause */
/* recover.c: sessions that are paused, in a real engine: by whom, and how they go on. Control thread. */
#include <errno.h>
#include <string.h>

#include "base/clock.h"
#include "engine/engine.h"
#include "engine/security.h"

static int check_source(struct sluice_engine *engine, const char *command, struct sluice_error *err)
{
	if (engine->source != NULL)
		return 0;
	if (engine->target != NULL)
		return sluice_fail(err, -EINVAL, command,
			"the guest comes to this host; it is the source's engine that is told");
	return sluice_fail(err, -EINVAL, command, "no migration is running");
}

int sluice_engine_pause(struct sluice_engine *engine, struct sluice_error *err)
{
	int r = check_source(engine, "migrate-pause", err);

	return r < 0 ? r : sluice_source_pause(engine->source, err);
}

int sluice_engine_recover(struct sluice_engine *engine, const char *uri, struct sluice_error *err)
{
	struct sluice_peer_address before = engine->peer, peer = engine->peer;
	int r = check_source(engine, "migrate-recover", err);

	if (r == 0 && uri != NULL)
		r = sluice_security_address(engine, uri, SLUICE_ADDRESS_CONNECT, &peer, err);
	if (r < 0)
		return r;
	engine->peer = peer; /* the session connects there at once, or refuses */
	r = sluice_source_recover(engine->source, uri != NULL, err);
	if (r < 0)
		engine->peer = before;
	return r;
}

int sluice_engine_resume(
	struct sluice_stranger *stranger, const json_t *message, struct sluice_error *err)
{
	struct sluice_engine *engine = stranger->engine;
	int r;

	if (engine->target == NULL)
		return sluice_fail_scope(err, SLUICE_SCOPE_SESSION, -ENOENT, "resume",
			"the target's engine holds no session; migrate anew");
	r = sluice_target_check_resume(engine->target, message, err);
	if (r < 0)
		return r;
	sluice_engine_adopt_link(engine, stranger);
	sluice_target_peer_message(engine->target, message);
	sluice_engine_tick(engine, sluice_now_ns());
	return 0;
}
