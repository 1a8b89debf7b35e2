/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * tcp_world.h: a rail of the tcp transport and registered memory between guards, for the two
 * targets that speak to a lane of it through a bare socket. One thread plays everybody.
 */
#ifndef SLUICE_TESTS_FUZZ_TCP_WORLD_H
#define SLUICE_TESTS_FUZZ_TCP_WORLD_H

#include <sluice/transport.h>

#include "base/bits.h"
#include "tests/fuzz/fuzz.h"
#include "transports/tcp/wire.h"

#define TCP_REGION_BYTES (64u << 10)
#define TCP_REGION_ID    7u
#define TCP_READONLY_ID  8u
#define TCP_READONLY     0x77 /* what the read-only registration is full of */

/* Made once: rails and memory keep nothing of a lane that is closed. */
struct tcp_world {
	struct sluice_rail *rail;
	char address[SLUICE_ADDRESS_MAX];
	uint8_t *region, *readonly; /* each with an unmapped page on both sides */
	struct sluice_mem *region_mem, *readonly_mem;
	struct sluice_remote *remote; /* the region, as a source sees it */
};

struct tcp_world *tcp_world(void);

/* Sockets on loopback. A socket that is closed this way leaves nothing behind. */
int tcp_world_connect(const char *address);
int tcp_world_listen(char address[SLUICE_ADDRESS_MAX]);
void tcp_world_reset(int fd);
void tcp_world_write(int fd, const void *bytes, size_t count);

#endif
