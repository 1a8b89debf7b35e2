/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * commands.c: the commands of the VMM socket. Arguments are checked against vmm-socket.json
 * before a handler sees them. Control thread; the context is the engine.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/clock.h"
#include "base/params.h"
#include "engine/engine.h"
#include "engine/lane/lane_set.h"
#include "engine/preflight.h"
#include "engine/security.h"

#define HANDLER(name)        \
	static json_t *name( \
		void *ctx, struct sluice_client *client, json_t *args, struct sluice_error *err)

static const char *text(const json_t *args, const char *key)
{
	return json_string_value(json_object_get(args, key));
}

static uint64_t number(const json_t *args, const char *key)
{
	return (uint64_t)json_integer_value(json_object_get(args, key));
}

/* An empty reply, or NULL when @r says that it failed. */
static json_t *done(int r)
{
	return r < 0 ? NULL : json_object();
}

/* After a session was told something: it may have new deadlines, or be over. */
static json_t *done_session(struct sluice_engine *engine, int r)
{
	sluice_engine_tick(engine, sluice_now_ns());
	return done(r);
}

static int no_migration(const char *command, struct sluice_error *err)
{
	return sluice_fail(err, -EINVAL, command, "no migration is running");
}

/* ---- memory ---- */

HANDLER(memory_add)
{
	struct sluice_region_opts opts = {
		.id = text(args, "id"),
		.fd_offset = number(args, "offset"),
		.len_bytes = number(args, "size"),
		.gpa = number(args, "gpa"),
	};
	int r;

	opts.fd = sluice_client_take_fd(client, text(args, "fdname"), err);
	if (opts.fd < 0)
		return NULL;
	r = sluice_engine_memory_add(ctx, &opts, err);
	close(opts.fd);
	sluice_engine_vmm_came(ctx);
	return done(r);
}

HANDLER(memory_remove)
{
	int r = sluice_engine_memory_remove(ctx, text(args, "id"), err);

	(void)client;
	return r < 0 ? NULL : json_pack("{s:b}", "removed", r == 0);
}

HANDLER(memory_discard)
{
	(void)client;
	return done(sluice_engine_memory_discard(
		ctx, text(args, "id"), number(args, "offset"), number(args, "size"), err));
}

/* What the session that runs, or the last one, knows of a region. */
static void add_session_view(
	const struct sluice_engine *engine, const struct sluice_region *region, json_t *reply)
{
	uint32_t slot = sluice_engine_slot_of(engine, region);
	const char *standing = NULL;
	uint64_t page_bytes = 0;

	if (slot == SLUICE_REGIONS_MAX)
		return;
	if (engine->source != NULL) {
		page_bytes = sluice_source_peer_page_bytes(engine->source, slot);
		standing = sluice_source_region_standing(engine->source, slot);
	} else if (engine->target != NULL) {
		page_bytes = sluice_target_peer_page_bytes(engine->target, slot);
		standing =
			sluice_target_region_is_bound(engine->target, slot) ? "moving" : "unused";
	}
	if (page_bytes != 0)
		json_object_set_new(reply, "peer-page-size", json_integer((json_int_t)page_bytes));
	if (standing != NULL && sluice_engine_is_busy(engine))
		json_object_set_new(reply, "migration", json_string(standing));
}

HANDLER(query_memory)
{
	struct sluice_engine *engine = ctx;
	json_t *reply = json_array();

	(void)client, (void)args, (void)err;
	for (uint32_t i = 0; i < engine->memory.count; i++) {
		const struct sluice_region *r = engine->memory.regions[i];
		bool pinned = engine->memory.pin != SLUICE_PIN_NONE;

		json_array_append_new(
			reply, json_pack("{s:s, s:I, s:I, s:I, s:I, s:s, s:I, s:I, s:s}", "id",
				       r->id, "gpa", (json_int_t)r->gpa, "size",
				       (json_int_t)r->len_bytes, "offset", (json_int_t)r->fd_offset,
				       "page-size", (json_int_t)r->backing_page_bytes, "backing",
				       r->guarded                     ? "file"
				       : r->backing_page_bytes > 4096 ? "hugetlb"
								      : "memfd",
				       "pinned-bytes", (json_int_t)(pinned ? r->len_bytes : 0),
				       "pin-ms", (json_int_t)(r->pin_ns / SLUICE_NS_PER_MS), "feed",
				       r->feed != NULL ? "bitmap" : "none"));
		add_session_view(engine, r, json_array_get(reply, i));
	}
	return reply;
}

