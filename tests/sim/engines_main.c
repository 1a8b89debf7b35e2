/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * engines_main.c: sim_engines: many seeds of the simulation of two engines.
 *
 *   sim_engines --seeds N [--from S] [--plant NAME] [--expect-all]
 *   sim_engines --seed S [--trace] [--plant NAME]
 *
 * Without a plant every seed has to hold; the first violation ends the run with status 1 and says
 * how to replay it. With a plant a violation has to be found within the seeds. The environment
 * variable SLUICE_SIM_SEEDS replaces N, for slow builds (sanitizers).
 */
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/plant.h"
#include "tests/sim/engines.h"

#define REPLAY_EVERY 100u /* seeds: one of them is run twice and must do the same */

unsigned int sluice_plants;

struct options {
	uint64_t seeds, from;
	const char *plant;
	bool trace, expect_all;
};

static const struct {
	const char *name;
	unsigned int bit;
} plants[] = {
	{"none", 0},
	{"RELEASE_WITHOUT_FLUSH", SLUICE_PLANT_RELEASE_WITHOUT_FLUSH},
	{"CLEAR_AFTER_READ", SLUICE_PLANT_CLEAR_AFTER_READ},
	{"ZERO_ON_A_GUESS", SLUICE_PLANT_ZERO_ON_A_GUESS},
	{"NO_FENCE", SLUICE_PLANT_NO_FENCE},
	{"RESUME_WITHOUT_FENCE", SLUICE_PLANT_RESUME_WITHOUT_FENCE},
	{"FORGET_CREDITS", SLUICE_PLANT_FORGET_CREDITS},
	{"REMOVE_WITHOUT_FLUSH", SLUICE_PLANT_REMOVE_WITHOUT_FLUSH},
	{"TRUST_A_DEAD_NIC", SLUICE_PLANT_TRUST_A_DEAD_NIC},
	{"LOOK_ONCE", SLUICE_PLANT_LOOK_ONCE},
};

static int plant(const char *name)
{
	for (size_t i = 0; i < SLUICE_ARRAY_LEN(plants); i++) {
		if (strcmp(plants[i].name, name) != 0)
			continue;
		sluice_plants = plants[i].bit;
		return 0;
	}
	fprintf(stderr, "there is no mistake \"%s\" to plant; there are:", name);
	for (size_t i = 0; i < SLUICE_ARRAY_LEN(plants); i++)
		fprintf(stderr, " %s", plants[i].name);
	fputc('\n', stderr);
	return -1;
}

static int parse_options(int argc, char **argv, struct options *opts)
{
	static const struct option longs[] = {
		{"seeds", required_argument, NULL, 'n'},
		{"from", required_argument, NULL, 'f'},
		{"seed", required_argument, NULL, 's'},
		{"plant", required_argument, NULL, 'p'},
		{"trace", no_argument, NULL, 't'},
		{"expect-all", no_argument, NULL, 'a'},
		{NULL, 0, NULL, 0},
	};
	const char *fewer = getenv("SLUICE_SIM_SEEDS");
	int c;

	while ((c = getopt_long(argc, argv, "", longs, NULL)) != -1) {
		switch (c) {
		case 'n':
			opts->seeds = strtoull(fewer != NULL ? fewer : optarg, NULL, 0);
			break;
		case 'f':
			opts->from = strtoull(optarg, NULL, 0);
			break;
		case 's':
			opts->from = strtoull(optarg, NULL, 0);
			opts->seeds = 1;
			break;
		case 'p':
			opts->plant = optarg;
			break;
		case 't':
			opts->trace = true;
			break;
		case 'a':
			opts->expect_all = fewer == NULL;
			break;
		default:
			return -1;
		}
	}
	return plant(opts->plant);
}

static void print_stats(const struct engines_stats *stats)
{
#define X(name, help) printf("%12" PRIu64 "  %-20s %s\n", stats->name, #name, help);
	ENGINES_STATS(X)
#undef X
}

/* What did not happen was not tested. */
static int check_stats(const struct engines_stats *stats)
{
	int missing = 0;

#define X(name, help)                                             \
	if (stats->name == 0) {                                   \
		printf("never happened: %s (%s)\n", #name, help); \
		missing++;                                        \
	}
	ENGINES_STATS(X)
#undef X
	return missing;
}

static bool replays(uint64_t seed, const struct engines_result *first)
{
	struct engines_stats ignored = {0};
	struct engines_result again;

	engines_run(seed, false, &ignored, &again);
	return again.hash == first->hash && again.turns == first->turns;
}

static int run_seeds(const struct options *opts, struct engines_stats *stats)
{
	struct engines_result result;

	for (uint64_t seed = opts->from; seed < opts->from + opts->seeds; seed++) {
		engines_run(seed, opts->trace, stats, &result);
		if (result.violation[0] != '\0') {
			printf("seed %" PRIu64 ": %s\nreplay: sim_engines --seed %" PRIu64
			       " --trace --plant %s\n",
				seed, result.violation, seed, opts->plant);
			if (sluice_plants != 0)
				printf("%s was found after %" PRIu64 " seeds\n", opts->plant,
					seed - opts->from + 1);
			return sluice_plants != 0 ? 0 : 1;
		}
		if (seed % REPLAY_EVERY == 0 && !opts->trace && !replays(seed, &result)) {
			printf("seed %" PRIu64 " does not replay\n", seed);
			return 1;
		}
	}
	if (sluice_plants != 0) {
		printf("%s was not found in %" PRIu64 " seeds\n", opts->plant, opts->seeds);
		return 1;
	}
	return 0;
}

int main(int argc, char **argv)
{
	struct options opts = {.seeds = 100, .from = 1, .plant = "none"};
	struct engines_stats stats = {0};
	int r;

	if (parse_options(argc, argv, &opts) < 0)
		return 2;
	r = run_seeds(&opts, &stats);
	print_stats(&stats);
	if (r == 0 && opts.expect_all && check_stats(&stats) > 0)
		r = 1;
	return r;
}
