/* SPDX-License-Identifier: BSD-3-Clause */
/* params_test.c: every type of parameter, its bounds, both directions, YAML and its errors. */
#include <errno.h>
#include <unistd.h>

#include "base/params.h"
#include "tests/unit/unit.h"

struct conf {
	bool zero_pages;
	uint64_t lanes, any, window, limit;
	int pin;
	char rail[8];
};

static const char *const pins[] = {"onfault", "full", NULL};
static const struct sluice_param table[] = {
	{"zero-pages", SLUICE_PARAM_BOOL, SLUICE_FIELD(struct conf, zero_pages), "yes", 0, 0, NULL,
		"look for zero pages", true},
	{"lanes", SLUICE_PARAM_UINT, SLUICE_FIELD(struct conf, lanes), "4", 1, 64, NULL,
		"lanes to open", false},
	{"any", SLUICE_PARAM_UINT, SLUICE_FIELD(struct conf, any), "0", 0, 0, NULL, "any number",
		false},
	{"window", SLUICE_PARAM_SIZE, SLUICE_FIELD(struct conf, window), "64M", 4096, 1ull << 30,
		NULL, "bytes in flight", true},
	{"downtime-limit", SLUICE_PARAM_TIME, SLUICE_FIELD(struct conf, limit), "300ms", 0,
		10000000000ull, NULL, "longest stop", true},
	{"pin", SLUICE_PARAM_CHOICE, SLUICE_FIELD(struct conf, pin), "onfault", 0, 0, pins,
		"how memory is locked", false},
	{"rail", SLUICE_PARAM_STRING, SLUICE_FIELD(struct conf, rail), "auto", 0, 0, NULL,
		"which NIC", false},
	{0},
};

static void test_defaults(void)
{
	struct conf conf;

	sluice_params_defaults(table, &conf);
	CU_ASSERT_TRUE(conf.zero_pages);
	CU_ASSERT_EQUAL(conf.lanes, 4);
	CU_ASSERT_EQUAL(conf.window, 64ull << 20);
	CU_ASSERT_EQUAL(conf.limit, 300000000);
	CU_ASSERT_EQUAL(conf.pin, 0);
	CU_ASSERT_STRING_EQUAL(conf.rail, "auto");
}

static void test_sizes(void)
{
	static const struct {
		const char *text;
		int rc;
		uint64_t bytes;
	} cases[] = {
		{"0", 0, 0},
		{"4096", 0, 4096},
		{"64M", 0, 64ull << 20},
		{"2GiB", 0, 2ull << 30},
		{"2gib", 0, 2ull << 30},
		{"1T", 0, 1ull << 40},
		{"3KB", 0, 3072},
		{"7B", 0, 7},
		{"18446744073709551615", 0, UINT64_MAX},
		{"18446744073709551616", -ERANGE, 0},
		{"16777216T", -ERANGE, 0},
		{"", -EINVAL, 0},
		{"-1", -EINVAL, 0},
		{"+1", -EINVAL, 0},
		{" 1", -EINVAL, 0},
		{"1 ", -EINVAL, 0},
		{"0x10", -EINVAL, 0},
		{"1.5G", -EINVAL, 0},
		{"M", -EINVAL, 0},
		{"64Q", -EINVAL, 0},
		{"64ms", -EINVAL, 0},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		uint64_t bytes = 0;

		CU_ASSERT_EQUAL(sluice_parse_size(cases[i].text, &bytes), cases[i].rc);
		CU_ASSERT_EQUAL(bytes, cases[i].bytes);
	}
}

static void test_times(void)
{
	static const struct {
		const char *text;
		int rc;
		uint64_t ns;
	} cases[] = {
		{"0", 0, 0},
		{"10ns", 0, 10},
		{"20us", 0, 20000},
		{"300ms", 0, 300000000},
		{"5s", 0, 5000000000ull},
		{"0s", 0, 0},
		{"18446744074s", -ERANGE, 0},
		{"300", -EINVAL, 0},
		{"00", -EINVAL, 0},
		{"5m", -EINVAL, 0},
		{"", -EINVAL, 0},
		{"ms", -EINVAL, 0},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		uint64_t ns = 0;

		CU_ASSERT_EQUAL(sluice_parse_time(cases[i].text, &ns), cases[i].rc);
		CU_ASSERT_EQUAL(ns, cases[i].ns);
	}
}

