/* SPDX-License-Identifier: BSD-3-Clause */
/* target.c: the state machine of a target. Control thread. */
#include "engine/session/target.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/bits.h"
#include "base/clock.h"
#include "base/text.h"
#include "engine/device/inbox.h"
#include "engine/lane/lane_set.h"
#include "engine/session/session.h"

/*
 * The states of a target, in the order of a session that goes well.
 *
 * RECEIVE  welcome sent; lanes land pages; devices are opened and loaded
 * LOAD     the source has finished: waits until each device is accepted by its VMM
 * PREPARED every lane is closed; waits for the decision. Without the peer link: in doubt
 *
 * Up to LOAD any failure burns the session. In PREPARED only the source's word, its successor's
 * question, or the operator ends it.
 */
enum target_state {
	TARGET_RECEIVE,
	TARGET_LOAD,
	TARGET_PREPARED,
	TARGET_COMPLETED,
	TARGET_FAILED,
};

#define IN(state) (1u << TARGET_##state)

#define PINGS_PER_TIMEOUT 4
#define DEVICE_NAME_BYTES 64

struct target_device {
	char name[DEVICE_NAME_BYTES];
	bool opened; /* the VMM gave a descriptor */
	bool written; /* the loader wrote all of it */
	bool loaded; /* the VMM accepted it */
};

struct sluice_target {
	struct sluice_session_conf conf;
	struct sluice_session_env env;
	enum target_state state;
	struct sluice_error error;
	struct sluice_lane_work work;
	struct sluice_lane_set lanes;
	struct target_device devices[SLUICE_DEVICES_MAX];
	uint32_t device_count;
	uint8_t held_from[SLUICE_SLOTS_MAX]; /* 1 + the lane that brought it; 0: no credit is due */
	bool link_up;
	uint64_t heard_ns, pinged_ns, start_ns, over_ns;
};

static uint64_t now(const struct sluice_target *t)
{
	return t->env.now_ns(t->env.ctx);
}

bool sluice_target_is_over(const struct sluice_target *t)
{
	return t->state >= TARGET_COMPLETED;
}

bool sluice_target_is_prepared(const struct sluice_target *t)
{
	return t->state == TARGET_PREPARED;
}

const char *sluice_target_status(const struct sluice_target *t)
{
	switch (t->state) {
	case TARGET_RECEIVE:
		return "active";
	case TARGET_LOAD:
		return "device";
	case TARGET_PREPARED:
		return t->link_up ? "device" : "in-doubt";
	case TARGET_COMPLETED:
		return "completed";
	case TARGET_FAILED:
		return "failed";
	}
	return "failed";
}

const char *sluice_target_session(const struct sluice_target *t)
{
	return t->conf.session;
}

const struct sluice_lane_set *sluice_target_lanes(const struct sluice_target *t)
{
	return &t->lanes;
}

static void tell_status(struct sluice_target *t)
{
	json_t *data = json_pack(
		"{s:s, s:s}", "status", sluice_target_status(t), "session", t->conf.session);

	if (t->state == TARGET_FAILED)
		json_object_set_new(data, "error-desc", json_string(t->error.text));
	t->env.vmm_event(t->env.ctx, "MIGRATION", data);
}

static void enter(struct sluice_target *t, enum target_state state)
{
	const char *before = sluice_target_status(t);

	SLUICE_ASSERT(!sluice_target_is_over(t));
	t->state = state;
	if (sluice_target_is_over(t))
		t->over_ns = now(t);
	if (strcmp(before, sluice_target_status(t)) != 0)
		tell_status(t);
}

static void send_message(struct sluice_target *t, json_t *message)
{
	if (t->link_up)
		t->env.peer_send(t->env.ctx, message);
	else
		json_decref(message);
}

/*
 * Give up and burn the session. When even that cannot be recorded the answer is still "failed":
 * without a recorded commit nobody may run the guest here.
 */
