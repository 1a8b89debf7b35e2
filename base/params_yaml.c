/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * params_yaml.c: parameters from a YAML file: one mapping of name: scalar, and sections for who
 * asks for them. Every error names file, line and column. Reads one file, keeps no state; any
 * thread.
 */
#include <errno.h>
#include <string.h>

#include <yaml.h>

#include "base/params.h"

/* More than any set of parameters needs; libyaml takes the square of deep nesting's length. */
#define FILE_BYTES_MAX (64u << 10)

struct source {
	const struct sluice_param *table;
	void *conf;
	const struct sluice_params_section *sections;
	const char *path;
	FILE *file;
	size_t bytes; /* read so far */
	char problem[64]; /* why reading ended too early; "" otherwise */
	yaml_document_t document;
	struct sluice_error *err;
};

static int fail_at(const struct source *source, int code, const yaml_mark_t *mark, const char *text)
{
	return sluice_fail(source->err, code, "config", "%s:%zu:%zu: %s", source->path,
		mark->line + 1, mark->column + 1, text);
}

static const char *scalar_text(const yaml_node_t *node)
{
	return (const char *)node->data.scalar.value;
}

static bool has_nul(const yaml_node_t *node)
{
	return strlen(scalar_text(node)) != node->data.scalar.length;
}

static bool seen_before(struct source *source, const yaml_node_t *map, const yaml_node_pair_t *pair)
{
	const yaml_node_t *key = yaml_document_get_node(&source->document, pair->key);

	for (const yaml_node_pair_t *p = map->data.mapping.pairs.start; p < pair; p++) {
		const yaml_node_t *other = yaml_document_get_node(&source->document, p->key);

		if (strcmp(scalar_text(other), scalar_text(key)) == 0)
			return true;
	}
	return false;
}

/* A name that stands only once in its mapping. */
static int check_key(struct source *source, const yaml_node_t *map, const yaml_node_pair_t *pair)
{
	const yaml_node_t *key = yaml_document_get_node(&source->document, pair->key);

	if (key->type != YAML_SCALAR_NODE || has_nul(key))
		return fail_at(
			source, -EINVAL, &key->start_mark, "a parameter's name must be a word");
	if (seen_before(source, map, pair))
		return fail_at(source, -EINVAL, &key->start_mark, "the parameter is given twice");
	return 0;
}

static int check_value(struct source *source, const yaml_node_t *value)
{
	if (value->type != YAML_SCALAR_NODE || has_nul(value))
		return fail_at(source, -EINVAL, &value->start_mark,
			"a parameter's value must be one plain value, not a list or a mapping");
	return 0;
}

/* One name: value of a section, or of the entry @entry of it. */
static int apply_in_section(struct source *source, const struct sluice_params_section *section,
	const char *entry, const yaml_node_t *map, const yaml_node_pair_t *pair)
{
	const yaml_node_t *key = yaml_document_get_node(&source->document, pair->key);
	const yaml_node_t *value = yaml_document_get_node(&source->document, pair->value);
	struct sluice_error why = {0};
	int rc = entry[0] != '\0' ? check_key(source, map, pair) : 0;

	if (rc == 0)
		rc = check_value(source, value);
	if (rc < 0)
		return rc;
	rc = section->set(section->ctx, entry, scalar_text(key), scalar_text(value), &why);
	if (rc == 0)
		return 0;
	return fail_at(source, rc, rc == -ENOENT ? &key->start_mark : &value->start_mark, why.text);
}

static int apply_entry(struct source *source, const struct sluice_params_section *section,
	const yaml_node_t *map, const yaml_node_pair_t *pair)
{
	const yaml_node_t *key = yaml_document_get_node(&source->document, pair->key);
	const yaml_node_t *value = yaml_document_get_node(&source->document, pair->value);
	struct sluice_error why = {0};
	int rc = check_key(source, map, pair);

	if (rc < 0 || value->type != YAML_MAPPING_NODE)
		return rc < 0 ? rc : apply_in_section(source, section, "", map, pair);
	rc = section->set(section->ctx, scalar_text(key), NULL, NULL, &why);
	if (rc < 0)
		return fail_at(source, rc, &key->start_mark, why.text);
	for (const yaml_node_pair_t *p = value->data.mapping.pairs.start;
		rc == 0 && p < value->data.mapping.pairs.top; p++)
		rc = apply_in_section(source, section, scalar_text(key), value, p);
	return rc;
}

static int apply_section(struct source *source, const struct sluice_params_section *section,
	const yaml_node_t *value)
{
	int rc = 0;

	if (value->type != YAML_MAPPING_NODE)
		return fail_at(source, -EINVAL, &value->start_mark,
			"this is a section: expected a mapping");
	for (const yaml_node_pair_t *p = value->data.mapping.pairs.start;
		rc == 0 && p < value->data.mapping.pairs.top; p++)
		rc = apply_entry(source, section, value, p);
	return rc;
}

