/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * migrate.c: `sluice migrate`: start a migration and follow it to its end by the engine's
 * events. A bar on a terminal, a line per second and per change of status otherwise.
 */
#include <errno.h>
#include <string.h>
#include <time.h>

#include "cli/cli.h"

#define EVENT_WAIT_MS 500
#define LINE_EVERY_MS 1000

struct follow {
	struct cli *cli;
	char status[64]; /* the last one heard of */
	json_t *progress;
	int64_t printed_ms; /* when the last line was printed */
	bool terminal, bar_shown;
};

static int64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static bool is_end(const char *status)
{
	return strcmp(status, "completed") == 0 || strcmp(status, "failed") == 0 ||
	       strcmp(status, "cancelled") == 0 || strcmp(status, "in-doubt") == 0;
}

/* ---- showing ---- */

static void clear_bar(struct follow *follow)
{
	if (follow->bar_shown)
		fputs("\r\033[K", stdout);
	follow->bar_shown = false;
}

static void show_progress(struct follow *follow)
{
	if (follow->cli->json || follow->progress == NULL)
		return;
	if (follow->terminal) {
		fputc('\r', stdout);
		cli_view_bar(follow->progress, cli_width(stdout) - 1, stdout);
		fputs("\033[K", stdout);
		follow->bar_shown = true;
	} else if (now_ms() - follow->printed_ms >= LINE_EVERY_MS) {
		cli_view_line(follow->progress, 0, stdout);
		putchar('\n');
		follow->printed_ms = now_ms();
	}
	fflush(stdout);
}

static void show_status(struct follow *follow)
{
	if (follow->cli->json)
		return;
	clear_bar(follow);
	printf("%s\n", follow->status);
	fflush(stdout);
}

/* The result: what query-migrate says at the end. */
static int finish(struct follow *follow)
{
	json_t *result = cli_call(follow->cli, "query-migrate", NULL, NULL);
	bool completed = strcmp(follow->status, "completed") == 0;
	double us = cli_number(result, "downtime-us", -1);
	double ms = us >= 0 ? us / 1000 : cli_number(result, "downtime", -1);
	char total[32], placed[32], downtime[32];

	clear_bar(follow);
	if (result == NULL)
		return CLI_FAILED;
	if (follow->cli->json) {
		cli_print_json(result);
		return completed ? CLI_OK : CLI_FAILED;
	}
	if (completed)
		printf("moved in %s, downtime %s, %s placed\n",
			cli_format_ms(cli_number(result, "total-time", -1), total, sizeof(total)),
			cli_format_ms(ms, downtime, sizeof(downtime)),
			cli_format_bytes(
				cli_number(json_object_get(result, "ram"), "transferred", -1),
				placed, sizeof(placed)));
	else if (strcmp(follow->status, "in-doubt") == 0)
		cli_fail("the session is in doubt: look at both hosts, then sluice resolve %s ...",
			cli_text(result, "session", "ID"));
	else
		cli_fail("the migration %s: %s",
			strcmp(follow->status, "failed") == 0 ? "failed" : "was cancelled",
			cli_text(result, "error-desc", "no reason was given"));
	json_decref(result);
	return completed ? CLI_OK : CLI_FAILED;
}

/* ---- following ---- */

static void set_status(struct follow *follow, const char *status)
{
	if (strcmp(follow->status, status) == 0)
		return;
	snprintf(follow->status, sizeof(follow->status), "%s", status);
	show_status(follow);
}

/* "paused" alone would say little. */
static void say_reason(struct follow *follow, const struct sluice_vmm_event *event)
{
	json_t *data = json_loads(event->data_json, 0, NULL);
	const char *reason = cli_text(data, "reason", NULL);

	if (reason != NULL && !follow->cli->json) {
		clear_bar(follow);
		printf("  %s\n", reason);
		fflush(stdout);
	}
	json_decref(data);
}

