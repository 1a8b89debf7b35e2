/* SPDX-License-Identifier: BSD-3-Clause */
/* lane_pair.c: see lane_pair.h. */
#include "tests/unit/lane_pair.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/params.h"
#include "base/random.h"
#include "engine/lane/crew.h"
#include "tests/unit/unit.h"
#include "transports/tcp/tcp.h"

#define CONNECT_NS (10 * SLUICE_NS_PER_S)
#define DRAIN_NS   (60 * SLUICE_NS_PER_S)

static const struct sluice_transport *const tcp = &sluice_transport_tcp;

static void wake(void *ctx)
{
	struct lane_pair_end *end = ctx; /* whoever is to be woken is stepped anyway */

	end->wakes++;
}

static void settings(struct tcp_conf *conf, const char *text)
{
	struct sluice_error err = {0};
	char copy[256], *word, *rest = NULL;

	sluice_params_defaults(sluice_tcp_params, conf);
	snprintf(copy, sizeof(copy), "%s", text != NULL ? text : "");
	for (word = strtok_r(copy, " ", &rest); word != NULL; word = strtok_r(NULL, " ", &rest))
		CU_ASSERT_EQUAL_FATAL(sluice_params_assign(sluice_tcp_params, conf, word, &err), 0);
}

static uint8_t *memory_map(uint64_t bytes, int *ret_fd)
{
	int fd = memfd_create("lane-pair", 0);
	void *got;

	CU_ASSERT_EQUAL_FATAL(ftruncate(fd, (off_t)bytes), 0);
	got = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	CU_ASSERT_PTR_NOT_EQUAL_FATAL(got, MAP_FAILED);
	*ret_fd = fd;
	return got;
}

static void end_open(struct lane_pair_end *end, const struct lane_pair_opts *opts,
	enum sluice_role role, const struct tcp_conf *conf)
{
	bool source = role == SLUICE_ROLE_SOURCE;
	struct sluice_span span = {.id = 1, .len_bytes = opts->memory_bytes};
	struct sluice_crew_opts crew = {.workers = 0};
	struct sluice_error err = {0};

	end->memory = memory_map(opts->memory_bytes, &end->memory_fd);
	span.addr = end->memory;
	CU_ASSERT_EQUAL_FATAL(tcp->rail_open(conf, "", &end->rail, &err), 0);
	CU_ASSERT_EQUAL_FATAL(
		tcp->mem_register(end->rail, &span,
			source ? SLUICE_ACCESS_LOCAL_READ : SLUICE_ACCESS_REMOTE_WRITE, &end->mem,
			&err),
		0);
	if (!source)
		tcp->mem_admit(end->mem, true);
	CU_ASSERT_EQUAL_FATAL(sluice_crew_create(&crew, &end->crew), 0);
	end->region.mem = end->mem;
	end->way.transport = tcp;
	end->way.rail = end->rail;
	end->way.regions = &end->region;
	end->work.wake = wake;
	end->work.wake_ctx = end;
	end->work.gate = 1;
	end->lanes.pairs = &end->way;
	end->lanes.pair_count = 1;
	end->lanes.crew = end->crew;
	end->lanes.work = &end->work;
	end->lanes.role = role;
	end->lanes.count = opts->lanes;
	end->lanes.window_bytes =
		sluice_align_down(opts->budget_bytes / opts->lanes, SLUICE_PAGE_BYTES);
	end->lanes.extent_bytes = opts->extent_bytes;
	tcp->rail_limits(end->rail, &end->way.limits);
	if (opts->one_sided)
		end->way.limits.caps |= SLUICE_CAP_ONE_SIDED;
}

/* ---- the relay ---- */

static struct sockaddr_in parse(const char *address)
{
	return (struct sockaddr_in){
		.sin_family = AF_INET,
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK),
		.sin_port = htons((uint16_t)strtoul(strrchr(address, ':') + 1, NULL, 10)),
	};
}

static void relay_open(struct lane_pair_relay *relay, char address[SLUICE_ADDRESS_MAX])
{
	struct sockaddr_in in = parse(":0");
	socklen_t len = sizeof(in);

	snprintf(relay->target_address, sizeof(relay->target_address), "%s", address);
	relay->listen_fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	CU_ASSERT_EQUAL_FATAL(bind(relay->listen_fd, (const struct sockaddr *)&in, len), 0);
	CU_ASSERT_EQUAL_FATAL(listen(relay->listen_fd, 1), 0);
	CU_ASSERT_EQUAL_FATAL(getsockname(relay->listen_fd, (struct sockaddr *)&in, &len), 0);
	snprintf(address, SLUICE_ADDRESS_MAX, "127.0.0.1:%u", ntohs(in.sin_port));
}

