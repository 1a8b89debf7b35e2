/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * source_internal.h: what the files of a source share: source.c (states, time), source_link.c (the
 * peer link), source_pause.c (paused, resumed, given up), source_setup.c (from hello to the first
 * page), source_look.c (which pages are there at all), source_rails.c (which transport, which pairs
 * of rails, which lane over which), source_lanes.c (lanes lost, fenced, opened again),
 * source_regions.c (regions added and removed), source_sync.c (dirty syncs, the policy),
 * source_switchover.c (from the stopped guest to the decision), source_report.c (what it tells).
 */
#ifndef SLUICE_ENGINE_SOURCE_INTERNAL_H
#define SLUICE_ENGINE_SOURCE_INTERNAL_H

#include "base/clock.h"
#include "engine/device/outbox.h"
#include "engine/lane/lane_set.h"
#include "engine/lane/ledger.h"
#include "engine/policy/typical.h"
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
 * Up to ASK the guest is ours: any failure ends in FAILED or CANCELLED and it runs on here. From
 * the welcome until ASK a session may be paused besides, see enum source_pause.
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

/* What a session waits for that is not going on. Its status is "paused" then, whatever its state. */
enum source_pause {
	PAUSE_NONE,
	PAUSE_LANES, /* no lane stands; the peer link does */
	PAUSE_LINK, /* the peer link is lost, and with it every lane */
	PAUSE_OPERATOR, /* migrate-pause; only migrate-recover ends it */
};

/* See source_regions.c. */
enum source_region_standing {
	REGION_WAITING,
	REGION_MOVING,
	REGION_LEAVING,
	REGION_TOLD,
	REGION_GONE,
};

struct source_region {
	enum source_region_standing standing;
	bool said; /* region-add or region-remove, on this peer link */
	bool asked; /* region-add, on any link */
	bool tracked; /* a dirty sync has covered it */
	uint64_t sync_from; /* the first dirty sync that does; 0: it has no feed yet */
	uint64_t since_ns; /* when it was added; since the last resume */
	json_t *answer; /* region-added; NULL: not yet */
	uint64_t looked_sync; /* the dirty sync last asked before its first look */
	uint64_t looked_bytes; /* that the second look has seen */
};

#define SLUICE_DEVICE_NAME_BYTES 64
/* The longest that one attempt to connect may take; then another one is likelier to succeed. */
#define SOURCE_CONNECT_NS      (2 * SLUICE_NS_PER_S)
#define SOURCE_TRIES_OF_A_RAIL 4 /* that fail in a row, before a lane of it takes another rail */
#define SOURCE_NO_PAIR         UINT32_MAX

/* What the target told of one of its rails. */
struct source_peer_rail {
	json_t *said; /* the message; NULL: there is no rail of this number */
	char address[SLUICE_ADDRESS_MAX]; /* where it is now */
};

_Static_assert(SLUICE_LEDGER_REGIONS_MAX == SLUICE_REGIONS_MAX,
	"a region has the same number in the ledger as in messages");

struct sluice_source {
	struct sluice_session_conf conf;
	struct sluice_session_env env;
	enum source_state state;
	struct sluice_error error; /* why it failed */

	struct sluice_ledger *ledger;
	struct sluice_lane_work work;
	struct source_region region_states[SLUICE_REGIONS_MAX];
	uint64_t peer_page_bytes
		[SLUICE_REGIONS_MAX]; /* of the backing at the target; 0: not known yet */
	struct sluice_lane_set lanes;

	/* Rails, from the welcome on. The owned handles are the same as in the pairs. */
	struct source_peer_rail peer_rails[SLUICE_RAILS_MAX];
	const struct sluice_transport *transport; /* the one that was chosen, and why */
	char transport_why[512];
	struct sluice_rail_pair pairs[SLUICE_RAILS_MAX];
	uint32_t pair_count;
	struct sluice_lane_region regions[SLUICE_RAILS_MAX][SLUICE_REGIONS_MAX]; /* by pair */
	struct sluice_remote *remotes[SLUICE_RAILS_MAX][SLUICE_REGIONS_MAX]; /* owned; by pair */
	struct sluice_remote *stagings[SLUICE_RAILS_MAX]; /* owned; by pair */
	struct sluice_mem *outbox_mems[SLUICE_RAILS_MAX]; /* owned; by rail of ours */
	uint32_t lane_pairs[SLUICE_LANES_MAX]; /* that each lane is to go over */

