/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * chunk_map_test.c: what a target tells of its holes: short for sparse guests, bounded for
 * fragmented ones, and never a hole where there is data.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/bits.h"
#include "base/qmp.h"
#include "engine/lane/ledger.h"
#include "engine/session/session.h"
#include "tests/unit/unit.h"

#define MESSAGE_BYTES_MAX SLUICE_QMP_MESSAGE_BYTES_MAX
#define TIB               (1ull << 40)

/* @count ranges of @bytes, @stride apart, from @first on. */
struct data {
	uint64_t first, bytes, stride, count;
};

static void for_each_data(void *ctx, uint32_t region, uint64_t offset, uint64_t len_bytes,
	sluice_data_fn *fn, void *fn_ctx)
{
	const struct data *data = ctx;

	(void)region;
	(void)len_bytes;
	CU_ASSERT_EQUAL(offset, 0);
	for (uint64_t i = 0; i < data->count; i++)
		fn(fn_ctx, data->first + i * data->stride, data->bytes);
}

static json_t *map_of(struct data *data, uint64_t len_bytes, uint32_t regions)
{
	struct sluice_session_region region = {.id = "ram", .len_bytes = len_bytes};
	struct sluice_session_conf conf = {.regions = &region, .region_count = regions};
	struct sluice_session_env env = {.ctx = data, .for_each_data = for_each_data};
	json_t *map = sluice_chunk_map(&conf, &env, 0);

	CU_ASSERT_PTR_NOT_NULL_FATAL(map);
	return map;
}

static size_t text_bytes(const json_t *map)
{
	char *text = json_dumps(map, JSON_COMPACT);
	size_t bytes = strlen(text);

	free(text);
	return bytes;
}

/* Apply to a region of so many chunks; data must be dirty and only holes known as zeros. */
static void check_applied(const json_t *map, const struct data *data, uint64_t len_bytes)
{
	struct sluice_ledger_span span = {.base = NULL, .len_bytes = len_bytes};
	struct sluice_ledger *ledger = NULL;
	struct sluice_ledger_region *region;

	CU_ASSERT_EQUAL_FATAL(sluice_ledger_create(&span, 1, &ledger), 0);
	CU_ASSERT_EQUAL(sluice_chunk_map_apply(map, ledger, 0), 0);
	region = &ledger->regions[0];
	for (uint64_t i = 0; i < data->count; i++) {
		uint64_t page = (data->first + i * data->stride) >> SLUICE_PAGE_SHIFT;
		uint64_t bit = 1ull << (page % SLUICE_WORD_PAGES);

		CU_ASSERT_TRUE((region->dirty[page / SLUICE_WORD_PAGES] & bit) != 0);
		CU_ASSERT_TRUE((region->maybe_nonzero[page / SLUICE_WORD_PAGES] & bit) != 0);
	}
	for (uint64_t word = 0; word < region->chunks * SLUICE_CHUNK_WORDS; word++)
		CU_ASSERT_TRUE(region->dirty[word] == 0 || region->maybe_nonzero[word] != 0);
	sluice_ledger_destroy(ledger);
}

static void test_sparse(void)
{
	struct data low = {.first = 4096, .bytes = 8192, .stride = 0, .count = 1};
	struct data none = {.count = 0};
	json_t *map = map_of(&low, 64 * TIB, 1);
	uint64_t clear = 0;
	struct sluice_ledger_span span = {.base = NULL, .len_bytes = 64ull << 20};
	struct sluice_ledger *ledger = NULL;

	CU_ASSERT_TRUE(text_bytes(map) < 16);
	CU_ASSERT_EQUAL_FATAL(sluice_ledger_create(&span, 1, &ledger), 0);
	CU_ASSERT_EQUAL(sluice_chunk_map_apply(map, ledger, 0), 0);
	for (uint64_t word = 0; word < ledger->regions[0].chunks * SLUICE_CHUNK_WORDS; word++)
		clear += ledger->regions[0].maybe_nonzero[word] == 0;
	CU_ASSERT_EQUAL(clear, 31 * SLUICE_CHUNK_WORDS); /* all chunks but the first */
	CU_ASSERT_EQUAL(sluice_ledger_pages_dirty(ledger), SLUICE_CHUNK_PAGES);
	sluice_ledger_destroy(ledger);
	json_decref(map);
	map = map_of(&none, 64 * TIB, 64);
	CU_ASSERT_EQUAL(json_array_size(map), 0);
	json_decref(map);
}

/* Every other chunk of 64 TiB, and a stride at which gaps differ from data. */
static void test_fragmented(void)
{
	struct data rows[] = {
		{.first = 0, .bytes = 4096, .stride = 4ull << 20, .count = 64 * TIB / (4ull << 20)},
		{.first = 6ull << 20, .bytes = 4096, .stride = 10ull << 20, .count = 6000000},
	};

	for (size_t i = 0; i < SLUICE_ARRAY_LEN(rows); i++) {
		json_t *map = map_of(&rows[i], 64 * TIB, 64);

		/* 64 regions of that kind still fit into a message. */
		CU_ASSERT_TRUE(64 * text_bytes(map) < MESSAGE_BYTES_MAX * 3 / 4);
		json_decref(map);
	}
}

static void test_never_a_hole_where_data_is(void)
{
	struct data rows[] = {
		{.first = 0, .bytes = 4096, .stride = 4ull << 20, .count = 2560},
		{.first = 2ull << 20, .bytes = 4096, .stride = 6ull << 20, .count = 1706},
		{.first = (10ull << 30) - 4096, .bytes = 4096, .stride = 0, .count = 1},
	};

	for (size_t i = 0; i < SLUICE_ARRAY_LEN(rows); i++) {
		for (uint32_t regions = 1; regions <= 64; regions *= 8) {
			json_t *map = map_of(&rows[i], 10ull << 30, regions);

			check_applied(map, &rows[i], 10ull << 30);
			json_decref(map);
		}
	}
}

static void test_too_long(void)
{
	const char *const texts[] = {"[0, 6]", "[6]", "[3, 1, 2]", "[0, 9000000]"};
	struct sluice_ledger_span span = {.base = NULL, .len_bytes = 10ull << 20};

	for (size_t i = 0; i < SLUICE_ARRAY_LEN(texts); i++) {
		struct sluice_ledger *ledger = NULL;
		json_t *map = json_loads(texts[i], 0, NULL);

		CU_ASSERT_EQUAL_FATAL(sluice_ledger_create(&span, 1, &ledger), 0);
		CU_ASSERT_EQUAL(sluice_chunk_map_apply(map, ledger, 0), -EPROTO);
		sluice_ledger_destroy(ledger);
		json_decref(map);
	}
}

int main(void)
{
	static const struct unit_test tests[] = {
		{"a sparse guest takes a few bytes", test_sparse},
		{"a fragmented one is bounded", test_fragmented},
		{"never a hole where data is", test_never_a_hole_where_data_is},
		{"longer than the region", test_too_long},
		{0},
	};

	return unit_run("chunk-map", tests);
}
