#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""lifecycle.py REFVM [--accel kvm|thread] [unittest arguments]

refvm's side of a migration, step by step, with engines played by the test: what it answers,
when its guest runs and when it must not, and what it does when an engine dies in between.

Nothing here depends on how fast the machine is: what shall happen is waited for, and what must not
happen is looked at for a moment.
"""
import contextlib
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
import unittest

from scripted_engine import (Engine, copy_all, copy_dirty, read_to_end, write_and_close)

HERE = os.path.dirname(os.path.abspath(__file__))
PATIENCE_S = 60  # until something is given up that takes milliseconds on an idle machine
SKIP = 77
SESSION = "5e55"
PAGE = 4096
OWN_PAGES = 64  # more than the guest writes beside its work: stacks, counters


def wait_until(what, condition, step_s=0.01):
    """The first true value of @condition."""
    end = time.monotonic() + PATIENCE_S
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"not within {PATIENCE_S} s: {what}")
        time.sleep(step_s)


class Monitor:
    """A client of refvm's monitor."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(PATIENCE_S)
        try:
            self.socket.connect(path)
        except OSError:
            self.socket.close()
            raise
        self.file = self.socket.makefile("rw")
        self.file.readline()
        self.ask("qmp_capabilities")

    def ask(self, name, arguments=None):
        self.file.write(json.dumps({"execute": name, "arguments": arguments or {}}) + "\n")
        self.file.flush()
        return json.loads(self.file.readline())

    def __call__(self, name, arguments=None):
        answer = self.ask(name, arguments)
        if "error" in answer:
            raise AssertionError(f"{name}: {answer['error']['desc']}")
        return answer["return"]

    def close(self):
        self.file.close()
        self.socket.close()


class Vmm:
    """A refvm, and the engine that the test plays for it."""

    REFVM = None
    ACCEL = "kvm"

    def __init__(self, folder, name, *options):
        self.folder, self.name = folder, name
        self.path = os.path.join(folder, name)
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(self.path + ".engines")
        self.listener.listen(4)
        env = dict(os.environ, SCRIPTED_ENGINE=self.path + ".engines")
        self.log = open(self.path + ".log", "w+", encoding="utf-8")
        self.process = subprocess.Popen(
            [self.REFVM, "--ram=32M", f"--accel={self.ACCEL}",
             f"--engine={HERE}/scripted_engine.py", f"--monitor={self.path}.mon",
             f"--witness={folder}/witness", "--track-after-resume", *options],
            env=env, stdout=self.log, stderr=self.log)
        self.engine, self.ram = None, None
        self.new_engine()
        self.monitor = self.connect()

    def new_engine(self):
        self.engine = Engine(self.listener)
        self.engine.wait_for_memory(2)
        self.ram = self.engine.regions["ram-low"].ram
        return self.engine

    def connect(self):
        def attempt():
            with contextlib.suppress(OSError):
                return Monitor(self.path + ".mon")
            return None

        return wait_until(f"{self.name} has a monitor", attempt)

    def read_log(self):
        with open(self.path + ".log", encoding="utf-8") as log:
            return log.read()

    def status(self):
        return self.monitor("query-status")

    def state(self):
        return self.status()["state"]

    def guest(self):
        return self.monitor("query-guest")

    def wait_state(self, state):
        try:
            wait_until(f"{self.name} is {state}", lambda: self.state() == state, 0.005)
        except AssertionError as error:
            raise AssertionError(f"{error}, but {self.state()}: {self.read_log()}") from error

    def wait_ready(self):
        wait_until("the guest fills its memory", lambda: self.guest()["ready"])

    def wait_ops(self, ops):
        """Until the guest has done so many operations more."""
        end = self.guest()["ops"] + ops
        wait_until("the guest works", lambda: self.guest()["ops"] >= end)

    def ops_in_memory(self):
        """Operations of the first vCPU, read from guest memory; see guest/abi.h."""
        return struct.unpack_from("<Q", self.ram, 0x5000)[0]

    def stands(self):
        """Whether the guest makes no progress for a moment."""
        before = self.guest()["ops"]
        time.sleep(0.1)
        return self.guest()["ops"] == before

    def cpu_s(self):
        """CPU time of all its threads, vCPUs included."""
        return time.clock_gettime((~self.process.pid << 3) | 2)

    def end(self):
        self.monitor.close()
        self.process.terminate()  # first: without its engine it would launch another one
        self.engine.close()
        try:
            self.process.wait(PATIENCE_S)
        finally:
            self.process.kill()
            self.listener.close()
            self.log.close()


