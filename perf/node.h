/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * node.h: one side of a migration: a refvm, the engine it launched, and a connection to the
 * monitor of each. One thread; calls block until answered.
 */
#ifndef SLUICE_PERF_NODE_H
#define SLUICE_PERF_NODE_H

#include <stdbool.h>

#include <jansson.h>

#include <sluice/error.h>
#include <sluice/sluice.h>

#include "perf/config.h"
#include "perf/process.h"

struct perf_node {
	char name[16];
	unsigned int index;
	char monitor_path[PERF_PATH_MAX];
	char engine_path[PERF_PATH_MAX];
	char runtime_path[PERF_PATH_MAX]; /* where the engine records its decisions */
	struct perf_process vmm;
	struct perf_process engine;
	struct sluice_vmm *monitor; /* refvm's; the grammar is the same */
	struct sluice_vmm *engine_link; /* an operator's connection, not the VMM's */
};

struct perf_place {
	const char *dir; /* for sockets, records and logs */
	unsigned int index; /* of the node: names its files, and picks what alternates */
	const char *witness; /* file that all nodes of one guest share, see refvm --help */
};

/* Start both processes and connect to them. @incoming: it waits for a guest. */
int perf_node_start(struct perf_node *node, const struct perf_config *config,
	const struct perf_place *place, bool incoming, struct sluice_error *err);
/* End both processes. Idempotent; a zeroed node is allowed. */
void perf_node_end(struct perf_node *node);
/* -EPIPE and a description when one of the two processes has died. */
int perf_node_check(const struct perf_node *node, struct sluice_error *err);
void perf_node_print_tails(const struct perf_node *node, FILE *out);

/* A program's path: @configured unless it is empty; else next to this program, as installed; else in
   that folder of the build; else its name, for PATH to find. */
void perf_find_program(const char *configured, const char *name, const char *folder_in_build,
	char path[PERF_PATH_MAX]);

/* Run a command with arguments (stolen; NULL for none); *ret_value may be NULL. */
int perf_command(struct sluice_vmm *link, const char *name, json_t *arguments, json_t **ret_value,
	struct sluice_error *err);

#endif
