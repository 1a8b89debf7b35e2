/* SPDX-License-Identifier: BSD-3-Clause */
/* policy_test.c: decisions by table. */
#include "base/bits.h"
#include "engine/policy/policy.h"
#include "engine/policy/typical.h"
#include "tests/unit/unit.h"

#define MS 1000000ull
#define S  1000000000ull

static const struct sluice_policy_conf conf = {
	.downtime_limit_ns = 300 * MS,
	.sync_interval_ns = 100 * MS,
	.throttle = true,
	.throttle_after_ns = 30 * S,
	.throttle_initial_percent = 20,
	.throttle_step_percent = 10,
};

/* A link of 1 GB/s that was busy all the time. */
static const struct sluice_measure busy = {
	.interval_ns = 100 * MS,
	.pages_dirtied = 15000, /* 0.6 GB/s: going on would not halve what is left */
	.pages_dirty = 1000,
	.bytes_placed = 100000000,
	.busy_ns = 100 * MS,
	.sync_ns = MS / 10,
	.sync_last_ns = MS / 10,
	.vmm_rtt_ns = MS / 10,
	.peer_rtt_ns = MS / 10,
	.elapsed_ns = S,
};

static void test_table(void)
{
	static const struct {
		const char *name;
		uint64_t pages_dirty;
		bool switch_over;
		uint64_t predicted_ms_min, predicted_ms_max;
	} rows[] = {
		{"nothing left", 0, true, 0, 2},
		{"4 MB at 1 GB/s", 1000, true, 4, 6},
		{"290 MB", 71000, true, 285, 300},
		{"310 MB", 75800, false, 305, 320},
		{"a terabyte", 1ull << 28, false, 1000000, 1200000},
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct sluice_policy_state state = {0};
		struct sluice_measure m = busy;
		struct sluice_decision_out out;

		m.pages_dirty = 1u << 20;
		sluice_policy_decide(&conf, &m, &state, &out);
		m.pages_dirty = rows[i].pages_dirty;
		sluice_policy_decide(&conf, &m, &state, &out);
		if (out.switch_over != rows[i].switch_over ||
			out.predicted_downtime_ns / MS < rows[i].predicted_ms_min ||
			out.predicted_downtime_ns / MS > rows[i].predicted_ms_max)
			fprintf(stderr, "\n%s: %llu ns\n", rows[i].name,
				(unsigned long long)out.predicted_downtime_ns);
		CU_ASSERT_EQUAL(out.switch_over, rows[i].switch_over);
		CU_ASSERT_TRUE(out.predicted_downtime_ns / MS >= rows[i].predicted_ms_min);
		CU_ASSERT_TRUE(out.predicted_downtime_ns / MS <= rows[i].predicted_ms_max);
	}
}

/* Within the limit, but a calm guest can have less: a few more rounds, then it goes. */
static void test_the_limit_is_not_a_goal(void)
{
	struct sluice_policy_conf with_devices = conf;
	struct sluice_policy_state state = {0};
	struct sluice_measure m = busy;
	struct sluice_decision_out out;
	int rounds = 0;

	m.pages_dirtied = 1000;
	m.pages_dirty = 10000; /* 40 ms */
	sluice_policy_decide(&conf, &m, &state, &out);
	sluice_policy_decide(&conf, &m, &state, &out);
	CU_ASSERT_FALSE(out.switch_over);
	m.pages_dirty = 100; /* 0.4 ms */
	sluice_policy_decide(&conf, &m, &state, &out);
	CU_ASSERT_TRUE(out.switch_over);
	/* It never waits for ever, even when what is left does not shrink. */
	memset(&state, 0, sizeof(state));
	m.pages_dirty = 10000;
	do
		sluice_policy_decide(&conf, &m, &state, &out);
	while (!out.switch_over && ++rounds < 100);
	CU_ASSERT_TRUE(rounds > 1 && rounds < 50);
	/* What devices say takes its time in any round: that is nothing to wait for. */
	memset(&state, 0, sizeof(state));
	with_devices.device_bytes = 100000000; /* 100 ms */
	m.pages_dirty = 0;
	sluice_policy_decide(&with_devices, &m, &state, &out);
	CU_ASSERT_TRUE(out.switch_over);
}

