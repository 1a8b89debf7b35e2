/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * qmp.c: the wire of qmp.h.
 *
 * The receiver scans each byte once: it tracks strings, escapes and the stack of open
 * braces, and so finds where a message ends without parsing what has not arrived. Only
 * whole messages go to the JSON parser. Nothing here knows commands. Never blocks.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/bits.h"
#include "base/qmp.h"

#define WHERE         "qmp"
#define KEEP_BYTES    (64u << 10) /* an empty buffer larger than this is given back */
#define WAITING_MAX   (SLUICE_QMP_MESSAGE_BYTES_MAX + 2) /* one message and its line end */
#define OUT_BYTES_MAX SLUICE_QMP_MESSAGE_BYTES_MAX

/* A queue of bytes: data[start, end) are waiting. */
struct buffer {
	char *data;
	size_t start, end, capacity;
};

/* Where the scanner stands in the message that begins at in.start. */
struct scanner {
	size_t bytes; /* scanned so far, from in.start */
	uint32_t braces; /* bit d: level d was opened by '{', not '[' */
	uint32_t depth;
	bool in_string, escaped;
	bool garbage; /* it cannot become a message: skip to the end of the line */
};

struct queued_fd {
	int fd;
	uint64_t at; /* in: stream offset right behind the bytes it came with.
			out: offset of the first byte of the message it goes with */
};

struct fd_queue {
	struct queued_fd slots[SLUICE_QMP_FDS_MAX];
	size_t head, count;
};

struct sluice_wire {
	int fd;
	struct buffer in, out;
	uint64_t in_offset, out_offset; /* stream offsets of in.start and out.start */
	struct scanner scanner;
	struct fd_queue in_fds, out_fds;
	struct sluice_wire_stream stream; /* without functions: the socket itself */
	bool too_long; /* what follows cannot be found any more */
};

/* ---- queues ---- */

static size_t buffer_bytes(const struct buffer *buffer)
{
	return buffer->end - buffer->start;
}

static void buffer_consume(struct buffer *buffer, size_t bytes)
{
	SLUICE_ASSERT(bytes <= buffer_bytes(buffer));
	buffer->start += bytes;
	if (buffer->start < buffer->end)
		return;
	buffer->start = 0;
	buffer->end = 0;
	if (buffer->capacity > KEEP_BYTES) {
		free(buffer->data);
		buffer->data = NULL;
		buffer->capacity = 0;
	}
}

/*
 * Make room for @bytes more behind the end. Bytes move down only when at least as many were
 * consumed as must be moved, so the work per byte stays constant however it arrives.
 */
static int buffer_reserve(struct buffer *buffer, size_t bytes)
{
	size_t waiting = buffer_bytes(buffer);
	size_t capacity = buffer->capacity > 0 ? buffer->capacity : 4096;
	char *data;

	if (buffer->capacity - buffer->end >= bytes)
		return 0;
	if (buffer->start > waiting) {
		memmove(buffer->data, buffer->data + buffer->start, waiting);
		buffer->start = 0;
		buffer->end = waiting;
		if (buffer->capacity - buffer->end >= bytes)
			return 0;
	}
	while (capacity - buffer->end < bytes)
		capacity *= 2;
	data = realloc(buffer->data, capacity);
	if (data == NULL)
		return -ENOMEM;
	buffer->data = data;
	buffer->capacity = capacity;
	return 0;
}

static bool fds_push(struct fd_queue *queue, int fd, uint64_t at)
{
	size_t slot = (queue->head + queue->count) % SLUICE_QMP_FDS_MAX;

	if (queue->count == SLUICE_QMP_FDS_MAX)
		return false;
	queue->slots[slot] = (struct queued_fd){.fd = fd, .at = at};
	queue->count++;
	return true;
}

static const struct queued_fd *fds_first(const struct fd_queue *queue)
{
	return queue->count > 0 ? &queue->slots[queue->head] : NULL;
}

