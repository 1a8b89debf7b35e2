/* SPDX-License-Identifier: BSD-3-Clause */
/* ledger_test.c: the ledger's states, one by one and from many threads. */
#include <errno.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/random.h"
#include "engine/lane/ledger.h"
#include "tests/unit/unit.h"

#define PAGES 1300u /* two whole chunks and a short one */

static uint8_t memory[1];

static struct sluice_ledger *make(uint64_t pages)
{
	struct sluice_ledger_span span = {.base = memory, .len_bytes = pages << SLUICE_PAGE_SHIFT};
	struct sluice_ledger *ledger = NULL;

	CU_ASSERT_EQUAL_FATAL(sluice_ledger_create(&span, 1, &ledger), 0);
	return ledger;
}

static void test_mark_counts_fresh_bits(void)
{
	struct sluice_ledger *ledger = make(PAGES);

	CU_ASSERT_EQUAL(sluice_ledger_mark(ledger, 0, 1, 0xf0), 4);
	CU_ASSERT_EQUAL(sluice_ledger_mark(ledger, 0, 1, 0xff), 4);
	CU_ASSERT_EQUAL(sluice_ledger_mark(ledger, 0, 1, 0), 0);
	CU_ASSERT_EQUAL(sluice_ledger_pages_dirty(ledger), 8);
	CU_ASSERT_FALSE(sluice_ledger_is_drained(ledger));
	sluice_ledger_destroy(ledger);
}

static void test_mark_pages_is_clipped(void)
{
	struct sluice_ledger *ledger = make(PAGES);

	sluice_ledger_mark_pages(ledger, 0, PAGES - 3, 1000);
	CU_ASSERT_EQUAL(sluice_ledger_pages_dirty(ledger), 3);
	sluice_ledger_mark_pages(ledger, 0, PAGES + 5, UINT64_MAX);
	CU_ASSERT_EQUAL(sluice_ledger_pages_dirty(ledger), 3);
	sluice_ledger_mark_pages(ledger, 0, 0, UINT64_MAX);
	CU_ASSERT_EQUAL(sluice_ledger_pages_dirty(ledger), PAGES);
	sluice_ledger_destroy(ledger);
}

/* A page that may be a hole is looked at through its file; one that holds something is marked and sent
   like any other, and a hint that is wrong does no harm. */
static void test_holes_are_hints(void)
{
	struct sluice_ledger *ledger = make(PAGES);
	_Alignas(SLUICE_CACHE_LINE) uint8_t copy[SLUICE_PAGE_BYTES];
	uint64_t bytes = (uint64_t)PAGES << SLUICE_PAGE_SHIFT, bits[SLUICE_CHUNK_WORDS];
	int fd = memfd_create("ledger-test", 0);
	struct stat file;
	uint8_t *base;
	uint32_t chunk;

	CU_ASSERT_EQUAL_FATAL(ftruncate(fd, (off_t)(SLUICE_PAGE_BYTES + bytes)), 0);
	base = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, SLUICE_PAGE_BYTES);
	CU_ASSERT_PTR_NOT_EQUAL_FATAL(base, MAP_FAILED);
	ledger->regions[0].base = base;
	sluice_ledger_set_file(ledger, 0, fd, SLUICE_PAGE_BYTES);
	sluice_ledger_set_holes(ledger, 0, 600, UINT64_MAX);
	CU_ASSERT_EQUAL(sluice_ledger_pages_dirty(ledger), 0);
	base[700 << SLUICE_PAGE_SHIFT] = 1;
	CU_ASSERT_TRUE(sluice_ledger_page_is_zero(ledger, 1, 600 - SLUICE_CHUNK_PAGES, copy));
	CU_ASSERT_TRUE(sluice_ledger_page_is_zero(ledger, 2, PAGES - 1 - 1024, copy));
	CU_ASSERT_FALSE(sluice_ledger_page_is_zero(ledger, 1, 700 - SLUICE_CHUNK_PAGES, copy));
	CU_ASSERT_EQUAL(fstat(fd, &file), 0);
	CU_ASSERT_EQUAL(file.st_blocks, SLUICE_PAGE_BYTES / 512);
	CU_ASSERT_TRUE(sluice_ledger_page_is_zero(ledger, 1, 599 - SLUICE_CHUNK_PAGES, copy));
	CU_ASSERT_EQUAL(fstat(fd, &file), 0);
	CU_ASSERT_EQUAL(
		file.st_blocks, 2 * SLUICE_PAGE_BYTES / 512); /* no hint: read where it is */

	sluice_ledger_mark_holes(ledger, 0, 590, 20);
	CU_ASSERT_TRUE(sluice_ledger_pop(ledger, 0, SLUICE_HOME_ANY, &chunk));
	CU_ASSERT_EQUAL(sluice_ledger_take(ledger, chunk, bits), 10); /* 600 to 609 */
	CU_ASSERT_EQUAL(bits[1], 0x3ffull << (600 - 576));
	sluice_ledger_mark_holes(ledger, 0, 700, 1);
	CU_ASSERT_EQUAL(sluice_ledger_pages_dirty(ledger), 0); /* it was seen to be none */
	sluice_ledger_destroy(ledger);
	munmap(base, bytes);
	close(fd);
}

