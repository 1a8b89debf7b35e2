/* SPDX-License-Identifier: BSD-3-Clause */
/* inet.c: see inet.h. */
#include "base/inet.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>

static int refuse(const char *text, struct sluice_error *err)
{
	return sluice_fail(err, -EINVAL, "address",
		"\"%.*s\" is not an address; write 127.0.0.1:7000 or [::1]:7000, numbers only",
		SLUICE_ADDRESS_MAX, text);
}

/* Cut "host:port" or "[host]:port" in two; the port may be missing. */
static int split(char *text, const char **ret_host, const char **ret_port)
{
	char *colon;

	*ret_port = "0";
	if (text[0] == '[') {
		char *end = strchr(text, ']');

		if (end == NULL || (end[1] != '\0' && end[1] != ':'))
			return -EINVAL;
		if (end[1] == ':')
			*ret_port = end + 2;
		*end = '\0';
		*ret_host = text + 1;
		return 0;
	}
	colon = strchr(text, ':');
	if (colon != NULL) {
		*colon = '\0';
		*ret_port = colon + 1;
	}
	*ret_host = text;
	return 0;
}

int sluice_inet_parse(const char *text, struct sluice_inet *ret_address, struct sluice_error *err)
{
	const struct addrinfo hints = {
		.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV,
		.ai_family = AF_UNSPEC,
		.ai_socktype = SOCK_STREAM,
	};
	struct addrinfo *found;
	const char *host, *port;
	char copy[SLUICE_ADDRESS_MAX];

	if (strlen(text) >= sizeof(copy))
		return refuse(text, err);
	memcpy(copy, text, strlen(text) + 1);
	if (split(copy, &host, &port) < 0 || host[0] == '\0' || port[0] == '\0')
		return refuse(text, err);
	if (getaddrinfo(host, port, &hints, &found) != 0)
		return refuse(text, err);
	*ret_address = (struct sluice_inet){.len = found->ai_addrlen};
	memcpy(&ret_address->u, found->ai_addr, found->ai_addrlen);
	freeaddrinfo(found);
	return 0;
}

void sluice_inet_format(const struct sluice_inet *address, char text[SLUICE_ADDRESS_MAX])
{
	bool v6 = address->u.any.sa_family == AF_INET6;
	char host[64] = "?";

	getnameinfo(&address->u.any, address->len, host, sizeof(host), NULL, 0, NI_NUMERICHOST);
	snprintf(text, SLUICE_ADDRESS_MAX, v6 ? "[%s]:%u" : "%s:%u", host,
		(unsigned int)sluice_inet_port(address));
}

bool sluice_inet_is_loopback(const struct sluice_inet *address)
{
	const struct in6_addr *in6 = &address->u.in6.sin6_addr;

	if (address->u.any.sa_family == AF_INET)
		return ntohl(address->u.in.sin_addr.s_addr) >> 24 == IN_LOOPBACKNET;
	if (IN6_IS_ADDR_V4MAPPED(in6))
		return in6->s6_addr[12] == IN_LOOPBACKNET;
	return IN6_IS_ADDR_LOOPBACK(in6);
}

uint16_t sluice_inet_port(const struct sluice_inet *address)
{
	if (address->u.any.sa_family == AF_INET)
		return ntohs(address->u.in.sin_port);
	return ntohs(address->u.in6.sin6_port);
}

void sluice_inet_set_port(struct sluice_inet *address, uint16_t port)
{
	if (address->u.any.sa_family == AF_INET)
		address->u.in.sin_port = htons(port);
	else
		address->u.in6.sin6_port = htons(port);
}

void sluice_inet_host(const char *address, char *ret_host, size_t host_bytes)
{
	const char *colon = strrchr(address, ':');
	size_t length = strlen(address);

	if (address[0] == '[') {
		address++;
		length = strcspn(address, "]");
	} else if (colon != NULL && strchr(address, ':') == colon) {
		length = (size_t)(colon - address);
	}
	snprintf(ret_host, host_bytes, "%.*s", (int)length, address);
}
