/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * machine.c: the picture of a machine with the workers and lanes on it: a box per NUMA node, and
 * the reasons below. Pure: from the JSON of query-placement to characters.
 */
#include <stdarg.h>
#include <string.h>

#include "cli/cli.h"

#define WIDTH_MIN   40u
#define WIDTH_MAX   100u
#define LABEL_WIDTH 10
#define ANY_NODE    (-1)

struct picture {
	FILE *out;
	unsigned int width; /* of a box, borders included */
	bool unicode;
};

static unsigned int columns_of(const char *text)
{
	unsigned int columns = 0;

	for (; *text != '\0'; text++)
		columns += ((unsigned char)*text & 0xc0) != 0x80;
	return columns;
}

/* Bytes of @text that make at most @columns columns. */
static int bytes_of(const char *text, unsigned int columns)
{
	int at = 0;

	for (; text[at] != '\0'; at++)
		if (((unsigned char)text[at] & 0xc0) != 0x80 && columns-- == 0)
			break;
	return at;
}

/* ---- boxes ---- */

static void repeat(const struct picture *p, unsigned int count)
{
	while (count-- > 0)
		fputs(p->unicode ? "─" : "-", p->out);
}

static void top(const struct picture *p, const char *title)
{
	unsigned int used = columns_of(title) + 5;

	fprintf(p->out, "%s %.*s ", p->unicode ? "┌─" : "+-", bytes_of(title, p->width - 5), title);
	repeat(p, used < p->width ? p->width - used : 0);
	fprintf(p->out, "%s\n", p->unicode ? "┐" : "+");
}

static void bottom(const struct picture *p)
{
	fputs(p->unicode ? "└" : "+", p->out);
	repeat(p, p->width - 2);
	fprintf(p->out, "%s\n", p->unicode ? "┘" : "+");
}

/* One row; what does not fit ends in "...". Only ASCII comes here. */
__attribute__((format(printf, 3, 4))) static void row(
	const struct picture *p, const char *label, const char *fmt, ...)
{
	int room = (int)p->width - 4 - LABEL_WIDTH;
	const char *side = p->unicode ? "│" : "|";
	char text[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	if ((int)strlen(text) > room)
		memcpy(text + room - 3, "...", 4);
	fprintf(p->out, "%s %-*s%-*s %s\n", side, LABEL_WIDTH, label, room, text, side);
}

/* ---- what is on a node ---- */

static bool has(const json_t *array, json_int_t value)
{
	for (size_t i = 0; i < json_array_size(array); i++)
		if (json_integer_value(json_array_get(array, i)) == value)
			return true;
	return false;
}

__attribute__((format(printf, 3, 4))) static void append(
	char *text, size_t bytes, const char *fmt, ...)
{
	size_t at = strlen(text);
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text + at, bytes - at, fmt, ap);
	va_end(ap);
}

static void nic_rows(const struct picture *p, const json_t *machine, json_int_t node)
{
	const json_t *nics = json_object_get(machine, "nics");

	for (size_t i = 0; i < json_array_size(nics); i++) {
		const json_t *nic = json_array_get(nics, i);
		const json_t *nodes = json_object_get(nic, "nodes");
		double gbit = cli_number(nic, "link-bytes-per-s", 0) * 8 / 1e9;
		char speed[32] = "";

		if (node == ANY_NODE ? json_array_size(nodes) > 0 : !has(nodes, node))
			continue;
		if (gbit > 0)
			snprintf(speed, sizeof(speed), "  %.3g Gbit/s", gbit);
		row(p, "NIC", "%s%s%s", cli_text(nic, "name", "?"),
			strcmp(cli_text(nic, "kind", ""), "rdma") == 0 ? " (RDMA)" : "", speed);
	}
}

/* A worker has a row per rail, nearly always one. */
static void worker_rows(const struct picture *p, const json_t *plan, const json_t *worker)
{
	const json_t *lanes = json_object_get(plan, "lanes");
	json_int_t index = json_integer_value(json_object_get(worker, "worker"));
	const char *rail = NULL;
	char label[32], text[400] = "";
	size_t i;

	snprintf(label, sizeof(label), "worker %d", (int)index);
	append(text, sizeof(text), "%s %s",
		json_is_true(json_object_get(worker, "bound")) ? "CPUs" : "any of CPUs",
		cli_text(worker, "cpus", "?"));
	if (json_object_get(worker, "thread-id") != NULL)
		append(text, sizeof(text), " (thread %.0f, last on %.0f)",
			cli_number(worker, "thread-id", 0), cli_number(worker, "core", -1));
	for (i = 0; i < json_array_size(lanes); i++) {
		const json_t *lane = json_array_get(lanes, i);
		const char *its = cli_text(lane, "rail", "?");

		if (json_integer_value(json_object_get(lane, "worker")) != index)
			continue;
		if (rail == NULL || strcmp(rail, its) != 0)
			append(text, sizeof(text), "%s  rail %s: lanes", rail == NULL ? "" : " ",
				its);
		append(text, sizeof(text), " %zu", i);
		rail = its;
	}
	row(p, label, "%s", text);
}