static void test_a_chunk_has_one_owner(void)
{
	struct sluice_ledger *ledger = make(PAGES);
	uint64_t bits[SLUICE_CHUNK_WORDS];
	uint32_t chunk = 99, other;

	sluice_ledger_mark(ledger, 0, 9, 1); /* chunk 1 */
	sluice_ledger_mark(ledger, 0, 10, 1);
	CU_ASSERT_TRUE(sluice_ledger_pop(ledger, 5, SLUICE_HOME_ANY, &chunk));
	CU_ASSERT_EQUAL(chunk, 1);
	CU_ASSERT_EQUAL(sluice_ledger_take(ledger, chunk, bits), 2);
	CU_ASSERT_EQUAL(bits[1], 1);
	/* Dirtied while owned: it waits for its owner, nobody else gets it. */
	sluice_ledger_mark(ledger, 0, 9, 2);
	CU_ASSERT_FALSE(sluice_ledger_pop(ledger, 6, SLUICE_HOME_ANY, &other));
	CU_ASSERT_EQUAL(sluice_ledger_queued_again(ledger), 0);
	CU_ASSERT_TRUE(sluice_ledger_release(ledger, chunk, 5));
	CU_ASSERT_EQUAL(sluice_ledger_queued_again(ledger), 1);
	CU_ASSERT_TRUE(sluice_ledger_pop(ledger, 6, SLUICE_HOME_ANY, &other));
	CU_ASSERT_EQUAL(other, 1);
	sluice_ledger_take(ledger, other, bits);
	CU_ASSERT_EQUAL(bits[1], 2);
	CU_ASSERT_FALSE(sluice_ledger_release(ledger, other, 6));
	CU_ASSERT_TRUE(sluice_ledger_is_drained(ledger));
	sluice_ledger_destroy(ledger);
}

static void test_coldest_first(void)
{
	struct sluice_ledger *ledger = make(PAGES);
	uint64_t bits[SLUICE_CHUNK_WORDS];
	uint32_t chunk;

	/* Chunk 0 is dirtied again and again while it is sent: it becomes hot. */
	sluice_ledger_mark(ledger, 0, 0, 1);
	for (int i = 0; i < 3; i++) {
		CU_ASSERT_TRUE(sluice_ledger_pop(ledger, 0, SLUICE_HOME_ANY, &chunk));
		sluice_ledger_take(ledger, chunk, bits);
		sluice_ledger_mark(ledger, 0, 0, 1);
		sluice_ledger_release(ledger, chunk, 0);
	}
	sluice_ledger_mark(ledger, 0, 16, 1); /* chunk 2, later and cold */
	CU_ASSERT_TRUE(sluice_ledger_pop(ledger, 0, SLUICE_HOME_ANY, &chunk));
	CU_ASSERT_EQUAL(chunk, 2);
	CU_ASSERT_TRUE(sluice_ledger_pop(ledger, 0, SLUICE_HOME_ANY, &chunk));
	CU_ASSERT_EQUAL(chunk, 0);
	sluice_ledger_destroy(ledger);
}

