#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""nodes: on a machine with several NUMA nodes, memory lies where the plan says and each node's lanes
take what is there first, by the kernel's word (numa_maps).

An engine is told to prefer another node than the one that its plan chooses. So what lies on the
planned node was put there on purpose: where nothing is done, memory comes to lie elsewhere.
"""

import ctypes
import os
import re

import lab as lab_module
from hand import MIB, PAGE, Engine, answer_source, memfd
from lab import LabTest, cpus_of, wait_until
from qmp import PATIENCE_S

SET_MEMPOLICY = 238  # the system call, x86-64
MPOL_DEFAULT, MPOL_PREFERRED, MPOL_BIND = 0, 1, 2
BITMAP_REGION = 32 << 30  # without content; its bitmaps of 1 MiB are mappings of their own
BITMAP_PAGES = BITMAP_REGION // PAGE // 8 // PAGE
SLOTS, SLOT_BYTES = 24, 96 << 10


def nodes_with_memory():
    """CPUs of each node that has memory and CPUs, by number."""
    with open("/sys/devices/system/node/has_memory", encoding="ascii") as file:
        numbers = cpus_of(file.read().strip())
    found = {}
    for node in sorted(numbers):
        with open(f"/sys/devices/system/node/node{node}/cpulist", encoding="ascii") as file:
            cpus = cpus_of(file.read().strip()) & os.sched_getaffinity(0)
        if cpus:
            found[node] = cpus
    return found


def set_policy(mode, node=None):
    """Where this process's memory goes from now on."""
    mask = ctypes.c_ulong(0 if node is None else 1 << node)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(SET_MEMPOLICY, mode, ctypes.byref(mask) if node is not None else None,
                    ctypes.c_ulong(64 if node is not None else 0)) != 0:
        raise OSError(ctypes.get_errno(), "set_mempolicy")


def anonymous(pid):
    """(policy, {node: pages}) of each mapping of a process that is not of a file."""
    with open(f"/proc/{pid}/numa_maps", encoding="ascii") as file:
        for line in file:
            if " file=" not in line and " anon=" in line:
                yield (line.split()[1], {int(node): int(pages) for node, pages
                                         in re.findall(r" N(\d+)=(\d+)", line)})


def pages_on(pid, node, bound):
    """Anonymous pages on a node, of mappings that are bound to it, or of the others."""
    policy = f"prefer:{node}"
    return sum(pages.get(node, 0) for name, pages in anonymous(pid)
               if name.startswith(policy) == bound)


def cores(cpus):
    return ",".join(str(cpu) for cpu in sorted(cpus))


