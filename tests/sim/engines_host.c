/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * engines_host.c: an engine process around a session: what engine/migration.c and its neighbours
 * are to sluiced, over the simulated world. It keeps to the same order of steps, because the
 * order is part of what is tested. See engines_internal.h.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/bits.h"
#include "engine/device/inbox.h"
#include "engine/device/outbox.h"
#include "engine/lane/crew.h"
#include "engine/lane/lane_set.h"
#include "engine/peer/messages.h"
#include "tests/sim/engines_internal.h"

#define STAGING_SPAN_ID 1000u

const char engines_session_id[] = "0123456789abcdef0123456789abcdef";

static const struct sluice_transport *const sim = &sluice_transport_sim;

/* ---- the world of a session ---- */

/* Two looks at a real clock differ, also within one call of the session. */
static uint64_t env_now_ns(void *ctx)
{
	struct engine *engine = ctx;
	uint64_t now_ns = run_now(engine->run);

	engine->clock_ns = now_ns > engine->clock_ns ? now_ns : engine->clock_ns + 1;
	return engine->clock_ns;
}

/* Everything dirty was placed and flushed, every segment is loaded, or `finish` is a lie. */
static void check_finish(struct engine *engine)
{
	struct run *run = engine->run;
	uint64_t different = oracle_pages_different(run->oracle);

	plug_count_moved(run);
	if (run->guest->running)
		oracle_complain(run->oracle, "finish is sent while the guest runs");
	if (different > 0)
		oracle_complain(run->oracle, "finish is sent and %llu pages differ",
			(unsigned long long)different);
	if (sluice_source_outbox(engine->source)->unaccepted > 0)
		oracle_complain(run->oracle, "finish is sent and segments are not accepted");
}

/* Prepared: no connection of any lane is left through which something could land. */
static void check_prepared(struct engine *engine)
{
	const struct sluice_lane_set *lanes = sluice_target_lanes(engine->target);

	if (sluice_lane_set_standing(lanes, SLUICE_LANE_CLOSED) != lanes->count)
		oracle_complain(engine->run->oracle, "prepared is sent and lanes are open");
}

static void env_peer_send(void *ctx, json_t *message)
{
	struct engine *engine = ctx;

	SLUICE_ASSERT(message != NULL);
	if (strcmp(sluice_peer_type(message), "finish") == 0)
		check_finish(engine);
	if (strcmp(sluice_peer_type(message), "prepared") == 0)
		check_prepared(engine);
	chaos_message_sent(engine->run, sluice_peer_type(message));
	if (engine->link != NULL)
		link_send(engine->link, engine->host, message);
	json_decref(message);
}

/* Half of the seeds have an encrypted link. Both ends of one know the same, of two never. */
static int env_derive(
	void *ctx, const void *context, size_t context_bytes, uint8_t *secret, size_t secret_bytes)
{
	struct engine *engine = ctx;
	uint64_t state;

	if (engine->run->seed % 2 == 0)
		return -EOPNOTSUPP;
	if (engine->link == NULL)
		return -ENOTCONN;
	state = sluice_random_mix(engine->run->seed ^ (uint64_t)engine->link->number << 32);
	for (size_t i = 0; i < context_bytes; i++)
		state = sluice_random_mix(state ^ ((const uint8_t *)context)[i]);
	for (size_t i = 0; i < secret_bytes; i++)
		secret[i] = (uint8_t)sluice_random_mix(state ^ i);
	return 0;
}

static void env_vmm_event(void *ctx, const char *name, json_t *data)
{
	struct engine *engine = ctx;
	struct run *run = engine->run;

	SLUICE_ASSERT(data != NULL);
	chaos_message_sent(run, name);
	vmm_tell(&run->vmms[engine->host], name, data, run_delay(run, run->plan.vmm_ns_max));
}

enum sluice_decision engine_decide(
	struct engine *engine, enum sluice_record_side side, enum sluice_decision decision)
{
	struct run *run = engine->run;