static void take_event(struct follow *follow, const struct sluice_vmm_event *event)
{
	if (strcmp(event->name, "MIGRATION") == 0) {
		set_status(follow, event->text);
		say_reason(follow, event);
	} else if (strcmp(event->name, "MIGRATION_PROGRESS") == 0) {
		json_decref(follow->progress);
		follow->progress = json_loads(event->data_json, 0, NULL);
		show_progress(follow);
	}
}

/* Events can be dropped for a slow reader: ask now and then. */
static int ask_status(struct follow *follow)
{
	json_t *reply = cli_call(follow->cli, "query-migrate", NULL, NULL);

	if (reply == NULL)
		return CLI_FAILED;
	set_status(follow, cli_text(reply, "status", "?"));
	json_decref(reply);
	return CLI_OK;
}

static int follow_to_end(struct follow *follow)
{
	while (!is_end(follow->status)) {
		struct sluice_vmm_event event;
		struct sluice_error err = {0};
		int rc = sluice_vmm_next_event(follow->cli->vmm, EVENT_WAIT_MS, &event, &err);

		if (cli_interrupted()) {
			clear_bar(follow);
			fputs("the migration goes on; 'sluice cancel' ends it\n", stderr);
			return CLI_INTERRUPTED;
		}
		if (rc < 0) {
			clear_bar(follow);
			return cli_fail("%s", err.text);
		}
		if (rc == 0 && ask_status(follow) != CLI_OK)
			return CLI_FAILED;
		if (rc == 0)
			continue;
		take_event(follow, &event);
		sluice_vmm_event_clear(&event);
	}
	return finish(follow);
}

/* ---- arguments ---- */

struct migrate_args {
	const char *uri;
	json_t *settings;
	bool detach;
};

static int parse(const struct cli_command *self, int count, char **args, struct migrate_args *ret)
{
	for (int i = 0; i < count; i++) {
		if (strcmp(args[i], "--detach") == 0) {
			ret->detach = true;
		} else if (strcmp(args[i], "--set") == 0) {
			if (i + 1 == count || !cli_add_setting(ret->settings, args[++i]))
				return cli_usage(self, "--set needs name=value");
		} else if (args[i][0] == '-') {
			return cli_usage(self, "unknown option '%s'", args[i]);
		} else if (ret->uri != NULL) {
			return cli_usage(self, "unexpected argument '%s'", args[i]);
		} else {
			ret->uri = args[i];
		}
	}
	return ret->uri != NULL ? CLI_OK
				: cli_usage(self, "where to? A URI is needed, tcp:HOST:PORT");
}

/* The parameters, then the migration; CLI_OK once it runs. */
static int start(struct cli *cli, const struct migrate_args *args, json_t **ret_reply)
{
	json_t *reply;

	if (json_object_size(args->settings) > 0) {
		reply = cli_call(cli, "migrate-set-parameters", json_incref(args->settings), NULL);
		if (reply == NULL)
			return CLI_FAILED;
		json_decref(reply);
	}
	reply = cli_call(cli, "migrate", json_pack("{s:s}", "uri", args->uri), NULL);
	if (reply == NULL)
		return CLI_FAILED;
	*ret_reply = reply;
	return CLI_OK;
}

int cli_migrate(struct cli *cli, const struct cli_command *self, int count, char **args)
{
	struct migrate_args parsed = {.settings = json_object()};
	struct follow follow = {.cli = cli, .terminal = cli_is_terminal(stdout)};
	json_t *reply = NULL;
	int status = parse(self, count, args, &parsed);

	if (status == CLI_OK)
		status = cli_connect(cli);
	if (status == CLI_OK)
		status = start(cli, &parsed, &reply);
	if (status == CLI_OK && parsed.detach) {
		if (cli->json)
			cli_print_json(json_incref(reply));
		else
			puts("started; 'sluice watch' shows it");
	} else if (status == CLI_OK) {
		cli_catch_signals();
		status = follow_to_end(&follow);
	}
	json_decref(follow.progress);
	json_decref(reply);
	json_decref(parsed.settings);
	return status;
}
