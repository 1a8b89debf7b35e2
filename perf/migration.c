/* SPDX-License-Identifier: BSD-3-Clause */
/* migration.c: see migration.h. */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "perf/disturb.h"
#include "perf/experiment.h"
#include "perf/footprint.h"
#include "perf/guest.h"
#include "perf/migration.h"

#define STEP_INTERVAL_MS 20 /* where something is done to the migration */
#define NEWS_INTERVAL_MS 500 /* at the latest; the engine tells its progress more often */
#define WAIT_INTERVAL_NS (50 * SLUICE_NS_PER_MS)
#define REASON_MAX       200

struct migration {
	const struct perf_config *config;
	struct perf_node *source, *target;
	struct perf_progress *progress;
	json_t *run; /* what is known so far */
	json_t *migrate; /* the source's last query-migrate */
	struct perf_guest_span span;
	struct perf_disturb disturb;
	bool skipped; /* this machine cannot do what is asked for */
	double cpu_s[2]; /* of both engines at the start */
};

static int check(const struct migration *m, struct sluice_error *err)
{
	int r = perf_node_check(m->source, err);

	if (perf_experiment_interrupted())
		r = sluice_fail(err, -EINTR, "run", "interrupted");
	return r < 0 ? r : perf_node_check(m->target, err);
}

/* Sleep, but end early with an error when something died or the user interrupts. */
static int let_work(const struct migration *m, uint64_t ns, struct sluice_error *err)
{
	uint64_t end_ns = sluice_now_ns() + ns, now_ns;
	int r = check(m, err);

	while (r == 0 && (now_ns = sluice_now_ns()) < end_ns) {
		uint64_t left_ns = end_ns - now_ns;

		usleep((useconds_t)((left_ns < WAIT_INTERVAL_NS ? left_ns : WAIT_INTERVAL_NS) /
				    SLUICE_NS_PER_US));
		r = check(m, err);
	}
	return r;
}

/* Ask nobody anything meanwhile: an answer would be work. */
static int sleep_for(uint64_t ns, struct sluice_error *err)
{
	struct timespec left = {
		.tv_sec = (time_t)(ns / SLUICE_NS_PER_S), .tv_nsec = (long)(ns % SLUICE_NS_PER_S)};

	while (nanosleep(&left, &left) < 0)
		if (perf_experiment_interrupted())
			return sluice_fail(err, -EINTR, "run", "interrupted");
	return 0;
}

static int start(struct migration *m, struct sluice_error *err)
{
	json_t *answer = NULL;
	const char *uri;
	int r;

	r = perf_command(m->target->engine_link, "migrate-incoming",
		json_pack("{s:s}", "uri", "tcp:127.0.0.1:0"), &answer, err);
	if (r < 0)
		return r;
	uri = json_string_value(json_object_get(answer, "uri"));
	r = perf_disturb_prepare(
		&m->disturb, m->config, m->source, m->target, uri != NULL ? uri : "", err);
	if (r < 0) {
		m->skipped = r == -EPERM || r == -EOPNOTSUPP;
		json_decref(answer);
		return r;
	}
	m->cpu_s[0] = perf_process_cpu_s(&m->source->engine);
	m->cpu_s[1] = perf_process_cpu_s(&m->target->engine);
	m->span.start_ns = sluice_now_ns();
	r = perf_command(m->source->engine_link, "migrate",
		json_pack("{s:s}", "uri", uri != NULL ? uri : ""), NULL, err);
	json_decref(answer);
	return r;
}

static int query_migrate(struct migration *m, struct sluice_error *err)
{
	json_t *answer = NULL;
	int r = perf_command(m->source->engine_link, "query-migrate", NULL, &answer, err);

	if (r < 0)
		return r;
	json_decref(m->migrate);
	m->migrate = answer;
	return 0;
}

static const char *migrate_status(const struct migration *m)
{
	const char *status = json_string_value(json_object_get(m->migrate, "status"));

	return status != NULL ? status : "unknown";
}

/* What one side's engine says about its end; the other side often knows only that it ended. */
static void fetch_reason(struct sluice_vmm *link, char *text, size_t text_bytes)
{
	const char *why = NULL;
	json_t *answer = NULL;

	if (perf_command(link, "query-migrate", NULL, &answer, NULL) == 0)
		why = json_string_value(json_object_get(answer, "error-desc"));
	snprintf(text, text_bytes, "%s", why != NULL ? why : "no reason given");
	json_decref(answer);
}

/* Until the engine has news. Whoever asks again and again takes CPU time from what is measured: in an
   emulated machine each question is some milliseconds of it. */
static void wait_news(struct migration *m)
{
	int timeout_ms = perf_disturb_steps(m->config) ? STEP_INTERVAL_MS : NEWS_INTERVAL_MS;
	struct sluice_vmm_event event;

	if (sluice_vmm_next_event(m->source->engine_link, timeout_ms, &event, NULL) == 1)
		sluice_vmm_event_clear(&event);
}

