/* SPDX-License-Identifier: BSD-3-Clause */
/* secret.h: comparing what a peer must not be able to guess piece by piece. Pure. */
#ifndef SLUICE_BASE_SECRET_H
#define SLUICE_BASE_SECRET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* No early exit: the time taken says nothing about how much of a guess was right. */
static inline bool sluice_secret_equal(const void *a, const void *b, size_t bytes)
{
	const volatile uint8_t *x = a;
	const volatile uint8_t *y = b;
	uint8_t difference = 0;

	for (size_t i = 0; i < bytes; i++)
		difference |= (uint8_t)(x[i] ^ y[i]);
	return difference == 0;
}

#endif
