/* SPDX-License-Identifier: BSD-3-Clause */
/* blob.c: writing, reading and checking device blobs. Knows nothing of KVM. */
#include "vmm/refvm/blob.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/assert.h"
#include "base/bits.h"
#include "vmm/refvm/guest/abi.h"

#define BALLAST_READ_BYTES (256u << 10)

_Static_assert(sizeof(struct refvm_blob_header) == 80, "the header is a wire format");

struct section_header {
	uint32_t type;
	uint32_t vcpu;
	uint64_t bytes;
};

void refvm_blob_free(struct refvm_blob *blob)
{
	free(blob->body);
	*blob = (struct refvm_blob){.body = NULL};
}

static int make_room(struct refvm_blob *blob, size_t bytes, struct sluice_error *err)
{
	size_t want = blob->body_bytes + bytes, room = blob->room_bytes;
	uint8_t *body;

	if (want > REFVM_BLOB_BYTES_MAX)
		return sluice_fail(
			err, -E2BIG, "vcpus", "The state exceeds %u bytes.", REFVM_BLOB_BYTES_MAX);
	if (want <= room)
		return 0;
	room = room < 65536 ? 65536 : room;
	while (room < want)
		room *= 2;
	body = realloc(blob->body, room);
	if (body == NULL)
		return sluice_fail(err, -ENOMEM, "vcpus", "No memory for the state.");
	blob->body = body;
	blob->room_bytes = room;
	return 0;
}

int refvm_blob_add(struct refvm_blob *blob, enum refvm_section type, unsigned int vcpu,
	const void *data, size_t bytes, struct sluice_error *err)
{
	struct section_header section = {.type = type, .vcpu = vcpu, .bytes = bytes};
	size_t padded = sluice_align_up(bytes, 8);
	uint8_t *to;
	int rc;

	rc = make_room(blob, sizeof(section) + padded, err);
	if (rc < 0)
		return rc;
	to = blob->body + blob->body_bytes;
	memcpy(to, &section, sizeof(section));
	memcpy(to + sizeof(section), data, bytes);
	memset(to + sizeof(section) + bytes, 0, padded - bytes);
	blob->body_bytes += sizeof(section) + padded;
	return 0;
}

/* The section at @offset, or -EINVAL when it does not lie inside the body. */
static int section_at(const struct refvm_blob *blob, size_t offset,
	struct section_header *ret_section, size_t *ret_next, struct sluice_error *err)
{
	struct section_header section;
	size_t left = blob->body_bytes - offset;

	if (left < sizeof(section))
		return sluice_fail(err, -EINVAL, "vcpus", "The state ends within a section.");
	memcpy(&section, blob->body + offset, sizeof(section));
	left -= sizeof(section);
	if (section.bytes > left || sluice_align_up(section.bytes, 8) > left)
		return sluice_fail(err, -EINVAL, "vcpus",
			"Section %" PRIu32 " of vCPU %" PRIu32 " is longer than the state.",
			section.type, section.vcpu);
	*ret_section = section;
	*ret_next = offset + sizeof(section) + sluice_align_up(section.bytes, 8);
	return 0;
}

int refvm_blob_find(const struct refvm_blob *blob, enum refvm_section type, unsigned int vcpu,
	size_t unit_bytes, const void **ret_data, size_t *ret_bytes, struct sluice_error *err)
{
	struct section_header section = {.type = 0};
	size_t offset, next = 0;
	int rc;

	for (offset = 0; offset < blob->body_bytes; offset = next) {
		rc = section_at(blob, offset, &section, &next, err);
		if (rc < 0)
			return rc;
		if (section.type != type || section.vcpu != vcpu)
			continue;
		if (section.bytes == 0 || section.bytes % unit_bytes != 0)
			return sluice_fail(err, -EINVAL, "vcpus",
				"Section %u of vCPU %u has %" PRIu64
				" bytes, not a multiple of %zu.",
				type, vcpu, section.bytes, unit_bytes);
		*ret_data = blob->body + offset + sizeof(section);
		*ret_bytes = section.bytes;
		return 0;
	}
	return sluice_fail(
		err, -ENOENT, "vcpus", "The state lacks section %u of vCPU %u.", type, vcpu);
}

static uint64_t header_xxh3(const struct refvm_blob_header *header)
{
	return XXH3_64bits(header, offsetof(struct refvm_blob_header, header_xxh3));
}

int refvm_blob_seal(
	struct refvm_blob *blob, uint8_t **ret_bytes, size_t *ret_len, struct sluice_error *err)
{
	struct refvm_blob_header *header = &blob->header;
	size_t len = sizeof(*header) + blob->body_bytes;
	uint8_t *bytes = malloc(len);

	if (bytes == NULL)
		return sluice_fail(err, -ENOMEM, "vcpus", "No memory for the state.");
	header->magic = REFVM_BLOB_MAGIC;
	header->version = REFVM_BLOB_VERSION;
	header->body_bytes = blob->body_bytes;
	header->body_xxh3 = XXH3_64bits(blob->body, blob->body_bytes);
	header->header_xxh3 = header_xxh3(header);
	memcpy(bytes, header, sizeof(*header));
	memcpy(bytes + sizeof(*header), blob->body, blob->body_bytes);
	*ret_bytes = bytes;
	*ret_len = len;
	return 0;
}

/* Read exactly @bytes. -ENODATA: the stream ended before. */
static int read_all(int fd, void *to, size_t bytes)
{
	size_t done = 0;

	while (done < bytes) {
		ssize_t got = read(fd, (uint8_t *)to + done, bytes - done);

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return -errno;
		if (got == 0)
			return -ENODATA;
		done += (size_t)got;
	}
	return 0;
}