static int fds_pop(struct fd_queue *queue)
{
	int fd;

	if (queue->count == 0)
		return -ENOENT;
	fd = queue->slots[queue->head].fd;
	queue->head = (queue->head + 1) % SLUICE_QMP_FDS_MAX;
	queue->count--;
	return fd;
}

static void fds_close(struct fd_queue *queue)
{
	int fd;

	while ((fd = fds_pop(queue)) >= 0)
		close(fd);
}

/* ---- life ---- */

int sluice_wire_create(int fd, struct sluice_wire **ret_wire)
{
	struct sluice_wire *wire = NULL;
	int flags = fcntl(fd, F_GETFL);
	int rc;

	if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0 ||
		fcntl(fd, F_SETFD, FD_CLOEXEC) < 0) {
		rc = -errno;
		goto out_close;
	}
	wire = calloc(1, sizeof(*wire));
	if (wire == NULL) {
		rc = -ENOMEM;
		goto out_close;
	}
	wire->fd = fd;
	*ret_wire = wire;
	return 0;

out_close:
	close(fd);
	return rc;
}

void sluice_wire_destroy(struct sluice_wire *wire)
{
	if (wire == NULL)
		return;
	fds_close(&wire->in_fds);
	fds_close(&wire->out_fds);
	close(wire->fd);
	free(wire->in.data);
	free(wire->out.data);
	free(wire);
}

int sluice_wire_fd(const struct sluice_wire *wire)
{
	return wire->fd;
}

void sluice_wire_set_stream(struct sluice_wire *wire, const struct sluice_wire_stream *stream)
{
	wire->stream = *stream;
}

/* ---- receiving ---- */

/* Room for as many descriptors as may wait; the kernel tells when it had to drop some. */
union control {
	char bytes[CMSG_SPACE(sizeof(int) * SLUICE_QMP_FDS_MAX)];
	struct cmsghdr align;
};

static int collect_fds(
	struct sluice_wire *wire, struct msghdr *msg, uint64_t at, struct sluice_error *err)
{
	bool overflow = false;

	for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c != NULL; c = CMSG_NXTHDR(msg, c)) {
		size_t count;

		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (size_t i = 0; i < count; i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(int));
			if (!fds_push(&wire->in_fds, fd, at)) {
				close(fd);
				overflow = true;
			}
		}
	}
	if (overflow)
		return sluice_fail(err, -EPROTO, WHERE, "more than %d descriptors wait for getfd",
			SLUICE_QMP_FDS_MAX);
	if (msg->msg_flags & MSG_CTRUNC)
		return sluice_fail(err, -EPROTO, WHERE,
			"descriptors were lost on the way: more than %d in one message, or the "
			"limit of open files is reached",
			SLUICE_QMP_FDS_MAX);
	return 0;
}

static ssize_t receive_from_stream(struct sluice_wire *wire, struct sluice_error *err)
{
	ssize_t bytes = wire->stream.read(wire->stream.ctx, wire->in.data + wire->in.end,
		wire->in.capacity - wire->in.end, err);

	if (bytes > 0)
		wire->in.end += (size_t)bytes;
	return bytes == 0 ? -EPIPE : bytes;
}

