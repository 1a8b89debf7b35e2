/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * server_test.c: the VMM socket's server over real sockets. Client and server share one
 * thread: ask() sends a line and turns the loop until the answer is there.
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/qmp.h"
#include "engine/control/server.h"
#include "tests/unit/unit-test-schema.h"
#include "tests/unit/unit.h"

#define TURNS_MAX 2000

static struct sluice_loop *loop;
static struct sluice_server *server;
static int vmm_gone_count;

/* ---- handlers ---- */

static json_t *do_echo(
	void *ctx, struct sluice_client *client, json_t *args, struct sluice_error *err)
{
	(void)ctx;
	(void)client;
	(void)err;
	return json_incref(args);
}

static json_t *do_fd_size(
	void *ctx, struct sluice_client *client, json_t *args, struct sluice_error *err)
{
	int fd = sluice_client_take_fd(
		client, json_string_value(json_object_get(args, "fdname")), err);
	struct stat st = {0};

	(void)ctx;
	if (fd < 0)
		return NULL;
	fstat(fd, &st);
	close(fd);
	return json_integer(st.st_size);
}

static json_t *do_vmm_only(
	void *ctx, struct sluice_client *client, json_t *args, struct sluice_error *err)
{
	(void)ctx;
	(void)args;
	(void)err;
	CU_ASSERT_TRUE(sluice_client_is_vmm(client));
	return json_object();
}

static json_t *do_fail(
	void *ctx, struct sluice_client *client, json_t *args, struct sluice_error *err)
{
	(void)ctx;
	(void)client;
	(void)args;
	sluice_fail(err, -EIO, "disk", "it broke");
	return NULL;
}

static json_t *do_lie(
	void *ctx, struct sluice_client *client, json_t *args, struct sluice_error *err)
{
	(void)ctx;
	(void)client;
	(void)args;
	(void)err;
	return json_integer(1);
}

static json_t *do_tell(
	void *ctx, struct sluice_client *client, json_t *args, struct sluice_error *err)
{
	(void)ctx;
	(void)client;
	(void)args;
	(void)err;
	sluice_server_event(server, "TICK", json_pack("{s:i}", "n", 5));
	return json_object();
}

static void on_vmm_gone(void *ctx)
{
	(void)ctx;
	vmm_gone_count++;
}

static const struct sluice_command commands[] = {
	{"echo", do_echo},
	{"fd-size", do_fd_size},
	{"vmm-only", do_vmm_only},
	{"fail", do_fail},
	{"lie", do_lie},
	{"tell", do_tell},
	{0},
};

static void start(void)
{
	struct sluice_server_opts opts = {
		.schema = &sluice_schema_unit_test, .commands = commands, .vmm_gone = on_vmm_gone};

	vmm_gone_count = 0;
	CU_ASSERT_EQUAL_FATAL(sluice_loop_create(&loop), 0);
	opts.loop = loop;
	CU_ASSERT_EQUAL_FATAL(sluice_server_create(&opts, &server), 0);
}

static void stop(void)
{
	sluice_server_destroy(server);
	sluice_loop_destroy(loop);
}

static void turn(int turns)
{
	for (int i = 0; i < turns; i++)
		sluice_loop_turn(loop, 0);
}

/* ---- a client ---- */

/* A connection without greeting taken and capabilities negotiated. */
static struct sluice_wire *connect_raw(void)
{
	struct sluice_wire *wire = NULL;
	int fds[2];

	CU_ASSERT_EQUAL_FATAL(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	CU_ASSERT_EQUAL_FATAL(sluice_server_add_client(server, fds[0], false, NULL), 0);
	CU_ASSERT_EQUAL_FATAL(sluice_wire_create(fds[1], &wire), 0);
	return wire;
}

/* The next message as text, "(none)", or "(closed)". The buffer is reused. */
static const char *hear(struct sluice_wire *wire)
{
	static char text[4096];
	json_t *message = NULL;
	bool closed = false;

	for (int i = 0; i < 4; i++) {
		char *dump;

		turn(1);
		closed = sluice_wire_receive(wire, NULL) < 0;
		if (sluice_wire_next(wire, &message, NULL) != 1)
			continue;
		json_object_del(message, "timestamp");
		dump = json_dumps(message, JSON_COMPACT | JSON_SORT_KEYS);
		snprintf(text, sizeof(text), "%s", dump);
		free(dump);
		json_decref(message);
		return text;
	}
	return closed ? "(closed)" : "(none)";
}

static void say_fds(struct sluice_wire *wire, const char *line, int fd)
{
	char control[CMSG_SPACE(sizeof(int))] = {0};
	struct iovec iov = {.iov_base = (void *)(uintptr_t)line, .iov_len = strlen(line)};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
	struct cmsghdr *c;

	if (fd >= 0) {
		msg.msg_control = control;
		msg.msg_controllen = sizeof(control);
		c = CMSG_FIRSTHDR(&msg);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(c), &fd, sizeof(int));
	}
	CU_ASSERT_EQUAL(sendmsg(sluice_wire_fd(wire), &msg, 0), (ssize_t)strlen(line));
}

