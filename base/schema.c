/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * schema.c: the checks of schema.h. The recursion is as deep as the schema, which is
 * constant, never as deep as the input. Pure; any thread.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/schema.h"
#include "base/text.h"

#define PATH_MAX_BYTES   160
#define EXPECT_MAX_BYTES 256

/* Where the checker stands, for the error. */
struct place {
	const char *where;
	char path[PATH_MAX_BYTES]; /* "regions[2].id"; "" for the message itself */
	struct sluice_error *err;
};

static const char *kind_of(const json_t *value)
{
	switch (json_typeof(value)) {
	case JSON_OBJECT:
		return "an object";
	case JSON_ARRAY:
		return "an array";
	case JSON_STRING:
		return "a string";
	case JSON_INTEGER:
		return "an integer";
	case JSON_REAL:
		return "a number";
	case JSON_NULL:
		return "null";
	default:
		return "a boolean";
	}
}

static void list_words(const char *const *words, char *text, size_t text_bytes)
{
	size_t used = 0;

	for (size_t i = 0; words[i] != NULL && used < text_bytes; i++)
		used += (size_t)snprintf(text + used, text_bytes - used, "%s'%s'",
			i > 0 ? ", " : "one of ", words[i]);
}

static void describe(const struct sluice_schema_value *schema, char *text, size_t text_bytes)
{
	switch (schema->type) {
	case SLUICE_SCHEMA_STR:
		snprintf(text, text_bytes, "a string of %" PRId64 " to %" PRId64 " bytes",
			schema->min, schema->max);
		break;
	case SLUICE_SCHEMA_INT:
	case SLUICE_SCHEMA_SIZE:
		snprintf(text, text_bytes, "an integer%s from %" PRId64 " to %" PRId64,
			schema->type == SLUICE_SCHEMA_SIZE ? " (bytes)" : "", schema->min,
			schema->max);
		break;
	case SLUICE_SCHEMA_BOOL:
		snprintf(text, text_bytes, "true or false");
		break;
	case SLUICE_SCHEMA_NUMBER:
		snprintf(text, text_bytes, "a number");
		break;
	case SLUICE_SCHEMA_ENUM:
		list_words(schema->words, text, text_bytes);
		break;
	case SLUICE_SCHEMA_OBJECT:
		snprintf(text, text_bytes, "an object");
		break;
	case SLUICE_SCHEMA_ARRAY:
		snprintf(text, text_bytes, "an array of at most %" PRId64, schema->max);
		break;
	case SLUICE_SCHEMA_ANY:
		snprintf(text, text_bytes, "anything");
		break;
	}
}

/* What the message itself is called when no member of it is at fault. */
static const char *path_text(const struct place *place)
{
	return place->path[0] != '\0' ? place->path : "(all)";
}

static int fail_value(
	const struct place *place, const struct sluice_schema_value *schema, const json_t *value)
{
	char expected[EXPECT_MAX_BYTES];

	describe(schema, expected, sizeof(expected));
	switch (json_typeof(value)) {
	case JSON_INTEGER:
		return sluice_fail(place->err, -EINVAL, place->where,
			"'%s': expected %s, got %" JSON_INTEGER_FORMAT, path_text(place), expected,
			json_integer_value(value));
	case JSON_STRING:
		return sluice_fail(place->err, -EINVAL, place->where,
			"'%s': expected %s, got '%.48s'%s", path_text(place), expected,
			json_string_value(value), json_string_length(value) > 48 ? "..." : "");
	default:
		return sluice_fail(place->err, -EINVAL, place->where, "'%s': expected %s, got %s",
			path_text(place), expected, kind_of(value));
	}
}

static bool has_word(const char *const *words, const char *word)
{
	for (; *words != NULL; words++) {
		if (strcmp(*words, word) == 0)
			return true;
	}
	return false;
}

static bool within(const struct sluice_schema_value *schema, json_int_t value)
{
	return value >= schema->min && value <= schema->max;
}

/* The value itself, without what it contains. */
static bool fits(const struct sluice_schema_value *schema, const json_t *value)
{
	switch (schema->type) {
	case SLUICE_SCHEMA_STR:
		return json_is_string(value) &&
		       within(schema, (json_int_t)json_string_length(value)) &&
		       strlen(json_string_value(value)) == json_string_length(value);
	case SLUICE_SCHEMA_INT:
	case SLUICE_SCHEMA_SIZE:
		return json_is_integer(value) && within(schema, json_integer_value(value));
	case SLUICE_SCHEMA_BOOL:
		return json_is_boolean(value);
	case SLUICE_SCHEMA_NUMBER:
		return json_is_number(value);
	case SLUICE_SCHEMA_ENUM:
		return json_is_string(value) && has_word(schema->words, json_string_value(value));
	case SLUICE_SCHEMA_OBJECT:
		return json_is_object(value);
	case SLUICE_SCHEMA_ARRAY:
		return json_is_array(value) && within(schema, (json_int_t)json_array_size(value));
	case SLUICE_SCHEMA_ANY:
		return true;
	}
	return false;
}

