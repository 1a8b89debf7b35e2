/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * tls.h: TLS 1.3 with a pre-shared key on a connected socket. Nothing older, no certificates, and
 * always with a fresh Diffie-Hellman exchange, so that a key that is stolen later opens no
 * recorded link.
 *
 * OpenSSL lives in a module of its own (tls_openssl.c), loaded when the first link wants it: an
 * engine without a key neither maps nor initialises it.
 *
 * Threads: the control thread. Blocking: never, apart from loading and reading the key file.
 * Writing to a socket whose peer is gone raises SIGPIPE: the process ignores it.
 */
#ifndef SLUICE_ENGINE_PEER_TLS_H
#define SLUICE_ENGINE_PEER_TLS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include <sluice/error.h>

#define SLUICE_TLS_ABI           1
#define SLUICE_TLS_MODULE_SYMBOL sluice_tls_module
#define SLUICE_TLS_EXPORT_LABEL  "EXPORTER-sluice-lane-ticket"
#define SLUICE_TLS_RECORD_FIRST  20 /* first bytes of TLS records (content types) */
#define SLUICE_TLS_RECORD_LAST   23

#define SLUICE_TLS_RECORD_BYTES_MAX (16u << 10)

struct sluice_tls;

enum sluice_tls_role {
	SLUICE_TLS_CONNECTS, /* presents an identity */
	SLUICE_TLS_ACCEPTS, /* takes every identity of its file */
};

struct sluice_tls_opts {
	int fd; /* non-blocking, stays the caller's */
	enum sluice_tls_role role;
	const char *psk_file; /* borrowed until tls is destroyed */
	const char *psk_identity; /* CONNECTS: "" for the file's only one */
};

struct sluice_tls_module {
	uint32_t abi, size;
	int (*create)(const struct sluice_tls_opts *opts, struct sluice_tls **ret_tls,
		struct sluice_error *err);
	void (*destroy)(struct sluice_tls *tls); /* NULL is allowed */
	/* 1: encrypted both ways. 0: again when the socket is ready for *ret_events (EPOLLIN or
	   EPOLLOUT). -EKEYREJECTED, -ENOKEY, -EPROTO, ...: the error says what to do. */
	int (*handshake)(struct sluice_tls *tls, uint32_t *ret_events, struct sluice_error *err);
	/* As recv, with room for a whole record: bytes, 0 at the end, -EAGAIN, or -errno with the reason. */
	ssize_t (*read)(struct sluice_tls *tls, void *data, size_t bytes, struct sluice_error *err);
	ssize_t (*write)(struct sluice_tls *tls, const void *data, size_t bytes);
	void (*end)(struct sluice_tls *tls); /* say that nothing follows */
	const char *(*identity)(const struct sluice_tls *tls);
	/* Secret bytes that both ends of this connection, and nobody else, get for @context. */
	int (*export)(struct sluice_tls *tls, const void *context, size_t context_bytes,
		uint8_t *secret, size_t secret_bytes);
};

/* The module, loaded once and for good. -EOPNOTSUPP: this build or this machine has none. */
int sluice_tls_load(const struct sluice_tls_module **ret_module, struct sluice_error *err);

#endif
