/* SPDX-License-Identifier: BSD-3-Clause */
/* session_pair.c: see session_pair.h. One thread, virtual time. */
#include "tests/unit/session_pair.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <CUnit/CUnit.h>

#include "base/assert.h"
#include "base/bits.h"
#include "base/clock.h"
#include "engine/feeds/bitmap.h"
#include "engine/lane/crew.h"
#include "engine/peer/messages.h"

#define SLOTS      4u
#define SLOT_BYTES 4096u
#define STEP_NS    (20 * SLUICE_NS_PER_US)

static const struct sluice_transport *const sim = &sluice_transport_sim;

/* ---- the world of a session ---- */

static uint64_t env_now_ns(void *ctx)
{
	/* A session's zero means "not yet". */
	return sluice_sim_world_now(((struct pair_side *)ctx)->pair->world) + SLUICE_NS_PER_S;
}

static void env_peer_send(void *ctx, json_t *message)
{
	struct pair_side *side = ctx;
	struct sluice_error err = {0};

	CU_ASSERT_PTR_NOT_NULL_FATAL(message);
	CU_ASSERT_EQUAL(sluice_peer_check(message, &err), 0);
	SLUICE_ASSERT(side->out_count < PAIR_QUEUE);
	side->out[side->out_count++] = message;
}

static void env_peer_disconnect(void *ctx)
{
	((struct pair_side *)ctx)->disconnects++;
}

static void env_peer_reconnect(void *ctx)
{
	((struct pair_side *)ctx)->reconnects++;
}

static void env_vmm_event(void *ctx, const char *name, json_t *data)
{
	struct pair_side *side = ctx;

	CU_ASSERT_PTR_NOT_NULL_FATAL(data);
	if (strcmp(name, "MIGRATION_PROGRESS") != 0)
		snprintf(
			side->last_event, sizeof(side->last_event), "%s", name != NULL ? name : "");
	side->ready_asked |= strcmp(name, "SWITCHOVER_READY") == 0;
	side->commit_asked |= strcmp(name, "SWITCHOVER_COMMIT") == 0;
	side->open_asked |= strcmp(name, "DEVICE_OPEN") == 0;
	if (strcmp(name, "MEMORY_WANTED") == 0)
		snprintf(side->wanted, sizeof(side->wanted), "%s",
			json_string_value(json_object_get(data, "id")));
	if (strcmp(name, "MEMORY_RELEASED") == 0)
		snprintf(side->released, sizeof(side->released), "%s",
			json_string_value(json_object_get(data, "id")));
	if (strcmp(name, "DIRTY_SYNC") == 0)
		side->pending_sync = (unsigned int)json_integer_value(json_object_get(data, "id"));
	json_decref(data);
}

static int env_decide(void *ctx, const char *session, enum sluice_decision decision,
	enum sluice_decision *ret_decision, struct sluice_error *err)
{
	struct pair_side *side = ctx;

	CU_ASSERT_STRING_EQUAL(session, PAIR_SESSION);
	if (side->cannot_record && side->record == SLUICE_UNDECIDED)
		return sluice_fail(err, -ENOSPC, "session record", "no space");
	if (side->record == SLUICE_UNDECIDED) {
		side->record = decision;
		if (side->recorded_but_failed)
			return sluice_fail(err, -EIO, "session record", "not durable");
	}
	*ret_decision = side->record;
	return 0;
}

static void env_for_each_data(void *ctx, uint32_t region, uint64_t offset, uint64_t len_bytes,
	sluice_data_fn *fn, void *fn_ctx)
{
	const struct pair_side *side = ctx;

	(void)region;
	if (side->host == PAIR_SOURCE)
		fn(fn_ctx, offset, len_bytes);
}

static void env_region_gone(void *ctx, uint32_t region)
{
	((struct pair_side *)ctx)->gone |= 1u << region;
}

