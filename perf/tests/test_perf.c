/* SPDX-License-Identifier: BSD-3-Clause */
/* test_perf.c: numbers, tables and processes of sluice-perf. */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <CUnit/Basic.h>

#include "base/clock.h"
#include "base/params.h"
#include "perf/config.h"
#include "perf/footprint.h"
#include "perf/metrics.h"
#include "perf/process.h"
#include "perf/report.h"
#include "perf/series.h"

static void test_range(void)
{
	double odd[] = {3, 1, 2}, even[] = {4, 1, 3, 2}, one[] = {7};
	struct perf_range range = perf_range_of(odd, 3);

	CU_ASSERT_EQUAL(range.median, 2);
	CU_ASSERT_EQUAL(range.min, 1);
	CU_ASSERT_EQUAL(range.max, 3);
	CU_ASSERT_EQUAL(range.count, 3);
	CU_ASSERT_EQUAL(perf_range_of(even, 4).median, 2.5);
	CU_ASSERT_EQUAL(perf_range_of(one, 1).median, 7);
	CU_ASSERT_EQUAL(perf_range_of(NULL, 0).count, 0);
}

static void test_separate(void)
{
	struct perf_range low = {.median = 1, .min = 0, .max = 2, .count = 3};
	struct perf_range high = {.median = 4, .min = 3, .max = 5, .count = 3};
	struct perf_range touching = {.median = 4, .min = 2, .max = 5, .count = 3};
	struct perf_range none = {.count = 0};

	CU_ASSERT_TRUE(perf_range_separate(&low, &high));
	CU_ASSERT_TRUE(perf_range_separate(&high, &low));
	CU_ASSERT_FALSE(perf_range_separate(&low, &touching));
	CU_ASSERT_FALSE(perf_range_separate(&low, &none));
}

static json_t *runs_of(const char *text)
{
	json_t *runs = json_loads(text, 0, NULL);

	CU_ASSERT_PTR_NOT_NULL_FATAL(runs);
	return runs;
}

/* Failed runs and absent values do not count; nested keys are found. */
static void test_summary(void)
{
	json_t *runs =
		runs_of("[{\"status\": \"completed\", \"total_ms\": 10, \"guest_ops_per_s\": "
			"{\"before\": 5}},"
			" {\"status\": \"failed\", \"total_ms\": 1000},"
			" {\"status\": \"completed\", \"total_ms\": 20, \"downtime_ms\": null}]");
	json_t *summary = perf_metrics_summary(runs);
	json_t *total = json_object_get(summary, "total_ms");
	json_t *before = json_object_get(summary, "guest_ops_per_s.before");

	CU_ASSERT_EQUAL(json_number_value(json_object_get(total, "median")), 15);
	CU_ASSERT_EQUAL(json_number_value(json_object_get(total, "max")), 20);
	CU_ASSERT_EQUAL(json_integer_value(json_object_get(total, "count")), 2);
	CU_ASSERT_EQUAL(json_number_value(json_object_get(before, "median")), 5);
	CU_ASSERT_PTR_NULL(json_object_get(summary, "downtime_ms"));
	json_decref(summary);
	json_decref(runs);
}

static char *printed(void (*print)(const json_t *, FILE *), const json_t *result)
{
	char *text = NULL;
	size_t bytes;
	FILE *out = open_memstream(&text, &bytes);

	CU_ASSERT_PTR_NOT_NULL_FATAL(out);
	print(result, out);
	fclose(out);
	return text;
}

/* Downtime is 3 and the number of lanes, total the same in both runs that completed. */
static json_t *make_result(int lanes, int total_ms)
{
	static const char format[] =
		"{\"format\": \"sluice-perf/1\", \"status\": \"failed\", \"commit\": \"abc\","
		" \"config\": {\"name\": \"n\", \"lanes\": %d, \"ram\": 4194304, \"pin\": \"\"},"
		" \"host\": {\"cores\": 2}, \"runs\": ["
		" {\"status\": \"completed\", \"total_ms\": %d, \"downtime_ms\": 3, \"pin_ms\": 1},"
		" {\"status\": \"failed\", \"error\": \"the reason\"},"
		" {\"status\": \"completed\", \"total_ms\": %d, \"downtime_ms\": %d,"
		"  \"guest_ops_per_s\": {\"bin_ms\": 10, \"first_bin_ms\": -20, \"bins\": [8, 4, "
		"0]},"
		"  \"lanes\": [{\"lane\": 0, \"bytes\": 77000000}]}]}";
	char text[1024];

	snprintf(text, sizeof(text), format, lanes, total_ms, total_ms, lanes);
	return runs_of(text);
}

