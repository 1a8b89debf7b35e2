/* SPDX-License-Identifier: BSD-3-Clause */
/* node.c: see node.h. */
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"
#include "perf/experiment.h"
#include "perf/node.h"

#define ARGUMENTS_MAX       128
#define CONNECT_TIMEOUT_NS  (30 * SLUICE_NS_PER_S) /* allocating much memory takes long */
#define CONNECT_INTERVAL_US 5000
#define TAIL_LINES          20

/* ---- command lines ---- */

struct argument_list {
	char *item[ARGUMENTS_MAX + 1];
	size_t count;
	bool failed;
};

__attribute__((format(printf, 2, 3))) static void add(
	struct argument_list *list, const char *fmt, ...)
{
	va_list args;

	if (list->count == ARGUMENTS_MAX) {
		list->failed = true;
		return;
	}
	va_start(args, fmt);
	if (vasprintf(&list->item[list->count], fmt, args) < 0) {
		list->item[list->count] = NULL;
		list->failed = true;
	} else {
		list->count++;
	}
	va_end(args);
}

static void add_text(struct argument_list *list, const char *option, const char *value)
{
	if (value[0] != '\0')
		add(list, "%s=%s", option, value);
}

/* Each word of @words with @prefix before it. */
static void add_words(struct argument_list *list, const char *prefix, const char *words)
{
	char copy[PERF_TEXT_MAX], *rest = copy, *word;

	snprintf(copy, sizeof(copy), "%s", words);
	while ((word = strsep(&rest, " ")) != NULL)
		if (word[0] != '\0')
			add(list, "%s%s", prefix, word);
}

/* Word number @index of a list such as "log,ring", over and over; @separator: what is between. */
static void pick_word(
	const char *words, char separator, unsigned int index, char word[PERF_TEXT_MAX])
{
	const char separators[] = {separator, '\0'};
	char copy[PERF_TEXT_MAX], *rest = copy, *item;
	unsigned int count = 1;

	snprintf(copy, sizeof(copy), "%s", words);
	for (const char *c = copy; *c != '\0'; c++)
		count += *c == separator;
	for (index %= count; (item = strsep(&rest, separators)) != NULL && index > 0; index--)
		continue;
	snprintf(word, PERF_TEXT_MAX, "%s", item != NULL ? item : "");
}

static void argument_list_free(struct argument_list *list)
{
	for (size_t i = 0; i < list->count; i++)
		free(list->item[i]);
}

/* A program's path: as configured, or next to this program, or for PATH to find. */
void perf_find_program(const char *configured, const char *name, const char *folder_in_build,
	char path[PERF_PATH_MAX])
{
	char self[PERF_PATH_MAX / 2];
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	char *slash;

	snprintf(path, PERF_PATH_MAX, "%s", configured);
	if (path[0] != '\0')
		return;
	self[n > 0 ? n : 0] = '\0';
	slash = strrchr(self, '/');
	if (slash != NULL) {
		*slash = '\0';
		snprintf(path, PERF_PATH_MAX, "%s/%s", self, name);
		if (access(path, X_OK) == 0)
			return;
		snprintf(path, PERF_PATH_MAX, "%s/../%s/%s", self, folder_in_build, name);
		if (access(path, X_OK) == 0)
			return;
	}
	snprintf(path, PERF_PATH_MAX, "%s", name);
}

static void add_engine_arguments(
	struct argument_list *list, const struct perf_node *node, const struct perf_config *config)
{
	static const char set[] = "--engine-arg=--set=";
	char sluiced[PERF_PATH_MAX], rail[PERF_TEXT_MAX];

	perf_find_program(config->sluiced, "sluiced", "engine", sluiced);
	add(list, "--engine=%s", sluiced);
	if (config->transport[0] != '\0')
		add(list, "%stransport=%s", set, config->transport);
	pick_word(config->rails, ' ', node->index, rail);
	if (rail[0] != '\0')
		add(list, "%srail=%s", set, rail);
	if (config->extent_bytes != 0)
		add(list, "%sextent-size=%llu", set, (unsigned long long)config->extent_bytes);
	if (config->lanes != 0)
		add(list, "%slanes=%llu", set, (unsigned long long)config->lanes);
	if (config->workers != 0)
		add(list, "%sworkers=%llu", set, (unsigned long long)config->workers);
	if (config->pin[0] != '\0')
		add(list, "%spin=%s", set, config->pin);
	add(list, "%sdowntime-limit=%lluns", set, (unsigned long long)config->downtime_limit_ns);
	add(list, "%sruntime-dir=%s", set, node->runtime_path);
	add_words(list, set, config->engine_set);
}

static void add_guest_arguments(
	struct argument_list *list, const struct perf_node *node, const struct perf_config *config)
{
	char tracking[PERF_TEXT_MAX];

	pick_word(config->tracking, ',', node->index, tracking);
	add(list, "--ram=%llu", (unsigned long long)config->ram_bytes);
	add(list, "--vcpus=%llu", (unsigned long long)config->vcpus);
	add_text(list, "--pattern", config->pattern);
	add_text(list, "--rate", config->rate);
	add_text(list, "--touch", config->touch);
	add_text(list, "--tracking", tracking);
	add_text(list, "--backing", config->backing);
	add_text(list, "--accel", config->accel);
	if (config->prealloc)
		add(list, "--prealloc");
	add_words(list, "", config->refvm_args);
}

/* ---- the node ---- */

/* What happens is asked for. Kept for ever, events would fill the connection's queue. */
static void drop_events(struct sluice_vmm *link)
{
	struct sluice_vmm_event event;

	while (sluice_vmm_next_event(link, 0, &event, NULL) == 1)
		sluice_vmm_event_clear(&event);
}

