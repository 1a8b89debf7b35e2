#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""plug: memory that is plugged into a guest, and out of it, while the guest moves and writes.

The guest writes to a DIMM as soon as it has it, checks each page before it writes it again, and
counts its writes elsewhere. After the migration both hosts' memory is compared byte by byte.
"""

import time
import unittest

import lab as lab_module
from lab import ENDED, HAS_KVM, LabTest, migrate, wait_until
from qmp import PATIENCE_S, QmpError

MIB = 1 << 20
OPTIONS = {"ram": "256M", "vcpus": 2, "pattern": "hotset", "rate": 20000, "track_after_resume": "yes"}
NEEDS_KVM = unittest.skipUnless(HAS_KVM, "/dev/kvm cannot be opened")
SLOW = {"max-bandwidth": "12M"}  # so that 256 MiB take longer than any test looks at them


class Plug(LabTest):
    def pair(self, source=None, target=None, **options):
        here = self.lab.host("here", **{**OPTIONS, **options, **(source or {})})
        there = self.lab.host("there", incoming="yes", **{**OPTIONS, **options, **(target or {})})
        here.wait_ready()
        return here, there

    def start(self, here, there):
        here.engine_command("migrate-set-parameters", **SLOW)
        operator = here.operator()
        self.addCleanup(operator.close)
        operator.command("migrate", uri=there.incoming())
        operator.wait_event("MIGRATION", PATIENCE_S, ("active",))
        return operator

    def finish(self, operator, here, there):
        """At full speed; it completes, and the memory is the same."""
        operator.command("migrate-set-parameters", **{"max-bandwidth": 0})
        end = operator.wait_event("MIGRATION", PATIENCE_S, ENDED)
        self.assertEqual(end["status"], "completed", operator.command("query-migrate"))
        wait_until("the guest runs there", there.running)
        self.verify(here, there)
        there.check_alive()

    def verify(self, here, there):
        regions = here.monitor.command("query-memory")
        result = there.monitor.command("verify", source_pid=here.vmm.pid, regions=[
            {"id": region["id"], "fd": region["fd"], "offset": region["offset"]}
            for region in regions])
        self.assertEqual(result["mismatched_pages"], 0, result)
        print(f"  {len(regions)} regions, {result['pages_compared']} pages compared, "
              f"{result['pages_skipped']} written since", flush=True)

    def dimm_ops(self, host):
        guest = host.guest()
        self.assertEqual(guest["errors"], 0, guest)
        return guest["dimm-ops"]

    def check_works(self, host):
        before = self.dimm_ops(host)
        wait_until(f"{host.name}: the guest writes to its DIMM", lambda: self.dimm_ops(host) > before)

    def part(self, host, name):
        """What a region's part in the migration is; None: the engine has no such region."""
        for region in host.engine_command("query-memory"):
            if region["id"] == name:
                return region.get("migration", "none")
        return None

    def moving(self, here, name="dimm0"):
        wait_until(f"{name} moves", lambda: self.part(here, name) == "moving")

    def plug_while_it_moves(self, **options):
        here, there = self.pair(**options)
        operator = self.start(here, there)
        with there.operator() as watch:
            here.monitor.command("plug", dimm=0, size=32 * MIB)
            wanted = watch.wait_event("MEMORY_WANTED", PATIENCE_S)
            self.assertEqual((wanted["id"], wanted["size"]), ("dimm0", 32 * MIB))
        self.check_works(here)
        self.assertEqual(self.part(here, "dimm0"), "waits-for-target")
        there.monitor.command("plug", dimm=0, size=32 * MIB)
        self.moving(here)
        there.monitor.command("plug", dimm=3, size=4 * MIB)  # this time the target is first
        here.monitor.command("plug", dimm=3, size=4 * MIB)
        self.moving(here, "dimm3")
        self.assertEqual(here.engine_command("query-migrate")["status"], "active")
        self.finish(operator, here, there)
        self.check_works(there)

    @NEEDS_KVM
    def test_plug_log(self):
        self.plug_while_it_moves(accel="kvm", tracking="log")

    @NEEDS_KVM
    def test_plug_manual_log(self):
        self.plug_while_it_moves(accel="kvm", tracking="manual")

    @NEEDS_KVM
    def test_plug_ring(self):
        self.plug_while_it_moves(accel="kvm", tracking="ring")

    @NEEDS_KVM
    def test_plug_uffd(self):
        self.plug_while_it_moves(accel="kvm", tracking="uffd")

    def test_plug_threads(self):
        self.plug_while_it_moves(accel="thread")

    def test_unplug(self):
        here, there = self.pair()
        for dimm in (0, 1):
            for host in (here, there):
                host.monitor.command("plug", dimm=dimm, size=32 * MIB)
        self.check_works(here)
        operator = self.start(here, there)
        with self.assertRaises(QmpError) as caught:
            there.monitor.command("unplug", dimm=0)
        self.assertIn("the source's guest has region", str(caught.exception))
        self.assertFalse(here.monitor.command("unplug", dimm=0)["removed"])
        wait_until("the engine lets go", lambda: self.part(here, "dimm0") is None)
        wait_until("the VMM lets go", lambda: "dimm0" not in
                   [region["id"] for region in here.monitor.command("query-memory")])
        wait_until("the target knows", lambda: self.part(there, "dimm0") == "unused")
        self.assertTrue(there.monitor.command("unplug", dimm=0)["removed"])
        # And once more the same: another memory of that name.
        for host in (here, there):
            host.monitor.command("plug", dimm=0, size=16 * MIB)
        self.moving(here)
        self.finish(operator, here, there)
        self.check_works(there)

    def test_the_target_never_adds_it(self):
        here, there = self.pair({"engine_set": {"region-timeout": "1s"}})
        operator = self.start(here, there)
        here.monitor.command("plug", dimm=0, size=32 * MIB)
        end = operator.wait_event("MIGRATION", PATIENCE_S, ENDED)
        self.assertEqual(end["status"], "failed")
        print(f"  {end['error-desc']}", flush=True)
        for words in ('"dimm0"', "region-timeout", "memory-add it there", "memory-remove it here"):
            self.assertIn(words, end["error-desc"])
        here.check_alive()
        self.check_works(here)
        self.assertTrue(here.monitor.command("unplug", dimm=0)["removed"])
        migrate(here, there, **{"max-bandwidth": 0})
        self.verify(here, there)
        there.check_alive()

    def test_cancel_while_it_waits(self):
        here, there = self.pair()
        operator = self.start(here, there)
        here.monitor.command("plug", dimm=0, size=32 * MIB)
        operator.command("migrate-set-parameters", **{"max-bandwidth": 0})
        time.sleep(0.5)  # all else was sent, and yet the guest is not stopped
        self.assertEqual(operator.command("query-migrate")["status"], "active")
        operator.command("migrate_cancel")
        self.assertEqual(operator.wait_event("MIGRATION", PATIENCE_S, ENDED)["status"], "cancelled")
        here.check_alive()
        self.check_works(here)

    def test_a_failed_migration_and_another(self):
        here, there = self.pair()
        operator = self.start(here, there)
        for host in (here, there):
            host.monitor.command("plug", dimm=0, size=32 * MIB)
        self.moving(here)
        self.check_works(here)
        there.engine_command("migrate_cancel")
        self.assertEqual(operator.wait_event("MIGRATION", PATIENCE_S, ENDED)["status"], "failed")
        here.check_alive()
        self.check_works(here)
        self.finish(self.start(here, there), here, there)
        self.check_works(there)

    def test_a_lost_link(self):
        """`region-add` and `region-remove` are said again when the link is back."""
        here, there = self.pair()
        for host in (here, there):
            host.monitor.command("plug", dimm=1, size=8 * MIB)
        operator = self.start(here, there)
        operator.command("migrate-pause")
        here.monitor.command("plug", dimm=0, size=32 * MIB)
        there.monitor.command("plug", dimm=0, size=32 * MIB)
        self.assertFalse(here.monitor.command("unplug", dimm=1)["removed"])
        self.assertEqual(self.part(here, "dimm1"), "leaving")
        with self.assertRaises(QmpError) as caught:
            here.monitor.command("plug", dimm=1, size=8 * MIB)
        self.assertIn("DIMM 1", str(caught.exception))
        operator.command("migrate-recover")
        self.moving(here)
        wait_until("the engine lets go", lambda: self.part(here, "dimm1") is None)
        there.monitor.command("unplug", dimm=1)
        self.finish(operator, here, there)
        self.check_works(there)


if __name__ == "__main__":
    lab_module.main("guest", "refvm", "sluiced")
