/* SPDX-License-Identifier: BSD-3-Clause */
/* probe.h: what the system tells of RDMA devices and their ports. Control thread. */
#ifndef SLUICE_TRANSPORTS_RDMA_PROBE_H
#define SLUICE_TRANSPORTS_RDMA_PROBE_H

#include <infiniband/verbs.h>
#include <stdint.h>

#include <sluice/transport.h>

int sluice_rdma_probe(
	const void *conf, struct sluice_rail_info *rails, uint32_t max, struct sluice_error *err);
/* Nominal; 0: unknown. */
uint64_t sluice_rdma_link_bytes_per_s(const struct ibv_port_attr *port);
uint32_t sluice_rdma_mtu_bytes(const struct ibv_port_attr *port);
/* -1: unknown. */
int sluice_rdma_numa_node(const struct ibv_device *device);

#endif
