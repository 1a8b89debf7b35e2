/* SPDX-License-Identifier: BSD-3-Clause */
/* internal.h: what the files of libsluice share; not installed. */
#ifndef SLUICE_LIBSLUICE_INTERNAL_H
#define SLUICE_LIBSLUICE_INTERNAL_H

#include <stdbool.h>
#include <stdint.h>

#include <sluice/error.h>

/* Only what the public header declares is visible to programs; see libsluice.map. */
#pragma GCC visibility push(default)
#include <sluice/sluice.h>
#pragma GCC visibility pop

#define SLUICE_VMM_WHERE "libsluice"

/* Take over a connected socket: greeting and negotiation. Owns @fd, also on failure. */
int sluice_vmm_open(int fd, struct sluice_vmm **ret_vmm, struct sluice_error *err);
/* Microseconds since the caller took the DIRTY_SYNC of that id; false: it was another one, or none. */
bool sluice_vmm_sync_age(const struct sluice_vmm *vmm, uint64_t id, uint64_t *ret_age_us);

#endif
