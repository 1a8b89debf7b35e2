/* SPDX-License-Identifier: BSD-3-Clause */
/* psk.c: see psk.h. */
#include "engine/peer/psk.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/hex.h"
#include "base/text.h"

#define WHERE          "psk-file"
#define FILE_BYTES_MAX (64u << 10)

/* What the search knows while it goes through the lines. */
struct search {
	const char *path;
	const char *wanted; /* "": the only one; NULL: any */
	struct sluice_psk *psk; /* filled from the line that fits */
	unsigned int line, identities;
	bool found;
};

void sluice_psk_wipe(struct sluice_psk *psk)
{
	explicit_bzero(psk->key, sizeof(psk->key));
	psk->key_bytes = 0;
}

/* ---- the file ---- */

static int check_mode(int fd, const char *path, struct sluice_error *err)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return sluice_fail(err, -errno, WHERE, "%.200s: %s", path, strerror(errno));
	if (!S_ISREG(st.st_mode))
		return sluice_fail(err, -EINVAL, WHERE, "%.200s is not a file", path);
	if (st.st_uid != geteuid() && st.st_uid != 0)
		return sluice_fail(err, -EACCES, WHERE,
			"%.200s belongs to user %u; a key file must belong to the engine's user or "
			"to root",
			path, st.st_uid);
	if ((st.st_mode & (S_IRWXO | S_IWGRP)) != 0)
		return sluice_fail(err, -EACCES, WHERE,
			"%.200s has mode %04o, so others can read or change its keys; chmod 0600 "
			"it",
			path, st.st_mode & 07777);
	return 0;
}

/* Up to @bytes_max bytes of the file; their count. */
static ssize_t read_file(const char *path, char *text, size_t bytes_max, struct sluice_error *err)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	size_t bytes = 0;
	ssize_t got;
	int r;

	if (fd < 0)
		return sluice_fail(err, -errno, WHERE, "%.200s: %s", path, strerror(errno));
	r = check_mode(fd, path, err);
	while (r == 0 && bytes < bytes_max) {
		got = read(fd, text + bytes, bytes_max - bytes);
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			r = sluice_fail(err, -errno, WHERE, "%.200s: %s", path, strerror(errno));
		if (got <= 0)
			break;
		bytes += (size_t)got;
	}
	close(fd);
	return r < 0 ? r : (ssize_t)bytes;
}

/* ---- its lines ---- */

static int bad_line(const struct search *search, const char *what, struct sluice_error *err)
{
	return sluice_fail(
		err, -EINVAL, WHERE, "%.200s, line %u: %s", search->path, search->line, what);
}

static int parse_identity(const struct search *search, const char *text, size_t len,
	char identity[SLUICE_PSK_IDENTITY_MAX + 1], struct sluice_error *err)
{
	bool hexadecimal = len > 0 && text[0] == '#';
	int bytes = (int)len;

	memset(identity, 0, SLUICE_PSK_IDENTITY_MAX + 1);
	if (hexadecimal)
		bytes = sluice_hex_read(
			text + 1, len - 1, (uint8_t *)identity, SLUICE_PSK_IDENTITY_MAX);
	else if (len <= SLUICE_PSK_IDENTITY_MAX)
		memcpy(identity, text, len);
	if (bytes <= 0 || bytes > SLUICE_PSK_IDENTITY_MAX || strlen(identity) != (size_t)bytes)
		return bad_line(search,
			"its identity is empty, longer than 128 bytes, or not what a leading '#' "
			"announces",
			err);
	return 0;
}

/* One line, without its end. */
static int take_line(struct search *search, const char *text, size_t len, struct sluice_error *err)
{
	const char *colon = memchr(text, ':', len);
	struct sluice_psk psk;
	int bytes, r;

	if (colon == NULL)
		return bad_line(search, "it is not identity:hexkey, as psktool writes it", err);
	r = parse_identity(search, text, (size_t)(colon - text), psk.identity, err);
	if (r < 0)
		return r;
	bytes = sluice_hex_read(
		colon + 1, len - (size_t)(colon + 1 - text), psk.key, sizeof(psk.key));
	if (bytes < 0) {
		r = bad_line(search, "its key is not hexadecimal, or longer than 64 bytes", err);
	} else if (bytes < SLUICE_PSK_KEY_BYTES_MIN) {
		r = bad_line(search,
			"its key is shorter than 16 bytes (32 digits); make one with psktool or "
			"openssl rand -hex 32",
			err);
	} else if (search->wanted == NULL || search->wanted[0] == '\0' ||
		   strcmp(search->wanted, psk.identity) == 0) {
		if (search->found && strcmp(search->psk->identity, psk.identity) == 0)
			r = bad_line(search, "its identity was there before", err);
		psk.key_bytes = (size_t)bytes;
		*search->psk = psk;
		search->found = true;
	}
	explicit_bzero(&psk, sizeof(psk));
	search->identities++;
	return r;
}

static int take_lines(
	struct search *search, const char *text, size_t bytes, struct sluice_error *err)
{
	const char *end = text + bytes;
	int r = 0;

	while (r == 0 && text < end) {
		const char *newline = memchr(text, '\n', (size_t)(end - text));
		const char *stop = newline != NULL ? newline : end;
		size_t len = (size_t)(stop - text);

		search->line++;
		if (len > 0 && text[len - 1] == '\r')
			len--;
		if (len > 0)
			r = take_line(search, text, len, err);
		text = newline != NULL ? newline + 1 : end;
	}
	return r;
}

static int judge(const struct search *search, struct sluice_error *err)
{
	char identity[SLUICE_PSK_IDENTITY_MAX + 1];

	if (search->identities == 0)
		return sluice_fail(err, -EINVAL, WHERE,
			"%.200s holds no key; psktool -u NAME -p FILE adds one", search->path);
	if (search->wanted != NULL && search->wanted[0] == '\0' && search->identities > 1)
		return sluice_fail(err, -ENOKEY, WHERE,
			"%.200s holds %u identities; name one of them with psk-identity",
			search->path, search->identities);
	if (search->found)
		return 0;
	snprintf(identity, sizeof(identity), "%s", search->wanted);
	sluice_text_make_utf8(identity);
	return sluice_fail(err, -ENOKEY, WHERE, "%.200s has no line for identity \"%s\"",
		search->path, identity);
}

int sluice_psk_find(const char *path, const char *identity, struct sluice_psk *ret_psk,
	struct sluice_error *err)
{
	static char text[FILE_BYTES_MAX + 1];
	struct search search = {.path = path, .wanted = identity, .psk = ret_psk};
	ssize_t bytes = read_file(path, text, sizeof(text), err);
	int r = bytes < 0 ? (int)bytes : 0;

	memset(ret_psk, 0, sizeof(*ret_psk));
	if (bytes > (ssize_t)FILE_BYTES_MAX)
		r = sluice_fail(err, -EFBIG, WHERE, "%.200s is longer than 64 KiB", path);
	if (r == 0)
		r = take_lines(&search, text, (size_t)bytes, err);
	if (r == 0)
		r = judge(&search, err);
	explicit_bzero(text, sizeof(text));
	if (r < 0)
		explicit_bzero(ret_psk, sizeof(*ret_psk));
	return r;
}
