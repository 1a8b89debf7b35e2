/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * view.c: pictures of a migration as text: one line, a bar, or the whole of `sluice watch`.
 * Pure: from what the engine said to characters; no terminal, no clock.
 */
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"

#define PAGE_BYTES    4096.0
#define LABEL_WIDTH   10
#define LINE_MAX      512
#define BAR_CELLS_MAX 60

struct picture {
	FILE *out;
	unsigned int width, rows_left;
	bool unlimited;
};

/* ---- lines ---- */

/* How many bytes of @text make @columns columns; a UTF-8 character is one column. */
static size_t bytes_of_columns(const char *text, unsigned int columns)
{
	size_t at = 0;

	while (text[at] != '\0') {
		if (((unsigned char)text[at] & 0xc0) != 0x80 && columns-- == 0)
			break;
		at++;
	}
	return at;
}

/* One line, cut at the width; nothing when the picture is full. */
__attribute__((format(printf, 2, 3))) static void line(
	struct picture *picture, const char *fmt, ...)
{
	char text[LINE_MAX];
	va_list ap;

	if (!picture->unlimited && picture->rows_left == 0)
		return;
	picture->rows_left--;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	fprintf(picture->out, "%.*s\n", (int)bytes_of_columns(text, picture->width), text);
}

double cli_view_share(const json_t *ram_holder)
{
	const json_t *ram = json_object_get(ram_holder, "ram");
	double total = cli_number(ram, "total", 0);
	double remaining = cli_number(ram, "remaining", total);
	const char *status = cli_text(ram_holder, "status", "");

	if (strcmp(status, "completed") == 0)
		return 1;
	/* Before the first harvest nothing is known to be dirty, which is not "all done". */
	if (strcmp(status, "setup") == 0 || total <= 0 || remaining > total)
		return 0;
	return remaining > 0 ? (total - remaining) / total : 1;
}

/* "[#####.....]" with @cells cells; text needs 3 bytes per cell. */
static const char *draw_bar(
	double share, unsigned int cells, bool unicode, char *text, size_t text_bytes)
{
	unsigned int full = (unsigned int)(share * cells + 0.5);
	size_t used = 0;

	for (unsigned int i = 0; i < cells && used + 4 < text_bytes; i++) {
		const char *cell = i < full ? "#" : ".";

		if (unicode)
			cell = i < full ? "█" : "░";
		used += (size_t)snprintf(text + used, text_bytes - used, "%s", cell);
	}
	text[used] = '\0';
	return text;
}

