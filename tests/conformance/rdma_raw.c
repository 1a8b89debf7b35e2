/* SPDX-License-Identifier: BSD-3-Clause */
/* rdma_raw.c: see rdma_raw.h. */
#include "tests/conformance/rdma_raw.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/inet.h"
#include "base/params.h"

#define POLL_EVENTS 8

const struct sluice_transport *raw_rdma;
char raw_source_address[SLUICE_ADDRESS_MAX], raw_target_address[SLUICE_ADDRESS_MAX];

static uint8_t *map(uint64_t bytes, int fill)
{
	uint8_t *addr =
		mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	CU_ASSERT_FATAL(addr != MAP_FAILED);
	memset(addr, fill, bytes);
	return addr;
}

/* ---- the good lane ---- */

static struct sluice_conn *open_lane(struct sluice_rail *rail, enum sluice_role role, uint32_t lane,
	int ticket, const char *peer)
{
	struct sluice_lane_opts opts = {
		.role = role,
		.lane = lane,
		.epoch = 1,
		.peer_address = peer,
		.deadline_ns = sluice_now_ns() + RAW_PATIENCE_NS,
	};
	struct sluice_conn *conn = NULL;
	struct sluice_error err = {0};

	memset(opts.ticket.secret, ticket, sizeof(opts.ticket.secret));
	if (raw_rdma->lane_open(rail, &opts, &conn, &err) < 0)
		fprintf(stderr, "lane_open: %s\n", err.text);
	CU_ASSERT_PTR_NOT_NULL_FATAL(conn);
	return conn;
}

static void pump_good(struct raw *r)
{
	struct sluice_event events[POLL_EVENTS];
	uint32_t count;

	if (r->good_source == NULL)
		return;
	count = raw_rdma->poll(r->good_source, events, POLL_EVENTS, sluice_now_ns());
	for (uint32_t i = 0; i < count; i++) {
		CU_ASSERT_NOT_EQUAL(events[i].kind, SLUICE_EVENT_LOST);
		if (events[i].kind == SLUICE_EVENT_FLUSHED)
			r->good_flushed = events[i].seq;
	}
	count = raw_rdma->poll(r->good_target, events, POLL_EVENTS, sluice_now_ns());
	for (uint32_t i = 0; i < count; i++)
		CU_ASSERT_NOT_EQUAL(events[i].kind, SLUICE_EVENT_LOST);
}

static void pump_victim(struct raw *r)
{
	struct sluice_event events[POLL_EVENTS];
	uint32_t count;

	if (r->victim == NULL)
		return;
	count = raw_rdma->poll(r->victim, events, POLL_EVENTS, sluice_now_ns());
	for (uint32_t i = 0; i < count; i++) {
		r->victim_connected |= events[i].kind == SLUICE_EVENT_CONNECTED;
		r->victim_messages += events[i].kind == SLUICE_EVENT_RECEIVED;
		if (events[i].kind == SLUICE_EVENT_LOST) {
			r->victim_lost = true;
			r->victim_status = events[i].status;
		}
	}
}

void raw_pump(struct raw *r)
{
	raw_rdma->rail_step(r->source_rail, sluice_now_ns());
	raw_rdma->rail_step(r->target_rail, sluice_now_ns());
	pump_good(r);
	pump_victim(r);
	usleep(50);
}

void raw_check(struct raw *r)
{
	uint64_t offset = r->good_seq % 64 * 4096;
	struct sluice_op ops[] = {
		{.kind = SLUICE_OP_WRITE,
			.len_bytes = 4096,
			.seq = ++r->good_seq,
			.local = r->local + offset,
			.mem = r->local_mem,
			.remote = r->remote,
			.remote_offset = offset},
		{.kind = SLUICE_OP_FLUSH, .seq = ++r->good_seq},
	};

	memcpy(r->model + offset, r->local + offset, 4096);
	CU_ASSERT(RAW_WAIT(r, raw_rdma->submit(r->good_source, ops, 2, sluice_now_ns()) == 2));
	CU_ASSERT(RAW_WAIT(r, r->good_flushed == r->good_seq));
	CU_ASSERT(memcmp(r->region, r->model, RAW_REGION_BYTES) == 0);
	for (uint64_t i = 0; i < RAW_REGION_BYTES; i++) {
		if (r->secret[i] != 0x5c || r->local[i] != 0x10) {
			CU_FAIL("memory has changed that is nobody's to write");
			break;
		}
	}
}

