/* SPDX-License-Identifier: BSD-3-Clause */
/* streams.c: device threads. See streams.h. */
#include "engine/device/streams.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/assert.h"
#include "engine/device/inbox.h"
#include "engine/device/outbox.h"

struct stream {
	struct sluice_streams *streams;
	uint32_t device;
	int fd;
	pthread_t thread;
	struct sluice_outbox *outbox; /* reader */
	struct sluice_inbox *inbox; /* writer */
	bool done, told; /* under the lock */
	int code;
	struct stream *next;
};

struct sluice_streams {
	struct sluice_stream_handlers handlers;
	pthread_mutex_t lock; /* notes below, and the inbox */
	pthread_cond_t cond; /* credits, announcements, stop */
	bool stop;
	int stop_fd; /* readable once stopped: ends a poll on a device */
	uint32_t loaded[SLUICE_SLOTS_MAX];
	uint32_t loaded_count;
	struct stream *first;
};

int sluice_streams_create(
	const struct sluice_stream_handlers *handlers, struct sluice_streams **ret_streams)
{
	struct sluice_streams *s = calloc(1, sizeof(*s));

	if (s == NULL)
		return -ENOMEM;
	s->handlers = *handlers;
	s->stop_fd = eventfd(0, EFD_CLOEXEC);
	if (s->stop_fd < 0) {
		free(s);
		return -errno;
	}
	pthread_mutex_init(&s->lock, NULL);
	pthread_cond_init(&s->cond, NULL);
	*ret_streams = s;
	return 0;
}

/* Wait for the device's descriptor. -ECANCELED when the streams are being stopped. */
static int wait_for(struct stream *stream, short events)
{
	struct pollfd fds[2] = {{.fd = stream->fd, .events = events},
		{.fd = stream->streams->stop_fd, .events = POLLIN}};

	while (poll(fds, 2, -1) < 0)
		if (errno != EINTR)
			return -errno;
	return fds[1].revents != 0 ? -ECANCELED : 0;
}

static int claim_slot(struct stream *stream, uint32_t *ret_slot)
{
	struct sluice_streams *s = stream->streams;
	bool claimed = false;

	pthread_mutex_lock(&s->lock);
	while (!s->stop && !(claimed = sluice_outbox_claim(stream->outbox, ret_slot)))
		pthread_cond_wait(&s->cond, &s->lock);
	pthread_mutex_unlock(&s->lock);
	return claimed ? 0 : -ECANCELED;
}

/* Fill a slot as far as the device has something. Returns bytes; *ret_end at the end of file. */
static ssize_t fill(struct stream *stream, uint8_t *data, size_t bytes, bool *ret_end)
{
	size_t filled = 0;

	*ret_end = false;
	while (filled < bytes) {
		ssize_t n = read(stream->fd, data + filled, bytes - filled);
		int r;

		if (n == 0) {
			*ret_end = true;
			break;
		}
		if (n > 0) {
			filled += (size_t)n;
			continue;
		}
		if (errno == EINTR)
			continue;
		if (errno != EAGAIN)
			return -errno;
		if (filled > 0)
			break; /* send what there is; the rest of the chain can start */
		r = wait_for(stream, POLLIN);
		if (r < 0)
			return r;
	}
	return (ssize_t)filled;
}

static int read_device(struct stream *stream)
{
	struct sluice_outbox *outbox = stream->outbox;
	bool end = false;

	for (uint32_t seq = 0; !end; seq++) {
		struct sluice_announce a = {.device = (uint16_t)stream->device, .seq = seq};
		ssize_t n;
		int r = claim_slot(stream, &a.slot);

		if (r < 0)
			return r;
		n = fill(stream, sluice_outbox_slot(outbox, a.slot), outbox->slot_bytes, &end);
		if (n < 0)
			return (int)n;
		a.len_bytes = (uint32_t)n;
		a.last = end;
		sluice_outbox_ready(outbox, &a);
		stream->streams->handlers.lanes_wake(stream->streams->handlers.ctx);
	}
	return 0;
}

static int write_all(struct stream *stream, const uint8_t *data, size_t bytes)
{
	while (bytes > 0) {
		ssize_t n = write(stream->fd, data, bytes);
		int r;

		if (n >= 0) {
			data += n;
			bytes -= (size_t)n;
		} else if (errno == EAGAIN) {
			r = wait_for(stream, POLLOUT);
			if (r < 0)
				return r;
		} else if (errno != EINTR) {
			return -errno;
		}
	}
	return 0;
}

static bool next_segment(struct stream *stream, struct sluice_announce *ret_announce)
{
	struct sluice_streams *s = stream->streams;
	bool found = false;

	pthread_mutex_lock(&s->lock);
	while (!s->stop &&
		!(found = sluice_inbox_next(stream->inbox, stream->device, ret_announce)))
		pthread_cond_wait(&s->cond, &s->lock);
	pthread_mutex_unlock(&s->lock);
	return found;
}

static void loaded(struct stream *stream, const struct sluice_announce *announce)
{
	struct sluice_streams *s = stream->streams;

	pthread_mutex_lock(&s->lock);
	sluice_inbox_loaded(stream->inbox, announce);
	SLUICE_ASSERT(s->loaded_count < SLUICE_SLOTS_MAX);
	s->loaded[s->loaded_count++] = announce->slot;
	pthread_mutex_unlock(&s->lock);
	s->handlers.wake(s->handlers.ctx);
}

