/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * qmp.h: the wire of the QMP grammar on a UNIX stream socket: JSON objects in both
 * directions, descriptors by SCM_RIGHTS. Both ends use it: the engine and refvm as
 * servers, libsluice, sluice and sluice-perf as clients. No grammar of commands here.
 *
 * Threading: one thread per wire. Blocking: never; the socket is non-blocking.
 */
#ifndef SLUICE_BASE_QMP_H
#define SLUICE_BASE_QMP_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include <jansson.h>

#include <sluice/error.h>

#define SLUICE_QMP_MESSAGE_BYTES_MAX (1u << 20) /* one message; longer ones end the connection */
#define SLUICE_QMP_DEPTH_MAX         32 /* nesting of braces and brackets */
#define SLUICE_QMP_FDS_MAX           64 /* descriptors waiting for getfd */

struct sluice_wire;

/* Takes ownership of @fd and makes it non-blocking and close-on-exec. */
int sluice_wire_create(int fd, struct sluice_wire **ret_wire);
void sluice_wire_destroy(struct sluice_wire *wire); /* closes the socket and queued descriptors */
int sluice_wire_fd(const struct sluice_wire *wire);

/*
 * Read what is there. 0: read until it would block. -EPIPE: the peer closed (already complete
 * messages can still be taken). -EPROTO: descriptors were truncated, or too many wait.
 * Messages are found incrementally: O(1) work per byte, whatever arrives.
 */
int sluice_wire_receive(struct sluice_wire *wire, struct sluice_error *err);
/*
 * Next message: 1 and *ret_message (the caller's reference), 0 when there is no whole one.
 * -EBADMSG: a whole but malformed message was dropped; the wire is in step again at the next
 * line (a newline ends what could not be parsed). -EMSGSIZE: too long or too deep; close it.
 */
int sluice_wire_next(struct sluice_wire *wire, json_t **ret_message, struct sluice_error *err);

/* The oldest received descriptor, now the caller's; -ENOENT when none waits. */
int sluice_wire_take_fd(struct sluice_wire *wire);
/* Descriptors that came with the messages taken so far and were not taken themselves. One that
   belongs to a message still in the buffer does not count. */
size_t sluice_wire_fds_waiting(const struct sluice_wire *wire);

#define SLUICE_WIRE_READ_BYTES (16u << 10) /* room offered to one read, at least */

/*
 * Bytes that do not go over the socket as they are (TLS). Both calls are as recv and send on a
 * non-blocking socket, but return -errno; @read describes errors that errno cannot. Descriptors
 * cannot travel then. Set before anything was received; @stream is copied.
 */
struct sluice_wire_stream {
	ssize_t (*read)(void *ctx, void *data, size_t bytes, struct sluice_error *err);
	ssize_t (*write)(void *ctx, const void *data, size_t bytes);
	void *ctx;
};
void sluice_wire_set_stream(struct sluice_wire *wire, const struct sluice_wire_stream *stream);

/* Queue a message (CRLF added); steals @message, also on failure. @fd: sent along with it, or
   -1; stays the caller's (duplicated inside). -ENOBUFS: the peer does not read (1 MiB waits). */
int sluice_wire_send(struct sluice_wire *wire, json_t *message, int fd);
/* Write what the socket takes; 1: everything is out, 0: some remains (watch EPOLLOUT). */
int sluice_wire_flush(struct sluice_wire *wire);

/* Bytes queued that the socket did not take yet. */
size_t sluice_wire_unsent_bytes(const struct sluice_wire *wire);

/* Messages of the grammar, as new references. */
json_t *sluice_qmp_greeting(void);
json_t *sluice_qmp_return(json_t *value_stolen, json_t *id);
json_t *sluice_qmp_error(const char *klass, const char *desc, json_t *id);
json_t *sluice_qmp_event(const char *name, json_t *data_stolen); /* with the timestamp */

#endif