/* Everything that a switchover waits for besides bytes is in the prediction. */
static void test_fixed_costs(void)
{
	static const struct {
		const char *name;
		uint64_t sync_ns, vmm_rtt_ns, peer_rtt_ns, record_ns, vmm_switchover_ns;
		uint64_t device_bytes;
		uint32_t lanes;
		uint64_t predicted_us;
	} rows[] = {
		{"nothing", 0, 0, 0, 0, 0, 0, 0, 0},
		{"the last sync", 5 * MS, 0, 0, 0, 0, 0, 0, 5000},
		{"six turns at the VMMs", 0, MS, 0, 0, 0, 0, 0, 6000},
		{"three at the peer", 0, 0, 10 * MS, 0, 0, 0, 0, 30000},
		{"both records", 0, 0, 0, 7 * MS, 0, 0, 0, 7000},
		{"the VMMs' own work", 0, 0, 0, 0, 3 * MS, 0, 0, 3000},
		{"50 MB of device state at 1 GB/s", 0, 0, 0, 0, 0, 50000000, 0, 50000},
		{"a hundred lanes to close", 0, 0, 0, 0, 0, 0, 100, 1000},
		{"all", MS, MS / 10, MS, 2 * MS, MS, 1000000, 10, 8700},
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct sluice_policy_state state = {0};
		struct sluice_policy_conf c = conf;
		struct sluice_measure m = busy;
		struct sluice_decision_out out;

		m.pages_dirtied = m.pages_dirty = 0;
		m.sync_ns = m.sync_last_ns = rows[i].sync_ns;
		m.vmm_rtt_ns = rows[i].vmm_rtt_ns;
		m.peer_rtt_ns = rows[i].peer_rtt_ns;
		m.record_ns = rows[i].record_ns;
		m.lanes = rows[i].lanes;
		c.vmm_switchover_ns = rows[i].vmm_switchover_ns;
		c.device_bytes = rows[i].device_bytes;
		sluice_policy_decide(&c, &m, &state, &out);
		if (out.predicted_downtime_ns / 1000 != rows[i].predicted_us)
			fprintf(stderr, "\n%s: %llu ns\n", rows[i].name,
				(unsigned long long)out.predicted_downtime_ns);
		CU_ASSERT_EQUAL(out.predicted_downtime_ns / 1000, rows[i].predicted_us);
		CU_ASSERT_EQUAL(sluice_downtime_sum(&out.predicted), out.predicted_downtime_ns);
	}
}

/* Each cost is in its phase, so that an operator sees which one is not as foretold. */
static void test_phases(void)
{
	struct sluice_policy_state state = {0};
	struct sluice_policy_conf c = conf;
	struct sluice_measure m = busy;
	struct sluice_decision_out out;
	const struct sluice_downtime *d = &out.predicted;

	c.vmm_switchover_ns = 3 * MS;
	c.device_bytes = 20000000; /* 20 ms at 1 GB/s */
	m.sync_ns = 5 * MS;
	m.vmm_rtt_ns = MS;
	m.peer_rtt_ns = 10 * MS;
	m.record_ns = 7 * MS;
	m.lanes = 100;
	m.pages_dirtied = m.pages_dirty = 0;
	sluice_policy_decide(&c, &m, &state, &out);
	CU_ASSERT_EQUAL(d->stop_ns, 5 * MS);
	CU_ASSERT_EQUAL(d->sync_ns, 5 * MS);
	CU_ASSERT_EQUAL(d->drain_ns, 31 * MS);
	CU_ASSERT_EQUAL(d->load_ns, 12 * MS);
	CU_ASSERT_EQUAL(d->give_ns, MS);
	CU_ASSERT_EQUAL(d->commit_ns, 18 * MS);
}

/* Lanes send on while the VMM stops the guest: what they get done by then costs no pause. */
static void test_memory_goes_meanwhile(void)
{
	static const struct {
		const char *name;
		uint64_t pages_dirty, pages_dirtied, memory_us;
		uint64_t sync_last_ms; /* the guest wrote on while it was answered; 0: 1 */
	} rows[] = {
		{"nothing", 0, 0, 0},
		{"less than goes while it stops", 1000, 0, 0}, /* 4.1 ms */
		{"as much", 1220, 0, 0},
		{"1 ms more", 1465, 0, 1000},
		{"written since: 1 GB/s for 2 ms", 0, 24415, 2000},
		{"both", 1465, 24415, 3000},
		{"the last sync was a long one", 0, 24415, 10000, 9},
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct sluice_policy_state state = {0};
		struct sluice_policy_conf c = conf;
		struct sluice_measure m = busy;
		struct sluice_decision_out out;
		uint64_t drain_us;

		c.vmm_switchover_ns = 4 * MS; /* half of it, two turns and the sync: 5 ms */
		m.sync_ns = m.sync_last_ns = m.vmm_rtt_ns = MS;
		if (rows[i].sync_last_ms != 0)
			m.sync_last_ns = rows[i].sync_last_ms * MS;
		m.peer_rtt_ns = 0;
		m.pages_dirty = rows[i].pages_dirty;
		m.pages_dirtied = rows[i].pages_dirtied;
		sluice_policy_decide(&c, &m, &state, &out);
		drain_us = (out.predicted.drain_ns - m.vmm_rtt_ns) / 1000;
		if (drain_us + 2 < rows[i].memory_us || drain_us > rows[i].memory_us + 2)
			fprintf(stderr, "\n%s: %llu us\n", rows[i].name,
				(unsigned long long)drain_us);
		CU_ASSERT_TRUE(drain_us + 2 >= rows[i].memory_us);
		CU_ASSERT_TRUE(drain_us <= rows[i].memory_us + 2);
	}
}

