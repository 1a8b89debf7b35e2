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

enum tcp_checksum_kind { TCP_CHECKSUM_NONE, TCP_CHECKSUM_XXH3 };

struct tcp_conf {
	bool nodelay;
	bool zero_copy;
	int checksum; /* enum tcp_checksum_kind */
	uint64_t send_buffer_bytes;
	uint64_t receive_buffer_bytes;
};

#endif
