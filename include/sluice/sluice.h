/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * sluice.h: libsluice, the VMM's side of the VMM socket.
 *
 * A VMM launches an engine (or connects to one), adds its guest memory once, and
 * answers events. All calls speak the QMP grammar over one UNIX socket; the
 * reference page of commands and events is docs/vmm-socket.md.
 *
 * Threading: a struct sluice_vmm is used by one thread at a time. Blocking: calls
 * wait for the engine's answer, at most `timeout_ms` of the handle (default 30 s);
 * events that arrive meanwhile are kept in order for sluice_vmm_next_event().
 * Errors: 0 or a count on success, -errno on failure, described in *err (may be NULL).
 */
#ifndef SLUICE_SLUICE_H
#define SLUICE_SLUICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include <sluice/error.h>

#ifdef __cplusplus
extern "C" {
#endif

struct sluice_vmm; /* one connection to an engine */

struct sluice_launch {
	size_t size; /* sizeof(struct sluice_launch) */
	const char *engine; /* path of sluiced; NULL: $SLUICE_ENGINE, then PATH */
	const char *const *args; /* more arguments, NULL-terminated; may be NULL */
	const char *listen_path; /* also serve this path (for `sluice status`); may be NULL */
	int log_fd; /* the engine's stderr; -1: inherit */
};

/* Start sluiced with an inherited socket and connect to it. The engine ends when the
   connection closes (after its linger_s). @ret_pid may be NULL; the caller reaps it. */
int sluice_vmm_launch(const struct sluice_launch *opts, struct sluice_vmm **ret_vmm, pid_t *ret_pid,
	struct sluice_error *err);

/* Connect to an engine that was started with --listen. */
int sluice_vmm_connect(const char *path, struct sluice_vmm **ret_vmm, struct sluice_error *err);

/* Close the connection and free the handle; kept events are dropped. NULL is allowed. */
void sluice_vmm_close(struct sluice_vmm *vmm);

/* A descriptor that is readable when sluice_vmm_next_event(vmm, 0, ..) may return one.
   Owned by the handle. Drain events until it returns 0 before polling. */
int sluice_vmm_fd(const struct sluice_vmm *vmm);
void sluice_vmm_set_timeout(struct sluice_vmm *vmm, unsigned int timeout_ms);

/*
 * Run any command. @args_json: a JSON object, or NULL for none. @ret_json, if not NULL,
 * receives the "return" value as JSON text; free() it. An error answer becomes a negative
 * code: -EINVAL (GenericError), -ENOSYS (CommandNotFound), with the engine's words in *err.
 * -EPIPE when the engine is gone, -ETIMEDOUT when it does not answer.
 */
int sluice_vmm_command(struct sluice_vmm *vmm, const char *name, const char *args_json,
	char **ret_json, struct sluice_error *err);

/* Pass a descriptor under a name (`getfd`); the engine gets a copy, the caller keeps @fd. */
int sluice_vmm_getfd(struct sluice_vmm *vmm, const char *name, int fd, struct sluice_error *err);

/* A range of guest memory backed by a memfd, a hugetlb memfd or a /dev/shm file. */
struct sluice_vmm_memory {
	size_t size; /* sizeof(struct sluice_vmm_memory) */
	const char *id; /* the same on both hosts; at most 63 bytes */
	int fd;
	uint64_t fd_offset; /* bytes, page aligned */
	uint64_t len_bytes; /* page aligned */
	uint64_t gpa; /* guest-physical address, bytes */
};

/* getfd + memory-add, then sluice_vmm_feed_bitmap(); before the guest gets the memory. Also while a
   migration runs, until SWITCHOVER_READY: then -EBUSY. The same region (id, file, range, address) given again, by a VMM that
   connected anew, is found as it was: nothing is pinned again. */
int sluice_vmm_memory_add(
	struct sluice_vmm *vmm, const struct sluice_vmm_memory *memory, struct sluice_error *err);

/*
 * memory-remove: the guest has no use of region @id any more, and will not touch it. 0: the engine
 * has let go of it. 1: a migration runs; its lanes flush the region first and the target is told,
 * and MEMORY_REMOVED (text: the id) follows, or is here already. -EBUSY: the guest is being stopped
 * for the switchover; the region stays. -ENOENT.
 */
int sluice_vmm_memory_remove(struct sluice_vmm *vmm, const char *id, struct sluice_error *err);

/*
 * memory-discard: pages of region @id were given back to the system (balloon, free-page
 * reporting) and read as zeros. To be called after the discard, and before the guest may get the
 * pages back; when it fails they must not be given back to the guest while a rail registers
 * memory. @offset, @len_bytes: bytes from the region's start, multiples of 4096.
 */
int sluice_vmm_memory_discard(struct sluice_vmm *vmm, const char *id, uint64_t offset,
	uint64_t len_bytes, struct sluice_error *err);

/* getfd + feed-add: share a dirty bitmap for region @id. @fd: a memfd of
   sluice_bitmap_bytes(len_bytes) bytes, sealed against shrinking. */
int sluice_vmm_feed_bitmap(
	struct sluice_vmm *vmm, const char *id, int fd, struct sluice_error *err);

/* getfd + device-add: the descriptor of a device's state. Source: the engine reads it to
   its end. Target: the engine writes the state and closes its copy. */
int sluice_vmm_device_add(struct sluice_vmm *vmm, const char *id, int fd, struct sluice_error *err);

struct sluice_vmm_event {
	char name[48]; /* "DIRTY_SYNC", "THROTTLE", "SWITCHOVER_READY", ... */
	char *data_json; /* a JSON object; never NULL; owned by the event */
	uint64_t id; /* DIRTY_SYNC: sync id. THROTTLE: percent. Otherwise 0 */
	char text[64]; /* MIGRATION: status. DEVICE_OPEN: device id. MEMORY_WANTED, MEMORY_RELEASED,
			  MEMORY_REMOVED: region id. Otherwise "" */
};

/*
 * The next event: 1 and *ret_event filled, 0 when none came within @timeout_ms (0: do not
 * wait), -EPIPE when the engine is gone. Free with sluice_vmm_event_clear().
 */
int sluice_vmm_next_event(struct sluice_vmm *vmm, int timeout_ms,
	struct sluice_vmm_event *ret_event, struct sluice_error *err);
void sluice_vmm_event_clear(struct sluice_vmm_event *event);

/* Answers to events. */
int sluice_vmm_dirty_sync_done(struct sluice_vmm *vmm, uint64_t id, struct sluice_error *err);
/* @state: "pre-switchover" (vCPUs and DMA stopped, devices added) or "commit" (the VMM gives
   the guest away: from here it resumes only if the engine says "aborted"). */
int sluice_vmm_migrate_continue(
	struct sluice_vmm *vmm, const char *state, struct sluice_error *err);
/* Target: the VMM has loaded device @id and accepts its state. */
int sluice_vmm_device_loaded(struct sluice_vmm *vmm, const char *id, struct sluice_error *err);

/* ---- The shared dirty bitmap (feed `bitmap`) ----
 * One bit per 4 KiB page, KVM_GET_DIRTY_LOG layout: 64-bit little-endian words, bit 0 of
 * word 0 is the region's first page. Order: the VMM protects a page again first, then
 * publishes its bit; writes by the VMM itself are published after the store. */

static inline size_t sluice_bitmap_bytes(uint64_t len_bytes)
{
	return (size_t)(((len_bytes >> 12) + 63) / 64 * 8);
}

/* OR @bits into word @index of a shared bitmap, with release order. Any thread. */
static inline void sluice_bitmap_publish(uint64_t *bitmap, size_t index, uint64_t bits)
{
	if (bits != 0)
		__atomic_fetch_or(&bitmap[index], bits, __ATOMIC_RELEASE);
}

static inline void sluice_bitmap_publish_page(uint64_t *bitmap, uint64_t page)
{
	sluice_bitmap_publish(bitmap, (size_t)(page / 64), 1ull << (page % 64));
}

#ifdef __cplusplus
}
#endif
#endif