	if (engine->records[side] != SLUICE_UNDECIDED)
		return engine->records[side];
	engine->records[side] = decision;
	run_say(run, "%s records %s", engine->host == SOURCE ? "source" : "target",
		decision == SLUICE_COMMITTED ? "committed" : "aborted");
	if (engine->host == SOURCE && decision == SLUICE_COMMITTED && !run->vmms[SOURCE].gave)
		oracle_complain(run->oracle, "the source committed unasked");
	if (engine->host == TARGET && decision == SLUICE_COMMITTED) {
		if (run->engines[SOURCE].records[SLUICE_RECORD_SOURCE] != SLUICE_COMMITTED)
			oracle_complain(run->oracle, "the target committed before the source");
		oracle_commit(run->oracle);
	}
	return decision;
}

static int env_decide(void *ctx, const char *session, enum sluice_decision decision,
	enum sluice_decision *ret_decision, struct sluice_error *err)
{
	struct engine *engine = ctx;

	(void)err;
	SLUICE_ASSERT(strcmp(session, engines_session_id) == 0);
	*ret_decision = engine_decide(engine,
		engine->host == SOURCE ? SLUICE_RECORD_SOURCE : SLUICE_RECORD_TARGET, decision);
	return 0;
}

/* A hole reads as zeros; some zero pages are holes and some are not. */
static bool may_hold_data(const struct engine *engine, uint32_t r, uint32_t page)
{
	const struct run *run = engine->run;
	const uint64_t *ticks = run->guest->regions[r].ticks + (uint64_t)page * GUEST_PAGE_SECTORS;

	if (engine->host == TARGET)
		return !oracle_target_page_known_zero(run->oracle, r, page);
	for (uint32_t i = 0; i < GUEST_PAGE_SECTORS; i++)
		if (ticks[i] != 0)
			return true;
	return sluice_random_mix(run->seed ^ page) % 4 == 0;
}

/* A page that the kernel is just moving seems to be a hole: some in every other look at the source, and
   with every eighth seed all. */
static bool is_missed(const struct engine *engine, uint32_t slot, uint32_t page)
{
	uint64_t seed = engine->run->seed;
	uint64_t luck = sluice_random_mix(seed ^ ((uint64_t)slot << 32) ^ page);

	return engine->host == SOURCE && engine->looks[slot] % 2 != 0 &&
	       (seed % 8 == 0 || luck % 32 == 0);
}

static void env_for_each_data(void *ctx, uint32_t slot, uint64_t offset, uint64_t len_bytes,
	sluice_data_fn *fn, void *fn_ctx)
{
	struct engine *engine = ctx;
	uint32_t region = engine->slot_region[slot];
	uint32_t page = (uint32_t)(offset >> SLUICE_PAGE_SHIFT);
	uint32_t end = page + (uint32_t)(len_bytes >> SLUICE_PAGE_SHIFT);

	engine->looks[slot]++;
	while (page < end) {
		uint32_t first = page;

		while (page < end && may_hold_data(engine, region, page) &&
			!is_missed(engine, slot, page))
			page++;
		if (page > first)
			fn(fn_ctx, (uint64_t)first << SLUICE_PAGE_SHIFT,
				(uint64_t)(page - first) << SLUICE_PAGE_SHIFT);
		else
			page++;
	}
}

static void env_region_gone(void *ctx, uint32_t region)
{
	plug_gone(ctx, region);
}

static bool env_memory_lost(void *ctx)
{
	(void)ctx;
	return false;
}

static int env_device_start(void *ctx, uint32_t device, int fd, struct sluice_error *err)
{
	struct engine *engine = ctx;

	(void)fd; /* there is none: the actors of engines_device.c make up the bytes */
	(void)err;
	SLUICE_ASSERT(device < ENGINES_DEVICES_MAX);
	SLUICE_ASSERT(!engine->devices[device].started);
	engine->devices[device].started = true;
	return 0;
}

static int env_segment_announced(
	void *ctx, const struct sluice_announce *announce, struct sluice_error *err)
{
	return sluice_inbox_announced(((struct engine *)ctx)->inbox, announce, err);
}

