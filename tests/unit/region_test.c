/* SPDX-License-Identifier: BSD-3-Clause */
/* region_test.c: adding guest memory: what is refused and why; seals; holes; files that shrink. */
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/feeds/bitmap.h"
#include "engine/lane/ledger.h"
#include "engine/memory/populate.h"
#include "engine/memory/region.h"
#include "tests/unit/unit.h"

#define MIB (1u << 20)

static int make_memfd(unsigned int flags, off_t bytes)
{
	int fd = memfd_create("region-test", MFD_CLOEXEC | flags);

	CU_ASSERT_TRUE_FATAL(fd >= 0 && ftruncate(fd, bytes) == 0);
	return fd;
}

static int add(struct sluice_memory *memory, const char *id, int fd, uint64_t offset, uint64_t len,
	uint64_t gpa, struct sluice_error *err)
{
	struct sluice_region_opts opts = {
		.id = id, .fd = fd, .fd_offset = offset, .len_bytes = len, .gpa = gpa};
	struct sluice_region *region = NULL;

	return sluice_memory_add(memory, &opts, &region, err);
}

static void test_refusals(void)
{
	struct sluice_memory memory = {.pin = SLUICE_PIN_NONE};
	int fd = make_memfd(MFD_ALLOW_SEALING, 4 * MIB);
	int sealed_off = make_memfd(0, MIB);
	int pipes[2], disk = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	const struct {
		const char *id;
		int fd;
		uint64_t offset, len, gpa;
		int code;
		const char *words;
	} rows[] = {
		{"", fd, 0, MIB, 1ull << 40, -EINVAL, "id"},
		{"x", fd, 0, 0, 1ull << 40, -EINVAL, "4096"},
		{"x", fd, 0, 5000, 1ull << 40, -EINVAL, "4096"},
		{"x", fd, 1, MIB, 1ull << 40, -EINVAL, "4096"},
		{"x", fd, 0, MIB, 1, -EINVAL, "4096"},
		{"x", fd, 0, MIB, UINT64_MAX - 4095, -EINVAL, "wraps"},
		{"x", fd, 4 * MIB, MIB, 1ull << 40, -EINVAL, "grow"},
		{"x", fd, UINT64_MAX - 4095, MIB, 1ull << 40, -EINVAL, "grow"},
		{"ram", fd, 0, MIB, 1ull << 40, -EEXIST, "added before"},
		{"x", fd, 0, MIB, MIB / 2, -EINVAL, "overlaps region \"ram\""},
		{"x", pipes[0], 0, MIB, 1ull << 40, -EINVAL, "memfd"},
		{"x", disk, 0, MIB, 1ull << 40, -EINVAL, "memfd"},
		{"x", sealed_off, 0, MIB, 1ull << 40, -EPERM, "MFD_ALLOW_SEALING"},
	};

	CU_ASSERT_EQUAL_FATAL(pipe(pipes), 0);
	CU_ASSERT_EQUAL(add(&memory, "ram", fd, 0, 2 * MIB, 0, NULL), 0);
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct sluice_error err = {0};
		int row_fd = i == 10 ? pipes[0] : rows[i].fd;

		CU_ASSERT_EQUAL(add(&memory, rows[i].id, row_fd, rows[i].offset, rows[i].len,
					rows[i].gpa, &err),
			rows[i].code);
		UNIT_CONTAINS(err.text, rows[i].words);
		CU_ASSERT_EQUAL(memory.count, 1);
	}
	sluice_memory_clear(&memory);
	close(fd);
	close(sealed_off);
	close(disk);
	close(pipes[0]);
	close(pipes[1]);
}

static void test_seal_is_added_and_position_kept(void)
{
	struct sluice_memory memory = {.pin = SLUICE_PIN_ONFAULT};
	int fd = make_memfd(MFD_ALLOW_SEALING, 4 * MIB);

	lseek(fd, 12345, SEEK_SET);
	CU_ASSERT_EQUAL(add(&memory, "b", fd, 2 * MIB, 2 * MIB, 1ull << 32, NULL), 0);
	CU_ASSERT_EQUAL(add(&memory, "a", fd, 0, 2 * MIB, 0, NULL), 0);
	CU_ASSERT_TRUE(fcntl(fd, F_GET_SEALS) & F_SEAL_SHRINK);
	CU_ASSERT_EQUAL(ftruncate(fd, MIB), -1);
	CU_ASSERT_EQUAL(lseek(fd, 0, SEEK_CUR), 12345);
	/* Sorted by id, so that both hosts agree. */
	CU_ASSERT_STRING_EQUAL(memory.regions[0]->id, "a");
	CU_ASSERT_EQUAL(memory.pages_pinned, 1024);
	sluice_memory_clear(&memory);
	close(fd);
}

struct ranges {
	uint64_t bytes, first;
	unsigned int count;
};

