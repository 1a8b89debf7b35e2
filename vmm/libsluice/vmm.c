/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * vmm.c: one connection to an engine: commands that wait for their answer, and the events
 * that arrive meanwhile. Starting an engine is in launch.c, the commands with a function of
 * their own in commands.c. One thread per handle; blocks at most for the handle's time-out.
 */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/qmp.h"
#include "vmm/libsluice/internal.h"

#define TIMEOUT_MS_DEFAULT 30000
#define EVENTS_KEPT_MAX    4096 /* a VMM that never takes its events has lost its engine */
#define PROGRESS_KEPT_MAX  64 /* beyond it MIGRATION_PROGRESS is not worth keeping */

struct kept_event {
	STAILQ_ENTRY(kept_event) link;
	json_t *message;
};

#define WORKED_US_MAX 3600000000ull /* of dirty-sync-done */

struct sluice_vmm {
	struct sluice_wire *wire;
	STAILQ_HEAD(, kept_event) events;
	size_t event_count;
	uint64_t last_id;
	unsigned int timeout_ms;
	bool gone; /* the engine closed the connection, or it is of no use any more */
	uint64_t sync_id, sync_taken_ns; /* of the last DIRTY_SYNC that the caller took; 0: none */
};

/* ---- events that arrive while something else is awaited ---- */

static int keep_event(struct sluice_vmm *vmm, json_t *message, struct sluice_error *err)
{
	const char *name = json_string_value(json_object_get(message, "event"));
	struct kept_event *kept;

	if (vmm->event_count >= PROGRESS_KEPT_MAX && name != NULL &&
		strcmp(name, "MIGRATION_PROGRESS") == 0)
		return 0;
	kept = vmm->event_count < EVENTS_KEPT_MAX ? malloc(sizeof(*kept)) : NULL;
	if (kept == NULL)
		return sluice_fail(err, -ENOBUFS, SLUICE_VMM_WHERE,
			"too many events wait: take them with sluice_vmm_next_event()");
	kept->message = json_incref(message);
	STAILQ_INSERT_TAIL(&vmm->events, kept, link);
	vmm->event_count++;
	return 0;
}

/* The oldest kept event, the caller's reference; NULL when there is none. */
static json_t *take_event(struct sluice_vmm *vmm)
{
	struct kept_event *kept = STAILQ_FIRST(&vmm->events);
	json_t *message;

	if (kept == NULL)
		return NULL;
	STAILQ_REMOVE_HEAD(&vmm->events, link);
	vmm->event_count--;
	message = kept->message;
	free(kept);
	return message;
}

/* ---- the wire ---- */

static int fail_gone(struct sluice_error *err)
{
	return sluice_fail_scope(err, SLUICE_SCOPE_ENGINE, -EPIPE, SLUICE_VMM_WHERE,
		"the engine has closed the connection");
}

static uint64_t deadline_after(int timeout_ms)
{
	if (timeout_ms < 0)
		return SLUICE_NEVER;
	return sluice_now_ns() + (uint64_t)timeout_ms * SLUICE_NS_PER_MS;
}

/* Milliseconds for poll(), rounded up so that it does not return just before the deadline. */
static int poll_time(uint64_t deadline_ns)
{
	uint64_t now_ns = sluice_now_ns(), left_ms;

	if (deadline_ns == SLUICE_NEVER)
		return -1;
	if (deadline_ns <= now_ns)
		return 0;
	left_ms = (deadline_ns - now_ns + SLUICE_NS_PER_MS - 1) / SLUICE_NS_PER_MS;
	return left_ms > INT32_MAX ? INT32_MAX : (int)left_ms;
}

/* Wait until the socket can do @events; 0 on time-out, 1 otherwise. */
static int wait_for(struct sluice_vmm *vmm, short events, uint64_t deadline_ns)
{
	struct pollfd pfd = {.fd = sluice_wire_fd(vmm->wire), .events = events};
	int rc;

	do {
		rc = poll(&pfd, 1, poll_time(deadline_ns));
	} while (rc < 0 && errno == EINTR);
	return rc < 0 ? -errno : rc;
}

