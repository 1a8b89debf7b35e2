/* SPDX-License-Identifier: BSD-3-Clause */
/* lane_guard.c: see lane_guard.h. Any thread. */
#undef _FILE_OFFSET_BITS /* open() shall be open(), open64() is another */
#include "tests/support/lane_guard.h"

#include <dlfcn.h>
#include <errno.h>
#include <execinfo.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <syslog.h>
#include <time.h>
#include <unistd.h>

#include "base/assert.h"

static __thread bool inside;

void lane_guard_enter(void)
{
	SLUICE_ASSERT(!inside);
	inside = true;
}

void lane_guard_leave(void)
{
	inside = false;
}

/* ---- a transport ---- */

static const struct sluice_transport *guarded;

static uint32_t guarded_submit(
	struct sluice_conn *conn, const struct sluice_op *ops, uint32_t count, uint64_t now_ns)
{
	uint32_t taken;

	lane_guard_enter();
	taken = guarded->submit(conn, ops, count, now_ns);
	lane_guard_leave();
	return taken;
}

static uint32_t guarded_poll(
	struct sluice_conn *conn, struct sluice_event *events, uint32_t max, uint64_t now_ns)
{
	uint32_t count;

	lane_guard_enter();
	count = guarded->poll(conn, events, max, now_ns);
	lane_guard_leave();
	return count;
}

static bool guarded_arm(struct sluice_conn *conn, struct sluice_arm *ret_arm)
{
	bool may_sleep;

	lane_guard_enter();
	may_sleep = guarded->arm(conn, ret_arm);
	lane_guard_leave();
	return may_sleep;
}

const struct sluice_transport *lane_guard_transport(const struct sluice_transport *inner)
{
	static struct sluice_transport outer;

	if (guarded != NULL)
		SLUICE_ASSERT(guarded == inner);
	guarded = inner;
	outer = *inner;
	outer.submit = guarded_submit;
	outer.poll = guarded_poll;
	outer.arm = guarded_arm;
	return &outer;
}

#if LANE_GUARD_WORKS

/* ---- what is forbidden ---- */

#pragma GCC visibility push(default)
#pragma GCC diagnostic ignored "-Wmissing-prototypes"
#pragma GCC diagnostic ignored "-Wformat-nonliteral"

/* The definition that this one hides. Looking it up may allocate, which is not the lane's doing. */
static void *next_of(const char *name)
{
	bool was_inside = inside;
	void *next;

	inside = false;
	next = dlsym(RTLD_NEXT, name);
	inside = was_inside;
	SLUICE_ASSERT(next != NULL);
	return next;
}

static void violation(const char *name)
{
	void *frames[32];
	char text[128];
	int length, depth;

	inside = false;
	length = snprintf(text, sizeof(text), "lane guard: %s in a running lane\n", name);
	if (write(STDERR_FILENO, text, (size_t)length) == length) {
		depth = backtrace(frames, 32);
		backtrace_symbols_fd(frames, depth, STDERR_FILENO);
	}
	abort();
}

static void forbid(const char *name)
{
	if (inside)
		violation(name);
}

static void forbid_if(bool condition, const char *name)
{
	if (inside && condition)
		violation(name);
}

/* The first call of backtrace() loads a library. */
__attribute__((constructor)) static void prepare(void)
{
	void *frame;

	backtrace(&frame, 1);
}

/* glibc's own names of its allocator: dlsym() itself allocates. */
void *__libc_malloc(size_t bytes);
void *__libc_calloc(size_t count, size_t bytes);
void *__libc_realloc(void *addr, size_t bytes);
void *__libc_memalign(size_t align, size_t bytes);
void __libc_free(void *addr);

void *malloc(size_t bytes)
{
	forbid("malloc");
	return __libc_malloc(bytes);
}

void *calloc(size_t count, size_t bytes)
{
	forbid("calloc");
	return __libc_calloc(count, bytes);
}

void *realloc(void *addr, size_t bytes)
{
	forbid("realloc");
	return __libc_realloc(addr, bytes);
}

void *memalign(size_t align, size_t bytes)
{
	forbid("memalign");
	return __libc_memalign(align, bytes);
}

void *aligned_alloc(size_t align, size_t bytes)
{
	forbid("aligned_alloc");
	return __libc_memalign(align, bytes);
}

int posix_memalign(void **ret_addr, size_t align, size_t bytes)
{
	forbid("posix_memalign");
	*ret_addr = __libc_memalign(align, bytes);
	return *ret_addr != NULL ? 0 : ENOMEM;
}

void free(void *addr)
{
	forbid("free");
	__libc_free(addr);
}

