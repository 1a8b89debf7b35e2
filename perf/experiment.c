/* SPDX-License-Identifier: BSD-3-Clause */
/* experiment.c: see experiment.h. */
#include <errno.h>
#include <ftw.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "perf/experiment.h"
#include "perf/iperf.h"
#include "perf/metrics.h"
#include "perf/migration.h"
#include "perf/plain.h"

struct experiment {
	const struct perf_config *config;
	struct perf_progress progress;
	char dir[128]; /* sockets and logs */
	unsigned int nodes; /* started so far: each gets a number of its own */
	uint64_t guest; /* warm-ups included */
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
	return x->guest >= x->config->warmup;
}

static void name_run(struct experiment *x, uint64_t hop)
{
	const struct perf_config *config = x->config;
	char *prefix = x->progress.prefix;
	size_t bytes = sizeof(x->progress.prefix);
	int n;

	if (counts(x))
		n = snprintf(prefix, bytes, "run %llu of %llu",
			(unsigned long long)(x->guest - config->warmup + 1),
			(unsigned long long)config->repeats);
	else
		n = snprintf(prefix, bytes, "warm-up");
	if (config->hops > 1 && n > 0 && (size_t)n < bytes)
		snprintf(prefix + n, bytes - (size_t)n, ", hop %llu of %llu",
			(unsigned long long)hop + 1, (unsigned long long)config->hops);
}

static void keep_run(struct experiment *x, json_t *run, uint64_t hop)
{
	if (run == NULL || !counts(x)) {
		json_decref(run);
		return;
	}
	json_object_set_new(run, "guest", json_integer((json_int_t)(x->guest - x->config->warmup)));
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
	return r;
}

/* A program that sluice is compared with. */
static int run_peer(struct experiment *x, struct sluice_error *err)
{
	json_t *run = NULL;
	int r;

	name_run(x, 0);
	if (x->config->program == PERF_PROGRAM_PLAIN)
		r = perf_plain_run(x->config, &run, err);
	else
		r = perf_iperf_run(x->config, x->dir, &run, err);
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
	return x->config->program == PERF_PROGRAM_MIGRATION ? run_guest(x, err) : run_peer(x, err);
}

int perf_experiment_run(const struct perf_config *config,
	const struct perf_experiment_options *options, json_t *result, struct sluice_error *err)
{
	struct experiment x = {.config = config, .runs = json_array()};
	int r;

	json_object_set_new(result, "runs", x.runs);
	perf_progress_init(&x.progress, options->quiet);
	r = make_folder(&x, err);
	if (r < 0)
		return r;
	for (x.guest = 0; r == 0 && x.guest < config->warmup + config->repeats; x.guest++)
		r = run_one(&x, err);
	json_object_set_new(result, "summary", perf_metrics_summary(x.runs));
	if (r < 0 || options->keep_logs)
		perf_progress_say(&x.progress, "logs are kept in %s", x.dir);
	else
		remove_folder(x.dir);
	return r;
}
