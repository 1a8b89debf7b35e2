/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * libsluice_test.c: libsluice against the real server, in a process that it launches itself
 * ($TOY_ENGINE): commands, descriptors, events, time-outs, and ways to fail to start.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <sluice/sluice.h>

#include "tests/unit/unit.h"

#define PATIENCE_MS 60000

static const char *engine;

static struct sluice_vmm *launch(const char *listen_path, pid_t *ret_pid)
{
	struct sluice_launch opts = {
		.size = sizeof(opts), .engine = engine, .listen_path = listen_path, .log_fd = -1};
	struct sluice_error err = {0};
	struct sluice_vmm *vmm = NULL;

	CU_ASSERT_EQUAL_FATAL(sluice_vmm_launch(&opts, &vmm, ret_pid, &err), 0);
	return vmm;
}

/* The engine ends by itself when its VMM goes. */
static void end(struct sluice_vmm *vmm, pid_t pid)
{
	int status = -1;

	sluice_vmm_close(vmm);
	CU_ASSERT_EQUAL(waitpid(pid, &status, 0), pid);
	CU_ASSERT_EQUAL(status, 0);
}

static int new_memfd(off_t bytes)
{
	int fd = memfd_create("test", MFD_CLOEXEC);

	CU_ASSERT_FATAL(fd >= 0);
	CU_ASSERT_EQUAL(ftruncate(fd, bytes), 0);
	return fd;
}

static void test_commands(void)
{
	struct sluice_error err = {0};
	struct sluice_vmm *vmm;
	char *json = NULL;
	pid_t pid;

	vmm = launch(NULL, &pid);
	CU_ASSERT_EQUAL(sluice_vmm_command(vmm, "query-status", NULL, &json, &err), 0);
	CU_ASSERT_STRING_EQUAL(json, "{\"status\":\"idle\",\"running\":true}");
	free(json);
	CU_ASSERT_EQUAL(sluice_vmm_command(vmm, "query-status", "{}", NULL, &err), 0);
	CU_ASSERT_EQUAL(sluice_vmm_command(vmm, "nonsense", NULL, NULL, &err), -ENOSYS);
	UNIT_CONTAINS(err.text, "has not been found");
	CU_ASSERT_STRING_EQUAL(err.where, "nonsense");
	err.code = 0;
	CU_ASSERT_EQUAL(
		sluice_vmm_command(vmm, "migrate", "{\"url\": \"x\"}", NULL, &err), -EINVAL);
	UNIT_CONTAINS(err.text, "'url' is not known (did you mean 'uri'?)");
	CU_ASSERT_EQUAL(sluice_vmm_command(vmm, "migrate", "{\"url\": ", NULL, NULL), -EINVAL);
	CU_ASSERT_EQUAL(sluice_vmm_command(vmm, "migrate", "[]", NULL, NULL), -EINVAL);
	end(vmm, pid);
}

static void test_vmm_commands(void)
{
	int fd = new_memfd(1 << 20);
	struct sluice_vmm_memory memory = {.size = sizeof(memory),
		.id = "ram",
		.fd = fd,
		.len_bytes = 1 << 20,
		.gpa = 1ull << 32};
	struct sluice_error err = {0};
	struct sluice_vmm_event event;
	struct sluice_vmm *vmm;
	char *json = NULL;
	pid_t pid;

	vmm = launch(NULL, &pid);
	CU_ASSERT_EQUAL(sluice_vmm_memory_add(vmm, &memory, &err), 0);
	CU_ASSERT_EQUAL(sluice_vmm_command(vmm, "query-memory", NULL, &json, &err), 0);
	UNIT_CONTAINS(json, "{\"id\":\"ram\",\"gpa\":4294967296,\"size\":1048576,");
	free(json);
	CU_ASSERT_EQUAL(sluice_vmm_feed_bitmap(vmm, "ram", fd, &err), 0);
	CU_ASSERT_EQUAL(sluice_vmm_memory_discard(vmm, "ram", 4096, 8192, &err), 0);
	CU_ASSERT_EQUAL(sluice_vmm_memory_remove(vmm, "ram", &err), 0);
	CU_ASSERT_EQUAL(sluice_vmm_memory_remove(vmm, "dimm", &err), 1);
	CU_ASSERT_EQUAL(sluice_vmm_next_event(vmm, 1000, &event, &err), 1);
	CU_ASSERT_STRING_EQUAL(event.name, "MEMORY_REMOVED");
	CU_ASSERT_STRING_EQUAL(event.text, "dimm");
	sluice_vmm_event_clear(&event);
	CU_ASSERT_EQUAL(sluice_vmm_device_add(vmm, "vcpu", fd, &err), 0);
	CU_ASSERT_EQUAL(sluice_vmm_device_loaded(vmm, "vcpu", &err), 0);
	CU_ASSERT_EQUAL(sluice_vmm_dirty_sync_done(vmm, 77, &err), 0);
	CU_ASSERT_EQUAL(sluice_vmm_migrate_continue(vmm, "commit", &err), 0);
	CU_ASSERT_EQUAL(err.code, 0);

	memory.len_bytes = 2 << 20;
	CU_ASSERT_EQUAL(sluice_vmm_memory_add(vmm, &memory, &err), -EINVAL);
	UNIT_CONTAINS(err.text, "smaller than the region");
	CU_ASSERT_EQUAL(sluice_vmm_memory_discard(vmm, "ram", 4096, 0, NULL), -EINVAL);
	CU_ASSERT_EQUAL(sluice_vmm_memory_discard(vmm, "ram", UINT64_MAX, 4096, NULL), -ERANGE);
	memory.size = 8;
	CU_ASSERT_EQUAL(sluice_vmm_memory_add(vmm, &memory, NULL), -EINVAL);
	CU_ASSERT_EQUAL(sluice_vmm_migrate_continue(vmm, "stop", NULL), -EINVAL);
	CU_ASSERT_EQUAL(sluice_vmm_getfd(vmm, "x", -1, NULL), -EBADF);
	close(fd);
	CU_ASSERT_EQUAL(sluice_vmm_getfd(vmm, "x", fd, NULL), -EBADF);
	end(vmm, pid);
}