def to_switchover(source):
    """Start a migration and let it come to SWITCHOVER_READY; returns the device's blob."""
    engine = source.engine
    engine.event("MIGRATION", status="setup", session=SESSION)
    engine.dirty_sync(1)
    engine.event("SWITCHOVER_READY", session=SESSION)
    blob_fd = engine.device_fd()
    assert engine.expect("migrate-continue")["state"] == "pre-switchover"
    return read_to_end(blob_fd)


def load(target, blob):
    """Give the target its device; returns when it has accepted it."""
    engine = target.engine
    engine.event("DEVICE_OPEN", device="vcpus", session=SESSION)
    write_and_close(engine.device_fd(), blob)
    engine.expect("device-loaded")


def commit(source):
    source.engine.event("SWITCHOVER_COMMIT", session=SESSION)
    assert source.engine.expect("migrate-continue")["state"] == "commit"


def move(source, target):
    """A whole migration. Returns how many pages the last harvest brought."""
    source.engine.event("MIGRATION", status="setup", session=SESSION)
    target.engine.event("MIGRATION", status="setup", session=SESSION)
    source.engine.dirty_sync(1)
    copy_all(source.engine, target.engine)
    if source.status()["running"]:
        source.wait_ops(10)  # so that the last harvest brings something
    source.engine.event("SWITCHOVER_READY", session=SESSION)
    blob_fd = source.engine.device_fd()
    source.engine.expect("migrate-continue")
    source.engine.dirty_sync(2)
    pages = copy_dirty(source.engine, target.engine)
    load(target, read_to_end(blob_fd))
    commit(source)
    source.engine.event("MIGRATION", status="completed", session=SESSION)
    target.engine.event("MIGRATION", status="completed", session=SESSION)
    source.wait_state("postmigrate")
    return pages


class Case(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="refvm-")
        self.vmms = []

    def tearDown(self):
        for vmm in self.vmms:
            vmm.end()
        shutil.rmtree(self.folder)

    def vmm(self, name, *options):
        vmm = Vmm(self.folder, name, *options)
        self.vmms.append(vmm)
        return vmm

    def source(self, *options):
        vmm = self.vmm("source", *options)
        vmm.wait_ready()
        return vmm

    def target(self, *options):
        return self.vmm("target", "--incoming", *options)

    def check_well(self, vmm):
        """The guest runs here, makes progress and has found no error."""
        self.assertEqual(vmm.state(), "running", vmm.read_log())
        vmm.wait_ops(1)
        self.assertEqual(vmm.guest()["errors"], 0)
        self.assertFalse(os.path.exists(self.folder + "/witness.violation"))

    def check_runs(self, vmm):
        """The same without asking the monitor, which waits while the VMM asks its engine."""
        before = vmm.ops_in_memory()
        wait_until("the guest works", lambda: vmm.ops_in_memory() > before)

    def check_halted(self, vmm):
        before = vmm.ops_in_memory()
        time.sleep(0.1)
        self.assertEqual(vmm.ops_in_memory(), before)

    def verify(self, target, source):
        regions = source.monitor("query-memory")
        result = target.monitor("verify", {
            "source-pid": regions[0]["pid"],
            "regions": [{"id": r["id"], "fd": r["fd"]} for r in regions]})
        pages = sum(r["size"] for r in regions) // PAGE
        self.assertEqual(result["pages_compared"] + result["pages_skipped"], pages)
        return result

    def check_same_memory(self, target, source):
        """Every page, but for those that the guest has changed at the target. How many that are
        depends on the machine; they are no more than the pages it worked on, with their entries in
        the guest's table."""
        left_with = source.guest()["ops"]
        result = self.verify(target, source)
        self.assertEqual(result["mismatched_pages"], 0, result)
        worked_on = target.guest()["ops"] - left_with
        self.assertLessEqual(result["pages_skipped"], 2 * worked_on + OWN_PAGES, result)


