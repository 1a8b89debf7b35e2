#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""verbs: what only lanes over RDMA can get wrong: pins that a user may not have, pages that are
discarded under a registration, a wire that goes dead.

Needs the two ends of a cable that scripts/rxe-setup makes; scripts/lab has them.
"""

import contextlib
import mmap
import os
import re
import shutil
import signal
import subprocess
import tempfile
import types

import lab as lab_module
from hand import MIB, PAGE, ROOT, Engine, answer_source, memfd, migrate_by_hand
from lab import ENDED, PATIENT, LabTest, guest, lane_settings, wait_until
from qmp import PATIENCE_S, QmpError

HUGE = 2 * MIB
NOBODY = 65534
MEMLOCK = 8 * MIB


def write_setting(path, value):
    with open(path, "w", encoding="ascii") as file:
        file.write(value)


@contextlib.contextmanager
def dead_wires(*rails):
    """The far ends of these cables take no packet of this host; nobody is told."""
    write_setting("/proc/sys/net/ipv4/conf/all/accept_local", "0")
    for rail in rails:
        write_setting(f"/proc/sys/net/ipv4/conf/rail{rail}b/accept_local", "0")
    try:
        yield
    finally:
        for rail in rails:
            write_setting(f"/proc/sys/net/ipv4/conf/rail{rail}b/accept_local", "1")


class Memlock(LabTest):
    def engine(self, name, memlock, end):
        """An engine of user nobody, and the connection that acts as its VMM."""
        folder = tempfile.mkdtemp(prefix="sluice-nobody-")
        self.addCleanup(shutil.rmtree, folder)
        os.chown(folder, NOBODY, NOBODY)
        path = os.path.join(folder, "engine.sock")
        binary = shutil.copy(lab_module.program("sluiced"), folder)  # nobody may read it there
        arguments = ["prlimit", f"--memlock={memlock}:{memlock}", "setpriv", f"--reuid={NOBODY}",
                     f"--regid={NOBODY}", "--clear-groups", "--inh-caps=-all", binary,
                     "--listen", path, "--set", f"runtime-dir={folder}/run"]
        for key, value in {**PATIENT, **lane_settings(end)}.items():
            arguments += ["--set", f"{key}={value}"]
        self.lab.start(name, arguments)
        return self.lab.connect(path)

    def add(self, vmm, size):
        with memfd(size) as fd:
            vmm.command("getfd", fd=fd, fdname="ram")
            vmm.command("memory-add", id="ram", fdname="ram", size=size, gpa=0)

    def test_the_number_that_it_names(self):
        """Too little, and the number in the refusal is enough: for a migration, too."""
        size = 32 * MIB
        low = self.engine("low", MEMLOCK, 0)
        check = {c["name"]: c for c in low.command("preflight")["checks"]}["memlock"]
        with self.assertRaises(QmpError) as caught:
            self.add(low, size)
        text = str(caught.exception)
        print(f"  {text}\n  preflight: {check}", flush=True)
        named = re.search(r"limit to (\d+) KiB|ulimit -l (\d+)", text)
        self.assertIsNotNone(named, text)
        needed = int(named.group(1) or named.group(2)) * 1024
        self.assertGreater(needed, MEMLOCK)
        source, target = (self.engine(f"enough-{end}", needed, end) for end in range(2))
        for vmm in (source, target):
            self.add(vmm, size)
        with memfd(PAGE) as fd:
            source.command("getfd", fd=fd, fdname="dirty")
        source.command("feed-add", region="ram", type="bitmap", fdname="dirty")
        source.command("migrate", uri=target.command("migrate-incoming", uri="tcp:127.0.0.1:0")["uri"])
        answer_source(types.SimpleNamespace(name="source", vmm=source), until="SWITCHOVER_READY")


class Discards(LabTest):
    """A page that is discarded under a registration is another one when it comes back."""

    def discard(self, engine, offset, size):
        engine.regions["ram"].madvise(mmap.MADV_REMOVE, offset, size)
        engine.vmm.command("memory-discard", id="ram", offset=offset, size=size)

    def test_holes(self):
        source, target = Engine(self.lab, "source"), Engine(self.lab, "target")
        for engine in (source, target):
            engine.add_memory("ram", 16 * MIB, fill=ord("x"))
        migrate_by_hand(source, target)
        holes = ((0, HUGE), (3 * HUGE + PAGE, 5 * PAGE), (7 * HUGE, HUGE))
        for offset, size in holes:
            for engine in (source, target):
                self.discard(engine, offset, size)
            source.regions["ram"][offset:offset + size] = os.urandom(size)
        # What is in the holes now is seen by the NICs only through new registrations.
        migrate_by_hand(source, target)
        for offset, size in holes:
            self.assertNotEqual(target.regions["ram"][offset:offset + size], bytes(size))


class Loss(LabTest):
    """A live guest, and cables that go dead under its lanes."""

    def begin(self, rails):
        """Two hosts, and a migration that would go on for long; the operator's connection."""
        options = guest(vcpus=1, pattern="uniform", track_after_resume="yes")
        settings = {"lanes": 2, "rdma.path-timeout": "500ms", "downtime-limit": "1ms",
                    "throttle": "no", "max-bandwidth": "5M", "recover-pause": "200ms"}
        self.source, self.target = (
            self.lab.host(name, incoming="yes" if end else "no",
                          engine_set={**settings, **lane_settings(end, rails)}, **options)
            for end, name in enumerate(("source", "target")))
        self.source.wait_ready()
        uri = self.target.incoming()
        watch = self.lab.connect(self.source.socket)
        watch.command("migrate", uri=uri)
        watch.wait_event("MIGRATION", PATIENCE_S, ("active",))
        wait_until("pages move", lambda: watch.command("query-migrate")["ram"]["transferred"] > 0)
        return watch

    def wait_paused(self, watch):
        reason = watch.wait_event("MIGRATION", PATIENCE_S, ("paused",))["reason"]
        print(f"  {reason}", flush=True)
        self.assertIn("lanes were lost", reason)
        begin = self.source.ops()
        wait_until("the guest works", lambda: self.source.ops() > begin)

    def arrive(self, watch):
        """The guest arrives, whole; query-migrate."""
        watch.command("migrate-set-parameters", **{"downtime-limit": 60000, "max-bandwidth": 0})
        end = watch.wait_event("MIGRATION", PATIENCE_S, ENDED)
        result = watch.command("query-migrate")
        self.assertEqual(end["status"], "completed", result)
        wait_until("the guest runs at the target", self.target.running)
        self.assertFalse(self.source.running(), "two guests run")
        pages = self.target.verify_against(self.source)
        self.target.check_alive()
        print(f"  {result['lanes-lost']} lanes lost, {result['pauses']} pauses, {pages} pages "
              "compared", flush=True)
        return result

    def test_the_only_rail_dies(self):
        """All lanes are lost, the guest works on; when the wire is back it arrives."""
        watch = self.begin(rails=1)
        with dead_wires(0):
            self.wait_paused(watch)
        result = self.arrive(watch)
        self.assertGreaterEqual(result["lanes-lost"], 2)
        self.assertGreaterEqual(result["pauses"], 1)

    def test_one_of_two_rails_dies(self):
        """The other rail carries on, without a pause, and the guest arrives meanwhile."""
        watch = self.begin(rails=2)
        with dead_wires(1):
            wait_until("its lane is lost", lambda: watch.command("query-migrate")["lanes-lost"] >= 1)
            result = self.arrive(watch)
        self.assertEqual(result["pauses"], 0)

    def test_a_device_is_removed(self):
        """As if a NIC were pulled: its lane is lost at once and the other rail carries on. The
        kernel keeps what is left of the device until the engine ends."""
        watch = self.begin(rails=2)
        with subprocess.Popen(["rdma", "link", "delete", "rxe1a"]) as removal:
            wait_until("its lane is lost", lambda: watch.command("query-migrate")["lanes-lost"] >= 1)
            result = self.arrive(watch)
            for host in (self.source, self.target):
                host.vmm.signal(signal.SIGKILL)
                host.engine.signal(signal.SIGKILL)
            self.assertEqual(removal.wait(PATIENCE_S), 0)
        subprocess.run([os.path.join(ROOT, "scripts", "rxe-setup"), "pair", "1"], check=True,
                       stderr=subprocess.DEVNULL, timeout=PATIENCE_S)
        self.assertEqual(result["pauses"], 0)

    def test_both_rails_die(self):
        """It pauses; with the wires back it goes on."""
        watch = self.begin(rails=2)
        with dead_wires(0, 1):
            self.wait_paused(watch)
        result = self.arrive(watch)
        self.assertGreaterEqual(result["pauses"], 1)


if __name__ == "__main__":
    lab_module.main("refvm", "sluiced")
