/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * launch.c: start an engine with an inherited socket. Between fork and exec only calls that
 * are safe in the child of a process with threads. The engine is not tied to the thread that
 * started it (no PDEATHSIG): it ends when the socket closes.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "vmm/libsluice/internal.h"

#define CONTROL_FD     3
#define FIRST_FREE_FD  10 /* above everything the child sets up by number */
#define ARGS_MAX       256
#define FDS_CLOSED_MAX 65536
#define ENGINE_DEFAULT "sluiced"
#define END_WAIT_STEPS 200 /* of 5 ms: how long a failed engine may take to end */
#define END_WAIT_USEC  5000

struct child {
	const char *argv[ARGS_MAX];
	int socket_fd, report_fd, log_fd; /* all at least FIRST_FREE_FD; log_fd may be -1 */
};

static int build_args(const struct sluice_launch *opts, struct child *child)
{
	size_t count = 0;

	child->argv[count++] = opts->engine;
	child->argv[count++] = "--control-fd";
	child->argv[count++] = "3";
	if (opts->listen_path != NULL) {
		child->argv[count++] = "--listen";
		child->argv[count++] = opts->listen_path;
	}
	for (const char *const *arg = opts->args; arg != NULL && *arg != NULL; arg++) {
		if (count == ARGS_MAX - 1)
			return -E2BIG;
		child->argv[count++] = *arg;
	}
	child->argv[count] = NULL;
	return 0;
}

/* Whatever the VMM has open stays the VMM's. */
static void close_rest_on_exec(void)
{
	if (close_range(CONTROL_FD + 1, ~0u, CLOSE_RANGE_CLOEXEC) == 0)
		return;
	for (int fd = CONTROL_FD + 1; fd < FDS_CLOSED_MAX; fd++)
		fcntl(fd, F_SETFD, FD_CLOEXEC);
}

/* In the child: become the engine, or report errno and end. */
__attribute__((noreturn)) static void become_engine(const struct child *child)
{
	sigset_t none;
	int code;
	ssize_t done;

	sigemptyset(&none);
	if (sigprocmask(SIG_SETMASK, &none, NULL) < 0)
		goto out_report;
	signal(SIGPIPE, SIG_DFL);
	if (child->log_fd >= 0 && dup2(child->log_fd, STDERR_FILENO) < 0)
		goto out_report;
	if (dup2(child->socket_fd, CONTROL_FD) < 0)
		goto out_report;
	close_rest_on_exec();
	/* exec does not write to its arguments; its prototype is older than const. */
	execvp(child->argv[0], (char *const *)(uintptr_t)child->argv);

out_report:
	code = errno;
	done = write(child->report_fd, &code, sizeof(code));
	(void)done;
	_exit(127);
}

/* What the child reported: 0 when exec succeeded, which closed the pipe, else -errno. */
static int read_report(int fd)
{
	int code = 0;
	ssize_t bytes;

	do {
		bytes = read(fd, &code, sizeof(code));
	} while (bytes < 0 && errno == EINTR);
	return bytes == (ssize_t)sizeof(code) ? -code : 0;
}

/* Move @fd out of the way of the numbers that the child uses. */
static int move_up(int *fd)
{
	int moved = fcntl(*fd, F_DUPFD_CLOEXEC, FIRST_FREE_FD);

	if (moved < 0)
		return -errno;
	close(*fd);
	*fd = moved;
	return 0;
}

static void close_both(int fds[2])
{
	for (int i = 0; i < 2; i++) {
		if (fds[i] >= 0)
			close(fds[i]);
		fds[i] = -1;
	}
}

