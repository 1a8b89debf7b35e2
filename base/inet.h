/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * inet.h: numeric IPv4 and IPv6 addresses with a port, as text and as sockets take them. Pure:
 * no name is ever looked up. Any thread.
 */
#ifndef SLUICE_BASE_INET_H
#define SLUICE_BASE_INET_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

#include <sluice/error.h>
#include <sluice/transport.h>

struct sluice_inet {
	union {
		struct sockaddr any;
		struct sockaddr_in in;
		struct sockaddr_in6 in6;
	} u;
	socklen_t len;
};

/* "127.0.0.1:7000", "[::1]:7000", both also without a port (then 0). 0, or -EINVAL with what was
   expected; @ret_address then has no meaning. */
int sluice_inet_parse(const char *text, struct sluice_inet *ret_address, struct sluice_error *err);
void sluice_inet_format(const struct sluice_inet *address, char text[SLUICE_ADDRESS_MAX]);
bool sluice_inet_is_loopback(const struct sluice_inet *address);
/* The host of "HOST:PORT", "[V6]:PORT" or "HOST", as it is written, cut where
   @host_bytes end; nothing is checked. */
void sluice_inet_host(const char *address, char *ret_host, size_t host_bytes);
uint16_t sluice_inet_port(const struct sluice_inet *address);
void sluice_inet_set_port(struct sluice_inet *address, uint16_t port);

#endif
