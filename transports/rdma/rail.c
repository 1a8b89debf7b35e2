/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * rail.c: a way out of this host: one address of one RDMA port, its protection domain, and the
 * tables of parameters and functions. Control thread only.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/bits.h"
#include "base/clock.h"
#include "transports/rdma/internal.h"
#include "transports/rdma/probe.h"

const struct sluice_param sluice_rdma_params[] = {
	{"path-timeout", SLUICE_PARAM_TIME, SLUICE_FIELD(struct rdma_conf, path_timeout_ns), "5s",
		.min = 100 * SLUICE_NS_PER_MS, .max = 60 * SLUICE_NS_PER_S,
		.help = "how long the NIC tries to reach a silent peer before the lane is lost; "
			"NICs round it, to a power of two times 33 us"},
	{"traffic-class", SLUICE_PARAM_UINT, SLUICE_FIELD(struct rdma_conf, traffic_class), "0",
		.min = 0, .max = 255,
		.help = "of the packets (RoCE: the IP header's DSCP and ECN bits); 0 leaves it to "
			"the system"},
	{"service-level", SLUICE_PARAM_UINT, SLUICE_FIELD(struct rdma_conf, service_level), "0",
		.min = 0, .max = 15,
		.help = "of the packets; 0 leaves it to the route and the traffic class"},
	{"registration-size", SLUICE_PARAM_SIZE, SLUICE_FIELD(struct rdma_conf, registration_bytes),
		"64M", .min = SLUICE_CHUNK_BYTES, .max = 1ull << 40,
		.help = "memory is registered in pieces of this size, rounded down to a power of "
			"two; a discard registers its piece again. At most 1000 pieces per region: "
			"they are longer where there would be more"},
	{NULL},
};

/* What a NIC sends to an address of this host may pass through a switch: nothing is local. */
static bool address_is_local(const char *address)
{
	(void)address;
	return false;
}

/* ---- opening ---- */

/* The first port that can carry lanes, when the user named none. */
static int choose_address(struct sluice_rail *rail, struct sluice_error *err)
{
	struct sluice_rail_info rails[32];
	int count = sluice_rdma_probe(&rail->conf, rails, SLUICE_ARRAY_LEN(rails), err);

	if (count < 0)
		return count;
	for (int i = 0; i < count && i < (int)SLUICE_ARRAY_LEN(rails); i++) {
		if (rails[i].usable)
			return sluice_inet_parse(rails[i].address, &rail->address, err);
	}
	return sluice_fail(err, -ENODEV, "rdma-rail", "no RDMA port can carry lanes; %s: %s",
		rails[0].device, rails[0].note);
}

static int open_channel(struct sluice_rail *rail, struct sluice_error *err)
{
	rail->channel = rdma_create_event_channel();
	if (rail->channel == NULL)
		return sluice_fail(err, errno == ENODEV ? -ENODEV : -errno, "rdma-rail",
			"this host has no RDMA connection manager (%m); load the module rdma_ucm");
	fcntl(rail->channel->fd, F_SETFL, fcntl(rail->channel->fd, F_GETFL) | O_NONBLOCK);
	return 0;
}

int sluice_rdma_rail_bind(struct sluice_rail *rail, struct sluice_error *err)
{
	char text[SLUICE_ADDRESS_MAX];
	int r;

	if (rdma_create_id(rail->channel, &rail->id, NULL, RDMA_PS_TCP) < 0) {
		rail->id = NULL;
		return sluice_fail(err, -errno, "rdma-rail", "cannot create an RDMA id: %m");
	}
	sluice_inet_format(&rail->address, text);
	r = rdma_bind_addr(rail->id, &rail->address.u.any) < 0 ? -errno : 0;
	rail->cm_verbs = r == 0 ? rail->id->verbs : NULL;
	if (rail->cm_verbs != NULL) {
		sluice_inet_set_port(&rail->address, ntohs(rdma_get_src_port(rail->id)));
		return 0;
	}
	rdma_destroy_id(rail->id);
	rail->id = NULL;
	if (r == -EADDRINUSE)
		return sluice_fail(err, r, "rdma-rail",
			"%s is in use by another program; choose another port", text);
	return sluice_fail(err, r < 0 ? r : -ENODEV, "rdma-rail",
		"%s is not an address of an RDMA port of this host; `sluice preflight` lists them",
		text);
}

