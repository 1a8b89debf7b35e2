/* SPDX-License-Identifier: BSD-3-Clause */
/* lane_guard_test.c: the guard of running lanes sees what it is for, and only that. */
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <syslog.h>
#include <time.h>
#include <unistd.h>

#include "base/bits.h"
#include "tests/support/lane_guard.h"
#include "tests/unit/unit.h"

static int blocking[2], patient[2]; /* socket pairs; the second is O_NONBLOCK */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
static void *volatile addr;
static char byte;
static int memory; /* a file in memory, like a guest's */

static void do_malloc(void)
{
	addr = malloc(1);
}

static void do_calloc(void)
{
	addr = calloc(1, 1);
}

static void do_realloc(void)
{
	addr = realloc(addr, 2);
}

static void do_aligned_alloc(void)
{
	addr = aligned_alloc(64, 64);
}

static void do_free(void)
{
	free(addr);
}

static void do_strdup(void)
{
	addr = strdup("the C library allocates too");
}

static void do_lock(void)
{
	pthread_mutex_lock(&lock);
}

static void do_signal(void)
{
	pthread_cond_signal(&cond);
}

static void do_printf(void)
{
	printf("%d\n", getpid());
}

static void do_puts(void)
{
	puts("text");
}

static void do_fprintf(void)
{
	fprintf(stderr, "%d\n", getpid());
}

static void do_syslog(void)
{
	syslog(LOG_DEBUG, "text");
}

static void do_open(void)
{
	open("/dev/null", O_RDONLY | O_CLOEXEC);
}

static void do_nanosleep(void)
{
	nanosleep(&(struct timespec){.tv_nsec = 1}, NULL);
}

static void do_poll(void)
{
	poll(NULL, 0, 1);
}

static void do_epoll(void)
{
	epoll_wait(-1, NULL, 0, -1);
}

static void do_write(void)
{
	addr = (void *)write(blocking[0], "x", 1);
}

static void do_pread(void)
{
	addr = (void *)pread(blocking[0], &byte, 1, 0);
}

static void do_send(void)
{
	send(blocking[0], "x", 1, 0);
}

static void do_recv(void)
{
	recv(blocking[0], &byte, 1, 0);
}

static void do_futex(void)
{
	static int word;

	syscall(202, &word, 1 /* FUTEX_WAKE */, 1, NULL, NULL, 0);
}

/* What a lane is made of. */
static void do_what_is_allowed(void)
{
	struct epoll_event event;
	uint64_t one = 1;
	int fd = patient[0];

	send(blocking[0], "x", 1, MSG_DONTWAIT);
	recv(blocking[1], &byte, 1, MSG_DONTWAIT);
	send(fd, "x", 1, 0);
	recv(patient[1], &byte, 1, 0);
	addr = (void *)write(patient[0], &one, 1);
	addr = (void *)read(patient[1], &byte, 1);
	addr = (void *)pread(memory, &byte, 1, 0);
	poll(&(struct pollfd){.fd = fd}, 1, 0);
	epoll_wait(-1, &event, 1, 0);
	clock_gettime(CLOCK_MONOTONIC, &(struct timespec){0});
}

/* In a child: does the guard end it? */
static bool bites(void (*call)(void), bool guard)
{
	int status = 0, null = open("/dev/null", O_WRONLY | O_CLOEXEC);
	pid_t pid = fork();

	if (pid == 0) {
		dup2(null, STDERR_FILENO);
		dup2(null, STDOUT_FILENO);
		if (guard)
			lane_guard_enter();
		call();
		if (guard)
			lane_guard_leave();
		_exit(0);
	}
	close(null);
	CU_ASSERT_EQUAL(waitpid(pid, &status, 0), pid);
	return WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT;
}

static void test_forbidden(void)
{
	static const struct {
		const char *name;
		void (*call)(void);
		bool waits; /* cannot be tried without the guard */
	} calls[] = {
		{"malloc", do_malloc, false},
		{"calloc", do_calloc, false},
		{"realloc", do_realloc, false},
		{"aligned_alloc", do_aligned_alloc, false},
		{"free", do_free, false},
		{"strdup", do_strdup, false},
		{"pthread_mutex_lock", do_lock, false},
		{"pthread_cond_signal", do_signal, false},
		{"printf", do_printf, false},
		{"puts", do_puts, false},
		{"fprintf", do_fprintf, false},
		{"syslog", do_syslog, false},
		{"open", do_open, false},
		{"nanosleep", do_nanosleep, false},
		{"poll", do_poll, false},
		{"epoll_wait", do_epoll, false},
		{"write", do_write, false},
		{"pread", do_pread, false},
		{"send", do_send, false},
		{"recv", do_recv, true},
		{"futex", do_futex, false},
	};

	for (size_t i = 0; i < SLUICE_ARRAY_LEN(calls); i++) {
		bool seen = bites(calls[i].call, true);

		if (!seen)
			printf("%s is not seen\n", calls[i].name);
		CU_ASSERT_TRUE(seen);
		if (!calls[i].waits)
			CU_ASSERT_FALSE(bites(calls[i].call, false));
	}
}

static void test_allowed(void)
{
	memory = memfd_create("lane-guard", 0);
	CU_ASSERT_EQUAL(ftruncate(memory, 4096), 0);
	CU_ASSERT_FALSE(bites(do_what_is_allowed, true));
	close(memory);
}

int main(void)
{
	static const struct unit_test tests[] = {
		{"what is forbidden", test_forbidden},
		{"what is allowed", test_allowed},
		{0},
	};

	if (!LANE_GUARD_WORKS) {
		printf("skipped: sanitizers define the functions that the guard would\n");
		return 77;
	}
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, blocking) < 0 ||
		socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, patient) < 0)
		return 1;
	return unit_run("lane guard", tests);
}
