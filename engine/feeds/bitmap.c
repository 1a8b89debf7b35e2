/* SPDX-License-Identifier: BSD-3-Clause */
/* bitmap.c: harvesting a shared dirty bitmap. See bitmap.h. */
#include "engine/feeds/bitmap.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "base/bits.h"
#include "engine/lane/ledger.h"

struct sluice_bitmap_feed {
	uint64_t *words;
	uint64_t word_count;
	uint64_t last_word_mask; /* pages that exist in the last word */
	size_t map_bytes; /* 0: borrowed */
};

static const char where[] = "feed-add";

int sluice_bitmap_feed_create_over(
	uint64_t *words, uint64_t pages, struct sluice_bitmap_feed **ret_feed)
{
	struct sluice_bitmap_feed *feed = calloc(1, sizeof(*feed));

	if (feed == NULL)
		return -ENOMEM;
	feed->words = words;
	feed->word_count = sluice_div_up(pages, SLUICE_WORD_PAGES);
	feed->last_word_mask = pages % SLUICE_WORD_PAGES == 0
				       ? UINT64_MAX
				       : (1ull << (pages % SLUICE_WORD_PAGES)) - 1;
	*ret_feed = feed;
	return 0;
}

static int check(int fd, uint64_t bytes, const char *region_id, struct sluice_error *err)
{
	struct stat st;
	int seals;

	if (fstat(fd, &st) < 0)
		return sluice_fail(err, -errno, where,
			"region \"%s\": the bitmap's descriptor "
			"cannot be examined: %s",
			region_id, strerror(errno));
	if (st.st_size < 0 || (uint64_t)st.st_size < bytes)
		return sluice_fail(err, -EINVAL, where,
			"region \"%s\": the bitmap has %lld bytes, "
			"and one bit per 4 KiB page in 64-bit words takes %llu",
			region_id, (long long)st.st_size, (unsigned long long)bytes);
	seals = fcntl(fd, F_GET_SEALS);
	if (seals < 0 || (!(seals & F_SEAL_SHRINK) && fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK) < 0))
		return sluice_fail(err, -EPERM, where,
			"region \"%s\": the bitmap must be a memfd "
			"that carries F_SEAL_SHRINK or accepts it",
			region_id);
	return 0;
}

int sluice_bitmap_feed_create(int fd, uint64_t pages, const char *region_id,
	struct sluice_bitmap_feed **ret_feed, struct sluice_error *err)
{
	uint64_t bytes = sluice_div_up(pages, SLUICE_WORD_PAGES) * sizeof(uint64_t);
	void *words;
	int r;

	r = check(fd, bytes, region_id, err);
	if (r < 0)
		return r;
	words = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (words == MAP_FAILED)
		return sluice_fail(err, -errno, where,
			"region \"%s\": the bitmap cannot be mapped "
			"for reading and writing: %s",
			region_id, strerror(errno));
	r = sluice_bitmap_feed_create_over(words, pages, ret_feed);
	if (r < 0) {
		munmap(words, bytes);
		return sluice_fail(err, r, where, "out of memory");
	}
	(*ret_feed)->map_bytes = bytes;
	return 0;
}

void sluice_bitmap_feed_destroy(struct sluice_bitmap_feed *feed)
{
	if (feed == NULL)
		return;
	if (feed->map_bytes > 0)
		munmap(feed->words, feed->map_bytes);
	free(feed);
}

uint64_t sluice_bitmap_feed_harvest(
	struct sluice_bitmap_feed *feed, struct sluice_ledger *ledger, uint32_t region)
{
	uint64_t pages = 0;

	for (uint64_t i = 0; i < feed->word_count; i++) {
		uint64_t bits;

		/* Mostly clear: look before the exchange, which would dirty the cache line. */
		if (__atomic_load_n(&feed->words[i], __ATOMIC_RELAXED) == 0)
			continue;
		bits = __atomic_exchange_n(&feed->words[i], 0, __ATOMIC_ACQUIRE);
		if (i + 1 == feed->word_count)
			bits &= feed->last_word_mask;
		pages += (uint64_t)__builtin_popcountll(bits);
		sluice_ledger_mark(ledger, region, i, bits);
	}
	return pages;
}
