/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * view.c: fuzz target: what `sluice` draws from what an engine says. Two bytes for width and
 * rows, one for options, then lines of JSON: query-migrate, query-lanes, query-lanes before.
 */
#include "cli/cli.h"
#include "tests/fuzz/fuzz.h"

static json_t *next_json(struct fuzz_input *input)
{
	const char *line;
	size_t bytes;
	bool ended;

	if (!fuzz_line(input, &line, &bytes, &ended))
		return NULL;
	return json_loadb(line, bytes, JSON_DECODE_ANY, NULL);
}

/* No line is wider than asked for, none is too many; @columns 0: no limit. */
static void check_picture(const char *text, size_t bytes, unsigned int columns, unsigned int rows)
{
	unsigned int column = 0, lines = 0;

	FUZZ_CHECK(strlen(text) == bytes);
	for (; *text != '\0'; text++) {
		if (*text == '\n') {
			lines++;
			column = 0;
		} else if (((unsigned char)*text & 0xc0) != 0x80) {
			column++;
		}
		FUZZ_CHECK(columns == 0 || column <= columns);
	}
	FUZZ_CHECK(rows == 0 || lines <= rows);
}

static void draw(
	const struct cli_view *view, unsigned int width, unsigned int rows, unsigned int which)
{
	char *text = NULL;
	size_t bytes = 0;
	FILE *out = open_memstream(&text, &bytes);

	FUZZ_CHECK(out != NULL);
	if (which == 0)
		cli_view_line(view->migrate, width, out);
	else if (which == 1)
		cli_view_bar(view->migrate, width, out);
	else
		cli_view_render(view, width, rows, out);
	fclose(out);
	check_picture(text, bytes, width, which == 2 ? rows : 0);
	free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz_input input = {data, size};
	unsigned int width = fuzz_byte(&input), rows = fuzz_byte(&input),
		     option = fuzz_byte(&input);
	struct cli_view view = {.socket = "/run/sluice.sock",
		.interval_s = option & 1 ? 1.0 : 0.0,
		.unicode = option & 2,
		.history_count = option & 4 ? CLI_HISTORY_MAX : 3};

	view.migrate = next_json(&input);
	view.lanes = next_json(&input);
	view.previous = next_json(&input);
	view.bytes_per_second = cli_number(view.migrate, "bytes-per-second", -1);
	for (unsigned int i = 0; i < view.history_count; i++)
		view.placed_history[i] = view.bytes_per_second * i;
	for (unsigned int which = 0; which < 3; which++)
		draw(&view, width, rows, which);
	json_decref(view.migrate);
	json_decref(view.lanes);
	json_decref(view.previous);
	return 0;
}
