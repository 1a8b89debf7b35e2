/* SPDX-License-Identifier: BSD-3-Clause */
/* view_test.c: what `sluice watch` and `sluice migrate` draw: it fits, and it says the truth. */
#include "cli/cli.h"
#include "tests/unit/unit.h"

static json_t *migrating(void)
{
	return json_pack("{s:s,s:s,s:i,s:i,s:{s:I,s:I,s:I,s:i}}", "status", "active", "session",
		"0123456789abcdef0123456789abcdef", "total-time", 61234, "expected-downtime-us",
		41500, "ram", "total", (json_int_t)1 << 40, "remaining", (json_int_t)1 << 38,
		"transferred", ((json_int_t)1 << 40) * 3, "dirty-pages-rate", 12345678);
}

static json_t *sixteen_lanes(json_int_t bytes, json_int_t busy_ns, json_int_t idle_ns)
{
	json_t *lanes = json_array();

	for (int i = 0; i < 16; i++)
		json_array_append_new(
			lanes, json_pack("{s:i,s:s,s:i,s:I,s:I,s:I,s:i}", "lane", i, "state",
				       i == 3 ? "connecting" : "active", "worker", i % 2, "bytes",
				       bytes, "busy-ns", busy_ns, "idle-ns", idle_ns,
				       "inflight-bytes", 123456789));
	return lanes;
}

static char *render(const struct cli_view *view, unsigned int width, unsigned int rows)
{
	char *text = NULL;
	size_t bytes = 0;
	FILE *out = open_memstream(&text, &bytes);

	cli_view_render(view, width, rows, out);
	fclose(out);
	return text;
}

/* The longest line in columns, and how many lines. */
static void measure(const char *text, unsigned int *ret_columns, unsigned int *ret_lines)
{
	unsigned int columns = 0;

	*ret_columns = 0;
	*ret_lines = 0;
	for (; *text != '\0'; text++) {
		if (*text == '\n') {
			++*ret_lines;
			columns = 0;
		} else if (((unsigned char)*text & 0xc0) != 0x80) {
			columns++;
		}
		*ret_columns = columns > *ret_columns ? columns : *ret_columns;
	}
}

static struct cli_view full_view(void)
{
	struct cli_view view = {
		.socket =
			"/run/sluice/a-rather-long-name-of-a-virtual-machine/and-then-some/socket",
		.migrate = migrating(),
		.lanes = sixteen_lanes(300 << 20, 1900000000, 2100000000),
		.previous = sixteen_lanes(100 << 20, 100000000, 1900000000),
		.interval_s = 2,
		.bytes_per_second = 3.4e9,
		.throttle = 20,
		.history_count = CLI_HISTORY_MAX,
	};

	for (unsigned int i = 0; i < CLI_HISTORY_MAX; i++) {
		view.placed_history[i] = i;
		view.dirty_history[i] = CLI_HISTORY_MAX - i;
	}
	return view;
}

static void drop(struct cli_view *view)
{
	json_decref(view->migrate);
	json_decref(view->lanes);
	json_decref(view->previous);
}

static void test_fits(void)
{
	static const unsigned int widths[] = {20, 40, 79, 80, 100, 132, 250};
	struct cli_view view = full_view();

	for (int unicode = 0; unicode < 2; unicode++) {
		view.unicode = unicode == 1;
		for (size_t i = 0; i < sizeof(widths) / sizeof(widths[0]); i++) {
			unsigned int columns, lines;
			char *text = render(&view, widths[i], 24);

			measure(text, &columns, &lines);
			CU_ASSERT_TRUE(columns <= widths[i]);
			CU_ASSERT_EQUAL(lines, 24);
			free(text);
		}
	}
	drop(&view);
}

