/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * test_guest.c: the guest works, keeps its pace, and notices what it should notice.
 * Argument: kvm or thread. Skips without /dev/kvm.
 */
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "vmm/refvm/tests/fixture.h"

static int accel;

static void run_pattern(uint32_t pattern, uint64_t rate, uint64_t ops_min)
{
	struct refvm_vm_opts opts = fixture_opts(accel, REFVM_TRACKING_AUTO);
	struct refvm_vm vm;

	opts.guest.pattern = (int)pattern;
	opts.guest.rate = rate;
	if (!fixture_boot(&vm, &opts))
		return;
	fixture_work(&vm, ops_min);
	refvm_vm_stop(&vm);
	CU_ASSERT_EQUAL(fixture_errors(&vm), 0);
	CU_ASSERT_EQUAL(vm.failure.code, 0);
	refvm_vm_destroy(&vm);
}

static void test_idle(void)
{
	run_pattern(REFVM_PATTERN_IDLE, 0, 20);
}

static void test_sequential(void)
{
	run_pattern(REFVM_PATTERN_SEQUENTIAL, 0, 100000);
}

static void test_uniform(void)
{
	run_pattern(REFVM_PATTERN_UNIFORM, 0, 100000);
}

static void test_hotset(void)
{
	run_pattern(REFVM_PATTERN_HOTSET, 0, 100000);
}

static void test_ramp(void)
{
	run_pattern(REFVM_PATTERN_RAMP, 0, 1000);
}

static void test_zero_fill(void)
{
	struct refvm_vm_opts opts = fixture_opts(accel, REFVM_TRACKING_AUTO);
	struct refvm_vm vm;

	opts.guest.fill = REFVM_FILL_ZERO;
	if (!fixture_boot(&vm, &opts))
		return;
	fixture_sleep_ms(200);
	refvm_vm_stop(&vm);
	CU_ASSERT_EQUAL(fixture_errors(&vm), 0);
	refvm_vm_destroy(&vm);
}

/* Operations per second from now on, over about half a second; never more than there were. */
static uint64_t ops_per_s(const struct refvm_vm *vm)
{
	uint64_t ns = sluice_now_ns(), ops = fixture_ops(vm);

	fixture_sleep_ms(500);
	ops = fixture_ops(vm) - ops;
	return ops * SLUICE_NS_PER_S / (sluice_now_ns() - ns);
}

/* The machine is shared: slower is possible, faster is not; much slower all the time is a
   mistake. */
static void test_rate(void)
{
	struct refvm_vm_opts opts = fixture_opts(accel, REFVM_TRACKING_AUTO);
	struct refvm_vm vm;
	uint64_t rate = 0;
	int i;

	opts.guest.rate = 20000;
	if (!fixture_boot(&vm, &opts))
		return;
	fixture_work(&vm, 1000);
	for (i = 0; i < 60 && rate < 10000; i++) {
		rate = ops_per_s(&vm);
		CU_ASSERT(rate <= 22000);
	}
	CU_ASSERT(rate >= 10000);
	refvm_vm_destroy(&vm);
}

/* A counter that jumps, as on another host, neither stops the guest nor makes it rush. */
static void test_tick_jump(void)
{
	struct refvm_vm_opts opts = fixture_opts(accel, REFVM_TRACKING_AUTO);
	struct refvm_guest_cpu *cpu;
	struct refvm_vm vm;
	int64_t jump;

	opts.guest.rate = 20000;
	if (!fixture_boot(&vm, &opts))
		return;
	for (jump = -1; jump <= 1; jump += 2) {
		refvm_vm_stop(&vm);
		cpu = refvm_memory_at(&vm.memory, REFVM_GPA_CPU, sizeof(*cpu));
		cpu->next_tick += (uint64_t)(jump * (int64_t)(3600 * vm.tick_hz));
		refvm_vm_start(&vm);
		CU_ASSERT(ops_per_s(&vm) <= 22000);
		fixture_work(&vm, 1000);
	}
	refvm_vm_stop(&vm);
	CU_ASSERT_EQUAL(fixture_errors(&vm), 0);
	refvm_vm_destroy(&vm);
}

