#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""cancel: migrate_cancel at random moments of a migration.

The guest goes on at the source, finds no error, and can still be moved. A cancel that comes too
late is refused in words, and then the guest arrives.
"""

import os
import time

import lab as lab_module
from lab import ENDED, IN_LAB, LabTest, guest, migrate, wait_until
from qmp import PATIENCE_S, QmpError

CANCELS = int(os.environ.get("SLUICE_CANCELS", "20"))
OPTIONS = {"ram": "96M", "vcpus": 2, "accel": "kvm", "pattern": "hotset", "rate": 60000,
           "engine_set": {"downtime-limit": "300ms" if IN_LAB else "3ms", "sync-interval": "50ms", "lanes": 4}}


def cancel(operator):
    """True: it is cancelled. False: refused, because the guest is given away or gone."""
    try:
        operator.command("migrate_cancel")
        return True
    except QmpError as error:
        if "too late" not in str(error) and "no migration is running" not in str(error):
            raise
        return False


class Cancel(LabTest):
    def attempt(self, source, target, delay_s):
        """One migration and one cancel; returns the status it ended with."""
        before = source.ops()
        uri = target.incoming()
        with source.operator() as operator:
            operator.command("migrate", uri=uri)
            if delay_s is None:
                operator.wait_event("SWITCHOVER_READY")
            else:
                time.sleep(delay_s)
            accepted = cancel(operator)
            status = operator.wait_event("MIGRATION", PATIENCE_S, ENDED)["status"]
        self.assertEqual(status, "cancelled" if accepted else "completed")
        host, other = (source, target) if accepted else (target, source)
        host.check_alive()
        self.assertGreaterEqual(host.ops(), before)
        self.assertFalse(other.running(), "two guests run")
        wait_until("the target knows", lambda: target.engine_command("query-migrate")["status"]
                   in ("failed", "completed", "none"))
        self.assertEqual(host.status()["throttle-percent"], 0)
        self.assertFalse(host.status()["tracking-on"], "writes are still being tracked")
        return status

    def test_cancels(self):
        lab = self.lab
        witness = os.path.join(lab.folder, "witness")
        source = lab.host("one", witness=witness, **guest(**OPTIONS))
        target = lab.host("other", witness=witness, incoming="yes", **guest(**OPTIONS))
        source.wait_ready()
        duration_s = migrate(source, target)["total-time"] / 1000
        source, target = target, source
        statuses = []
        for number in range(CANCELS):
            delay_s = lab.random.uniform(0, duration_s)
            # Every fourth in the switchover itself, which is short.
            status = self.attempt(source, target, None if number % 4 == 3 else delay_s)
            statuses.append(status)
            if status == "completed":
                # How long one takes changes with what else the machine does.
                duration_s = target.engine_command("query-migrate")["total-time"] / 1000
                source, target = target, source
        print({status: statuses.count(status) for status in statuses}, flush=True)
        self.assertIn("cancelled", statuses)
        migrate(source, target)
        target.check_alive()
        self.assertEqual(lab.violations(), [])


if __name__ == "__main__":
    lab_module.main("guest", "refvm", "sluiced")