static void test_report(void)
{
	json_t *result = make_result(4, 123);
	char *text = printed(perf_report_print, result);

	CU_ASSERT_PTR_NOT_NULL(strstr(text, "n: failed, 3 runs"));
	CU_ASSERT_PTR_NOT_NULL(strstr(text, "123.0"));
	CU_ASSERT_PTR_NOT_NULL(strstr(text, "run 2: the reason"));
	CU_ASSERT_PTR_NOT_NULL(strstr(text, "lanes=4"));
	CU_ASSERT_PTR_NOT_NULL(strstr(text, "ram=4M"));
	CU_ASSERT_PTR_NOT_NULL(strstr(text, "77.0"));
	CU_ASSERT_PTR_NOT_NULL(strstr(text, "-20 ms █▄_"));
	CU_ASSERT_PTR_NULL(strstr(text, "pin="));
	free(text);
	json_decref(result);
}

static json_t *compared_with;

static void print_compared(const json_t *result, FILE *out)
{
	perf_compare_print(compared_with, result, out);
}

static void test_compare(void)
{
	json_t *result = make_result(4, 200);
	char *text;

	compared_with = make_result(2, 100);
	text = printed(print_compared, result);
	CU_ASSERT_PTR_NOT_NULL(strstr(text, "config differs: lanes: 2 | 4"));
	CU_ASSERT_PTR_NOT_NULL(strstr(text, "+100.0 %")); /* total */
	CU_ASSERT_PTR_NOT_NULL(strstr(text, "within the noise")); /* downtime */
	CU_ASSERT_PTR_NOT_NULL(strstr(text, "the same")); /* pinning */
	free(text);
	json_decref(result);
	json_decref(compared_with);
}

/* The table is sound, and every default is accepted and printed back. */
static void test_config(void)
{
	struct perf_config config;
	struct sluice_error err = {0};
	json_t *json;

	sluice_params_defaults(perf_config_params, &config);
	CU_ASSERT_EQUAL(config.ram_bytes, 1ull << 30);
	CU_ASSERT_EQUAL(config.downtime_limit_ns, 300 * SLUICE_NS_PER_MS);
	CU_ASSERT_EQUAL(sluice_params_assign(perf_config_params, &config, "ram=64M", &err), 0);
	CU_ASSERT_EQUAL(config.ram_bytes, 64ull << 20);
	CU_ASSERT_TRUE(sluice_params_assign(perf_config_params, &config, "ramm=64M", &err) < 0);
	json = sluice_params_json(perf_config_params, &config);
	CU_ASSERT_EQUAL(json_integer_value(json_object_get(json, "ram")), 64 << 20);
	json_decref(json);
}

static void test_series(void)
{
	struct perf_series series = {.count = 0};
	json_t *bins = runs_of("{\"bin_ns\": 10, \"t_ns\": [100, 110, 120, 500],"
			       " \"ops\": [0, 50, 100, 900]}");
	json_t *back = runs_of("{\"t_ns\": [200], \"ops\": [99]}");
	json_t *bad = runs_of("{\"t_ns\": [200], \"ops\": []}");
	json_t *counted;

	CU_ASSERT_EQUAL(perf_series_at(&series, 5), 0);
	CU_ASSERT_EQUAL(perf_series_append(&series, bins, 100, 130), 0);
	CU_ASSERT_EQUAL(series.count, 3);
	CU_ASSERT_EQUAL(perf_series_at(&series, 0), 0);
	CU_ASSERT_EQUAL(perf_series_at(&series, 115), 75);
	CU_ASSERT_EQUAL(perf_series_at(&series, 1000), 100);
	CU_ASSERT_EQUAL(perf_series_rate(&series, 100, 120), 5e9);
	CU_ASSERT_EQUAL(perf_series_rate(&series, 120, 120), 0);
	/* A pause, and going on: nothing is done in it. */
	CU_ASSERT_EQUAL(perf_series_append_one(&series, 122, 110), 0);
	CU_ASSERT_EQUAL(perf_series_append_one(&series, 128, 110), 0);
	CU_ASSERT_EQUAL(perf_series_append_one(&series, 130, 120), 0);
	counted = perf_series_bins(&series, 100, 135, 10);
	CU_ASSERT_EQUAL(json_array_size(counted), 3);
	CU_ASSERT_EQUAL(json_integer_value(json_array_get(counted, 1)), 50);
	CU_ASSERT_EQUAL(json_integer_value(json_array_get(counted, 2)), 20);
	/* A counter that went back, and what is no answer. */
	CU_ASSERT_EQUAL(perf_series_append(&series, back, 0, UINT64_MAX), -EILSEQ);
	CU_ASSERT_EQUAL(perf_series_append(&series, bad, 0, UINT64_MAX), -EPROTO);
	CU_ASSERT_EQUAL(series.count, 6);
	json_decref(counted);
	json_decref(bins);
	json_decref(back);
	json_decref(bad);
	perf_series_free(&series);
}

