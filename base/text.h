/* SPDX-License-Identifier: BSD-3-Clause */
/* text.h: small help with words that people type, and with text from elsewhere. Pure. */
#ifndef SLUICE_BASE_TEXT_H
#define SLUICE_BASE_TEXT_H

#include <stddef.h>

/* The search for the known name nearest to a mistyped one. Start with {.wanted = name}. */
struct sluice_nearest {
	const char *wanted;
	const char *best; /* NULL until sluice_nearest_try() saw a candidate */
	unsigned int distance; /* letters inserted, deleted or replaced to reach `best` */
};

void sluice_nearest_try(struct sluice_nearest *nearest, const char *candidate);

/* " (did you mean 'best'?)" into @text when something similar was seen, else "". Returns @text. */
const char *sluice_nearest_hint(
	const struct sluice_nearest *nearest, char *text, size_t text_bytes);

/* What is not UTF-8 (a character cut at a buffer's end) becomes '?': JSON carries nothing else. */
void sluice_text_make_utf8(char *text);

#endif
