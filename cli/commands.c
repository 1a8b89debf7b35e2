/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * commands.c: the commands that ask the engine once and print the answer. Each takes its
 * arguments, connects, calls, prints: JSON as it came, or a table.
 */
#include <errno.h>
#include <string.h>

#include "cli/cli.h"

/* ---- what they share ---- */

static int take_none(const struct cli_command *self, int count, char **args)
{
	return count == 0 ? CLI_OK : cli_usage(self, "unexpected argument '%s'", args[0]);
}

/* Connect and call; NULL with *ret_status set when it failed. Steals @args. */
static json_t *connect_and_call(struct cli *cli, const char *name, json_t *args, int *ret_status)
{
	json_t *reply = NULL;

	*ret_status = cli_connect(cli);
	if (*ret_status != CLI_OK) {
		json_decref(args);
		return NULL;
	}
	reply = cli_call(cli, name, args, NULL);
	if (reply == NULL)
		*ret_status = CLI_FAILED;
	return reply;
}

/* Call and say @done, or print the reply with --json. Steals @args. */
static int call_and_say(struct cli *cli, const char *name, json_t *args, const char *done)
{
	int status;
	json_t *reply = connect_and_call(cli, name, args, &status);

	if (reply == NULL)
		return status;
	if (cli->json) {
		cli_print_json(reply);
		return CLI_OK;
	}
	puts(done);
	json_decref(reply);
	return CLI_OK;
}

static const char *bytes_of(const json_t *object, const char *name, char *text, size_t text_bytes)
{
	return cli_format_bytes(cli_number(object, name, -1), text, text_bytes);
}

/* ---- commands ---- */

int cli_incoming(struct cli *cli, const struct cli_command *self, int count, char **args)
{
	json_t *reply;
	int status;

	if (count != 1)
		return cli_usage(self, "one URI is needed, such as tcp:127.0.0.1:0");
	reply = connect_and_call(
		cli, "migrate-incoming", json_pack("{s:s}", "uri", args[0]), &status);
	if (reply == NULL)
		return status;
	if (cli->json) {
		cli_print_json(reply);
		return CLI_OK;
	}
	puts(cli_text(reply, "uri", args[0]));
	json_decref(reply);
	return CLI_OK;
}

/* Nothing when the engine does not tell. */
/* What lanes use and why, then a row for each way that they go. */
static void print_rails(const json_t *migrate)
{
	const json_t *rail;
	size_t i;

	if (json_object_get(migrate, "transport") == NULL)
		return;
	printf("transport  %s%s%s\n", cli_text(migrate, "transport", "?"),
		json_object_get(migrate, "transport-reason") != NULL ? ": " : "",
		cli_text(migrate, "transport-reason", ""));
	json_array_foreach (json_object_get(migrate, "rails"), i, rail)
		printf("rail       %s%s%s, %.0f of %.0f lanes connected\n",
			cli_text(rail, "rail", "?"),
			json_object_get(rail, "peer") != NULL ? " to " : "",
			cli_text(rail, "peer", ""), cli_number(rail, "lanes-active", 0),
			cli_number(rail, "lanes", 0));
}

static void print_security(const json_t *security)
{
	bool psk = strcmp(cli_text(security, "peer-link", ""), "psk") == 0;
	bool local = strcmp(cli_text(security, "lanes", ""), "local") == 0;

	if (security == NULL)
		return;
	printf("security   peer link %s; lanes %s\n",
		psk ? "encrypted (TLS, pre-shared key)" : "in clear text",
		local ? "stay on this host" : "in clear text, also over a network");
	if (json_object_get(security, "last-refused") != NULL)
		printf("refused    %.0f peers; the last one: %s\n",
			cli_number(security, "peers-refused", 0),
			cli_text(security, "last-refused", ""));
}

static void print_status(const json_t *engine, const json_t *migrate)
{
	double us = cli_number(migrate, "downtime-us", -1);
	double ms = us >= 0 ? us / 1000 : cli_number(migrate, "downtime", -1);
	char text[32], more[640];

	printf("engine     %s\n", cli_text(engine, "status", "?"));
	if (json_object_get(engine, "running") != NULL)
		printf("guest      %s here\n",
			json_is_true(json_object_get(engine, "running")) ? "runs" : "does not run");
	fputs("migration  ", stdout);
	cli_view_line(migrate, 0, stdout);
	putchar('\n');
	if (json_object_get(migrate, "session") != NULL)
		printf("session    %s\n", cli_text(migrate, "session", ""));
	print_rails(migrate);
	print_security(json_object_get(migrate, "security"));
	if (ms >= 0)
		printf("downtime   %s\n", cli_format_ms(ms, text, sizeof(text)));
	if (cli_view_losses(migrate, more, sizeof(more)) != NULL)
		printf("losses     %s\n", more);
	if (cli_view_pause(migrate, more, sizeof(more)) != NULL)
		printf("paused     %s\n", more);
	if (json_object_get(migrate, "waits-for") != NULL)
		printf("waits for  %s\n", cli_text(migrate, "waits-for", ""));
	if (json_object_get(migrate, "error-desc") != NULL)
		printf("error      %s\n", cli_text(migrate, "error-desc", ""));
}