static bool env_memory_lost(void *ctx)
{
	(void)ctx;
	return false;
}

static int env_device_start(void *ctx, uint32_t device, int fd, struct sluice_error *err)
{
	struct pair_side *side = ctx;

	(void)fd, (void)err;
	CU_ASSERT_EQUAL(device, 0);
	side->device_started = true;
	return 0;
}

static int env_segment_announced(
	void *ctx, const struct sluice_announce *announce, struct sluice_error *err)
{
	return sluice_inbox_announced(((struct pair_side *)ctx)->pair->inbox, announce, err);
}

static struct sluice_session_env env_of(struct pair_side *side)
{
	return (struct sluice_session_env){.ctx = side,
		.now_ns = env_now_ns,
		.peer_send = env_peer_send,
		.peer_disconnect = env_peer_disconnect,
		.peer_reconnect = env_peer_reconnect,
		.vmm_event = env_vmm_event,
		.decide = env_decide,
		.for_each_data = env_for_each_data,
		.region_gone = env_region_gone,
		.memory_lost = env_memory_lost,
		.device_start = env_device_start,
		.segment_announced = env_segment_announced};
}

static void wake(void *ctx)
{
	(void)ctx; /* everything is stepped anyway */
}

/* ---- building ---- */

static void build_side(struct pair *pair, enum pair_host host)
{
	struct pair_side *side = &pair->side[host];
	struct sluice_sim_conf conf = {.world = pair->world};
	struct sluice_crew_opts crew = {.workers = 0};
	struct sluice_span span = {.id = 1, .len_bytes = PAIR_REGION_BYTES};

	side->pair = pair;
	side->host = host;
	side->memory = aligned_alloc(SLUICE_PAGE_BYTES, PAIR_REGION_BYTES);
	SLUICE_ASSERT(side->memory != NULL);
	memset(side->memory, host == PAIR_SOURCE ? 0x5a : 0, PAIR_REGION_BYTES);
	span.addr = side->memory;
	SLUICE_ASSERT(sluice_crew_create(&crew, &side->crew) == 0);
	side->region_count = 1;
	side->region[0] = (struct sluice_session_region){.id = "ram",
		.len_bytes = PAIR_REGION_BYTES,
		.page_bytes = SLUICE_PAGE_BYTES,
		.base = side->memory,
		.feed = host == PAIR_SOURCE ? pair->feed : NULL};
	for (uint32_t i = 0; i < PAIR_RAILS; i++) {
		struct sluice_session_rail *rail = &side->rails[i];

		*rail = (struct sluice_session_rail){
			.transport = sim, .name = "sim", .address = side->addresses[i]};
		SLUICE_ASSERT(sim->rail_open(&conf, "", &rail->rail, NULL) == 0);
		SLUICE_ASSERT(sim->mem_register(rail->rail, &span,
				      host == PAIR_SOURCE ? SLUICE_ACCESS_LOCAL_READ
							  : SLUICE_ACCESS_REMOTE_WRITE,
				      &side->region[0].mems[i], NULL) == 0);
	}
}

static struct sluice_session_conf conf_of(struct pair_side *side)
{
	struct sluice_session_conf conf = {.session = PAIR_SESSION,
		.instance = PAIR_SESSION,
		.rails = side->rails,
		.rail_count = PAIR_RAILS,
		.crew = side->crew,
		.lanes = PAIR_LANES,
		.memory_budget_bytes = 4u << 20,
		.peer_timeout_ns = 2 * SLUICE_NS_PER_S,
		.setup_timeout_ns = 5 * SLUICE_NS_PER_S,
		.lane_timeout_ns = SLUICE_NS_PER_S,
		.region_timeout_ns = PAIR_REGION_TIMEOUT_MS * SLUICE_NS_PER_MS,
		.recover_retries = PAIR_RETRIES,
		.recover_pause_ns = 100 * SLUICE_NS_PER_MS,
		.recover_timeout_ns = 10 * SLUICE_NS_PER_S,
		.policy = {.downtime_limit_ns = SLUICE_NS_PER_S,
			.sync_interval_ns = 10 * SLUICE_NS_PER_MS},
		.regions = side->region,
		.region_count = side->region_count,
		.wake = wake};