static void test_says(void)
{
	struct cli_view view = full_view();
	char *text = render(&view, 80, 0);

	UNIT_CONTAINS(text, "status    active          61.2 s   session 0123456789abcdef");
	UNIT_CONTAINS(text, " 75%  256 GiB of 1.0 TiB left\n");
	UNIT_CONTAINS(text, "placed    3.0 TiB             3.2 GiB/s");
	UNIT_CONTAINS(text, "dirty     12.3M pages/s      47.1 GiB/s");
	UNIT_CONTAINS(text, "downtime  42 ms expected\n");
	UNIT_CONTAINS(text, "throttle  20%\n");
	/* 200 MiB in 2 s; 1.8 s of 2 s busy. */
	UNIT_CONTAINS(
		text, "   0  active          0      100 MiB/s      300 MiB      118 MiB    90%\n");
	UNIT_CONTAINS(text, "   3  connecting");
	UNIT_CONTAINS(text, "  15  active");
	free(text);
	text = render(&view, 80, 12);
	UNIT_CONTAINS(text, "and 15 more: see sluice lanes");
	free(text);
	drop(&view);
}

static void test_nothing_yet(void)
{
	struct cli_view view = {.socket = "s", .migrate = json_pack("{s:s}", "status", "none")};
	char *text = render(&view, 80, 24);

	UNIT_CONTAINS(text, "no migration yet");
	free(text);
	drop(&view);
}

/* A reply without a single optional member, or with nonsense, draws something. */
static void test_sparse(void)
{
	static const char *const replies[] = {"{\"status\": \"active\", \"ram\": {}}",
		"{\"status\": \"setup\", \"ram\": {\"total\": 5, \"remaining\": 0}}",
		"{\"ram\": {\"total\": 0, \"remaining\": 5}}",
		"{\"status\": 5, \"ram\": {\"total\": \"x\"}, \"total-time\": -1}"};

	for (size_t i = 0; i < sizeof(replies) / sizeof(replies[0]); i++) {
		struct cli_view view = {.socket = "s",
			.migrate = json_loads(replies[i], 0, NULL),
			.lanes = json_loads("[{}, {\"lane\": 1}]", 0, NULL),
			.bytes_per_second = -1};
		char *text = render(&view, 80, 0);

		UNIT_CONTAINS(text, "memory");
		CU_ASSERT_EQUAL(cli_view_share(view.migrate), 0);
		free(text);
		drop(&view);
	}
}

static void test_bar(void)
{
	json_t *migrate = migrating();

	for (unsigned int width = 10; width < 200; width++) {
		unsigned int columns, lines;
		char *text = NULL;
		size_t bytes = 0;
		FILE *out = open_memstream(&text, &bytes);

		cli_view_bar(migrate, width, out);
		fputc('\n', out);
		cli_view_line(migrate, width, out);
		fclose(out);
		measure(text, &columns, &lines);
		CU_ASSERT_TRUE(columns <= width);
		CU_ASSERT_EQUAL(lines, 1);
		if (width >= 100)
			UNIT_CONTAINS(text, "] ");
		free(text);
	}
	json_decref(migrate);
}

/* What an operator wants to know of a migration that stands still. */
static void test_paused(void)
{
	json_t *migrate = migrating();
	struct cli_view view = {.socket = "x", .migrate = migrate};
	char text[640], *picture;

	CU_ASSERT_PTR_NULL(cli_view_pause(migrate, text, sizeof(text)));
	CU_ASSERT_PTR_NULL(cli_view_losses(migrate, text, sizeof(text)));
	json_object_set_new(migrate, "status", json_string("paused"));
	json_object_set_new(migrate, "pause-reason", json_string("the peer link was lost"));
	UNIT_CONTAINS(cli_view_pause(migrate, text, sizeof(text)), "sluice recover");
	json_object_set_new(migrate, "retry-in", json_integer(3200));
	json_object_set_new(migrate, "lanes-lost", json_integer(4));
	json_object_set_new(migrate, "bytes-resent", json_integer(4 << 20));
	picture = render(&view, 120, 0);
	UNIT_CONTAINS(picture, "the peer link was lost; next try in 3.2 s");
	UNIT_CONTAINS(picture, "4 lanes lost, 0 opened again; 4.0 MiB sent again");
	free(picture);
	json_object_set_new(migrate, "gives-up-in", json_integer(90000));
	UNIT_CONTAINS(cli_view_pause(migrate, text, sizeof(text)), "for 90.0 s more");
	json_decref(migrate);
}