/* What is refused leaves the value alone and says what was expected. */
static void test_refused(void)
{
	static const struct {
		const char *name, *value, *says;
		int rc;
	} cases[] = {
		{"zero-pages", "maybe", "yes or no", -EINVAL},
		{"lanes", "0", "from 1 to 64", -ERANGE},
		{"lanes", "65", "from 1 to 64", -ERANGE},
		{"lanes", "4x", "a number", -EINVAL},
		{"lanes", "", "a number", -EINVAL},
		{"window", "4095", "from 4K", -ERANGE},
		{"window", "2G", "1G", -ERANGE},
		{"downtime-limit", "300", "300ms", -EINVAL},
		{"downtime-limit", "11s", "to 10s", -ERANGE},
		{"pin", "ful", "onfault, full", -EINVAL},
		{"rail", "12345678", "at most 7 bytes", -ENAMETOOLONG},
		{"lane", "4", "did you mean 'lanes'", -ENOENT},
		{"colour", "4", "no parameter 'colour'", -ENOENT},
	};
	struct conf conf, before;

	sluice_params_defaults(table, &conf);
	memcpy(&before, &conf, sizeof(conf));
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct sluice_error err = {0};

		CU_ASSERT_EQUAL(
			sluice_params_set(table, &conf, cases[i].name, cases[i].value, &err),
			cases[i].rc);
		UNIT_CONTAINS(err.text, cases[i].says);
		CU_ASSERT_EQUAL(memcmp(&before, &conf, sizeof(conf)), 0);
	}
	CU_ASSERT_EQUAL(sluice_params_set(table, &conf, "rail", "1234567", NULL), 0);
	CU_ASSERT_EQUAL(sluice_params_set(table, &conf, "lanes", "64", NULL), 0);
	CU_ASSERT_EQUAL(sluice_params_set(table, &conf, "lanes", "1", NULL), 0);
	CU_ASSERT_EQUAL(sluice_params_set(table, &conf, "any", "18446744073709551615", NULL), 0);
	CU_ASSERT_EQUAL(conf.any, UINT64_MAX);
}

static void test_assign(void)
{
	struct sluice_error err = {0};
	struct conf conf;

	sluice_params_defaults(table, &conf);
	CU_ASSERT_EQUAL(sluice_params_assign(table, &conf, "window=128M", &err), 0);
	CU_ASSERT_EQUAL(conf.window, 128ull << 20);
	CU_ASSERT_EQUAL(sluice_params_assign(table, &conf, "rail=a=b", &err), 0);
	CU_ASSERT_STRING_EQUAL(conf.rail, "a=b");
	CU_ASSERT_EQUAL(sluice_params_assign(table, &conf, "rail=", &err), 0);
	CU_ASSERT_STRING_EQUAL(conf.rail, "");
	CU_ASSERT_EQUAL(sluice_params_assign(table, &conf, "window", &err), -EINVAL);
	UNIT_CONTAINS(err.text, "name=value");
	CU_ASSERT_EQUAL(sluice_params_assign(table, &conf, "=4", NULL), -EINVAL);
}

/* Text made from a value sets the same value again. */
static void test_format_reads_back(void)
{
	static const char *const settings[] = {"zero-pages=no", "lanes=17", "window=65537",
		"window=3M", "downtime-limit=0", "downtime-limit=1500us", "downtime-limit=7ns",
		"pin=full", "rail=eth0"};

	for (size_t i = 0; i < sizeof(settings) / sizeof(settings[0]); i++) {
		struct conf conf = {0}, again = {0};
		char text[64];

		sluice_params_defaults(table, &conf);
		CU_ASSERT_EQUAL(sluice_params_assign(table, &conf, settings[i], NULL), 0);
		for (const struct sluice_param *p = table; p->name != NULL; p++) {
			CU_ASSERT_TRUE(sluice_params_format(p, &conf, text, sizeof(text)) >= 0);
			CU_ASSERT_EQUAL(sluice_params_set(table, &again, p->name, text, NULL), 0);
		}
		CU_ASSERT_EQUAL(memcmp(&conf, &again, sizeof(conf)), 0);
		CU_ASSERT_EQUAL(sluice_params_format(&table[3], &conf, text, 2), -ENOSPC);
	}
}

static void test_json(void)
{
	struct conf conf;
	json_t *json;
	char *text;

	sluice_params_defaults(table, &conf);
	json = sluice_params_json(table, &conf);
	text = json_dumps(json, JSON_COMPACT);
	CU_ASSERT_STRING_EQUAL(text,
		"{\"zero-pages\":true,\"lanes\":4,\"any\":0,\"window\":67108864,"
		"\"downtime-limit\":300000000,\"pin\":\"onfault\",\"rail\":\"auto\"}");
	free(text);
	json_decref(json);
}

