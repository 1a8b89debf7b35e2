/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * perftest.h: what it takes to use the programs of the package perftest: the device, port and GID
 * index that an address stands for, and their report. No processes; any thread.
 */
#ifndef SLUICE_PERF_PERFTEST_H
#define SLUICE_PERF_PERFTEST_H

#include <stdint.h>
#include <stdio.h>

#include <sluice/error.h>

/* The row of a bandwidth report. */
struct perf_perftest_row {
	uint64_t message_bytes;
	uint64_t messages; /* of all queue pairs together */
	double bytes_per_s; /* the average: from the first post to the last completion */
};

/*
 * Find the row in what a program printed. -EPROTO with the last line that it printed when there is
 * none, as after an error. -EAGAIN when all went well but the clock, so that the bandwidth is 0.
 */
int perf_perftest_read(FILE *report, struct perf_perftest_row *ret_row, struct sluice_error *err);

/* A RoCE v2 address as verbs name it. */
struct perf_perftest_rail {
	char address[64]; /* without a port */
	char device[64];
	unsigned int port, gid_index;
};

/*
 * Which device has the address of the rail @text (ADDRESS, ADDRESS:PORT or [ADDRESS]:PORT)?
 * @folder is /sys/class/infiniband. -EINVAL when it is no numeric address; -ENODEV when no port of
 * a device here has it as a RoCE v2 GID.
 */
int perf_perftest_find_rail(const char *folder, const char *text,
	struct perf_perftest_rail *ret_rail, struct sluice_error *err);

#endif
