/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * watch.c: `sluice watch`: asks the engine once per interval and draws what it said: the
 * whole screen on a terminal, a line otherwise. Pictures come from view.c.
 */
#include <errno.h>
#include <langinfo.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "cli/cli.h"

#define ROWS_DEFAULT 24

/* ANSI: another screen without a cursor, and back; home; clear to the end of line or screen. */
#define SCREEN_ENTER "\033[?1049h\033[?25l"
#define SCREEN_LEAVE "\033[?25h\033[?1049l"
#define SCREEN_HOME  "\033[H"
#define CLEAR_LINE   "\033[K"
#define CLEAR_REST   "\033[J"

struct watch {
	struct cli *cli;
	struct cli_view view;
	double interval_s;
	bool once, terminal, was_active;
};

static double now_s(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static unsigned int rows_of_terminal(void)
{
	struct winsize size;

	if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_row > 1)
		return size.ws_row - 1u;
	return ROWS_DEFAULT - 1;
}

/* ---- sampling ---- */

static void remember(struct cli_view *view, double dirty_pages)
{
	if (view->history_count == CLI_HISTORY_MAX) {
		size_t bytes = sizeof(double) * (CLI_HISTORY_MAX - 1);

		memmove(view->placed_history, view->placed_history + 1, bytes);
		memmove(view->dirty_history, view->dirty_history + 1, bytes);
		view->history_count--;
	}
	view->placed_history[view->history_count] =
		view->bytes_per_second > 0 ? view->bytes_per_second : 0;
	view->dirty_history[view->history_count] = dirty_pages > 0 ? dirty_pages : 0;
	view->history_count++;
}

static double transferred(const json_t *migrate)
{
	return cli_number(json_object_get(migrate, "ram"), "transferred", -1);
}

/* Ask for everything that the picture shows. 0, or -errno with the reason in *err. */
static int sample(struct watch *watch, double since_s, struct sluice_error *err)
{
	struct cli_view *view = &watch->view;
	json_t *migrate = cli_call(watch->cli, "query-migrate", NULL, err);
	json_t *lanes = migrate != NULL ? cli_call(watch->cli, "query-lanes", NULL, err) : NULL;
	double before = transferred(view->migrate), now = transferred(migrate);

	if (lanes == NULL) {
		json_decref(migrate);
		return err->code < 0 ? err->code : -EPROTO;
	}
	view->bytes_per_second = -1;
	if (before >= 0 && now >= before && since_s > 0)
		view->bytes_per_second = (now - before) / since_s;
	view->throttle = (int)cli_number(migrate, "cpu-throttle-percentage", 0);
	json_decref(view->migrate);
	json_decref(view->previous);
	view->migrate = migrate;
	view->previous = view->lanes;
	view->lanes = lanes;
	view->interval_s = since_s;
	if (view->bytes_per_second >= 0)
		remember(view, cli_number(json_object_get(migrate, "ram"), "dirty-pages-rate", 0));
	return 0;
}

/* ---- drawing ---- */

/* In one write, so that the terminal never shows half a picture. */
static void draw_screen(const struct watch *watch)
{
	char *text = NULL, *from, *end;
	size_t bytes = 0;
	FILE *memory = open_memstream(&text, &bytes);

	if (memory == NULL)
		return;
	cli_view_render(&watch->view, cli_width(stdout), rows_of_terminal(), memory);
	fclose(memory);
	fputs(SCREEN_HOME, stdout);
	for (from = text; (end = strchr(from, '\n')) != NULL; from = end + 1)
		printf("%.*s" CLEAR_LINE "\n", (int)(end - from), from);
	fputs(CLEAR_REST, stdout);
	fflush(stdout);
	free(text);
}

static void draw_line(const struct watch *watch)
{
	json_t *holder = json_copy(watch->view.migrate);

	if (watch->view.bytes_per_second >= 0)
		json_object_set_new(
			holder, "bytes-per-second", json_real(watch->view.bytes_per_second));
	cli_view_line(holder, 0, stdout);
	putchar('\n');
	fflush(stdout);
	json_decref(holder);
}

static void draw(const struct watch *watch)
{
	if (watch->cli->json) {
		json_dumpf(watch->view.migrate, stdout, JSON_COMPACT);
		putchar('\n');
		fflush(stdout);
	} else if (watch->once) {
		cli_view_render(&watch->view, cli_width(stdout), 0, stdout);
	} else if (watch->terminal) {
		draw_screen(watch);
	} else {
		draw_line(watch);
	}
}

