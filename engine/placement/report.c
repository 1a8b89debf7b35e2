/* SPDX-License-Identifier: BSD-3-Clause */
/* report.c: see report.h. Nodes are named by the kernel's numbers here. */
#include "engine/placement/report.h"

static json_t *cpus_json(const struct sluice_cpus *cpus)
{
	char text[SLUICE_CPUS_TEXT_BYTES];

	return json_string(sluice_cpus_format(cpus, text, sizeof(text)));
}

static json_t *nodes_json(const struct sluice_topology *topology, uint64_t nodes)
{
	json_t *array = json_array();

	for (uint32_t i = 0; i < topology->node_count; i++)
		if (nodes >> i & 1)
			json_array_append_new(array, json_integer(topology->nodes[i].number));
	return array;
}

static json_t *node_json(const struct sluice_topology *topology, uint32_t index)
{
	const struct sluice_topology_node *node = &topology->nodes[index];
	json_t *distances = json_array();
	json_int_t cores = 0;

	for (uint32_t i = 0; i < topology->node_count; i++)
		json_array_append_new(distances, json_integer(node->distance[i]));
	for (uint32_t i = 0; i < topology->core_count; i++)
		cores += topology->cores[i].node == index;
	return json_pack("{s:i, s:b, s:I, s:I, s:o, s:o}", "node", (int)node->number, "has-memory",
		node->has_memory, "memory-bytes", (json_int_t)node->memory_bytes, "cores", cores,
		"cpus", cpus_json(&node->cpus), "distances", distances);
}

json_t *sluice_topology_json(const struct sluice_topology *topology)
{
	json_t *nodes = json_array(), *nics = json_array();

	for (uint32_t i = 0; i < topology->node_count; i++)
		json_array_append_new(nodes, node_json(topology, i));
	for (uint32_t i = 0; i < topology->nic_count; i++) {
		const struct sluice_topology_nic *nic = &topology->nics[i];

		json_array_append_new(
			nics, json_pack("{s:s, s:s, s:o, s:I}", "name", nic->name, "kind",
				      nic->is_rdma ? "rdma" : "network", "nodes",
				      nodes_json(topology, nic->nodes), "link-bytes-per-s",
				      (json_int_t)nic->link_bytes_per_s));
	}
	return json_pack("{s:s, s:o, s:o, s:o, s:o, s:o}", "source", topology->source,
		"cpus-present", cpus_json(&topology->present), "cpus-allowed",
		cpus_json(&topology->allowed), "cpus-isolated", cpus_json(&topology->isolated),
		"nodes", nodes, "nics", nics);
}

static json_t *node_or_minus_one(const struct sluice_topology *topology, uint32_t node)
{
	return json_integer(node == SLUICE_NO_NODE ? -1 : (json_int_t)topology->nodes[node].number);
}

static json_t *workers_json(const struct sluice_topology *topology, const struct sluice_plan *plan)
{
	json_t *workers = json_array();

	for (uint32_t i = 0; i < plan->worker_count; i++) {
		const struct sluice_plan_worker *w = &plan->workers[i];

		json_array_append_new(workers,
			json_pack("{s:i, s:o, s:b, s:o, s:i}", "worker", (int)i, "cpus",
				cpus_json(&w->cpus), "bound", w->is_bound, "node",
				node_or_minus_one(topology, w->node), "lanes", (int)w->lanes));
	}
	return workers;
}

static json_t *lanes_json(const struct sluice_topology *topology,
	const struct sluice_plan_conf *conf, const struct sluice_plan *plan)
{
	json_t *lanes = json_array();

	for (uint32_t i = 0; i < plan->lane_count; i++) {
		const struct sluice_plan_lane *lane = &plan->lanes[i];
		uint32_t near = lane->home > 0 ? plan->homes[lane->home - 1] : SLUICE_NO_NODE;

		json_array_append_new(
			lanes, json_pack("{s:i, s:i, s:s, s:o}", "lane", (int)i, "worker",
				       (int)lane->worker, "rail", conf->rails[lane->rail].name,
				       "node", node_or_minus_one(topology, near)));
	}
	return lanes;
}

json_t *sluice_plan_json(const struct sluice_topology *topology,
	const struct sluice_plan_conf *conf, const struct sluice_plan *plan)
{
	json_t *reasons = json_array();

	for (uint32_t i = 0; i < plan->reason_count; i++)
		json_array_append_new(
			reasons, json_pack("{s:s, s:s}", "about", plan->reasons[i].about, "text",
					 plan->reasons[i].text));
	return json_pack("{s:o, s:o, s:o, s:o, s:o, s:o}", "workers", workers_json(topology, plan),
		"lanes", lanes_json(topology, conf, plan), "usable-cpus", cpus_json(&plan->usable),
		"bitmap-nodes", nodes_json(topology, plan->bitmap_nodes), "staging-nodes",
		nodes_json(topology, plan->staging_nodes), "reasons", reasons);
}
