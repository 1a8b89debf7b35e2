/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * server.c: the VMM socket as a whole: who is connected, accepting, events, and the end of
 * clients. A client that dies is freed by a timer of the loop, because it may die while one
 * of its own handlers runs. Loop's thread; never blocks.
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"
#include "engine/control/server_internal.h"

#define WHERE           "vmm-socket"
#define BACKLOG         16
#define ACCEPT_RETRY_NS (1 * SLUICE_NS_PER_S)

/* ---- life ---- */

static void assert_commands_match(const struct sluice_server_opts *opts)
{
	const struct sluice_schema *schema = opts->schema;
	size_t handled = 0;

	for (const struct sluice_command *c = opts->commands; c->name != NULL; c++) {
		SLUICE_ASSERT(sluice_schema_find(
				      schema->commands, schema->command_count, c->name) != NULL);
		SLUICE_ASSERT(sluice_builtin_find(c->name) == NULL);
		handled++;
	}
	for (size_t i = 0; i < schema->command_count; i++) {
		const char *name = schema->commands[i].name;
		const struct sluice_command *c = opts->commands;

		while (c->name != NULL && strcmp(c->name, name) != 0)
			c++;
		if (c->name != NULL) {
			handled--;
			continue;
		}
		if (sluice_builtin_find(name) == NULL)
			fprintf(stderr, "command %s has no handler\n", name);
		SLUICE_ASSERT(sluice_builtin_find(name) != NULL);
	}
	SLUICE_ASSERT(handled == 0); /* otherwise a handler stands twice */
}

static void free_client(struct sluice_client *client)
{
	LIST_REMOVE(client, link);
	client->server->client_count--;
	sluice_client_destroy(client);
}

static void reap(void *ctx, uint64_t now_ns)
{
	struct sluice_server *server = ctx;
	struct sluice_client *client = LIST_FIRST(&server->clients);
	bool vmm_gone = false;

	(void)now_ns;
	while (client != NULL) {
		struct sluice_client *next = LIST_NEXT(client, link);

		if (client->dead) {
			if (server->vmm == client) {
				server->vmm = NULL;
				vmm_gone = true;
			}
			free_client(client);
		}
		client = next;
	}
	if (vmm_gone && server->opts.vmm_gone != NULL)
		server->opts.vmm_gone(server->opts.ctx);
}

void sluice_client_die(struct sluice_client *client)
{
	if (client->dead)
		return;
	client->dead = true;
	sluice_watch_remove(client->watch);
	client->watch = NULL;
	sluice_timer_set(client->server->reap_timer, 0);
}

static void accept_all(void *ctx, uint64_t now_ns);

int sluice_server_create(const struct sluice_server_opts *opts, struct sluice_server **ret_server)
{
	struct sluice_server *server;
	int rc;

	assert_commands_match(opts);
	server = calloc(1, sizeof(*server));
	if (server == NULL)
		return -ENOMEM;
	server->opts = *opts;
	server->listen_fd = -1;
	LIST_INIT(&server->clients);
	rc = sluice_timer_add(opts->loop, reap, server, &server->reap_timer);
	if (rc == 0)
		rc = sluice_timer_add(opts->loop, accept_all, server, &server->accept_timer);
	if (rc < 0) {
		sluice_server_destroy(server);
		return rc;
	}
	*ret_server = server;
	return 0;
}

void sluice_server_destroy(struct sluice_server *server)
{
	if (server == NULL)
		return;
	while (!LIST_EMPTY(&server->clients))
		free_client(LIST_FIRST(&server->clients));
	sluice_watch_remove(server->listen_watch);
	sluice_unix_unlink(&server->file);
	if (server->listen_fd >= 0)
		close(server->listen_fd);
	sluice_timer_remove(server->reap_timer);
	sluice_timer_remove(server->accept_timer);
	free(server);
}

size_t sluice_server_client_count(const struct sluice_server *server)
{
	return server->client_count;
}

bool sluice_server_has_vmm(const struct sluice_server *server)
{
	return server->vmm != NULL;
}

bool sluice_server_vmm_is_there(const struct sluice_server *server)
{
	struct pollfd fd = {.events = POLLRDHUP};

	if (server->vmm == NULL)
		return false;
	fd.fd = sluice_wire_fd(server->vmm->wire);
	return poll(&fd, 1, 0) == 0;
}

int sluice_server_add_client(
	struct sluice_server *server, int fd, bool vmm, struct sluice_error *err)
{
	struct sluice_client *client;
	int rc;

