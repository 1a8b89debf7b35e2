/* SPDX-License-Identifier: BSD-3-Clause */
/* plain.c: see plain.h. */
#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/clock.h"
#include "perf/experiment.h"
#include "perf/plain.h"
#include "perf/process.h"

#define CALL_BYTES_MAX (1ull << 20) /* per send() or recv() */
#define POLL_MS        50
#define STACK_BYTES    (64 * 1024)

enum side { SENDER, RECEIVER };

/* Shared by the three processes. */
struct outcome {
	uint64_t start_ns, end_ns; /* CLOCK_MONOTONIC */
	uint64_t cpu_ns[2]; /* per side, in between */
	bool done[2];
	struct sluice_error error[2];
};

struct plain {
	uint64_t bytes;
	uint32_t streams;
	bool prealloc; /* the target's memory */
	int fd[2]; /* guest memory, per side */
	uint8_t *memory[2]; /* as the VMM has it mapped */
	int listener;
	struct sockaddr_in address;
	struct outcome *outcome;
};

/* ---- in the two processes ---- */

struct stream {
	pthread_t thread;
	enum side side;
	int fd;
	uint32_t index; /* told to the receiver, which gets connections in any order */
	const struct plain *plain;
	uint8_t *memory; /* this process's mapping */
	int error;
};

static uint64_t share_begin(const struct plain *p, uint32_t index)
{
	return sluice_align_up(p->bytes / p->streams, SLUICE_PAGE_BYTES) * index;
}

static int move(const struct stream *s, uint8_t *at, uint64_t bytes)
{
	while (bytes > 0) {
		size_t want = bytes < CALL_BYTES_MAX ? bytes : CALL_BYTES_MAX;
		ssize_t n = s->side == SENDER ? send(s->fd, at, want, MSG_NOSIGNAL)
					      : recv(s->fd, at, want, 0);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EPIPE;
		at += n;
		bytes -= (uint64_t)n;
	}
	return 0;
}

static void *run_stream(void *arg)
{
	struct stream *s = arg;
	uint64_t begin, end;

	s->error = move(s, (uint8_t *)&s->index, sizeof(s->index));
	if (s->error == 0 && s->index >= s->plain->streams)
		s->error = -EPROTO;
	if (s->error < 0)
		return NULL;
	begin = share_begin(s->plain, s->index);
	end = share_begin(s->plain, s->index + 1);
	if (begin < s->plain->bytes)
		s->error = move(s, s->memory + begin,
			(end < s->plain->bytes ? end : s->plain->bytes) - begin);
	return NULL;
}

static int open_stream(struct stream *s)
{
	const struct plain *p = s->plain;

	if (s->side == RECEIVER) {
		s->fd = accept4(p->listener, NULL, NULL, SOCK_CLOEXEC);
		return s->fd < 0 ? -errno : 0;
	}
	s->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (s->fd < 0)
		return -errno;
	return connect(s->fd, (const struct sockaddr *)&p->address, sizeof(p->address)) < 0 ? -errno
											    : 0;
}

static int run_streams(const struct plain *p, enum side side, uint8_t *memory)
{
	struct stream *streams = calloc(p->streams, sizeof(*streams));
	pthread_attr_t attr;
	uint32_t started = 0;
	int r = streams == NULL ? -ENOMEM : 0;

	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, STACK_BYTES);
	for (; r == 0 && started < p->streams; started++) {
		struct stream *s = &streams[started];

		*s = (struct stream){
			.side = side, .index = started, .plain = p, .memory = memory, .fd = -1};
		r = open_stream(s);
		if (r == 0)
			r = -pthread_create(&s->thread, &attr, run_stream, s);
		if (r < 0)
			break;
	}
	for (uint32_t i = 0; i < started; i++) {
		pthread_join(streams[i].thread, NULL);
		if (r == 0)
			r = streams[i].error;
	}
	pthread_attr_destroy(&attr);
	free(streams);
	return r;
}