class There(Case):
    def there_and_back(self, *options):
        here, there = self.source(*options), self.target(*options)
        ops = here.guest()["ops"]
        for hop in range(4):
            paused = hop // 2 == 1  # all of memory is compared then
            if paused:
                here.monitor("stop")
            pages = move(here, there)
            if paused:
                there.wait_state("paused")
            else:
                self.assertGreater(pages, 0)
                there.wait_state("running")
            self.check_same_memory(there, here)
            if paused:
                there.monitor("cont")
            self.check_well(there)
            now = there.guest()["ops"]
            self.assertGreater(now, ops, "the counter went back")
            ops = now
            self.assertEqual(there.status()["generation"], hop + 2)
            self.assertFalse(here.status()["tracking-on"])
            here, there = there, here

    def test_there_and_back_default(self):
        self.there_and_back()

    def test_there_and_back_uffd(self):
        self.there_and_back("--tracking=uffd")

    def test_there_and_back_ring(self):
        if Vmm.ACCEL == "thread":
            self.skipTest("the dirty ring needs KVM")
        self.there_and_back("--tracking=ring", "--ring-entries=1024", "--rate=0")

    def test_there_and_back_manual(self):
        if Vmm.ACCEL == "thread":
            self.skipTest("the dirty log needs KVM")
        self.there_and_back("--tracking=manual", "--pattern=uniform")

    def test_timestamps_and_bins(self):
        def bins(vmm, since_ns=0):
            taken = vmm.monitor("query-bins", {"since_ns": since_ns})
            self.assertEqual(len(taken["t_ns"]), len(taken["ops"]))
            self.assertEqual(taken["t_ns"], sorted(taken["t_ns"]))
            self.assertEqual(taken["ops"], sorted(taken["ops"]))
            return taken

        source, target = self.source(), self.target()
        wait_until("bins", lambda: len(bins(source)["t_ns"]) > 20)
        move(source, target)
        target.wait_state("running")
        target.wait_ops(10)
        stopped = source.monitor("query-timestamps")["stopped_ns"]
        running = target.monitor("query-timestamps")["running_ns"]
        self.assertGreater(running, stopped)
        wait_until("a bin after the guest stopped", lambda: bins(source, stopped)["t_ns"])
        before = bins(source)
        since = before["t_ns"][-5]
        self.assertGreater(bins(source, since)["t_ns"][0], since)
        self.assertEqual(before["ops"][-1], source.guest()["ops"])
        wait_until("bins while it runs", lambda: len(bins(target, running)["t_ns"]) > 2)
        after = bins(target)
        self.assertGreater(after["t_ns"][0], stopped)
        self.assertGreaterEqual(after["ops"][0], before["ops"][-1])

    def test_a_paused_guest_stays_paused(self):
        source, target = self.source(), self.target()
        source.monitor("stop")
        move(source, target)
        target.wait_state("paused")
        self.assertTrue(target.stands())
        self.check_same_memory(target, source)
        target.monitor("cont")
        self.check_well(target)

    def test_verify_finds_a_difference(self):
        source, target = self.source("--pattern=idle"), self.target()
        move(source, target)
        target.wait_state("running")
        region = source.engine.regions["ram-high"]
        region.ram[5 * PAGE + 7] ^= 1
        result = self.verify(target, source)
        self.assertEqual(result["mismatched_pages"], 1)
        self.assertEqual(result["first_mismatch"], {"region": "ram-high", "page": 5})

    def test_a_lost_page_is_noticed_by_the_guest(self):
        source, target = self.source("--pattern=sequential", "--rate=0"), self.target()
        engine = source.engine
        engine.dirty_sync(1)
        copy_all(engine, target.engine)
        engine.event("SWITCHOVER_READY", session=SESSION)
        blob_fd = engine.device_fd()
        engine.expect("migrate-continue")
        engine.dirty_sync(2)
        copy_dirty(engine, target.engine)
        target.engine.regions["ram-high"].ram[0:4096] = bytes(4096)
        load(target, read_to_end(blob_fd))
        commit(source)
        target.engine.event("MIGRATION", status="completed", session=SESSION)
        wait_until("an error is found", lambda: target.guest()["errors"] > 0)


