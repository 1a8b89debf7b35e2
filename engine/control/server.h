/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * server.h: the VMM socket. Serves any number of QMP clients on one loop: greeting,
 * negotiation, `getfd`, checks of arguments by the schema, replies, events. What commands
 * do is the business of the handlers given at creation; this knows no session.
 *
 * Threading: the loop's thread only. Blocking: never; a client that does not read loses
 * MIGRATION_PROGRESS events first and is disconnected when 1 MiB waits for it.
 */
#ifndef SLUICE_CONTROL_SERVER_H
#define SLUICE_CONTROL_SERVER_H

#include <stdbool.h>
#include <stddef.h>

#include <jansson.h>

#include <sluice/error.h>

#include "base/loop.h"
#include "base/schema.h"

#define SLUICE_SERVER_CLIENTS_MAX   64 /* further connections are closed at once */
#define SLUICE_CLIENT_NAMED_FDS_MAX 64 /* descriptors that a client may have named */

struct sluice_server;
struct sluice_client; /* one connection; valid during the handler's call only */

/*
 * A command's handler. @args: checked against the schema, never NULL, borrowed. Returns the
 * reply's value as a new reference, or NULL with *err described; the client is told err->text.
 * Answers at once: what takes longer is told by events. May send events.
 */
typedef json_t *sluice_command_fn(
	void *ctx, struct sluice_client *client, json_t *args, struct sluice_error *err);

struct sluice_command {
	const char *name;
	sluice_command_fn *fn;
};

struct sluice_server_opts {
	struct sluice_loop *loop;
	const struct sluice_schema *schema; /* sluice_schema_vmm_socket */
	const struct sluice_command *commands; /* one per command of the schema but those that the
						  server answers itself; ends with a NULL name */
	void *ctx; /* for handlers and vmm_gone */
	/* The VMM's connection ended; another one may become the VMM. May be NULL. Not called by
	   sluice_server_destroy(). */
	void (*vmm_gone)(void *ctx);
};

/*
 * @opts is copied; what it points to stays the caller's and outlives the server. Asserts that
 * commands and schema match. The server itself answers qmp_capabilities, query-version,
 * query-commands, getfd and closefd.
 */
int sluice_server_create(const struct sluice_server_opts *opts, struct sluice_server **ret_server);
/* Disconnect everybody and remove the socket file. Not from a handler. NULL is allowed. */
void sluice_server_destroy(struct sluice_server *server);

/*
 * Serve a connected socket. Owns @fd from here on, also on failure. @vmm: it is the VMM at
 * once, as --control-fd is, whose end is the engine's too; otherwise it becomes the VMM by
 * calling one of its commands.
 */
int sluice_server_add_client(
	struct sluice_server *server, int fd, bool vmm, struct sluice_error *err);
/*
 * Accept clients at @path: mode 0600, of our own user or root. A socket file that nobody
 * serves any more is replaced. Once per server.
 */
int sluice_server_listen(struct sluice_server *server, const char *path, struct sluice_error *err);

/*
 * Tell all negotiated clients. Steals @data (NULL: {}). Asserts that it fits the schema.
 * Clients that vanish or are too slow are disconnected later, from the loop.
 */
void sluice_server_event(struct sluice_server *server, const char *name, json_t *data);

size_t sluice_server_client_count(const struct sluice_server *server);
bool sluice_server_has_vmm(const struct sluice_server *server);
/* Whether the VMM's end is open right now: the loop may not have told its end yet. */
bool sluice_server_vmm_is_there(const struct sluice_server *server);

/*
 * The descriptor that @client named, now the caller's and close-on-exec; the name is free
 * again. -ENOENT, described, when there is none.
 */
int sluice_client_take_fd(
	struct sluice_client *client, const char *fdname, struct sluice_error *err);
bool sluice_client_is_vmm(const struct sluice_client *client);

#endif
