/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * session.h: what both ends of a migration share: the regions, the settings, and the world around
 * a session as a table of calls.
 *
 * A session owns no socket, no clock and no thread. It is told what happened (a peer's message, a
 * VMM's command, time passing) and says what to do through struct sluice_session_env. The engine
 * gives it real sockets; the simulation gives it virtual ones and runs the same code.
 *
 * Threads: the control thread.
 */
#ifndef SLUICE_ENGINE_SESSION_H
#define SLUICE_ENGINE_SESSION_H

#include <stdbool.h>
#include <stdint.h>

#include <jansson.h>

#include <sluice/error.h>
#include <sluice/transport.h>

#include "engine/device/announce.h"
#include "engine/memory/region.h"
#include "engine/peer/record.h"
#include "engine/peer/ticket.h"
#include "engine/policy/policy.h"
#include "engine/session/rail_pairs.h"

struct sluice_bitmap_feed;
struct sluice_crew;
struct sluice_inbox;
struct sluice_ledger;
struct sluice_outbox;

#define SLUICE_PROTOCOL_VERSION 1

/* One region of guest memory. Those of the beginning are in the same order (by id) at both ends;
   others come behind them, and messages use the source's index. Borrowed; SLUICE_REGIONS_MAX. */
struct sluice_session_region {
	const char *id;
	uint64_t gpa, len_bytes, page_bytes;
	uint8_t *base;
	struct sluice_mem *mems[SLUICE_RAILS_MAX]; /* registered with each of the session's rails */
	struct sluice_bitmap_feed *feed; /* source */
};

/* A rail that lanes may use. Rails of one transport stand together; those of the transport that is
   preferred come first. Borrowed. */
struct sluice_session_rail {
	const struct sluice_transport *transport;
	struct sluice_rail *rail; /* NULL: not to be used now, it has only a place in the list */
	const char *name; /* as the operator knows it */
	const char *address; /* target: what peers connect to; "": it does not listen */
	struct sluice_subnet subnet; /* that it is in */
	uint64_t nodes; /* NUMA nodes near to it, by number; 0: none is nearer than another */
	struct sluice_mem *staging; /* target: the inbox's pool, registered with it */
};

/* A transport that an end has no rails of, and why. */
struct sluice_session_lack {
	const char *transport;
	char reason[256];
};

typedef void sluice_data_fn(void *ctx, uint64_t offset, uint64_t len_bytes);

struct sluice_session_env {
	void *ctx;
	uint64_t (*now_ns)(void *ctx);
	/* Secrets of the peer link as it is now, for tickets (see ticket.h). NULL: it has none. */
	sluice_derive_fn *derive;
	/* Hand a message to the peer link; steals it. Never calls back into the session: a link
	   that fails is told later, by peer_lost(). */
	void (*peer_send)(void *ctx, json_t *message);
	/* Drop the peer link, or the attempt to make one. Nothing more is heard of it. */
	void (*peer_disconnect)(void *ctx);
	/* Source: connect to the peer again, instead of an attempt under way; ends in connected()
	   or peer_lost(). */
	void (*peer_reconnect)(void *ctx);
	/* Tell the VMM (and whoever watches); steals @data. */
	void (*vmm_event)(void *ctx, const char *name, json_t *data);
	/* The durable decision about this session; see record.h. */
	int (*decide)(void *ctx, const char *session, enum sluice_decision decision,
		enum sluice_decision *ret_decision, struct sluice_error *err);
	/* Ranges that may hold data of @len_bytes from @offset on of a region, ascending, whole pages;
	   everything else of it reads as zeros, but for a page that the system is just moving. */
	void (*for_each_data)(void *ctx, uint32_t region, uint64_t offset, uint64_t len_bytes,
		sluice_data_fn *fn, void *fn_ctx);
	/* Source: the file that a region is a part of, and where that begins; borrowed until
	   region_gone(). NULL: not known. */
	int (*file_of)(void *ctx, uint32_t region, uint64_t *ret_offset);
	/* Source: nothing of the session refers to this region any more, nor will: what
	   sluice_source_region_remove() began is done. */
	void (*region_gone)(void *ctx, uint32_t region);
	/* A shared-memory file of a region shrank: its content cannot be trusted. */
	bool (*memory_lost)(void *ctx);
	/* Source: read device @device from @fd into the outbox; ends in device_read().
	   Target: write its segments to @fd in order; each ends in segment_loaded(), all in
	   device_written(). Steals @fd. */
	int (*device_start)(void *ctx, uint32_t device, int fd, struct sluice_error *err);
	/* Source: which rail each lane is to use of those of one transport, by index; NULL: one after
	   the other. */
	void (*plan_lanes)(
		void *ctx, const struct sluice_transport *transport, uint32_t *ret_rails);
	/* Target: where a rail listens, as the source can reach it; NULL: the rail's address. */
	void (*rail_address)(void *ctx, uint32_t rail, char ret_address[SLUICE_ADDRESS_MAX]);
	/* Target: a segment was announced. 1: new, 0: known, -EPROTO. */
	int (*segment_announced)(
		void *ctx, const struct sluice_announce *announce, struct sluice_error *err);
};

/* Whether more than @span_ns have passed since. @since_ns may be later than @now_ns: a handler that
   runs within a tick looks at the clock again, behind the tick's own look. */
static inline bool sluice_has_passed(uint64_t now_ns, uint64_t since_ns, uint64_t span_ns)
{
	return now_ns > since_ns && now_ns - since_ns > span_ns;
}

struct sluice_session_conf {
	char session[SLUICE_SESSION_ID_BYTES]; /* source: chosen. target: from the hello */
	char instance[SLUICE_SESSION_ID_BYTES]; /* of this engine process */
	const struct sluice_session_rail *rails;
	uint32_t rail_count;
	const struct sluice_session_lack *lacks;
	uint32_t lack_count;
	bool pairs_by_order; /* source: see rail_pairs.h */
	bool lanes_may_leave; /* source: lanes may go to another host, in clear text */
	struct sluice_crew *crew;
	uint32_t lanes;
	uint64_t staging_nodes; /* NUMA nodes for the outbox, see sluice_node_prefer() */
	uint64_t memory_budget_bytes; /* bytes in flight, all lanes together */
	uint64_t extent_bytes; /* longest WRITE of guest memory; 0: SLUICE_LANE_EXTENT_BYTES */
	uint64_t
		max_bandwidth_bytes_per_s; /* source: of guest memory until it stops; 0: no limit */
	uint64_t peer_timeout_ns; /* silence after which the peer link counts as lost */
	uint64_t setup_timeout_ns;
	uint64_t
		record_ns; /* what a record of the commit takes on this host, measured; 0: nothing */
	uint64_t switchover_timeout_ns; /* source: longest time a guest is stopped; 0: no bound */
	uint64_t
		lane_timeout_ns; /* bytes in flight and none placed for so long: the lane is lost */
	uint64_t
		region_timeout_ns; /* source: how long a region waits for the target's and a feed */
	uint32_t recover_retries; /* source: before a paused migration waits for an operator */
	uint64_t recover_pause_ns; /* source: before the first of them; doubles */
	uint64_t recover_timeout_ns; /* target: how long it waits for a source that vanished */
	struct sluice_policy_conf policy;
	struct sluice_outbox *outbox; /* source; made when the target says how many slots */
	struct sluice_inbox *inbox; /* target */
	const struct sluice_session_region *regions;
	uint32_t region_count;
	void (*wake)(void *ctx); /* any thread: make the control thread call tick soon */
	void *wake_ctx;
};

/*
 * Put the commit on record. 0: it is there. Otherwise it is not and never will be here: the
 * session is aborted, and *err says why.
 */
int sluice_session_commit(
	const struct sluice_session_env *env, const char *session, struct sluice_error *err);

/* The names of the transports that a session has rails of, preferred first. */
json_t *sluice_session_transports(const struct sluice_session_conf *conf);

/* Hexadecimal text of bytes, and back. */
json_t *sluice_hex(const uint8_t *bytes, size_t count);
/* Returns the count of bytes, or -EINVAL: odd length, other digits, or more than @max. */
int sluice_unhex(const char *text, uint8_t *bytes, size_t max);

/* chunk_map.c: which chunks of a region may hold other than zeros, by the look of its file; NULL
   when memory is out. At least one region. */
json_t *sluice_chunk_map(const struct sluice_session_conf *conf,
	const struct sluice_session_env *env, uint32_t region);
/* Source, from the peer's map: chunks that may hold data there are dirty here, also where our side
   is a hole; in the others zero pages may be skipped. -EPROTO: it names more than the region has. */
int sluice_chunk_map_apply(const json_t *map, struct sluice_ledger *ledger, uint32_t index);

#endif
