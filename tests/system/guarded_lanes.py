#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""guarded_lanes: a lane that runs neither allocates, locks, logs nor blocks: real migrations with
engines whose lanes are guarded (tests/support/lane_guard.h). One that does ends its engine with
"lane guard:" and what it called on standard error.
"""

import ctypes
import os
import socket

import lab as lab_module
from lab import ENDED, LabTest, guest, migrate
from qmp import PATIENCE_S

SYS_PIDFD_GETFD = 438
OPTIONS = {"ram": "192M", "vcpus": 2, "regions": 2, "accel": "kvm", "pattern": "hotset",
           "rate": 40000, "engine": "sluiced-guarded"}
LANES = (1, 4, 16)
CUTS = 3


class LaneGuard(LabTest):
    def hosts(self, **options):
        here = self.lab.host("here", **guest(tracking="log", **OPTIONS, **options))
        there = self.lab.host("there", incoming="yes", **guest(tracking="ring", **OPTIONS, **options))
        here.wait_ready()
        return here, there

    def said(self):
        """What guards said, on anybody's standard error."""
        lines = []
        for path in self.lab.logs:
            with open(path, encoding="utf-8", errors="replace") as log:
                lines += [line.strip() for line in log if line.startswith("lane guard:")]
        return lines

    def test_lanes(self):
        here, there = self.hosts()
        for lanes in LANES:
            migrate(here, there, lanes=lanes)
            there.check_alive()
            here, there = there, here
        self.assertEqual(self.said(), [])

    def lane_sockets(self, engine, peer_port):
        """Duplicates of the sockets of an engine's lanes: all connections but the peer link's."""
        libc = ctypes.CDLL(None, use_errno=True)
        found = []
        for name in os.listdir(f"/proc/{engine.pid}/fd"):
            fd = libc.syscall(SYS_PIDFD_GETFD, engine.fd, int(name), 0)
            if fd < 0:
                continue
            try:
                sock = socket.socket(fileno=fd)
                if sock.family == socket.AF_INET and sock.getpeername()[1] != peer_port:
                    found.append(sock)
                    continue
                sock.detach()
            except OSError:
                pass
            os.close(fd)
        return found

    def test_lanes_lost(self):
        """Lanes are cut in the middle of a migration; the others go on."""
        here, there = self.hosts(engine_set={"lanes": CUTS + 1, "downtime-limit": "2ms",
                                             "memory-budget": "1M"})
        lost = 0
        for _ in range(10):
            uri = there.incoming()
            with here.operator() as operator:
                operator.command("migrate", uri=uri)
                operator.wait_event("MIGRATION", PATIENCE_S, ("active",))
                sockets = self.lane_sockets(here.engine, int(uri.rsplit(":", 1)[1]))
                for sock in sockets[:CUTS]:
                    sock.shutdown(socket.SHUT_RDWR)
                for sock in sockets:
                    sock.close()
                end = operator.wait_event("MIGRATION", PATIENCE_S, ENDED)
                lost = sum(lane["losses"] for lane in operator.command("query-lanes"))
            self.assertEqual(end["status"], "completed", end)
            there.check_alive()
            here, there = there, here
            if lost > 0:
                break
        self.assertGreater(lost, 0, "no lane was cut in time")
        self.assertEqual(self.said(), [])

    def test_the_guard_bites(self):
        """The hundredth step calls malloc()."""
        os.environ["SLUICE_LANE_GUARD_PLANT"] = "100"
        try:
            here, there = self.hosts()
            uri = there.incoming()
            with here.operator() as operator:
                operator.command("migrate", uri=uri)
            lab_module.wait_until("the guard speaks", self.said)
        finally:
            del os.environ["SLUICE_LANE_GUARD_PLANT"]
        self.assertEqual(set(self.said()), {"lane guard: malloc in a running lane"})


if __name__ == "__main__":
    lab_module.main("guest", "refvm", "sluiced-guarded")
