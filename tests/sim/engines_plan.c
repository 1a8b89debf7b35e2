/* SPDX-License-Identifier: BSD-3-Clause */
/* engines_plan.c: what a seed decides beforehand. See engines_internal.h. */
#include "base/bits.h"
#include "tests/sim/engines_internal.h"

static uint64_t between(struct sluice_random *random, uint64_t min, uint64_t max)
{
	return sluice_random_between(random, min, max);
}

/* Small numbers as likely as large ones: the exponent is drawn first. */
static uint64_t octaves(struct sluice_random *random, uint64_t min, uint32_t octave_count)
{
	return min << sluice_random_below(random, octave_count + 1);
}

/* Regions of some MiB: whole chunks, short last chunks, and some that are less than a chunk. */
static void plan_guest(struct plan *plan, struct sluice_random *random, uint64_t seed)
{
	struct guest_opts *opts = &plan->guest;

	guest_opts_defaults(opts);
	opts->seed = sluice_random_mix(seed);
	opts->region_count = (uint32_t)between(random, 1, 3);
	for (uint32_t i = 0; i < opts->region_count; i++)
		opts->region_pages[i] =
			(uint32_t)between(random, 1, i == 0 ? 2 * SLUICE_CHUNK_PAGES + 200 : 300);
	opts->hot_pages = (uint32_t)between(random, 1, 60);
	opts->hot_ppm = (uint32_t)between(random, 300000, 950000);
	opts->zero_ppm = (uint32_t)between(random, 0, 400000);
	opts->whole_ppm = (uint32_t)between(random, 0, 800000);
	opts->untouched_ppm = (uint32_t)between(random, 0, 800000);
	plan->clean_start = sluice_random_chance(random, 600000);
	switch (sluice_random_below(random, 4)) {
	case 0:
		plan->known_zero_ppm = 0;
		break;
	case 1:
		plan->known_zero_ppm = 500000;
		break;
	default:
		plan->known_zero_ppm = SLUICE_RANDOM_PPM; /* a target VM that was just created */
	}
	plan->store_ns = between(random, 3, 40) * SLUICE_NS_PER_US;
}

/* Memory that comes and goes: most seeds have some. Drawn apart from all else. */
static void plan_plugs(struct plan *plan, uint64_t seed)
{
	struct guest_opts *opts = &plan->guest;
	struct sluice_random random;

	sluice_random_seed(&random, seed ^ 0x706c7567ull);
	plan->region_timeout_ns = octaves(&random, 20 * SLUICE_NS_PER_MS, 7);
	plan->plug_ns = octaves(&random, 100 * SLUICE_NS_PER_US, 7);
	if (sluice_random_chance(&random, 400000))
		return;
	plan->plugs = (uint32_t)between(&random, 1, 8);
	opts->spare_count = (uint32_t)between(&random, 0, 2);
	for (uint32_t i = 0; i < opts->spare_count; i++)
		opts->region_pages[opts->region_count++] = (uint32_t)between(&random, 1, 700);
}

static void plan_world(struct plan *plan, struct sluice_random *random, uint64_t seed)
{
	struct sluice_sim_world_opts *opts = &plan->world;

	sluice_sim_world_defaults(opts);
	opts->seed = seed;
	opts->latency_ns_min = octaves(random, 2 * SLUICE_NS_PER_US, 5);
	opts->latency_ns_max = opts->latency_ns_min * between(random, 1, 8);
	opts->jitter_ns_max = between(random, 0, 50) * SLUICE_NS_PER_US;
	opts->lane_bytes_per_s = octaves(random, 200000000ull, 4);
	if (sluice_random_chance(random, 500000))
		opts->loss_ppm = (uint32_t)between(random, 1000, 50000);
	if (sluice_random_chance(random, 600000))
		opts->death_ppm = (uint32_t)between(random, 200, 3000);
	opts->notice_ns_max = octaves(random, 20 * SLUICE_NS_PER_US, 8);
	opts->late_ns_max = octaves(random, 50 * SLUICE_NS_PER_US, 8);
	opts->placed_is_visible = sluice_random_chance(random, 250000);
	opts->visible_ns_max = octaves(random, 10 * SLUICE_NS_PER_US, 8);
	opts->cpu_ns_max = octaves(random, 5 * SLUICE_NS_PER_US, 7);
	if (sluice_random_chance(random, 300000))
		opts->stall_ppm = (uint32_t)between(random, 1000, 100000);
	opts->depth_max = (uint32_t)octaves(random, 16, 3);
	opts->op_bytes_max = (uint32_t)octaves(random, 4096, 4);
	opts->nic_writes_max = (uint32_t)octaves(random, 1, 6);
	if (seed % 3 == 0)
		opts->thread_bytes_max = 4096ull << (seed % 9);
}