/* A whole process: its end is the end of everything that it opened. */
__attribute__((noreturn)) static void run_side(const struct plain *p, enum side side, pid_t parent)
{
	static const char *const names[] = {"plain sender", "plain receiver"};
	struct outcome *outcome = p->outcome;
	uint64_t cpu_ns;
	uint8_t *memory;
	int r;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(EXIT_FAILURE);
	setpgid(0, 0); /* Ctrl-C is for the parent */
	memory = mmap(NULL, p->bytes, side == SENDER ? PROT_READ : PROT_READ | PROT_WRITE,
		MAP_SHARED, p->fd[side], 0);
	if (memory == MAP_FAILED) {
		sluice_fail(&outcome->error[side], -errno, names[side], "mapping memory: %s",
			strerror(errno));
		_exit(EXIT_FAILURE);
	}
	cpu_ns = sluice_clock_read(CLOCK_PROCESS_CPUTIME_ID);
	if (side == SENDER)
		outcome->start_ns = sluice_now_ns();
	r = run_streams(p, side, memory);
	if (side == RECEIVER)
		outcome->end_ns = sluice_now_ns();
	outcome->cpu_ns[side] = sluice_clock_read(CLOCK_PROCESS_CPUTIME_ID) - cpu_ns;
	if (r < 0)
		sluice_fail(&outcome->error[side], r, names[side], "%s", strerror(-r));
	outcome->done[side] = true;
	_exit(r < 0 ? EXIT_FAILURE : EXIT_SUCCESS);
}

/* ---- in sluice-perf, which stands for both VMMs ---- */

/* Incompressible, and different in every page. xorshift64* (Vigna, 2016). */
static void fill(uint8_t *memory, uint64_t bytes)
{
	uint64_t *words = (uint64_t *)(void *)memory, x = 0x9e3779b97f4a7c15ull;

	for (uint64_t i = 0; i < bytes / sizeof(*words); i++) {
		x ^= x >> 12;
		x ^= x << 25;
		x ^= x >> 27;
		words[i] = x * 0x2545f4914f6cdd1dull;
	}
}

static int make_memory(struct plain *p, enum side side, struct sluice_error *err)
{
	int fd = memfd_create("plain-ram", MFD_CLOEXEC);
	void *map;

	if (fd < 0)
		return sluice_fail(err, -errno, "plain", "memfd_create: %s", strerror(errno));
	p->fd[side] = fd;
	if (ftruncate(fd, (off_t)p->bytes) < 0)
		return sluice_fail(err, -errno, "plain", "ftruncate: %s", strerror(errno));
	map = mmap(NULL, p->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED)
		return sluice_fail(err, -errno, "plain", "mmap: %s", strerror(errno));
	p->memory[side] = map;
	if ((side == SENDER || p->prealloc) && madvise(map, p->bytes, MADV_POPULATE_WRITE) < 0)
		return sluice_fail(err, -errno, "plain", "allocating %llu bytes: %s",
			(unsigned long long)p->bytes, strerror(errno));
	if (side == SENDER)
		fill(map, p->bytes);
	return 0;
}

static int make_listener(struct plain *p, struct sluice_error *err)
{
	socklen_t bytes = sizeof(p->address);

	p->address = (struct sockaddr_in){
		.sin_family = AF_INET, .sin_addr = {.s_addr = htonl(INADDR_LOOPBACK)}};
	p->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (p->listener < 0 ||
		bind(p->listener, (const struct sockaddr *)&p->address, sizeof(p->address)) < 0 ||
		listen(p->listener, (int)p->streams) < 0 ||
		getsockname(p->listener, (struct sockaddr *)&p->address, &bytes) < 0)
		return sluice_fail(
			err, -errno, "plain", "listening on loopback: %s", strerror(errno));
	return 0;
}

