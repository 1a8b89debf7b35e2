/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * migration.c: sessions in a real engine: starting them, and the world they see (struct
 * sluice_session_env): peer link, VMM socket, device threads, records. Control thread.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"
#include "engine/engine.h"
#include "engine/peer/messages.h"
#include "engine/security.h"

#define STRANGER_DEADLINE_NS (5 * SLUICE_NS_PER_S)

/* ---- the world of a session ---- */

static uint64_t env_now_ns(void *ctx)
{
	(void)ctx;
	return sluice_now_ns();
}

static void env_peer_send(void *ctx, json_t *message)
{
	struct sluice_engine *engine = ctx;

	if (engine->link != NULL)
		sluice_link_send(engine->link, message);
	else
		json_decref(message);
}

static int env_derive(
	void *ctx, const void *context, size_t context_bytes, uint8_t *secret, size_t secret_bytes)
{
	struct sluice_engine *engine = ctx;

	if (engine->link == NULL)
		return -ENOTCONN;
	return sluice_link_export(engine->link, context, context_bytes, secret, secret_bytes);
}

static void env_vmm_event(void *ctx, const char *name, json_t *data)
{
	struct sluice_engine *engine = ctx;

	sluice_server_event(engine->server, name, data);
}

static enum sluice_record_side side(const struct sluice_engine *engine)
{
	return engine->source != NULL ? SLUICE_RECORD_SOURCE : SLUICE_RECORD_TARGET;
}

static int env_decide(void *ctx, const char *session, enum sluice_decision decision,
	enum sluice_decision *ret_decision, struct sluice_error *err)
{
	struct sluice_engine *engine = ctx;

	/* A guest without a VMM cannot run here; not committed, it runs on at the source. */
	if (decision == SLUICE_COMMITTED && engine->target != NULL &&
		!sluice_server_vmm_is_there(engine->server))
		return sluice_fail(err, -EPIPE, "commit", "the target's VMM is gone");
	/* Once a commit may be on record, the memory is a guest's until migrate-incoming. */
	if (decision == SLUICE_COMMITTED)
		engine->awaits_guest = false;
	return sluice_record_decide(
		engine->config.runtime_dir, side(engine), session, decision, ret_decision, err);
}

static void env_for_each_data(void *ctx, uint32_t region, uint64_t offset, uint64_t len_bytes,
	sluice_data_fn *fn, void *fn_ctx)
{
	struct sluice_engine *engine = ctx;

	sluice_region_for_each_data(engine->slots[region], offset, len_bytes, fn, fn_ctx);
}

static int env_file_of(void *ctx, uint32_t region, uint64_t *ret_offset)
{
	struct sluice_engine *engine = ctx;

	*ret_offset = engine->slots[region]->fd_offset;
	return engine->slots[region]->fd;
}

static bool env_memory_lost(void *ctx)
{
	struct sluice_engine *engine = ctx;

	return sluice_memory_is_lost(&engine->memory);
}

static void env_plan_lanes(void *ctx, const struct sluice_transport *transport, uint32_t *ret_rails)
{
	sluice_placing_rails(ctx, transport, ret_rails);
}

static void env_rail_address(void *ctx, uint32_t rail, char ret_address[SLUICE_ADDRESS_MAX])
{
	struct sluice_engine *engine = ctx;
	char host[SLUICE_ADDRESS_MAX] = "";

	if (engine->link != NULL)
		sluice_link_local_host(engine->link, host, sizeof(host));
	sluice_rails_address(engine, rail, host, ret_address);
}

static int env_device_start(void *ctx, uint32_t device, int fd, struct sluice_error *err)
{
	struct sluice_engine *engine = ctx;

	if (engine->source != NULL)
		return sluice_streams_read(
			engine->streams, sluice_source_outbox(engine->source), device, fd, err);
	return sluice_streams_write(engine->streams, engine->inbox, device, fd, err);
}