/* Pop and release one chunk; @again: it is dirtied while it is being sent. */
static uint32_t send_one(struct sluice_ledger *ledger, bool again)
{
	uint64_t bits[SLUICE_CHUNK_WORDS];
	uint32_t chunk = UINT32_MAX;

	CU_ASSERT_TRUE_FATAL(sluice_ledger_pop(ledger, 0, SLUICE_HOME_ANY, &chunk));
	sluice_ledger_take(ledger, chunk, bits);
	if (again)
		sluice_ledger_mark(ledger, 0, chunk * SLUICE_CHUNK_WORDS, 1);
	sluice_ledger_release(ledger, chunk, 0);
	return chunk;
}

/*
 * A guest that writes everywhere, faster than may be sent: what was sent is soon dirty again, and
 * cold. Before everything was sent once or twice nothing warm goes in between; but then a chunk that
 * got warm, and that nobody writes to any more, is not kept waiting for good.
 */
static void test_nobody_waits_for_good(void)
{
	enum { CHUNKS = 64, WARM = 17, A_SYNC = 10 };
	struct sluice_random random = {0};
	struct sluice_ledger *ledger = make((uint64_t)CHUNKS * SLUICE_CHUNK_PAGES);
	uint32_t waits = 0, heat = 0;

	sluice_random_seed(&random, 7);
	sluice_ledger_mark(ledger, 0, WARM * SLUICE_CHUNK_WORDS, 1);
	while (++heat < SLUICE_LEDGER_HEATS)
		CU_ASSERT_EQUAL(send_one(ledger, true), WARM);
	for (bool sent = false; !sent && waits < 100 * CHUNKS;) {
		for (uint32_t chunk = 0; chunk < CHUNKS; chunk++)
			if (chunk != WARM)
				sluice_ledger_mark(ledger, 0,
					chunk * SLUICE_CHUNK_WORDS +
						sluice_random_below(&random, SLUICE_CHUNK_WORDS),
					1);
		for (uint32_t i = 0; i < A_SYNC && !sent; i++, waits++)
			sent = send_one(ledger, false) == WARM;
	}
	CU_ASSERT_TRUE(waits > CHUNKS);
	CU_ASSERT_TRUE(waits < 4 * CHUNKS);
	sluice_ledger_destroy(ledger);
}

static void test_a_lost_lane_keeps_its_chunks_until_reclaim(void)
{
	struct sluice_ledger *ledger = make(PAGES);
	uint64_t bits[SLUICE_CHUNK_WORDS];
	uint32_t chunk, other;

	sluice_ledger_mark(ledger, 0, 0, 0xff);
	CU_ASSERT_TRUE(sluice_ledger_pop(ledger, 3, SLUICE_HOME_ANY, &chunk));
	sluice_ledger_take(ledger, chunk, bits);
	sluice_ledger_put_back(ledger, chunk, 2, 3);
	CU_ASSERT_EQUAL(sluice_ledger_pages_dirty(ledger), 3);
	CU_ASSERT_FALSE(sluice_ledger_pop(ledger, 4, SLUICE_HOME_ANY, &other));
	CU_ASSERT_EQUAL(sluice_ledger_reclaim(ledger, 2, false), 0);
	CU_ASSERT_EQUAL(sluice_ledger_reclaim(ledger, 3, false), 1);
	CU_ASSERT_TRUE(sluice_ledger_pop(ledger, 4, SLUICE_HOME_ANY, &other));
	sluice_ledger_take(ledger, other, bits);
	CU_ASSERT_EQUAL(bits[0], 0x1c);
	sluice_ledger_destroy(ledger);
}