static int make(struct plain *p, struct sluice_error *err)
{
	int r;

	p->outcome = mmap(NULL, sizeof(*p->outcome), PROT_READ | PROT_WRITE,
		MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (p->outcome == MAP_FAILED) {
		p->outcome = NULL;
		return sluice_fail(err, -errno, "plain", "mmap: %s", strerror(errno));
	}
	r = make_memory(p, SENDER, err);
	if (r == 0)
		r = make_memory(p, RECEIVER, err);
	return r == 0 ? make_listener(p, err) : r;
}

static void unmake(struct plain *p)
{
	for (int side = SENDER; side <= RECEIVER; side++) {
		if (p->memory[side] != NULL)
			munmap(p->memory[side], p->bytes);
		if (p->fd[side] >= 0)
			close(p->fd[side]);
	}
	if (p->listener >= 0)
		close(p->listener);
	if (p->outcome != NULL)
		munmap(p->outcome, sizeof(*p->outcome));
}

static int start_side(const struct plain *p, enum side side, struct perf_process *process,
	struct sluice_error *err)
{
	pid_t parent = getpid(), pid = fork();
	int r;

	if (pid < 0)
		return sluice_fail(err, -errno, "plain", "fork: %s", strerror(errno));
	if (pid == 0)
		run_side(p, side, parent);
	r = perf_process_adopt(process, "plain", pid, err);
	process->is_child = true;
	return r;
}

/* Whoever has failed leaves the other one waiting: both are looked at. */
static int check_sides(const struct plain *p, struct sluice_error *err)
{
	for (int side = SENDER; side <= RECEIVER; side++) {
		const struct sluice_error *error = &p->outcome->error[side];

		if (error->code != 0)
			return sluice_fail(err, error->code, error->where, "%s", error->text);
	}
	return 0;
}

static int wait_side(const struct plain *p, enum side side, struct perf_process *process,
	uint64_t end_ns, struct sluice_error *err)
{
	int r = 0;

	while (r == 0 && !perf_process_wait(process, POLL_MS)) {
		r = check_sides(p, err);
		if (perf_experiment_interrupted())
			r = sluice_fail(err, -EINTR, "run", "interrupted");
		else if (sluice_now_ns() > end_ns)
			r = sluice_fail(err, -ETIMEDOUT, "plain", "not done in time");
	}
	if (r == 0)
		r = check_sides(p, err);
	if (r == 0 && !p->outcome->done[side])
		r = sluice_fail(err, -EPIPE, "plain", "the %s has died",
			side == SENDER ? "sender" : "receiver");
	return r;
}

static int transfer(const struct plain *p, uint64_t timeout_ns, struct sluice_error *err)
{
	struct perf_process process[2] = {PERF_PROCESS_NONE, PERF_PROCESS_NONE};
	uint64_t end_ns = sluice_now_ns() + timeout_ns;
	int r;

	r = start_side(p, RECEIVER, &process[RECEIVER], err);
	if (r == 0)
		r = start_side(p, SENDER, &process[SENDER], err);
	if (r == 0)
		r = wait_side(p, SENDER, &process[SENDER], end_ns, err);
	if (r == 0)
		r = wait_side(p, RECEIVER, &process[RECEIVER], end_ns, err);
	perf_process_end(&process[SENDER]);
	perf_process_end(&process[RECEIVER]);
	return r;
}

static int verify(const struct plain *p, json_t *run, struct sluice_error *err)
{
	uint64_t mismatched = 0;

	for (uint64_t at = 0; at < p->bytes; at += SLUICE_PAGE_BYTES)
		mismatched += memcmp(p->memory[SENDER] + at, p->memory[RECEIVER] + at,
				      SLUICE_PAGE_BYTES) != 0;
	json_object_set_new(run, "mismatched_pages", json_integer((json_int_t)mismatched));
	if (mismatched != 0)
		return sluice_fail(
			err, -EILSEQ, "plain", "%llu pages differ", (unsigned long long)mismatched);
	return 0;
}

static json_t *describe(const struct plain *p)
{
	const struct outcome *o = p->outcome;
	double s = (double)(o->end_ns - o->start_ns) / (double)SLUICE_NS_PER_S;

	return json_pack("{s:s, s:f, s:I, s:f, s:f, s:f}", "status", "completed", "total_ms",
		s * 1e3, "bytes_placed", (json_int_t)p->bytes, "placed_bytes_per_s",
		(double)p->bytes / s, "cpu_s_source",
		(double)o->cpu_ns[SENDER] / (double)SLUICE_NS_PER_S, "cpu_s_target",
		(double)o->cpu_ns[RECEIVER] / (double)SLUICE_NS_PER_S);
}

int perf_plain_run(const struct perf_config *config, json_t **ret_run, struct sluice_error *err)
{
	struct plain p = {.bytes = sluice_align_up(config->ram_bytes, SLUICE_PAGE_BYTES),
		.streams = config->lanes != 0 ? (uint32_t)config->lanes : 1,
		.prealloc = config->prealloc,
		.fd = {-1, -1},
		.listener = -1};
	json_t *run = NULL;
	int r = make(&p, err);

	if (r == 0)
		r = transfer(&p, config->timeout_ns, err);
	if (r == 0) {
		run = describe(&p);
		r = config->verify ? verify(&p, run, err) : 0;
	}
	unmake(&p);
	if (r < 0) {
		json_decref(run);
		return r;
	}
	*ret_run = run;
	return 0;
}