static const char *ask(struct sluice_wire *wire, const char *line)
{
	say_fds(wire, line, -1);
	return hear(wire);
}

static struct sluice_wire *connect_negotiated(void)
{
	struct sluice_wire *wire = connect_raw();

	UNIT_CONTAINS(hear(wire), "{\"QMP\":{\"capabilities\":[]");
	CU_ASSERT_STRING_EQUAL(ask(wire, "{\"execute\": \"qmp_capabilities\"}"), "{\"return\":{}}");
	return wire;
}

#define SAYS(wire, line, expected) CU_ASSERT_STRING_EQUAL(ask(wire, line), expected)
#define REFUSES(wire, line, part)                                \
	do {                                                     \
		const char *said = ask(wire, line);              \
		UNIT_CONTAINS(said, "{\"error\":{\"class\":\""); \
		UNIT_CONTAINS(said, part);                       \
	} while (0)

/* ---- tests ---- */

static void test_negotiation(void)
{
	struct sluice_wire *wire;

	start();
	wire = connect_raw();
	UNIT_CONTAINS(hear(wire), "\"package\":\"sluice ");
	REFUSES(wire, "{\"execute\": \"echo\"}",
		"\"CommandNotFound\",\"desc\":\"Expecting capabilities negotiation");
	sluice_server_event(server, "TICK", json_pack("{s:i}", "n", 1));
	CU_ASSERT_STRING_EQUAL(hear(wire), "(none)"); /* no events yet */
	SAYS(wire, "{\"execute\": \"qmp_capabilities\", \"arguments\": {\"enable\": []}}",
		"{\"return\":{}}");
	REFUSES(wire, "{\"execute\": \"qmp_capabilities\"}", "already complete");
	REFUSES(wire, "{\"execute\": \"ech0\", \"id\": 3}",
		"\"CommandNotFound\",\"desc\":\"The command ech0 has not been found (did you mean "
		"'echo'?)\"},\"id\":3}");
	sluice_wire_destroy(wire);
	wire = connect_raw();
	hear(wire);
	REFUSES(wire, "{\"execute\": \"qmp_capabilities\", \"arguments\": {\"enable\": [\"oob\"]}}",
		"'enable': expected an array of at most 0");
	sluice_wire_destroy(wire);
	stop();
}

static void test_grammar(void)
{
	struct sluice_wire *wire;

	start();
	wire = connect_negotiated();
	SAYS(wire, "{\"execute\": \"echo\", \"arguments\": {\"str\": \"x\"}, \"id\": {\"a\": [1]}}",
		"{\"id\":{\"a\":[1]},\"return\":{\"str\":\"x\"}}");
	REFUSES(wire, "{}", "lacks member 'execute'");
	REFUSES(wire, "{\"execute\": 1}", "'execute' must be a string");
	REFUSES(wire, "{\"execute\": \"echo\", \"arguments\": []}",
		"'arguments' must be an object");
	REFUSES(wire, "{\"execute\": \"echo\", \"args\": {}, \"id\": 4}",
		"member 'args' is unexpected\"},\"id\":4}");
	REFUSES(wire, "{\"execute\": \"echo\", \"arguments\": {\"str\": 1}, \"id\": 5}",
		"\"'str': expected a string of 1 to 8 bytes, got 1\"},\"id\":5}");
	REFUSES(wire, "[1]\n", "JSON parse error");
	REFUSES(wire, "{\"execute\" \"echo\"}\n", "JSON parse error");
	REFUSES(wire, "{\"execute\": \"fail\"}", "\"GenericError\",\"desc\":\"disk: it broke\"");
	REFUSES(wire, "{\"execute\": \"lie\"}", "reply: '(all)': expected true or false, got 1");
	SAYS(wire, "{\"execute\": \"echo\", \"arguments\": {\"str\": \"y\"}}",
		"{\"return\":{\"str\":\"y\"}}");
	UNIT_CONTAINS(ask(wire, "{\"execute\": \"query-commands\"}"),
		"{\"name\":\"vmm-only\",\"vmm\":true}");
	UNIT_CONTAINS(ask(wire, "{\"execute\": \"query-version\"}"), "\"qemu\":{\"major\":");
	sluice_wire_destroy(wire);
	stop();
}