static int check_header(const struct refvm_blob_header *header, struct sluice_error *err)
{
	if (header->magic != REFVM_BLOB_MAGIC)
		return sluice_fail(
			err, -EINVAL, "vcpus", "This is not the state of a refvm guest.");
	if (header->version != REFVM_BLOB_VERSION)
		return sluice_fail(err, -EINVAL, "vcpus",
			"The state has version %" PRIu32 "; this refvm reads version %d.",
			header->version, REFVM_BLOB_VERSION);
	if (header->header_xxh3 != header_xxh3(header))
		return sluice_fail(
			err, -EINVAL, "vcpus", "The state's header is damaged (checksum).");
	if (header->body_bytes == 0 || header->body_bytes > REFVM_BLOB_BYTES_MAX)
		return sluice_fail(err, -EINVAL, "vcpus",
			"The state has %" PRIu64 " bytes; 1 to %u are possible.",
			header->body_bytes, REFVM_BLOB_BYTES_MAX);
	if (header->vcpus < 1 || header->vcpus > REFVM_VCPUS_MAX)
		return sluice_fail(err, -EINVAL, "vcpus",
			"The state is of %" PRIu32 " vCPUs; 1 to %d are possible.", header->vcpus,
			REFVM_VCPUS_MAX);
	if (header->running > 1 || header->reserved != 0)
		return sluice_fail(err, -EINVAL, "vcpus", "The state's header has unknown flags.");
	if (memchr(header->accel, '\0', sizeof(header->accel)) == NULL)
		return sluice_fail(err, -EINVAL, "vcpus", "The accelerator's name is too long.");
	return 0;
}

static int check_body(const struct refvm_blob *blob, struct sluice_error *err)
{
	struct section_header section = {.type = 0};
	size_t offset, next = 0;
	int rc;

	if (XXH3_64bits(blob->body, blob->body_bytes) != blob->header.body_xxh3)
		return sluice_fail(err, -EINVAL, "vcpus", "The state is damaged (checksum).");
	for (offset = 0; offset < blob->body_bytes; offset = next) {
		rc = section_at(blob, offset, &section, &next, err);
		if (rc < 0)
			return rc;
		if (section.vcpu >= blob->header.vcpus)
			return sluice_fail(err, -EINVAL, "vcpus",
				"A section names vCPU %" PRIu32 " of %" PRIu32 ".", section.vcpu,
				blob->header.vcpus);
	}
	return 0;
}

static int read_failed(int rc, const char *what, struct sluice_error *err)
{
	if (rc == -ENODATA)
		return sluice_fail(err, -EINVAL, "vcpus", "The state ends within its %s.", what);
	return sluice_fail(err, rc, "vcpus", "Reading the state's %s: %s.", what, strerror(-rc));
}

static int read_ballast(int fd, const struct refvm_ballast *ballast, struct sluice_error *err)
{
	XXH3_state_t *state = XXH3_createState();
	uint8_t *buffer = malloc(BALLAST_READ_BYTES);
	uint64_t left = ballast->bytes;
	int rc = state == NULL || buffer == NULL ? -ENOMEM : 0;

	if (rc == 0)
		XXH3_64bits_reset(state);
	while (rc == 0 && left > 0) {
		size_t want = left < BALLAST_READ_BYTES ? left : BALLAST_READ_BYTES;

		rc = read_all(fd, buffer, want);
		if (rc == 0)
			XXH3_64bits_update(state, buffer, want);
		left -= want;
	}
	if (rc < 0)
		rc = read_failed(rc, "ballast", err);
	else if (XXH3_64bits_digest(state) != ballast->xxh3)
		rc = sluice_fail(err, -EINVAL, "vcpus", "The ballast is damaged (checksum).");
	free(buffer);
	XXH3_freeState(state);
	return rc;
}

/* What the body says that follows it. */
static int read_tail(int fd, const struct refvm_blob *blob, struct sluice_error *err)
{
	const void *data;
	size_t bytes;
	struct refvm_ballast ballast;
	struct sluice_error none = {.code = 0};
	int rc = refvm_blob_find(
		blob, REFVM_SECTION_BALLAST, 0, sizeof(ballast), &data, &bytes, &none);

	if (rc == -ENOENT)
		return 0;
	if (rc < 0)
		return sluice_fail(err, rc, "vcpus", "%s", none.text);
	memcpy(&ballast, data, sizeof(ballast));
	return read_ballast(fd, &ballast, err);
}

int refvm_blob_read(int fd, struct refvm_blob *ret_blob, struct sluice_error *err)
{
	struct refvm_blob blob = {.body = NULL};
	uint8_t beyond;
	int rc;

	rc = read_all(fd, &blob.header, sizeof(blob.header));
	if (rc < 0)
		return read_failed(rc, "header", err);
	rc = check_header(&blob.header, err);
	if (rc < 0)
		return rc;
	rc = make_room(&blob, blob.header.body_bytes, err);
	if (rc < 0)
		return rc;
	rc = read_all(fd, blob.body, blob.header.body_bytes);
	if (rc < 0) {
		rc = read_failed(rc, "sections", err);
		goto out_free;
	}
	blob.body_bytes = blob.header.body_bytes;
	rc = check_body(&blob, err);
	if (rc == 0)
		rc = read_tail(fd, &blob, err);
	if (rc < 0)
		goto out_free;
	rc = read_all(fd, &beyond, 1);
	if (rc != -ENODATA) {
		rc = rc < 0 ? read_failed(rc, "end", err)
			    : sluice_fail(err, -EINVAL, "vcpus",
				      "More bytes follow the end of the state.");
		goto out_free;
	}
	*ret_blob = blob;
	return 0;
out_free:
	refvm_blob_free(&blob);
	return rc;
}
