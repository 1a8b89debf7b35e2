/* SPDX-License-Identifier: BSD-3-Clause */
/* rails.c: rails as they are opened, hold memory and listen. See rails.h. */
#include "engine/rails.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include "base/assert.h"
#include "base/bits.h"
#include "base/clock.h"
#include "base/inet.h"
#include "base/text.h"
#include "engine/engine.h"
#include "engine/security.h"

#define STEP_NS        (100 * SLUICE_NS_PER_MS)
#define PROBE_MAX      32u
#define AUTO_RAILS_MAX 4u /* chosen unasked: memory is locked once more with each */

/* What `auto` tries, in this order. */
static const char *const preference[] = {"rdma", "tcp"};

/* ---- the setting ---- */

static int bad_item(const char *item, struct sluice_error *err)
{
	return sluice_fail_scope(err, SLUICE_SCOPE_ENGINE, -EINVAL, "rail",
		"\"%.150s\" is not a rail; write [TRANSPORT=]ADDRESS[@node=N][@gbit=N], several of "
		"them with commas, at most %d",
		item, SLUICE_RAILS_MAX);
}

static bool parse_number(const char *text, double max, double *ret_value)
{
	char *end;

	*ret_value = strtod(text, &end);
	return *text != '\0' && *end == '\0' && *ret_value >= 0 && *ret_value <= max;
}

static int parse_item(char *text, struct sluice_rail_item *item, struct sluice_error *err)
{
	char whole[SLUICE_RAIL_ITEM_BYTES], *option = text, *equals;
	double value;

	snprintf(whole, sizeof(whole), "%s", text);
	*item = (struct sluice_rail_item){.numa_node = -1};
	text = strsep(&option, "@");
	equals = strchr(text, '=');
	if (equals != NULL) {
		*equals = '\0';
		snprintf(item->transport, sizeof(item->transport), "%s", text);
		text = equals + 1;
	}
	if (*text == '\0' || strlen(text) >= sizeof(item->address))
		return bad_item(whole, err);
	snprintf(item->address, sizeof(item->address), "%s", text);
	while (option != NULL) {
		char *one = strsep(&option, "@");

		if (strncmp(one, "node=", 5) == 0 && parse_number(one + 5, 63, &value))
			item->numa_node = (int)value;
		else if (strncmp(one, "gbit=", 5) == 0 && parse_number(one + 5, 100000, &value))
			item->link_bytes_per_s = (uint64_t)(value * 1e9 / 8);
		else
			return bad_item(whole, err);
	}
	return 0;
}

int sluice_rail_items_parse(
	const char *text, struct sluice_rail_item items[SLUICE_RAILS_MAX], struct sluice_error *err)
{
	char copy[sizeof(((struct sluice_config *)NULL)->rail)], *rest = copy;
	int count = 0;

	if (strcmp(text, "auto") == 0)
		return 0;
	snprintf(copy, sizeof(copy), "%s", text);
	while (rest != NULL) {
		char *one = strsep(&rest, ",");
		int r;

		if (count == SLUICE_RAILS_MAX || strlen(one) >= SLUICE_RAIL_ITEM_BYTES)
			return bad_item(one, err);
		r = parse_item(one, &items[count++], err);
		if (r < 0)
			return r;
	}
	return count;
}

/* ---- opening ---- */

struct opening {
	struct sluice_engine *engine;
	const struct sluice_settings *settings;
	struct sluice_rail_item items[SLUICE_RAILS_MAX];
	int item_count;
	bool is_auto;
};

static const struct sluice_transport *transport_named(const char *name, size_t *ret_index)
{
	for (size_t i = 0; sluice_transports[i] != NULL; i++) {
		*ret_index = i;
		if (strcmp(sluice_transports[i]->name, name) == 0)
			return sluice_transports[i];
	}
	return NULL;
}

bool sluice_rail_has_host(const struct sluice_engine_rail *rail, const char *address)
{
	char own[128], other[128];

	sluice_inet_host(rail->name, own, sizeof(own));
	sluice_inet_host(address, other, sizeof(other));
	return strcmp(own, other) == 0;
}

