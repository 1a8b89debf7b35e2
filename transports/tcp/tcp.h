/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * tcp.h: what others may know of the tcp transport: its configuration and its rails'
 * counters. The engine reaches everything through `struct sluice_transport` instead.
 */
#ifndef SLUICE_TRANSPORTS_TCP_TCP_H
#define SLUICE_TRANSPORTS_TCP_TCP_H

#include <stdbool.h>
#include <stdint.h>

#include <sluice/transport.h>

extern const struct sluice_transport sluice_transport_tcp;
extern const struct sluice_param sluice_tcp_params[];

struct tcp_conf {
	bool nodelay;
	bool allow_network;
	uint64_t send_buffer_bytes;
	uint64_t receive_buffer_bytes;
};

/* Of connections that asked for a lane of this rail. Control thread. */
struct tcp_rail_counters {
	uint64_t accepted; /* by the kernel */
	uint64_t welcomed; /* became a lane */
	uint64_t refused_hello; /* malformed, or another version */
	uint64_t refused_ticket; /* well-formed, but nobody waits for it */
	uint64_t refused_deadline; /* too slow, or pushed out by newer ones */
};

const struct tcp_rail_counters *sluice_tcp_rail_counters(const struct sluice_rail *rail);

#endif
