/* SPDX-License-Identifier: BSD-3-Clause */
/* cases_place.c: WRITE and ZERO store exactly what they say, where they say. */
#include <string.h>
#include <sys/mman.h>

#include "tests/conformance/harness.h"

static void first_and_last_page(void)
{
	struct fixture *f = fixture_open();
	struct lane *lane;

	if (f == NULL)
		return;
	lane = lane_connect(f);
	struct sluice_op ops[] = {
		op_write_modelled(f, 3 * SLUICE_PAGE_BYTES, 0, SLUICE_PAGE_BYTES),
		op_write_modelled(f, 0, REGION_BYTES - SLUICE_PAGE_BYTES, SLUICE_PAGE_BYTES),
	};
	CU_ASSERT(end_submit(f, &lane->source, ops, 2));
	STEP_UNTIL(f, end_has_placed(&lane->source, ops[1].seq));
	CU_ASSERT(end_show_placed(f, &lane->source));
	CU_ASSERT(memory_as_modelled(f)); /* PLACED means stored, and nothing else was */
	fixture_close(f);
}

static void smallest_op(void)
{
	struct fixture *f = fixture_open();
	struct lane *lane;

	if (f == NULL)
		return;
	lane = lane_connect(f);
	struct sluice_op ops[] = {
		op_write_modelled(f, 0, 5ull * f->limits.align_bytes, f->limits.align_bytes),
		op_zero_modelled(f, 7ull * f->limits.align_bytes, f->limits.align_bytes),
	};
	CU_ASSERT(end_submit(f, &lane->source, ops, 2));
	CU_ASSERT(end_flush(f, &lane->source));
	CU_ASSERT(memory_as_modelled(f));
	fixture_close(f);
}

/* Every second page, in random order, in one submit and in many. */
static void scattered_pages(void)
{
	enum { PAGES = REGION_BYTES / SLUICE_PAGE_BYTES, OPS = PAGES / 2 };
	struct fixture *f = fixture_open();
	static struct sluice_op ops[OPS];
	struct lane *lane;

	if (f == NULL)
		return;
	lane = lane_connect(f);
	for (uint32_t i = 0; i < OPS; i++) {
		uint64_t page = 2 * ((i * 467ull) % OPS); /* 467 is coprime: a permutation */

		ops[i] = op_write_modelled(f, (PAGES - 1 - page) * SLUICE_PAGE_BYTES,
			page * SLUICE_PAGE_BYTES, SLUICE_PAGE_BYTES);
	}
	CU_ASSERT(end_submit(f, &lane->source, ops, OPS / 2));
	for (uint32_t done = OPS / 2; done < OPS;) {
		uint32_t some = 1 + (uint32_t)(fixture_random(f) % 7);

		if (some > OPS - done)
			some = OPS - done;
		CU_ASSERT(end_submit(f, &lane->source, ops + done, some));
		done += some;
	}
	CU_ASSERT(end_flush(f, &lane->source));
	CU_ASSERT(memory_as_modelled(f));
	fixture_close(f);
}

static void longest_op(void)
{
	struct fixture *f = fixture_open();
	struct lane *lane;
	uint32_t len;

	if (f == NULL)
		return;
	lane = lane_connect(f);
	len = f->limits.op_bytes_max < REGION_BYTES ? f->limits.op_bytes_max
						    : (uint32_t)REGION_BYTES;
	struct sluice_op ops[] = {
		op_write_modelled(f, 0, REGION_BYTES - len, len),
		op_write_modelled(f, f->limits.align_bytes, 0, len - f->limits.align_bytes),
	};
	CU_ASSERT(end_submit(f, &lane->source, ops, 2));
	CU_ASSERT(end_flush(f, &lane->source));
	CU_ASSERT(memory_as_modelled(f));
	fixture_close(f);
}

static void zero(void)
{
	struct fixture *f = fixture_open();
	struct lane *lane;

	if (f == NULL)
		return;
	lane = lane_connect(f);
	struct sluice_op ops[] = {
		op_zero_modelled(f, 0, SLUICE_PAGE_BYTES),
		op_zero_modelled(f, REGION_BYTES - SLUICE_PAGE_BYTES, SLUICE_PAGE_BYTES),
		op_zero_modelled(f, 64 * SLUICE_PAGE_BYTES, 16 * SLUICE_PAGE_BYTES),
	};
	CU_ASSERT(end_submit(f, &lane->source, ops, 3));
	STEP_UNTIL(f, end_has_placed(&lane->source, ops[2].seq));
	CU_ASSERT(memory_as_modelled(f));
	fixture_close(f);
}

/* Zeroes and writes next to each other, in one submit. */
static void zeroes_between_writes(void)
{
	enum { OPS = 400 };
	struct fixture *f = fixture_open();
	struct sluice_op ops[OPS];
	struct lane *lane;

	if (f == NULL)
		return;
	lane = lane_connect(f);
	for (uint32_t i = 0; i < OPS; i++) {
		uint64_t offset = (OPS - i) * SLUICE_PAGE_BYTES;

		if (fixture_random(f) % 3 == 0)
			ops[i] = op_zero_modelled(f, offset, SLUICE_PAGE_BYTES);
		else
			ops[i] = op_write_modelled(f, offset, offset, SLUICE_PAGE_BYTES);
	}
	CU_ASSERT(end_submit(f, &lane->source, ops, OPS));
	CU_ASSERT(end_flush(f, &lane->source));
	CU_ASSERT(memory_as_modelled(f));
	fixture_close(f);
}

