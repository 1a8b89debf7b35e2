/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * placing.h: what the engine does with a plan (engine/placement/plan.h): it makes one for each
 * session, starts workers by it, puts memory where it says, and finds out on which nodes the
 * guest's memory is. Control thread.
 */
#ifndef SLUICE_ENGINE_PLACING_H
#define SLUICE_ENGINE_PLACING_H

#include <jansson.h>

#include <sluice/error.h>

#include "engine/placement/node_memory.h"
#include "engine/placement/plan.h"

struct sluice_client;
struct sluice_config;
struct sluice_engine;
struct sluice_placing;
struct sluice_transport;

/* The settings' own contradictions, before a session needs them. */
int sluice_placing_check(
	struct sluice_engine *engine, const struct sluice_config *config, struct sluice_error *err);
/* A plan for a session of @lanes (0: choose), and its workers. */
int sluice_placing_begin(struct sluice_engine *engine, uint32_t lanes, struct sluice_error *err);
uint32_t sluice_placing_lanes(const struct sluice_engine *engine); /* of that plan */
/* The rail of each of these lanes, when they use the rails of @transport. */
void sluice_placing_rails(struct sluice_engine *engine, const struct sluice_transport *transport,
	uint32_t *ret_rails);
/* NUMA nodes near to a rail of the engine, by number; 0: none is nearer, or there is no plan yet. */
uint64_t sluice_placing_rail_nodes(const struct sluice_engine *engine, uint32_t rail);
/* Where the session's own memory belongs, for sluice_node_prefer(). */
uint64_t sluice_placing_bitmap_nodes(const struct sluice_engine *engine);
uint64_t sluice_placing_staging_nodes(const struct sluice_engine *engine);
/* A source was made: its ledger gets queues per node, and chunks are looked for on them. */
int sluice_placing_source(struct sluice_engine *engine, struct sluice_error *err);
/* The session's memory goes away: look no more. */
void sluice_placing_end(struct sluice_engine *engine);
void sluice_placing_destroy(struct sluice_engine *engine);

/* What the rails of the preferred transport carry together, 0 when nobody knows; and their names. */
uint64_t sluice_placing_link_bytes_per_s(
	struct sluice_engine *engine, char *names, size_t names_bytes);

/* The command query-placement. */
json_t *sluice_placing_query(
	void *engine, struct sluice_client *client, json_t *args, struct sluice_error *err);

#endif
