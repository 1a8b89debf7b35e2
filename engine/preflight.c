/* SPDX-License-Identifier: BSD-3-Clause */
/* preflight.c: see preflight.h. To add a check, write a function and put it in the table. */
#include "engine/preflight.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "base/bits.h"
#include "base/clock.h"
#include "engine/engine.h"
#include "engine/lane/rail_pair.h"
#include "engine/placing.h"
#include "engine/rails.h"
#include "engine/security.h"

#define MIB                   (1ull << 20)
#define PORTS_MAX             32u
#define SAMPLE_BYTES          (16 * MIB) /* registered to measure, where nothing was yet */
#define PIN_SAMPLE_BYTES      (64 * MIB) /* less pinned so far says nothing about speed */
#define SLOW_LINK_BYTES_PER_S 1000000000ull /* below 8 Gbit/s a busy guest is hard to catch */

struct preflight {
	struct sluice_engine *engine;
	const char *uri; /* or NULL */
	json_t *checks;
	bool failed, has_downtime;
	uint64_t downtime_us;
};

enum verdict { OK, WARNING, FAILED, UNKNOWN };

__attribute__((format(printf, 4, 5))) static void add(
	struct preflight *p, const char *name, enum verdict verdict, const char *fmt, ...)
{
	static const char *const words[] = {"ok", "warning", "failed", "unknown"};
	char text[SLUICE_ERROR_TEXT_MAX];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	json_array_append_new(p->checks,
		json_pack("{s:s, s:s, s:s}", "name", name, "result", words[verdict], "text", text));
	p->failed |= verdict == FAILED;
}

/* A figure of the check that was added last, for programs; its name ends in its unit. */
static void number(struct preflight *p, const char *name, uint64_t value)
{
	json_t *check = json_array_get(p->checks, json_array_size(p->checks) - 1);
	json_t *numbers = json_object_get(check, "numbers");

	if (numbers == NULL) {
		numbers = json_object();
		json_object_set_new(check, "numbers", numbers);
	}
	json_object_set_new(numbers, name, json_integer((json_int_t)value));
}

static void check_memory(struct preflight *p)
{
	const struct sluice_memory *memory = &p->engine->memory;

	if (memory->count == 0)
		add(p, "memory", FAILED,
			"no guest memory was added; the VMM does that (memory-add)");
	else
		add(p, "memory", OK, "%u regions, %llu MiB", memory->count,
			(unsigned long long)(sluice_memory_bytes(memory) / MIB));
	number(p, "regions", memory->count);
	number(p, "bytes", sluice_memory_bytes(memory));
}

static void check_feeds(struct preflight *p)
{
	for (uint32_t i = 0; i < p->engine->memory.count; i++)
		if (p->engine->memory.regions[i]->feed == NULL)
			add(p, "feed", FAILED,
				"region \"%s\" has no feed: nobody would tell which pages the "
				"guest writes; the VMM adds one (feed-add). A target needs none",
				p->engine->memory.regions[i]->id);
}

static void check_seals(struct preflight *p)
{
	for (uint32_t i = 0; i < p->engine->memory.count; i++)
		if (p->engine->memory.regions[i]->guarded)
			add(p, "seals", WARNING,
				"region \"%s\" is a file that could shrink, which would end the "
				"migration; a memfd with F_SEAL_SHRINK could not",
				p->engine->memory.regions[i]->id);
}

/* What punches holes while a rail has the pages registered must say so: memory-discard. */
static void check_discards(struct preflight *p)
{
	const struct sluice_memory *memory = &p->engine->memory;

	for (uint32_t i = 0; i < memory->count && memory->rails > 0; i++) {
		int seals = fcntl(memory->regions[i]->fd, F_GET_SEALS);

		if (seals < 0 || !(seals & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE)))
			add(p, "discards", WARNING,
				"region \"%s\" is registered with a NIC, and no seal stops holes "
				"from being punched: the VMM must inhibit the balloon and "
				"free-page reporting, or tell each discard (memory-discard)",
				memory->regions[i]->id);
	}
}

static void check_pages(struct preflight *p)
{
	const struct sluice_memory *memory = &p->engine->memory;

	for (uint32_t i = 0; i < memory->count; i++)
		if (memory->regions[i]->backing_page_bytes > SLUICE_PAGE_BYTES)
			add(p, "pages", OK,
				"region \"%s\" is backed by pages of %llu KiB; dirtiness is "
				"tracked by 4 KiB all the same",
				memory->regions[i]->id,
				(unsigned long long)memory->regions[i]->backing_page_bytes / 1024);
}

