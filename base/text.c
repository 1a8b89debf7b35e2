/* SPDX-License-Identifier: BSD-3-Clause */
/* text.c: edit distance for "did you mean"; valid UTF-8. Pure; any thread. */
#include <stdio.h>
#include <string.h>

#include "base/text.h"

#define NAME_LETTERS_MAX 64 /* longer names get no suggestion */

static unsigned int min3(unsigned int a, unsigned int b, unsigned int c)
{
	unsigned int least = a < b ? a : b;

	return least < c ? least : c;
}

/* Levenshtein's distance, one row at a time. */
static unsigned int distance(const char *a, const char *b)
{
	unsigned int row[NAME_LETTERS_MAX + 1];
	size_t len_a = strlen(a), len_b = strlen(b);

	if (len_a > NAME_LETTERS_MAX || len_b > NAME_LETTERS_MAX)
		return NAME_LETTERS_MAX;
	for (size_t j = 0; j <= len_b; j++)
		row[j] = (unsigned int)j;
	for (size_t i = 1; i <= len_a; i++) {
		unsigned int diagonal = row[0];

		row[0] = (unsigned int)i;
		for (size_t j = 1; j <= len_b; j++) {
			unsigned int above = row[j];

			row[j] = min3(above + 1, row[j - 1] + 1,
				diagonal + (a[i - 1] == b[j - 1] ? 0 : 1));
			diagonal = above;
		}
	}
	return row[len_b];
}

void sluice_nearest_try(struct sluice_nearest *nearest, const char *candidate)
{
	unsigned int d = distance(nearest->wanted, candidate);

	if (nearest->best == NULL || d < nearest->distance) {
		nearest->best = candidate;
		nearest->distance = d;
	}
}

const char *sluice_nearest_hint(const struct sluice_nearest *nearest, char *text, size_t text_bytes)
{
	size_t len = strlen(nearest->wanted);
	unsigned int allowed = len < 6 ? 2 : (unsigned int)(len / 3);

	text[0] = '\0';
	if (nearest->best != NULL && len <= NAME_LETTERS_MAX && nearest->distance <= allowed)
		snprintf(text, text_bytes, " (did you mean '%s'?)", nearest->best);
	return text;
}

/* The bytes of the character at @s, 0 when it is none. Reads no byte behind the final NUL. */
static size_t utf8_bytes(const unsigned char *s)
{
	static const unsigned int least[] = {0, 0, 0x80, 0x800, 0x10000};
	size_t bytes = s[0] < 0x80 ? 1 : s[0] < 0xc0 ? 0 : s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : 4;
	unsigned int code;

	if (bytes <= 1)
		return bytes;
	if (s[0] > 0xf4)
		return 0;
	code = s[0] & (0x7fu >> bytes);
	for (size_t i = 1; i < bytes; i++) {
		if ((s[i] & 0xc0) != 0x80)
			return 0;
		code = code << 6 | (s[i] & 0x3fu);
	}
	if (code < least[bytes] || code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff))
		return 0;
	return bytes;
}

void sluice_text_make_utf8(char *text)
{
	while (*text != '\0') {
		size_t bytes = utf8_bytes((const unsigned char *)text);

		if (bytes == 0)
			*text = '?';
		text += bytes > 0 ? bytes : 1;
	}
}
