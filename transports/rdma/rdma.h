/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * rdma.h: what others may know of the rdma transport: its table and its configuration. The
 * engine reaches everything through `struct sluice_transport` instead.
 */
#ifndef SLUICE_TRANSPORTS_RDMA_RDMA_H
#define SLUICE_TRANSPORTS_RDMA_RDMA_H

#include <stdint.h>

#include <sluice/transport.h>

extern const struct sluice_transport sluice_transport_rdma;
extern const struct sluice_param sluice_rdma_params[];

struct rdma_conf {
	uint64_t path_timeout_ns;
	uint64_t traffic_class;
	uint64_t service_level;
	uint64_t registration_bytes;
};

#endif
