/* SPDX-License-Identifier: BSD-3-Clause */
/* witness.c: see witness.h. The file is one line: "generation N pid P". */
#include "vmm/refvm/witness.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/assert.h"

static int set_lock(const struct refvm_witness *witness, short type)
{
	struct flock lock = {.l_type = type, .l_whence = SEEK_SET};

	return fcntl(witness->fd, F_OFD_SETLK, &lock) < 0 ? -errno : 0;
}

int refvm_witness_open(struct refvm_witness *witness, const char *path, struct sluice_error *err)
{
	int rc;

	*witness = (struct refvm_witness){.fd = -1, .generation = 1, .offered = 1};
	if (path[0] == '\0')
		return 0;
	snprintf(witness->path, sizeof(witness->path), "%s", path);
	witness->fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (witness->fd < 0) {
		rc = -errno;
		return sluice_fail(err, rc, "witness", "%s: %s.", path, strerror(-rc));
	}
	return 0;
}

void refvm_witness_close(struct refvm_witness *witness)
{
	if (witness->fd >= 0)
		close(witness->fd);
	witness->fd = -1;
	witness->held = false;
}

static int read_generation(
	const struct refvm_witness *witness, uint64_t *ret_generation, struct sluice_error *err)
{
	char text[64];
	ssize_t got = pread(witness->fd, text, sizeof(text) - 1, 0);
	int rc;

	if (got < 0) {
		rc = -errno;
		return sluice_fail(err, rc, "witness", "%s: %s.", witness->path, strerror(-rc));
	}
	text[got] = '\0';
	*ret_generation = 0;
	if (got > 0 && sscanf(text, "generation %" SCNu64, ret_generation) != 1)
		return sluice_fail(err, -EINVAL, "witness",
			"%s is not a witness file; name another one, or remove it.", witness->path);
	return 0;
}

/* One write over the old text, of the same length: never half a line, whenever we die. */
static int write_generation(const struct refvm_witness *witness, struct sluice_error *err)
{
	char text[64];
	int rc, len = snprintf(text, sizeof(text), "generation %020" PRIu64 " pid %010d\n",
			witness->generation, (int)getpid());

	errno = EIO;
	if (pwrite(witness->fd, text, (size_t)len, 0) == (ssize_t)len)
		return 0;
	rc = -errno;
	return sluice_fail(err, rc, "witness", "%s: %s.", witness->path, strerror(-rc));
}

int refvm_witness_take(struct refvm_witness *witness, struct sluice_error *err)
{
	uint64_t ran = 0;
	int rc;

	if (witness->fd < 0 || witness->held)
		return 0;
	rc = set_lock(witness, F_WRLCK);
	if (rc == -EAGAIN || rc == -EACCES)
		return sluice_fail(err, -EBUSY, "witness",
			"Generation %" PRIu64 " would run while another guest does.",
			witness->generation);
	if (rc < 0)
		return sluice_fail(err, rc, "witness", "%s: %s.", witness->path, strerror(-rc));
	witness->held = true;
	rc = read_generation(witness, &ran, err);
	if (rc == 0 && ran > witness->generation)
		rc = sluice_fail(err, -ESTALE, "witness",
			"Generation %" PRIu64 " would run after generation %" PRIu64 " has.",
			witness->generation, ran);
	if (rc == 0)
		rc = write_generation(witness, err);
	if (rc < 0)
		refvm_witness_release(witness);
	return rc;
}

void refvm_witness_release(struct refvm_witness *witness)
{
	if (!witness->held)
		return;
	set_lock(witness, F_UNLCK);
	witness->held = false;
}

uint64_t refvm_witness_offer(struct refvm_witness *witness)
{
	SLUICE_ASSERT(witness->offered >= witness->generation);
	return ++witness->offered;
}

void refvm_witness_accept(struct refvm_witness *witness, uint64_t generation)
{
	SLUICE_ASSERT(!witness->held);
	witness->generation = generation;
	witness->offered = generation;
}

void refvm_witness_violated(const struct refvm_witness *witness, const struct sluice_error *why)
{
	char path[sizeof(witness->path) + 16];
	FILE *out;

	fprintf(stderr, "refvm: violation: %s\n", why->text);
	snprintf(path, sizeof(path), "%s.violation", witness->path);
	out = fopen(path, "ae");
	if (out != NULL) {
		fprintf(out, "pid %d: %s\n", (int)getpid(), why->text);
		fclose(out);
	}
	_exit(REFVM_WITNESS_EXIT);
}
