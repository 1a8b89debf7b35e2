/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * no_resolver.c: names are not looked up while fuzzing: random ones would go out to whoever
 * answers for this machine, and wait for it. Linked with --wrap=getaddrinfo.
 */
#include <netdb.h>
#include <stddef.h>

int __wrap_getaddrinfo(const char *node, const char *service, const struct addrinfo *hints,
	struct addrinfo **ret_found);
int __real_getaddrinfo(const char *node, const char *service, const struct addrinfo *hints,
	struct addrinfo **ret_found);

int __wrap_getaddrinfo(const char *node, const char *service, const struct addrinfo *hints,
	struct addrinfo **ret_found)
{
	struct addrinfo numeric = {0};

	if (hints != NULL)
		numeric = *hints;
	numeric.ai_flags |= AI_NUMERICHOST | AI_NUMERICSERV;
	return __real_getaddrinfo(node, service, &numeric, ret_found);
}