static char log_path[] = "/tmp/test-perf-XXXXXX";
static char shell[] = "sh", shell_option[] = "-c";

static void test_process(void)
{
	char script[] = "echo started; while :; do :; done";
	char *busy[] = {shell, shell_option, script, NULL};
	struct perf_process process;
	struct sluice_error err = {0};
	char *text = NULL;
	size_t bytes;
	FILE *out;
	pid_t pid;

	CU_ASSERT_EQUAL_FATAL(perf_process_start(&process, "busy", log_path, busy, &err), 0);
	pid = process.pid;
	for (int i = 0; i < 500 && perf_process_cpu_s(&process) < 0.02; i++)
		usleep(10000);
	CU_ASSERT_TRUE(perf_process_cpu_s(&process) >= 0.02);
	CU_ASSERT_TRUE(perf_process_alive(&process));
	CU_ASSERT_FALSE(perf_process_wait(&process, 1));
	out = open_memstream(&text, &bytes);
	perf_process_print_tail(&process, 1, out);
	fclose(out);
	CU_ASSERT_PTR_NOT_NULL(strstr(text, "\nstarted\n"));
	free(text);
	perf_process_end(&process);
	CU_ASSERT_FALSE(perf_process_alive(&process));
	CU_ASSERT_EQUAL(kill(pid, 0), -1); /* reaped */
	perf_process_end(&process);
}

/* One that ignores SIGTERM is ended all the same. */
static void test_process_stubborn(void)
{
	char script[] = "trap '' TERM; echo ready; while :; do sleep 1; done";
	char *stubborn[] = {shell, shell_option, script, NULL};
	struct perf_process process;
	struct sluice_error err = {0};
	pid_t pid;

	CU_ASSERT_EQUAL_FATAL(
		perf_process_start(&process, "stubborn", log_path, stubborn, &err), 0);
	pid = process.pid;
	usleep(200000);
	perf_process_end(&process);
	CU_ASSERT_EQUAL(kill(pid, 0), -1);
}

/* Guest memory does not count, whatever it is made of; a mapping's lines follow its first one. */
static void test_footprint(void)
{
	static const char smaps[] =
		"5573b1a00000-5573b1a21000 r--p 00000000 fe:00 1 /usr/bin/sluiced\n"
		"Size:                132 kB\nPss:                  40 kB\nPss_Dirty:      8 kB\n"
		"7f0000000000-7f0040000000 rw-s 00000000 00:01 2 /memfd:refvm-ram (deleted)\n"
		"Size:            1048576 kB\nPss:              524288 kB\n"
		"7f0040000000-7f0040008000 rw-s 00000000 00:01 3 /memfd:refvm-dirty (deleted)\n"
		"Pss:                  16 kB\n"
		"7f0050000000-7f0060000000 rw-s 00000000 00:15 4 /dev/shm/#5 (deleted)\n"
		"Pss:              262144 kB\n"
		"7ffc00000000-7ffc00021000 rw-p 00000000 00:00 0 [stack]\nPss:   4 kB\n";
	FILE *file = tmpfile();

	CU_ASSERT_PTR_NOT_NULL_FATAL(file);
	fputs(smaps, file);
	rewind(file);
	CU_ASSERT_EQUAL(perf_footprint_parse(file), 60 << 10);
	fclose(file);
	CU_ASSERT_TRUE(perf_footprint_bytes(getpid()) > 100000);
	CU_ASSERT_EQUAL(perf_footprint_bytes(0), 0);
}

int main(void)
{
	unsigned int failures;
	int fd = mkstemp(log_path);

	if (fd < 0 || CU_initialize_registry() != CUE_SUCCESS)
		return EXIT_FAILURE;
	close(fd);
	CU_pSuite suite = CU_add_suite("perf", NULL, NULL);
	CU_add_test(suite, "medians and ranges", test_range);
	CU_add_test(suite, "a difference needs ranges apart", test_separate);
	CU_add_test(suite, "summary", test_summary);
	CU_add_test(suite, "report", test_report);
	CU_add_test(suite, "compare", test_compare);
	CU_add_test(suite, "series of samples", test_series);
	CU_add_test(suite, "what a process holds", test_footprint);
	CU_add_test(suite, "configuration", test_config);
	CU_add_test(suite, "a process", test_process);
	CU_add_test(suite, "a process that ignores SIGTERM", test_process_stubborn);
	CU_basic_set_mode(CU_BRM_VERBOSE);
	CU_basic_run_tests();
	failures = CU_get_number_of_failures();
	CU_cleanup_registry();
	unlink(log_path);
	return failures == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
