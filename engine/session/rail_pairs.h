/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * rail_pairs.h: which rail of ours goes with which of the peer's. Pure, any thread.
 *
 * The rules, in this order:
 *
 *   1. Rails in one subnet belong together. Where several do, they are dealt out evenly, in the
 *      order of both lists: 127.0.0.1 and 127.0.0.2 at each end give two pairs, not four.
 *   2. What is then left at both ends goes together by position, one to one: it may be routed.
 *      What is left at one end only stays without lanes.
 *   3. Where no subnet tells anything, all go together by position, and the shorter list is
 *      repeated: every rail is used.
 *
 * There are never more than SLUICE_RAILS_MAX pairs: what comes after that stays without lanes.
 *
 * By order (the setting rail-pairs): as if rule 3 were the only one. So whoever knows better orders
 * the two lists.
 */
#ifndef SLUICE_ENGINE_SESSION_RAIL_PAIRS_H
#define SLUICE_ENGINE_SESSION_RAIL_PAIRS_H

#include <stdbool.h>
#include <stdint.h>

#include <sluice/transport.h>

/* A range of IP addresses. */
struct sluice_subnet {
	uint32_t address_bytes; /* 4, 16; 0: not known */
	uint8_t address[16];
	uint32_t prefix_bits;
};

struct sluice_rail_match {
	uint32_t ours, theirs;
	const char *why; /* "same subnet", "by position", "as ordered" */
};

/* Whether "HOST", "HOST:PORT" or "[V6]:PORT" is in it; false where either says nothing. */
bool sluice_subnet_has(const struct sluice_subnet *subnet, const char *address);

/* Every list has 1 to SLUICE_RAILS_MAX rails. Returns the count of matches, at least 1, sorted by
   our rails and then by theirs; SLUICE_RAILS_MAX bounds it. */
uint32_t sluice_rails_match(const struct sluice_subnet *ours, uint32_t our_count,
	const char *const *theirs, uint32_t their_count, bool by_order,
	struct sluice_rail_match ret_matches[SLUICE_RAILS_MAX]);

#endif