	/* Dirty syncs. `sync_id` counts them from 1; outstanding while asked and not answered. */
	uint64_t sync_id;
	bool sync_outstanding;
	bool final_sync_done;
	uint64_t sync_asked_ns, sync_took_ns, next_sync_ns;
	uint64_t queued_again_seen; /* of the ledger's count */
	uint64_t sync_min_ns; /* from DIRTY_SYNC to its answer; 0: none yet */
	struct sluice_typical vmm_rtt_ns; /* of that the way there and back */
	uint64_t interval_start_ns, interval_placed_bytes, drained_ns;
	uint64_t pages_first; /* dirty when pages began to move */
	struct sluice_policy_state policy_state;
	uint64_t predicted_downtime_ns; /* the latest */
	/* What was predicted when it was decided to switch, and what came of it. */
	uint64_t switch_predicted_ns;
	struct sluice_downtime switch_predicted, downtime;
	uint64_t phase_ns; /* when the phase under way began */
	uint64_t dirty_pages_per_s, last_interval_bytes_per_s;
	uint32_t throttle_told;

	uint32_t device_count, devices_reading;
	char devices[256][SLUICE_DEVICE_NAME_BYTES];

	uint64_t lanes_gone_ns; /* when the last lane was lost; 0: not yet */
	char last_lane_why[SLUICE_LANE_WHY_BYTES]; /* of the lane that was lost last */

	/* The peer link. Between `resume` and `resumed` it is up and nothing else may be said. */
	bool link_up, hello_said, resuming;
	uint32_t hello_regions; /* that the hello named */
	uint64_t heard_ns, pinged_ns;
	uint64_t peer_rtt_ns; /* the quickest so far; 0: not measured yet */
	uint32_t pongs; /* while lanes connect */
	uint64_t peer_record_ns; /* what the target's record of the commit takes, as it said */
	char peer_instance[SLUICE_SESSION_ID_BYTES]; /* from the welcome: who may resume */
	uint32_t attempt; /* counts connections made to resume */
	uint64_t attempt_ns; /* when the connection under way was started; 0: none is */
	uint64_t retry_ns, retry_pause_ns; /* when to connect again, and the wait after that */
	uint32_t retries, refusals; /* since it last stood; in a row: nobody listened */

