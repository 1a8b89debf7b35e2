/* SPDX-License-Identifier: BSD-3-Clause */
/* preflight.c: see preflight.h. To add a check, write a function and put it in the table. */
#include "engine/preflight.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/clock.h"
#include "engine/engine.h"
#include "engine/placement/topology.h"
#include "engine/security.h"

#define MIB                   (1ull << 20)
#define PIN_SAMPLE_BYTES      (64 * MIB) /* less pinned so far says nothing about speed */
#define SLOW_LINK_BYTES_PER_S 1000000000ull /* below 8 Gbit/s a busy guest is hard to catch */

struct preflight {
	const struct sluice_engine *engine;
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

static bool may_lock_without_limit(void)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = {0};

	return syscall(SYS_capget, &header, data) == 0 &&
	       (data[0].effective & (1u << CAP_IPC_LOCK)) != 0;
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
	if (may_lock_without_limit() || limit.rlim_cur == RLIM_INFINITY || need <= limit.rlim_cur)
		add(p, "memlock", OK, "%llu bytes are locked or registered, and may be", need);
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

/* What the way out carries; 0 when nobody knows (loopback, virtual links). */
static uint64_t link_speed(const struct preflight *p, char *name, size_t name_bytes)
{
	struct sluice_topology *topology = NULL;
	const struct sluice_topology_nic *nic;
	uint64_t speed = 0;

	if (sluice_topology_read(SLUICE_TOPOLOGY_LIVE, NULL, &topology, NULL) < 0)
		return 0;
	nic = sluice_topology_nic_of(topology, p->engine->config.rail);
	if (nic != NULL) {
		speed = nic->link_bytes_per_s;
		snprintf(name, name_bytes, "%s", nic->name);
	}
	sluice_topology_destroy(topology);
	return speed;
}

/* The least that a migration takes, and what of the guest may be left when it is stopped. */
static void check_link(struct preflight *p)
{
	uint64_t bytes = sluice_memory_bytes(&p->engine->memory), speed, left;
	char nic[64] = "";

	speed = link_speed(p, nic, sizeof(nic));
	if (speed == 0)
		return;
	left = (uint64_t)((double)speed * (double)p->engine->config.downtime_limit_ns /
			  SLUICE_NS_PER_S);
	add(p, "link", speed < SLOW_LINK_BYTES_PER_S ? WARNING : OK,
		"%s carries %.1f Gbit/s: all of the guest takes at least %.1f s, and within "
		"downtime-limit at most %llu MiB",
		nic, (double)speed * 8e-9, (double)bytes / (double)speed,
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

json_t *sluice_preflight(const struct sluice_engine *engine, const char *uri)
{
	static void (*const checks[])(struct preflight * p) = {check_memory, check_feeds,
		check_seals, check_discards, check_pages, check_memlock, check_pin_time,
		check_runtime_dir, check_link, check_downtime, check_security, check_peer};
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
