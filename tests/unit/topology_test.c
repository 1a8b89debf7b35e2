/* SPDX-License-Identifier: BSD-3-Clause */
/* topology_test.c: machines as hwloc tells them, this one too; and lists of CPUs. */
#include <errno.h>
#include <ifaddrs.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sched.h>

#include "base/bits.h"
#include "engine/placement/node_memory.h"
#include "engine/placement/topology.h"
#include "tests/unit/unit.h"

static void test_cpu_lists(void)
{
	static const char *const same[] = {"0", "0-3,8", "63-64", "1,3,5", "4095"};
	static const char *const wrong[] = {
		",", "1,", "1-", "-1", "3-1", "4096", "1 2", "a", "1-2-3", "99999999999999999999"};
	struct sluice_cpus cpus = {0};
	char text[SLUICE_CPUS_TEXT_BYTES];

	for (size_t i = 0; i < SLUICE_ARRAY_LEN(same); i++) {
		CU_ASSERT_EQUAL(sluice_cpus_parse(same[i], &cpus), 0);
		CU_ASSERT_STRING_EQUAL(sluice_cpus_format(&cpus, text, sizeof(text)), same[i]);
	}
	for (size_t i = 0; i < SLUICE_ARRAY_LEN(wrong); i++)
		CU_ASSERT_EQUAL(sluice_cpus_parse(wrong[i], &cpus), -EINVAL);
	CU_ASSERT_TRUE(sluice_cpus_has(&cpus, 4095)); /* untouched by what failed */
	CU_ASSERT_EQUAL(sluice_cpus_parse("7,1-2,2-3", &cpus), 0);
	CU_ASSERT_STRING_EQUAL(sluice_cpus_format(&cpus, text, sizeof(text)), "1-3,7");
	CU_ASSERT_EQUAL(sluice_cpus_count(&cpus), 4);
	CU_ASSERT_EQUAL(sluice_cpus_next(&cpus, 4), 7);
	CU_ASSERT_EQUAL(sluice_cpus_next(&cpus, 8), SLUICE_CPUS_MAX);
	CU_ASSERT_EQUAL(sluice_cpus_parse("", &cpus), 0);
	CU_ASSERT_STRING_EQUAL(sluice_cpus_format(&cpus, text, sizeof(text)), "none");
	for (uint32_t cpu = 0; cpu < SLUICE_CPUS_MAX; cpu += 2)
		sluice_cpus_add(&cpus, cpu);
	UNIT_CONTAINS(sluice_cpus_format(&cpus, text, sizeof(text)), ",...");
}

/* This machine, with and without a narrower affinity mask. */
static void test_this_machine(void)
{
	struct sluice_topology *t;
	struct sluice_error err = {0};
	cpu_set_t before, one;
	uint32_t first;

	CU_ASSERT_EQUAL_FATAL(sluice_topology_read(SLUICE_TOPOLOGY_LIVE, NULL, &t, &err), 0);
	CU_ASSERT_TRUE(t->is_this_machine);
	CU_ASSERT_TRUE(t->node_count >= 1 && t->core_count >= 1);
	CU_ASSERT_EQUAL_FATAL(sched_getaffinity(0, sizeof(before), &before), 0);
	CU_ASSERT_EQUAL(sluice_cpus_count(&t->allowed), (uint32_t)CPU_COUNT(&before));
	first = sluice_cpus_next(&t->allowed, 0);
	CU_ASSERT_PTR_NOT_NULL(sluice_topology_core_of(t, first));
	CU_ASSERT_PTR_NULL(sluice_topology_nic_of(t, "127.0.0.1:0"));
	CU_ASSERT_PTR_NULL(sluice_topology_nic_of(t, "0.0.0.0:1234"));
	CU_ASSERT_PTR_NULL(sluice_topology_nic_of(t, "[::1]:5"));
	sluice_topology_destroy(t);

	CPU_ZERO(&one);
	CPU_SET(first, &one);
	CU_ASSERT_EQUAL_FATAL(sched_setaffinity(0, sizeof(one), &one), 0);
	CU_ASSERT_EQUAL_FATAL(sluice_topology_read(SLUICE_TOPOLOGY_LIVE, NULL, &t, &err), 0);
	CU_ASSERT_EQUAL(sluice_cpus_count(&t->allowed), 1);
	CU_ASSERT_TRUE(sluice_cpus_has(&t->allowed, first));
	sluice_topology_destroy(t);
	sched_setaffinity(0, sizeof(before), &before);
}

