/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * rails.h: the rails of an engine: which there are, by the settings `transport` and `rail` and by
 * what the host has; guest memory registered with each of them; listening. Control thread.
 *
 * They are opened when the engine starts and live as long as it: memory is registered once.
 * Rails of one transport stand together; with `transport: auto` rdma comes first.
 */
#ifndef SLUICE_ENGINE_RAILS_H
#define SLUICE_ENGINE_RAILS_H

#include <jansson.h>

#include <sluice/transport.h>

#include "engine/config.h"
#include "engine/session/session.h"

#define SLUICE_RAIL_ITEM_BYTES 160 /* one entry of the setting `rail` */
#define SLUICE_LACKS_MAX       4

struct sluice_engine;
struct sluice_peer_address;
struct sluice_region;
struct sluice_timer;
struct sluice_watch;

struct sluice_engine_rail {
	const struct sluice_transport *transport;
	const void *conf; /* of the transport */
	struct sluice_rail *rail; /* NULL: given up */
	struct sluice_rail_limits limits; /* with what the settings say instead */
	char name[SLUICE_ADDRESS_MAX]; /* its address, as set or as found */
	char device
		[SLUICE_RAIL_NAME_MAX]; /* its NIC, as the transport's probe told; "": not known */
	bool is_local; /* it cannot leave this host */
	char address[SLUICE_ADDRESS_MAX]; /* where it listens; "": it does not */
	char listen_error[256]; /* why it does not, though it was told to; "": none */
	struct sluice_watch *watch;
	struct sluice_mem *staging; /* of the session */
};

/* Whether it is there and pins guest memory. */
static inline bool sluice_rail_registers(const struct sluice_engine_rail *rail)
{
	return rail->rail != NULL && (rail->limits.caps & SLUICE_CAP_REGISTERS_MEMORY) != 0;
}

struct sluice_rails {
	struct sluice_engine_rail list[SLUICE_RAILS_MAX];
	uint32_t count; /* at least 1 in an engine that runs */
	bool is_auto; /* `transport: auto` */
	/* Transports that `auto` looked for and did not find, or may not use. */
	struct sluice_session_lack lacks[SLUICE_LACKS_MAX];
	uint32_t lack_count;
	struct sluice_timer *timer; /* rail_step while the engine is busy */
};

/* One entry of the setting `rail`: [TRANSPORT=]ADDRESS[@node=N][@gbit=N]. */
struct sluice_rail_item {
	char transport[32]; /* "": not said */
	char address[SLUICE_ADDRESS_MAX];
	int numa_node; /* -1: not said */
	uint64_t link_bytes_per_s; /* 0: not said */
};

/* The entries of @text. Returns their count, 0 for "auto"; -EINVAL with what was expected. */
int sluice_rail_items_parse(const char *text, struct sluice_rail_item items[SLUICE_RAILS_MAX],
	struct sluice_error *err);

int sluice_rails_open(struct sluice_engine *engine, const struct sluice_settings *settings,
	struct sluice_error *err);
void sluice_rails_close(struct sluice_engine *engine); /* memory is no longer registered */
/* Tell memory how many rails register it, and what these lock. */
void sluice_rails_count_memory(struct sluice_engine *engine);

/* Register a region with every rail, or with none. With `transport: auto` rails that cannot are
   given up, and their transport becomes a lack. */
int sluice_rails_add_memory(
	struct sluice_engine *engine, struct sluice_region *region, struct sluice_error *err);
void sluice_rails_remove_memory(struct sluice_engine *engine, struct sluice_region *region);
int sluice_rails_discard(struct sluice_engine *engine, struct sluice_region *region,
	uint64_t offset, uint64_t len_bytes, struct sluice_error *err);
/* The same for what a target receives devices into, for one session. */
int sluice_rails_add_staging(
	struct sluice_engine *engine, void *addr, uint64_t len_bytes, struct sluice_error *err);
void sluice_rails_remove_staging(struct sluice_engine *engine);

/* Call rail_step when a rail has something to do, and from sluice_rails_wake() on for as long as the
   engine is busy. Once, after sluice_rails_open(). 0 or -errno. */
int sluice_rails_watch(struct sluice_engine *engine);
void sluice_rails_wake(struct sluice_engine *engine);
/* Every rail that may carry lanes from a peer at @peer listens; an error when none does. */
int sluice_rails_listen(struct sluice_engine *engine, const struct sluice_peer_address *peer,
	struct sluice_error *err);

/* Whether the rail's name is this host, without the port. */
bool sluice_rail_has_host(const struct sluice_engine_rail *rail, const char *address);
/* Register @bytes of fresh memory with every rail that registers memory, and let go of it again;
   how long registering took. -ENOMEM, or what a rail said. */
int sluice_rails_sample(struct sluice_engine *engine, uint64_t bytes, uint64_t *ret_ns);

/* What a session with this peer may use. @rails: room for all. Returns their count. */
uint32_t sluice_rails_for_session(const struct sluice_engine *engine,
	const struct sluice_peer_address *peer, struct sluice_session_rail *rails);
/* The address of a rail for a peer whose link came to us at @host. */
void sluice_rails_address(const struct sluice_engine *engine, uint32_t rail, const char *host,
	char ret_address[SLUICE_ADDRESS_MAX]);

/* The members `rails` and `lacks` of query-placement. */
void sluice_rails_json(const struct sluice_engine *engine, json_t *reply);
/* All rails together. */
void sluice_rails_stats(const struct sluice_engine *engine, struct sluice_rail_stats *ret_sum);

#endif