/* ---- rails and memory ---- */

static uint32_t export_key(struct sluice_mem *mem, struct rdma_key *ret_head)
{
	uint8_t key[SLUICE_KEY_BYTES_MAX];
	sluice_le32 rkey;
	int bytes = raw_rdma->mem_export(mem, key, sizeof(key));

	CU_ASSERT_FATAL(bytes == (int)(sizeof(*ret_head) + sizeof(rkey)));
	memcpy(ret_head, key, sizeof(*ret_head));
	memcpy(&rkey, key + sizeof(*ret_head), sizeof(rkey));
	return sluice_get32(rkey);
}

static void share_memory(struct raw *r)
{
	const struct sluice_span region = {RAW_REGION_ID, r->region, RAW_REGION_BYTES};
	const struct sluice_span secret = {RAW_SECRET_ID, r->secret, RAW_REGION_BYTES};
	const struct sluice_span local = {1, r->local, RAW_REGION_BYTES};
	uint32_t both = SLUICE_ACCESS_LOCAL_READ | SLUICE_ACCESS_REMOTE_WRITE;
	uint8_t key[SLUICE_KEY_BYTES_MAX];
	int bytes;

	CU_ASSERT_EQUAL_FATAL(
		raw_rdma->mem_register(r->target_rail, &region, both, &r->region_mem, NULL), 0);
	CU_ASSERT_EQUAL_FATAL(raw_rdma->mem_register(r->target_rail, &secret,
				      SLUICE_ACCESS_LOCAL_READ, &r->secret_mem, NULL),
		0);
	/* As an engine registers a guest: it may be a target tomorrow. */
	CU_ASSERT_EQUAL_FATAL(
		raw_rdma->mem_register(r->source_rail, &local, both, &r->local_mem, NULL), 0);
	raw_rdma->mem_admit(r->region_mem, true);
	r->rkey = export_key(r->region_mem, &r->key);
	r->secret_rkey = export_key(r->secret_mem, &r->secret_key);
	bytes = raw_rdma->mem_export(r->region_mem, key, sizeof(key));
	CU_ASSERT_EQUAL_FATAL(
		raw_rdma->mem_import(r->source_rail, key, (size_t)bytes, &r->remote, NULL), 0);
}

bool raw_open(struct raw *r)
{
	struct sluice_error err = {0};
	struct rdma_conf conf;

	*r = (struct raw){0};
	sluice_params_defaults(sluice_rdma_params, &conf);
	conf.path_timeout_ns = SLUICE_NS_PER_S; /* some cases wait for it */
	if (raw_rdma->rail_open(&conf, raw_source_address, &r->source_rail, &err) < 0 ||
		raw_rdma->rail_open(&conf, raw_target_address, &r->target_rail, &err) < 0 ||
		raw_rdma->rail_listen(r->target_rail, r->address, &err) < 0) {
		fprintf(stderr, "rdma: %s\n", err.text);
		CU_FAIL_FATAL("no rails");
	}
	r->region = map(RAW_REGION_BYTES, 0xa5);
	r->model = map(RAW_REGION_BYTES, 0xa5);
	r->local = map(RAW_REGION_BYTES, 0x10);
	r->secret = map(RAW_REGION_BYTES, 0x5c);
	share_memory(r);
	r->good_target = open_lane(r->target_rail, SLUICE_ROLE_TARGET, 1, 0x11, NULL);
	r->good_source = open_lane(r->source_rail, SLUICE_ROLE_SOURCE, 1, 0x11, r->address);
	raw_check(r);
	return true;
}