static void env_peer_disconnect(void *ctx)
{
	struct engine *engine = ctx;

	link_close(engine->link, engine->host);
	engine->link = NULL;
}

static void env_peer_reconnect(void *ctx)
{
	struct engine *engine = ctx;

	engine->run->stats->reconnects++;
	link_close(engine->link, SOURCE);
	engine->link = link_connect(engine);
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
	.region_gone = env_region_gone,
	.memory_lost = env_memory_lost,
	.device_start = env_device_start,
	.segment_announced = env_segment_announced,
};

static void wake(void *ctx)
{
	((struct engine *)ctx)->woken = true;
}

/* ---- beginning and end ---- */

void engine_init(struct run *run, enum host host)
{
	run->engines[host] = (struct engine){.run = run,
		.host = host,
		.alive = true,
		.listens = host == TARGET,
		.restart_ns = SLUICE_NEVER};
}

static void begin(struct engine *engine, struct sluice_session_conf *conf)
{
	struct run *run = engine->run;
	struct sluice_crew_lane lanes[ENGINES_LANES_MAX];
	struct sluice_crew_opts crew = {.lanes = lanes, .lane_count = run->plan.lanes};

	engine_homes_spread(run, lanes);
	SLUICE_ASSERT(sluice_crew_create(&crew, &engine->crew) == 0);
	/* As the guest was made; nobody is plugged before the session has begun. */
	for (engine->slot_count = 0;
		engine->slot_count < run->guest->region_count - run->guest->opts.spare_count;
		engine->slot_count++)
		plug_fill_slot(engine, engine->slot_count, engine->slot_count);
	for (uint32_t k = 0; k < run->plan.rails[engine->host]; k++) {
		engine->rails[k].transport = sim;
		engine->rails[k].rail = run->rails[engine->host][k];
		engine->rails[k].name = "sim";
		engine->rails[k].address = engine->host == TARGET ? run->addresses[k] : "";
	}
	*conf = (struct sluice_session_conf){
		.rails = engine->rails,
		.rail_count = run->plan.rails[engine->host],
		.crew = engine->crew,
		.lanes = run->plan.lanes,
		.memory_budget_bytes = (uint64_t)run->plan.window_bytes * run->plan.lanes,
		.max_bandwidth_bytes_per_s = run->plan.max_bandwidth_bytes_per_s,
		.peer_timeout_ns = run->plan.peer_timeout_ns,
		.setup_timeout_ns = SLUICE_NS_PER_S,
		.lane_timeout_ns = run->plan.lane_timeout_ns,
		.switchover_timeout_ns = run->plan.switchover_timeout_ns,
		.recover_retries = run->plan.recover_retries,
		.recover_pause_ns = run->plan.recover_pause_ns,
		.recover_timeout_ns = run->plan.recover_timeout_ns,
		.policy = run->plan.policy,
		.regions = engine->regions,
		.region_count = engine->slot_count,
		.region_timeout_ns = run->plan.region_timeout_ns,
		.wake = wake,
		.wake_ctx = engine,
	};
	memset(conf->instance, engine->host == SOURCE ? 'a' : 'b', SLUICE_SESSION_ID_BYTES - 1);
	memcpy(conf->session, engines_session_id, sizeof(conf->session));
}

void engine_migrate(struct engine *engine)
{
	struct sluice_session_env env = engine_env;
	struct sluice_session_conf conf;

	begin(engine, &conf);
	env.ctx = engine;
	engine->link = link_connect(engine);
	SLUICE_ASSERT(sluice_source_create(&conf, &env, &engine->source) == 0);
	engine_homes_make(engine);
	engine_tick(engine);
}

static int make_staging(struct engine *engine, struct sluice_error *err)
{
	const struct plan *plan = &engine->run->plan;
	struct sluice_span span = {
		.id = STAGING_SPAN_ID, .len_bytes = (uint64_t)plan->slots * plan->slot_bytes};
	int r = sluice_inbox_create(plan->slots, plan->slot_bytes, &engine->inbox);

	if (r < 0)
		return r;
	span.addr = engine->inbox->pool;
	for (uint32_t i = 0; i < plan->rails[TARGET] && r == 0; i++)
		r = sim->mem_register(engine->rails[i].rail, &span, SLUICE_ACCESS_REMOTE_WRITE,
			&engine->rails[i].staging, err);
	return r;
}