/* A vCPU that may run a fifth of the time; a busy machine can only make it less. */
static void test_throttle(void)
{
	struct refvm_vm_opts opts = fixture_opts(accel, REFVM_TRACKING_AUTO);
	uint64_t cpu_ns, ns, ops;
	struct refvm_vm vm;
	unsigned int i;

	opts.guest.vcpus = 1;
	if (!fixture_boot(&vm, &opts))
		return;
	refvm_vm_throttle(&vm, 80);
	ns = sluice_now_ns();
	cpu_ns = sluice_clock_read(CLOCK_PROCESS_CPUTIME_ID);
	ops = fixture_ops(&vm);
	for (i = 0; i < 50 || fixture_ops(&vm) == ops; i++) {
		refvm_vm_tick(&vm);
		fixture_sleep_ms(10);
	}
	cpu_ns = sluice_clock_read(CLOCK_PROCESS_CPUTIME_ID) - cpu_ns;
	CU_ASSERT(cpu_ns < (sluice_now_ns() - ns) / 2);
	refvm_vm_throttle(&vm, 0);
	refvm_vm_stop(&vm);
	CU_ASSERT_EQUAL(fixture_errors(&vm), 0);
	refvm_vm_destroy(&vm);
}

/* Plant one error of each kind in every page; the guest must report that kind. */
static void plant(struct refvm_vm *vm, enum refvm_guest_error kind)
{
	const struct refvm_guest_control *control =
		refvm_memory_at(&vm->memory, REFVM_GPA_CONTROL, sizeof(*control));
	struct refvm_guest_cpu *cpu = refvm_memory_at(&vm->memory, REFVM_GPA_CPU, sizeof(*cpu));
	uint64_t i, s;

	if (kind == REFVM_ERROR_COUNT)
		cpu->ops--;
	for (s = 0; s < control->segments; s++) {
		struct refvm_guest_page *page = refvm_memory_at(
			&vm->memory, control->segment[s].gpa, control->segment[s].pages * 4096);

		for (i = 0; i < control->segment[s].pages; i++) {
			page[i].version -= kind == REFVM_ERROR_VERSION;
			page[i].checksum ^= kind == REFVM_ERROR_CHECKSUM;
			page[i].filler[509] ^= kind == REFVM_ERROR_FILLER;
		}
	}
}

static void test_errors_are_seen(void)
{
	struct refvm_vm_opts opts = fixture_opts(accel, REFVM_TRACKING_AUTO);
	struct refvm_guest_cpu *cpu;
	struct refvm_vm vm;
	unsigned int kind, other;

	for (kind = 0; kind < REFVM_ERROR_KINDS; kind++) {
		if (!fixture_boot(&vm, &opts))
			return;
		fixture_idle(&vm); /* so that it stops between two steps */
		fixture_sleep_ms(5);
		refvm_vm_stop(&vm);
		cpu = refvm_memory_at(&vm.memory, REFVM_GPA_CPU, sizeof(*cpu));
		CU_ASSERT_EQUAL(fixture_errors(&vm), 0);
		plant(&vm, kind);
		fixture_set(&vm, REFVM_PATTERN_UNIFORM, 0);
		refvm_vm_start(&vm);
		FIXTURE_WAIT(__atomic_load_n(&cpu->errors[kind], __ATOMIC_RELAXED) > 0);
		refvm_vm_stop(&vm);
		for (other = 0; other < REFVM_ERROR_KINDS; other++)
			CU_ASSERT_EQUAL(cpu->errors[other] > 0, other == kind);
		refvm_vm_destroy(&vm);
	}
}

int main(int argc, char **argv)
{
	static const struct fixture_case cases[] = {
		{"idle", test_idle},
		{"sequential", test_sequential},
		{"uniform", test_uniform},
		{"hot set", test_hotset},
		{"ramp", test_ramp},
		{"zero fill", test_zero_fill},
		{"rate", test_rate},
		{"the tick counter jumps", test_tick_jump},
		{"throttle", test_throttle},
		{"planted errors are seen", test_errors_are_seen},
		{NULL, NULL},
	};

	accel = argc > 1 && strcmp(argv[1], "thread") == 0 ? REFVM_ACCEL_THREAD : REFVM_ACCEL_KVM;
	if (accel == REFVM_ACCEL_KVM && !fixture_has_kvm()) {
		fprintf(stderr, "skipped: /dev/kvm cannot be opened\n");
		return TEST_SKIP;
	}
	return fixture_main("guest", cases);
}
