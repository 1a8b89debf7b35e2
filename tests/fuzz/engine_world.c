/* SPDX-License-Identifier: BSD-3-Clause */
/* engine_world.c: see engine_world.h. The engine's workers are the only other threads. */
#include "tests/fuzz/engine_world.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/loop.h"
#include "base/params.h"
#include "engine/engine.h"
#include "tests/fuzz/tcp_world.h"
#include "vmm-socket-schema.h"

#define PEERS        4
#define LINES_MAX    200
#define TURNS        4
#define FDS_MAX      200
#define REGION_BYTES (2u << 20)
#define FILL         0x5a

enum { SAY_VMM, SAY_OTHER, SAY_ENGINE, SAY_PEER, SPEAKERS = SAY_PEER + PEERS };

struct world {
	struct sluice_loop *loop;
	struct sluice_settings *settings;
	struct sluice_engine *engine;
	int fds[SPEAKERS]; /* -1: not connected */
	int speaker;
	int pass[FDS_MAX]; /* descriptors that go with the next line */
	unsigned int pass_count;
	int listen_fd; /* where the engine's migrate connects to; -1 until then */
	uint8_t *guest; /* as the VMM sees it; NULL until @memory */
	bool incoming;
};

static char runtime_dir[64];

static void empty_runtime_dir(void)
{
	DIR *folder = opendir(runtime_dir);
	struct dirent *entry;

	while (folder != NULL && (entry = readdir(folder)) != NULL)
		if (entry->d_name[0] != '.')
			unlinkat(dirfd(folder), entry->d_name, 0);
	if (folder != NULL)
		closedir(folder);
}

static void remove_runtime_dir(void)
{
	empty_runtime_dir();
	rmdir(runtime_dir);
}

static void make_runtime_dir(void)
{
	if (runtime_dir[0] != '\0') {
		empty_runtime_dir();
		return;
	}
	signal(SIGPIPE, SIG_IGN);
	snprintf(runtime_dir, sizeof(runtime_dir), "/dev/shm/sluice-fuzz-XXXXXX");
	FUZZ_CHECK(mkdtemp(runtime_dir) != NULL);
	atexit(remove_runtime_dir);
}

/* ---- sockets ---- */

static void connect_client(struct world *w, int speaker)
{
	struct sluice_error err = {0};
	int pair[2];

	if (w->fds[speaker] >= 0)
		return;
	FUZZ_CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) == 0);
	w->fds[speaker] = pair[0];
	sluice_server_add_client(w->engine->server, pair[1], false, &err);
}

static void connect_peer(struct world *w, int speaker)
{
	if (w->fds[speaker] >= 0 || w->engine->listener == NULL)
		return;
	w->fds[speaker] = tcp_world_connect(w->engine->listen_uri);
}

static void hang_up(struct world *w, int speaker)
{
	if (w->fds[speaker] < 0)
		return;
	if (speaker >= SAY_ENGINE)
		tcp_world_reset(w->fds[speaker]);
	else
		close(w->fds[speaker]);
	w->fds[speaker] = -1;
}

static void drain(int fd)
{
	char bytes[16384];

	while (fd >= 0 && recv(fd, bytes, sizeof(bytes), MSG_DONTWAIT) > 0)
		;
}

static void turn(struct world *w, int turns)
{
	while (turns-- > 0) {
		sluice_loop_turn(w->loop, 0);
		for (int i = 0; i < SPEAKERS; i++)
			drain(w->fds[i]);
	}
}

/* ---- descriptors ---- */

static int make_memfd(size_t bytes, unsigned int flags)
{
	int fd = memfd_create("fuzz", MFD_CLOEXEC | flags);

	FUZZ_CHECK(fd >= 0 && ftruncate(fd, (off_t)bytes) == 0);
	return fd;
}

