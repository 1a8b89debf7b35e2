/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * schema.h: checking JSON messages against the tables that scripts/gen-schema.py makes
 * from a schema file (engine/control/vmm-socket.json, engine/peer/peer-link.json).
 *
 * Pure; the tables are constant; any thread.
 */
#ifndef SLUICE_BASE_SCHEMA_H
#define SLUICE_BASE_SCHEMA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

#include <sluice/error.h>

enum sluice_schema_type {
	SLUICE_SCHEMA_STR = 1, /* min..max bytes of UTF-8, no NUL */
	SLUICE_SCHEMA_INT, /* min..max */
	SLUICE_SCHEMA_SIZE, /* bytes, an integer in min..max */
	SLUICE_SCHEMA_BOOL,
	SLUICE_SCHEMA_NUMBER, /* integer or real */
	SLUICE_SCHEMA_ENUM, /* one of `words` */
	SLUICE_SCHEMA_OBJECT, /* `object` */
	SLUICE_SCHEMA_ARRAY, /* at most `max` of `of` */
	SLUICE_SCHEMA_ANY,
};

struct sluice_schema_struct;

struct sluice_schema_value {
	enum sluice_schema_type type;
	int64_t min, max;
	const char *const *words; /* NULL-terminated */
	const struct sluice_schema_struct *object;
	const struct sluice_schema_value *of;
};

struct sluice_schema_member {
	const char *name;
	bool optional;
	const struct sluice_schema_value *value;
};

struct sluice_schema_struct {
	const struct sluice_schema_member *members;
	size_t count;
	bool open; /* members that are not listed may have any value */
};

/* A command, an event or a message of a peer. */
struct sluice_schema_entry {
	const char *name;
	bool vmm; /* command: only the VMM's connection may call it */
	const struct sluice_schema_struct *data; /* arguments of a command, data otherwise */
	const struct sluice_schema_value *returns; /* command: its reply; NULL otherwise */
};

/* Entries by kind; a kind that the file does not have is empty. */
struct sluice_schema {
	const char *name;
	const struct sluice_schema_entry *commands, *events, *messages;
	size_t command_count, event_count, message_count;
};

/*
 * Check @object (NULL counts as {}). Refuses unknown, missing and mistyped members:
 * -EINVAL, with the member's path and what was expected. @where: the command or message.
 */
int sluice_schema_check(const struct sluice_schema_struct *schema, const json_t *object,
	const char *where, struct sluice_error *err);
/* The same for any value, such as a reply. */
int sluice_schema_check_value(const struct sluice_schema_value *schema, const json_t *value,
	const char *where, struct sluice_error *err);

/* The entry called @name, or NULL. */
const struct sluice_schema_entry *sluice_schema_find(
	const struct sluice_schema_entry *entries, size_t count, const char *name);

#endif