/* All that it owned, and nothing of what it had handed back. */
static void test_a_lane_gone_astray(void)
{
	struct sluice_ledger *ledger = make(2 * SLUICE_CHUNK_PAGES + 7);
	uint64_t bits[SLUICE_CHUNK_WORDS];
	uint32_t chunk;

	sluice_ledger_mark_pages(ledger, 0, 0, UINT64_MAX);
	for (uint32_t i = 0; i < 3; i++) {
		CU_ASSERT_TRUE_FATAL(sluice_ledger_pop(ledger, 3, SLUICE_HOME_ANY, &chunk));
		sluice_ledger_take(ledger, chunk, bits);
	}
	sluice_ledger_release(ledger, 1, 3);
	CU_ASSERT_EQUAL(sluice_ledger_pages_dirty(ledger), 0);
	CU_ASSERT_EQUAL(sluice_ledger_reclaim(ledger, 3, true), 2);
	CU_ASSERT_EQUAL(sluice_ledger_pages_dirty(ledger), SLUICE_CHUNK_PAGES + 7);
	for (uint32_t i = 0; i < 2; i++) {
		CU_ASSERT_TRUE_FATAL(sluice_ledger_pop(ledger, 4, SLUICE_HOME_ANY, &chunk));
		CU_ASSERT_NOT_EQUAL(chunk, 1);
		CU_ASSERT_EQUAL(sluice_ledger_take(ledger, chunk, bits),
			chunk == 0 ? SLUICE_CHUNK_PAGES : 7);
	}
	sluice_ledger_destroy(ledger);
}

/* Chunk numbers in the order in which a lane of @home gets them, as decimal digits. */
static uint64_t popped(struct sluice_ledger *ledger, uint32_t home, uint32_t count)
{
	uint64_t digits = 0;
	uint32_t chunk;

	for (uint32_t i = 0; i < count; i++) {
		CU_ASSERT_TRUE_FATAL(sluice_ledger_pop(ledger, 0, home, &chunk));
		digits = digits * 10 + chunk;
	}
	return digits;
}

/* Nine chunks: 1, 4, 7 at home in 1, the chunks 2, 5, 8 in 2, and 3, 6, 9 nobody knows. */
static struct sluice_ledger *make_homes(uint32_t homes, const uint8_t *order)
{
	struct sluice_ledger *ledger = make(10 * SLUICE_CHUNK_PAGES);

	CU_ASSERT_EQUAL_FATAL(sluice_ledger_set_homes(ledger, homes, order), 0);
	for (uint32_t chunk = 1; chunk <= 9; chunk++)
		sluice_ledger_set_home(ledger, chunk, chunk % 3);
	return ledger;
}

static void mark_chunk(struct sluice_ledger *ledger, uint32_t chunk)
{
	sluice_ledger_mark(ledger, 0, (uint64_t)chunk * SLUICE_CHUNK_WORDS, 1);
}

static void test_home_first_then_steal(void)
{
	struct sluice_ledger *ledger = make_homes(3, NULL);

	for (uint32_t chunk = 1; chunk <= 9; chunk++)
		mark_chunk(ledger, chunk);
	CU_ASSERT_EQUAL(popped(ledger, 2, 2), 25);
	CU_ASSERT_EQUAL(popped(ledger, 1, 7), 1473698);
	sluice_ledger_destroy(ledger);
}

static void test_homes_in_the_given_order(void)
{
	static const uint8_t order[] = {0, 1, 2, 3, 1, 0, 3, 2, 2, 0, 1, 3, 3, 2, 0, 1};
	struct sluice_ledger *ledger = make_homes(4, order);

	for (uint32_t chunk = 1; chunk <= 5; chunk++)
		mark_chunk(ledger, chunk);
	CU_ASSERT_EQUAL(popped(ledger, 3, 5), 25314);
	sluice_ledger_destroy(ledger);
}

/* A hot chunk at home waits for a cold one of another node. */
static void test_heat_before_home(void)
{
	struct sluice_ledger *ledger = make_homes(3, NULL);
	uint64_t bits[SLUICE_CHUNK_WORDS];
	uint32_t chunk;

	mark_chunk(ledger, 1);
	CU_ASSERT_TRUE(sluice_ledger_pop(ledger, 0, 1, &chunk));
	sluice_ledger_take(ledger, chunk, bits);
	mark_chunk(ledger, 1);
	sluice_ledger_release(ledger, chunk, 0);
	mark_chunk(ledger, 2);
	CU_ASSERT_EQUAL(popped(ledger, 1, 2), 21);
	sluice_ledger_destroy(ledger);
}