static int make_fd(const char *kind)
{
	int pair[2], fd;

	if (strcmp(kind, "memfd") == 0)
		return make_memfd(REGION_BYTES, MFD_ALLOW_SEALING);
	if (strcmp(kind, "small") == 0)
		return make_memfd(4096, MFD_ALLOW_SEALING);
	if (strcmp(kind, "unsealed") == 0)
		return make_memfd(REGION_BYTES, 0);
	if (strcmp(kind, "bitmap") == 0)
		return make_memfd(REGION_BYTES / 4096 / 8, MFD_ALLOW_SEALING);
	if (strcmp(kind, "dir") == 0)
		return open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (strcmp(kind, "rdonly") == 0)
		return open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	if (strcmp(kind, "pipe") != 0)
		return open("/dev/null", O_RDWR | O_CLOEXEC);
	FUZZ_CHECK(pipe2(pair, O_CLOEXEC) == 0);
	fd = pair[0];
	close(pair[1]);
	return fd;
}

static void pass_fd(struct world *w, const char *kind)
{
	if (w->pass_count < FDS_MAX)
		w->pass[w->pass_count++] = make_fd(kind);
}

/* ---- saying ---- */

/* Bytes with the descriptors that wait; what the socket does not take is lost. */
static void send_raw(struct world *w, const char *bytes, size_t count)
{
	union {
		char bytes[CMSG_SPACE(sizeof(int) * FDS_MAX)];
		struct cmsghdr align;
	} control = {{0}};
	struct iovec iov = {.iov_base = (void *)(uintptr_t)bytes, .iov_len = count};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
	bool unix_socket = w->speaker < SAY_ENGINE;
	ssize_t sent;

	if (w->pass_count > 0 && unix_socket) {
		struct cmsghdr *c = &control.align;

		msg.msg_control = control.bytes;
		msg.msg_controllen = CMSG_SPACE(sizeof(int) * w->pass_count);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int) * w->pass_count);
		memcpy(CMSG_DATA(c), w->pass, sizeof(int) * w->pass_count);
	}
	sent = sendmsg(w->fds[w->speaker], &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
	(void)sent;
	while (w->pass_count > 0)
		close(w->pass[--w->pass_count]);
}

/* The key of some real memory, as hexadecimal digits. */
static const char *real_key(void)
{
	static char text[2 * SLUICE_KEY_BYTES_MAX + 1];
	uint8_t key[SLUICE_KEY_BYTES_MAX];
	int bytes = sluice_transports[0]->mem_export(tcp_world()->region_mem, key, sizeof(key));

	for (int i = 0; i < bytes; i++)
		snprintf(text + 2 * i, 3, "%02x", key[i]);
	return text;
}

static void say(struct world *w, const char *line, size_t bytes, bool ended)
{
	static const char placeholder[] = "@KEY@";
	const size_t skip = sizeof(placeholder) - 1;
	char *text = NULL;
	size_t text_bytes = 0;
	FILE *out;

	if (w->fds[w->speaker] < 0)
		return;
	out = open_memstream(&text, &text_bytes);
	FUZZ_CHECK(out != NULL);
	for (size_t i = 0; i < bytes;) {
		if (bytes - i >= skip && memcmp(line + i, placeholder, skip) == 0) {
			fputs(real_key(), out);
			i += skip;
		} else {
			fputc(line[i++], out);
		}
	}
	if (ended)
		fputc('\n', out);
	fclose(out);
	send_raw(w, text, text_bytes);
	free(text);
}

static void say_text(struct world *w, const char *text)
{
	say(w, text, strlen(text), true);
	turn(w, TURNS);
}

/* ---- what a good VMM does ---- */

