/* SPDX-License-Identifier: BSD-3-Clause */
/* output.c: numbers for people, JSON for programs, and what the terminal can do. */
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "cli/cli.h"

#define WIDTH_DEFAULT 80
#define NUMBER_MAX    1e18

bool cli_is_terminal(FILE *file)
{
	return isatty(fileno(file)) == 1;
}

unsigned int cli_width(FILE *file)
{
	struct winsize size;

	if (ioctl(fileno(file), TIOCGWINSZ, &size) == 0 && size.ws_col > 0)
		return size.ws_col;
	return WIDTH_DEFAULT;
}

void cli_print_json(json_t *value)
{
	size_t flags = JSON_ENCODE_ANY | (cli_is_terminal(stdout) ? JSON_INDENT(2) : JSON_COMPACT);

	json_dumpf(value, stdout, flags);
	putchar('\n');
	fflush(stdout);
	json_decref(value);
}

const char *cli_format_bytes(double bytes, char *text, size_t text_bytes)
{
	static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
	size_t unit = 0;

	if (bytes < 0) {
		snprintf(text, text_bytes, "-");
		return text;
	}
	while (bytes >= 1023.95 && unit + 1 < sizeof(units) / sizeof(units[0])) {
		bytes /= 1024;
		unit++;
	}
	snprintf(text, text_bytes, unit == 0 || bytes >= 99.95 ? "%.0f %s" : "%.1f %s", bytes,
		units[unit]);
	return text;
}

const char *cli_format_count(double count, char *text, size_t text_bytes)
{
	static const char *const units[] = {"", "k", "M", "G", "T"};
	size_t unit = 0;

	if (count < 0) {
		snprintf(text, text_bytes, "-");
		return text;
	}
	while (count >= 999.95 && unit + 1 < sizeof(units) / sizeof(units[0])) {
		count /= 1000;
		unit++;
	}
	snprintf(text, text_bytes, unit == 0 || count >= 99.95 ? "%.0f%s" : "%.1f%s", count,
		units[unit]);
	return text;
}

const char *cli_format_ms(double ms, char *text, size_t text_bytes)
{
	unsigned long seconds;

	if (ms < 0) {
		snprintf(text, text_bytes, "-");
	} else if (ms < 10) {
		snprintf(text, text_bytes, "%.1f ms", ms);
	} else if (ms < 1000) {
		snprintf(text, text_bytes, "%.0f ms", ms);
	} else if (ms < 100000) {
		snprintf(text, text_bytes, "%.1f s", ms / 1000);
	} else {
		seconds = (unsigned long)(ms / 1000);
		snprintf(text, text_bytes, "%lu:%02lu min", seconds / 60, seconds % 60);
	}
	return text;
}

double cli_number(const json_t *object, const char *name, double otherwise)
{
	const json_t *value = json_object_get(object, name);
	double number = json_is_number(value) ? json_number_value(value) : otherwise;

	/* Nothing real is larger, and what is drawn of it has to fit an integer. */
	return number > NUMBER_MAX ? NUMBER_MAX : number < -NUMBER_MAX ? -NUMBER_MAX : number;
}

const char *cli_text(const json_t *object, const char *name, const char *otherwise)
{
	const char *text = json_string_value(json_object_get(object, name));

	return text != NULL ? text : otherwise;
}

bool cli_add_setting(json_t *object, const char *setting)
{
	const char *equals = strchr(setting, '=');
	json_t *value;
	char *name, *end;
	long long number;

	if (equals == NULL || equals == setting)
		return false;
	number = strtoll(equals + 1, &end, 10);
	if (equals[1] != '\0' && *end == '\0')
		value = json_integer(number);
	else if (strcmp(equals + 1, "true") == 0 || strcmp(equals + 1, "false") == 0)
		value = json_boolean(equals[1] == 't');
	else
		value = json_string(equals + 1);
	name = strndup(setting, (size_t)(equals - setting));
	if (name == NULL || value == NULL || json_object_set_new(object, name, value) < 0) {
		free(name);
		return false;
	}
	free(name);
	return true;
}