static void test_help_and_man(void)
{
	char *text = NULL;
	size_t bytes = 0;
	FILE *out = open_memstream(&text, &bytes);

	sluice_params_help(table, out);
	sluice_params_man(table, out);
	fclose(out);
	UNIT_CONTAINS(text, "lanes=4 ");
	UNIT_CONTAINS(text, "from 4K to 1G; live)");
	UNIT_CONTAINS(text, "one of onfault, full");
	UNIT_CONTAINS(text, ".TP\n\\fBdowntime\\-limit\\fR=\\fI300ms\\fR\n");
	free(text);
}

static int load(const char *yaml, struct conf *conf, struct sluice_error *err)
{
	char path[] = "/tmp/sluice-params-XXXXXX";
	int fd = mkstemp(path);
	int rc;

	CU_ASSERT_FATAL(fd >= 0);
	CU_ASSERT_EQUAL(write(fd, yaml, strlen(yaml)), (ssize_t)strlen(yaml));
	close(fd);
	sluice_params_defaults(table, conf);
	rc = sluice_params_load_yaml(table, conf, path, err);
	if (err->code != 0)
		UNIT_CONTAINS(err->text, path);
	unlink(path);
	return rc;
}

static void test_yaml(void)
{
	struct sluice_error err = {0};
	struct conf conf;

	CU_ASSERT_EQUAL(load("# a profile\nlanes: 8\nwindow: 1GiB\nzero-pages: off\n"
			     "pin: full\nrail: \"x y\"\n",
				&conf, &err),
		0);
	CU_ASSERT_EQUAL(conf.lanes, 8);
	CU_ASSERT_EQUAL(conf.window, 1ull << 30);
	CU_ASSERT_FALSE(conf.zero_pages);
	CU_ASSERT_EQUAL(conf.pin, 1);
	CU_ASSERT_STRING_EQUAL(conf.rail, "x y");
	CU_ASSERT_EQUAL(load("", &conf, &err), 0);
	CU_ASSERT_EQUAL(load("---\n# nothing\n", &conf, &err), 0);
	CU_ASSERT_EQUAL(load("lanes: 2\n...\n", &conf, &err), 0);
	CU_ASSERT_EQUAL(conf.lanes, 2);
}

static void test_yaml_errors(void)
{
	static const struct {
		const char *yaml, *says;
	} cases[] = {
		{"lanes: 4\nwindw: 1G\n",
			":2:1: there is no parameter 'windw' (did you mean 'window'?)"},
		{"lanes: 400\n", ":1:8: lanes: '400' is not"},
		{"lanes: [1, 2]\n", ":1:8: a parameter's value"},
		{"lanes:\n  a: b\n", ":2:3: a parameter's value"},
		{"- lanes\n", ":1:1: expected a mapping"},
		{"word\n", ":1:1: expected a mapping"},
		{"[a]: b\n", ":1:1: a parameter's name"},
		{"lanes: 4\nany: 1\nlanes: 5\n", ":3:1: the parameter is given twice"},
		{"lanes: 4\n---\nlanes: 5\n", ":2:1: only one document"},
		{"lanes: 4\n  bad: indent\n", ":2:"},
		{"lanes: \"4\\0\"\n", ":1:8: a parameter's value"},
		{"lanes: \"4\n", ":2:"},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct sluice_error err = {0};
		struct conf conf;

		CU_ASSERT_TRUE(load(cases[i].yaml, &conf, &err) < 0);
		UNIT_CONTAINS(err.text, cases[i].says);
	}
}

static void test_yaml_unreadable(void)
{
	struct sluice_error err = {0};
	struct conf conf;

	CU_ASSERT_EQUAL(
		sluice_params_load_yaml(table, &conf, "/nonexistent/x.yaml", &err), -ENOENT);
	UNIT_CONTAINS(err.text, "/nonexistent/x.yaml: No such file");
}

int main(void)
{
	static const struct unit_test tests[] = {
		{"defaults", test_defaults},
		{"sizes", test_sizes},
		{"times", test_times},
		{"refused values", test_refused},
		{"name=value", test_assign},
		{"format reads back", test_format_reads_back},
		{"json", test_json},
		{"help and man", test_help_and_man},
		{"yaml", test_yaml},
		{"yaml errors", test_yaml_errors},
		{"yaml unreadable", test_yaml_unreadable},
		{0},
	};

	return unit_run("params", tests);
}
