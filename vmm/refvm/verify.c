/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * verify.c: see verify.h. Both sides are read with pread(): a hole reads as zeros, while
 * reading it through a mapping would allocate it.
 */
#include "vmm/refvm/verify.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bits.h"

#define BLOCK_BYTES (1u << 20)

struct comparison {
	const struct refvm_region *region;
	int fd; /* the other process's file */
	uint64_t offset;
	uint8_t *ours, *theirs; /* BLOCK_BYTES each */
	bool skip_since;
};

static int read_block(int fd, uint8_t *to, uint64_t bytes, uint64_t offset)
{
	uint64_t done = 0;

	while (done < bytes) {
		ssize_t got = pread(fd, to + done, bytes - done, (off_t)(offset + done));

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return got < 0 ? -errno : -ENODATA;
		done += (uint64_t)got;
	}
	return 0;
}

static void compare_page(
	const struct comparison *c, uint64_t page, uint64_t at, struct refvm_verify_result *result)
{
	if (c->skip_since && (c->region->since[page / 64] >> page % 64 & 1) != 0) {
		result->pages_skipped++;
		return;
	}
	result->pages_compared++;
	if (memcmp(c->ours + at, c->theirs + at, SLUICE_PAGE_BYTES) == 0)
		return;
	if (result->mismatched_pages++ == 0) {
		result->first_region = c->region->id;
		result->first_page = page;
	}
}

static int compare_region(
	const struct comparison *c, struct refvm_verify_result *result, struct sluice_error *err)
{
	uint64_t start, bytes, at;
	int rc;

	for (start = 0; start < c->region->bytes; start += bytes) {
		bytes = c->region->bytes - start;
		bytes = bytes < BLOCK_BYTES ? bytes : BLOCK_BYTES;
		rc = read_block(c->region->fd, c->ours, bytes, c->region->fd_offset + start);
		if (rc == 0)
			rc = read_block(c->fd, c->theirs, bytes, c->offset + start);
		if (rc < 0)
			return sluice_fail(
				err, rc, "verify", "Reading %s: %s.", c->region->id, strerror(-rc));
		for (at = 0; at < bytes; at += SLUICE_PAGE_BYTES)
			compare_page(c, (start + at) / SLUICE_PAGE_BYTES, at, result);
	}
	return 0;
}

static const struct refvm_verify_source *find_source(
	const struct refvm_verify_source *sources, unsigned int count, const char *id)
{
	unsigned int i;

	for (i = 0; i < count; i++) {
		if (strcmp(sources[i].id, id) == 0)
			return &sources[i];
	}
	return NULL;
}

static int verify_region(struct comparison *c, pid_t pid, const struct refvm_verify_source *source,
	struct refvm_verify_result *result, struct sluice_error *err)
{
	char path[64];
	int rc;

	snprintf(path, sizeof(path), "/proc/%d/fd/%d", (int)pid, source->fd);
	c->fd = open(path, O_RDONLY | O_CLOEXEC);
	if (c->fd < 0) {
		rc = -errno;
		return sluice_fail(err, rc, "verify", "%s: %s.", path, strerror(-rc));
	}
	c->offset = source->offset;
	rc = compare_region(c, result, err);
	close(c->fd);
	return rc;
}

int refvm_verify(const struct refvm_memory *memory, pid_t pid,
	const struct refvm_verify_source *sources, unsigned int count, bool skip_since,
	struct refvm_verify_result *ret_result, struct sluice_error *err)
{
	struct refvm_verify_result result = {.pages_compared = 0};
	struct comparison c = {.skip_since = skip_since};
	const struct refvm_verify_source *source;
	unsigned int i;
	int rc = 0;

	c.ours = malloc(BLOCK_BYTES);
	c.theirs = malloc(BLOCK_BYTES);
	if (c.ours == NULL || c.theirs == NULL)
		rc = sluice_fail(err, -ENOMEM, "verify", "No memory to compare in.");
	for (i = 0; rc == 0 && i < memory->count; i++) {
		c.region = &memory->region[i];
		if (c.region->bytes == 0)
			continue;
		source = find_source(sources, count, c.region->id);
		rc = source == NULL ? sluice_fail(err, -EINVAL, "verify",
					      "The other side's %s is not given.", c.region->id)
				    : verify_region(&c, pid, source, &result, err);
	}
	free(c.ours);
	free(c.theirs);
	if (rc == 0)
		*ret_result = result;
	return rc;
}
