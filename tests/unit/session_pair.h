/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * session_pair.h: a source and a target session in one thread, with nothing real around them: the
 * sim transport carries the lanes, and messages and events are kept until the test passes them
 * on. So a test can stop at any step of a session and say something else than what comes next.
 */
#ifndef SLUICE_TESTS_UNIT_SESSION_PAIR_H
#define SLUICE_TESTS_UNIT_SESSION_PAIR_H

#include "engine/device/inbox.h"
#include "engine/device/outbox.h"
#include "engine/session/source.h"
#include "engine/session/target.h"
#include "transports/sim/sim.h"

#define PAIR_SESSION           "0123456789abcdef0123456789abcdef"
#define PAIR_REGION_BYTES      (4u << 20)
#define PAIR_LANES             2u
#define PAIR_RAILS             2u /* of each side; lane 0 goes over the first, lane 1 over the second */
#define PAIR_QUEUE             256
#define PAIR_DEVICE            "dev"
#define PAIR_RETRIES           3u
#define PAIR_REGIONS_MAX       8u
#define PAIR_REGION_TIMEOUT_MS 3000u

/* The steps of a session that goes well, in order: where a test may stop. */
enum pair_step {
	PAIR_CONNECTING, /* the source exists, its peer link does not */
	PAIR_HELLO, /* hello sent */
	PAIR_WELCOMED, /* welcome read: lanes connect */
	PAIR_ACTIVE,
	PAIR_READY, /* SWITCHOVER_READY */
	PAIR_DRAIN, /* the VMM stopped the guest and added its device */
	PAIR_PREPARE, /* finish sent */
	PAIR_LOAD, /* finish read at the target */
	PAIR_PREPARED, /* the target is prepared; the source has not heard of it */
	PAIR_ASK, /* SWITCHOVER_COMMIT sent to the source's VMM */
	PAIR_COMMIT, /* commit recorded and sent */
	PAIR_COMMITTED, /* commit read at the target */
	PAIR_COMPLETED, /* committed read at the source */
	PAIR_STEPS,
};

enum pair_host { PAIR_SOURCE, PAIR_TARGET, PAIR_HOSTS };

/* A region that was plugged. */
struct pair_plugged {
	uint8_t *memory;
	struct sluice_mem *mems[PAIR_RAILS];
	struct sluice_bitmap_feed *feed;
	uint64_t bitmap[PAIR_REGION_BYTES / 4096 / 64];
};

struct pair_side {
	struct pair *pair;
	enum pair_host host;
	struct sluice_session_rail rails[PAIR_RAILS];
	char addresses[PAIR_RAILS][SLUICE_ADDRESS_MAX];
	uint8_t *memory;
	struct sluice_crew *crew;
	struct sluice_session_region region[PAIR_REGIONS_MAX]; /* 0: "ram" */
	struct pair_plugged plugged[PAIR_REGIONS_MAX];
	uint32_t region_count;
	json_t *out[PAIR_QUEUE]; /* said to the peer and not passed on yet */
	unsigned int out_count;
	/* What the VMM was asked for, and has done. */
	bool ready_asked, commit_asked, open_asked, device_added, stopped, device_loaded;
	unsigned int pending_sync; /* id of a DIRTY_SYNC without an answer; 0: none */
	char last_event[32];
	char wanted[64], released[64]; /* of the latest MEMORY_WANTED and MEMORY_RELEASED */
	enum sluice_decision record;
	bool cannot_record; /* the disk is full */
	bool recorded_but_failed; /* the record is in place, and yet an error was returned */
	bool vmm_gave; /* the source's VMM said commit while it was asked */
	bool device_started, device_done;
	uint32_t gone; /* regions that the session has let go of, a bit each */
	unsigned int reconnects, disconnects;
};

struct pair {
	struct sluice_sim_world *world;
	struct pair_side side[PAIR_HOSTS];
	struct sluice_source *source;
	struct sluice_target *target;
	struct sluice_inbox *inbox;
	struct sluice_bitmap_feed *feed;
	uint64_t bitmap[PAIR_REGION_BYTES / 4096 / 64];
};

/* A pair that has come as far as @step; asserts that it got there. */
void pair_start(struct pair *pair, enum pair_step step);
void pair_stop(struct pair *pair);

/* From wherever it is, paused or not: carry messages, answer as VMMs do, until both sides are over
   or it takes too long. */
void pair_finish(struct pair *pair);
/* Let virtual time pass; lanes and sessions are stepped. */
void pair_pass_ms(struct pair *pair, unsigned int ms);
void pair_pass_us(struct pair *pair, unsigned int us); /* in steps of 20 */
/* Pass on what one side has said so far. */
void pair_deliver(struct pair *pair, enum pair_host from);
void pair_forget(struct pair *pair, enum pair_host from);
/* Whether a message of this type waits to be passed on. */
bool pair_said(const struct pair *pair, enum pair_host from, const char *type);
/* Checked against the schema first, as the link does; then handed to @to. Steals @message. */
void pair_tell(struct pair *pair, enum pair_host to, json_t *message);
/* Memory is plugged into one side: the session is told unless it refuses, and (at the source, with
   @feed) that it has a feed. Its index, or -errno. */
int pair_plug(struct pair *pair, enum pair_host host, const char *id, uint64_t len_bytes, bool feed,
	struct sluice_error *err);
/* The source's VMM acknowledges SWITCHOVER_COMMIT, whenever. */
int pair_give(struct pair *pair, struct sluice_error *err);

#endif