class Source(Case):
    def test_throttle(self):
        source = self.source("--rate=0")
        source.engine.event("THROTTLE", percent=90)
        wait_until("it is throttled", lambda: source.status()["throttle-percent"] == 90)
        # vCPUs that may run a tenth of the time; a busy machine can only make it less.
        used_s, begin = -source.cpu_s(), time.monotonic()
        time.sleep(0.3)
        used_s += source.cpu_s()
        self.assertLess(used_s, 0.5 * (time.monotonic() - begin))
        source.wait_ops(1)
        source.engine.event("MIGRATION", status="cancelled", session=SESSION)
        wait_until("it is free again", lambda: source.status()["throttle-percent"] == 0)

    def test_each_sync_brings_what_was_written(self):
        source = self.source("--rate=2000", "--pattern=uniform")
        since = source.guest()["ops"]
        source.engine.dirty_sync(1)
        for region in source.engine.regions.values():
            region.take_dirty()
        for number in range(2, 5):
            source.wait_ops(200)
            before_sync = source.guest()["ops"]
            source.engine.dirty_sync(number)
            source.monitor("stop")
            pages = sum(len(r.take_dirty()) for r in source.engine.regions.values())
            self.assertGreater(pages, 100)
            self.assertLess(pages, 2 * (source.guest()["ops"] - since) + OWN_PAGES)
            since = before_sync
            source.monitor("cont")

    def test_a_switchover_is_rehearsed_once(self):
        source = self.source()
        parameters = source.engine.parameters
        source.engine.dirty_sync(1)
        took = parameters.pop("vmm-switchover")
        self.assertRegex(took, r"^[1-9][0-9]*us$")
        source.wait_ops(10)
        source.engine.dirty_sync(2)
        self.assertEqual(parameters, {})
        # A guest that does not run has nothing to be stopped from.
        source.engine.event("MIGRATION", status="cancelled", session=SESSION)
        source.monitor("stop")
        source.engine.dirty_sync(3)
        self.assertEqual(parameters, {})

    def test_cancelled_before_switchover(self):
        source = self.source()
        source.engine.dirty_sync(1)
        self.assertTrue(source.status()["tracking-on"])
        source.engine.event("MIGRATION", status="cancelled", session=SESSION)
        wait_until("tracking ends", lambda: not source.status()["tracking-on"])
        self.check_well(source)

    def test_failed_in_switchover(self):
        source = self.source()
        to_switchover(source)
        self.assertEqual(source.state(), "finish-migrate")
        self.assertTrue(source.stands())
        source.engine.event("MIGRATION", status="failed", session=SESSION)
        source.wait_state("running")
        self.check_well(source)

    def test_engine_dies_in_switchover(self):
        source = self.source()
        to_switchover(source)
        source.engine.die()
        self.check_runs(source)  # at once, whenever the next engine comes
        source.new_engine()
        source.wait_state("running")
        self.check_well(source)
        move(source, self.target())

    def test_engine_dies_with_the_device_half_read(self):
        source = self.source()
        engine = source.engine
        engine.dirty_sync(1)
        engine.event("SWITCHOVER_READY", session=SESSION)
        os.close(engine.device_fd())
        engine.die()
        source.new_engine()
        source.wait_state("running")
        self.check_well(source)

    def test_engine_refuses_the_commit(self):
        source = self.source()
        to_switchover(source)
        source.engine.event("SWITCHOVER_COMMIT", session=SESSION)
        source.engine.refuse(source.engine.wait_for("migrate-continue"))
        source.engine.expect("migrate_cancel")
        source.wait_state("running")
        self.check_well(source)

    def given_away(self, decision_after):
        """The engine dies after the acknowledgement; the next ones answer as listed."""
        source = self.source()
        to_switchover(source)
        commit(source)
        self.assertEqual(source.state(), "given-away")
        source.engine.die()
        engine = Engine(source.listener)
        source.engine = engine
        for status in decision_after:
            message = engine.wait_for("query-session")
            self.assertEqual(message["arguments"], {"session": SESSION})
            engine.reply(message, {"status": status})
            if status not in ("aborted", "committed"):
                self.assertEqual(source.state(), "in-doubt")
                self.assertFalse(source.status()["running"])
                self.assertIn("error", source.monitor.ask("cont"))
                self.assertIn("error", source.monitor.ask("quit"))
        return source

    def test_given_away_then_aborted(self):
        source = self.given_away(["active", "in-doubt", "none", "aborted"])
        source.wait_state("running")
        self.check_well(source)

    def test_given_away_then_committed(self):
        source = self.given_away(["in-doubt", "committed"])
        source.wait_state("postmigrate")
        self.assertTrue(source.stands())
        self.assertIn("error", source.monitor.ask("cont"))

    def test_given_away_then_the_next_engine_dies_too(self):
        source = self.given_away(["in-doubt"])
        source.engine.die()
        engine = Engine(source.listener)
        source.engine = engine
        engine.expect("query-session", {"status": "committed"})
        source.wait_state("postmigrate")

    def test_engine_dies_in_the_acknowledgement(self):
        source = self.source()
        to_switchover(source)
        source.engine.event("SWITCHOVER_COMMIT", session=SESSION)
        source.engine.wait_for("migrate-continue")
        source.engine.die()  # it may have recorded it, or not
        engine = Engine(source.listener)
        source.engine = engine
        message = engine.wait_for("query-session")
        self.check_halted(source)
        engine.reply(message, {"status": "aborted"})
        source.wait_state("running")
        self.check_well(source)

    def test_failed_after_the_acknowledgement_is_not_enough(self):
        source = self.source()
        to_switchover(source)
        commit(source)
        source.engine.event("MIGRATION", status="failed", session=SESSION)
        message = source.engine.wait_for("query-session")
        self.check_halted(source)
        source.engine.reply(message, {"status": "aborted"})
        source.wait_state("running")
        self.check_well(source)

    def test_commit_out_of_order(self):
        source = self.source()
        source.engine.event("SWITCHOVER_COMMIT", session=SESSION)
        source.engine.expect("migrate_cancel")
        self.check_well(source)

    def test_idle_engine_is_replaced(self):
        source = self.source()
        for _ in range(3):
            source.engine.die()
            source.new_engine()
            self.check_well(source)
        self.assertEqual(source.status()["engine"]["launches"], 4)