HANDLER(feed_add)
{
	int fd = sluice_client_take_fd(client, text(args, "fdname"), err);
	int r;

	if (fd < 0)
		return NULL;
	r = sluice_engine_feed_add(ctx, text(args, "region"), fd, err);
	close(fd);
	return done(r);
}

/* ---- the migration ---- */

HANDLER(migrate)
{
	struct sluice_engine *engine = ctx;

	(void)client;
	if (sluice_engine_migrate(engine, text(args, "uri"), err) < 0)
		return NULL;
	return json_pack("{s:s}", "session", engine->session);
}

HANDLER(migrate_incoming)
{
	struct sluice_engine *engine = ctx;

	(void)client;
	if (sluice_engine_incoming(engine, text(args, "uri"), err) < 0)
		return NULL;
	return json_pack("{s:s}", "uri", engine->listen_uri);
}

HANDLER(migrate_continue)
{
	struct sluice_engine *engine = ctx;
	int r = engine->source != NULL
			? sluice_source_continue(engine->source, text(args, "state"), err)
			: no_migration("migrate-continue", err);

	(void)client;
	return done_session(engine, r);
}

HANDLER(migrate_cancel)
{
	struct sluice_engine *engine = ctx;
	int r;

	(void)client, (void)args;
	if (engine->source != NULL)
		r = sluice_source_cancel(engine->source, err);
	else if (engine->target != NULL)
		r = sluice_target_cancel(engine->target, err);
	else
		r = no_migration("migrate_cancel", err);
	return done_session(engine, r);
}

HANDLER(migrate_pause)
{
	(void)client, (void)args;
	return done_session(ctx, sluice_engine_pause(ctx, err));
}

HANDLER(migrate_recover)
{
	(void)client;
	return done_session(ctx, sluice_engine_recover(ctx, text(args, "uri"), err));
}

HANDLER(dirty_sync_done)
{
	struct sluice_engine *engine = ctx;
	int r = engine->source != NULL
			? sluice_source_dirty_sync_done(engine->source, number(args, "id"),
				  number(args, "worked-us") * SLUICE_NS_PER_US, err)
			: no_migration("dirty-sync-done", err);

	(void)client;
	return done_session(engine, r);
}

HANDLER(device_add)
{
	struct sluice_engine *engine = ctx;
	const char *device = text(args, "device");
	int fd = sluice_client_take_fd(client, text(args, "fdname"), err);
	int r;

	if (fd < 0)
		return NULL;
	if (engine->source != NULL) {
		r = sluice_source_device_add(engine->source, device, fd, err);
	} else if (engine->target != NULL) {
		r = sluice_target_device_add(engine->target, device, fd, err);
	} else {
		close(fd);
		r = no_migration("device-add", err);
	}
	return done_session(engine, r);
}

HANDLER(device_loaded)
{
	struct sluice_engine *engine = ctx;
	int r = engine->target != NULL
			? sluice_target_device_loaded(engine->target, text(args, "device"), err)
			: no_migration("device-loaded", err);

	(void)client;
	return done_session(engine, r);
}

/* ---- parameters ---- */

/* JSON to the text that the table parses. A bare number for a time is milliseconds, as in QEMU. */
static int to_text(const struct sluice_param *param, const json_t *value, char *out, size_t bytes)
{
	if (json_is_string(value))
		snprintf(out, bytes, "%s", json_string_value(value));
	else if (json_is_integer(value))
		snprintf(out, bytes, "%lld%s", (long long)json_integer_value(value),
			param->type == SLUICE_PARAM_TIME ? "ms" : "");
	else if (json_is_boolean(value))
		snprintf(out, bytes, "%s", json_is_true(value) ? "yes" : "no");
	else
		return -EINVAL;
	return 0;
}

