/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * ib_write_bw.h: that program of the package perftest, beside sluice: one-sided writes over the
 * same two RDMA devices. Each of its queue pairs writes one buffer of one message again and again,
 * so that it says what the devices can do without any memory to move. One thread.
 */
#ifndef SLUICE_PERF_IB_WRITE_BW_H
#define SLUICE_PERF_IB_WRITE_BW_H

#include <jansson.h>

#include <sluice/error.h>

#include "perf/config.h"

/*
 * Write about `ram` bytes in messages of `extent` (64 KiB when that is 0) over `lanes` queue pairs, from
 * the first address of `rails` to the second. @dir is for its output. *ret_run (a new reference)
 * has total_ms, bytes_placed, placed_bytes_per_s and bulk_bytes_per_s, all from the first post to
 * the last completion, as it reports them. It is run again, and says so on stderr, when its clock has
 * failed. Where that goes on, or the program or the devices are missing, its status is "skipped"
 * with a reason, which is no error.
 */
int perf_ib_write_bw_run(const struct perf_config *config, const char *dir, json_t **ret_run,
	struct sluice_error *err);

#endif
