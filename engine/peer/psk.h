/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * psk.h: pre-shared keys of peer links, from a file as GnuTLS' psktool writes and QEMU's
 * tls-creds-psk reads it: one `identity:hexkey` per line; a line that begins with '#' has its
 * identity in hexadecimal too.
 *
 * Nothing of the file stays in memory: a key is read for one handshake and wiped behind it, so a
 * changed file counts from the next connection on. No error text ever holds a key.
 *
 * Threads: the control thread. Blocks for reading one small file.
 */
#ifndef SLUICE_ENGINE_PEER_PSK_H
#define SLUICE_ENGINE_PEER_PSK_H

#include <stddef.h>
#include <stdint.h>

#include <sluice/error.h>

#define SLUICE_PSK_IDENTITY_MAX  128 /* as GnuTLS */
#define SLUICE_PSK_KEY_BYTES_MIN 16 /* RFC 9257: at least 128 bits of entropy */
#define SLUICE_PSK_KEY_BYTES_MAX 64 /* psktool's longest */

struct sluice_psk {
	char identity[SLUICE_PSK_IDENTITY_MAX + 1];
	uint8_t key[SLUICE_PSK_KEY_BYTES_MAX];
	size_t key_bytes;
};

/*
 * The key of @identity in the file at @path; "" means the file's only one, NULL that any will do. The whole file is
 * checked whichever line is wanted. -EACCES: not readable, or others may read or change it;
 * -EINVAL: not such a file, or a key that is too short; -ENOKEY: no such identity, or "" and
 * several. On failure *ret_psk holds nothing.
 */
int sluice_psk_find(const char *path, const char *identity, struct sluice_psk *ret_psk,
	struct sluice_error *err);
/* Forget the key; the identity stays. */
void sluice_psk_wipe(struct sluice_psk *psk);

#endif