static int env_segment_announced(
	void *ctx, const struct sluice_announce *announce, struct sluice_error *err)
{
	struct sluice_engine *engine = ctx;

	return sluice_streams_announced(engine->streams, engine->inbox, announce, err);
}

static void link_up(void *ctx);
static void link_message(void *ctx, const json_t *message);
static void link_bad(void *ctx, const char *why);
static void link_down(void *ctx, const char *why);

static const struct sluice_link_handlers link_handlers = {
	.up = link_up, .message = link_message, .bad = link_bad, .down = link_down};

static void drop_link(struct sluice_engine *engine)
{
	sluice_link_close(engine->link);
	engine->link = NULL;
}

static int connect_peer(struct sluice_engine *engine, struct sluice_error *err)
{
	struct sluice_link_handlers handlers = link_handlers;
	struct sluice_link_opts opts;

	handlers.ctx = engine;
	drop_link(engine);
	sluice_security_link_opts(&engine->config, engine->config.setup_timeout_ns, &opts);
	return sluice_link_connect(
		engine->loop, &engine->peer, &opts, &handlers, &engine->link, err);
}

static void env_peer_disconnect(void *ctx)
{
	drop_link(ctx);
}

static void env_peer_reconnect(void *ctx)
{
	struct sluice_engine *engine = ctx;
	struct sluice_error err = {0};
	int r = connect_peer(engine, &err);

	if (r < 0)
		sluice_source_peer_lost(engine->source, r, err.text);
}

static const struct sluice_session_env engine_env = {
	.now_ns = env_now_ns,
	.derive = env_derive,
	.peer_send = env_peer_send,
	.peer_disconnect = env_peer_disconnect,
	.peer_reconnect = env_peer_reconnect,
	.vmm_event = env_vmm_event,
	.decide = env_decide,
	.for_each_data = env_for_each_data,
	.file_of = env_file_of,
	.region_gone = sluice_engine_region_gone,
	.memory_lost = env_memory_lost,
	.plan_lanes = env_plan_lanes,
	.rail_address = env_rail_address,
	.device_start = env_device_start,
	.segment_announced = env_segment_announced,
};

/* ---- from any thread ---- */

static void wake(void *ctx)
{
	struct sluice_engine *engine = ctx;

	sluice_loop_wake(engine->loop);
}

static void wake_lanes(void *ctx)
{
	struct sluice_engine *engine = ctx;

	sluice_crew_wake(engine->crew);
}

/* ---- device threads ---- */

static void slot_loaded(void *ctx, uint32_t slot)
{
	struct sluice_engine *engine = ctx;

	if (engine->target != NULL)
		sluice_target_segment_loaded(engine->target, slot);
}

static void device_done(void *ctx, uint32_t device, int code)
{
	struct sluice_engine *engine = ctx;

	if (engine->source != NULL)
		sluice_source_device_read(engine->source, device, code);
	else if (engine->target != NULL)
		sluice_target_device_written(engine->target, device, code);
}

/* ---- beginning and end ---- */

const struct sluice_lane_set *sluice_engine_lanes(const struct sluice_engine *engine)
{
	if (engine->source != NULL)
		return sluice_source_lanes(engine->source);
	return engine->target != NULL ? sluice_target_lanes(engine->target) : NULL;
}

void sluice_engine_session_clear(struct sluice_engine *engine)
{
	SLUICE_ASSERT(engine->source == NULL || engine->target == NULL);
	sluice_placing_end(engine);
	sluice_streams_destroy(engine->streams); /* before the boxes its threads use */
	engine->streams = NULL;
	sluice_source_destroy(engine->source);
	engine->source = NULL;
	sluice_target_destroy(engine->target);
	engine->target = NULL;
	sluice_crew_destroy(engine->crew);
	engine->crew = NULL;
	sluice_rails_remove_staging(engine);
	sluice_inbox_destroy(engine->inbox);
	engine->inbox = NULL;
	drop_link(engine);
}

