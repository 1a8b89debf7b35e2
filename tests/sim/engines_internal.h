/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * engines_internal.h: the simulated world of two engines, and who plays what in it:
 *
 *   engines.c         one seed: building the world, the actors, the end and its checks
 *   engines_plan.c    what a seed decides beforehand
 *   engines_host.c    an engine process around a session: what engine/migration.c is to sluiced
 *   engines_plug.c    memory that is plugged in and out while pages move
 *   engines_homes.c   the source's NUMA nodes
 *   engines_link.c    the peer link
 *   engines_device.c  readers and loaders of device state
 *   engines_vmm.c     the two VMMs
 *   engines_chaos.c   faults, and the operator who settles what is in doubt
 */
#ifndef SLUICE_TESTS_SIM_ENGINES_INTERNAL_H
#define SLUICE_TESTS_SIM_ENGINES_INTERNAL_H

#include <jansson.h>

#include "base/clock.h"
#include "base/random.h"
#include "engine/session/source.h"
#include "engine/session/target.h"
#include "tests/sim/engines.h"
#include "tests/sim/guest.h"
#include "tests/sim/oracle.h"
#include "tests/sim/scheduler.h"
#include "transports/sim/sim.h"

#define ENGINES_LANES_MAX   8u
#define ENGINES_LINKS_MAX   256u
#define ENGINES_FAULTS_MAX  2u
#define ENGINES_DEVICES_MAX 2u
#define ENGINES_RAILS_MAX   3u
#define ENGINES_SLOTS_MAX   64u

enum host { SOURCE, TARGET, HOSTS };

enum fault_kind {
	FAULT_CANCEL_SOURCE,
	FAULT_CANCEL_TARGET,
	FAULT_CUT_LINK,
	FAULT_KILL_SOURCE,
	FAULT_KILL_TARGET,
	FAULT_KILL_LANE, /* deaths by chance come on top: see sluice_sim_world_opts.death_ppm */
	FAULT_KILL_LANES, /* all that stand */
	FAULT_KILL_RAIL, /* one of either host, for a while or for good */
	FAULT_BREAK_NIC, /* the target's of a rail, with the writes that it has placed */
	FAULT_PAUSE, /* migrate-pause; the operator recovers later, or cancels */
	FAULT_KINDS,
};

/* A fault comes some time after the start, or after a message of a type was sent. */
struct fault {
	enum fault_kind kind;
	const char *after_message; /* NULL: at a time */
	uint64_t delay_ns;
	uint64_t due_ns; /* SLUICE_NEVER: not yet known, or done */
};

/* What a seed decides beforehand. */
struct plan {
	uint32_t lanes, window_bytes;
	uint32_t rails[HOSTS];
	uint64_t rail_down_ns_max; /* how long a dead rail stays dead */
	uint64_t max_bandwidth_bytes_per_s;
	uint32_t nodes; /* of the source's machine, lanes and memory spread over them */
	uint32_t homes; /* so many times a chunk's node is found */
	uint64_t home_ns; /* between two of them */
	uint32_t plugs; /* so many times memory is plugged in or out, at most */
	uint64_t plug_ns; /* between two of them, at most */
	uint64_t region_timeout_ns;
	uint32_t slots, slot_bytes;
	uint32_t devices, device_bytes[ENGINES_DEVICES_MAX];
	uint32_t device_error_ppm; /* per segment: reading or loading fails */
	uint32_t known_zero_ppm;
	bool clean_start; /* the first bitmap is empty: holes stay unsent */
	uint64_t link_ns_min, link_ns_max; /* latency of the peer link */
	uint64_t vmm_ns_max; /* how long a VMM takes to react */
	uint64_t device_ns_max; /* per segment read or loaded */
	uint64_t store_ns; /* between two stores of the guest */
	uint64_t patience_ns; /* then the downtime limit is lifted */
	uint64_t operator_ns; /* in doubt for so long: the operator decides */
	uint64_t restart_ns_max; /* a dead engine's successor */
	uint64_t peer_timeout_ns, lane_timeout_ns, switchover_timeout_ns;
	uint32_t recover_retries;
	uint64_t recover_pause_ns, recover_timeout_ns;
	struct sluice_policy_conf policy;
	struct fault faults[ENGINES_FAULTS_MAX];
	uint32_t fault_count;
	struct guest_opts guest;
	struct sluice_sim_world_opts world;
};

