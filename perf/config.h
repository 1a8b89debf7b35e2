/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * config.h: what a benchmark is made of. One table gives the YAML keys, --set, the
 * defaults, --help and the effective configuration in the result.
 */
#ifndef SLUICE_PERF_CONFIG_H
#define SLUICE_PERF_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#include <sluice/param.h>

#define PERF_PATH_MAX 512
#define PERF_WORD_MAX 64
#define PERF_TEXT_MAX 512

/* What a run is. */
enum perf_program {
	PERF_PROGRAM_MIGRATION, /* a guest goes from one VMM to another */
	PERF_PROGRAM_PLAIN, /* plain.h */
	PERF_PROGRAM_IPERF3, /* iperf.h */
	PERF_PROGRAM_HARVEST, /* part.h */
	PERF_PROGRAM_IB_WRITE_BW, /* ib_write_bw.h */
};

struct perf_config {
	char name[PERF_WORD_MAX];
	int program; /* enum perf_program */

	/* The guest; passed on to refvm, which checks them. */
	uint64_t ram_bytes;
	uint64_t vcpus;
	char pattern[PERF_WORD_MAX];
	char rate[PERF_WORD_MAX];
	char touch[PERF_WORD_MAX];
	char tracking[PERF_WORD_MAX];
	char backing[PERF_WORD_MAX];
	char accel[PERF_WORD_MAX];
	bool prealloc;
	char refvm_args[PERF_TEXT_MAX];

	/* The engines; passed on to sluiced, which checks them. */
	char transport[PERF_WORD_MAX];
	char rails[PERF_TEXT_MAX];
	uint64_t extent_bytes;
	uint64_t lanes;
	uint64_t workers;
	char pin[PERF_WORD_MAX];
	uint64_t downtime_limit_ns;
	char engine_set[PERF_TEXT_MAX];

	/* The experiment. */
	uint64_t repeats;
	uint64_t warmup;
	uint64_t hops;
	uint64_t settle_ns;
	uint64_t after_ns;
	uint64_t timeout_ns;
	bool verify;

	/* What happens to a migration, and after it. */
	uint64_t hold_ns;
	uint64_t cut_every_ns;
	uint64_t cut_all_after_ns;
	uint64_t cut_all_for_ns;
	uint64_t idle_for_ns;
	bool reattach;
	char network[PERF_WORD_MAX];

	/* Where the programs are. */
	char refvm[PERF_PATH_MAX];
	char sluiced[PERF_PATH_MAX];
};

extern const struct sluice_param perf_config_params[];

#endif
