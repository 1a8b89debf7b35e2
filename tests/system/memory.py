#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""memory: how engines hold guest memory: pinned once, at what price, and what becomes of holes.

Run with --vmm SOCKET it is a VMM that gives memory to an engine and executes itself anew.
"""

import fcntl
import json
import mmap
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
import unittest

import lab as lab_module
from hand import Engine, answer_source, engine_of_nobody, memfd
from lab import ENDED, LabTest, migrate, wait_until
from qmp import PATIENCE_S, Qmp, QmpError

MIB = 1 << 20
PAGE = 4096
HUGE = 2 * MIB
VMM_BYTES = 32 * MIB
HUGE_PAGES_FILE = "/proc/sys/vm/nr_hugepages"


def allocated(path):
    """Bytes of a file that are there: what is left are holes."""
    return os.stat(path).st_blocks * 512


def ram_file(host):
    """The file of a refvm's memory, by the VMM's own descriptor."""
    region = host.monitor.command("query-memory")[0]
    return f"/proc/{host.vmm.pid}/fd/{region['fd']}"


class Pins(LabTest):
    """Invariant 6: a pin lives as long as its region."""

    def pinned(self, host):
        stats = host.engine_command("query-stats")
        self.assertEqual(stats["pages-pinned-during-migration"], 0, host.name)
        return stats["pages-pinned"]

    def reattach(self, host):
        before = self.pinned(host), host.engine.pid
        host.monitor.command("reattach")
        host.learn_engine()
        self.assertEqual((self.pinned(host), host.engine.pid), before)

    def test_a_vmm_attaches_again(self):
        """Before, between and after migrations: nothing is pinned anew, and its feed works."""
        options = {"ram": "64M", "track_after_resume": "yes", "engine_set": {"pin": "full"}}
        here = self.lab.host("here", **options)
        there = self.lab.host("there", incoming="yes", **options)
        here.wait_ready()
        pages = self.pinned(here)
        self.assertEqual(pages, 64 * MIB // PAGE)
        self.reattach(here)
        self.reattach(here)
        for source, target in ((here, there), (there, here)):
            migrate(source, target)
            self.reattach(target)
            self.reattach(source)
            target.check_alive()
        self.assertEqual((self.pinned(here), self.pinned(there)), (pages, pages))

    def vmm(self, engine):
        result = subprocess.run([sys.executable, __file__, "--vmm", engine.path],
                                stdout=subprocess.PIPE, timeout=PATIENCE_S, check=True)
        return [json.loads(line) for line in result.stdout.splitlines()]

    def test_a_vmm_executes_itself_anew(self):
        engine = Engine(self.lab, "engine", pin="full", linger="60s")
        first, second = self.vmm(engine)
        self.assertEqual(first["pages"], VMM_BYTES // PAGE)
        self.assertNotEqual(first["life"], second["life"])
        self.assertEqual(second["pages"], first["pages"], "pinned again")
        self.assertEqual(second["feed"], "none", "nobody filled that bitmap any more")

    def test_other_memory_of_that_name(self):
        engine = Engine(self.lab, "engine")
        engine.add_memory("ram", 8 * MIB)
        with self.assertRaises(QmpError) as caught:
            engine.add_memory("ram", 8 * MIB)
        self.assertIn("another file", str(caught.exception))

    def test_linger_of_a_launched_engine(self):
        host = self.lab.host("host", ram="64M", engine_set={"linger": "100ms"})
        host.vmm.signal(9)
        wait_until("the engine ends", lambda: not host.engine.alive())

    def test_linger_of_an_engine_started_by_hand(self):
        engine = Engine(self.lab, "engine", linger="100ms")
        self.vmm(engine)
        with Qmp(engine.path) as operator:
            wait_until("it lets go of the memory", lambda: not operator.command("query-memory"))

    def in_doubt(self, source):
        """Its commit is not answered, and its VMM is gone; the session."""
        target = Engine(self.lab, "target")
        for engine in (source, target):
            engine.add_memory("ram", 8 * MIB)
        source.vmm.command("migrate", uri=target.incoming())
        session = answer_source(source, until="SWITCHOVER_COMMIT")["session"]
        target.process.signal(signal.SIGSTOP)  # it never reads the commit
        source.vmm.command("migrate-continue", state="commit")
        target.process.signal(signal.SIGKILL)
        source.vmm.close()
        with Qmp(source.path) as operator:
            wait_until("the source is in doubt",
                       lambda: operator.command("query-session", session=session)["status"] == "in-doubt")
        return session

    def test_linger_of_a_launched_engine_in_doubt(self):
        """Nobody else asks the target for its answer."""
        source = Engine(self.lab, "source", launched=True, linger="4s")
        session = self.in_doubt(source)
        time.sleep(5)  # linger passes; were this too short, the test would only see less
        with Qmp(source.path) as operator:
            self.assertEqual(operator.command("query-session", session=session)["status"], "in-doubt")
            operator.command("session-resolve", session=session, decision="committed")
        wait_until("the engine ends", lambda: source.child.poll() is not None)

    def test_linger_that_ends_in_doubt(self):
        """A session in doubt keeps the memory past `linger`, but not past its own end."""
        source = Engine(self.lab, "source", linger="100ms")
        session = self.in_doubt(source)
        with Qmp(source.path) as operator:
            time.sleep(0.5)  # linger passes; were this too short, the test would only see less
            self.assertTrue(operator.command("query-memory"))
            operator.command("session-resolve", session=session, decision="committed")
            wait_until("it lets go of the memory", lambda: not operator.command("query-memory"))


class PinFull(LabTest):
    def test_all_of_it_is_there(self):
        for pin, expected in (("onfault", 0), ("full", 16 * MIB)):
            engine = Engine(self.lab, pin, pin=pin)
            with memfd(16 * MIB) as fd:
                engine.vmm.command("getfd", fd=fd, fdname="ram")
                engine.vmm.command("memory-add", id="ram", fdname="ram", size=16 * MIB, gpa=0)
                self.assertEqual(allocated(f"/proc/self/fd/{fd}"), expected, pin)
            region = engine.vmm.command("query-memory")[0]
            self.assertEqual(region["pinned-bytes"], 16 * MIB)
            self.assertIn("pin-ms", region)
            check = {check["name"]: check for check in engine.vmm.command("preflight")["checks"]}
            self.assertEqual(check["pin"]["numbers"]["pinned-bytes"], 16 * MIB)

    @unittest.skipUnless(os.geteuid() == 0, "only root can become somebody without CAP_IPC_LOCK")
    def test_memlock(self):
        """The number in the refusal is the one that it takes."""
        for pin in ("onfault", "full"):
            with self.assertRaises(QmpError) as caught:
                self.unprivileged(f"{pin}-low", pin, MIB)
            print(f"  {caught.exception}", flush=True)
            needed = int(re.search(r"(\d+) are needed", str(caught.exception)).group(1))
            self.assertGreater(needed, MIB)
            engine = self.unprivileged(f"{pin}-enough", pin, needed)
            check = {c["name"]: c for c in engine.command("preflight")["checks"]}["memlock"]
            self.assertEqual(check["result"], "ok")
            self.assertEqual(check["numbers"], {"needed-bytes": needed, "limit-bytes": needed})
            with self.assertRaises(QmpError):
                self.unprivileged(f"{pin}-short", pin, needed - PAGE)

    def unprivileged(self, name, pin, memlock):
        """An engine of user nobody with 4 MiB of memory; its VMM's connection."""
        vmm, process = engine_of_nobody(self, name, memlock, pin=pin)
        with memfd(4 * MIB) as fd:
            vmm.command("getfd", fd=fd, fdname="ram")
            vmm.command("memory-add", id="ram", fdname="ram", size=4 * MIB, gpa=0)
        self.assertTrue(process.alive())
        return vmm


