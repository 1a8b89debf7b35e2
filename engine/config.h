/* SPDX-License-Identifier: BSD-3-Clause */
/* config.h: every setting of the engine; the one table is in config.c. */
#ifndef SLUICE_ENGINE_CONFIG_H
#define SLUICE_ENGINE_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#include <sluice/param.h>

#include "engine/peer/psk.h"

enum sluice_security { SLUICE_SECURITY_AUTO, SLUICE_SECURITY_PSK, SLUICE_SECURITY_NONE };
enum sluice_rail_pairs_rule { SLUICE_RAIL_PAIRS_AUTO, SLUICE_RAIL_PAIRS_ORDER };
enum sluice_lane_security { SLUICE_LANE_SECURITY_AUTO, SLUICE_LANE_SECURITY_NONE };

struct sluice_config {
	char transport[32];
	char rail[512]; /* list; see rails.h */
	int rail_pairs; /* enum sluice_rail_pairs_rule */
	char runtime_dir[256];
	uint64_t lanes;
	uint64_t workers;
	char worker_cores[256]; /* list of CPUs; "": choose */
	char vcpu_cores[256];
	int numa; /* index into sluice_placement_numa_choices */
	uint64_t memory_budget_bytes;
	uint64_t extent_bytes;
	uint64_t max_bandwidth_bytes_per_s;
	uint64_t device_slots;
	uint64_t device_slot_bytes;
	int pin; /* enum sluice_pin */
	uint64_t downtime_limit_ns;
	uint64_t sync_interval_ns;
	bool throttle;
	uint64_t vmm_switchover_ns;
	uint64_t device_state_bytes;
	uint64_t throttle_after_ns;
	uint64_t throttle_initial_percent;
	uint64_t throttle_step_percent;
	int security; /* enum sluice_security */
	char psk_file[256];
	char psk_identity[SLUICE_PSK_IDENTITY_MAX + 1];
	int lane_security; /* enum sluice_lane_security */
	uint64_t peer_timeout_ns;
	uint64_t setup_timeout_ns;
	uint64_t switchover_timeout_ns;
	uint64_t lane_timeout_ns;
	uint64_t region_timeout_ns;
	uint64_t recover_retries;
	uint64_t recover_pause_ns;
	uint64_t recover_timeout_ns;
	uint64_t linger_ns;
	uint64_t spin_ns;
	uint64_t yield_ns;
	bool busy_poll;
};

extern const struct sluice_param sluice_config_params[]; /* ends with a NULL name */

/*
 * The engine's parameters and those of every transport in this build, as one table: a
 * transport's are called NAME.PARAMETER. What --config, --set and --help work on.
 */
struct sluice_settings {
	struct sluice_param *table; /* ends with a NULL name */
	uint8_t *values; /* what the table's offsets refer to; begins with the config */
};

/* With the defaults filled in. -ENOMEM. */
int sluice_settings_create(struct sluice_settings **ret_settings);
void sluice_settings_destroy(struct sluice_settings *settings); /* NULL is allowed */
static inline const struct sluice_config *sluice_settings_config(
	const struct sluice_settings *settings)
{
	return (const struct sluice_config *)(const void *)settings->values;
}
/* The configuration of the transport at @index of sluice_transports. */
const void *sluice_settings_transport(const struct sluice_settings *settings, size_t index);

#endif