/* What was queued before its home was known ends up with the lanes of its home all the same. */
static void test_a_home_found_late(void)
{
	struct sluice_ledger *ledger = make(10 * SLUICE_CHUNK_PAGES);

	CU_ASSERT_EQUAL_FATAL(sluice_ledger_set_homes(ledger, 3, NULL), 0);
	for (uint32_t chunk = 1; chunk <= 9; chunk++)
		mark_chunk(ledger, chunk);
	for (uint32_t chunk = 1; chunk <= 9; chunk++)
		sluice_ledger_set_home(ledger, chunk, 1 + chunk % 2);
	CU_ASSERT_EQUAL(popped(ledger, 2, 4), 1357);
	CU_ASSERT_EQUAL(popped(ledger, 1, 5), 24689);
	CU_ASSERT_FALSE(sluice_ledger_pop(ledger, 0, 1, &(uint32_t){0}));
	sluice_ledger_destroy(ledger);
}

/* A lane does not carry a whole guest's chunks home in one step: it takes a far one instead. */
static void test_moves_are_bounded(void)
{
	struct sluice_ledger *ledger = make(100 * SLUICE_CHUNK_PAGES);
	uint32_t chunk;

	CU_ASSERT_EQUAL_FATAL(sluice_ledger_set_homes(ledger, 3, NULL), 0);
	sluice_ledger_mark_pages(ledger, 0, 0, UINT64_MAX);
	for (uint32_t i = 0; i < 100; i++)
		sluice_ledger_set_home(ledger, i, 2);
	CU_ASSERT_TRUE(sluice_ledger_pop(ledger, 0, 1, &chunk));
	CU_ASSERT_EQUAL(chunk, 16);
	for (uint32_t i = 1; i < 100; i++)
		CU_ASSERT_TRUE(sluice_ledger_pop(ledger, 0, i % 3, &chunk));
	CU_ASSERT_FALSE(sluice_ledger_pop(ledger, 0, 1, &chunk));
	sluice_ledger_destroy(ledger);
}

/*
 * Threads. Each page has a version that its writer raises before it marks the page; a lane takes
 * the bits and then copies the versions. At the end the copy must be the versions: no mark was
 * lost, whatever the interleaving.
 */
#define RACE_CHUNKS 8u
#define RACE_PAGES  (RACE_CHUNKS * 512u)
#define RACE_LANES  3
#define RACE_HOMES  3
#define RACE_MARKS  200000

static struct {
	struct sluice_ledger *ledger;
	uint32_t version[RACE_PAGES];
	uint32_t copy[RACE_PAGES];
	uint32_t owner[RACE_CHUNKS];
	uint32_t writers;
	uint32_t violations;
} race;

static void *race_writer(void *arg)
{
	struct sluice_random random;

	sluice_random_seed(&random, (uint64_t)(uintptr_t)arg);
	for (int i = 0; i < RACE_MARKS; i++) {
		uint32_t page = (uint32_t)sluice_random_below(&random, RACE_PAGES);

		__atomic_fetch_add(&race.version[page], 1, __ATOMIC_RELEASE);
		sluice_ledger_mark(race.ledger, 0, page / 64, 1ull << (page % 64));
	}
	__atomic_fetch_sub(&race.writers, 1, __ATOMIC_SEQ_CST);
	return NULL;
}

static void race_copy(uint32_t chunk)
{
	uint64_t bits[SLUICE_CHUNK_WORDS];

	sluice_ledger_take(race.ledger, chunk, bits);
	for (uint32_t page = 0; page < SLUICE_CHUNK_PAGES; page++)
		if ((bits[page / 64] >> (page % 64)) & 1)
			race.copy[chunk * 512 + page] = __atomic_load_n(
				&race.version[chunk * 512 + page], __ATOMIC_ACQUIRE);
}