static void test_pipelined(void)
{
	struct sluice_wire *wire;

	start();
	wire = connect_negotiated();
	say_fds(wire, "{\"execute\": \"tell\", \"id\": 1}{\"execute\": \"fail\", \"id\": 2}\r\n",
		-1);
	CU_ASSERT_STRING_EQUAL(hear(wire), "{\"data\":{\"n\":5},\"event\":\"TICK\"}");
	CU_ASSERT_STRING_EQUAL(hear(wire), "{\"id\":1,\"return\":{}}");
	UNIT_CONTAINS(hear(wire), "\"id\":2}");
	sluice_wire_destroy(wire);
	stop();
}

static void test_too_long_disconnects(void)
{
	struct sluice_wire *wire;
	char braces[64];

	start();
	wire = connect_negotiated();
	memset(braces, '{', sizeof(braces));
	braces[sizeof(braces) - 1] = '\0';
	REFUSES(wire, braces, "nested deeper than 32");
	CU_ASSERT_STRING_EQUAL(hear(wire), "(closed)");
	CU_ASSERT_EQUAL(sluice_server_client_count(server), 0);
	sluice_wire_destroy(wire);
	stop();
}

static void test_vmm(void)
{
	struct sluice_wire *a, *b;

	start();
	a = connect_negotiated();
	b = connect_negotiated();
	REFUSES(b, "{\"execute\": \"vmm-only\", \"arguments\": {\"x\": 1}}", "'x' is not known");
	CU_ASSERT_FALSE(sluice_server_has_vmm(server)); /* a wrong call claims nothing */
	SAYS(a, "{\"execute\": \"vmm-only\"}", "{\"return\":{}}");
	CU_ASSERT_TRUE(sluice_server_has_vmm(server));
	REFUSES(b, "{\"execute\": \"vmm-only\"}", "another connection is the VMM");
	SAYS(a, "{\"execute\": \"vmm-only\"}", "{\"return\":{}}");
	sluice_wire_destroy(a);
	turn(2);
	CU_ASSERT_EQUAL(vmm_gone_count, 1);
	SAYS(b, "{\"execute\": \"vmm-only\"}", "{\"return\":{}}");
	a = connect_negotiated();
	sluice_wire_destroy(a);
	turn(2);
	CU_ASSERT_EQUAL(vmm_gone_count, 1); /* that one was not the VMM */
	sluice_wire_destroy(b);
	turn(2);
	CU_ASSERT_EQUAL(vmm_gone_count, 2);
	CU_ASSERT_EQUAL(sluice_server_client_count(server), 0);
	stop();
}

