/* SPDX-License-Identifier: BSD-3-Clause */
/* test_perftest.c: reports of perftest, and devices by address. */
#include <errno.h>
#include <ftw.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <CUnit/Basic.h>

#include "perf/perftest.h"

/* ---- reports ---- */

/* As ib_write_bw of perftest 4.5+0.17 (Debian 12) printed it over soft-RoCE. */
#define HEAD_4_5                                                                                  \
	"---------------------------------------------------------------------------------------" \
	"\n"                                                                                      \
	"                    RDMA_Write BW Test\n"                                                \
	" Dual-port       : OFF\t\tDevice         : rxe_a\n"                                      \
	" Number of qps   : 4\t\tTransport type : IB\n"                                           \
	" Connection type : RC\t\tUsing SRQ      : OFF\n"                                         \
	" TX depth        : 128\n"                                                                \
	" CQ Moderation   : 1\n"                                                                  \
	" Mtu             : 4096[B]\n"                                                            \
	"---------------------------------------------------------------------------------------" \
	"\n"                                                                                      \
	" local address: LID 0000 QPN 0x0012 PSN 0x926d0d RKey 0x000342 VAddr 0x007ff9ff835000\n" \
	" GID: 00:00:00:00:00:00:00:00:00:00:255:255:10:00:00:01\n"                               \
	" remote address: LID 0000 QPN 0x0012 PSN 0xfea0 RKey 0x0003aa VAddr 0x007fb7e783b000\n"  \
	" GID: 00:00:00:00:00:00:00:00:00:00:255:255:10:00:00:02\n"                               \
	"---------------------------------------------------------------------------------------" \
	"\n"
#define COLUMNS_4_5 \
	" #bytes     #iterations    BW peak[MB/sec]    BW average[MB/sec]   MsgRate[Mpps]\n"
#define ROW_4_5 " 65536      2000             110.45             103.79 \t\t   0.001661\n"
#define LINE                                                                                      \
	"---------------------------------------------------------------------------------------" \
	"\n"

static int read_text(const char *text, struct perf_perftest_row *row, struct sluice_error *err)
{
	FILE *file = tmpfile();
	int r;

	CU_ASSERT_PTR_NOT_NULL_FATAL(file);
	fputs(text, file);
	rewind(file);
	r = perf_perftest_read(file, row, err);
	fclose(file);
	return r;
}

static void expect_row(const char *text, double bytes_per_s)
{
	struct perf_perftest_row row = {0};
	struct sluice_error err = {0};

	CU_ASSERT_EQUAL(read_text(text, &row, &err), 0);
	CU_ASSERT_EQUAL(row.message_bytes, 65536);
	CU_ASSERT_EQUAL(row.messages, 2000);
	CU_ASSERT_DOUBLE_EQUAL(row.bytes_per_s, bytes_per_s, bytes_per_s / 1000);
}

/* Its MB are 2^20 bytes: the column of messages per second says the same. */
static void test_report(void)
{
	expect_row(HEAD_4_5 COLUMNS_4_5 ROW_4_5 LINE, 0.001661e6 * 65536);
	/* The CPU's clock is remarked upon where the eye expects the row. */
	expect_row(HEAD_4_5 COLUMNS_4_5
		"Conflicting CPU frequency values detected: 1600.000000 != 2400.000000. CPU "
		"Frequency is not max.\n" ROW_4_5 LINE,
		0.001661e6 * 65536);
	/* Later versions call them what they are; --report_gbits; no line at the end. */
	expect_row(" #bytes     #iterations    BW peak[MiB/sec]    BW average[MiB/sec]   "
		   "MsgRate[Mpps]\n" ROW_4_5,
		0.001661e6 * 65536);
	expect_row(" #bytes     #iterations    BW peak[Gb/sec]    BW average[Gb/sec]   "
		   "MsgRate[Mpps]\n 65536      2000             0.93               0.870653"
		   "             0.001661",
		0.001661e6 * 65536);
}

static void expect_refused_with(int code, const char *text, const char *says)
{
	struct perf_perftest_row row = {.messages = 7};
	struct sluice_error err = {0};

	CU_ASSERT_EQUAL(read_text(text, &row, &err), code);
	CU_ASSERT_PTR_NOT_NULL(strstr(err.text, says));
	CU_ASSERT_EQUAL(row.messages, 7);
}

static void expect_refused(const char *text, const char *says)
{
	expect_refused_with(-EPROTO, text, says);
}

/* What it says about its failure is passed on. */
static void test_no_report(void)
{
	expect_refused("", "nothing");
	expect_refused(LINE, "nothing");
	/* No server, as version 4.5 says it. */
	expect_refused("Unexpected CM event bl blka 8\n Unable to perform rdma_client function\n"
		       " Unable to init the socket connection\n",
		"ends with:  Unable to init the socket connection");
	/* The server's end, when its client has left. */
	expect_refused(HEAD_4_5 COLUMNS_4_5 " Failed to complete run_iter_bw\n", "Failed to");
	/* Numbers before the heading, or in words that are not understood. */
	expect_refused(ROW_4_5, "65536");
	expect_refused(" #bytes     #iterations    BW peak[MB/sec]    BW average[kB/sec]\n" ROW_4_5,
		"65536");
	expect_refused(HEAD_4_5 COLUMNS_4_5 " 65536      2000\n", "65536");
	/* Its clock failed: no figure, and worth another try. */
	expect_refused_with(-EAGAIN,
		HEAD_4_5 COLUMNS_4_5
		"Correlation coefficient r^2: 0.71 < 0.9\n"
		" 65536      2000             0.00             0.00 \t\t   0.000000\n",
		"cycle counter");
}