int perf_command(struct sluice_vmm *link, const char *name, json_t *arguments, json_t **ret_value,
	struct sluice_error *err)
{
	char *text = arguments != NULL ? json_dumps(arguments, JSON_COMPACT) : NULL;
	char *answer = NULL;
	json_error_t json_error;
	json_t *value;
	int r;

	json_decref(arguments);
	drop_events(link);
	r = sluice_vmm_command(link, name, text, &answer, err);
	free(text);
	if (r < 0)
		return r;
	value = json_loads(answer, JSON_DECODE_ANY, &json_error);
	free(answer);
	if (value == NULL)
		return sluice_fail(
			err, -EPROTO, name, "the answer is not JSON: %s", json_error.text);
	if (ret_value != NULL)
		*ret_value = value;
	else
		json_decref(value);
	return 0;
}

/* Connect to a socket that the process will serve soon. */
static int connect_when_served(const struct perf_process *process, const char *path,
	struct sluice_vmm **ret_link, struct sluice_error *err)
{
	uint64_t end_ns = sluice_now_ns() + CONNECT_TIMEOUT_NS;

	for (;;) {
		struct sluice_error last = {0};
		int r = access(path, F_OK) == 0 ? sluice_vmm_connect(path, ret_link, &last)
						: -ENOENT;

		if (r == 0)
			return 0;
		if (perf_experiment_interrupted())
			return sluice_fail(err, -EINTR, "run", "interrupted");
		if (!perf_process_alive(process))
			return sluice_fail(
				err, -EPIPE, process->name, "it ended before it served %s", path);
		if (sluice_now_ns() > end_ns)
			return sluice_fail(err, -ETIMEDOUT, process->name,
				"it does not serve %s: %s", path,
				last.code != 0 ? last.text : "no such socket");
		usleep(CONNECT_INTERVAL_US);
	}
}

/* The engine is a child of refvm; the kernel knows who listens on its socket. */
static int adopt_engine(struct perf_node *node, struct sluice_error *err)
{
	struct ucred peer;
	socklen_t bytes = sizeof(peer);
	char name[32];

	if (getsockopt(sluice_vmm_fd(node->engine_link), SOL_SOCKET, SO_PEERCRED, &peer, &bytes) <
		0)
		return sluice_fail(err, -errno, node->name, "SO_PEERCRED: %s", strerror(errno));
	snprintf(name, sizeof(name), "%s-engine", node->name);
	return perf_process_adopt(&node->engine, name, peer.pid, err);
}

static int node_spawn(struct perf_node *node, const struct perf_config *config,
	const struct perf_place *place, bool incoming, struct sluice_error *err)
{
	struct argument_list list = {.count = 0};
	char refvm[PERF_PATH_MAX], log_path[PERF_LOG_PATH_MAX];
	int r;

	perf_find_program(config->refvm, "refvm", "vmm/refvm", refvm);
	add(&list, "%s", refvm);
	add_guest_arguments(&list, node, config);
	add_engine_arguments(&list, node, config);
	add(&list, "--engine-listen=%s", node->engine_path);
	add(&list, "--monitor=%s", node->monitor_path);
	add(&list, "--witness=%s", place->witness);
	if (incoming)
		add(&list, "--incoming");
	if (incoming && config->verify)
		add(&list, "--track-after-resume");
	snprintf(log_path, sizeof(log_path), "%s/%s.log", place->dir, node->name);
	if (list.failed)
		r = sluice_fail(err, -E2BIG, node->name, "too many arguments, or no memory");
	else
		r = perf_process_start(&node->vmm, node->name, log_path, list.item, err);
	argument_list_free(&list);
	return r;
}

int perf_node_start(struct perf_node *node, const struct perf_config *config,
	const struct perf_place *place, bool incoming, struct sluice_error *err)
{
	int r;

	*node = (struct perf_node){.vmm = PERF_PROCESS_NONE, .engine = PERF_PROCESS_NONE};
	snprintf(node->name, sizeof(node->name), "vm%u", place->index);
	node->index = place->index;
	snprintf(node->monitor_path, sizeof(node->monitor_path), "%s/%s.mon", place->dir,
		node->name);
	snprintf(node->engine_path, sizeof(node->engine_path), "%s/%s.eng", place->dir, node->name);
	snprintf(node->runtime_path, sizeof(node->runtime_path), "%s/%s.run", place->dir,
		node->name);
	if (mkdir(node->runtime_path, 0700) < 0)
		return sluice_fail(err, -errno, node->name, "cannot make %s: %s",
			node->runtime_path, strerror(errno));
	r = node_spawn(node, config, place, incoming, err);
	if (r == 0)
		r = connect_when_served(&node->vmm, node->monitor_path, &node->monitor, err);
	if (r == 0)
		r = connect_when_served(&node->vmm, node->engine_path, &node->engine_link, err);
	if (r == 0)
		r = adopt_engine(node, err);
	return r;
}

void perf_node_end(struct perf_node *node)
{
	sluice_vmm_close(node->engine_link);
	sluice_vmm_close(node->monitor);
	node->engine_link = NULL;
	node->monitor = NULL;
	perf_process_end(&node->vmm);
	perf_process_end(&node->engine);
	if (node->monitor_path[0] != '\0') {
		unlink(node->monitor_path);
		unlink(node->engine_path);
	}
}

int perf_node_check(const struct perf_node *node, struct sluice_error *err)
{
	if (!perf_process_alive(&node->vmm))
		return sluice_fail(err, -EPIPE, node->name, "the VMM has died");
	if (!perf_process_alive(&node->engine))
		return sluice_fail(err, -EPIPE, node->engine.name, "the engine has died");
	return 0;
}

void perf_node_print_tails(const struct perf_node *node, FILE *out)
{
	perf_process_print_tail(&node->vmm, TAIL_LINES, out);
}
