/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * cm.c: rdma_cm: who connects, who is let in, and how a connection ends. Control thread only.
 *
 * The queue pairs are our own and not rdma_cm's: a source's gives the peer no right to read or
 * write at all, from its first moment on. A stranger learns nothing: whatever is wrong with its
 * hello, it sees a rejected request.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/secret.h"
#include "transports/rdma/internal.h"

#define RNR_TIMER   12u /* 0.64 ms; credits see to it that nobody ever waits for it */
#define RNR_RETRIES 3u

static void wake(const struct sluice_conn *conn)
{
	uint64_t one = 1;

	if (write(conn->opened_fd, &one, sizeof(one)) < 0)
		SLUICE_ASSERT(errno == EAGAIN);
}

void sluice_rdma_cm_fail(struct sluice_conn *conn, int status, const char *fmt, ...)
{
	int opening = RDMA_OPENING;
	va_list ap;

	SLUICE_ASSERT(status < 0);
	if (atomic_load(&conn->failed_status) != 0)
		return;
	va_start(ap, fmt);
	vsnprintf(conn->why, sizeof(conn->why), fmt, ap);
	va_end(ap);
	atomic_store(&conn->failed_status, status);
	atomic_compare_exchange_strong(&conn->phase, &opening, RDMA_FAILED);
	wake(conn);
}

/* ---- the queue pair's states ---- */

/* The NIC tries RDMA_RETRIES + 1 times, each 4.096 us << the exponent. */
static uint8_t timeout_exponent(uint64_t path_timeout_ns)
{
	uint8_t exponent = 1;

	while (exponent < 31 && (4096ull << (exponent + 1)) * (RDMA_RETRIES + 1) <= path_timeout_ns)
		exponent++;
	return exponent;
}

static int qp_to(struct sluice_conn *conn, enum ibv_qp_state state, uint32_t reads)
{
	bool target = conn->role == SLUICE_ROLE_TARGET;
	struct ibv_qp_attr attr = {.qp_state = state};
	int mask;

	if (rdma_init_qp_attr(conn->id, &attr, &mask) < 0)
		return -errno;
	if (mask & IBV_QP_ACCESS_FLAGS)
		attr.qp_access_flags =
			target ? IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ : 0;
	if (state == IBV_QPS_RTR) {
		attr.min_rnr_timer = RNR_TIMER;
		attr.max_dest_rd_atomic = (uint8_t)(target ? reads : 0);
		if (conn->rail->conf.service_level != 0)
			attr.ah_attr.sl = (uint8_t)conn->rail->conf.service_level;
	}
	if (state == IBV_QPS_RTS) {
		attr.timeout = timeout_exponent(conn->rail->conf.path_timeout_ns);
		attr.retry_cnt = RDMA_RETRIES;
		attr.rnr_retry = RNR_RETRIES;
		if (target)
			attr.max_rd_atomic = 0;
	}
	return -ibv_modify_qp(conn->qp, &attr, mask);
}

static int qp_start(struct sluice_conn *conn)
{
	int r = qp_to(conn, IBV_QPS_INIT, 0);

	return r < 0 ? r : sluice_rdma_receives_post_all(conn);
}

static int qp_run(struct sluice_conn *conn, uint32_t reads)
{
	int r = qp_to(conn, IBV_QPS_RTR, reads);

	return r < 0 ? r : qp_to(conn, IBV_QPS_RTS, reads);
}

/* What waits in the queue pair completes with an error then, which wakes the worker. */
void sluice_rdma_cm_disconnect(struct sluice_conn *conn)
{
	struct ibv_qp_attr attr = {.qp_state = IBV_QPS_ERR};

	if (conn->disconnected || conn->qp == NULL)
		return;
	conn->disconnected = true;
	ibv_modify_qp(conn->qp, &attr, IBV_QP_STATE);
	if (conn->id != NULL)
		rdma_disconnect(conn->id);
}

/* ---- SOURCE ---- */

static void set_traffic_class(const struct sluice_rail *rail, struct rdma_cm_id *id)
{
	uint8_t class = (uint8_t)rail->conf.traffic_class;

	/* It cannot make a lane wrong: a failure is not an error. */
	if (class != 0)
		rdma_set_option(id, RDMA_OPTION_ID, RDMA_OPTION_ID_TOS, &class, sizeof(class));
}

int sluice_rdma_cm_connect(
	struct sluice_conn *conn, const char *peer_address, struct sluice_error *err)
{
	struct sluice_rail *rail = conn->rail;
	struct sluice_inet local = rail->address;
	char text[SLUICE_ADDRESS_MAX];
	int r = sluice_inet_parse(peer_address, &conn->peer, err);

