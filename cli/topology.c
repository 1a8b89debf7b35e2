/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * topology.c: `sluice topology`: a machine and the plan that an engine would make for it, with the
 * engine's own code, so that what is shown here is what happens there. Needs no engine.
 */
#include <langinfo.h>
#include <stdlib.h>
#include <string.h>

#include "base/params.h"
#include "cli/cli.h"
#include "engine/placement/params.h"
#include "engine/placement/report.h"

struct settings {
	uint64_t lanes, workers;
	char worker_cores[SLUICE_PLACEMENT_LIST_BYTES], vcpu_cores[SLUICE_PLACEMENT_LIST_BYTES];
	int numa;
};

#define FIELD(field) SLUICE_FIELD(struct settings, field)

static const struct sluice_param params[] = {SLUICE_PLACEMENT_PARAMS(FIELD), {0}};

struct options {
	enum sluice_topology_kind kind;
	const char *machine; /* description or path */
	bool ask_engine;
	const char *rails[SLUICE_PLAN_RAILS_MAX];
	uint32_t rail_count;
	struct settings settings;
};

static int set(const struct cli_command *self, struct options *o, const char *assignment)
{
	struct sluice_error err = {0};

	if (sluice_params_assign(params, &o->settings, assignment, &err) < 0)
		return cli_usage(self, "%s", err.text);
	return CLI_OK;
}

static int set_named(
	const struct cli_command *self, struct options *o, const char *name, const char *value)
{
	char assignment[128];

	snprintf(assignment, sizeof(assignment), "%s=%s", name, value);
	return set(self, o, assignment);
}

/* One option and its value. */
static int take(
	const struct cli_command *self, struct options *o, const char *option, const char *value)
{
	if (strcmp(option, "--set") == 0)
		return set(self, o, value);
	if (strcmp(option, "--lanes") == 0 || strcmp(option, "--workers") == 0)
		return set_named(self, o, option + 2, value);
	if (strcmp(option, "--rail") == 0) {
		if (o->rail_count == SLUICE_PLAN_RAILS_MAX)
			return cli_usage(self, "there may be %u rails", SLUICE_PLAN_RAILS_MAX);
		o->rails[o->rail_count++] = value;
		return CLI_OK;
	}
	if (o->machine != NULL)
		return cli_usage(self, "one machine at a time");
	o->machine = value;
	o->kind = strcmp(option, "--xml") == 0 ? SLUICE_TOPOLOGY_XML : SLUICE_TOPOLOGY_SYNTHETIC;
	return CLI_OK;
}

static int parse(const struct cli_command *self, struct options *o, int count, char **args)
{
	static const char *const known[] = {
		"--synthetic", "--xml", "--lanes", "--workers", "--rail", "--set", NULL};
	int status = CLI_OK;

	sluice_params_defaults(params, &o->settings);
	for (int i = 0; i < count && status == CLI_OK; i++) {
		const char *const *option = known;

		if (strcmp(args[i], "--engine") == 0) {
			o->ask_engine = true;
			continue;
		}
		while (*option != NULL && strcmp(*option, args[i]) != 0)
			option++;
		if (*option == NULL)
			return cli_usage(self, "unexpected argument '%s'", args[i]);
		if (i + 1 == count)
			return cli_usage(self, "%s needs a value", args[i]);
		status = take(self, o, *option, args[i + 1]);
		i++;
	}
	if (status == CLI_OK && o->ask_engine && count > 1)
		return cli_usage(self, "--engine stands alone: the engine has its own settings");
	return status;
}

static int add_rails(const struct options *o, const struct sluice_topology *topology,
	struct sluice_plan_conf *conf)
{
	conf->rail_count = o->rail_count > 0 ? o->rail_count : 1;
	snprintf(conf->rails[0].name, sizeof(conf->rails[0].name), "any");
	for (uint32_t i = 0; i < o->rail_count; i++) {
		const struct sluice_topology_nic *nic =
			sluice_topology_nic_of(topology, o->rails[i]);

		if (nic == NULL && !topology->is_this_machine)
			return cli_fail("%s has no NIC '%s'", topology->source, o->rails[i]);
		snprintf(conf->rails[i].name, sizeof(conf->rails[i].name), "%s", o->rails[i]);
		if (nic != NULL) {
			conf->rails[i].nodes = nic->nodes;
			conf->rails[i].link_bytes_per_s = nic->link_bytes_per_s;
		}
	}
	return CLI_OK;
}

/* The machine and its plan in the form that query-placement has, or NULL: said on stderr. */
static json_t *plan_here(const struct options *o)
{
	struct sluice_topology *topology = NULL;
	struct sluice_plan_conf conf = {0};
	struct sluice_plan *plan = malloc(sizeof(*plan));
	struct sluice_error err = {0};
	const struct settings *s = &o->settings;
	json_t *picture = NULL;

	if (plan == NULL || sluice_topology_read(o->kind, o->machine, &topology, &err) < 0 ||
		sluice_placement_set(&conf, s->lanes, s->workers, s->worker_cores, s->vcpu_cores,
			s->numa, &err) < 0)
		cli_fail("%s", plan == NULL ? "out of memory" : err.text);
	else if (add_rails(o, topology, &conf) != CLI_OK)
		picture = NULL;
	else if (sluice_plan_make(topology, &conf, plan, &err) < 0)
		cli_fail("%s: %s", err.where, err.text);
	else
		picture = sluice_plan_json(topology, &conf, plan);
	if (picture != NULL)
		json_object_set_new(picture, "machine", sluice_topology_json(topology));
	sluice_topology_destroy(topology);
	free(plan);
	return picture;
}

int cli_topology(struct cli *cli, const struct cli_command *self, int count, char **args)
{
	struct options options = {.kind = SLUICE_TOPOLOGY_LIVE};
	int status = parse(self, &options, count, args);
	json_t *picture;

	if (status == CLI_OK && options.ask_engine)
		status = cli_connect(cli);
	if (status != CLI_OK)
		return status;
	picture = options.ask_engine ? cli_call(cli, "query-placement", NULL, NULL)
				     : plan_here(&options);
	if (picture == NULL)
		return CLI_FAILED;
	if (cli->json) {
		cli_print_json(picture);
		return CLI_OK;
	}
	cli_machine_render(
		picture, cli_width(stdout), strcmp(nl_langinfo(CODESET), "UTF-8") == 0, stdout);
	json_decref(picture);
	return CLI_OK;
}