static int apply_pair(struct source *source, const yaml_node_t *map, const yaml_node_pair_t *pair)
{
	const yaml_node_t *key = yaml_document_get_node(&source->document, pair->key);
	const yaml_node_t *value = yaml_document_get_node(&source->document, pair->value);
	struct sluice_error why = {0};
	const yaml_mark_t *at;
	int rc = check_key(source, map, pair);

	if (rc < 0)
		return rc;
	for (const struct sluice_params_section *section = source->sections; section->name != NULL;
		section++)
		if (strcmp(section->name, scalar_text(key)) == 0)
			return apply_section(source, section, value);
	rc = check_value(source, value);
	if (rc < 0)
		return rc;
	rc = sluice_params_set(
		source->table, source->conf, scalar_text(key), scalar_text(value), &why);
	if (rc == 0)
		return 0;
	at = rc == -ENOENT ? &key->start_mark : &value->start_mark;
	return fail_at(source, rc, at, why.text);
}

static int apply_document(struct source *source)
{
	const yaml_node_t *root = yaml_document_get_root_node(&source->document);
	int rc = 0;

	if (root == NULL) /* an empty file sets nothing */
		return 0;
	/* So does one with nothing but comments behind a "---". */
	if (root->type == YAML_SCALAR_NODE && root->data.scalar.length == 0)
		return 0;
	if (root->type != YAML_MAPPING_NODE)
		return fail_at(
			source, -EINVAL, &root->start_mark, "expected a mapping of name: value");
	for (const yaml_node_pair_t *p = root->data.mapping.pairs.start;
		rc == 0 && p < root->data.mapping.pairs.top; p++)
		rc = apply_pair(source, root, p);
	return rc;
}

static int fail_parsing(const struct source *source, const yaml_parser_t *parser)
{
	if (source->problem[0] != '\0')
		return sluice_fail(
			source->err, -EIO, "config", "%s: %s", source->path, source->problem);
	return fail_at(source, -EINVAL, &parser->problem_mark,
		parser->problem != NULL ? parser->problem : "not YAML");
}

/* Called by the parser: 1, and *ret_bytes of them; 0 is an error. */
static int read_some(void *ctx, unsigned char *buffer, size_t max, size_t *ret_bytes)
{
	struct source *source = ctx;
	size_t bytes = fread(buffer, 1, max, source->file);

	if (ferror(source->file)) {
		snprintf(source->problem, sizeof(source->problem), "%s", strerror(errno));
		return 0;
	}
	source->bytes += bytes;
	if (source->bytes > FILE_BYTES_MAX) {
		snprintf(source->problem, sizeof(source->problem),
			"more than %u bytes: this is no file of parameters", FILE_BYTES_MAX);
		return 0;
	}
	*ret_bytes = bytes;
	return 1;
}

static int load(struct source *source, yaml_parser_t *parser)
{
	bool last;
	int rc;

	if (!yaml_parser_load(parser, &source->document))
		return fail_parsing(source, parser);
	last = yaml_document_get_root_node(&source->document) == NULL;
	rc = apply_document(source);
	yaml_document_delete(&source->document);
	if (rc < 0 || last)
		return rc;
	if (!yaml_parser_load(parser, &source->document))
		return fail_parsing(source, parser);
	if (yaml_document_get_root_node(&source->document) != NULL)
		rc = fail_at(source, -EINVAL, &source->document.start_mark,
			"only one document is allowed");
	yaml_document_delete(&source->document);
	return rc;
}

int sluice_params_load_yaml(
	const struct sluice_param *table, void *conf, const char *path, struct sluice_error *err)
{
	static const struct sluice_params_section none = {.name = NULL};

	return sluice_params_load_yaml_sections(table, conf, &none, path, err);
}

int sluice_params_load_yaml_sections(const struct sluice_param *table, void *conf,
	const struct sluice_params_section *sections, const char *path, struct sluice_error *err)
{
	struct source source = {
		.table = table, .conf = conf, .sections = sections, .path = path, .err = err};
	yaml_parser_t parser;
	FILE *file = fopen(path, "re");
	int rc;

	if (file == NULL) {
		rc = -errno;
		return sluice_fail(err, rc, "config", "cannot read %s: %s", path, strerror(-rc));
	}
	if (!yaml_parser_initialize(&parser)) {
		fclose(file);
		return sluice_fail(err, -ENOMEM, "config", "out of memory");
	}
	source.file = file;
	yaml_parser_set_input(&parser, read_some, &source);
	rc = load(&source, &parser);
	yaml_parser_delete(&parser);
	fclose(file);
	return rc;
}