/* The first measure begins with an empty network: it is too low by what that holds. */
static void test_the_first_measure_is_replaced(void)
{
	struct sluice_policy_state state = {0};
	struct sluice_measure m = busy;
	struct sluice_decision_out out;

	m.bytes_placed = 60000000; /* 40 MB more are under way */
	m.pages_dirty = 20000; /* 137 ms at that rate: within the limit */
	sluice_policy_decide(&conf, &m, &state, &out);
	CU_ASSERT_FALSE(out.switch_over);
	m.bytes_placed = 100000000;
	sluice_policy_decide(&conf, &m, &state, &out);
	CU_ASSERT_EQUAL(state.placed_bytes_per_s, 1000000000);
	CU_ASSERT_TRUE(out.switch_over);
	/* Unless the second one is a few pages only. */
	memset(&state, 0, sizeof(state));
	sluice_policy_decide(&conf, &m, &state, &out);
	m.bytes_placed = 1000000;
	m.busy_ns = MS / 10;
	sluice_policy_decide(&conf, &m, &state, &out);
	CU_ASSERT_TRUE(state.placed_bytes_per_s < 1010000000);
}

/* Records that take longer than the limit: no round helps, so it goes when nothing is left. */
static void test_a_limit_that_cannot_be_met(void)
{
	struct sluice_policy_state state = {0};
	struct sluice_measure m = busy;
	struct sluice_decision_out out;

	m.record_ns = 400 * MS;
	m.pages_dirty = 1000; /* 4 ms */
	sluice_policy_decide(&conf, &m, &state, &out);
	sluice_policy_decide(&conf, &m, &state, &out);
	CU_ASSERT_FALSE(out.switch_over);
	m.pages_dirty = 100; /* 0.4 ms */
	m.pages_dirtied = 0;
	memset(&state, 0, sizeof(state));
	sluice_policy_decide(&conf, &m, &state, &out);
	CU_ASSERT_TRUE(out.switch_over);
	CU_ASSERT_TRUE(out.predicted_downtime_ns > 400 * MS);
}

/* What goes into an empty socket at the speed of memory says nothing about the network. */
static void test_bursts_do_not_count(void)
{
	struct sluice_policy_state state = {0};
	struct sluice_measure m = busy, burst = busy;
	struct sluice_decision_out out;

	sluice_policy_decide(&conf, &m, &state, &out); /* 1 GB/s for 100 ms */
	burst.bytes_placed = 1000000;
	burst.busy_ns = MS / 10; /* 10 GB/s */
	for (int i = 0; i < 10; i++)
		sluice_policy_decide(&conf, &burst, &state, &out);
	CU_ASSERT_TRUE(state.placed_bytes_per_s > 1000000000);
	CU_ASSERT_TRUE(state.placed_bytes_per_s < 1100000000);
	/* A change that lasts is followed. */
	m.bytes_placed = 200000000;
	for (int i = 0; i < 5; i++)
		sluice_policy_decide(&conf, &m, &state, &out);
	CU_ASSERT_TRUE(state.placed_bytes_per_s > 1950000000);
}

static void test_nothing_placed_yet(void)
{
	struct sluice_policy_state state = {0};
	struct sluice_measure m = {.interval_ns = 100 * MS, .pages_dirty = 1, .busy_ns = 100 * MS};
	struct sluice_decision_out out;

	sluice_policy_decide(&conf, &m, &state, &out);
	CU_ASSERT_FALSE(out.switch_over);
	m.pages_dirty = 0; /* an empty guest may go at once */
	sluice_policy_decide(&conf, &m, &state, &out);
	CU_ASSERT_TRUE(out.switch_over);
}

/* A small guest is sent again and again in less time than a good measure takes. */
static void test_a_small_guest_goes(void)
{
	struct sluice_policy_state state = {0};
	struct sluice_measure m = {.interval_ns = 2 * MS,
		.pages_dirtied = 40,
		.pages_dirty = 40,
		.bytes_placed = 40 * 4096,
		.busy_ns = MS / 20};
	struct sluice_decision_out out;

	sluice_policy_decide(&conf, &m, &state, &out);
	CU_ASSERT_TRUE(out.switch_over);
}

