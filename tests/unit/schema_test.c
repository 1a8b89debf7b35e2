/* SPDX-License-Identifier: BSD-3-Clause */
/* schema_test.c: each type, each way to violate it, and the words that say which. */
#include <errno.h>

#include "tests/unit/unit-test-schema.h"
#include "tests/unit/unit.h"

static const struct sluice_schema *const schema = &sluice_schema_unit_test;

/* Check arguments of `echo`, with {"str": "a"} added unless @json has a str. */
static int check(const char *json, struct sluice_error *err)
{
	const struct sluice_schema_entry *echo =
		sluice_schema_find(schema->commands, schema->command_count, "echo");
	json_t *args = json_loads(json, JSON_ALLOW_NUL, NULL);
	int rc;

	CU_ASSERT_PTR_NOT_NULL_FATAL(args);
	CU_ASSERT_PTR_NOT_NULL_FATAL(echo);
	if (strstr(json, "\"str\"") == NULL && json_is_object(args))
		json_object_set_new(args, "str", json_string("a"));
	rc = sluice_schema_check(echo->data, args, "echo", err);
	json_decref(args);
	return rc;
}

static void test_accepted(void)
{
	static const char *const cases[] = {
		"{}",
		"{\"str\": \"12345678\"}",
		"{\"int\": -5}",
		"{\"int\": 5}",
		"{\"size\": 4096}",
		"{\"size\": 9223372036854775807}",
		"{\"bool\": false}",
		"{\"number\": 1}",
		"{\"number\": 1.5}",
		"{\"enum\": \"green\"}",
		"{\"array\": []}",
		"{\"array\": [{\"x\": 1, \"y\": 2}, {\"x\": 3, \"y\": 4}]}",
		"{\"object\": {\"inner\": {\"x\": 1, \"y\": 2}}}",
		"{\"any\": null}",
		"{\"open\": {\"known\": true, \"more\": []}}",
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct sluice_error err = {0};

		CU_ASSERT_EQUAL(check(cases[i], &err), 0);
		CU_ASSERT_STRING_EQUAL(err.text, "");
	}
}

static void test_refused(void)
{
	static const struct {
		const char *json, *says;
	} cases[] = {
		{"[]", "expected an object, got an array"},
		{"{\"str\": \"\"}", "'str': expected a string of 1 to 8 bytes, got ''"},
		{"{\"str\": \"123456789\"}", "'str': expected a string of 1 to 8 bytes, got '1"},
		{"{\"str\": \"a\\u0000\"}", "'str': expected a string"},
		{"{\"str\": 1}", "'str': expected a string of 1 to 8 bytes, got 1"},
		{"{\"str\": null}", "'str': expected a string of 1 to 8 bytes, got null"},
		{"{\"int\": -6}", "'int': expected an integer from -5 to 5, got -6"},
		{"{\"int\": 6}", "'int': expected"},
		{"{\"int\": 1.0}", "'int': expected an integer from -5 to 5, got a number"},
		{"{\"int\": true}", "got a boolean"},
		{"{\"size\": 4095}", "'size': expected an integer (bytes) from 4096"},
		{"{\"size\": -1}", "'size': expected"},
		{"{\"bool\": 0}", "'bool': expected true or false, got 0"},
		{"{\"number\": \"1\"}", "'number': expected a number, got '1'"},
		{"{\"enum\": \"blue\"}", "'enum': expected one of 'red', 'green', got 'blue'"},
		{"{\"enum\": 1}", "'enum': expected one of"},
		{"{\"array\": {}}", "'array': expected an array of at most 2, got an object"},
		{"{\"array\": [1, 2, 3]}", "'array': expected an array of at most 2"},
		{"{\"array\": [{\"x\": 1, \"y\": 2}, {\"x\": 1}]}",
			"'array[1].y' is missing: expected an integer"},
		{"{\"array\": [{\"x\": 1, \"y\": \"2\"}]}", "'array[0].y': expected an integer"},
		{"{\"array\": [5]}", "'array[0]': expected an object, got 5"},
		{"{\"object\": {\"inner\": {\"x\": 1, \"y\": 2, \"z\": 3}}}",
			"'object.inner.z' is not known"},
		{"{\"object\": {}}", "'object.inner' is missing"},
		{"{\"open\": {\"known\": 1}}", "'open.known': expected true or false"},
		{"{\"open\": {\"known2\": true}}", "'open.known' is missing"},
		{"{\"sizes\": 4096}", "'sizes' is not known (did you mean 'size'?)"},
		{"{\"colour\": 1}", "'colour' is not known"},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct sluice_error err = {0};

		CU_ASSERT_EQUAL(check(cases[i].json, &err), -EINVAL);
		CU_ASSERT_STRING_EQUAL(err.where, "echo");
		UNIT_CONTAINS(err.text, cases[i].says);
	}
}

static void test_missing_all(void)
{
	const struct sluice_schema_entry *echo =
		sluice_schema_find(schema->commands, schema->command_count, "echo");
	struct sluice_error err = {0};

	CU_ASSERT_EQUAL(sluice_schema_check(echo->data, NULL, "echo", &err), -EINVAL);
	UNIT_CONTAINS(err.text, "'str' is missing: expected a string of 1 to 8 bytes");
}

static void test_tables(void)
{
	const struct sluice_schema_entry *hello =
		sluice_schema_find(schema->messages, schema->message_count, "HELLO");
	const struct sluice_schema_entry *vmm_only =
		sluice_schema_find(schema->commands, schema->command_count, "vmm-only");
	json_t *message = json_pack("{s:i}", "version", 1);

	CU_ASSERT_EQUAL(schema->message_count, 1);
	CU_ASSERT_EQUAL(schema->event_count, 2);
	CU_ASSERT_PTR_NOT_NULL_FATAL(hello);
	CU_ASSERT_PTR_NULL(hello->returns);
	CU_ASSERT_EQUAL(sluice_schema_check(hello->data, message, "HELLO", NULL), 0);
	json_object_set_new(message, "version", json_integer(0));
	CU_ASSERT_EQUAL(sluice_schema_check(hello->data, message, "HELLO", NULL), -EINVAL);
	CU_ASSERT_TRUE(vmm_only->vmm);
	CU_ASSERT_PTR_NULL(sluice_schema_find(schema->commands, schema->command_count, "hello"));
	json_decref(message);
}

int main(void)
{
	static const struct unit_test tests[] = {
		{"accepted", test_accepted},
		{"refused", test_refused},
		{"missing", test_missing_all},
		{"tables", test_tables},
		{0},
	};

	return unit_run("schema", tests);
}