static int check_struct(
	struct place *place, const struct sluice_schema_struct *schema, const json_t *object);

static int check_value(
	struct place *place, const struct sluice_schema_value *schema, const json_t *value)
{
	size_t length = strlen(place->path);
	int rc = 0;

	if (!fits(schema, value))
		return fail_value(place, schema, value);
	if (schema->type == SLUICE_SCHEMA_OBJECT)
		return check_struct(place, schema->object, value);
	if (schema->type != SLUICE_SCHEMA_ARRAY)
		return 0;
	for (size_t i = 0; rc == 0 && i < json_array_size(value); i++) {
		snprintf(place->path + length, sizeof(place->path) - length, "[%zu]", i);
		rc = check_value(place, schema->of, json_array_get(value, i));
	}
	place->path[length] = '\0';
	return rc;
}

static const struct sluice_schema_member *find_member(
	const struct sluice_schema_struct *schema, const char *name)
{
	for (size_t i = 0; i < schema->count; i++) {
		if (strcmp(schema->members[i].name, name) == 0)
			return &schema->members[i];
	}
	return NULL;
}

static int fail_unknown(
	struct place *place, const struct sluice_schema_struct *schema, const char *name)
{
	struct sluice_nearest nearest = {.wanted = name};
	char hint[128];

	for (size_t i = 0; i < schema->count; i++)
		sluice_nearest_try(&nearest, schema->members[i].name);
	return sluice_fail(place->err, -EINVAL, place->where, "'%s%s%.64s' is not known%s",
		place->path, place->path[0] != '\0' ? "." : "", name,
		sluice_nearest_hint(&nearest, hint, sizeof(hint)));
}

static int check_known(
	struct place *place, const struct sluice_schema_struct *schema, const json_t *object)
{
	/* jansson's iterators want a mutable object but do not change it. */
	json_t *mutable = (json_t *)(uintptr_t)object;

	if (schema->open)
		return 0;
	for (void *it = json_object_iter(mutable); it != NULL;
		it = json_object_iter_next(mutable, it)) {
		if (find_member(schema, json_object_iter_key(it)) == NULL)
			return fail_unknown(place, schema, json_object_iter_key(it));
	}
	return 0;
}

static int check_struct(
	struct place *place, const struct sluice_schema_struct *schema, const json_t *object)
{
	size_t length = strlen(place->path);
	int rc = check_known(place, schema, object);

	for (size_t i = 0; rc == 0 && i < schema->count; i++) {
		const struct sluice_schema_member *member = &schema->members[i];
		const json_t *value = json_object_get(object, member->name);

		snprintf(place->path + length, sizeof(place->path) - length, "%s%s",
			length > 0 ? "." : "", member->name);
		if (value != NULL) {
			rc = check_value(place, member->value, value);
		} else if (!member->optional) {
			char expected[EXPECT_MAX_BYTES];

			describe(member->value, expected, sizeof(expected));
			rc = sluice_fail(place->err, -EINVAL, place->where,
				"'%s' is missing: expected %s", place->path, expected);
		}
	}
	place->path[length] = '\0';
	return rc;
}

int sluice_schema_check(const struct sluice_schema_struct *schema, const json_t *object,
	const char *where, struct sluice_error *err)
{
	struct place place = {.where = where, .err = err};

	if (object != NULL && !json_is_object(object))
		return sluice_fail(
			err, -EINVAL, where, "expected an object, got %s", kind_of(object));
	return check_struct(&place, schema, object);
}

int sluice_schema_check_value(const struct sluice_schema_value *schema, const json_t *value,
	const char *where, struct sluice_error *err)
{
	struct place place = {.where = where, .err = err};

	SLUICE_ASSERT(schema != NULL);
	return check_value(&place, schema, value);
}

const struct sluice_schema_entry *sluice_schema_find(
	const struct sluice_schema_entry *entries, size_t count, const char *name)
{
	for (size_t i = 0; i < count; i++) {
		if (strcmp(entries[i].name, name) == 0)
			return &entries[i];
	}
	return NULL;
}
