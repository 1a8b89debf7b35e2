/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * engine.h: one engine: the VMM socket, the peer link, memory, and at most one session at a time.
 * It gives the session cores (engine/session) their sockets, clock and threads, and keeps no
 * decisions of its own.
 *
 * Threads: the loop's thread. Lanes and device threads reach it by sluice_loop_wake() only.
 */
#ifndef SLUICE_ENGINE_ENGINE_H
#define SLUICE_ENGINE_ENGINE_H

#include <stdbool.h>

#include "base/loop.h"
#include "engine/config.h"
#include "engine/control/server.h"
#include "engine/device/inbox.h"
#include "engine/device/streams.h"
#include "engine/lane/crew.h"
#include "engine/memory/region.h"
#include "engine/peer/link.h"
#include "engine/placing.h"
#include "engine/rails.h"
#include "engine/session/source.h"
#include "engine/session/target.h"

#define SLUICE_STRANGERS_MAX 8 /* peers that have not said hello yet */

struct sluice_engine;

struct sluice_stranger {
	struct sluice_engine *engine;
	struct sluice_link *link; /* NULL: free */
	uint64_t since_ns;
};

struct sluice_engine {
	struct sluice_config config;
	struct sluice_loop *loop;
	struct sluice_timer *timer; /* the session's next deadline */
	struct sluice_timer *linger_timer;
	bool linger_over; /* it fired while a session was in doubt: again when that is over */
	struct sluice_server *server;
	bool has_control_fd; /* launched by a VMM: it ends when the VMM is gone */

	struct sluice_rails rails;
	char instance[SLUICE_SESSION_ID_BYTES];
	struct sluice_memory memory;

	/* The session that runs, or the last one. */
	struct sluice_source *source;
	struct sluice_target *target;
	char session[SLUICE_SESSION_ID_BYTES]; /* "" before the first */
	struct sluice_session_region regions[SLUICE_REGIONS_MAX]; /* by slot, see regions.c */
	struct sluice_region *slots[SLUICE_REGIONS_MAX]; /* the memory behind them; NULL: none */
	uint32_t slot_count; /* that the session has used */
	struct sluice_crew *crew;
	struct sluice_placing *placing; /* placing.c; NULL before the first session */
	struct sluice_streams *streams;
	struct sluice_inbox *inbox;
	struct sluice_session_rail session_rails[SLUICE_RAILS_MAX];
	uint64_t pages_pinned_before; /* when the session began */

	struct sluice_link *link; /* to the session's peer */
	struct sluice_peer_address peer; /* where migrate goes to */
	struct sluice_link_listener *listener;
	struct sluice_peer_address listen; /* what migrate-incoming was given */
	char listen_uri[SLUICE_URI_BYTES];
	bool awaits_guest; /* from migrate-incoming until a guest is here: memory may be written */
	struct sluice_stranger strangers[SLUICE_STRANGERS_MAX];
	uint64_t peers_refused, refused_told_ns; /* since the engine started */
	char last_refused[SLUICE_ERROR_TEXT_MAX];
};

/* engine.c: its parts, their order of birth and death. @settings outlive the engine. */
int sluice_engine_create(struct sluice_loop *loop, const struct sluice_settings *settings,
	struct sluice_engine **ret_engine, struct sluice_error *err);
void sluice_engine_destroy(struct sluice_engine *engine); /* NULL is allowed */
/* regions.c: guest memory, and what of it a session has. */
int sluice_engine_memory_add(struct sluice_engine *engine, const struct sluice_region_opts *opts,
	struct sluice_error *err);
int sluice_engine_feed_add(
	struct sluice_engine *engine, const char *id, int fd, struct sluice_error *err);
/* 0: it is gone. 1: a session lets go of it, and MEMORY_REMOVED follows. */
int sluice_engine_memory_remove(
	struct sluice_engine *engine, const char *id, struct sluice_error *err);
/* The VMM has given these pages back to the system; they read as zeros from before the call on. */
int sluice_engine_memory_discard(struct sluice_engine *engine, const char *id, uint64_t offset,
	uint64_t len_bytes, struct sluice_error *err);
/* A session begins: it has all regions. */
void sluice_engine_take_slots(struct sluice_engine *engine);
/* SLUICE_REGIONS_MAX: the session that runs, or the last one, has no such region. */
uint32_t sluice_engine_slot_of(
	const struct sluice_engine *engine, const struct sluice_region *region);
void sluice_engine_region_gone(void *ctx, uint32_t slot); /* for the session */

bool sluice_engine_is_busy(const struct sluice_engine *engine); /* a session is not over */
void sluice_engine_vmm_came(struct sluice_engine *engine); /* it no longer waits to end */
void sluice_engine_vmm_gone(void *ctx); /* for the server */

/* migration.c: sessions. */
int sluice_engine_migrate(struct sluice_engine *engine, const char *uri, struct sluice_error *err);
int sluice_engine_incoming(struct sluice_engine *engine, const char *uri, struct sluice_error *err);
/* The connection of a stranger who has shown that the session here is its: it is the peer link. */
void sluice_engine_adopt_link(struct sluice_engine *engine, struct sluice_stranger *stranger);
void sluice_engine_tick(void *ctx, uint64_t now_ns);
void sluice_engine_session_clear(struct sluice_engine *engine);
/* Of the session that runs, or the last one; NULL: none. */
const struct sluice_lane_set *sluice_engine_lanes(const struct sluice_engine *engine);
struct sluice_policy_conf sluice_engine_policy(const struct sluice_engine *engine);

/* outcome.c: what became of sessions. */
int sluice_engine_resolve(struct sluice_engine *engine, const char *session,
	enum sluice_decision decision, struct sluice_error *err);
/* What is known of a session, from memory or from the records: "none", "active", ... */
int sluice_engine_session_status(struct sluice_engine *engine, const char *session,
	const char **ret_status, const char **ret_role, struct sluice_error *err);

/* recover.c: sessions that are paused. */
int sluice_engine_pause(struct sluice_engine *engine, struct sluice_error *err);
/* @uri: where the target is now; NULL: where it was. */
int sluice_engine_recover(struct sluice_engine *engine, const char *uri, struct sluice_error *err);
/* A stranger wants to go on with a session. On failure it is to be refused. */
int sluice_engine_resume(
	struct sluice_stranger *stranger, const json_t *message, struct sluice_error *err);

/* commands.c: the handlers of the VMM socket's commands; ctx is the engine. */
extern const struct sluice_command sluice_engine_commands[];

#endif