static void test_numbers(void)
{
	char text[32];

	CU_ASSERT_STRING_EQUAL(cli_format_bytes(0, text, sizeof(text)), "0 B");
	CU_ASSERT_STRING_EQUAL(cli_format_bytes(1023, text, sizeof(text)), "1023 B");
	CU_ASSERT_STRING_EQUAL(cli_format_bytes(1024, text, sizeof(text)), "1.0 KiB");
	CU_ASSERT_STRING_EQUAL(cli_format_bytes(1073741820, text, sizeof(text)), "1.0 GiB");
	CU_ASSERT_STRING_EQUAL(cli_format_bytes(-1, text, sizeof(text)), "-");
	CU_ASSERT_STRING_EQUAL(cli_format_count(999, text, sizeof(text)), "999");
	CU_ASSERT_STRING_EQUAL(cli_format_count(52000, text, sizeof(text)), "52.0k");
	CU_ASSERT_STRING_EQUAL(cli_format_count(999999, text, sizeof(text)), "1.0M");
	CU_ASSERT_STRING_EQUAL(cli_format_ms(3.25, text, sizeof(text)), "3.2 ms");
	CU_ASSERT_STRING_EQUAL(cli_format_ms(812, text, sizeof(text)), "812 ms");
	CU_ASSERT_STRING_EQUAL(cli_format_ms(12300, text, sizeof(text)), "12.3 s");
	CU_ASSERT_STRING_EQUAL(cli_format_ms(247000, text, sizeof(text)), "4:07 min");
}

static void test_settings(void)
{
	json_t *object = json_object();
	char *text;

	CU_ASSERT_TRUE(cli_add_setting(object, "lanes=4"));
	CU_ASSERT_TRUE(cli_add_setting(object, "window=64M"));
	CU_ASSERT_TRUE(cli_add_setting(object, "zero=true"));
	CU_ASSERT_TRUE(cli_add_setting(object, "rail="));
	CU_ASSERT_FALSE(cli_add_setting(object, "lanes"));
	CU_ASSERT_FALSE(cli_add_setting(object, "=4"));
	text = json_dumps(object, JSON_COMPACT);
	CU_ASSERT_STRING_EQUAL(
		text, "{\"lanes\":4,\"window\":\"64M\",\"zero\":true,\"rail\":\"\"}");
	free(text);
	json_decref(object);
}

static char *render_machine(const json_t *plan, unsigned int width, bool unicode)
{
	char *text = NULL;
	size_t bytes = 0;
	FILE *out = open_memstream(&text, &bytes);

	cli_machine_render(plan, width, unicode, out);
	fclose(out);
	return text;
}

