/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * internal.h: the objects of the rdma transport, shared by its own files only.
 *
 * Threading: a rail, its memory and its list of lanes belong to the control thread, and with them
 * everything that rdma_cm does. A lane's queue pair and completion queue belong to its worker
 * from READY on; the control thread only moves the queue pair to its error state then. What the
 * two threads share is marked atomic.
 */
#ifndef SLUICE_TRANSPORTS_RDMA_INTERNAL_H
#define SLUICE_TRANSPORTS_RDMA_INTERNAL_H

#include <infiniband/verbs.h>
#include <rdma/rdma_cma.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <sluice/transport.h>

#include "base/clock.h"
#include "base/inet.h"
#include "transports/rdma/rdma.h"
#include "transports/rdma/wire.h"

/* Limits of this end only; the peer does not see them. */
#define RDMA_DEPTH_MAX         1024u /* operations in flight; a power of two */
#define RDMA_CONTROL_REQUESTS  128u /* send queue entries besides the operations' */
#define RDMA_OP_REQUESTS_MAX   3u /* an operation may cross a piece's end at both hosts */
#define RDMA_CHAIN             64u /* work requests posted at once */
#define RDMA_SIGNAL_REQUESTS   16u /* one of so many work requests asks for a completion, */
#define RDMA_SIGNAL_BYTES      (256u << 10) /* or one after so many bytes */
#define RDMA_STASH             32u /* completions fetched at once */
#define RDMA_INBOX             16u /* messages that one poll reports */
#define RDMA_POLL_COMPLETIONS  512u /* of one poll, */
#define RDMA_POLL_ZERO_BYTES   (16u << 20) /* and bytes that it zeroes */
#define RDMA_REPOST            16u /* receives posted again at once */
#define RDMA_MEMS_MAX          1024u /* registrations of one rail */
#define RDMA_READS_MAX         16u /* FLUSHes under way */
#define RDMA_BACKLOG           256
#define RDMA_RETRIES           6u /* not 7, the most: soft-RoCE takes that for "for ever" */
#define RDMA_RESOLVE_MS        2000 /* address and route, each */
#define RDMA_STEP_EVENTS_MAX   64 /* of one rail_step */
#define RDMA_REGISTER_THREADS  8u
#define RDMA_MEMLOCK_SPARE     (256ull << 20) /* beside a guest: staging and lanes */
#define RDMA_DRAIN_WAIT_NS     (250 * SLUICE_NS_PER_MS) /* of one discard, for lanes, in all */
#define RDMA_PRIVATE_BYTES_MAX 64u /* of an event, that we look at */

/* ---- memory (memory.c) ---- */

/* A power-of-two part of a registration, with a key of its own. */
struct rdma_piece {
	struct ibv_mr *mr; /* NULL: the device is gone */
	_Atomic uint32_t lkey; /* workers read it for every operation */
};

struct sluice_mem {
	struct sluice_rail *rail;
	uint32_t id;
	uint32_t access;
	uint32_t slot;
	uint8_t *addr;
	uint64_t len_bytes;
	uint64_t address; /* of offset 0, as the NIC knows it */
	_Atomic bool admits; /* the peer's ZEROs, now */
	uint32_t piece_shift;
	uint32_t piece_count;
	struct rdma_piece pieces[];
};

struct sluice_remote {
	uint32_t id;
	uint64_t len_bytes;
	uint64_t address;
	uint32_t piece_shift;
	uint32_t piece_count;
	uint32_t rkeys[];
};

/* A piece that has a successor. It is let go of when no lane can use it any more. */
struct rdma_retired {
	struct rdma_retired *next;
	struct ibv_mr *mr;
};

