/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * engines_link.c: the peer link: reliable and ordered, each letter with its own delay, until it
 * is cut. Then each end learns of it at its own moment, or never, and letters under way may still
 * arrive or be gone. See engines_internal.h.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/assert.h"
#include "engine/peer/messages.h"
#include "tests/sim/engines_internal.h"

static uint64_t latency(struct run *run)
{
	return sluice_random_between(&run->random, run->plan.link_ns_min, run->plan.link_ns_max);
}

struct link *link_connect(struct engine *source)
{
	struct run *run = source->run;
	struct link *link = calloc(1, sizeof(*link));

	SLUICE_ASSERT(link != NULL);
	SLUICE_ASSERT(run->link_count < ENGINES_LINKS_MAX);
	link->number = run->link_count;
	run->links[run->link_count++] = link;
	link->end[SOURCE] = source;
	link->connecting = true;
	link->connect_ns = run_now(run) + 2 * latency(run);
	link->down_ns[SOURCE] = link->down_ns[TARGET] = SLUICE_NEVER;
	return link;
}

static void drop_letters(struct link *link, enum host to)
{
	while (link->first[to] != NULL) {
		struct letter *letter = link->first[to];

		link->first[to] = letter->next;
		json_decref(letter->message);
		free(letter);
	}
	link->last[to] = NULL;
}

void link_send(struct link *link, enum host from, const json_t *message)
{
	enum host to = from == SOURCE ? TARGET : SOURCE;
	struct run *run = link->end[from]->run;
	struct letter *letter;

	if (link->cut || link->end[to] == NULL)
		return; /* into the void, as with a socket */
	letter = calloc(1, sizeof(*letter));
	SLUICE_ASSERT(letter != NULL);
	letter->message = json_deep_copy(message);
	letter->due_ns = run_now(run) + latency(run);
	if (letter->due_ns < link->last_due_ns[to])
		letter->due_ns = link->last_due_ns[to];
	link->last_due_ns[to] = letter->due_ns;
	if (link->last[to] == NULL)
		link->first[to] = letter;
	else
		link->last[to]->next = letter;
	link->last[to] = letter;
}

/* The other end learns of it behind what was sent before. */
void link_close(struct link *link, enum host end)
{
	enum host other = end == SOURCE ? TARGET : SOURCE;
	uint64_t at_ns;

	if (link == NULL || link->end[end] == NULL)
		return;
	at_ns = run_now(link->end[end]->run) + latency(link->end[end]->run);
	link->end[end] = NULL;
	drop_letters(link, end);
	if (at_ns < link->last_due_ns[other])
		at_ns = link->last_due_ns[other];
	if (!link->cut && at_ns < link->down_ns[other])
		link->down_ns[other] = at_ns;
}

void link_cut(struct run *run, struct link *link)
{
	if (link->cut)
		return;
	link->cut = true;
	run->stats->link_cuts++;
	run_say(run, "the peer link is cut");
	for (int end = 0; end < HOSTS; end++) {
		if (run_chance(run, 300000)) {
			run->stats->link_silent++;
			link->down_ns[end] = SLUICE_NEVER;
		} else {
			link->down_ns[end] = run_now(run) + run_delay(run, 5 * SLUICE_NS_PER_MS);
		}
		if (run_chance(run, 500000))
			drop_letters(link, (enum host)end);
	}
}

bool link_any_letters(const struct run *run)
{
	for (uint32_t i = 0; i < run->link_count; i++) {
		const struct link *link = run->links[i];

		for (int end = 0; end < HOSTS; end++)
			if (link->end[end] != NULL && link->first[end] != NULL)
				return true;
		if (link->connecting && link->end[SOURCE] != NULL)
			return true;
	}
	return false;
}

/* ---- what is due ---- */

static bool reachable(const struct run *run)
{
	return run->engines[TARGET].alive && run->engines[TARGET].listens &&
	       run_now(run) >= run->partition_until_ns;
}

static void connect_ends(struct run *run, struct link *link)
{
	struct engine *source = link->end[SOURCE];

	link->connecting = false;
	if (source == NULL)
		return;
	if (!reachable(run)) {
		link->end[SOURCE] = NULL;
		bool partition = run_now(run) < run->partition_until_ns;

		run_say(run, "the target cannot be reached");
		engine_link_down(source, link, partition ? -EHOSTUNREACH : -ECONNREFUSED,
			partition ? "no route to the target" : "connection refused");
		return;
	}
	link->end[TARGET] = &run->engines[TARGET];
	link->stranger = true;
	run_say(run, "peer link up");
	engine_link_up(source);
}

static void deliver(struct run *run, struct link *link, enum host to)
{
	struct letter *letter = link->first[to];
	struct sluice_error err = {0};

	link->first[to] = letter->next;
	if (letter->next == NULL)
		link->last[to] = NULL;
	if (run->trace) {
		char *text = json_dumps(letter->message, JSON_COMPACT);

		run_say(run, "%s hears %.200s", to == SOURCE ? "source" : "target", text);
		free(text);
	}
	if (sluice_peer_check(letter->message, &err) < 0)
		oracle_complain(run->oracle, "a message that is none: %s", err.text);
	else
		engine_link_message(link->end[to], link, letter->message);
	json_decref(letter->message);
	free(letter);
}

static void down(struct link *link, enum host end)
{
	struct engine *engine = link->end[end];

	link->down_ns[end] = SLUICE_NEVER;
	link_close(link, end);
	engine_link_down(engine, link, -ECONNRESET, "connection reset");
}

/* One thing of this link that is due; false when there is none. */
static bool link_step(struct run *run, struct link *link, uint64_t now_ns)
{
	int first = run_chance(run, 500000) ? SOURCE : TARGET;

	if (link->connecting) {
		if (link->connect_ns > now_ns)
			return false;
		connect_ends(run, link);
		return true;
	}
	for (int i = 0; i < HOSTS; i++) {
		enum host end = (enum host)(first ^ i);

		if (link->end[end] == NULL)
			continue;
		if (link->first[end] != NULL && link->first[end]->due_ns <= now_ns &&
			link->first[end]->due_ns <= link->down_ns[end]) {
			deliver(run, link, end);
			return true;
		}
		if (link->down_ns[end] <= now_ns) {
			down(link, end);
			return true;
		}
	}
	return false;
}

static void earliest(uint64_t *ret_ns, uint64_t at_ns)
{
	if (at_ns < *ret_ns)
		*ret_ns = at_ns;
}

uint64_t links_step(void *ctx, uint64_t now_ns)
{
	struct run *run = ctx;
	uint64_t next_ns = SLUICE_NEVER;

	for (uint32_t i = 0; i < run->link_count; i++) {
		struct link *link = run->links[i];

		if (link_step(run, link, now_ns))
			return now_ns;
		if (link->connecting)
			earliest(&next_ns, link->connect_ns);
		for (int end = 0; end < HOSTS; end++) {
			if (link->end[end] == NULL || link->connecting)
				continue;
			if (link->first[end] != NULL)
				earliest(&next_ns, link->first[end]->due_ns);
			earliest(&next_ns, link->down_ns[end]);
		}
	}
	return next_ns;
}

void links_destroy(struct run *run)
{
	for (uint32_t i = 0; i < run->link_count; i++) {
		drop_letters(run->links[i], SOURCE);
		drop_letters(run->links[i], TARGET);
		free(run->links[i]);
	}
	run->link_count = 0;
}