static int set_parameter(struct sluice_engine *engine, struct sluice_config *config,
	const char *name, const json_t *value, struct sluice_error *err)
{
	const struct sluice_param *param = sluice_params_find(sluice_config_params, name);
	char out[256];

	/* An unknown name: the table's own error names the nearest known one. */
	if (param == NULL)
		return sluice_params_set(sluice_config_params, config, name, "", err);
	if (!param->live && sluice_engine_is_busy(engine))
		return sluice_fail(err, -EBUSY, "migrate-set-parameters",
			"\"%s\" cannot change while a migration runs", name);
	if (strcmp(name, "transport") == 0 || strcmp(name, "rail") == 0 ||
		strcmp(name, "pin") == 0 || strcmp(name, "runtime-dir") == 0)
		return sluice_fail(err, -EINVAL, "migrate-set-parameters",
			"\"%s\" is fixed when the engine starts: sluiced --set %s=...", name, name);
	if (to_text(param, value, out, sizeof(out)) < 0)
		return sluice_fail(err, -EINVAL, "migrate-set-parameters",
			"\"%s\" takes a number, a word or a boolean", name);
	return sluice_params_set(sluice_config_params, config, name, out, err);
}

/* All or nothing. */
HANDLER(migrate_set_parameters)
{
	struct sluice_engine *engine = ctx;
	struct sluice_config config = engine->config;
	struct sluice_policy_conf policy;
	const char *name;
	json_t *value;

	(void)client;
	json_object_foreach (args, name, value)
		if (set_parameter(engine, &config, name, value, err) < 0)
			return NULL;
	if (sluice_placing_check(engine, &config, err) < 0)
		return NULL;
	engine->config = config;
	policy = sluice_engine_policy(engine);
	if (engine->source != NULL) {
		sluice_source_set_policy(engine->source, &policy);
		sluice_source_set_max_bandwidth(
			engine->source, engine->config.max_bandwidth_bytes_per_s);
	}
	return json_object();
}

/* As they are set: times as whole milliseconds, as in QEMU, or as text such as "20us". */
HANDLER(query_migrate_parameters)
{
	struct sluice_engine *engine = ctx;
	json_t *reply = sluice_params_json(sluice_config_params, &engine->config);

	(void)client, (void)args, (void)err;
	for (const struct sluice_param *p = sluice_config_params; p->name != NULL; p++) {
		uint64_t ns = number(reply, p->name);
		char out[64];

		if (p->type != SLUICE_PARAM_TIME)
			continue;
		sluice_params_format(p, &engine->config, out, sizeof(out));
		json_object_set_new(reply, p->name,
			ns % SLUICE_NS_PER_MS == 0
				? json_integer((json_int_t)(ns / SLUICE_NS_PER_MS))
				: json_string(out));
	}
	return reply;
}

/* ---- queries ---- */

HANDLER(query_status)
{
	struct sluice_engine *engine = ctx;
	const char *status = "idle";

	(void)client, (void)args, (void)err;
	if (engine->awaits_guest && !sluice_engine_is_busy(engine))
		status = "incoming";
	else if (engine->source != NULL)
		status = sluice_source_is_over(engine->source)       ? "ended"
			 : sluice_source_is_in_doubt(engine->source) ? "in-doubt"
								     : "source";
	else if (engine->target != NULL)
		status = sluice_target_is_over(engine->target) ? "ended"
			 : strcmp(sluice_target_status(engine->target), "in-doubt") == 0
				 ? "in-doubt"
				 : "target";
	else if (engine->listener != NULL)
		status = "incoming";
	return json_pack("{s:s}", "status", status);
}

HANDLER(query_migrate)
{
	struct sluice_engine *engine = ctx;
	json_t *reply;

	(void)client, (void)args, (void)err;
	if (engine->source != NULL)
		reply = sluice_source_query(engine->source);
	else if (engine->target != NULL)
		reply = sluice_target_query(engine->target);
	else
		reply = json_pack("{s:s}", "status", "none");
	json_object_set_new(reply, "security", sluice_security_query(engine));
	return reply;
}

