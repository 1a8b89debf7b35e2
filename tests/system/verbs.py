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
import subprocess
import tempfile
import time
import types

import lab as lab_module
from hand import MIB, PAGE, Engine, answer_source, memfd, migrate_by_hand
from lab import ENDED, PATIENT, LabTest, guest, lane_settings, migrate, wait_until
from qmp import PATIENCE_S, QmpError

HUGE = 2 * MIB
NOBODY = 65534
MEMLOCK = 8 * MIB
DARK_S = 4
REMOVAL_S = 20
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


class Removal(LabTest):
    """Devices that are taken away under lanes that use them."""

    def rdma(self, *arguments):
        """Not waited for longer: a removal that the engine holds up cannot even be killed."""
        command = " ".join(("rdma", "link", *arguments))
        child = subprocess.Popen(command.split())  # pylint: disable=consider-using-with
        wait_until(command, lambda: child.poll() is not None, REMOVAL_S)
        self.assertEqual(child.returncode, 0, command)

    def bring_back(self, device):
        if not os.path.exists(f"/sys/class/infiniband/{device}"):
            self.rdma("add", device, "type", "rxe", "netdev", device.replace("rxe", "rail"))

    def remove(self, device):
        """The kernel lets go of it only when nobody uses it any more."""
        self.addCleanup(self.bring_back, device)
        begin = time.monotonic()
        self.rdma("delete", device)
        print(f"  {device} was gone after {time.monotonic() - begin:.1f} s", flush=True)

    def begin(self):
        """Two rails, and a migration under way that is too slow to end."""
        options = guest(vcpus=1, pattern="uniform", track_after_resume="yes")
        settings = {"lanes": 4, "rdma.path-timeout": "500ms", "downtime-limit": "1ms", "throttle": "no",
                    "max-bandwidth": "5M", "recover-pause": "100ms"}
        source, target = (self.lab.host(name, engine_set={**settings, "rail": rail}, **more, **options)
                          for name, rail, more in (("source", "10.77.0.1,10.77.1.1", {}),
                                                   ("target", "10.77.0.2,10.77.1.2", {"incoming": "yes"})))
        source.wait_ready()
        source.engine_command("migrate", uri=target.incoming())
        wait_until("pages move", lambda: self.query(source)["status"] == "active")
        return source, target

    def query(self, host):
        return host.engine_command("query-migrate")

    def arrive(self, source, target):
        with source.operator() as watch:
            watch.command("migrate-set-parameters", **{"downtime-limit": 60000, "max-bandwidth": 0})
        wait_until("it ends", lambda: self.query(source)["status"] in ENDED)
        result = self.query(source)
        self.assertEqual(result["status"], "completed", result)
        wait_until("the guest runs at the target", target.running)
        self.assertFalse(source.running(), "two guests run")
        pages = target.verify_against(source)
        target.check_alive()
        print(f"  {pages} pages compared; {result['lanes-lost']} lanes lost, {result['pauses']} pauses",
              flush=True)
        return result

    def one_of_two(self, device):
        source, target = self.begin()
        self.remove(device)
        wait_until("its lanes are lost", lambda: self.query(source)["lanes-lost"] >= 2)
        wait_until("one of them goes by the other rail", lambda: sum(
            lane["state"] == "active" for lane in source.engine_command("query-lanes")) == 3)
        lost = next(lane for lane in source.engine_command("query-lanes") if lane["state"] != "active")
        print(f"  {lost['why-lost']}", flush=True)
        self.assertEqual(self.arrive(source, target)["pauses"], 0)

    def both(self, *devices):
        """All rails of one host are gone: it waits, and goes on when they are back."""
        source, target = self.begin()
        for device in devices:
            self.remove(device)
        reply = wait_until("it pauses", lambda: self.query(source)["status"] == "paused" and
                           self.query(source))
        print(f"  {reply['pause-reason']}", flush=True)
        begin = source.ops()
        here = source if devices[0].endswith("a") else target
        for rail in here.engine_command("query-placement")["rails"]:
            self.assertIn("device was removed", rail["error"])
        told = " ".join(check["text"] for check in here.engine_command("preflight")["checks"])
        self.assertIn("has lost its device", told)
        time.sleep(DARK_S)
        self.assertEqual(self.query(source)["status"], "paused")
        self.assertGreater(source.ops(), begin)
        for device in devices:
            self.bring_back(device)
        wait_until("it goes on", lambda: self.query(source)["status"] == "active")
        wait_until("all lanes are back", lambda: sum(
            lane["state"] == "active" for lane in source.engine_command("query-lanes")) == 4)
        self.assertEqual(self.arrive(source, target)["pauses"], 1)
        for rail in here.engine_command("query-placement")["rails"]:
            self.assertNotIn("error", rail)
        return reply["pause-reason"]

    def test_both_at_the_source(self):
        reason = self.both("rxe0a", "rxe1a")
        for word in ("10.77.0.1", "10.77.1.1", "device removed", "rxe"):
            self.assertIn(word, reason)

    def test_both_at_the_target(self):
        self.both("rxe0b", "rxe1b")

    def test_idle(self):
        """No migration has been, and the memory's registrations are in the way."""
        options = guest(vcpus=1, pattern="uniform", track_after_resume="yes")
        source = self.lab.host("source", **options)
        target = self.lab.host("target", incoming="yes", **options)
        source.wait_ready()
        for device in ("rxe0a", "rxe0b"):
            self.remove(device)
            self.bring_back(device)
        for host in (source, target):
            wait_until("its rail is back", lambda host=host: "error" not in
                       host.engine_command("query-placement")["rails"][0])
        migrate(source, target)
        target.verify_against(source)

    def test_one_of_two_at_the_source(self):
        self.one_of_two("rxe1a")

    def test_one_of_two_at_the_target(self):
        self.one_of_two("rxe1b")


if __name__ == "__main__":
    lab_module.main("refvm", "sluiced")