struct letter {
	json_t *message;
	uint64_t due_ns;
	struct letter *next;
};

struct engine;
struct sluice_crew_lane;

/* One connection between the engines. Ends by enum host. */
struct link {
	struct engine *end[HOSTS]; /* NULL: closed at this end */
	bool connecting, stranger, cut;
	uint32_t number; /* in the run: what its secrets are made of */
	uint64_t connect_ns; /* when the source learns that it is up, or is not */
	uint64_t down_ns[HOSTS]; /* when this end learns that it is down */
	uint64_t last_due_ns[HOSTS];
	struct letter *first[HOSTS], *last[HOSTS]; /* letters to this end */
};

/* A reader at the source or a loader at the target. */
struct device {
	bool started, ended, told;
	int code;
	uint64_t at_bytes, next_ns, wait_ns;
	uint32_t seq;
	bool loading; /* target */
	struct sluice_announce announce;
};

/* An engine process. */
struct engine {
	struct run *run;
	enum host host;
	bool alive, listens, successor; /* the successor of one that died knows only the records */
	uint64_t restart_ns;
	struct sluice_source *source;
	struct sluice_target *target;
	struct sluice_crew *crew;
	struct link *link;
	struct sluice_inbox *inbox;
	struct sluice_session_rail rails[ENGINES_RAILS_MAX];
	struct device devices[ENGINES_DEVICES_MAX];
	uint32_t loaded[256], loaded_count; /* slots whose credit was not given back yet */
	struct sluice_session_region regions[ENGINES_SLOTS_MAX];
	uint32_t slot_region[ENGINES_SLOTS_MAX], slot_count; /* which of the guest's it is */
	uint32_t looks[ENGINES_SLOTS_MAX]; /* at the slot's file */
	bool woken;
	uint64_t clock_ns; /* what its clock said last */
	enum sluice_decision records[2]; /* by enum sluice_record_side; outlive the process */
};

struct vmm_event {
	char name[32];
	json_t *data;
	uint64_t due_ns;
	struct vmm_event *next;
};

struct vmm {
	struct run *run;
	enum host host;
	struct vmm_event *first, *last;
	uint64_t last_due_ns;
	bool over; /* knows how it ended */
	bool must_query; /* its engine died: ask the successor */
	/* Source. */
	bool switching, gave, completed, cancelled;
	uint32_t devices_added;
	uint64_t sync_id, next_ns;
	/* Target. */
	bool runs, opened[ENGINES_DEVICES_MAX], loaded[ENGINES_DEVICES_MAX];
	uint64_t loaded_ns[ENGINES_DEVICES_MAX];
};

/* One of the guest's regions at both hosts. Moments: SLUICE_NEVER: nothing is planned. */
struct plug {
	bool in; /* the source's engine has it, and does not let go of it */
	bool leaving; /* it lets go of it */
	uint32_t slot; /* at the source */
	uint64_t feed_ns; /* the source's VMM adds its feed */
	bool there; /* the target's VMM has it */
	uint32_t there_slot;
	uint64_t add_ns, remove_ns; /* the target's VMM does */
};

struct lane_actor {
	struct run *run;
	enum host host;
	uint32_t lane;
};

struct run {
	uint64_t seed;
	bool trace;
	struct plan plan;
	struct engines_stats *stats;
	struct sluice_random random;
	struct sluice_sim_world *world;
	struct sluice_rail *rails[HOSTS][ENGINES_RAILS_MAX];
	uint64_t rail_back_ns[HOSTS][ENGINES_RAILS_MAX]; /* 0: it lives */
	char addresses[ENGINES_RAILS_MAX][SLUICE_ADDRESS_MAX]; /* of the target's */
	struct guest *guest;
	struct oracle *oracle;
	struct scheduler scheduler;
	struct engine engines[HOSTS];
	struct vmm vmms[HOSTS];
	struct link *links[ENGINES_LINKS_MAX];
	uint32_t link_count;
	struct lane_actor lane_actors[HOSTS][ENGINES_LANES_MAX];
	struct sluice_mem *mems[HOSTS][GUEST_REGIONS_MAX][ENGINES_RAILS_MAX];
	struct sluice_bitmap_feed *feeds[GUEST_REGIONS_MAX];
	uint64_t store_next_ns, partition_until_ns, home_next_ns;
	struct sluice_random home_random;
	uint32_t homes_found;
	struct plug plugs[GUEST_REGIONS_MAX];
	struct sluice_random plug_random;
	uint32_t plugs_done, spans;
	uint64_t plug_next_ns;
	struct sluice_mem **retired; /* of regions that were removed at the target */
	uint32_t retired_count;
	uint32_t throttle_percent;
	bool session_seen; /* the target has had a session */
	bool limit_lifted, was_in_doubt, operator_decided, was_throttled;
	bool was_paused, was_paused_by_operator, paused_now;
	uint64_t doubt_since_ns, operator_next_ns, pause_since_ns;
	uint64_t hash;
};

