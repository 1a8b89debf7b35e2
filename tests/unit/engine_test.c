/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * engine_test.c: an engine with real sockets on loopback, and a test that plays its peer: what the
 * engine admits around its sessions, and what it tells its VMM when. No lane ever connects.
 */
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/loop.h"
#include "base/params.h"
#include "engine/engine.h"
#include "tests/unit/unit.h"
#include "vmm-socket-schema.h"

#define REGION_BYTES (2u << 20)
#define TURNS_MAX    6000 /* of 10 ms when nothing happens */

static struct sluice_loop *loop;
static struct sluice_settings *settings;
static struct sluice_engine *engine;
static char runtime_dir[64];
static int vmm[2]; /* the VMM's connection: our end and the engine's */

static void setup(void)
{
	struct sluice_server_opts opts = {
		.schema = &sluice_schema_vmm_socket, .commands = sluice_engine_commands};
	struct sluice_region_opts region = {.id = "ram", .len_bytes = REGION_BYTES};
	struct sluice_error err = {0};
	char text[128];

	snprintf(runtime_dir, sizeof(runtime_dir), "/tmp/sluice-engine-test.XXXXXX");
	CU_ASSERT_PTR_NOT_NULL_FATAL(mkdtemp(runtime_dir));
	snprintf(text, sizeof(text), "runtime-dir=%s", runtime_dir);
	CU_ASSERT_EQUAL_FATAL(sluice_settings_create(&settings), 0);
	sluice_params_assign(settings->table, settings->values, text, &err);
	sluice_params_assign(settings->table, settings->values, "pin=none", &err);
	CU_ASSERT_EQUAL_FATAL(err.code, 0);
	CU_ASSERT_EQUAL_FATAL(sluice_loop_create(&loop), 0);
	CU_ASSERT_EQUAL_FATAL(sluice_engine_create(loop, settings, &engine, &err), 0);
	opts.loop = loop;
	opts.ctx = engine;
	CU_ASSERT_EQUAL_FATAL(sluice_server_create(&opts, &engine->server), 0);
	CU_ASSERT_EQUAL_FATAL(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, vmm), 0);
	CU_ASSERT_EQUAL_FATAL(sluice_server_add_client(engine->server, vmm[1], true, &err), 0);
	region.fd = memfd_create("guest", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	CU_ASSERT_EQUAL_FATAL(ftruncate(region.fd, REGION_BYTES), 0);
	CU_ASSERT_EQUAL_FATAL(sluice_engine_memory_add(engine, &region, &err), 0);
	close(region.fd);
}

static void teardown(void)
{
	if (vmm[0] >= 0)
		close(vmm[0]);
	sluice_server_destroy(engine->server);
	sluice_engine_destroy(engine);
	sluice_loop_destroy(loop);
	sluice_settings_destroy(settings);
	CU_ASSERT_EQUAL(unit_remove_folder(runtime_dir), 0);
}

/* ---- a source played by hand ---- */

struct peer {
	struct sluice_link *link;
	char heard[32]; /* type of the latest message, or "up", "down" */
	char error[512];
};

static void on_up(void *ctx)
{
	snprintf(((struct peer *)ctx)->heard, 32, "up");
}

static void on_message(void *ctx, const json_t *message)
{
	struct peer *peer = ctx;
	const char *type = json_string_value(json_object_get(message, "type"));
	const char *error = json_string_value(json_object_get(message, "error"));

	if (strcmp(type, "ping") == 0)
		return;
	snprintf(peer->heard, sizeof(peer->heard), "%s", type);
	if (error != NULL)
		snprintf(peer->error, sizeof(peer->error), "%s", error);
}

static void on_down(void *ctx, const char *why)
{
	(void)ctx, (void)why;
}

static void hear(struct peer *peer, const char *what)
{
	for (int i = 0; i < TURNS_MAX && strcmp(peer->heard, what) != 0; i++)
		sluice_loop_turn(loop, 10);
	CU_ASSERT_STRING_EQUAL(peer->heard, what);
}

static void connect_peer(struct peer *peer)
{
	struct sluice_link_handlers handlers = {
		.up = on_up, .message = on_message, .down = on_down, .ctx = peer};
	const struct sluice_link_opts opts = {0};
	struct sluice_peer_address address;
	struct sluice_error err = {0};

	*peer = (struct peer){0};
	CU_ASSERT_EQUAL_FATAL(sluice_peer_address_parse(
				      engine->listen_uri, SLUICE_ADDRESS_CONNECT, &address, &err),
		0);
	CU_ASSERT_EQUAL_FATAL(
		sluice_link_connect(loop, &address, &opts, &handlers, &peer->link, &err), 0);
	hear(peer, "up");
}

