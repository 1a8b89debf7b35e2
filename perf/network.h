/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * network.h: what sluice-perf does to the network, as root: a loopback of its own with a limited
 * rate, and connections that break. One thread.
 */
#ifndef SLUICE_PERF_NETWORK_H
#define SLUICE_PERF_NETWORK_H

#include <stdint.h>
#include <sys/types.h>

#include <sluice/error.h>

/*
 * Move this process, and so all that it starts from now on, into a network namespace of its own,
 * whose loopback carries @rate ("3gbit", see tc(8)) and no more. -EPERM without root, -ENOENT
 * without ip and tc.
 */
int perf_network_limit(const char *rate, const char *log_dir, struct sluice_error *err);

/* A port of IPv4 on which process @pid listens, and which is not @other; 0 when there is none. */
uint16_t perf_network_listener(pid_t pid, uint16_t other);

/*
 * Break established connections to @port on this host: both ends see ECONNABORTED or a reset, as
 * with a network that fails. @which: one of them, counted modulo their number, or -1 for all.
 * Returns how many were broken. -EPERM without CAP_NET_ADMIN, -EOPNOTSUPP where the kernel lacks
 * CONFIG_INET_DIAG_DESTROY.
 */
int perf_network_cut(uint16_t port, int which, struct sluice_error *err);

#endif
