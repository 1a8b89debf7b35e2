/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * server_internal.h: what server.c (listening, events, life and death) and client.c (one
 * connection) share. For these two files only.
 */
#ifndef SLUICE_CONTROL_SERVER_INTERNAL_H
#define SLUICE_CONTROL_SERVER_INTERNAL_H

#include <sys/queue.h>

#include "base/qmp.h"
#include "base/unix_socket.h"
#include "engine/control/server.h"

struct named_fd {
	char *name;
	int fd;
};

struct sluice_client {
	LIST_ENTRY(sluice_client) link;
	struct sluice_server *server;
	struct sluice_wire *wire;
	struct sluice_watch *watch; /* NULL once dead */
	struct named_fd named_fds[SLUICE_CLIENT_NAMED_FDS_MAX];
	size_t named_fd_count;
	bool negotiated; /* qmp_capabilities was called */
	bool dead; /* waits for the server to free it from the loop */
};

struct sluice_server {
	struct sluice_server_opts opts;
	LIST_HEAD(, sluice_client) clients;
	size_t client_count;
	struct sluice_client *vmm;
	struct sluice_timer *reap_timer; /* frees dead clients outside of their handlers */
	struct sluice_timer *accept_timer; /* accepts again after running out of descriptors */
	struct sluice_watch *listen_watch;
	int listen_fd; /* -1: not listening */
	struct sluice_unix_file file;
};

/* client.c. Owns @fd, also on failure. */
int sluice_client_create(struct sluice_server *server, int fd, struct sluice_client **ret_client);
void sluice_client_destroy(struct sluice_client *client);
/* Queue and try to send; steals @message. A client that cannot take it dies. */
void sluice_client_send(struct sluice_client *client, json_t *message);
/* The handler among the commands that the server answers itself, or NULL. */
sluice_command_fn *sluice_builtin_find(const char *name);

/* server.c. The client is of no use any more; freed soon. */
void sluice_client_die(struct sluice_client *client);

#endif
