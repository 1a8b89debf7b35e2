/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * target_internal.h: what the files of a target share: target.c (states, time), target_link.c (the
 * peer link and the decision), target_setup.c (hello and welcome), target_rails.c (which rails the
 * source is told, with their keys), target_regions.c (which of our regions each of the source's is),
 * target_lanes.c (lanes heard and fenced), target_resume.c (a source that vanished and came back),
 * target_devices.c (devices, until prepared).
 */
#ifndef SLUICE_ENGINE_TARGET_INTERNAL_H
#define SLUICE_ENGINE_TARGET_INTERNAL_H

#include "engine/device/inbox.h"
#include "engine/lane/lane_set.h"
#include "engine/session/target.h"

/*
 * The states of a target, in the order of a session that goes well.
 *
 * RECEIVE  welcome sent; lanes land pages; devices are opened and loaded
 * LOAD     the source has finished: waits until each device is accepted by its VMM and the peer
 *          link is there to hear of it
 * PREPARED every lane is closed; waits for the decision. Without the peer link: in doubt
 *
 * Up to LOAD any failure burns the session; a lost peer link is none for recover-timeout ("paused"):
 * the source may come back with `resume`. In PREPARED only the source's word, its successor's
 * question, or the operator ends it.
 */
enum target_state {
	TARGET_RECEIVE,
	TARGET_LOAD,
	TARGET_PREPARED,
	TARGET_COMPLETED,
	TARGET_FAILED,
};

#define DEVICE_NAME_BYTES 64

struct target_device {
	char name[DEVICE_NAME_BYTES];
	bool opened; /* the VMM gave a descriptor */
	bool written; /* the loader wrote all of it */
	bool loaded; /* the VMM accepted it */
};

/* One of the source's regions, by the number that messages use. See target_regions.c. */
enum target_wire_standing {
	WIRE_NONE,
	WIRE_WANTED, /* our VMM has not added it */
	WIRE_HERE,
	WIRE_GONE, /* the source has it no more */
};

struct target_wire_region {
	enum target_wire_standing standing;
	uint32_t region; /* HERE: ours */
	char id[64]; /* of those that were added later */
	uint64_t gpa, len_bytes, page_bytes;
};

struct sluice_target {
	struct sluice_session_conf conf;
	struct sluice_session_env env;
	enum target_state state;
	struct sluice_error error;
	struct sluice_lane_work work;
	struct sluice_lane_set lanes;
	struct sluice_rail_pair pairs[SLUICE_RAILS_MAX]; /* one per rail of the session */
	uint32_t told_rails; /* set of those that the source knows of */
	uint64_t told_returns[SLUICE_RAILS_MAX]; /* how often each had come back when it was told */
	struct target_device devices[SLUICE_DEVICES_MAX];
	uint32_t device_count;
	uint8_t held_from[SLUICE_SLOTS_MAX]; /* 1 + the lane that brought it; 0: no credit is due */
	uint32_t credits[SLUICE_SLOTS_MAX]; /* how often each slot was given back */
	struct target_wire_region wire[SLUICE_REGIONS_MAX]; /* by the source's number */
	uint64_t peer_page_bytes
		[SLUICE_REGIONS_MAX]; /* per region of ours, of the backing at the source */
	bool link_up;
	char link_reason[256]; /* why it is not */
	char peer_instance[SLUICE_SESSION_ID_BYTES];
	uint32_t attempt; /* of the latest `resume` */
	uint64_t lost_ns; /* when the link was lost */
	uint64_t pauses, paused_ns; /* pauses that are over */
	uint64_t heard_ns, pinged_ns, start_ns, over_ns;
};

static inline uint64_t target_now(const struct sluice_target *t)
{
	return t->env.now_ns(t->env.ctx);
}

/* target.c */
void target_enter(struct sluice_target *t, enum target_state state);
void target_tell_status(struct sluice_target *t);
void target_burn(struct sluice_target *t, int code, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* target_link.c */
void target_send(struct sluice_target *t, json_t *message); /* steals; nothing without a link */
void target_keep_alive(struct sluice_target *t, uint64_t now_ns);

uint64_t target_ping_gap_ns(const struct sluice_target *t);

/* target_setup.c */
int target_check_hello(
	const struct sluice_session_conf *conf, const json_t *hello, struct sluice_error *err);
/* What the source must know of a region of ours besides keys: holes, page size. */
json_t *target_region_json(struct sluice_target *t, uint32_t region);
void target_say_welcome(struct sluice_target *t);

/* target_rails.c */
/* Whether this rail of ours is of use to the source. */
bool target_rail_is_wanted(
	const struct sluice_session_conf *conf, uint32_t index, const json_t *hello);
void target_say_rails(struct sluice_target *t, const json_t *hello); /* before the welcome */
/* Ahead of a ticket for it: its keys are void when its device was gone, and are told anew. */
void target_say_rail_anew(struct sluice_target *t, uint32_t rail);
void target_rails_resumed(struct sluice_target *t); /* what was told anew may not have arrived */
bool target_offers(const struct sluice_target *t, uint32_t rail); /* it was told to the source */
json_t *target_rail_addresses(const struct sluice_target *t); /* of those that were told */
json_t *target_region_keys(const struct sluice_target *t, uint32_t region); /* with those */
void target_rails_json(const struct sluice_target *t, json_t *reply);

/* target_regions.c */
void target_regions_begin(struct sluice_target *t, const json_t *hello);
/* No word of the source changes memory here any more. */
void target_regions_shut(struct sluice_target *t);
void target_on_region_add(struct sluice_target *t, const json_t *message);
void target_on_region_remove(struct sluice_target *t, const json_t *message);
bool target_waits_for_region(const struct sluice_target *t);

/* target_lanes.c */
void target_void_tickets(struct sluice_target *t); /* the peer link is gone */
void target_on_lane_open(struct sluice_target *t, const json_t *message);
json_t *target_held_slots(struct sluice_target *t, uint32_t lane); /* or of all lanes */
#define TARGET_ALL_LANES UINT32_MAX
#define TARGET_HELD_TOLD UINT8_MAX /* of held_from: the source knows that it is here */
void target_read_mailboxes(struct sluice_target *t);
void target_on_fence(struct sluice_target *t, const json_t *message);

/* target_resume.c */
void target_on_resume(struct sluice_target *t, const json_t *message);
bool target_is_paused(const struct sluice_target *t);
void target_pause_json(const struct sluice_target *t, json_t *reply);
void target_give_up_waiting(struct sluice_target *t, uint64_t now_ns);

/* target_devices.c */
void target_on_device(struct sluice_target *t, const json_t *message);
void target_prepare_when_loaded(struct sluice_target *t);

#endif