	if (r < 0)
		return r;
	if (sluice_inet_port(&conn->peer) == 0)
		return sluice_fail(err, -EINVAL, "rdma-lane", "%s has no port", peer_address);
	if (rdma_create_id(rail->channel, &conn->id, conn, RDMA_PS_TCP) < 0)
		return sluice_fail(err, -errno, "rdma-lane", "cannot create an RDMA id: %m");
	sluice_inet_set_port(&local, 0);
	set_traffic_class(rail, conn->id);
	/* The address decides which port of which NIC a lane leaves from. */
	if (rdma_bind_addr(conn->id, &local.u.any) < 0) {
		sluice_inet_format(&local, text);
		return sluice_fail(err, -errno, "rdma-lane", "cannot leave from %s: %m", text);
	}
	if (rdma_resolve_addr(conn->id, NULL, &conn->peer.u.any, RDMA_RESOLVE_MS) < 0)
		return sluice_fail(
			err, -errno, "rdma-lane", "cannot look for %s: %m", peer_address);
	return 0;
}

static void on_address(struct sluice_conn *conn)
{
	if (conn->id->verbs != conn->rail->cm_verbs)
		sluice_rdma_cm_fail(conn, -ENODEV, "its route leads over another device");
	else if (rdma_resolve_route(conn->id, RDMA_RESOLVE_MS) < 0)
		sluice_rdma_cm_fail(conn, -errno, "no route: %s", strerror(errno));
}

static void on_route(struct sluice_conn *conn)
{
	struct rdma_conn_param param = {
		.private_data = &conn->hello,
		.private_data_len = sizeof(conn->hello),
		.initiator_depth = RDMA_READS_MAX,
		.flow_control = 1,
		.retry_count = RDMA_RETRIES,
		.rnr_retry_count = RNR_RETRIES,
		.qp_num = conn->qp_number,
	};
	int r = qp_start(conn);

	if ((uint32_t)conn->rail->device.max_qp_init_rd_atom < RDMA_READS_MAX)
		param.initiator_depth = (uint8_t)conn->rail->device.max_qp_init_rd_atom;
	if (r < 0)
		sluice_rdma_cm_fail(conn, r, "the queue pair cannot be set up: %s", strerror(-r));
	else if (rdma_connect(conn->id, &param) < 0)
		sluice_rdma_cm_fail(conn, -errno, "cannot connect: %s", strerror(errno));
}

static bool take_welcome(struct sluice_conn *conn, const struct rdma_news *news)
{
	const struct rdma_hello *hello = &conn->hello;
	struct rdma_welcome welcome;

	if (news->private_bytes < sizeof(welcome))
		return false;
	memcpy(&welcome, news->private_data, sizeof(welcome));
	conn->cell_address = sluice_get64(welcome.cell_address);
	conn->cell_rkey = sluice_get32(welcome.cell_rkey);
	return sluice_get32(welcome.magic) == RDMA_WELCOME_MAGIC &&
	       sluice_get16(welcome.version) == RDMA_WIRE_VERSION &&
	       sluice_get16(welcome.receives) == RDMA_RECEIVES &&
	       welcome.lane.raw == hello->lane.raw && welcome.epoch.raw == hello->epoch.raw &&
	       welcome.reserved.raw == 0;
}

static void ready(struct sluice_conn *conn)
{
	int opening = RDMA_OPENING;

	/* Fails when the worker has just given up waiting. */
	if (atomic_compare_exchange_strong(&conn->phase, &opening, RDMA_READY))
		wake(conn);
	else
		sluice_rdma_cm_disconnect(conn);
}

static void on_response(struct sluice_conn *conn, const struct rdma_news *news)
{
	int r;

	if (!take_welcome(conn, news)) {
		sluice_rdma_cm_fail(conn, -EPROTO, "its welcome is not one of this version");
		rdma_reject(conn->id, NULL, 0);
		return;
	}
	r = qp_run(conn, 0);
	if (r < 0) {
		sluice_rdma_cm_fail(conn, r, "the queue pair cannot be started: %s", strerror(-r));
		rdma_reject(conn->id, NULL, 0);
	} else if (rdma_establish(conn->id) < 0) {
		sluice_rdma_cm_fail(conn, -errno, "cannot connect: %s", strerror(errno));
	} else {
		ready(conn);
	}
}

/* ---- TARGET ---- */

