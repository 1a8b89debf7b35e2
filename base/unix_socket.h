/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * unix_socket.h: UNIX sockets with a path that only their own user and root may use: the VMM
 * socket and peer links on one host.
 *
 * Threads: any; no shared state. Blocking: never.
 */
#ifndef SLUICE_BASE_UNIX_SOCKET_H
#define SLUICE_BASE_UNIX_SOCKET_H

#include <stdbool.h>
#include <sys/types.h>
#include <sys/un.h>

/* A socket file that we made. Another one at the same path later is not ours to remove. */
struct sluice_unix_file {
	char path[sizeof(((struct sockaddr_un *)0)->sun_path)]; /* "": none */
	dev_t dev;
	ino_t ino;
};

/*
 * Bind @fd to @addr with mode 0600 and listen. A socket file there that nobody serves any more is
 * replaced. -EADDRINUSE: somebody does, or the file is no socket.
 */
int sluice_unix_listen(
	int fd, const struct sockaddr_un *addr, int backlog, struct sluice_unix_file *ret_file);
/* Remove the file if it is still the one that we made. */
void sluice_unix_unlink(struct sluice_unix_file *file);
/* Whether the process at the other end of @fd is our user's or root's (SO_PEERCRED). */
bool sluice_unix_peer_is_ours(int fd);

#endif
