/* SPDX-License-Identifier: BSD-3-Clause */
/* config.c: the engine's parameters: parser, defaults, --help, man page and queries use this. */
#include "engine/config.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <sluice/transport.h>

#include "base/bits.h"
#include "base/clock.h"
#include "base/params.h"
#include "engine/device/inbox.h"
#include "engine/placement/params.h"

#define FIELD(field) SLUICE_FIELD(struct sluice_config, field)

static const char *const pin_choices[] = {"none", "onfault", "full", NULL};
static const char *const rail_pairs_choices[] = {"auto", "order", NULL};
static const char *const security_choices[] = {"auto", "psk", "none", NULL};
static const char *const lane_security_choices[] = {"auto", "none", NULL};

const struct sluice_param sluice_config_params[] = {
	{"transport", SLUICE_PARAM_STRING, FIELD(transport), "auto", 0, 0, NULL,
		"how lanes carry data; auto: rdma where both ends have it and lane-security allows "
		"it, else tcp",
		false},
	{"rail", SLUICE_PARAM_STRING, FIELD(rail), "auto", 0, 0, NULL,
		"the ways out that lanes use, separated by commas: [TRANSPORT=]ADDRESS, for tcp an "
		"address of this host and a port (0 chooses one), with @node=N and @gbit=N where "
		"the system does not know its NUMA node and speed; auto: for rdma the fastest "
		"ports that are up, for tcp 127.0.0.1",
		false},
	{"rail-pairs", SLUICE_PARAM_CHOICE, FIELD(rail_pairs), "auto", 0, 0, rail_pairs_choices,
		"at the source, which rail goes with which of the target's: auto: those in one "
		"subnet, then by position; order: by position in the two lists only",
		false},
	{"runtime-dir", SLUICE_PARAM_STRING, FIELD(runtime_dir), "/var/lib/sluice", 0, 0, NULL,
		"where commit decisions are recorded; must survive the engine and the host", false},
	SLUICE_PLACEMENT_PARAMS(FIELD),
	{"memory-budget", SLUICE_PARAM_SIZE, FIELD(memory_budget_bytes), "64MiB", 1u << 20,
		64ull << 30, NULL, "bytes in flight, all lanes together", false},
	{"extent-size", SLUICE_PARAM_SIZE, FIELD(extent_bytes), "256KiB", SLUICE_PAGE_BYTES,
		SLUICE_CHUNK_BYTES, NULL,
		"longest single write of guest memory; shorter where the rail or a quarter of a "
		"lane's share of memory-budget is",
		false},
	{"max-bandwidth", SLUICE_PARAM_SIZE, FIELD(max_bandwidth_bytes_per_s), "0", 0, 1ull << 50,
		NULL,
		"guest memory sent per second while the guest runs, in bytes; 0: no limit; once it "
		"is stopped there is none",
		true},
	{"device-slots", SLUICE_PARAM_UINT, FIELD(device_slots), "16", 1, SLUICE_SLOTS_MAX, NULL,
		"slots in which a target receives device state", false},
	{"device-slot-size", SLUICE_PARAM_SIZE, FIELD(device_slot_bytes), "256KiB", 4096, 64u << 20,
		NULL, "size of one such slot, a multiple of 4 KiB", false},
	{"pin", SLUICE_PARAM_CHOICE, FIELD(pin), "onfault", 0, 0, pin_choices,
		"how guest memory is held: onfault locks what is touched, full allocates and locks "
		"all of it when it is added, none locks nothing",
		false},
	{"downtime-limit", SLUICE_PARAM_TIME, FIELD(downtime_limit_ns), "300ms", SLUICE_NS_PER_MS,
		2000 * SLUICE_NS_PER_S, NULL,
		"switch over when the predicted downtime is no longer than this", true},
	{"sync-interval", SLUICE_PARAM_TIME, FIELD(sync_interval_ns), "100ms", 2 * SLUICE_NS_PER_MS,
		10 * SLUICE_NS_PER_S, NULL, "longest time between two dirty syncs", true},
	{"vmm-switchover", SLUICE_PARAM_TIME, FIELD(vmm_switchover_ns), "700us", 0,
		600 * SLUICE_NS_PER_S, NULL,
		"what stopping, saving, loading and resuming take in both VMMs, for the predicted "
		"downtime: only they know",
		true},
	{"device-state-size", SLUICE_PARAM_SIZE, FIELD(device_state_bytes), "0", 0, 1ull << 40,
		NULL, "expected size of the devices' state, for the predicted downtime", true},
	{"throttle", SLUICE_PARAM_BOOL, FIELD(throttle), "yes", 0, 0, NULL,
		"slow the guest down when it dirties memory faster than lanes place it", true},
	{"throttle-after", SLUICE_PARAM_TIME, FIELD(throttle_after_ns), "30s", 0, 0, NULL,
		"also slow it down when the migration takes longer than this", true},
	{"cpu-throttle-initial", SLUICE_PARAM_UINT, FIELD(throttle_initial_percent), "20", 1, 99,
		NULL, "percent of the first step", true},
	{"cpu-throttle-increment", SLUICE_PARAM_UINT, FIELD(throttle_step_percent), "10", 1, 99,
		NULL, "percent of each further step", true},
	{"security", SLUICE_PARAM_CHOICE, FIELD(security), "auto", 0, 0, security_choices,
		"the peer link: psk: TLS 1.3 with a pre-shared key; none: in clear text, also over "
		"a network; auto: psk when psk-file is set, else clear text within this host only",
		false},
	{"psk-file", SLUICE_PARAM_STRING, FIELD(psk_file), "", 0, 0, NULL,
		"pre-shared keys, one identity:hexkey per line as psktool writes it; the same line "
		"at both ends, readable by its owner only",
		false},
	{"psk-identity", SLUICE_PARAM_STRING, FIELD(psk_identity), "", 0, 0, NULL,
		"which line of psk-file a source uses; not needed when there is only one", false},
	{"lane-security", SLUICE_PARAM_CHOICE, FIELD(lane_security), "auto", 0, 0,
		lane_security_choices,
		"lanes are in clear text: auto keeps them within this host, none lets them use a "
		"network that is trusted",
		false},
	{"peer-timeout", SLUICE_PARAM_TIME, FIELD(peer_timeout_ns), "10s", 100 * SLUICE_NS_PER_MS,
		3600 * SLUICE_NS_PER_S, NULL, "silence after which the peer counts as lost", false},
	{"setup-timeout", SLUICE_PARAM_TIME, FIELD(setup_timeout_ns), "10s", 100 * SLUICE_NS_PER_MS,
		3600 * SLUICE_NS_PER_S, NULL, "longest time from migrate until pages move", false},
	{"switchover-timeout", SLUICE_PARAM_TIME, FIELD(switchover_timeout_ns), "30s", 0,
		3600 * SLUICE_NS_PER_S, NULL,
		"how long a guest may be stopped before the migration fails and it runs on at the "
		"source; 0: no bound",
		false},
	{"lane-timeout", SLUICE_PARAM_TIME, FIELD(lane_timeout_ns), "5s", 10 * SLUICE_NS_PER_MS,
		3600 * SLUICE_NS_PER_S, NULL,
		"how long a lane may place nothing of what is in flight, while the peer answers, "
		"before it counts as lost",
		false},
	{"region-timeout", SLUICE_PARAM_TIME, FIELD(region_timeout_ns), "60s",
		10 * SLUICE_NS_PER_MS, 24 * 3600 * SLUICE_NS_PER_S, NULL,
		"how long a region that is added during a migration waits for the target's region "
		"of that id, and for a feed, before the migration fails",
		false},
	{"recover-retries", SLUICE_PARAM_UINT, FIELD(recover_retries), "20", 0, 1000000, NULL,
		"how often a source that lost its target or all lanes tries again by itself; then "
		"the migration stays paused until migrate-recover",
		false},
	{"recover-pause", SLUICE_PARAM_TIME, FIELD(recover_pause_ns), "100ms", SLUICE_NS_PER_MS,
		600 * SLUICE_NS_PER_S, NULL,
		"the wait before the first of these tries, and before a lost lane is opened again; "
		"it "
		"doubles up to 5 s",
		false},
	{"recover-timeout", SLUICE_PARAM_TIME, FIELD(recover_timeout_ns), "120s", 0,
		24 * 3600 * SLUICE_NS_PER_S, NULL,
		"how long a target waits for a source that vanished before everything had arrived",
		false},
	{"linger", SLUICE_PARAM_TIME, FIELD(linger_ns), "5s", 0, 315360000 * SLUICE_NS_PER_S, NULL,
		"how long an engine waits for a VMM that vanished to come back, before it ends",
		false},
	{"spin", SLUICE_PARAM_TIME, FIELD(spin_ns), "20us", 0, SLUICE_NS_PER_S, NULL,
		"how long an idle worker polls before it yields, at most; less after long sleeps",
		false},
	{"yield", SLUICE_PARAM_TIME, FIELD(yield_ns), "50us", 0, SLUICE_NS_PER_S, NULL,
		"how long it yields before it sleeps, at most", false},
	{"busy-poll", SLUICE_PARAM_BOOL, FIELD(busy_poll), "no", 0, 0, NULL,
		"workers never sleep; only for cores that do nothing else", false},
	{0},
};

