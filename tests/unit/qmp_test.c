/* SPDX-License-Identifier: BSD-3-Clause */
/* qmp_test.c: the QMP wire over a real socketpair: splitting, limits, resync, descriptors. */
#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/qmp.h"
#include "tests/unit/unit.h"

struct pair {
	int raw; /* the peer: a plain socket */
	struct sluice_wire *wire;
};

static struct pair open_pair(void)
{
	struct pair pair;
	int fds[2];
	int rc = socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds);

	CU_ASSERT_EQUAL_FATAL(rc, 0);
	pair.raw = fds[0];
	rc = sluice_wire_create(fds[1], &pair.wire);
	CU_ASSERT_EQUAL_FATAL(rc, 0);
	return pair;
}

static void close_pair(struct pair *pair)
{
	sluice_wire_destroy(pair->wire);
	close(pair->raw);
}

/* Send @bytes of @text with @count descriptors in one sendmsg. */
static void send_fds(const struct pair *pair, const char *text, const int *fds, size_t count)
{
	_Alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(int) * 128)] = {0};
	struct iovec iov = {.iov_base = (void *)(uintptr_t)text, .iov_len = strlen(text)};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
	struct cmsghdr *c;

	if (count > 0) {
		msg.msg_control = control;
		msg.msg_controllen = CMSG_SPACE(sizeof(int) * count);
		c = CMSG_FIRSTHDR(&msg);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int) * count);
		memcpy(CMSG_DATA(c), fds, sizeof(int) * count);
	}
	CU_ASSERT_EQUAL(sendmsg(pair->raw, &msg, 0), (ssize_t)strlen(text));
}

static void send_text(const struct pair *pair, const char *text)
{
	send_fds(pair, text, NULL, 0);
}

/* The value of member "n" of the next message, or the negative code; -1000 for none. */
static int next_n(struct pair *pair)
{
	struct sluice_error err = {0};
	json_t *message;
	int rc = sluice_wire_next(pair->wire, &message, &err);
	int n;

	if (rc == 0)
		return -1000;
	if (rc < 0) {
		CU_ASSERT_EQUAL(err.code, rc);
		return rc;
	}
	n = (int)json_integer_value(json_object_get(message, "n"));
	json_decref(message);
	return n;
}

#define NONE (-1000)

static void receive(struct pair *pair)
{
	struct sluice_error err = {0};

	CU_ASSERT_EQUAL(sluice_wire_receive(pair->wire, &err), 0);
}

/* Messages with everything that could fool a scanner, cut in two at every byte. */
static void test_split_everywhere(void)
{
	static const char text[] = "{\"n\": 1, \"s\": \"}{][\\\"\\\\\", \"a\": [{}, []]}\r\n"
				   "{\"n\":2}{\"n\":3}\n\n \t{\"n\": 4,\n \"x\": {}}\n";
	size_t bytes = strlen(text);

	for (size_t cut = 0; cut <= bytes; cut++) {
		struct pair pair = open_pair();
		int seen = 0;

		for (int part = 0; part < 2; part++) {
			size_t from = part == 0 ? 0 : cut;
			size_t to = part == 0 ? cut : bytes;
			int n;

			if (from < to)
				CU_ASSERT_EQUAL(write(pair.raw, text + from, to - from),
					(ssize_t)(to - from));
			receive(&pair);
			while ((n = next_n(&pair)) != NONE)
				CU_ASSERT_EQUAL(n, ++seen);
		}
		CU_ASSERT_EQUAL(seen, 4);
		close_pair(&pair);
	}
}

static void test_byte_by_byte(void)
{
	static const char text[] = "{\"n\": 1, \"s\": \"\\u007d\\\"\"}\r\n{\"n\": 2}\r\n";
	struct pair pair = open_pair();
	int seen = 0;

	for (size_t i = 0; i < strlen(text); i++) {
		int n;

		CU_ASSERT_EQUAL(write(pair.raw, text + i, 1), 1);
		receive(&pair);
		while ((n = next_n(&pair)) != NONE)
			CU_ASSERT_EQUAL(n, ++seen);
	}
	CU_ASSERT_EQUAL(seen, 2);
	close_pair(&pair);
}