static void add_lack(struct sluice_rails *rails, const char *transport, const char *reason)
{
	struct sluice_session_lack *lack;

	if (rails->lack_count == SLUICE_LACKS_MAX)
		return;
	lack = &rails->lacks[rails->lack_count++];
	lack->transport = transport;
	snprintf(lack->reason, sizeof(lack->reason), "%.255s", reason);
	sluice_text_make_utf8(lack->reason);
}

static int open_one(struct opening *o, const struct sluice_transport *t, const void *conf,
	const struct sluice_rail_item *item, const char *device, struct sluice_error *err)
{
	struct sluice_rails *rails = &o->engine->rails;
	struct sluice_engine_rail *rail = &rails->list[rails->count];
	int r;

	if (rails->count == SLUICE_RAILS_MAX)
		return sluice_fail_scope(err, SLUICE_SCOPE_ENGINE, -ENOSPC, "rail",
			"an engine has at most %d rails", SLUICE_RAILS_MAX);
	*rail = (struct sluice_engine_rail){.transport = t, .conf = conf};
	r = t->rail_open(conf, item->address, &rail->rail, err);
	if (r < 0)
		return r;
	snprintf(rail->name, sizeof(rail->name), "%s", item->address);
	snprintf(rail->device, sizeof(rail->device), "%s", device);
	rail->is_local = t->address_is_local(item->address);
	t->rail_limits(rail->rail, &rail->limits);
	if (item->numa_node >= 0)
		rail->limits.numa_node = item->numa_node;
	if (item->link_bytes_per_s != 0)
		rail->limits.link_bytes_per_s = item->link_bytes_per_s;
	SLUICE_ASSERT(
		!(rail->limits.caps & SLUICE_CAP_REGISTERS_MEMORY) || t->mem_discarded != NULL);
	rails->count++;
	return 0;
}

/* An entry without a transport is for the one that is set, and with auto for tcp. */
static bool belongs(const struct opening *o, const struct sluice_rail_item *item,
	const struct sluice_transport *t)
{
	if (item->transport[0] != '\0')
		return strcmp(item->transport, t->name) == 0;
	return !o->is_auto || t->probe == NULL;
}

/* As the operator wrote them. -ENOENT: nothing was written for this transport. */
static int open_items(struct opening *o, const struct sluice_transport *t, const void *conf,
	struct sluice_error *err)
{
	int r = -ENOENT;

	for (int i = 0; i < o->item_count; i++) {
		if (!belongs(o, &o->items[i], t))
			continue;
		r = open_one(o, t, conf, &o->items[i], "", err);
		if (r < 0)
			return r;
	}
	return r;
}

/* With auto, the entry that names this rail by its address; NULL: none does. */
static const struct sluice_rail_item *item_for(
	const struct opening *o, const struct sluice_rail_info *info)
{
	char wanted[128], its[128];

	sluice_inet_host(info->address, its, sizeof(its));
	for (int i = 0; i < o->item_count; i++) {
		sluice_inet_host(o->items[i].address, wanted, sizeof(wanted));
		if (o->items[i].transport[0] == '\0' && strcmp(wanted, its) == 0)
			return &o->items[i];
	}
	return NULL;
}

static int by_speed(const void *a, const void *b)
{
	const struct sluice_rail_info *x = a, *y = b;

	if (x->usable != y->usable)
		return x->usable ? -1 : 1;
	if (x->link_bytes_per_s != y->link_bytes_per_s)
		return x->link_bytes_per_s > y->link_bytes_per_s ? -1 : 1;
	return strcmp(x->device, y->device);
}

/* What the entries name; without entries those that are nearly as fast as the fastest. */
static int open_one_found(struct opening *o, const struct sluice_transport *t, const void *conf,
	const struct sluice_rail_info *info, uint64_t fastest_bytes_per_s, struct sluice_error *err)
{
	const struct sluice_rail_item *wanted = item_for(o, info);
	struct sluice_rail_item item = {.numa_node = -1};

	if (!info->usable || (o->item_count > 0 && wanted == NULL))
		return 0;
	if (wanted == NULL && (o->engine->rails.count >= AUTO_RAILS_MAX ||
				      info->link_bytes_per_s < fastest_bytes_per_s / 2))
		return 0;
	if (wanted != NULL)
		item = *wanted;
	snprintf(item.address, sizeof(item.address), "%s", info->address);
	return open_one(o, t, conf, &item, info->device, err);
}

