/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * client.c: one connection to the VMM socket: takes messages off the wire, checks them
 * against the grammar and the schema, calls the handler, answers. Keeps the descriptors
 * that the client named. Loop's thread; never blocks.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/bits.h"
#include "base/text.h"
#include "engine/control/server_internal.h"

#define GENERIC   "GenericError"
#define NOT_FOUND "CommandNotFound"

static void on_ready(void *ctx, uint32_t events);

/* ---- life ---- */

int sluice_client_create(struct sluice_server *server, int fd, struct sluice_client **ret_client)
{
	struct sluice_client *client;
	struct sluice_wire *wire;
	int rc = sluice_wire_create(fd, &wire);

	if (rc < 0)
		return rc;
	client = calloc(1, sizeof(*client));
	if (client == NULL) {
		sluice_wire_destroy(wire);
		return -ENOMEM;
	}
	client->server = server;
	client->wire = wire;
	rc = sluice_watch_add(server->opts.loop, fd, EPOLLIN, on_ready, client, &client->watch);
	if (rc < 0) {
		sluice_client_destroy(client);
		return rc;
	}
	*ret_client = client;
	return 0;
}

void sluice_client_destroy(struct sluice_client *client)
{
	sluice_watch_remove(client->watch);
	for (size_t i = 0; i < client->named_fd_count; i++) {
		close(client->named_fds[i].fd);
		free(client->named_fds[i].name);
	}
	sluice_wire_destroy(client->wire);
	free(client);
}

bool sluice_client_is_vmm(const struct sluice_client *client)
{
	return client->server->vmm == client;
}

/* ---- sending ---- */

static void flush(struct sluice_client *client)
{
	int rc = sluice_wire_flush(client->wire);

	if (rc < 0)
		sluice_client_die(client);
	else
		sluice_watch_events(client->watch, rc == 1 ? EPOLLIN : EPOLLIN | EPOLLOUT);
}

void sluice_client_send(struct sluice_client *client, json_t *message)
{
	if (client->dead) {
		json_decref(message);
		return;
	}
	if (sluice_wire_send(client->wire, message, -1) < 0)
		sluice_client_die(client);
	else
		flush(client);
}

/* @err is about @command; say what decided when it was something else. */
static void send_error(struct sluice_client *client, const char *command,
	const struct sluice_error *err, json_t *id)
{
	char desc[sizeof(err->where) + sizeof(err->text) + 2];

	if (err->where[0] == '\0' || strcmp(err->where, command) == 0)
		snprintf(desc, sizeof(desc), "%s", err->text);
	else
		snprintf(desc, sizeof(desc), "%s: %s", err->where, err->text);
	sluice_client_send(client, sluice_qmp_error(GENERIC, desc, id));
}

/* ---- named descriptors ---- */

static struct named_fd *find_named(struct sluice_client *client, const char *name)
{
	for (size_t i = 0; i < client->named_fd_count; i++) {
		if (strcmp(client->named_fds[i].name, name) == 0)
			return &client->named_fds[i];
	}
	return NULL;
}

int sluice_client_take_fd(
	struct sluice_client *client, const char *fdname, struct sluice_error *err)
{
	struct named_fd *named = find_named(client, fdname);
	int fd;

	if (named == NULL)
		return sluice_fail(err, -ENOENT, "getfd",
			"no descriptor is called '%.63s': pass it with getfd first, on this "
			"connection",
			fdname);
	fd = named->fd;
	free(named->name);
	*named = client->named_fds[--client->named_fd_count];
	return fd;
}

static int name_fd(struct sluice_client *client, const char *name, int fd, struct sluice_error *err)
{
	struct named_fd *named = find_named(client, name);
	char *copy;

	if (named != NULL) {
		close(named->fd);
		named->fd = fd;
		return 0;
	}
	if (client->named_fd_count == SLUICE_CLIENT_NAMED_FDS_MAX)
		return sluice_fail(err, -EMFILE, "getfd",
			"%d descriptors are named and not used: close some with closefd",
			SLUICE_CLIENT_NAMED_FDS_MAX);
	copy = strdup(name);
	if (copy == NULL)
		return sluice_fail(err, -ENOMEM, "getfd", "out of memory");
	client->named_fds[client->named_fd_count++] = (struct named_fd){.name = copy, .fd = fd};
	return 0;
}

/* ---- commands that the server answers itself; ctx is the server ---- */

static json_t *do_capabilities(
	void *ctx, struct sluice_client *client, json_t *args, struct sluice_error *err)
{
	(void)ctx;
	(void)args;
	(void)err;
	client->negotiated = true;
	return json_object();
}

