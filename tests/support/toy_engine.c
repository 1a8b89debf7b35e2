/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * toy_engine.c: the real server of the VMM socket over a migration that is only counted.
 * Tests of libsluice, of `sluice` and of foreign QMP clients drive it. It checks that
 * descriptors arrive and plays a VMM's events in order; it moves nothing.
 *
 *   toy-engine [--control-fd N] [--listen PATH]
 *
 * Ends when the VMM goes, or with `quit`. A migration to tcp:fail:PORT fails half-way.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"
#include "engine/control/server.h"
#include "engine/control/vmm-socket-schema.h"

#define SESSION     "0123456789abcdef"
#define TOTAL_BYTES (1ll << 30)
#define STEPS       10
#define STEP_NS     (30 * SLUICE_NS_PER_MS)

struct toy {
	struct sluice_loop *loop;
	struct sluice_server *server;
	struct sluice_timer *timer;
	const char *status;
	int step; /* of the migration that runs */
	bool fails;
	json_t *parameters;
	json_t *regions;
};

/* ---- helpers ---- */

static const char *text_arg(json_t *args, const char *name)
{
	return json_string_value(json_object_get(args, name));
}

static json_t *ram_now(const struct toy *toy)
{
	json_int_t placed = TOTAL_BYTES / STEPS * toy->step;

	return json_pack("{s:I,s:I,s:I,s:i}", "total", (json_int_t)TOTAL_BYTES, "remaining",
		(json_int_t)TOTAL_BYTES - placed, "transferred", placed, "dirty-pages-rate", 52000);
}

static void set_status(struct toy *toy, const char *status)
{
	toy->status = status;
	sluice_server_event(toy->server, "MIGRATION",
		json_pack("{s:s,s:s}", "status", status, "session", SESSION));
}

static void send_progress(struct toy *toy)
{
	sluice_server_event(toy->server, "MIGRATION_PROGRESS",
		json_pack("{s:s,s:i,s:o,s:I,s:i,s:i}", "status", toy->status, "total-time",
			toy->step * 30, "ram", ram_now(toy), "bytes-per-second",
			(json_int_t)3400000000, "expected-downtime", 41, "lanes-active", 4));
}

static void on_step(void *ctx, uint64_t now_ns)
{
	struct toy *toy = ctx;

	toy->step++;
	send_progress(toy);
	if (toy->step == 1)
		sluice_server_event(toy->server, "DIRTY_SYNC", json_pack("{s:i}", "id", 77));
	if (toy->fails && toy->step == STEPS / 2) {
		set_status(toy, "failed");
	} else if (toy->step == STEPS - 1) {
		set_status(toy, "pre-switchover");
		sluice_timer_set(toy->timer, now_ns + STEP_NS);
	} else if (toy->step == STEPS) {
		set_status(toy, "completed");
	} else {
		sluice_timer_set(toy->timer, now_ns + STEP_NS);
	}
}

/* ---- commands ---- */

#define COMMAND(name_)                                                \
	static json_t *name_(void *ctx __attribute__((unused)),       \
		struct sluice_client *client __attribute__((unused)), \
		json_t *args __attribute__((unused)),                 \
		struct sluice_error *err __attribute__((unused)))

COMMAND(do_nothing)
{
	return json_object();
}

/* The library says how long its caller worked, 5 ms at least, on a sync that was asked for. */
COMMAND(dirty_sync_done)
{
	const struct toy *toy = ctx;
	json_int_t worked_us = json_integer_value(json_object_get(args, "worked-us"));

	if (toy->step == 0 ? worked_us == 0 : worked_us >= 5000)
		return json_object();
	sluice_fail(err, -EINVAL, "dirty-sync-done", "%lld us of work", (long long)worked_us);
	return NULL;
}

COMMAND(query_status)
{
	return json_pack("{s:s,s:b}", "status", "idle", "running", 1);
}