static void relay_cut(struct lane_pair_relay *relay)
{
	if (relay->in_fd >= 0)
		close(relay->in_fd);
	if (relay->out_fd >= 0)
		close(relay->out_fd);
	relay->in_fd = relay->out_fd = -1;
}

/* A little at a time, as much as the other side takes; false when one of them is gone. */
static bool relay_pass(struct lane_pair_relay *relay, int from, int to, bool flip)
{
	uint8_t bytes[16384];
	ssize_t got = recv(from, bytes, sizeof(bytes), MSG_PEEK | MSG_DONTWAIT), sent;

	if (got < 0 && errno == EAGAIN)
		return true;
	if (got <= 0)
		return false;
	if (flip && relay->flip_at - relay->passed_bytes < (uint64_t)got)
		bytes[relay->flip_at - relay->passed_bytes] ^= 0x10;
	sent = send(to, bytes, (size_t)got, MSG_DONTWAIT | MSG_NOSIGNAL);
	if (sent < 0)
		return errno == EAGAIN;
	relay->passed_bytes += flip ? (uint64_t)sent : 0;
	return recv(from, bytes, (size_t)sent, 0) == sent;
}

static void relay_step(struct lane_pair_relay *relay)
{
	struct sockaddr_in in;

	if (relay->listen_fd < 0)
		return;
	if (relay->in_fd < 0) {
		relay->in_fd = accept(relay->listen_fd, NULL, NULL);
		if (relay->in_fd < 0)
			return;
		in = parse(relay->target_address);
		relay->out_fd = socket(AF_INET, SOCK_STREAM, 0);
		CU_ASSERT_EQUAL_FATAL(
			connect(relay->out_fd, (const struct sockaddr *)&in, sizeof(in)), 0);
	}
	if (!relay_pass(relay, relay->in_fd, relay->out_fd, true) ||
		!relay_pass(relay, relay->out_fd, relay->in_fd, false))
		relay_cut(relay);
}

/* ---- stepping ---- */

static void take_notes(struct lane_pair_end *end)
{
	struct sluice_note note;

	for (uint32_t i = 0; i < end->lanes.count; i++) {
		struct sluice_lane_slot *slot = &end->lanes.slots[i];

		while (slot->lane != NULL &&
			sluice_mailbox_take(sluice_lane_mailbox(slot->lane), &note)) {
			if (note.kind == SLUICE_NOTE_CONNECTED)
				slot->standing = SLUICE_LANE_ACTIVE;
			if (note.kind != SLUICE_NOTE_LOST)
				continue;
			end->lost++;
			end->lost_status = note.status;
			slot->standing = SLUICE_LANE_FENCING;
		}
	}
}

static void step(struct lane_pair *pair, struct lane_pair_end *end, int except)
{
	if (pair->by_crew)
		sluice_crew_step(end->crew, pair->now_ns);
	for (uint32_t i = 0; i < end->lanes.count && !pair->by_crew; i++)
		if ((int)i != except && end->lanes.slots[i].lane != NULL &&
			end->lanes.slots[i].standing != SLUICE_LANE_FENCING)
			sluice_lane_step(end->lanes.slots[i].lane, pair->now_ns, 0);
	take_notes(end);
}

void lane_pair_turn(struct lane_pair *pair)
{
	relay_step(&pair->relay);
	step(pair, &pair->source, -1);
	step(pair, &pair->target, pair->stalled);
}

void lane_pair_fence_lost(struct lane_pair *pair)
{
	for (uint32_t i = 0; i < pair->source.lanes.count; i++) {
		if (pair->source.lanes.slots[i].standing != SLUICE_LANE_FENCING ||
			pair->source.lanes.slots[i].lane == NULL)
			continue;
		sluice_lane_set_lost(&pair->source.lanes, i);
		sluice_lane_set_close(&pair->target.lanes, i);
		sluice_ledger_reclaim(pair->source.work.ledger, i, false);
		sluice_lane_set_close(&pair->source.lanes, i);
	}
}

