/* SPDX-License-Identifier: BSD-3-Clause */
/* device.c: see device.h. */
#include "vmm/refvm/device.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/assert.h"

struct refvm_device {
	int fd; /* our end */
	pthread_t thread;
	bool threaded;
	bool done; /* atomic; what follows is the main thread's then */

	uint8_t *bytes; /* sending */
	size_t len, sent; /* sent: before there was a thread */
	const uint8_t *tail;
	size_t tail_len;

	void (*on_done)(void *ctx); /* receiving */
	void *ctx;
	struct refvm_blob blob;
	struct sluice_error error;
};

/* False: the engine gave up; it tells so by its events. */
static bool send_all(int fd, const uint8_t *bytes, size_t len)
{
	while (len > 0) {
		ssize_t put = send(fd, bytes, len, MSG_NOSIGNAL);

		if (put < 0 && errno == EINTR)
			continue;
		if (put <= 0)
			return false;
		bytes += put;
		len -= (size_t)put;
	}
	return true;
}

static void *send_main(void *ctx)
{
	struct refvm_device *device = ctx;

	if (send_all(device->fd, device->bytes + device->sent, device->len - device->sent))
		send_all(device->fd, device->tail, device->tail_len);
	shutdown(device->fd, SHUT_WR); /* end of file: that was the whole state */
	__atomic_store_n(&device->done, true, __ATOMIC_RELEASE);
	return NULL;
}

/* What the socket takes at once needs no thread: making one is time that the guest is stopped. */
static bool sent_at_once(struct refvm_device *device)
{
	ssize_t put = send(device->fd, device->bytes, device->len, MSG_NOSIGNAL | MSG_DONTWAIT);

	device->sent = put > 0 ? (size_t)put : 0;
	if (device->sent < device->len || device->tail_len > 0)
		return false;
	shutdown(device->fd, SHUT_WR);
	device->done = true;
	return true;
}

static void *receive_main(void *ctx)
{
	struct refvm_device *device = ctx;

	refvm_blob_read(device->fd, &device->blob, &device->error);
	__atomic_store_n(&device->done, true, __ATOMIC_RELEASE);
	device->on_done(device->ctx);
	return NULL;
}

/* Steals what @device holds, also on failure. */
static int start(struct refvm_device *device, void *(*thread_main)(void *),
	struct refvm_device **ret_device, int *ret_engine_fd, struct sluice_error *err)
{
	int rc, fds[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0) {
		rc = -errno;
		goto fail;
	}
	device->fd = fds[0];
	device->threaded = thread_main != send_main || !sent_at_once(device);
	rc = device->threaded ? -pthread_create(&device->thread, NULL, thread_main, device) : 0;
	if (rc < 0) {
		close(fds[0]);
		close(fds[1]);
		goto fail;
	}
	*ret_device = device;
	*ret_engine_fd = fds[1];
	return 0;
fail:
	free(device->bytes);
	free(device);
	return sluice_fail(err, rc, "vcpus", "A way to the engine: %s.", strerror(-rc));
}

int refvm_device_send(uint8_t *bytes, size_t len, const uint8_t *tail, size_t tail_len,
	struct refvm_device **ret_device, int *ret_engine_fd, struct sluice_error *err)
{
	struct refvm_device *device = calloc(1, sizeof(*device));

	if (device == NULL) {
		free(bytes);
		return sluice_fail(err, -ENOMEM, "vcpus", "No memory for a device.");
	}
	device->bytes = bytes;
	device->len = len;
	device->tail = tail;
	device->tail_len = tail_len;
	return start(device, send_main, ret_device, ret_engine_fd, err);
}

int refvm_device_receive(void (*on_done)(void *ctx), void *ctx, struct refvm_device **ret_device,
	int *ret_engine_fd, struct sluice_error *err)
{
	struct refvm_device *device = calloc(1, sizeof(*device));

	if (device == NULL)
		return sluice_fail(err, -ENOMEM, "vcpus", "No memory for a device.");
	device->on_done = on_done;
	device->ctx = ctx;
	return start(device, receive_main, ret_device, ret_engine_fd, err);
}

bool refvm_device_done(const struct refvm_device *device)
{
	return __atomic_load_n(&device->done, __ATOMIC_ACQUIRE);
}

int refvm_device_take(
	struct refvm_device *device, struct refvm_blob *ret_blob, struct sluice_error *err)
{
	SLUICE_ASSERT(refvm_device_done(device));
	if (device->error.code != 0) {
		if (err != NULL)
			*err = device->error;
		return device->error.code;
	}
	*ret_blob = device->blob;
	device->blob = (struct refvm_blob){.body = NULL};
	return 0;
}

void refvm_device_destroy(struct refvm_device *device)
{
	if (device == NULL)
		return;
	shutdown(device->fd, SHUT_RDWR); /* wakes the thread */
	if (device->threaded)
		pthread_join(device->thread, NULL);
	close(device->fd);
	refvm_blob_free(&device->blob);
	free(device->bytes);
	free(device);
}