/* The descriptor must be there and hold what the region says. */
COMMAND(memory_add)
{
	struct toy *toy = ctx;
	json_int_t size = json_integer_value(json_object_get(args, "size"));
	int fd = sluice_client_take_fd(client, text_arg(args, "fdname"), err);
	struct stat st;
	bool fits;

	if (fd < 0)
		return NULL;
	fits = fstat(fd, &st) == 0 && st.st_size >= size;
	close(fd);
	if (!fits) {
		sluice_fail(err, -EINVAL, "memory-add", "the file is smaller than the region");
		return NULL;
	}
	json_array_append_new(toy->regions,
		json_pack("{s:O,s:O,s:O,s:i,s:i,s:s}", "id", json_object_get(args, "id"), "gpa",
			json_object_get(args, "gpa"), "size", json_object_get(args, "size"),
			"offset", 0, "page-size", 4096, "feed", "none"));
	return json_object();
}

COMMAND(query_memory)
{
	struct toy *toy = ctx;

	return json_incref(toy->regions);
}

COMMAND(take_fd)
{
	int fd = sluice_client_take_fd(client, text_arg(args, "fdname"), err);

	if (fd < 0)
		return NULL;
	close(fd);
	return json_object();
}

COMMAND(migrate)
{
	struct toy *toy = ctx;

	toy->step = 0;
	toy->fails = strncmp(text_arg(args, "uri"), "tcp:fail:", 9) == 0;
	set_status(toy, "setup");
	set_status(toy, "active");
	sluice_timer_set(toy->timer, sluice_now_ns() + STEP_NS);
	return json_object();
}

COMMAND(migrate_incoming)
{
	return json_pack("{s:s}", "uri", "tcp:127.0.0.1:40123");
}

COMMAND(migrate_cancel)
{
	struct toy *toy = ctx;

	sluice_timer_set(toy->timer, SLUICE_NEVER);
	set_status(toy, "cancelled");
	return json_object();
}

COMMAND(set_parameters)
{
	struct toy *toy = ctx;

	json_object_update(toy->parameters, args);
	return json_object();
}

COMMAND(query_parameters)
{
	struct toy *toy = ctx;

	return json_incref(toy->parameters);
}

COMMAND(query_migrate)
{
	struct toy *toy = ctx;
	json_t *reply = json_pack("{s:s}", "status", toy->status);

	if (strcmp(toy->status, "none") == 0)
		return reply;
	json_object_set_new(reply, "session", json_string(SESSION));
	json_object_set_new(reply, "ram", ram_now(toy));
	json_object_set_new(reply, "total-time", json_integer(toy->step * 30));
	json_object_set_new(reply, "expected-downtime", json_integer(41));
	if (strcmp(toy->status, "completed") == 0)
		json_object_set_new(reply, "downtime", json_integer(12));
	if (strcmp(toy->status, "failed") == 0)
		json_object_set_new(reply, "error-desc", json_string("the toy was told to fail"));
	return reply;
}

COMMAND(query_lanes)
{
	struct toy *toy = ctx;
	json_t *lanes = json_array();

	for (int i = 0; i < 4; i++)
		json_array_append_new(
			lanes, json_pack("{s:i,s:s,s:s,s:i,s:I,s:i,s:i,s:I,s:I}", "lane", i,
				       "state", "active", "transport", "tcp", "worker", i % 2,
				       "bytes", (json_int_t)TOTAL_BYTES / STEPS / 4 * toy->step,
				       "inflight-bytes", 1 << 20, "window-bytes", 16 << 20,
				       "busy-ns", (json_int_t)toy->step * 27000000, "idle-ns",
				       (json_int_t)toy->step * 3000000));
	return lanes;
}

COMMAND(query_session)
{
	const char *session = text_arg(args, "session");

	if (session != NULL && strcmp(session, SESSION) != 0)
		return json_pack("{s:s,s:s}", "session", session, "status", "none");
	return json_pack(
		"{s:s,s:s,s:s}", "session", SESSION, "status", "committed", "role", "source");
}

COMMAND(session_resolve)
{
	sluice_fail(err, -EPERM, "session-resolve", "session %s is not in doubt",
		text_arg(args, "session"));
	return NULL;
}

