/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * conn.c: connections: hello and ticket, the death of a lane and who learns of it when,
 * fencing, closing. Control thread's calls and the events of virtual time behind them.
 *
 * Threading: one thread for a world.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "transports/sim/internal.h"

#define HELLO_KINDS (1u << SIM_HELLO | 1u << SIM_REFUSED | 1u << SIM_ACCEPTED | 1u << SIM_DEADLINE)

static uint64_t draw_latency_ns(struct sluice_sim_world *world)
{
	return sim_draw(world, world->opts.latency_ns_min, world->opts.latency_ns_max);
}

/* This end knows: no more of its memory is read, nothing more is reported but LOST. */
static void conn_lose(struct sluice_conn *conn, int status)
{
	if (conn->lost)
		return;
	conn->lost = true;
	conn->lost_status = status;
	sim_pipe_abandon(conn->out);
	sim_events_drop(conn->out, HELLO_KINDS | 1u << SIM_NOTICE);
	sim_trace(conn->out, "lost", (uint64_t)-status, 0);
}

/* ---- Opening ---- */

static bool parse_address(const char *text, uint32_t *ret_rail)
{
	char again[SLUICE_ADDRESS_MAX];
	uint32_t rail;

	if (text == NULL || sscanf(text, "sim:%" SCNu32, &rail) != 1)
		return false;
	snprintf(again, sizeof(again), "sim:%" PRIu32, rail);
	if (strcmp(text, again) != 0)
		return false;
	*ret_rail = rail;
	return true;
}

static void conn_start(struct sluice_conn *conn)
{
	struct sluice_sim_world *world = conn->world;
	uint64_t deadline_ns = conn->opts.deadline_ns;

	if (conn->opts.role == SLUICE_ROLE_SOURCE)
		sim_event_add(conn->out, SIM_HELLO, world->now_ns + draw_latency_ns(world), 0);
	if (deadline_ns == SLUICE_NEVER)
		return;
	sim_event_add(conn->out, SIM_DEADLINE,
		deadline_ns > world->now_ns ? deadline_ns : world->now_ns, 0);
}

int sim_lane_open(struct sluice_rail *rail, const struct sluice_lane_opts *opts,
	struct sluice_conn **ret_conn, struct sluice_error *err)
{
	struct sluice_conn *conn;
	uint32_t peer_rail = 0;

	if (opts->role == SLUICE_ROLE_SOURCE && !parse_address(opts->peer_address, &peer_rail))
		return sluice_fail(err, -EINVAL, "sim",
			"\"%s\" is not an address of this transport (\"sim:N\").",
			opts->peer_address != NULL ? opts->peer_address : "");
	if (rail->down)
		return sluice_fail(err, -ENETDOWN, "sim", "The rail is down.");
	conn = calloc(1, sizeof(*conn));
	if (conn == NULL)
		return sluice_fail(err, -ENOMEM, "sim", "No memory for a lane.");
	conn->world = rail->world;
	conn->rail = rail;
	conn->opts = *opts;
	conn->opts.peer_address = NULL;
	conn->peer_rail = peer_rail;
	conn->out = sim_pipe_create(conn);
	if (conn->out == NULL) {
		free(conn);
		return sluice_fail(err, -ENOMEM, "sim", "No memory for a lane.");
	}
	conn->next = rail->conns;
	rail->conns = conn;
	sim_trace(conn->out, "opens", opts->role, 0);
	conn_start(conn);
	*ret_conn = conn;
	return 0;
}

/* ---- Hello and answer ---- */

static void hello_arrives(struct sluice_conn *source)
{
	struct sluice_sim_world *world = source->world;
	struct sluice_rail *rail = NULL;
	struct sluice_conn **last;

	if (source->peer_rail < world->rail_count)
		rail = world->rails[source->peer_rail];
	if (source->rail->down || (rail != NULL && rail->down))
		return;
	if (rail == NULL || !rail->listening) {
		sim_conn_refuse(source, -ECONNREFUSED);
		return;
	}
	for (last = &rail->hellos; *last != NULL; last = &(*last)->hello_next)
		;
	*last = source;
	source->hello_next = NULL;
	source->hello_waits = true;
}

