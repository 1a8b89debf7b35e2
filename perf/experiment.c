/* SPDX-License-Identifier: BSD-3-Clause */
/* experiment.c: see experiment.h. */
#include <errno.h>
#include <ftw.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/params.h"
#include "perf/experiment.h"
#include "perf/figures.h"
#include "perf/ib_write_bw.h"
#include "perf/iperf.h"
#include "perf/metrics.h"
#include "perf/migration.h"
#include "perf/network.h"
#include "perf/part.h"
#include "perf/plain.h"

struct experiment {
	const struct perf_plan *plan;
	const struct perf_variant *variant; /* whose turn it is */
	const struct perf_config *config; /* of that variant */
	struct perf_progress progress;
	char dir[128]; /* sockets and logs */
	unsigned int nodes; /* started so far: each gets a number of its own */
	uint64_t guest; /* started so far: names what its VMMs share */
	uint64_t round; /* warm-ups included */
	bool skipped;
	json_t *runs; /* counted ones; borrowed from the result */
};

static volatile sig_atomic_t interrupted;

void perf_experiment_interrupt(void)
{
	interrupted = 1;
}

bool perf_experiment_interrupted(void)
{
	return interrupted != 0;
}

static int make_folder(struct experiment *x, struct sluice_error *err)
{
	const char *parent = getenv("TMPDIR");

	/* A socket's path has at most 107 bytes: a long TMPDIR cannot be used. */
	if (parent == NULL || strlen(parent) > 60)
		parent = "/tmp";
	snprintf(x->dir, sizeof(x->dir), "%s/sluice-perf-XXXXXX", parent);
	if (mkdtemp(x->dir) == NULL)
		return sluice_fail(err, -errno, "run", "cannot make the folder %s: %s", x->dir,
			strerror(errno));
	return 0;
}

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st;
	(void)type;
	(void)ftw;
	return remove(path);
}