/* One recvmsg: the bytes it read, or -errno. */
static ssize_t receive_some(struct sluice_wire *wire, struct sluice_error *err)
{
	union control control;
	struct iovec iov;
	struct msghdr msg = {.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control.bytes,
		.msg_controllen = sizeof(control.bytes)};
	ssize_t bytes;
	int rc = buffer_reserve(&wire->in, SLUICE_WIRE_READ_BYTES);

	if (rc < 0)
		return rc;
	if (wire->stream.read != NULL)
		return receive_from_stream(wire, err);
	iov.iov_base = wire->in.data + wire->in.end;
	iov.iov_len = wire->in.capacity - wire->in.end;
	bytes = recvmsg(wire->fd, &msg, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
	if (bytes < 0)
		return errno == ECONNRESET ? -EPIPE : -errno;
	wire->in.end += (size_t)bytes;
	rc = collect_fds(wire, &msg, wire->in_offset + buffer_bytes(&wire->in), err);
	if (rc < 0)
		return rc;
	return bytes == 0 ? -EPIPE : bytes;
}

int sluice_wire_receive(struct sluice_wire *wire, struct sluice_error *err)
{
	/* A full buffer holds a whole message, or one that is too long: next() tells. What
	   stays in the socket keeps it readable. */
	while (buffer_bytes(&wire->in) < WAITING_MAX) {
		ssize_t bytes = receive_some(wire, err);

		if (bytes == -EINTR)
			continue;
		if (bytes == -EAGAIN || bytes == -EWOULDBLOCK)
			return 0;
		if (bytes < 0)
			return (int)bytes;
	}
	return 0;
}

/* ---- finding messages ---- */

enum scan {
	SCAN_MORE, /* needs more bytes */
	SCAN_MESSAGE, /* this byte closed the message */
	SCAN_GARBAGE, /* this byte ended a line that is no message */
	SCAN_TOO_DEEP,
};

static enum scan scan_open(struct scanner *s, bool brace)
{
	if (s->depth == SLUICE_QMP_DEPTH_MAX)
		return SCAN_TOO_DEEP;
	s->braces &= ~(1u << s->depth);
	s->braces |= (uint32_t)brace << s->depth;
	s->depth++;
	return SCAN_MORE;
}

static enum scan scan_close(struct scanner *s, bool brace)
{
	bool opened_by_brace = s->depth > 0 && ((s->braces >> (s->depth - 1)) & 1) != 0;

	if (s->depth == 0 || opened_by_brace != brace) {
		s->garbage = true;
		return SCAN_MORE;
	}
	s->depth--;
	return s->depth == 0 ? SCAN_MESSAGE : SCAN_MORE;
}

static enum scan scan_string(struct scanner *s, char c)
{
	if (c == '\n') /* JSON has no raw line ends in strings: a quote is missing */
		return SCAN_GARBAGE;
	if (s->escaped)
		s->escaped = false;
	else if (c == '\\')
		s->escaped = true;
	else if (c == '"')
		s->in_string = false;
	return SCAN_MORE;
}

static enum scan scan_byte(struct scanner *s, char c)
{
	if (s->garbage)
		return c == '\n' ? SCAN_GARBAGE : SCAN_MORE;
	if (s->in_string)
		return scan_string(s, c);
	if (s->depth == 0 && c != '{') { /* every message is an object */
		s->garbage = true;
		return SCAN_MORE;
	}
	switch (c) {
	case '{':
	case '[':
		return scan_open(s, c == '{');
	case '}':
	case ']':
		return scan_close(s, c == '}');
	case '"':
		s->in_string = true;
		return SCAN_MORE;
	default:
		return SCAN_MORE;
	}
}

static void consume(struct sluice_wire *wire, size_t bytes)
{
	buffer_consume(&wire->in, bytes);
	wire->in_offset += bytes;
	wire->scanner = (struct scanner){0};
}

static void skip(struct sluice_wire *wire, const char *set)
{
	size_t bytes = 0;

	while (bytes < buffer_bytes(&wire->in) &&
		memchr(set, wire->in.data[wire->in.start + bytes], strlen(set)) != NULL)
		bytes++;
	if (bytes > 0)
		consume(wire, bytes);
}

/*
 * The line end belongs to the message before it, so that a descriptor sent with the line counts
 * as this message's. Other space belongs to the next one: clients send a descriptor with a
 * blank ahead of its getfd.
 */
static void skip_line_end(struct sluice_wire *wire)
{
	skip(wire, "\r\n");
}

static int parse(const char *text, size_t bytes, json_t **ret_message, struct sluice_error *err)
{
	json_error_t why;
	json_t *message = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &why);

	if (message == NULL)
		return sluice_fail(err, -EBADMSG, WHERE, "JSON parse error: %s (at byte %d)",
			why.text, why.position);
	*ret_message = message;
	return 1;
}

