#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""placement: workers run where the plan says, by the kernel's word; see engine/placement/plan.h."""

import json
import os
import subprocess

import lab as lab_module
from lab import LabTest, cpus_of, migrate
from qmp import PATIENCE_S

OPTIONS = {"ram": "64M", "vcpus": 1, "accel": "auto", "pattern": "hotset", "rate": 3000}
MINE = sorted(os.sched_getaffinity(0))


def workers_of(pid):
    """Thread id and allowed CPUs of the threads that are named as workers, by name."""
    found = {}
    for thread in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{thread}/status", encoding="ascii") as status:
            fields = dict(line.rstrip("\n").split(":\t", 1) for line in status if ":\t" in line)
        if fields["Name"].startswith("sluice-w"):
            found[fields["Name"]] = (int(thread), cpus_of(fields["Cpus_allowed_list"]))
    return found


class Placement(LabTest):
    def moved(self, settings_here, settings_there):
        here = self.lab.host("here", engine_set=settings_here, **OPTIONS)
        there = self.lab.host("there", incoming="yes", engine_set=settings_there, **OPTIONS)
        here.wait_ready()
        self.assertEqual(migrate(here, there)["status"], "completed")
        there.check_alive()
        return here, there

    def check(self, host, wanted, lanes):
        """@wanted: the CPUs of each worker."""
        plan = host.engine_command("query-placement")
        self.assertTrue(plan["active"])
        threads = workers_of(host.engine.pid)
        self.assertEqual(sorted(threads), [f"sluice-w{i}" for i in range(len(wanted))])
        self.assertEqual(len(plan["workers"]), len(wanted))
        for worker, cpus in zip(plan["workers"], wanted):
            thread, allowed = threads[f"sluice-w{worker['worker']}"]
            self.assertEqual(allowed, cpus, worker)
            self.assertEqual(cpus_of(worker["cpus"]), cpus)
            self.assertEqual(cpus_of(worker["cpus-allowed"]), cpus)
            self.assertEqual(worker["thread-id"], thread)
            self.assertIn(worker["core"], cpus)
            self.assertEqual(worker["bound"], cpus != set(MINE))
        for i, lane in enumerate(plan["lanes"]):
            self.assertEqual(lane["worker"], i % len(wanted))
        self.assertEqual(len(plan["lanes"]), lanes)
        self.assertEqual([lane["worker"] for lane in host.engine_command("query-lanes")],
                         [lane["worker"] for lane in plan["lanes"]])
        stats = host.engine_command("query-stats")["workers"]
        self.assertEqual([worker["lanes"] for worker in plan["workers"]],
                         [sum(lane["worker"] == i for lane in plan["lanes"])
                          for i in range(len(wanted))])
        for worker, cpus in zip(stats, wanted):
            self.assertIn(worker["core"], cpus)
            self.assertGreaterEqual(worker["node"], 0)
        topics = {reason["about"] for reason in plan["reasons"]}
        self.assertLessEqual({"lanes", "nodes", "workers", "binding", "rails"}, topics)
        self.assertIn("worker 0", self.run_sluice("--socket", host.socket, "topology", "--engine"))

    def run_sluice(self, *arguments):
        return subprocess.run([lab_module.program("sluice"), *arguments],
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              universal_newlines=True, timeout=PATIENCE_S, check=True).stdout

    def test_cores_by_hand(self):
        """One core each, the workers and the lanes on them; the ends need not be alike."""
        here, there = self.moved(
            {"worker-cores": ",".join(str(cpu) for cpu in MINE[:2]), "lanes": 3},
            {"worker-cores": MINE[-1]})
        self.check(here, [{cpu} for cpu in MINE[:2]], 3)
        self.check(there, [{MINE[-1]}], 3)

    def test_vcpus_are_left_alone(self):
        if len(MINE) < 2:
            self.skipTest("the only core cannot be left alone")
        avoid = ",".join(str(cpu) for cpu in MINE[:-1])
        here, there = self.moved({"vcpu-cores": avoid, "workers": 2}, {"numa": "off", "workers": 1})
        left = {MINE[-1]}
        plan = here.engine_command("query-placement")
        if cpus_of(plan["usable-cpus"]) == left:  # the last core may have a hyperthread
            self.check(here, [left, left], 4)
        self.check(there, [set(MINE)], 4)

    def engine(self, cpus, *settings):
        """Start an engine that may use only @cpus; (process, path of its socket)."""
        path = os.path.join(self.lab.folder, "alone.sock")
        arguments = [lab_module.program("sluiced"), "--listen", path]
        for setting in settings:
            arguments += ["--set", setting]
        return subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE,
                                universal_newlines=True,
                                preexec_fn=lambda: os.sched_setaffinity(0, cpus)), path

    def test_affinity_mask(self):
        """An engine plans within the CPUs that it was given."""
        if len(MINE) < 2:
            self.skipTest("one core cannot be divided")
        engine, path = self.engine({MINE[-1]})
        with engine:
            plan = self.lab.connect(path).command("query-placement")
            engine.kill()
        self.assertEqual(cpus_of(plan["usable-cpus"]), {MINE[-1]})
        self.assertFalse(plan["active"])
        self.assertEqual(len(plan["workers"]), 1)
        engine, _ = self.engine({MINE[-1]}, f"worker-cores={MINE[0]}")
        _, error = engine.communicate(timeout=PATIENCE_S)
        self.assertEqual(engine.returncode, 1)
        self.assertIn(f"may not use core {MINE[0]} (CPU affinity or cpuset); it may use "
                      f"{MINE[-1]}", error)

    def test_two_nodes(self):
        """hwloc is told that the machine's CPUs are on two nodes; all memory is on the real one.
        The kernel knows of one node only, so what is left out is putting memory somewhere."""
        half = max(MINE) // 2 + 1
        nodes = [{cpu for cpu in MINE if cpu // half == node} for node in range(2)]
        os.environ["HWLOC_SYNTHETIC"] = f"pack:2 [numa] core:{half} pu:1"
        self.addCleanup(os.environ.pop, "HWLOC_SYNTHETIC")
        machine = json.loads(self.run_sluice("topology", "--json"))["machine"]
        if len(machine["nodes"]) != 2 or not all(nodes):
            self.skipTest("there is no hwloc, or too few CPUs for two nodes")
        if os.path.exists("/sys/devices/system/node/node1"):
            self.skipTest("this machine has nodes of its own")
        here, there = self.moved({"workers": 2, "lanes": 4}, {"numa": "off", "workers": 2})
        plan = here.engine_command("query-placement")
        for worker in plan["workers"]:
            self.assertLessEqual(cpus_of(worker["cpus"]), nodes[worker["node"]])
        self.check(here, [cpus_of(worker["cpus"]) for worker in plan["workers"]], 4)
        self.assertEqual([lane["node"] for lane in plan["lanes"]], [0, 1, 0, 1])
        self.assertEqual(plan["bitmap-nodes"], [0, 1])
        self.assertGreaterEqual(plan["chunks-located"], 20)  # of 32 MiB-and-more of guest data
        self.assertEqual(there.engine_command("query-placement")["workers"][0]["node"], -1)

    def test_real_nodes(self):
        """Lanes lie on their worker's node, and the guest's chunks are found where they are."""
        with open("/sys/devices/system/node/has_memory", encoding="ascii") as file:
            real = cpus_of(file.read().strip())
        if len(real) < 2:
            self.skipTest("this machine has one node with memory")
        here, there = self.moved({}, {})
        for host in (here, there):
            plan = host.engine_command("query-placement")
            self.assertEqual({worker["node"] for worker in plan["workers"]} - real, set())
            self.check(host, [cpus_of(worker["cpus"]) for worker in plan["workers"]],
                       len(plan["lanes"]))
        self.assertGreaterEqual(here.engine_command("query-placement")["chunks-located"], 20)
        # A migration that does not end by itself: its lanes are there to be looked at.
        there.engine_command("migrate-set-parameters", **{"downtime-limit": 1})
        uri = here.incoming()
        with there.operator() as operator:
            operator.command("migrate", uri=uri)
            operator.wait_event("MIGRATION", PATIENCE_S, ("active",))
            for host in (here, there):
                plan = host.engine_command("query-placement")
                for lane in plan["lanes"]:
                    node = plan["workers"][lane["worker"]]["node"]
                    self.assertEqual(lane.get("memory-nodes", [node]), [node])

    def test_topology_is_json(self):
        machine = json.loads(self.run_sluice("topology", "--json"))["machine"]
        self.assertEqual(cpus_of(machine["cpus-allowed"]), set(MINE))
        self.assertGreaterEqual(len(machine["nodes"]), 1)


if __name__ == "__main__":
    lab_module.main("guest", "refvm", "sluice", "sluiced")
