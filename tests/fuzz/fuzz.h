/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fuzz.h: what fuzz targets have in common. A target is one file with a LLVMFuzzerTestOneInput().
 * With libFuzzer it is explored; in every other build replay.c feeds it the seeds and what was
 * found before. A target keeps nothing from one input to the next, so that a find repeats.
 */
#ifndef SLUICE_TESTS_FUZZ_H
#define SLUICE_TESTS_FUZZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* What must hold whatever the input is. */
#define FUZZ_CHECK(condition)                                                             \
	do {                                                                              \
		if (!(condition)) {                                                       \
			fprintf(stderr, "%s:%d: does not hold: %s\n", __FILE__, __LINE__, \
				#condition);                                              \
			abort();                                                          \
		}                                                                         \
	} while (0)

/* The input, taken from the front. What is missing at its end reads as zero. */
struct fuzz_input {
	const uint8_t *data;
	size_t left;
};

static inline uint8_t fuzz_byte(struct fuzz_input *input)
{
	if (input->left == 0)
		return 0;
	input->left--;
	return *input->data++;
}

static inline uint32_t fuzz_u32(struct fuzz_input *input)
{
	uint32_t value = 0;

	for (int i = 0; i < 4; i++)
		value |= (uint32_t)fuzz_byte(input) << (8 * i);
	return value;
}

static inline const uint8_t *fuzz_take(struct fuzz_input *input, size_t *bytes)
{
	const uint8_t *at = input->data;

	if (*bytes > input->left)
		*bytes = input->left;
	input->data += *bytes;
	input->left -= *bytes;
	return at;
}

/* A copy with a final NUL; free() it. Not strndup(): a strict AddressSanitizer wants that to find
   a NUL in what it copies from. */
static inline char *fuzz_string(const void *bytes, size_t count)
{
	char *text = malloc(count + 1);

	if (text == NULL)
		abort();
	memcpy(text, bytes, count);
	text[count] = '\0';
	return text;
}

/* The next line without its newline; false at the end. @ret_ended: it had a newline. */
static inline bool fuzz_line(
	struct fuzz_input *input, const char **ret_line, size_t *ret_bytes, bool *ret_ended)
{
	const uint8_t *end;

	if (input->left == 0)
		return false;
	end = memchr(input->data, '\n', input->left);
	*ret_line = (const char *)input->data;
	*ret_ended = end != NULL;
	*ret_bytes = end != NULL ? (size_t)(end - input->data) : input->left;
	input->data += *ret_bytes + (end != NULL);
	input->left -= *ret_bytes + (end != NULL);
	return true;
}

#endif
