/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * transport.h: the contract between the engine and a transport.
 *
 * Everything that moves is a write into the target's registered memory. A
 * transport offers four operations for that (WRITE, ZERO, SEND, FLUSH), on
 * connections that the engine calls lanes. It decides nothing: which page goes
 * when, over which lane and how often is the engine's business.
 *
 * Two tables keep slow and fast apart. The slow one (rails, memory, opening and
 * fencing lanes) is called by the control thread only; it may sleep, allocate,
 * and describes its errors. The fast one (submit, poll, arm) is called by
 * whichever single worker steps the lane; it never sleeps, locks, allocates,
 * logs or fails: what goes wrong arrives as a LOST event.
 *
 * The engine calls no fast function of a connection while a slow function of
 * the same connection runs; transports need no lock for that.
 */
#ifndef SLUICE_TRANSPORT_H
#define SLUICE_TRANSPORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <sluice/error.h>
#include <sluice/param.h>

#ifdef __cplusplus
extern "C" {
#endif

#define SLUICE_TRANSPORT_ABI  1
#define SLUICE_TICKET_BYTES   32 /* 256 random bits */
#define SLUICE_ADDRESS_MAX    128 /* text, with the final NUL */
#define SLUICE_KEY_BYTES_MAX  4096
#define SLUICE_SEND_BYTES_MAX 256 /* every transport carries messages up to this size */
#define SLUICE_RAIL_NAME_MAX  64
#define SLUICE_RAILS_MAX      8 /* that one engine opens, of all transports together */

struct sluice_rail; /* one NIC or way out; memory is registered with it */
struct sluice_mem; /* local memory registered with a rail */
struct sluice_remote; /* the peer's registered memory, as this rail reaches it */
struct sluice_conn; /* one lane's connection */

enum sluice_transport_caps {
	SLUICE_CAP_READ = 1 << 0, /* can read the peer's memory (restore) */
	SLUICE_CAP_PEERLESS = 1 << 1, /* no engine at the other end (file) */
	SLUICE_CAP_REGISTERS_MEMORY = 1 << 2, /* ops must carry the local registration */
	SLUICE_CAP_ONE_SIDED = 1 << 3, /* lands without the target's CPU */
	/* Poll asks the kernel each time: many connections without work are better waited for. */
	SLUICE_CAP_KERNEL_POLL = 1 << 4,
};

/* Memory to register: [addr, addr + len_bytes), page aligned, owned by the caller. */
struct sluice_span {
	uint32_t id; /* unique among the rail's live registrations; names it on the wire */
	void *addr;
	uint64_t len_bytes;
};

enum sluice_access {
	SLUICE_ACCESS_LOCAL_READ = 1 << 0, /* source: WRITEs read from it */
	SLUICE_ACCESS_REMOTE_WRITE = 1 << 1, /* target: the peer's WRITE and ZERO land in it, while
						mem_admit lets them */
};

enum sluice_role {
	SLUICE_ROLE_SOURCE, /* connects to the peer's rail address */
	SLUICE_ROLE_TARGET, /* waits for the connection that carries the ticket */
};

struct sluice_ticket {
	uint8_t secret[SLUICE_TICKET_BYTES];
};

/* What a rail can do. Constant from rail_open on. */
struct sluice_rail_limits {
	uint32_t caps; /* enum sluice_transport_caps */
	uint32_t align_bytes; /* WRITE and ZERO offsets and lengths are multiples of it */
	uint32_t op_bytes_max; /* longest WRITE or ZERO; at least 4096 */
	uint32_t depth_max; /* operations in flight per connection, at least 16 */
	uint32_t send_bytes_max; /* longest SEND, at least SLUICE_SEND_BYTES_MAX */
	/* In flight of all lanes that one thread steps, where it steps several: with more they only
	   become slower, and begin nothing new. 0: there is no such number. */
	uint64_t thread_bytes_max;
	uint64_t link_bytes_per_s; /* nominal; 0 when unknown */
	int numa_node; /* -1 when unknown */
};

/* A rail that could be opened here: one address of one NIC, as the system tells it. */
struct sluice_rail_info {
	char address[SLUICE_ADDRESS_MAX]; /* what rail_open takes for it */
	char device[SLUICE_RAIL_NAME_MAX]; /* as the system names the NIC: eth0, mlx5_0/1 */
	bool usable; /* its port is up and it has what lanes need */
	char note[256]; /* what an operator wants to read (port state, GID, firmware), or, where
			   it is not usable, why not and what to do */
	uint32_t mtu_bytes; /* 0 when unknown */
	uint64_t link_bytes_per_s; /* nominal; 0 when unknown */
	int numa_node; /* -1 when unknown */
	uint64_t mr_bytes_max; /* longest single registration; 0: no limit, or no registrations */
	uint32_t mr_max; /* registrations at a time; 0 as above */
};

struct sluice_lane_opts {
	enum sluice_role role;
	uint32_t lane; /* index within the session */
	uint32_t epoch; /* counts this lane's connections in the session; part of the hello */
	struct sluice_ticket ticket; /* single use; a TARGET accepts exactly this one */
	const char *peer_address; /* SOURCE: what the peer's rail_address said */
	uint64_t deadline_ns; /* CONNECTED or LOST by then, on the clock given to poll */
};

enum sluice_op_kind {
	SLUICE_OP_WRITE = 1, /* local bytes -> remote + remote_offset */
	SLUICE_OP_ZERO, /* remote bytes := 0 */
	SLUICE_OP_SEND, /* a message, delivered after all earlier ops of its lane are placed */
	SLUICE_OP_FLUSH, /* completes when all earlier ops are visible to the target's CPU and
			    ordered before any later write of any lane */
};

/*
 * One operation. `seq` is chosen by the caller and grows by at least one per op
 * of a connection. `local` bytes of a WRITE are read at any moment between
 * submit and PLACED, possibly in pieces, while the guest may change them; the
 * bytes of a SEND are copied by submit.
 */
struct sluice_op {
	uint8_t kind; /* enum sluice_op_kind */
	uint32_t len_bytes; /* WRITE, ZERO, SEND */
	uint64_t seq;
	const void *local; /* WRITE, SEND */
	const struct sluice_mem *mem; /* WRITE: registration that holds `local`, or NULL where
					       the rail lacks SLUICE_CAP_REGISTERS_MEMORY */
	const struct sluice_remote *remote; /* WRITE, ZERO */
	uint64_t remote_offset; /* WRITE, ZERO: bytes from the start of `remote` */
};

enum sluice_event_kind {
	SLUICE_EVENT_CONNECTED = 1, /* once, before any other event but LOST */
	SLUICE_EVENT_PLACED, /* every WRITE, ZERO and SEND up to and including `seq` */
	SLUICE_EVENT_FLUSHED, /* the FLUSH `seq`, hence everything before it; it comes
				       before any PLACED with a higher seq */
	SLUICE_EVENT_RECEIVED, /* a peer's SEND: data, len_bytes; valid until the next poll */
	SLUICE_EVENT_LOST, /* final; status is -errno. Later submits take nothing */
};

struct sluice_event {
	uint8_t kind;
	int32_t status; /* LOST: -errno */
	uint32_t len_bytes; /* RECEIVED */
	uint64_t seq; /* PLACED, FLUSHED */
	const void *data; /* RECEIVED */
};

/* How a worker may sleep until the connection has something to do. */
struct sluice_arm {
	int fd; /* -1: none, only the deadline */
	short events; /* POLLIN, POLLOUT */
	uint64_t deadline_ns; /* UINT64_MAX: none */
};

/*
 * Per connection. Written by the lane's worker, read by anyone at any time: both
 * sides use relaxed __atomic loads and stores (plain types keep the header C++ clean).
 */
#define SLUICE_CONN_STATS(X)                                                          \
	X(bytes_out, "bytes sent, headers included")                                  \
	X(bytes_in, "bytes received, headers included")                               \
	X(syscalls_out, "system calls or doorbells to send")                          \
	X(syscalls_in, "system calls or completion polls to receive")                 \
	X(zerocopy_sent, "sends that asked the kernel not to copy")                   \
	X(zerocopy_copied, "of these, sends that it copied nevertheless")             \
	X(zerocopy_enobufs, "sends copied because it had no room for another notice") \
	X(payload_damaged, "checksums of payload that were wrong; each ends the connection")

struct sluice_conn_stats {
#define X(name, help) uint64_t name;
	SLUICE_CONN_STATS(X)
#undef X
};

/*
 * Connections that asked for a lane of a rail, and what it has registered. Written and read by
 * the control thread.
 */
struct sluice_rail_stats {
	uint64_t accepted; /* by the network; the sum of the following and of those under way */
	uint64_t welcomed; /* became a lane */
	uint64_t refused_hello; /* malformed, or another version */
	uint64_t refused_ticket; /* well-formed, but nobody waits for it (any more) */
	uint64_t refused_deadline; /* too slow, or pushed out by newer ones */
	uint64_t registrations; /* with the NIC, since the rail was opened, */
	uint64_t registered_bytes; /* their bytes, */
	uint64_t register_ns; /* the time that they took, */
	uint64_t registered_last_ns; /* and when the last was made; CLOCK_MONOTONIC, 0: none */
	uint64_t removals; /* its NIC was removed, which loses every lane, */
	uint64_t returns; /* and came back: with less of these it is gone. Memory is registered
			     anew then, so keys that were exported before are void */
	char gone_why[256]; /* while it is gone: why it could not be taken back when that was last
			       tried; "": there was no NIC */
};

struct sluice_transport {
	uint32_t abi; /* SLUICE_TRANSPORT_ABI */
	uint32_t size; /* sizeof(struct sluice_transport) */
	const char *name;
	const char *summary; /* one line for --help and topology */
	const struct sluice_param *params; /* ends with a NULL name; may be empty */
	size_t conf_size; /* of the struct that params fill */

	/* ---- slow: control thread, may sleep. NULL-safe closers. ---- */

	/* The rails that this host has for the transport; touches nothing, opens no connection.
	   Returns how many there are and writes the first @max of them. -ENODEV with a reason
	   where the host lacks what all of them need (a driver, a library, permission).
	   NULL: cannot tell. */
	int (*probe)(const void *conf, struct sluice_rail_info *rails, uint32_t max,
		struct sluice_error *err);
	/* Bind a rail. @address: text from the user, transport-specific, "" for the default. The rail
	   is the caller's until rail_close; @conf may go. 0, or -errno with a reason: -EINVAL for
	   what is no address, -EADDRNOTAVAIL or -ENODEV for one that this host has not. */
	int (*rail_open)(const void *conf, const char *address, struct sluice_rail **ret_rail,
		struct sluice_error *err);
	/* Whether what goes to @address (as given to rail_open, or by a peer) stays on this host.
	   Any thread; false also for what is no address. */
	bool (*address_is_local)(const char *address);
	void (*rail_close)(struct sluice_rail *rail); /* after all lanes and memory are gone */
	void (*rail_limits)(const struct sluice_rail *rail, struct sluice_rail_limits *ret_limits);
	/* Start to accept lanes; until then a rail only connects out. @ret_address: what the
	   peer passes as peer_address. */
	int (*rail_listen)(struct sluice_rail *rail, char ret_address[SLUICE_ADDRESS_MAX],
		struct sluice_error *err);
	/* Progress for connections that are not lanes yet (accept, hello, refusals), and what else
	   is no business of workers (taking a lost connection down, letting go of a NIC that is
	   removed, taking it back: then also slow, some 20 ms at a time). The control loop calls it
	   when rail_fd is readable, from rail_open on, and at least every 100 ms while a session
	   listens or has lanes, at both ends. */
	void (*rail_step)(struct sluice_rail *rail, uint64_t now_ns);
	int (*rail_fd)(struct sluice_rail *rail); /* -1: none */
	const struct sluice_rail_stats *(*rail_stats)(const struct sluice_rail *rail);

	/*
	 * Make memory usable by the rail's lanes. @access: enum sluice_access. The memory stays the
	 * caller's, mapped and backed until mem_unregister. 0, or -errno with a reason: -ENOMEM when
	 * it may not be locked, -EINVAL for an empty or misaligned span, -ENOSPC beyond 64 regions
	 * and a staging area. A rail whose NIC is removed takes memory as well, without registering
	 * it: it does that when the NIC is back.
	 */
	/* The most that it locks (RLIMIT_MEMLOCK, bytes) with @guest_bytes of guest memory: that, what
	   mem_discarded registers anew before it lets go of the old, staging, its lanes' own buffers
	   and queues. NULL: nothing. */
	uint64_t (*lock_bytes)(const struct sluice_rail *rail, uint64_t guest_bytes);
	int (*mem_register)(struct sluice_rail *rail, const struct sluice_span *span,
		uint32_t access, struct sluice_mem **ret_mem, struct sluice_error *err);
	void (*mem_unregister)(struct sluice_mem *mem);
	/* TARGET: let the peer's WRITEs and ZEROs into @mem (with SLUICE_ACCESS_REMOTE_WRITE), or no
	   more. At first they are not let in. After it has returned with @admit false none lands
	   there any more, over any lane of the rail; a lane that brings one is lost. An exception
	   are WRITEs that a NIC places by itself: whoever was given the key of @mem and still has
	   a lane keeps that permission until the lane is fenced or @mem unregistered. */
	void (*mem_admit)(struct sluice_mem *mem, bool admit); /* NULL is allowed */
	/* The pages behind this range of @mem were given back to the system: before it is used
	   again its registration must hold the pages that come in their place. Offsets are bytes
	   from the span's start, page aligned. Lanes may run; what they have in flight there may
	   still read or write the old pages. On failure the range must not be used. NULL: the
	   rail holds no pages; never NULL with SLUICE_CAP_REGISTERS_MEMORY. */
	int (*mem_discarded)(struct sluice_mem *mem, uint64_t offset, uint64_t len_bytes,
		struct sluice_error *err);
	/* Bytes that the peer imports; returns their count, at most SLUICE_KEY_BYTES_MAX, or -ENOBUFS.
	   They hold until rail_stats counts another return of the NIC. */
	int (*mem_export)(const struct sluice_mem *mem, uint8_t *key, size_t key_bytes_max);
	/* What a peer's mem_export gave: where WRITE and ZERO of this rail's lanes may go. @key comes
	   from a peer: -EPROTO for bytes that are no key of this transport, -EPROTONOSUPPORT for
	   one of another version. Freed by mem_forget, when no operation that names it is in
	   flight. */
	int (*mem_import)(struct sluice_rail *rail, const uint8_t *key, size_t key_bytes,
		struct sluice_remote **ret_remote, struct sluice_error *err);
	void (*mem_forget)(struct sluice_remote *remote);

	/* Start a lane's connection; it goes on in poll. */
	int (*lane_open)(struct sluice_rail *rail, const struct sluice_lane_opts *opts,
		struct sluice_conn **ret_conn, struct sluice_error *err);
	/* TARGET: after it returns nothing of this connection lands any more, whatever the source
	   or the network still holds. True: whatever was reported PLACED to the source has landed
	   and is visible. False: nobody can tell, as the device ended that had it; what was FLUSHED
	   is there. Idempotent, also in its answer. */
	bool (*lane_fence)(struct sluice_conn *conn);
	void (*lane_close)(struct sluice_conn *conn); /* fences first where needed */
	const struct sluice_conn_stats *(*lane_stats)(const struct sluice_conn *conn);
	/* After LOST: what happened, in words that an operator can act on (which peer, in which
	   state, the likely cause), at most @text_bytes with the final NUL. NULL: the errno of
	   the event says all that is known. */
	void (*lane_why_lost)(const struct sluice_conn *conn, char *text, size_t text_bytes);

	/* ---- fast: the lane's worker. Never sleep, lock, allocate, log or fail. ---- */

	/* Take the first k of n ops; the rest stays the caller's. 0 before CONNECTED and
	   after LOST. */
	uint32_t (*submit)(struct sluice_conn *conn, const struct sluice_op *ops, uint32_t count,
		uint64_t now_ns);
	/* Make progress both ways and report up to @max events. */
	uint32_t (*poll)(struct sluice_conn *conn, struct sluice_event *events, uint32_t max,
		uint64_t now_ns);
	/* Say how to sleep. Returns false when poll should be called at once instead: while anything
	   is left to do that neither the descriptor nor the deadline will tell of. */
	bool (*arm)(struct sluice_conn *conn, struct sluice_arm *ret_arm);
};

/* Generated by the build from the dictionary in transports/meson.build; ends with NULL. */
extern const struct sluice_transport *const sluice_transports[];

#ifdef __cplusplus
}
#endif
#endif
