/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * address.h: where the peer's engine is, as QEMU writes it: tcp:HOST:PORT (a name, IPv4, or IPv6
 * in brackets) or unix:PATH.
 *
 * Threads: the control thread. Blocks for as long as the system's resolver takes when HOST is a
 * name; numbers and paths never block.
 */
#ifndef SLUICE_ENGINE_PEER_ADDRESS_H
#define SLUICE_ENGINE_PEER_ADDRESS_H

#include <netinet/in.h>
#include <stdbool.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <sluice/error.h>

#define SLUICE_URI_BYTES     256
#define SLUICE_ADDRESSES_MAX 4 /* of one name; further ones are left out */

union sluice_sockaddr {
	struct sockaddr any;
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;
	struct sockaddr_un un;
};

/* A URI and what it stands for; a name may have several addresses, best first. */
struct sluice_peer_address {
	char uri[SLUICE_URI_BYTES];
	uint32_t count;
	struct {
		union sluice_sockaddr addr;
		socklen_t len;
	} list[SLUICE_ADDRESSES_MAX];
};

enum sluice_address_use { SLUICE_ADDRESS_CONNECT, SLUICE_ADDRESS_LISTEN };

/* @use LISTEN: HOST may be empty or 0, every address of this host. -EINVAL, or -ENXIO when the
   name is not known. */
int sluice_peer_address_parse(const char *uri, enum sluice_address_use use,
	struct sluice_peer_address *ret_address, struct sluice_error *err);
/* Every address is on this host: loopback, or a UNIX socket. */
bool sluice_peer_address_is_local(const struct sluice_peer_address *address);
/* As a URI with numbers only. */
void sluice_sockaddr_format(
	const union sluice_sockaddr *addr, socklen_t len, char uri[SLUICE_URI_BYTES]);

#endif