struct sluice_policy_conf sluice_engine_policy(const struct sluice_engine *engine)
{
	const struct sluice_config *c = &engine->config;

	return (struct sluice_policy_conf){
		.downtime_limit_ns = c->downtime_limit_ns,
		.vmm_switchover_ns = c->vmm_switchover_ns,
		.device_bytes = c->device_state_bytes,
		.sync_interval_ns = c->sync_interval_ns,
		.throttle = c->throttle,
		.throttle_after_ns = c->throttle_after_ns,
		.throttle_initial_percent = c->throttle_initial_percent,
		.throttle_step_percent = c->throttle_step_percent,
	};
}

static int make_streams(struct sluice_engine *engine, struct sluice_error *err)
{
	struct sluice_stream_handlers handlers = {.wake = wake,
		.lanes_wake = wake_lanes,
		.slot_loaded = slot_loaded,
		.device_done = device_done,
		.ctx = engine};
	int r = sluice_streams_create(&handlers, &engine->streams);

	return r < 0 ? sluice_fail(err, r, "devices", "%s", strerror(-r)) : 0;
}

/* What source and target have in common. @lanes: 0 chooses. */
static int begin(struct sluice_engine *engine, uint32_t lanes, struct sluice_session_conf *conf,
	struct sluice_error *err)
{
	uint64_t record_ns = 0;
	int r;

	sluice_engine_take_slots(engine);
	engine->pages_pinned_before = engine->memory.pages_pinned;
	r = sluice_record_rehearse(engine->config.runtime_dir, &record_ns, err);
	if (r == 0)
		r = sluice_placing_begin(engine, lanes, err);
	if (r == 0)
		r = make_streams(engine, err);
	*conf = (struct sluice_session_conf){
		.rails = engine->session_rails,
		.rail_count = engine->rails.count,
		.lacks = engine->rails.lacks,
		.lack_count = engine->rails.lack_count,
		.pairs_by_order = engine->config.rail_pairs == SLUICE_RAIL_PAIRS_ORDER,
		.lanes_may_leave = sluice_security_lanes_may_leave(&engine->config),
		.crew = engine->crew,
		.lanes = r == 0 ? sluice_placing_lanes(engine) : 0,
		.memory_budget_bytes = engine->config.memory_budget_bytes,
		.extent_bytes = engine->config.extent_bytes,
		.max_bandwidth_bytes_per_s = engine->config.max_bandwidth_bytes_per_s,
		.peer_timeout_ns = engine->config.peer_timeout_ns,
		.setup_timeout_ns = engine->config.setup_timeout_ns,
		.record_ns = record_ns,
		.switchover_timeout_ns = engine->config.switchover_timeout_ns,
		.lane_timeout_ns = engine->config.lane_timeout_ns,
		.region_timeout_ns = engine->config.region_timeout_ns,
		.recover_retries = (uint32_t)engine->config.recover_retries,
		.recover_pause_ns = engine->config.recover_pause_ns,
		.recover_timeout_ns = engine->config.recover_timeout_ns,
		.policy = sluice_engine_policy(engine),
		.staging_nodes = r == 0 ? sluice_placing_staging_nodes(engine) : 0,
		.regions = engine->regions,
		.region_count = engine->slot_count,
		.wake = wake,
		.wake_ctx = engine,
	};
	memcpy(conf->instance, engine->instance, sizeof(conf->instance));
	return r;
}

static int check_idle(struct sluice_engine *engine, const char *command, struct sluice_error *err)
{
	if (sluice_engine_is_busy(engine))
		return sluice_fail(err, -EBUSY, command,
			"a migration is running; wait for it or migrate_cancel");
	if (engine->memory.count == 0)
		return sluice_fail(err, -EINVAL, command,
			"there is no guest memory; the VMM adds it with memory-add");
	return 0;
}

