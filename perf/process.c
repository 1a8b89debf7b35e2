/* SPDX-License-Identifier: BSD-3-Clause */
/* process.c: see process.h. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "perf/process.h"

#define END_TIMEOUT_MS 5000
#define TAIL_BYTES     16384

static int pidfd_open_cloexec(pid_t pid)
{
	return (int)syscall(SYS_pidfd_open, pid, 0);
}

/* Between fork and exec: only async-signal-safe calls. */
__attribute__((noreturn)) static void child_exec(pid_t parent, int log_fd, char *const argv[])
{
	static const char message[] = "cannot execute the program\n";
	int null_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(126);
	/* An own process group: Ctrl-C reaches sluice-perf, which ends the others in order. */
	setpgid(0, 0);
	if (null_fd >= 0)
		dup2(null_fd, STDIN_FILENO);
	dup2(log_fd, STDOUT_FILENO);
	dup2(log_fd, STDERR_FILENO);
	execvp(argv[0], argv);
	if (write(STDERR_FILENO, message, sizeof(message) - 1) < 0)
		_exit(126);
	_exit(127);
}

int perf_process_start(struct perf_process *process, const char *name, const char *log_path,
	char *const argv[], struct sluice_error *err)
{
	pid_t parent = getpid(), pid;
	int log_fd = open(log_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	int r;

	if (log_fd < 0) {
		r = -errno;
		return sluice_fail(
			err, r, name, "cannot write the log %s: %s", log_path, strerror(-r));
	}
	pid = fork();
	if (pid == 0)
		child_exec(parent, log_fd, argv);
	r = -errno;
	close(log_fd);
	if (pid < 0)
		return sluice_fail(err, r, name, "cannot start %s: %s", argv[0], strerror(-r));

	*process = (struct perf_process){
		.pid = pid, .pidfd = pidfd_open_cloexec(pid), .is_child = true};
	snprintf(process->name, sizeof(process->name), "%s", name);
	snprintf(process->log_path, sizeof(process->log_path), "%s", log_path);
	if (process->pidfd < 0) {
		r = -errno;
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
		*process = PERF_PROCESS_NONE;
		return sluice_fail(err, r, name, "pidfd_open: %s", strerror(-r));
	}
	return 0;
}

int perf_process_adopt(
	struct perf_process *process, const char *name, pid_t pid, struct sluice_error *err)
{
	int pidfd = pidfd_open_cloexec(pid);

	if (pidfd < 0) {
		int r = -errno;

		return sluice_fail(err, r, name, "process %d is gone: %s", (int)pid, strerror(-r));
	}
	*process = (struct perf_process){.pid = pid, .pidfd = pidfd};
	snprintf(process->name, sizeof(process->name), "%s", name);
	return 0;
}

bool perf_process_alive(const struct perf_process *process)
{
	struct pollfd p = {.fd = process->pidfd, .events = POLLIN};

	/* A pidfd is readable from the end of its process on. */
	return process->pid != 0 && poll(&p, 1, 0) == 0;
}

bool perf_process_wait(struct perf_process *process, int timeout_ms)
{
	struct pollfd p = {.fd = process->pidfd, .events = POLLIN};
	uint64_t end_ns = sluice_now_ns() + (uint64_t)timeout_ms * SLUICE_NS_PER_MS;
	int r, status = 0;

	if (process->pid == 0)
		return true;
	do {
		uint64_t now_ns = sluice_now_ns();
		int left_ms = now_ns < end_ns ? (int)((end_ns - now_ns) / SLUICE_NS_PER_MS) : 0;

		r = poll(&p, 1, left_ms);
	} while (r < 0 && errno == EINTR);
	if (r <= 0)
		return false;
	if (process->is_child && waitpid(process->pid, &status, 0) == process->pid)
		process->exit_status = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
	close(process->pidfd);
	process->pid = 0;
	process->pidfd = -1;
	return true;
}

void perf_process_end(struct perf_process *process)
{
	if (process->pid == 0)
		return;
	syscall(SYS_pidfd_send_signal, process->pidfd, SIGTERM, NULL, 0);
	if (perf_process_wait(process, END_TIMEOUT_MS))
		return;
	syscall(SYS_pidfd_send_signal, process->pidfd, SIGKILL, NULL, 0);
	perf_process_wait(process, END_TIMEOUT_MS);
}

double perf_process_cpu_s(const struct perf_process *process)
{
	struct timespec t;
	clockid_t clock;

	/* /proc/PID/stat counts ticks of 10 ms; the clock of the process counts nanoseconds. */
	if (process->pid == 0 || clock_getcpuclockid(process->pid, &clock) != 0)
		return -1;
	if (clock_gettime(clock, &t) != 0)
		return -1;
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

void perf_process_print_tail(const struct perf_process *process, int lines, FILE *out)
{
	char *text = malloc(TAIL_BYTES + 1), *start;
	FILE *log = process->log_path[0] != '\0' ? fopen(process->log_path, "re") : NULL;
	size_t n;

	if (text == NULL || log == NULL)
		goto out_free;
	if (fseek(log, -TAIL_BYTES, SEEK_END) != 0)
		rewind(log);
	n = fread(text, 1, TAIL_BYTES, log);
	while (n > 0 && text[n - 1] == '\n')
		n--;
	text[n] = '\0';
	start = text + n;
	while (start > text && lines > 0) {
		start--;
		if (*start == '\n' && --lines == 0)
			start++;
	}
	fprintf(out, "---- the end of %s\n%s\n----\n", process->log_path, start);
out_free:
	if (log != NULL)
		fclose(log);
	free(text);
}
