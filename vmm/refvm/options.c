/* SPDX-License-Identifier: BSD-3-Clause */
/* options.c: one table of options: their defaults, bounds, help and where they are kept. */
#include "vmm/refvm/options.h"

#include <errno.h>
#include <string.h>

#include "base/params.h"

#define KIB 1024ull
#define GIB (1ull << 30)

const char *const refvm_pattern_names[] = {"idle", "sequential", "uniform", "hotset", "ramp", NULL};
const char *const refvm_tracking_names[] = {"auto", "log", "manual", "ring", "uffd", NULL};
static const char *const backing_names[] = {"memfd", "shm", "hugetlb", NULL};
static const char *const accel_names[] = {"auto", "kvm", "thread", NULL};
static const char *const fill_names[] = {"random", "zero", "alternate", NULL};

#define ROW(type_, name_, field_, default_, min_, max_, choices_, help_)                \
	{                                                                               \
		.name = (name_), .type = SLUICE_PARAM_##type_,                          \
		SLUICE_FIELD(struct refvm_options, field_), .default_text = (default_), \
		.min = (min_), .max = (max_), .choices = (choices_), .help = (help_),   \
	}
#define SIZE(name_, field_, default_, min_, max_, help_) \
	ROW(SIZE, name_, field_, default_, min_, max_, NULL, help_)
#define UINT(name_, field_, default_, min_, max_, help_) \
	ROW(UINT, name_, field_, default_, min_, max_, NULL, help_)
#define WORD(name_, field_, default_, choices_, help_) \
	ROW(CHOICE, name_, field_, default_, 0, 0, choices_, help_)
#define FLAG(name_, field_, help_) ROW(BOOL, name_, field_, "no", 0, 0, NULL, help_)
#define PATH(name_, field_, help_) ROW(STRING, name_, field_, "", 0, 0, NULL, help_)

static const struct sluice_param table[] = {
	SIZE("ram", ram_bytes, "1G", 16 * KIB * KIB, 255 * GIB, "guest memory, of all regions"),
	UINT("regions", regions, "2", 1, 4, "regions of guest memory, with gaps between them"),
	WORD("backing", backing, "memfd", backing_names, "what guest memory is made of"),
	FLAG("separate", separate, "a file for each region, instead of one for all"),
	FLAG("prealloc", prealloc, "allocate guest memory at start"),

	UINT("vcpus", vcpus, "2", 1, 16, "virtual processors"),
	WORD("accel", accel, "auto", accel_names,
		"how they run; thread: threads of this process do the guest's work without KVM"),
	WORD("tracking", tracking, "auto", refvm_tracking_names,
		"how written pages are found; auto: log with kvm, uffd with threads"),
	UINT("ring-entries", ring_entries, "65536", 1024, 65536,
		"entries of a vCPU's dirty ring, a power of two"),

	SIZE("touch", touch_bytes, "255G", 0, 255 * GIB,
		"memory that the guest fills and works on, limited to what there is"),
	WORD("fill", fill, "random", fill_names,
		"what the guest fills it with; alternate: every second page random, the others "
		"untouched"),
	WORD("pattern", pattern, "hotset", refvm_pattern_names, "how the guest picks pages"),
	UINT("rate", rate, "20000", 0, 1000000000, "page writes per second, 0: as fast as it can"),
	UINT("ramp", ramp_per_s, "10000", 0, 1000000000,
		"pattern ramp: page writes per second more, every second"),
	UINT("hot-writes", hot_writes_percent, "90", 0, 100,
		"pattern hotset: percent of writes that go to hot pages"),
	UINT("hot-pages", hot_pages_percent, "10", 0, 100,
		"pattern hotset: percent of pages that are hot"),
	UINT("seed", seed, "1", 0, 0, "of everything random in the guest"),

	SIZE("device-size", device_bytes, "0", 0, 64 * KIB * KIB,
		"bytes that travel with the vCPUs' state, as those of a large device would"),

	FLAG("incoming", incoming, "start without a guest and wait for one"),
	FLAG("paused", paused, "do not start the guest; the monitor's cont does"),
	FLAG("track-after-resume", track_after_resume,
		"track what an arrived guest writes, so that the monitor's verify can tell it "
		"from what was lost; costs the guest write faults"),

	PATH("engine", engine,
		"sluiced to launch, empty: $SLUICE_ENGINE, then PATH; none: no engine at all"),
	PATH("engine-listen", engine_listen, "the engine serves operators at this socket, too"),
	PATH("monitor", monitor, "serve commands at this socket"),
	PATH("witness", witness,
		"file that proves that never two guests run: the same on both sides"),
	{.name = NULL},
};

