/* SPDX-License-Identifier: BSD-3-Clause */
/* peer_address_test.c: URIs of peers, UNIX peer links, and key files. */
#include <errno.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/loop.h"
#include "engine/peer/link.h"
#include "engine/peer/psk.h"
#include "tests/unit/unit.h"

#define TURNS_MAX 6000 /* of 10 ms when nothing happens */
#define KEY       "000102030405060708090a0b0c0d0e0f"

static char folder[] = "/tmp/sluice-peer-XXXXXX";
static char path[64];

static void test_uris(void)
{
	static const struct {
		const char *uri;
		enum sluice_address_use use;
		int expected;
		bool local;
		const char *formatted; /* NULL: whatever the resolver says */
	} rows[] = {
		{"tcp:127.0.0.1:4444", SLUICE_ADDRESS_CONNECT, 0, true, "tcp:127.0.0.1:4444"},
		{"tcp:127.9.8.7:0", SLUICE_ADDRESS_LISTEN, 0, true, "tcp:127.9.8.7:0"},
		{"tcp:[::1]:4444", SLUICE_ADDRESS_CONNECT, 0, true, "tcp:[::1]:4444"},
		{"tcp:[::ffff:127.0.0.1]:1", SLUICE_ADDRESS_CONNECT, 0, true,
			"tcp:[::ffff:127.0.0.1]:1"},
		{"tcp:localhost:4444", SLUICE_ADDRESS_CONNECT, 0, true, NULL},
		{"tcp:192.0.2.7:65535", SLUICE_ADDRESS_CONNECT, 0, false, "tcp:192.0.2.7:65535"},
		{"tcp:[2001:db8::7]:1", SLUICE_ADDRESS_CONNECT, 0, false, "tcp:[2001:db8::7]:1"},
		{"tcp:[::ffff:192.0.2.7]:1", SLUICE_ADDRESS_CONNECT, 0, false, NULL},
		{"tcp:0:4444", SLUICE_ADDRESS_LISTEN, 0, false, "tcp:0.0.0.0:4444"},
		{"tcp::4444", SLUICE_ADDRESS_LISTEN, 0, false, NULL},
		{"unix:/run/a b:c", SLUICE_ADDRESS_CONNECT, 0, true, "unix:/run/a b:c"},
		{"unix:peer.sock", SLUICE_ADDRESS_LISTEN, 0, true, "unix:peer.sock"},
		{"tcp::4444", SLUICE_ADDRESS_CONNECT, -EINVAL, false, NULL},
		{"tcp:::1:4444", SLUICE_ADDRESS_CONNECT, -EINVAL, false, NULL},
		{"tcp:127.0.0.1", SLUICE_ADDRESS_CONNECT, -EINVAL, false, NULL},
		{"tcp:127.0.0.1:", SLUICE_ADDRESS_CONNECT, -EINVAL, false, NULL},
		{"tcp:127.0.0.1:http", SLUICE_ADDRESS_CONNECT, -EINVAL, false, NULL},
		{"tcp:127.0.0.1:65536", SLUICE_ADDRESS_CONNECT, -EINVAL, false, NULL},
		{"tcp:127.0.0.1:+1", SLUICE_ADDRESS_CONNECT, -EINVAL, false, NULL},
		{"tcp:[::1:4444", SLUICE_ADDRESS_CONNECT, -EINVAL, false, NULL},
		{"rdma:127.0.0.1:1", SLUICE_ADDRESS_CONNECT, -EINVAL, false, NULL},
		{"unix:", SLUICE_ADDRESS_CONNECT, -EINVAL, false, NULL},
		{"", SLUICE_ADDRESS_CONNECT, -EINVAL, false, NULL},
		{"tcp:no such host:1", SLUICE_ADDRESS_CONNECT, -ENXIO, false, NULL},
	};

	for (size_t i = 0; i < SLUICE_ARRAY_LEN(rows); i++) {
		struct sluice_peer_address address = {0};
		struct sluice_error err = {0};
		char uri[SLUICE_URI_BYTES];
		int r = sluice_peer_address_parse(rows[i].uri, rows[i].use, &address, &err);

		if (r != rows[i].expected)
			fprintf(stderr, "\n%s: %d %s\n", rows[i].uri, r, err.text);
		CU_ASSERT_EQUAL(r, rows[i].expected);
		CU_ASSERT_EQUAL(err.code, r);
		if (r < 0)
			continue;
		CU_ASSERT_EQUAL(sluice_peer_address_is_local(&address), rows[i].local);
		sluice_sockaddr_format(&address.list[0].addr, address.list[0].len, uri);
		if (rows[i].formatted != NULL)
			CU_ASSERT_STRING_EQUAL(uri, rows[i].formatted);
	}
}

