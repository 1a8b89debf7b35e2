/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * internal.h: the objects of the tcp transport, shared by its own files only.
 *
 * Threading: a rail, its memory and its list of lanes belong to the control thread. Workers
 * read of a rail only what is marked atomic. A lane belongs to its worker between lane_open
 * and lane_fence or lane_close; what the two threads share while it waits for its connection
 * is one atomic word, `handover`, and an eventfd.
 */
#ifndef SLUICE_TRANSPORTS_TCP_INTERNAL_H
#define SLUICE_TRANSPORTS_TCP_INTERNAL_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include <sluice/transport.h>

#include "base/inet.h"
#include "transports/tcp/tcp.h"
#include "transports/tcp/wire.h"

/* Limits of this end only; the peer does not see them. */
#define TCP_DEPTH_MAX            1024u /* operations in flight: 4 MiB of single pages */
#define TCP_TX_FRAMES            4u /* frames not yet taken by the kernel */
#define TCP_MEMS_MAX             1024u /* registrations of one rail */
#define TCP_PENDING_MAX          256u /* connections that have not said who they are */
#define TCP_BACKLOG              256
#define TCP_HELLO_DEADLINE_NS    (5 * 1000000000ull)
#define TCP_ACCEPT_PAUSE_NS      (100 * 1000000ull) /* after the process ran out of descriptors */
#define TCP_STEP_EVENTS_MAX      64 /* sockets looked at in one rail_step */
#define TCP_POLL_READS_MAX       16u /* system calls of one poll, */
#define TCP_POLL_PLACE_BYTES_MAX (16u << 20) /* and bytes that it places */
#define TCP_POLL_MESSAGES_MAX    16u
#define TCP_ZEROCOPY_BYTES_MIN   (16u << 10) /* below, copying is cheaper than keeping account */
#define TCP_ZEROCOPY_CALLS_MAX   1024u /* that the kernel has not let go of */
#define TCP_ZEROCOPY_PAUSE_CALLS 64u /* copied after the kernel copied, or had no room */
#define TCP_ZEROCOPY_REAPS_MAX   16u /* notifications of one poll */
#define TCP_BOUNCE_BYTES         (256u << 10) /* payload with a checksum is copied here first */
#define TCP_FAULT_BYTES          (64u << 10) /* the kernel's fault-around, see memory.c */
/* What a lane within this host keeps in the kernel: more only leaves the cache before it is read. */
#define TCP_LOOPBACK_SEND_BYTES (256 << 10)
/* The same of all lanes of a thread: a hundred would keep a hundred such buffers full. */
#define TCP_LOOPBACK_THREAD_BYTES (1u << 20)
/* A source puts so many bytes in one frame, unless an operation is longer; a target says what it has placed
   when it is so many, while more waits. An acknowledgement that covered more would be half a small
   window, and make what is placed come in lumps that say little about the rate. */
#define TCP_FRAME_BYTES (512u << 10)
#define TCP_ACK_BYTES   (256u << 10)

/* ---- rails and memory (rail.c, memory.c) ---- */

struct sluice_mem {
	struct sluice_rail *rail;
	uint32_t id;
	uint32_t access;
	uint32_t slot;
	uint8_t *addr;
	uint64_t len_bytes;
	_Atomic bool admits; /* the peer's writes, now */
	uint64_t *
		faulted; /* atomic: a bit per block of TCP_FAULT_BYTES that was faulted in; NULL: nothing
			      is written here */
};

struct sluice_remote {
	uint32_t id;
	uint64_t len_bytes;
};

/* An accepted connection whose hello is not complete. */
struct tcp_pending {
	int fd; /* -1: free */
	uint32_t have_bytes;
	uint64_t deadline_ns;
	uint8_t hello[sizeof(struct tcp_hello)];
};

