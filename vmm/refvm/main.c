/* SPDX-License-Identifier: BSD-3-Clause */
/* main.c: refvm's start and end. Everything between is events of the main thread's loop. */
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "vmm/refvm/refvm.h"

#define EXIT_FAILED  1
#define EXIT_OPTIONS 2

static struct refvm refvm; /* large, and one per process */
static volatile sig_atomic_t end_requested;

static void on_end_signal(int signal_number)
{
	(void)signal_number;
	end_requested = 1;
	sluice_loop_wake(refvm.loop);
}

static void handle_signals(void)
{
	struct sigaction end = {.sa_handler = on_end_signal};
	struct sigaction ignore = {.sa_handler = SIG_IGN};

	sigaction(SIGINT, &end, NULL);
	sigaction(SIGTERM, &end, NULL);
	sigaction(SIGPIPE, &ignore, NULL);
}

static void on_guest_failure(void *ctx)
{
	struct refvm *r = ctx;

	sluice_loop_wake(r->loop);
}

static void report_guest_failure(struct refvm *r)
{
	static bool reported;

	pthread_mutex_lock(&r->vm.gate.lock);
	if (r->vm.failure.code != 0 && !reported) {
		reported = true;
		fprintf(stderr, "refvm: %s: %s\n", r->vm.failure.where, r->vm.failure.text);
	}
	pthread_mutex_unlock(&r->vm.gate.lock);
}

static void on_wake(void *ctx, uint64_t now_ns)
{
	struct refvm *r = ctx;

	(void)now_ns;
	if (end_requested)
		sluice_loop_stop(r->loop, 0);
	report_guest_failure(r);
	refvm_migration_on_wake(r);
}

static struct refvm_vm_opts vm_opts(const struct refvm_options *options)
{
	return (struct refvm_vm_opts){
		.memory =
			{
				.bytes = options->ram_bytes,
				.regions = (unsigned int)options->regions,
				.backing = options->backing,
				.separate = options->separate,
				.prealloc = options->prealloc,
			},
		.guest =
			{
				.vcpus = (unsigned int)options->vcpus,
				.touch_bytes = options->touch_bytes,
				.seed = options->seed,
				.fill = options->fill,
				.pattern = options->pattern,
				.rate = options->rate,
				.ramp_per_s = options->ramp_per_s,
				.hot_writes_percent = options->hot_writes_percent,
				.hot_pages_percent = options->hot_pages_percent,
			},
		.accel = options->accel,
		.tracking = options->tracking,
		.ring_entries = (uint32_t)options->ring_entries,
		.ballast_bytes = options->device_bytes,
		.incoming = options->incoming,
	};
}

static int start_machine(struct refvm *r, struct sluice_error *err)
{
	struct refvm_vm_opts opts = vm_opts(&r->options);
	int rc = refvm_vm_create(&opts, &r->vm, err);

	if (rc < 0)
		return rc;
	r->vm.on_failure = on_guest_failure;
	r->vm.on_failure_ctx = r;
	if (r->vm.accel == &refvm_accel_thread)
		fprintf(stderr,
			"refvm: without KVM: threads of this process do the guest's work, tracked "
			"by userfaultfd\n");
	rc = refvm_witness_open(&r->witness, r->options.witness, err);
	if (rc == 0)
		rc = refvm_sampler_start(&r->vm, &r->sampler, err);
	return rc;
}

static int start(struct refvm *r, struct sluice_error *err)
{
	int rc = sluice_loop_create(&r->loop);

	if (rc < 0)
		return sluice_fail(err, rc, "main", "An event loop: %s.", strerror(-rc));
	sluice_loop_on_wake(r->loop, on_wake, r);
	handle_signals();
	rc = start_machine(r, err);
	if (rc == 0)
		rc = refvm_engine_start(r, err);
	if (rc == 0)
		rc = refvm_migration_init(r, err);
	if (rc == 0 && r->options.monitor[0] != '\0')
		rc = refvm_monitor_create(r, r->options.monitor, &r->monitor, err);
	return rc;
}

/* NULL-safe, so that it also ends what start() began. */
static void end(struct refvm *r)
{
	struct sigaction fall_back = {.sa_handler = SIG_DFL};

	sigaction(SIGINT, &fall_back, NULL);
	sigaction(SIGTERM, &fall_back, NULL);
	refvm_monitor_destroy(r->monitor);
	refvm_engine_stop(r);
	refvm_migration_fini(r);
	refvm_sampler_stop(r->sampler);
	if (r->vm.accel != NULL)
		refvm_vm_destroy(&r->vm);
	refvm_witness_close(&r->witness);
	sluice_loop_destroy(r->loop);
}

int main(int argc, char **argv)
{
	struct refvm *r = &refvm;
	struct sluice_error err = {.code = 0};
	int rc;

	r->witness.fd = -1;
	rc = refvm_options_parse(argc, argv, &r->options, &err);
	if (rc == 1)
		return 0;
	if (rc < 0) {
		fprintf(stderr, "refvm: %s\nTry refvm --help.\n", err.text);
		return EXIT_OPTIONS;
	}
	rc = start(r, &err);
	if (rc < 0)
		fprintf(stderr, "refvm: %s: %s\n", err.where, err.text);
	else
		rc = sluice_loop_run(r->loop);
	end(r);
	return rc < 0 ? EXIT_FAILED : 0;
}
