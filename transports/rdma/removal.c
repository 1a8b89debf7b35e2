/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * removal.c: a device that is removed under its rail: unplugged, reset, `rdma link del`.
 *
 * The kernel tells, and then waits for us: a driver that cannot part a device from its users (soft-
 * RoCE is one) holds the removal up, with a lock that the whole host needs, until every user has
 * closed every file of the device. So all of it is let go of at once, in the control thread. What
 * others hold (lanes, memory, the rail itself) stays as an empty shell that can be closed as ever;
 * rail and memory are filled again when the device is back.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "base/assert.h"
#include "transports/rdma/internal.h"

#define LOOK_AGAIN_S 1

int sluice_rdma_say_removed(const struct sluice_rail *rail, struct sluice_error *err)
{
	return sluice_fail(err, -ENODEV, "rdma-rail",
		"the RDMA device %s was removed; it is used again when it is back",
		rail->device_name);
}

/*
 * A worker has either stored `polling` before we look at it, and then we wait, or it sees the phase
 * and touches nothing: as with mem_unregister.
 */
static void lose_lanes(struct sluice_rail *rail)
{
	uint64_t one = 1;

	for (struct sluice_conn *conn = rail->conns; conn != NULL; conn = conn->next) {
		int ready = RDMA_READY;

		sluice_rdma_cm_fail(
			conn, -ENODEV, "the RDMA device %s was removed", rail->device_name);
		atomic_compare_exchange_strong(&conn->phase, &ready, RDMA_REMOVED);
	}
	if (write(rail->gone_fd, &one, sizeof(one)) < 0)
		SLUICE_ASSERT(errno == EAGAIN);
	sluice_rdma_wait_for_workers(rail);
}

/*
 * librdmacm opens a device once for all its ids and keeps it open when the last of them is gone, so
 * the kernel would wait for ever. Its descriptors are led to /dev/null: the kernel's files are
 * closed, and librdmacm has something to close when it notices. Nothing of ours is in that context:
 * ids work by the event channel, all else is in the rail's own. What librdmacm has there (a domain)
 * goes with the file; that it cannot free it a second time does no harm. A device that comes back,
 * if only under the same name, has another index, by which librdmacm knows it as a new one.
 *
 * While the rail's id holds the context: once librdmacm has noticed, the last id that goes frees it.
 */
static void close_for_librdmacm(struct ibv_context *cm_verbs)
{
	int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);

	if (null_fd < 0)
		return; /* out of descriptors: the removal waits for our end */
	dup3(null_fd, cm_verbs->async_fd, O_CLOEXEC);
	dup3(null_fd, cm_verbs->cmd_fd, O_CLOEXEC);
	close(null_fd);
}

static void look_again(struct sluice_rail *rail, time_t every_s)
{
	struct itimerspec spec = {.it_value.tv_sec = every_s, .it_interval.tv_sec = every_s};

	timerfd_settime(rail->return_fd, 0, &spec, NULL);
}

/* Also of one that had come back as far as to be bound. */
void sluice_rdma_rail_removed(struct sluice_rail *rail)
{
	if (!rail->gone) {
		rail->counters.removals++;
		lose_lanes(rail);
	}
	rail->gone = true;
	for (struct sluice_conn *conn = rail->conns; conn != NULL; conn = conn->next) {
		sluice_rdma_cm_disconnect(conn); /* the peer may still hear of it */
		sluice_rdma_conn_release(conn);
	}
	sluice_rdma_mem_release_all(rail);
	sluice_rdma_domain_close(rail); /* which ends that its descriptor is watched */
	close_for_librdmacm(rail->cm_verbs);
	rail->cm_verbs = NULL;
	rdma_destroy_id(rail->id);
	rail->id = NULL;
	look_again(rail, LOOK_AGAIN_S);
}

/* ---- and comes back ---- */

static int watch_device(struct sluice_rail *rail)
{
	int fd = rail->verbs->async_fd, flags = fcntl(fd, F_GETFL);

	if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
		return -errno;
	return sluice_rdma_rail_watch(rail, fd) < 0 ? -errno : 0;
}

static void forget_gone(struct sluice_rail *rail)
{
	uint64_t count;

	if (read(rail->gone_fd, &count, sizeof(count)) < 0)
		SLUICE_ASSERT(errno == EAGAIN);
	look_again(rail, 0);
	rail->gone = false;
	rail->counters.returns++;
}

/*
 * The same address, with the port that peers know; the same memory, whose keys are new. An id that
 * is bound stays so where the rest fails: only an id hears of it when the device goes once more.
 */
void sluice_rdma_rail_return(struct sluice_rail *rail)
{
	uint64_t count;
	int r = 0;

	/* Not before its lanes are closed: what woke their workers stays readable as long. */
	if (read(rail->return_fd, &count, sizeof(count)) < 0 || rail->conns != NULL)
		return;
	if (rail->id == NULL)
		r = sluice_rdma_rail_bind(rail, NULL);
	if (r == 0)
		r = sluice_rdma_domain_open(rail, NULL);
	if (r == 0)
		r = sluice_rdma_mem_renew_all(rail);
	if (r == 0)
		r = watch_device(rail);
	if (r == 0 && rail->listening && rdma_listen(rail->id, RDMA_BACKLOG) < 0)
		r = -errno;
	if (r == 0) {
		forget_gone(rail);
	} else {
		sluice_rdma_mem_release_all(rail);
		sluice_rdma_domain_close(rail);
	}
}
