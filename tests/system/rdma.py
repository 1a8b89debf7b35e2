#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""rdma: one guest moves there and back over RDMA lanes, again and again, and works all the time.

Memory is the same on both sides, and neither end registers anything anew behind the first hop.
Needs RDMA ports with IPv4 addresses: two make two hosts of one, one is both ends at once.
"""

import glob
import ipaddress
import os

import lab as lab_module
from lab import LabTest, migrate, skip, wait_until

HOPS = int(os.environ.get("SLUICE_HOPS", "20"))
LANES = (1, 2, 4)
OPTIONS = {"ram": os.environ.get("SLUICE_RAM", "64M"), "vcpus": 1, "accel": "thread",
           "pattern": "hotset", "rate": 2000, "track_after_resume": "yes"}


def rail_addresses():
    """The IPv4 addresses of the RDMA ports that are up, one of each."""
    found = []
    for port in sorted(glob.glob("/sys/class/infiniband/*/ports/*")):
        with open(os.path.join(port, "state"), encoding="ascii") as state:
            if "ACTIVE" not in state.read():
                continue
        for path in sorted(glob.glob(os.path.join(port, "gids", "*"))):
            try:
                with open(path, encoding="ascii") as gid:
                    address = ipaddress.IPv6Address(gid.read().strip())
            except OSError:
                continue  # no such entry in the table
            if address.ipv4_mapped is not None:
                found.append(str(address.ipv4_mapped))
                break
    return found


class Rdma(LabTest):
    def engine_set(self, address):
        return {"transport": "rdma", "rail": address, "lane-security": "none"}

    def verify(self, source, target):
        regions = source.monitor.command("query-memory")
        result = target.monitor.command("verify", source_pid=source.vmm.pid, regions=[
            {"id": region["id"], "fd": region["fd"], "offset": region["offset"]}
            for region in regions])
        self.assertEqual(result["mismatched_pages"], 0, result)
        self.assertGreater(result["pages_compared"], 0, result)
        return result["pages_compared"]

    def hop(self, number, source, target):
        lanes = LANES[number // 2 % len(LANES)]
        result = migrate(source, target, lanes=lanes)
        left_with = source.ops()
        compared = self.verify(source, target)
        arrived = target.ops()
        self.assertGreaterEqual(arrived, left_with, "the counter went back on the way")
        wait_until("the guest works", lambda: target.ops() > arrived)
        self.assertEqual(len(source.engine_command("query-lanes")), lanes)
        self.assertFalse(source.running(), "two guests run")
        print(f"hop {number:2} {lanes:2} lanes: {result['total-time']:5} ms, downtime "
              f"{result['downtime']:3} ms, counter {arrived}, {compared} pages compared", flush=True)

    def test_hops(self):
        addresses = rail_addresses()
        here = self.lab.host("here", engine_set=self.engine_set(addresses[0]), **OPTIONS)
        there = self.lab.host("there", engine_set=self.engine_set(addresses[-1]), incoming="yes",
                              **OPTIONS)
        here.wait_ready()
        for number in range(HOPS):
            hosts = (here, there) if number % 2 == 0 else (there, here)
            self.hop(number, *hosts)


if __name__ == "__main__":
    if not rail_addresses():
        skip("no RDMA port with an IPv4 address is up (rdma link; scripts/rxe-setup)")
    lab_module.main("refvm", "sluiced")
