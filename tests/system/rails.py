#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""rails: several ways out of a host, some of which die. Two hosts, three cables between them.

The peer link goes over a cable of its own; lanes go over the other two. A cable that is taken down
swallows what is sent, as a switch that lost power does: nobody gets a reset.
"""

import os
import subprocess

import lab as lab_module
from hand import MIB, Engine, answer_source
from lab import wait_until
from network import NetworkTest

RAM = 48 * MIB
SLOW = {"lane_security": "none", "security": "none", "lanes": 4, "workers": 1, "lane_timeout": "300ms",
        "recover_pause": "50ms", "memory_budget": "4M", "downtime_limit": "2s"}


class Rails(NetworkTest):
    def setUp(self):
        super().setUp()
        for cable in range(3):
            self.add_cable(f"cable{cable}", f"10.66.{cable}.{{}}/24")

    def cable(self, number, state):
        self.ip("-n", self.namespaces[0], "link", "set", f"cable{number}", state)

    def engine(self, number, rail, **settings):
        engine = Engine(self.lab, f"host{number}", self.namespaces[number - 1],
                        **{**SLOW, "rail": rail, **settings})
        engine.add_memory("low", RAM, fill=0x51 if number == 1 else 0)
        return engine

    def begin(self, source, target, uri="tcp:10.66.2.2:0"):
        """Until pages move, slowly."""
        self.start(source, target.incoming(uri))

    def start(self, source, uri):
        source.vmm.command("migrate-set-parameters", **{"max-bandwidth": "8M"})
        source.vmm.command("migrate", uri=uri)
        sync = source.vmm.wait_event("DIRTY_SYNC")
        source.vmm.command("dirty-sync-done", id=sync["id"])
        wait_until("pages move", lambda: self.query(source)["ram"]["transferred"] > 0)

    def arrive(self, source, target):
        source.vmm.command("migrate-set-parameters", **{"max-bandwidth": 0})
        end = answer_source(source)
        self.assertEqual(end["status"], "completed", end)
        wait_until("it is here", lambda: self.query(target)["status"] == "completed")
        self.assertEqual(source.regions["low"][:], target.regions["low"][:])

    def query(self, engine):
        return engine.vmm.command("query-migrate")

    def rails(self, source):
        return [(rail["rail"].split(":")[0], rail["peer"].split(":")[0], rail["paired"])
                for rail in self.query(source)["rails"]]

    def lanes_on(self, source, rail, state="active"):
        return [lane for lane in source.vmm.command("query-lanes")
                if lane["rail"].startswith(rail) and lane["state"] == state]

    def both(self, **settings):
        """The target has its rails in the other order."""
        return (self.engine(1, "10.66.0.1:0,10.66.1.1:0", **settings),
                self.engine(2, "10.66.1.2:0,10.66.0.2:0", **settings))

    def test_pairs(self):
        source, target = self.both()
        self.begin(source, target)
        self.assertEqual(self.rails(source), [("10.66.0.1", "10.66.0.2", "same subnet"),
                                              ("10.66.1.1", "10.66.1.2", "same subnet")])
        reply = self.query(source)
        self.assertEqual(reply["transport"], "tcp")
        self.assertIn("no rdma here", reply["transport-reason"])
        checks = source.vmm.command("preflight")["checks"]
        self.assertIn("no rdma:", " ".join(
            check["text"] for check in checks if check["name"] == "transport"))
        shown = subprocess.run([lab_module.program("sluice"), "--socket", source.path, "status"],
                               stdout=subprocess.PIPE, check=True, universal_newlines=True).stdout
        self.assertIn("transport  tcp: ", shown)
        self.assertRegex(shown, r"rail       10\.66\.1\.1:0 to 10\.66\.1\.2:\d+, 2 of 2 lanes")
        for rail in ("10.66.0.1", "10.66.1.1"):
            self.assertEqual(len(self.lanes_on(source, rail)), 2)
        self.arrive(source, target)
        for lane in source.vmm.command("query-lanes"):
            self.assertGreater(lane["bytes"], 0, lane)

    def test_weighted(self):
        source = self.engine(1, "10.66.0.1:0@gbit=10,10.66.1.1:0@gbit=30")
        target = self.engine(2, "10.66.0.2:0,10.66.1.2:0")
        self.begin(source, target)
        self.assertEqual([rail["lanes"] for rail in self.query(source)["rails"]], [1, 3])
        self.arrive(source, target)

    def test_by_order(self):
        """Cables that know nothing of subnets: whoever knows better orders the lists."""
        source = self.engine(1, "10.66.0.1:0,10.66.1.1:0", rail_pairs="order")
        target = self.engine(2, "10.66.0.2:0,10.66.1.2:0")
        self.begin(source, target)
        self.assertEqual({paired for _, _, paired in self.rails(source)}, {"as ordered"})
        self.arrive(source, target)

    def test_one_dies(self):
        source, target = self.both()
        self.begin(source, target)
        self.cable(1, "down")
        wait_until("its lanes are lost", lambda: self.query(source)["lanes-lost"] >= 2)
        self.assertEqual(self.query(source)["status"], "active")
        wait_until("one of them goes by the other rail", lambda: len(
            self.lanes_on(source, "10.66.0.1")) == 3)
        self.cable(1, "up")
        wait_until("the dead rail's first lane is back", lambda: len(
            self.lanes_on(source, "10.66.1.1")) == 1)
        reply = self.query(source)
        self.assertEqual((reply["status"], reply["pauses"]), ("active", 0), reply)
        self.arrive(source, target)

    def test_both_die(self):
        source, target = self.both()
        self.begin(source, target)
        self.cable(0, "down")
        self.cable(1, "down")
        wait_until("it pauses", lambda: self.query(source)["status"] == "paused")
        self.assertIn("all 4 lanes were lost", self.query(source)["pause-reason"])
        self.cable(0, "up")
        wait_until("it goes on over the one that is back",
                   lambda: self.query(source)["status"] == "active")
        self.cable(1, "up")
        self.arrive(source, target)

    def test_dead_from_the_start(self):
        """A rail of the target that nobody reaches, and one that is not there at all."""
        source = self.engine(1, "10.66.0.1:0,10.66.1.1:0")
        target = self.engine(2, "10.66.0.2:0,10.66.1.2:0,10.66.9.9:0")
        self.cable(1, "down")
        self.begin(source, target)
        gone = target.vmm.command("query-placement")["rails"][2]
        self.assertIn("10.66.9.9", gone["error"])
        self.assertEqual(len(self.rails(source)), 2)
        self.arrive(source, target)

    def test_another_way_to_the_target(self):
        """A rail that waits on every address is where the peer link leads, also after recovery."""
        source = self.engine(1, "0.0.0.0:0", peer_timeout="1s")
        target = self.engine(2, "0.0.0.0:0", peer_timeout="1s")
        port = target.incoming("tcp:0:0").rsplit(":", 1)[1]
        self.start(source, f"tcp:10.66.0.2:{port}")
        self.assertIn("10.66.0.2", self.query(source)["rails"][0]["peer"])
        self.cable(0, "down")
        wait_until("it pauses", lambda: self.query(source)["status"] == "paused")
        source.vmm.command("migrate-recover", uri=f"tcp:10.66.1.2:{port}")
        wait_until("it goes on", lambda: self.query(source)["status"] == "active")
        self.assertIn("10.66.1.2", self.query(source)["rails"][0]["peer"])
        self.arrive(source, target)


if __name__ == "__main__":
    lab_module.main("sluiced", "refvm")
