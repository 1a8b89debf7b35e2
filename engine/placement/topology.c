/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * topology.c: what the kernel says about this machine and process (CPUs allowed and isolated, link
 * speeds, whose address it is), and a machine without hwloc. See topology.h.
 */
#include "engine/placement/topology.h"

#include <arpa/inet.h>
#include <errno.h>
#include <ifaddrs.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/bits.h"
#include "base/inet.h"

struct sluice_topology_nic *sluice_topology_add_nic(
	struct sluice_topology *topology, const char *name, bool is_rdma)
{
	struct sluice_topology_nic *nic;

	if (topology->nic_count == SLUICE_NICS_MAX)
		return NULL;
	nic = &topology->nics[topology->nic_count++];
	snprintf(nic->name, sizeof(nic->name), "%s", name);
	nic->is_rdma = is_rdma;
	return nic;
}

void sluice_topology_guess_distances(
	struct sluice_topology *topology, const uint32_t *package_of_node)
{
	for (uint32_t a = 0; a < topology->node_count; a++)
		for (uint32_t b = 0; b < topology->node_count; b++)
			topology->nodes[a].distance[b] = a == b ? 10
							 : package_of_node[a] == package_of_node[b]
								 ? 12
								 : 21;
}

/* ---- this machine ---- */

static int read_line(const char *path, char *line, size_t bytes)
{
	FILE *file = fopen(path, "re");
	char *got;

	if (file == NULL)
		return -errno;
	got = fgets(line, (int)bytes, file);
	fclose(file);
	if (got == NULL)
		return -EIO;
	line[strcspn(line, "\n")] = '\0';
	return 0;
}

/* The affinity mask; the kernel has already taken out what the cpuset does not allow. */
static int read_allowed(struct sluice_cpus *ret_cpus)
{
	if (sched_getaffinity(0, sizeof(ret_cpus->words), (cpu_set_t *)(void *)ret_cpus->words) < 0)
		return -errno;
	return 0;
}

static void read_isolated(struct sluice_cpus *ret_cpus)
{
	char line[1024];

	/* An unreadable list isolates nothing. */
	if (read_line("/sys/devices/system/cpu/isolated", line, sizeof(line)) == 0)
		(void)sluice_cpus_parse(line, ret_cpus);
}

/* "25000" (Mbit/s; -1 when the link is down), "100 Gb/sec (4X EDR)". */
static uint64_t read_speed(const struct sluice_topology_nic *nic)
{
	char path[64 + SLUICE_NIC_NAME_MAX], line[64];
	double value;

	if (nic->is_rdma)
		snprintf(path, sizeof(path), "/sys/class/infiniband/%s/ports/1/rate", nic->name);
	else
		snprintf(path, sizeof(path), "/sys/class/net/%s/speed", nic->name);
	if (read_line(path, line, sizeof(line)) < 0)
		return 0;
	value = strtod(line, NULL) * (nic->is_rdma ? 1e9 : 1e6) / 8;
	return value > 0 ? (uint64_t)value : 0;
}

#ifndef SLUICE_HAVE_HWLOC
/* One node with the CPUs that are online, each a core; without /sys those that are allowed. */
static int read_flat(struct sluice_topology *topology)
{
	struct sluice_cpus *present = &topology->present;
	char line[1024];
	int r = read_allowed(present);

	if (r < 0)
		return r;
	if (read_line("/sys/devices/system/cpu/online", line, sizeof(line)) == 0)
		(void)sluice_cpus_parse(line, present);
	topology->cores = calloc(sluice_cpus_count(present), sizeof(*topology->cores));
	if (topology->cores == NULL)
		return -ENOMEM;
	for (uint32_t cpu = sluice_cpus_next(present, 0); cpu < SLUICE_CPUS_MAX;
		cpu = sluice_cpus_next(present, cpu + 1))
		sluice_cpus_add(&topology->cores[topology->core_count++].cpus, cpu);
	topology->node_count = 1;
	topology->nodes[0].has_memory = true;
	topology->nodes[0].is_allowed = true;
	topology->nodes[0].cpus = *present;
	topology->nodes[0].distance[0] = 10;
	return 0;
}
#endif