static json_t *lane_json(
	const struct sluice_engine *engine, const struct sluice_lane_set *set, uint32_t lane)
{
	static const char *const states[] = {[SLUICE_LANE_CLOSED] = "closed",
		[SLUICE_LANE_OPENING] = "connecting",
		[SLUICE_LANE_CONNECTING] = "connecting",
		[SLUICE_LANE_ACTIVE] = "active",
		[SLUICE_LANE_FENCING] = "lost"};
	uint64_t now_ns = sluice_now_ns();
	const struct sluice_lane_slot *slot = &set->slots[lane];
	const struct sluice_rail_pair *pair = set->pair_count > 0 ? &set->pairs[slot->pair] : NULL;
	struct sluice_conn_stats conn;
	struct sluice_crew_lane place = sluice_crew_lane_now(engine->crew, lane, slot->lane);
	struct sluice_lane_counters c;
	json_t *reply;

	sluice_lane_set_counters(set, lane, &c);
	sluice_lane_set_conn_stats(set, lane, &conn);
	reply = json_pack("{s:I, s:s, s:I, s:s, s:s, s:I, s:I, s:I, s:I, s:I}", "lane",
		(json_int_t)lane, "state", states[slot->standing], "epoch", (json_int_t)slot->epoch,
		"transport", pair != NULL ? pair->transport->name : engine->config.transport,
		"rail", pair != NULL ? engine->rails.list[pair->ours].name : "", "window-bytes",
		(json_int_t)set->window_bytes, "losses", (json_int_t)slot->losses, "bytes",
		(json_int_t)c.bytes_placed, "bytes-on-wire", (json_int_t)conn.bytes_out, "syscalls",
		(json_int_t)conn.syscalls_out);
	if (pair != NULL && pair->peer_address[0] != '\0')
		json_object_set_new(reply, "peer-rail", json_string(pair->peer_address));
	if (slot->why_lost[0] != '\0')
		json_object_set_new(reply, "why-lost", json_string(slot->why_lost));
	json_object_set_new(reply, "moved", json_integer((json_int_t)slot->moved));
	json_object_set_new(reply, "reopened", json_integer((json_int_t)slot->reopened));
	json_object_set_new(reply, "bytes-resent", json_integer((json_int_t)c.bytes_resent));
	if (slot->standing == SLUICE_LANE_CLOSED && slot->retry_ns > now_ns &&
		slot->retry_ns != SLUICE_NEVER)
		json_object_set_new(reply, "retry-in",
			json_integer((json_int_t)((slot->retry_ns - now_ns) / SLUICE_NS_PER_MS)));
	if (place.worker != SLUICE_CREW_ANY)
		json_object_set_new(reply, "worker", json_integer((json_int_t)place.worker));
	json_object_set_new(reply, "node", json_integer(place.node));
	json_object_set_new(reply, "pages-sent", json_integer((json_int_t)c.pages_sent));
	json_object_set_new(reply, "pages-zero", json_integer((json_int_t)c.pages_zero));
	json_object_set_new(reply, "busy-ns", json_integer((json_int_t)c.busy_ns));
	json_object_set_new(reply, "zerocopy-sent", json_integer((json_int_t)conn.zerocopy_sent));
	json_object_set_new(
		reply, "zerocopy-copied", json_integer((json_int_t)conn.zerocopy_copied));
	json_object_set_new(
		reply, "zerocopy-enobufs", json_integer((json_int_t)conn.zerocopy_enobufs));
	json_object_set_new(
		reply, "payload-damaged", json_integer((json_int_t)conn.payload_damaged));
	json_object_set_new(reply, "idle-ns", json_integer((json_int_t)c.idle_ns));
	return reply;
}

HANDLER(query_lanes)
{
	struct sluice_engine *engine = ctx;
	const struct sluice_lane_set *set = sluice_engine_lanes(engine);
	json_t *reply = json_array();

	(void)client, (void)args, (void)err;
	for (uint32_t lane = 0; set != NULL && lane < set->count; lane++)
		json_array_append_new(reply, lane_json(engine, set, lane));
	return reply;
}

static json_t *workers_json(struct sluice_engine *engine)
{
	uint32_t count = engine->crew != NULL ? sluice_crew_workers(engine->crew) : 0;
	json_t *workers = json_array();

	for (uint32_t i = 0; i < count; i++) {
		struct sluice_worker_stats stats;

		sluice_crew_stats(engine->crew, i, &stats);
		json_array_append_new(workers,
			json_pack("{s:I, s:i, s:i, s:i, s:I, s:I}", "worker", (json_int_t)i,
				"thread-id", stats.thread, "core", stats.core, "node", stats.node,
				"cpu-ns", (json_int_t)stats.cpu_ns, "lanes",
				(json_int_t)stats.lanes));
	}
	return workers;
}

/* What rails pinned for their NICs. Nothing where rails register no memory. */
static void put_registered(const struct sluice_engine *engine, json_t *reply)
{
	struct sluice_rail_stats stats;

	sluice_rails_stats(engine, &stats);
	if (stats.registrations == 0)
		return;
	json_object_set_new(
		reply, "registered-bytes", json_integer((json_int_t)stats.registered_bytes));
	json_object_set_new(reply, "register-ns", json_integer((json_int_t)stats.register_ns));
	json_object_set_new(
		reply, "registered-last-ns", json_integer((json_int_t)stats.registered_last_ns));
}