struct sluice_rail {
	struct rdma_conf conf;
	struct sluice_inet address; /* from its first moment on with the port that it has */
	bool listening;
	int epoll_fd; /* what wakes rail_step */
	int wake_fd; /* eventfd: a worker lost its lane */
	int gone_fd; /* eventfd, readable for good once the device is gone: wakes every worker */
	bool gone; /* the device was removed; what the kernel counts is let go of (removal.c) */
	int return_fd; /* timerfd: while it is gone, when to look whether it is back, or to go on */
	uint64_t return_wait_ns; /* after the last failure to take it back */
	char device_name[SLUICE_RAIL_NAME_MAX];
	int numa_node;
	struct rdma_event_channel *channel;
	struct rdma_cm_id *id; /* bound to the address; listens */
	struct ibv_context *cm_verbs; /* the ids', librdmacm's, shared by all rails of a device */
	struct ibv_context *verbs; /* our own: everything but ids is made in it */
	struct ibv_device_attr device;
	struct ibv_port_attr port;
	struct ibv_pd *pd;
	uint64_t *cell; /* what FLUSHes of peers read: one page */
	struct ibv_mr *cell_mr;
	struct sluice_conn *conns; /* every open lane */
	struct sluice_rail_stats counters;
	struct rdma_retired *draining, *retired;

	/* Read by workers: see memory.c. */
	_Atomic(struct sluice_mem *) mems[RDMA_MEMS_MAX];
	_Atomic uint32_t mems_end; /* slots at and above it were never used */
};

/* The registration @id, or NULL. Any thread. */
const struct sluice_mem *sluice_rdma_mem_find(const struct sluice_rail *rail, uint32_t id);
/* Let go of retired pieces that no lane can use any more. Control thread. */
void sluice_rdma_mem_drain(struct sluice_rail *rail);
/* Every worker has been seen outside of submit, poll and arm since. Control thread. */
void sluice_rdma_wait_for_workers(const struct sluice_rail *rail);
/* The device is gone: let go of every registration; mems stay, empty. Control thread. */
void sluice_rdma_mem_release_all(struct sluice_rail *rail);
/* It is back, and has no lanes yet: fill them again, for about as long as the deadline says. 1: they
   are full; 0: not yet; -errno: this one cannot be. */
int sluice_rdma_mem_refill(
	struct sluice_rail *rail, uint64_t deadline_ns, struct sluice_error *err);
uint64_t sluice_rdma_lock_bytes(const struct sluice_rail *rail, uint64_t guest_bytes);
int sluice_rdma_mem_register(struct sluice_rail *rail, const struct sluice_span *span,
	uint32_t access, struct sluice_mem **ret_mem, struct sluice_error *err);
void sluice_rdma_mem_unregister(struct sluice_mem *mem);
void sluice_rdma_mem_admit(struct sluice_mem *mem, bool admit); /* receive.c */
int sluice_rdma_mem_discarded(
	struct sluice_mem *mem, uint64_t offset, uint64_t len_bytes, struct sluice_error *err);
int sluice_rdma_mem_export(const struct sluice_mem *mem, uint8_t *key, size_t key_bytes_max);
int sluice_rdma_mem_import(struct sluice_rail *rail, const uint8_t *key, size_t key_bytes,
	struct sluice_remote **ret_remote, struct sluice_error *err);
void sluice_rdma_mem_forget(struct sluice_remote *remote);

/* ---- lanes (conn.c, cm.c, send.c, receive.c, why.c) ---- */

/* How far the connection is, told by whoever gets there first. */
enum rdma_phase {
	RDMA_OPENING = 1, /* the control thread works on it */
	RDMA_READY, /* the worker's */
	RDMA_FAILED, /* could not be connected: failed_status says why */
	RDMA_CLOSED, /* given up or fenced: the ticket is void */
	RDMA_REMOVED, /* the device is gone, or about to: queue pair and queue are not touched */
};

/* An operation that was taken and not reported. */
struct rdma_op {
	uint8_t kind;
	bool replied; /* complete only when the peer has said so */
	uint32_t reply_end; /* its count of done SENDs and ZEROs is this, then */
	uint64_t seq;
	uint64_t end_request; /* its work requests are those before this one */
};

/* A ZERO that the peer has not answered: no WRITE to its range is posted. */
struct rdma_zeroing {
	uint32_t reply_end;
	const struct sluice_remote *remote;
	uint64_t offset, end;
};