static void collect(void *ctx, uint64_t offset, uint64_t len_bytes)
{
	struct ranges *ranges = ctx;

	if (ranges->count++ == 0)
		ranges->first = offset;
	ranges->bytes += len_bytes;
}

static void test_holes(void)
{
	struct sluice_memory memory = {.pin = SLUICE_PIN_ONFAULT};
	int fd = make_memfd(MFD_ALLOW_SEALING, 64 * MIB);
	struct ranges ranges = {0};

	CU_ASSERT_EQUAL(pwrite(fd, "x", 1, 40 * MIB + 5000), 1);
	CU_ASSERT_EQUAL(pwrite(fd, "x", 1, 3), 1); /* before the region */
	CU_ASSERT_EQUAL_FATAL(add(&memory, "r", fd, 32 * MIB, 16 * MIB, 0, NULL), 0);
	sluice_region_for_each_data(memory.regions[0], 0, 16 * MIB, collect, &ranges);
	CU_ASSERT_EQUAL(ranges.count, 1);
	CU_ASSERT_EQUAL(ranges.first, 8 * MIB + 4096);
	CU_ASSERT_EQUAL(ranges.bytes, 4096);
	sluice_region_for_each_data(memory.regions[0], 0, 8 * MIB + 4096, collect, &ranges);
	CU_ASSERT_EQUAL(ranges.count, 1); /* not in this part of it */
	ranges.count = 0;
	sluice_region_for_each_data(memory.regions[0], 8 * MIB, 5 * MIB, collect, &ranges);
	CU_ASSERT_EQUAL(ranges.count, 1);
	CU_ASSERT_EQUAL(ranges.first, 8 * MIB + 4096);
	sluice_memory_clear(&memory);
	close(fd);
}

static void test_no_holes(void)
{
	static const uint8_t written[MIB] = {1};
	struct sluice_memory memory = {.pin = SLUICE_PIN_ONFAULT};
	int fd = make_memfd(MFD_ALLOW_SEALING, 64 * MIB);
	struct ranges ranges = {0};

	CU_ASSERT_EQUAL_FATAL(add(&memory, "r", fd, 32 * MIB, 16 * MIB, 0, NULL), 0);
	CU_ASSERT_EQUAL(fallocate(fd, 0, 0, 64 * MIB), 0);
	CU_ASSERT_EQUAL(pwrite(fd, "x", 1, 40 * MIB), 1);
	sluice_region_for_each_data(memory.regions[0], 0, 16 * MIB, collect, &ranges);
	CU_ASSERT_EQUAL(ranges.bytes, 4096); /* allocated is not written */
	for (uint64_t at = 0; at < 64 * MIB; at += MIB)
		CU_ASSERT_EQUAL(pwrite(fd, written, MIB, (off_t)at), MIB);
	ranges = (struct ranges){0};
	sluice_region_for_each_data(memory.regions[0], 8 * MIB, 5 * MIB, collect, &ranges);
	CU_ASSERT_EQUAL(ranges.count, 1);
	CU_ASSERT_EQUAL(ranges.first, 8 * MIB);
	CU_ASSERT_EQUAL(ranges.bytes, 5 * MIB);
	sluice_memory_clear(&memory);
	close(fd);
}

static void test_a_file_that_shrinks(void)
{
	struct sluice_memory memory = {.pin = SLUICE_PIN_NONE};
	char path[] = "/dev/shm/sluice-region-XXXXXX";
	int fd = mkstemp(path);
	volatile uint8_t *base;

	CU_ASSERT_TRUE_FATAL(fd >= 0 && ftruncate(fd, 4 * MIB) == 0);
	unlink(path);
	CU_ASSERT_EQUAL_FATAL(add(&memory, "r", fd, 0, 4 * MIB, 0, NULL), 0);
	CU_ASSERT_TRUE(memory.regions[0]->guarded);
	base = memory.regions[0]->base;
	base[MIB] = 7;
	base[3 * MIB] = 9;
	CU_ASSERT_FALSE(sluice_memory_is_lost(&memory));
	CU_ASSERT_EQUAL(ftruncate(fd, 2 * MIB), 0);
	CU_ASSERT_EQUAL(base[3 * MIB], 0); /* no SIGBUS */
	CU_ASSERT_EQUAL(base[MIB], 7);
	CU_ASSERT_TRUE(sluice_memory_is_lost(&memory));
	sluice_memory_clear(&memory);
	close(fd);
}