static int wait_completed(struct migration *m, struct sluice_error *err)
{
	uint64_t end_ns = m->span.start_ns + m->config->timeout_ns;
	char source_why[REASON_MAX], target_why[REASON_MAX];
	const char *status;
	int r;

	for (;;) {
		r = check(m, err);
		if (r == 0)
			r = query_migrate(m, err);
		if (r == 0)
			r = perf_disturb_step(&m->disturb, migrate_status(m), sluice_now_ns(), err);
		if (r < 0)
			return r;
		perf_progress_migration(m->progress, m->migrate);
		status = migrate_status(m);
		if (strcmp(status, "completed") == 0)
			return 0;
		if (strcmp(status, "failed") == 0 || strcmp(status, "cancelled") == 0 ||
			strcmp(status, "in-doubt") == 0)
			break;
		if (sluice_now_ns() > end_ns)
			return sluice_fail(
				err, -ETIMEDOUT, "run", "still %s after the time-out", status);
		wait_news(m);
	}
	fetch_reason(m->source->engine_link, source_why, sizeof(source_why));
	fetch_reason(m->target->engine_link, target_why, sizeof(target_why));
	return sluice_fail(err, -ECANCELED, "run",
		"the migration ended as %s; source: %s; target: %s", status, source_why,
		target_why);
}

/* The source says completed when the target has committed; its VMM runs a moment later. */
static int wait_running(struct migration *m, struct sluice_error *err)
{
	uint64_t end_ns = sluice_now_ns() + 10 * SLUICE_NS_PER_S;
	struct perf_guest_times times = {0};
	int r;

	do {
		r = check(m, err);
		if (r == 0)
			r = perf_guest_times(m->target, &times, err);
		if (r < 0 || times.running_ns != 0)
			return r;
		usleep(1000);
	} while (sluice_now_ns() < end_ns);
	return sluice_fail(
		err, -ETIMEDOUT, m->target->name, "the guest does not run at the target");
}

/* ---- what is measured ---- */

static void put_real(struct migration *m, const char *key, double value)
{
	json_object_set_new(m->run, key, json_real(value));
}

/* Copy a number from an answer under another name, scaled; absent stays absent. */
static void put_from(
	struct migration *m, const char *key, const json_t *answer, const char *from, double scale)
{
	const json_t *value = json_object_get(answer, from);

	if (!json_is_number(value))
		return;
	if (scale == 1 && json_is_integer(value))
		json_object_set_new(m->run, key, json_integer(json_integer_value(value)));
	else
		put_real(m, key, json_number_value(value) * scale);
}

static double ms_between(uint64_t begin_ns, uint64_t end_ns)
{
	return ((double)end_ns - (double)begin_ns) / (double)SLUICE_NS_PER_MS;
}

static void put_cpu(struct migration *m)
{
	double source_s = perf_process_cpu_s(&m->source->engine);
	double target_s = perf_process_cpu_s(&m->target->engine);

	put_real(m, "cpu_s_source", source_s - m->cpu_s[0]);
	put_real(m, "cpu_s_target", target_s - m->cpu_s[1]);
}

/* How far the prediction was off, as a share of what came. */
static void put_predict_error(struct migration *m)
{
	const json_t *predicted = json_object_get(m->run, "predicted_downtime_ms");
	double real_ms = json_number_value(json_object_get(m->run, "downtime_ms"));
	double off_ms = json_number_value(predicted) - real_ms;

	if (json_is_number(predicted) && real_ms > 0)
		put_real(m, "predict_error", (off_ms < 0 ? -off_ms : off_ms) / real_ms);
}

static int put_times(struct migration *m, struct sluice_error *err)
{
	struct perf_guest_span *span = &m->span;
	struct perf_guest_times source, target;
	int r = perf_guest_times(m->source, &source, err);

	if (r == 0)
		r = perf_guest_times(m->target, &target, err);
	if (r < 0)
		return r;
	span->held_ns = m->config->hold_ns;
	span->before_ns = m->config->settle_ns;
	span->stopped_ns = source.stopped_ns;
	span->running_ns = target.running_ns;
	put_real(m, "total_ms", ms_between(span->start_ns, span->running_ns));
	put_real(m, "downtime_ms", ms_between(span->stopped_ns, span->running_ns));
	put_real(m, "precopy_ms", ms_between(span->start_ns, span->stopped_ns));
	put_from(m, "predicted_downtime_ms", m->migrate, "expected-downtime-us", 1e-3);
	put_real(m, "downtime_over_40ms",
		json_number_value(json_object_get(m->run, "downtime_ms")) > 40 ? 1 : 0);
	put_predict_error(m);
	json_object_set(m->run, "predicted_phases",
		json_object_get(m->migrate, "expected-downtime-phases"));
	json_object_set(m->run, "downtime_phases", json_object_get(m->migrate, "downtime-phases"));
	put_from(m, "engine_total_ms", m->migrate, "total-time", 1);
	put_from(m, "setup_ms", m->migrate, "setup-time", 1);
	put_from(m, "engine_downtime_ms", m->migrate, "downtime-us", 1e-3);
	return 0;
}