static void add_memory(struct world *w)
{
	if (w->guest != NULL)
		return;
	w->speaker = SAY_VMM;
	connect_client(w, SAY_VMM);
	say_text(w, "{\"execute\":\"qmp_capabilities\"}");
	pass_fd(w, "memfd");
	w->guest = mmap(NULL, REGION_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, w->pass[0], 0);
	FUZZ_CHECK(w->guest != MAP_FAILED);
	memset(w->guest, FILL, REGION_BYTES);
	say_text(w, "{\"execute\":\"getfd\",\"arguments\":{\"fdname\":\"r\"}}");
	say_text(w, "{\"execute\":\"memory-add\",\"arguments\":{\"id\":\"ram\",\"fdname\":\"r\","
		    "\"size\":2097152,\"gpa\":0}}");
	pass_fd(w, "bitmap");
	say_text(w, "{\"execute\":\"getfd\",\"arguments\":{\"fdname\":\"b\"}}");
	say_text(w, "{\"execute\":\"feed-add\",\"arguments\":{\"region\":\"ram\","
		    "\"type\":\"bitmap\",\"fdname\":\"b\"}}");
}

static void wait_for_source(struct world *w)
{
	w->speaker = SAY_VMM;
	if (w->fds[SAY_VMM] >= 0)
		say_text(w, "{\"execute\":\"migrate-incoming\",\"arguments\":{\"uri\":"
			    "\"tcp:127.0.0.1:0\"}}");
	w->incoming = true;
}

