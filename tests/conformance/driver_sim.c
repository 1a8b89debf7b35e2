/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * driver_sim.c: the conformance suite over the simulated network, in virtual time.
 *
 * Loss, stalls and RDMA-like visibility are on: the suite may rely on what the contract
 * promises and on nothing else. The target notices every death, since the suite asks for
 * it. SLUICE_SEED gives the seed; SLUICE_SIM_VISIBLE=1 makes PLACED mean visible, as tcp.
 *
 * Threading: one thread.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/clock.h"
#include "tests/conformance/conformance.h"
#include "transports/sim/sim.h"

static uint64_t seed_from_environment(void)
{
	const char *text = getenv("SLUICE_SEED");

	return text != NULL ? strtoull(text, NULL, 0) : 1;
}

static bool placed_is_visible(void)
{
	return getenv("SLUICE_SIM_VISIBLE") != NULL;
}

static int pair_open(struct conformance_pair *pair)
{
	struct sluice_sim_world_opts opts;
	struct sluice_sim_conf conf;
	int rc;

	sluice_sim_world_defaults(&opts);
	opts.seed = seed_from_environment();
	opts.loss_ppm = 20000;
	opts.stall_ppm = 50000;
	opts.target_unaware_ppm = 0;
	opts.mistakes_lose_lane = true;
	opts.placed_is_visible = placed_is_visible();
	conf.world = sluice_sim_world_create(&opts);
	if (conf.world == NULL)
		return -ENOMEM;
	pair->ctx = conf.world;
	rc = pair->transport->rail_open(&conf, "", &pair->source, NULL);
	if (rc < 0)
		goto out_destroy;
	rc = pair->transport->rail_open(&conf, "", &pair->target, NULL);
	if (rc < 0)
		goto out_close_source;
	rc = pair->transport->rail_listen(pair->target, pair->target_address, NULL);
	if (rc < 0)
		goto out_close_target;
	return 0;

out_close_target:
	pair->transport->rail_close(pair->target);
out_close_source:
	pair->transport->rail_close(pair->source);
out_destroy:
	sluice_sim_world_destroy(conf.world);
	return rc;
}

static void pair_close(struct conformance_pair *pair)
{
	pair->transport->rail_close(pair->source);
	pair->transport->rail_close(pair->target);
	sluice_sim_world_destroy(pair->ctx);
}

static uint64_t now_ns(struct conformance_pair *pair)
{
	return sluice_sim_world_now(pair->ctx);
}

static void turn(struct conformance_pair *pair, uint64_t ns_max)
{
	uint64_t now = now_ns(pair);
	uint64_t next = sluice_sim_world_next_ns(pair->ctx);

	pair->transport->rail_step(pair->source, now);
	pair->transport->rail_step(pair->target, now);
	if (next <= now)
		next = now + 1;
	sluice_sim_world_advance(pair->ctx, next - now < ns_max ? next : now + ns_max);
}

static void hold(struct conformance_pair *pair, bool held)
{
	sluice_sim_world_hold(pair->ctx, held);
}

static void kill_peer(struct conformance_pair *pair, struct sluice_conn *conn)
{
	(void)pair;
	sluice_sim_lane_kill(conn);
}

int main(void)
{
	struct conformance_driver driver = {
		.name = "sim",
		.transport = &sluice_transport_sim,
		.flags = CONFORMANCE_VIRTUAL_TIME,
		.pair_open = pair_open,
		.pair_close = pair_close,
		.now_ns = now_ns,
		.turn = turn,
		.hold = hold,
		.kill_peer = kill_peer,
	};

	if (!placed_is_visible())
		driver.flags |= CONFORMANCE_PLACED_UNSEEN;
	return conformance_main(&driver);
}