/* The next message of any kind: 1, or 0 when none came in time. */
static int next_message(struct sluice_vmm *vmm, uint64_t deadline_ns, json_t **ret_message,
	struct sluice_error *err)
{
	for (;;) {
		int rc = sluice_wire_next(vmm->wire, ret_message, err);

		if (rc != 0)
			return rc;
		if (vmm->gone)
			return fail_gone(err);
		rc = wait_for(vmm, POLLIN, deadline_ns);
		if (rc == 0)
			return 0;
		rc = rc < 0 ? rc : sluice_wire_receive(vmm->wire, err);
		if (rc == -EPIPE)
			vmm->gone = true; /* what arrived before is still taken */
		else if (rc < 0)
			return rc;
	}
}

static int send_message(struct sluice_vmm *vmm, json_t *message, int fd, uint64_t deadline_ns,
	struct sluice_error *err)
{
	int rc = sluice_wire_send(vmm->wire, message, fd);

	if (rc < 0)
		return sluice_fail(err, rc, SLUICE_VMM_WHERE, "cannot send: %s", strerror(-rc));
	while ((rc = sluice_wire_flush(vmm->wire)) == 0) {
		rc = wait_for(vmm, POLLOUT, deadline_ns);
		if (rc == 0)
			return sluice_fail(
				err, -ETIMEDOUT, SLUICE_VMM_WHERE, "the engine does not read");
		if (rc < 0)
			break;
	}
	if (rc >= 0)
		return 0;
	/* Its last words may say why. */
	vmm->gone = true;
	return fail_gone(err);
}

/* ---- answers ---- */

static int fail_answer(const json_t *error, const char *name, struct sluice_error *err)
{
	const char *klass = json_string_value(json_object_get(error, "class"));
	const char *desc = json_string_value(json_object_get(error, "desc"));
	bool not_found = klass != NULL && strcmp(klass, "CommandNotFound") == 0;

	return sluice_fail(err, not_found ? -ENOSYS : -EINVAL, name, "%s",
		desc != NULL ? desc : "the engine refused without a reason");
}

/* Wait for the answer to command @id; answers to commands given up earlier are dropped. */
static int await_answer(struct sluice_vmm *vmm, const char *name, uint64_t id, uint64_t deadline_ns,
	json_t **ret_value, struct sluice_error *err)
{
	for (;;) {
		const json_t *answer_id, *error;
		json_t *message;
		int rc = next_message(vmm, deadline_ns, &message, err);

		if (rc < 0)
			return rc;
		if (rc == 0)
			return sluice_fail(err, -ETIMEDOUT, SLUICE_VMM_WHERE,
				"the engine does not answer '%s'", name);
		if (json_object_get(message, "event") != NULL)
			rc = keep_event(vmm, message, err);
		answer_id = json_object_get(message, "id");
		error = json_object_get(message, "error");
		if (rc >= 0 && error != NULL && answer_id == NULL) {
			/* It could not read what we sent. */
			rc = fail_answer(error, name, err);
		} else if (rc >= 0 && json_is_integer(answer_id) &&
			   (uint64_t)json_integer_value(answer_id) == id) {
			*ret_value = json_incref(json_object_get(message, "return"));
			rc = error != NULL ? fail_answer(error, name, err) : 0;
			json_decref(message);
			return rc;
		}
		json_decref(message);
		if (rc < 0)
			return rc;
	}
}

/* Run a command; steals @args (NULL: none). *ret_value may come out NULL. */
static int run(struct sluice_vmm *vmm, const char *name, json_t *args, int fd, json_t **ret_value,
	struct sluice_error *err)
{
	uint64_t deadline_ns = deadline_after((int)vmm->timeout_ms);
	uint64_t id = ++vmm->last_id;
	json_t *message = json_pack("{s:s,s:I}", "execute", name, "id", (json_int_t)id);
	int rc;

