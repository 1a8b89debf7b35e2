/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * conformance.h: what a transport provides so that the one suite can run over it.
 *
 * The suite knows include/sluice/transport.h and this file, nothing of any transport. A
 * driver is one file, driver_NAME.c, with a main() that returns conformance_main(&driver).
 * It is built when transports/ has a transport of that NAME.
 *
 * Threading: one thread plays the control threads and the workers of both ends in turn.
 */
#ifndef SLUICE_TESTS_CONFORMANCE_H
#define SLUICE_TESTS_CONFORMANCE_H

#include <stdbool.h>
#include <stdint.h>

#include <sluice/transport.h>

enum conformance_flags {
	/* Time moves in turn() only. The suite then never sleeps: a deadline that arm() names
	   is reached by turn(), and a descriptor that it names is not looked at. */
	CONFORMANCE_VIRTUAL_TIME = 1 << 0,
	/* PLACED does not say that the target's CPU sees it (RDMA): the suite flushes before it
	   looks. A transport without this flag has to show at PLACED what it placed. */
	CONFORMANCE_PLACED_UNSEEN = 1 << 1,
	/* More than the contract asks for: a WRITE takes effect behind a ZERO of the same lane and
	   the same bytes, placed or not. */
	CONFORMANCE_OVERLAPS_IN_ORDER = 1 << 2,
	/* A WRITE lands wherever its sender was given the key of, whatever mem_admit says: a NIC
	   places it (RDMA). A ZERO does not. */
	CONFORMANCE_KEYS_STAY = 1 << 3,
};

/* Two rails of one transport that reach each other. Filled by pair_open. */
struct conformance_pair {
	const struct conformance_driver *driver; /* set by the suite */
	const struct sluice_transport *transport; /* set by the suite, from the driver */
	struct sluice_rail *source; /* connects out */
	struct sluice_rail *target; /* listens */
	char target_address[SLUICE_ADDRESS_MAX]; /* what rail_listen said */
	void *ctx; /* the driver's own */
};

struct conformance_driver {
	const char *name;
	const struct sluice_transport *transport;
	uint32_t flags; /* enum conformance_flags */

	/* Open both rails and let the target's listen. 0 or -errno. */
	int (*pair_open)(struct conformance_pair *pair);
	/* Close both rails. Lanes and memory are gone by then. */
	void (*pair_close)(struct conformance_pair *pair);
	/* The clock that poll, submit, rail_step and the lanes' deadlines are given. */
	uint64_t (*now_ns)(struct conformance_pair *pair);
	/*
	 * One turn of everything that is not a lane: rail_step of both rails. Virtual time also
	 * moves on to the next thing that happens in the simulated network, by at least one
	 * nanosecond and at most @ns_max (> 0), and that thing happens. A real-time driver
	 * ignores @ns_max and does not sleep: the suite does.
	 */
	void (*turn)(struct conformance_pair *pair, uint64_t ns_max);
	/*
	 * Optional. While held, nothing that the source submits reaches the target's memory,
	 * whoever polls and however far time goes; after release it arrives if it may. NULL: the
	 * suite holds by not polling the target's lanes, which must then have the same effect.
	 */
	void (*hold)(struct conformance_pair *pair, bool hold);
	/*
	 * Optional. The peer of @conn dies without a word: nothing from it arrives any more, and
	 * @conn must become LOST by itself (virtual time goes on as long as needed, at most a
	 * minute). NULL: the case is left out; a peer that closes is always tested.
	 */
	void (*kill_peer)(struct conformance_pair *pair, struct sluice_conn *conn);
};

/* For pair_open and pair_close: rails with this conf of the transport's, the source's at
   @source_address and the target's, which listens, at @target_address. 0 or -errno, printed. */
int conformance_rails_open(struct conformance_pair *pair, const void *conf,
	const char *source_address, const char *target_address);
void conformance_rails_close(struct conformance_pair *pair);

/* Run every case. Returns the exit code for main: 0 when all passed. */
int conformance_main(const struct conformance_driver *driver);

#endif
