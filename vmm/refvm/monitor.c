/* SPDX-License-Identifier: BSD-3-Clause */
/* monitor.c: connections to the monitor, and the grammar. See monitor.h. */
#include "vmm/refvm/monitor.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/qmp.h"
#include "base/schema.h"
#include "refvm-monitor-schema.h"
#include "vmm/refvm/refvm.h"

#define CLIENTS_MAX 16 /* further connections are closed at once */

struct client {
	struct refvm_monitor *monitor;
	struct sluice_wire *wire; /* NULL: free */
	struct sluice_watch *watch;
	bool negotiated;
};

struct refvm_monitor {
	struct refvm *r;
	int fd;
	struct sluice_watch *watch;
	char path[sizeof(((struct sockaddr_un *)0)->sun_path)];
	struct client clients[CLIENTS_MAX];
};

static void drop(struct client *client)
{
	sluice_watch_remove(client->watch);
	sluice_wire_destroy(client->wire);
	client->watch = NULL;
	client->wire = NULL;
}

/* Write what the socket takes, and watch for room when it does not take all. */
static bool flush(struct client *client)
{
	int rc = sluice_wire_flush(client->wire);

	if (rc < 0)
		return false;
	sluice_watch_events(client->watch, rc == 1 ? EPOLLIN : EPOLLIN | EPOLLOUT);
	return true;
}

static json_t *check_and_run(
	struct client *client, const char *name, json_t *args, struct sluice_error *err)
{
	const struct sluice_schema *schema = &sluice_schema_refvm_monitor;
	const struct sluice_schema_entry *entry =
		sluice_schema_find(schema->commands, schema->command_count, name);
	bool negotiates = strcmp(name, "qmp_capabilities") == 0;
	json_t *value;

	if (entry == NULL || client->negotiated == negotiates) {
		sluice_fail(err, -ENOSYS, name,
			entry == NULL        ? "The command %s has not been found."
			: client->negotiated ? "Capabilities are negotiated; %s is ignored."
					     : "Before %s there must be qmp_capabilities.",
			name);
		return NULL;
	}
	if (sluice_schema_check(entry->data, args, name, err) < 0)
		return NULL;
	if (negotiates) {
		client->negotiated = true;
		return json_object();
	}
	value = refvm_monitor_run(client->monitor->r, name, args, err);
	SLUICE_ASSERT((value == NULL) == (err->code != 0));
	if (value != NULL) /* our own mistake, if any */
		SLUICE_ASSERT(sluice_schema_check_value(entry->returns, value, name, NULL) == 0);
	return value;
}

static json_t *answer(struct client *client, json_t *message)
{
	json_t *id = json_object_get(message, "id"), *args = json_object_get(message, "arguments");
	const char *name = json_string_value(json_object_get(message, "execute"));
	struct sluice_error err = {.code = 0};
	json_t *value;

	if (name == NULL || (args != NULL && !json_is_object(args)))
		return sluice_qmp_error("GenericError",
			"A command is {\"execute\": name, \"arguments\": object}.", id);
	args = args != NULL ? json_incref(args) : json_object();
	value = check_and_run(client, name, args, &err);
	json_decref(args);
	if (value != NULL)
		return sluice_qmp_return(value, id);
	return sluice_qmp_error(
		err.code == -ENOSYS ? "CommandNotFound" : "GenericError", err.text, id);
}

/* False: the connection is of no more use. */
static bool answer_all(struct client *client)
{
	json_t *message, *reply;
	int rc;

	for (;;) {
		struct sluice_error err = {.code = 0};

		rc = sluice_wire_next(client->wire, &message, &err);
		if (rc == 0)
			return true;
		if (rc == -EBADMSG) {
			reply = sluice_qmp_error("GenericError", err.text, NULL);
		} else if (rc < 0) {
			return false;
		} else {
			reply = answer(client, message);
			json_decref(message);
		}
		if (sluice_wire_send(client->wire, reply, -1) < 0)
			return false;
	}
}

