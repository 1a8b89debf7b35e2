/* SPDX-License-Identifier: BSD-3-Clause */
/* probe.c: the RDMA ports of this host that rails could be opened on. Control thread. */
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "transports/rdma/internal.h"
#include "transports/rdma/probe.h"

#define NOTE(info, ...) snprintf((info)->note, sizeof((info)->note), __VA_ARGS__)

uint64_t sluice_rdma_link_bytes_per_s(const struct ibv_port_attr *port)
{
	static const struct {
		uint8_t speed;
		uint32_t mbit_per_lane;
	} speeds[] = {{1, 2000}, {2, 4000}, {4, 8000}, {8, 10000}, {16, 13636}, {32, 24242},
		{64, 48484}, {128, 97000}};
	uint32_t mbit = 0, lanes = 0;

	for (size_t i = 0; i < sizeof(speeds) / sizeof(speeds[0]); i++) {
		if (port->active_speed == speeds[i].speed)
			mbit = speeds[i].mbit_per_lane;
	}
	switch (port->active_width) {
	case 1:
		lanes = 1;
		break;
	case 2:
		lanes = 4;
		break;
	case 4:
		lanes = 8;
		break;
	case 8:
		lanes = 12;
		break;
	case 16:
		lanes = 2;
		break;
	default:
		break;
	}
	return (uint64_t)mbit * lanes * 125000;
}

uint32_t sluice_rdma_mtu_bytes(const struct ibv_port_attr *port)
{
	return port->active_mtu >= IBV_MTU_256 && port->active_mtu <= IBV_MTU_4096
		       ? 128u << port->active_mtu
		       : 0;
}

int sluice_rdma_numa_node(const struct ibv_device *device)
{
	char path[IBV_SYSFS_PATH_MAX + 32];
	int node = -1;
	FILE *file;

	snprintf(path, sizeof(path), "%s/device/numa_node", device->ibdev_path);
	file = fopen(path, "re");
	if (file == NULL)
		return -1;
	if (fscanf(file, "%d", &node) != 1)
		node = -1;
	fclose(file);
	return node;
}

/* RoCE v2: the address is in the table of GIDs. An IPv4 address is preferred. */
static bool find_address(struct ibv_context *verbs, uint8_t port, int entries,
	struct sluice_inet *ret_address, uint32_t *ret_index)
{
	bool found = false;

	for (int i = 0; i < entries; i++) {
		struct ibv_gid_entry entry;
		const struct in6_addr *in6 = (const struct in6_addr *)&entry.gid;

		if (ibv_query_gid_ex(verbs, port, (uint32_t)i, &entry, 0) != 0 ||
			entry.gid_type != IBV_GID_TYPE_ROCE_V2)
			continue;
		if (IN6_IS_ADDR_V4MAPPED(in6)) {
			*ret_address = (struct sluice_inet){.len = sizeof(struct sockaddr_in)};
			ret_address->u.in.sin_family = AF_INET;
			memcpy(&ret_address->u.in.sin_addr, in6->s6_addr + 12, 4);
			*ret_index = (uint32_t)i;
			return true;
		}
		if (!found && !IN6_IS_ADDR_LINKLOCAL(in6)) {
			*ret_address = (struct sluice_inet){.len = sizeof(struct sockaddr_in6)};
			ret_address->u.in6.sin6_family = AF_INET6;
			ret_address->u.in6.sin6_addr = *in6;
			*ret_index = (uint32_t)i;
			found = true;
		}
	}
	return found;
}

static void probe_port(struct ibv_context *verbs, const struct ibv_device_attr *device,
	uint8_t index, struct sluice_rail_info *info)
{
	struct sluice_inet address;
	struct ibv_port_attr port;
	uint32_t gid = 0;
	bool found;

	*info = (struct sluice_rail_info){
		.numa_node = sluice_rdma_numa_node(verbs->device),
		.mr_bytes_max = device->max_mr_size,
		.mr_max = (uint32_t)device->max_mr,
	};
	snprintf(info->device, sizeof(info->device), "%.50s/%u", ibv_get_device_name(verbs->device),
		index);
	if (ibv_query_port(verbs, index, &port) != 0) {
		NOTE(info, "its port cannot be asked: %s", strerror(errno));
		return;
	}
	info->mtu_bytes = sluice_rdma_mtu_bytes(&port);
	info->link_bytes_per_s = sluice_rdma_link_bytes_per_s(&port);
	found = find_address(verbs, index, port.gid_tbl_len, &address, &gid);
	if (found)
		sluice_inet_format(&address, info->address);
	if (port.state != IBV_PORT_ACTIVE)
		NOTE(info, "the port is %s; connect the cable, or set the link up",
			ibv_port_state_str(port.state));
	else if (port.link_layer == IBV_LINK_LAYER_INFINIBAND && !found)
		NOTE(info, "InfiniBand: give the IP address of its IPoIB interface as the rail");
	else if (!found)
		NOTE(info, "no RoCE v2 address: give its network interface an IP address");
	else
		info->usable = true;
	if (info->usable)
		NOTE(info, "%s, GID %u (RoCE v2), firmware %s", ibv_port_state_str(port.state), gid,
			device->fw_ver[0] != '\0' ? device->fw_ver : "unknown");
}

int sluice_rdma_probe(
	const void *conf, struct sluice_rail_info *rails, uint32_t max, struct sluice_error *err)
{
	struct ibv_device **list;
	uint32_t count = 0;
	int devices = 0;

	(void)conf;
	list = ibv_get_device_list(&devices);
	if (list == NULL || devices == 0) {
		if (list != NULL)
			ibv_free_device_list(list);
		return sluice_fail(err, -ENODEV, "rdma",
			"this host has no RDMA device; for a NIC load its driver (mlx5_ib, irdma, "
			"...), for soft-RoCE run: rdma link add rxe0 type rxe netdev eth0");
	}
	for (int i = 0; i < devices; i++) {
		struct ibv_context *verbs = ibv_open_device(list[i]);
		struct ibv_device_attr device;

		if (verbs == NULL || ibv_query_device(verbs, &device) != 0) {
			struct sluice_rail_info info = {.numa_node = -1};

			snprintf(info.device, sizeof(info.device), "%.60s",
				ibv_get_device_name(list[i]));
			NOTE(&info,
				"cannot be opened: %s; is /dev/infiniband/uverbs* readable and "
				"writable here?",
				strerror(errno));
			if (count < max)
				rails[count] = info;
			count++;
		} else {
			for (unsigned int port = 1; port <= device.phys_port_cnt; port++) {
				struct sluice_rail_info info;

				probe_port(verbs, &device, (uint8_t)port, &info);
				if (count < max)
					rails[count] = info;
				count++;
			}
		}
		if (verbs != NULL)
			ibv_close_device(verbs);
	}
	ibv_free_device_list(list);
	return (int)count;
}