/* An address of this machine leads to the NIC that has it, in every way a rail may write it. */
static void test_nic_by_address(void)
{
	struct sluice_topology *t;
	struct sluice_error err = {0};
	struct ifaddrs *addresses;

	CU_ASSERT_EQUAL_FATAL(sluice_topology_read(SLUICE_TOPOLOGY_LIVE, NULL, &t, &err), 0);
	CU_ASSERT_EQUAL_FATAL(getifaddrs(&addresses), 0);
	for (struct ifaddrs *a = addresses; a != NULL; a = a->ifa_next) {
		int family = a->ifa_addr != NULL ? a->ifa_addr->sa_family : AF_UNSPEC;
		const struct sluice_topology_nic *nic = sluice_topology_nic_of(t, a->ifa_name);
		socklen_t bytes = family == AF_INET ? sizeof(struct sockaddr_in)
						    : sizeof(struct sockaddr_in6);
		char host[64], rail[80];

		if ((family != AF_INET && family != AF_INET6) || nic == NULL ||
			getnameinfo(a->ifa_addr, bytes, host, sizeof(host), NULL, 0,
				NI_NUMERICHOST) != 0 ||
			strchr(host, '%') != NULL)
			continue;
		CU_ASSERT_PTR_EQUAL(sluice_topology_nic_of(t, host), nic);
		snprintf(rail, sizeof(rail), family == AF_INET ? "%s:0" : "[%s]:0", host);
		CU_ASSERT_PTR_EQUAL(sluice_topology_nic_of(t, rail), nic);
	}
	freeifaddrs(addresses);
	sluice_topology_destroy(t);
}

static void test_memory_without_a_choice(void)
{
	struct sluice_node_policy before;
	unsigned char *memory;
	void *page;
	int node = 77;

	sluice_node_prefer(0, &before);
	CU_ASSERT_FALSE(before.is_set);
	memory = sluice_node_alloc(10000);
	sluice_node_restore(&before);
	CU_ASSERT_PTR_NOT_NULL_FATAL(memory);
	CU_ASSERT_EQUAL(memory[9999], 0);
	page = memory;
	sluice_node_of_pages(&page, 1, &node);
	CU_ASSERT_TRUE(node >= SLUICE_NODE_UNKNOWN && node < 1024);
	sluice_node_free(memory, 10000);
	sluice_node_free(NULL, 1);
}

#ifdef SLUICE_TEST_HWLOC
static struct sluice_topology *read_file(const char *name)
{
	struct sluice_topology *t = NULL;
	struct sluice_error err = {0};
	char path[512];

	snprintf(path, sizeof(path), "%s/topology/%s", getenv("SLUICE_TEST_DATA"), name);
	CU_ASSERT_EQUAL_FATAL(sluice_topology_read(SLUICE_TOPOLOGY_XML, path, &t, &err), 0);
	return t;
}