/* Two nodes with cores, one of memory only, and a hundred lanes on one worker. */
static json_t *machine(void)
{
	json_t *lanes = json_array();

	for (int i = 0; i < 100; i++)
		json_array_append_new(lanes, json_pack("{s:i,s:i,s:s,s:i}", "lane", i, "worker",
						     i == 99 ? 1 : 0, "rail", "eth2", "node", 0));
	return json_pack(
		"{s:{s:s,s:s,s:[{s:i,s:b,s:I,s:i,s:s},{s:i,s:b,s:I,s:i,s:s},{s:i,s:b,s:I,s:i,s:s}],"
		"s:[{s:s,s:s,s:[i],s:I},{s:s,s:s,s:[],s:i}]},"
		"s:[{s:i,s:s,s:b,s:i},{s:i,s:s,s:b,s:i,s:i,s:i}],s:o,s:[i,i],s:[i],s:[{s:s,s:s}]}",
		"machine", "source", "a large machine", "cpus-present", "0-127", "nodes", "node", 0,
		"has-memory", 1, "memory-bytes", (json_int_t)64 << 30, "cores", 32, "cpus", "0-63",
		"node", 1, "has-memory", 0, "memory-bytes", (json_int_t)0, "cores", 32, "cpus",
		"64-127", "node", 4, "has-memory", 1, "memory-bytes", (json_int_t)1 << 40, "cores",
		0, "cpus", "none", "nics", "name", "mlx5_0", "kind", "rdma", "nodes", 0,
		"link-bytes-per-s", (json_int_t)25000000000 / 2, "name", "eth0", "kind", "network",
		"nodes", "link-bytes-per-s", 0, "workers", "worker", 0, "cpus", "1-63", "bound", 1,
		"node", 0, "worker", 1, "cpus", "70", "bound", 1, "node", 1, "thread-id", 4711,
		"core", 70, "lanes", lanes, "bitmap-nodes", 0, 1, "staging-nodes", 0, "reasons",
		"about", "lanes", "text",
		"a sentence that is longer than a narrow terminal has columns, for it to be "
		"broken");
}

static void test_machine(void)
{
	json_t *plan = machine();
	unsigned int columns, lines;
	char *text;

	for (unsigned int width = 10; width < 150; width += 7) {
		text = render_machine(plan, width, width % 2 == 0);

		measure(text, &columns, &lines);
		CU_ASSERT_TRUE(columns <= (width < 40 ? 40 : width > 100 ? 100 : width));
		CU_ASSERT_EQUAL(strchr(text, '\xe2') != NULL, width % 2 == 0);
		free(text);
	}
	text = render_machine(plan, 100, false);
	UNIT_CONTAINS(text, "a large machine, 3 nodes, CPUs 0-127\n");
	UNIT_CONTAINS(text, "+- node 0, 64.0 GiB, 32 cores: CPUs 0-63 ---");
	UNIT_CONTAINS(text, "+- node 1, no memory, 32 cores: CPUs 64-127 ---");
	UNIT_CONTAINS(text, "+- node 4, 1.0 TiB, no cores ---");
	UNIT_CONTAINS(text, "| NIC       mlx5_0 (RDMA)  100 Gbit/s ");
	UNIT_CONTAINS(text, "+- no node in particular ---");
	UNIT_CONTAINS(text, "| NIC       eth0 ");
	UNIT_CONTAINS(text, "| worker 0  CPUs 1-63  rail eth2: lanes 0 1 2 3 4 ");
	UNIT_CONTAINS(text, "... |\n");
	UNIT_CONTAINS(text, "| worker 1  CPUs 70 (thread 4711, last on 70)  rail eth2: lanes 99 ");
	UNIT_CONTAINS(text, "| memory    bitmaps, staging of device state ");
	UNIT_CONTAINS(text, "| memory    bitmaps  ");
	UNIT_CONTAINS(text, "  lanes     a sentence that");
	free(text);
	json_decref(plan);
	/* An engine that says less is drawn as far as it goes. */
	plan = json_object();
	text = render_machine(plan, 80, true);
	UNIT_CONTAINS(text, "a machine, 0 nodes");
	free(text);
	json_decref(plan);
}

int main(void)
{
	static const struct unit_test tests[] = {
		{"everything fits", test_fits},
		{"it says the truth", test_says},
		{"no migration", test_nothing_yet},
		{"sparse replies", test_sparse},
		{"bar and line", test_bar},
		{"paused", test_paused},
		{"numbers", test_numbers},
		{"settings", test_settings},
		{"a machine with its workers and lanes", test_machine},
		{0},
	};

	return unit_run("view", tests);
}