/* Events come in order, also those that arrived while a command waited for its answer. */
static void test_events(void)
{
	struct sluice_vmm_event event;
	struct sluice_vmm *vmm;
	unsigned int progress = 0;
	char order[256] = "";
	size_t length = 0;
	pid_t pid;

	vmm = launch(NULL, &pid);
	CU_ASSERT_EQUAL(sluice_vmm_next_event(vmm, 0, &event, NULL), 0);
	CU_ASSERT_EQUAL(sluice_vmm_next_event(vmm, 20, &event, NULL), 0);
	CU_ASSERT_EQUAL(
		sluice_vmm_command(vmm, "migrate", "{\"uri\": \"tcp:h:1\"}", NULL, NULL), 0);
	CU_ASSERT_EQUAL(sluice_vmm_command(vmm, "query-status", NULL, NULL, NULL), 0);
	while (strstr(order, "completed") == NULL) {
		CU_ASSERT_EQUAL_FATAL(sluice_vmm_next_event(vmm, PATIENCE_MS, &event, NULL), 1);
		if (strcmp(event.name, "MIGRATION") == 0) {
			length += (size_t)snprintf(
				order + length, sizeof(order) - length, "%s ", event.text);
			CU_ASSERT_FATAL(length < sizeof(order));
		} else if (strcmp(event.name, "DIRTY_SYNC") == 0) {
			CU_ASSERT_EQUAL(event.id, 77);
			CU_ASSERT_STRING_EQUAL(event.data_json, "{\"id\":77}");
			usleep(5000); /* what the VMM has to do; the library tells the engine */
			CU_ASSERT_EQUAL(sluice_vmm_dirty_sync_done(vmm, event.id, NULL), 0);
		} else {
			CU_ASSERT_STRING_EQUAL(event.name, "MIGRATION_PROGRESS");
			progress++;
		}
		sluice_vmm_event_clear(&event);
	}
	CU_ASSERT_STRING_EQUAL(order, "setup active pre-switchover completed ");
	CU_ASSERT_EQUAL(progress, 10);
	end(vmm, pid);
}

static void test_engine_dies(void)
{
	struct sluice_vmm_event event;
	struct sluice_error err = {0};
	struct sluice_vmm *vmm;
	pid_t pid;

	vmm = launch(NULL, &pid);
	CU_ASSERT_EQUAL(
		sluice_vmm_command(vmm, "migrate", "{\"uri\": \"tcp:h:1\"}", NULL, NULL), 0);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	CU_ASSERT_EQUAL(sluice_vmm_command(vmm, "query-status", NULL, NULL, &err), -EPIPE);
	CU_ASSERT_EQUAL(err.scope, SLUICE_SCOPE_ENGINE);
	CU_ASSERT_EQUAL(sluice_vmm_next_event(vmm, PATIENCE_MS, &event, NULL), 1); /* kept: setup */
	sluice_vmm_event_clear(&event);
	CU_ASSERT_EQUAL(sluice_vmm_next_event(vmm, PATIENCE_MS, &event, NULL), 1); /* active */
	sluice_vmm_event_clear(&event);
	CU_ASSERT_EQUAL(sluice_vmm_next_event(vmm, PATIENCE_MS, &event, NULL), -EPIPE);
	CU_ASSERT_EQUAL(sluice_vmm_command(vmm, "query-status", NULL, NULL, NULL), -EPIPE);
	sluice_vmm_close(vmm);
}

static void test_time_out(void)
{
	struct sluice_error err = {0};
	struct sluice_vmm *vmm;
	pid_t pid;

	vmm = launch(NULL, &pid);
	sluice_vmm_set_timeout(vmm, 50);
	kill(pid, SIGSTOP);
	CU_ASSERT_EQUAL(sluice_vmm_command(vmm, "query-memory", NULL, NULL, &err), -ETIMEDOUT);
	UNIT_CONTAINS(err.text, "does not answer 'query-memory'");
	kill(pid, SIGCONT);
	sluice_vmm_set_timeout(vmm, PATIENCE_MS);
	for (int i = 0; i < 3; i++) {
		char *json = NULL; /* the late answer is not taken for this one */

		CU_ASSERT_EQUAL(sluice_vmm_command(vmm, "query-status", NULL, &json, NULL), 0);
		UNIT_CONTAINS(json, "running");
		free(json);
	}
	end(vmm, pid);
}