static void test_long_uris(void)
{
	struct sluice_peer_address address;
	struct sluice_error err = {0};
	char uri[400] = "unix:";

	memset(uri + 5, 'x', 120);
	CU_ASSERT_EQUAL(
		sluice_peer_address_parse(uri, SLUICE_ADDRESS_LISTEN, &address, &err), -EINVAL);
	UNIT_CONTAINS(err.text, "1 to 107 bytes");
	memset(uri + 5, 'x', 350);
	err = (struct sluice_error){0};
	CU_ASSERT_EQUAL(
		sluice_peer_address_parse(uri, SLUICE_ADDRESS_LISTEN, &address, &err), -EINVAL);
}

/* ---- UNIX links ---- */

static struct sluice_loop *loop;
static unsigned int ups, downs, accepted, heard;
static struct sluice_link *adopted[2];

static void on_up(void *ctx)
{
	(void)ctx;
	ups++;
}

static void on_message(void *ctx, const json_t *message)
{
	(void)ctx;
	(void)message;
	heard++;
}

static void on_down(void *ctx, const char *why)
{
	(void)ctx;
	(void)why;
	downs++;
}

static const struct sluice_link_handlers handlers = {
	.up = on_up, .message = on_message, .down = on_down};
static const struct sluice_link_opts clear_text;

static void on_accepted(void *ctx, int fd)
{
	(void)ctx;
	CU_ASSERT_FATAL(accepted < SLUICE_ARRAY_LEN(adopted));
	CU_ASSERT_EQUAL(
		sluice_link_adopt(loop, fd, &clear_text, &handlers, &adopted[accepted++]), 0);
}

static void turns_until(const unsigned int *counter)
{
	for (int i = 0; i < TURNS_MAX && *counter == 0; i++)
		sluice_loop_turn(loop, 10);
	CU_ASSERT_TRUE(*counter > 0);
}

static int listen_at(struct sluice_link_listener **ret_listener, struct sluice_error *err)
{
	struct sluice_peer_address address;
	char uri[SLUICE_URI_BYTES] = "", given[SLUICE_URI_BYTES];
	int r;

	snprintf(given, sizeof(given), "unix:%s/peer", folder);
	CU_ASSERT_EQUAL_FATAL(
		sluice_peer_address_parse(given, SLUICE_ADDRESS_LISTEN, &address, err), 0);
	r = sluice_link_listen(loop, &address, on_accepted, NULL, uri, ret_listener, err);
	if (r == 0)
		CU_ASSERT_STRING_EQUAL(uri, given);
	return r;
}

