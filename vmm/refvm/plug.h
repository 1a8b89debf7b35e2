/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * plug.h: memory that is plugged into the running machine, and out of it, also during a migration.
 *
 * In:  memory, mapped and tracked; then the engine has it; then the guest is told.
 * Out: the guest lets go of it; then the engine does; then the memory goes.
 *
 * Where no guest is (the target of a migration) it is only the machine and the engine that have it.
 * The operator says it at both hosts, with the same DIMM and size.
 *
 * Threading: main thread. Calls wait for the engine, and for vCPUs to finish a step.
 */
#ifndef REFVM_PLUG_H
#define REFVM_PLUG_H

#include <stdint.h>

#include <sluice/error.h>

struct refvm;

int refvm_plug(struct refvm *r, unsigned int dimm, uint64_t bytes, struct sluice_error *err);
/* 0: it is gone. 1: the engine still has it, refvm_unplugged() follows. */
int refvm_unplug(struct refvm *r, unsigned int dimm, struct sluice_error *err);
/* MEMORY_REMOVED; NULL: the engine that had some is gone, or has ended the migration. */
void refvm_unplugged(struct refvm *r, const char *id);

#endif