void raw_close(struct raw *r)
{
	raw_disconnect(r);
	raw_victim_close(r);
	raw_rdma->lane_close(r->good_source);
	raw_rdma->lane_close(r->good_target);
	raw_rdma->mem_forget(r->remote);
	raw_rdma->mem_unregister(r->region_mem);
	raw_rdma->mem_unregister(r->secret_mem);
	raw_rdma->mem_unregister(r->local_mem);
	raw_rdma->rail_close(r->source_rail);
	raw_rdma->rail_close(r->target_rail);
	munmap(r->region, RAW_REGION_BYTES);
	munmap(r->model, RAW_REGION_BYTES);
	munmap(r->local, RAW_REGION_BYTES);
	munmap(r->secret, RAW_REGION_BYTES);
}

/* ---- the victim ---- */

void raw_victim_open(struct raw *r, enum sluice_role role)
{
	char address[SLUICE_ADDRESS_MAX] = "";
	struct sluice_inet inet;

	r->victim_connected = r->victim_lost = false;
	r->victim_messages = 0;
	if (role == SLUICE_ROLE_SOURCE) {
		CU_ASSERT_EQUAL_FATAL(sluice_inet_parse(raw_target_address, &inet, NULL), 0);
		sluice_inet_set_port(&inet, ntohs(rdma_get_src_port(r->listener)));
		sluice_inet_format(&inet, address);
	}
	r->victim = open_lane(role == SLUICE_ROLE_TARGET ? r->target_rail : r->source_rail, role,
		RAW_VICTIM_LANE, RAW_VICTIM_TICKET, address);
}

void raw_victim_close(struct raw *r)
{
	raw_rdma->lane_close(r->victim);
	r->victim = NULL;
}

void raw_hello(struct rdma_hello *ret_hello)
{
	*ret_hello = (struct rdma_hello){
		.magic = sluice_put32(RDMA_HELLO_MAGIC),
		.version = sluice_put16(RDMA_WIRE_VERSION),
		.receives = sluice_put16(RDMA_RECEIVES),
		.lane = sluice_put32(RAW_VICTIM_LANE),
		.epoch = sluice_put32(1),
	};
	memset(ret_hello->ticket, RAW_VICTIM_TICKET, sizeof(ret_hello->ticket));
}

/* ---- our own end ---- */

static void open_channel(struct raw *r)
{
	r->channel = rdma_create_event_channel();
	CU_ASSERT_PTR_NOT_NULL_FATAL(r->channel);
	fcntl(r->channel->fd, F_SETFL, O_NONBLOCK);
}

/* The next event of ours. Its private data stays in @ret_welcome where there is any. */
static enum rdma_cm_event_type next_event(struct raw *r, struct rdma_welcome *ret_welcome)
{
	enum rdma_cm_event_type type = RDMA_CM_EVENT_TIMEWAIT_EXIT;
	struct rdma_cm_event *event = NULL;

	if (!RAW_WAIT(r, rdma_get_cm_event(r->channel, &event) == 0))
		return type;
	type = event->event;
	if (type == RDMA_CM_EVENT_CONNECT_REQUEST)
		r->id = event->id;
	if (ret_welcome != NULL && event->param.conn.private_data_len >= sizeof(*ret_welcome))
		memcpy(ret_welcome, event->param.conn.private_data, sizeof(*ret_welcome));
	rdma_ack_cm_event(event);
	return type;
}

