/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * config.c: fuzz target: parameters from a YAML file and from --set. The first byte chooses:
 * 's': every further line is one --set; anything else: the whole input is a file.
 */
#include <sys/mman.h>
#include <unistd.h>

#include "base/params.h"
#include "engine/config.h"
#include "tests/fuzz/fuzz.h"

/* Whatever was taken can be printed, is within its bounds, and is read back as itself. */
static void check_values(const struct sluice_settings *settings)
{
	struct sluice_settings *again;
	json_t *json = sluice_params_json(settings->table, settings->values);

	json_decref(json);
	FUZZ_CHECK(sluice_settings_create(&again) == 0);
	for (const struct sluice_param *p = settings->table; p->name != NULL; p++) {
		char text[512], text_again[512];
		struct sluice_error err = {0};

		FUZZ_CHECK(sluice_params_format(p, settings->values, text, sizeof(text)) >= 0);
		FUZZ_CHECK(
			sluice_params_set(again->table, again->values, p->name, text, &err) == 0);
		FUZZ_CHECK(sluice_params_format(p, again->values, text_again, sizeof(text_again)) >=
			   0);
		FUZZ_CHECK(strcmp(text, text_again) == 0);
	}
	sluice_settings_destroy(again);
}

static void load_file(struct sluice_settings *settings, const uint8_t *data, size_t size)
{
	struct sluice_error err = {0};
	char path[64];
	int fd = memfd_create("config", MFD_CLOEXEC);
	int r;

	FUZZ_CHECK(fd >= 0 && write(fd, data, size) == (ssize_t)size);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	r = sluice_params_load_yaml(settings->table, settings->values, path, &err);
	FUZZ_CHECK((r == 0) == (err.code == 0));
	FUZZ_CHECK(r == 0 || err.text[0] != '\0');
	close(fd);
}

static void assign_lines(struct sluice_settings *settings, struct fuzz_input input)
{
	const char *line;
	size_t bytes;
	bool ended;

	while (fuzz_line(&input, &line, &bytes, &ended)) {
		struct sluice_error err = {0};
		char *text = fuzz_string(line, bytes);
		int r = sluice_params_assign(settings->table, settings->values, text, &err);

		FUZZ_CHECK((r == 0) == (err.code == 0));
		free(text);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct sluice_settings *settings;

	FUZZ_CHECK(sluice_settings_create(&settings) == 0);
	if (size > 0 && data[0] == 's')
		assign_lines(settings, (struct fuzz_input){data + 1, size - 1});
	else
		load_file(settings, data, size);
	check_values(settings);
	sluice_settings_destroy(settings);
	return 0;
}