void sim_conn_forget_hello(struct sluice_conn *source)
{
	struct sluice_conn **link;

	if (!source->hello_waits)
		return;
	source->hello_waits = false;
	link = &source->world->rails[source->peer_rail]->hellos;
	for (; *link != source; link = &(*link)->hello_next)
		SLUICE_ASSERT(*link != NULL);
	*link = source->hello_next;
}

void sim_conn_refuse(struct sluice_conn *source, int status)
{
	struct sluice_sim_world *world = source->world;

	source->refused_status = status;
	sim_event_add(source->out, SIM_REFUSED, world->now_ns + draw_latency_ns(world), 0);
}

static bool ticket_fits(const struct sluice_conn *target, const struct sluice_conn *source)
{
	return target->opts.role == SLUICE_ROLE_TARGET && !target->matched && !target->lost &&
	       target->opts.lane == source->opts.lane && target->opts.epoch == source->opts.epoch &&
	       memcmp(&target->opts.ticket, &source->opts.ticket, sizeof(target->opts.ticket)) == 0;
}

static void conn_match(struct sluice_conn *target, struct sluice_conn *source)
{
	uint64_t latency_ns = draw_latency_ns(target->world);

	source->in = target->out;
	target->in = source->out;
	source->out->receiver = target;
	target->out->receiver = source;
	source->out->latency_ns = target->out->latency_ns = latency_ns;
	source->matched = target->matched = true;
	target->connected = true;
	sim_events_drop(target->out, 1u << SIM_DEADLINE);
	sim_event_add(source->out, SIM_ACCEPTED, target->world->now_ns + latency_ns, 0);
	sim_trace(source->out, "accepted", latency_ns, 0);
}

void sim_conn_greet(struct sluice_rail *rail, struct sluice_conn *source)
{
	if (rail->down || source->rail->down)
		return; /* while the hello waited */
	for (struct sluice_conn *target = rail->conns; target != NULL; target = target->next) {
		if (ticket_fits(target, source)) {
			conn_match(target, source);
			return;
		}
	}
	sim_conn_refuse(source, -EACCES);
}

/* ---- Death ---- */

/* Tell one end, at a moment of its own. At most one notice per connection is under way. */
static void notice_later(struct sluice_conn *conn, int status)
{
	struct sluice_sim_world *world = conn->world;

	if (conn->lost)
		return;
	conn->refused_status = status;
	sim_event_add(conn->out, SIM_NOTICE,
		world->now_ns + sim_draw(world, 0, world->opts.notice_ns_max), 0);
}

static bool link_alive(const struct sluice_conn *conn)
{
	return conn->matched && !conn->out->dead && !conn->in->dead;
}

/* Both directions stop; the ends do not know yet. */
static void link_die(struct sluice_conn *conn)
{
	conn->world->stats.deaths++;
	sim_pipe_die(conn->out);
	sim_pipe_die(conn->in);
}

void sim_conn_kill(struct sluice_conn *conn, int status)
{
	struct sluice_conn *source =
		conn->opts.role == SLUICE_ROLE_SOURCE ? conn : conn->out->receiver;
	struct sluice_conn *target = source == conn ? conn->out->receiver : conn;

	if (!link_alive(conn))
		return;
	SLUICE_ASSERT(source != NULL);
	SLUICE_ASSERT(target != NULL);
	link_die(conn);
	notice_later(source, status);
	if (!sim_chance(conn->world, conn->world->opts.target_unaware_ppm))
		notice_later(target, status);
}

void sluice_sim_lane_kill(struct sluice_conn *conn)
{
	sim_conn_kill(conn, -ECONNRESET);
}

