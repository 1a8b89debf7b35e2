/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * outcome.c: what became of a session: from memory, or from the records of engines that died; and
 * what an operator decides. Control thread.
 */
#include <errno.h>
#include <string.h>

#include "base/clock.h"
#include "engine/engine.h"
#include "engine/peer/record.h"

static const char *source_status(const struct sluice_source *source)
{
	const char *status = sluice_source_status(source);

	if (sluice_source_is_in_doubt(source))
		return "in-doubt";
	if (strcmp(status, "completed") == 0)
		return "committed";
	return sluice_source_is_over(source) ? "aborted" : "active";
}

static const char *target_status(const struct sluice_target *target)
{
	const char *status = sluice_target_status(target);

	if (sluice_target_is_prepared(target))
		return strcmp(status, "in-doubt") == 0 ? "in-doubt" : "prepared";
	if (strcmp(status, "completed") == 0)
		return "committed";
	return sluice_target_is_over(target) ? "aborted" : "active";
}

/*
 * Asked about a session of an engine that died before us: without a record it neither said commit
 * nor told its VMM to run. It may still hang somewhere and try later, so the answer is made true
 * first: the session is aborted on record, on both sides, and a record cannot be replaced.
 */
static int burn_unknown(struct sluice_engine *engine, const char *session, const char **ret_status,
	const char **ret_role, struct sluice_error *err)
{
	const char *dir = engine->config.runtime_dir;
	enum sluice_decision decision;
	int r = sluice_record_read(dir, SLUICE_RECORD_SOURCE, session, &decision, err);

	*ret_role = "source";
	if (r == 0 && decision == SLUICE_UNDECIDED) {
		r = sluice_record_decide(
			dir, SLUICE_RECORD_TARGET, session, SLUICE_ABORTED, &decision, err);
		if (r == 0 && decision == SLUICE_COMMITTED)
			*ret_role = "target";
		else if (r == 0)
			r = sluice_record_decide(
				dir, SLUICE_RECORD_SOURCE, session, SLUICE_ABORTED, &decision, err);
	}
	if (r == 0)
		*ret_status = decision == SLUICE_COMMITTED ? "committed" : "aborted";
	return r;
}

int sluice_engine_session_status(struct sluice_engine *engine, const char *session,
	const char **ret_status, const char **ret_role, struct sluice_error *err)
{
	if (session == NULL)
		session = engine->session;
	*ret_status = "none";
	*ret_role = NULL;
	if (*session == '\0')
		return 0;
	if (strcmp(session, engine->session) == 0 && engine->source != NULL) {
		*ret_role = "source";
		*ret_status = source_status(engine->source);
		return 0;
	}
	if (strcmp(session, engine->session) == 0 && engine->target != NULL) {
		*ret_role = "target";
		*ret_status = target_status(engine->target);
		return 0;
	}
	return burn_unknown(engine, session, ret_status, ret_role, err);
}

/* The engine that held the session is gone: its commit is on record, its outcome is not known. */
static int resolve_from_record(struct sluice_engine *engine, const char *session,
	enum sluice_decision decision, struct sluice_error *err)
{
	enum sluice_decision recorded;
	int r = sluice_record_read(
		engine->config.runtime_dir, SLUICE_RECORD_SOURCE, session, &recorded, err);

	if (r < 0)
		return r;
	if (recorded != SLUICE_COMMITTED)
		return sluice_fail(
			err, -ENOENT, "session-resolve", "no session %s is in doubt here", session);
	sluice_server_event(engine->server, "MIGRATION",
		decision == SLUICE_COMMITTED
			? json_pack("{s:s, s:s}", "status", "completed", "session", session)
			: json_pack("{s:s, s:s, s:s}", "status", "failed", "session", session,
				  "error-desc", "resolved as aborted by the operator"));
	return 0;
}

int sluice_engine_resolve(struct sluice_engine *engine, const char *session,
	enum sluice_decision decision, struct sluice_error *err)
{
	int r;

	/* The last session's name outlives it, for queries: memory-remove lets go of the rest. */
	if (strcmp(session, engine->session) != 0 ||
		(engine->source == NULL && engine->target == NULL))
		return resolve_from_record(engine, session, decision, err);
	r = engine->source != NULL ? sluice_source_resolve(engine->source, decision, err)
				   : sluice_target_resolve(engine->target, decision, err);
	sluice_engine_tick(engine, sluice_now_ns());
	return r;
}