COMMAND(memory_remove)
{
	bool removed = strcmp(text_arg(args, "id"), "ram") == 0;

	if (!removed)
		sluice_server_event(((struct toy *)ctx)->server, "MEMORY_REMOVED",
			json_pack("{s:s}", "id", text_arg(args, "id")));
	return json_pack("{s:b}", "removed", removed);
}

COMMAND(preflight)
{
	return json_pack("{s:b,s:[{s:s,s:s,s:s},{s:s,s:s,s:s}],s:i}", "ok", 1, "checks", "name",
		"memlock", "result", "ok", "text", "1.0 GiB needed, no limit", "name", "discards",
		"result", "warning", "text", "a balloon may discard pages: inhibit it",
		"expected-downtime", 41);
}

COMMAND(quit)
{
	struct toy *toy = ctx;

	sluice_loop_stop(toy->loop, EXIT_SUCCESS);
	return json_object();
}

static const struct sluice_command commands[] = {
	{"query-status", query_status},
	{"memory-add", memory_add},
	{"memory-remove", memory_remove},
	{"memory-discard", do_nothing},
	{"query-memory", query_memory},
	{"feed-add", take_fd},
	{"dirty-sync-done", dirty_sync_done},
	{"device-add", take_fd},
	{"device-loaded", do_nothing},
	{"migrate", migrate},
	{"migrate-incoming", migrate_incoming},
	{"migrate-continue", do_nothing},
	{"migrate_cancel", migrate_cancel},
	{"migrate-pause", do_nothing},
	{"migrate-recover", do_nothing},
	{"migrate-set-parameters", set_parameters},
	{"query-migrate-parameters", query_parameters},
	{"query-migrate", query_migrate},
	{"query-lanes", query_lanes},
	{"query-placement", do_nothing},
	{"query-stats", do_nothing},
	{"query-session", query_session},
	{"session-resolve", session_resolve},
	{"preflight", preflight},
	{"quit", quit},
	{0},
};

static void on_vmm_gone(void *ctx)
{
	struct toy *toy = ctx;

	sluice_loop_stop(toy->loop, EXIT_SUCCESS);
}

/* ---- main ---- */

static int serve(struct toy *toy, int argc, char **argv, struct sluice_error *err)
{
	int rc = 0;

	for (int i = 1; rc == 0 && i < argc; i += 2) {
		if (i + 1 == argc)
			return sluice_fail(err, -EINVAL, "toy-engine", "%s needs a value", argv[i]);
		if (strcmp(argv[i], "--control-fd") == 0)
			rc = sluice_server_add_client(
				toy->server, (int)strtol(argv[i + 1], NULL, 10), true, err);
		else if (strcmp(argv[i], "--listen") == 0)
			rc = sluice_server_listen(toy->server, argv[i + 1], err);
		else
			return sluice_fail(
				err, -EINVAL, "toy-engine", "unknown option %s", argv[i]);
	}
	return rc;
}

int main(int argc, char **argv)
{
	struct toy toy = {.status = "none"};
	struct sluice_server_opts opts = {
		.schema = &sluice_schema_vmm_socket, .commands = commands, .ctx = &toy};
	struct sluice_error err = {0};
	int rc = sluice_loop_create(&toy.loop);

	SLUICE_ASSERT(rc == 0);
	opts.loop = toy.loop;
	opts.vmm_gone = on_vmm_gone;
	toy.parameters = json_pack("{s:i,s:i}", "lanes", 4, "downtime-limit", 300);
	toy.regions = json_array();
	rc = sluice_server_create(&opts, &toy.server);
	SLUICE_ASSERT(rc == 0);
	rc = sluice_timer_add(toy.loop, on_step, &toy, &toy.timer);
	SLUICE_ASSERT(rc == 0);
	if (serve(&toy, argc, argv, &err) < 0) {
		fprintf(stderr, "toy-engine: %s: %s\n", err.where, err.text);
		rc = EXIT_FAILURE;
	} else {
		rc = sluice_loop_run(toy.loop);
		sluice_loop_turn(toy.loop, 0); /* the answer to quit */
	}
	sluice_server_destroy(toy.server);
	sluice_loop_destroy(toy.loop);
	json_decref(toy.parameters);
	json_decref(toy.regions);
	return rc;
}