	return conf;
}

static void make_target(struct pair *pair, const json_t *hello)
{
	struct pair_side *side = &pair->side[PAIR_TARGET];
	struct sluice_session_conf conf = conf_of(side);
	struct sluice_session_env env = env_of(side);
	struct sluice_span span = {.id = 2, .len_bytes = SLOTS * SLOT_BYTES};
	struct sluice_error err = {0};

	SLUICE_ASSERT(sluice_inbox_create(SLOTS, SLOT_BYTES, &pair->inbox) == 0);
	span.addr = pair->inbox->pool;
	for (uint32_t i = 0; i < PAIR_RAILS; i++)
		SLUICE_ASSERT(
			sim->mem_register(side->rails[i].rail, &span, SLUICE_ACCESS_REMOTE_WRITE,
				&side->rails[i].staging, NULL) == 0);
	conf.inbox = pair->inbox;
	CU_ASSERT_EQUAL_FATAL(sluice_target_create(&conf, &env, hello, &pair->target, &err), 0);
}

int pair_plug(struct pair *pair, enum pair_host host, const char *id, uint64_t len_bytes, bool feed,
	struct sluice_error *err)
{
	struct pair_side *side = &pair->side[host];
	uint32_t index = side->region_count;
	struct pair_plugged *plugged = &side->plugged[index];
	struct sluice_span span = {.id = 10 + index, .len_bytes = len_bytes};
	struct sluice_session_region region = {
		.id = id, .gpa = 1ull << 32, .len_bytes = len_bytes, .page_bytes = 4096};
	int r = host == PAIR_SOURCE ? sluice_source_may_change(pair->source, "memory-add", err)
				    : sluice_target_may_add(pair->target, &region, err);

	if (r < 0)
		return r;
	SLUICE_ASSERT(index < PAIR_REGIONS_MAX && len_bytes <= PAIR_REGION_BYTES);
	plugged->memory = aligned_alloc(SLUICE_PAGE_BYTES, len_bytes);
	SLUICE_ASSERT(plugged->memory != NULL);
	memset(plugged->memory, host == PAIR_SOURCE ? (int)(0x40 + index) : 0, len_bytes);
	span.addr = plugged->memory;
	for (uint32_t i = 0; i < PAIR_RAILS; i++)
		SLUICE_ASSERT(sim->mem_register(side->rails[i].rail, &span,
				      SLUICE_ACCESS_LOCAL_READ | SLUICE_ACCESS_REMOTE_WRITE,
				      &plugged->mems[i], NULL) == 0);
	SLUICE_ASSERT(sluice_bitmap_feed_create_over(
			      plugged->bitmap, len_bytes / SLUICE_PAGE_BYTES, &plugged->feed) == 0);
	region.base = plugged->memory;
	memcpy(region.mems, plugged->mems, sizeof(plugged->mems));
	region.feed = host == PAIR_SOURCE && feed ? plugged->feed : NULL;
	side->region[index] = region;
	side->region_count++;
	if (host == PAIR_SOURCE)
		sluice_source_region_add(pair->source, index);
	else
		sluice_target_region_add(pair->target, index);
	if (region.feed != NULL)
		sluice_source_region_fed(pair->source, index);
	return (int)index;
}

/* ---- what surrounds the sessions ---- */

