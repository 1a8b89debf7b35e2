/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * rdma_raw.h: two rdma rails with a lane that works, and a peer that is the test itself: it has
 * verbs of its own, says what it likes and posts what it likes. One thread plays all of them.
 */
#ifndef SLUICE_TESTS_CONFORMANCE_RDMA_RAW_H
#define SLUICE_TESTS_CONFORMANCE_RDMA_RAW_H

#include <CUnit/CUnit.h>
#include <infiniband/verbs.h>
#include <rdma/rdma_cma.h>
#include <stdbool.h>
#include <stdint.h>

#include <sluice/transport.h>

#include "base/clock.h"
#include "transports/rdma/rdma.h"
#include "transports/rdma/wire.h"

#define RAW_REGION_BYTES  (1ull << 20)
#define RAW_REGION_ID     7u
#define RAW_SECRET_ID     8u /* registered for the target's own reading */
#define RAW_VICTIM_LANE   5u
#define RAW_VICTIM_TICKET 0x66
#define RAW_PATIENCE_NS   (10 * SLUICE_NS_PER_S)

struct raw {
	struct sluice_rail *source_rail, *target_rail;
	char address[SLUICE_ADDRESS_MAX]; /* of the target's rail */
	uint8_t *region, *model, *local, *secret; /* RAW_REGION_BYTES each */
	struct sluice_mem *region_mem, *local_mem, *secret_mem;
	struct sluice_remote *remote;
	struct rdma_key key, secret_key; /* of the region; pieces have one key each */
	uint32_t rkey, secret_rkey;
	struct sluice_conn *good_source, *good_target;
	uint64_t good_seq, good_flushed;

	struct sluice_conn *victim; /* a lane whose peer is us */
	bool victim_connected, victim_lost;
	int32_t victim_status;
	uint32_t victim_messages;

	/* Our own end. */
	struct rdma_event_channel *channel;
	struct rdma_cm_id *listener; /* when we play a target */
	struct rdma_cm_id *id;
	struct ibv_cq *cq;
	struct ibv_mr *mr;
	uint8_t *buffer; /* RAW_BUFFER_BYTES, registered for everything */
	uint32_t cell_rkey;
	uint32_t messages; /* sent */
};

#define RAW_BUFFER_BYTES (64u << 10)

extern const struct sluice_transport *raw_rdma; /* guarded, see lane_guard.h */
extern char raw_source_address[SLUICE_ADDRESS_MAX], raw_target_address[SLUICE_ADDRESS_MAX];

bool raw_open(struct raw *r);
void raw_close(struct raw *r);
/* One turn of both rails and all lanes. */
void raw_pump(struct raw *r);

/* Pump until @condition holds, which is evaluated once a turn, or patience ends. */
#define RAW_WAIT(r, condition)                                               \
	({                                                                   \
		uint64_t end_ns_ = sluice_now_ns() + RAW_PATIENCE_NS;        \
		bool holds_;                                                 \
		while (!(holds_ = (condition)) && sluice_now_ns() < end_ns_) \
			raw_pump(r);                                         \
		holds_;                                                      \
	})

/* Open the victim's lane: it waits for us to connect, or connects to us. */
void raw_victim_open(struct raw *r, enum sluice_role role);
void raw_victim_close(struct raw *r);
void raw_hello(struct rdma_hello *ret_hello);
/* Connect with this private data. Whether we were let in. */
bool raw_connect(struct raw *r, const void *hello, uint8_t bytes);
/* The victim's lane is open, and we are its source. */
bool raw_be_source(struct raw *r);
/* A source's lane is open, and we are its target, which says @welcome (NULL: the right one). */
bool raw_be_target(struct raw *r, const struct rdma_welcome *welcome);
void raw_disconnect(struct raw *r);

/* Post one and wait for its end. */
enum ibv_wc_status raw_post(struct raw *r, struct ibv_send_wr *request, uint32_t bytes);
enum ibv_wc_status raw_write(struct raw *r, uint64_t address, uint32_t rkey, uint32_t bytes);
enum ibv_wc_status raw_read(struct raw *r, uint64_t address, uint32_t rkey, uint32_t bytes);
enum ibv_wc_status raw_send(struct raw *r, const void *bytes, uint32_t count);

/* The good lane works, and no byte of anybody's has changed that it did not change. */
void raw_check(struct raw *r);

extern CU_TestInfo cases_rdma_strangers[], cases_rdma_sources[], cases_rdma_targets[];

#endif