int cli_status(struct cli *cli, const struct cli_command *self, int count, char **args)
{
	json_t *engine, *migrate;
	int status = take_none(self, count, args);

	if (status != CLI_OK)
		return status;
	engine = connect_and_call(cli, "query-status", NULL, &status);
	if (engine == NULL)
		return status;
	migrate = cli_call(cli, "query-migrate", NULL, NULL);
	if (migrate == NULL) {
		json_decref(engine);
		return CLI_FAILED;
	}
	if (cli->json) {
		cli_print_json(json_pack("{s:o,s:o}", "engine", engine, "migrate", migrate));
		return CLI_OK;
	}
	print_status(engine, migrate);
	json_decref(engine);
	json_decref(migrate);
	return CLI_OK;
}

int cli_cancel(struct cli *cli, const struct cli_command *self, int count, char **args)
{
	int status = take_none(self, count, args);

	return status != CLI_OK ? status
				: call_and_say(cli, "migrate_cancel", NULL,
					  "the migration is being cancelled");
}

int cli_pause(struct cli *cli, const struct cli_command *self, int count, char **args)
{
	int status = take_none(self, count, args);

	return status != CLI_OK ? status
				: call_and_say(cli, "migrate-pause", NULL,
					  "the migration is paused; the guest runs on");
}

int cli_recover(struct cli *cli, const struct cli_command *self, int count, char **args)
{
	if (count > 1)
		return cli_usage(self, "unexpected argument '%s'", args[1]);
	return call_and_say(cli, "migrate-recover",
		count == 1 ? json_pack("{s:s}", "uri", args[0]) : NULL,
		"the migration is being resumed");
}

static void print_lanes(const json_t *lanes)
{
	const json_t *lane;
	char placed[32], wire[32];
	size_t i;

	printf("%4s  %-10s %-9s %5s %5s %6s %12s %12s %10s %10s  %s\n", "lane", "state",
		"transport", "epoch", "lost", "worker", "placed", "on the wire", "pages", "zero",
		"rail");
	json_array_foreach (lanes, i, lane) {
		char pages[32], zero[32], worker[16] = "-";

		if (cli_number(lane, "worker", -1) >= 0)
			snprintf(worker, sizeof(worker), "%.0f", cli_number(lane, "worker", 0));
		printf("%4.0f  %-10s %-9s %5.0f %5.0f %6s %12s %12s %10s %10s  %s\n",
			cli_number(lane, "lane", 0), cli_text(lane, "state", "?"),
			cli_text(lane, "transport", "-"), cli_number(lane, "epoch", 0),
			cli_number(lane, "losses", 0), worker,
			bytes_of(lane, "bytes", placed, sizeof(placed)),
			bytes_of(lane, "bytes-on-wire", wire, sizeof(wire)),
			cli_format_count(cli_number(lane, "pages-sent", -1), pages, sizeof(pages)),
			cli_format_count(cli_number(lane, "pages-zero", -1), zero, sizeof(zero)),
			cli_text(lane, "rail", "-"));
	}
}

static void print_memory(const json_t *regions)
{
	const json_t *region;
	char size[32], pages[32], pinned[32];
	size_t i;

	printf("%-20s %18s %10s %10s %10s %-8s %-8s %s\n", "region", "guest address", "size",
		"page size", "pinned", "backing", "feed", "migration");
	json_array_foreach (regions, i, region) {
		printf("%-20s %#18llx %10s %10s %10s %-8s %-8s %s\n", cli_text(region, "id", "?"),
			(unsigned long long)json_integer_value(json_object_get(region, "gpa")),
			bytes_of(region, "size", size, sizeof(size)),
			bytes_of(region, "page-size", pages, sizeof(pages)),
			bytes_of(region, "pinned-bytes", pinned, sizeof(pinned)),
			cli_text(region, "backing", "-"), cli_text(region, "feed", "-"),
			cli_text(region, "migration", "-"));
	}
}

/* A query without arguments whose reply is a list. */
static int query_list(struct cli *cli, const struct cli_command *self, int count, char **args,
	const char *name, void (*print)(const json_t *list))
{
	json_t *reply;
	int status = take_none(self, count, args);

	if (status != CLI_OK)
		return status;
	reply = connect_and_call(cli, name, NULL, &status);
	if (reply == NULL)
		return status;
	if (cli->json) {
		cli_print_json(reply);
		return CLI_OK;
	}
	print(reply);
	json_decref(reply);
	return CLI_OK;
}