static void test_unix_links(void)
{
	struct sluice_link_listener *listener = NULL, *second = NULL;
	struct sluice_peer_address address;
	struct sluice_link *link;
	struct sluice_error err = {0};
	char uri[SLUICE_URI_BYTES];
	struct stat st;

	CU_ASSERT_EQUAL_FATAL(sluice_loop_create(&loop), 0);
	CU_ASSERT_EQUAL_FATAL(listen_at(&listener, &err), 0);
	snprintf(path, sizeof(path), "%s/peer", folder);
	CU_ASSERT_EQUAL(lstat(path, &st), 0);
	CU_ASSERT_EQUAL(st.st_mode & 07777, 0600);

	/* Somebody waits there. */
	CU_ASSERT_EQUAL(listen_at(&second, &err), -EADDRINUSE);
	UNIT_CONTAINS(err.text, "another engine");

	snprintf(uri, sizeof(uri), "unix:%s", path);
	CU_ASSERT_EQUAL(sluice_peer_address_parse(uri, SLUICE_ADDRESS_CONNECT, &address, NULL), 0);
	CU_ASSERT_EQUAL_FATAL(
		sluice_link_connect(loop, &address, &clear_text, &handlers, &link, &err), 0);
	turns_until(&ups);
	sluice_link_send(link, json_pack("{s:s, s:i}", "type", "ping", "n", 1));
	turns_until(&heard);
	sluice_link_close(link);
	turns_until(&downs);
	/* The probe of the second listener was the first one. */
	CU_ASSERT_EQUAL(accepted, 2);
	for (unsigned int i = 0; i < accepted; i++)
		sluice_link_close(adopted[i]);
	sluice_link_unlisten(listener);
	CU_ASSERT_EQUAL(lstat(path, &st), -1);
	sluice_loop_destroy(loop);
}

static void test_stale_unix_socket(void)
{
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	struct sluice_link_listener *listener = NULL;
	struct sluice_error err = {0};
	struct stat st;
	FILE *file;
	int fd;

	CU_ASSERT_EQUAL_FATAL(sluice_loop_create(&loop), 0);
	snprintf(un.sun_path, sizeof(un.sun_path), "%s/peer", folder);
	/* An engine that was killed leaves its file behind. */
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	CU_ASSERT_EQUAL(bind(fd, (struct sockaddr *)&un, sizeof(un)), 0);
	close(fd);
	CU_ASSERT_EQUAL(listen_at(&listener, &err), 0);
	CU_ASSERT_EQUAL(lstat(un.sun_path, &st), 0);
	CU_ASSERT_EQUAL(st.st_mode & 07777, 0600);

	/* What another one has put there is not ours to remove. */
	unlink(un.sun_path);
	file = fopen(un.sun_path, "w");
	CU_ASSERT_PTR_NOT_NULL_FATAL(file);
	fclose(file);
	sluice_link_unlisten(listener);
	CU_ASSERT_EQUAL(lstat(un.sun_path, &st), 0);
	CU_ASSERT_TRUE(S_ISREG(st.st_mode));
	CU_ASSERT_EQUAL(listen_at(&listener, &err), -EADDRINUSE);
	UNIT_CONTAINS(err.text, "not a socket");
	unlink(un.sun_path);
	sluice_loop_destroy(loop);
}

/* ---- key files ---- */

static int find(const char *text, mode_t mode, const char *identity, struct sluice_psk *psk,
	struct sluice_error *err)
{
	FILE *file;

	snprintf(path, sizeof(path), "%s/keys", folder);
	file = fopen(path, "w");
	CU_ASSERT_PTR_NOT_NULL_FATAL(file);
	fputs(text, file);
	fclose(file);
	chmod(path, mode);
	*err = (struct sluice_error){0};
	return sluice_psk_find(path, identity, psk, err);
}

