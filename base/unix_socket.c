/* SPDX-License-Identifier: BSD-3-Clause */
/* unix_socket.c: see unix_socket.h. */
#include "base/unix_socket.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

/* Whether the file at @addr is a socket that nobody serves. */
static bool is_stale(const struct sockaddr_un *addr)
{
	struct stat st;
	bool stale;
	int fd;

	if (lstat(addr->sun_path, &st) < 0 || !S_ISSOCK(st.st_mode))
		return false;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return false;
	stale = connect(fd, (const struct sockaddr *)addr, sizeof(*addr)) < 0 &&
		errno == ECONNREFUSED;
	close(fd);
	return stale;
}

static int bind_path(int fd, const struct sockaddr_un *addr)
{
	const struct sockaddr *address = (const struct sockaddr *)addr;

	/* The file gets the socket's own mode: there is no moment at which others may connect. */
	if (fchmod(fd, 0600) < 0)
		return -errno;
	if (bind(fd, address, sizeof(*addr)) == 0)
		return 0;
	if (errno != EADDRINUSE || !is_stale(addr))
		return -errno;
	unlink(addr->sun_path);
	return bind(fd, address, sizeof(*addr)) == 0 ? 0 : -errno;
}

int sluice_unix_listen(
	int fd, const struct sockaddr_un *addr, int backlog, struct sluice_unix_file *ret_file)
{
	struct stat st;
	int r = bind_path(fd, addr);

	if (r < 0)
		return r;
	if (listen(fd, backlog) < 0 || lstat(addr->sun_path, &st) < 0)
		return -errno;
	memcpy(ret_file->path, addr->sun_path, sizeof(ret_file->path));
	ret_file->dev = st.st_dev;
	ret_file->ino = st.st_ino;
	return 0;
}

void sluice_unix_unlink(struct sluice_unix_file *file)
{
	struct stat st;

	if (file->path[0] != '\0' && lstat(file->path, &st) == 0 && st.st_dev == file->dev &&
		st.st_ino == file->ino)
		unlink(file->path);
	file->path[0] = '\0';
}

bool sluice_unix_peer_is_ours(int fd)
{
	struct ucred peer;
	socklen_t bytes = sizeof(peer);

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &bytes) < 0)
		return false;
	return peer.uid == geteuid() || peer.uid == 0;
}