/* engines.c */
uint64_t run_now(const struct run *run);
/* 1 .. max, in ns. */
uint64_t run_delay(struct run *run, uint64_t max_ns);
bool run_chance(struct run *run, uint32_t ppm);
void run_say(struct run *run, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* A region's memory with each rail of a host. */
void register_with_all(
	struct run *run, enum host host, uint32_t region, const struct sluice_span *span);

/* engines_plan.c */
void plan_make(struct plan *plan, uint64_t seed);

/* engines_host.c */
extern const char engines_session_id[];
void engine_init(struct run *run, enum host host);
void engine_migrate(struct engine *engine);
void engine_kill(struct engine *engine);
void engine_clear(struct engine *engine);
/* "none", "active", "prepared", "in-doubt", "committed", "aborted"; as query-session. */
const char *engine_session_status(struct engine *engine);
void engine_link_up(struct engine *engine);
void engine_link_message(struct engine *engine, struct link *link, const json_t *message);
void engine_link_down(struct engine *engine, struct link *link, int code, const char *why);
void engine_tick(struct engine *engine);
uint64_t engine_step(void *engine, uint64_t now_ns);
uint64_t engine_lane_step(void *lane_actor, uint64_t now_ns);
/* The first-decision-wins record of a host. */
enum sluice_decision engine_decide(
	struct engine *engine, enum sluice_record_side side, enum sluice_decision decision);

/* engines_homes.c */
void engine_homes_spread(const struct run *run, struct sluice_crew_lane *lanes);
void engine_homes_make(struct engine *engine);
uint64_t engine_homes_step(void *run, uint64_t now_ns);

/* engines_plug.c */
extern const char *const engines_region_ids[GUEST_REGIONS_MAX];
void plug_begin(struct run *run);
void plug_end(struct run *run);
void plug_fill_slot(struct engine *engine, uint32_t slot, uint32_t region);
uint64_t plug_step(void *run, uint64_t now_ns);
void plug_gone(struct engine *source, uint32_t slot); /* the source's session let go of it */
void plug_wanted(struct run *run, const char *id); /* the target's VMM hears it */
void plug_released(struct run *run, const char *id);
void plug_count_moved(struct run *run);

/* engines_link.c */
struct link *link_connect(struct engine *source);
void link_send(struct link *link, enum host from, const json_t *message);
void link_close(struct link *link, enum host end);
void link_cut(struct run *run, struct link *link);
bool link_any_letters(const struct run *run);
uint64_t links_step(void *run, uint64_t now_ns);
void links_destroy(struct run *run);

/* engines_device.c */
uint64_t device_step(void *engine, uint64_t now_ns);
/* What the readers and loaders have to tell the session. */
void device_poll(struct engine *engine);

/* engines_vmm.c */
void vmm_tell(struct vmm *vmm, const char *name, json_t *data, uint64_t delay_ns);
/* The engine's end of the socket is gone; of what it had said last some may be lost. */
void vmm_engine_gone(struct vmm *vmm);
uint64_t vmm_step(void *vmm, uint64_t now_ns);
void vmm_destroy(struct vmm *vmm);
void vmm_source_ended(struct vmm *vmm, bool given_away);

/* engines_chaos.c */
void chaos_message_sent(struct run *run, const char *type);
uint64_t chaos_step(void *run, uint64_t now_ns);
uint64_t operator_step(void *run, uint64_t now_ns);

#endif