/* The source's device is read at once, in one segment; the target's is written as it comes. */
static void step_devices(struct pair *pair)
{
	struct pair_side *from = &pair->side[PAIR_SOURCE], *to = &pair->side[PAIR_TARGET];
	struct sluice_announce a = {.last = true, .len_bytes = 100};

	if (from->device_started && !from->device_done && !sluice_source_is_over(pair->source)) {
		struct sluice_outbox *outbox = sluice_source_outbox(pair->source);

		SLUICE_ASSERT(sluice_outbox_claim(outbox, &a.slot));
		sluice_outbox_ready(outbox, &a);
		from->device_done = true;
		sluice_source_device_read(pair->source, 0, 0);
	}
	if (to->device_started && !to->device_done && !sluice_target_is_over(pair->target) &&
		sluice_inbox_next(pair->inbox, 0, &a)) {
		sluice_inbox_loaded(pair->inbox, &a);
		to->device_done = true;
		sluice_target_segment_loaded(pair->target, a.slot);
		sluice_target_device_written(pair->target, 0, 0);
	}
}

static void step(struct pair *pair)
{
	struct sluice_sim_world *world = pair->world;

	sluice_sim_world_advance(world, sluice_sim_world_now(world) + STEP_NS);
	for (uint32_t i = 0; i < PAIR_RAILS; i++)
		sim->rail_step(pair->side[PAIR_TARGET].rails[i].rail, sluice_sim_world_now(world));
	for (int host = 0; host < PAIR_HOSTS; host++)
		sluice_crew_step(pair->side[host].crew, sluice_sim_world_now(world));
	step_devices(pair);
	sluice_source_tick(pair->source);
	if (pair->target != NULL)
		sluice_target_tick(pair->target);
}

void pair_pass_ms(struct pair *pair, unsigned int ms)
{
	pair_pass_us(pair, 1000 * ms);
}

void pair_pass_us(struct pair *pair, unsigned int us)
{
	uint64_t end_ns = sluice_sim_world_now(pair->world) + us * SLUICE_NS_PER_US;

	while (sluice_sim_world_now(pair->world) < end_ns)
		step(pair);
}

void pair_tell(struct pair *pair, enum pair_host to, json_t *message)
{
	struct sluice_error err = {0};

	CU_ASSERT_PTR_NOT_NULL_FATAL(message);
	if (sluice_peer_check(message, &err) < 0)
		fprintf(stderr, "\n%s\n", err.text);
	CU_ASSERT_EQUAL_FATAL(err.code, 0);
	if (to == PAIR_SOURCE)
		sluice_source_peer_message(pair->source, message);
	else if (pair->target != NULL)
		sluice_target_peer_message(pair->target, message);
	else if (strcmp(sluice_peer_type(message), "hello") == 0)
		make_target(pair, message);
	json_decref(message);
}

static json_t *take_first(struct pair_side *side)
{
	json_t *message = side->out[0];

	side->out_count--;
	memmove(side->out, side->out + 1, side->out_count * sizeof(side->out[0]));
	return message;
}

void pair_deliver(struct pair *pair, enum pair_host from)
{
	struct pair_side *side = &pair->side[from];

	for (unsigned int count = side->out_count; count > 0; count--)
		pair_tell(pair, from == PAIR_SOURCE ? PAIR_TARGET : PAIR_SOURCE, take_first(side));
}

void pair_forget(struct pair *pair, enum pair_host from)
{
	while (pair->side[from].out_count > 0)
		json_decref(take_first(&pair->side[from]));
}

bool pair_said(const struct pair *pair, enum pair_host from, const char *type)
{
	for (unsigned int i = 0; i < pair->side[from].out_count; i++)
		if (strcmp(sluice_peer_type(pair->side[from].out[i]), type) == 0)
			return true;
	return false;
}

int pair_give(struct pair *pair, struct sluice_error *err)
{
	struct pair_side *side = &pair->side[PAIR_SOURCE];
	bool asked = side->commit_asked;
	int r = sluice_source_continue(pair->source, "commit", err);

	side->vmm_gave |= asked && r == 0;
	return r;
}

/* ---- going forward ---- */