/* Peak in flight, as a share of what was allowed. */
static int put_budget(struct migration *m, const json_t *stats, struct sluice_error *err)
{
	json_t *parameters = NULL;
	double budget, peak = json_number_value(json_object_get(stats, "inflight-bytes-peak"));
	int r = perf_command(
		m->source->engine_link, "query-migrate-parameters", NULL, &parameters, err);

	if (r < 0)
		return r;
	budget = json_number_value(json_object_get(parameters, "memory-budget"));
	json_decref(parameters);
	if (budget > 0)
		put_real(m, "inflight_of_budget", peak / budget);
	return 0;
}

static void put_rates(struct migration *m, const json_t *stats)
{
	double total_ms = json_number_value(json_object_get(m->run, "total_ms"));
	double placed = json_number_value(json_object_get(stats, "bytes-placed"));
	double inflight_ns = json_number_value(json_object_get(stats, "inflight-ns"));

	if (total_ms > 0)
		put_real(m, "placed_bytes_per_s", placed * 1e3 / total_ms);
	if (inflight_ns > 0)
		put_real(m, "bulk_bytes_per_s", placed * SLUICE_NS_PER_S / inflight_ns);
}

/* What the rails of both sides registered; nothing where no rail registers memory. The clock is the
   same for all processes of a host. */
static void put_registered(struct migration *m, const json_t *source, const json_t *target)
{
	double gib = (json_number_value(json_object_get(source, "registered-bytes")) +
			     json_number_value(json_object_get(target, "registered-bytes"))) /
		     (double)(1ull << 30);
	double ns = json_number_value(json_object_get(source, "register-ns")) +
		    json_number_value(json_object_get(target, "register-ns"));
	double stopped_ns = (double)m->span.stopped_ns;

	if (gib <= 0)
		return;
	put_real(m, "register_ms_per_gib", ns / SLUICE_NS_PER_MS / gib);
	put_real(m, "registered_in_downtime",
		json_number_value(json_object_get(source, "registered-last-ns")) > stopped_ns ||
				json_number_value(json_object_get(target, "registered-last-ns")) >
					stopped_ns
			? 1
			: 0);
}

static int put_stats(struct migration *m, struct sluice_error *err)
{
	json_t *stats = NULL, *target_stats = NULL, *lanes = NULL;
	int r;

	r = perf_command(m->source->engine_link, "query-stats", NULL, &stats, err);
	if (r == 0)
		r = perf_command(m->target->engine_link, "query-stats", NULL, &target_stats, err);
	if (r == 0)
		r = perf_command(m->source->engine_link, "query-lanes", NULL, &lanes, err);
	if (r < 0)
		goto out_free;
	put_from(m, "bytes_placed", stats, "bytes-placed", 1);
	put_from(m, "pages_sent", stats, "pages-sent", 1);
	put_from(m, "pages_zero", stats, "pages-zero", 1);
	put_from(m, "inflight_bytes_peak", stats, "inflight-bytes-peak", 1);
	r = put_budget(m, stats, err);
	perf_disturb_describe(
		&m->disturb, stats, lanes, json_object_get(m->migrate, "ram"), m->run);
	put_from(m, "pin_ms", stats, "pin-ms", 1);
	put_from(m, "pages_pinned_during_migration", stats, "pages-pinned-during-migration", 1);
	put_registered(m, stats, target_stats);
	put_rates(m, stats);
	json_object_set(m->run, "lanes", lanes);
	json_object_set(m->run, "workers", json_object_get(stats, "workers"));
	json_object_set(m->run, "workers_target", json_object_get(target_stats, "workers"));
	json_object_set(m->run, "stats_source", stats);
	json_object_set(m->run, "stats_target", target_stats);
out_free:
	json_decref(stats);
	json_decref(target_stats);
	json_decref(lanes);
	return r;
}

static int put_verify(struct migration *m, struct sluice_error *err)
{
	struct perf_verify verify;
	int r;

	if (!m->config->verify)
		return 0;
	r = perf_guest_verify(m->target, m->source, &verify, err);
	if (r < 0)
		return r;
	json_object_set_new(
		m->run, "mismatched_pages", json_integer((json_int_t)verify.mismatched));
	json_object_set_new(m->run, "pages_compared", json_integer((json_int_t)verify.compared));
	json_object_set_new(
		m->run, "pages_written_since", json_integer((json_int_t)verify.skipped));
	if (verify.mismatched != 0)
		return sluice_fail(err, -EILSEQ, "run", "%llu pages differ",
			(unsigned long long)verify.mismatched);
	if (verify.compared == 0)
		return sluice_fail(err, -EILSEQ, "run", "no page could be compared");
	return 0;
}