static void content(const struct picture *p, const json_t *plan, json_int_t node)
{
	const json_t *workers = json_object_get(plan, "workers");
	bool bitmaps = has(json_object_get(plan, "bitmap-nodes"), node);
	bool staging = has(json_object_get(plan, "staging-nodes"), node);

	nic_rows(p, json_object_get(plan, "machine"), node);
	for (size_t i = 0; i < json_array_size(workers); i++) {
		const json_t *worker = json_array_get(workers, i);

		if (json_integer_value(json_object_get(worker, "node")) == node)
			worker_rows(p, plan, worker);
	}
	if (bitmaps || staging)
		row(p, "memory", "%s%s%s", bitmaps ? "bitmaps" : "", bitmaps && staging ? ", " : "",
			staging ? "staging of device state" : "");
}

static void node_box(const struct picture *p, const json_t *plan, const json_t *node, bool is_only)
{
	double cores = cli_number(node, "cores", 0), bytes = cli_number(node, "memory-bytes", 0);
	char title[160], size[32];

	snprintf(title, sizeof(title), "node %.0f", cli_number(node, "node", 0));
	if (bytes > 0)
		append(title, sizeof(title), ", %s", cli_format_bytes(bytes, size, sizeof(size)));
	else if (!json_is_true(json_object_get(node, "has-memory")))
		append(title, sizeof(title), ", no memory");
	if (cores > 0)
		append(title, sizeof(title), ", %.0f core%s: CPUs %.60s", cores,
			cores > 1 ? "s" : "", cli_text(node, "cpus", "?"));
	else
		append(title, sizeof(title), ", no cores");
	top(p, title);
	content(p, plan, json_integer_value(json_object_get(node, "node")));
	if (is_only)
		content(p, plan, ANY_NODE);
	bottom(p);
}

static bool anything_anywhere(const json_t *plan)
{
	const json_t *workers = json_object_get(plan, "workers");
	const json_t *nics = json_object_get(json_object_get(plan, "machine"), "nics");

	for (size_t i = 0; i < json_array_size(workers); i++)
		if (cli_number(json_array_get(workers, i), "node", 0) == ANY_NODE)
			return true;
	for (size_t i = 0; i < json_array_size(nics); i++)
		if (json_array_size(json_object_get(json_array_get(nics, i), "nodes")) == 0)
			return true;
	return false;
}

/* ---- why ---- */

/* Words until the line is full, then on below the first one. */
static void wrapped(const struct picture *p, const char *label, const char *text)
{
	unsigned int column = LABEL_WIDTH + 2;

	fprintf(p->out, "  %-*s", LABEL_WIDTH, label);
	while (*text != '\0') {
		size_t word = strcspn(text, " ");

		bool first = column == LABEL_WIDTH + 2;

		if (!first && column + 1 + word > p->width) {
			fprintf(p->out, "\n  %-*s", LABEL_WIDTH, "");
			column = LABEL_WIDTH + 2;
			first = true;
		}
		fprintf(p->out, "%s%.*s", first ? "" : " ", (int)word, text);
		column += (unsigned int)word + !first;
		text += word;
		text += strspn(text, " ");
	}
	fputc('\n', p->out);
}

void cli_machine_render(const json_t *plan, unsigned int width, bool unicode, FILE *out)
{
	struct picture p = {.out = out, .width = width, .unicode = unicode};
	const json_t *machine = json_object_get(plan, "machine");
	const json_t *nodes = json_object_get(machine, "nodes");
	const json_t *reasons = json_object_get(plan, "reasons");
	const char *about = "";
	char title[400];
	size_t count = json_array_size(nodes);

	p.width = width < WIDTH_MIN ? WIDTH_MIN : width > WIDTH_MAX ? WIDTH_MAX : width;
	snprintf(title, sizeof(title), "%s, %zu node%s, CPUs %s",
		cli_text(machine, "source", "a machine"), count, count == 1 ? "" : "s",
		cli_text(machine, "cpus-present", "?"));
	fprintf(out, "%.*s\n", bytes_of(title, p.width), title);
	for (size_t i = 0; i < count; i++)
		node_box(&p, plan, json_array_get(nodes, i), count == 1);
	if (count > 1 && anything_anywhere(plan)) {
		top(&p, "no node in particular");
		content(&p, plan, ANY_NODE);
		bottom(&p);
	}
	fputs("Why\n", out);
	for (size_t i = 0; i < json_array_size(reasons); i++) {
		const json_t *reason = json_array_get(reasons, i);
		const char *topic = cli_text(reason, "about", "");

		wrapped(&p, strcmp(topic, about) == 0 ? "" : topic, cli_text(reason, "text", ""));
		about = topic;
	}
}