static void answer_syncs(struct pair *pair)
{
	struct pair_side *side = &pair->side[PAIR_SOURCE];
	unsigned int id = side->pending_sync;

	side->pending_sync = 0;
	if (id != 0)
		CU_ASSERT_EQUAL(sluice_source_dirty_sync_done(pair->source, id, 0, NULL), 0);
}

/* Step, answer the VMM's questions and carry messages both ways until @fn holds. */
static void go_on_until(struct pair *pair, bool (*fn)(const struct pair *pair))
{
	for (int i = 0; i < 20000 && !fn(pair); i++) {
		step(pair);
		answer_syncs(pair);
		if (fn(pair))
			return;
		pair_deliver(pair, PAIR_SOURCE);
		if (fn(pair))
			return;
		pair_deliver(pair, PAIR_TARGET);
	}
	CU_ASSERT_TRUE_FATAL(fn(pair));
}

static bool is_active(const struct pair *pair)
{
	return strcmp(sluice_source_status(pair->source), "active") == 0;
}

static bool is_ready(const struct pair *pair)
{
	return strcmp(pair->side[PAIR_SOURCE].last_event, "SWITCHOVER_READY") == 0;
}

static bool has_finished(const struct pair *pair)
{
	return pair_said(pair, PAIR_SOURCE, "finish");
}

static bool is_asked(const struct pair *pair)
{
	return strcmp(pair->side[PAIR_SOURCE].last_event, "SWITCHOVER_COMMIT") == 0;
}

static bool target_knows_device(const struct pair *pair)
{
	return strcmp(pair->side[PAIR_TARGET].last_event, "DEVICE_OPEN") == 0;
}

static void add_source_device(struct pair *pair)
{
	struct sluice_error err = {0};

	CU_ASSERT_EQUAL(sluice_source_device_add(pair->source, PAIR_DEVICE, -1, &err), 0);
	pair->side[PAIR_SOURCE].device_added = true;
}

static void add_target_device(struct pair *pair)
{
	struct sluice_error err = {0};

	CU_ASSERT_EQUAL(sluice_target_device_add(pair->target, PAIR_DEVICE, -1, &err), 0);
	pair->side[PAIR_TARGET].device_added = true;
}

static void stop_guest(struct pair *pair)
{
	struct sluice_error err = {0};

	CU_ASSERT_EQUAL(sluice_source_continue(pair->source, "pre-switchover", &err), 0);
	pair->side[PAIR_SOURCE].stopped = true;
}

static void load_device(struct pair *pair)
{
	struct sluice_error err = {0};

	CU_ASSERT_EQUAL(sluice_target_device_loaded(pair->target, PAIR_DEVICE, &err), 0);
	pair->side[PAIR_TARGET].device_loaded = true;
}

static void advance_to(struct pair *pair, enum pair_step next)
{
	struct sluice_error err = {0};

	switch (next) {
	case PAIR_HELLO:
		sluice_source_connected(pair->source);
		break;
	case PAIR_WELCOMED:
		pair_deliver(pair, PAIR_SOURCE);
		pair_deliver(pair, PAIR_TARGET);
		break;
	case PAIR_ACTIVE:
		go_on_until(pair, is_active);
		break;
	case PAIR_READY:
		go_on_until(pair, is_ready);
		break;
	case PAIR_DRAIN:
		add_source_device(pair);
		go_on_until(pair, target_knows_device);
		add_target_device(pair);
		stop_guest(pair);
		break;
	case PAIR_PREPARE:
		go_on_until(pair, has_finished);
		break;
	case PAIR_LOAD:
	case PAIR_COMMITTED:
		pair_deliver(pair, PAIR_SOURCE);
		break;
	case PAIR_PREPARED:
		load_device(pair);
		CU_ASSERT_TRUE_FATAL(sluice_target_is_prepared(pair->target));
		break;
	case PAIR_ASK:
		go_on_until(pair, is_asked);
		break;
	case PAIR_COMMIT:
		CU_ASSERT_EQUAL(pair_give(pair, &err), 0);
		break;
	case PAIR_COMPLETED:
		pair_deliver(pair, PAIR_TARGET);
		break;
	default:
		break;
	}
}

