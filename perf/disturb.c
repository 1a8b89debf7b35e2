/* SPDX-License-Identifier: BSD-3-Clause */
/* disturb.c: see disturb.h. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "perf/disturb.h"
#include "perf/network.h"

#define HELD_BYTES_PER_S (1 << 20)
#define CUTS_WRAP        1024

static int set_bandwidth(struct perf_node *node, json_int_t bytes_per_s, struct sluice_error *err)
{
	return perf_command(node->engine_link, "migrate-set-parameters",
		json_pack("{s:I}", "max-bandwidth", bytes_per_s), NULL, err);
}

static uint16_t port_of(const char *uri)
{
	const char *colon = strrchr(uri, ':');

	return colon != NULL ? (uint16_t)strtoul(colon + 1, NULL, 10) : 0;
}

static bool cuts_lanes(const struct perf_config *config)
{
	return config->cut_every_ns != 0 || config->cut_all_for_ns != 0;
}

bool perf_disturb_steps(const struct perf_config *config)
{
	return config->hold_ns != 0 || cuts_lanes(config);
}

static int prepare_cuts(
	struct perf_disturb *d, struct perf_node *target, const char *uri, struct sluice_error *err)
{
	int r;

	d->lane_port = perf_network_listener(target->engine.pid, port_of(uri));
	if (d->lane_port == 0)
		return sluice_fail(err, -ENOENT, target->engine.name,
			"it listens on no TCP port for lanes: they cannot be cut");
	/* Tried out on nothing, so that what cannot be is known before. */
	r = perf_network_cut(d->lane_port, -1, err);
	return r < 0 ? r : 0;
}

int perf_disturb_prepare(struct perf_disturb *disturb, const struct perf_config *config,
	struct perf_node *source, struct perf_node *target, const char *uri,
	struct sluice_error *err)
{
	int r = 0;

	*disturb = (struct perf_disturb){.config = config, .source = source};
	if (config->hold_ns != 0) {
		disturb->held_until_ns = sluice_now_ns() + config->hold_ns;
		r = set_bandwidth(source, HELD_BYTES_PER_S, err);
	}
	if (r == 0 && cuts_lanes(config))
		r = prepare_cuts(disturb, target, uri, err);
	return r;
}

static int cut_one(struct perf_disturb *d, uint64_t now_ns, struct sluice_error *err)
{
	int broken;

	if (d->config->cut_every_ns == 0 || now_ns < d->next_cut_ns)
		return 0;
	d->next_cut_ns = now_ns + d->config->cut_every_ns;
	broken = perf_network_cut(d->lane_port, (int)(d->broken % CUTS_WRAP), err);
	if (broken < 0)
		return broken;
	d->broken += (uint64_t)broken;
	return 0;
}

/* For that long, whatever connects is broken again. */
static int cut_all(struct perf_disturb *d, uint64_t now_ns, struct sluice_error *err)
{
	uint64_t begin_ns = d->active_ns + d->config->cut_all_after_ns;
	int broken;

	if (d->config->cut_all_for_ns == 0 || now_ns < begin_ns ||
		now_ns > begin_ns + d->config->cut_all_for_ns)
		return 0;
	broken = perf_network_cut(d->lane_port, -1, err);
	if (broken < 0)
		return broken;
	d->broken += (uint64_t)broken;
	return 0;
}

int perf_disturb_step(
	struct perf_disturb *disturb, const char *status, uint64_t now_ns, struct sluice_error *err)
{
	int r = 0;

	/* Lanes that break while they connect for the first time are another matter. */
	if (disturb->active_ns == 0 && strcmp(status, "active") == 0) {
		disturb->active_ns = now_ns;
		disturb->next_cut_ns = now_ns + disturb->config->cut_every_ns;
	}

	if (disturb->held_until_ns != 0 && now_ns >= disturb->held_until_ns) {
		disturb->held_until_ns = 0;
		r = set_bandwidth(disturb->source, 0, err);
	}
	if (r == 0 && disturb->lane_port != 0 && disturb->active_ns != 0)
		r = cut_one(disturb, now_ns, err);
	if (r == 0 && disturb->lane_port != 0 && disturb->active_ns != 0)
		r = cut_all(disturb, now_ns, err);
	return r;
}

static double losses_of(const json_t *lanes)
{
	double losses = 0;
	json_t *lane;
	size_t index;

	json_array_foreach (lanes, index, lane)
		losses += json_number_value(json_object_get(lane, "losses"));
	return losses;
}

static double number_of(const json_t *object, const char *key)
{
	return json_number_value(json_object_get(object, key));
}

void perf_disturb_describe(const struct perf_disturb *disturb, const json_t *stats,
	const json_t *lanes, const json_t *ram, json_t *run)
{
	double looked_at = number_of(stats, "pages-sent") + number_of(stats, "pages-zero");
	double again = looked_at - number_of(ram, "pages-first");
	double bound = number_of(stats, "pages-given-up") + number_of(ram, "pages-dirtied");

	if (disturb->lane_port == 0)
		return;
	json_object_set_new(run, "lanes_cut", json_integer((json_int_t)disturb->broken));
	json_object_set_new(run, "lanes_lost", json_real(losses_of(lanes)));
	json_object_set_new(run, "bytes_resent", json_real(number_of(stats, "bytes-resent")));
	json_object_set_new(run, "pages_again", json_real(again));
	json_object_set_new(run, "pages_given_up", json_real(number_of(stats, "pages-given-up")));
	json_object_set_new(run, "pages_dirtied", json_real(number_of(ram, "pages-dirtied")));
	if (bound > 0)
		json_object_set_new(run, "resent_of_bound", json_real(again / bound));
}