struct rdma_tx {
	bool seq_valid;
	uint64_t seq_last; /* of the last operation taken */
	uint64_t op_head, op_tail; /* free running; tail - head are in flight */
	uint64_t request_next; /* number of the next work request */
	uint32_t unsignalled, unsignalled_bytes; /* since the last that asks for a completion */
	uint32_t messages; /* sent since the connection began, */
	uint32_t given; /* of these taken out of the peer's receives and given again */
	uint32_t replies_wanted, replies; /* SENDs and ZEROs sent, and done by the peer */
	uint32_t zero_head, zero_tail; /* free running */
	uint32_t given_told, done_told; /* what the peer was last told */
	uint32_t slot_next; /* free running */
	uint32_t chain_count;
	uint32_t inline_bytes_max;
	uint32_t requests_max; /* in the send queue */
	uint64_t slot_end_request[RDMA_RECEIVES]; /* the slot is free when this is complete */
	struct rdma_zeroing zeroing[RDMA_RECEIVES];
	struct ibv_send_wr chain[RDMA_CHAIN];
	struct ibv_sge sges[RDMA_CHAIN];
	struct rdma_op ops[RDMA_DEPTH_MAX];
};

struct rdma_rx {
	bool armed; /* a notification was asked for and has not come */
	uint32_t stash_next, stash_count;
	uint32_t inbox_count;
	uint32_t repost_count;
	uint32_t given; /* receives posted again */
	uint32_t done; /* SENDs and ZEROs of the peer that are done */
	uint32_t zeroed_bytes; /* by this poll */
	struct ibv_wc stash[RDMA_STASH];
	struct ibv_recv_wr repost[RDMA_REPOST];
	struct ibv_sge repost_sges[RDMA_REPOST];
	uint8_t inbox[RDMA_INBOX][RDMA_SEND_BYTES_MAX];
};

/* What a lane's buffers look like; one page-aligned registration. */
struct rdma_buffers {
	uint8_t receive[RDMA_RECEIVES][RDMA_MESSAGE_BYTES_MAX];
	uint8_t send[RDMA_RECEIVES][RDMA_MESSAGE_BYTES_MAX];
	uint64_t cell; /* where FLUSHes read to */
};

struct sluice_conn {
	/* The worker's. */
	bool connected; /* reported */
	bool lost, lost_reported;
	enum sluice_role role;
	int32_t lost_status;
	uint32_t lost_wc_status; /* enum ibv_wc_status, for lane_why_lost */
	uint32_t lost_vendor_error;
	uint64_t deadline_ns;
	struct sluice_conn_stats stats;

	/* Shared. */
	_Atomic int phase; /* enum rdma_phase */
	_Atomic int failed_status; /* -errno: the control thread knows that it is over */
	_Atomic bool wants_disconnect; /* the worker lost it: tell the peer */
	_Atomic bool polling; /* inside submit, poll or arm: registrations and queues may be in
				 use */
	_Atomic uint64_t requests_posted, requests_completed;
	int opened_fd; /* eventfd: the phase has changed */
	int sleep_fd; /* epoll: the completion channel, the rail's gone_fd. A worker that slept on
			 the channel itself would hold on to a device that is being removed */

	/* Made before READY, used by the worker, destroyed by the control thread. */
	struct ibv_qp *qp; /* NULL: fenced */
	struct ibv_cq *cq;
	struct ibv_comp_channel *channel;
	uint32_t channel_events; /* taken and not acknowledged */
	struct rdma_buffers *buffers;
	struct ibv_mr *buffers_mr;
	uint64_t cell_address; /* SOURCE: the peer's */
	uint32_t cell_rkey;

	/* The control thread's. */
	struct sluice_rail *rail;
	struct sluice_conn *next;
	struct rdma_cm_id *id;
	uint32_t qp_number;
	bool unsure; /* the device did not say that what it had acknowledged is in memory */
	bool accepting; /* TARGET: its connection is on its way */
	bool disconnected;
	uint64_t drain_request; /* retired pieces: what it had posted then */
	struct sluice_inet peer;
	struct rdma_hello hello; /* SOURCE: to say; TARGET: to expect */
	char why[192]; /* what the control thread saw */

	struct rdma_tx tx;
	struct rdma_rx rx;
};

/* An event of rdma_cm, copied so that it can be acknowledged before it is acted upon. */
struct rdma_news {
	enum rdma_cm_event_type event;
	int status;
	struct rdma_cm_id *id;
	uint32_t reads; /* CONNECT_REQUEST: that the peer wants to have under way */
	uint32_t private_bytes;
	uint8_t private_data[RDMA_PRIVATE_BYTES_MAX];
};