/* Fork and exec; on success *ret_pid runs the engine. Sockets: [0] ours, [1] the engine's. */
static int spawn(struct child *child, int sockets[2], pid_t *ret_pid)
{
	int report[2] = {-1, -1};
	int rc = 0;
	pid_t pid;

	if (pipe2(report, O_CLOEXEC) < 0)
		return -errno;
	rc = move_up(&report[1]);
	if (rc == 0)
		rc = move_up(&sockets[1]);
	if (rc == 0 && child->log_fd >= 0) {
		child->log_fd = fcntl(child->log_fd, F_DUPFD_CLOEXEC, FIRST_FREE_FD);
		rc = child->log_fd < 0 ? -errno : 0;
	}
	if (rc < 0) {
		close_both(report);
		return rc;
	}
	child->socket_fd = sockets[1];
	child->report_fd = report[1];
	pid = fork();
	if (pid == 0)
		become_engine(child);
	rc = pid < 0 ? -errno : 0;
	close(report[1]);
	report[1] = -1;
	if (rc == 0)
		rc = read_report(report[0]);
	close_both(report);
	if (child->log_fd >= 0)
		close(child->log_fd);
	if (rc < 0 && pid > 0)
		waitpid(pid, NULL, 0);
	if (rc == 0)
		*ret_pid = pid;
	return rc;
}

/* An engine that does not work: let it end by itself, then make it. Returns its wait status. */
static int end_engine(pid_t pid)
{
	int status = 0;

	for (int i = 0; i < END_WAIT_STEPS; i++) {
		if (waitpid(pid, &status, WNOHANG) != 0)
			return status;
		usleep(END_WAIT_USEC);
	}
	kill(pid, SIGKILL);
	waitpid(pid, &status, 0);
	return status;
}

/* The handshake failed: say what became of the engine where that is the better reason. */
static int fail_handshake(const char *engine, pid_t pid, int rc, const struct sluice_error *why,
	struct sluice_error *err)
{
	int status = end_engine(pid);

	if (rc == -EPIPE && WIFEXITED(status))
		return sluice_fail_scope(err, SLUICE_SCOPE_ENGINE, rc, SLUICE_VMM_WHERE,
			"%s ended with status %d before it served us: its standard error says why",
			engine, WEXITSTATUS(status));
	if (rc == -EPIPE && WIFSIGNALED(status))
		return sluice_fail_scope(err, SLUICE_SCOPE_ENGINE, rc, SLUICE_VMM_WHERE,
			"%s was ended by signal %d before it served us", engine, WTERMSIG(status));
	return sluice_fail_scope(
		err, SLUICE_SCOPE_ENGINE, rc, SLUICE_VMM_WHERE, "%s: %s", engine, why->text);
}

static const char *default_engine(void)
{
	const char *engine = getenv("SLUICE_ENGINE");

	return engine != NULL && engine[0] != '\0' ? engine : ENGINE_DEFAULT;
}

int sluice_vmm_launch(const struct sluice_launch *opts, struct sluice_vmm **ret_vmm, pid_t *ret_pid,
	struct sluice_error *err)
{
	struct sluice_launch used;
	struct sluice_error why = {0};
	struct child child;
	int sockets[2];
	pid_t pid = -1;
	int rc;

	if (opts->size < sizeof(used))
		return sluice_fail(err, -EINVAL, SLUICE_VMM_WHERE,
			"struct sluice_launch has %zu bytes, expected %zu: set its size",
			opts->size, sizeof(used));
	used = *opts;
	if (used.engine == NULL)
		used.engine = default_engine();
	child.log_fd = used.log_fd;
	if (build_args(&used, &child) < 0)
		return sluice_fail(
			err, -E2BIG, SLUICE_VMM_WHERE, "more than %d arguments", ARGS_MAX);
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets) < 0)
		return sluice_fail(
			err, -errno, SLUICE_VMM_WHERE, "socketpair: %s", strerror(errno));
	rc = spawn(&child, sockets, &pid);
	close(sockets[1]);
	if (rc < 0) {
		close(sockets[0]);
		return sluice_fail(err, rc, SLUICE_VMM_WHERE, "cannot start %s: %s", used.engine,
			strerror(-rc));
	}
	rc = sluice_vmm_open(sockets[0], ret_vmm, &why);
	if (rc < 0)
		return fail_handshake(used.engine, pid, rc, &why, err);
	if (ret_pid != NULL)
		*ret_pid = pid;
	return 0;
}