class Nodes(LabTest):
    def setUp(self):
        self.nodes = nodes_with_memory()
        if len(self.nodes) < 2:
            self.skipTest("this machine has one NUMA node with memory and CPUs of ours")
        self.addCleanup(set_policy, MPOL_DEFAULT)

    def engines(self, elsewhere, **settings):
        """A source and a target whose own memory goes to the node @elsewhere."""
        set_policy(MPOL_PREFERRED, elsewhere)
        found = [Engine(self.lab, name, **settings) for name in ("source", "target")]
        set_policy(MPOL_DEFAULT)
        return found

    def test_staging_and_bitmaps(self):
        """Workers on one node, and with them all that they use."""
        elsewhere, node = list(self.nodes)[:2]
        source, target = self.engines(
            elsewhere, worker_cores=cores(self.nodes[node]), lanes=2, device_slots=SLOTS,
            device_slot_size=SLOT_BYTES)
        for engine in (source, target):
            engine.add_memory("ram", BITMAP_REGION)
        before = {engine: (pages_on(engine.process.pid, node, True),
                           pages_on(engine.process.pid, node, False))
                  for engine in (source, target)}
        source.vmm.command("migrate", uri=target.incoming())
        answer_source(source, until="SWITCHOVER_READY")
        for engine in (source, target):
            plan = engine.vmm.command("query-placement")
            self.assertEqual((plan["staging-nodes"], plan["bitmap-nodes"]), ([node], [node]))
        # The source's ledger has two bitmaps: what is dirty, what may hold data at the target.
        bitmaps = pages_on(source.process.pid, node, False) - before[source][1]
        print(f"  node {node}: {bitmaps} pages of bitmaps", flush=True)
        self.assertGreaterEqual(bitmaps, 2 * BITMAP_PAGES)
        self.check_staging(source, target, node, before)

    def check_staging(self, source, target, node, before):
        """A device whose state fills all slots at both ends, which are then looked at."""
        with memfd(SLOTS * SLOT_BYTES) as state:
            os.pwrite(state, os.urandom(SLOTS * SLOT_BYTES), 0)
            source.vmm.command("getfd", fd=state, fdname="state")
        source.vmm.command("device-add", device="device", fdname="state")
        source.vmm.command("migrate-continue", state="pre-switchover")
        self.answer_sync(source)
        target.vmm.wait_event("DEVICE_OPEN", PATIENCE_S)
        for engine in (source, target):
            pages = wait_until(f"{engine.name}: all of its slots are on node {node}",
                               lambda engine=engine: self.staged(engine, node, before))
            print(f"  node {node}: {engine.name}: {pages} pages of staging and lanes", flush=True)

    def answer_sync(self, source):
        sync = source.vmm.wait_event("DIRTY_SYNC")
        source.vmm.command("dirty-sync-done", id=sync["id"])

    def staged(self, engine, node, before):
        pages = pages_on(engine.process.pid, node, True) - before[engine][0]
        return pages if pages >= SLOTS * SLOT_BYTES // PAGE else 0

    def fill_on(self, engine, first, second):
        """Half of its memory on each node; every second page of the second one's is zeros."""
        ram = engine.regions["ram"]
        half = len(ram) // 2
        for number, node in enumerate((first, second)):
            set_policy(MPOL_BIND, node)
            two = os.urandom(PAGE) + (bytes(PAGE) if number else os.urandom(PAGE))
            ram[number * half:(number + 1) * half] = two * (half // len(two))
        set_policy(MPOL_DEFAULT)

    def test_lanes_take_what_is_near_first(self):
        """Half of the guest on each node, a lane on each: until a lane has done its own half it
        takes nothing of the other's. Only the second node's half has pages of zeros."""
        first, second = list(self.nodes)[:2]
        source = Engine(self.lab, "source", workers=2, lanes=2, max_bandwidth="8M",
                        worker_cores=f"{min(self.nodes[first])},{min(self.nodes[second])}")
        target = Engine(self.lab, "target", lanes=2)
        size = 64 * MIB
        for engine in (source, target):
            engine.add_memory("ram", size)
        self.fill_on(source, first, second)
        source.vmm.command("migrate", uri=target.incoming())
        self.answer_sync(source)
        lanes = self.wait_for_share(source, size // 8)
        print("  " + ", ".join(f"worker {lane['worker']}: {lane['pages-sent']} pages with content, "
                               f"{lane['pages-zero']} without" for lane in lanes), flush=True)
        zeros = {lane["worker"]: lane["pages-zero"] for lane in lanes}
        self.assertEqual(zeros[0], 0)
        self.assertGreater(zeros[1], 0)
        self.assertGreater(min(lane["pages-sent"] for lane in lanes), 0)
        self.assertEqual(source.vmm.command("query-stats")["chunks-stolen"], 0)
        self.assertGreaterEqual(source.vmm.command("query-placement")["chunks-located"],
                                size // (2 * MIB))

    def check_lanes_of_rails(self, engine, nodes):
        """@nodes: of each rail, by its address. Cores and memory are as the kernel has them."""
        plan = engine.vmm.command("query-placement")
        threads = {worker["worker"]: worker["thread-id"] for worker in plan["workers"]}
        lanes_of = {address: [] for address in nodes}
        for lane in plan["lanes"]:
            address = lane["rail"].split(":")[0]
            lanes_of[address].append(lane["lane"])
            self.assertLessEqual(os.sched_getaffinity(threads[lane["worker"]]),
                                 self.nodes[nodes[address]], lane)
            self.assertEqual(lane["memory-nodes"], [nodes[address]], lane)
        print(f"  {engine.name}: rails on nodes {nodes}, their lanes {lanes_of}", flush=True)
        self.assertEqual([len(lanes) for lanes in lanes_of.values()], [2, 2])
        self.assertEqual(plan["staging-nodes"], sorted(nodes.values()))

    def lanes_of_rails(self, *nodes):
        """@nodes: at the source and at the target, for each its rails' by address."""
        ends = []
        for name, of in zip(("source", "target"), nodes):
            rails = ",".join(f"{address}:0@node={node}" for address, node in of.items())
            engine = Engine(self.lab, name, rail=rails, workers=2, lanes=4, max_bandwidth="8M")
            engine.add_memory("ram", 32 * MIB)
            ends.append(engine)
        source, target = ends
        self.fill_on(source, *list(self.nodes)[:2])  # or workers would follow where all of it is
        source.vmm.command("migrate", uri=target.incoming())
        self.answer_sync(source)
        for engine, of in zip(ends, nodes):
            wait_until(f"{engine.name}: all lanes stand", lambda engine=engine: {
                lane["state"] for lane in engine.vmm.command("query-lanes")} == {"active"})
            self.check_lanes_of_rails(engine, of)

    def rails_on(self, *nodes):
        return dict(zip(("127.0.0.1", "127.0.0.2"), nodes))

    def test_lanes_are_on_the_node_of_their_rail(self):
        first, second = list(self.nodes)[:2]
        self.lanes_of_rails(self.rails_on(first, second), self.rails_on(first, second))

    def test_lanes_of_rails_on_other_nodes_than_the_peer_has(self):
        """The nodes of the two hosts have nothing to do with each other."""
        first, second = list(self.nodes)[:2]
        self.lanes_of_rails(self.rails_on(second, first), self.rails_on(first, second))

    def wait_for_share(self, source, placed):
        """query-lanes, when so many bytes are placed."""
        def enough():
            lanes = source.vmm.command("query-lanes")
            return lanes if sum(lane["pages-sent"] for lane in lanes) * PAGE >= placed else None
        return wait_until("an eighth of the guest has moved", enough)


if __name__ == "__main__":
    lab_module.main("sluiced")