static int open_found(struct opening *o, const struct sluice_transport *t, const void *conf,
	struct sluice_error *err)
{
	struct sluice_rail_info *found = calloc(PROBE_MAX, sizeof(*found));
	uint32_t before = o->engine->rails.count;
	int r, count;

	if (found == NULL)
		return sluice_fail(err, -ENOMEM, "rail", "out of memory");
	count = r = t->probe(conf, found, PROBE_MAX, err);
	if (count > (int)PROBE_MAX)
		count = (int)PROBE_MAX;
	if (count > 0)
		qsort(found, (size_t)count, sizeof(*found), by_speed);
	if (count == 0 || (count > 0 && !found[0].usable))
		r = sluice_fail_scope(err, SLUICE_SCOPE_ENGINE, -ENODEV, "rail", "%s",
			count == 0 ? "this host has no device for it" : found[0].note);
	if (r >= 0 && o->is_auto && !sluice_security_lanes_may_leave(&o->engine->config))
		r = sluice_fail(err, -EPERM, "rail",
			"%s is there, and guest memory would leave this host by it in clear text; "
			"lane-security: none allows that",
			found[0].device);
	for (int i = 0; i < count && r >= 0; i++)
		r = open_one_found(o, t, conf, &found[i], found[0].link_bytes_per_s, err);
	if (r >= 0 && o->engine->rails.count == before)
		r = sluice_fail_scope(err, SLUICE_SCOPE_ENGINE, -ENODEV, "rail",
			"no address in rail is one of %s's (%s has %.100s)", t->name,
			found[0].device, found[0].address);
	free(found);
	return r < 0 ? r : 0;
}

static int open_transport(struct opening *o, const char *name, struct sluice_error *err)
{
	struct sluice_rail_item item = {.numa_node = -1};
	const struct sluice_transport *t;
	const void *conf;
	size_t index;
	int r;

	t = transport_named(name, &index);
	if (t == NULL)
		return sluice_fail_scope(err, SLUICE_SCOPE_ENGINE, -EINVAL, "transport",
			"there is no transport \"%s\" in this build; sluiced --help lists them",
			name);
	SLUICE_ASSERT(t->abi == SLUICE_TRANSPORT_ABI && t->size == sizeof(*t));
	conf = sluice_settings_transport(o->settings, index);
	r = open_items(o, t, conf, err);
	if (r != -ENOENT)
		return r;
	if (t->probe != NULL)
		return open_found(o, t, conf, err);
	/* Which address of this host peers reach, only the operator knows. */
	snprintf(item.address, sizeof(item.address), "127.0.0.1:0");
	return open_one(o, t, conf, &item, "", err);
}

static int open_auto(struct opening *o, struct sluice_error *err)
{
	struct sluice_rails *rails = &o->engine->rails;

	for (size_t i = 0; i < SLUICE_ARRAY_LEN(preference); i++) {
		struct sluice_error why = {0};
		uint32_t before = rails->count;
		bool is_last = i + 1 == SLUICE_ARRAY_LEN(preference);
		int r = open_transport(o, preference[i], &why);

		if (r < 0 && is_last && before == 0) {
			if (err != NULL)
				*err = why;
			return r;
		}
		if (r < 0 && rails->count == before)
			add_lack(rails, preference[i], why.text);
	}
	return 0;
}

static int check_items(const struct opening *o, const char *transport, struct sluice_error *err)
{
	for (int i = 0; i < o->item_count; i++) {
		const char *its = o->items[i].transport;
		size_t index;

		if (its[0] == '\0' || (o->is_auto && transport_named(its, &index) != NULL) ||
			strcmp(its, transport) == 0)
			continue;
		return sluice_fail_scope(err, SLUICE_SCOPE_ENGINE, -EINVAL, "rail",
			"\"%s\" in rail is not a transport that is used here; transport is \"%s\"",
			its, transport);
	}
	return 0;
}