struct sluice_rail {
	struct tcp_conf conf;
	struct sluice_inet address;
	bool peer_checksum; /* the peer asks for payload checksums: its latest key says so */
	bool address_given; /* lanes leave from this address */
	int epoll_fd; /* the listening socket and all pending ones */
	int listen_fd; /* -1 until rail_listen */
	uint64_t accept_again_ns; /* 0: accepting */
	struct tcp_pending pending[TCP_PENDING_MAX];
	uint32_t pending_count;
	struct sluice_conn *conns; /* every open lane */
	struct sluice_rail_stats counters;

	/* Read by workers. A registration goes away in three steps: its slot is emptied (or it
	   admits nothing any more), the generation moves, and every lane has been seen outside
	   poll. */
	_Atomic(struct sluice_mem *) mems[TCP_MEMS_MAX];
	_Atomic uint32_t mems_end; /* slots at and above it were never used */
	_Atomic uint32_t mems_generation;
};

/* The registration @id, or NULL. Any thread; *@hint is the caller's, any value. */
const struct sluice_mem *sluice_tcp_mem_find(
	const struct sluice_rail *rail, uint32_t id, uint32_t *hint);
/* Fault in what is about to be received: [offset, offset + len_bytes) of @mem. Any worker. */
void sluice_tcp_mem_fault_in(const struct sluice_mem *mem, uint64_t offset, uint32_t len_bytes);
int sluice_tcp_mem_register(struct sluice_rail *rail, const struct sluice_span *span,
	uint32_t access, struct sluice_mem **ret_mem, struct sluice_error *err);
void sluice_tcp_mem_unregister(struct sluice_mem *mem);
void sluice_tcp_mem_admit(struct sluice_mem *mem, bool admit);
int sluice_tcp_mem_export(const struct sluice_mem *mem, uint8_t *key, size_t key_bytes_max);
int sluice_tcp_mem_import(struct sluice_rail *rail, const uint8_t *key, size_t key_bytes,
	struct sluice_remote **ret_remote, struct sluice_error *err);
void sluice_tcp_mem_forget(struct sluice_remote *remote);

/* Options that every socket of the rail gets before it connects or listens. @sends_over_loopback: it
   is a source's, and both ends are on this host. */
void sluice_tcp_socket_setup(const struct sluice_rail *rail, int fd, bool sends_over_loopback);

/* ---- sending (send.c) ---- */

/* A frame on its way to the kernel. Its header is finished when its first byte leaves. */
struct tcp_tx_frame {
	uint8_t kind;
	bool started; /* some of it may have left: nothing is added any more */
	bool sealed; /* nothing is added any more, because order demands it */
	uint32_t count;
	uint32_t body_bytes;
	uint32_t payload_bytes;
	uint32_t place_bytes; /* payload and zeroes */
	uint32_t iov_first;
	uint32_t iov_count;
	uint64_t first_op;
	uint32_t inflight; /* index of what waits for it; DATA and SEND */
	uint32_t copy_first, copy_bytes; /* checksums: next payload piece to copy, copied so far */
	bool checked; /* checksums: all of it is copied, and the sum is behind it */
	struct iovec iov[1 + TCP_FRAME_ENTRIES_MAX]; /* [0]: header and body */
	uint8_t head[TCP_HEAD_BYTES_MAX];
};

/* What waits for the peer's acknowledgement: one frame, or one FLUSH behind earlier ones. */
struct tcp_inflight {
	uint64_t seq; /* of its last operation, or of the FLUSH */
	uint64_t end_ops; /* complete when the peer has placed this many */
	uint32_t zerocopy_end; /* and the kernel has let go of the calls before this one */
	bool flush;
};

/* Calls that asked the kernel not to copy; numbered as the kernel does, free running. */
struct tcp_zerocopy {
	bool on;
	uint32_t copy_calls; /* copied before it is tried again */
	uint32_t next; /* number of the next call */
	uint32_t released; /* the kernel has let go of all calls before this one */
	bool done[TCP_ZEROCOPY_CALLS_MAX]; /* of released .. next: let go of, out of turn */
};