static json_t *do_query_version(
	void *ctx, struct sluice_client *client, json_t *args, struct sluice_error *err)
{
	json_t *greeting = sluice_qmp_greeting();
	json_t *version = json_object_get(json_object_get(greeting, "QMP"), "version");

	(void)ctx;
	(void)client;
	(void)args;
	(void)err;
	json_incref(version);
	json_decref(greeting);
	return version;
}

static json_t *do_query_commands(
	void *ctx, struct sluice_client *client, json_t *args, struct sluice_error *err)
{
	const struct sluice_schema *schema = client->server->opts.schema;
	json_t *list = json_array();

	(void)ctx;
	(void)args;
	(void)err;
	for (size_t i = 0; i < schema->command_count; i++)
		json_array_append_new(list, json_pack("{s:s,s:b}", "name", schema->commands[i].name,
						    "vmm", schema->commands[i].vmm));
	return list;
}

static json_t *do_getfd(
	void *ctx, struct sluice_client *client, json_t *args, struct sluice_error *err)
{
	int fd = sluice_wire_take_fd(client->wire);

	(void)ctx;
	if (fd < 0) {
		sluice_fail(err, fd, "getfd",
			"no descriptor came with this command: send it along by SCM_RIGHTS");
		return NULL;
	}
	if (name_fd(client, json_string_value(json_object_get(args, "fdname")), fd, err) < 0) {
		close(fd);
		return NULL;
	}
	return json_object();
}

static json_t *do_closefd(
	void *ctx, struct sluice_client *client, json_t *args, struct sluice_error *err)
{
	const char *name = json_string_value(json_object_get(args, "fdname"));
	int fd = sluice_client_take_fd(client, name, err);

	(void)ctx;
	if (fd < 0)
		return NULL;
	close(fd);
	return json_object();
}

static const struct sluice_command builtins[] = {
	{"qmp_capabilities", do_capabilities},
	{"query-version", do_query_version},
	{"query-commands", do_query_commands},
	{"getfd", do_getfd},
	{"closefd", do_closefd},
};

sluice_command_fn *sluice_builtin_find(const char *name)
{
	for (size_t i = 0; i < SLUICE_ARRAY_LEN(builtins); i++) {
		if (strcmp(builtins[i].name, name) == 0)
			return builtins[i].fn;
	}
	return NULL;
}

/* ---- dispatch ---- */

static sluice_command_fn *find_handler(const struct sluice_server *server, const char *name)
{
	const struct sluice_command *command = server->opts.commands;

	while (command->name != NULL && strcmp(command->name, name) != 0)
		command++;
	return command->name != NULL ? command->fn : sluice_builtin_find(name);
}

/* The grammar: {"execute": string, "arguments"?: object, "id"?: any}. */
static int check_grammar(const json_t *message, struct sluice_error *err)
{
	json_t *mutable = (json_t *)(uintptr_t)message; /* the iterator does not change it */
	const json_t *args = json_object_get(message, "arguments");

	for (void *it = json_object_iter(mutable); it != NULL;
		it = json_object_iter_next(mutable, it)) {
		const char *key = json_object_iter_key(it);

		if (strcmp(key, "execute") != 0 && strcmp(key, "arguments") != 0 &&
			strcmp(key, "id") != 0)
			return sluice_fail(
				err, -EINVAL, "", "QMP input member '%.63s' is unexpected", key);
	}
	if (json_object_get(message, "execute") == NULL)
		return sluice_fail(err, -EINVAL, "", "QMP input lacks member 'execute'");
	if (!json_is_string(json_object_get(message, "execute")))
		return sluice_fail(err, -EINVAL, "", "QMP input member 'execute' must be a string");
	if (args != NULL && !json_is_object(args))
		return sluice_fail(
			err, -EINVAL, "", "QMP input member 'arguments' must be an object");
	return 0;
}

/* Only getfd may find descriptors waiting. They are of no use to anything else: close them. */
static int refuse_stray_fds(
	struct sluice_client *client, const char *command, struct sluice_error *err)
{
	size_t count = sluice_wire_fds_waiting(client->wire);

	if (count == 0)
		return 0;
	for (size_t i = 0; i < count; i++)
		close(sluice_wire_take_fd(client->wire));
	return sluice_fail(err, -EINVAL, command,
		"%zu descriptors were sent that no getfd took; they are closed and the command "
		"was not run",
		count);
}