/* After each of these lines the wire is in step again. */
static void test_malformed(void)
{
	static const char *const lines[] = {"nonsense {\n", "[1, 2]\n", "}\n", "{\"n\": }\n",
		"{\"n\": 1]}\n", "{\"n\": \"no end}\n", "{\"n\": 1, \"n\": 2}\n", "{n: 1}\n",
		"{\"n\": \"\\u0000\"}\n", "{\"n\": \"\xff\"}\n", "{\"n\": 99999999999999999999}\n",
		"\x80\x81\n", "\"{\"\n"};

	for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
		struct pair pair = open_pair();

		send_text(&pair, lines[i]);
		send_text(&pair, "{\"n\": 7}\n");
		receive(&pair);
		CU_ASSERT_EQUAL(next_n(&pair), -EBADMSG);
		CU_ASSERT_EQUAL(next_n(&pair), 7);
		CU_ASSERT_EQUAL(next_n(&pair), NONE);
		close_pair(&pair);
	}
}

/* Feed @bytes of @unit repeated; returns what next() says in the end. */
static int flood(const char *unit, size_t bytes)
{
	struct pair pair = open_pair();
	char block[4096];
	size_t filled = 0, sent = 0;
	int rc = NONE;

	for (; filled + strlen(unit) <= sizeof(block); filled += strlen(unit))
		memcpy(block + filled, unit, strlen(unit));
	fcntl(pair.raw, F_SETFL, O_NONBLOCK);
	while (sent < bytes && rc == NONE) {
		ssize_t done = write(pair.raw, block, filled);

		if (done > 0)
			sent += (size_t)done;
		receive(&pair);
		rc = next_n(&pair);
	}
	if (rc < 0 && rc != NONE)
		CU_ASSERT_EQUAL(next_n(&pair), rc); /* it stays refused */
	close_pair(&pair);
	return rc;
}

static void test_floods(void)
{
	uint64_t before_ns = sluice_clock_read(CLOCK_PROCESS_CPUTIME_ID);

	CU_ASSERT_EQUAL(flood("{\"a\":{", 2u << 20), -EMSGSIZE);
	CU_ASSERT_EQUAL(flood("{", 2u << 20), -EMSGSIZE);
	CU_ASSERT_EQUAL(flood("x", 2u << 20), -EMSGSIZE);
	CU_ASSERT_EQUAL(flood(" ", 2u << 20), NONE);
	CU_ASSERT_TRUE(
		sluice_clock_read(CLOCK_PROCESS_CPUTIME_ID) - before_ns < 2 * SLUICE_NS_PER_S);
}

/* The largest message passes, one byte more does not. */
static void largest(size_t bytes, int expected)
{
	struct pair pair = open_pair();
	char *text = malloc(bytes);
	size_t sent = 0;
	int rc = NONE;

	memset(text, ' ', bytes);
	memcpy(text, "{\"n\":5", 6);
	text[bytes - 1] = '}';
	fcntl(pair.raw, F_SETFL, O_NONBLOCK);
	while (sent < bytes && rc == NONE) {
		ssize_t done = write(pair.raw, text + sent, bytes - sent);

		if (done > 0)
			sent += (size_t)done;
		receive(&pair);
		rc = next_n(&pair);
	}
	CU_ASSERT_EQUAL(rc, expected);
	free(text);
	close_pair(&pair);
}

static void test_largest(void)
{
	largest(SLUICE_QMP_MESSAGE_BYTES_MAX, 5);
	largest(SLUICE_QMP_MESSAGE_BYTES_MAX + 1, -EMSGSIZE);
}

static void nested(unsigned int depth, int expected)
{
	struct pair pair = open_pair();
	char text[512] = "{\"n\":3,\"a\":";
	size_t at = strlen(text);

	for (unsigned int i = 1; i < depth; i++)
		text[at++] = '[';
	for (unsigned int i = 1; i < depth; i++)
		text[at++] = ']';
	if (depth == 1)
		text[at++] = '0';
	text[at++] = '}';
	text[at] = '\0';
	send_text(&pair, text);
	receive(&pair);
	CU_ASSERT_EQUAL(next_n(&pair), expected);
	close_pair(&pair);
}

static void test_depth(void)
{
	nested(1, 3);
	nested(SLUICE_QMP_DEPTH_MAX, 3);
	nested(SLUICE_QMP_DEPTH_MAX + 1, -EMSGSIZE);
}

