/* SPDX-License-Identifier: BSD-3-Clause */
/* internal.h: what the files of libsluice share; not installed. */
#ifndef SLUICE_LIBSLUICE_INTERNAL_H
#define SLUICE_LIBSLUICE_INTERNAL_H

#include <sluice/error.h>

/* Only what the public header declares is visible to programs; see libsluice.map. */
#pragma GCC visibility push(default)
#include <sluice/sluice.h>
#pragma GCC visibility pop

#define SLUICE_VMM_WHERE "libsluice"

/* Take over a connected socket: greeting and negotiation. Owns @fd, also on failure. */
int sluice_vmm_open(int fd, struct sluice_vmm **ret_vmm, struct sluice_error *err);

#endif