/* rdma_cm's own queue pair: it lets our victim write here, which is more than it needs. */
static void open_verbs(struct raw *r)
{
	struct ibv_qp_init_attr attr = {
		.cap = {.max_send_wr = 256,
			.max_recv_wr = RDMA_RECEIVES,
			.max_send_sge = 1,
			.max_recv_sge = 1},
		.qp_type = IBV_QPT_RC,
		.sq_sig_all = 1,
	};
	struct ibv_sge sge;
	struct ibv_recv_wr request = {.sg_list = &sge, .num_sge = 1}, *bad;

	r->buffer = map(RAW_BUFFER_BYTES, 0x77);
	r->cq = ibv_create_cq(r->id->verbs, 512, NULL, NULL, 0);
	CU_ASSERT_PTR_NOT_NULL_FATAL(r->cq);
	attr.send_cq = attr.recv_cq = r->cq;
	CU_ASSERT_EQUAL_FATAL(rdma_create_qp(r->id, NULL, &attr), 0);
	r->mr = ibv_reg_mr(r->id->pd, r->buffer, RAW_BUFFER_BYTES,
		IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ);
	CU_ASSERT_PTR_NOT_NULL_FATAL(r->mr);
	/* Whatever comes lands in the upper half. */
	sge = (struct ibv_sge){(uintptr_t)r->buffer + RAW_BUFFER_BYTES / 2, 1024, r->mr->lkey};
	for (uint32_t i = 0; i < RDMA_RECEIVES; i++)
		CU_ASSERT_EQUAL(ibv_post_recv(r->id->qp, &request, &bad), 0);
	r->messages = 0;
}

bool raw_connect(struct raw *r, const void *hello, uint8_t bytes)
{
	struct rdma_conn_param param = {
		.private_data = hello,
		.private_data_len = bytes,
		.initiator_depth = 4,
		.responder_resources = 4,
		.retry_count = 2,
		.rnr_retry_count = 2,
	};
	struct rdma_welcome welcome = {0};
	struct sluice_inet from, to;

	CU_ASSERT_EQUAL_FATAL(sluice_inet_parse(raw_source_address, &from, NULL), 0);
	CU_ASSERT_EQUAL_FATAL(sluice_inet_parse(r->address, &to, NULL), 0);
	open_channel(r);
	CU_ASSERT_EQUAL_FATAL(rdma_create_id(r->channel, &r->id, NULL, RDMA_PS_TCP), 0);
	CU_ASSERT_EQUAL_FATAL(rdma_resolve_addr(r->id, &from.u.any, &to.u.any, 2000), 0);
	CU_ASSERT_EQUAL_FATAL(next_event(r, NULL), RDMA_CM_EVENT_ADDR_RESOLVED);
	CU_ASSERT_EQUAL_FATAL(rdma_resolve_route(r->id, 2000), 0);
	CU_ASSERT_EQUAL_FATAL(next_event(r, NULL), RDMA_CM_EVENT_ROUTE_RESOLVED);
	open_verbs(r);
	CU_ASSERT_EQUAL_FATAL(rdma_connect(r->id, &param), 0);
	if (next_event(r, &welcome) != RDMA_CM_EVENT_ESTABLISHED)
		return false;
	r->cell_rkey = sluice_get32(welcome.cell_rkey);
	return true;
}

bool raw_be_source(struct raw *r)
{
	struct rdma_hello hello;
	bool yes;

	raw_hello(&hello);
	raw_victim_open(r, SLUICE_ROLE_TARGET);
	yes = raw_connect(r, &hello, sizeof(hello)) && RAW_WAIT(r, r->victim_connected);
	CU_ASSERT(yes);
	return yes;
}