static int check_feeds(struct sluice_engine *engine, struct sluice_error *err)
{
	for (uint32_t i = 0; i < engine->memory.count; i++)
		if (engine->memory.regions[i]->feed == NULL)
			return sluice_fail(err, -EINVAL, "migrate",
				"region \"%s\" has no feed: nobody says which of its pages become "
				"dirty; the VMM adds one with feed-add",
				engine->memory.regions[i]->id);
	return 0;
}

/* The ledger, its bitmaps above all, goes where the plan says. */
static int make_source(struct sluice_engine *engine, const struct sluice_session_conf *conf,
	const struct sluice_session_env *env, struct sluice_error *err)
{
	struct sluice_node_policy policy;
	int r;

	sluice_node_prefer(sluice_placing_bitmap_nodes(engine), &policy);
	r = sluice_source_create(conf, env, &engine->source);
	if (r == 0)
		r = sluice_placing_source(engine, err);
	sluice_node_restore(&policy);
	return r;
}

/* ---- begin as a source ---- */

int sluice_engine_migrate(struct sluice_engine *engine, const char *uri, struct sluice_error *err)
{
	struct sluice_session_env env = engine_env;
	struct sluice_peer_address peer;
	struct sluice_session_conf conf;
	uint8_t id[16];
	int r = check_idle(engine, "migrate", err);

	if (r == 0)
		r = check_feeds(engine, err);
	if (r == 0)
		r = sluice_security_address(engine, uri, SLUICE_ADDRESS_CONNECT, &peer, err);
	if (r < 0)
		return r;
	sluice_engine_session_clear(engine);
	engine->awaits_guest = false; /* the guest is here, whatever becomes of this */
	if (getrandom(id, sizeof(id), 0) != sizeof(id))
		return sluice_fail(err, -EIO, "migrate", "no random bytes for a session id");
	for (size_t i = 0; i < sizeof(id); i++)
		snprintf(engine->session + 2 * i, 3, "%02x", id[i]);
	r = begin(engine, (uint32_t)engine->config.lanes, &conf, err);
	if (r == 0) {
		env.ctx = engine;
		memcpy(conf.session, engine->session, sizeof(conf.session));
		engine->peer = peer;
		sluice_rails_for_session(engine, &peer, engine->session_rails);
		r = connect_peer(engine, err);
	}
	if (r == 0)
		r = make_source(engine, &conf, &env, err);
	if (r == 0)
		sluice_rails_wake(engine);
	if (r < 0) {
		sluice_fail(err, r, "migrate", "%s", strerror(-r));
		sluice_engine_session_clear(engine);
		return r;
	}
	sluice_engine_tick(engine, sluice_now_ns());
	return 0;
}

/* ---- waiting for a source ---- */

static void stranger_gone(struct sluice_stranger *stranger)
{
	sluice_link_close(stranger->link);
	stranger->link = NULL;
}

static void stranger_down(void *ctx, const char *why)
{
	struct sluice_stranger *stranger = ctx;

	stranger_gone(stranger);
	sluice_security_refused(stranger->engine, why);
}

void sluice_engine_adopt_link(struct sluice_engine *engine, struct sluice_stranger *stranger)
{
	struct sluice_link_handlers handlers = link_handlers;

	handlers.ctx = engine;
	sluice_link_close(engine->link);
	engine->link = stranger->link;
	stranger->link = NULL;
	sluice_link_set_handlers(engine->link, &handlers);
	sluice_target_peer_back(engine->target);
}

static void say_refuse(struct sluice_link *link, const char *text)
{
	sluice_link_send(link, json_pack("{s:s, s:s}", "type", "refuse", "error", text));
}

static void refuse(struct sluice_engine *engine, struct sluice_link *link, const char *text)
{
	say_refuse(link, text);
	sluice_security_refused(engine, text);
}

