/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * source_internal.h: what the files of a source share: source.c (states, time), source_link.c (the
 * peer link), source_setup.c (from hello to the first page), source_lanes.c (lanes lost and
 * fenced), source_sync.c (dirty syncs, the policy), source_switchover.c (from the stopped guest to
 * the decision), source_report.c (what it tells).
 */
#ifndef SLUICE_ENGINE_SOURCE_INTERNAL_H
#define SLUICE_ENGINE_SOURCE_INTERNAL_H

#include "engine/device/outbox.h"
#include "engine/lane/lane_set.h"
#include "engine/lane/ledger.h"
#include "engine/session/source.h"

/*
 * The states of a source, in the order of a session that goes well.
 *
 * SETUP    the peer link is up or coming; hello sent; lanes connect; the VMM starts to track
 * ACTIVE   pages move; dirty syncs; the policy looks for the moment
 * READY    SWITCHOVER_READY sent: the VMM is stopping the guest and adding devices
 * DRAIN    the guest is stopped: last sync, lanes drain, devices are read and loaded
 * PREPARE  finish sent: the target closes lanes and asks its VMM about the devices
 * ASK      the target is prepared; SWITCHOVER_COMMIT sent to our VMM
 * COMMIT   our VMM gave the guest away and the decision is on record; commit sent
 * DOUBT    as COMMIT, but the peer link was lost before it said committed
 *
 * Up to ASK the guest is ours: any failure ends in FAILED or CANCELLED and it runs on here.
 */
enum source_state {
	SOURCE_SETUP,
	SOURCE_ACTIVE,
	SOURCE_READY,
	SOURCE_DRAIN,
	SOURCE_PREPARE,
	SOURCE_ASK,
	SOURCE_COMMIT,
	SOURCE_DOUBT,
	SOURCE_COMPLETED,
	SOURCE_FAILED,
	SOURCE_CANCELLED,
};

#define SLUICE_DEVICE_NAME_BYTES 64

struct sluice_source {
	struct sluice_session_conf conf;
	struct sluice_session_env env;
	enum source_state state;
	struct sluice_error error; /* why it failed */

	struct sluice_ledger *ledger;
	struct sluice_lane_work work;
	struct sluice_lane_region regions[64];
	struct sluice_remote *remotes[64]; /* owned; the same as in `regions` */
	struct sluice_remote *staging;
	struct sluice_mem *outbox_mem;
	struct sluice_lane_set lanes;

	/* Dirty syncs. `sync_id` counts them from 1; outstanding while asked and not answered. */
	uint64_t sync_id;
	bool sync_outstanding;
	bool final_sync_done;
	uint64_t sync_asked_ns, sync_took_ns, sync_min_ns, next_sync_ns;
	uint64_t interval_start_ns, interval_placed_bytes, drained_ns;
	struct sluice_policy_state policy_state;
	uint64_t predicted_downtime_ns; /* the latest */
	uint64_t switch_predicted_ns; /* what was predicted when it was decided to switch */
	uint64_t dirty_pages_per_s, last_interval_bytes_per_s;
	uint32_t throttle_told;

	uint32_t device_count, devices_reading;
	char devices[256][SLUICE_DEVICE_NAME_BYTES];

	uint64_t lanes_gone_ns; /* when the last lane was lost; 0: not yet */
	int last_lane_status;

	/* The peer link. */
	bool link_up;
	uint64_t heard_ns, pinged_ns, ping_n, peer_rtt_ns;
	uint64_t peer_record_ns; /* what the target's record of the commit takes, as it said */
	uint64_t retry_ns, retry_pause_ns;

	/* Moments, on the env's clock; 0: not yet. */
	uint64_t start_ns, active_ns, ready_ns, stopped_ns, commit_ns, over_ns, progress_ns;
};

/* source.c */
void source_enter(struct sluice_source *s, enum source_state state);
void source_fail(struct sluice_source *s, const struct sluice_error *error);
void source_fail_text(struct sluice_source *s, int code, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
void source_tell_throttle(struct sluice_source *s, uint32_t percent);
void source_wake_lanes(struct sluice_source *s);
bool source_guest_is_ours(enum source_state state);

static inline uint64_t source_now(const struct sluice_source *s)
{
	return s->env.now_ns(s->env.ctx);
}

/* source_link.c */
void source_send(struct sluice_source *s, json_t *message); /* steals; nothing without a link */
void source_send_abort(struct sluice_source *s, const char *reason);
void source_keep_alive(struct sluice_source *s, uint64_t now_ns);

/* source_lanes.c */
void source_on_fenced(struct sluice_source *s, const json_t *message);
void source_read_mailboxes(struct sluice_source *s);
void source_fail_when_lanes_are_gone(struct sluice_source *s, uint64_t now_ns);
uint64_t source_lanes_deadline_ns(const struct sluice_source *s);

/* source_switchover.c */
void source_finish_when_drained(struct sluice_source *s);
void source_on_prepared(struct sluice_source *s, const json_t *message);
void source_on_committed(struct sluice_source *s, const json_t *message);
void source_on_decision(struct sluice_source *s, const json_t *message);
void source_on_abort(struct sluice_source *s, const json_t *message);
void source_doubt_when_unanswered(struct sluice_source *s, uint64_t now_ns);
void source_fail_when_stopped_too_long(struct sluice_source *s, uint64_t now_ns);

/* source_sync.c */
void source_ask_sync(struct sluice_source *s);
uint64_t source_bytes_left(const struct sluice_source *s); /* dirty, or not placed yet */
void source_activate_when_ready(struct sluice_source *s);
void source_sync_when_due(struct sluice_source *s, uint64_t now_ns);
uint64_t source_next_sync_ns(const struct sluice_source *s); /* when it is due, or never */

/* source_setup.c */
void source_say_hello(struct sluice_source *s);
void source_on_welcome(struct sluice_source *s, const json_t *message);
void source_mark_everything(struct sluice_source *s);

/* source_report.c */
void source_tell_status(struct sluice_source *s);
void source_tell_progress(struct sluice_source *s, uint64_t now_ns);

#endif