static void *race_lane(void *arg)
{
	uint32_t lane = (uint32_t)(uintptr_t)arg;
	uint32_t chunk;

	while (__atomic_load_n(&race.writers, __ATOMIC_SEQ_CST) > 0 ||
		!sluice_ledger_is_drained(race.ledger)) {
		if (!sluice_ledger_pop(race.ledger, lane, lane % RACE_HOMES, &chunk))
			continue;
		if (__atomic_exchange_n(&race.owner[chunk], lane + 1, __ATOMIC_ACQ_REL) != 0)
			__atomic_fetch_add(&race.violations, 1, __ATOMIC_RELAXED);
		race_copy(chunk);
		__atomic_store_n(&race.owner[chunk], 0, __ATOMIC_RELEASE);
		sluice_ledger_release(race.ledger, chunk, lane);
	}
	return NULL;
}

/* Homes change all the time: chunks are carried from queue to queue while others pop them. */
static void *race_homes(void *arg)
{
	struct sluice_random random;

	sluice_random_seed(&random, (uint64_t)(uintptr_t)arg);
	while (__atomic_load_n(&race.writers, __ATOMIC_SEQ_CST) > 0)
		sluice_ledger_set_home(race.ledger,
			(uint32_t)sluice_random_below(&random, RACE_CHUNKS),
			(uint32_t)sluice_random_below(&random, RACE_HOMES));
	return NULL;
}

static void test_threads(void)
{
	pthread_t threads[3 + RACE_LANES];

	memset(&race, 0, sizeof(race));
	race.ledger = make(RACE_PAGES);
	CU_ASSERT_EQUAL_FATAL(sluice_ledger_set_homes(race.ledger, RACE_HOMES, NULL), 0);
	race.writers = 2;
	for (uintptr_t i = 0; i < 2; i++)
		pthread_create(&threads[i], NULL, race_writer, (void *)(i + 1));
	for (uintptr_t i = 0; i < RACE_LANES; i++)
		pthread_create(&threads[2 + i], NULL, race_lane, (void *)i);
	pthread_create(&threads[2 + RACE_LANES], NULL, race_homes, (void *)(uintptr_t)7);
	for (size_t i = 0; i < SLUICE_ARRAY_LEN(threads); i++)
		pthread_join(threads[i], NULL);
	CU_ASSERT_EQUAL(race.violations, 0);
	CU_ASSERT_EQUAL(memcmp(race.version, race.copy, sizeof(race.copy)), 0);
	CU_ASSERT_EQUAL(sluice_ledger_pages_dirty(race.ledger), 0);
	sluice_ledger_destroy(race.ledger);
}

/* ---- regions that come and go ---- */

static uint32_t pop(struct sluice_ledger *ledger)
{
	uint64_t bits[SLUICE_CHUNK_WORDS];
	uint32_t chunk = UINT32_MAX;

	if (sluice_ledger_pop(ledger, 1, SLUICE_HOME_ANY, &chunk))
		sluice_ledger_take(ledger, chunk, bits);
	return chunk;
}

static const struct sluice_ledger_span more = {.base = memory, .len_bytes = 700ull << 12};

