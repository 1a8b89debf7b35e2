/* SPDX-License-Identifier: BSD-3-Clause */
/* engine.c: see engine.h. */
#include "vmm/refvm/engine.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "vmm/refvm/plug.h"
#include "vmm/refvm/refvm.h"

#define RETRY_NS_MIN    (200 * SLUICE_NS_PER_MS)
#define STEADY_NS       (5 * SLUICE_NS_PER_S)
#define RETRY_DOUBLINGS 5 /* up to 6.4 s */
#define QUIT_TIMEOUT_MS 1000
#define END_WAIT_STEPS  200
#define END_WAIT_US     5000

int refvm_engine_add_region(
	struct refvm *r, const struct refvm_region *region, struct sluice_error *err)
{
	struct sluice_vmm_memory memory = {
		.size = sizeof(memory),
		.id = region->id,
		.fd = region->fd,
		.fd_offset = region->fd_offset,
		.len_bytes = region->bytes,
		.gpa = region->gpa,
	};
	int rc = sluice_vmm_memory_add(r->engine.vmm, &memory, err);

	return rc < 0 ? rc
		      : sluice_vmm_feed_bitmap(r->engine.vmm, region->id, region->dirty_fd, err);
}

/* End the process and reap it: at once, or after it had time to end by itself. */
static void reap(pid_t pid, bool at_once)
{
	unsigned int step;

	if (pid <= 0)
		return;
	for (step = 0; !at_once && step < END_WAIT_STEPS; step++) {
		if (waitpid(pid, NULL, WNOHANG) != 0)
			return;
		usleep(END_WAIT_US);
	}
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

static void disconnect(struct refvm_engine *engine)
{
	sluice_watch_remove(engine->watch);
	engine->watch = NULL;
	sluice_vmm_close(engine->vmm);
	engine->vmm = NULL;
	engine->broken = false;
}

static void read_events(struct refvm *r)
{
	struct refvm_engine *engine = &r->engine;
	struct sluice_vmm_event event;
	int rc = 1;

	while (engine->vmm != NULL && !engine->broken) {
		rc = sluice_vmm_next_event(engine->vmm, 0, &event, NULL);
		if (rc <= 0)
			break;
		refvm_migration_event(r, &event);
		sluice_vmm_event_clear(&event);
	}
	if (rc < 0)
		refvm_engine_check(r, rc);
}

static void on_readable(void *ctx, uint32_t events)
{
	struct refvm *r = ctx;

	(void)events;
	read_events(r);
}

int refvm_engine_set(struct refvm *r, const char *parameter, uint64_t value, const char *unit,
	struct sluice_error *err)
{
	char arguments[96];

	snprintf(arguments, sizeof(arguments), "{\"%s\": \"%llu%s\"}", parameter,
		(unsigned long long)value, unit);
	return sluice_vmm_command(r->engine.vmm, "migrate-set-parameters", arguments, NULL, err);
}

/* Give the engine all memory and listen to it. */
static int attach(struct refvm *r, struct sluice_error *err)
{
	int rc = 0;

	refvm_unplugged(r, NULL);
	for (unsigned int i = 0; rc == 0 && i < r->vm.memory.count; i++)
		if (r->vm.memory.region[i].bytes != 0 && !r->vm.memory.region[i].leaving)
			rc = refvm_engine_add_region(r, &r->vm.memory.region[i], err);
	/* Only the VMM knows how much its devices will have to say; the engine predicts with it. */
	if (rc == 0 && r->vm.ballast.bytes != 0)
		rc = refvm_engine_set(r, "device-state-size", r->vm.ballast.bytes, "", err);
	if (rc == 0)
		rc = sluice_watch_add(r->loop, sluice_vmm_fd(r->engine.vmm), EPOLLIN, on_readable,
			r, &r->engine.watch);
	return rc;
}

static int launch(struct refvm *r, struct sluice_error *err)
{
	const struct refvm_options *options = &r->options;
	struct refvm_engine *engine = &r->engine;
	struct sluice_launch opts = {
		.size = sizeof(opts),
		.engine = options->engine[0] != '\0' ? options->engine : NULL,
		.args = options->engine_args,
		.listen_path = options->engine_listen[0] != '\0' ? options->engine_listen : NULL,
		.log_fd = -1,
	};
	int rc;

	rc = sluice_vmm_launch(&opts, &engine->vmm, &engine->pid, err);
	if (rc < 0)
		return rc;
	rc = attach(r, err);
	if (rc < 0) {
		disconnect(engine);
		reap(engine->pid, true);
		return sluice_fail(
			err, rc, "engine", "The engine cannot be used: %s.", strerror(-rc));
	}
	engine->launches++;
	engine->launched_ns = sluice_now_ns();
	return 0;
}

static void try_later(struct refvm_engine *engine)
{
	unsigned int doublings =
		engine->failures < RETRY_DOUBLINGS ? engine->failures : RETRY_DOUBLINGS;

	engine->failures++;
	sluice_timer_set(engine->timer, sluice_now_ns() + (RETRY_NS_MIN << doublings));
}

static void try_now(struct refvm *r)
{
	struct sluice_error err = {.code = 0};

	if (launch(r, &err) < 0) {
		fprintf(stderr, "refvm: engine: %s\n", err.text);
		try_later(&r->engine);
		return;
	}
	refvm_migration_engine_back(r);
	sluice_timer_set(r->engine.timer, sluice_now_ns());
}

/* The guest first: it may have to go on at once. The old process must be gone before a new
   one works on the same records. One that died young is not replaced at once. */
static void replace(struct refvm *r)
{
	struct refvm_engine *engine = &r->engine;

	fprintf(stderr, "refvm: the engine (pid %d) is lost; launching another one\n",
		(int)engine->pid);
	if (engine->pid > 0)
		kill(engine->pid, SIGKILL);
	disconnect(engine);
	refvm_migration_engine_lost(r);
	reap(engine->pid, true);
	engine->pid = 0;
	if (sluice_now_ns() - engine->launched_ns > STEADY_NS)
		engine->failures = 0;
	if (engine->failures == 0) {
		engine->failures++;
		try_now(r);
	} else {
		try_later(engine);
	}
}

static void on_timer(void *ctx, uint64_t now_ns)
{
	struct refvm *r = ctx;

	(void)now_ns;
	if (r->engine.broken)
		replace(r);
	else if (r->engine.vmm == NULL)
		try_now(r);
	else
		read_events(r); /* those that came while a command waited for its answer */
}

int refvm_engine_check(struct refvm *r, int rc)
{
	if ((rc == -EPIPE || rc == -ETIMEDOUT || rc == -EPROTO) && r->engine.vmm != NULL)
		r->engine.broken = true;
	/* Events that came along with the answer are in the handle; no descriptor tells. */
	if (r->engine.vmm != NULL)
		sluice_timer_set(r->engine.timer, sluice_now_ns());
	return rc;
}

int refvm_engine_command(struct refvm *r, const char *name, const char *args_json, char **ret_json,
	struct sluice_error *err)
{
	int rc;

	if (r->engine.vmm == NULL || r->engine.broken)
		return sluice_fail(err, -EPIPE, name, "There is no engine at this moment.");
	rc = sluice_vmm_command(r->engine.vmm, name, args_json, ret_json, err);
	return refvm_engine_check(r, rc);
}

int refvm_engine_reattach(struct refvm *r, struct sluice_error *err)
{
	struct refvm_engine *engine = &r->engine;
	int rc;

	if (engine->vmm == NULL || engine->broken)
		return sluice_fail(err, -EPIPE, "reattach", "There is no engine at this moment.");
	if (r->options.engine_listen[0] == '\0')
		return sluice_fail(err, -EINVAL, "reattach",
			"The engine has no socket to come back by: start refvm with "
			"--engine-listen=PATH.");
	disconnect(engine);
	rc = sluice_vmm_connect(r->options.engine_listen, &engine->vmm, err);
	if (rc == 0)
		rc = attach(r, err);
	if (rc < 0)
		replace(r);
	return rc;
}

int refvm_engine_start(struct refvm *r, struct sluice_error *err)
{
	int rc;

	if (strcmp(r->options.engine, REFVM_ENGINE_NONE) == 0)
		return 0;
	rc = sluice_timer_add(r->loop, on_timer, r, &r->engine.timer);
	if (rc < 0)
		return sluice_fail(err, rc, "engine", "A timer: %s.", strerror(-rc));
	rc = launch(r, err);
	if (rc == 0)
		sluice_timer_set(r->engine.timer, sluice_now_ns());
	return rc;
}

void refvm_engine_stop(struct refvm *r)
{
	bool had_one = r->engine.vmm != NULL;

	sluice_timer_remove(r->engine.timer);
	r->engine.timer = NULL;
	if (had_one) {
		sluice_vmm_set_timeout(r->engine.vmm, QUIT_TIMEOUT_MS);
		sluice_vmm_command(r->engine.vmm, "quit", NULL, NULL, NULL);
	}
	disconnect(&r->engine);
	reap(r->engine.pid, !had_one);
	r->engine.pid = 0;
}
