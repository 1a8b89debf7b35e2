/* SPDX-License-Identifier: BSD-3-Clause */
/* fixture.c: see fixture.h. */
#include "vmm/refvm/tests/fixture.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

struct refvm_vm_opts fixture_opts(int accel, int tracking)
{
	return (struct refvm_vm_opts){
		.memory = {.bytes = 64ull << 20, .regions = 2},
		.guest =
			{
				.vcpus = 2,
				.touch_bytes = UINT64_MAX,
				.seed = 20260101,
				.pattern = REFVM_PATTERN_UNIFORM,
				.ramp_per_s = 10000,
				.hot_writes_percent = 90,
				.hot_pages_percent = 10,
			},
		.accel = accel,
		.tracking = tracking,
		.ring_entries = 1024, /* few, so that they fill up */
	};
}

void fixture_sleep_ms(unsigned int ms)
{
	struct timespec nap = {.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000};

	nanosleep(&nap, NULL);
}

static struct refvm_guest_cpu *cpu_at(const struct refvm_vm *vm, unsigned int i)
{
	return refvm_memory_at(
		&vm->memory, REFVM_GPA_CPU + i * REFVM_PAGE_BYTES, sizeof(struct refvm_guest_cpu));
}

static struct refvm_guest_control *control_of(const struct refvm_vm *vm)
{
	return refvm_memory_at(&vm->memory, REFVM_GPA_CONTROL, sizeof(struct refvm_guest_control));
}

uint64_t fixture_ops(const struct refvm_vm *vm)
{
	uint64_t ops = 0;
	unsigned int i;

	for (i = 0; i < vm->vcpus; i++)
		ops += __atomic_load_n(&cpu_at(vm, i)->ops, __ATOMIC_RELAXED);
	return ops;
}

void fixture_work(const struct refvm_vm *vm, uint64_t ops)
{
	uint64_t end = fixture_ops(vm) + ops;

	FIXTURE_WAIT(fixture_ops(vm) >= end);
}

uint64_t fixture_errors(const struct refvm_vm *vm)
{
	uint64_t errors = 0;
	unsigned int i, kind;

	for (i = 0; i < vm->vcpus; i++) {
		for (kind = 0; kind < REFVM_ERROR_KINDS; kind++)
			errors += __atomic_load_n(&cpu_at(vm, i)->errors[kind], __ATOMIC_RELAXED);
	}
	return errors;
}

bool fixture_filled(const struct refvm_vm *vm)
{
	uint64_t filled = 0;
	unsigned int i;

	for (i = 0; i < vm->vcpus; i++)
		filled += __atomic_load_n(&cpu_at(vm, i)->filled, __ATOMIC_RELAXED);
	return filled == control_of(vm)->pages;
}

void fixture_set(struct refvm_vm *vm, uint32_t pattern, uint64_t rate)
{
	struct refvm_guest_control *control = control_of(vm);

	__atomic_store_n(&control->pattern, pattern, __ATOMIC_RELAXED);
	__atomic_store_n(&control->rate, rate, __ATOMIC_RELAXED);
	__atomic_fetch_add(&control->ramp_epoch, 1, __ATOMIC_RELAXED);
	refvm_memory_written(&vm->memory, REFVM_GPA_CONTROL, sizeof(*control));
}

/* The step under way may still be one of the old pattern; the one behind it is not. */
void fixture_idle(struct refvm_vm *vm)
{
	unsigned int i, steps;

	fixture_set(vm, REFVM_PATTERN_IDLE, 0);
	for (i = 0; i < vm->vcpus; i++) {
		const uint64_t *ops = &cpu_at(vm, i)->ops;

		for (steps = 0; steps < 2; steps++) {
			uint64_t before = __atomic_load_n(ops, __ATOMIC_RELAXED);

			FIXTURE_WAIT(__atomic_load_n(ops, __ATOMIC_RELAXED) != before);
		}
	}
}

bool fixture_boot(struct refvm_vm *vm, const struct refvm_vm_opts *opts)
{
	struct sluice_error err = {.code = 0};

	if (refvm_vm_create(opts, vm, &err) < 0) {
		fprintf(stderr, "%s: %s\n", err.where, err.text);
		CU_FAIL("refvm_vm_create");
		return false;
	}
	refvm_vm_start(vm);
	FIXTURE_WAIT(fixture_filled(vm));
	return true;
}

bool fixture_has_kvm(void)
{
	int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);

	if (fd < 0)
		return false;
	close(fd);
	return true;
}

bool fixture_has_uffd(void)
{
	struct uffdio_api api = {.api = UFFD_API, .features = 1 << 15};
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | 1);
	bool has = fd >= 0 && ioctl(fd, UFFDIO_API, &api) == 0;

	if (fd >= 0)
		close(fd);
	return has;
}

int fixture_main(const char *suite_name, const struct fixture_case *cases)
{
	CU_pSuite suite;
	unsigned int failures;

	if (CU_initialize_registry() != CUE_SUCCESS)
		return 1;
	suite = CU_add_suite(suite_name, NULL, NULL);
	for (; suite != NULL && cases->name != NULL; cases++)
		CU_add_test(suite, cases->name, cases->run);
	CU_basic_set_mode(CU_BRM_VERBOSE);
	CU_basic_run_tests();
	failures = CU_get_number_of_failures() + (suite == NULL);
	CU_cleanup_registry();
	return failures == 0 ? 0 : 1;
}