/* Did the lanes keep their windows? And what they did, before their counters are gone. */
static void check_lanes(struct engine *engine)
{
	const struct sluice_lane_set *lanes = sluice_source_lanes(engine->source);
	struct engines_stats *stats = engine->run->stats;
	struct sluice_lane_counters counters;
	uint64_t segments_sent = 0, segments_read = 0;

	for (uint32_t lane = 0; lane < lanes->count; lane++) {
		sluice_lane_set_counters(lanes, lane, &counters);
		if (counters.inflight_bytes_peak > engine->run->plan.window_bytes)
			oracle_complain(engine->run->oracle,
				"lane %u had %llu bytes in flight in a window of %u", lane,
				(unsigned long long)counters.inflight_bytes_peak,
				engine->run->plan.window_bytes);
		segments_sent += counters.segments;
		stats->window_waits += counters.window_waits;
		stats->pace_waits += counters.pace_waits;
		stats->chunks_stolen += counters.chunks_stolen;
		stats->chunks_astray += counters.chunks_astray;
		stats->pages_zeroed += counters.pages_zeroed;
		stats->pages_skipped += counters.pages_zero - counters.pages_zeroed;
	}
	for (uint32_t lane = 0; lane < lanes->count; lane++)
		stats->lanes_reopened += lanes->slots[lane].reopened;
	for (uint32_t lane = 0; lane < lanes->count; lane++)
		stats->lanes_moved += lanes->slots[lane].moved;
	for (uint32_t i = 0; i < ENGINES_DEVICES_MAX; i++)
		segments_read += engine->devices[i].seq;
	if (segments_sent > segments_read)
		stats->segments_resent += segments_sent - segments_read;
}

void engine_clear(struct engine *engine)
{
	if (engine->source != NULL)
		check_lanes(engine);
	memset(engine->devices, 0, sizeof(engine->devices));
	engine->loaded_count = 0;
	sluice_source_destroy(engine->source);
	engine->source = NULL;
	sluice_target_destroy(engine->target);
	engine->target = NULL;
	sluice_crew_destroy(engine->crew);
	engine->crew = NULL;
	for (uint32_t i = 0; i < ENGINES_RAILS_MAX; i++) {
		sim->mem_unregister(engine->rails[i].staging);
		engine->rails[i].staging = NULL;
	}
	/* `fenced` says what arrived, so nothing that arrived comes again. */
	if (engine->inbox != NULL && engine->inbox->duplicates > 0)
		oracle_complain(engine->run->oracle, "%llu segments were sent twice",
			(unsigned long long)engine->inbox->duplicates);
	sluice_inbox_destroy(engine->inbox);
	engine->inbox = NULL;
	link_close(engine->link, engine->host);
	engine->link = NULL;
}

/* The process is gone, the records stay. */
void engine_kill(struct engine *engine)
{
	struct run *run = engine->run;

	run_say(run, "the %s's engine dies", engine->host == SOURCE ? "source" : "target");
	run->stats->engines_killed++;
	for (uint32_t i = 0; i < run->link_count; i++)
		if (run->links[i]->end[engine->host] == engine)
			link_close(run->links[i], engine->host);
	engine_clear(engine);
	engine->alive = false;
	engine->listens = false;
	engine->successor = true;
	engine->restart_ns = run_now(run) + run_delay(run, run->plan.restart_ns_max);
	vmm_engine_gone(&run->vmms[engine->host]);
}

/* ---- strangers ---- */

