#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""migrate_command: an operator moves a live guest with `sluice`, and looks at it meanwhile."""

import json
import signal
import subprocess

import lab as lab_module
from lab import LabTest, guest, wait_until
from qmp import PATIENCE_S

OPTIONS = {"ram": "192M", "vcpus": 2, "accel": "kvm", "pattern": "hotset", "rate": 30000}


class MigrateCommand(LabTest):
    def sluice(self, host, *arguments, expect=0):
        done = subprocess.run(
            [lab_module.program("sluice"), "--socket", host.socket, *arguments],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            universal_newlines=True, timeout=PATIENCE_S, check=False)
        print(f"$ sluice {' '.join(arguments)}\n{done.stdout}{done.stderr}", flush=True)
        self.assertEqual(done.returncode, expect, done.stderr)
        return done.stdout if expect == 0 else done.stderr

    def json(self, host, *arguments):
        return json.loads(self.sluice(host, "--json", *arguments))

    def setUp(self):
        self.here = self.lab.host("here", **guest(**OPTIONS))
        self.there = self.lab.host("there", incoming="yes", **guest(**OPTIONS))
        self.here.wait_ready()

    def test_migrate(self):
        here, there = self.here, self.there
        self.assertIn("idle", self.sluice(here, "status"))
        self.assertIn("memlock", self.sluice(here, "preflight"))
        self.assertEqual(sum(region["size"] for region in self.json(here, "memory")), 192 << 20)
        uri = self.sluice(there, "incoming", "tcp:127.0.0.1:0").strip()
        self.assertEqual(self.json(there, "status")["engine"]["status"], "incoming")

        lines = self.sluice(here, "migrate", uri, "--set", "lanes=3").splitlines()
        for word in ("active", "device", "completed"):
            self.assertIn(word, lines)
        self.assertRegex(lines[-1], r"^moved in .*, downtime .*, .* placed$")
        there.check_alive()
        self.assertFalse(here.running())
        self.assertIn("completed", self.sluice(here, "status"))
        lanes = self.json(here, "lanes")
        self.assertEqual(len(lanes), 3)
        self.assertGreaterEqual(sum(lane["bytes"] for lane in lanes), 100 << 20)
        self.assertEqual(len(self.sluice(here, "lanes").strip().splitlines()), 4)
        self.assertIn("committed", self.sluice(there, "session"))

        # And back, as a program would.
        uri = self.json(here, "incoming", "tcp:127.0.0.1:0")["uri"]
        result = self.json(there, "migrate", uri)
        self.assertEqual(result["status"], "completed")
        self.assertGreater(result["ram"]["transferred"], 0)
        here.check_alive()

    def hold_midway(self):
        """Start a migration and hold the target's engine before it has arrived; (source, target,
        uri). One that was faster than we are goes back."""
        here, there = self.here, self.there
        for _ in range(10):
            uri = self.sluice(there, "incoming", "tcp:127.0.0.1:0").strip()
            with here.operator() as operator:
                self.sluice(here, "migrate", uri, "--detach")
                operator.wait_event("MIGRATION", PATIENCE_S, ("active",))
                there.engine.signal(signal.SIGSTOP)
                if operator.command("query-migrate")["status"] == "active":
                    return here, there, uri
                there.engine.signal(signal.SIGCONT)
            wait_until("the guest arrives", there.running)
            here, there = there, here
        raise AssertionError("no migration could be held")

    def test_watch(self):
        """The target's engine is held meanwhile, so that there is something to watch."""
        here, there, uri = self.hold_midway()
        watch = [lab_module.program("sluice"), "--socket", here.socket, "watch", "--interval", "0.2"]
        with subprocess.Popen(watch, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              universal_newlines=True) as watcher:
            try:
                seen = 0
                while seen < 3:
                    line = watcher.stdout.readline()
                    self.assertNotEqual(line, "", "watch ended")
                    seen += "active" in line
                self.assertIn("active", self.sluice(here, "watch", "--once"))
                self.assertIn("is running", self.sluice(here, "migrate", uri, expect=1))
                there.engine.signal(signal.SIGCONT)
                text, _ = watcher.communicate(timeout=PATIENCE_S)
            finally:
                watcher.kill()
        print(text, flush=True)
        self.assertIn("completed", text.splitlines()[-1])
        self.assertEqual(watcher.returncode, 0)
        there.check_alive()

    def test_cancel_and_failure(self):
        here, there = self.here, self.there
        uri = self.sluice(there, "incoming", "tcp:127.0.0.1:0").strip()
        there.engine.signal(signal.SIGSTOP)
        self.sluice(here, "migrate", uri, "--detach")
        self.sluice(here, "cancel")
        there.engine.signal(signal.SIGCONT)
        wait_until("it is cancelled",
                   lambda: self.json(here, "status")["migrate"]["status"] == "cancelled")
        here.check_alive()
        self.assertIn("cannot be reached", self.sluice(here, "migrate", "tcp:127.0.0.1:1", expect=1))
        self.sluice(here, "migrate", expect=2)
        here.check_alive()


if __name__ == "__main__":
    lab_module.main("guest", "refvm", "sluice", "sluiced")
