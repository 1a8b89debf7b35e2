/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * target.h: a session at the host that the guest comes to.
 *
 * The target never runs the guest without a recorded commit, and a session that it has answered
 * with "aborted" is burnt: it can never commit here any more.
 *
 * Threads: the control thread.
 */
#ifndef SLUICE_ENGINE_TARGET_H
#define SLUICE_ENGINE_TARGET_H

#include "engine/session/session.h"

struct sluice_target;

/* @hello: the source's first message, already checked against the schema. On failure the reason
   is in *err and should be sent back as `refuse`. */
int sluice_target_create(const struct sluice_session_conf *conf,
	const struct sluice_session_env *env, const json_t *hello,
	struct sluice_target **ret_target, struct sluice_error *err);
void sluice_target_destroy(struct sluice_target *target); /* NULL is allowed */

void sluice_target_peer_message(struct sluice_target *target, const json_t *message);
/* It said what is no message; peer_lost() follows. */
void sluice_target_peer_bad(struct sluice_target *target, const char *why);
void sluice_target_peer_lost(struct sluice_target *target, const char *why);
/* Whether a connection that begins with `resume` is this session's source come back; *err says why
   it is not. Then peer_back() and peer_message(). */
int sluice_target_check_resume(
	const struct sluice_target *target, const json_t *message, struct sluice_error *err);
/* The source says hello with another session: it has given up the one that is paused here. */
void sluice_target_superseded(struct sluice_target *target, const json_t *hello);
/* The source (or its successor) connected again and speaks of this session. */
void sluice_target_peer_back(struct sluice_target *target);
void sluice_target_vmm_lost(struct sluice_target *target);
void sluice_target_tick(struct sluice_target *target);
uint64_t sluice_target_deadline_ns(const struct sluice_target *target);
/* The loader of a device: one segment done; all done (or -errno). */
void sluice_target_segment_loaded(struct sluice_target *target, uint32_t slot);
void sluice_target_device_written(struct sluice_target *target, uint32_t device, int code);

/* Steals @fd, also on failure. */
int sluice_target_device_add(
	struct sluice_target *target, const char *device, int fd, struct sluice_error *err);
int sluice_target_device_loaded(
	struct sluice_target *target, const char *device, struct sluice_error *err);
/*
 * Regions that come and go (target_regions.c). Whether the VMM may add this one: -EBUSY, -EINVAL:
 * the source has another of that id. Then the env's regions have one more, behind the others. A
 * region that the source has may not be removed: -EBUSY.
 */
int sluice_target_may_add(const struct sluice_target *target,
	const struct sluice_session_region *region, struct sluice_error *err);
void sluice_target_region_add(struct sluice_target *target, uint32_t region);
int sluice_target_may_remove(
	const struct sluice_target *target, uint32_t region, struct sluice_error *err);
bool sluice_target_region_is_bound(const struct sluice_target *target, uint32_t region);

int sluice_target_cancel(struct sluice_target *target, struct sluice_error *err);
/* The operator decides a prepared session that has lost its source. `aborted` burns it. */
int sluice_target_resolve(
	struct sluice_target *target, enum sluice_decision decision, struct sluice_error *err);

bool sluice_target_is_over(const struct sluice_target *target);
bool sluice_target_is_prepared(const struct sluice_target *target);
const char *sluice_target_status(const struct sluice_target *target);
const char *sluice_target_session(const struct sluice_target *target);
/* Page size of what backs a region at the source. */
uint64_t sluice_target_peer_page_bytes(const struct sluice_target *target, uint32_t region);
const struct sluice_lane_set *sluice_target_lanes(const struct sluice_target *target);
json_t *sluice_target_query(const struct sluice_target *target);

#endif