bool raw_be_target(struct raw *r, const struct rdma_welcome *welcome)
{
	struct rdma_welcome right = {
		.magic = sluice_put32(RDMA_WELCOME_MAGIC),
		.version = sluice_put16(RDMA_WIRE_VERSION),
		.receives = sluice_put16(RDMA_RECEIVES),
		.lane = sluice_put32(RAW_VICTIM_LANE),
		.epoch = sluice_put32(1),
	};
	struct rdma_conn_param param = {
		.private_data = welcome != NULL ? welcome : &right,
		.private_data_len = sizeof(right),
		.responder_resources = 4,
		.initiator_depth = 4,
		.rnr_retry_count = 2,
	};
	struct sluice_inet at;

	CU_ASSERT_EQUAL_FATAL(sluice_inet_parse(raw_target_address, &at, NULL), 0);
	open_channel(r);
	CU_ASSERT_EQUAL_FATAL(rdma_create_id(r->channel, &r->listener, NULL, RDMA_PS_TCP), 0);
	CU_ASSERT_EQUAL_FATAL(rdma_bind_addr(r->listener, &at.u.any), 0);
	CU_ASSERT_EQUAL_FATAL(rdma_listen(r->listener, 4), 0);
	raw_victim_open(r, SLUICE_ROLE_SOURCE);
	CU_ASSERT_EQUAL_FATAL(next_event(r, NULL), RDMA_CM_EVENT_CONNECT_REQUEST);
	open_verbs(r);
	right.cell_address = sluice_put64((uintptr_t)r->buffer);
	right.cell_rkey = sluice_put32(r->mr->rkey);
	CU_ASSERT_EQUAL_FATAL(rdma_accept(r->id, &param), 0);
	return next_event(r, NULL) == RDMA_CM_EVENT_ESTABLISHED && RAW_WAIT(r, r->victim_connected);
}

void raw_disconnect(struct raw *r)
{
	if (r->id != NULL) {
		if (r->id->qp != NULL)
			rdma_destroy_qp(r->id);
		if (r->mr != NULL)
			ibv_dereg_mr(r->mr);
		if (r->cq != NULL)
			ibv_destroy_cq(r->cq);
		if (r->buffer != NULL)
			munmap(r->buffer, RAW_BUFFER_BYTES);
		rdma_destroy_id(r->id);
	}
	if (r->listener != NULL)
		rdma_destroy_id(r->listener);
	if (r->channel != NULL)
		rdma_destroy_event_channel(r->channel);
	r->id = r->listener = NULL;
	r->mr = NULL;
	r->cq = NULL;
	r->buffer = NULL;
	r->channel = NULL;
}

/* ---- posting ---- */

static bool reap(struct raw *r, enum ibv_wc_status *ret_status)
{
	struct ibv_wc wc;

	while (ibv_poll_cq(r->cq, 1, &wc) > 0) {
		if (wc.wr_id != 1)
			continue; /* a receive */
		*ret_status = wc.status;
		return true;
	}
	return false;
}

enum ibv_wc_status raw_post(struct raw *r, struct ibv_send_wr *request, uint32_t bytes)
{
	struct ibv_sge sge = {(uintptr_t)r->buffer, bytes, r->mr->lkey};
	enum ibv_wc_status status = IBV_WC_GENERAL_ERR;
	struct ibv_send_wr *bad;

	request->wr_id = 1;
	request->sg_list = &sge;
	request->num_sge = 1;
	CU_ASSERT_EQUAL(ibv_post_send(r->id->qp, request, &bad), 0);
	CU_ASSERT(RAW_WAIT(r, reap(r, &status)));
	return status;
}

enum ibv_wc_status raw_write(struct raw *r, uint64_t address, uint32_t rkey, uint32_t bytes)
{
	struct ibv_send_wr request = {
		.opcode = IBV_WR_RDMA_WRITE,
		.wr.rdma = {.remote_addr = address, .rkey = rkey},
	};

	return raw_post(r, &request, bytes);
}

enum ibv_wc_status raw_read(struct raw *r, uint64_t address, uint32_t rkey, uint32_t bytes)
{
	struct ibv_send_wr request = {
		.opcode = IBV_WR_RDMA_READ,
		.wr.rdma = {.remote_addr = address, .rkey = rkey},
	};

	return raw_post(r, &request, bytes);
}

enum ibv_wc_status raw_send(struct raw *r, const void *bytes, uint32_t count)
{
	struct ibv_send_wr request = {.opcode = IBV_WR_SEND};

	memcpy(r->buffer, bytes, count);
	r->messages++;
	return raw_post(r, &request, count);
}
