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
	bool failed;
};

enum verdict { OK, WARNING, FAILED };

__attribute__((format(printf, 4, 5))) static void add(
	struct preflight *p, const char *name, enum verdict verdict, const char *fmt, ...)
{
	static const char *const words[] = {"ok", "warning", "failed"};
	char text[SLUICE_ERROR_TEXT_MAX];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	json_array_append_new(p->checks,
		json_pack("{s:s, s:s, s:s}", "name", name, "result", words[verdict], "text", text));
	p->failed |= verdict == FAILED;
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
}

static void check_feeds(struct preflight *p)
{
	for (uint32_t i = 0; i < p->engine->memory.count; i++)
		if (p->engine->memory.regions[i]->feed == NULL)
			add(p, "feed", FAILED,
				"region \"%s\" has no feed: nobody would tell which pages the "
				"guest "
				"writes; the VMM adds one (feed-add). A target needs none",
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
				"from "
				"being punched: the VMM must inhibit the balloon and free-page "
				"reporting, or tell each discard (memory-discard)",
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
				"tracked "
				"by 4 KiB all the same",
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
}

static void check_pin_time(struct preflight *p)
{
	const struct sluice_memory *memory = &p->engine->memory;
	uint64_t pinned = memory->pages_pinned << SLUICE_PAGE_SHIFT;

	if (memory->pin == SLUICE_PIN_FULL && pinned >= PIN_SAMPLE_BYTES && memory->pin_ns > 0)
		add(p, "pin", OK, "pinning took %llu ms, %llu ms per GiB; migrations pin nothing",
			(unsigned long long)(memory->pin_ns / SLUICE_NS_PER_MS),
			(unsigned long long)((double)memory->pin_ns / SLUICE_NS_PER_MS *
					     (1ull << 30) / (double)pinned));
	else if (memory->pin == SLUICE_PIN_ONFAULT)
		add(p, "pin", OK, "pages are locked as they are touched; holes stay holes");
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

static void check_link(struct preflight *p)
{
	struct sluice_topology *topology = NULL;
	const struct sluice_topology_nic *nic;

	if (sluice_topology_read(SLUICE_TOPOLOGY_LIVE, NULL, &topology, NULL) < 0)
		return;
	nic = sluice_topology_nic_of(topology, p->engine->config.rail);
	if (nic != NULL && nic->link_bytes_per_s > 0)
		add(p, "link", nic->link_bytes_per_s < SLOW_LINK_BYTES_PER_S ? WARNING : OK,
			"%s carries %.1f Gbit/s: one pass over the guest takes at least %.1f s",
			nic->name, (double)nic->link_bytes_per_s * 8e-9,
			(double)sluice_memory_bytes(&p->engine->memory) /
				(double)nic->link_bytes_per_s);
	sluice_topology_destroy(topology);
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
	r = sluice_peer_address_parse(p->uri, SLUICE_ADDRESS_CONNECT, &address, &err);
	if (r == 0)
		r = sluice_security_check(p->engine, &address, SLUICE_ADDRESS_CONNECT, &err);
	if (r < 0)
		add(p, "peer", FAILED, "%s", err.text);
	else
		add(p, "peer", OK, "%s may be the peer; it was not called", p->uri);
}

json_t *sluice_preflight(const struct sluice_engine *engine, const char *uri)
{
	static void (*const checks[])(struct preflight * p) = {check_memory, check_feeds,
		check_seals, check_discards, check_pages, check_memlock, check_pin_time,
		check_runtime_dir, check_link, check_security, check_peer};
	struct preflight p = {.engine = engine, .uri = uri, .checks = json_array()};

	for (size_t i = 0; i < SLUICE_ARRAY_LEN(checks); i++)
		checks[i](&p);
	return json_pack("{s:b, s:o}", "ok", !p.failed, "checks", p.checks);
}
