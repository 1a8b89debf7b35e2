/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * removal.c: a device that is removed under its rail: unplugged, reset, `rdma link del`.
 *
 * The kernel tells, and then waits for us: a driver that cannot part a device from its users (soft-
 * RoCE is one) holds the removal up, with a lock that the whole host needs, until every user has
 * closed every file of the device. So all of it is let go of at once, in the control thread. What
 * others hold (lanes, memory, the rail itself) stays as an empty shell that can be closed as ever.
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "base/assert.h"
#include "transports/rdma/internal.h"

int sluice_rdma_say_removed(const struct sluice_rail *rail, struct sluice_error *err)
{
	return sluice_fail(err, -ENODEV, "rdma-rail",
		"the RDMA device %s was removed; `sluice preflight` lists those that are there",
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

void sluice_rdma_rail_removed(struct sluice_rail *rail)
{
	SLUICE_ASSERT(!rail->gone);
	rail->gone = true;
	rail->listening = false;
	lose_lanes(rail);
	for (struct sluice_conn *conn = rail->conns; conn != NULL; conn = conn->next) {
		sluice_rdma_cm_disconnect(conn); /* the peer may still hear of it */
		sluice_rdma_conn_release(conn);
	}
	sluice_rdma_mem_release_all(rail);
	ibv_dereg_mr(rail->cell_mr);
	rail->cell_mr = NULL;
	ibv_dealloc_pd(rail->pd);
	rail->pd = NULL;
	rdma_destroy_id(rail->id);
	rail->id = NULL;
	epoll_ctl(rail->epoll_fd, EPOLL_CTL_DEL, rail->channel->fd, NULL);
	epoll_ctl(rail->epoll_fd, EPOLL_CTL_DEL, rail->verbs->async_fd, NULL);
	ibv_close_device(rail->verbs);
	rail->verbs = NULL;
	close_for_librdmacm(rail->cm_verbs);
	rail->cm_verbs = NULL;
}
