/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * params.h: what can be done with a parameter table (include/sluice/param.h).
 * Pure but for reading YAML files; no state; any thread.
 */
#ifndef SLUICE_BASE_PARAMS_H
#define SLUICE_BASE_PARAMS_H

#include <stdio.h>

#include <jansson.h>

#include <sluice/error.h>
#include <sluice/param.h>

/* Fill @conf with the defaults. Asserts that the table is sound (our own mistake). */
void sluice_params_defaults(const struct sluice_param *table, void *conf);
/* Set one parameter from text. Unknown names get the nearest known one in the error. */
int sluice_params_set(const struct sluice_param *table, void *conf, const char *name,
	const char *value, struct sluice_error *err);
/* "name=value", as given to --set. */
int sluice_params_assign(const struct sluice_param *table, void *conf, const char *assignment,
	struct sluice_error *err);
/* A YAML mapping of name: value (scalars only). At most 64 KiB. Errors name file, line and column. */
int sluice_params_load_yaml(
	const struct sluice_param *table, void *conf, const char *path, struct sluice_error *err);
/*
 * The same for a file that also has sections: names at its top whose value is a mapping, either of
 * name: value or of entry: {name: value}. @sections ends with a NULL name. What a section says is
 * handed on in the file's order: @entry is "" for a name directly in the section, @name and @value
 * are NULL for an entry without names. An error of set() gets file, line and column in front.
 */
struct sluice_params_section {
	const char *name;
	int (*set)(void *ctx, const char *entry, const char *name, const char *value,
		struct sluice_error *err);
	void *ctx;
};

int sluice_params_load_yaml_sections(const struct sluice_param *table, void *conf,
	const struct sluice_params_section *sections, const char *path, struct sluice_error *err);
/* Every parameter with its effective value: numbers as JSON integers in base units. */
json_t *sluice_params_json(const struct sluice_param *table, const void *conf);
/* The effective value as text that sluice_params_set() reads back to the same value. */
int sluice_params_format(
	const struct sluice_param *param, const void *conf, char *text, size_t text_bytes);
/* Two columns for --help: name=default and help with unit and bounds. */
void sluice_params_help(const struct sluice_param *table, FILE *out);
/* The same as man(7) .TP items. */
void sluice_params_man(const struct sluice_param *table, FILE *out);
const struct sluice_param *sluice_params_find(const struct sluice_param *table, const char *name);

/* "64M", "2GiB" (both binary), "4096". */
int sluice_parse_size(const char *text, uint64_t *ret_bytes);
/* "300ms", "5s", "20us", "10ns"; a bare number is refused unless it is 0. */
int sluice_parse_time(const char *text, uint64_t *ret_ns);

#endif
