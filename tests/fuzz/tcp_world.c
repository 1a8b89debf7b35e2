/* SPDX-License-Identifier: BSD-3-Clause */
/* tcp_world.c: see tcp_world.h. */
#include "tests/fuzz/tcp_world.h"

#include <arpa/inet.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/params.h"
#include "transports/tcp/tcp.h"

static const struct sluice_transport *const tcp = &sluice_transport_tcp;

static uint8_t *map_between_guards(size_t bytes, int fill)
{
	uint8_t *addr = mmap(
		NULL, bytes + 2 * SLUICE_PAGE_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	FUZZ_CHECK(addr != MAP_FAILED);
	addr += SLUICE_PAGE_BYTES;
	FUZZ_CHECK(mprotect(addr, bytes, PROT_READ | PROT_WRITE) == 0);
	memset(addr, fill, bytes);
	return addr;
}

static void share(struct tcp_world *w)
{
	struct sluice_span region = {TCP_REGION_ID, w->region, TCP_REGION_BYTES};
	struct sluice_span readonly = {TCP_READONLY_ID, w->readonly, TCP_REGION_BYTES};
	uint8_t key[SLUICE_KEY_BYTES_MAX];
	int bytes;

	FUZZ_CHECK(tcp->mem_register(w->rail, &region,
			   SLUICE_ACCESS_REMOTE_WRITE | SLUICE_ACCESS_LOCAL_READ, &w->region_mem,
			   NULL) == 0);
	FUZZ_CHECK(tcp->mem_register(w->rail, &readonly, SLUICE_ACCESS_LOCAL_READ, &w->readonly_mem,
			   NULL) == 0);
	tcp->mem_admit(w->region_mem, true);
	bytes = tcp->mem_export(w->region_mem, key, sizeof(key));
	FUZZ_CHECK(bytes > 0);
	FUZZ_CHECK(tcp->mem_import(w->rail, key, (size_t)bytes, &w->remote, NULL) == 0);
}

struct tcp_world *tcp_world(void)
{
	static struct tcp_world world;
	void *conf;

	if (world.rail != NULL)
		return &world;
	conf = calloc(1, tcp->conf_size);
	FUZZ_CHECK(conf != NULL);
	sluice_params_defaults(tcp->params, conf);
	FUZZ_CHECK(tcp->rail_open(conf, "127.0.0.1:0", &world.rail, NULL) == 0);
	FUZZ_CHECK(tcp->rail_listen(world.rail, world.address, NULL) == 0);
	free(conf);
	world.region = map_between_guards(TCP_REGION_BYTES, 0);
	world.readonly = map_between_guards(TCP_REGION_BYTES, TCP_READONLY);
	share(&world);
	return &world;
}

/* ---- sockets ---- */

static struct sockaddr_in loopback(const char *address)
{
	const char *colon = address != NULL ? strrchr(address, ':') : NULL;

	return (struct sockaddr_in){.sin_family = AF_INET,
		.sin_port = htons(colon != NULL ? (uint16_t)strtoul(colon + 1, NULL, 10) : 0),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
}

int tcp_world_connect(const char *address)
{
	struct sockaddr_in in = loopback(address);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	FUZZ_CHECK(fd >= 0);
	FUZZ_CHECK(connect(fd, (const struct sockaddr *)&in, sizeof(in)) == 0);
	return fd;
}

int tcp_world_listen(char address[SLUICE_ADDRESS_MAX])
{
	struct sockaddr_in in = loopback(NULL);
	socklen_t bytes = sizeof(in);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	FUZZ_CHECK(fd >= 0 && bind(fd, (const struct sockaddr *)&in, sizeof(in)) == 0);
	FUZZ_CHECK(listen(fd, 16) == 0);
	FUZZ_CHECK(getsockname(fd, (struct sockaddr *)&in, &bytes) == 0);
	snprintf(address, SLUICE_ADDRESS_MAX, "127.0.0.1:%u", ntohs(in.sin_port));
	return fd;
}

/* By a reset: thousands of connections a second would use up all ports in TIME_WAIT. */
void tcp_world_reset(int fd)
{
	struct linger linger = {.l_onoff = 1};

	setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger));
	close(fd);
}

void tcp_world_write(int fd, const void *bytes, size_t count)
{
	/* What does not fit the socket's buffer is cut off: that is hostile, too. */
	ssize_t sent = send(fd, bytes, count, MSG_NOSIGNAL | MSG_DONTWAIT);

	(void)sent;
}