HANDLER(query_stats)
{
	struct sluice_engine *engine = ctx;
	const struct sluice_lane_set *set = sluice_engine_lanes(engine);
	struct sluice_lane_counters sum = {0};
	json_t *reply = json_object();

	(void)client, (void)args, (void)err;
	if (set != NULL)
		sluice_lane_set_sum(set, &sum);
#define X(name, help)                                                                \
	{                                                                            \
		char key[] = #name;                                                  \
		for (char *c = key; *c != '\0'; c++)                                 \
			*c = *c == '_' ? '-' : *c;                                   \
		json_object_set_new(reply, key, json_integer((json_int_t)sum.name)); \
	}
	SLUICE_LANE_COUNTERS(X)
#undef X
	if (set != NULL)
		json_object_set_new(reply, "inflight-ns",
			json_integer((json_int_t)SLUICE_COUNT_READ(set->work->in_use.total_ns)));
	json_object_set_new(reply, "pin-ms",
		json_integer((json_int_t)(engine->memory.pin_ns / SLUICE_NS_PER_MS)));
	json_object_set_new(
		reply, "pages-pinned", json_integer((json_int_t)engine->memory.pages_pinned));
	json_object_set_new(reply, "pages-pinned-during-migration",
		json_integer((json_int_t)(engine->session[0] == '\0'
						  ? 0
						  : engine->memory.pages_pinned -
							    engine->pages_pinned_before)));
	put_registered(engine, reply);
	json_object_set_new(reply, "cpu-ns",
		json_integer((json_int_t)sluice_clock_read(CLOCK_PROCESS_CPUTIME_ID)));
	json_object_set_new(reply, "workers", workers_json(engine));
	return reply;
}

HANDLER(query_session)
{
	struct sluice_engine *engine = ctx;
	const char *session = text(args, "session"), *status, *role;
	json_t *reply;

	(void)client;
	if (sluice_engine_session_status(engine, session, &status, &role, err) < 0)
		return NULL;
	reply = json_pack("{s:s}", "status", status);
	if (session == NULL)
		session = engine->session;
	if (*session != '\0')
		json_object_set_new(reply, "session", json_string(session));
	if (role != NULL)
		json_object_set_new(reply, "role", json_string(role));
	return reply;
}

HANDLER(session_resolve)
{
	enum sluice_decision decision = strcmp(text(args, "decision"), "committed") == 0
						? SLUICE_COMMITTED
						: SLUICE_ABORTED;

	(void)client;
	return done(sluice_engine_resolve(ctx, text(args, "session"), decision, err));
}

HANDLER(preflight)
{
	(void)client, (void)err;
	return sluice_preflight(ctx, text(args, "uri"));
}

HANDLER(quit)
{
	struct sluice_engine *engine = ctx;

	(void)client, (void)args;
	if (sluice_engine_is_busy(engine)) {
		sluice_fail(err, -EBUSY, "quit", "a migration is running; migrate_cancel first");
		return NULL;
	}
	sluice_loop_stop(engine->loop, 0);
	return json_object();
}

const struct sluice_command sluice_engine_commands[] = {
	{"query-status", query_status},
	{"memory-add", memory_add},
	{"memory-remove", memory_remove},
	{"memory-discard", memory_discard},
	{"query-memory", query_memory},
	{"feed-add", feed_add},
	{"dirty-sync-done", dirty_sync_done},
	{"device-add", device_add},
	{"device-loaded", device_loaded},
	{"migrate", migrate},
	{"migrate-incoming", migrate_incoming},
	{"migrate-continue", migrate_continue},
	{"migrate_cancel", migrate_cancel},
	{"migrate-pause", migrate_pause},
	{"migrate-recover", migrate_recover},
	{"migrate-set-parameters", migrate_set_parameters},
	{"query-migrate-parameters", query_migrate_parameters},
	{"query-migrate", query_migrate},
	{"query-lanes", query_lanes},
	{"query-placement", sluice_placing_query},
	{"query-stats", query_stats},
	{"query-session", query_session},
	{"session-resolve", session_resolve},
	{"preflight", preflight},
	{"quit", quit},
	{0},
};