int sluice_rails_open(struct sluice_engine *engine, const struct sluice_settings *settings,
	struct sluice_error *err)
{
	const char *transport = engine->config.transport;
	struct opening o = {.engine = engine, .settings = settings};
	int r;

	o.is_auto = engine->rails.is_auto = strcmp(transport, "auto") == 0;
	o.item_count = r = sluice_rail_items_parse(engine->config.rail, o.items, err);
	if (r >= 0)
		r = check_items(&o, transport, err);
	if (r >= 0)
		r = o.is_auto ? open_auto(&o, err) : open_transport(&o, transport, err);
	return r;
}

static void close_one(struct sluice_engine_rail *rail)
{
	sluice_watch_remove(rail->watch);
	rail->watch = NULL;
	if (rail->rail != NULL)
		rail->transport->rail_close(rail->rail);
	rail->rail = NULL;
	rail->address[0] = '\0';
}

void sluice_rails_close(struct sluice_engine *engine)
{
	for (uint32_t i = 0; i < engine->rails.count; i++)
		close_one(&engine->rails.list[i]);
	engine->rails.count = 0;
	sluice_timer_remove(engine->rails.timer);
	engine->rails.timer = NULL;
}

/* ---- memory ---- */

static uint64_t lock_bytes(const void *ctx, uint64_t guest_bytes)
{
	const struct sluice_rails *rails = ctx;
	uint64_t bytes = 0;

	for (uint32_t i = 0; i < rails->count; i++) {
		const struct sluice_engine_rail *rail = &rails->list[i];

		if (sluice_rail_registers(rail) && rail->transport->lock_bytes != NULL)
			bytes += rail->transport->lock_bytes(rail->rail, guest_bytes);
	}
	return bytes;
}

void sluice_rails_count_memory(struct sluice_engine *engine)
{
	engine->memory.rails = 0;
	engine->memory.rails_lock_bytes = lock_bytes;
	engine->memory.rails_ctx = &engine->rails;
	for (uint32_t i = 0; i < engine->rails.count; i++)
		engine->memory.rails += sluice_rail_registers(&engine->rails.list[i]);
}

static void unregister(struct sluice_engine *engine, struct sluice_region *region, uint32_t rail)
{
	engine->rails.list[rail].transport->mem_unregister(region->mems[rail]);
	region->mems[rail] = NULL;
}

void sluice_rails_remove_memory(struct sluice_engine *engine, struct sluice_region *region)
{
	for (uint32_t i = 0; i < engine->rails.count; i++)
		unregister(engine, region, i);
}

/* The limit, where that is what stands in the way: for all of the guest and every rail. */
static int cannot_register(struct sluice_engine *engine, const struct sluice_region *region,
	const struct sluice_engine_rail *rail, const struct sluice_error *why,
	struct sluice_error *err)
{
	uint64_t needed =
		sluice_memory_lock_bytes(&engine->memory, sluice_memory_bytes(&engine->memory));
	struct rlimit limit = {0};

	getrlimit(RLIMIT_MEMLOCK, &limit);
	if (sluice_memory_may_lock_all() || limit.rlim_cur == RLIM_INFINITY ||
		limit.rlim_cur >= needed)
		return sluice_fail(err, why->code, "memory-add", "%s", why->text);
	return sluice_fail(err, why->code, "memory-add",
		"region \"%s\" cannot be registered with rail %.80s: the memlock limit is %llu "
		"bytes "
		"and %llu are needed (%llu MiB of memory, %u rails that register it, and their "
		"lanes); raise it (ulimit -l %llu, LimitMEMLOCK=%llu), or use fewer rails",
		region->id, rail->name, (unsigned long long)limit.rlim_cur,
		(unsigned long long)needed,
		(unsigned long long)(sluice_memory_bytes(&engine->memory) >> 20),
		engine->memory.rails, (unsigned long long)(needed + 1023) / 1024,
		(unsigned long long)needed);
}