static int write_device(struct stream *stream)
{
	struct sluice_announce announce;

	do {
		int r;

		if (!next_segment(stream, &announce))
			return -ECANCELED;
		r = write_all(stream, sluice_inbox_data(stream->inbox, announce.slot),
			announce.len_bytes);
		if (r < 0)
			return r;
		if (announce.last) {
			close(stream->fd); /* the VMM reads the end of the state */
			stream->fd = -1;
		}
		loaded(stream, &announce);
	} while (!announce.last);
	return 0;
}

static void *stream_main(void *arg)
{
	struct stream *stream = arg;
	struct sluice_streams *s = stream->streams;
	int code = stream->outbox != NULL ? read_device(stream) : write_device(stream);

	pthread_mutex_lock(&s->lock);
	stream->code = code;
	stream->done = true;
	pthread_mutex_unlock(&s->lock);
	s->handlers.wake(s->handlers.ctx);
	return NULL;
}

static int start(struct sluice_streams *s, struct sluice_outbox *outbox, struct sluice_inbox *inbox,
	uint32_t device, int fd, struct sluice_error *err)
{
	struct stream *stream = calloc(1, sizeof(*stream));
	int flags = fcntl(fd, F_GETFL);
	int r;

	if (stream == NULL || flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0) {
		r = stream == NULL ? -ENOMEM : -errno;
		goto out_close;
	}
	*stream = (struct stream){
		.streams = s, .device = device, .fd = fd, .outbox = outbox, .inbox = inbox};
	r = -pthread_create(&stream->thread, NULL, stream_main, stream);
	if (r < 0)
		goto out_close;
	pthread_setname_np(stream->thread, outbox != NULL ? "sluice-read" : "sluice-write");
	stream->next = s->first;
	s->first = stream;
	return 0;

out_close:
	free(stream);
	close(fd);
	return sluice_fail(err, r, "device-add", "the device cannot be started: %s", strerror(-r));
}

int sluice_streams_read(struct sluice_streams *streams, struct sluice_outbox *outbox,
	uint32_t device, int fd, struct sluice_error *err)
{
	return start(streams, outbox, NULL, device, fd, err);
}

int sluice_streams_write(struct sluice_streams *streams, struct sluice_inbox *inbox,
	uint32_t device, int fd, struct sluice_error *err)
{
	return start(streams, NULL, inbox, device, fd, err);
}

int sluice_streams_announced(struct sluice_streams *s, struct sluice_inbox *inbox,
	const struct sluice_announce *announce, struct sluice_error *err)
{
	int r;

	pthread_mutex_lock(&s->lock);
	r = sluice_inbox_announced(inbox, announce, err);
	pthread_cond_broadcast(&s->cond);
	pthread_mutex_unlock(&s->lock);
	return r;
}

void sluice_streams_credits(struct sluice_streams *s)
{
	pthread_mutex_lock(&s->lock);
	pthread_cond_broadcast(&s->cond);
	pthread_mutex_unlock(&s->lock);
}

/* The next finished stream that was not told yet, or NULL. */
static struct stream *take_done(struct sluice_streams *s)
{
	struct stream *found = NULL;

	pthread_mutex_lock(&s->lock);
	for (struct stream *stream = s->first; stream != NULL && found == NULL;
		stream = stream->next) {
		if (!stream->done || stream->told)
			continue;
		stream->told = true;
		found = stream;
	}
	pthread_mutex_unlock(&s->lock);
	return found;
}

void sluice_streams_poll(struct sluice_streams *s)
{
	uint32_t slots[SLUICE_SLOTS_MAX];
	struct stream *stream;
	uint32_t count;

	pthread_mutex_lock(&s->lock);
	count = s->loaded_count;
	memcpy(slots, s->loaded, count * sizeof(slots[0]));
	s->loaded_count = 0;
	pthread_mutex_unlock(&s->lock);
	for (uint32_t i = 0; i < count; i++)
		s->handlers.slot_loaded(s->handlers.ctx, slots[i]);
	while ((stream = take_done(s)) != NULL)
		s->handlers.device_done(s->handlers.ctx, stream->device, stream->code);
}

void sluice_streams_destroy(struct sluice_streams *s)
{
	uint64_t one = 1;

	if (s == NULL)
		return;
	pthread_mutex_lock(&s->lock);
	s->stop = true;
	pthread_cond_broadcast(&s->cond);
	pthread_mutex_unlock(&s->lock);
	if (write(s->stop_fd, &one, sizeof(one)) != sizeof(one))
		SLUICE_ASSERT(!"an eventfd takes a one");
	while (s->first != NULL) {
		struct stream *stream = s->first;

		s->first = stream->next;
		pthread_join(stream->thread, NULL);
		if (stream->fd >= 0)
			close(stream->fd);
		free(stream);
	}
	close(s->stop_fd);
	pthread_mutex_destroy(&s->lock);
	pthread_cond_destroy(&s->cond);
	free(s);
}
