/* SPDX-License-Identifier: BSD-3-Clause */
/* rail_pairs.c: see rail_pairs.h. */
#include "engine/session/rail_pairs.h"

#include <arpa/inet.h>
#include <string.h>

#include "base/assert.h"
#include "base/inet.h"

static uint32_t parse_host(const char *text, uint8_t address[16])
{
	char host[SLUICE_ADDRESS_MAX];

	sluice_inet_host(text, host, sizeof(host));
	host[strcspn(host, "%")] = '\0'; /* a link-local address names its interface */
	if (inet_pton(AF_INET, host, address) == 1)
		return 4;
	return inet_pton(AF_INET6, host, address) == 1 ? 16 : 0;
}

bool sluice_subnet_has(const struct sluice_subnet *subnet, const char *address)
{
	uint32_t whole = subnet->prefix_bits / 8, rest = subnet->prefix_bits % 8;
	uint8_t other[16];

	if (subnet->address_bytes == 0 || parse_host(address, other) != subnet->address_bytes)
		return false;
	SLUICE_ASSERT(subnet->prefix_bits <= subnet->address_bytes * 8);
	if (memcmp(subnet->address, other, whole) != 0)
		return false;
	return rest == 0 || (subnet->address[whole] ^ other[whole]) >> (8 - rest) == 0;
}

struct matching {
	const struct sluice_subnet *ours;
	const char *const *theirs;
	uint32_t our_count, their_count;
	uint32_t our_uses[SLUICE_RAILS_MAX], their_uses[SLUICE_RAILS_MAX];
	struct sluice_rail_match *matches;
	uint32_t count;
};

static void add(struct matching *m, uint32_t ours, uint32_t theirs, const char *why)
{
	uint32_t at = m->count++;

	SLUICE_ASSERT(m->count <= SLUICE_RAILS_MAX);
	for (; at > 0 &&
		(m->matches[at - 1].ours > ours ||
			(m->matches[at - 1].ours == ours && m->matches[at - 1].theirs > theirs));
		at--)
		m->matches[at] = m->matches[at - 1];
	m->matches[at] = (struct sluice_rail_match){ours, theirs, why};
	m->our_uses[ours]++;
	m->their_uses[theirs]++;
}

/* Each of ours with the least used of theirs in its subnet; then theirs that are still without. */
static void match_subnets(struct matching *m)
{
	for (uint32_t i = 0; i < m->our_count; i++) {
		uint32_t best = m->their_count;

		for (uint32_t j = 0; j < m->their_count; j++)
			if (sluice_subnet_has(&m->ours[i], m->theirs[j]) &&
				(best == m->their_count || m->their_uses[j] < m->their_uses[best]))
				best = j;
		if (best < m->their_count)
			add(m, i, best, "same subnet");
	}
	for (uint32_t j = 0; j < m->their_count && m->count < SLUICE_RAILS_MAX; j++) {
		uint32_t best = m->our_count;

		for (uint32_t i = 0; i < m->our_count && m->their_uses[j] == 0; i++)
			if (sluice_subnet_has(&m->ours[i], m->theirs[j]) &&
				(best == m->our_count || m->our_uses[i] < m->our_uses[best]))
				best = i;
		if (best < m->our_count)
			add(m, best, j, "same subnet");
	}
}

static void match_left(struct matching *m)
{
	uint32_t j = 0;

	for (uint32_t i = 0; i < m->our_count && m->count < SLUICE_RAILS_MAX; i++) {
		if (m->our_uses[i] > 0)
			continue;
		while (j < m->their_count && m->their_uses[j] > 0)
			j++;
		if (j < m->their_count)
			add(m, i, j, "by position");
	}
}

uint32_t sluice_rails_match(const struct sluice_subnet *ours, uint32_t our_count,
	const char *const *theirs, uint32_t their_count, bool by_order,
	struct sluice_rail_match ret_matches[SLUICE_RAILS_MAX])
{
	uint32_t most = our_count > their_count ? our_count : their_count;
	struct matching m = {.ours = ours,
		.theirs = theirs,
		.our_count = our_count,
		.their_count = their_count,
		.matches = ret_matches};

	SLUICE_ASSERT(our_count >= 1 && our_count <= SLUICE_RAILS_MAX);
	SLUICE_ASSERT(their_count >= 1 && their_count <= SLUICE_RAILS_MAX);
	if (!by_order)
		match_subnets(&m);
	if (m.count > 0)
		match_left(&m);
	else
		for (uint32_t i = 0; i < most; i++)
			add(&m, i % our_count, i % their_count,
				by_order ? "as ordered" : "by position");
	return m.count;
}