#define SETTINGS_ALIGN 64

static size_t count_params(const struct sluice_param *table)
{
	size_t count = 0;

	while (table[count].name != NULL)
		count++;
	return count;
}

/* Where the values of transport @index begin. */
static size_t values_offset(size_t index)
{
	size_t bytes = sluice_align_up(sizeof(struct sluice_config), SETTINGS_ALIGN);

	for (size_t i = 0; i < index; i++)
		bytes += sluice_align_up(sluice_transports[i]->conf_size, SETTINGS_ALIGN);
	return bytes;
}

static int append(struct sluice_param *to, const struct sluice_transport *transport, size_t offset)
{
	for (const struct sluice_param *from = transport->params; from->name != NULL;
		from++, to++) {
		char *name;

		if (asprintf(&name, "%s.%s", transport->name, from->name) < 0)
			return -ENOMEM;
		*to = *from;
		to->name = name;
		to->offset += offset;
	}
	return 0;
}

int sluice_settings_create(struct sluice_settings **ret_settings)
{
	size_t own = count_params(sluice_config_params), rows = own, transports = 0;
	struct sluice_settings *settings = calloc(1, sizeof(*settings));
	int r = 0;

	if (settings == NULL)
		return -ENOMEM;
	for (; sluice_transports[transports] != NULL; transports++)
		rows += count_params(sluice_transports[transports]->params);
	settings->table = calloc(rows + 1, sizeof(*settings->table));
	settings->values = calloc(1, values_offset(transports));
	if (settings->table == NULL || settings->values == NULL)
		r = -ENOMEM;
	if (r == 0)
		memcpy(settings->table, sluice_config_params, own * sizeof(*settings->table));
	rows = own;
	for (size_t i = 0; i < transports && r == 0; i++) {
		r = append(&settings->table[rows], sluice_transports[i], values_offset(i));
		rows += count_params(sluice_transports[i]->params);
	}
	if (r < 0) {
		sluice_settings_destroy(settings);
		return r;
	}
	sluice_params_defaults(settings->table, settings->values);
	*ret_settings = settings;
	return 0;
}

void sluice_settings_destroy(struct sluice_settings *settings)
{
	if (settings == NULL)
		return;
	if (settings->table != NULL)
		for (struct sluice_param *p = settings->table + count_params(sluice_config_params);
			p->name != NULL; p++)
			free((void *)(uintptr_t)p->name);
	free(settings->table);
	free(settings->values);
	free(settings);
}

const void *sluice_settings_transport(const struct sluice_settings *settings, size_t index)
{
	return settings->values + values_offset(index);
}