static void test_throttle_when_too_fast(void)
{
	struct sluice_policy_state state = {0};
	struct sluice_measure m = busy;
	struct sluice_decision_out out;
	uint32_t last = 0;

	m.pages_dirtied = 30000; /* 1.2 GB/s */
	m.pages_dirty = 200000;
	for (int i = 0; i < 20; i++) {
		sluice_policy_decide(&conf, &m, &state, &out);
		CU_ASSERT_TRUE(out.throttle_percent >= last);
		CU_ASSERT_TRUE(out.throttle_percent <= SLUICE_THROTTLE_MAX_PERCENT);
		last = out.throttle_percent;
	}
	CU_ASSERT_EQUAL(last, SLUICE_THROTTLE_MAX_PERCENT);
	m.pages_dirtied = 10; /* and the brake is loosened again */
	for (int i = 0; i < 40; i++)
		sluice_policy_decide(&conf, &m, &state, &out);
	CU_ASSERT_EQUAL(out.throttle_percent, 0);
}

static void test_throttle_when_too_long(void)
{
	struct sluice_policy_conf off = conf;
	struct sluice_policy_state state = {0};
	struct sluice_measure m = busy;
	struct sluice_decision_out out;

	m.pages_dirtied = 1000;
	sluice_policy_decide(&conf, &m, &state, &out);
	CU_ASSERT_EQUAL(out.throttle_percent, 0);
	m.elapsed_ns = 31 * S;
	sluice_policy_decide(&conf, &m, &state, &out);
	CU_ASSERT_EQUAL(out.throttle_percent, 20);
	sluice_policy_decide(&conf, &m, &state, &out);
	CU_ASSERT_EQUAL(out.throttle_percent, 30);
	off.throttle = false;
	sluice_policy_decide(&off, &m, &state, &out);
	CU_ASSERT_EQUAL(out.throttle_percent, 0);
}

static void test_next_sync(void)
{
	struct sluice_policy_state state = {0};
	struct sluice_measure m = busy;
	struct sluice_decision_out out;

	m.pages_dirty = 1u << 20; /* 4 GiB: longer than the interval */
	sluice_policy_decide(&conf, &m, &state, &out);
	CU_ASSERT_EQUAL(out.next_sync_ns, conf.sync_interval_ns);
	m.pages_dirty = 5000; /* 20 MB: gone in 20 ms */
	sluice_policy_decide(&conf, &m, &state, &out);
	CU_ASSERT_TRUE(out.next_sync_ns > 15 * MS && out.next_sync_ns < 25 * MS);
	m.pages_dirty = 0;
	sluice_policy_decide(&conf, &m, &state, &out);
	CU_ASSERT_TRUE(out.next_sync_ns >= MS);
}

/* Neither the lucky ones nor those that had to wait, and none of long ago. */
static void test_typical(void)
{
	static const uint64_t times[] = {70, 20, 90, 10, 30, 60, 40, 80, 50};
	struct sluice_typical typical = {{0}};

	CU_ASSERT_EQUAL(sluice_typical_read(&typical), 0);
	sluice_typical_add(&typical, 70);
	CU_ASSERT_EQUAL(sluice_typical_read(&typical), 70);
	for (size_t i = 1; i < SLUICE_ARRAY_LEN(times); i++)
		sluice_typical_add(&typical, times[i]);
	CU_ASSERT_EQUAL(sluice_typical_read(&typical), 30);
	for (size_t i = 0; i < SLUICE_TYPICAL_SAMPLES; i++)
		sluice_typical_add(&typical, 500 + i);
	CU_ASSERT_EQUAL(sluice_typical_read(&typical), 502);
}

int main(void)
{
	static const struct unit_test tests[] = {
		{"switch or go on, and the prediction", test_table},
		{"the limit is a bound, not a goal", test_the_limit_is_not_a_goal},
		{"what is not bytes", test_fixed_costs},
		{"what each phase takes", test_phases},
		{"memory goes while the guest is stopped", test_memory_goes_meanwhile},
		{"the first measure is replaced", test_the_first_measure_is_replaced},
		{"a limit that cannot be met", test_a_limit_that_cannot_be_met},
		{"bursts do not count", test_bursts_do_not_count},
		{"before anything was placed", test_nothing_placed_yet},
		{"a small guest goes", test_a_small_guest_goes},
		{"throttle: dirties faster than lanes place", test_throttle_when_too_fast},
		{"throttle: takes too long", test_throttle_when_too_long},
		{"when to sync next", test_next_sync},
		{"what is typical", test_typical},
		{0},
	};

	return unit_run("policy", tests);
}
