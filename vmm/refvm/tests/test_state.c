/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * test_state.c: a guest stops in one process and goes on in another, with its memory copied
 * and its state sent through a pipe; and what is not a whole, fitting state is refused.
 * Argument: kvm or thread.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "vmm/refvm/state.h"
#include "vmm/refvm/tests/fixture.h"

static int accel;

/* ---- The other process ---- */

struct handover {
	int pipe[2]; /* the state; end of file before it means: nothing comes */
	uint8_t *ram; /* shared: the copy of all regions, one after another */
	uint64_t bytes;
};

static void copy_ram(struct refvm_vm *vm, uint8_t *ram, bool to_guest)
{
	unsigned int i;

	for (i = 0; i < vm->memory.count; i++) {
		const struct refvm_region *region = &vm->memory.region[i];

		if (to_guest)
			memcpy(region->hva, ram, region->bytes);
		else
			memcpy(ram, region->hva, region->bytes);
		ram += region->bytes;
	}
}

/* Load, run, check; the exit code says what went wrong, 0 for nothing. */
static int other_process(const struct handover *h, const struct refvm_vm_opts *opts)
{
	struct sluice_error err = {.code = 0};
	struct refvm_blob blob;
	struct refvm_vm vm;
	uint64_t ops;

	if (refvm_vm_create(opts, &vm, &err) < 0 || refvm_blob_read(h->pipe[0], &blob, &err) < 0)
		goto fail;
	copy_ram(&vm, h->ram, true);
	if (refvm_state_load(&vm, &blob, &err) < 0)
		goto fail;
	if (blob.header.generation != 7)
		return 3;
	refvm_blob_free(&blob);
	refvm_state_enter(&vm);
	ops = fixture_ops(&vm);
	refvm_vm_start(&vm);
	fixture_sleep_ms(200);
	fixture_work(&vm, 5);
	refvm_vm_stop(&vm);
	if (vm.failure.code != 0)
		fprintf(stderr, "%s: %s\n", vm.failure.where, vm.failure.text);
	if (vm.failure.code != 0 || fixture_ops(&vm) <= ops)
		return 4;
	copy_ram(&vm, h->ram, false);
	ops = fixture_errors(&vm);
	refvm_vm_destroy(&vm);
	return ops == 0 ? 0 : 5;
fail:
	fprintf(stderr, "%s: %s\n", err.where, err.text);
	return 2;
}

static void write_all(int fd, const uint8_t *bytes, size_t len)
{
	while (len > 0) {
		ssize_t put = write(fd, bytes, len);

		if (put <= 0)
			return;
		bytes += put;
		len -= (size_t)put;
	}
}

static bool create_handover(struct handover *h, uint64_t bytes)
{
	h->bytes = bytes;
	h->ram = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	return h->ram != MAP_FAILED && pipe2(h->pipe, O_CLOEXEC) == 0;
}

static void move_guest(uint32_t pattern, uint64_t rate)
{
	struct refvm_vm_opts opts = fixture_opts(accel, REFVM_TRACKING_AUTO);
	struct refvm_vm_opts incoming = opts;
	struct sluice_error err = {.code = 0};
	struct refvm_vm vm;
	struct handover h;
	uint8_t *state;
	size_t len;
	pid_t child;
	int status = -1;

	incoming.incoming = true;
	CU_ASSERT_FATAL(create_handover(&h, opts.memory.bytes));
	child = fork(); /* before there are threads */
	if (child == 0) {
		close(h.pipe[1]);
		_exit(other_process(&h, &incoming));
	}
	close(h.pipe[0]);
	if (fixture_boot(&vm, &opts)) {
		fixture_set(&vm, pattern, rate);
		fixture_sleep_ms(200);
		refvm_vm_stop(&vm);
		copy_ram(&vm, h.ram, false);
		CU_ASSERT_EQUAL(refvm_state_save(&vm, 7, true, &state, &len, &err), 0);
		write_all(h.pipe[1], state, len);
		free(state);
		refvm_vm_destroy(&vm);
	}
	close(h.pipe[1]);
	waitpid(child, &status, 0);
	CU_ASSERT_EQUAL(status, 0);
	munmap(h.ram, h.bytes);
}

static void test_move_busy(void)
{
	move_guest(REFVM_PATTERN_UNIFORM, 0);
}

/* Stopped in a port access, most likely: the instruction must not be repeated or skipped. */
static void test_move_paced(void)
{
	move_guest(REFVM_PATTERN_HOTSET, 1000);
}

static void test_move_idle(void)
{
	move_guest(REFVM_PATTERN_IDLE, 0);
}

/* An idle vCPU stops while the VMM sleeps for it, in the middle of a port access. Stopped, it
   must stand behind that instruction: elsewhere it would be executed again. */
