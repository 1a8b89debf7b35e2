/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * zerocopy.c: payload that the kernel sends from guest memory without copying it (MSG_ZEROCOPY),
 * and the notifications that say when it has let go of it. The lane's worker, except the set-up.
 *
 * The kernel numbers the calls that asked for it, from 0, and reports ranges of numbers on the
 * socket's error queue (Documentation/networking/msg_zerocopy.rst). An operation is PLACED only
 * when the peer has stored it and the kernel has let go of all calls up to its last one, so the
 * caller's window counts what the kernel still holds. Pages in flight may change, as ever before
 * PLACED: what was written meanwhile is dirty and is sent again, behind this.
 *
 * The kernel may copy nevertheless (loopback always does), or have no room for another
 * notification (ENOBUFS). Neither is an error: it is counted, and the lane copies for a while.
 */
#include <errno.h>
#include <time.h> /* for the next one */

#include <linux/errqueue.h>
#include <netinet/in.h>
#include <string.h>

#include "base/assert.h"
#include "transports/tcp/internal.h"

#ifndef SO_ZEROCOPY
#define SO_ZEROCOPY 60
#endif

void sluice_tcp_zerocopy_setup(struct sluice_conn *conn)
{
	int on = 1;

	/* A kernel that cannot do it copies: the lane is slower, not wrong. */
	conn->tx.zerocopy.on = conn->rail->conf.zero_copy && !conn->checksum &&
			       setsockopt(conn->fd, SOL_SOCKET, SO_ZEROCOPY, &on, sizeof(on)) == 0;
}

bool sluice_tcp_zerocopy_wanted(struct sluice_conn *conn, const struct tcp_tx_frame *frame)
{
	struct tcp_zerocopy *zc = &conn->tx.zerocopy;

	if (!zc->on || frame->payload_bytes < TCP_ZEROCOPY_BYTES_MIN)
		return false;
	if (zc->copy_calls > 0) {
		zc->copy_calls--;
		return false;
	}
	return zc->next - zc->released < TCP_ZEROCOPY_CALLS_MAX;
}

void sluice_tcp_zerocopy_sent(struct sluice_conn *conn, struct tcp_tx_frame *frame)
{
	struct tcp_zerocopy *zc = &conn->tx.zerocopy;

	zc->done[zc->next % TCP_ZEROCOPY_CALLS_MAX] = false;
	zc->next++;
	conn->tx.inflight[frame->inflight % TCP_DEPTH_MAX].zerocopy_end = zc->next;
	tcp_stat_add(&conn->stats.zerocopy_sent, 1);
}

void sluice_tcp_zerocopy_refused(struct sluice_conn *conn)
{
	conn->tx.zerocopy.copy_calls = TCP_ZEROCOPY_PAUSE_CALLS;
	tcp_stat_add(&conn->stats.zerocopy_enobufs, 1);
}

/* The kernel has let go of the calls first..last; the numbers wrap. */
static void released(struct sluice_conn *conn, uint32_t first, uint32_t last, bool copied)
{
	struct tcp_zerocopy *zc = &conn->tx.zerocopy;

	for (uint32_t call = first; call - first <= last - first; call++) {
		if (call - zc->released >= zc->next - zc->released)
			return; /* none of ours */
		zc->done[call % TCP_ZEROCOPY_CALLS_MAX] = true;
		if (copied)
			tcp_stat_add(&conn->stats.zerocopy_copied, 1);
	}
	if (copied)
		zc->copy_calls = TCP_ZEROCOPY_PAUSE_CALLS;
	while (zc->released != zc->next && zc->done[zc->released % TCP_ZEROCOPY_CALLS_MAX])
		zc->released++;
}

/* True when there may be another one. */
static bool take_notification(struct sluice_conn *conn)
{
	union {
		char bytes[CMSG_SPACE(
			sizeof(struct sock_extended_err) + sizeof(struct sockaddr_in6))];
		struct cmsghdr align;
	} control;
	struct msghdr message = {.msg_control = &control, .msg_controllen = sizeof(control)};

	if (recvmsg(conn->fd, &message, MSG_ERRQUEUE) < 0)
		return false;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&message); c != NULL; c = CMSG_NXTHDR(&message, c)) {
		struct sock_extended_err ee;

		if (c->cmsg_len < CMSG_LEN(sizeof(ee)))
			continue;
		memcpy(&ee, CMSG_DATA(c), sizeof(ee));
		if (ee.ee_origin == SO_EE_ORIGIN_ZEROCOPY && ee.ee_errno == 0)
			released(conn, ee.ee_info, ee.ee_data,
				(ee.ee_code & SO_EE_CODE_ZEROCOPY_COPIED) != 0);
	}
	return true;
}

void sluice_tcp_zerocopy_reap(struct sluice_conn *conn)
{
	const struct tcp_zerocopy *zc = &conn->tx.zerocopy;

	for (uint32_t i = 0; i < TCP_ZEROCOPY_REAPS_MAX && zc->released != zc->next; i++)
		if (!take_notification(conn))
			return;
}

void sluice_tcp_zerocopy_abort(struct sluice_conn *conn)
{
	struct linger now = {.l_onoff = 1, .l_linger = 0};

	if (conn->tx.zerocopy.released != conn->tx.zerocopy.next)
		setsockopt(conn->fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
}
