/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * driver_tcp.c: the suite over two tcp rails on the loopback interface, in real time, over
 * IPv4 and over IPv6 when the host has it.
 */
#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/params.h"
#include "tests/conformance/conformance.h"
#include "transports/tcp/tcp.h"

static const char *address;
static struct tcp_conf conf;

static int pair_open(struct conformance_pair *pair)
{
	return conformance_rails_open(pair, &conf, "", address);
}

static uint64_t now_ns(struct conformance_pair *pair)
{
	(void)pair;
	return sluice_now_ns();
}

static void turn(struct conformance_pair *pair, uint64_t ns_max)
{
	(void)ns_max;
	pair->transport->rail_step(pair->source, sluice_now_ns());
	pair->transport->rail_step(pair->target, sluice_now_ns());
}

static bool has_ipv6(void)
{
	const struct sockaddr_in6 in6 = {
		.sin6_family = AF_INET6,
		.sin6_addr = IN6ADDR_LOOPBACK_INIT,
	};
	int fd = socket(AF_INET6, SOCK_STREAM, 0);
	bool yes = fd >= 0 && bind(fd, (const struct sockaddr *)&in6, sizeof(in6)) == 0;

	if (fd >= 0)
		close(fd);
	return yes;
}

/* Arguments are settings of both rails, such as zero-copy=yes. */
int main(int argc, char **argv)
{
	static const struct conformance_driver driver = {
		.name = "tcp",
		.transport = &sluice_transport_tcp,
		.flags = CONFORMANCE_OVERLAPS_IN_ORDER,
		.pair_open = pair_open,
		.pair_close = conformance_rails_close,
		.now_ns = now_ns,
		.turn = turn,
	};
	struct sluice_error err = {0};
	int failed;

	sluice_params_defaults(sluice_tcp_params, &conf);
	for (int i = 1; i < argc; i++) {
		if (sluice_params_assign(sluice_tcp_params, &conf, argv[i], &err) < 0) {
			fprintf(stderr, "tcp: %s\n", err.text);
			return 1;
		}
	}
	address = "127.0.0.1:0";
	failed = conformance_main(&driver);
	if (!has_ipv6()) {
		printf("IPv6 left out: this host has no [::1]\n");
		return failed;
	}
	address = "[::1]:0";
	return conformance_main(&driver) | failed;
}