static void check_memlock(struct preflight *p)
{
	const struct sluice_memory *memory = &p->engine->memory;
	unsigned long long need = sluice_memory_lock_bytes(memory, sluice_memory_bytes(memory));
	struct rlimit limit = {0};

	if (memory->pin == SLUICE_PIN_NONE)
		add(p, "memlock", WARNING,
			"pin=none: the kernel may swap guest memory out, and lanes wait for it");
	getrlimit(RLIMIT_MEMLOCK, &limit);
	if (sluice_memory_may_lock_all() || limit.rlim_cur == RLIM_INFINITY ||
		need <= limit.rlim_cur)
		add(p, "memlock", OK,
			"%llu bytes are locked, or registered with %u rails and their lanes, and "
			"may be",
			need, memory->rails);
	else
		add(p, "memlock", FAILED,
			"%llu bytes are needed and %llu allowed; raise it (ulimit -l %llu, "
			"LimitMEMLOCK=%llu)",
			need, (unsigned long long)limit.rlim_cur, (need + 1023) / 1024, need);
	number(p, "needed-bytes", need);
	if (limit.rlim_cur != RLIM_INFINITY)
		number(p, "limit-bytes", limit.rlim_cur);
}

static void check_pin_time(struct preflight *p)
{
	const struct sluice_memory *memory = &p->engine->memory;
	uint64_t pinned = memory->pages_pinned << SLUICE_PAGE_SHIFT;
	uint64_t ms = memory->pin_ns / SLUICE_NS_PER_MS;

	if (memory->pin == SLUICE_PIN_NONE || memory->count == 0)
		return;
	if (memory->pin == SLUICE_PIN_ONFAULT)
		add(p, "pin", OK,
			"pages are locked as they are touched, holes stay holes; that took %llu ms",
			(unsigned long long)ms);
	else
		add(p, "pin", OK,
			"%llu MiB were allocated and locked in %llu ms; migrations pin nothing",
			(unsigned long long)(pinned / MIB), (unsigned long long)ms);
	number(p, "pin-ms", ms);
	number(p, "pinned-bytes", pinned);
	if (memory->pin == SLUICE_PIN_FULL && pinned >= PIN_SAMPLE_BYTES)
		number(p, "ms-per-gib",
			(uint64_t)((double)ms * (double)(1ull << 30) / (double)pinned));
}

static void check_runtime_dir(struct preflight *p)
{
	const char *folder = p->engine->config.runtime_dir;
	struct sluice_error err = {0};

	if (sluice_record_prepare(folder, &err) < 0)
		add(p, "runtime-dir", FAILED, "%s", err.text);
	else
		add(p, "runtime-dir", OK, "commits are recorded in %s", folder);
}

/* ---- rails ---- */

/* A region is registered in pieces of at most mr_bytes_max. */
static bool fits_registrations(
	const struct preflight *p, const struct sluice_rail_info *info, uint64_t *ret_needed)
{
	const struct sluice_memory *memory = &p->engine->memory;

	*ret_needed = 0;
	for (uint32_t i = 0; i < memory->count; i++)
		*ret_needed +=
			info->mr_bytes_max == 0
				? 1
				: sluice_div_up(memory->regions[i]->len_bytes, info->mr_bytes_max);
	return info->mr_max == 0 || *ret_needed <= info->mr_max;
}

static bool is_used(const struct preflight *p, const struct sluice_transport *transport,
	const struct sluice_rail_info *info)
{
	const struct sluice_rails *rails = &p->engine->rails;

	for (uint32_t i = 0; i < rails->count; i++)
		if (rails->list[i].transport == transport && rails->list[i].rail != NULL &&
			sluice_rail_has_host(&rails->list[i], info->address))
			return true;
	return false;
}