static void test_inherited_vmm(void)
{
	struct sluice_wire *other;
	int fds[2];

	start();
	CU_ASSERT_EQUAL_FATAL(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	CU_ASSERT_EQUAL(sluice_server_add_client(server, fds[0], true, NULL), 0);
	CU_ASSERT_TRUE(sluice_server_has_vmm(server));
	other = connect_negotiated();
	REFUSES(other, "{\"execute\": \"vmm-only\"}", "another connection is the VMM");
	close(fds[1]); /* without a word */
	turn(2);
	CU_ASSERT_EQUAL(vmm_gone_count, 1);
	sluice_wire_destroy(other);
	stop();
}

static void test_events(void)
{
	struct sluice_wire *a, *b;

	start();
	a = connect_negotiated();
	b = connect_negotiated();
	sluice_server_event(server, "TICK", json_pack("{s:i}", "n", 1));
	sluice_server_event(server, "TICK", json_pack("{s:i}", "n", 2));
	CU_ASSERT_STRING_EQUAL(hear(a), "{\"data\":{\"n\":1},\"event\":\"TICK\"}");
	CU_ASSERT_STRING_EQUAL(hear(a), "{\"data\":{\"n\":2},\"event\":\"TICK\"}");
	CU_ASSERT_STRING_EQUAL(hear(b), "{\"data\":{\"n\":1},\"event\":\"TICK\"}");
	sluice_wire_destroy(a);
	sluice_wire_destroy(b);
	stop();
}

/* Count open descriptors, to see that none is lost. */
static int count_open_fds(void)
{
	int count = 0;

	for (int fd = 0; fd < 1024; fd++)
		count += fcntl(fd, F_GETFD) >= 0;
	return count;
}

static int file_of(off_t bytes)
{
	char path[] = "/tmp/sluice-server-XXXXXX";
	int fd = mkstemp(path);

	CU_ASSERT_FATAL(fd >= 0);
	unlink(path);
	CU_ASSERT_EQUAL(ftruncate(fd, bytes), 0);
	return fd;
}

static const char *ask_fd(struct sluice_wire *wire, const char *line, int fd)
{
	say_fds(wire, line, fd);
	return hear(wire);
}

static void test_getfd(void)
{
	int before = count_open_fds();
	int ten = file_of(10), twenty = file_of(20);
	struct sluice_wire *a, *b;
	static const char get_x[] = "{\"execute\": \"getfd\", \"arguments\": {\"fdname\": \"x\"}}";
	static const char get_y[] = "{\"execute\": \"getfd\", \"arguments\": {\"fdname\": \"y\"}}";
	static const char size_x[] =
		"{\"execute\": \"fd-size\", \"arguments\": {\"fdname\": \"x\"}}";

	start();
	a = connect_negotiated();
	b = connect_negotiated();
	CU_ASSERT_STRING_EQUAL(ask_fd(a, get_x, ten), "{\"return\":{}}");
	REFUSES(b, size_x, "no descriptor is called 'x'"); /* names are per connection */
	SAYS(a, size_x, "{\"return\":10}");
	REFUSES(a, size_x, "no descriptor is called 'x'"); /* used up */
	REFUSES(a, get_x, "no descriptor came with this command");
	CU_ASSERT_STRING_EQUAL(ask_fd(a, get_x, ten), "{\"return\":{}}");
	CU_ASSERT_STRING_EQUAL(ask_fd(a, get_x, twenty), "{\"return\":{}}"); /* replaced */
	SAYS(a, size_x, "{\"return\":20}");
	CU_ASSERT_STRING_EQUAL(ask_fd(a, get_x, ten), "{\"return\":{}}");
	CU_ASSERT_STRING_EQUAL(ask_fd(a, get_y, twenty), "{\"return\":{}}");
	SAYS(a, size_x, "{\"return\":10}");
	SAYS(a, "{\"execute\": \"fd-size\", \"arguments\": {\"fdname\": \"y\"}}",
		"{\"return\":20}");
	UNIT_CONTAINS(ask_fd(a, "{\"execute\": \"getfd\", \"arguments\": {}}", ten),
		"'fdname' is missing");
	CU_ASSERT_STRING_EQUAL(ask(a, get_x), "{\"return\":{}}"); /* it still waited */
	SAYS(a, "{\"execute\": \"closefd\", \"arguments\": {\"fdname\": \"x\"}}",
		"{\"return\":{}}");
	REFUSES(a, "{\"execute\": \"closefd\", \"arguments\": {\"fdname\": \"x\"}}",
		"no descriptor is called 'x'");
	CU_ASSERT_STRING_EQUAL(ask_fd(a, get_x, ten), "{\"return\":{}}"); /* left named */
	sluice_wire_destroy(a);
	sluice_wire_destroy(b);
	turn(2);
	stop();
	close(ten);
	close(twenty);
	CU_ASSERT_EQUAL(count_open_fds(), before);
}

static void test_stray_fds(void)
{
	int before = count_open_fds();
	int ten = file_of(10);
	struct sluice_wire *wire;

	start();
	wire = connect_negotiated();
	UNIT_CONTAINS(ask_fd(wire, "{\"execute\": \"echo\", \"arguments\": {\"str\": \"x\"}}", ten),
		"\"GenericError\",\"desc\":\"1 descriptors were sent that no getfd took");
	SAYS(wire, "{\"execute\": \"echo\", \"arguments\": {\"str\": \"x\"}}",
		"{\"return\":{\"str\":\"x\"}}");
	UNIT_CONTAINS(ask_fd(wire, "nonsense\n", ten), "JSON parse error");
	SAYS(wire, "{\"execute\": \"echo\", \"arguments\": {\"str\": \"y\"}}",
		"{\"return\":{\"str\":\"y\"}}");
	/* A getfd that is read together with the command before it is not that one's stray. */
	say_fds(wire, "{\"execute\": \"echo\", \"arguments\": {\"str\": \"z\"}}\r\n", -1);
	say_fds(wire, "{\"execute\": \"getfd\", \"arguments\": {\"fdname\": \"f\"}}\r\n", ten);
	CU_ASSERT_STRING_EQUAL(hear(wire), "{\"return\":{\"str\":\"z\"}}");
	CU_ASSERT_STRING_EQUAL(hear(wire), "{\"return\":{}}");
	/* Many clients send a descriptor with a blank, ahead of getfd. */
	say_fds(wire, "{\"execute\": \"echo\", \"arguments\": {\"str\": \"z\"}}\r\n", -1);
	say_fds(wire, " ", ten);
	say_fds(wire, "{\"execute\": \"getfd\", \"arguments\": {\"fdname\": \"g\"}}\r\n", -1);
	CU_ASSERT_STRING_EQUAL(hear(wire), "{\"return\":{\"str\":\"z\"}}");
	CU_ASSERT_STRING_EQUAL(hear(wire), "{\"return\":{}}");
	say_fds(wire, " ", ten);
	REFUSES(wire, "{\"execute\": \"fail\"}", "1 descriptors were sent that no getfd took");
	/* A client that leaves one behind. */
	say_fds(wire, "{\"execute\"", ten);
	sluice_wire_destroy(wire);
	turn(2);
	CU_ASSERT_EQUAL(sluice_server_client_count(server), 0);
	stop();
	close(ten);
	CU_ASSERT_EQUAL(count_open_fds(), before);
}

static void test_named_fds_limit(void)
{
	int ten = file_of(10);
	struct sluice_wire *wire;
	char line[128];

	start();
	wire = connect_negotiated();
	for (int i = 0; i < SLUICE_CLIENT_NAMED_FDS_MAX; i++) {
		snprintf(line, sizeof(line),
			"{\"execute\": \"getfd\", \"arguments\": {\"fdname\": \"f%d\"}}", i);
		CU_ASSERT_STRING_EQUAL(ask_fd(wire, line, ten), "{\"return\":{}}");
	}
	UNIT_CONTAINS(
		ask_fd(wire, "{\"execute\": \"getfd\", \"arguments\": {\"fdname\": \"more\"}}",
			ten),
		"close some with closefd");
	sluice_wire_destroy(wire);
	turn(2);
	stop();
	close(ten);
}

/* One client reads nothing: it loses progress, then its connection; the other one nothing. */
static void test_slow_client(void)
{
	struct sluice_wire *slow, *quick;
	char pad[1001];
	int ticks = 0;

	memset(pad, 'p', sizeof(pad));
	pad[sizeof(pad) - 1] = '\0';
	start();
	slow = connect_negotiated();
	quick = connect_negotiated();
	for (int i = 0; i < 2000; i++) {
		sluice_server_event(server, "MIGRATION_PROGRESS", json_pack("{s:s}", "pad", pad));
		UNIT_CONTAINS(hear(quick), "MIGRATION_PROGRESS");
	}
	CU_ASSERT_EQUAL(sluice_server_client_count(server), 2); /* 2 MB: would not fit */
	while (sluice_server_client_count(server) == 2 && ticks < 100000) {
		sluice_server_event(server, "TICK", json_pack("{s:i}", "n", ticks++));
		sluice_wire_receive(quick, NULL);
		for (json_t *m; sluice_wire_next(quick, &m, NULL) == 1;)
			json_decref(m);
		turn(1);
	}
	CU_ASSERT_EQUAL(sluice_server_client_count(server), 1);
	SAYS(quick, "{\"execute\": \"fail\"}",
		"{\"error\":{\"class\":\"GenericError\",\"desc\":\"disk: it broke\"}}");
	sluice_wire_destroy(slow);
	sluice_wire_destroy(quick);
	stop();
}

/* ---- listening ---- */

static int dial(const char *path)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", path);
	if (connect(fd, (const struct sockaddr *)&addr, sizeof(addr)) == 0)
		return fd;
	close(fd);
	return -errno;
}