static int register_with_all(struct sluice_engine *engine, struct sluice_region *region,
	uint32_t *ret_failed, struct sluice_error *err)
{
	struct sluice_span span = {
		.id = region->wire_id, .addr = region->base, .len_bytes = region->len_bytes};
	int r = 0;

	for (uint32_t i = 0; i < engine->rails.count && r == 0; i++) {
		struct sluice_engine_rail *rail = &engine->rails.list[i];
		struct sluice_error why = {0};

		*ret_failed = i;
		if (rail->rail == NULL)
			continue;
		r = rail->transport->mem_register(rail->rail, &span,
			SLUICE_ACCESS_LOCAL_READ | SLUICE_ACCESS_REMOTE_WRITE, &region->mems[i],
			&why);
		if (r < 0)
			r = cannot_register(engine, region, rail, &why, err);
	}
	if (r < 0)
		sluice_rails_remove_memory(engine, region);
	return r;
}

/* With auto a transport that cannot hold the guest's memory is one that is not there, as long as
   no session uses it and another one is left. */
static bool may_do_without(const struct sluice_engine *engine, uint32_t failed)
{
	const struct sluice_transport *t = engine->rails.list[failed].transport;

	for (uint32_t i = 0; i < engine->rails.count; i++)
		if (engine->rails.list[i].rail != NULL && engine->rails.list[i].transport != t)
			return engine->rails.is_auto && !sluice_engine_is_busy(engine);
	return false;
}

static void do_without(struct sluice_engine *engine, uint32_t failed, const char *why)
{
	const struct sluice_transport *t = engine->rails.list[failed].transport;

	sluice_engine_session_clear(engine); /* the last one may still point at its rails */
	for (uint32_t i = 0; i < engine->rails.count; i++) {
		struct sluice_engine_rail *rail = &engine->rails.list[i];

		if (rail->transport != t)
			continue;
		for (uint32_t k = 0; k < engine->memory.count; k++)
			unregister(engine, engine->memory.regions[k], i);
		close_one(rail);
	}
	add_lack(&engine->rails, t->name, why);
	sluice_rails_count_memory(engine);
}

int sluice_rails_add_memory(
	struct sluice_engine *engine, struct sluice_region *region, struct sluice_error *err)
{
	uint64_t start_ns = sluice_now_ns();
	struct sluice_error why = {0};
	uint32_t failed = 0;
	int r = register_with_all(engine, region, &failed, &why);

	if (r < 0 && may_do_without(engine, failed)) {
		do_without(engine, failed, why.text);
		why = (struct sluice_error){0};
		r = register_with_all(engine, region, &failed, &why);
	}
	region->register_ns = sluice_now_ns() - start_ns;
	return r < 0 ? sluice_fail(err, r, "memory-add", "%s", why.text) : 0;
}

int sluice_rails_discard(struct sluice_engine *engine, struct sluice_region *region,
	uint64_t offset, uint64_t len_bytes, struct sluice_error *err)
{
	int r = 0;

	for (uint32_t i = 0; i < engine->rails.count && r == 0; i++) {
		const struct sluice_transport *t = engine->rails.list[i].transport;

		if (region->mems[i] != NULL && t->mem_discarded != NULL)
			r = t->mem_discarded(region->mems[i], offset, len_bytes, err);
	}
	return r;
}

int sluice_rails_sample(struct sluice_engine *engine, uint64_t bytes, uint64_t *ret_ns)
{
	struct sluice_span span = {.id = ++engine->memory.next_wire_id, .len_bytes = bytes};
	int r = 0;

	span.addr = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (span.addr == MAP_FAILED)
		return -errno;
	*ret_ns = 0;
	for (uint32_t i = 0; i < engine->rails.count && r == 0; i++) {
		struct sluice_engine_rail *rail = &engine->rails.list[i];
		uint64_t start_ns = sluice_now_ns();
		struct sluice_mem *mem;

		if (!sluice_rail_registers(rail))
			continue;
		r = rail->transport->mem_register(
			rail->rail, &span, SLUICE_ACCESS_LOCAL_READ, &mem, NULL);
		*ret_ns += sluice_now_ns() - start_ns;
		if (r == 0)
			rail->transport->mem_unregister(mem);
	}
	munmap(span.addr, bytes);
	return r;
}