	if (message == NULL ||
		(args != NULL && json_object_set_new(message, "arguments", args) < 0)) {
		json_decref(message);
		return sluice_fail(err, -ENOMEM, SLUICE_VMM_WHERE, "out of memory");
	}
	if (vmm->gone) {
		json_decref(message);
		return fail_gone(err);
	}
	rc = send_message(vmm, message, fd, deadline_ns, err);
	return rc < 0 ? rc : await_answer(vmm, name, id, deadline_ns, ret_value, err);
}

static int to_text(json_t *value, char **ret_json, struct sluice_error *err)
{
	char *text = json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY);

	if (text == NULL)
		return sluice_fail(err, -EBADMSG, SLUICE_VMM_WHERE, "the answer has no value");
	*ret_json = text;
	return 0;
}

int sluice_vmm_command(struct sluice_vmm *vmm, const char *name, const char *args_json,
	char **ret_json, struct sluice_error *err)
{
	json_t *args = NULL, *value = NULL;
	json_error_t why;
	int rc;

	if (args_json != NULL) {
		args = json_loads(args_json, JSON_REJECT_DUPLICATES, &why);
		if (!json_is_object(args)) {
			json_decref(args);
			return sluice_fail(err, -EINVAL, name, "arguments: %s",
				args == NULL ? why.text : "not a JSON object");
		}
	}
	rc = run(vmm, name, args, -1, &value, err);
	if (rc == 0 && ret_json != NULL)
		rc = to_text(value, ret_json, err);
	json_decref(value);
	return rc;
}

int sluice_vmm_getfd(struct sluice_vmm *vmm, const char *name, int fd, struct sluice_error *err)
{
	json_t *value = NULL;
	json_t *args = json_pack("{s:s}", "fdname", name);
	int rc;

	if (args == NULL)
		return sluice_fail(err, -EINVAL, "getfd", "the name is not UTF-8 text");
	if (fd < 0) {
		json_decref(args);
		return sluice_fail(err, -EBADF, "getfd", "%d is not a descriptor", fd);
	}
	rc = run(vmm, "getfd", args, fd, &value, err);
	json_decref(value);
	return rc;
}

/* ---- life ---- */

static int negotiate(struct sluice_vmm *vmm, struct sluice_error *err)
{
	json_t *message, *value = NULL;
	bool greeted;
	int rc = next_message(vmm, deadline_after((int)vmm->timeout_ms), &message, err);

	if (rc < 0)
		return rc;
	if (rc == 0)
		return sluice_fail(err, -ETIMEDOUT, SLUICE_VMM_WHERE, "the engine does not greet");
	greeted = json_object_get(message, "QMP") != NULL;
	json_decref(message);
	if (!greeted)
		return sluice_fail(err, -EPROTO, SLUICE_VMM_WHERE,
			"no QMP greeting: something else than an engine answers");
	rc = run(vmm, "qmp_capabilities", NULL, -1, &value, err);
	json_decref(value);
	return rc;
}

int sluice_vmm_open(int fd, struct sluice_vmm **ret_vmm, struct sluice_error *err)
{
	struct sluice_vmm *vmm = calloc(1, sizeof(*vmm));
	int rc;

	if (vmm == NULL) {
		close(fd);
		return sluice_fail(err, -ENOMEM, SLUICE_VMM_WHERE, "out of memory");
	}
	STAILQ_INIT(&vmm->events);
	vmm->timeout_ms = TIMEOUT_MS_DEFAULT;
	rc = sluice_wire_create(fd, &vmm->wire);
	if (rc < 0)
		sluice_fail(err, rc, SLUICE_VMM_WHERE, "socket: %s", strerror(-rc));
	else
		rc = negotiate(vmm, err);
	if (rc < 0) {
		sluice_vmm_close(vmm);
		return rc;
	}
	*ret_vmm = vmm;
	return 0;
}

int sluice_vmm_connect(const char *path, struct sluice_vmm **ret_vmm, struct sluice_error *err)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd, rc;

	if (strlen(path) >= sizeof(addr.sun_path))
		return sluice_fail(err, -ENAMETOOLONG, SLUICE_VMM_WHERE,
			"%.128s...: longer than a socket's path may be", path);
	memcpy(addr.sun_path, path, strlen(path));
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return sluice_fail(err, -errno, SLUICE_VMM_WHERE, "socket: %s", strerror(errno));
	if (connect(fd, (const struct sockaddr *)&addr, sizeof(addr)) < 0) {
		rc = -errno;
		close(fd);
		return sluice_fail(
			err, rc, SLUICE_VMM_WHERE, "cannot connect to %s: %s", path, strerror(-rc));
	}
	return sluice_vmm_open(fd, ret_vmm, err);
}

