/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * param.h: one table says everything about a set of parameters.
 *
 * A row gives a parameter's name, type, default, unit, bounds and help, and
 * where it stands in a plain struct. From the same row come the parser (YAML
 * and --set), the defaults, `--help`, `query-migrate-parameters` and the man page.
 */
#ifndef SLUICE_PARAM_H
#define SLUICE_PARAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum sluice_param_type {
	SLUICE_PARAM_BOOL, /* bool; yes/no, true/false, on/off */
	SLUICE_PARAM_UINT, /* uint64_t; plain number within min..max */
	SLUICE_PARAM_SIZE, /* uint64_t bytes; "64M", "2GiB", or plain bytes */
	SLUICE_PARAM_TIME, /* uint64_t nanoseconds; "300ms", "5s", "20us" */
	SLUICE_PARAM_CHOICE, /* int; index into `choices` */
	SLUICE_PARAM_STRING, /* char[size], NUL-terminated; longer input is refused */
};

struct sluice_param {
	const char *name; /* as written in YAML and --set; words joined by '-' */
	enum sluice_param_type type;
	size_t offset; /* of the field in the configuration struct */
	size_t size; /* of the field, bytes; checked against the type */
	const char *default_text; /* parsed like user input: defaults cannot drift */
	uint64_t min, max; /* inclusive, in the type's unit; 0,0: no bounds */
	const char *const *choices; /* CHOICE only; NULL-terminated */
	const char *help; /* one sentence, lower case, without a full stop */
	bool live; /* may change while a migration runs */
};

#define SLUICE_FIELD(type_, field_) offsetof(type_, field_), sizeof(((type_ *)0)->field_)

#ifdef __cplusplus
}
#endif
#endif