static void remove_folder(const char *dir)
{
	nftw(dir, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
}

static bool counts(const struct experiment *x)
{
	return x->round >= x->plan->base.warmup;
}

static void name_run(struct experiment *x, uint64_t hop)
{
	const struct perf_config *base = &x->plan->base;
	char turn[32] = "warm-up", hops[64] = "";

	if (counts(x))
		snprintf(turn, sizeof(turn), "run %llu of %llu",
			(unsigned long long)(x->round - base->warmup + 1),
			(unsigned long long)base->repeats);
	if (x->config->hops > 1)
		snprintf(hops, sizeof(hops), ", hop %llu of %llu", (unsigned long long)hop + 1,
			(unsigned long long)x->config->hops);
	snprintf(x->progress.prefix, sizeof(x->progress.prefix), "%s%s%.30s%s", turn,
		x->plan->has_variants ? ", " : "", x->plan->has_variants ? x->variant->name : "",
		hops);
}

/* CPU time for what was moved, whatever program did it: of both sides, and of the target. */
static void put_cpu_per_gib(json_t *run)
{
	double source_s = json_number_value(json_object_get(run, "cpu_s_source"));
	double target_s = json_number_value(json_object_get(run, "cpu_s_target"));
	double gib = json_number_value(json_object_get(run, "bytes_placed")) / (double)(1ull << 30);

	if (source_s + target_s <= 0 || gib <= 0)
		return;
	json_object_set_new(run, "cpu_s_per_gib", json_real((source_s + target_s) / gib));
	json_object_set_new(run, "cpu_s_target_per_gib", json_real(target_s / gib));
}

static void keep_run(struct experiment *x, json_t *run, uint64_t hop)
{
	if (run == NULL || !counts(x)) {
		json_decref(run);
		return;
	}
	put_cpu_per_gib(run);
	json_object_set_new(run, "variant", json_string(x->variant->name));
	json_object_set_new(
		run, "round", json_integer((json_int_t)(x->round - x->plan->base.warmup)));
	json_object_set_new(run, "hop", json_integer((json_int_t)hop));
	json_array_append_new(x->runs, run);
}

static void say_run(struct experiment *x, const json_t *run)
{
	perf_progress_end(&x->progress);
	perf_progress_say(&x->progress, "%s: %s, %.0f ms, downtime %.2f ms", x->progress.prefix,
		json_string_value(json_object_get(run, "status")),
		json_number_value(json_object_get(run, "total_ms")),
		json_number_value(json_object_get(run, "downtime_ms")));
}

static int start_node(
	struct experiment *x, struct perf_node *node, bool incoming, struct sluice_error *err)
{
	char witness[PERF_PATH_MAX];

	snprintf(witness, sizeof(witness), "%s/guest%llu.witness", x->dir,
		(unsigned long long)x->guest);
	return perf_node_start(node, x->config,
		&(struct perf_place){.dir = x->dir, .index = x->nodes++, .witness = witness},
		incoming, err);
}

/* One migration; afterwards node[0] is the one with the guest. */
static int run_hop(
	struct experiment *x, struct perf_node node[2], uint64_t hop, struct sluice_error *err)
{
	json_t *run = NULL;
	int r;

	name_run(x, hop);
	r = start_node(x, &node[1], true, err);
	if (r == 0)
		r = perf_migration_run(x->config, &node[0], &node[1], &x->progress, &run, err);
	if (run != NULL)
		say_run(x, run);
	keep_run(x, run, hop);
	if (r < 0) {
		perf_progress_end(&x->progress);
		perf_node_print_tails(&node[0], stderr);
		perf_node_print_tails(&node[1], stderr);
		return r;
	}
	perf_node_end(&node[0]);
	node[0] = node[1];
	memset(&node[1], 0, sizeof(node[1]));
	return 0;
}

static int run_guest(struct experiment *x, struct sluice_error *err)
{
	struct perf_node node[2] = {0};
	int r = start_node(x, &node[0], false, err);

	if (r < 0)
		perf_node_print_tails(&node[0], stderr);
	for (uint64_t hop = 0; r == 0 && hop < x->config->hops; hop++)
		r = run_hop(x, node, hop, err);
	perf_node_end(&node[1]);
	perf_node_end(&node[0]);
	x->guest++;
	return r;
}

/* A program beside sluice, or a part of it. */
static int run_program(struct experiment *x, struct sluice_error *err)
{
	json_t *run = NULL;
	int r;

	name_run(x, 0);
	switch (x->config->program) {
	case PERF_PROGRAM_PLAIN:
		r = perf_plain_run(x->config, &run, err);
		break;
	case PERF_PROGRAM_IPERF3:
		r = perf_iperf_run(x->config, x->dir, &run, err);
		break;
	case PERF_PROGRAM_IB_WRITE_BW:
		r = perf_ib_write_bw_run(x->config, x->dir, &run, err);
		break;
	default:
		r = perf_part_harvest(x->config, x->dir, &run, err);
	}
	if (r < 0)
		run = json_pack("{s:s, s:s}", "status", "failed", "error", err->text);
	perf_progress_say(&x->progress, "%s: %s, %.0f ms", x->progress.prefix,
		json_string_value(json_object_get(run, "status")),
		json_number_value(json_object_get(run, "total_ms")));
	keep_run(x, run, 0);
	return r;
}

static int run_one(struct experiment *x, struct sluice_error *err)
{
	return x->config->program == PERF_PROGRAM_MIGRATION ? run_guest(x, err)
							    : run_program(x, err);
}

/* This machine, or this user, cannot have what is asked for: that is a result, not a failure. */
static int skip_all(struct experiment *x, struct sluice_error *err)
{
	for (size_t i = 0; i < x->plan->variant_count; i++)
		json_array_append_new(x->runs,
			json_pack("{s:s, s:s, s:s, s:i}", "status", "skipped", "reason", err->text,
				"variant", x->plan->variant[i].name, "round", 0));
	x->skipped = true;
	*err = (struct sluice_error){.code = 0};
	return 0;
}

/* Every variant once; another one begins each time, so that none always follows the same one. */
static int run_round(struct experiment *x, struct sluice_error *err)
{
	size_t count = x->plan->variant_count;
	int r = 0;

	for (size_t i = 0; r == 0 && i < count; i++) {
		x->variant = &x->plan->variant[(i + x->round) % count];
		x->config = &x->variant->config;
		r = run_one(x, err);
	}
	return r;
}

/* What a variant sets differently from the base. */
static json_t *changes_json(const struct perf_plan *plan, const struct perf_variant *variant)
{
	json_t *base = sluice_params_json(perf_config_params, &plan->base);
	json_t *changes = sluice_params_json(perf_config_params, &variant->config), *value;
	const char *key;
	void *next;

	json_object_foreach_safe (changes, next, key, value) {
		if (json_equal(value, json_object_get(base, key)))
			json_object_del(changes, key);
	}
	json_decref(base);
	return changes;
}

static void summarize(const struct experiment *x, json_t *result)
{
	const struct perf_plan *plan = x->plan;
	json_t *summary = json_object(), *variants = json_object();

	for (size_t i = 0; i < plan->variant_count; i++) {
		const struct perf_variant *variant = &plan->variant[i];
		json_t *runs = perf_runs_of(x->runs, variant->name);
		json_t *metrics = perf_metrics_summary(runs);

		if (!plan->has_variants)
			json_object_update(summary, metrics);
		json_object_set_new(variants, variant->name,
			json_pack("{s:o, s:o}", "config", changes_json(plan, variant), "summary",
				metrics));
		json_decref(runs);
	}
	for (size_t i = 0; i < plan->figure_count; i++)
		json_object_set_new(summary, plan->figure[i].name,
			perf_figure_json(plan, &plan->figure[i], x->runs));
	json_object_set_new(result, "variants", variants);
	json_object_set_new(result, "summary", summary);
}

int perf_experiment_run(const struct perf_plan *plan, const struct perf_experiment_options *options,
	json_t *result, struct sluice_error *err)
{
	struct experiment x = {.plan = plan, .runs = json_array()};
	int r;

	json_object_set_new(result, "runs", x.runs);
	perf_progress_init(&x.progress, options->quiet);
	r = make_folder(&x, err);
	if (r < 0)
		return r;
	if (plan->base.network[0] != '\0') {
		r = perf_network_limit(plan->base.network, x.dir, err);
		if (r < 0)
			r = skip_all(&x, err);
	}
	for (x.round = 0; r == 0 && !x.skipped && x.round < plan->base.warmup + plan->base.repeats;
		x.round++)
		r = run_round(&x, err);
	summarize(&x, result);
	if (r < 0 || options->keep_logs)
		perf_progress_say(&x.progress, "logs are kept in %s", x.dir);
	else
		remove_folder(x.dir);
	return r;
}