static void test_bitmap_feed(void)
{
	struct sluice_ledger_span span = {.base = NULL, .len_bytes = 70 * 4096};
	struct sluice_bitmap_feed *feed = NULL;
	struct sluice_ledger *ledger = NULL;
	int fd = make_memfd(MFD_ALLOW_SEALING, 4096), small = make_memfd(MFD_ALLOW_SEALING, 8);
	int unsealable = make_memfd(0, 4096);
	struct sluice_error err = {0};
	uint64_t *words;

	CU_ASSERT_EQUAL(sluice_bitmap_feed_create(small, 70, "r", &feed, &err), -EINVAL);
	UNIT_CONTAINS(err.text, "16"); /* the bytes it takes */
	CU_ASSERT_EQUAL(sluice_bitmap_feed_create(unsealable, 70, "r", &feed, NULL), -EPERM);
	CU_ASSERT_EQUAL_FATAL(sluice_bitmap_feed_create(fd, 70, "r", &feed, NULL), 0);
	CU_ASSERT_EQUAL_FATAL(sluice_ledger_create(&span, 1, &ledger), 0);
	words = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	words[0] = 5;
	words[1] = UINT64_MAX; /* bits past the region's end do not exist */
	CU_ASSERT_EQUAL(sluice_bitmap_feed_harvest(feed, ledger, 0), 2 + 6);
	CU_ASSERT_EQUAL(words[0] | words[1], 0);
	CU_ASSERT_EQUAL(sluice_ledger_pages_dirty(ledger), 8);
	CU_ASSERT_EQUAL(sluice_bitmap_feed_harvest(feed, ledger, 0), 0);
	munmap(words, 4096);
	sluice_bitmap_feed_destroy(feed);
	sluice_ledger_destroy(ledger);
	close(fd);
	close(small);
	close(unsealable);
}

static void test_the_same_memory_again(void)
{
	struct sluice_memory memory = {.pin = SLUICE_PIN_FULL};
	int fd = make_memfd(MFD_ALLOW_SEALING, 4 * MIB), other = make_memfd(0, 4 * MIB);
	struct sluice_region *first, *again = NULL;
	struct sluice_region_opts opts = {.id = "r", .fd = fd, .len_bytes = 2 * MIB};
	struct stat st;
	uint64_t pinned;

	CU_ASSERT_EQUAL_FATAL(sluice_memory_add(&memory, &opts, &first, NULL), 0);
	CU_ASSERT_EQUAL(fstat(fd, &st), 0);
	CU_ASSERT_EQUAL(st.st_blocks * 512, 2 * MIB); /* all of the region, and no more */
	pinned = memory.pages_pinned;
	opts.fd = dup(fd);
	CU_ASSERT_EQUAL(sluice_memory_add(&memory, &opts, &again, NULL), 1);
	CU_ASSERT_PTR_EQUAL(again, first);
	CU_ASSERT_EQUAL(memory.pages_pinned, pinned);
	close(opts.fd);
	for (int i = 0; i < 4; i++) {
		struct sluice_region_opts changed = {.id = "r", .fd = fd, .len_bytes = 2 * MIB};

		changed.fd = i == 0 ? other : fd;
		changed.fd_offset = i == 1 ? MIB : 0;
		changed.len_bytes = i == 2 ? MIB : 2 * MIB;
		changed.gpa = i == 3 ? MIB : 0;
		CU_ASSERT_EQUAL(sluice_memory_add(&memory, &changed, &again, NULL), -EEXIST);
	}
	sluice_memory_clear(&memory);
	close(fd);
	close(other);
}

/* Several threads: each page is there, none past the end. */
static void test_populate(void)
{
	uint64_t bytes = (640ull << 20) + 3 * 4096, page;
	int fd = make_memfd(0, (off_t)bytes + MIB);
	uint8_t *base = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	unsigned char resident = 0;
	struct stat st;

	CU_ASSERT_TRUE_FATAL(base != MAP_FAILED);
	base[5] = 7;
	CU_ASSERT_EQUAL(sluice_populate(base, bytes), 0);
	CU_ASSERT_EQUAL(fstat(fd, &st), 0);
	CU_ASSERT_EQUAL((uint64_t)st.st_blocks * 512, bytes);
	CU_ASSERT_EQUAL(base[5], 7); /* what was there stays */
	for (page = 0; page < bytes && mincore(base + page, 1, &resident) == 0 && (resident & 1);)
		page += 4096;
	CU_ASSERT_EQUAL(page, bytes);
	munmap(base, bytes);
	CU_ASSERT_EQUAL(sluice_populate(base, bytes), -ENOMEM); /* nothing is mapped there */
	close(fd);
}

int main(void)
{
	static const struct unit_test tests[] = {
		{"refusals say what to change", test_refusals},
		{"seals, file position, order, pins", test_seal_is_added_and_position_kept},
		{"holes are not data", test_holes},
		{"a file without holes is one range", test_no_holes},
		{"a file that shrinks", test_a_file_that_shrinks},
		{"the bitmap feed", test_bitmap_feed},
		{"the same memory again", test_the_same_memory_again},
		{"populating with threads", test_populate},
		{0},
	};

	return unit_run("region", tests);
}
