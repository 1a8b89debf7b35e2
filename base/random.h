/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * random.h: a small reproducible generator for simulation, fault injection and tests.
 * Never for secrets: tickets and session ids come from getrandom(2).
 *
 * The generator is xoshiro256** with its state filled by splitmix64, as its authors
 * advise (D. Blackman and S. Vigna, "Scrambled linear pseudorandom number generators",
 * 2018). Integers only, so that one seed gives one run on every machine and compiler.
 *
 * Threading: a struct sluice_random belongs to one thread.
 */
#ifndef SLUICE_BASE_RANDOM_H
#define SLUICE_BASE_RANDOM_H

#include <stdbool.h>
#include <stdint.h>

#define SLUICE_RANDOM_PPM 1000000u /* a chance of one, in parts per million */

struct sluice_random {
	uint64_t state[4];
};

/* One step of splitmix64: also a good 64-bit mixer for hashing and for deriving seeds. */
static inline uint64_t sluice_random_mix(uint64_t value)
{
	value += 0x9e3779b97f4a7c15ull;
	value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9ull;
	value = (value ^ (value >> 27)) * 0x94d049bb133111ebull;
	return value ^ (value >> 31);
}

static inline void sluice_random_seed(struct sluice_random *random, uint64_t seed)
{
	for (unsigned int i = 0; i < 4; i++)
		random->state[i] = sluice_random_mix(seed + i * 0x9e3779b97f4a7c15ull);
}

static inline uint64_t sluice_random_rotl(uint64_t value, unsigned int bits)
{
	return (value << bits) | (value >> (64 - bits));
}

static inline uint64_t sluice_random_u64(struct sluice_random *random)
{
	uint64_t *s = random->state;
	uint64_t result = sluice_random_rotl(s[1] * 5, 7) * 9;
	uint64_t t = s[1] << 17;

	s[2] ^= s[0];
	s[3] ^= s[1];
	s[1] ^= s[2];
	s[0] ^= s[3];
	s[2] ^= t;
	s[3] = sluice_random_rotl(s[3], 45);
	return result;
}

/* 0 .. bound - 1; 0 for a bound of 0. The bias (below bound / 2^64) does not matter here. */
static inline uint64_t sluice_random_below(struct sluice_random *random, uint64_t bound)
{
	return (uint64_t)(((unsigned __int128)sluice_random_u64(random) * bound) >> 64);
}

/* min .. max, both included; max is not below min. */
static inline uint64_t sluice_random_between(
	struct sluice_random *random, uint64_t min, uint64_t max)
{
	uint64_t span = max - min + 1;

	return span == 0 ? sluice_random_u64(random) : min + sluice_random_below(random, span);
}

/* True with a probability of @ppm in a million. Always draws, so that runs stay comparable. */
static inline bool sluice_random_chance(struct sluice_random *random, uint32_t ppm)
{
	return sluice_random_below(random, SLUICE_RANDOM_PPM) < ppm;
}

#endif