static int claim_vmm(struct sluice_client *client, const char *command, struct sluice_error *err)
{
	struct sluice_server *server = client->server;

	if (server->vmm == NULL)
		server->vmm = client;
	if (server->vmm == client)
		return 0;
	return sluice_fail(err, -EPERM, command,
		"only the VMM may call this, and another connection is the VMM");
}

static json_t *run(struct sluice_client *client, const struct sluice_schema_entry *command,
	json_t *args, struct sluice_error *err)
{
	struct sluice_server *server = client->server;
	json_t *value;

	if (sluice_schema_check(command->data, args, command->name, err) < 0)
		return NULL;
	if (command->vmm && claim_vmm(client, command->name, err) < 0)
		return NULL;
	value = find_handler(server, command->name)(server->opts.ctx, client, args, err);
	SLUICE_ASSERT((value == NULL) == (err->code != 0));
	if (value == NULL)
		return NULL;
	/* Not an assertion: what the command did stands, and a guest may depend on us. */
	if (sluice_schema_check_value(command->returns, value, "reply", err) < 0) {
		json_decref(value);
		return NULL;
	}
	return value;
}

static void send_not_found(struct sluice_client *client, const char *name, json_t *id)
{
	const struct sluice_schema *schema = client->server->opts.schema;
	struct sluice_nearest nearest = {.wanted = name};
	char desc[256], hint[128];

	for (size_t i = 0; i < schema->command_count; i++)
		sluice_nearest_try(&nearest, schema->commands[i].name);
	snprintf(desc, sizeof(desc), "The command %.63s has not been found%s", name,
		sluice_nearest_hint(&nearest, hint, sizeof(hint)));
	sluice_client_send(client, sluice_qmp_error(NOT_FOUND, desc, id));
}

/* Whether the state of the negotiation allows this command; else it is answered. */
static bool negotiation_allows(struct sluice_client *client, const char *name, json_t *id)
{
	bool negotiates = strcmp(name, "qmp_capabilities") == 0;

	if (negotiates != client->negotiated)
		return true;
	sluice_client_send(client,
		sluice_qmp_error(NOT_FOUND,
			negotiates ? "Capabilities negotiation is already complete, command "
				     "ignored"
				   : "Expecting capabilities negotiation with "
				     "'qmp_capabilities'",
			id));
	return false;
}

static void dispatch(struct sluice_client *client, json_t *message)
{
	const struct sluice_schema *schema = client->server->opts.schema;
	json_t *id = json_object_get(message, "id");
	json_t *args = json_object_get(message, "arguments");
	const struct sluice_schema_entry *command;
	struct sluice_error err = {0};
	const char *name = "";
	json_t *value;

	if (check_grammar(message, &err) < 0)
		goto out_error;
	name = json_string_value(json_object_get(message, "execute"));
	if (strcmp(name, "getfd") != 0 && refuse_stray_fds(client, name, &err) < 0)
		goto out_error;
	if (!negotiation_allows(client, name, id))
		return;
	command = sluice_schema_find(schema->commands, schema->command_count, name);
	if (command == NULL) {
		send_not_found(client, name, id);
		return;
	}
	args = args != NULL ? json_incref(args) : json_object();
	value = run(client, command, args, &err);
	json_decref(args);
	if (value == NULL)
		goto out_error;
	sluice_client_send(client, sluice_qmp_return(value, id));
	return;

out_error:
	send_error(client, name, &err, id);
}

/* Answer what cannot be understood; -EBADMSG leaves the wire usable. */
static void refuse(struct sluice_client *client, const struct sluice_error *err)
{
	struct sluice_error stray = {0};

	refuse_stray_fds(client, "qmp", &stray);
	send_error(client, "qmp", err, NULL);
	if (err->code != -EBADMSG)
		sluice_client_die(client);
}

static void take_messages(struct sluice_client *client)
{
	while (!client->dead) {
		struct sluice_error err = {0};
		json_t *message;
		int rc = sluice_wire_next(client->wire, &message, &err);

		if (rc == 0)
			return;
		if (rc < 0) {
			refuse(client, &err);
			continue;
		}
		dispatch(client, message);
		json_decref(message);
	}
}

static void on_ready(void *ctx, uint32_t events)
{
	struct sluice_client *client = ctx;
	struct sluice_error err = {0};
	int rc;

	if (events & EPOLLOUT)
		flush(client);
	if (client->dead)
		return;
	rc = sluice_wire_receive(client->wire, &err);
	take_messages(client); /* a client may send and close */
	if (rc == -EPROTO)
		refuse(client, &err);
	if (rc < 0)
		sluice_client_die(client);
}
