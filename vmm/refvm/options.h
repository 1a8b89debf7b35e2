/* SPDX-License-Identifier: BSD-3-Clause */
/* options.h: refvm's command line. Main thread, at start. */
#ifndef REFVM_OPTIONS_H
#define REFVM_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include <sluice/error.h>
#include <sluice/param.h>

#define REFVM_PATH_BYTES      1024
#define REFVM_ENGINE_ARGS_MAX 64
#define REFVM_ENGINE_NONE     "none"

struct refvm_options {
	uint64_t ram_bytes;
	uint64_t regions;
	int backing; /* enum refvm_backing */
	bool separate;
	bool prealloc;

	uint64_t vcpus;
	int accel; /* enum refvm_accel_kind */
	int tracking; /* enum refvm_tracking_kind */
	uint64_t ring_entries;

	uint64_t touch_bytes;
	int fill; /* enum refvm_fill */
	int pattern; /* enum refvm_pattern */
	uint64_t rate;
	uint64_t ramp_per_s;
	uint64_t hot_writes_percent;
	uint64_t hot_pages_percent;
	uint64_t seed;
	uint64_t device_bytes;

	bool incoming;
	bool paused;
	bool track_after_resume;

	char engine[REFVM_PATH_BYTES];
	char engine_listen[REFVM_PATH_BYTES];
	char monitor[REFVM_PATH_BYTES];
	char witness[REFVM_PATH_BYTES];

	/* --engine-arg, as often as it was given; ends with NULL. Point into argv. */
	const char *engine_args[REFVM_ENGINE_ARGS_MAX + 1];
};

/* Choices by enum value; shared with the monitor. End with NULL. */
extern const char *const refvm_pattern_names[];
extern const char *const refvm_tracking_names[];

/* 1: --help or --version was printed, nothing else is to be done. */
int refvm_options_parse(
	int argc, char **argv, struct refvm_options *ret_options, struct sluice_error *err);

#endif
