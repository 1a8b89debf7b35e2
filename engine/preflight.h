/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * preflight.h: what would make a migration fail or slow, found before anything moves. Each check
 * says one thing: ok, a warning, or failed, and what to do about it.
 *
 * Threads: the control thread. Reads settings, limits and files; may register a sample of memory; may ask the resolver for a name.
 */
#ifndef SLUICE_ENGINE_PREFLIGHT_H
#define SLUICE_ENGINE_PREFLIGHT_H

#include <jansson.h>

struct sluice_engine;

/* @uri: also look at the way to this peer; NULL: not. The reply of the command `preflight`. */
json_t *sluice_preflight(struct sluice_engine *engine, const char *uri);

#endif