static void plan_fault(struct plan *plan, struct sluice_random *random)
{
	static const char *const moments[] = {"hello", "welcome", "device", "fence", "finish",
		"credit", "region-add", "region-added", "region-remove", "region-removed",
		"lane-open", "lane-ticket", "resume", "resumed", "fenced", "SWITCHOVER_READY",
		"prepared", "commit", "committed", "SWITCHOVER_READY", "SWITCHOVER_COMMIT",
		"prepared", "commit", "committed", "SWITCHOVER_COMMIT", "continue commit"};
	static const char *const lane_moments[] = {
		"device", "credit", "fence", "SWITCHOVER_READY", "lane-ticket", "resumed"};
	struct fault *fault = &plan->faults[plan->fault_count++];

	fault->kind = (enum fault_kind)sluice_random_below(random, FAULT_KINDS);
	if (sluice_random_chance(random, 250000))
		fault->kind = FAULT_CUT_LINK; /* it has the most ways to go on */
	else if (sluice_random_chance(random, 150000))
		fault->kind = FAULT_KILL_RAIL;
	fault->due_ns = SLUICE_NEVER;
	if (fault->kind == FAULT_CUT_LINK && sluice_random_chance(random, 400000)) {
		fault->due_ns = between(random, 0, 8 * SLUICE_NS_PER_MS); /* while pages move */
		return;
	}
	if (sluice_random_chance(random, 350000)) {
		fault->due_ns = between(random, 0, octaves(random, SLUICE_NS_PER_MS, 6));
		return;
	}
	fault->after_message =
		fault->kind == FAULT_KILL_LANE || fault->kind == FAULT_KILL_LANES
			? lane_moments[sluice_random_below(random, SLUICE_ARRAY_LEN(lane_moments))]
			: moments[sluice_random_below(random, SLUICE_ARRAY_LEN(moments))];
	fault->delay_ns = between(random, 0, 3 * plan->link_ns_max);
	if (sluice_random_chance(random, 300000))
		fault->delay_ns = between(random, 0, SLUICE_NS_PER_US);
}

static void plan_devices(struct plan *plan, struct sluice_random *random)
{
	plan->slots = (uint32_t)between(random, 1, 6);
	plan->slot_bytes = (uint32_t)octaves(random, 4096, 1);
	plan->devices = (uint32_t)between(random, 1, ENGINES_DEVICES_MAX);
	for (uint32_t i = 0; i < plan->devices; i++)
		plan->device_bytes[i] =
			(uint32_t)between(random, 0, octaves(random, 2, 5) * plan->slot_bytes);
	if (sluice_random_chance(random, 50000))
		plan->device_error_ppm = 50000;
	plan->device_ns_max = octaves(random, 2 * SLUICE_NS_PER_US, 8);
}

/* Drawn apart from the rest. Dead rails are rarer than dead lanes, and longer so. */
static void plan_rails(struct plan *plan, uint64_t seed)
{
	struct sluice_random random;

	sluice_random_seed(&random, seed ^ 0x7261696cull);
	for (int host = 0; host < HOSTS; host++)
		plan->rails[host] = (uint32_t)between(&random, 1, ENGINES_RAILS_MAX);
	plan->rail_down_ns_max = octaves(&random, 10 * SLUICE_NS_PER_MS, 10);
}

/* In so many of a million seeds: this fault, early, and none of the others. */
static bool plan_only(struct plan *plan, struct sluice_random *random, uint32_t ppm,
	enum fault_kind kind, uint64_t due_ns_max)
{
	if (!sluice_random_chance(random, ppm))
		return false;
	plan->fault_count = 1;
	plan->faults[0] = (struct fault){
		.kind = kind,
		.due_ns = between(random, 200 * SLUICE_NS_PER_US, due_ns_max),
	};
	return true;
}

/*
 * What a dead lane leaves behind in the network is usually gone before two engines that lost their
 * link have found each other again. Where it is not, only the fences of `resume` keep it out, so
 * some seeds lose the link while pages move, come back at once, and have a slow network. Drawn
 * apart from the rest.
 */
static void plan_quick_return(struct plan *plan, uint64_t seed)
{
	struct sluice_random random;

	sluice_random_seed(&random, seed ^ 0x7265736dull);
	if (!plan_only(plan, &random, 60000, FAULT_CUT_LINK, 8 * SLUICE_NS_PER_MS))
		return;
	plan->lanes = (uint32_t)between(&random, 2, ENGINES_LANES_MAX);
	plan->link_ns_min = 5 * SLUICE_NS_PER_US;
	plan->link_ns_max = 50 * SLUICE_NS_PER_US;
	plan->recover_retries = 12;
	plan->recover_pause_ns = SLUICE_NS_PER_MS;
	plan->world.late_ns_max = octaves(&random, 10 * SLUICE_NS_PER_MS, 3);
	plan->world.lane_bytes_per_s = 100000000ull; /* much is under way at any moment */
	plan->window_bytes = 256 * SLUICE_PAGE_BYTES;
	plan->world.death_ppm = 0;
}

