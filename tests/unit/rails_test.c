/* SPDX-License-Identifier: BSD-3-Clause */
/* rails_test.c: which rails go together, and the setting that names them. */
#include <errno.h>

#include "engine/rails.h"
#include "tests/unit/unit.h"

static struct sluice_subnet subnet(uint8_t a, uint8_t b, uint8_t c, uint32_t prefix_bits)
{
	return (struct sluice_subnet){
		.address_bytes = 4, .address = {a, b, c, 1}, .prefix_bits = prefix_bits};
}

static void test_subnets(void)
{
	struct sluice_subnet net = subnet(10, 1, 0, 23);
	struct sluice_subnet v6 = {
		.address_bytes = 16, .address = {0xfd, 0, 0, 5}, .prefix_bits = 64};

	CU_ASSERT_TRUE(sluice_subnet_has(&net, "10.1.0.9:4000"));
	CU_ASSERT_TRUE(sluice_subnet_has(&net, "10.1.1.9"));
	CU_ASSERT_FALSE(sluice_subnet_has(&net, "10.1.2.9:4000"));
	CU_ASSERT_FALSE(sluice_subnet_has(&net, "[fd00:5::1]:4000"));
	CU_ASSERT_FALSE(sluice_subnet_has(&net, "sim:4"));
	CU_ASSERT_TRUE(sluice_subnet_has(&v6, "[fd00:5::7]:4000"));
	CU_ASSERT_TRUE(sluice_subnet_has(&v6, "fd00:5::7%eth0"));
	CU_ASSERT_FALSE(sluice_subnet_has(&v6, "[fd00:6::7]:4000"));
	net.prefix_bits = 0;
	CU_ASSERT_TRUE(sluice_subnet_has(&net, "192.0.2.1"));
	net.address_bytes = 0;
	CU_ASSERT_FALSE(sluice_subnet_has(&net, "192.0.2.1"));
}

#define NOWHERE   \
	{         \
		0 \
	}
#define NET(n)                                                                  \
	{                                                                       \
		.address_bytes = 4, .address = {10, 0, n, 1}, .prefix_bits = 24 \
	}
#define LOOP                                                           \
	{                                                              \
		.address_bytes = 4, .address = {127}, .prefix_bits = 8 \
	}

static void test_pairs(void)
{
	static const struct {
		struct sluice_subnet ours[4];
		uint32_t our_count;
		const char *theirs[4];
		uint32_t their_count;
		bool by_order;
		const char *pairs; /* ours-theirs, and the first letter of why */
	} table[] = {
		{{NET(0)}, 1, {"10.0.0.2:1"}, 1, false, "0-0s"},
		{{NET(0), NET(1)}, 2, {"10.0.1.2:1", "10.0.0.2:1"}, 2, false, "0-1s 1-0s"},
		{{NET(0), NET(1)}, 2, {"10.0.1.2:1", "10.0.0.2:1"}, 2, true, "0-0a 1-1a"},
		/* One subnet for all: two pairs, not four. */
		{{LOOP, LOOP}, 2, {"127.0.0.1:1", "127.0.0.2:1"}, 2, false, "0-0s 1-1s"},
		{{LOOP}, 1, {"127.0.0.1:1", "127.0.0.2:1"}, 2, false, "0-0s 0-1s"},
		{{LOOP, LOOP, LOOP}, 3, {"127.0.0.1:1", "127.0.0.2:1"}, 2, false, "0-0s 1-1s 2-0s"},
		/* Nobody knows a subnet: by position, the shorter list repeated. */
		{{NOWHERE, NOWHERE}, 2, {"sim:0", "sim:1", "sim:2"}, 3, false, "0-0b 0-2b 1-1b"},
		{{NOWHERE, NOWHERE, NOWHERE}, 3, {"sim:0"}, 1, false, "0-0b 1-0b 2-0b"},
		/* What is left at both ends goes together, what is left at one end is not used. */
		{{NET(0), NET(1)}, 2, {"10.0.7.2:1", "10.0.0.2:1"}, 2, false, "0-1s 1-0b"},
		{{NET(0), NET(1)}, 2, {"10.0.0.2:1"}, 1, false, "0-0s"},
		{{NET(0)}, 1, {"10.0.0.2:1", "10.0.1.2:1"}, 2, false, "0-0s"},
	};

	for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
		struct sluice_rail_match matches[SLUICE_RAILS_MAX];
		uint32_t count = sluice_rails_match(table[i].ours, table[i].our_count,
			table[i].theirs, table[i].their_count, table[i].by_order, matches);
		char text[128] = "";

		for (uint32_t k = 0; k < count; k++)
			snprintf(text + strlen(text), sizeof(text) - strlen(text), "%s%u-%u%.1s",
				k > 0 ? " " : "", matches[k].ours, matches[k].theirs,
				matches[k].why);
		CU_ASSERT_STRING_EQUAL(text, table[i].pairs);
	}
}