/* What the VMMs owe by now; each once. */
static void act(struct pair *pair)
{
	struct pair_side *source = &pair->side[PAIR_SOURCE], *target = &pair->side[PAIR_TARGET];

	if (!sluice_source_is_over(pair->source)) {
		answer_syncs(pair);
		if (source->ready_asked && !source->device_added)
			add_source_device(pair);
		if (source->ready_asked && !source->stopped)
			stop_guest(pair);
		if (source->commit_asked && !source->vmm_gave)
			CU_ASSERT_EQUAL(pair_give(pair, NULL), 0);
	}
	if (sluice_target_is_over(pair->target))
		return;
	if (target->open_asked && !target->device_added)
		add_target_device(pair);
	if (target->device_done && !target->device_loaded)
		load_device(pair);
}

void pair_finish(struct pair *pair)
{
	for (int i = 0; i < 40000; i++) {
		if (sluice_source_is_over(pair->source) && sluice_target_is_over(pair->target))
			return;
		step(pair);
		act(pair);
		pair_deliver(pair, PAIR_SOURCE);
		pair_deliver(pair, PAIR_TARGET);
	}
}

void pair_start(struct pair *pair, enum pair_step step_wanted)
{
	struct sluice_sim_world_opts opts;
	struct sluice_session_conf conf;
	struct sluice_session_env env;

	memset(pair, 0, sizeof(*pair));
	sluice_sim_world_defaults(&opts);
	pair->world = sluice_sim_world_create(&opts);
	SLUICE_ASSERT(pair->world != NULL);
	SLUICE_ASSERT(sluice_bitmap_feed_create_over(pair->bitmap,
			      PAIR_REGION_BYTES / SLUICE_PAGE_BYTES, &pair->feed) == 0);
	build_side(pair, PAIR_SOURCE);
	build_side(pair, PAIR_TARGET);
	for (uint32_t i = 0; i < PAIR_RAILS; i++)
		SLUICE_ASSERT(sim->rail_listen(pair->side[PAIR_TARGET].rails[i].rail,
				      pair->side[PAIR_TARGET].addresses[i], NULL) == 0);
	conf = conf_of(&pair->side[PAIR_SOURCE]);
	env = env_of(&pair->side[PAIR_SOURCE]);
	SLUICE_ASSERT(sluice_source_create(&conf, &env, &pair->source) == 0);
	for (int next = PAIR_HELLO; next <= (int)step_wanted; next++)
		advance_to(pair, (enum pair_step)next);
}

void pair_stop(struct pair *pair)
{
	sluice_source_destroy(pair->source);
	sluice_target_destroy(pair->target);
	sluice_inbox_destroy(pair->inbox);
	for (int host = 0; host < PAIR_HOSTS; host++) {
		struct pair_side *side = &pair->side[host];

		pair_forget(pair, (enum pair_host)host);
		for (uint32_t i = 1; i < side->region_count; i++) {
			for (uint32_t k = 0; k < PAIR_RAILS; k++)
				sim->mem_unregister(side->plugged[i].mems[k]);
			sluice_bitmap_feed_destroy(side->plugged[i].feed);
			free(side->plugged[i].memory);
		}
		sluice_crew_destroy(side->crew);
		for (uint32_t i = 0; i < PAIR_RAILS; i++) {
			sim->mem_unregister(side->rails[i].staging);
			sim->mem_unregister(side->region[0].mems[i]);
			sim->rail_close(side->rails[i].rail);
		}
		free(side->memory);
	}
	sluice_bitmap_feed_destroy(pair->feed);
	sluice_sim_world_destroy(pair->world);
}