static void connect_lanes(struct lane_pair *pair, const char *address)
{
	char relayed[SLUICE_ADDRESS_MAX];

	snprintf(relayed, sizeof(relayed), "%s", address);
	if (pair->relay.flip_at != 0)
		relay_open(&pair->relay, relayed);
	uint64_t end_ns = sluice_now_ns() + CONNECT_NS;
	struct sluice_error err = {0};

	for (uint32_t i = 0; i < pair->source.lanes.count; i++) {
		struct sluice_ticket ticket = {.secret = {(uint8_t)(i + 1)}};

		snprintf(pair->source.way.peer_address, SLUICE_ADDRESS_MAX, "%s",
			i == 0 ? relayed : address);
		CU_ASSERT_EQUAL_FATAL(sluice_lane_set_open(&pair->target.lanes, i, 0, &ticket,
					      SLUICE_NEVER, &err),
			0);
		CU_ASSERT_EQUAL_FATAL(sluice_lane_set_open(&pair->source.lanes, i, 0, &ticket,
					      SLUICE_NEVER, &err),
			0);
	}
	while (sluice_lane_set_standing(&pair->source.lanes, SLUICE_LANE_ACTIVE) +
			sluice_lane_set_standing(&pair->target.lanes, SLUICE_LANE_ACTIVE) <
		2 * pair->source.lanes.count) {
		tcp->rail_step(pair->target.rail, sluice_now_ns());
		lane_pair_turn(pair);
		CU_ASSERT_TRUE_FATAL(sluice_now_ns() < end_ns);
	}
}

void lane_pair_open(struct lane_pair *pair, const struct lane_pair_opts *opts)
{
	struct sluice_ledger_span span = {.len_bytes = opts->memory_bytes};
	uint8_t key[SLUICE_KEY_BYTES_MAX];
	char address[SLUICE_ADDRESS_MAX];
	struct sluice_error err = {0};
	struct sluice_random random;
	struct tcp_conf conf = {0};
	int key_bytes;

	memset(pair, 0, sizeof(*pair));
	pair->stalled = -1;
	pair->relay = (struct lane_pair_relay){
		.listen_fd = -1, .in_fd = -1, .out_fd = -1, .flip_at = opts->flip_at};
	pair->now_ns = SLUICE_NS_PER_S;
	settings(&conf, opts->settings);
	end_open(&pair->source, opts, SLUICE_ROLE_SOURCE, &conf);
	end_open(&pair->target, opts, SLUICE_ROLE_TARGET, &conf);
	sluice_random_seed(&random, 1);
	for (uint64_t at = 0; at < opts->memory_bytes; at += sizeof(uint64_t))
		*(uint64_t *)(void *)(pair->source.memory + at) = sluice_random_u64(&random) | 1;
	memset(pair->target.memory, 0xa5, opts->memory_bytes);
	span.base = pair->source.memory;
	CU_ASSERT_EQUAL_FATAL(sluice_ledger_create(&span, 1, &pair->source.work.ledger), 0);
	sluice_ledger_set_file(pair->source.work.ledger, 0, pair->source.memory_fd, 0);
	key_bytes = tcp->mem_export(pair->target.mem, key, sizeof(key));
	CU_ASSERT_TRUE_FATAL(key_bytes > 0);
	CU_ASSERT_EQUAL_FATAL(
		tcp->mem_import(pair->source.rail, key, (size_t)key_bytes, &pair->remote, &err), 0);
	pair->source.region.remote = pair->remote;
	CU_ASSERT_EQUAL_FATAL(tcp->rail_listen(pair->target.rail, address, &err), 0);
	connect_lanes(pair, address);
}

static void end_close(struct lane_pair_end *end)
{
	sluice_lane_set_close_all(&end->lanes);
	sluice_crew_destroy(end->crew);
	tcp->mem_unregister(end->mem);
	tcp->rail_close(end->rail);
}

void lane_pair_close(struct lane_pair *pair)
{
	uint64_t bytes = pair->source.work.ledger->regions[0].pages << SLUICE_PAGE_SHIFT;

	relay_cut(&pair->relay);
	if (pair->relay.listen_fd >= 0)
		close(pair->relay.listen_fd);
	tcp->mem_forget(pair->remote);
	end_close(&pair->source);
	end_close(&pair->target);
	sluice_ledger_destroy(pair->source.work.ledger);
	munmap(pair->source.memory, bytes);
	munmap(pair->target.memory, bytes);
	close(pair->source.memory_fd);
	close(pair->target.memory_fd);
}

bool lane_pair_drain(struct lane_pair *pair)
{
	uint64_t end_ns = sluice_now_ns() + DRAIN_NS;

	while (!sluice_ledger_is_drained(pair->source.work.ledger)) {
		if (pair->source.lost > 0 || sluice_now_ns() > end_ns)
			return false;
		lane_pair_turn(pair);
	}
	return true;
}

bool lane_pair_same(const struct lane_pair *pair)
{
	return memcmp(pair->source.memory, pair->target.memory,
		       pair->source.work.ledger->regions[0].pages << SLUICE_PAGE_SHIFT) == 0;
}