int sluice_rails_add_staging(
	struct sluice_engine *engine, void *addr, uint64_t len_bytes, struct sluice_error *err)
{
	struct sluice_span span = {
		.id = ++engine->memory.next_wire_id, .addr = addr, .len_bytes = len_bytes};
	int r = 0;

	for (uint32_t i = 0; i < engine->rails.count && r == 0; i++) {
		struct sluice_engine_rail *rail = &engine->rails.list[i];

		if (rail->rail != NULL)
			r = rail->transport->mem_register(
				rail->rail, &span, SLUICE_ACCESS_REMOTE_WRITE, &rail->staging, err);
	}
	return r;
}

void sluice_rails_remove_staging(struct sluice_engine *engine)
{
	for (uint32_t i = 0; i < engine->rails.count; i++) {
		struct sluice_engine_rail *rail = &engine->rails.list[i];

		rail->transport->mem_unregister(rail->staging);
		rail->staging = NULL;
	}
}

/* ---- listening ---- */

static void on_rail(void *ctx, uint32_t events)
{
	struct sluice_engine_rail *rail = ctx;

	(void)events;
	rail->transport->rail_step(rail->rail, sluice_now_ns());
}

static void on_timer(void *ctx, uint64_t now_ns)
{
	struct sluice_engine *engine = ctx;
	struct sluice_rails *rails = &engine->rails;

	for (uint32_t i = 0; i < rails->count; i++)
		if (rails->list[i].rail != NULL)
			rails->list[i].transport->rail_step(rails->list[i].rail, now_ns);
	/* Only while lanes may be coming or going: an idle engine has no timer. */
	sluice_timer_set(
		rails->timer, sluice_engine_is_busy(engine) ? now_ns + STEP_NS : SLUICE_NEVER);
}

/* At either end, and also while idle: a device that is removed asks its users to let go of it. */
int sluice_rails_watch(struct sluice_engine *engine)
{
	int r = sluice_timer_add(engine->loop, on_timer, engine, &engine->rails.timer);

	for (uint32_t i = 0; i < engine->rails.count && r == 0; i++) {
		struct sluice_engine_rail *rail = &engine->rails.list[i];
		int fd = rail->rail != NULL ? rail->transport->rail_fd(rail->rail) : -1;

		if (fd >= 0)
			r = sluice_watch_add(
				engine->loop, fd, EPOLLIN, on_rail, rail, &rail->watch);
	}
	return r;
}

void sluice_rails_wake(struct sluice_engine *engine)
{
	sluice_timer_set(engine->rails.timer, sluice_now_ns());
}

static int listen_one(struct sluice_engine_rail *rail, struct sluice_error *err)
{
	int r;

	if (rail->address[0] != '\0')
		return 0;
	r = rail->transport->rail_listen(rail->rail, rail->address, err);
	if (r < 0)
		rail->address[0] = '\0';
	return r;
}

/* One that cannot listen does not keep the others from it; it is told, and tried again next time. */
int sluice_rails_listen(struct sluice_engine *engine, const struct sluice_peer_address *peer,
	struct sluice_error *err)
{
	struct sluice_error first = {0};
	uint32_t listening = 0;

	for (uint32_t i = 0; i < engine->rails.count; i++) {
		struct sluice_engine_rail *rail = &engine->rails.list[i];
		struct sluice_error why = {0};

		rail->listen_error[0] = '\0';
		if (rail->rail == NULL || !sluice_security_rail_fits(engine, i, peer))
			continue;
		if (listen_one(rail, &why) == 0) {
			listening++;
			continue;
		}
		snprintf(rail->listen_error, sizeof(rail->listen_error), "%.255s", why.text);
		sluice_text_make_utf8(rail->listen_error);
		if (first.code == 0)
			first = why;
	}
	if (listening > 0)
		return 0;
	SLUICE_ASSERT(first.code != 0); /* sluice_security_check() leaves one that fits */
	if (err != NULL)
		*err = first;
	return first.code;
}