static void migrate_to_us(struct world *w)
{
	char address[SLUICE_ADDRESS_MAX], text[256];

	if (w->fds[SAY_VMM] < 0 || w->fds[SAY_ENGINE] >= 0)
		return;
	if (w->listen_fd >= 0)
		close(w->listen_fd);
	w->listen_fd = tcp_world_listen(address);
	FUZZ_CHECK(fcntl(w->listen_fd, F_SETFL, O_NONBLOCK) == 0);
	w->speaker = SAY_VMM;
	say_text(w, "{\"execute\":\"migrate-set-parameters\",\"arguments\":{\"lanes\":1}}");
	snprintf(text, sizeof(text), "{\"execute\":\"migrate\",\"arguments\":{\"uri\":\"tcp:%s\"}}",
		address);
	say_text(w, text);
	w->fds[SAY_ENGINE] = accept4(w->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	turn(w, TURNS);
}

/* ---- lines ---- */

static void choose(struct world *w, const char *what)
{
	if (strcmp(what, "vmm") == 0) {
		connect_client(w, w->speaker = SAY_VMM);
	} else if (strcmp(what, "other") == 0) {
		connect_client(w, w->speaker = SAY_OTHER);
	} else if (strcmp(what, "engine") == 0) {
		w->speaker = SAY_ENGINE;
	} else if (strncmp(what, "peer ", 5) == 0) {
		w->speaker = SAY_PEER + what[5] % PEERS;
		connect_peer(w, w->speaker);
	}
}

static void control(struct world *w, const char *what)
{
	if (strcmp(what, "close") == 0)
		hang_up(w, w->speaker);
	else if (strncmp(what, "fds ", 4) == 0)
		for (unsigned long n = strtoul(what + 4, NULL, 10) % FDS_MAX; n > 0; n--)
			pass_fd(w, "null");
	else if (strncmp(what, "fd ", 3) == 0)
		pass_fd(w, what + 3);
	else if (strcmp(what, "turn") == 0)
		turn(w, TURNS);
	else if (strcmp(what, "memory") == 0)
		add_memory(w);
	else if (strcmp(what, "incoming") == 0)
		wait_for_source(w);
	else if (strcmp(what, "migrate") == 0)
		migrate_to_us(w);
	else
		choose(w, what);
}

static void run_lines(struct world *w, struct fuzz_input input)
{
	const char *line;
	size_t bytes;
	bool ended;

	for (int i = 0; i < LINES_MAX && fuzz_line(&input, &line, &bytes, &ended); i++) {
		if (bytes > 0 && line[0] == '@' && memchr(line, '{', bytes) == NULL) {
			char what[32];

			snprintf(what, sizeof(what), "%.*s", (int)bytes - 1, line + 1);
			control(w, what);
		} else {
			say(w, line, bytes, ended);
			turn(w, 1);
		}
	}
	turn(w, TURNS);
}

/* ---- the engine ---- */

static void start(struct world *w)
{
	struct sluice_server_opts opts = {.schema = &sluice_schema_vmm_socket,
		.commands = sluice_engine_commands,
		.vmm_gone = sluice_engine_vmm_gone};
	struct sluice_error err = {0};
	char text[128];

	make_runtime_dir();
	for (int i = 0; i < SPEAKERS; i++)
		w->fds[i] = -1;
	w->listen_fd = -1;
	snprintf(text, sizeof(text), "runtime-dir=%s", runtime_dir);
	FUZZ_CHECK(sluice_settings_create(&w->settings) == 0);
	sluice_params_assign(w->settings->table, w->settings->values, text, &err);
	sluice_params_assign(w->settings->table, w->settings->values, "pin=none", &err);
	sluice_params_assign(w->settings->table, w->settings->values, "workers=1", &err);
	FUZZ_CHECK(err.code == 0);
	FUZZ_CHECK(sluice_loop_create(&w->loop) == 0);
	FUZZ_CHECK(sluice_engine_create(w->loop, w->settings, &w->engine, &err) == 0);
	opts.loop = w->loop;
	opts.ctx = w->engine;
	FUZZ_CHECK(sluice_server_create(&opts, &w->engine->server) == 0);
}

static void stop(struct world *w)
{
	while (w->pass_count > 0)
		close(w->pass[--w->pass_count]);
	for (int i = 0; i < SPEAKERS; i++)
		hang_up(w, i);
	turn(w, TURNS);
	sluice_server_destroy(w->engine->server);
	sluice_engine_destroy(w->engine);
	sluice_loop_destroy(w->loop);
	sluice_settings_destroy(w->settings);
	if (w->listen_fd >= 0)
		close(w->listen_fd);
	if (w->guest != NULL)
		munmap(w->guest, REGION_BYTES);
}

/* An operator who comes now is greeted, negotiates and is answered. */
static void check_alive(struct world *w)
{
	static const char ask[] = "{\"execute\":\"qmp_capabilities\"}\n"
				  "{\"execute\":\"query-migrate\",\"id\":\"alive\"}\n";
	struct sluice_error err = {0};
	char heard[65536];
	size_t bytes = 0;
	int pair[2];

	FUZZ_CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) == 0);
	FUZZ_CHECK(sluice_server_add_client(w->engine->server, pair[1], false, &err) == 0);
	FUZZ_CHECK(send(pair[0], ask, sizeof(ask) - 1, MSG_NOSIGNAL) == sizeof(ask) - 1);
	for (int i = 0; i < 20; i++) {
		ssize_t got;

		turn(w, 1);
		got = recv(pair[0], heard + bytes, sizeof(heard) - 1 - bytes, MSG_DONTWAIT);
		bytes += got > 0 ? (size_t)got : 0;
	}
	heard[bytes] = '\0';
	FUZZ_CHECK(strstr(heard, "{\"return\": {\"status\"") != NULL ||
		   strstr(heard, "{\"return\":{\"status\"") != NULL);
	FUZZ_CHECK(strstr(heard, "alive") != NULL);
	close(pair[0]);
}

/* No lane ever connected, so nobody can have written to it. */
static void check_guest(const struct world *w)
{
	for (size_t i = 0; w->guest != NULL && i < REGION_BYTES; i += 512)
		FUZZ_CHECK(w->guest[i] == FILL);
}

void engine_world_run(const char *begin, const uint8_t *data, size_t size)
{
	struct world w = {0};

	start(&w);
	run_lines(&w, (struct fuzz_input){(const uint8_t *)begin, strlen(begin)});
	run_lines(&w, (struct fuzz_input){data, size});
	check_alive(&w);
	check_guest(&w);
	stop(&w);
}