int sluice_rdma_domain_open(struct sluice_rail *rail, struct sluice_error *err)
{
	const char *name;

	name = ibv_get_device_name(rail->cm_verbs->device);
	snprintf(rail->device_name, sizeof(rail->device_name), "%s", name);
	rail->numa_node = sluice_rdma_numa_node(rail->cm_verbs->device);
	rail->verbs = ibv_open_device(rail->cm_verbs->device);
	if (rail->verbs == NULL)
		return sluice_fail(err, -errno, "rdma-rail", "cannot open %s: %m", name);
	if (ibv_query_device(rail->verbs, &rail->device) != 0 ||
		ibv_query_port(rail->verbs, rail->id->port_num, &rail->port) != 0)
		return sluice_fail(err, -EIO, "rdma-rail", "%s does not tell its limits", name);
	rail->pd = ibv_alloc_pd(rail->verbs);
	if (rail->pd == NULL)
		return sluice_fail(
			err, -errno, "rdma-rail", "%s has no protection domain left: %m", name);
	rail->cell_mr =
		ibv_reg_mr(rail->pd, rail->cell, sizeof(*rail->cell), IBV_ACCESS_REMOTE_READ);
	if (rail->cell_mr == NULL)
		return sluice_fail(err, -errno, "rdma-rail",
			"cannot register memory with %s: %m; if it is the memlock limit, `ulimit "
			"-l` shows it",
			name);
	return 0;
}

void sluice_rdma_domain_close(struct sluice_rail *rail)
{
	if (rail->cell_mr != NULL)
		ibv_dereg_mr(rail->cell_mr);
	rail->cell_mr = NULL;
	if (rail->pd != NULL)
		ibv_dealloc_pd(rail->pd);
	rail->pd = NULL;
	if (rail->verbs != NULL)
		ibv_close_device(rail->verbs);
	rail->verbs = NULL;
}

static int open_cell(struct sluice_rail *rail, struct sluice_error *err)
{
	void *addr = mmap(NULL, SLUICE_PAGE_BYTES, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (addr == MAP_FAILED)
		return sluice_fail(err, -ENOMEM, "rdma-rail", "out of memory");
	rail->cell = addr;
	return 0;
}

int sluice_rdma_rail_watch(struct sluice_rail *rail, int fd)
{
	struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};

	return epoll_ctl(rail->epoll_fd, EPOLL_CTL_ADD, fd, &event);
}

static int watch_all(struct sluice_rail *rail, struct sluice_error *err)
{
	rail->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	rail->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	rail->gone_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	rail->return_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
	fcntl(rail->verbs->async_fd, F_SETFL, fcntl(rail->verbs->async_fd, F_GETFL) | O_NONBLOCK);
	if (rail->epoll_fd < 0 || rail->wake_fd < 0 || rail->gone_fd < 0 || rail->return_fd < 0 ||
		sluice_rdma_rail_watch(rail, rail->return_fd) < 0 ||
		sluice_rdma_rail_watch(rail, rail->wake_fd) < 0 ||
		sluice_rdma_rail_watch(rail, rail->channel->fd) < 0 ||
		sluice_rdma_rail_watch(rail, rail->verbs->async_fd) < 0)
		return sluice_fail(err, -errno, "rdma-rail", "cannot watch descriptors: %m");
	return 0;
}

static void rail_close(struct sluice_rail *rail)
{
	if (rail == NULL)
		return;
	SLUICE_ASSERT(rail->conns == NULL);
	sluice_rdma_mem_drain(rail);
	sluice_rdma_domain_close(rail);
	if (rail->cell != NULL)
		munmap(rail->cell, SLUICE_PAGE_BYTES);
	if (rail->id != NULL)
		rdma_destroy_id(rail->id);
	if (rail->channel != NULL)
		rdma_destroy_event_channel(rail->channel);
	if (rail->wake_fd >= 0)
		close(rail->wake_fd);
	if (rail->return_fd >= 0)
		close(rail->return_fd);
	if (rail->gone_fd >= 0)
		close(rail->gone_fd);
	if (rail->epoll_fd >= 0)
		close(rail->epoll_fd);
	free(rail);
}

static int rail_open(const void *conf, const char *address, struct sluice_rail **ret_rail,
	struct sluice_error *err)
{
	struct sluice_rail *rail = calloc(1, sizeof(*rail));
	int r;