int sluice_topology_refresh(struct sluice_topology *topology, struct sluice_error *err)
{
	struct sluice_cpus allowed = {0};
	int r;

	if (!topology->is_this_machine)
		return 0;
	r = read_allowed(&allowed);
	if (r < 0)
		return sluice_fail(err, r, "topology",
			"the CPUs that this process may use cannot be read: %s", strerror(-r));
	sluice_cpus_keep_only(&allowed, &topology->present);
	topology->allowed = allowed;
	return 0;
}

static int read_live(struct sluice_topology *topology, struct sluice_error *err)
{
	int r;

	snprintf(topology->source, sizeof(topology->source), "this machine");
	topology->is_this_machine = true;
#ifdef SLUICE_HAVE_HWLOC
	r = sluice_topology_read_hwloc(SLUICE_TOPOLOGY_LIVE, NULL, topology, err);
#else
	r = read_flat(topology);
#endif
	if (r < 0)
		return r;
	read_isolated(&topology->isolated);
	for (uint32_t i = 0; i < topology->nic_count; i++)
		topology->nics[i].link_bytes_per_s = read_speed(&topology->nics[i]);
	return sluice_topology_refresh(topology, err);
}

int sluice_topology_read(enum sluice_topology_kind kind, const char *text,
	struct sluice_topology **ret_topology, struct sluice_error *err)
{
	struct sluice_topology *topology = calloc(1, sizeof(*topology));
	int r;

	(void)text;
	if (topology == NULL)
		return sluice_fail(err, -ENOMEM, "topology", "out of memory");
	if (kind == SLUICE_TOPOLOGY_LIVE)
		r = read_live(topology, err);
	else
#ifdef SLUICE_HAVE_HWLOC
		r = sluice_topology_read_hwloc(kind, text, topology, err);
#else
		r = sluice_fail(err, -ENOTSUP, "topology",
			"this build has no hwloc: it knows only the machine it runs on");
#endif
	if (r < 0) {
		sluice_fail(err, r, "topology", "%s", strerror(-r));
		sluice_topology_destroy(topology);
		return r;
	}
	SLUICE_ASSERT(topology->node_count >= 1 && topology->core_count >= 1);
	*ret_topology = topology;
	return 0;
}

void sluice_topology_destroy(struct sluice_topology *topology)
{
	if (topology == NULL)
		return;
	free(topology->cores);
	free(topology);
}

const struct sluice_topology_core *sluice_topology_core_of(
	const struct sluice_topology *topology, uint32_t cpu)
{
	for (uint32_t i = 0; i < topology->core_count; i++)
		if (sluice_cpus_has(&topology->cores[i].cpus, cpu))
			return &topology->cores[i];
	return NULL;
}

uint64_t sluice_topology_set_of(const struct sluice_topology *topology, uint32_t number)
{
	for (uint32_t i = 0; i < topology->node_count; i++)
		if (topology->nodes[i].number == number)
			return 1ull << i;
	return 0;
}

/* ---- whose address is it? ---- */

static const struct sluice_topology_nic *nic_named(
	const struct sluice_topology *topology, const char *name)
{
	for (uint32_t i = 0; i < topology->nic_count; i++)
		if (strcmp(topology->nics[i].name, name) == 0)
			return &topology->nics[i];
	return NULL;
}

static bool is_address(const struct sockaddr *address, const char *host)
{
	const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)(const void *)address;
	const struct sockaddr_in *in = (const struct sockaddr_in *)(const void *)address;
	char text[INET6_ADDRSTRLEN];
	const void *from;

	if (address == NULL || (address->sa_family != AF_INET && address->sa_family != AF_INET6))
		return false;
	from = address->sa_family == AF_INET ? (const void *)&in->sin_addr
					     : (const void *)&in6->sin6_addr;
	return inet_ntop(address->sa_family, from, text, sizeof(text)) != NULL &&
	       strcmp(text, host) == 0;
}

const struct sluice_topology_nic *sluice_topology_nic_of(
	const struct sluice_topology *topology, const char *rail)
{
	const struct sluice_topology_nic *nic = nic_named(topology, rail);
	struct ifaddrs *addresses;
	char host[128];

	if (nic != NULL || !topology->is_this_machine)
		return nic;
	sluice_inet_host(rail, host, sizeof(host));
	if (getifaddrs(&addresses) < 0)
		return NULL;
	for (struct ifaddrs *a = addresses; a != NULL && nic == NULL; a = a->ifa_next)
		if (is_address(a->ifa_addr, host))
			nic = nic_named(topology, a->ifa_name);
	freeifaddrs(addresses);
	return nic;
}