/* A function that calls the one it hides, if @condition does not forbid it. */
#define GUARD_IF(condition, type, name, params, args) \
	type name params                              \
	{                                             \
		static type(*next) params;            \
		forbid_if((condition), #name);        \
		if (next == NULL)                     \
			next = next_of(#name);        \
		return next args;                     \
	}
#define GUARD(type, name, params, args) GUARD_IF(true, type, name, params, args)

GUARD(int, pthread_mutex_lock, (pthread_mutex_t * mutex), (mutex))
GUARD(int, pthread_mutex_trylock, (pthread_mutex_t * mutex), (mutex))
GUARD(int, pthread_mutex_unlock, (pthread_mutex_t * mutex), (mutex))
GUARD(int, pthread_rwlock_rdlock, (pthread_rwlock_t * lock), (lock))
GUARD(int, pthread_rwlock_wrlock, (pthread_rwlock_t * lock), (lock))
GUARD(int, pthread_rwlock_unlock, (pthread_rwlock_t * lock), (lock))
GUARD(int, pthread_cond_wait, (pthread_cond_t * cond, pthread_mutex_t *mutex), (cond, mutex))
GUARD(int, pthread_cond_timedwait,
	(pthread_cond_t * cond, pthread_mutex_t *mutex, const struct timespec *end),
	(cond, mutex, end))
GUARD(int, pthread_cond_signal, (pthread_cond_t * cond), (cond))
GUARD(int, pthread_cond_broadcast, (pthread_cond_t * cond), (cond))
GUARD(int, pthread_join, (pthread_t thread, void **ret_value), (thread, ret_value))
GUARD(int, sem_wait, (sem_t * semaphore), (semaphore))

GUARD(int, vprintf, (const char *format, va_list ap), (format, ap))
GUARD(int, vfprintf, (FILE * file, const char *format, va_list ap), (file, format, ap))
GUARD(int, vdprintf, (int fd, const char *format, va_list ap), (fd, format, ap))
GUARD(int, puts, (const char *text), (text))
GUARD(int, fputs, (const char *text, FILE *file), (text, file))
GUARD(int, putchar, (int c), (c))
GUARD(int, fputc, (int c, FILE *file), (c, file))
GUARD(size_t, fwrite, (const void *bytes, size_t size, size_t count, FILE *file),
	(bytes, size, count, file))
GUARD(void, perror, (const char *text), (text))
GUARD(void, vsyslog, (int priority, const char *format, va_list ap), (priority, format, ap))

int printf(const char *format, ...)
{
	va_list ap;
	int length;

	forbid("printf");
	va_start(ap, format);
	length = vprintf(format, ap);
	va_end(ap);
	return length;
}

int fprintf(FILE *file, const char *format, ...)
{
	va_list ap;
	int length;

	forbid("fprintf");
	va_start(ap, format);
	length = vfprintf(file, format, ap);
	va_end(ap);
	return length;
}

int dprintf(int fd, const char *format, ...)
{
	va_list ap;
	int length;

	forbid("dprintf");
	va_start(ap, format);
	length = vdprintf(fd, format, ap);
	va_end(ap);
	return length;
}

void syslog(int priority, const char *format, ...)
{
	va_list ap;

	forbid("syslog");
	va_start(ap, format);
	vsyslog(priority, format, ap);
	va_end(ap);
}

/* ---- verbs ---- */

/* A verbs provider (librxe-rdmav34.so and its like) guards each queue with a spinlock of its own.
   A lane's queues have one user, so nobody ever spins; see lane_guard.h. */
static bool is_verbs_provider(const void *caller)
{
	bool was_inside = inside, is;
	Dl_info info;

	inside = false;
	is = dladdr(caller, &info) != 0 && info.dli_fname != NULL &&
	     strstr(info.dli_fname, "-rdmav") != NULL;
	inside = was_inside;
	return is;
}

int pthread_spin_lock(pthread_spinlock_t *lock)
{
	static int (*next)(pthread_spinlock_t *);

	forbid_if(inside && !is_verbs_provider(__builtin_return_address(0)), "pthread_spin_lock");
	if (next == NULL)
		next = (int (*)(pthread_spinlock_t *))next_of("pthread_spin_lock");
	return next(lock);
}

/* A verbs device takes commands by write(2) and answers at once, whatever O_NONBLOCK says. */
static bool is_verbs_device(int fd)
{
	static const char verbs[] = "/dev/infiniband/uverbs";
	char link[32], path[64] = "";

	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	return readlink(link, path, sizeof(path) - 1) > 0 &&
	       strncmp(path, verbs, sizeof(verbs) - 1) == 0;
}

/* ---- files, sleeping, waiting ---- */

int open(const char *path, int flags, ...)
{
	static int (*next)(const char *, int, ...);
	va_list ap;
	mode_t mode;

	forbid("open");
	if (next == NULL)
		next = next_of("open");
	va_start(ap, flags);
	mode = (flags & (O_CREAT | O_TMPFILE)) != 0 ? va_arg(ap, mode_t) : 0;
	va_end(ap);
	return next(path, flags, mode);
}

int open64(const char *path, int flags, ...) __attribute__((alias("open")));
GUARD(FILE *, fopen, (const char *path, const char *mode), (path, mode))
GUARD(FILE *, fopen64, (const char *path, const char *mode), (path, mode))
GUARD(int, fsync, (int fd), (fd))
GUARD(int, fdatasync, (int fd), (fd))
GUARD(void *, mmap, (void *addr, size_t bytes, int prot, int flags, int fd, off_t offset),
	(addr, bytes, prot, flags, fd, offset))
GUARD(void *, mmap64, (void *addr, size_t bytes, int prot, int flags, int fd, off_t offset),
	(addr, bytes, prot, flags, fd, offset))
GUARD(int, munmap, (void *addr, size_t bytes), (addr, bytes))

GUARD(int, nanosleep, (const struct timespec *time, struct timespec *ret_left), (time, ret_left))
GUARD(int, clock_nanosleep,
	(clockid_t clock, int flags, const struct timespec *time, struct timespec *ret_left),
	(clock, flags, time, ret_left))
GUARD(int, usleep, (useconds_t us), (us))
GUARD(unsigned int, sleep, (unsigned int s), (s))

static bool waits(const struct timespec *timeout)
{
	return timeout == NULL || timeout->tv_sec != 0 || timeout->tv_nsec != 0;
}

GUARD_IF(timeout_ms != 0, int, poll, (struct pollfd * fds, nfds_t count, int timeout_ms),
	(fds, count, timeout_ms))
GUARD_IF(waits(timeout), int, ppoll,
	(struct pollfd * fds, nfds_t count, const struct timespec *timeout, const sigset_t *mask),
	(fds, count, timeout, mask))
GUARD_IF(timeout_ms != 0, int, epoll_wait,
	(int fd, struct epoll_event *events, int max, int timeout_ms),
	(fd, events, max, timeout_ms))
GUARD(int, select, (int count, fd_set *in, fd_set *out, fd_set *bad, struct timeval *timeout),
	(count, in, out, bad, timeout))

/* ---- descriptors ---- */

static bool may_wait(int fd)
{
	int flags = inside ? fcntl(fd, F_GETFL) : O_NONBLOCK;

	return flags >= 0 && (flags & O_NONBLOCK) == 0;
}

static bool is_memory(int fd)
{
	struct statfs system;

	return fstatfs(fd, &system) == 0 &&
	       (system.f_type == TMPFS_MAGIC || system.f_type == HUGETLBFS_MAGIC);
}

#define GUARD_IO(name, params, args) GUARD_IF(may_wait(fd), ssize_t, name, params, args)
#define GUARD_SOCKET(name, params, args) \
	GUARD_IF((flags & MSG_DONTWAIT) == 0 && may_wait(fd), ssize_t, name, params, args)

GUARD_IO(read, (int fd, void *bytes, size_t count), (fd, bytes, count))
GUARD_IF(may_wait(fd) && !is_verbs_device(fd), ssize_t, write,
	(int fd, const void *bytes, size_t count), (fd, bytes, count))
GUARD_IO(readv, (int fd, const struct iovec *spans, int count), (fd, spans, count))
GUARD_IO(writev, (int fd, const struct iovec *spans, int count), (fd, spans, count))
GUARD_IF(may_wait(fd) && !is_memory(fd), ssize_t, pread,
	(int fd, void *bytes, size_t count, off_t at), (fd, bytes, count, at))
GUARD_IF(may_wait(fd) && !is_memory(fd), ssize_t, pread64,
	(int fd, void *bytes, size_t count, off_t at), (fd, bytes, count, at))
GUARD_IO(pwrite, (int fd, const void *bytes, size_t count, off_t at), (fd, bytes, count, at))
GUARD_IO(pwrite64, (int fd, const void *bytes, size_t count, off_t at), (fd, bytes, count, at))
GUARD_SOCKET(send, (int fd, const void *bytes, size_t count, int flags), (fd, bytes, count, flags))
GUARD_SOCKET(recv, (int fd, void *bytes, size_t count, int flags), (fd, bytes, count, flags))
GUARD_SOCKET(sendmsg, (int fd, const struct msghdr *message, int flags), (fd, message, flags))
GUARD_SOCKET(recvmsg, (int fd, struct msghdr *message, int flags), (fd, message, flags))
GUARD_SOCKET(sendto,
	(int fd, const void *bytes, size_t count, int flags, const struct sockaddr *to,
		socklen_t bytes_of_to),
	(fd, bytes, count, flags, to, bytes_of_to))
GUARD_SOCKET(recvfrom,
	(int fd, void *bytes, size_t count, int flags, struct sockaddr *from,
		socklen_t *from_bytes),
	(fd, bytes, count, flags, from, from_bytes))
GUARD_IF(may_wait(fd), int, connect, (int fd, const struct sockaddr *to, socklen_t to_bytes),
	(fd, to, to_bytes))
GUARD_IF(may_wait(fd), int, accept4,
	(int fd, struct sockaddr *from, socklen_t *from_bytes, int flags),
	(fd, from, from_bytes, flags))

/* Futexes have no function of their own. */
long syscall(long number, ...)
{
	static long (*next)(long, ...);
	long args[6];
	va_list ap;

	forbid_if(number == SYS_futex || number == SYS_write || number == SYS_openat, "syscall");
	if (next == NULL)
		next = next_of("syscall");
	va_start(ap, number);
	for (int i = 0; i < 6; i++)
		args[i] = va_arg(ap, long);
	va_end(ap);
	return next(number, args[0], args[1], args[2], args[3], args[4], args[5]);
}

#pragma GCC visibility pop
#endif
