/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * lane_guard.h: proof that a running lane neither allocates, locks, logs nor blocks.
 *
 * lane_guard.c is linked into a test program, whose own definitions of malloc(), poll(), write()
 * and others then come before those of the C library, for all its libraries too. Between
 * lane_guard_enter() and lane_guard_leave() a thread that calls one of those names it on standard
 * error, with a backtrace, and aborts. Production code knows nothing of it: what is guarded is
 * wrapped from outside, a transport by lane_guard_transport(), an engine's lanes by the linker
 * (lane_guard_engine.c).
 *
 * Allowed on descriptors: what cannot wait, because they are O_NONBLOCK or the call says
 * MSG_DONTWAIT; commands to a verbs device, which the kernel carries out without sleeping (posting,
 * asking for a notification); pread() of a file in memory, such as the guest's, which waits for
 * nothing that a touch of the page would not wait for. Allowed is also the spinlock that a verbs
 * provider, and nobody else, takes around a queue: queues of a lane belong to one worker, so it is
 * always free.
 *
 * Sanitizers define the same functions: with them the guard does nothing, and LANE_GUARD_WORKS is 0.
 */
#ifndef SLUICE_TESTS_SUPPORT_LANE_GUARD_H
#define SLUICE_TESTS_SUPPORT_LANE_GUARD_H

#include <stdbool.h>

#include <sluice/transport.h>

#ifndef __has_feature
#define __has_feature(name) 0 /* gcc says it by macros */
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || \
	__has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define LANE_GUARD_WORKS 0
#else
#define LANE_GUARD_WORKS 1
#endif

/* Of the calling thread. They do not nest. */
void lane_guard_enter(void);
void lane_guard_leave(void);

/* @inner with submit, poll and arm guarded. One transport per program; lives for ever. */
const struct sluice_transport *lane_guard_transport(const struct sluice_transport *inner);

#endif
