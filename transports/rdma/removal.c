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
#include <stdio.h>
#include <string.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"
#include "transports/rdma/internal.h"

#define LOOK_AGAIN_NS     SLUICE_NS_PER_S
#define LOOK_AGAIN_MAX_NS (30 * SLUICE_NS_PER_S)
#define REFILL_NS         (20 * SLUICE_NS_PER_MS) /* of one step */

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

/* Once; 0: no more. */
static void look_again(struct sluice_rail *rail, uint64_t after_ns)
{
	struct itimerspec spec = {.it_value = {.tv_sec = (time_t)(after_ns / SLUICE_NS_PER_S),
					  .tv_nsec = (long)(after_ns % SLUICE_NS_PER_S)}};

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
	rail->return_wait_ns = 0;
	rail->counters.gone_why[0] = '\0';
	look_again(rail, LOOK_AGAIN_NS);
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
	rail->counters.gone_why[0] = '\0';
	rail->counters.returns++;
}

/*
 * The same address, with the port that peers know; the same memory, whose keys are new. 1: done; 0: not
 * all of the memory is registered yet; -errno.
 */
static int take_back(struct sluice_rail *rail, uint64_t deadline_ns, struct sluice_error *err)
{
	int r = 0;

	if (rail->id == NULL)
		r = sluice_rdma_rail_bind(rail, err);
	if (r == 0 && rail->verbs == NULL)
		r = sluice_rdma_domain_open(rail, err);
	if (r == 0)
		r = sluice_rdma_mem_refill(rail, deadline_ns, err);
	if (r <= 0)
		return r;
	r = watch_device(rail);
	if (r == 0 && rail->listening && rdma_listen(rail->id, RDMA_BACKLOG) < 0)
		r = -errno;
	return r == 0 ? 1
		      : sluice_fail(err, r, "rdma-rail", "cannot listen again: %s", strerror(-r));
}

/* An id that is bound stays so: only an id hears of it when the device goes once more. All else is
   let go of: half a guest that is pinned is of no use, and in the way of other rails. */
static void try_later(struct sluice_rail *rail, const struct sluice_error *why)
{
	bool is_absent = rail->id == NULL;
	uint64_t wait_ns = 2 * rail->return_wait_ns;

	sluice_rdma_mem_release_all(rail);
	sluice_rdma_domain_close(rail);
	if (is_absent || wait_ns == 0)
		wait_ns = LOOK_AGAIN_NS;
	if (wait_ns > LOOK_AGAIN_MAX_NS)
		wait_ns = LOOK_AGAIN_MAX_NS;
	rail->return_wait_ns = is_absent ? 0 : wait_ns;
	snprintf(rail->counters.gone_why, sizeof(rail->counters.gone_why), "%.*s",
		(int)sizeof(rail->counters.gone_why) - 1,
		is_absent && why->code == -ENODEV ? "" : why->text);
	look_again(rail, wait_ns);
}

/*
 * Other rails may carry lanes meanwhile, whose peer link this thread serves: it pins memory for half
 * of its time at most, and not for long at a time.
 */
void sluice_rdma_rail_return(struct sluice_rail *rail)
{
	uint64_t start_ns = sluice_now_ns(), count;
	struct sluice_error err = {0};
	int r;

	if (read(rail->return_fd, &count, sizeof(count)) < 0)
		return;
	/* Not before its lanes are closed: what woke their workers stays readable as long. */
	if (rail->conns != NULL) {
		look_again(rail, LOOK_AGAIN_NS);
		return;
	}
	r = take_back(rail, start_ns + REFILL_NS, &err);
	if (r < 0)
		try_later(rail, &err);
	else if (r == 0)
		look_again(rail, sluice_now_ns() - start_ns);
	else
		forget_gone(rail);
}
