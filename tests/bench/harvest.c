/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * harvest.c: how fast one core finds the dirty pages of a large guest in a shared bitmap: the
 * engine's own feed and ledger, on a bitmap with dirty pages scattered at random.
 *
 *   bench-harvest [--guest BYTES] [--dirty PPM]
 *
 * Prints a run of sluice-perf's as JSON: the medians of RUNS harvests, and beside them how fast the
 * same core reads memory. Fails when the feed reports another number of pages than there are.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/clock.h"
#include "base/params.h"
#include "base/random.h"
#include "engine/feeds/bitmap.h"
#include "engine/lane/ledger.h"

#define RUNS       5
#define READ_BYTES (256ull << 20) /* far more than any cache */

struct options {
	uint64_t guest_bytes;
	uint64_t dirty_ppm;
};

static const struct sluice_param params[] = {
	{"guest", SLUICE_PARAM_SIZE, SLUICE_FIELD(struct options, guest_bytes), "1T", 2u << 20,
		16ull << 40, NULL, "memory of the guest", false},
	{"dirty", SLUICE_PARAM_UINT, SLUICE_FIELD(struct options, dirty_ppm), "10000", 0,
		SLUICE_RANDOM_PPM, NULL, "of a million pages, so many are dirty", false},
	{0},
};

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

static uint64_t median(uint64_t values[RUNS])
{
	qsort(values, RUNS, sizeof(values[0]), compare);
	return values[RUNS / 2];
}

/* Returns the number of pages that are set. */
static uint64_t make_dirty(uint64_t *words, uint64_t pages, uint64_t ppm, uint64_t seed)
{
	struct sluice_random random;
	uint64_t want = pages * ppm / SLUICE_RANDOM_PPM, set = 0;

	sluice_random_seed(&random, seed);
	while (set < want) {
		uint64_t page = sluice_random_below(&random, pages);
		uint64_t bit = 1ull << (page % SLUICE_WORD_PAGES);

		set += (words[page / SLUICE_WORD_PAGES] & bit) == 0;
		words[page / SLUICE_WORD_PAGES] |= bit;
	}
	return set;
}

/* Once: ns that a harvest takes, into an empty ledger. */
static int harvest(const struct options *options, uint64_t *words, uint64_t seed, uint64_t *ret_ns,
	uint64_t *ret_pages)
{
	struct sluice_ledger_span span = {.len_bytes = options->guest_bytes};
	uint64_t pages = options->guest_bytes >> SLUICE_PAGE_SHIFT, found, begin_ns;
	struct sluice_bitmap_feed *feed = NULL;
	struct sluice_ledger *ledger = NULL;
	int r;

	*ret_pages = make_dirty(words, pages, options->dirty_ppm, seed);
	r = sluice_ledger_create(&span, 1, &ledger);
	if (r == 0)
		r = sluice_bitmap_feed_create_over(words, pages, &feed);
	if (r == 0) {
		begin_ns = sluice_now_ns();
		found = sluice_bitmap_feed_harvest(feed, ledger, 0);
		*ret_ns = sluice_now_ns() - begin_ns;
		if (found != *ret_pages || sluice_ledger_pages_dirty(ledger) != *ret_pages)
			r = -EILSEQ;
	}
	sluice_bitmap_feed_destroy(feed);
	sluice_ledger_destroy(ledger);
	return r;
}

/* Once: ns that a plain loop takes to read READ_BYTES. */
static uint64_t read_memory(const uint64_t *words)
{
	uint64_t begin_ns = sluice_now_ns(), sum[4] = {0};

	for (uint64_t i = 0; i < READ_BYTES / sizeof(words[0]); i += 4)
		for (int k = 0; k < 4; k++)
			sum[k] += words[i + (uint64_t)k];
	__asm__ volatile("" ::"r"(sum[0] + sum[1] + sum[2] + sum[3]));
	return sluice_now_ns() - begin_ns;
}

static int measure(const struct options *options, uint64_t *words, uint64_t *memory)
{
	uint64_t harvest_ns[RUNS], read_ns[RUNS], pages = 0;
	double bitmap_bytes = (double)options->guest_bytes / SLUICE_PAGE_BYTES / 8, scan, read;
	json_t *json;
	int r;

	for (int i = 0; i < RUNS; i++) {
		r = harvest(options, words, (uint64_t)i + 1, &harvest_ns[i], &pages);
		if (r < 0)
			return r;
		read_ns[i] = read_memory(memory);
	}
	scan = bitmap_bytes * 1e9 / (double)median(harvest_ns);
	read = (double)READ_BYTES * 1e9 / (double)median(read_ns);
	json = json_pack("{s:s, s:f, s:f, s:f, s:f, s:f}", "status", "completed", "total_ms",
		(double)median(harvest_ns) / 1e6, "harvest_bytes_per_s", scan,
		"harvest_pages_per_s", (double)pages * 1e9 / (double)median(harvest_ns),
		"memory_bytes_per_s", read, "harvest_of_memory", scan / read);
	json_dumpf(json, stdout, JSON_COMPACT);
	fputc('\n', stdout);
	json_decref(json);
	return 0;
}

static int parse(int argc, char **argv, struct options *options, struct sluice_error *err)
{
	int r = 0;

	sluice_params_defaults(params, options);
	for (int i = 1; r == 0 && i < argc; i += 2) {
		if (strncmp(argv[i], "--", 2) != 0 || i + 1 == argc)
			return sluice_fail(err, -EINVAL, "options",
				"an option and its value, not %s", argv[i]);
		r = sluice_params_set(params, options, argv[i] + 2, argv[i + 1], err);
	}
	return r;
}

int main(int argc, char **argv)
{
	struct sluice_error err = {.code = 0};
	struct options options;
	uint64_t *words, *memory;
	int r = parse(argc, argv, &options, &err);

	if (r < 0) {
		fprintf(stderr, "bench-harvest: %s\n", err.text);
		return 2;
	}
	options.guest_bytes = sluice_align_down(options.guest_bytes, SLUICE_CHUNK_BYTES);
	words = calloc(options.guest_bytes / SLUICE_PAGE_BYTES / SLUICE_WORD_PAGES, sizeof(*words));
	memory = malloc(READ_BYTES);
	r = words == NULL || memory == NULL ? -ENOMEM : 0;
	if (r == 0) {
		/* Pages exist and are in no cache. */
		memset(words, 0, options.guest_bytes / SLUICE_PAGE_BYTES / 8);
		memset(memory, 1, READ_BYTES);
		r = measure(&options, words, memory);
	}
	free(words);
	free(memory);
	if (r < 0)
		fprintf(stderr, "bench-harvest: %s\n", strerror(-r));
	return r < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