	enum source_pause pause;
	char pause_reason[256];
	uint64_t pauses, pause_since_ns, paused_ns; /* paused_ns: pauses that are over */
	bool gave; /* ASK: the VMM gave the guest away while the link was down */
	bool peer_ended; /* the target said that it ended the session */
	bool farewell; /* over here, and the target has still to hear of it */

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
/* Chunks that lanes gave back dirty are for all of them: wake those that rest. */
void source_share_queued_again(struct sluice_source *s);
bool source_guest_is_ours(enum source_state state);
/* True when it did. */
bool source_fail_when_memory_lost(struct sluice_source *s);

static inline uint64_t source_now(const struct sluice_source *s)
{
	return s->env.now_ns(s->env.ctx);
}

/* source_link.c. Sending steals the message; without a link it is dropped. */
void source_send(struct sluice_source *s, json_t *message); /* dropped also while resuming */
void source_send_now(struct sluice_source *s, json_t *message);
void source_send_abort(struct sluice_source *s, const char *reason);
bool source_link_usable(const struct sluice_source *s);
void source_keep_alive(struct sluice_source *s, uint64_t now_ns);
void source_ping(struct sluice_source *s); /* its answer measures the round trip */
bool source_peer_lives(const struct sluice_source *s, uint64_t now_ns); /* heard of it lately */

/* source_pause.c */
void source_set_pause(struct sluice_source *s, enum source_pause pause, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
bool source_is_held(const struct sluice_source *s); /* no decision may be made now */
/* The next wait of an attempt that failed again: from the first one up, to a bound. */
uint64_t source_longer_pause_ns(const struct sluice_source *s, uint64_t pause_ns);
void source_pause_for_link(struct sluice_source *s, int code, bool was_up, const char *why);
void source_reset_retries(struct sluice_source *s);
bool source_schedule_retry(struct sluice_source *s); /* false: no more without an operator */
void source_say_resume(struct sluice_source *s);
void source_on_resumed(struct sluice_source *s, const json_t *message);
void source_retry_when_due(struct sluice_source *s, uint64_t now_ns);
uint64_t source_retry_deadline_ns(const struct sluice_source *s);
void source_begin_farewell(struct sluice_source *s);
void source_end_farewell(struct sluice_source *s, const char *type);
void source_farewell_lost(struct sluice_source *s, int code);
void source_step_farewell(struct sluice_source *s, uint64_t now_ns);
void source_pause_json(const struct sluice_source *s, json_t *reply);

/* source_rails.c */
void source_on_rail(struct sluice_source *s, const json_t *message);
int source_choose_rails(struct sluice_source *s, const json_t *message); /* `welcome` */
int source_update_rails(struct sluice_source *s, const json_t *message); /* `resumed` */
uint32_t source_pair_to_try(struct sluice_source *s, uint32_t lane);
/* Those of ours whose device was removed, as part of a sentence; "": none. */
void source_gone_rails(const struct sluice_source *s, char *text, size_t text_bytes);
void source_forget_rails(struct sluice_source *s);
/* The keys of a region that was added, of every rail; *s->error says what is wrong. */
int source_import_keys(struct sluice_source *s, uint32_t region, const json_t *message);
void source_forget_keys(struct sluice_source *s, uint32_t region);
void source_rails_json(const struct sluice_source *s, json_t *reply);

/* source_lanes.c */
void source_open_lanes(struct sluice_source *s); /* all of them, for the first time */
void source_on_fenced(struct sluice_source *s, const json_t *message);
void source_on_lane_ticket(struct sluice_source *s, const json_t *message);
void source_read_mailboxes(struct sluice_source *s);
void source_lose_lanes(struct sluice_source *s);
/* Those over a pair of rails whose keys are void. */
void source_lose_lanes_over(struct sluice_source *s, uint32_t pair);
/* All are fenced, says @resumed: close them, open them again. */
void source_reclaim_lanes(struct sluice_source *s, const json_t *resumed);
/* Whether a list of numbers in a message has this one. */
bool source_is_listed(const json_t *numbers, uint32_t number);
void source_step_lanes(struct sluice_source *s, uint64_t now_ns);
uint64_t source_lanes_deadline_ns(const struct sluice_source *s);

/* source_switchover.c */
/* A phase of the switchover ended: how long it took goes to @ret_ns, and the next one begins. */
void source_end_phase(struct sluice_source *s, uint64_t *ret_ns);
void source_finish_when_drained(struct sluice_source *s);
void source_say_device(struct sluice_source *s, uint32_t device);
void source_say_finish(struct sluice_source *s);
void source_commit_if_given(struct sluice_source *s);
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
void source_interval_anew(struct sluice_source *s); /* after a pause: measure from here */
uint64_t source_next_sync_ns(const struct sluice_source *s); /* when it is due, or never */

/* source_setup.c */
void source_say_hello(struct sluice_source *s);
void source_on_welcome(struct sluice_source *s, const json_t *message);
/* What the target tells of a region, in the welcome or later: its key; its holes and page size. */
int source_read_region(struct sluice_source *s, uint32_t region, const json_t *entry);

/* source_look.c */
/* While tracking is on: the first look at a region's file. Data is marked, holes are noted. */
void source_look(struct sluice_source *s, uint32_t region);
/* One more slice of the second look, when it is time for it. */
void source_look_again(struct sluice_source *s);
/* Of every region that moves each hole was seen twice. */
bool source_has_looked_twice(const struct sluice_source *s);

/* source_regions.c */
void source_regions_begin(struct sluice_source *s);
void source_regions_over(struct sluice_source *s);
void source_regions_destroy(struct sluice_source *s);
void source_regions_resumed(struct sluice_source *s);
bool source_regions_want_sync(const struct sluice_source *s); /* one asked now would help */
void source_regions_synced(struct sluice_source *s, uint64_t id);
void source_step_regions(struct sluice_source *s, uint64_t now_ns);
uint64_t source_regions_deadline_ns(const struct sluice_source *s);
void source_on_region_added(struct sluice_source *s, const json_t *message);
void source_on_region_removed(struct sluice_source *s, const json_t *message);
bool source_region_moves(const struct sluice_source *s, uint32_t region); /* in the ledger */
void source_regions_json(const struct sluice_source *s, json_t *reply);
bool source_regions_settled(const struct sluice_source *s); /* none comes or goes */

/* source_report.c */
void source_tell_status(struct sluice_source *s);
void source_tell_progress(struct sluice_source *s, uint64_t now_ns);

#endif