/* Random lengths and places over everything, each behind a FLUSH of the one before. */
static void random_extents(void)
{
	struct fixture *f = fixture_open();
	struct lane *lane;

	if (f == NULL)
		return;
	lane = lane_connect(f);
	for (int i = 0; i < 200; i++) {
		uint32_t align = f->limits.align_bytes;
		uint32_t len = align * (1 + (uint32_t)(fixture_random(f) % (262144 / align)));
		uint64_t offset, local_offset;
		struct sluice_op op;

		if (len > f->limits.op_bytes_max)
			len = f->limits.op_bytes_max;
		offset = fixture_random(f) % ((REGION_BYTES - len) / align + 1) * align;
		local_offset = fixture_random(f) % (REGION_BYTES - len + 1);
		op = fixture_random(f) % 4 == 0 ? op_zero_modelled(f, offset, len)
						: op_write_modelled(f, local_offset, offset, len);
		if (!end_submit(f, &lane->source, &op, 1) || !end_flush(f, &lane->source))
			break;
	}
	CU_ASSERT(memory_as_modelled(f));
	fixture_close(f);
}

static void discard(struct fixture *f, struct sluice_mem *mem, uint8_t *base, uint64_t offset)
{
	CU_ASSERT_EQUAL(madvise(base + offset, SLUICE_PAGE_BYTES, MADV_REMOVE), 0);
	if (f->transport->mem_discarded != NULL)
		CU_ASSERT_EQUAL(
			f->transport->mem_discarded(mem, offset, SLUICE_PAGE_BYTES, NULL), 0);
}

/* A hole is punched into the source's memory, and filled anew: the new page is what is sent. */
static void source_discards(void)
{
	enum { PAGES = 16 };
	struct fixture *f = fixture_open();
	struct lane *lane;

	if (f == NULL)
		return;
	lane = lane_connect(f);
	for (uint32_t i = 0; i < PAGES; i++) {
		uint64_t offset = fixture_random(f) % (REGION_BYTES >> 12) << 12;
		struct sluice_op op = op_write(f, offset, offset, 4096);

		/* Under way while the page goes: either content may arrive. */
		CU_ASSERT(end_submit(f, &lane->source, &op, 1));
		discard(f, f->local_mem, f->local, offset);
		memset(f->local + offset, 0x30 + (int)i, SLUICE_PAGE_BYTES);
		op = op_write_modelled(f, offset, offset, 4096);
		CU_ASSERT(end_submit(f, &lane->source, &op, 1));
		CU_ASSERT(end_flush(f, &lane->source));
		CU_ASSERT(memory_as_modelled(f));
	}
	CU_ASSERT(!lane->source.lost);
	fixture_close(f);
}

/* The same at the target, which tells its peer the new key. Where it has changed, the old one is
   no good any more. */
static void target_discards(void)
{
	const uint64_t offset = 5 * SLUICE_PAGE_BYTES;
	struct fixture *f = fixture_open();
	struct sluice_remote *before;
	uint8_t key[SLUICE_KEY_BYTES_MAX], old_key[SLUICE_KEY_BYTES_MAX];
	struct sluice_op op;
	struct lane *lane;
	int bytes;

	if (f == NULL)
		return;
	f->transport->mem_export(f->region_mem, old_key, sizeof(old_key));
	discard(f, f->region_mem, f->region, offset);
	memset(f->model + GUARD_BYTES + offset, 0, SLUICE_PAGE_BYTES);
	CU_ASSERT(memory_as_modelled(f));
	before = f->remote;
	bytes = f->transport->mem_export(f->region_mem, key, sizeof(key));
	CU_ASSERT_EQUAL(
		f->transport->mem_import(f->pair.source, key, (size_t)bytes, &f->remote, NULL), 0);
	lane = lane_connect(f);
	op = op_write_modelled(f, 0, offset, 4096);
	CU_ASSERT(end_submit(f, &lane->source, &op, 1));
	CU_ASSERT(end_flush(f, &lane->source));
	CU_ASSERT(memory_as_modelled(f));
	if (memcmp(key, old_key, (size_t)bytes) != 0) {
		op = op_write(f, 4096, offset, 4096);
		op.remote = before;
		CU_ASSERT(end_submit(f, &lane->source, &op, 1));
		STEP_UNTIL(f, lane->source.lost);
		CU_ASSERT(memory_as_modelled(f));
	}
	f->transport->mem_forget(before);
	fixture_close(f);
}

CU_TestInfo cases_place[] = {
	{"WRITE to the first and the last page, and nowhere else", first_and_last_page},
	{"the smallest WRITE and ZERO", smallest_op},
	{"many scattered pages", scattered_pages},
	{"the longest WRITE", longest_op},
	{"ZERO", zero},
	{"ZERO and WRITE side by side", zeroes_between_writes},
	{"random extents", random_extents},
	{"a hole in the source's memory", source_discards},
	{"a hole in the target's memory", target_discards},
	CU_TEST_INFO_NULL,
};