class Target(Case):
    def test_damaged_state_is_refused(self):
        source, target = self.source(), self.target()
        blob = bytearray(to_switchover(source))
        blob[len(blob) // 2] ^= 1
        target.engine.event("DEVICE_OPEN", device="vcpus", session=SESSION)
        write_and_close(target.engine.device_fd(), bytes(blob))
        target.engine.expect("migrate_cancel")
        self.assertEqual(target.state(), "inmigrate")
        self.assertIn("damaged", target.read_log())
        source.engine.event("MIGRATION", status="failed", session=SESSION)
        source.wait_state("running")
        self.check_well(source)

    def test_unknown_device_is_refused(self):
        target = self.target()
        target.engine.event("DEVICE_OPEN", device="disk", session=SESSION)
        target.engine.expect("migrate_cancel")
        self.assertEqual(target.state(), "inmigrate")

    def test_half_a_state_then_a_whole_one(self):
        source, target = self.source(), self.target()
        blob = to_switchover(source)
        target.engine.event("DEVICE_OPEN", device="vcpus", session=SESSION)
        fd = target.engine.device_fd()
        os.write(fd, blob[:100])
        target.engine.event("MIGRATION", status="failed", session=SESSION)
        os.close(fd)
        source.engine.event("MIGRATION", status="failed", session=SESSION)
        source.wait_state("running")
        move(source, target)
        target.wait_state("running")
        self.check_well(target)

    def test_loaded_then_failed(self):
        source, target = self.source(), self.target()
        load(target, to_switchover(source))
        target.engine.event("MIGRATION", status="failed", session=SESSION)
        source.engine.event("MIGRATION", status="failed", session=SESSION)
        source.wait_state("running")
        self.assertEqual(target.state(), "inmigrate")
        move(source, target)
        target.wait_state("running")
        self.check_well(target)

    def loaded_and_engine_lost(self, status):
        source, target = self.source(), self.target()
        source.engine.dirty_sync(1)
        copy_all(source.engine, target.engine)
        source.engine.event("SWITCHOVER_READY", session=SESSION)
        blob_fd = source.engine.device_fd()
        source.engine.expect("migrate-continue")
        source.engine.dirty_sync(2)
        copy_dirty(source.engine, target.engine)
        load(target, read_to_end(blob_fd))
        target.engine.die()
        target.engine = Engine(target.listener)
        message = target.engine.wait_for("query-session")
        self.check_halted(target)
        if status == "committed":
            commit(source)
        target.engine.reply(message, {"status": status})
        return source, target

    def test_engine_lost_and_committed(self):
        _, target = self.loaded_and_engine_lost("committed")
        target.wait_state("running")
        self.check_well(target)

    def test_engine_lost_and_nothing_recorded(self):
        source, target = self.loaded_and_engine_lost("none")
        time.sleep(0.1)
        self.assertEqual(target.state(), "inmigrate")
        source.engine.event("MIGRATION", status="failed", session=SESSION)
        source.wait_state("running")
        self.check_well(source)

    def test_memory_stays_untouched_until_a_guest_comes(self):
        target = self.target()
        time.sleep(0.1)
        for region in target.monitor("query-memory"):
            path = f"/proc/{region['pid']}/fd/{region['fd']}"
            self.assertEqual(os.stat(path).st_blocks, 0)
        self.assertIn("error", target.monitor.ask("query-guest"))


class Options(unittest.TestCase):
    def run_refvm(self, *options):
        return subprocess.run([Vmm.REFVM, *options], capture_output=True, text=True,
                              timeout=PATIENCE_S, check=False)

    def test_help(self):
        result = self.run_refvm("--help")
        self.assertEqual(result.returncode, 0)
        self.assertIn("--engine-arg", result.stdout)

    def test_wrong(self):
        for options, word in ((["--rma=1G"], "ram"), (["--ram"], "needs a value"),
                              (["ram=1G"], "hyphens"), (["--ram=1K"], "16M"),
                              (["--ring-entries=3000"], "power of two"),
                              (["--pattern=zigzag"], "hotset")):
            result = self.run_refvm(*options)
            self.assertEqual(result.returncode, 2)
            self.assertIn(word, result.stderr)

    def test_failing(self):
        for options, word in ((["--engine=/nonexistent/sluiced"], "/nonexistent/sluiced"),
                              (["--ram=512G"], "255G"),
                              (["--accel=thread", "--tracking=ring"], "uffd"),
                              (["--engine=none", "--monitor=/nonexistent/m"], "/nonexistent/m"),
                              (["--engine=none", "--witness=/nonexistent/w"], "/nonexistent/w")):
            result = self.run_refvm("--ram=32M", *options)
            self.assertIn(result.returncode, (1, 2))
            self.assertIn(word, result.stderr)


class Witness(Case):
    """Engines that break the rule: the witness must see it."""

    def violated(self, vmm):
        self.assertEqual(vmm.process.wait(PATIENCE_S), 99)
        self.assertTrue(os.path.exists(self.folder + "/witness.violation"))

    def both_ready(self):
        source, target = self.source(), self.target()
        source.engine.dirty_sync(1)
        source.engine.event("SWITCHOVER_READY", session=SESSION)
        blob_fd = source.engine.device_fd()
        source.engine.expect("migrate-continue")
        copy_all(source.engine, target.engine)
        load(target, read_to_end(blob_fd))
        return source, target

    def test_target_runs_while_the_source_does(self):
        source, target = self.both_ready()
        source.engine.event("MIGRATION", status="failed", session=SESSION)
        source.wait_state("running")
        target.engine.event("MIGRATION", status="completed", session=SESSION)
        self.violated(target)

    def test_source_runs_while_the_target_does(self):
        source, target = self.both_ready()
        target.engine.event("MIGRATION", status="completed", session=SESSION)
        target.wait_state("running")
        source.engine.event("MIGRATION", status="failed", session=SESSION)
        self.violated(source)

    def test_source_runs_after_the_target_has(self):
        source, target = self.both_ready()
        target.engine.event("MIGRATION", status="completed", session=SESSION)
        target.wait_state("running")
        target.process.kill()
        target.process.wait(PATIENCE_S)
        source.engine.event("MIGRATION", status="failed", session=SESSION)
        self.violated(source)

    def test_a_killed_source_is_no_violation(self):
        source, target = self.both_ready()
        commit(source)
        source.process.kill()
        source.process.wait(PATIENCE_S)
        target.engine.event("MIGRATION", status="completed", session=SESSION)
        target.wait_state("running")
        self.check_well(target)


def main():
    Vmm.REFVM = os.path.abspath(sys.argv.pop(1))
    if "--accel" in sys.argv:
        at = sys.argv.index("--accel")
        Vmm.ACCEL = sys.argv[at + 1]
        del sys.argv[at:at + 2]
    if Vmm.ACCEL == "kvm" and not os.access("/dev/kvm", os.R_OK | os.W_OK):
        print("skipped: /dev/kvm cannot be opened", file=sys.stderr)
        sys.exit(SKIP)
    unittest.main(verbosity=2)


if __name__ == "__main__":
    main()