static void on_client(void *ctx, uint32_t events)
{
	struct client *client = ctx;
	int rc = 0;
	bool ok = true;

	if (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
		rc = sluice_wire_receive(client->wire, NULL);
		ok = answer_all(client); /* a client may send and close */
	}
	while (sluice_wire_fds_waiting(client->wire) > 0)
		close(sluice_wire_take_fd(client->wire)); /* nothing here takes any */
	if (!ok || !flush(client) || rc < 0)
		drop(client);
}

static void admit(struct refvm_monitor *monitor, int fd)
{
	struct client *client = monitor->clients;

	while (client < monitor->clients + CLIENTS_MAX && client->wire != NULL)
		client++;
	if (client == monitor->clients + CLIENTS_MAX) {
		close(fd);
		return;
	}
	*client = (struct client){.monitor = monitor};
	if (sluice_wire_create(fd, &client->wire) < 0)
		return;
	if (sluice_watch_add(monitor->r->loop, fd, EPOLLIN, on_client, client, &client->watch) <
			0 ||
		sluice_wire_send(client->wire, sluice_qmp_greeting(), -1) < 0 || !flush(client))
		drop(client);
}

static void on_connection(void *ctx, uint32_t events)
{
	struct refvm_monitor *monitor = ctx;
	int fd = accept4(monitor->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	(void)events;
	if (fd >= 0)
		admit(monitor, fd);
}

/* A socket that nobody serves any more is left by a process that was killed. */
static bool is_stale(const struct sockaddr_un *address)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	bool stale = fd >= 0 &&
		     connect(fd, (const struct sockaddr *)address, sizeof(*address)) < 0 &&
		     errno == ECONNREFUSED;

	if (fd >= 0)
		close(fd);
	return stale;
}

static int serve(struct refvm_monitor *monitor)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};

	memcpy(address.sun_path, monitor->path, sizeof(address.sun_path));
	monitor->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	/* The file gets the socket's mode: at no moment may others connect. */
	if (monitor->fd < 0 || fchmod(monitor->fd, 0600) < 0)
		return -errno;
	if (is_stale(&address))
		unlink(monitor->path);
	if (bind(monitor->fd, (const struct sockaddr *)&address, sizeof(address)) < 0 ||
		listen(monitor->fd, CLIENTS_MAX) < 0)
		return -errno;
	return sluice_watch_add(
		monitor->r->loop, monitor->fd, EPOLLIN, on_connection, monitor, &monitor->watch);
}

int refvm_monitor_create(struct refvm *r, const char *path, struct refvm_monitor **ret_monitor,
	struct sluice_error *err)
{
	struct refvm_monitor *monitor;
	int rc;

	if (strlen(path) >= sizeof(monitor->path))
		return sluice_fail(err, -ENAMETOOLONG, "monitor",
			"The path of a socket has at most %zu bytes, '%.64s...' has more.",
			sizeof(monitor->path) - 1, path);
	monitor = calloc(1, sizeof(*monitor));
	if (monitor == NULL)
		return sluice_fail(err, -ENOMEM, "monitor", "No memory.");
	monitor->r = r;
	monitor->fd = -1;
	memcpy(monitor->path, path, strlen(path));
	rc = serve(monitor);
	if (rc < 0) {
		monitor->path[0] = '\0'; /* not ours to remove */
		refvm_monitor_destroy(monitor);
		return sluice_fail(err, rc, "monitor", "Serving %s: %s.", path, strerror(-rc));
	}
	*ret_monitor = monitor;
	return 0;
}

void refvm_monitor_destroy(struct refvm_monitor *monitor)
{
	unsigned int i;

	if (monitor == NULL)
		return;
	for (i = 0; i < CLIENTS_MAX; i++)
		drop(&monitor->clients[i]);
	sluice_watch_remove(monitor->watch);
	if (monitor->fd >= 0)
		close(monitor->fd);
	if (monitor->path[0] != '\0')
		unlink(monitor->path);
	free(monitor);
}