static void test_nodes_and_distances(void)
{
	struct sluice_topology *t = read_file("snc-cxl-nics.xml");

	CU_ASSERT_EQUAL(t->node_count, 5);
	CU_ASSERT_EQUAL(t->core_count, 32);
	CU_ASSERT_EQUAL(sluice_cpus_count(&t->present), 64);
	CU_ASSERT_EQUAL(sluice_cpus_count(&t->nodes[3].cpus), 16);
	CU_ASSERT_TRUE(sluice_cpus_is_empty(&t->nodes[4].cpus));
	CU_ASSERT_TRUE(t->nodes[4].has_memory);
	CU_ASSERT_EQUAL(t->nodes[4].memory_bytes, 512000000000ull);
	CU_ASSERT_EQUAL(t->nodes[1].distance[4], 17);
	CU_ASSERT_EQUAL(t->nodes[2].distance[4], 28);
	CU_ASSERT_EQUAL(sluice_topology_core_of(t, 50)->node, 3);
	CU_ASSERT_PTR_NULL(sluice_topology_core_of(t, 64));
	sluice_topology_destroy(t);
	t = read_file("node-without-memory.xml");
	CU_ASSERT_TRUE(t->nodes[0].has_memory && !t->nodes[1].has_memory);
	CU_ASSERT_EQUAL(sluice_cpus_count(&t->present), 4);
	CU_ASSERT_EQUAL(sluice_cpus_count(&t->allowed), 3);
	CU_ASSERT_EQUAL(t->nodes[0].distance[1], 21); /* guessed: the file has none */
	sluice_topology_destroy(t);
}

static void test_nics(void)
{
	struct sluice_topology *t = read_file("snc-cxl-nics.xml");
	const struct sluice_topology_nic *nic = sluice_topology_nic_of(t, "mlx5_0");

	CU_ASSERT_EQUAL(t->nic_count, 4);
	CU_ASSERT_PTR_NOT_NULL_FATAL(nic);
	CU_ASSERT_TRUE(nic->is_rdma);
	CU_ASSERT_EQUAL(nic->nodes, 1 << 1);
	CU_ASSERT_EQUAL(sluice_topology_nic_of(t, "eth2")->nodes, 1 << 1);
	CU_ASSERT_EQUAL(sluice_topology_nic_of(t, "eth3")->nodes, 1 << 2 | 1 << 3);
	CU_ASSERT_EQUAL(sluice_topology_nic_of(t, "eth0")->nodes, 0); /* near to all */
	CU_ASSERT_PTR_NULL(sluice_topology_nic_of(t, "192.0.2.1:5"));
	sluice_topology_destroy(t);
}

static void test_refusals(void)
{
	static const struct {
		enum sluice_topology_kind kind;
		const char *text, *error;
	} rows[] = {
		{SLUICE_TOPOLOGY_SYNTHETIC, "", "does not describe a machine"},
		{SLUICE_TOPOLOGY_SYNTHETIC, "core:", "does not describe a machine"},
		{SLUICE_TOPOLOGY_SYNTHETIC, "pack:65 [numa] core:1 pu:1", "1 to 64 NUMA nodes"},
		{SLUICE_TOPOLOGY_XML, "/nowhere.xml", "cannot be read: No such file"},
		{SLUICE_TOPOLOGY_XML, "/proc/self/status", "lstopo FILE.xml makes one"},
	};

	for (size_t i = 0; i < SLUICE_ARRAY_LEN(rows); i++) {
		struct sluice_error err = {0};
		struct sluice_topology *t = NULL;

		CU_ASSERT_TRUE(sluice_topology_read(rows[i].kind, rows[i].text, &t, &err) < 0);
		UNIT_CONTAINS(err.text, rows[i].error);
		CU_ASSERT_PTR_NULL(t);
	}
}
#endif

int main(void)
{
	static const struct unit_test tests[] = {
		{"lists of CPUs", test_cpu_lists},
		{"this machine", test_this_machine},
		{"a NIC by its address", test_nic_by_address},
		{"memory where there is no choice", test_memory_without_a_choice},
#ifdef SLUICE_TEST_HWLOC
		{"nodes and distances", test_nodes_and_distances},
		{"NICs", test_nics},
		{"what is no machine is refused", test_refusals},
#endif
		{0},
	};

	return unit_run("topology", tests);
}
