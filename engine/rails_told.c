/* SPDX-License-Identifier: BSD-3-Clause */
/* rails_told.c: rails as sessions, peers and operators are told of them. See rails.h. */
#include <arpa/inet.h>
#include <ifaddrs.h>
#include <stdio.h>
#include <string.h>

#include "base/inet.h"
#include "base/text.h"
#include "engine/engine.h"
#include "engine/lane/rail_pair.h"
#include "engine/rails.h"
#include "engine/security.h"

#define ERROR_BYTES 256 /* of query-placement's `error`, with the final NUL */

/* ---- for a session ---- */

static bool take_subnet(
	const struct ifaddrs *entry, const char *host, struct sluice_subnet *ret_subnet)
{
	const struct sockaddr_in6 *in6 = (const void *)entry->ifa_addr;
	const struct sockaddr_in *in = (const void *)entry->ifa_addr;
	const uint8_t *address, *mask;
	char text[INET6_ADDRSTRLEN];

	if (entry->ifa_addr == NULL || entry->ifa_netmask == NULL ||
		(entry->ifa_addr->sa_family != AF_INET && entry->ifa_addr->sa_family != AF_INET6))
		return false;
	*ret_subnet = (struct sluice_subnet){
		.address_bytes = entry->ifa_addr->sa_family == AF_INET ? 4 : 16};
	address = ret_subnet->address_bytes == 4 ? (const void *)&in->sin_addr
						 : (const void *)&in6->sin6_addr;
	in = (const void *)entry->ifa_netmask;
	in6 = (const void *)entry->ifa_netmask;
	mask = ret_subnet->address_bytes == 4 ? (const void *)&in->sin_addr
					      : (const void *)&in6->sin6_addr;
	memcpy(ret_subnet->address, address, ret_subnet->address_bytes);
	for (uint32_t i = 0; i < ret_subnet->address_bytes; i++)
		ret_subnet->prefix_bits += (uint32_t)__builtin_popcount(mask[i]);
	return inet_ntop(entry->ifa_addr->sa_family, address, text, sizeof(text)) != NULL &&
	       strcmp(text, host) == 0;
}

/* All of 127/8 is one subnet, also what no interface lists. */
static struct sluice_subnet subnet_of(const char *address)
{
	struct sluice_subnet subnet = {0};
	struct ifaddrs *all = NULL;
	bool found = false;
	char host[128];

	sluice_inet_host(address, host, sizeof(host));
	if (strncmp(host, "127.", 4) == 0)
		return (struct sluice_subnet){
			.address_bytes = 4, .address = {127}, .prefix_bits = 8};
	if (getifaddrs(&all) < 0)
		return subnet;
	for (const struct ifaddrs *a = all; a != NULL && !found; a = a->ifa_next)
		found = take_subnet(a, host, &subnet);
	freeifaddrs(all);
	return found ? subnet : (struct sluice_subnet){0};
}

uint32_t sluice_rails_for_session(const struct sluice_engine *engine,
	const struct sluice_peer_address *peer, struct sluice_session_rail *rails)
{
	for (uint32_t i = 0; i < engine->rails.count; i++) {
		const struct sluice_engine_rail *rail = &engine->rails.list[i];
		bool fits = sluice_security_rail_fits(engine, i, peer);

		rails[i] = (struct sluice_session_rail){.transport = rail->transport,
			.rail = fits ? rail->rail : NULL,
			.name = rail->name,
			.address = rail->address,
			.subnet = subnet_of(rail->name),
			.nodes = sluice_placing_rail_nodes(engine, i),
			.staging = rail->staging};
	}
	return engine->rails.count;
}

void sluice_rails_address(const struct sluice_engine *engine, uint32_t rail, const char *host,
	char ret_address[SLUICE_ADDRESS_MAX])
{
	const char *address = engine->rails.list[rail].address;
	char own[128];

	sluice_inet_host(address, own, sizeof(own));
	if (*host == '\0' || (strcmp(own, "0.0.0.0") != 0 && strcmp(own, "::") != 0))
		return;
	snprintf(ret_address, SLUICE_ADDRESS_MAX, strchr(host, ':') != NULL ? "[%s]%s" : "%s%s",
		host, strrchr(address, ':'));
}

/* ---- telling ---- */

static void gone_text(const struct sluice_engine_rail *rail, char text[ERROR_BYTES])
{
	const char *why = rail->transport->rail_stats(rail->rail)->gone_why;

	if (why[0] == '\0')
		snprintf(text, ERROR_BYTES,
			"its device was removed; it is used again, with memory registered anew, "
			"when the device is back");
	else
		snprintf(text, ERROR_BYTES,
			"its device was removed; it is tried again, and could not be used when it "
			"last was: %.160s",
			why);
	sluice_text_make_utf8(text);
}

static json_t *rail_json(const struct sluice_engine_rail *rail)
{
	char text[ERROR_BYTES];
	json_t *entry = json_pack("{s:s, s:s, s:b, s:b, s:I, s:i}", "transport",
		rail->transport->name, "rail", rail->name, "local", rail->is_local,
		"registers-memory", sluice_rail_registers(rail), "link-bytes-per-s",
		(json_int_t)rail->limits.link_bytes_per_s, "node", rail->limits.numa_node);

	if (rail->device[0] != '\0')
		json_object_set_new(entry, "device", json_string(rail->device));
	if (rail->address[0] != '\0')
		json_object_set_new(entry, "listens-at", json_string(rail->address));
	if (rail->listen_error[0] != '\0')
		json_object_set_new(entry, "error", json_string(rail->listen_error));
	if (rail->rail != NULL && sluice_rail_is_gone(rail->transport, rail->rail)) {
		gone_text(rail, text);
		json_object_set_new(entry, "error", json_string(text));
	}
	return entry;
}

void sluice_rails_json(const struct sluice_engine *engine, json_t *reply)
{
	json_t *rails = json_array(), *lacks = json_array();

	for (uint32_t i = 0; i < engine->rails.count; i++)
		json_array_append_new(rails, rail_json(&engine->rails.list[i]));
	for (uint32_t i = 0; i < engine->rails.lack_count; i++)
		json_array_append_new(lacks,
			json_pack("{s:s, s:s}", "transport", engine->rails.lacks[i].transport,
				"reason", engine->rails.lacks[i].reason));
	json_object_set_new(reply, "rails", rails);
	json_object_set_new(reply, "lacks", lacks);
}

void sluice_rails_stats(const struct sluice_engine *engine, struct sluice_rail_stats *ret_sum)
{
	*ret_sum = (struct sluice_rail_stats){0};
	for (uint32_t i = 0; i < engine->rails.count; i++) {
		const struct sluice_engine_rail *rail = &engine->rails.list[i];
		const struct sluice_rail_stats *stats;

		if (rail->rail == NULL)
			continue;
		stats = rail->transport->rail_stats(rail->rail);
		ret_sum->accepted += stats->accepted;
		ret_sum->welcomed += stats->welcomed;
		ret_sum->refused_hello += stats->refused_hello;
		ret_sum->refused_ticket += stats->refused_ticket;
		ret_sum->refused_deadline += stats->refused_deadline;
		ret_sum->registrations += stats->registrations;
		ret_sum->registered_bytes += stats->registered_bytes;
		ret_sum->register_ns += stats->register_ns;
		if (stats->registered_last_ns > ret_sum->registered_last_ns)
			ret_sum->registered_last_ns = stats->registered_last_ns;
	}
}