/* ---- the loop ---- */

/* Sleep until @until_s, awake for events (which are dropped) and Ctrl-C. */
static int pause_until(struct watch *watch, double until_s, struct sluice_error *err)
{
	while (!cli_interrupted()) {
		struct pollfd pfd = {.fd = sluice_vmm_fd(watch->cli->vmm), .events = POLLIN};
		double left_s = until_s - now_s();
		struct sluice_vmm_event event;
		int rc;

		if (left_s <= 0)
			return 0;
		/* poll() first: unlike the library it returns on a signal. */
		rc = poll(&pfd, 1, (int)(left_s * 1000) + 1);
		if (rc <= 0)
			continue;
		while ((rc = sluice_vmm_next_event(watch->cli->vmm, 0, &event, err)) == 1)
			sluice_vmm_event_clear(&event);
		if (rc < 0)
			return rc;
	}
	return 0;
}

/* Without a terminal nobody presses Ctrl-C: stop when what was going on has ended. */
static bool has_ended(struct watch *watch)
{
	static const char *const going_on[] = {
		"setup", "active", "pre-switchover", "device", "paused", "cancelling"};
	const char *status = cli_text(watch->view.migrate, "status", "none");

	for (size_t i = 0; i < sizeof(going_on) / sizeof(going_on[0]); i++) {
		if (strcmp(status, going_on[i]) == 0) {
			watch->was_active = true;
			return false;
		}
	}
	return !watch->terminal && (watch->was_active || strcmp(status, "none") != 0);
}

static int run(struct watch *watch, struct sluice_error *err)
{
	double last_s = now_s();
	int rc = sample(watch, 0, err);

	/* Rates need two samples. */
	if (rc == 0 && watch->once)
		rc = pause_until(watch, last_s + watch->interval_s, err);
	while (rc == 0 && !cli_interrupted()) {
		if (watch->once)
			rc = sample(watch, now_s() - last_s, err);
		if (rc == 0)
			draw(watch);
		if (rc < 0 || watch->once || has_ended(watch))
			break;
		rc = pause_until(watch, last_s + watch->interval_s, err);
		if (rc == 0 && !cli_interrupted()) {
			double at_s = now_s();

			rc = sample(watch, at_s - last_s, err);
			last_s = at_s;
		}
	}
	return rc;
}

static int parse(const struct cli_command *self, int count, char **args, struct watch *watch)
{
	for (int i = 0; i < count; i++) {
		char *end;

		if (strcmp(args[i], "--once") == 0) {
			watch->once = true;
			continue;
		}
		if (strcmp(args[i], "--interval") != 0)
			return cli_usage(self, "unexpected argument '%s'", args[i]);
		if (i + 1 == count)
			return cli_usage(self, "--interval needs a number of seconds");
		watch->interval_s = strtod(args[++i], &end);
		if (*end != '\0' || !(watch->interval_s >= 0.05 && watch->interval_s <= 3600))
			return cli_usage(self, "'%s' is not a number from 0.05 to 3600", args[i]);
	}
	return CLI_OK;
}

int cli_watch(struct cli *cli, const struct cli_command *self, int count, char **args)
{
	struct watch watch = {.cli = cli, .interval_s = 1, .terminal = cli_is_terminal(stdout)};
	struct sluice_error err = {0};
	int rc, status = parse(self, count, args, &watch);
	bool screen;

	if (status == CLI_OK)
		status = cli_connect(cli);
	if (status != CLI_OK)
		return status;
	watch.view.socket = cli->socket;
	watch.view.unicode = strcmp(nl_langinfo(CODESET), "UTF-8") == 0;
	cli_catch_signals();
	screen = watch.terminal && !cli->json && !watch.once;
	if (screen)
		fputs(SCREEN_ENTER, stdout);
	rc = run(&watch, &err);
	if (screen)
		fputs(SCREEN_LEAVE, stdout);
	if (screen && watch.view.migrate != NULL)
		draw_line(&watch); /* what remains to be seen afterwards */
	json_decref(watch.view.migrate);
	json_decref(watch.view.lanes);
	json_decref(watch.view.previous);
	return rc < 0 ? cli_fail("%s", err.text) : CLI_OK;
}
