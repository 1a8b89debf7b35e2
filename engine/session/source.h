/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * source.h: a session at the host that the guest leaves.
 *
 * The guest stays the source's until the VMM has acknowledged SWITCHOVER_COMMIT and the decision
 * is recorded. Every failure before that ends in MIGRATION "failed" with the guest running here.
 *
 * Threads: the control thread.
 */
#ifndef SLUICE_ENGINE_SOURCE_H
#define SLUICE_ENGINE_SOURCE_H

#include "engine/session/session.h"

struct sluice_source;

int sluice_source_create(const struct sluice_session_conf *conf,
	const struct sluice_session_env *env, struct sluice_source **ret_source);
/* Closes lanes and frees; says nothing to anybody. NULL is allowed. */
void sluice_source_destroy(struct sluice_source *source);

/* What happened. */
void sluice_source_connected(struct sluice_source *source);
void sluice_source_peer_message(struct sluice_source *source, const json_t *message);
/* It said what is no message; peer_lost() follows. */
void sluice_source_peer_bad(struct sluice_source *source, const char *why);
/* The link is gone, or the attempt to make one failed. @code: -errno; -ECONNREFUSED of an attempt
   says that the host answers and nobody listens there. */
void sluice_source_peer_lost(struct sluice_source *source, int code, const char *why);
void sluice_source_vmm_lost(struct sluice_source *source);
/* A device's reader ended: @code 0, or -errno of the read. */
void sluice_source_device_read(struct sluice_source *source, uint32_t device, int code);
/* Time passed, or a lane or reader called wake. */
void sluice_source_tick(struct sluice_source *source);
/* When tick wants to be called at the latest. */
uint64_t sluice_source_deadline_ns(const struct sluice_source *source);

/* What the VMM says. */
/* @worked_ns: of the time since it was asked; the rest was the way there and back. 0: not known. */
int sluice_source_dirty_sync_done(
	struct sluice_source *source, uint64_t id, uint64_t worked_ns, struct sluice_error *err);
/* Steals @fd, also on failure. */
int sluice_source_device_add(
	struct sluice_source *source, const char *device, int fd, struct sluice_error *err);
int sluice_source_continue(
	struct sluice_source *source, const char *state, struct sluice_error *err);
/* These pages of a region are zeros now: a write by the VMM that no dirty log shows. Refused once
   the VMM has said that the guest is stopped. */
int sluice_source_discard(struct sluice_source *source, uint32_t region, uint64_t offset,
	uint64_t len_bytes, struct sluice_error *err);
/*
 * Regions that come and go (source_regions.c). The env's regions have one more, behind the others;
 * then, it has a feed. Nothing is waited for here. Once the guest is to be stopped they may not
 * change: -EBUSY.
 */
int sluice_source_may_change(
	const struct sluice_source *source, const char *command, struct sluice_error *err);
void sluice_source_region_add(struct sluice_source *source, uint32_t region);
void sluice_source_region_fed(struct sluice_source *source, uint32_t region);
/* The VMM takes it back. Ends in the env's region_gone(), in a later call. -EBUSY, -EALREADY. */
int sluice_source_region_remove(
	struct sluice_source *source, uint32_t region, struct sluice_error *err);
/* The VMM takes it back, or has: until region_gone() no other region may have its id. */
bool sluice_source_region_leaves(const struct sluice_source *source, uint32_t region);
/* "moving", "leaving", or what it waits for; for people. */
const char *sluice_source_region_standing(const struct sluice_source *source, uint32_t region);
/* Stop lanes and peer link until sluice_source_recover(). */
int sluice_source_pause(struct sluice_source *source, struct sluice_error *err);
/* Connect again at once, with all retries anew. @elsewhere: the peer has another address now, so a
   link that stands is given up too. */
int sluice_source_recover(struct sluice_source *source, bool elsewhere, struct sluice_error *err);
int sluice_source_cancel(struct sluice_source *source, struct sluice_error *err);
/* The operator decides a session in doubt. */
int sluice_source_resolve(
	struct sluice_source *source, enum sluice_decision decision, struct sluice_error *err);

bool sluice_source_is_over(const struct sluice_source *source);
bool sluice_source_is_in_doubt(const struct sluice_source *source);
const char *sluice_source_status(const struct sluice_source *source); /* QEMU's names */
/* New settings for what is still to be decided (downtime-limit, throttling). */
void sluice_source_set_policy(
	struct sluice_source *source, const struct sluice_policy_conf *policy);
/* A new limit, 0 for none. Once the guest is stopped there is none. */
void sluice_source_set_max_bandwidth(struct sluice_source *source, uint64_t bytes_per_s);
/* Page size of what backs a region at the target; 0 before the target has said so. */
uint64_t sluice_source_peer_page_bytes(const struct sluice_source *source, uint32_t region);
struct sluice_outbox *sluice_source_outbox(struct sluice_source *source);
const struct sluice_lane_set *sluice_source_lanes(const struct sluice_source *source);
json_t *sluice_source_query(const struct sluice_source *source); /* for query-migrate */

#endif