static void test_connect(void)
{
	char dir[] = "/tmp/sluice-lib-XXXXXX";
	struct sluice_error err = {0};
	struct sluice_vmm *vmm, *other;
	char path[64], *json = NULL;
	pid_t pid;

	CU_ASSERT_PTR_NOT_NULL_FATAL(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/socket", dir);
	CU_ASSERT_EQUAL(sluice_vmm_connect(path, &other, &err), -ENOENT);
	UNIT_CONTAINS(err.text, path);
	vmm = launch(path, &pid);
	CU_ASSERT_EQUAL_FATAL(sluice_vmm_connect(path, &other, NULL), 0);
	CU_ASSERT_EQUAL(sluice_vmm_command(other, "query-status", NULL, &json, NULL), 0);
	free(json);
	CU_ASSERT_EQUAL(sluice_vmm_dirty_sync_done(vmm, 1, NULL), 0); /* is the VMM now */
	err.code = 0;
	CU_ASSERT_EQUAL(sluice_vmm_dirty_sync_done(other, 1, &err), -EINVAL);
	UNIT_CONTAINS(err.text, "another connection is the VMM");
	sluice_vmm_close(other);
	end(vmm, pid);
	rmdir(dir);
}

/* ---- launching ---- */

static int try_launch(const char *path, const char *const *args, struct sluice_error *err)
{
	struct sluice_launch opts = {
		.size = sizeof(opts), .engine = path, .args = args, .log_fd = -1};
	struct sluice_vmm *vmm;
	int null_fd = open("/dev/null", O_WRONLY | O_CLOEXEC);
	int rc;

	opts.log_fd = null_fd;
	rc = sluice_vmm_launch(&opts, &vmm, NULL, err);
	close(null_fd);
	return rc;
}

static void test_launch_fails(void)
{
	static const char *const bad_args[] = {"--nonsense", "1", NULL};
	struct sluice_launch opts = {.size = 8};
	struct sluice_error err = {0};
	struct sluice_vmm *vmm;

	CU_ASSERT_EQUAL(try_launch("/nonexistent/sluiced", NULL, &err), -ENOENT);
	UNIT_CONTAINS(err.text, "cannot start /nonexistent/sluiced: No such file");
	err.code = 0;
	CU_ASSERT_EQUAL(try_launch("/dev/null", NULL, &err), -EACCES);
	err.code = 0;
	CU_ASSERT_EQUAL(try_launch(engine, bad_args, &err), -EPIPE);
	UNIT_CONTAINS(err.text, "ended with status 1 before it served us");
	err.code = 0;
	CU_ASSERT_EQUAL(try_launch("true", NULL, &err), -EPIPE); /* found by PATH */
	UNIT_CONTAINS(err.text, "true ended with status 0");
	CU_ASSERT_EQUAL(sluice_vmm_launch(&opts, &vmm, NULL, NULL), -EINVAL);
	CU_ASSERT_EQUAL(waitpid(-1, NULL, WNOHANG), -1); /* no child is left over */
	CU_ASSERT_EQUAL(errno, ECHILD);
}

/* Count what process @pid has open. */
static int count_fds_of(pid_t pid)
{
	char path[64];
	struct stat st;
	int count = 0;

	for (int fd = 0; fd < 256; fd++) {
		snprintf(path, sizeof(path), "/proc/%d/fd/%d", (int)pid, fd);
		count += lstat(path, &st) == 0;
	}
	return count;
}

/* A VMM's own descriptors do not leak into the engine, whatever their flags and numbers. */
static void test_launch_leaks_nothing(void)
{
	struct sluice_vmm *vmm;
	int leaky[20], clean;
	pid_t pid;

	vmm = launch(NULL, &pid);
	clean = count_fds_of(pid);
	end(vmm, pid);
	for (int i = 0; i < 20; i++)
		leaky[i] = open("/dev/null", O_RDONLY); /* without O_CLOEXEC, on purpose */
	vmm = launch(NULL, &pid);
	CU_ASSERT_EQUAL(count_fds_of(pid), clean);
	end(vmm, pid);
	for (int i = 0; i < 20; i++)
		close(leaky[i]);
}

int main(void)
{
	static const struct unit_test tests[] = {
		{"commands", test_commands},
		{"a VMM's commands", test_vmm_commands},
		{"events", test_events},
		{"the engine dies", test_engine_dies},
		{"time-out", test_time_out},
		{"connecting", test_connect},
		{"launch failures", test_launch_fails},
		{"nothing leaks", test_launch_leaks_nothing},
		{0},
	};

	engine = getenv("TOY_ENGINE");
	if (engine == NULL) {
		fprintf(stderr, "set TOY_ENGINE to the path of toy-engine\n");
		return 77;
	}
	return unit_run("libsluice", tests);
}
