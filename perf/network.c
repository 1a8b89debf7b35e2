/* SPDX-License-Identifier: BSD-3-Clause */
/* network.c: see network.h. Netlink: sock_diag(7). */
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/bits.h"
#include "perf/network.h"
#include "perf/process.h"

#define COMMAND_TIMEOUT_MS 10000
#define CONNECTIONS_MAX    1024
#define ANSWER_BYTES       32768
#define LINE_BYTES         512

/* ---- a loopback of our own ---- */

static int run(char *const argv[], const char *log_dir, struct sluice_error *err)
{
	char log_path[PERF_LOG_PATH_MAX];
	struct perf_process process;
	int r;

	snprintf(log_path, sizeof(log_path), "%s/network.log", log_dir);
	r = perf_process_start(&process, argv[0], log_path, argv, err);
	if (r < 0)
		return r;
	if (!perf_process_wait(&process, COMMAND_TIMEOUT_MS)) {
		perf_process_end(&process);
		return sluice_fail(err, -ETIMEDOUT, "network", "%s does not end", argv[0]);
	}
	if (process.exit_status != 0) {
		perf_process_print_tail(&process, 3, stderr);
		return sluice_fail(err, -ENOENT, "network",
			"%s could not limit the loopback; install iproute2 and use a kernel with "
			"the queueing discipline tbf",
			argv[0]);
	}
	return 0;
}

int perf_network_limit(const char *rate, const char *log_dir, struct sluice_error *err)
{
	char ip[] = "ip", link[] = "link", set[] = "set", lo[] = "lo", up[] = "up";
	char tc[] = "tc", qdisc[] = "qdisc", add[] = "add", dev[] = "dev", root[] = "root",
	     tbf[] = "tbf", rate_[] = "rate", burst[] = "burst", bytes[] = "512kb",
	     latency[] = "latency", time[] = "10ms", value[64];
	char *const bring_up[] = {ip, link, set, lo, up, NULL};
	char *const limit[] = {tc, qdisc, add, dev, lo, root, tbf, rate_, value, burst, bytes,
		latency, time, NULL};
	int r;

	snprintf(value, sizeof(value), "%s", rate);
	if (unshare(CLONE_NEWNET) < 0)
		return sluice_fail(err, -EPERM, "network", "a network of its own needs root: %s",
			strerror(errno));
	r = run(bring_up, log_dir, err);
	return r == 0 ? run(limit, log_dir, err) : r;
}

/* ---- who listens where ---- */

/* Whether one of the process's descriptors is the socket with that inode. */
static bool owns_socket(pid_t pid, unsigned long long inode)
{
	char dir_path[64], path[128], want[64], got[64];
	struct dirent *entry;
	bool found = false;
	DIR *dir;

	snprintf(dir_path, sizeof(dir_path), "/proc/%d/fd", (int)pid);
	snprintf(want, sizeof(want), "socket:[%llu]", inode);
	dir = opendir(dir_path);
	while (dir != NULL && !found && (entry = readdir(dir)) != NULL) {
		ssize_t n;

		snprintf(path, sizeof(path), "%s/%.32s", dir_path, entry->d_name);
		n = readlink(path, got, sizeof(got) - 1);
		got[n > 0 ? n : 0] = '\0';
		found = strcmp(got, want) == 0;
	}
	if (dir != NULL)
		closedir(dir);
	return found;
}

uint16_t perf_network_listener(pid_t pid, uint16_t other)
{
	FILE *file = fopen("/proc/net/tcp", "re");
	uint16_t found = 0;
	char line[LINE_BYTES];

	while (file != NULL && found == 0 && fgets(line, sizeof(line), file) != NULL) {
		unsigned int port, state;
		unsigned long long inode;

		if (sscanf(line, " %*u: %*x:%x %*x:%*x %x %*x:%*x %*x:%*x %*x %*u %*u %llu", &port,
			    &state, &inode) == 3 &&
			state == TCP_LISTEN && port != other && owns_socket(pid, inode))
			found = (uint16_t)port;
	}
	if (file != NULL)
		fclose(file);
	return found;
}

/* ---- connections that break ---- */

struct request {
	struct nlmsghdr header;
	struct inet_diag_req_v2 body;
};

static int ask(int fd, uint16_t type, uint16_t flags, const struct inet_diag_sockid *id)
{
	struct request request = {
		.header = {.nlmsg_len = sizeof(request),
			.nlmsg_type = type,
			.nlmsg_flags = (uint16_t)(NLM_F_REQUEST | flags)},
		.body = {.sdiag_family = AF_INET,
			.sdiag_protocol = IPPROTO_TCP,
			.idiag_states = 1u << TCP_ESTABLISHED},
	};

	if (id != NULL)
		request.body.id = *id;
	return send(fd, &request, sizeof(request), 0) < 0 ? -errno : 0;
}

/* The established connections whose own end is @port. Returns their number. */
static int list_connections(int fd, uint16_t port, struct inet_diag_sockid *ids)
{
	_Alignas(struct nlmsghdr) uint8_t answer[ANSWER_BYTES];
	int count = 0, r = ask(fd, SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, NULL);

	while (r == 0) {
		ssize_t got = recv(fd, answer, sizeof(answer), 0);
		struct nlmsghdr *header = (struct nlmsghdr *)(void *)answer;

		if (got < 0)
			return -errno;
		for (; NLMSG_OK(header, got); header = NLMSG_NEXT(header, got)) {
			const struct inet_diag_msg *message = NLMSG_DATA(header);

			if (header->nlmsg_type == NLMSG_DONE)
				return count;
			if (header->nlmsg_type == NLMSG_ERROR)
				return -EIO;
			if (ntohs(message->id.idiag_sport) == port && count < CONNECTIONS_MAX)
				ids[count++] = message->id;
		}
	}
	return r;
}

/* 1: it is broken, 0: it was gone already. */
static int destroy(int fd, const struct inet_diag_sockid *id)
{
	struct {
		struct nlmsghdr header;
		struct nlmsgerr body;
	} answer;
	int r = ask(fd, SOCK_DESTROY, NLM_F_ACK, id);

	if (r == 0 && recv(fd, &answer, sizeof(answer), 0) < 0)
		r = -errno;
	if (r < 0)
		return r;
	if (answer.body.error == -ENOENT)
		return 0;
	return answer.body.error == 0 ? 1 : answer.body.error;
}

int perf_network_cut(uint16_t port, int which, struct sluice_error *err)
{
	static struct inet_diag_sockid ids[CONNECTIONS_MAX];
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
	int count, broken = 0, r = 0;

	if (fd < 0)
		return sluice_fail(err, -errno, "network", "netlink: %s", strerror(errno));
	count = list_connections(fd, port, ids);
	if (count < 0)
		r = count;
	for (int i = 0; r >= 0 && i < count; i++) {
		if (which >= 0 && i != which % count)
			continue;
		r = destroy(fd, &ids[i]);
		broken += r > 0;
	}
	close(fd);
	if (r < 0)
		return sluice_fail(
			err, r, "network", "connections cannot be broken here: %s", strerror(-r));
	return broken;
}