void sluice_vmm_close(struct sluice_vmm *vmm)
{
	json_t *message;

	if (vmm == NULL)
		return;
	while ((message = take_event(vmm)) != NULL)
		json_decref(message);
	sluice_wire_destroy(vmm->wire);
	free(vmm);
}

int sluice_vmm_fd(const struct sluice_vmm *vmm)
{
	return sluice_wire_fd(vmm->wire);
}

void sluice_vmm_set_timeout(struct sluice_vmm *vmm, unsigned int timeout_ms)
{
	vmm->timeout_ms = timeout_ms > INT32_MAX ? INT32_MAX : timeout_ms;
}

/* ---- events ---- */

/* The first of @data's members @a and @b that is a string. */
static const char *text_member(const json_t *data, const char *a, const char *b)
{
	const char *text = json_string_value(json_object_get(data, a));

	if (text == NULL)
		text = json_string_value(json_object_get(data, b));
	return text != NULL ? text : "";
}

static int fill_event(json_t *message, struct sluice_vmm_event *ret_event, struct sluice_error *err)
{
	const char *name = json_string_value(json_object_get(message, "event"));
	json_t *data = json_object_get(message, "data");
	const json_t *id = json_object_get(data, "id");
	struct sluice_vmm_event event = {{0}};

	const char *text = text_member(data, "status", "device");

	if (id == NULL)
		id = json_object_get(data, "percent");
	if (text[0] == '\0')
		text = text_member(data, "id", "id"); /* of a region; other ids are numbers */
	if (name == NULL || (data != NULL && !json_is_object(data)))
		return sluice_fail(err, -EBADMSG, SLUICE_VMM_WHERE,
			"an event without a name, or with data that is no object");
	event.data_json = data != NULL ? json_dumps(data, JSON_COMPACT) : strdup("{}");
	if (event.data_json == NULL)
		return sluice_fail(err, -ENOMEM, SLUICE_VMM_WHERE, "no memory for an event");
	snprintf(event.name, sizeof(event.name), "%s", name);
	snprintf(event.text, sizeof(event.text), "%s", text);
	if (json_is_integer(id))
		event.id = (uint64_t)json_integer_value(id);
	*ret_event = event;
	return 1;
}

int sluice_vmm_next_event(struct sluice_vmm *vmm, int timeout_ms,
	struct sluice_vmm_event *ret_event, struct sluice_error *err)
{
	uint64_t deadline_ns = deadline_after(timeout_ms);
	json_t *message = take_event(vmm);
	int rc = 1;

	while (message == NULL) {
		rc = next_message(vmm, deadline_ns, &message, err);
		if (rc <= 0)
			return rc;
		if (json_object_get(message, "event") != NULL)
			break;
		json_decref(message); /* the answer to a command that was given up */
		message = NULL;
	}
	rc = fill_event(message, ret_event, err);
	json_decref(message);
	if (rc == 1 && strcmp(ret_event->name, "DIRTY_SYNC") == 0) {
		vmm->sync_id = ret_event->id;
		vmm->sync_taken_ns = sluice_now_ns();
	}
	return rc;
}

bool sluice_vmm_sync_age(const struct sluice_vmm *vmm, uint64_t id, uint64_t *ret_age_us)
{
	if (vmm->sync_taken_ns == 0 || vmm->sync_id != id)
		return false;
	*ret_age_us = (sluice_now_ns() - vmm->sync_taken_ns) / SLUICE_NS_PER_US;
	return *ret_age_us <= WORKED_US_MAX; /* longer is no news, and the engine takes no more */
}

void sluice_vmm_event_clear(struct sluice_vmm_event *event)
{
	free(event->data_json);
	*event = (struct sluice_vmm_event){{0}};
}