static void stranger_bad(void *ctx, const char *why)
{
	say_refuse(((struct sluice_stranger *)ctx)->link, why); /* its end follows, and counts */
}

static int make_staging(struct sluice_engine *engine, struct sluice_error *err)
{
	const struct sluice_config *c = &engine->config;
	struct sluice_node_policy policy;
	int r;

	if (c->device_slot_bytes % 4096 != 0)
		return sluice_fail(err, -EINVAL, "device-slot-size",
			"device-slot-size must be a multiple of 4 KiB");
	if (c->device_slots * c->device_slot_bytes > SLUICE_STAGING_BYTES_MAX)
		return sluice_fail(err, -EINVAL, "device-slots",
			"device-slots times device-slot-size must be at most 1 GiB");
	sluice_node_prefer(sluice_placing_staging_nodes(engine), &policy);
	r = sluice_inbox_create(
		(uint32_t)c->device_slots, (uint32_t)c->device_slot_bytes, &engine->inbox);
	sluice_node_restore(&policy);
	if (r < 0)
		return sluice_fail(err, r, "device-slots", "out of memory");
	return sluice_rails_add_staging(
		engine, engine->inbox->pool, c->device_slots * c->device_slot_bytes, err);
}

/* A session that was decided here once cannot come again. */
static int check_fresh(struct sluice_engine *engine, const char *session, struct sluice_error *err)
{
	enum sluice_decision decision;
	int r = sluice_record_read(
		engine->config.runtime_dir, SLUICE_RECORD_TARGET, session, &decision, err);

	if (r == 0 && decision != SLUICE_UNDECIDED)
		r = sluice_fail_scope(err, SLUICE_SCOPE_SESSION, -EEXIST, "hello",
			"session %s was %s here before; start a new one", session,
			sluice_decision_name(decision));
	return r;
}

static int accept_source(
	struct sluice_engine *engine, const json_t *hello, struct sluice_error *err)
{
	const char *session = json_string_value(json_object_get(hello, "session"));
	uint32_t lanes = (uint32_t)json_integer_value(json_object_get(hello, "lanes"));
	struct sluice_session_env env = engine_env;
	struct sluice_session_conf conf;
	int r;

	r = check_fresh(engine, session, err);
	if (r == 0)
		r = begin(engine, lanes, &conf, err);
	if (r == 0)
		r = make_staging(engine, err);
	if (r < 0)
		return r;
	sluice_rails_for_session(engine, &engine->listen, engine->session_rails);
	conf.inbox = engine->inbox;
	snprintf(engine->session, sizeof(engine->session), "%s", session);
	env.ctx = engine;
	r = sluice_record_begin(engine->config.runtime_dir, session, err);
	if (r < 0)
		return r;
	r = sluice_target_create(&conf, &env, hello, &engine->target, err);
	if (r < 0)
		sluice_record_begin_undo(engine->config.runtime_dir, session);
	return r;
}

/* The listener stays after a commit, for questions. But then a guest runs in this memory. */
static int check_awaits(struct sluice_engine *engine, struct sluice_error *err)
{
	int r = check_idle(engine, "hello", err);

	if (r == 0 && !engine->awaits_guest)
		r = sluice_fail(err, -EPERM, "hello",
			"the target's engine does not wait for a guest; its VMM says so with "
			"migrate-incoming");
	return r;
}

static void hello(struct sluice_stranger *stranger, const json_t *message)
{
	struct sluice_link_handlers handlers = link_handlers;
	struct sluice_engine *engine = stranger->engine;
	struct sluice_link *link = stranger->link;
	struct sluice_error err = {0};

	stranger->link = NULL;
	if (engine->target != NULL)
		sluice_target_superseded(engine->target, message);
	if (check_awaits(engine, &err) < 0) {
		refuse(engine, link, err.text);
		sluice_link_close(link);
		return;
	}
	/* The welcome is sent from inside: the link must be the engine's by then. */
	sluice_engine_session_clear(engine);
	handlers.ctx = engine;
	sluice_link_set_handlers(link, &handlers);
	engine->link = link;
	if (accept_source(engine, message, &err) < 0) {
		refuse(engine, link, err.text);
		sluice_engine_session_clear(engine);
		return;
	}
	sluice_rails_wake(engine);
	sluice_engine_tick(engine, sluice_now_ns());
}

