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
import tempfile
import time
import types

import lab as lab_module
from hand import MIB, PAGE, Engine, answer_source, memfd, migrate_by_hand
from lab import ENDED, PATIENT, LabTest, guest, lane_settings, wait_until
from qmp import PATIENCE_S, QmpError

HUGE = 2 * MIB
NOBODY = 65534
MEMLOCK = 8 * MIB
DARK_S = 4
FAR_END = "/proc/sys/net/ipv4/conf/rail0b/accept_local"


def write_setting(path, value):
    with open(path, "w", encoding="ascii") as file:
        file.write(value)


@contextlib.contextmanager
def dead_wire():
    """The far end of the cable takes no packet of this host; nobody is told."""
    write_setting("/proc/sys/net/ipv4/conf/all/accept_local", "0")
    write_setting(FAR_END, "0")
    try:
        yield
    finally:
        write_setting(FAR_END, "1")


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


class Wire(LabTest):
    """The cable between the two ends."""

    def test_a_dead_wire(self):
        """All lanes are lost, the guest works on; when the wire is back it arrives, whole."""
        options = guest(vcpus=1, pattern="uniform", track_after_resume="yes")
        settings = {"lanes": 2, "rdma.path-timeout": "500ms", "downtime-limit": "1ms", "throttle": "no",
                    "max-bandwidth": "5M"}
        source = self.lab.host("source", engine_set=settings, **options)
        target = self.lab.host("target", engine_set=settings, incoming="yes", **options)
        source.wait_ready()
        uri = target.incoming()
        with source.operator() as watch:
            watch.command("migrate", uri=uri)
            watch.wait_event("MIGRATION", PATIENCE_S, ("active",))
            with dead_wire():
                begin = source.ops()
                reason = watch.wait_event("MIGRATION", PATIENCE_S, ("paused",))["reason"]
                print(f"  {reason}", flush=True)
                self.assertIn("lanes were lost", reason)
                time.sleep(DARK_S)
                self.assertGreater(source.ops(), begin)
            watch.command("migrate-set-parameters", **{"downtime-limit": 60000, "max-bandwidth": 0})
            end = watch.wait_event("MIGRATION", PATIENCE_S, ENDED)
            result = watch.command("query-migrate")
        self.assertEqual(end["status"], "completed", result)
        self.assertGreaterEqual(result["lanes-lost"], 2)
        self.assertGreaterEqual(result["pauses"], 1)
        wait_until("the guest runs at the target", target.running)
        self.assertFalse(source.running(), "two guests run")
        target.verify_against(source)
        target.check_alive()


if __name__ == "__main__":
    lab_module.main("refvm", "sluiced")