void sluice_sim_rail_set_down(struct sluice_rail *rail, bool down)
{
	rail->down = down;
	for (struct sluice_conn *conn = rail->conns; conn != NULL && down; conn = conn->next)
		sim_conn_kill(conn, -ENETDOWN);
}

void sluice_sim_rail_break(struct sluice_rail *rail)
{
	sluice_sim_rail_set_down(rail, true);
	for (struct sluice_conn *conn = rail->conns; conn != NULL; conn = conn->next) {
		if (conn->opts.role != SLUICE_ROLE_TARGET || conn->in == NULL || conn->fenced)
			continue;
		sim_pipe_vanish(conn->in);
		conn->unsure = !rail->world->opts.placed_is_visible;
	}
}

static void deadline_passes(struct sluice_conn *conn)
{
	struct sluice_conn *peer = conn->out->receiver;

	sim_conn_forget_hello(conn);
	/* The target may have accepted while the source gives up: then it has to hear of it. */
	if (link_alive(conn)) {
		link_die(conn);
		notice_later(peer, -ECONNRESET);
	}
	conn_lose(conn, -ETIMEDOUT);
}

void sim_conn_event(struct sim_pipe *pipe, enum sim_event_kind kind)
{
	struct sluice_conn *conn = pipe->sender;

	SLUICE_ASSERT(conn != NULL);
	switch (kind) {
	case SIM_HELLO:
		hello_arrives(conn);
		break;
	case SIM_ACCEPTED:
		conn->connected = true;
		sim_events_drop(pipe, 1u << SIM_DEADLINE);
		break;
	case SIM_DEADLINE:
		deadline_passes(conn);
		break;
	case SIM_REFUSED:
	case SIM_NOTICE:
		conn_lose(conn, conn->refused_status);
		break;
	case SIM_DEATH:
		sim_conn_kill(conn, -ECONNRESET);
		break;
	default:
		SLUICE_ASSERT(!"an event of a pipe");
	}
}

/* ---- Fence and close ---- */

bool sim_lane_fence(struct sluice_conn *conn)
{
	struct sluice_conn *peer = conn->out->receiver;

	if (conn->fenced)
		return !conn->unsure;
	conn->fenced = true;
	if (conn->matched) {
		bool alive = link_alive(conn);

		sim_pipe_fence(conn->in);
		if (alive) {
			sim_pipe_die(conn->out);
			notice_later(peer, -ECONNRESET);
		}
	}
	conn_lose(conn, -ECONNABORTED);
	return !conn->unsure;
}

static void rail_unlink(struct sluice_conn *conn)
{
	struct sluice_conn **link = &conn->rail->conns;

	for (; *link != conn; link = &(*link)->next)
		SLUICE_ASSERT(*link != NULL);
	*link = conn->next;
}

void sim_lane_close(struct sluice_conn *conn)
{
	struct sluice_conn *peer;

	if (conn == NULL)
		return;
	peer = conn->out->receiver;
	sim_trace(conn->out, "closes", conn->opts.role, 0);
	sim_conn_forget_hello(conn);
	if (conn->opts.role == SLUICE_ROLE_TARGET) {
		sim_lane_fence(conn);
	} else if (link_alive(conn)) {
		link_die(conn);
		notice_later(peer, -ECONNRESET);
	}
	conn_lose(conn, -ECONNABORTED);
	if (conn->in != NULL) {
		sim_pipe_fence(conn->in); /* SOURCE: what the target sent has nowhere to go */
		conn->in->receiver = NULL;
		sim_pipe_release_if_unused(conn->in);
	}
	sim_events_drop(conn->out, 1u << SIM_DEATH | 1u << SIM_WAKE);
	conn->out->sender = NULL;
	sim_pipe_release_if_unused(conn->out);
	rail_unlink(conn);
	free(conn);
}