/* The private data of a request is padded with zeros. */
static bool hello_sound(const struct rdma_news *news, struct rdma_hello *ret_hello)
{
	if (news->private_bytes < sizeof(*ret_hello) ||
		news->private_bytes > sizeof(news->private_data))
		return false;
	memcpy(ret_hello, news->private_data, sizeof(*ret_hello));
	for (uint32_t i = sizeof(*ret_hello); i < news->private_bytes; i++) {
		if (news->private_data[i] != 0)
			return false;
	}
	return sluice_get32(ret_hello->magic) == RDMA_HELLO_MAGIC &&
	       sluice_get16(ret_hello->version) == RDMA_WIRE_VERSION &&
	       sluice_get16(ret_hello->receives) == RDMA_RECEIVES;
}

/* The lane that waits for exactly this hello: same ticket, lane and epoch. */
static struct sluice_conn *find_waiting(
	const struct sluice_rail *rail, const struct rdma_hello *hello)
{
	struct sluice_conn *found = NULL;

	for (struct sluice_conn *conn = rail->conns; conn != NULL; conn = conn->next) {
		bool waits = conn->role == SLUICE_ROLE_TARGET && !conn->accepting &&
			     atomic_load(&conn->phase) == RDMA_OPENING;

		if (sluice_secret_equal(&conn->hello, hello, sizeof(*hello)) && waits)
			found = conn;
	}
	return found;
}

static int accept_lane(struct sluice_conn *conn, uint32_t reads)
{
	const struct rdma_welcome welcome = {
		.magic = sluice_put32(RDMA_WELCOME_MAGIC),
		.version = sluice_put16(RDMA_WIRE_VERSION),
		.receives = sluice_put16(RDMA_RECEIVES),
		.lane = conn->hello.lane,
		.epoch = conn->hello.epoch,
		.cell_address = sluice_put64((uintptr_t)conn->rail->cell_mr->addr),
		.cell_rkey = sluice_put32(conn->rail->cell_mr->rkey),
	};
	struct rdma_conn_param param = {
		.private_data = &welcome,
		.private_data_len = sizeof(welcome),
		.responder_resources = (uint8_t)reads,
		.flow_control = 1,
		.rnr_retry_count = RNR_RETRIES,
		.qp_num = conn->qp_number,
	};
	int r = qp_start(conn);

	if (r == 0)
		r = qp_run(conn, reads);
	if (r == 0 && rdma_accept(conn->id, &param) < 0)
		r = -errno;
	return r;
}

static void refuse(struct rdma_cm_id *id)
{
	rdma_reject(id, NULL, 0);
	rdma_destroy_id(id);
}

static void on_request(struct sluice_rail *rail, const struct rdma_news *news)
{
	struct sluice_conn *conn;
	struct rdma_hello hello;
	uint32_t reads = news->reads;
	int r;

	rail->counters.accepted++;
	if (!hello_sound(news, &hello)) {
		rail->counters.refused_hello++;
		refuse(news->id);
		return;
	}
	conn = find_waiting(rail, &hello);
	if (conn == NULL || news->id->verbs != rail->cm_verbs) {
		rail->counters.refused_ticket++;
		refuse(news->id);
		return;
	}
	if (reads > (uint32_t)rail->device.max_qp_rd_atom)
		reads = (uint32_t)rail->device.max_qp_rd_atom;
	rail->counters.welcomed++;
	conn->accepting = true;
	conn->id = news->id;
	conn->id->context = conn;
	r = accept_lane(conn, reads);
	if (r < 0) {
		rdma_reject(conn->id, NULL, 0);
		sluice_rdma_cm_fail(conn, r, "its connection cannot be accepted: %s", strerror(-r));
	}
}

/* ---- events ---- */

static void on_refused(struct sluice_conn *conn, int status)
{
	if (status == 28) /* IB_CM_REJ_CONSUMER_DEFINED */
		sluice_rdma_cm_fail(conn, -ECONNREFUSED,
			"it does not wait for this lane: its ticket is void or was used");
	else if (status == 8) /* IB_CM_REJ_INVALID_SERVICE_ID */
		sluice_rdma_cm_fail(conn, -ECONNREFUSED, "no engine listens there");
	else
		sluice_rdma_cm_fail(
			conn, -ECONNREFUSED, "it rejected the connection (reason %d)", status);
}

static void on_gone(struct sluice_conn *conn, int status, const char *why)
{
	sluice_rdma_cm_fail(conn, status, "%s", why);
	sluice_rdma_cm_disconnect(conn);
}