static void burn(struct sluice_target *t, int code, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

static void burn(struct sluice_target *t, int code, const char *fmt, ...)
{
	enum sluice_decision decision = SLUICE_ABORTED;
	struct sluice_error err = {0};
	va_list ap;

	if (sluice_target_is_over(t))
		return;
	t->error = (struct sluice_error){.code = code, .scope = SLUICE_SCOPE_SESSION};
	va_start(ap, fmt);
	vsnprintf(t->error.text, sizeof(t->error.text), fmt, ap);
	va_end(ap);
	sluice_text_make_utf8(t->error.text);
	sluice_lane_set_close_all(&t->lanes);
	t->env.decide(t->env.ctx, t->conf.session, SLUICE_ABORTED, &decision, &err);
	send_message(t, json_pack("{s:s, s:s}", "type", "abort", "reason", t->error.text));
	enter(t, TARGET_FAILED);
}

/* ---- setup ---- */

static int match_regions(
	const struct sluice_session_conf *conf, const json_t *hello, struct sluice_error *err)
{
	const json_t *regions = json_object_get(hello, "regions");
	size_t count = json_array_size(regions);

	if (count != conf->region_count)
		return sluice_fail_scope(err, SLUICE_SCOPE_SESSION, -EINVAL, "regions",
			"the source has %zu memory regions and the target %u; add the same regions "
			"on both hosts",
			count, conf->region_count);
	for (uint32_t i = 0; i < conf->region_count; i++) {
		const struct sluice_session_region *r = &conf->regions[i];
		const json_t *entry = json_array_get(regions, i);
		const char *id = json_string_value(json_object_get(entry, "id"));
		uint64_t size = (uint64_t)json_integer_value(json_object_get(entry, "size"));
		uint64_t gpa = (uint64_t)json_integer_value(json_object_get(entry, "gpa"));

		if (strcmp(id, r->id) != 0)
			return sluice_fail_scope(err, SLUICE_SCOPE_SESSION, -EINVAL, "regions",
				"the source has a region \"%s\" where the target has \"%s\"; use "
				"the same ids on both hosts",
				id, r->id);
		if (size != r->len_bytes)
			return sluice_fail_scope(err, SLUICE_SCOPE_SESSION, -EINVAL, "regions",
				"region \"%s\" has %llu bytes at the source and %llu at the target",
				id, (unsigned long long)size, (unsigned long long)r->len_bytes);
		if (gpa != r->gpa)
			return sluice_fail_scope(err, SLUICE_SCOPE_SESSION, -EINVAL, "regions",
				"region \"%s\" is at guest-physical %#llx at the source and %#llx "
				"at the target",
				id, (unsigned long long)gpa, (unsigned long long)r->gpa);
	}
	return 0;
}

static int check_hello(
	const struct sluice_session_conf *conf, const json_t *hello, struct sluice_error *err)
{
	int protocol = (int)json_integer_value(json_object_get(hello, "protocol"));
	const char *transport = json_string_value(json_object_get(hello, "transport"));

	if (protocol != SLUICE_PROTOCOL_VERSION)
		return sluice_fail_scope(err, SLUICE_SCOPE_SESSION, -EPROTO, "hello",
			"the source speaks protocol %d, the target %d; use engines of the same "
			"version",
			protocol, SLUICE_PROTOCOL_VERSION);
	if (strcmp(transport, conf->transport->name) != 0)
		return sluice_fail_scope(err, SLUICE_SCOPE_SESSION, -EPROTO, "hello",
			"the source's lanes use transport \"%s\", the target's \"%s\"; set the "
			"same "
			"`transport` on both hosts",
			transport, conf->transport->name);
	return match_regions(conf, hello, err);
}

static json_t *export_key(struct sluice_target *t, const struct sluice_mem *mem)
{
	uint8_t key[SLUICE_KEY_BYTES_MAX];
	int bytes = t->conf.transport->mem_export(mem, key, sizeof(key));

	SLUICE_ASSERT(bytes >= 0 && bytes <= (int)sizeof(key));
	return sluice_hex(key, (size_t)bytes);
}

/* A lane that waits for the connection with a fresh ticket. */
static int open_lane(
	struct sluice_target *t, uint32_t lane, json_t *tickets, struct sluice_error *err)
{
	struct sluice_ticket ticket;
	int r;

	if (getrandom(ticket.secret, sizeof(ticket.secret), 0) != sizeof(ticket.secret))
		return sluice_fail(err, -EIO, "ticket", "no random bytes");
	r = sluice_lane_set_open(
		&t->lanes, lane, &ticket, NULL, now(t) + t->conf.setup_timeout_ns, err);
	if (r == 0)
		json_array_append_new(tickets, sluice_hex(ticket.secret, sizeof(ticket.secret)));
	return r;
}

static int say_welcome(struct sluice_target *t, struct sluice_error *err)
{
	json_t *tickets = json_array(), *regions = json_array();

	for (uint32_t lane = 0; lane < t->lanes.count; lane++) {
		int r = open_lane(t, lane, tickets, err);

		if (r < 0) {
			json_decref(tickets);
			json_decref(regions);
			return r;
		}
	}
	for (uint32_t i = 0; i < t->conf.region_count; i++)
		json_array_append_new(regions,
			json_pack("{s:o, s:o}", "key", export_key(t, t->conf.regions[i].mem),
				"nonzero", sluice_chunk_map(&t->conf, &t->env, i)));
	send_message(t,
		json_pack("{s:s, s:i, s:s, s:[], s:s, s:s, s:o, s:o, s:o, s:I, s:I}", "type",
			"welcome", "protocol", SLUICE_PROTOCOL_VERSION, "version", SLUICE_VERSION,
			"features", "instance", t->conf.instance, "address", t->conf.rail_address,
			"tickets", tickets, "regions", regions, "staging-key",
			export_key(t, t->conf.staging), "slots", (json_int_t)t->conf.inbox->slots,
			"slot-bytes", (json_int_t)t->conf.inbox->slot_bytes));
	return 0;
}

int sluice_target_create(const struct sluice_session_conf *conf,
	const struct sluice_session_env *env, const json_t *hello,
	struct sluice_target **ret_target, struct sluice_error *err)
{
	struct sluice_target *t;
	int r = check_hello(conf, hello, err);

	if (r < 0)
		return r;
	t = calloc(1, sizeof(*t));
	if (t == NULL)
		return sluice_fail(err, -ENOMEM, "hello", "out of memory");
	t->conf = *conf;
	t->env = *env;
	snprintf(t->conf.session, sizeof(t->conf.session), "%s",
		json_string_value(json_object_get(hello, "session")));
	t->work.wake = conf->wake;
	t->work.wake_ctx = conf->wake_ctx;
	t->lanes.transport = conf->transport;
	t->lanes.rail = conf->rail;
	t->lanes.crew = conf->crew;
	t->lanes.work = &t->work;
	t->lanes.role = SLUICE_ROLE_TARGET;
	t->lanes.count = (uint32_t)json_integer_value(json_object_get(hello, "lanes"));
	t->lanes.window_bytes = SLUICE_PAGE_BYTES;
	conf->transport->rail_limits(conf->rail, &t->lanes.limits);
	t->link_up = true;
	t->start_ns = now(t);
	t->heard_ns = t->start_ns;
	r = say_welcome(t, err);
	if (r < 0) {
		sluice_target_destroy(t);
		return r;
	}
	tell_status(t);
	*ret_target = t;
	return 0;
}

void sluice_target_destroy(struct sluice_target *t)
{
	if (t == NULL)
		return;
	sluice_lane_set_close_all(&t->lanes);
	free(t);
}

/* ---- devices ---- */

static struct target_device *find_device(struct sluice_target *t, const char *name)
{
	for (uint32_t i = 0; i < t->device_count; i++)
		if (strcmp(t->devices[i].name, name) == 0)
			return &t->devices[i];
	return NULL;
}

static void on_device(struct sluice_target *t, const json_t *message)
{
	const char *name = json_string_value(json_object_get(message, "device"));

	if (t->device_count == SLUICE_DEVICES_MAX) {
		burn(t, -EPROTO, "the source announced more than %d devices", SLUICE_DEVICES_MAX);
		return;
	}
	if (find_device(t, name) != NULL) {
		burn(t, -EPROTO, "the source announced device \"%s\" twice", name);
		return;
	}
	snprintf(t->devices[t->device_count].name, DEVICE_NAME_BYTES, "%s", name);
	t->device_count++;
	t->env.vmm_event(t->env.ctx, "DEVICE_OPEN",
		json_pack("{s:s, s:s}", "device", name, "session", t->conf.session));
}

int sluice_target_device_add(
	struct sluice_target *t, const char *name, int fd, struct sluice_error *err)
{
	struct target_device *device = find_device(t, name);
	int r;

	if (device == NULL || device->opened || t->state > TARGET_LOAD) {
		close(fd);
		return sluice_fail(err, -EINVAL, "device-add",
			"device \"%s\" does not wait for a descriptor; answer DEVICE_OPEN once per "
			"device",
			name);
	}
	device->opened = true;
	r = t->env.device_start(t->env.ctx, (uint32_t)(device - t->devices), fd, err);
	if (r < 0)
		burn(t, r, "device \"%s\" cannot be written", name);
	return r;
}

static void prepare_when_loaded(struct sluice_target *t)
{
	if (t->state != TARGET_LOAD)
		return;
	for (uint32_t i = 0; i < t->device_count; i++)
		if (!t->devices[i].written || !t->devices[i].loaded)
			return;
	if (t->env.memory_lost(t->env.ctx)) {
		burn(t, -EIO, "a file that backs guest memory shrank at the target");
		return;
	}
	/* Nothing may land after this: each connection is fenced and gone. */
	sluice_lane_set_close_all(&t->lanes);
	enter(t, TARGET_PREPARED);
	send_message(t, json_pack("{s:s}", "type", "prepared"));
}

/* A session that failed meanwhile is told by its event; the answer that crossed it is no mistake. */
int sluice_target_device_loaded(struct sluice_target *t, const char *name, struct sluice_error *err)
{
	struct target_device *device = find_device(t, name);

	if (device == NULL || !device->opened || device->loaded)
		return sluice_fail(
			err, -EINVAL, "device-loaded", "device \"%s\" is not being loaded", name);
	device->loaded = true;
	prepare_when_loaded(t);
	return 0;
}

void sluice_target_device_written(struct sluice_target *t, uint32_t device, int code)
{
	if (sluice_target_is_over(t))
		return;
	if (code < 0) {
		burn(t, code, "the state of device \"%s\" cannot be written to the VMM: %s",
			t->devices[device].name, strerror(-code));
		return;
	}
	t->devices[device].written = true;
	prepare_when_loaded(t);
}

void sluice_target_segment_loaded(struct sluice_target *t, uint32_t slot)
{
	t->held_from[slot] = 0;
	if (t->state < TARGET_PREPARED)
		send_message(
			t, json_pack("{s:s, s:[I]}", "type", "credit", "slots", (json_int_t)slot));
}

/* ---- lanes ---- */

static void on_announcement(struct sluice_target *t, uint32_t lane, const struct sluice_note *note)
{
	struct sluice_announce announce;
	struct sluice_error err = {0};
	int r;

	if (!sluice_announce_read(note->bytes, note->len_bytes, &announce)) {
		burn(t, -EPROTO, "a lane brought a message that is not a segment's announcement");
		return;
	}
	r = t->env.segment_announced(t->env.ctx, &announce, &err);
	if (r < 0)
		burn(t, err.code, "%s", err.text);
	else if (r > 0)
		t->held_from[announce.slot] = (uint8_t)(1 + lane);
}

/* A lost lane is only noted: the source says when to fence it, and goes on with the others. */
static void read_mailboxes(struct sluice_target *t)
{
	for (uint32_t lane = 0; lane < t->lanes.count; lane++) {
		struct sluice_lane_slot *slot = &t->lanes.slots[lane];
		struct sluice_note note;

		while (t->state < TARGET_PREPARED && slot->lane != NULL &&
			sluice_mailbox_take(sluice_lane_mailbox(slot->lane), &note)) {
			if (note.kind == SLUICE_NOTE_RECEIVED) {
				on_announcement(t, lane, &note);
			} else if (note.kind == SLUICE_NOTE_CONNECTED) {
				slot->standing = SLUICE_LANE_ACTIVE;
			} else if (slot->standing != SLUICE_LANE_FENCING) {
				slot->standing = SLUICE_LANE_FENCING;
				slot->losses++;
			}
		}
	}
}

static json_t *held_slots(const struct sluice_target *t, uint32_t lane)
{
	json_t *slots = json_array();

	for (uint32_t slot = 0; slot < t->conf.inbox->slots; slot++)
		if (t->held_from[slot] == 1 + lane)
			json_array_append_new(slots, json_integer((json_int_t)slot));
	return slots;
}

static void on_fence(struct sluice_target *t, const json_t *message)
{
	uint32_t lane = (uint32_t)json_integer_value(json_object_get(message, "lane"));
	uint32_t epoch = (uint32_t)json_integer_value(json_object_get(message, "epoch"));

	if (lane >= t->lanes.count || epoch != t->lanes.slots[lane].epoch) {
		burn(t, -EPROTO,
			"the source asked to fence lane %u, epoch %u, which does not "
			"exist",
			lane, epoch);
		return;
	}
	/* What it announced before is in the mailbox: heard before the lane is gone. */
	read_mailboxes(t);
	if (sluice_target_is_over(t))
		return;
	sluice_lane_set_close(&t->lanes, lane);
	send_message(
		t, json_pack("{s:s, s:I, s:I, s:o}", "type", "fenced", "lane", (json_int_t)lane,
			   "epoch", (json_int_t)epoch, "held", held_slots(t, lane)));
}

/* ---- the end ---- */

static void on_finish(struct sluice_target *t, const json_t *message)
{
	uint32_t devices = (uint32_t)json_integer_value(json_object_get(message, "devices"));

	if (devices != t->device_count) {
		burn(t, -EPROTO, "the source finished %u devices and announced %u", devices,
			t->device_count);
		return;
	}
	enter(t, TARGET_LOAD);
	prepare_when_loaded(t);
}

static void say_decision(struct sluice_target *t, const char *decision)
{
	send_message(t, json_pack("{s:s, s:s, s:s}", "type", "decision", "session", t->conf.session,
				"decision", decision));
}

/* Recorded first, then the VMM runs, then the source hears: each step may be repeated. */
static void commit(struct sluice_target *t)
{
	struct sluice_error err = {0};
	int r = sluice_session_commit(&t->env, t->conf.session, &err);

	if (r < 0) {
		burn(t, r, "%s", err.text);
		/* The source has given the guest away and waits for this word, whatever failed. */
		say_decision(t, "aborted");
		return;
	}
	enter(t, TARGET_COMPLETED);
	send_message(t, json_pack("{s:s}", "type", "committed"));
}

static void on_commit(struct sluice_target *t, const json_t *message)
{
	(void)message;
	if (t->state == TARGET_PREPARED)
		commit(t);
	else
		say_decision(t, t->state == TARGET_COMPLETED ? "committed" : "aborted");
}

static void on_abort(struct sluice_target *t, const json_t *message)
{
	burn(t, -ECANCELED, "the source gave up: %s",
		json_string_value(json_object_get(message, "reason")));
}

/*
 * The source lost the link and came back, or its successor did. Told "committed", a prepared
 * target commits. Asked without that, or not prepared, it burns the session: the answer must hold
 * for good.
 */
static void on_resolve(struct sluice_target *t, const json_t *message)
{
	const char *decision = json_string_value(json_object_get(message, "decision"));

	if (t->state == TARGET_PREPARED && strcmp(decision, "committed") == 0)
		commit(t);
	else if (!sluice_target_is_over(t))
		burn(t, -ECANCELED, "the source asked about the session before it was decided");
	say_decision(t, t->state == TARGET_COMPLETED ? "committed" : "aborted");
}

static void on_ping(struct sluice_target *t, const json_t *message)
{
	send_message(
		t, json_pack("{s:s, s:O}", "type", "pong", "n", json_object_get(message, "n")));
}

static void on_pong(struct sluice_target *t, const json_t *message)
{
	(void)t;
	(void)message;
}

void sluice_target_peer_message(struct sluice_target *t, const json_t *message)
{
	static const struct {
		const char *type;
		uint32_t states;
		void (*handle)(struct sluice_target *t, const json_t *message);
	} table[] = {
		{"fence", IN(RECEIVE), on_fence},
		{"device", IN(RECEIVE), on_device},
		{"finish", IN(RECEIVE), on_finish},
		{"commit", IN(PREPARED) | IN(COMPLETED) | IN(FAILED), on_commit},
		{"abort", IN(RECEIVE) | IN(LOAD) | IN(PREPARED), on_abort},
		{"resolve", UINT32_MAX, on_resolve},
		{"ping", UINT32_MAX, on_ping},
		{"pong", UINT32_MAX, on_pong},
	};
	const char *type = json_string_value(json_object_get(message, "type"));

	t->heard_ns = now(t);
	for (size_t i = 0; i < SLUICE_ARRAY_LEN(table); i++) {
		if (strcmp(type, table[i].type) != 0)
			continue;
		if (table[i].states & (1u << t->state)) {
			table[i].handle(t, message);
			return;
		}
		break;
	}
	if (t->state < TARGET_PREPARED)
		burn(t, -EPROTO, "the source sent \"%s\" while the migration is \"%s\"", type,
			sluice_target_status(t));
}

void sluice_target_peer_lost(struct sluice_target *t, const char *why)
{
	bool was_prepared = t->state == TARGET_PREPARED && t->link_up;

	t->link_up = false;
	if (was_prepared)
		tell_status(t); /* in doubt: the source may have committed */
	else if (t->state < TARGET_PREPARED)
		burn(t, -ECONNRESET, "the peer link was lost: %s", why);
}

void sluice_target_peer_back(struct sluice_target *t)
{
	t->link_up = true;
	t->heard_ns = now(t);
}

/* Without its VMM the guest cannot run here: nobody may be told that it does. */
void sluice_target_vmm_lost(struct sluice_target *t)
{
	if (!sluice_target_is_over(t))
		burn(t, -EPIPE, "the target's VMM closed its connection");
}

int sluice_target_cancel(struct sluice_target *t, struct sluice_error *err)
{
	if (sluice_target_is_over(t))
		return sluice_fail(err, -EINVAL, "migrate_cancel", "no migration is running");
	if (t->state == TARGET_PREPARED)
		return sluice_fail(err, -EBUSY, "migrate_cancel",
			"the source may have given the guest away; see session-resolve");
	burn(t, -ECANCELED, "cancelled at the target");
	return 0;
}

int sluice_target_resolve(
	struct sluice_target *t, enum sluice_decision decision, struct sluice_error *err)
{
	if (t->state != TARGET_PREPARED || t->link_up)
		return sluice_fail(err, -EINVAL, "session-resolve",
			"the session is \"%s\", not in doubt", sluice_target_status(t));
	if (decision == SLUICE_COMMITTED) {
		commit(t);
		return t->state == TARGET_COMPLETED
			       ? 0
			       : sluice_fail(err, t->error.code, "session-resolve", "%s",
					 t->error.text);
	}
	burn(t, -ECANCELED, "resolved as aborted by the operator");
	return 0;
}

void sluice_target_tick(struct sluice_target *t)
{
	uint64_t now_ns = now(t);

	if (sluice_target_is_over(t))
		return;
	read_mailboxes(t);
	if (sluice_target_is_over(t) || !t->link_up)
		return;
	if (now_ns - t->heard_ns > t->conf.peer_timeout_ns) {
		sluice_target_peer_lost(t, "the peer is silent");
		return;
	}
	if (now_ns - t->pinged_ns > t->conf.peer_timeout_ns / PINGS_PER_TIMEOUT) {
		t->pinged_ns = now_ns;
		send_message(t, json_pack("{s:s, s:I}", "type", "ping", "n", (json_int_t)0));
	}
}

uint64_t sluice_target_deadline_ns(const struct sluice_target *t)
{
	if (sluice_target_is_over(t) || !t->link_up)
		return SLUICE_NEVER;
	return t->pinged_ns + t->conf.peer_timeout_ns / PINGS_PER_TIMEOUT;
}

json_t *sluice_target_query(const struct sluice_target *t)
{
	uint64_t end_ns = t->over_ns != 0 ? t->over_ns : now(t);
	json_t *reply = json_pack("{s:s, s:s, s:I}", "status", sluice_target_status(t), "session",
		t->conf.session, "total-time",
		(json_int_t)((end_ns - t->start_ns) / SLUICE_NS_PER_MS));

	if (t->state == TARGET_FAILED)
		json_object_set_new(reply, "error-desc", json_string(t->error.text));
	return reply;
}