/*
 * For a session of another engine with our runtime directory: its record answers. What began there
 * and is undecided is burnt, as that engine may only hang. What never began cannot come to a commit,
 * so that it takes no record to say aborted. The note is looked for first: a decision takes it away.
 */
static int answer_for_others(struct sluice_engine *engine, const char *session,
	enum sluice_decision *ret_decision, struct sluice_error *err)
{
	const char *dir = engine->config.runtime_dir;
	bool begun = sluice_record_has_begun(dir, session);
	int r = sluice_record_read(dir, SLUICE_RECORD_TARGET, session, ret_decision, err);

	if (r < 0 || *ret_decision != SLUICE_UNDECIDED)
		return r;
	*ret_decision = SLUICE_ABORTED;
	return begun ? sluice_record_decide(dir, SLUICE_RECORD_TARGET, session, SLUICE_ABORTED,
			       ret_decision, err)
		     : 0;
}

/* A source (or its successor) asks about a session. If it is the one that waits here prepared, the
   link becomes that session's. */
static void resolve(struct sluice_stranger *stranger, const json_t *message)
{
	struct sluice_engine *engine = stranger->engine;
	const char *session = json_string_value(json_object_get(message, "session"));
	enum sluice_decision decision = SLUICE_UNDECIDED;
	struct sluice_error err = {0};

	if (engine->target != NULL && strcmp(session, sluice_target_session(engine->target)) == 0) {
		sluice_engine_adopt_link(engine, stranger);
		sluice_target_peer_message(engine->target, message);
		return;
	}
	if (answer_for_others(engine, session, &decision, &err) == 0)
		sluice_link_send(stranger->link,
			json_pack("{s:s, s:s, s:s}", "type", "decision", "session", session,
				"decision", sluice_decision_name(decision)));
	stranger_gone(stranger);
}

static void stranger_message(void *ctx, const json_t *message)
{
	struct sluice_stranger *stranger = ctx;
	const char *type = sluice_peer_type(message);
	struct sluice_error err = {0};

	if (strcmp(type, "hello") == 0) {
		hello(stranger, message);
	} else if (strcmp(type, "resolve") == 0) {
		resolve(stranger, message);
	} else if (strcmp(type, "resume") == 0) {
		if (sluice_engine_resume(stranger, message, &err) < 0) {
			refuse(stranger->engine, stranger->link, err.text);
			stranger_gone(stranger);
		}
	} else {
		refuse(stranger->engine, stranger->link, "a session begins with hello");
		stranger_gone(stranger);
	}
}

static void on_peer_accepted(void *ctx, int fd)
{
	struct sluice_engine *engine = ctx;
	struct sluice_link_handlers handlers = {
		.message = stranger_message, .bad = stranger_bad, .down = stranger_down};
	struct sluice_stranger *stranger = &engine->strangers[0];
	struct sluice_link_opts opts;
	struct sluice_error err = {0};

	/* Settings may have changed since migrate-incoming. */
	if (sluice_security_check(engine, &engine->listen, SLUICE_ADDRESS_LISTEN, &err) < 0) {
		sluice_security_refused(engine, err.text);
		close(fd);
		return;
	}
	sluice_security_link_opts(&engine->config, STRANGER_DEADLINE_NS, &opts);
	/* When all places are taken the oldest goes: who means it says hello at once, and those who
	   only sit there must not keep it out. */
	for (size_t i = 0; i < SLUICE_STRANGERS_MAX && stranger->link != NULL; i++)
		if (engine->strangers[i].link == NULL ||
			engine->strangers[i].since_ns < stranger->since_ns)
			stranger = &engine->strangers[i];
	if (stranger->link != NULL)
		stranger_down(stranger, "it said nothing, and others wanted its place");
	handlers.ctx = stranger;
	stranger->engine = engine;
	stranger->since_ns = sluice_now_ns();
	if (sluice_link_adopt(engine->loop, fd, &opts, &handlers, &stranger->link) < 0)
		stranger->link = NULL;
}

