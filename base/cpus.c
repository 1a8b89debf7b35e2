/* SPDX-License-Identifier: BSD-3-Clause */
/* cpus.c: see cpus.h. */
#include "base/cpus.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/bits.h"

#define WORD_BITS (8 * sizeof(unsigned long))

void sluice_cpus_add(struct sluice_cpus *cpus, uint32_t cpu)
{
	SLUICE_ASSERT(cpu < SLUICE_CPUS_MAX);
	cpus->words[cpu / WORD_BITS] |= 1ul << (cpu % WORD_BITS);
}

void sluice_cpus_add_range(struct sluice_cpus *cpus, uint32_t first, uint32_t last)
{
	for (uint32_t cpu = first; cpu <= last; cpu++)
		sluice_cpus_add(cpus, cpu);
}

void sluice_cpus_add_all(struct sluice_cpus *cpus, const struct sluice_cpus *others)
{
	for (size_t i = 0; i < SLUICE_ARRAY_LEN(cpus->words); i++)
		cpus->words[i] |= others->words[i];
}

void sluice_cpus_remove_all(struct sluice_cpus *cpus, const struct sluice_cpus *others)
{
	for (size_t i = 0; i < SLUICE_ARRAY_LEN(cpus->words); i++)
		cpus->words[i] &= ~others->words[i];
}

void sluice_cpus_keep_only(struct sluice_cpus *cpus, const struct sluice_cpus *others)
{
	for (size_t i = 0; i < SLUICE_ARRAY_LEN(cpus->words); i++)
		cpus->words[i] &= others->words[i];
}

bool sluice_cpus_has(const struct sluice_cpus *cpus, uint32_t cpu)
{
	return cpu < SLUICE_CPUS_MAX && (cpus->words[cpu / WORD_BITS] >> (cpu % WORD_BITS) & 1);
}

bool sluice_cpus_is_empty(const struct sluice_cpus *cpus)
{
	return sluice_cpus_next(cpus, 0) == SLUICE_CPUS_MAX;
}

bool sluice_cpus_is_equal(const struct sluice_cpus *a, const struct sluice_cpus *b)
{
	return memcmp(a, b, sizeof(*a)) == 0;
}

bool sluice_cpus_meet(const struct sluice_cpus *a, const struct sluice_cpus *b)
{
	struct sluice_cpus both = *a;

	sluice_cpus_keep_only(&both, b);
	return !sluice_cpus_is_empty(&both);
}

uint32_t sluice_cpus_count(const struct sluice_cpus *cpus)
{
	uint32_t count = 0;

	for (size_t i = 0; i < SLUICE_ARRAY_LEN(cpus->words); i++)
		count += (uint32_t)__builtin_popcountl(cpus->words[i]);
	return count;
}

uint32_t sluice_cpus_next(const struct sluice_cpus *cpus, uint32_t from)
{
	for (uint32_t cpu = from; cpu < SLUICE_CPUS_MAX; cpu++) {
		unsigned long rest = cpus->words[cpu / WORD_BITS] >> (cpu % WORD_BITS);

		if (rest != 0)
			return cpu + (uint32_t)__builtin_ctzl(rest);
		cpu |= WORD_BITS - 1;
	}
	return SLUICE_CPUS_MAX;
}

static int parse_number(const char **text, uint32_t *ret_cpu)
{
	char *end;
	unsigned long cpu;

	if (**text < '0' || **text > '9')
		return -EINVAL;
	cpu = strtoul(*text, &end, 10);
	if (cpu >= SLUICE_CPUS_MAX)
		return -EINVAL;
	*text = end;
	*ret_cpu = (uint32_t)cpu;
	return 0;
}

int sluice_cpus_parse(const char *text, struct sluice_cpus *ret_cpus)
{
	struct sluice_cpus cpus = {0};
	bool more = *text != '\0';

	while (more) {
		uint32_t first, last;

		if (parse_number(&text, &first) < 0)
			return -EINVAL;
		last = first;
		if (*text == '-') {
			text++;
			if (parse_number(&text, &last) < 0 || last < first)
				return -EINVAL;
		}
		sluice_cpus_add_range(&cpus, first, last);
		more = *text == ',';
		if (!more && *text != '\0')
			return -EINVAL;
		text++;
	}
	*ret_cpus = cpus;
	return 0;
}

const char *sluice_cpus_format(const struct sluice_cpus *cpus, char *text, size_t text_bytes)
{
	uint32_t first = sluice_cpus_next(cpus, 0);
	size_t at = 0;

	snprintf(text, text_bytes, "none");
	while (first < SLUICE_CPUS_MAX) {
		const char *comma = at > 0 ? "," : "";
		uint32_t last = first;
		char range[32];
		size_t bytes;

		while (sluice_cpus_has(cpus, last + 1))
			last++;
		if (first == last)
			bytes = (size_t)snprintf(range, sizeof(range), "%s%u", comma, first);
		else
			bytes = (size_t)snprintf(
				range, sizeof(range), "%s%u-%u", comma, first, last);
		if (at + bytes + sizeof(",...") > text_bytes) {
			snprintf(text + at, text_bytes - at, ",...");
			break;
		}
		memcpy(text + at, range, bytes + 1);
		at += bytes;
		first = sluice_cpus_next(cpus, last + 1);
	}
	return text;
}
