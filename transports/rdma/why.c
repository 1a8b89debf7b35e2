/* SPDX-License-Identifier: BSD-3-Clause */
/* why.c: why a lane was lost, in words that an operator can act on. Control thread. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "transports/rdma/internal.h"

static const char *state_name(const struct sluice_conn *conn)
{
	static const char *const names[] = {
		"RESET", "INIT", "RTR", "RTS", "SQD", "SQE", "ERROR", "UNKNOWN"};
	struct ibv_qp_init_attr init;
	struct ibv_qp_attr attr;

	if (conn->qp == NULL)
		return "destroyed";
	if (ibv_query_qp(conn->qp, &attr, IBV_QP_STATE, &init) != 0 ||
		attr.qp_state > IBV_QPS_UNKNOWN)
		return "unknown";
	return names[attr.qp_state];
}

static const char *cause_of(uint32_t status)
{
	switch (status) {
	case IBV_WC_RETRY_EXC_ERR:
		return "the path is dead, or the peer's queue pair gone: cable, switch, MTU, "
		       "firewall; see docs/rdma.md";
	case IBV_WC_REM_ACCESS_ERR:
		return "the peer does not let us write there: it revoked its registration";
	case IBV_WC_LOC_PROT_ERR:
		return "memory here is not registered (any more)";
	case IBV_WC_RNR_RETRY_EXC_ERR:
		return "the peer does not take our messages";
	case IBV_WC_REM_INV_REQ_ERR:
	case IBV_WC_LOC_LEN_ERR:
		return "a message was longer than the contract allows";
	case IBV_WC_WR_FLUSH_ERR:
		return "the connection was ended";
	default:
		return "see the driver's messages (dmesg)";
	}
}

static const char *mistake_of(int status)
{
	switch (status) {
	case -EINVAL:
		return "an operation was submitted that the contract forbids";
	case -EPROTO:
		return "the peer sent what no engine of this version sends";
	case -ETIMEDOUT:
		return "it was not connected before its deadline";
	case -ESHUTDOWN:
		return "it was fenced here";
	default:
		return strerror(-status);
	}
}

void sluice_rdma_lane_why_lost(const struct sluice_conn *conn, char *text, size_t text_bytes)
{
	char peer[SLUICE_ADDRESS_MAX] = "the peer", vendor[64] = "";
	struct sluice_inet address = conn->peer;
	const char *name = conn->rail->device_name;

	if (conn->role == SLUICE_ROLE_TARGET && conn->id != NULL) {
		const struct sockaddr *from = rdma_get_peer_addr(conn->id);

		address.len =
			from->sa_family == AF_INET6 ? sizeof(address.u.in6) : sizeof(address.u.in);
		memcpy(&address.u, from, address.len);
	}
	if (address.len != 0)
		sluice_inet_format(&address, peer);
	if (conn->lost_wc_status != 0 &&
		(conn->lost_wc_status != IBV_WC_WR_FLUSH_ERR || conn->why[0] == '\0')) {
		if (conn->lost_vendor_error != 0)
			snprintf(vendor, sizeof(vendor), ", vendor error %#x",
				conn->lost_vendor_error);
		snprintf(text, text_bytes, "%s by %s, QP %u (%s): %s%s: %s", peer, name,
			conn->qp_number, state_name(conn), ibv_wc_status_str(conn->lost_wc_status),
			vendor, cause_of(conn->lost_wc_status));
	} else {
		snprintf(text, text_bytes, "%s by %s, QP %u (%s): %s", peer, name, conn->qp_number,
			state_name(conn),
			conn->why[0] != '\0' ? conn->why : mistake_of(conn->lost_status));
	}
}
