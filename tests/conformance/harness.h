/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * harness.h: two rails, memory at both ends and lanes between them, stepped by one thread.
 *
 * Whatever a case does, the harness checks of every event that it may come now: CONNECTED
 * once and first, PLACED and FLUSHED only ahead and in order, nothing behind LOST. And every call
 * that workers make is guarded: it neither allocates, locks, logs nor waits (lane_guard.h).
 */
#ifndef SLUICE_TESTS_CONFORMANCE_HARNESS_H
#define SLUICE_TESTS_CONFORMANCE_HARNESS_H

#include <stdbool.h>
#include <stdint.h>

#include <CUnit/CUnit.h>

#include <sluice/transport.h>

#include "base/bits.h"
#include "base/clock.h"
#include "tests/conformance/conformance.h"

#define REGION_BYTES     (8ull << 20)
#define REGION_ID        7u
#define GUARD_BYTES      65536ull /* at both sides of the target's region */
#define LANES_MAX        128
#define FLUSHES_MAX      64
#define MESSAGES_MAX     64
#define LANE_DEADLINE_NS (60 * SLUICE_NS_PER_S)
#define TARGET_FILL      0xa5

/* One end of one lane, and what it has reported. */
struct end {
	struct sluice_conn *conn;
	bool connected;
	bool lost;
	int32_t lost_status;
	bool placed;
	uint64_t placed_seq; /* valid when `placed` */
	uint64_t flushed_seq; /* 0: none yet; seqs of the suite start at 1 */
	uint64_t flush_count;
	uint64_t flush_asked; /* FLUSHes taken; the latest seqs are kept */
	uint64_t flush_seqs[FLUSHES_MAX];
	uint64_t next_seq; /* for the next op */
	bool asleep; /* cases_arm.c: its worker sleeps as `arm` says */
	struct sluice_arm arm;
	uint32_t message_count;
	uint32_t message_bytes[MESSAGES_MAX];
	uint8_t messages[MESSAGES_MAX][SLUICE_SEND_BYTES_MAX];
};

struct lane {
	struct end source, target;
	bool target_sleeps; /* the harness does not poll the target's end */
};

struct fixture {
	struct conformance_pair pair;
	const struct sluice_transport *transport;
	struct sluice_rail_limits limits;
	uint8_t *local; /* the source's memory, random, REGION_BYTES */
	uint8_t *mapped; /* the target's, with guards */
	uint8_t *region; /* inside mapped */
	uint8_t *model; /* what `mapped` must look like */
	struct sluice_mem *local_mem, *region_mem;
	struct sluice_remote *remote;
	struct lane lanes[LANES_MAX];
	uint32_t lane_count;
	uint64_t random;
	uint64_t events; /* counts every event of every lane */
};

/* The driver under test. */
extern const struct conformance_driver *conformance_driver;

struct fixture *fixture_open(void); /* NULL: already counted as failed */
void fixture_close(struct fixture *f);
uint64_t fixture_random(struct fixture *f);
uint64_t fixture_now(struct fixture *f);
bool fixture_virtual(const struct fixture *f);

/* Add a lane and open its ends; `connect` also waits until both are CONNECTED. */
struct lane *lane_add(struct fixture *f);
int end_open(struct fixture *f, struct end *end, enum sluice_role role, uint32_t lane,
	uint8_t ticket, uint64_t deadline_ns);
struct lane *lane_connect(struct fixture *f);
void lane_close(struct fixture *f, struct lane *lane);

/* One turn of everything. Sleeps a little in real time when nothing happened. */
void fixture_step(struct fixture *f);
/* Let in-flight things settle: real time 50 ms, virtual time 30 s. */
void fixture_settle(struct fixture *f);
void end_poll(struct fixture *f, struct end *end);
void fixture_hold(struct fixture *f, bool hold);

/* Step until @condition holds; a failed check when it never does. Evaluates to whether. */
#define STEP_UNTIL(f, condition)                                                                 \
	({                                                                                       \
		struct patience patience_ = patience_start(f);                                   \
		while (!(condition) && patience_left(f, &patience_))                             \
			fixture_step(f);                                                         \
		bool reached_ = (condition);                                                     \
		CU_assertImplementation(reached_, __LINE__, "comes true: " #condition, __FILE__, \
			__func__, CU_FALSE);                                                     \
		reached_;                                                                        \
	})

struct patience {
	uint64_t start_ns;
	uint64_t turns;
};
struct patience patience_start(struct fixture *f);
bool patience_left(struct fixture *f, struct patience *patience);

/* Operations. The seq is filled in by submit. */
struct sluice_op op_write(struct fixture *f, uint64_t local_offset, uint64_t offset, uint32_t len);
struct sluice_op op_zero(struct fixture *f, uint64_t offset, uint32_t len);
struct sluice_op op_send(const void *message, uint32_t len);
struct sluice_op op_flush(void);
/* The same, and the model follows. */
struct sluice_op op_write_modelled(
	struct fixture *f, uint64_t local_offset, uint64_t offset, uint32_t len);
struct sluice_op op_zero_modelled(struct fixture *f, uint64_t offset, uint32_t len);

/* Hand over all of them, stepping while the transport takes fewer. False: lane lost. */
bool end_submit(struct fixture *f, struct end *end, struct sluice_op *ops, uint32_t count);
/* One try. Returns how many were taken. */
uint32_t end_offer(struct fixture *f, struct end *end, struct sluice_op *ops, uint32_t count);
/* Submit a FLUSH and wait for it. */
bool end_flush(struct fixture *f, struct end *end);
/* What is placed may be looked at now: a FLUSH where the driver says that it takes one. */
bool end_show_placed(struct fixture *f, struct end *end);
bool end_has_placed(const struct end *end, uint64_t seq);

/* The target's memory, guards included, equals the model. */
bool memory_as_modelled(struct fixture *f);

/* The cases of each file, for CUnit; end with a NULL name. */
extern CU_TestInfo cases_connect[], cases_place[], cases_order[], cases_loss[], cases_arm[];

#endif
