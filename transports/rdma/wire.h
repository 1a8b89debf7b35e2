/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * wire.h: every byte that the rdma transport exchanges with a peer, guest memory apart, and its
 * limits. README.md describes the protocol. Pure definitions; no I/O, no state.
 */
#ifndef SLUICE_TRANSPORTS_RDMA_WIRE_H
#define SLUICE_TRANSPORTS_RDMA_WIRE_H

#include <stdint.h>

#include <xxhash.h>

#include <sluice/transport.h>

#include "base/le.h"

#define RDMA_WIRE_VERSION 1

/* Limits. Both ends refuse what exceeds them; changing one changes the version. */
#define RDMA_ALIGN_BYTES    8u /* of offsets and lengths of WRITE and ZERO */
#define RDMA_OP_BYTES_MAX   (2u << 20) /* one chunk */
#define RDMA_SEND_BYTES_MAX SLUICE_SEND_BYTES_MAX
#define RDMA_RECEIVES       64u /* messages that each end can take in before it says so */

#define RDMA_HELLO_MAGIC   0x48524c53u /* "SLRH" */
#define RDMA_WELCOME_MAGIC 0x57524c53u /* "SLRW" */
#define RDMA_MESSAGE_MAGIC 0x4d524c53u /* "SLRM" */
#define RDMA_KEY_MAGIC     0x4b524c53u /* "SLRK" */

/* Source -> target, private data of the connection request: at most 56 bytes of it arrive. */
struct rdma_hello {
	sluice_le32 magic;
	sluice_le16 version;
	sluice_le16 receives;
	sluice_le32 lane;
	sluice_le32 epoch;
	uint8_t ticket[SLUICE_TICKET_BYTES];
};
_Static_assert(sizeof(struct rdma_hello) == 48, "fits into 56 bytes");

/* Target -> source, private data of the reply. */
struct rdma_welcome {
	sluice_le32 magic;
	sluice_le16 version;
	sluice_le16 receives;
	sluice_le32 lane;
	sluice_le32 epoch;
	sluice_le64 cell_address; /* of 8 bytes that a FLUSH reads */
	sluice_le32 cell_rkey;
	sluice_le32 reserved;
};
_Static_assert(sizeof(struct rdma_welcome) == 32, "no padding");

enum rdma_message_kind {
	RDMA_MESSAGE_SEND = 1, /* the caller's; body: its bytes */
	RDMA_MESSAGE_ZERO, /* source -> target; body: struct rdma_zero */
	RDMA_MESSAGE_ACK, /* only its header */
};

/* Both ways, in SENDs. Counters run freely, from 0. */
struct rdma_message {
	sluice_le32 magic;
	uint8_t kind;
	uint8_t reserved;
	sluice_le16 body_bytes;
	sluice_le32 given; /* receives posted again since the connection began */
	sluice_le32 done; /* SENDs and ZEROs of the other end that are done */
};
_Static_assert(sizeof(struct rdma_message) == 16, "no padding");

struct rdma_zero {
	sluice_le32 mem_id;
	sluice_le32 len_bytes;
	sluice_le64 offset;
};
_Static_assert(sizeof(struct rdma_zero) == 16, "no padding");

#define RDMA_MESSAGE_BYTES_MAX (sizeof(struct rdma_message) + RDMA_SEND_BYTES_MAX)

/* What mem_export gives: the head, then one key (4 bytes) for each piece. */
struct rdma_key {
	sluice_le64 checksum; /* XXH3-64, seed 0, of all that follows; finds accidents */
	sluice_le32 magic;
	sluice_le16 version;
	sluice_le16 reserved;
	sluice_le32 mem_id;
	sluice_le32 access;
	sluice_le64 len_bytes;
	sluice_le64 address; /* of offset 0, as the NIC knows it; not one of the process */
	sluice_le32 piece_shift; /* pieces of 2^shift bytes; the last may be shorter */
	sluice_le32 piece_count;
};
_Static_assert(sizeof(struct rdma_key) == 48, "no padding");

#define RDMA_PIECES_MAX      1000u
#define RDMA_PIECE_SHIFT_MIN 21u /* a chunk */
#define RDMA_PIECE_SHIFT_MAX 62u
_Static_assert(
	sizeof(struct rdma_key) + RDMA_PIECES_MAX * sizeof(sluice_le32) <= SLUICE_KEY_BYTES_MAX,
	"a key fits");

static inline uint64_t rdma_key_checksum(const struct rdma_key *key, size_t key_bytes)
{
	return XXH3_64bits(
		(const uint8_t *)key + sizeof(key->checksum), key_bytes - sizeof(key->checksum));
}

#endif
