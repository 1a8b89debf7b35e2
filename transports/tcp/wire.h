/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * wire.h: every byte that the tcp transport exchanges with a peer, and its limits.
 * README.md describes the protocol. Pure definitions; no I/O, no state.
 */
#ifndef SLUICE_TRANSPORTS_TCP_WIRE_H
#define SLUICE_TRANSPORTS_TCP_WIRE_H

#include <stdint.h>

#include <xxhash.h>

#include <sluice/transport.h>

#include "base/le.h"

#define TCP_WIRE_VERSION 1

/* Limits. Both ends refuse what exceeds them; changing one changes the version. */
#define TCP_ALIGN_BYTES           8u /* of offsets and lengths of WRITE and ZERO */
#define TCP_OP_BYTES_MAX          (2u << 20) /* one chunk */
#define TCP_FRAME_ENTRIES_MAX     256u /* operations in one data frame */
#define TCP_FRAME_PLACE_BYTES_MAX (4u << 20) /* bytes that one frame writes and zeroes */
#define TCP_SEND_BYTES_MAX        1024u /* one message */

#define TCP_HELLO_MAGIC   0x48554c53u /* "SLUH" */
#define TCP_WELCOME_MAGIC 0x57554c53u /* "SLUW" */
#define TCP_FRAME_MAGIC   0x46554c53u /* "SLUF" */
#define TCP_KEY_MAGIC     0x4b554c53u /* "SLUK" */

/*
 * Every message starts with XXH3-64 (seed 0) of all its bytes behind the checksum, of a frame
 * up to the end of its body. It finds accidents, not attackers.
 */

/* Flags of hello, welcome and key. Either end may ask for payload checksums, then both use them:
   the key says what the target asks for, the hello what the lane does, the welcome repeats it. */
#define TCP_FLAG_CHECKSUM 1u

/* Source -> target, first bytes of a connection. */
struct tcp_hello {
	sluice_le64 checksum;
	sluice_le32 magic;
	sluice_le16 version;
	sluice_le16 flags;
	sluice_le32 lane;
	sluice_le32 epoch;
	uint8_t ticket[SLUICE_TICKET_BYTES];
};

/* Target -> source, when it accepts. A refusal is a closed connection, without a word. */
struct tcp_welcome {
	sluice_le64 checksum;
	sluice_le32 magic;
	sluice_le16 version;
	sluice_le16 flags;
	sluice_le32 lane;
	sluice_le32 epoch;
};

enum tcp_frame_kind {
	TCP_FRAME_DATA = 1, /* body: `count` entries. Then the payload of its WRITEs, in order; if
			       there is some and the lane has checksums, XXH3-64 of it behind */
	TCP_FRAME_SEND, /* body: the message; counts as one operation */
	TCP_FRAME_ACK, /* no body: only `ack_ops` matters */
};

/* Both ways, after hello and welcome. Followed by the body, then by the payload. */
struct tcp_frame_header {
	sluice_le64 checksum; /* of the rest of the header, and the body */
	sluice_le32 magic;
	uint8_t version;
	uint8_t kind;
	sluice_le16 count; /* DATA: entries, at least 1. Otherwise 0 */
	sluice_le32 body_bytes; /* DATA: count entries. SEND: the message. ACK: 0 */
	sluice_le32 payload_bytes; /* DATA: sum of its WRITEs' lengths. Otherwise 0 */
	sluice_le64 first_op; /* DATA, SEND: operations sent before this frame. ACK: 0 */
	sluice_le64 ack_ops; /* operations of the frame's receiver that its sender has placed */
};

struct tcp_frame_entry {
	sluice_le64 offset; /* bytes from the start of the registration */
	sluice_le32 mem_id; /* the registration */
	sluice_le32 len_bytes;
	uint8_t kind; /* SLUICE_OP_WRITE or SLUICE_OP_ZERO */
	uint8_t reserved[7];
};

/* What mem_export gives; travels over the peer link. */
struct tcp_key {
	sluice_le64 checksum;
	sluice_le32 magic;
	sluice_le16 version;
	sluice_le16 flags;
	sluice_le32 mem_id;
	sluice_le32 access;
	sluice_le64 len_bytes;
};

_Static_assert(sizeof(struct tcp_hello) == 56, "wire format");
_Static_assert(sizeof(struct tcp_welcome) == 24, "wire format");
_Static_assert(sizeof(struct tcp_frame_header) == 40, "wire format");
_Static_assert(sizeof(struct tcp_frame_entry) == 24, "wire format");
_Static_assert(sizeof(struct tcp_key) == 32, "wire format");

#define TCP_TABLE_BYTES_MAX (TCP_FRAME_ENTRIES_MAX * (uint32_t)sizeof(struct tcp_frame_entry))
/* Header and body, whichever kind. */
#define TCP_HEAD_BYTES_MAX ((uint32_t)sizeof(struct tcp_frame_header) + TCP_TABLE_BYTES_MAX)

_Static_assert(TCP_SEND_BYTES_MAX <= TCP_TABLE_BYTES_MAX, "a message fits where a table fits");
_Static_assert(TCP_OP_BYTES_MAX <= TCP_FRAME_PLACE_BYTES_MAX, "the longest op fits one frame");
_Static_assert(TCP_FRAME_ENTRIES_MAX <= UINT16_MAX, "count has 16 bits");

/* The checksum that belongs into the first eight of @bytes bytes. */
static inline uint64_t tcp_checksum(const void *message, size_t bytes)
{
	return XXH3_64bits(
		(const uint8_t *)message + sizeof(sluice_le64), bytes - sizeof(sluice_le64));
}

#endif