static int put_guest(struct migration *m, struct sluice_error *err)
{
	json_t *ops = NULL;
	uint64_t errors = 0;
	int r = perf_guest_errors(m->target, &errors, err);

	if (r == 0)
		r = perf_guest_ops(m->source, m->target, &m->span, &ops, err);
	if (r < 0)
		return r;
	json_object_set_new(m->run, "guest_errors", json_integer((json_int_t)errors));
	json_object_set_new(m->run, "guest_ops_per_s", ops);
	if (errors != 0)
		return sluice_fail(err, -EILSEQ, "run", "the guest found %llu errors",
			(unsigned long long)errors);
	return 0;
}

/* Both engines have nothing to do now; the larger figure of the two counts. */
static int put_idle(struct migration *m, struct sluice_error *err)
{
	const struct perf_process *engine[] = {&m->source->engine, &m->target->engine};
	double cpu_s[2], most_cpu_s = 0, most_bytes = 0;
	int r;

	if (m->config->idle_for_ns == 0)
		return 0;
	cpu_s[0] = perf_process_cpu_s(engine[0]);
	cpu_s[1] = perf_process_cpu_s(engine[1]);
	r = sleep_for(m->config->idle_for_ns, err);
	for (int i = 0; r == 0 && i < 2; i++) {
		double used_s = perf_process_cpu_s(engine[i]) - cpu_s[i];
		double bytes = (double)perf_footprint_bytes(engine[i]->pid);

		most_cpu_s = used_s > most_cpu_s ? used_s : most_cpu_s;
		most_bytes = bytes > most_bytes ? bytes : most_bytes;
	}
	put_real(m, "idle_cpu_ms", most_cpu_s * 1e3);
	put_real(m, "engine_memory_bytes", most_bytes);
	return r;
}

static int query_pinned(struct perf_node *node, double *ret_pages, struct sluice_error *err)
{
	json_t *stats = NULL;
	int r = perf_command(node->engine_link, "query-stats", NULL, &stats, err);

	if (r == 0)
		*ret_pages = json_number_value(json_object_get(stats, "pages-pinned"));
	json_decref(stats);
	return r;
}

/* The VMM leaves its engine and comes back with the same memory. */
static int put_reattach(struct migration *m, struct sluice_error *err)
{
	double before = 0, after = 0;
	int r;

	if (!m->config->reattach)
		return 0;
	r = query_pinned(m->target, &before, err);
	if (r == 0)
		r = perf_command(m->target->monitor, "reattach", NULL, NULL, err);
	if (r == 0)
		r = query_pinned(m->target, &after, err);
	if (r == 0)
		put_real(m, "pages_pinned_by_reattach", after - before);
	return r;
}

static int measure(struct migration *m, struct sluice_error *err)
{
	int r = perf_guest_wait_ready(m->source, m->config->timeout_ns, err);

	if (r == 0)
		r = let_work(m, m->config->settle_ns, err);
	if (r == 0)
		r = start(m, err);
	if (r == 0)
		r = wait_completed(m, err);
	if (r == 0)
		r = wait_running(m, err);
	if (r < 0)
		return r;
	put_cpu(m);
	r = put_times(m, err);
	if (r == 0)
		r = put_stats(m, err);
	if (r == 0)
		r = put_idle(m, err);
	if (r == 0)
		r = put_reattach(m, err);
	if (r == 0)
		r = let_work(m, m->config->after_ns, err);
	/* Verifying stops the guest for a while, so that it comes last. */
	if (r == 0)
		r = put_guest(m, err);
	return r == 0 ? put_verify(m, err) : r;
}

int perf_migration_run(const struct perf_config *config, struct perf_node *source,
	struct perf_node *target, struct perf_progress *progress, json_t **ret_run,
	struct sluice_error *err)
{
	struct migration m = {.config = config,
		.source = source,
		.target = target,
		.progress = progress,
		.run = json_object()};
	int r = measure(&m, err);

	if (m.skipped) {
		*ret_run = json_pack("{s:s, s:s}", "status", "skipped", "reason", err->text);
		*err = (struct sluice_error){.code = 0};
		json_decref(m.run);
		return 0;
	}
	json_object_set_new(m.run, "status", json_string(r == 0 ? "completed" : "failed"));
	if (r < 0)
		json_object_set_new(m.run, "error", json_string(err->text));
	json_decref(m.migrate);
	*ret_run = m.run;
	return r;
}