/* A megabyte of small messages costs work in proportion, also when taken one per receive. */
static void test_many_small(void)
{
	struct pair pair = open_pair();
	uint64_t before_ns = sluice_clock_read(CLOCK_PROCESS_CPUTIME_ID);
	static const char message[] = "{\"n\":9}\n";
	char block[8192];
	size_t sent = 0, taken = 0;
	const size_t total = 200000;

	for (size_t i = 0; i < sizeof(block); i += 8)
		memcpy(block + i, message, 8);
	fcntl(pair.raw, F_SETFL, O_NONBLOCK);
	while (taken < total) {
		if (sent < total * 8) {
			ssize_t done = write(pair.raw, block + sent % 8, sizeof(block) - sent % 8);

			if (done > 0)
				sent += (size_t)done;
		}
		receive(&pair);
		if (next_n(&pair) == 9)
			taken++;
		else
			CU_FAIL_FATAL("a message is missing");
	}
	CU_ASSERT_EQUAL(taken, total);
	CU_ASSERT_TRUE(
		sluice_clock_read(CLOCK_PROCESS_CPUTIME_ID) - before_ns < 5 * SLUICE_NS_PER_S);
	close_pair(&pair);
}

static void test_peer_closes(void)
{
	struct pair pair = open_pair();
	struct sluice_error err = {0};

	send_text(&pair, "{\"n\": 1}\n{\"n\": 2}\n{\"n\"");
	shutdown(pair.raw, SHUT_WR);
	CU_ASSERT_EQUAL(sluice_wire_receive(pair.wire, &err), -EPIPE);
	CU_ASSERT_EQUAL(next_n(&pair), 1);
	CU_ASSERT_EQUAL(next_n(&pair), 2);
	CU_ASSERT_EQUAL(next_n(&pair), NONE);
	close_pair(&pair);
}

/* ---- descriptors ---- */

/* A file of @bytes bytes: its size tells descriptors apart. */
static int file_of(off_t bytes)
{
	char path[] = "/tmp/sluice-qmp-XXXXXX";
	int fd = mkstemp(path);

	CU_ASSERT_FATAL(fd >= 0);
	unlink(path);
	CU_ASSERT_EQUAL(ftruncate(fd, bytes), 0);
	return fd;
}

static off_t size_of(int fd)
{
	struct stat st = {.st_size = -1};

	fstat(fd, &st);
	return st.st_size;
}

static int count_open_fds(void)
{
	int count = 0;

	for (int fd = 0; fd < 1024; fd++)
		count += fcntl(fd, F_GETFD) >= 0;
	return count;
}

static void test_fds_in_order(void)
{
	int before = count_open_fds();
	struct pair pair = open_pair();
	int fds[3] = {file_of(10), file_of(20), file_of(30)};

	send_fds(&pair, "{\"n\": 1}\n", &fds[0], 1);
	send_fds(&pair, "{\"n\": 2}\n", &fds[1], 2);
	for (int i = 0; i < 3; i++)
		close(fds[i]);
	receive(&pair);
	CU_ASSERT_EQUAL(next_n(&pair), 1);
	CU_ASSERT_EQUAL(next_n(&pair), 2);
	for (int i = 0; i < 3; i++) {
		int fd = sluice_wire_take_fd(pair.wire);

		CU_ASSERT_EQUAL(size_of(fd), 10 * (i + 1));
		CU_ASSERT_EQUAL(fcntl(fd, F_GETFD), FD_CLOEXEC);
		close(fd);
	}
	CU_ASSERT_EQUAL(sluice_wire_take_fd(pair.wire), -ENOENT);
	close_pair(&pair);
	CU_ASSERT_EQUAL(count_open_fds(), before);
}

/* A descriptor counts as waiting only from its own message on. */
static void test_fds_belong_to_messages(void)
{
	struct pair pair = open_pair();
	int fd = file_of(10);

	send_text(&pair, "{\"n\": 1}\r\n");
	send_fds(&pair, "{\"n\": 2}\r\n", &fd, 1);
	send_text(&pair, "{\"n\": 3}\r\n");
	receive(&pair);
	CU_ASSERT_EQUAL(next_n(&pair), 1);
	CU_ASSERT_EQUAL(sluice_wire_fds_waiting(pair.wire), 0);
	CU_ASSERT_EQUAL(next_n(&pair), 2);
	CU_ASSERT_EQUAL(sluice_wire_fds_waiting(pair.wire), 1);
	CU_ASSERT_EQUAL(next_n(&pair), 3);
	CU_ASSERT_EQUAL(sluice_wire_fds_waiting(pair.wire), 1);
	close(fd);
	close_pair(&pair);
}

static void send_many(size_t per_message, size_t messages, int expected)
{
	int before = count_open_fds();
	struct pair pair = open_pair();
	struct sluice_error err = {0};
	int fds[128], fd = file_of(10);

	for (size_t i = 0; i < 128; i++)
		fds[i] = fd;
	for (size_t i = 0; i < messages; i++)
		send_fds(&pair, "{\"n\": 1}\n", fds, per_message);
	CU_ASSERT_EQUAL(sluice_wire_receive(pair.wire, &err), expected);
	CU_ASSERT_EQUAL(err.code, expected);
	close(fd);
	close_pair(&pair);
	CU_ASSERT_EQUAL(count_open_fds(), before);
}

