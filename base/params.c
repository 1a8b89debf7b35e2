/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * params.c: parsing, printing and documenting parameters from their table. One row type,
 * one place per type: parse_value() and sluice_params_format() are each other's inverse.
 * No state; any thread. The YAML file format is in params_yaml.c.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/assert.h"
#include "base/bits.h"
#include "base/clock.h"
#include "base/params.h"
#include "base/text.h"

#define VALUE_TEXT_MAX   256
#define HELP_NAME_COLUMN 34

struct unit {
	const char *name;
	uint64_t factor;
};

/* Largest first: formatting takes the first that divides. */
static const struct unit size_units[] = {
	{"T", 1ull << 40},
	{"TB", 1ull << 40},
	{"TiB", 1ull << 40},
	{"G", 1ull << 30},
	{"GB", 1ull << 30},
	{"GiB", 1ull << 30},
	{"M", 1ull << 20},
	{"MB", 1ull << 20},
	{"MiB", 1ull << 20},
	{"K", 1ull << 10},
	{"KB", 1ull << 10},
	{"KiB", 1ull << 10},
	{"", 1},
	{"B", 1},
	{NULL, 0},
};

static const struct unit time_units[] = {
	{"s", SLUICE_NS_PER_S},
	{"ms", SLUICE_NS_PER_MS},
	{"us", SLUICE_NS_PER_US},
	{"ns", 1},
	{NULL, 0},
};

/* ---- numbers with units ---- */

/* Decimal digits only: no sign, no space, no hexadecimal. */
static int parse_digits(const char *text, uint64_t *ret_value, const char **ret_end)
{
	uint64_t value = 0;

	if (*text < '0' || *text > '9')
		return -EINVAL;
	for (; *text >= '0' && *text <= '9'; text++) {
		if (__builtin_mul_overflow(value, 10, &value) ||
			__builtin_add_overflow(value, (uint64_t)(*text - '0'), &value))
			return -ERANGE;
	}
	*ret_value = value;
	*ret_end = text;
	return 0;
}

static int parse_with_unit(const char *text, const struct unit *units, uint64_t *ret_value)
{
	const char *suffix;
	uint64_t value;
	int rc = parse_digits(text, &value, &suffix);

	if (rc < 0)
		return rc;
	for (; units->name != NULL; units++) {
		if (strcasecmp(suffix, units->name) != 0)
			continue;
		if (__builtin_mul_overflow(value, units->factor, &value))
			return -ERANGE;
		*ret_value = value;
		return 0;
	}
	return -EINVAL;
}

int sluice_parse_size(const char *text, uint64_t *ret_bytes)
{
	return parse_with_unit(text, size_units, ret_bytes);
}

int sluice_parse_time(const char *text, uint64_t *ret_ns)
{
	if (strcmp(text, "0") == 0) {
		*ret_ns = 0;
		return 0;
	}
	return parse_with_unit(text, time_units, ret_ns);
}

static const struct unit *unit_dividing(const struct unit *units, uint64_t value)
{
	while (value % units->factor != 0)
		units++;
	return units;
}

static int format_size(uint64_t bytes, char *text, size_t text_bytes)
{
	const struct unit *unit = unit_dividing(size_units, bytes);

	if (bytes == 0 || unit->factor == 1)
		return snprintf(text, text_bytes, "%" PRIu64, bytes);
	return snprintf(text, text_bytes, "%" PRIu64 "%s", bytes / unit->factor, unit->name);
}

static int format_time(uint64_t ns, char *text, size_t text_bytes)
{
	const struct unit *unit = unit_dividing(time_units, ns);

	if (ns == 0)
		return snprintf(text, text_bytes, "0");
	return snprintf(text, text_bytes, "%" PRIu64 "%s", ns / unit->factor, unit->name);
}

static int format_number(enum sluice_param_type type, uint64_t value, char *text, size_t text_bytes)
{
	switch (type) {
	case SLUICE_PARAM_SIZE:
		return format_size(value, text, text_bytes);
	case SLUICE_PARAM_TIME:
		return format_time(value, text, text_bytes);
	default:
		return snprintf(text, text_bytes, "%" PRIu64, value);
	}
}

/* ---- one row ---- */

static void *field_of(const struct sluice_param *param, void *conf)
{
	return (char *)conf + param->offset;
}

static const void *const_field_of(const struct sluice_param *param, const void *conf)
{
	return (const char *)conf + param->offset;
}

static bool is_number(const struct sluice_param *param)
{
	return param->type == SLUICE_PARAM_UINT || param->type == SLUICE_PARAM_SIZE ||
	       param->type == SLUICE_PARAM_TIME;
}

static bool has_bounds(const struct sluice_param *param)
{
	return is_number(param) && (param->min != 0 || param->max != 0);
}