static void test_key_files(void)
{
	static const char two[] = "a:" KEY "\nb:" KEY KEY "\n";
	static const struct {
		const char *text;
		mode_t mode;
		const char *identity;
		int expected;
		const char *says; /* the identity found, or words of the error */
	} rows[] = {
		{"qemu:" KEY "\n", 0600, "", 0, "qemu"},
		{"qemu:" KEY, 0400, "qemu", 0, "qemu"},
		{"qemu:" KEY "\r\n\n", 0640, "", 0, "qemu"},
		{"#71656D75:" KEY "\n", 0600, "qemu", 0, "qemu"},
		{two, 0600, "b", 0, "b"},
		{two, 0600, NULL, 0, "b"},
		{two, 0600, "", -ENOKEY, "name one of them with psk-identity"},
		{two, 0600, "c", -ENOKEY, "no line for identity \"c\""},
		{two, 0604, "a", -EACCES, "chmod 0600"},
		{two, 0620, "a", -EACCES, "chmod 0600"},
		{two, 0602, "a", -EACCES, "chmod 0600"},
		{"", 0600, "", -EINVAL, "no key"},
		{"a" KEY "\n", 0600, "", -EINVAL, "line 1: it is not identity:hexkey"},
		{"a:" KEY "\nb:0011\n", 0600, "a", -EINVAL, "line 2: its key is shorter than 16"},
		{"a:" KEY "0\n", 0600, "a", -EINVAL, "not hexadecimal"},
		{"a:g" KEY "0\n", 0600, "a", -EINVAL, "not hexadecimal"},
		{"a:" KEY KEY KEY KEY KEY "\n", 0600, "a", -EINVAL, "longer than 64 bytes"},
		{":" KEY "\n", 0600, "", -EINVAL, "identity is empty"},
		{"#0:" KEY "\n", 0600, "", -EINVAL, "'#'"},
		{"#6100:" KEY "\n", 0600, "", -EINVAL, "'#'"}, /* a NUL in it */
		{"a:" KEY "\na:" KEY KEY "\n", 0600, "a", -EINVAL, "was there before"},
	};

	for (size_t i = 0; i < SLUICE_ARRAY_LEN(rows); i++) {
		struct sluice_psk psk;
		struct sluice_error err;
		int r = find(rows[i].text, rows[i].mode, rows[i].identity, &psk, &err);

		CU_ASSERT_EQUAL(r, rows[i].expected);
		UNIT_CONTAINS(r == 0 ? psk.identity : err.text, rows[i].says);
		CU_ASSERT_PTR_NULL(strstr(err.text, "0203"));
		CU_ASSERT_EQUAL(psk.key_bytes > 0, r == 0);
		if (r == 0)
			CU_ASSERT_EQUAL(psk.key[15], 15);
		sluice_psk_wipe(&psk);
		CU_ASSERT_EQUAL(psk.key[15], 0);
	}
}

static void test_no_key_file(void)
{
	struct sluice_error err = {0};
	struct sluice_psk psk;

	CU_ASSERT_EQUAL(sluice_psk_find("/nonexistent/keys", "", &psk, &err), -ENOENT);
	UNIT_CONTAINS(err.text, "/nonexistent/keys");
	err = (struct sluice_error){0};
	CU_ASSERT_EQUAL(sluice_psk_find(folder, "", &psk, &err), -EINVAL);
	UNIT_CONTAINS(err.text, "is not a file");
}

static void test_long_key_file(void)
{
	static char text[70 << 10];
	struct sluice_error err;
	struct sluice_psk psk;

	memset(text, '\n', sizeof(text) - 1);
	memcpy(text, "a:" KEY, sizeof("a:" KEY) - 1);
	CU_ASSERT_EQUAL(find(text, 0600, "a", &psk, &err), -EFBIG);
	CU_ASSERT_EQUAL(psk.key_bytes, 0);
}

static const struct unit_test tests[] = {
	{"URIs", test_uris},
	{"long URIs", test_long_uris},
	{"UNIX links", test_unix_links},
	{"a stale UNIX socket", test_stale_unix_socket},
	{"key files", test_key_files},
	{"no key file", test_no_key_file},
	{"a long key file", test_long_key_file},
	{0},
};

int main(void)
{
	int status;

	if (mkdtemp(folder) == NULL)
		return EXIT_FAILURE;
	status = unit_run("peer-address", tests);
	unit_remove_folder(folder);
	return status;
}
