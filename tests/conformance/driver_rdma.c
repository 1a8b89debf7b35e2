/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * driver_rdma.c: the suite over two rdma rails in real time. They need two RDMA ports that reach
 * each other, such as two rxe devices on the ends of a veth pair (scripts/rxe-setup); without
 * them the suite is skipped.
 *
 * One-sided writes land whoever polls, so writes are held by cutting the wire: the kernel is told
 * not to accept packets that come to the target's interface from an address of this host.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/params.h"
#include "tests/conformance/conformance.h"
#include "tests/conformance/rdma_ports.h"
#include "transports/rdma/rdma.h"

#define SKIPPED 77

static char source_address[SLUICE_ADDRESS_MAX], target_address[SLUICE_ADDRESS_MAX];
static char target_interface[64];
static struct rdma_conf conf;

static void write_setting(const char *interface, bool accept)
{
	char path[160];
	FILE *file;

	snprintf(path, sizeof(path), "/proc/sys/net/ipv4/conf/%s/accept_local", interface);
	file = fopen(path, "we");
	if (file == NULL || fputs(accept ? "1" : "0", file) < 0 || fclose(file) != 0) {
		fprintf(stderr, "rdma: cannot write %s: %s\n", path, strerror(errno));
		_exit(1); /* every case behind would fail for this reason */
	}
}

/* The setting of "all" would overrule that of the interface: it was turned off in main(). */
static void cut_wire(bool cut)
{
	write_setting(target_interface, !cut);
}

static int pair_open(struct conformance_pair *pair)
{
	cut_wire(false);
	return conformance_rails_open(pair, &conf, source_address, target_address);
}

static void pair_close(struct conformance_pair *pair)
{
	conformance_rails_close(pair);
	cut_wire(false);
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

static void hold(struct conformance_pair *pair, bool hold)
{
	(void)pair;
	cut_wire(hold);
}

static void kill_peer(struct conformance_pair *pair, struct sluice_conn *conn)
{
	(void)pair;
	(void)conn;
	cut_wire(true);
}

/* Arguments are settings of both rails, such as registration-size=2M. */
int main(int argc, char **argv)
{
	static const struct conformance_driver driver = {
		.name = "rdma",
		.transport = &sluice_transport_rdma,
		.flags = CONFORMANCE_PLACED_UNSEEN | CONFORMANCE_OVERLAPS_IN_ORDER |
			 CONFORMANCE_KEYS_STAY,
		.pair_open = pair_open,
		.pair_close = pair_close,
		.now_ns = now_ns,
		.turn = turn,
		.hold = hold,
		.kill_peer = kill_peer,
	};
	struct sluice_error err = {0};
	uint32_t network;
	int status;

	setvbuf(stdout, NULL, _IOLBF, 0);
	sluice_params_defaults(sluice_rdma_params, &conf);
	for (int i = 1; i < argc; i++) {
		if (sluice_params_assign(sluice_rdma_params, &conf, argv[i], &err) < 0) {
			fprintf(stderr, "rdma: %s\n", err.text);
			return 1;
		}
	}
	status = rdma_ports_find(source_address, target_address);
	if (status != 0 || !rdma_ports_interface(target_address, target_interface, &network))
		return status;
	if (geteuid() != 0) {
		printf("skipped: cutting a wire needs root\n");
		return SKIPPED;
	}
	write_setting("all", false);
	return conformance_main(&driver);
}