static int fail_too_long(struct sluice_wire *wire, struct sluice_error *err)
{
	wire->too_long = true;
	return sluice_fail(err, -EMSGSIZE, WHERE,
		"a message is longer than %u bytes or nested deeper than %d levels",
		SLUICE_QMP_MESSAGE_BYTES_MAX, SLUICE_QMP_DEPTH_MAX);
}

int sluice_wire_next(struct sluice_wire *wire, json_t **ret_message, struct sluice_error *err)
{
	struct scanner *s = &wire->scanner;

	if (wire->too_long)
		return fail_too_long(wire, err);
	if (s->bytes == 0)
		skip(wire, " \t\r\n");
	while (s->bytes < buffer_bytes(&wire->in)) {
		const char *message = wire->in.data + wire->in.start;
		enum scan found = scan_byte(s, message[s->bytes++]);
		int rc;

		if (found == SCAN_TOO_DEEP || s->bytes > SLUICE_QMP_MESSAGE_BYTES_MAX)
			return fail_too_long(wire, err);
		if (found == SCAN_MORE)
			continue;
		rc = found == SCAN_MESSAGE
			     ? parse(message, s->bytes, ret_message, err)
			     : sluice_fail(err, -EBADMSG, WHERE, "JSON parse error: not an object");
		consume(wire, s->bytes);
		skip_line_end(wire);
		return rc;
	}
	return 0;
}

int sluice_wire_take_fd(struct sluice_wire *wire)
{
	return fds_pop(&wire->in_fds);
}

size_t sluice_wire_fds_waiting(const struct sluice_wire *wire)
{
	const struct fd_queue *queue = &wire->in_fds;
	size_t count = 0;

	while (count < queue->count) {
		size_t slot = (queue->head + count) % SLUICE_QMP_FDS_MAX;

		if (queue->slots[slot].at > wire->in_offset)
			break; /* came with bytes that were not taken yet */
		count++;
	}
	return count;
}

/* ---- sending ---- */

static int append(struct sluice_wire *wire, const char *text, size_t bytes, int fd)
{
	uint64_t at = wire->out_offset + buffer_bytes(&wire->out);
	int copy = -1;

	SLUICE_ASSERT(fd < 0 || wire->stream.write == NULL);
	if (buffer_bytes(&wire->out) + bytes + 2 > OUT_BYTES_MAX)
		return -ENOBUFS;
	if (buffer_reserve(&wire->out, bytes + 2) < 0)
		return -ENOMEM;
	if (fd >= 0) {
		copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
		if (copy < 0)
			return -errno;
		if (!fds_push(&wire->out_fds, copy, at)) {
			close(copy);
			return -ENOBUFS;
		}
	}
	memcpy(wire->out.data + wire->out.end, text, bytes);
	memcpy(wire->out.data + wire->out.end + bytes, "\r\n", 2);
	wire->out.end += bytes + 2;
	return 0;
}

int sluice_wire_send(struct sluice_wire *wire, json_t *message, int fd)
{
	char *text = message != NULL ? json_dumps(message, JSON_COMPACT) : NULL;
	int rc;

	json_decref(message);
	if (text == NULL)
		return -ENOMEM;
	rc = append(wire, text, strlen(text), fd);
	free(text);
	return rc;
}