static void accept_source(struct engine *engine, struct link *link, const json_t *hello)
{
	struct sluice_session_env env = engine_env;
	struct sluice_session_conf conf;
	struct sluice_error err = {0};

	engine->link = link;
	begin(engine, &conf);
	env.ctx = engine;
	if (make_staging(engine, &err) == 0) {
		conf.lanes = (uint32_t)json_integer_value(json_object_get(hello, "lanes"));
		conf.inbox = engine->inbox;
		engine->run->session_seen = true;
		if (sluice_target_create(&conf, &env, hello, &engine->target, &err) == 0)
			return;
	}
	oracle_complain(engine->run->oracle, "the target refused: %s", err.text);
}

/* The successor of a dead engine has no guest memory: its VMM would have to come back first. */
static void on_hello(struct engine *engine, struct link *link, const json_t *message)
{
	json_t *refusal;

	if (!engine->successor) {
		accept_source(engine, link, message);
		return;
	}
	refusal = json_pack("{s:s, s:s}", "type", "refuse", "error", "there is no guest memory");
	link_send(link, TARGET, refusal);
	json_decref(refusal);
	link_close(link, TARGET);
}

static void take_link(struct engine *engine, struct link *link, const json_t *message)
{
	link_close(engine->link, TARGET);
	engine->link = link;
	sluice_target_peer_back(engine->target);
	sluice_target_peer_message(engine->target, message);
}

static void on_resolve(struct engine *engine, struct link *link, const json_t *message)
{
	json_t *reply;

	if (engine->target != NULL) {
		take_link(engine, link, message);
		return;
	}
	reply = json_pack("{s:s, s:s, s:s}", "type", "decision", "session", engines_session_id,
		"decision",
		engine_decide(engine, SLUICE_RECORD_TARGET, SLUICE_ABORTED) == SLUICE_COMMITTED
			? "committed"
			: "aborted");
	link_send(link, TARGET, reply);
	json_decref(reply);
	link_close(link, TARGET);
}

static void on_resume(struct engine *engine, struct link *link, const json_t *message)
{
	struct sluice_error err = {0};
	json_t *refusal;
	int r = -ENOENT;

	if (engine->target == NULL)
		snprintf(err.text, sizeof(err.text), "the target's engine holds no session");
	else
		r = sluice_target_check_resume(engine->target, message, &err);
	if (r == 0) {
		engine->run->stats->resumes++;
		take_link(engine, link, message);
		return;
	}
	engine->run->stats->resumes_refused++;
	refusal = json_pack("{s:s, s:s}", "type", "refuse", "error", err.text);
	link_send(link, TARGET, refusal);
	json_decref(refusal);
	link_close(link, TARGET);
}

static void stranger_message(struct engine *engine, struct link *link, const json_t *message)
{
	link->stranger = false;
	if (strcmp(sluice_peer_type(message), "hello") == 0)
		on_hello(engine, link, message);
	else if (strcmp(sluice_peer_type(message), "resolve") == 0)
		on_resolve(engine, link, message);
	else if (strcmp(sluice_peer_type(message), "resume") == 0)
		on_resume(engine, link, message);
	else
		oracle_complain(engine->run->oracle, "a link begins with \"%s\"",
			sluice_peer_type(message));
}

/* ---- the peer link ---- */

void engine_link_up(struct engine *engine)
{
	sluice_source_connected(engine->source);
	engine_tick(engine);
}

void engine_link_message(struct engine *engine, struct link *link, const json_t *message)
{
	if (engine->host == TARGET && link->stranger) {
		stranger_message(engine, link, message);
	} else if (link == engine->link) {
		if (strcmp(sluice_peer_type(message), "fence") == 0)
			engine->run->stats->fences++;
		engine->run->stats->resends_spared +=
			json_array_size(json_object_get(message, "held"));
		if (engine->source != NULL)
			sluice_source_peer_message(engine->source, message);
		else if (engine->target != NULL)
			sluice_target_peer_message(engine->target, message);
	}
	engine_tick(engine);
}

void engine_link_down(struct engine *engine, struct link *link, int code, const char *why)
{
	if (link != engine->link)
		return;
	engine->link = NULL;
	if (engine->source != NULL)
		sluice_source_peer_lost(engine->source, code, why);
	else if (engine->target != NULL)
		sluice_target_peer_lost(engine->target, why);
	engine_tick(engine);
}

