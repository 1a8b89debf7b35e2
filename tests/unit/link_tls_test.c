/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * link_tls_test.c: encrypted peer links over real sockets: both ends in one loop, with a relay
 * between them that sees, and may change, every byte. What each end is told when they disagree.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/clock.h"
#include "base/loop.h"
#include "engine/peer/link.h"
#include "engine/peer/psk.h"
#include "engine/peer/tls.h"
#include "tests/unit/unit.h"

#define TURNS_MAX 6000 /* of 10 ms when nothing happens */
#define KEY_A     "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
#define KEY_B     "f00102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"

struct end {
	struct sluice_link *link;
	unsigned int ups, downs, messages;
	size_t bytes;
	char type[32]; /* of the last message, */
	char error[512]; /* and its error, of a refuse */
	char why[512];
};

/* Source -> relay -> target. */
struct relay {
	int listen_fd, fd[2]; /* towards the source, towards the target */
	struct sluice_peer_address target;
	bool seen_type, flip, stopped;
	size_t bytes;
};

static struct sluice_loop *loop;
static struct end source, target;
static struct relay relay;
static struct sluice_link_listener *listener;
static struct sluice_link_opts target_opts;
static char folder[] = "/tmp/sluice-link-XXXXXX";
static char file_a[64], file_b[64], file_two[64];

/* ---- handlers ---- */

static void on_up(void *ctx)
{
	((struct end *)ctx)->ups++;
}

static void on_message(void *ctx, const json_t *message)
{
	struct end *end = ctx;
	const char *error = json_string_value(json_object_get(message, "error"));
	const char *reason = json_string_value(json_object_get(message, "reason"));

	end->messages++;
	end->bytes += reason != NULL ? strlen(reason) : 0;
	snprintf(end->type, sizeof(end->type), "%s",
		json_string_value(json_object_get(message, "type")));
	snprintf(end->error, sizeof(end->error), "%s", error != NULL ? error : "");
}

static void on_down(void *ctx, const char *why)
{
	struct end *end = ctx;

	end->downs++;
	snprintf(end->why, sizeof(end->why), "%s", why);
}

static struct sluice_link_handlers handlers_of(struct end *end)
{
	return (struct sluice_link_handlers){
		.up = on_up, .message = on_message, .down = on_down, .ctx = end};
}

static void on_accepted(void *ctx, int fd)
{
	struct sluice_link_handlers handlers = handlers_of(&target);

	(void)ctx;
	CU_ASSERT_EQUAL_FATAL(
		sluice_link_adopt(loop, fd, &target_opts, &handlers, &target.link), 0);
}

/* ---- the relay ---- */

static bool contains(const char *data, size_t bytes, const char *word)
{
	return memmem(data, bytes, word, strlen(word)) != NULL;
}

