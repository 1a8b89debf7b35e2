#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""there_and_back: one guest moves there and back, again and again, and works all the time.

One VMM tracks with KVM's dirty log, the other with its dirty ring, so each hop away uses the
log and each hop back the ring (in the lab, where there is no KVM, it is userfaultfd); lanes change
every second hop. The guest's counter never goes back, it finds no error, memory is the same on both
sides, nothing is pinned or registered twice.
"""

import os

import lab as lab_module
from lab import OVER_RDMA, LabTest, guest, migrate, wait_until

HOPS = int(os.environ.get("SLUICE_HOPS", "20"))
STAGING_BYTES = 16 * (256 << 10)  # device-slots, device-slot-size
LANES = (1, 2, 4, 16)
RAM_BYTES_MIN = 32 << 20  # of the smallest guest here; device slots are 16 MiB
# A guest can be verified once per arrival; both directions get their turn.
VERIFY_EVERY = 1 if OVER_RDMA else 3
OPTIONS = {"ram": "256M", "vcpus": 2, "regions": 2, "accel": "kvm", "pattern": "hotset",
           "rate": 40000, "track_after_resume": "yes"}


class ThereAndBack(LabTest):
    def pinned(self, host):
        stats = host.engine_command("query-stats")
        self.assertEqual(stats["pages-pinned-during-migration"], 0, host.name)
        return stats["pages-pinned"]

    def check_registered(self, host, before):
        """A session registers its staging; guest memory stays registered."""
        registered = host.engine_command("query-stats").get("registered-bytes", 0)
        if before is not None:
            self.assertLessEqual(registered - before, STAGING_BYTES, "guest memory registered again")
        return registered

    def registered(self, host):
        """Bytes that were registered with NICs, device slots of each migration among them."""
        return host.engine_command("query-stats").get("registered-bytes", 0)

    def hop(self, number, source, target):
        lanes = LANES[number // 2 % len(LANES)]
        before = source.ops()
        result = migrate(source, target, lanes=lanes)
        left_with = source.ops()  # its memory stays as it was when the guest stopped
        compared = target.verify_against(source) if number % VERIFY_EVERY == 0 else 0
        arrived = target.ops()
        self.assertGreaterEqual(left_with, before, "the counter went back at the source")
        self.assertGreaterEqual(arrived, left_with, "the counter went back on the way")
        wait_until("the guest works", lambda: target.ops() > arrived)
        self.assertEqual(len(source.engine_command("query-lanes")), lanes)
        self.assertFalse(source.running(), "two guests run")
        print(f"hop {number:2} {source.status()['tracking']:>4} {lanes:2} lanes: "
              f"{result['total-time']:5} ms, downtime {result['downtime']:3} ms, counter {arrived}"
              + (f", {compared} pages compared" if compared else ""), flush=True)

    def test_hops(self):
        lab = self.lab
        witness = os.path.join(lab.folder, "witness")
        here = lab.host("log", witness=witness, **guest(tracking="log", **OPTIONS))
        there = lab.host("ring", witness=witness, incoming="yes", **guest(tracking="ring", **OPTIONS))
        here.wait_ready()
        pinned = {host.name: self.pinned(host) for host in (here, there)}
        for number in range(HOPS):
            registered = {host.name: self.registered(host) for host in (here, there)}
            self.hop(number, here, there)
            for host in (here, there):
                self.assertEqual(self.pinned(host), pinned[host.name], "pinned again")
                self.assertLess(self.registered(host) - registered[host.name], RAM_BYTES_MIN,
                                "the guest's memory was registered again")
            here, there = there, here
        self.assertEqual(lab.violations(), [])


if __name__ == "__main__":
    lab_module.main("guest", "refvm", "sluiced")