static void assert_sound(const struct sluice_param *param)
{
	SLUICE_ASSERT(param->default_text != NULL);
	SLUICE_ASSERT(param->help != NULL);
	SLUICE_ASSERT(param->min <= param->max);
	switch (param->type) {
	case SLUICE_PARAM_BOOL:
		SLUICE_ASSERT(param->size == sizeof(bool));
		break;
	case SLUICE_PARAM_CHOICE:
		SLUICE_ASSERT(param->size == sizeof(int));
		SLUICE_ASSERT(param->choices != NULL);
		break;
	case SLUICE_PARAM_STRING:
		SLUICE_ASSERT(param->size > 0);
		break;
	default:
		SLUICE_ASSERT(is_number(param));
		SLUICE_ASSERT(param->size == sizeof(uint64_t));
	}
}

static void list_choices(const struct sluice_param *param, char *text, size_t text_bytes)
{
	size_t used = 0;

	text[0] = '\0';
	for (size_t i = 0; param->choices[i] != NULL && used < text_bytes; i++)
		used += (size_t)snprintf(text + used, text_bytes - used, "%s%s", i > 0 ? ", " : "",
			param->choices[i]);
}

/* What the value must look like: for errors, --help and the man page. */
static void describe_type(const struct sluice_param *param, char *text, size_t text_bytes)
{
	char low[32], high[32], choices[VALUE_TEXT_MAX];
	const char *kind = "a number";

	switch (param->type) {
	case SLUICE_PARAM_BOOL:
		snprintf(text, text_bytes, "yes or no");
		return;
	case SLUICE_PARAM_CHOICE:
		list_choices(param, choices, sizeof(choices));
		snprintf(text, text_bytes, "one of %s", choices);
		return;
	case SLUICE_PARAM_STRING:
		snprintf(text, text_bytes, "text of at most %zu bytes", param->size - 1);
		return;
	case SLUICE_PARAM_SIZE:
		kind = "bytes, such as 64M";
		break;
	case SLUICE_PARAM_TIME:
		kind = "a time, such as 300ms";
		break;
	case SLUICE_PARAM_UINT:
		break;
	}
	if (!has_bounds(param)) {
		snprintf(text, text_bytes, "%s", kind);
		return;
	}
	format_number(param->type, param->min, low, sizeof(low));
	format_number(param->type, param->max, high, sizeof(high));
	snprintf(text, text_bytes, "%s from %s to %s", kind, low, high);
}

static int parse_bool(const char *value, bool *ret_value)
{
	static const char *const yes[] = {"yes", "true", "on"};
	static const char *const no[] = {"no", "false", "off"};

	for (size_t i = 0; i < SLUICE_ARRAY_LEN(yes); i++) {
		if (strcasecmp(value, yes[i]) == 0 || strcasecmp(value, no[i]) == 0) {
			*ret_value = strcasecmp(value, yes[i]) == 0;
			return 0;
		}
	}
	return -EINVAL;
}

static int parse_number(const struct sluice_param *param, const char *value, uint64_t *ret_value)
{
	uint64_t number;
	const char *end;
	int rc;

	if (param->type == SLUICE_PARAM_SIZE) {
		rc = sluice_parse_size(value, &number);
	} else if (param->type == SLUICE_PARAM_TIME) {
		rc = sluice_parse_time(value, &number);
	} else {
		rc = parse_digits(value, &number, &end);
		if (rc == 0 && *end != '\0')
			rc = -EINVAL;
	}
	if (rc < 0)
		return rc;
	if (has_bounds(param) && (number < param->min || number > param->max))
		return -ERANGE;
	*ret_value = number;
	return 0;
}

static int parse_choice(const struct sluice_param *param, const char *value, int *ret_value)
{
	for (int i = 0; param->choices[i] != NULL; i++) {
		if (strcmp(value, param->choices[i]) == 0) {
			*ret_value = i;
			return 0;
		}
	}
	return -EINVAL;
}

static int parse_string(const struct sluice_param *param, const char *value, char *field)
{
	size_t bytes = strlen(value) + 1;

	if (bytes > param->size)
		return -ENAMETOOLONG;
	memcpy(field, value, bytes);
	return 0;
}

static int parse_value(const struct sluice_param *param, void *conf, const char *value)
{
	switch (param->type) {
	case SLUICE_PARAM_BOOL:
		return parse_bool(value, field_of(param, conf));
	case SLUICE_PARAM_CHOICE:
		return parse_choice(param, value, field_of(param, conf));
	case SLUICE_PARAM_STRING:
		return parse_string(param, value, field_of(param, conf));
	default:
		return parse_number(param, value, field_of(param, conf));
	}
}

/* ---- the table ---- */

const struct sluice_param *sluice_params_find(const struct sluice_param *table, const char *name)
{
	for (; table->name != NULL; table++) {
		if (strcmp(table->name, name) == 0)
			return table;
	}
	return NULL;
}

void sluice_params_defaults(const struct sluice_param *table, void *conf)
{
	for (const struct sluice_param *param = table; param->name != NULL; param++) {
		int rc;

		assert_sound(param);
		SLUICE_ASSERT(sluice_params_find(table, param->name) == param);
		rc = parse_value(param, conf, param->default_text);
		SLUICE_ASSERT(rc == 0);
	}
}

