/* SPDX-License-Identifier: BSD-3-Clause */
/* lane_internal.h: what lane.c (stepping) and build.c (making operations) share. */
#ifndef SLUICE_ENGINE_LANE_INTERNAL_H
#define SLUICE_ENGINE_LANE_INTERNAL_H

#include "base/bits.h"
#include "engine/device/outbox.h"
#include "engine/lane/lane.h"
#include "engine/lane/ledger.h"

#define SLUICE_NO_CHUNK UINT32_MAX

enum lane_state { LANE_CONNECTING, LANE_RUNNING, LANE_LOST };

/* One entry of the ring. Its seq is its position + 1. */
struct sluice_lane_op {
	uint8_t kind; /* enum sluice_op_kind */
	uint16_t first_page; /* WRITE, ZERO of guest memory: within the chunk */
	uint16_t pages;
	uint32_t chunk; /* SLUICE_NO_CHUNK for segments and FLUSH */
	uint32_t slot; /* segments: the slot written or announced */
	uint32_t segment_offset; /* segments: bytes from the slot's start */
	uint32_t window_bytes; /* payload that counts against the window */
	uint32_t held_end; /* FLUSH: releases the held chunks before this index */
};

struct sluice_lane {
	struct sluice_lane_conf conf;
	enum lane_state state;
	uint32_t depth; /* ring entries in use; power of two */
	uint32_t extent_bytes_max; /* longest WRITE */
	uint64_t head, sent, tail; /* positions in the ring, see lane.h */
	uint64_t inflight_bytes; /* of [head, tail): built counts, so the window is never passed */
	uint64_t backlog_bytes; /* atomic: taken from the ledger and not placed, see lane.h */
	uint64_t sent_told, head_told; /* atomic: `sent` and `head` for sluice_lane_posted() */
	bool in_use; /* something is in flight, and counted in work->in_use */
	bool window_shut; /* ran out; opens again when half is free */
	uint64_t now_ns; /* of the step that runs */
	bool crowded; /* the lanes of its thread have enough in flight: it begins no chunk */
	bool paced; /* the bandwidth limit holds it back */
	uint64_t again_ns; /* the bandwidth limit held it back until then; 0: it did not */

	uint32_t current; /* chunk being cut, or SLUICE_NO_CHUNK */
	uint64_t todo[SLUICE_CHUNK_WORDS]; /* its taken pages not yet looked at */
	uint64_t zeros[SLUICE_CHUNK_WORDS]; /* its pages to ZERO after the WRITEs */
	_Alignas(SLUICE_CACHE_LINE)
		uint8_t copy[SLUICE_PAGE_BYTES]; /* of a page that may be a hole */
	bool segment_open; /* a segment is being written; its announcement is still to be built */
	uint32_t segment_slot, segment_done; /* slot, and bytes of it built so far */

	uint32_t held[SLUICE_LANE_HELD_MAX]; /* finished chunks: [held_head, held_tail) */
	uint32_t held_head, held_flush, held_tail; /* held_flush: covered by a built FLUSH */

	struct sluice_lane_op ring[SLUICE_LANE_DEPTH_MAX];
	struct sluice_lane_counters counters;
	struct sluice_mailbox mailbox;
};

/* Fill the ring as far as window, depth and work allow; true when something was built. */
bool sluice_lane_build(struct sluice_lane *lane);
/* The transport's form of a ring entry. @announce: room for a segment's message. */
void sluice_lane_op_express(const struct sluice_lane *lane, const struct sluice_lane_op *op,
	uint64_t seq, uint8_t *announce, struct sluice_op *ret_op);
/* Bookkeeping of a placed operation. */
void sluice_lane_op_placed(struct sluice_lane *lane, const struct sluice_lane_op *op);
/* Pages of the current chunk that are taken and not built. */
uint32_t sluice_lane_pages_in_hand(const struct sluice_lane *lane);
/* The chunk being cut: what was taken and not yet built is dirty again. */
void sluice_lane_put_back_current(struct sluice_lane *lane);

#endif
