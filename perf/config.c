/* SPDX-License-Identifier: BSD-3-Clause */
/* config.c: the table of everything that a benchmark can vary. */
#include <stddef.h>

#include "perf/config.h"

#define S 1000000000ull

static const char *const program_names[] = {
	"migration", "plain", "iperf3", "harvest", "ib_write_bw", NULL};

#define ROW(type_, name_, field_, default_, min_, max_, help_)                        \
	{                                                                             \
		.name = (name_), .type = SLUICE_PARAM_##type_,                        \
		SLUICE_FIELD(struct perf_config, field_), .default_text = (default_), \
		.min = (min_), .max = (max_), .help = (help_)                         \
	}
#define TEXT(name_, field_, default_, help_) ROW(STRING, name_, field_, default_, 0, 0, help_)
#define FLAG(name_, field_, default_, help_) ROW(BOOL, name_, field_, default_, 0, 0, help_)

/* An empty text means: the program's own default, so that this table does not repeat it. */
const struct sluice_param perf_config_params[] = {
	TEXT("name", name, "unnamed", "what the result is called"),
	{.name = "program",
		.type = SLUICE_PARAM_CHOICE,
		SLUICE_FIELD(struct perf_config, program),
		.default_text = "migration",
		.choices = program_names,
		.help = "what is measured; plain: send() and recv() between memory like the "
			"guest's, iperf3: that program, both with `ram` bytes over `lanes` "
			"connections; harvest: finding dirty pages in the bitmap of `ram`; "
			"ib_write_bw: "
			"that program, with `ram` bytes in messages of `extent` over `lanes` queue "
			"pairs between two `rails`"},

	ROW(SIZE, "ram", ram_bytes, "1G", 4ull << 20, 1ull << 44, "guest memory"),
	ROW(UINT, "vcpus", vcpus, "2", 1, 64, "virtual processors of the guest"),
	TEXT("pattern", pattern, "", "how the guest writes; see refvm --help, empty: its default"),
	TEXT("rate", rate, "", "page writes per second; see refvm --help, empty: its default"),
	TEXT("touch", touch, "",
		"memory that the guest uses; see refvm --help, empty: its default"),
	TEXT("tracking", tracking, "",
		"how written pages are found: log, manual, ring or uffd, empty: refvm chooses; of "
		"several, as in log,ring, each VMM takes the next"),
	TEXT("backing", backing, "", "memfd, shm or hugetlb, empty: refvm's default"),
	TEXT("accel", accel, "", "kvm or thread, empty: kvm where it is there"),
	FLAG("prealloc", prealloc, "yes", "both VMMs allocate guest memory beforehand"),
	TEXT("refvm-args", refvm_args, "", "more options for both VMMs, separated by spaces"),

	TEXT("transport", transport, "", "what the lanes run over, empty: the engine's default"),
	TEXT("rails", rails, "",
		"the engines' rails; of several, separated by spaces, each VMM's engine takes the "
		"next, so that source and target have their own; empty: the engine's default"),
	ROW(SIZE, "extent", extent_bytes, "0", 0, 2u << 20,
		"longest single write of guest memory, 0: the engine's default"),
	ROW(UINT, "lanes", lanes, "4", 0, 1024, "lanes of a migration, 0: the engine's default"),
	ROW(UINT, "workers", workers, "0", 0, 1024, "worker threads per engine, 0: its default"),
	TEXT("pin", pin, "", "how the engines pin guest memory, empty: their default"),
	ROW(TIME, "downtime-limit", downtime_limit_ns, "300ms", S / 1000, 2000 * S,
		"the longest pause that the engine may plan"),
	TEXT("engine-set", engine_set, "",
		"more parameters of both engines: name=value, separated by spaces"),

	ROW(UINT, "repeats", repeats, "5", 1, 10000, "guests that are migrated and measured"),
	ROW(UINT, "warmup", warmup, "1", 0, 100, "guests that are migrated before, uncounted"),
	ROW(UINT, "hops", hops, "1", 1, 10000,
		"migrations of each guest, there and back; each is a run"),
	ROW(TIME, "settle", settle_ns, "500ms", 0, 600 * S,
		"the guest works this long before a migration"),
	ROW(TIME, "after", after_ns, "500ms", 0, 600 * S,
		"the guest works this long after a migration"),
	ROW(TIME, "timeout", timeout_ns, "120s", S, 86400 * S,
		"a migration that takes longer has failed"),
	FLAG("verify", verify, "yes",
		"compare all guest memory of both sides after a migration; what the guest writes "
		"there is tracked meanwhile, which slows it"),

	ROW(TIME, "hold", hold_ns, "0", 0, 600 * S,
		"lanes are held back to 1 MiB/s for this long, so that only tracking costs the "
		"guest something"),
	ROW(TIME, "cut-every", cut_every_ns, "0", 0, 600 * S,
		"one lane's connection is broken this often; needs root, 0: never"),
	ROW(TIME, "cut-all-after", cut_all_after_ns, "0", 0, 600 * S,
		"from this moment of the migration on all lanes' connections are broken"),
	ROW(TIME, "cut-all-for", cut_all_for_ns, "0", 0, 600 * S,
		"for this long; needs root, 0: never"),
	ROW(TIME, "idle-for", idle_for_ns, "0", 0, 600 * S,
		"afterwards the engines' CPU time and memory are measured for this long"),
	FLAG("reattach", reattach, "no",
		"afterwards the target's VMM attaches to its engine again, which shall pin "
		"nothing"),
	TEXT("network", network, "",
		"rate of the loopback, such as 3gbit, in a network namespace for the whole call; "
		"needs root and tc, empty: the host's own"),

	TEXT("refvm", refvm, "", "path of refvm, empty: next to sluice-perf, then PATH"),
	TEXT("sluiced", sluiced, "", "path of sluiced, empty: next to sluice-perf, then PATH"),
	{.name = NULL},
};