static void on_lane_event(struct sluice_conn *conn, const struct rdma_news *news)
{
	switch (news->event) {
	case RDMA_CM_EVENT_ADDR_RESOLVED:
		on_address(conn);
		break;
	case RDMA_CM_EVENT_ROUTE_RESOLVED:
		on_route(conn);
		break;
	case RDMA_CM_EVENT_CONNECT_RESPONSE:
		on_response(conn, news);
		break;
	case RDMA_CM_EVENT_ESTABLISHED:
		ready(conn);
		break;
	case RDMA_CM_EVENT_REJECTED:
		on_refused(conn, news->status);
		break;
	case RDMA_CM_EVENT_ADDR_ERROR:
	case RDMA_CM_EVENT_ROUTE_ERROR:
		sluice_rdma_cm_fail(conn, -EHOSTUNREACH,
			"its address cannot be resolved from this port; same subnet, or a route?");
		break;
	case RDMA_CM_EVENT_UNREACHABLE:
	case RDMA_CM_EVENT_CONNECT_ERROR:
		on_gone(conn, -ETIMEDOUT,
			"it does not answer; cable, switch, firewall (UDP 4791)?");
		break;
	case RDMA_CM_EVENT_DISCONNECTED:
		on_gone(conn, -ECONNRESET, "the peer closed the connection");
		break;
	default:
		break;
	}
}

static bool next_news(struct sluice_rail *rail, struct rdma_news *ret_news)
{
	struct rdma_cm_event *event;
	uint32_t bytes;

	if (rdma_get_cm_event(rail->channel, &event) < 0)
		return false;
	bytes = event->param.conn.private_data_len;
	*ret_news = (struct rdma_news){.event = event->event,
		.status = event->status,
		.id = event->id,
		.reads = event->param.conn
				 .responder_resources}; /* what its initiator_depth asks of us */
	if (event->param.conn.private_data != NULL) {
		ret_news->private_bytes = bytes;
		memcpy(ret_news->private_data, event->param.conn.private_data,
			bytes < RDMA_PRIVATE_BYTES_MAX ? bytes : RDMA_PRIVATE_BYTES_MAX);
	}
	/* At once: who destroys an id waits for its events. */
	rdma_ack_cm_event(event);
	return true;
}

/* Only these say which queue pair they are about. */
static bool about_qp(enum ibv_event_type type)
{
	return type == IBV_EVENT_QP_FATAL || type == IBV_EVENT_QP_REQ_ERR ||
	       type == IBV_EVENT_QP_ACCESS_ERR;
}

/* True: the device is gone. */
static bool read_device_events(struct sluice_rail *rail)
{
	struct ibv_async_event event;
	bool fatal = false;

	for (int i = 0; i < RDMA_STEP_EVENTS_MAX && !fatal; i++) {
		if (ibv_get_async_event(rail->verbs, &event) != 0)
			return false;
		fatal = event.event_type == IBV_EVENT_DEVICE_FATAL;
		for (struct sluice_conn *conn = rail->conns; conn != NULL; conn = conn->next) {
			conn->unsure |= fatal && conn->qp != NULL;
			if (!about_qp(event.event_type) || conn->qp != event.element.qp)
				continue;
			sluice_rdma_cm_fail(conn, -EACCES,
				event.event_type == IBV_EVENT_QP_ACCESS_ERR
					? "the peer reached outside of what it was given"
					: "the NIC reports: %s",
				ibv_event_type_str(event.event_type));
			sluice_rdma_cm_disconnect(conn);
		}
		ibv_ack_async_event(&event);
	}
	return fatal;
}

/* True: it is about this rail's device. It comes for every id that is bound to it. */
static bool is_removal(const struct sluice_rail *rail, const struct rdma_news *news)
{
	return news->event == RDMA_CM_EVENT_DEVICE_REMOVAL && news->id->verbs == rail->cm_verbs;
}

void sluice_rdma_cm_step(struct sluice_rail *rail)
{
	struct rdma_news news;
	bool removed = false;
	uint64_t count;

	if (read(rail->wake_fd, &count, sizeof(count)) < 0)
		SLUICE_ASSERT(errno == EAGAIN);
	if (rail->id == NULL)
		return;
	for (int i = 0; i < RDMA_STEP_EVENTS_MAX && !removed && next_news(rail, &news); i++) {
		removed = is_removal(rail, &news);
		if (removed)
			break;
		if (news.event == RDMA_CM_EVENT_CONNECT_REQUEST)
			on_request(rail, &news);
		else if (news.id->context != NULL)
			on_lane_event(news.id->context, &news);
	}
	if (removed || (!rail->gone && read_device_events(rail))) {
		sluice_rdma_rail_removed(rail);
		return;
	}
	for (struct sluice_conn *conn = rail->conns; conn != NULL; conn = conn->next) {
		if (atomic_load(&conn->wants_disconnect))
			sluice_rdma_cm_disconnect(conn);
	}
}