/*
 * A NIC that brings what it placed to memory late, and dies while pages move; in half of these seeds
 * the peer link is lost behind it, with what the target says about it. Drawn apart from the rest.
 */
static void plan_broken_nic(struct plan *plan, uint64_t seed)
{
	struct sluice_random random;

	sluice_random_seed(&random, seed ^ 0x6e696321ull);
	if (!plan_only(plan, &random, 40000, FAULT_BREAK_NIC, 6 * SLUICE_NS_PER_MS))
		return;
	plan->world.placed_is_visible = false;
	plan->world.visible_ns_max = 4 * SLUICE_NS_PER_MS;
	plan->world.nic_writes_max = 64;
	plan->rail_down_ns_max = 10 * SLUICE_NS_PER_MS;
	if (sluice_random_chance(&random, 500000))
		return;
	plan->fault_count = 2;
	plan->faults[1] = (struct fault){
		.kind = FAULT_CUT_LINK,
		.after_message = sluice_random_chance(&random, 500000) ? "fence" : "fenced",
		.delay_ns = between(&random, 0, plan->link_ns_max),
		.due_ns = SLUICE_NEVER,
	};
	plan->recover_retries = 12;
}

void plan_make(struct plan *plan, uint64_t seed)
{
	struct sluice_random random;
	uint64_t turns_ns;

	*plan = (struct plan){0};
	sluice_random_seed(&random, seed ^ 0x706c616eull);
	plan->lanes = (uint32_t)between(&random, 1, ENGINES_LANES_MAX);
	plan->window_bytes = (uint32_t)octaves(&random, SLUICE_PAGE_BYTES, 8);
	plan->nodes = (uint32_t)sluice_random_mix(seed ^ 0x6e6f6465ull) % 3 + 1;
	plan->homes = (uint32_t)octaves(&random, 4, 7);
	plan->home_ns = octaves(&random, SLUICE_NS_PER_US, 10);
	plan_guest(plan, &random, seed);
	plan_plugs(plan, seed);
	plan_world(plan, &random, seed);
	plan_devices(plan, &random);
	plan->link_ns_min = octaves(&random, 5 * SLUICE_NS_PER_US, 7);
	plan->link_ns_max = plan->link_ns_min * between(&random, 1, 6);
	plan->vmm_ns_max = octaves(&random, 10 * SLUICE_NS_PER_US, 6);
	plan->patience_ns = between(&random, 5, 30) * SLUICE_NS_PER_MS;
	plan->operator_ns = between(&random, 0, 3000) * SLUICE_NS_PER_MS;
	plan->restart_ns_max = octaves(&random, SLUICE_NS_PER_MS, 10);
	plan->peer_timeout_ns = between(&random, 40, 400) * SLUICE_NS_PER_MS;
	plan->lane_timeout_ns = between(&random, 30, 300) * SLUICE_NS_PER_MS;
	if (sluice_random_chance(&random, 500000))
		plan->switchover_timeout_ns = between(&random, 50, 3000) * SLUICE_NS_PER_MS;
	plan->recover_retries = (uint32_t)between(&random, 0, 12);
	plan->recover_pause_ns = octaves(&random, SLUICE_NS_PER_MS, 7);
	plan->recover_timeout_ns = between(&random, 100, 8000) * SLUICE_NS_PER_MS;
	plan_rails(plan, seed);
	turns_ns = 4 * plan->vmm_ns_max + 2 * plan->link_ns_max;
	plan->policy = (struct sluice_policy_conf){
		.downtime_limit_ns = turns_ns / 2 + between(&random, 200, 5000) * SLUICE_NS_PER_US,
		.sync_interval_ns = octaves(&random, 2 * SLUICE_NS_PER_MS, 3),
		.throttle = sluice_random_chance(&random, 500000),
		.throttle_after_ns = between(&random, 4, 20) * SLUICE_NS_PER_MS,
		.throttle_initial_percent = 20,
		.throttle_step_percent = 10,
	};
	while (plan->fault_count < ENGINES_FAULTS_MAX && sluice_random_chance(&random, 550000))
		plan_fault(plan, &random);
	plan_quick_return(plan, seed);
	plan_broken_nic(plan, seed);
	/* Slower than a lane of this world, and faster. Patience ends it as the downtime limit. */
	if (sluice_random_chance(&random, 250000))
		plan->max_bandwidth_bytes_per_s = octaves(&random, 20000000ull, 5);
}