/* ---- devices ---- */

static char folder[] = "/tmp/test-perftest-XXXXXX";

static void put(const char *path, const char *text)
{
	char full[512];
	FILE *file;

	snprintf(full, sizeof(full), "%s/%s", folder, path);
	for (char *c = full + sizeof(folder); *c != '\0'; c++) {
		if (*c != '/')
			continue;
		*c = '\0';
		mkdir(full, 0700);
		*c = '/';
	}
	file = fopen(full, "we");
	CU_ASSERT_PTR_NOT_NULL_FATAL(file);
	fputs(text, file);
	fclose(file);
}

static void put_gid(const char *port, unsigned int index, const char *gid, const char *type)
{
	char path[128];

	snprintf(path, sizeof(path), "%s/gids/%u", port, index);
	put(path, gid);
	snprintf(path, sizeof(path), "%s/gid_attrs/types/%u", port, index);
	put(path, type);
}

static void expect_rail(
	const char *text, const char *device, unsigned int port, unsigned int gid_index)
{
	struct perf_perftest_rail rail = {.port = 0};
	struct sluice_error err = {0};

	CU_ASSERT_EQUAL(perf_perftest_find_rail(folder, text, &rail, &err), 0);
	CU_ASSERT_STRING_EQUAL(rail.device, device);
	CU_ASSERT_EQUAL(rail.port, port);
	CU_ASSERT_EQUAL(rail.gid_index, gid_index);
}

static void expect_no_rail(const char *in, const char *text, int r, const char *says)
{
	struct perf_perftest_rail rail = {.port = 77};
	struct sluice_error err = {0};

	CU_ASSERT_EQUAL(perf_perftest_find_rail(in, text, &rail, &err), r);
	CU_ASSERT_PTR_NOT_NULL(strstr(err.text, says));
	CU_ASSERT_EQUAL(rail.port, 77);
}

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st;
	(void)type;
	(void)ftw;
	return remove(path);
}

static void test_rails(void)
{
	struct perf_perftest_rail rail = {.port = 0};

	CU_ASSERT_PTR_NOT_NULL_FATAL(mkdtemp(folder));
	put_gid("rxe_a/ports/1", 0, "fe80:0000:0000:0000:0000:00ff:fe00:000a\n", "RoCE v2\n");
	put_gid("rxe_a/ports/1", 1, "0000:0000:0000:0000:0000:ffff:0a00:0001\n", "RoCE v2\n");
	/* Real NICs list each address twice, and leave gaps. */
	put_gid("mlx5_0/ports/1", 0, "0000:0000:0000:0000:0000:ffff:0a00:0009\n", "RoCE v2\n");
	put_gid("mlx5_0/ports/2", 2, "0000:0000:0000:0000:0000:ffff:0a00:0002\n", "IB/RoCE v1\n");
	put_gid("mlx5_0/ports/2", 5, "0000:0000:0000:0000:0000:ffff:0a00:0002\n", "RoCE v2\n");
	put_gid("mlx5_0/ports/2", 6, "0000:0000:0000:0000:0000:ffff:0a00:0003\n", "IB/RoCE v1\n");

	expect_rail("10.0.0.1", "rxe_a", 1, 1);
	expect_rail("10.0.0.1:0", "rxe_a", 1, 1);
	expect_rail("10.0.0.2:18515", "mlx5_0", 2, 5);
	expect_rail("fe80::ff:fe00:a", "rxe_a", 1, 0);
	expect_rail("[fe80::ff:fe00:a]:4791", "rxe_a", 1, 0);
	CU_ASSERT_EQUAL(perf_perftest_find_rail(folder, "10.0.0.1:7", &rail, NULL), 0);
	CU_ASSERT_STRING_EQUAL(rail.address, "10.0.0.1");

	expect_no_rail(folder, "10.0.0.3", -ENODEV, "10.0.0.3"); /* only RoCE v1 */
	expect_no_rail(folder, "10.0.0.4", -ENODEV, "10.0.0.4");
	expect_no_rail("/nonexistent", "10.0.0.1", -ENODEV, "10.0.0.1");
	expect_no_rail(folder, "rxe_a", -EINVAL, "rxe_a");
	expect_no_rail(folder, "", -EINVAL, "''");
	expect_no_rail(folder, "[fe80::1", -ENODEV, "fe80::1");
	nftw(folder, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
}

int main(void)
{
	unsigned int failures;

	if (CU_initialize_registry() != CUE_SUCCESS)
		return EXIT_FAILURE;
	CU_pSuite suite = CU_add_suite("perftest", NULL, NULL);
	CU_add_test(suite, "reports", test_report);
	CU_add_test(suite, "what is no report", test_no_report);
	CU_add_test(suite, "devices by address", test_rails);
	CU_basic_set_mode(CU_BRM_VERBOSE);
	CU_basic_run_tests();
	failures = CU_get_number_of_failures();
	CU_cleanup_registry();
	return failures == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