static void say_hello(struct peer *peer, char digit)
{
	char id[33];

	memset(id, digit, 32);
	id[32] = '\0';
	sluice_link_send(peer->link,
		json_pack("{s:s, s:i, s:s, s:[], s:s, s:s, s:[s], s:i, s:[{s:s, s:i, s:i, s:i}]}",
			"type", "hello", "protocol", SLUICE_PROTOCOL_VERSION, "version", "1",
			"features", "session", id, "instance", id, "transports", "tcp", "lanes", 1,
			"regions", "id", "ram", "gpa", 0, "size", (int)REGION_BYTES, "page-size",
			4096));
}

/* Whole and without devices: nothing has to move for a commit. */
static void prepare_with(struct peer *peer, char digit)
{
	connect_peer(peer);
	say_hello(peer, digit);
	hear(peer, "welcome");
	sluice_link_send(peer->link, json_pack("{s:s, s:i}", "type", "finish", "devices", 0));
	hear(peer, "prepared");
}

static void come_with(struct peer *peer, char digit)
{
	prepare_with(peer, digit);
	sluice_link_send(peer->link, json_pack("{s:s}", "type", "commit"));
	hear(peer, "committed");
}

/* ---- tests ---- */

static void test_no_second_guest_into_the_first_one_s_memory(void)
{
	struct sluice_error err = {0};
	struct peer first, second;

	setup();
	CU_ASSERT_EQUAL_FATAL(sluice_engine_incoming(engine, "tcp:127.0.0.1:0", &err), 0);
	come_with(&first, '1');
	connect_peer(&second);
	say_hello(&second, '2');
	hear(&second, "refuse");
	UNIT_CONTAINS(second.error, "migrate-incoming");
	sluice_link_close(second.link);
	/* Asked for anew by the VMM, it is right again. */
	CU_ASSERT_EQUAL_FATAL(sluice_engine_incoming(engine, "tcp:127.0.0.1:0", &err), 0);
	come_with(&second, '3');
	sluice_link_close(first.link);
	sluice_link_close(second.link);
	teardown();
}

static void test_a_failed_guest_may_try_again(void)
{
	struct sluice_error err = {0};
	struct peer peer;

	setup();
	CU_ASSERT_EQUAL_FATAL(sluice_engine_incoming(engine, "tcp:127.0.0.1:0", &err), 0);
	connect_peer(&peer);
	say_hello(&peer, '1');
	hear(&peer, "welcome");
	sluice_link_send(peer.link, json_pack("{s:s, s:s}", "type", "abort", "reason", "test"));
	hear(&peer, "abort");
	sluice_link_close(peer.link);
	come_with(&peer, '2');
	sluice_link_close(peer.link);
	teardown();
}

/* The session's name is still known when its state machines are gone. */
static void test_resolving_a_session_that_is_gone(void)
{
	struct sluice_error err = {0};

	setup();
	memset(engine->session, 'a', SLUICE_SESSION_ID_BYTES - 1);
	CU_ASSERT_TRUE(sluice_engine_resolve(engine, engine->session, SLUICE_ABORTED, &err) < 0);
	UNIT_CONTAINS(err.text, "in doubt");
	teardown();
}

/* The VMM dies, and the commit is read before its end is: nobody is told that the guest runs. */
static void test_no_commit_without_a_vmm(void)
{
	enum sluice_decision decision = SLUICE_UNDECIDED;
	struct sluice_error err = {0};
	struct peer peer;
	json_t *commit;

	setup();
	CU_ASSERT_EQUAL_FATAL(sluice_engine_incoming(engine, "tcp:127.0.0.1:0", &err), 0);
	prepare_with(&peer, '5');
	close(vmm[0]);
	vmm[0] = -1;
	commit = json_pack("{s:s}", "type", "commit");
	sluice_target_peer_message(engine->target, commit);
	json_decref(commit);
	hear(&peer, "decision");
	CU_ASSERT_EQUAL(sluice_record_read(runtime_dir, SLUICE_RECORD_TARGET,
				"55555555555555555555555555555555", &decision, NULL),
		0);
	CU_ASSERT_EQUAL(decision, SLUICE_ABORTED);
	sluice_link_close(peer.link);
	teardown();
}

/* ---- what the VMM is told, and when ---- */

static void *leaving_base;
static volatile sig_atomic_t events_told, mapped_when_told;