static void test_too_many_fds(void)
{
	send_many(SLUICE_QMP_FDS_MAX, 1, 0);
	send_many(SLUICE_QMP_FDS_MAX + 1, 1, -EPROTO); /* the kernel drops one: MSG_CTRUNC */
	send_many(1, SLUICE_QMP_FDS_MAX, 0);
	send_many(1, SLUICE_QMP_FDS_MAX + 1, -EPROTO);
}

/* ---- sending ---- */

static void test_send_with_fds(void)
{
	struct pair pair = open_pair();
	struct sluice_wire *other;
	struct sluice_error err = {0};
	json_t *message;
	int fds[2] = {file_of(10), file_of(20)};

	CU_ASSERT_EQUAL_FATAL(sluice_wire_create(dup(pair.raw), &other), 0);
	for (int i = 0; i < 6; i++) {
		int fd = i % 3 == 1 ? fds[i / 3] : -1;

		CU_ASSERT_EQUAL(sluice_wire_send(other, json_pack("{s:i}", "n", i), fd), 0);
	}
	close(fds[0]); /* the wire has its own copies */
	close(fds[1]);
	CU_ASSERT_EQUAL(sluice_wire_flush(other), 1);
	CU_ASSERT_EQUAL(sluice_wire_receive(pair.wire, &err), 0);
	for (int i = 0; i < 6; i++) {
		CU_ASSERT_EQUAL_FATAL(sluice_wire_next(pair.wire, &message, &err), 1);
		json_decref(message);
		if (i % 3 == 1) {
			int fd = sluice_wire_take_fd(pair.wire);

			CU_ASSERT_EQUAL(size_of(fd), 10 * (i / 3 + 1));
			close(fd);
		}
		CU_ASSERT_EQUAL(sluice_wire_fds_waiting(pair.wire), 0);
	}
	sluice_wire_destroy(other);
	close_pair(&pair);
}

static void test_peer_does_not_read(void)
{
	struct pair pair = open_pair();
	size_t count = 0;
	int rc = 0;

	while (rc == 0 && count < 100000) {
		rc = sluice_wire_send(pair.wire, json_pack("{s:s}", "event", "X"), -1);
		if (rc == 0)
			CU_ASSERT_TRUE(sluice_wire_flush(pair.wire) >= 0);
		count++;
	}
	CU_ASSERT_EQUAL(rc, -ENOBUFS);
	CU_ASSERT_TRUE(sluice_wire_unsent_bytes(pair.wire) <= SLUICE_QMP_MESSAGE_BYTES_MAX);
	close(pair.raw);
	CU_ASSERT_EQUAL(sluice_wire_flush(pair.wire), -EPIPE);
	sluice_wire_destroy(pair.wire);
}

static void test_grammar(void)
{
	json_t *id = json_pack("{s:i}", "any", 1);
	json_t *error = sluice_qmp_error("GenericError", "cut \xc3", id);
	json_t *reply = sluice_qmp_return(json_integer(3), NULL);
	json_t *event = sluice_qmp_event("STOP", json_object());
	char *text = json_dumps(error, JSON_COMPACT);

	CU_ASSERT_STRING_EQUAL(text,
		"{\"error\":{\"class\":\"GenericError\",\"desc\":\"cut ?\"},\"id\":{\"any\":1}}");
	CU_ASSERT_PTR_NULL(json_object_get(reply, "id"));
	CU_ASSERT_TRUE(json_integer_value(json_object_get(
			       json_object_get(event, "timestamp"), "seconds")) > 1600000000);
	free(text);
	json_decref(id);
	json_decref(error);
	json_decref(reply);
	json_decref(event);
}

int main(void)
{
	static const struct unit_test tests[] = {
		{"split at every byte", test_split_everywhere},
		{"byte by byte", test_byte_by_byte},
		{"malformed lines", test_malformed},
		{"floods", test_floods},
		{"largest message", test_largest},
		{"depth", test_depth},
		{"many small messages", test_many_small},
		{"peer closes", test_peer_closes},
		{"descriptors in order", test_fds_in_order},
		{"descriptors belong to messages", test_fds_belong_to_messages},
		{"too many descriptors", test_too_many_fds},
		{"sending with descriptors", test_send_with_fds},
		{"peer does not read", test_peer_does_not_read},
		{"grammar", test_grammar},
		{0},
	};

	return unit_run("qmp", tests);
}