static void test_access_is_finished(void)
{
	static const uint8_t out_yield[] = {0xe7, REFVM_PORT_YIELD};
	struct refvm_vm_opts opts = fixture_opts(accel, REFVM_TRACKING_AUTO);
	struct kvm_regs regs;
	struct refvm_vm vm;
	unsigned int i, tries, behind = 0;

	if (accel != REFVM_ACCEL_KVM || !fixture_boot(&vm, &opts))
		return;
	fixture_idle(&vm);
	/* Until it has met the moment that it is about. */
	for (tries = 0; behind == 0 && tries < 100; tries++) {
		refvm_vm_start(&vm);
		fixture_sleep_ms(20);
		refvm_vm_stop(&vm);
		for (i = 0; i < vm.vcpus; i++) {
			const uint8_t *code;

			CU_ASSERT_EQUAL(ioctl(vm.vcpu[i].fd, KVM_GET_REGS, &regs), 0);
			code = refvm_memory_at(&vm.memory, regs.rip - 2, 4);
			CU_ASSERT_NOT_EQUAL(memcmp(code + 2, out_yield, 2), 0);
			behind += memcmp(code, out_yield, 2) == 0;
		}
	}
	CU_ASSERT(behind > 0);
	refvm_vm_destroy(&vm);
}

/* ---- States that must be refused ---- */

static int read_back(const uint8_t *state, size_t len, struct refvm_blob *ret_blob)
{
	struct sluice_error err = {.code = 0};
	int rc, fd = memfd_create("state", MFD_CLOEXEC);

	write_all(fd, state, len);
	lseek(fd, 0, SEEK_SET);
	rc = refvm_blob_read(fd, ret_blob, &err);
	close(fd);
	CU_ASSERT_EQUAL(rc < 0, err.text[0] != '\0');
	return rc;
}

static void check_damaged(uint8_t *state, size_t len)
{
	struct refvm_blob blob = {.body = NULL};
	size_t at;

	for (at = 0; at < len; at += at < 128 ? 1 : 61) {
		state[at] ^= 0x10;
		CU_ASSERT_EQUAL(read_back(state, len, &blob), -EINVAL);
		state[at] ^= 0x10;
	}
	for (at = 0; at < len; at += at < 128 ? 1 : 509)
		CU_ASSERT_EQUAL(read_back(state, at, &blob), -EINVAL);
	state[len] = 0;
	CU_ASSERT_EQUAL(read_back(state, len + 1, &blob), -EINVAL);
	CU_ASSERT_EQUAL(read_back(state, len, &blob), 0);
	refvm_blob_free(&blob);
}

static void check_unfit(struct refvm_vm *vm, const uint8_t *state, size_t len)
{
	struct sluice_error err = {.code = 0};
	struct refvm_blob blob = {.body = NULL};

	CU_ASSERT_EQUAL_FATAL(read_back(state, len, &blob), 0);
	blob.header.vcpus = 1;
	CU_ASSERT_EQUAL(refvm_state_load(vm, &blob, &err), -EINVAL);
	blob.header.vcpus = vm->vcpus;
	blob.header.accel[0] ^= 1;
	CU_ASSERT_EQUAL(refvm_state_load(vm, &blob, &err), -EINVAL);
	blob.header.accel[0] ^= 1;
	blob.body_bytes = 0;
	CU_ASSERT_EQUAL(refvm_state_load(vm, &blob, &err), -ENOENT);
	blob.body_bytes = blob.header.body_bytes;
	CU_ASSERT_EQUAL(refvm_state_load(vm, &blob, &err), 0);
	refvm_blob_free(&blob);
}

static void test_refused(void)
{
	struct refvm_vm_opts opts = fixture_opts(accel, REFVM_TRACKING_AUTO);
	struct sluice_error err = {.code = 0};
	struct refvm_vm vm;
	uint8_t *state, *roomier;
	size_t len;

	if (!fixture_boot(&vm, &opts))
		return;
	refvm_vm_stop(&vm);
	CU_ASSERT_EQUAL_FATAL(refvm_state_save(&vm, 1, true, &state, &len, &err), 0);
	roomier = realloc(state, len + 1);
	if (roomier == NULL)
		abort();
	check_damaged(roomier, len);
	check_unfit(&vm, roomier, len);
	free(roomier);
	refvm_vm_start(&vm);
	fixture_sleep_ms(100);
	CU_ASSERT_EQUAL(fixture_errors(&vm), 0);
	refvm_vm_destroy(&vm);
}

int main(int argc, char **argv)
{
	static const struct fixture_case cases[] = {
		{"a busy guest moves", test_move_busy},
		{"a paced guest moves", test_move_paced},
		{"an idle guest moves", test_move_idle},
		{"a port access is finished", test_access_is_finished},
		{"what does not fit is refused", test_refused},
		{NULL, NULL},
	};

	accel = argc > 1 && strcmp(argv[1], "thread") == 0 ? REFVM_ACCEL_THREAD : REFVM_ACCEL_KVM;
	if (accel == REFVM_ACCEL_KVM && !fixture_has_kvm()) {
		fprintf(stderr, "skipped: /dev/kvm cannot be opened\n");
		return TEST_SKIP;
	}
	return fixture_main("state", cases);
}