int sluice_rdma_lane_open(struct sluice_rail *rail, const struct sluice_lane_opts *opts,
	struct sluice_conn **ret_conn, struct sluice_error *err);
bool sluice_rdma_lane_fence(struct sluice_conn *conn);
void sluice_rdma_lane_close(struct sluice_conn *conn);
const struct sluice_conn_stats *sluice_rdma_lane_stats(const struct sluice_conn *conn);
/* Let go of all that the kernel counts; idempotent. No worker uses it any more. */
void sluice_rdma_conn_release(struct sluice_conn *conn);
void sluice_rdma_lane_why_lost(const struct sluice_conn *conn, char *text, size_t text_bytes);

/* rdma_cm, control thread (cm.c). */
int sluice_rdma_cm_connect(
	struct sluice_conn *conn, const char *peer_address, struct sluice_error *err);
void sluice_rdma_cm_step(struct sluice_rail *rail);
/* It could not be connected, or is over. The first reason stays. */
void sluice_rdma_cm_fail(struct sluice_conn *conn, int status, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
/* Tell the peer that this is the end, once. */
void sluice_rdma_cm_disconnect(struct sluice_conn *conn);

/* The device is being removed, which waits until nobody uses it: lose the lanes and let go of it.
   Control thread (removal.c). */
void sluice_rdma_rail_removed(struct sluice_rail *rail);
/* While it is gone: take the device back if it is there, in short steps. Control thread. */
void sluice_rdma_rail_return(struct sluice_rail *rail);
/* The address, and with it the device (rail.c). */
int sluice_rdma_rail_bind(struct sluice_rail *rail, struct sluice_error *err);
/* A context and a domain of the rail's own; NULL-safe closer. */
int sluice_rdma_domain_open(struct sluice_rail *rail, struct sluice_error *err);
void sluice_rdma_domain_close(struct sluice_rail *rail);
int sluice_rdma_rail_watch(struct sluice_rail *rail, int fd);
/* -ENODEV, with what to do about it. */
int sluice_rdma_say_removed(const struct sluice_rail *rail, struct sluice_error *err);

/* The worker's. */
uint32_t sluice_rdma_submit(
	struct sluice_conn *conn, const struct sluice_op *ops, uint32_t count, uint64_t now_ns);
uint32_t sluice_rdma_poll(
	struct sluice_conn *conn, struct sluice_event *events, uint32_t max, uint64_t now_ns);
bool sluice_rdma_arm(struct sluice_conn *conn, struct sluice_arm *ret_arm);

/* The connection is over. Keeps the first reason. Worker, or the control thread when it is
   quiet. */
void sluice_rdma_conn_lose(struct sluice_conn *conn, int status);

/* Sending (send.c). */
uint32_t sluice_rdma_complete(struct sluice_conn *conn, struct sluice_event *events, uint32_t max);
bool sluice_rdma_can_complete(const struct sluice_conn *conn);
/* What the peer's message said about ours. False: it cannot be true. */
bool sluice_rdma_told(struct sluice_conn *conn, uint32_t given, uint32_t done);
/* Tell the peer what it waits for, if there is room for a message. */
void sluice_rdma_acknowledge(struct sluice_conn *conn);

/* Receiving (receive.c). */
int sluice_rdma_receives_post_all(struct sluice_conn *conn); /* before READY */
void sluice_rdma_repost(struct sluice_conn *conn);
/* A message has come into receive buffer @slot. False: there is no room to report it now. */
bool sluice_rdma_receive(struct sluice_conn *conn, uint32_t slot, uint32_t bytes,
	struct sluice_event *events, uint32_t *count, uint32_t max);

static inline uint64_t rdma_completed(const struct sluice_conn *conn)
{
	return atomic_load_explicit(&conn->requests_completed, memory_order_relaxed);
}

/* One writer, any readers. */
static inline void rdma_stat_add(uint64_t *stat, uint64_t value)
{
	__atomic_store_n(stat, *stat + value, __ATOMIC_RELAXED);
}

#endif