	if (rail == NULL)
		return sluice_fail(err, -ENOMEM, "rdma-rail", "out of memory");
	rail->conf = *(const struct rdma_conf *)conf;
	rail->epoll_fd = -1;
	rail->wake_fd = -1;
	rail->gone_fd = -1;
	rail->return_fd = -1;
	if (address[0] == '\0')
		r = choose_address(rail, err);
	else
		r = sluice_inet_parse(address, &rail->address, err);
	if (r == 0)
		r = open_channel(rail, err);
	if (r == 0)
		r = sluice_rdma_rail_bind(rail, err);
	if (r == 0)
		r = open_cell(rail, err);
	if (r == 0)
		r = sluice_rdma_domain_open(rail, err);
	if (r == 0)
		r = watch_all(rail, err);
	if (r < 0) {
		rail_close(rail);
		return r;
	}
	*ret_rail = rail;
	return 0;
}

static int rail_listen(
	struct sluice_rail *rail, char ret_address[SLUICE_ADDRESS_MAX], struct sluice_error *err)
{
	char text[SLUICE_ADDRESS_MAX];

	if (rail->gone)
		return sluice_rdma_say_removed(rail, err);
	sluice_inet_format(&rail->address, text);
	if (rail->listening)
		return sluice_fail(err, -EALREADY, "rdma-rail", "%s listens already", text);
	if (rdma_listen(rail->id, RDMA_BACKLOG) < 0)
		return sluice_fail(err, -errno, "rdma-rail", "cannot listen on %s: %m", text);
	rail->listening = true;
	memcpy(ret_address, text, sizeof(text));
	return 0;
}

/* ---- the rest ---- */

static uint32_t depth_of(const struct sluice_rail *rail)
{
	uint32_t depth = RDMA_DEPTH_MAX;

	while (depth > 16 && depth + RDMA_CONTROL_REQUESTS > (uint32_t)rail->device.max_qp_wr)
		depth /= 2;
	return depth;
}

static void rail_limits(const struct sluice_rail *rail, struct sluice_rail_limits *ret_limits)
{
	*ret_limits = (struct sluice_rail_limits){
		.caps = SLUICE_CAP_REGISTERS_MEMORY | SLUICE_CAP_ONE_SIDED,
		.align_bytes = RDMA_ALIGN_BYTES,
		.op_bytes_max = RDMA_OP_BYTES_MAX,
		.depth_max = depth_of(rail),
		.send_bytes_max = RDMA_SEND_BYTES_MAX,
		.link_bytes_per_s = sluice_rdma_link_bytes_per_s(&rail->port),
		.numa_node = rail->numa_node,
	};
}

static void rail_step(struct sluice_rail *rail, uint64_t now_ns)
{
	(void)now_ns;
	sluice_rdma_cm_step(rail);
	if (rail->gone)
		sluice_rdma_rail_return(rail);
	if (rail->draining != NULL || rail->retired != NULL)
		sluice_rdma_mem_drain(rail);
}

static int rail_fd(struct sluice_rail *rail)
{
	return rail->epoll_fd;
}

static const struct sluice_rail_stats *rail_stats(const struct sluice_rail *rail)
{
	return &rail->counters;
}

const struct sluice_transport sluice_transport_rdma = {
	.abi = SLUICE_TRANSPORT_ABI,
	.size = sizeof(struct sluice_transport),
	.name = "rdma",
	.summary = "RDMA verbs; the NIC writes from guest page to guest page",
	.params = sluice_rdma_params,
	.conf_size = sizeof(struct rdma_conf),
	.probe = sluice_rdma_probe,
	.rail_open = rail_open,
	.address_is_local = address_is_local,
	.rail_close = rail_close,
	.rail_limits = rail_limits,
	.rail_listen = rail_listen,
	.rail_step = rail_step,
	.rail_fd = rail_fd,
	.rail_stats = rail_stats,
	.lock_bytes = sluice_rdma_lock_bytes,
	.mem_register = sluice_rdma_mem_register,
	.mem_unregister = sluice_rdma_mem_unregister,
	.mem_admit = sluice_rdma_mem_admit,
	.mem_discarded = sluice_rdma_mem_discarded,
	.mem_export = sluice_rdma_mem_export,
	.mem_import = sluice_rdma_mem_import,
	.mem_forget = sluice_rdma_mem_forget,
	.lane_open = sluice_rdma_lane_open,
	.lane_fence = sluice_rdma_lane_fence,
	.lane_close = sluice_rdma_lane_close,
	.lane_stats = sluice_rdma_lane_stats,
	.lane_why_lost = sluice_rdma_lane_why_lost,
	.submit = sluice_rdma_submit,
	.poll = sluice_rdma_poll,
	.arm = sluice_rdma_arm,
};