class Holes(LabTest):
    def move(self, name, ram, **settings):
        """Bytes that travelled, and that the target has now, for a guest with 64 MiB in @ram."""
        options = {"ram": ram, "touch": "64M", "pattern": "idle", "regions": 1,
                   "engine_set": settings}
        if ram.endswith("G"):
            options["regions"] = 2
        here = self.lab.host("here-" + name, **options)
        there = self.lab.host("there-" + name, incoming="yes", **options)
        here.wait_ready()
        result = migrate(here, there)
        print(f"  {ram} {settings}: {result['total-time']} ms, "
              f"{result['ram']['transferred'] // MIB} MiB", flush=True)
        return result["ram"]["transferred"], allocated(ram_file(there))

    def test_holes_cost_nothing(self):
        dense, sparse = self.move("dense", "80M"), self.move("sparse", "16G")
        for small, large in zip(dense, sparse):
            self.assertLessEqual(large, 1.3 * small)

    def test_untouched_pages_stay_at_home(self):
        """pin=full: they are looked at, and do not travel."""
        small = self.move("onfault", "80M")[0]
        self.assertLessEqual(self.move("full", "512M", pin="full")[0], 1.3 * small)

    def test_holes_stay_holes(self):
        """A target that has all of its memory: holes of the source are zeros there, and nobody has
        filled them by looking at them; nor what the VMM discards while the migration runs."""
        source = Engine(self.lab, "source")
        target = Engine(self.lab, "target")
        source.add_memory("ram", 16 * MIB)
        target.add_memory("ram", 16 * MIB, fill=ord("y"))
        ram, copy = source.regions["ram"], target.regions["ram"]
        ram[HUGE:2 * HUGE] = b"x" * HUGE
        ram[5 * HUGE] = ord("x")
        self.assertEqual(allocated(source.files["ram"]), HUGE + PAGE)
        source.vmm.command("migrate", uri=target.incoming())
        answer_source(source, until="SWITCHOVER_READY")
        ram.madvise(mmap.MADV_REMOVE, HUGE, 3 * PAGE)
        ram[HUGE + PAGE] = ord("z")  # the guest was quicker than its VMM
        source.vmm.command("memory-discard", id="ram", offset=HUGE, size=3 * PAGE)
        source.vmm.command("migrate-continue", state="pre-switchover")
        self.assertEqual(answer_source(source)["status"], "completed")
        self.assertEqual(allocated(source.files["ram"]), HUGE - PAGE)
        self.assertEqual(copy[:], ram[:])

    def refused(self, words, engine, **arguments):
        with self.assertRaises(QmpError) as caught:
            engine.vmm.command("memory-discard", **arguments)
        self.assertIn(words, str(caught.exception))

    def test_discarded_pages_are_zeros(self):
        """Discards in a running migration: what was sent before is zeros at the target."""
        source, target = Engine(self.lab, "source"), Engine(self.lab, "target")
        source.add_memory("ram", 16 * MIB, fill=ord("x"))
        target.add_memory("ram", 16 * MIB)
        ram, copy = source.regions["ram"], target.regions["ram"]
        source.vmm.command("migrate", uri=target.incoming())
        answer_source(source, until="SWITCHOVER_READY")
        wait_until("all pages have been sent", lambda: copy[:] == ram[:])
        for offset, size in ((0, HUGE), (3 * HUGE + PAGE, 5 * PAGE), (7 * HUGE, HUGE)):
            ram.madvise(mmap.MADV_REMOVE, offset, size)
            source.vmm.command("memory-discard", id="ram", offset=offset, size=size)
        self.assertEqual(ram[:].count(0), 2 * HUGE + 5 * PAGE)
        self.refused("arriving", target, id="ram", offset=0, size=PAGE)
        source.vmm.command("migrate-continue", state="pre-switchover")
        self.refused("stopped", source, id="ram", offset=0, size=PAGE)
        self.assertEqual(answer_source(source)["status"], "completed")
        self.assertEqual(copy[:], ram[:])

    def test_bad_discards(self):
        engine = Engine(self.lab, "engine")
        engine.add_memory("ram", 8 * MIB)
        for name, offset, size, words in (
                ("ram", 0, 8 * MIB + PAGE, "within"), ("ram", 8 * MIB, PAGE, "within"),
                ("ram", 100, PAGE, "4096"), ("rom", 0, PAGE, "no region")):
            with self.assertRaises(QmpError) as caught:
                engine.vmm.command("memory-discard", id=name, offset=offset, size=size)
            self.assertIn(words, str(caught.exception))
        engine.vmm.command("memory-discard", id="ram", offset=0, size=8 * MIB)