struct tcp_tx {
	uint32_t frame_head, frame_tail; /* free running; tail - head are queued */
	uint32_t inflight_head, inflight_tail; /* the same */
	uint32_t flush_count; /* of them FLUSHes */
	bool ack_wanted; /* tell the peer now what has been placed */
	bool seq_valid;
	uint64_t seq_last; /* of the last operation taken */
	uint64_t ops_queued; /* WRITE, ZERO, SEND taken from the caller, */
	uint64_t ops_sent; /* of these taken by the kernel, */
	uint64_t ops_acked; /* placed by the peer, */
	uint64_t ops_completed; /* and reported to the caller */
	uint64_t ack_sent_ops; /* what the peer was last told */
	struct tcp_zerocopy zerocopy;
	uint8_t *bounce; /* checksums: TCP_BOUNCE_BYTES, of which [at, end) is still to be sent */
	uint32_t bounce_at, bounce_end;
	struct tcp_inflight inflight[TCP_DEPTH_MAX];
	struct tcp_tx_frame frames[TCP_TX_FRAMES];
};

/* ---- receiving (receive.c) ---- */

struct tcp_extent {
	const struct sluice_mem *mem; /* valid in the poll that looked it up */
	uint8_t *addr;
	uint64_t offset;
	uint32_t len_bytes;
	uint32_t mem_id;
	bool zero;
};

struct tcp_rx {
	bool in_payload; /* a validated data frame is being placed */
	bool stalled; /* poll again at once: work is left that needs no input */
	uint32_t have_bytes; /* in buffer, from its start; 0 while payload comes in directly */
	uint32_t generation; /* of the rail's registrations, when the frame was validated */
	uint32_t mem_hint;
	uint32_t extent_count;
	uint32_t extent_next; /* first one neither placed nor in iov */
	uint32_t hash_next; /* checksums: first one that is not in the sum */
	bool sum_due; /* checksums: the sum comes behind the payload */
	uint32_t iov_first, iov_count;
	uint32_t batch_bytes; /* left in iov */
	uint32_t frame_bytes; /* placed by the frame once it is complete */
	uint32_t placed_now_bytes; /* by this poll */
	uint32_t unacked_bytes;
	uint32_t message_count; /* delivered by this poll */
	uint64_t ops_placed;
	struct tcp_extent extents[TCP_FRAME_ENTRIES_MAX];
	struct iovec iov[TCP_FRAME_ENTRIES_MAX + 1];
	uint8_t buffer[TCP_HEAD_BYTES_MAX];
	uint8_t messages[TCP_POLL_MESSAGES_MAX][TCP_SEND_BYTES_MAX];
};

/* ---- lanes (conn.c) ---- */

enum tcp_conn_state {
	TCP_CONN_WAITING = 1, /* TARGET: for the connection with its ticket */
	TCP_CONN_CONNECTING, /* SOURCE: for the kernel */
	TCP_CONN_GREETING, /* SOURCE: hello is going out, welcome is awaited */
	TCP_CONN_CONNECTED,
	TCP_CONN_LOST,
};

/* Values of `handover` besides descriptors. */
enum { TCP_HANDOVER_OPEN = -1, TCP_HANDOVER_CLOSED = -2 };

struct sluice_conn {
	/* The worker's. */
	enum tcp_conn_state state;
	bool connect_started; /* SOURCE: the kernel knows about it */
	bool connected_reported;
	bool lost_reported;
	enum sluice_role role;
	int32_t lost_status;
	bool checksum; /* payload carries a checksum; agreed on before CONNECTED */
	XXH3_state_t *hash; /* of the frame that is being sent or received */
	int fd; /* -1: none */
	uint64_t deadline_ns;
	uint32_t greeting_out_bytes, greeting_in_bytes;
	struct sluice_inet peer;
	struct tcp_hello hello; /* SOURCE: to say; TARGET: to expect */
	struct tcp_welcome welcome;
	struct sluice_conn_stats stats;

	/* Shared with the control thread. */
	_Atomic int handover; /* TARGET: the accepted socket, once */
	_Atomic bool polling; /* TARGET: inside poll, registrations may be in use */
	int handover_eventfd;

	/* The control thread's. */
	struct sluice_rail *rail;
	struct sluice_conn *next;

	struct tcp_tx tx;
	struct tcp_rx rx;
};