static void add_port(struct preflight *p, const struct sluice_transport *transport,
	const struct sluice_rail_info *info)
{
	bool used = is_used(p, transport, info);
	char name[64];
	uint64_t needed;

	snprintf(name, sizeof(name), "%.32s-port", transport->name);
	if (!info->usable)
		add(p, name, WARNING, "%s cannot be a rail: %s", info->device, info->note);
	else if (used && !fits_registrations(p, info, &needed))
		add(p, name, FAILED,
			"%s makes at most %u registrations of %llu MiB, and this guest needs %llu; "
			"back it with fewer, larger regions, or use another port",
			info->device, info->mr_max, (unsigned long long)(info->mr_bytes_max / MIB),
			(unsigned long long)needed);
	else
		add(p, name, OK, "%s at %s is %s: %s; MTU %u, %.1f Gbit/s, NUMA node %d",
			info->device, info->address, used ? "a rail" : "not used", info->note,
			info->mtu_bytes, (double)info->link_bytes_per_s * 8e-9, info->numa_node);
	number(p, "mtu-bytes", info->mtu_bytes);
	number(p, "bytes-per-second", info->link_bytes_per_s);
	number(p, "registrations-max", info->mr_max);
	number(p, "registration-bytes-max",
		info->mr_bytes_max < INT64_MAX ? info->mr_bytes_max : INT64_MAX);
}

/* What this host has for the transports that are set; @uri does not matter for that. */
static void check_ports(struct preflight *p)
{
	const struct sluice_rails *rails = &p->engine->rails;
	struct sluice_rail_info *found = calloc(PORTS_MAX, sizeof(*found));
	const struct sluice_transport *last = NULL;

	for (uint32_t i = 0; i < rails->count && found != NULL; i++) {
		const struct sluice_transport *t = rails->list[i].transport;
		int count;

		if (t == last || t->probe == NULL || rails->list[i].rail == NULL)
			continue;
		last = t;
		count = t->probe(rails->list[i].conf, found, PORTS_MAX, NULL);
		for (int k = 0; k < count && k < (int)PORTS_MAX; k++)
			add_port(p, t, &found[k]);
	}
	free(found);
}

/* Which transport a migration may use, and what stands against the others. */
static void check_transport(struct preflight *p)
{
	const struct sluice_rails *rails = &p->engine->rails;
	const struct sluice_transport *last = NULL;
	char text[SLUICE_ERROR_TEXT_MAX] = "";

	for (uint32_t i = 0; i < rails->count; i++) {
		const struct sluice_transport *t = rails->list[i].transport;

		if (rails->list[i].rail == NULL || t == last)
			continue;
		snprintf(text + strlen(text), sizeof(text) - strlen(text), "%s%s",
			last != NULL ? ", else " : "", t->name);
		last = t;
	}
	add(p, "transport", OK, "%s%s", text,
		rails->is_auto ? ", where the peer has it" : ", as set at both ends");
	for (uint32_t i = 0; i < rails->lack_count; i++)
		add(p, "transport", OK, "no %s: %s", rails->lacks[i].transport,
			rails->lacks[i].reason);
	for (uint32_t i = 0; i < rails->count; i++) {
		const struct sluice_engine_rail *rail = &rails->list[i];

		if (rail->rail != NULL && sluice_rail_is_gone(rail->transport, rail->rail)) {
			const char *why = rail->transport->rail_stats(rail->rail)->gone_why;

			add(p, "rail", WARNING,
				"rail %s has lost its device: it was removed, and %s%s", rail->name,
				why[0] == '\0' ? "is used again when it is back"
					       : "when it was tried last: ",
				why);
		} else if (rail->listen_error[0] != '\0')
			add(p, "rail", WARNING, "rail %s cannot wait for lanes: %s", rail->name,
				rail->listen_error);
	}
}

/* Where memory is registered already its own time counts; else a sample is registered now. */
static void check_registration(struct preflight *p)
{
	const struct sluice_memory *memory = &p->engine->memory;
	uint64_t ns = 0, bytes = sluice_memory_bytes(memory);
	bool measured = bytes >= PIN_SAMPLE_BYTES;
	uint64_t ms_per_gib;
	int r = 0;

	if (memory->rails == 0)
		return;
	for (uint32_t i = 0; i < memory->count; i++)
		ns += memory->regions[i]->register_ns;
	if (!measured) {
		bytes = SAMPLE_BYTES;
		r = sluice_rails_sample(p->engine, bytes, &ns);
	}
	if (r < 0) {
		add(p, "registration", FAILED, "a sample of %llu MiB was refused: %s",
			SAMPLE_BYTES / MIB, strerror(-r));
		return;
	}
	ms_per_gib = (uint64_t)((double)ns / 1e6 * (double)(1ull << 30) / (double)bytes);
	if (measured)
		add(p, "registration", OK,
			"%llu MiB were registered with %u rails in %llu ms when they were added; "
			"migrations register no guest memory",
			(unsigned long long)(bytes / MIB), memory->rails,
			(unsigned long long)(ns / SLUICE_NS_PER_MS));
	else
		add(p, "registration", OK,
			"about %llu ms per GiB of 4 KiB pages with %u rails, by a sample of %llu "
			"MiB; less with huge pages. It comes when memory is added, not in a "
			"migration",
			(unsigned long long)ms_per_gib, memory->rails, SAMPLE_BYTES / MIB);
	number(p, "measured-bytes", bytes);
	number(p, "ms-per-gib", ms_per_gib);
}