class Files(LabTest):
    def test_a_file_that_shrinks(self):
        """The session fails and says why; the engine lives."""
        source = Engine(self.lab, "source", max_bandwidth="1M")
        target = Engine(self.lab, "target")
        target.add_memory("ram", 8 * MIB)
        with tempfile.TemporaryFile(dir="/dev/shm") as file:
            file.write(os.urandom(8 * MIB))
            file.flush()
            source.vmm.command("getfd", fd=file.fileno(), fdname="ram")
            source.vmm.command("memory-add", id="ram", fdname="ram", size=8 * MIB, gpa=0)
            with memfd(PAGE) as fd:
                source.vmm.command("getfd", fd=fd, fdname="dirty")
            source.vmm.command("feed-add", region="ram", type="bitmap", fdname="dirty")
            source.vmm.command("migrate", uri=target.incoming())
            sync = source.vmm.wait_event("DIRTY_SYNC")
            source.vmm.command("dirty-sync-done", id=sync["id"])
            source.vmm.wait_event("MIGRATION", PATIENCE_S, ("active",))
            os.ftruncate(file.fileno(), MIB)
            end = source.vmm.wait_event("MIGRATION", PATIENCE_S, ENDED)
        self.assertEqual(end["status"], "failed", end)
        print(f"  {end['error-desc']}", flush=True)
        self.assertIn("shrank", end["error-desc"])
        self.assertEqual(source.vmm.command("query-status")["status"], "ended")

    @unittest.skipUnless(os.access(HUGE_PAGES_FILE, os.W_OK), "huge pages cannot be reserved")
    def test_huge_pages(self):
        """2 MiB pages at one end, then at the other."""
        with open(HUGE_PAGES_FILE, encoding="ascii") as file:
            before = int(file.read())
        self.addCleanup(self.reserve, before)
        if self.reserve(before + 40) < before + 40:
            self.skipTest("this machine has no 40 huge pages to spare")
        options = {"ram": "64M", "track_after_resume": "yes", "regions": 1}
        here = self.lab.host("huge", backing="hugetlb", **options)
        there = self.lab.host("small", incoming="yes", engine_set={"pin": "full"}, **options)
        here.wait_ready()
        self.assertEqual(here.engine_command("query-memory")[0]["page-size"], HUGE)
        self.assertEqual(here.engine_command("query-memory")[0]["backing"], "hugetlb")
        for source, target in ((here, there), (there, here)):
            migrate(source, target)
            regions = [{"id": region["id"], "fd": region["fd"], "offset": region["offset"]}
                       for region in source.monitor.command("query-memory")]
            result = target.monitor.command("verify", source_pid=source.vmm.pid, regions=regions)
            self.assertEqual(result["mismatched_pages"], 0, result)
            self.assertGreater(result["pages_compared"], 0, result)
            for host, size in ((here, PAGE), (there, HUGE)):
                region = host.engine_command("query-memory")[0]
                self.assertEqual(region["peer-page-size"], size, host.name)
            target.check_alive()

    def reserve(self, pages):
        with open(HUGE_PAGES_FILE, "w", encoding="ascii") as file:
            file.write(str(pages))
        with open(HUGE_PAGES_FILE, encoding="ascii") as file:
            return int(file.read())


def be_a_vmm(path, fd):
    """Give memory and a feed to the engine at @path; in the second life only the memory."""
    again = fd is not None
    if not again:
        fd = os.memfd_create("ram", os.MFD_ALLOW_SEALING)
        os.set_inheritable(fd, True)
        os.ftruncate(fd, VMM_BYTES)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    with Qmp(path) as engine:
        engine.command("getfd", fd=fd, fdname="ram")
        engine.command("memory-add", id="ram", fdname="ram", size=VMM_BYTES, gpa=0)
        if not again:
            with memfd(PAGE) as dirty:
                engine.command("getfd", fd=dirty, fdname="dirty")
            engine.command("feed-add", region="ram", type="bitmap", fdname="dirty")
        print(json.dumps({"life": 1 + again, "feed": engine.command("query-memory")[0]["feed"],
                          "pages": engine.command("query-stats")["pages-pinned"]}), flush=True)
        if not again:
            os.execv(sys.executable, [sys.executable, __file__, "--vmm", path, str(fd)])


if __name__ == "__main__":
    if sys.argv[1:2] == ["--vmm"]:
        be_a_vmm(sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else None)
    else:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        lab_module.main("sluiced", "refvm")
