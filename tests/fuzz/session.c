/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * session.c: fuzz target: both state machines, told what they should not be told.
 *
 * A source and a target in virtual time (tests/unit/session_pair.h). The input is text. Its first
 * character is how far a session goes well before (a step of enum pair_step, a to m). Then one
 * line per event:
 *
 *   S{...}  T{...}   the peer says this to the source, to the target
 *   >  <             what the source (the target) has said arrives
 *   +N               N milliseconds pass
 *   l L              the source's (the target's) peer link is lost
 *   b B              and comes back
 *   c TEXT           the source's VMM: migrate-continue
 *   d D              device-add at the source, at the target
 *   o                device-loaded at the target
 *   y N              dirty-sync-done N
 *   x X              migrate_cancel
 *   r R              session-resolve: committed at the source, aborted at the target
 *   v                the target's VMM is gone
 *   p u              migrate-pause, migrate-recover at the source
 */
#include <errno.h>

#include "engine/peer/messages.h"
#include "tests/fuzz/fuzz.h"
#include "tests/unit/session_pair.h"

#define LINES_MAX 64
#define MS_MAX    50

struct world {
	struct pair pair;
	bool device_added;
	unsigned int devices_announced; /* to the target */
};

static bool link_is_up(const struct world *w, enum pair_host to)
{
	if (to == PAIR_SOURCE)
		return !sluice_source_is_over(w->pair.source);
	return w->pair.target != NULL;
}

static void lose(struct world *w, enum pair_host host)
{
	if (host == PAIR_SOURCE)
		sluice_source_peer_lost(w->pair.source, -ECONNRESET, "cut");
	else if (w->pair.target != NULL)
		sluice_target_peer_lost(w->pair.target, "cut");
}

/* As the peer link does it: what does not fit the schema ends the link. */
static void say(struct world *w, enum pair_host to, const char *text, size_t bytes)
{
	json_t *message = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, NULL);
	struct sluice_error err = {0};

	if (!link_is_up(w, to) || !json_is_object(message)) {
		json_decref(message);
		return;
	}
	if (sluice_peer_check(message, &err) < 0) {
		FUZZ_CHECK(err.code != 0 && err.text[0] != '\0');
		json_decref(message);
		lose(w, to);
		return;
	}
	w->devices_announced +=
		to == PAIR_TARGET && strcmp(sluice_peer_type(message), "device") == 0;
	pair_tell(&w->pair, to, message);
}

static void command(struct world *w, char what, const char *text)
{
	struct sluice_source *source = w->pair.source;
	struct sluice_target *target = w->pair.target;
	struct sluice_error err = {0};
	int r = 0;

	if (what == 'c')
		r = strcmp(text, "commit") == 0 ? pair_give(&w->pair, &err)
						: sluice_source_continue(source, text, &err);
	else if (what == 'y')
		r = sluice_source_dirty_sync_done(source, strtoull(text, NULL, 10), 0, &err);
	else if (what == 'x')
		r = sluice_source_cancel(source, &err);
	else if (what == 'p')
		r = sluice_source_pause(source, &err);
	else if (what == 'u')
		r = sluice_source_recover(source, false, &err);
	else if (what == 'r')
		r = sluice_source_resolve(source, SLUICE_COMMITTED, &err);
	else if (what == 'd' && !w->device_added)
		r = sluice_source_device_add(source, PAIR_DEVICE, -1, &err);
	else if (what == 'D' && target != NULL && w->devices_announced == 0)
		r = sluice_target_device_add(target, PAIR_DEVICE, -1, &err);
	else if (what == 'o' && target != NULL)
		r = sluice_target_device_loaded(target, PAIR_DEVICE, &err);
	else if (what == 'X' && target != NULL)
		r = sluice_target_cancel(target, &err);
	else if (what == 'R' && target != NULL)
		r = sluice_target_resolve(target, SLUICE_ABORTED, &err);
	w->device_added |= what == 'd' && r == 0;
	FUZZ_CHECK((r < 0) == (err.code != 0));
}

static void event(struct world *w, const char *line, size_t bytes)
{
	char text[32];

	snprintf(text, sizeof(text), "%.*s", bytes > 2 ? (int)bytes - 2 : 0, line + 2);
	switch (line[0]) {
	case 'S':
		say(w, PAIR_SOURCE, line + 1, bytes - 1);
		break;
	case 'T':
		say(w, PAIR_TARGET, line + 1, bytes - 1);
		break;
	case '>':
		pair_deliver(&w->pair, PAIR_SOURCE);
		break;
	case '<':
		pair_deliver(&w->pair, PAIR_TARGET);
		break;
	case '+':
		pair_pass_ms(&w->pair, (unsigned int)(strtoul(text, NULL, 10) % MS_MAX));
		break;
	case 'l':
	case 'L':
		lose(w, line[0] == 'l' ? PAIR_SOURCE : PAIR_TARGET);
		break;
	case 'b': /* only a source that asked for it is connected */
		if (w->pair.side[PAIR_SOURCE].reconnects > 0)
			sluice_source_connected(w->pair.source);
		w->pair.side[PAIR_SOURCE].reconnects = 0;
		break;
	case 'B':
		if (w->pair.target != NULL)
			sluice_target_peer_back(w->pair.target);
		break;
	case 'v':
		if (w->pair.target != NULL)
			sluice_target_vmm_lost(w->pair.target);
		break;
	default:
		command(w, line[0], text);
		break;
	}
}

/* The guest is the source's until its VMM has given it away, and no page of it has changed. */
static void check(const struct world *w)
{
	const struct pair_side *source = &w->pair.side[PAIR_SOURCE];
	const struct pair_side *target = &w->pair.side[PAIR_TARGET];

	if (strcmp(sluice_source_status(w->pair.source), "completed") == 0)
		FUZZ_CHECK(source->vmm_gave);
	FUZZ_CHECK(source->record != SLUICE_COMMITTED || source->vmm_gave);
	if (w->pair.target != NULL &&
		strcmp(sluice_target_status(w->pair.target), "completed") == 0)
		FUZZ_CHECK(target->record == SLUICE_COMMITTED);
	for (size_t i = 0; i < PAIR_REGION_BYTES; i += 512)
		FUZZ_CHECK(source->memory[i] == 0x5a);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz_input input = {data, size};
	struct world w = {0};
	const char *line;
	size_t bytes;
	bool ended;

	if (size == 0 || data[0] < 'a' || data[0] >= 'a' + PAIR_STEPS)
		return 0;
	pair_start(&w.pair, (enum pair_step)(data[0] - 'a'));
	w.device_added = data[0] >= 'a' + PAIR_DRAIN;
	fuzz_line(&input, &line, &bytes, &ended);
	for (int i = 0; i < LINES_MAX && fuzz_line(&input, &line, &bytes, &ended); i++) {
		if (bytes > 0)
			event(&w, line, bytes);
		for (int host = 0; host < PAIR_HOSTS; host++)
			if (w.pair.side[host].out_count > PAIR_QUEUE / 2)
				pair_forget(&w.pair, (enum pair_host)host);
	}
	check(&w);
	pair_stop(&w.pair);
	return 0;
}