static int fail_unknown(
	const struct sluice_param *table, const char *name, struct sluice_error *err)
{
	struct sluice_nearest nearest = {.wanted = name};
	char hint[128];

	for (; table->name != NULL; table++)
		sluice_nearest_try(&nearest, table->name);
	return sluice_fail(err, -ENOENT, "parameter", "there is no parameter '%.64s'%s", name,
		sluice_nearest_hint(&nearest, hint, sizeof(hint)));
}

int sluice_params_set(const struct sluice_param *table, void *conf, const char *name,
	const char *value, struct sluice_error *err)
{
	const struct sluice_param *param = sluice_params_find(table, name);
	char expected[VALUE_TEXT_MAX];
	int rc;

	if (param == NULL)
		return fail_unknown(table, name, err);
	rc = parse_value(param, conf, value);
	if (rc == 0)
		return 0;
	describe_type(param, expected, sizeof(expected));
	return sluice_fail(
		err, rc, "parameter", "%s: '%.64s' is not %s", param->name, value, expected);
}

int sluice_params_assign(const struct sluice_param *table, void *conf, const char *assignment,
	struct sluice_error *err)
{
	const char *equals = strchr(assignment, '=');
	char *name;
	int rc;

	if (equals == NULL || equals == assignment)
		return sluice_fail(err, -EINVAL, "parameter",
			"'%.64s' is not of the form name=value", assignment);
	name = strndup(assignment, (size_t)(equals - assignment));
	if (name == NULL)
		return sluice_fail(err, -ENOMEM, "parameter", "out of memory");
	rc = sluice_params_set(table, conf, name, equals + 1, err);
	free(name);
	return rc;
}

/* ---- output ---- */

static uint64_t number_of(const struct sluice_param *param, const void *conf)
{
	uint64_t number;

	memcpy(&number, const_field_of(param, conf), sizeof(number));
	return number;
}

static const char *choice_of(const struct sluice_param *param, const void *conf)
{
	int index;

	memcpy(&index, const_field_of(param, conf), sizeof(index));
	return param->choices[index];
}

static bool bool_of(const struct sluice_param *param, const void *conf)
{
	return *(const bool *)const_field_of(param, conf);
}

static json_t *value_json(const struct sluice_param *param, const void *conf)
{
	uint64_t number;

	switch (param->type) {
	case SLUICE_PARAM_BOOL:
		return json_boolean(bool_of(param, conf));
	case SLUICE_PARAM_CHOICE:
		return json_string(choice_of(param, conf));
	case SLUICE_PARAM_STRING:
		return json_string(const_field_of(param, conf));
	default:
		number = number_of(param, conf);
		/* JSON integers are signed here; nothing real is that large. */
		return json_integer(number > INT64_MAX ? INT64_MAX : (json_int_t)number);
	}
}

json_t *sluice_params_json(const struct sluice_param *table, const void *conf)
{
	json_t *object = json_object();

	for (; table->name != NULL; table++)
		json_object_set_new(object, table->name, value_json(table, conf));
	return object;
}

int sluice_params_format(
	const struct sluice_param *param, const void *conf, char *text, size_t text_bytes)
{
	int length;

	switch (param->type) {
	case SLUICE_PARAM_BOOL:
		length = snprintf(text, text_bytes, "%s", bool_of(param, conf) ? "yes" : "no");
		break;
	case SLUICE_PARAM_CHOICE:
		length = snprintf(text, text_bytes, "%s", choice_of(param, conf));
		break;
	case SLUICE_PARAM_STRING:
		length =
			snprintf(text, text_bytes, "%s", (const char *)const_field_of(param, conf));
		break;
	default:
		length = format_number(param->type, number_of(param, conf), text, text_bytes);
	}
	return length >= 0 && (size_t)length < text_bytes ? length : -ENOSPC;
}

void sluice_params_help(const struct sluice_param *table, FILE *out)
{
	char expected[VALUE_TEXT_MAX];

	for (; table->name != NULL; table++) {
		int width = fprintf(out, "  %s=%s", table->name, table->default_text);

		if (width >= HELP_NAME_COLUMN) {
			fputc('\n', out);
			width = 0;
		}
		describe_type(table, expected, sizeof(expected));
		fprintf(out, "%*s%s (%s%s)\n", HELP_NAME_COLUMN - width, "", table->help, expected,
			table->live ? "; live" : "");
	}
}

/* man(7) reads a bare '-' as a hyphen; option names are typed with a minus. */
static void print_man_text(const char *text, FILE *out)
{
	for (; *text != '\0'; text++) {
		if (*text == '-' || *text == '\\')
			fputc('\\', out);
		fputc(*text == '\\' ? 'e' : *text, out);
	}
}

void sluice_params_man(const struct sluice_param *table, FILE *out)
{
	char expected[VALUE_TEXT_MAX];

	for (; table->name != NULL; table++) {
		describe_type(table, expected, sizeof(expected));
		fputs(".TP\n\\fB", out);
		print_man_text(table->name, out);
		fputs("\\fR=\\fI", out);
		print_man_text(table->default_text, out);
		fputs("\\fR\n", out);
		print_man_text(table->help, out);
		fputs(" (", out);
		print_man_text(expected, out);
		fputs(table->live ? "; may change while a migration runs).\n" : ").\n", out);
	}
}