/* The least that a migration takes, and what of the guest may be left when it is stopped. */
static void check_link(struct preflight *p)
{
	uint64_t bytes = sluice_memory_bytes(&p->engine->memory), left, speed;
	char names[200];

	speed = sluice_placing_link_bytes_per_s(p->engine, names, sizeof(names));
	if (speed == 0)
		return; /* nobody knows: loopback, virtual links */
	left = (uint64_t)((double)speed * (double)p->engine->config.downtime_limit_ns /
			  SLUICE_NS_PER_S);
	add(p, "link", speed < SLOW_LINK_BYTES_PER_S ? WARNING : OK,
		"%s: %.1f Gbit/s; all of the guest takes at least %.1f s, and within "
		"downtime-limit at most %llu MiB",
		names, (double)speed * 8e-9, (double)bytes / (double)speed,
		(unsigned long long)(left / MIB));
	number(p, "bytes-per-second", speed);
	number(p, "downtime-bytes", left);
}

/* Nothing can be foretold of a guest that nobody has watched; of one that was, the last figures. */
static void check_downtime(struct preflight *p)
{
	const struct sluice_engine *engine = p->engine;
	uint64_t limit_us = engine->config.downtime_limit_ns / SLUICE_NS_PER_US, predicted;
	json_t *last = engine->source != NULL ? sluice_source_query(engine->source) : NULL;
	const json_t *us = json_object_get(last, "expected-downtime-us");

	predicted = (uint64_t)json_integer_value(us);
	if (us != NULL) {
		add(p, "downtime", predicted <= limit_us ? OK : WARNING,
			"%llu us were predicted in the last migration; downtime-limit allows %llu",
			(unsigned long long)predicted, (unsigned long long)limit_us);
		number(p, "predicted-us", predicted);
		p->downtime_us = predicted;
		p->has_downtime = true;
	} else {
		add(p, "downtime", UNKNOWN,
			"how fast the guest writes is measured once a migration runs; it goes on "
			"until at most %llu us are predicted, and slows the guest down when that "
			"does not come",
			(unsigned long long)limit_us);
	}
	number(p, "limit-us", limit_us);
	json_decref(last);
}

static void check_security(struct preflight *p)
{
	char text[400];
	const char *result = sluice_security_preflight(p->engine, text, sizeof(text));

	add(p, "security",
		strcmp(result, "ok") == 0        ? OK
		: strcmp(result, "warning") == 0 ? WARNING
						 : FAILED,
		"%s", text);
}

static void check_peer(struct preflight *p)
{
	struct sluice_peer_address address;
	struct sluice_error err = {0};
	int r;

	if (p->uri == NULL)
		return;
	r = sluice_security_address(p->engine, p->uri, SLUICE_ADDRESS_CONNECT, &address, &err);
	if (r < 0)
		add(p, "peer", FAILED, "%s", err.text);
	else
		add(p, "peer", OK, "%s may be the peer; it was not called", p->uri);
}

json_t *sluice_preflight(struct sluice_engine *engine, const char *uri)
{
	static void (*const checks[])(struct preflight * p) = {check_memory, check_feeds,
		check_seals, check_discards, check_pages, check_memlock, check_pin_time,
		check_transport, check_ports, check_registration, check_runtime_dir, check_link,
		check_downtime, check_security, check_peer};
	struct preflight p = {.engine = engine, .uri = uri, .checks = json_array()};
	json_t *reply;

	for (size_t i = 0; i < SLUICE_ARRAY_LEN(checks); i++)
		checks[i](&p);
	reply = json_pack("{s:b, s:o}", "ok", !p.failed, "checks", p.checks);
	if (p.has_downtime)
		json_object_set_new(reply, "expected-downtime",
			json_integer((json_int_t)sluice_div_up(p.downtime_us, 1000)));
	return reply;
}