static void test_listen(void)
{
	char dir[] = "/tmp/sluice-listen-XXXXXX";
	char path[64], file[64];
	struct sluice_error err = {0};
	struct sluice_server *second;
	struct sluice_server_opts opts = {.schema = &sluice_schema_unit_test, .commands = commands};
	struct sluice_wire *wire;
	struct stat st;
	int fd;

	CU_ASSERT_PTR_NOT_NULL_FATAL(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/vmm", dir);
	snprintf(file, sizeof(file), "%s/file", dir);
	start();
	CU_ASSERT_EQUAL(sluice_server_listen(server, path, &err), 0);
	CU_ASSERT_EQUAL(stat(path, &st), 0);
	CU_ASSERT_EQUAL(st.st_mode & 0777, 0600);
	fd = dial(path);
	CU_ASSERT_EQUAL_FATAL(sluice_wire_create(fd, &wire), 0);
	UNIT_CONTAINS(hear(wire), "QMP");
	CU_ASSERT_EQUAL(sluice_server_client_count(server), 1);

	/* A second engine does not take the path away, nor anything that is no socket. */
	opts.loop = loop;
	CU_ASSERT_EQUAL_FATAL(sluice_server_create(&opts, &second), 0);
	CU_ASSERT_EQUAL(sluice_server_listen(second, path, &err), -EADDRINUSE);
	UNIT_CONTAINS(err.text, "another engine serves it");
	close(open(file, O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
	CU_ASSERT_EQUAL(sluice_server_listen(second, file, NULL), -EADDRINUSE);
	CU_ASSERT_EQUAL(unlink(file), 0);
	CU_ASSERT_EQUAL(sluice_server_listen(second, "/nonexistent/x", NULL), -ENOENT);
	sluice_server_destroy(second);
	CU_ASSERT_EQUAL(stat(path, &st), 0);

	sluice_wire_destroy(wire);
	stop();
	CU_ASSERT_EQUAL(stat(path, &st), -1); /* removed with the server */
	rmdir(dir);
}

static void test_listen_stale(void)
{
	char dir[] = "/tmp/sluice-listen-XXXXXX";
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	CU_ASSERT_PTR_NOT_NULL_FATAL(mkdtemp(dir));
	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s/vmm", dir);
	CU_ASSERT_EQUAL(bind(fd, (const struct sockaddr *)&addr, sizeof(addr)), 0);
	close(fd); /* the file stays, as after kill -9 */
	start();
	CU_ASSERT_EQUAL(sluice_server_listen(server, addr.sun_path, NULL), 0);
	fd = dial(addr.sun_path);
	CU_ASSERT_TRUE(fd >= 0);
	close(fd);
	stop();
	rmdir(dir);
}

static void test_client_limit(void)
{
	struct sluice_wire *wires[SLUICE_SERVER_CLIENTS_MAX];
	struct sluice_error err = {0};
	int fds[2];

	start();
	for (int i = 0; i < SLUICE_SERVER_CLIENTS_MAX; i++)
		wires[i] = connect_raw();
	CU_ASSERT_EQUAL(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	CU_ASSERT_EQUAL(sluice_server_add_client(server, fds[0], false, &err), -EMFILE);
	close(fds[1]);
	for (int i = 0; i < SLUICE_SERVER_CLIENTS_MAX; i++)
		sluice_wire_destroy(wires[i]);
	turn(4);
	CU_ASSERT_EQUAL(sluice_server_client_count(server), 0);
	stop();
}

int main(void)
{
	static const struct unit_test tests[] = {
		{"negotiation", test_negotiation},
		{"grammar", test_grammar},
		{"pipelined commands and events", test_pipelined},
		{"too deep", test_too_long_disconnects},
		{"one VMM", test_vmm},
		{"inherited VMM", test_inherited_vmm},
		{"events", test_events},
		{"getfd", test_getfd},
		{"stray descriptors", test_stray_fds},
		{"too many names", test_named_fds_limit},
		{"slow client", test_slow_client},
		{"listening", test_listen},
		{"stale socket file", test_listen_stale},
		{"too many clients", test_client_limit},
		{0},
	};

	return unit_run("server", tests);
}
