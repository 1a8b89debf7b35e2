/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * commands.c: the commands of a VMM as functions: each passes its descriptor, if any, and
 * builds the arguments. Uses only the public interface. Blocks as sluice_vmm_command().
 */
#include <errno.h>
#include <stdlib.h>

#include <jansson.h>

#include "vmm/libsluice/internal.h"

/* Steals @args. */
static int command(struct sluice_vmm *vmm, const char *name, json_t *args, struct sluice_error *err)
{
	char *text = args != NULL ? json_dumps(args, JSON_COMPACT) : NULL;
	int rc;

	json_decref(args);
	if (text == NULL)
		return sluice_fail(err, -EINVAL, name, "an argument is not UTF-8 text");
	rc = sluice_vmm_command(vmm, name, text, NULL, err);
	free(text);
	return rc;
}

/* Pass @fd under @fdname, then run the command that takes it. Steals @args. */
static int command_with_fd(struct sluice_vmm *vmm, const char *name, const char *fdname, int fd,
	json_t *args, struct sluice_error *err)
{
	struct sluice_error ignored = {0};
	json_t *close_args;
	int rc = sluice_vmm_getfd(vmm, fdname, fd, err);

	if (rc < 0) {
		json_decref(args);
		return rc;
	}
	rc = command(vmm, name, args, err);
	if (rc == -EINVAL || rc == -ENOSYS) { /* perhaps refused before it took the descriptor */
		close_args = json_pack("{s:s}", "fdname", fdname);
		command(vmm, "closefd", close_args, &ignored);
	}
	return rc;
}

int sluice_vmm_memory_add(
	struct sluice_vmm *vmm, const struct sluice_vmm_memory *memory, struct sluice_error *err)
{
	if (memory->size < sizeof(*memory))
		return sluice_fail(err, -EINVAL, "memory-add",
			"struct sluice_vmm_memory has %zu bytes, expected %zu: set its size",
			memory->size, sizeof(*memory));
	if (memory->len_bytes > INT64_MAX || memory->gpa > INT64_MAX ||
		memory->fd_offset > INT64_MAX)
		return sluice_fail(err, -ERANGE, "memory-add", "no memory is that large");
	return command_with_fd(vmm, "memory-add", memory->id, memory->fd,
		json_pack("{s:s,s:s,s:I,s:I,s:I}", "id", memory->id, "fdname", memory->id, "size",
			(json_int_t)memory->len_bytes, "gpa", (json_int_t)memory->gpa, "offset",
			(json_int_t)memory->fd_offset),
		err);
}

int sluice_vmm_memory_remove(struct sluice_vmm *vmm, const char *id, struct sluice_error *err)
{
	json_t *args = json_pack("{s:s}", "id", id), *reply;
	char *text = args != NULL ? json_dumps(args, JSON_COMPACT) : NULL, *answer = NULL;
	int rc;

	json_decref(args);
	if (text == NULL)
		return sluice_fail(err, -EINVAL, "memory-remove", "an argument is not UTF-8 text");
	rc = sluice_vmm_command(vmm, "memory-remove", text, &answer, err);
	free(text);
	if (rc < 0)
		return rc;
	reply = json_loads(answer, 0, NULL);
	rc = json_is_false(json_object_get(reply, "removed")) ? 1 : 0;
	json_decref(reply);
	free(answer);
	return rc;
}

int sluice_vmm_memory_discard(struct sluice_vmm *vmm, const char *id, uint64_t offset,
	uint64_t len_bytes, struct sluice_error *err)
{
	if (offset > INT64_MAX || len_bytes > INT64_MAX)
		return sluice_fail(err, -ERANGE, "memory-discard", "no memory is that large");
	return command(vmm, "memory-discard",
		json_pack("{s:s,s:I,s:I}", "id", id, "offset", (json_int_t)offset, "size",
			(json_int_t)len_bytes),
		err);
}

int sluice_vmm_feed_bitmap(struct sluice_vmm *vmm, const char *id, int fd, struct sluice_error *err)
{
	return command_with_fd(vmm, "feed-add", id, fd,
		json_pack("{s:s,s:s,s:s}", "region", id, "type", "bitmap", "fdname", id), err);
}

int sluice_vmm_device_add(struct sluice_vmm *vmm, const char *id, int fd, struct sluice_error *err)
{
	return command_with_fd(
		vmm, "device-add", id, fd, json_pack("{s:s,s:s}", "device", id, "fdname", id), err);
}

int sluice_vmm_dirty_sync_done(struct sluice_vmm *vmm, uint64_t id, struct sluice_error *err)
{
	json_t *arguments = json_pack("{s:I}", "id", (json_int_t)id);
	uint64_t worked_us;

	if (sluice_vmm_sync_age(vmm, id, &worked_us))
		json_object_set_new(arguments, "worked-us", json_integer((json_int_t)worked_us));
	return command(vmm, "dirty-sync-done", arguments, err);
}

int sluice_vmm_migrate_continue(struct sluice_vmm *vmm, const char *state, struct sluice_error *err)
{
	return command(vmm, "migrate-continue", json_pack("{s:s}", "state", state), err);
}

int sluice_vmm_device_loaded(struct sluice_vmm *vmm, const char *id, struct sluice_error *err)
{
	return command(vmm, "device-loaded", json_pack("{s:s}", "device", id), err);
}
