/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * announce.h: the message that follows a device segment on its lane: which slot now holds which
 * piece of which device. Little-endian, fixed size; docs/lane-protocol.md.
 */
#ifndef SLUICE_ENGINE_DEVICE_ANNOUNCE_H
#define SLUICE_ENGINE_DEVICE_ANNOUNCE_H

#include <endian.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

/* All slots of a session together. Both ends refuse more: a peer must not make the other one
   reserve what it likes. */
#define SLUICE_STAGING_BYTES_MAX (1ull << 30)

#define SLUICE_ANNOUNCE_BYTES 20
#define SLUICE_ANNOUNCE_MAGIC 0x53445631u /* "SDV1" */

struct sluice_announce {
	uint16_t device; /* index in the order of the session's `device` messages */
	bool last; /* the device's final segment; may be empty */
	uint32_t seq; /* counts the device's segments from 0 */
	uint32_t slot;
	uint32_t len_bytes;
};

static inline void sluice_announce_write(
	const struct sluice_announce *a, uint8_t out[SLUICE_ANNOUNCE_BYTES])
{
	uint32_t words[5] = {htole32(SLUICE_ANNOUNCE_MAGIC),
		htole32((uint32_t)a->device | (a->last ? 1u << 16 : 0)), htole32(a->seq),
		htole32(a->slot), htole32(a->len_bytes)};

	memcpy(out, words, sizeof(words));
}

/* False when it is not an announcement. The fields are not checked against anything yet. */
static inline bool sluice_announce_read(
	const void *data, uint32_t len_bytes, struct sluice_announce *ret_announce)
{
	uint32_t words[5];

	if (len_bytes != SLUICE_ANNOUNCE_BYTES)
		return false;
	memcpy(words, data, sizeof(words));
	if (le32toh(words[0]) != SLUICE_ANNOUNCE_MAGIC || (le32toh(words[1]) >> 17) != 0)
		return false;
	*ret_announce = (struct sluice_announce){
		.device = (uint16_t)(le32toh(words[1]) & 0xffff),
		.last = (le32toh(words[1]) >> 16) & 1,
		.seq = le32toh(words[2]),
		.slot = le32toh(words[3]),
		.len_bytes = le32toh(words[4]),
	};
	return true;
}

#endif
