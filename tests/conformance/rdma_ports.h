/* SPDX-License-Identifier: BSD-3-Clause */
/* rdma_ports.h: the RDMA ports that tests use: two that reach each other. */
#ifndef SLUICE_TESTS_CONFORMANCE_RDMA_PORTS_H
#define SLUICE_TESTS_CONFORMANCE_RDMA_PORTS_H

#include <stdbool.h>
#include <stdint.h>

#include <sluice/transport.h>

/* The first two that can carry lanes and are in one IPv4 network. 0, or 77 with a reason printed. */
int rdma_ports_find(char ret_source[SLUICE_ADDRESS_MAX], char ret_target[SLUICE_ADDRESS_MAX]);
/* The network interface that has the IPv4 address @text, and its network. */
bool rdma_ports_interface(const char *text, char ret_name[64], uint32_t *ret_network);

#endif
