/* SPDX-License-Identifier: BSD-3-Clause */
/* address.c: see address.h. */
#include "engine/peer/address.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WHERE "uri"

static bool is_loopback(const union sluice_sockaddr *a)
{
	const struct in6_addr *v6 = &a->v6.sin6_addr;

	if (a->any.sa_family == AF_INET)
		return ntohl(a->v4.sin_addr.s_addr) >> 24 == IN_LOOPBACKNET;
	if (IN6_IS_ADDR_V4MAPPED(v6))
		return v6->s6_addr[12] == IN_LOOPBACKNET;
	return IN6_IS_ADDR_LOOPBACK(v6);
}

bool sluice_peer_address_is_local(const struct sluice_peer_address *address)
{
	for (uint32_t i = 0; i < address->count; i++)
		if (address->list[i].addr.any.sa_family != AF_UNIX &&
			!is_loopback(&address->list[i].addr))
			return false;
	return true;
}

void sluice_sockaddr_format(
	const union sluice_sockaddr *addr, socklen_t len, char uri[SLUICE_URI_BYTES])
{
	char host[INET6_ADDRSTRLEN];

	if (addr->any.sa_family == AF_INET) {
		inet_ntop(AF_INET, &addr->v4.sin_addr, host, sizeof(host));
		snprintf(uri, SLUICE_URI_BYTES, "tcp:%s:%u", host, ntohs(addr->v4.sin_port));
	} else if (addr->any.sa_family == AF_INET6) {
		inet_ntop(AF_INET6, &addr->v6.sin6_addr, host, sizeof(host));
		snprintf(uri, SLUICE_URI_BYTES, "tcp:[%s]:%u", host, ntohs(addr->v6.sin6_port));
	} else {
		/* The other end of a UNIX connection has no name of its own. */
		bool named = len > offsetof(struct sockaddr_un, sun_path);

		snprintf(uri, SLUICE_URI_BYTES, "unix:%s", named ? addr->un.sun_path : "");
	}
}

static int bad_uri(const char *uri, struct sluice_error *err)
{
	return sluice_fail(err, -EINVAL, WHERE,
		"\"%.200s\" is not tcp:HOST:PORT or unix:PATH, such as tcp:192.0.2.7:4444, "
		"tcp:[::1]:4444 or unix:/run/sluice/vm7.peer",
		uri);
}

static int parse_unix(
	const char *path, struct sluice_peer_address *address, struct sluice_error *err)
{
	struct sockaddr_un *un = &address->list[0].addr.un;

	if (path[0] == '\0' || strlen(path) >= sizeof(un->sun_path))
		return sluice_fail(err, -EINVAL, WHERE,
			"a UNIX socket's path has 1 to %zu bytes, \"%.120s\" has %zu",
			sizeof(un->sun_path) - 1, path, strlen(path));
	un->sun_family = AF_UNIX;
	memcpy(un->sun_path, path, strlen(path) + 1);
	address->list[0].len = sizeof(*un);
	address->count = 1;
	return 0;
}

/* HOST of "HOST:PORT", without brackets. False: there is no such thing. */
static bool split(const char *text, char *host, size_t host_bytes, const char **ret_port)
{
	const char *colon = strrchr(text, ':');
	size_t len;

	if (colon == NULL || strlen(colon + 1) == 0 || strlen(colon + 1) > 5 ||
		strspn(colon + 1, "0123456789") != strlen(colon + 1) ||
		strtoul(colon + 1, NULL, 10) > 65535)
		return false;
	len = (size_t)(colon - text);
	if (len > 2 && text[0] == '[' && colon[-1] == ']') {
		text++;
		len -= 2;
	} else if (memchr(text, ':', len) != NULL) {
		return false; /* IPv6 without brackets: nobody can tell where it ends */
	}
	if (len >= host_bytes)
		return false;
	memcpy(host, text, len);
	host[len] = '\0';
	*ret_port = colon + 1;
	return true;
}

static void take(struct sluice_peer_address *address, const struct addrinfo *found)
{
	for (; found != NULL && address->count < SLUICE_ADDRESSES_MAX; found = found->ai_next) {
		if (found->ai_family != AF_INET && found->ai_family != AF_INET6)
			continue;
		memcpy(&address->list[address->count].addr, found->ai_addr, found->ai_addrlen);
		address->list[address->count].len = found->ai_addrlen;
		address->count++;
	}
}

static int parse_tcp(const char *text, enum sluice_address_use use,
	struct sluice_peer_address *address, struct sluice_error *err)
{
	bool listen = use == SLUICE_ADDRESS_LISTEN;
	struct addrinfo hints = {
		.ai_flags = AI_NUMERICSERV | AI_NUMERICHOST | (listen ? AI_PASSIVE : 0),
		.ai_family = AF_UNSPEC,
		.ai_socktype = SOCK_STREAM};
	struct addrinfo *found = NULL;
	const char *port, *name;
	char host[NI_MAXHOST];
	int r;

	if (!split(text, host, sizeof(host), &port) || (host[0] == '\0' && !listen))
		return bad_uri(address->uri, err);
	name = host[0] != '\0' ? host : NULL;
	r = getaddrinfo(name, port, &hints, &found);
	if (r == EAI_NONAME) {
		hints.ai_flags = AI_NUMERICSERV | AI_ADDRCONFIG | (listen ? AI_PASSIVE : 0);
		r = getaddrinfo(name, port, &hints, &found);
	}
	if (r != 0)
		return sluice_fail(err, -ENXIO, WHERE,
			"the address of host \"%.200s\" is not known: %s", host, gai_strerror(r));
	take(address, found);
	freeaddrinfo(found);
	return address->count > 0 ? 0 : bad_uri(address->uri, err);
}

int sluice_peer_address_parse(const char *uri, enum sluice_address_use use,
	struct sluice_peer_address *ret_address, struct sluice_error *err)
{
	struct sluice_peer_address address = {0};
	int r;

	if (strlen(uri) >= sizeof(address.uri))
		return bad_uri(uri, err);
	memcpy(address.uri, uri, strlen(uri) + 1);
	if (strncmp(uri, "unix:", 5) == 0)
		r = parse_unix(uri + 5, &address, err);
	else if (strncmp(uri, "tcp:", 4) == 0)
		r = parse_tcp(uri + 4, use, &address, err);
	else
		r = bad_uri(uri, err);
	if (r == 0)
		*ret_address = address;
	return r;
}
