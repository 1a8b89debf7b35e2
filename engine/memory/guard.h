/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * guard.h: reading a mapping whose file may shrink. A SIGBUS inside a guarded range puts zero
 * pages there and marks the range lost: the session fails, the engine lives on. A SIGBUS anywhere
 * else ends the process as usual.
 *
 * Threads: enter, leave and is_lost are for the control thread; the handler runs on whichever
 * thread read the page.
 */
#ifndef SLUICE_ENGINE_MEMORY_GUARD_H
#define SLUICE_ENGINE_MEMORY_GUARD_H

#include <stdbool.h>
#include <stddef.h>

int sluice_guard_enter(void *base, size_t len_bytes);
void sluice_guard_leave(void *base);
bool sluice_guard_is_lost(const void *base);

#endif
