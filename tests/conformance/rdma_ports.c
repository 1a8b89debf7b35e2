/* SPDX-License-Identifier: BSD-3-Clause */
/* rdma_ports.c: see rdma_ports.h. */
#include "tests/conformance/rdma_ports.h"

#include <ifaddrs.h>
#include <stdio.h>

#include "base/inet.h"
#include "base/params.h"
#include "transports/rdma/rdma.h"

#define SKIPPED   77
#define RAILS_MAX 16

/* The interface that has the IPv4 address @text, and its network. */
bool rdma_ports_interface(const char *text, char ret_name[64], uint32_t *ret_network)
{
	struct ifaddrs *list, *at;
	struct sluice_inet wanted;
	bool found = false;

	if (sluice_inet_parse(text, &wanted, NULL) < 0 || getifaddrs(&list) < 0)
		return false;
	for (at = list; at != NULL && !found; at = at->ifa_next) {
		const struct sockaddr_in *in = (const struct sockaddr_in *)(void *)at->ifa_addr;
		const struct sockaddr_in *mask =
			(const struct sockaddr_in *)(void *)at->ifa_netmask;

		found = in != NULL && mask != NULL && in->sin_family == AF_INET &&
			in->sin_addr.s_addr == wanted.u.in.sin_addr.s_addr;
		if (found) {
			snprintf(ret_name, 64, "%s", at->ifa_name);
			*ret_network = in->sin_addr.s_addr & mask->sin_addr.s_addr;
		}
	}
	freeifaddrs(list);
	return found;
}

int rdma_ports_find(char ret_source[SLUICE_ADDRESS_MAX], char ret_target[SLUICE_ADDRESS_MAX])
{
	struct sluice_rail_info rails[RAILS_MAX];
	struct sluice_error err = {0};
	uint32_t network = 0, other = 0;
	struct rdma_conf conf;
	char name[64];
	int count;

	sluice_params_defaults(sluice_rdma_params, &conf);
	count = sluice_transport_rdma.probe(&conf, rails, RAILS_MAX, &err);
	if (count < 0)
		printf("skipped: %s\n", err.text);
	for (int i = 0; i < count && i < RAILS_MAX; i++) {
		printf("%s %s: %s\n", rails[i].device, rails[i].address, rails[i].note);
		if (!rails[i].usable || !rdma_ports_interface(rails[i].address, name, &other))
			continue;
		snprintf(network == 0 ? ret_source : ret_target, SLUICE_ADDRESS_MAX, "%s",
			rails[i].address);
		if (other == network)
			return 0;
		network = network == 0 ? other : network;
	}
	if (count >= 0)
		printf("skipped: two RDMA ports in one IPv4 network are needed "
		       "(scripts/rxe-setup pair 0, or scripts/lab)\n");
	return SKIPPED;
}