/* Within the engine's own call that writes to the VMM's socket. */
static void on_told(int signal_number)
{
	unsigned char resident;
	int error = errno;

	(void)signal_number;
	if (events_told++ == 0)
		mapped_when_told = mincore(leaving_base, 4096, &resident) == 0;
	errno = error;
}

static void watch_what_is_told(void)
{
	struct f_owner_ex owner = {.type = F_OWNER_TID, .pid = gettid()};
	struct sigaction action = {.sa_handler = on_told, .sa_flags = SA_RESTART};

	CU_ASSERT_EQUAL_FATAL(sigaction(SIGIO, &action, NULL), 0);
	CU_ASSERT_EQUAL_FATAL(fcntl(vmm[0], F_SETOWN_EX, &owner), 0);
	CU_ASSERT_EQUAL_FATAL(fcntl(vmm[0], F_SETFL, O_ASYNC | O_NONBLOCK), 0);
}

static void vmm_reads(char *text, size_t text_bytes)
{
	ssize_t got = recv(vmm[0], text, text_bytes - 1, MSG_DONTWAIT);

	text[got > 0 ? got : 0] = '\0';
}

static void greet(void)
{
	static const char say[] = "{\"execute\": \"qmp_capabilities\"}\n";
	char text[4096] = "";

	CU_ASSERT_EQUAL_FATAL(write(vmm[0], say, sizeof(say) - 1), sizeof(say) - 1);
	for (int i = 0; i < TURNS_MAX && strstr(text, "return") == NULL; i++) {
		sluice_loop_turn(loop, 10);
		vmm_reads(text, sizeof(text));
	}
	CU_ASSERT_PTR_NOT_NULL_FATAL(strstr(text, "return"));
}

/* A target that listens and never says a word; the socket is closed by the caller. */
static int migrate_to_nobody(void)
{
	struct sockaddr_in address = {
		.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t address_bytes = sizeof(address);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct sluice_error err = {0};
	char uri[64];
	int feed;

	CU_ASSERT_EQUAL_FATAL(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	CU_ASSERT_EQUAL_FATAL(listen(fd, 4), 0);
	CU_ASSERT_EQUAL_FATAL(getsockname(fd, (struct sockaddr *)&address, &address_bytes), 0);
	feed = memfd_create("bitmap", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	CU_ASSERT_EQUAL_FATAL(ftruncate(feed, 4096), 0);
	CU_ASSERT_EQUAL_FATAL(sluice_engine_feed_add(engine, "ram", feed, &err), 0);
	close(feed);
	snprintf(uri, sizeof(uri), "tcp:127.0.0.1:%d", ntohs(address.sin_port));
	CU_ASSERT_EQUAL_FATAL(sluice_engine_migrate(engine, uri, &err), 0);
	return fd;
}

/* MEMORY_REMOVED says that the memory is nobody's here any more: a VMM may give it to someone. */
static void test_removed_is_told_when_it_is_gone(void)
{
	struct sluice_error err = {0};
	char text[4096];
	int target;

	setup();
	greet();
	target = migrate_to_nobody();
	leaving_base = sluice_memory_find(&engine->memory, "ram")->base;
	CU_ASSERT_EQUAL_FATAL(sluice_engine_memory_remove(engine, "ram", &err), 1);
	vmm_reads(text, sizeof(text));
	events_told = mapped_when_told = 0;
	watch_what_is_told();
	/* The target never confirms: the end of the session is what lets go. */
	CU_ASSERT_EQUAL(sluice_source_cancel(engine->source, &err), 0);
	CU_ASSERT_TRUE(events_told > 0);
	CU_ASSERT_FALSE(mapped_when_told);
	vmm_reads(text, sizeof(text));
	UNIT_CONTAINS(text, "\"event\":\"MEMORY_REMOVED\"");
	CU_ASSERT_PTR_EQUAL(
		strstr(text, "\"event\""), strstr(text, "\"event\":\"MEMORY_REMOVED\""));
	close(target);
	teardown();
}

static const struct unit_test tests[] = {
	{"no second guest into the first one's memory",
		test_no_second_guest_into_the_first_one_s_memory},
	{"a failed guest may try again", test_a_failed_guest_may_try_again},
	{"no commit without a VMM", test_no_commit_without_a_vmm},
	{"resolving a session that is gone", test_resolving_a_session_that_is_gone},
	{"MEMORY_REMOVED comes when the memory is gone", test_removed_is_told_when_it_is_gone},
	{0},
};

int main(void)
{
	signal(SIGPIPE, SIG_IGN);
	return unit_run("engine", tests);
}