int cli_lanes(struct cli *cli, const struct cli_command *self, int count, char **args)
{
	return query_list(cli, self, count, args, "query-lanes", print_lanes);
}

int cli_memory(struct cli *cli, const struct cli_command *self, int count, char **args)
{
	return query_list(cli, self, count, args, "query-memory", print_memory);
}

int cli_preflight(struct cli *cli, const struct cli_command *self, int count, char **args)
{
	const json_t *check;
	json_t *reply;
	char text[32];
	bool ok;
	int status;
	size_t i;

	if (count > 0 && args[0][0] == '-')
		return cli_usage(self, "unknown option '%s'", args[0]);
	if (count > 1)
		return cli_usage(self, "unexpected argument '%s'", args[1]);
	reply = connect_and_call(
		cli, "preflight", count == 1 ? json_pack("{s:s}", "uri", args[0]) : NULL, &status);
	if (reply == NULL)
		return status;
	ok = json_is_true(json_object_get(reply, "ok"));
	if (cli->json) {
		cli_print_json(reply);
		return ok ? CLI_OK : CLI_FAILED;
	}
	json_array_foreach (json_object_get(reply, "checks"), i, check)
		printf("%-8s %-14s %s\n", cli_text(check, "result", "?"),
			cli_text(check, "name", "?"), cli_text(check, "text", ""));
	if (cli_number(reply, "expected-downtime", -1) >= 0)
		printf("expected downtime: %s\n",
			cli_format_ms(
				cli_number(reply, "expected-downtime", -1), text, sizeof(text)));
	puts(ok ? "nothing stands in the way" : "a migration would fail");
	json_decref(reply);
	return ok ? CLI_OK : CLI_FAILED;
}

int cli_session(struct cli *cli, const struct cli_command *self, int count, char **args)
{
	json_t *reply;
	int status;

	if (count > 1)
		return cli_usage(self, "unexpected argument '%s'", args[1]);
	reply = connect_and_call(cli, "query-session",
		count == 1 ? json_pack("{s:s}", "session", args[0]) : NULL, &status);
	if (reply == NULL)
		return status;
	if (cli->json) {
		cli_print_json(reply);
		return CLI_OK;
	}
	printf("session  %s\nstatus   %s\n", cli_text(reply, "session", "-"),
		cli_text(reply, "status", "?"));
	if (json_object_get(reply, "role") != NULL)
		printf("role     %s\n", cli_text(reply, "role", ""));
	json_decref(reply);
	return CLI_OK;
}

int cli_resolve(struct cli *cli, const struct cli_command *self, int count, char **args)
{
	if (count != 2)
		return cli_usage(self, "the session's id and the decision are needed");
	if (strcmp(args[1], "aborted") != 0 && strcmp(args[1], "committed") != 0)
		return cli_usage(self, "the decision is aborted or committed, not '%s'", args[1]);
	return call_and_say(cli, "session-resolve",
		json_pack("{s:s,s:s}", "session", args[0], "decision", args[1]),
		"the session is resolved");
}

static void print_params(const json_t *params)
{
	json_t *mutable = (json_t *)(uintptr_t)params; /* the iterator does not change it */

	for (void *it = json_object_iter(mutable); it != NULL;
		it = json_object_iter_next(mutable, it)) {
		json_t *value = json_object_iter_value(it);
		char *text = json_is_string(value) ? NULL : json_dumps(value, JSON_ENCODE_ANY);

		printf("%-24s %s\n", json_object_iter_key(it),
			text != NULL ? text : json_string_value(value));
		free(text);
	}
}

int cli_params(struct cli *cli, const struct cli_command *self, int count, char **args)
{
	json_t *settings;

	if (count == 0)
		return query_list(cli, self, count, args, "query-migrate-parameters", print_params);
	settings = json_object();
	for (int i = 0; i < count; i++) {
		if (!cli_add_setting(settings, args[i])) {
			json_decref(settings);
			return cli_usage(self, "'%s' is not of the form name=value", args[i]);
		}
	}
	return call_and_say(cli, "migrate-set-parameters", settings, "set");
}

int cli_raw(struct cli *cli, const struct cli_command *self, int count, char **args)
{
	json_error_t why;
	json_t *arguments = NULL, *reply;
	int status;

	if (count < 1 || count > 2)
		return cli_usage(self, "a command's name is needed, and perhaps its arguments");
	if (count == 2) {
		arguments = json_loads(args[1], JSON_REJECT_DUPLICATES, &why);
		if (!json_is_object(arguments)) {
			json_decref(arguments);
			return cli_usage(self, "'%s' is not a JSON object: %s", args[1],
				arguments == NULL ? why.text : "it is something else");
		}
	}
	reply = connect_and_call(cli, args[0], arguments, &status);
	if (reply == NULL)
		return status;
	cli_print_json(reply);
	return CLI_OK;
}