/* One sendmsg: up to the next descriptor's message, or that message with its descriptor. */
static ssize_t send_some(struct sluice_wire *wire)
{
	const struct queued_fd *first = fds_first(&wire->out_fds);
	union {
		char bytes[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control = {{0}};
	struct iovec iov = {
		.iov_base = wire->out.data + wire->out.start,
		.iov_len = buffer_bytes(&wire->out),
	};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
	bool with_fd = first != NULL && first->at == wire->out_offset;
	ssize_t bytes;

	if (wire->stream.write != NULL)
		return wire->stream.write(wire->stream.ctx, iov.iov_base, iov.iov_len);
	if (with_fd) {
		struct cmsghdr *c;

		msg.msg_control = control.bytes;
		msg.msg_controllen = sizeof(control.bytes);
		c = CMSG_FIRSTHDR(&msg);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(c), &first->fd, sizeof(int));
		if (wire->out_fds.count > 1) {
			size_t second = (wire->out_fds.head + 1) % SLUICE_QMP_FDS_MAX;

			iov.iov_len = (size_t)(wire->out_fds.slots[second].at - wire->out_offset);
		}
	} else if (first != NULL) {
		iov.iov_len = (size_t)(first->at - wire->out_offset);
	}
	bytes = sendmsg(wire->fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
	if (bytes < 0)
		return -errno;
	if (with_fd)
		close(fds_pop(&wire->out_fds));
	return bytes;
}

int sluice_wire_flush(struct sluice_wire *wire)
{
	while (buffer_bytes(&wire->out) > 0) {
		ssize_t bytes = send_some(wire);

		if (bytes == -EINTR)
			continue;
		if (bytes == -EAGAIN || bytes == -EWOULDBLOCK)
			return 0;
		if (bytes < 0)
			return bytes == -ECONNRESET ? -EPIPE : (int)bytes;
		buffer_consume(&wire->out, (size_t)bytes);
		wire->out_offset += (uint64_t)bytes;
	}
	return 1;
}

size_t sluice_wire_unsent_bytes(const struct sluice_wire *wire)
{
	return buffer_bytes(&wire->out);
}

/* ---- messages of the grammar ---- */

json_t *sluice_qmp_greeting(void)
{
	int major = 0, minor = 0, micro = 0;
	int count = sscanf(SLUICE_VERSION, "%d.%d.%d", &major, &minor, &micro);

	SLUICE_ASSERT(count == 3);
	/* Clients look for the key "qemu"; "package" says who really speaks. */
	return json_pack("{s:{s:{s:{s:i,s:i,s:i},s:s},s:[]}}", "QMP", "version", "qemu", "major",
		major, "minor", minor, "micro", micro, "package", "sluice " SLUICE_VERSION,
		"capabilities");
}

static json_t *with_id(json_t *message, json_t *id)
{
	if (message != NULL && id != NULL)
		json_object_set(message, "id", id);
	return message;
}

json_t *sluice_qmp_return(json_t *value_stolen, json_t *id)
{
	return with_id(json_pack("{s:o}", "return", value_stolen), id);
}

/* Text that may be cut in the middle of a character, or name a file in another encoding. */
static json_t *json_text(const char *text)
{
	json_t *value = json_string(text);
	char *plain;

	if (value != NULL)
		return value;
	plain = strdup(text);
	if (plain == NULL)
		return NULL;
	for (char *c = plain; *c != '\0'; c++) {
		if ((unsigned char)*c >= 0x80)
			*c = '?';
	}
	value = json_string(plain);
	free(plain);
	return value;
}

json_t *sluice_qmp_error(const char *klass, const char *desc, json_t *id)
{
	return with_id(
		json_pack("{s:{s:s,s:o}}", "error", "class", klass, "desc", json_text(desc)), id);
}

json_t *sluice_qmp_event(const char *name, json_t *data_stolen)
{
	struct timeval now;

	gettimeofday(&now, NULL);
	return json_pack("{s:s,s:o,s:{s:I,s:I}}", "event", name, "data", data_stolen, "timestamp",
		"seconds", (json_int_t)now.tv_sec, "microseconds", (json_int_t)now.tv_usec);
}