/* Whatever the subnets: at most SLUICE_RAILS_MAX pairs, no pair twice, and nobody without need. */
static void test_pairs_are_bounded(void)
{
	struct sluice_subnet ours[SLUICE_RAILS_MAX];
	const char *theirs[SLUICE_RAILS_MAX];
	struct sluice_rail_match matches[SLUICE_RAILS_MAX];
	uint32_t count;

	/* Seven of ours see one of theirs; one of ours sees all others. */
	for (uint32_t i = 0; i < SLUICE_RAILS_MAX; i++) {
		ours[i] = subnet(10, 0, i == 0 ? 1 : 0, 24);
		theirs[i] = i == 0 ? "10.0.0.9" : "10.0.1.9";
	}
	count = sluice_rails_match(
		ours, SLUICE_RAILS_MAX, theirs, SLUICE_RAILS_MAX, false, matches);
	CU_ASSERT_EQUAL(count, SLUICE_RAILS_MAX);
	for (uint32_t i = 1; i < count; i++)
		CU_ASSERT_TRUE(matches[i].ours > matches[i - 1].ours ||
			       matches[i].theirs > matches[i - 1].theirs);
}

/* Subnets that several share make four pairs; five rails are left at both ends. */
static void test_pairs_left_are_bounded(void)
{
	static const char *const theirs[SLUICE_RAILS_MAX] = {"10.0.0.9", "10.0.1.8", "10.0.1.9",
		"10.1.0.1", "10.1.0.2", "10.1.0.3", "10.1.0.4", "10.1.0.5"};
	struct sluice_subnet ours[SLUICE_RAILS_MAX];
	struct sluice_rail_match matches[SLUICE_RAILS_MAX];

	for (uint32_t i = 0; i < SLUICE_RAILS_MAX; i++)
		ours[i] = subnet(10, i < 3 ? 0 : 2, i < 2 ? 0 : (uint8_t)(i - 1), 24);
	CU_ASSERT_EQUAL(sluice_rails_match(
				ours, SLUICE_RAILS_MAX, theirs, SLUICE_RAILS_MAX, false, matches),
		SLUICE_RAILS_MAX);
	/* The last rail at each end is the one for which there is no room. */
	CU_ASSERT_EQUAL(matches[SLUICE_RAILS_MAX - 1].ours, SLUICE_RAILS_MAX - 2);
	CU_ASSERT_EQUAL(matches[SLUICE_RAILS_MAX - 1].theirs, SLUICE_RAILS_MAX - 2);
}

static void test_items(void)
{
	static const char *const bad[] = {"", ",", "a,,b", "10.0.0.1:0@",
		"10.0.0.1:0@node=", "10.0.0.1:0@node=99", "10.0.0.1:0@speed=3",
		"10.0.0.1:0@gbit=-1", "tcp=", "1,2,3,4,5,6,7,8,9"};
	struct sluice_rail_item items[SLUICE_RAILS_MAX];
	struct sluice_error err = {0};

	CU_ASSERT_EQUAL(sluice_rail_items_parse("auto", items, &err), 0);
	CU_ASSERT_EQUAL_FATAL(
		sluice_rail_items_parse(
			"10.0.0.1:0,rdma=10.0.1.1@node=3@gbit=2.5,[fd00::1]:7", items, &err),
		3);
	CU_ASSERT_STRING_EQUAL(items[0].address, "10.0.0.1:0");
	CU_ASSERT_STRING_EQUAL(items[0].transport, "");
	CU_ASSERT_EQUAL(items[0].numa_node, -1);
	CU_ASSERT_STRING_EQUAL(items[1].transport, "rdma");
	CU_ASSERT_STRING_EQUAL(items[1].address, "10.0.1.1");
	CU_ASSERT_EQUAL(items[1].numa_node, 3);
	CU_ASSERT_EQUAL(items[1].link_bytes_per_s, 312500000);
	CU_ASSERT_STRING_EQUAL(items[2].address, "[fd00::1]:7");
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		err = (struct sluice_error){0};
		CU_ASSERT_EQUAL(sluice_rail_items_parse(bad[i], items, &err), -EINVAL);
		CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "is not a rail"));
	}
}

int main(void)
{
	static const struct unit_test tests[] = {
		{"subnets", test_subnets},
		{"pairs", test_pairs},
		{"pairs are bounded", test_pairs_are_bounded},
		{"pairs of what is left are bounded", test_pairs_left_are_bounded},
		{"entries of the setting", test_items},
		{0},
	};

	return unit_run("rails", tests);
}