/* What is queued stays, in order, and each queue has room for all chunks. */
static void test_a_region_is_added(void)
{
	struct sluice_ledger *ledger = make(PAGES);

	CU_ASSERT_EQUAL_FATAL(sluice_ledger_set_homes(ledger, 3, NULL), 0);
	for (uint32_t i = 0; i < 3; i++)
		sluice_ledger_mark(ledger, 0, (2 - i) * SLUICE_CHUNK_WORDS, 1);
	for (uint32_t region = 2; region < 40; region++) { /* 1 is left out */
		CU_ASSERT_EQUAL_FATAL(sluice_ledger_add_region(ledger, region, &more), 0);
		sluice_ledger_mark_pages(ledger, region, 0, UINT64_MAX);
	}
	CU_ASSERT_EQUAL(ledger->chunk_count, 3 + 38 * 2);
	CU_ASSERT_EQUAL(sluice_ledger_pages_dirty(ledger), 3 + 38 * 700);
	CU_ASSERT_EQUAL(ledger->regions[1].chunks, 0);
	CU_ASSERT_EQUAL(ledger->regions[39].maybe_nonzero[0], UINT64_MAX);
	for (uint32_t i = 0; i < 3; i++)
		CU_ASSERT_EQUAL(pop(ledger), 2 - i);
	for (uint32_t i = 3; i < 3 + 38 * 2; i++) {
		CU_ASSERT_EQUAL_FATAL(pop(ledger), i);
		CU_ASSERT_EQUAL(sluice_ledger_offset_of(ledger, i), (i - 3) % 2 ? 2u << 20 : 0);
	}
	CU_ASSERT_EQUAL(pop(ledger), UINT32_MAX);
	CU_ASSERT_EQUAL(sluice_ledger_reclaim(ledger, 1, false), ledger->chunk_count);
	CU_ASSERT_TRUE(sluice_ledger_is_drained(ledger));
	sluice_ledger_destroy(ledger);
}

static void test_too_many_chunks(void)
{
	struct sluice_ledger_span huge = {.len_bytes = 1ull << 50};
	struct sluice_ledger *ledger = make(PAGES);

	CU_ASSERT_EQUAL(sluice_ledger_add_region(ledger, 1, &huge), -ENOSPC);
	CU_ASSERT_EQUAL(sluice_ledger_add_region(ledger, 1, &more), 0);
	sluice_ledger_destroy(ledger);
}

/* Closed: nothing of it is queued again, by whomever; free when its owners have released. */
static void test_a_region_is_removed(void)
{
	struct sluice_ledger *ledger = make(PAGES);
	uint32_t owned, other;

	CU_ASSERT_EQUAL_FATAL(sluice_ledger_add_region(ledger, 1, &more), 0);
	sluice_ledger_mark_pages(ledger, 1, 0, UINT64_MAX);
	owned = pop(ledger);
	sluice_ledger_mark_pages(ledger, 1, 0, UINT64_MAX);
	sluice_ledger_mark(ledger, 0, 0, 7);
	sluice_ledger_close_region(ledger, 1);
	CU_ASSERT_EQUAL(sluice_ledger_pages_dirty(ledger), 3);
	CU_ASSERT_FALSE(sluice_ledger_region_is_free(ledger, 1));
	CU_ASSERT_EQUAL(sluice_ledger_mark(ledger, 1, 0, 1), 0);
	sluice_ledger_put_back(ledger, owned, 0, 9);
	CU_ASSERT_EQUAL(sluice_ledger_pages_dirty(ledger), 3);
	other = pop(ledger);
	CU_ASSERT_EQUAL(other, 0);
	CU_ASSERT_EQUAL(pop(ledger), UINT32_MAX);
	sluice_ledger_release(ledger, owned, 1);
	CU_ASSERT_TRUE(sluice_ledger_region_is_free(ledger, 1));
	CU_ASSERT_FALSE(sluice_ledger_is_drained(ledger));
	sluice_ledger_drop_region(ledger, 1);
	sluice_ledger_release(ledger, other, 1);
	CU_ASSERT_TRUE(sluice_ledger_is_drained(ledger));
	CU_ASSERT_EQUAL(pop(ledger), UINT32_MAX);
	sluice_ledger_destroy(ledger);
}

/* Lanes pop and release all the time; between two steps, regions come and go. */
static struct growth {
	struct sluice_ledger *ledger;
	pthread_rwlock_t stepped; /* stands in for sluice_lane_set_hold() */
	bool stop;
} growth;

