/* SPDX-License-Identifier: BSD-3-Clause */
/* hex.h: bytes as hexadecimal text, and back. Pure. */
#ifndef SLUICE_BASE_HEX_H
#define SLUICE_BASE_HEX_H

#include <stddef.h>
#include <stdint.h>

/* Lower case; @text has room for 2 * @count digits and the final NUL. */
void sluice_hex_write(const uint8_t *bytes, size_t count, char *text);
/* @len digits of either case. The count of bytes, or -EINVAL: an odd length, another character,
   or more than @max bytes. */
int sluice_hex_read(const char *text, size_t len, uint8_t *bytes, size_t max);

#endif