	if (server->client_count == SLUICE_SERVER_CLIENTS_MAX) {
		close(fd);
		return sluice_fail(err, -EMFILE, WHERE, "%d clients are connected already",
			SLUICE_SERVER_CLIENTS_MAX);
	}
	rc = sluice_client_create(server, fd, &client);
	if (rc < 0)
		return sluice_fail(
			err, rc, WHERE, "cannot serve descriptor %d: %s", fd, strerror(-rc));
	LIST_INSERT_HEAD(&server->clients, client, link);
	server->client_count++;
	if (vmm) {
		SLUICE_ASSERT(server->vmm == NULL);
		server->vmm = client;
	}
	sluice_client_send(client, sluice_qmp_greeting());
	return 0;
}

/* ---- listening ---- */

static void accept_all(void *ctx, uint64_t now_ns)
{
	struct sluice_server *server = ctx;
	struct sluice_error err = {0};
	int fd;

	sluice_watch_events(server->listen_watch, EPOLLIN);
	for (int i = 0; i < BACKLOG; i++) {
		fd = accept4(server->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		if (fd >= 0 && sluice_unix_peer_is_ours(fd)) {
			sluice_server_add_client(server, fd, false, &err);
			continue;
		}
		if (fd >= 0) {
			close(fd);
			continue;
		}
		if (errno == EAGAIN || errno == EINTR || errno == ECONNABORTED)
			return;
		/* Out of descriptors or memory: the socket stays readable, so look away. */
		sluice_watch_events(server->listen_watch, 0);
		sluice_timer_set(server->accept_timer, now_ns + ACCEPT_RETRY_NS);
		return;
	}
}

static void on_listen(void *ctx, uint32_t events)
{
	(void)events;
	accept_all(ctx, sluice_now_ns());
}

static int start_listening(struct sluice_server *server, const struct sockaddr_un *addr)
{
	int rc = sluice_unix_listen(server->listen_fd, addr, BACKLOG, &server->file);

	if (rc < 0)
		return rc;
	return sluice_watch_add(server->opts.loop, server->listen_fd, EPOLLIN, on_listen, server,
		&server->listen_watch);
}

int sluice_server_listen(struct sluice_server *server, const char *path, struct sluice_error *err)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int rc;

	SLUICE_ASSERT(server->listen_fd < 0);
	if (path[0] == '\0' || strlen(path) >= sizeof(addr.sun_path))
		return sluice_fail(err, -ENAMETOOLONG, WHERE,
			"cannot listen at '%.128s': a socket's path has 1 to %zu bytes", path,
			sizeof(addr.sun_path) - 1);
	memcpy(addr.sun_path, path, strlen(path));
	server->listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	rc = server->listen_fd < 0 ? -errno : start_listening(server, &addr);
	if (rc == 0)
		return 0;
	if (server->listen_fd >= 0)
		close(server->listen_fd);
	server->listen_fd = -1;
	if (rc == -EADDRINUSE)
		return sluice_fail(err, rc, WHERE,
			"cannot listen at %s: another engine serves it, or it is not a socket",
			path);
	return sluice_fail(err, rc, WHERE, "cannot listen at %s: %s", path, strerror(-rc));
}

/* ---- events ---- */

/* A broken event is our own mistake; say which before stopping. */
static void assert_event(const struct sluice_schema *schema, const char *name, const json_t *data)
{
	const struct sluice_schema_entry *event =
		sluice_schema_find(schema->events, schema->event_count, name);
	struct sluice_error err = {0};

	SLUICE_ASSERT(event != NULL);
	if (sluice_schema_check(event->data, data, name, &err) < 0)
		fprintf(stderr, "event %s: %s\n", name, err.text);
	SLUICE_ASSERT(err.code == 0);
}

void sluice_server_event(struct sluice_server *server, const char *name, json_t *data)
{
	bool droppable = strcmp(name, "MIGRATION_PROGRESS") == 0;
	struct sluice_client *client;
	json_t *event;

	if (data == NULL)
		data = json_object();
	assert_event(server->opts.schema, name, data);
	event = sluice_qmp_event(name, data);
	if (event == NULL)
		return; /* no memory for it */
	LIST_FOREACH(client, &server->clients, link)
	{
		if (client->dead || !client->negotiated)
			continue;
		if (droppable && sluice_wire_unsent_bytes(client->wire) > 0)
			continue;
		sluice_client_send(client, json_incref(event));
	}
	json_decref(event);
}