int sluice_engine_incoming(struct sluice_engine *engine, const char *uri, struct sluice_error *err)
{
	struct sluice_peer_address address;
	int r = check_idle(engine, "migrate-incoming", err);

	if (r == 0)
		r = sluice_security_address(engine, uri, SLUICE_ADDRESS_LISTEN, &address, err);
	if (r == 0)
		r = sluice_rails_listen(engine, &address, err);
	if (r < 0)
		return r;
	sluice_link_unlisten(engine->listener);
	engine->listener = NULL;
	r = sluice_link_listen(engine->loop, &address, on_peer_accepted, engine, engine->listen_uri,
		&engine->listener, err);
	engine->awaits_guest = r == 0;
	engine->listen = address;
	return r;
}

/* ---- the peer link of the session ---- */

static void link_up(void *ctx)
{
	struct sluice_engine *engine = ctx;

	if (engine->source != NULL)
		sluice_source_connected(engine->source);
	sluice_engine_tick(engine, sluice_now_ns());
}

static void link_message(void *ctx, const json_t *message)
{
	struct sluice_engine *engine = ctx;

	if (engine->source != NULL)
		sluice_source_peer_message(engine->source, message);
	else if (engine->target != NULL)
		sluice_target_peer_message(engine->target, message);
	if (engine->streams != NULL && (strcmp(sluice_peer_type(message), "credit") == 0 ||
					       strcmp(sluice_peer_type(message), "resumed") == 0))
		sluice_streams_credits(engine->streams);
	sluice_engine_tick(engine, sluice_now_ns());
}

static void link_bad(void *ctx, const char *why)
{
	struct sluice_engine *engine = ctx;

	if (engine->source != NULL)
		sluice_source_peer_bad(engine->source, why);
	else if (engine->target != NULL)
		sluice_target_peer_bad(engine->target, why);
}

static void link_down(void *ctx, const char *why)
{
	struct sluice_engine *engine = ctx;
	struct sluice_link *link = engine->link;

	engine->link = NULL;
	if (engine->source != NULL)
		sluice_source_peer_lost(engine->source, sluice_link_error(link), why);
	else if (engine->target != NULL)
		sluice_target_peer_lost(engine->target, why);
	sluice_link_close(link);
	sluice_engine_tick(engine, sluice_now_ns());
}

/* ---- time ---- */

void sluice_engine_tick(void *ctx, uint64_t now_ns)
{
	struct sluice_engine *engine = ctx;
	uint64_t deadline_ns = SLUICE_NEVER;

	(void)now_ns;
	if (engine->streams != NULL)
		sluice_streams_poll(engine->streams);
	if (engine->source != NULL) {
		sluice_source_tick(engine->source);
		deadline_ns = sluice_source_deadline_ns(engine->source);
	} else if (engine->target != NULL) {
		sluice_target_tick(engine->target);
		deadline_ns = sluice_target_deadline_ns(engine->target);
	}
	sluice_timer_set(engine->timer, deadline_ns);
	if (engine->linger_over && !sluice_engine_is_busy(engine)) {
		engine->linger_over = false;
		sluice_timer_set(
			engine->linger_timer, 0); /* not here: our caller uses the session */
	}
	/* A session that is over needs no device threads any more. */
	if (engine->streams != NULL && !sluice_engine_is_busy(engine)) {
		sluice_streams_destroy(engine->streams);
		engine->streams = NULL;
	}
}
