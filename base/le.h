/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * le.h: little-endian numbers of wire formats. The wrapper types keep a wire number from being
 * used as a host number, and have no alignment, so that any byte buffer may be read as a message.
 * Pure.
 */
#ifndef SLUICE_BASE_LE_H
#define SLUICE_BASE_LE_H

#include <endian.h>
#include <stdint.h>

typedef struct {
	uint16_t raw;
} __attribute__((packed)) sluice_le16;
typedef struct {
	uint32_t raw;
} __attribute__((packed)) sluice_le32;
typedef struct {
	uint64_t raw;
} __attribute__((packed)) sluice_le64;

static inline sluice_le16 sluice_put16(uint16_t value)
{
	return (sluice_le16){htole16(value)};
}

static inline sluice_le32 sluice_put32(uint32_t value)
{
	return (sluice_le32){htole32(value)};
}

static inline sluice_le64 sluice_put64(uint64_t value)
{
	return (sluice_le64){htole64(value)};
}

static inline uint16_t sluice_get16(sluice_le16 value)
{
	return le16toh(value.raw);
}

static inline uint32_t sluice_get32(sluice_le32 value)
{
	return le32toh(value.raw);
}

static inline uint64_t sluice_get64(sluice_le64 value)
{
	return le64toh(value.raw);
}

#endif