/* TARGET, control thread, before the handover: the hello asks for payload checksums, or not. */
void sluice_tcp_greeting_agree(struct sluice_conn *conn, bool checksum);
/* The connection is over; the socket is closed at once. Keeps the first reason. */
void sluice_tcp_conn_lose(struct sluice_conn *conn, int status);

int sluice_tcp_lane_open(struct sluice_rail *rail, const struct sluice_lane_opts *opts,
	struct sluice_conn **ret_conn, struct sluice_error *err);
bool sluice_tcp_lane_fence(struct sluice_conn *conn);
void sluice_tcp_lane_close(struct sluice_conn *conn);
const struct sluice_conn_stats *sluice_tcp_lane_stats(const struct sluice_conn *conn);
uint32_t sluice_tcp_poll(
	struct sluice_conn *conn, struct sluice_event *events, uint32_t max, uint64_t now_ns);
bool sluice_tcp_arm(struct sluice_conn *conn, struct sluice_arm *ret_arm);

uint32_t sluice_tcp_submit(
	struct sluice_conn *conn, const struct sluice_op *ops, uint32_t count, uint64_t now_ns);
/* Give queued frames, and an acknowledgement that is due, to the kernel. */
void sluice_tcp_push(struct sluice_conn *conn);
/* Lanes with payload checksums (checksum.c). */
int sluice_tcp_checksum_open(struct sluice_conn *conn); /* 0 or -ENOMEM */
void sluice_tcp_checksum_close(struct sluice_conn *conn);
/* What to send next of the frame: up to two pieces; none: it is complete. */
uint32_t sluice_tcp_checksum_pieces(
	struct sluice_conn *conn, struct tcp_tx_frame *frame, struct iovec pieces[2]);
void sluice_tcp_checksum_sent(struct sluice_conn *conn, struct tcp_tx_frame *frame, size_t bytes);
void sluice_tcp_checksum_begin(struct sluice_conn *conn, uint32_t payload_bytes);
void sluice_tcp_checksum_placed(struct sluice_conn *conn);
/* The sum is at the start of the buffer: is it that of what was placed? */
bool sluice_tcp_checksum_right(struct sluice_conn *conn);

/* Zero-copy sending (zerocopy.c). */
void sluice_tcp_zerocopy_setup(struct sluice_conn *conn); /* SOURCE: a socket that connects */
bool sluice_tcp_zerocopy_wanted(struct sluice_conn *conn, const struct tcp_tx_frame *frame);
void sluice_tcp_zerocopy_sent(struct sluice_conn *conn, struct tcp_tx_frame *frame);
void sluice_tcp_zerocopy_refused(struct sluice_conn *conn); /* ENOBUFS */
void sluice_tcp_zerocopy_reap(struct sluice_conn *conn); /* see what the kernel has let go of */
/* Before close: what the kernel still holds is dropped, not sent from memory that is not ours
   any more. */
void sluice_tcp_zerocopy_abort(struct sluice_conn *conn);

/* Report what the peer has placed. */
uint32_t sluice_tcp_complete(struct sluice_conn *conn, struct sluice_event *events, uint32_t max);
bool sluice_tcp_can_complete(const struct sluice_conn *conn);

/* Read and place what has arrived; report messages. */
uint32_t sluice_tcp_receive(struct sluice_conn *conn, struct sluice_event *events, uint32_t max);

/* Drop the first @bytes of iov[*first..count). */
static inline void tcp_iov_advance(struct iovec *iov, uint32_t *first, uint32_t count, size_t bytes)
{
	while (*first < count && bytes >= iov[*first].iov_len) {
		bytes -= iov[*first].iov_len;
		(*first)++;
	}
	if (bytes > 0) {
		iov[*first].iov_base = (uint8_t *)iov[*first].iov_base + bytes;
		iov[*first].iov_len -= bytes;
	}
}

/* One writer, any readers. */
static inline void tcp_stat_add(uint64_t *stat, uint64_t value)
{
	__atomic_store_n(stat, *stat + value, __ATOMIC_RELAXED);
}

#endif