/* A curve in one row: eight heights, the largest value at the top. */
static const char *draw_curve(
	const double *values, unsigned int count, bool unicode, char *text, size_t text_bytes)
{
	static const char *const blocks[] = {" ", "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
	static const char *const plain[] = {" ", ".", ".", ":", ":", "-", "=", "+", "#"};
	double largest = 0;
	size_t used = 0;

	for (unsigned int i = 0; i < count; i++)
		largest = values[i] > largest ? values[i] : largest;
	for (unsigned int i = 0; i < count && used + 4 < text_bytes; i++) {
		unsigned int height =
			values[i] > 0 ? (unsigned int)(values[i] / largest * 8 + 0.5) : 0;

		used += (size_t)snprintf(text + used, text_bytes - used, "%s",
			unicode ? blocks[height] : plain[height]);
	}
	text[used] = '\0';
	return text;
}

/* ---- one line ---- */

/* Expected downtime in ms, from whichever member is there; -1 when unknown. */
static double expected_downtime(const json_t *holder)
{
	double us = cli_number(holder, "expected-downtime-us", -1);

	return us >= 0 ? us / 1000 : cli_number(holder, "expected-downtime", -1);
}

/* How long the guest was stopped, ms; -1 while it is not known. */
static double real_downtime(const json_t *migrate)
{
	double us = cli_number(migrate, "downtime-us", -1);

	return us >= 0 ? us / 1000 : cli_number(migrate, "downtime", -1);
}

static void describe(const json_t *holder, char *text, size_t text_bytes)
{
	const json_t *ram = json_object_get(holder, "ram");
	double rate = cli_number(holder, "bytes-per-second", -1);
	char left[32], speed[32] = "", dirty[32], stop[32], downtime[48] = "";
	double real = real_downtime(holder), expected = expected_downtime(holder);

	if (real >= 0)
		snprintf(downtime, sizeof(downtime), "  downtime %s",
			cli_format_ms(real, stop, sizeof(stop)));
	else if (expected >= 0)
		snprintf(downtime, sizeof(downtime), "  downtime ~%s",
			cli_format_ms(expected, stop, sizeof(stop)));
	if (rate >= 0) {
		char bytes[24];

		snprintf(speed, sizeof(speed), "  %s/s",
			cli_format_bytes(rate, bytes, sizeof(bytes)));
	}
	snprintf(text, text_bytes, "%3.0f%%  %s left%s  dirty %s pages/s%s",
		cli_view_share(holder) * 100,
		cli_format_bytes(cli_number(ram, "remaining", -1), left, sizeof(left)), speed,
		cli_format_count(cli_number(ram, "dirty-pages-rate", -1), dirty, sizeof(dirty)),
		downtime);
}

void cli_view_line(const json_t *ram_holder, unsigned int width, FILE *out)
{
	const char *status = cli_text(ram_holder, "status", "?");
	char text[LINE_MAX], rest[LINE_MAX / 2], time[32];

	if (json_object_get(ram_holder, "ram") == NULL) {
		snprintf(text, sizeof(text), "%s", status);
	} else {
		describe(ram_holder, rest, sizeof(rest));
		snprintf(text, sizeof(text), "%s %s %s", status,
			cli_format_ms(cli_number(ram_holder, "total-time", -1), time, sizeof(time)),
			rest);
	}
	fprintf(out, "%.*s", (int)bytes_of_columns(text, width > 0 ? width : LINE_MAX), text);
}

void cli_view_bar(const json_t *ram_holder, unsigned int width, FILE *out)
{
	char text[LINE_MAX], rest[LINE_MAX / 2], bar[BAR_CELLS_MAX * 3 + 4];
	unsigned int cells;

	describe(ram_holder, rest, sizeof(rest));
	/* What the words leave is the bar's; too little is no bar. */
	cells = width > strlen(rest) + 4 ? width - (unsigned int)strlen(rest) - 4 : 0;
	cells = cells > 30 ? 30 : cells;
	if (cells < 5)
		snprintf(text, sizeof(text), "%s", rest);
	else
		snprintf(text, sizeof(text), "[%s] %s",
			draw_bar(cli_view_share(ram_holder), cells, false, bar, sizeof(bar)), rest);
	fprintf(out, "%.*s", (int)bytes_of_columns(text, width), text);
}

/* ---- paused, and what was lost ---- */

const char *cli_view_pause(const json_t *migrate, char *text, size_t text_bytes)
{
	const char *reason = cli_text(migrate, "pause-reason", NULL);
	double try_ms = cli_number(migrate, "retry-in", -1);
	double end_ms = cli_number(migrate, "gives-up-in", -1);
	char time[32];

	if (reason == NULL)
		return NULL;
	if (end_ms >= 0)
		snprintf(text, text_bytes, "%s; waits for the source for %s more", reason,
			cli_format_ms(end_ms, time, sizeof(time)));
	else if (try_ms >= 0)
		snprintf(text, text_bytes, "%s; next try in %s", reason,
			cli_format_ms(try_ms, time, sizeof(time)));
	else
		snprintf(text, text_bytes, "%s; goes on with: sluice recover", reason);
	return text;
}

const char *cli_view_losses(const json_t *migrate, char *text, size_t text_bytes)
{
	double lost = cli_number(migrate, "lanes-lost", 0);
	double pauses = cli_number(migrate, "pauses", 0);
	char bytes[32], time[32];

	if (lost <= 0 && pauses <= 0)
		return NULL;
	snprintf(text, text_bytes,
		"%.0f lanes lost, %.0f opened again; %s sent again; paused %.0f times, %s", lost,
		cli_number(migrate, "lanes-reopened", 0),
		cli_format_bytes(cli_number(migrate, "bytes-resent", 0), bytes, sizeof(bytes)),
		pauses, cli_format_ms(cli_number(migrate, "paused-time", 0), time, sizeof(time)));
	return text;
}

/* ---- the whole picture ---- */

static void render_head(const struct cli_view *view, struct picture *picture)
{
	const char *status = cli_text(view->migrate, "status", "?");
	char time[32] = "";
	double total_time = cli_number(view->migrate, "total-time", -1);
	const char *session = cli_text(view->migrate, "session", "");

	if (total_time >= 0)
		cli_format_ms(total_time, time, sizeof(time));
	line(picture, "sluice  %s", view->socket);
	line(picture, "%-*s%-15s %s%s%s", LABEL_WIDTH, "status", status, time,
		session[0] != '\0' ? "   session " : "", session);
}

/* A counter, its rate and how the rate went. */
static void render_rate(const struct cli_view *view, struct picture *picture, const char *label,
	const char *amount, double bytes_per_second, const double *history)
{
	unsigned int columns = picture->width > 60 ? picture->width - 42 : 18;
	unsigned int count = view->history_count;
	unsigned int skip = count > columns ? count - columns : 0;
	char curve[CLI_HISTORY_MAX * 3 + 4], rate[32];

	line(picture, "%-*s%-16s %10s/s  %s", LABEL_WIDTH, label, amount,
		cli_format_bytes(bytes_per_second, rate, sizeof(rate)),
		draw_curve(history + skip, count - skip, view->unicode, curve, sizeof(curve)));
}

static void render_ram(const struct cli_view *view, struct picture *picture)
{
	const json_t *ram = json_object_get(view->migrate, "ram");
	double share = cli_view_share(view->migrate);
	double dirty = cli_number(ram, "dirty-pages-rate", -1);
	unsigned int cells = picture->width > 60 ? picture->width - 50 : 10;
	char bar[BAR_CELLS_MAX * 3 + 4], a[32], b[48];

	cells = cells > BAR_CELLS_MAX ? BAR_CELLS_MAX : cells;
	line(picture, "%-*s[%s] %3.0f%%  %s of %s left", LABEL_WIDTH, "memory",
		draw_bar(share, cells, view->unicode, bar, sizeof(bar)), share * 100,
		cli_format_bytes(cli_number(ram, "remaining", -1), a, sizeof(a)),
		cli_format_bytes(cli_number(ram, "total", -1), b, sizeof(b)));
	render_rate(view, picture, "placed",
		cli_format_bytes(cli_number(ram, "transferred", -1), a, sizeof(a)),
		view->bytes_per_second, view->placed_history);
	snprintf(b, sizeof(b), "%s pages/s", cli_format_count(dirty, a, sizeof(a)));
	render_rate(view, picture, "dirty", b, dirty < 0 ? -1 : dirty * PAGE_BYTES,
		view->dirty_history);
}

static void render_downtime(const struct cli_view *view, struct picture *picture)
{
	double ms = real_downtime(view->migrate);
	const char *error = cli_text(view->migrate, "error-desc", NULL);
	const char *waits = cli_text(view->migrate, "waits-for", NULL);
	char text[32], more[LINE_MAX];

	if (ms >= 0)
		line(picture, "%-*s%s", LABEL_WIDTH, "downtime",
			cli_format_ms(ms, text, sizeof(text)));
	else
		line(picture, "%-*s%s expected", LABEL_WIDTH, "downtime",
			cli_format_ms(expected_downtime(view->migrate), text, sizeof(text)));
	line(picture, "%-*s%d%%", LABEL_WIDTH, "throttle", view->throttle);
	if (cli_view_losses(view->migrate, more, sizeof(more)) != NULL)
		line(picture, "%-*s%s", LABEL_WIDTH, "losses", more);
	if (cli_view_pause(view->migrate, more, sizeof(more)) != NULL)
		line(picture, "%-*s%s", LABEL_WIDTH, "paused", more);
	if (waits != NULL)
		line(picture, "%-*s%s", LABEL_WIDTH, "waits for", waits);
	if (error != NULL)
		line(picture, "%-*s%s", LABEL_WIDTH, "error", error);
}

/* Lane @index of the interval before, or NULL. */
static const json_t *previous_lane(const struct cli_view *view, size_t index)
{
	return view->previous != NULL ? json_array_get(view->previous, index) : NULL;
}

/* What @name grew by since the interval before, per second; -1 when unknown. */
static double growth(
	const struct cli_view *view, size_t index, const json_t *lane, const char *name)
{
	const json_t *before = previous_lane(view, index);
	double now = cli_number(lane, name, -1), then = cli_number(before, name, -1);

	if (now < 0 || then < 0 || now < then || view->interval_s <= 0)
		return -1;
	return (now - then) / view->interval_s;
}

static void render_lane(
	const struct cli_view *view, struct picture *picture, size_t index, const json_t *lane)
{
	double busy = growth(view, index, lane, "busy-ns"),
	       idle = growth(view, index, lane, "idle-ns");
	char rate[32], placed[32], inflight[32], worker[16] = "-", share[16] = "-";

	if (cli_number(lane, "worker", -1) >= 0)
		snprintf(worker, sizeof(worker), "%.0f", cli_number(lane, "worker", -1));
	if (busy >= 0 && idle >= 0 && busy + idle > 0)
		snprintf(share, sizeof(share), "%.0f%%", busy / (busy + idle) * 100);
	line(picture, "%4.0f  %-10s %6s %12s/s %12s %12s %6s", cli_number(lane, "lane", 0),
		cli_text(lane, "state", "?"), worker,
		cli_format_bytes(growth(view, index, lane, "bytes"), rate, sizeof(rate)),
		cli_format_bytes(cli_number(lane, "bytes", -1), placed, sizeof(placed)),
		cli_format_bytes(
			cli_number(lane, "inflight-bytes", -1), inflight, sizeof(inflight)),
		share);
}

static void render_lanes(const struct cli_view *view, struct picture *picture)
{
	size_t count = json_array_size(view->lanes);

	line(picture, "%s", "");
	if (count == 0) {
		line(picture, "no lanes");
		return;
	}
	line(picture, "%4s  %-10s %6s %14s %12s %12s %6s", "lane", "state", "worker", "rate",
		"placed", "in flight", "busy");
	for (size_t i = 0; i < count; i++) {
		/* The last row tells how many there was no row for. */
		if (!picture->unlimited && picture->rows_left == 1 && i + 1 < count) {
			line(picture, "      and %zu more: see sluice lanes", count - i);
			return;
		}
		render_lane(view, picture, i, json_array_get(view->lanes, i));
	}
}

void cli_view_render(const struct cli_view *view, unsigned int width, unsigned int rows, FILE *out)
{
	struct picture picture = {
		.out = out, .width = width, .rows_left = rows, .unlimited = rows == 0};

	render_head(view, &picture);
	if (json_object_get(view->migrate, "ram") == NULL) {
		line(&picture, "%s", "");
		line(&picture, "no migration yet");
		return;
	}
	line(&picture, "%s", "");
	render_ram(view, &picture);
	render_downtime(view, &picture);
	render_lanes(view, &picture);
}