/* ---- time ---- */

void engine_tick(struct engine *engine)
{
	engine->woken = false;
	device_poll(engine);
	if (engine->source != NULL)
		sluice_source_tick(engine->source);
	if (engine->target != NULL)
		sluice_target_tick(engine->target);
}

static uint64_t deadline_ns(const struct engine *engine)
{
	if (engine->source != NULL)
		return sluice_source_deadline_ns(engine->source);
	return engine->target != NULL ? sluice_target_deadline_ns(engine->target) : SLUICE_NEVER;
}

uint64_t engine_step(void *ctx, uint64_t now_ns)
{
	struct engine *engine = ctx;

	if (!engine->alive) {
		if (engine->restart_ns > now_ns)
			return engine->restart_ns;
		run_say(engine->run, "the %s's engine has a successor",
			engine->host == SOURCE ? "source" : "target");
		engine->alive = true;
		/* Not everybody says migrate-incoming again. */
		engine->listens = engine->host == TARGET && run_chance(engine->run, 600000);
	}
	if (engine->woken || deadline_ns(engine) <= now_ns) {
		engine_tick(engine);
		return now_ns;
	}
	return deadline_ns(engine);
}

/* Lanes are stepped one by one, in any order, as workers on different cores would. */
uint64_t engine_lane_step(void *ctx, uint64_t now_ns)
{
	struct lane_actor *actor = ctx;
	struct engine *engine = &actor->run->engines[actor->host];
	const struct sluice_lane_set *lanes;
	const struct sluice_lane_slot *slot;
	struct sluice_arm arm;

	if (engine->source == NULL && engine->target == NULL)
		return SLUICE_NEVER;
	lanes = engine->source != NULL ? sluice_source_lanes(engine->source)
				       : sluice_target_lanes(engine->target);
	slot = &lanes->slots[actor->lane];
	/* At the source nobody steps a lost lane: its worker has let it go. */
	if (slot->lane == NULL || (engine->source != NULL && slot->standing == SLUICE_LANE_FENCING))
		return SLUICE_NEVER;
	if (sluice_lane_step(slot->lane, now_ns, sluice_lane_set_inflight_bytes(lanes)) ||
		!sluice_lane_arm(slot->lane, &arm))
		return now_ns;
	return arm.deadline_ns;
}

/* ---- query-session ---- */

static const char *source_status(const struct sluice_source *source)
{
	if (sluice_source_is_in_doubt(source))
		return "in-doubt";
	if (strcmp(sluice_source_status(source), "completed") == 0)
		return "committed";
	return sluice_source_is_over(source) ? "aborted" : "active";
}

static const char *target_status(const struct sluice_target *target)
{
	if (sluice_target_is_prepared(target))
		return strcmp(sluice_target_status(target), "in-doubt") == 0 ? "in-doubt"
									     : "prepared";
	if (strcmp(sluice_target_status(target), "completed") == 0)
		return "committed";
	return sluice_target_is_over(target) ? "aborted" : "active";
}

/* As burn_unknown() of engine/migration.c: the answer is made true first. */
static const char *burn_unknown(struct engine *engine)
{
	enum sluice_decision decision = engine->records[SLUICE_RECORD_SOURCE];

	if (decision == SLUICE_UNDECIDED) {
		if (engine->records[SLUICE_RECORD_TARGET] == SLUICE_UNDECIDED)
			engine->run->stats->burnt_by_query++;
		decision = engine_decide(engine, SLUICE_RECORD_TARGET, SLUICE_ABORTED);
		if (decision != SLUICE_COMMITTED)
			decision = engine_decide(engine, SLUICE_RECORD_SOURCE, SLUICE_ABORTED);
	}
	return decision == SLUICE_COMMITTED ? "committed" : "aborted";
}

const char *engine_session_status(struct engine *engine)
{
	if (!engine->alive)
		return "none";
	if (engine->source != NULL)
		return source_status(engine->source);
	if (engine->target != NULL)
		return target_status(engine->target);
	return engine->successor ? burn_unknown(engine) : "none";
}