static void relay_accept(void)
{
	int fd = accept4(relay.listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

	if (fd < 0)
		return;
	relay.fd[0] = fd;
	relay.fd[1] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	CU_ASSERT_EQUAL_FATAL(
		connect(relay.fd[1], &relay.target.list[0].addr.any, relay.target.list[0].len), 0);
}

static void relay_step(void)
{
	static char data[1 << 16];

	if (relay.fd[0] < 0)
		relay_accept();
	for (int from = 0; from < 2 && relay.fd[0] >= 0 && !relay.stopped; from++) {
		ssize_t got = recv(relay.fd[from], data, sizeof(data), MSG_DONTWAIT);

		if (got == 0)
			shutdown(relay.fd[!from], SHUT_WR);
		if (got <= 0)
			continue;
		relay.bytes += (size_t)got;
		relay.seen_type |= contains(data, (size_t)got, "\"type\"");
		if (relay.flip)
			data[got - 1] ^= 1;
		fcntl(relay.fd[!from], F_SETFL, 0);
		CU_ASSERT_EQUAL(send(relay.fd[!from], data, (size_t)got, MSG_NOSIGNAL), got);
	}
}

static void turn(void)
{
	relay_step();
	sluice_loop_turn(loop, 2);
}

static void turns_until(const unsigned int *counter, unsigned int value)
{
	for (int i = 0; i < TURNS_MAX && *counter < value; i++)
		turn();
	CU_ASSERT_TRUE(*counter >= value);
}

static void relay_open(struct sluice_peer_address *ret_address)
{
	union sluice_sockaddr addr = {.v4 = {.sin_family = AF_INET}};
	char uri[SLUICE_URI_BYTES];
	socklen_t len = sizeof(addr.v4);

	addr.v4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	relay.listen_fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	CU_ASSERT_EQUAL_FATAL(bind(relay.listen_fd, &addr.any, len), 0);
	CU_ASSERT_EQUAL_FATAL(listen(relay.listen_fd, 4), 0);
	getsockname(relay.listen_fd, &addr.any, &len);
	sluice_sockaddr_format(&addr, len, uri);
	CU_ASSERT_EQUAL_FATAL(
		sluice_peer_address_parse(uri, SLUICE_ADDRESS_CONNECT, ret_address, NULL), 0);
}

/* ---- the rig ---- */

static struct sluice_link_opts with_key(const char *file)
{
	return (struct sluice_link_opts){
		.psk_file = file, .psk_identity = "", .deadline_ns = 20 * SLUICE_NS_PER_S};
}

static void setup(struct sluice_link_opts source_opts, struct sluice_link_opts opts)
{
	struct sluice_link_handlers handlers = handlers_of(&source);
	struct sluice_peer_address address;
	struct sluice_error err = {0};
	char uri[SLUICE_URI_BYTES];

	source = target = (struct end){0};
	relay = (struct relay){.fd = {-1, -1}};
	target_opts = opts;
	CU_ASSERT_EQUAL_FATAL(sluice_loop_create(&loop), 0);
	CU_ASSERT_EQUAL_FATAL(
		sluice_peer_address_parse("tcp:127.0.0.1:0", SLUICE_ADDRESS_LISTEN, &address, &err),
		0);
	CU_ASSERT_EQUAL_FATAL(
		sluice_link_listen(loop, &address, on_accepted, NULL, uri, &listener, &err), 0);
	CU_ASSERT_EQUAL_FATAL(
		sluice_peer_address_parse(uri, SLUICE_ADDRESS_CONNECT, &relay.target, &err), 0);
	relay_open(&address);
	CU_ASSERT_EQUAL_FATAL(
		sluice_link_connect(loop, &address, &source_opts, &handlers, &source.link, &err),
		0);
}

static void teardown(void)
{
	sluice_link_close(source.link);
	sluice_link_close(target.link);
	sluice_link_unlisten(listener);
	close(relay.listen_fd);
	for (int i = 0; i < 2; i++)
		if (relay.fd[i] >= 0)
			close(relay.fd[i]);
	sluice_loop_destroy(loop);
}

static void say(struct end *end, const char *reason)
{
	sluice_link_send(end->link, json_pack("{s:s, s:s}", "type", "abort", "reason", reason));
}

/* Both ends have heard each other. */
static void talk(void)
{
	turns_until(&source.ups, 1);
	say(&source, "there");
	turns_until(&target.messages, 1);
	say(&target, "and back");
	turns_until(&source.messages, 1);
	CU_ASSERT_EQUAL(source.downs + target.downs, 0);
}

/* Neither end came up; what each of them says. */
static void both_fail(const char *source_says, const char *target_says)
{
	turns_until(&target.downs, 1);
	turns_until(&source.downs, 1);
	CU_ASSERT_EQUAL(source.ups + target.messages, 0);
	UNIT_CONTAINS(source.why, source_says);
	UNIT_CONTAINS(target.why, target_says);
	/* No key may ever be shown. */
	CU_ASSERT_PTR_NULL(strstr(source.why, "0405"));
	CU_ASSERT_PTR_NULL(strstr(target.why, "0405"));
	teardown();
}

/* ---- tests ---- */

static void test_nobody_between_can_read(void)
{
	setup(with_key(file_a), with_key(file_a));
	talk();
	CU_ASSERT_TRUE(relay.bytes > 500);
	CU_ASSERT_FALSE(relay.seen_type);
	CU_ASSERT_STRING_EQUAL(sluice_link_identity(source.link), "host");
	CU_ASSERT_STRING_EQUAL(sluice_link_identity(target.link), "host");
	teardown();

	/* The relay would have seen it. */
	setup((struct sluice_link_opts){0}, (struct sluice_link_opts){0});
	talk();
	CU_ASSERT_TRUE(relay.seen_type);
	CU_ASSERT_PTR_NULL(sluice_link_identity(source.link));
	teardown();
}

static void test_many_messages_at_once(void)
{
	static char reason[500];
	size_t sent = 0;

	memset(reason, 'x', sizeof(reason) - 1);
	setup(with_key(file_a), with_key(file_a));
	talk();
	target.messages = 0;
	target.bytes = 0;
	/* Together more than a buffer holds at either end. */
	for (int round = 0; round < 6; round++) {
		for (int i = 0; i < 900; i++, sent++)
			say(&source, reason);
		turns_until(&target.messages, (unsigned int)sent);
	}
	CU_ASSERT_EQUAL(target.messages, sent);
	CU_ASSERT_EQUAL(target.bytes, sent * (sizeof(reason) - 1));
	CU_ASSERT_EQUAL(source.downs + target.downs, 0);
	teardown();
}

static void test_another_key(void)
{
	setup(with_key(file_b), with_key(file_a));
	both_fail("different keys for identity \"host\"", "different keys for identity \"host\"");
}

static void test_unknown_identity(void)
{
	struct sluice_link_opts opts = with_key(file_two);

	opts.psk_identity = "second";
	setup(opts, with_key(file_a));
	both_fail("no key for identity \"second\"", "no line for identity \"second\"");
}

static void test_one_of_several_identities(void)
{
	struct sluice_link_opts opts = with_key(file_two);

	opts.psk_identity = "second";
	setup(opts, with_key(file_two));
	talk();
	CU_ASSERT_STRING_EQUAL(sluice_link_identity(target.link), "second");
	teardown();
}

static void test_clear_text_at_tls(void)
{
	setup((struct sluice_link_opts){0}, with_key(file_a));
	turns_until(&source.ups, 1);
	say(&source, "hello");
	turns_until(&target.downs, 1);
	turns_until(&source.messages, 1);
	CU_ASSERT_EQUAL(target.messages, 0);
	CU_ASSERT_STRING_EQUAL(source.type, "refuse");
	UNIT_CONTAINS(source.error, "psk-file");
	UNIT_CONTAINS(target.why, "in clear text; set psk-file");
	teardown();
}

static void test_tls_at_clear_text(void)
{
	setup(with_key(file_a), (struct sluice_link_opts){0});
	both_fail("in clear text and this one is encrypted; set psk-file",
		"wants an encrypted link and this engine has no key; set psk-file");
}

/* A key file that is gone or open to others when the link is made. */
static void test_key_file_at_the_last_moment(void)
{
	CU_ASSERT_EQUAL(chmod(file_a, 0644), 0);
	setup(with_key(file_b), with_key(file_a));
	both_fail("no key for identity", "chmod 0600");
	setup(with_key(file_a), with_key(file_b));
	turns_until(&source.downs, 1);
	UNIT_CONTAINS(source.why, "chmod 0600");
	teardown();
	CU_ASSERT_EQUAL(chmod(file_a, 0600), 0);
}

static void test_silence_has_an_end(void)
{
	struct sluice_link_opts opts = with_key(file_a);

	opts.deadline_ns = 100 * SLUICE_NS_PER_MS;
	setup(opts, opts);
	relay.stopped = true;
	turns_until(&source.downs, 1);
	turns_until(&target.downs, 1);
	UNIT_CONTAINS(source.why, "did not finish the TLS handshake within 100 ms");
	UNIT_CONTAINS(target.why, "did not say what it wants within 100 ms");
	teardown();

	/* Also in clear text, and after a handshake. */
	setup((struct sluice_link_opts){0},
		(struct sluice_link_opts){.deadline_ns = 100 * SLUICE_NS_PER_MS});
	turns_until(&target.downs, 1);
	UNIT_CONTAINS(target.why, "did not say what it wants");
	teardown();
	opts.deadline_ns = 2 * SLUICE_NS_PER_S; /* a handshake takes milliseconds */
	setup(with_key(file_a), opts);
	turns_until(&source.ups, 1);
	turns_until(&target.downs, 1);
	UNIT_CONTAINS(target.why, "did not say what it wants");
	teardown();
}

static void test_changed_on_the_way(void)
{
	setup(with_key(file_a), with_key(file_a));
	talk();
	relay.flip = true;
	say(&source, "changed");
	turns_until(&target.downs, 1);
	CU_ASSERT_EQUAL(target.messages, 1);
	UNIT_CONTAINS(target.why, "was changed on the way");
	teardown();
}

static void test_garbage(void)
{
	static const struct {
		const char *bytes;
		size_t count;
		const char *why;
	} rows[] = {
		{"GET / HTTP/1.1\r\n\r\n", 18, "JSON parse error"},
		{"\x16\x03\x01\x00\x05hello", 10, "handshake failed"},
		{"\x16\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00", 12, "handshake failed"},
		{"\x15\x03\x03\x00\x02\x02\x28", 7, "peer"}, /* an alert at once */
		{"\x17\x03\x03\x00\x10", 5, "closed"},
		{"", 0, "closed"},
	};

	for (size_t i = 0; i < SLUICE_ARRAY_LEN(rows); i++) {
		int fd;

		setup(with_key(file_a), with_key(file_a));
		fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
		CU_ASSERT_EQUAL_FATAL(
			connect(fd, &relay.target.list[0].addr.any, relay.target.list[0].len), 0);
		CU_ASSERT_EQUAL(send(fd, rows[i].bytes, rows[i].count, MSG_NOSIGNAL),
			(ssize_t)rows[i].count);
		shutdown(fd, SHUT_WR);
		for (int n = 0; n < TURNS_MAX && target.downs == 0; n++)
			sluice_loop_turn(loop, 2);
		CU_ASSERT_EQUAL(target.downs, 1);
		UNIT_CONTAINS(target.why, rows[i].why);
		close(fd);
		teardown();
	}
}

static void test_exported_secrets(void)
{
	uint8_t a[32], b[32], c[32], d[32];

	setup(with_key(file_a), with_key(file_a));
	talk();
	CU_ASSERT_EQUAL(sluice_link_export(source.link, "lane 0", 6, a, sizeof(a)), 0);
	CU_ASSERT_EQUAL(sluice_link_export(target.link, "lane 0", 6, b, sizeof(b)), 0);
	CU_ASSERT_EQUAL(sluice_link_export(target.link, "lane 1", 6, c, sizeof(c)), 0);
	CU_ASSERT_EQUAL(memcmp(a, b, sizeof(a)), 0);
	CU_ASSERT_NOT_EQUAL(memcmp(a, c, sizeof(a)), 0);
	teardown();

	/* Another connection with the same key has other secrets. */
	setup(with_key(file_a), with_key(file_a));
	talk();
	CU_ASSERT_EQUAL(sluice_link_export(source.link, "lane 0", 6, d, sizeof(d)), 0);
	CU_ASSERT_NOT_EQUAL(memcmp(a, d, sizeof(a)), 0);
	teardown();

	setup((struct sluice_link_opts){0}, (struct sluice_link_opts){0});
	talk();
	CU_ASSERT_EQUAL(sluice_link_export(source.link, "lane 0", 6, a, sizeof(a)), -EOPNOTSUPP);
	teardown();
}

static const struct unit_test tests[] = {
	{"nobody between can read", test_nobody_between_can_read},
	{"many messages at once", test_many_messages_at_once},
	{"another key", test_another_key},
	{"unknown identity", test_unknown_identity},
	{"one of several identities", test_one_of_several_identities},
	{"clear text at TLS", test_clear_text_at_tls},
	{"TLS at clear text", test_tls_at_clear_text},
	{"key file at the last moment", test_key_file_at_the_last_moment},
	{"silence has an end", test_silence_has_an_end},
	{"changed on the way", test_changed_on_the_way},
	{"garbage", test_garbage},
	{"exported secrets", test_exported_secrets},
	{0},
};

static void write_file(char path[64], const char *name, const char *text)
{
	FILE *file;

	snprintf(path, 64, "%s/%s", folder, name);
	file = fopen(path, "w");
	fputs(text, file);
	fclose(file);
	chmod(path, 0600);
}

int main(void)
{
	const struct sluice_tls_module *module;
	struct sluice_error err = {0};
	int status;

	if (sluice_tls_load(&module, &err) < 0) {
		printf("skipped: %s\n", err.text);
		return 77;
	}
	signal(SIGPIPE, SIG_IGN);
	if (mkdtemp(folder) == NULL)
		return EXIT_FAILURE;
	write_file(file_a, "a", "host:" KEY_A "\n");
	write_file(file_b, "b", "host:" KEY_B "\n");
	write_file(file_two, "two", "host:" KEY_A "\r\n\r\n#7365636f6e64:" KEY_B);
	status = unit_run("link-tls", tests);
	unit_remove_folder(folder);
	return status;
}
