/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * tcp_raw.h: a tcp target, one healthy lane to it, and bare sockets to attack it with.
 * One thread plays everybody. Every attack ends with raw_check(): memory is as the model
 * says, and the healthy lane still works.
 */
#ifndef SLUICE_TESTS_CONFORMANCE_TCP_RAW_H
#define SLUICE_TESTS_CONFORMANCE_TCP_RAW_H

#include <stdbool.h>
#include <stdint.h>

#include <CUnit/CUnit.h>

#include "base/bits.h"
#include "base/clock.h"
#include "transports/tcp/tcp.h"
#include "transports/tcp/wire.h"

#define RAW_REGION_BYTES (4ull << 20)
#define RAW_GUARD_BYTES  (4ull << 20)
#define RAW_REGION_ID    7u
#define RAW_READONLY_ID  8u /* the guard in front of the region, no remote write access */
#define RAW_VICTIM_LANE  3u
#define RAW_PATIENCE_NS  (60 * SLUICE_NS_PER_S) /* on a machine however busy */

struct raw {
	struct sluice_rail *source_rail, *target_rail;
	char address[SLUICE_ADDRESS_MAX];
	uint8_t *mapped, *model, *region, *local;
	struct sluice_mem *region_mem, *readonly_mem;
	struct sluice_remote *remote;
	struct sluice_conn *good_source, *good_target;
	uint64_t good_seq, good_flushed;
	uint64_t rail_now_ns; /* what the rail believes is now; 0: the clock */

	struct sluice_conn *victim; /* a lane whose peer is us */
	bool victim_connected, victim_lost;
	int32_t victim_status;
	uint32_t victim_messages;
	uint64_t victim_placed, victim_flushed;
	int fd; /* our end of it */
};

extern const struct sluice_transport *raw_tcp; /* guarded, see lane_guard.h */

bool raw_open(struct raw *r);
void raw_close(struct raw *r);
/* One turn of the rail and all lanes. */
void raw_pump(struct raw *r);
/* 5 ms, to see that something does not happen. What must happen is waited for. */
void raw_pump_some(struct raw *r);

/* Pump until @condition holds, or patience ends. Evaluates to whether it does. */
#define RAW_WAIT(r, condition)                                        \
	({                                                            \
		uint64_t end_ns_ = sluice_now_ns() + RAW_PATIENCE_NS; \
		while (!(condition) && sluice_now_ns() < end_ns_)     \
			raw_pump(r);                                  \
		(condition);                                          \
	})

int raw_connect(const char *address); /* a socket, blocking */
void raw_hello(struct tcp_hello *ret_hello, uint32_t lane, uint32_t epoch, uint8_t ticket);
/* Open the victim's lane (TARGET) and wait in vain or connect to it as its proper source. */
void raw_victim_open(struct raw *r);
bool raw_victim_connect(struct raw *r);
/* The same with flags in the hello, which the welcome must repeat. */
bool raw_victim_greet(struct raw *r, uint16_t flags);
void raw_victim_close(struct raw *r);
bool raw_write(int fd, const void *bytes, size_t count);
/* True when the peer closes: end of file or a reset. */
bool raw_closed(struct raw *r, int fd);

void raw_check(struct raw *r);

/* A frame as bytes, to be spoilt. */
struct raw_frame {
	struct tcp_frame_header header;
	struct tcp_frame_entry entries[TCP_FRAME_ENTRIES_MAX + 1];
};

/* Two WRITEs of a page and a ZERO between them, valid. */
void raw_frame_data(struct raw_frame *frame);
void raw_frame_bare(struct raw_frame *frame, enum tcp_frame_kind kind, uint32_t body_bytes);
void raw_entry(struct tcp_frame_entry *entry, uint8_t kind, uint64_t offset, uint32_t len_bytes);
size_t raw_frame_bytes(const struct raw_frame *frame); /* header and body as the header says */
void raw_frame_seal(struct raw_frame *frame);

/* Rows of docs/hostile-input.md for single fields of frames. */
void list_tcp_pokes(void);

extern CU_TestInfo cases_tcp_frames[], cases_tcp_hello[], cases_tcp_source[], cases_tcp_own[],
	cases_tcp_payload[];

#endif
