/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * bitmap.h: the feed `bitmap`: the VMM shares one bit per page of a region in a sealed memfd and
 * publishes a bit only after the page is protected again (include/sluice/sluice.h).
 *
 * Threads: the control thread; the VMM writes the bitmap at any time.
 */
#ifndef SLUICE_ENGINE_FEEDS_BITMAP_H
#define SLUICE_ENGINE_FEEDS_BITMAP_H

#include <stdint.h>

#include <sluice/error.h>

struct sluice_bitmap_feed;
struct sluice_ledger;

/* @fd is borrowed. -EINVAL or -EPERM with the reason when its size or seals do not fit. */
int sluice_bitmap_feed_create(int fd, uint64_t pages, const char *region_id,
	struct sluice_bitmap_feed **ret_feed, struct sluice_error *err);
/* The same over memory of the caller's (tests). Borrowed. */
int sluice_bitmap_feed_create_over(
	uint64_t *words, uint64_t pages, struct sluice_bitmap_feed **ret_feed);
void sluice_bitmap_feed_destroy(struct sluice_bitmap_feed *feed); /* NULL is allowed */

/* Move all set bits into the ledger's region. Returns how many pages the VMM reported. */
uint64_t sluice_bitmap_feed_harvest(
	struct sluice_bitmap_feed *feed, struct sluice_ledger *ledger, uint32_t region);

#endif
