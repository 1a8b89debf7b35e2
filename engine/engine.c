/* SPDX-License-Identifier: BSD-3-Clause */
/* engine.c: an engine's parts and their order of birth and death. See engine.h. */
#include "engine/engine.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/random.h>

#include <sluice/transport.h>

#include "base/assert.h"
#include "base/bits.h"
#include "base/clock.h"
#include "engine/feeds/bitmap.h"

static int make_instance(struct sluice_engine *engine)
{
	uint8_t bytes[16];

	if (getrandom(bytes, sizeof(bytes), 0) != sizeof(bytes))
		return -EIO;
	for (size_t i = 0; i < sizeof(bytes); i++)
		snprintf(engine->instance + 2 * i, 3, "%02x", bytes[i]);
	return 0;
}

static void drop_memory(struct sluice_engine *engine)
{
	for (uint32_t i = 0; i < engine->memory.count; i++)
		sluice_rails_remove_memory(engine, engine->memory.regions[i]);
	sluice_memory_clear(&engine->memory);
}

/*
 * The VMM did not come back. An engine that a VMM launched ends; one that was started by hand
 * gives the guest's memory back and waits for the next VMM. With a commit that the target has not
 * answered either stays as it is until the answer is there, or the operator's: nobody else asks for it.
 */
static void on_linger(void *ctx, uint64_t now_ns)
{
	struct sluice_engine *engine = ctx;

	(void)now_ns;
	if (sluice_engine_is_busy(engine)) {
		engine->linger_over = true;
	} else if (engine->has_control_fd) {
		sluice_loop_stop(engine->loop, 0);
	} else {
		sluice_engine_session_clear(engine);
		drop_memory(engine);
	}
}

/* Nobody tells any more what is written: a bitmap that nobody fills must not say "clean". */
static void drop_feeds(struct sluice_engine *engine)
{
	for (uint32_t i = 0; i < engine->memory.count; i++) {
		sluice_bitmap_feed_destroy(engine->memory.regions[i]->feed);
		engine->memory.regions[i]->feed = NULL;
	}
	for (uint32_t slot = 0; slot < SLUICE_REGIONS_MAX; slot++)
		engine->regions[slot].feed = NULL;
}

int sluice_engine_create(struct sluice_loop *loop, const struct sluice_settings *settings,
	struct sluice_engine **ret_engine, struct sluice_error *err)
{
	struct sluice_engine *engine = calloc(1, sizeof(*engine));
	int r = -ENOMEM;

	if (engine == NULL)
		return sluice_fail(err, r, "engine", "out of memory");
	engine->config = *sluice_settings_config(settings);
	engine->loop = loop;
	engine->memory.pin = (enum sluice_pin)engine->config.pin;
	r = make_instance(engine);
	if (r == 0)
		r = sluice_timer_add(loop, sluice_engine_tick, engine, &engine->timer);
	if (r == 0)
		r = sluice_timer_add(loop, on_linger, engine, &engine->linger_timer);
	if (r < 0)
		sluice_fail(err, r, "engine", "%s", strerror(-r));
	else
		r = sluice_rails_open(engine, settings, err);
	if (r == 0) {
		r = sluice_rails_watch(engine);
		if (r < 0)
			sluice_fail(err, r, "rail", "%s", strerror(-r));
	}
	if (r == 0)
		r = sluice_placing_check(engine, &engine->config, err);
	if (r < 0) {
		sluice_engine_destroy(engine);
		return r;
	}
	sluice_rails_count_memory(engine);
	sluice_loop_on_wake(loop, sluice_engine_tick, engine);
	*ret_engine = engine;
	return 0;
}

void sluice_engine_destroy(struct sluice_engine *engine)
{
	if (engine == NULL)
		return;
	for (size_t i = 0; i < SLUICE_STRANGERS_MAX; i++)
		sluice_link_close(engine->strangers[i].link);
	sluice_link_unlisten(engine->listener);
	sluice_engine_session_clear(engine);
	sluice_placing_destroy(engine);
	drop_memory(engine);
	sluice_rails_close(engine);
	sluice_timer_remove(engine->timer);
	sluice_timer_remove(engine->linger_timer);
	free(engine);
}

bool sluice_engine_is_busy(const struct sluice_engine *engine)
{
	return (engine->source != NULL && !sluice_source_is_over(engine->source)) ||
	       (engine->target != NULL && !sluice_target_is_over(engine->target));
}

void sluice_engine_vmm_came(struct sluice_engine *engine)
{
	engine->linger_over = false;
	sluice_timer_set(engine->linger_timer, SLUICE_NEVER);
}

/* The guest's memory is the VMM's: without it a source cannot go on, unless it has committed. */
void sluice_engine_vmm_gone(void *ctx)
{
	struct sluice_engine *engine = ctx;

	if (engine->source != NULL)
		sluice_source_vmm_lost(engine->source);
	if (engine->target != NULL)
		sluice_target_vmm_lost(engine->target);
	drop_feeds(engine);
	sluice_timer_set(engine->linger_timer, sluice_now_ns() + engine->config.linger_ns);
	sluice_engine_tick(engine, sluice_now_ns());
}
