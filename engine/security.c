/* SPDX-License-Identifier: BSD-3-Clause */
/* security.c: see security.h. */
#include "engine/security.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/text.h"
#include "engine/engine.h"
#include "engine/peer/psk.h"
#include "engine/peer/tls.h"

#define WHERE "security"

static bool wants_psk(const struct sluice_config *config)
{
	return config->security == SLUICE_SECURITY_PSK ||
	       (config->security == SLUICE_SECURITY_AUTO && config->psk_file[0] != '\0');
}

/* Found out now, and not when the peer is there. */
static int check_key(
	const struct sluice_config *config, enum sluice_address_use use, struct sluice_error *err)
{
	bool connects = use == SLUICE_ADDRESS_CONNECT;
	const struct sluice_tls_module *module;
	struct sluice_psk psk;
	int r;

	if (config->psk_file[0] == '\0')
		return sluice_fail(err, -EINVAL, WHERE,
			"psk needs a key; set psk-file to a file made by psktool -u NAME "
			"-p FILE, the same at both ends");
	r = sluice_tls_load(&module, err);
	if (r == 0)
		r = sluice_psk_find(
			config->psk_file, connects ? config->psk_identity : NULL, &psk, err);
	if (r == 0)
		sluice_psk_wipe(&psk);
	return r;
}

static int check_link(const struct sluice_config *config, const struct sluice_peer_address *address,
	enum sluice_address_use use, struct sluice_error *err)
{
	if (config->security == SLUICE_SECURITY_NONE && config->psk_file[0] != '\0')
		return sluice_fail(err, -EINVAL, WHERE,
			"none and psk-file contradict each other; take one of them back");
	if (wants_psk(config))
		return check_key(config, use, err);
	if (config->security == SLUICE_SECURITY_NONE || sluice_peer_address_is_local(address))
		return 0;
	return sluice_fail(err, -EPERM, WHERE,
		"\"%.120s\" is not on this host and the peer link would be in clear text; set "
		"psk-file at both ends to files with the same key (psktool -u NAME -p FILE), or "
		"security: none at both ends if you trust the network",
		address->uri);
}

bool sluice_security_lanes_may_leave(const struct sluice_config *config)
{
	return config->lane_security == SLUICE_LANE_SECURITY_NONE;
}

/* Neither over a network that nobody trusts, nor where the peer is not. */
bool sluice_security_rail_fits(
	const struct sluice_engine *engine, uint32_t rail, const struct sluice_peer_address *peer)
{
	return engine->rails.list[rail].is_local ? sluice_peer_address_is_local(peer)
						 : sluice_security_lanes_may_leave(&engine->config);
}

/* The first rail that may be used, or could be if it were trusted: errors are about that one. */
static const struct sluice_engine_rail *first_rail(
	const struct sluice_engine *engine, bool is_local)
{
	for (uint32_t i = 0; i < engine->rails.count; i++)
		if (engine->rails.list[i].rail != NULL &&
			engine->rails.list[i].is_local == is_local)
			return &engine->rails.list[i];
	return NULL;
}

static int check_lanes(const struct sluice_engine *engine,
	const struct sluice_peer_address *address, struct sluice_error *err)
{
	const struct sluice_engine_rail *leaving = first_rail(engine, false);

	for (uint32_t i = 0; i < engine->rails.count; i++)
		if (engine->rails.list[i].rail != NULL &&
			sluice_security_rail_fits(engine, i, address))
			return 0;
	if (leaving != NULL)
		return sluice_fail(err, -EPERM, WHERE,
			"lanes of rail %.100s would carry guest memory in clear text over a "
			"network; set lane-security: none at both ends if you trust it, or keep "
			"rail on 127.0.0.1",
			leaving->name);
	return sluice_fail(err, -EINVAL, WHERE,
		"the peer of \"%.120s\" is on another host, and lanes of rail %.100s stay on this "
		"one; start the engine with rail=ADDRESS:0, an address of this host that the peer "
		"reaches, and lane-security=none",
		address->uri, first_rail(engine, true)->name);
}

int sluice_security_check(const struct sluice_engine *engine,
	const struct sluice_peer_address *address, enum sluice_address_use use,
	struct sluice_error *err)
{
	int r = check_link(&engine->config, address, use, err);

	return r < 0 ? r : check_lanes(engine, address, err);
}

int sluice_security_address(const struct sluice_engine *engine, const char *uri,
	enum sluice_address_use use, struct sluice_peer_address *ret_address,
	struct sluice_error *err)
{
	int r = sluice_peer_address_parse(uri, use, ret_address, err);

	return r < 0 ? r : sluice_security_check(engine, ret_address, use, err);
}

void sluice_security_link_opts(
	const struct sluice_config *config, uint64_t deadline_ns, struct sluice_link_opts *ret_opts)
{
	*ret_opts = (struct sluice_link_opts){
		.psk_file = wants_psk(config) ? config->psk_file : NULL,
		.psk_identity = config->psk_identity,
		.deadline_ns = deadline_ns,
	};
}

/* ---- what is told ---- */

const char *sluice_security_preflight(
	const struct sluice_engine *engine, char *text, size_t text_bytes)
{
	const struct sluice_config *config = &engine->config;
	bool leave = first_rail(engine, false) != NULL;
	static const struct sluice_peer_address this_host; /* no address: none is elsewhere */
	struct sluice_error err = {0};
	const char *link = wants_psk(config) ? "encrypted (TLS 1.3, pre-shared key)"
			   : config->security == SLUICE_SECURITY_NONE
				   ? "in clear text, also over a network"
				   : "in clear text and within this host only";

	if (check_link(config, &this_host, SLUICE_ADDRESS_CONNECT, &err) < 0 ||
		(leave && check_lanes(engine, &this_host, &err) < 0)) {
		snprintf(text, text_bytes, "%s", err.text);
		return "failed";
	}
	snprintf(text, text_bytes, "the peer link is %s; lanes are in clear text and %s", link,
		leave ? "use a network" : "stay on this host");
	return leave || config->security == SLUICE_SECURITY_NONE ? "warning" : "ok";
}

void sluice_security_refused(struct sluice_engine *engine, const char *why)
{
	uint64_t now_ns = sluice_now_ns();

	engine->peers_refused++;
	snprintf(engine->last_refused, sizeof(engine->last_refused), "%s", why);
	sluice_text_make_utf8(engine->last_refused);
	if (engine->refused_told_ns != 0 && now_ns - engine->refused_told_ns < SLUICE_NS_PER_S)
		return;
	engine->refused_told_ns = now_ns;
	sluice_server_event(engine->server, "PEER_REFUSED",
		json_pack("{s:s, s:I}", "error", engine->last_refused, "count",
			(json_int_t)engine->peers_refused));
}

json_t *sluice_security_query(const struct sluice_engine *engine)
{
	const char *identity = engine->link != NULL ? sluice_link_identity(engine->link) : NULL;
	struct sluice_rail_stats stats;
	json_t *reply;

	sluice_rails_stats(engine, &stats);
	reply = json_pack("{s:s, s:s, s:I, s:I}", "peer-link",
		wants_psk(&engine->config) ? "psk" : "none", "lanes",
		first_rail(engine, false) != NULL ? "clear-text" : "local", "peers-refused",
		(json_int_t)engine->peers_refused, "lanes-refused",
		(json_int_t)(stats.refused_hello + stats.refused_ticket + stats.refused_deadline));

	if (identity != NULL)
		json_object_set_new(reply, "psk-identity", json_string(identity));
	if (engine->last_refused[0] != '\0')
		json_object_set_new(reply, "last-refused", json_string(engine->last_refused));
	return reply;
}