static void print_help(void)
{
	printf("usage: refvm [--OPTION VALUE | --OPTION=VALUE]...\n\n"
	       "A small VMM on KVM that moves its guest with Sluice.\n\n");
	sluice_params_help(table, stdout);
	printf("\n  --engine-arg ARG   one more argument for the engine; may be repeated\n"
	       "\nA yes-or-no option alone means yes. Exit codes: 0 after quit or a signal,\n"
	       "1 something failed, 2 wrong options, 99 the witness saw two guests.\n");
}

static int add_engine_arg(struct refvm_options *options, const char *arg, struct sluice_error *err)
{
	size_t i;

	for (i = 0; i < REFVM_ENGINE_ARGS_MAX; i++) {
		if (options->engine_args[i] == NULL) {
			options->engine_args[i] = arg;
			return 0;
		}
	}
	return sluice_fail(
		err, -E2BIG, "options", "More than %d times --engine-arg.", REFVM_ENGINE_ARGS_MAX);
}

/* The value of the option at argv[*at]: after '=', the next argument, or yes for a flag. */
static const char *value_of(
	const struct sluice_param *param, const char *equals, int argc, char **argv, int *at)
{
	if (equals != NULL)
		return equals + 1;
	if (param != NULL && param->type == SLUICE_PARAM_BOOL)
		return "yes";
	return *at + 1 < argc ? argv[++*at] : NULL;
}

static int parse_one(
	struct refvm_options *options, int argc, char **argv, int *at, struct sluice_error *err)
{
	const char *arg = argv[*at], *equals = strchr(arg, '='), *value;
	const struct sluice_param *param;
	char name[64];
	int name_bytes;

	if (strncmp(arg, "--", 2) != 0)
		return sluice_fail(err, -EINVAL, "options",
			"'%s' is not an option: they begin with two hyphens.", arg);
	arg += 2;
	name_bytes = (int)(equals != NULL ? (size_t)(equals - arg) : strlen(arg));
	snprintf(name, sizeof(name), "%.*s", name_bytes, arg);
	param = sluice_params_find(table, name);
	value = value_of(param, equals, argc, argv, at);
	if (strcmp(name, "engine-arg") == 0 && value != NULL)
		return add_engine_arg(options, value, err);
	if (value == NULL)
		return sluice_fail(err, -EINVAL, "options", "--%s needs a value.", name);
	return sluice_params_set(table, options, name, value, err);
}

static int check(const struct refvm_options *options, struct sluice_error *err)
{
	if ((options->ring_entries & (options->ring_entries - 1)) != 0)
		return sluice_fail(
			err, -EINVAL, "options", "--ring-entries must be a power of two.");
	return 0;
}

int refvm_options_parse(
	int argc, char **argv, struct refvm_options *ret_options, struct sluice_error *err)
{
	struct refvm_options options = {.ram_bytes = 0};
	int i, rc;

	sluice_params_defaults(table, &options);
	for (i = 1; i < argc; i++) {
		if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
			print_help();
			return 1;
		}
		if (strcmp(argv[i], "--version") == 0) {
			printf("refvm %s\n", SLUICE_VERSION);
			return 1;
		}
		rc = parse_one(&options, argc, argv, &i, err);
		if (rc < 0)
			return rc;
	}
	rc = check(&options, err);
	if (rc < 0)
		return rc;
	*ret_options = options;
	return 0;
}