static void *growth_lane(void *arg)
{
	uint32_t lane = (uint32_t)(uintptr_t)arg, chunk = 0;
	uint64_t bits[SLUICE_CHUNK_WORDS];
	bool owns = false;

	while (!__atomic_load_n(&growth.stop, __ATOMIC_RELAXED)) {
		pthread_rwlock_rdlock(&growth.stepped);
		if (owns)
			sluice_ledger_release(growth.ledger, chunk, lane);
		owns = sluice_ledger_pop(growth.ledger, lane, SLUICE_HOME_ANY, &chunk);
		if (owns)
			sluice_ledger_take(growth.ledger, chunk, bits);
		pthread_rwlock_unlock(&growth.stepped);
	}
	if (owns)
		sluice_ledger_release(growth.ledger, chunk, lane);
	return NULL;
}

static void await_free(uint32_t region)
{
	for (unsigned int i = 0; i < 100000; i++) {
		if (sluice_ledger_region_is_free(growth.ledger, region))
			return;
		usleep(50);
	}
	CU_FAIL_FATAL("its owners never release");
}

static void test_regions_come_and_go_between_steps(void)
{
	pthread_t threads[3];

	growth = (struct growth){.ledger = make(PAGES)};
	pthread_rwlock_init(&growth.stepped, NULL);
	for (uintptr_t i = 0; i < SLUICE_ARRAY_LEN(threads); i++)
		pthread_create(&threads[i], NULL, growth_lane, (void *)i);
	for (uint32_t region = 1; region < SLUICE_LEDGER_REGIONS_MAX; region++) {
		pthread_rwlock_wrlock(&growth.stepped);
		CU_ASSERT_EQUAL_FATAL(sluice_ledger_add_region(growth.ledger, region, &more), 0);
		pthread_rwlock_unlock(&growth.stepped);
		for (int i = 0; i < 20; i++) {
			sluice_ledger_mark_pages(growth.ledger, region, 0, UINT64_MAX);
			sluice_ledger_mark_pages(growth.ledger, 0, 0, UINT64_MAX);
		}
		pthread_rwlock_wrlock(&growth.stepped);
		sluice_ledger_close_region(growth.ledger, region);
		pthread_rwlock_unlock(&growth.stepped);
		await_free(region);
		pthread_rwlock_wrlock(&growth.stepped);
		sluice_ledger_drop_region(growth.ledger, region);
		pthread_rwlock_unlock(&growth.stepped);
	}
	__atomic_store_n(&growth.stop, true, __ATOMIC_RELAXED);
	for (size_t i = 0; i < SLUICE_ARRAY_LEN(threads); i++)
		pthread_join(threads[i], NULL);
	while (pop(growth.ledger) != UINT32_MAX)
		;
	sluice_ledger_reclaim(growth.ledger, 1, false);
	CU_ASSERT_TRUE(sluice_ledger_is_drained(growth.ledger));
	CU_ASSERT_EQUAL(sluice_ledger_pages_dirty(growth.ledger), 0);
	pthread_rwlock_destroy(&growth.stepped);
	sluice_ledger_destroy(growth.ledger);
}

int main(void)
{
	static const struct unit_test tests[] = {
		{"marking counts fresh bits", test_mark_counts_fresh_bits},
		{"marking pages is clipped to the region", test_mark_pages_is_clipped},
		{"holes are hints", test_holes_are_hints},
		{"a chunk has one owner", test_a_chunk_has_one_owner},
		{"coldest first", test_coldest_first},
		{"nobody waits for good", test_nobody_waits_for_good},
		{"a lost lane keeps its chunks until reclaim",
			test_a_lost_lane_keeps_its_chunks_until_reclaim},
		{"a lane gone astray", test_a_lane_gone_astray},
		{"a lane takes from its home first, then steals", test_home_first_then_steal},
		{"other homes come in the given order", test_homes_in_the_given_order},
		{"heat comes before home", test_heat_before_home},
		{"a home that is found late counts", test_a_home_found_late},
		{"one pop carries few chunks home", test_moves_are_bounded},
		{"threads lose no mark and share no chunk", test_threads},
		{"a region is added", test_a_region_is_added},
		{"too many chunks are refused", test_too_many_chunks},
		{"a region is removed", test_a_region_is_removed},
		{"regions come and go between steps", test_regions_come_and_go_between_steps},
		{0},
	};

	return unit_run("ledger", tests);
}
