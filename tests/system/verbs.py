#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""verbs: what only lanes over RDMA can get wrong: pins that a user may not have, pages that are
discarded under a registration, a wire that goes dead.

Needs the two ends of a cable that scripts/rxe-setup makes; scripts/lab has them.
"""

import collections
import contextlib
import mmap
import os
import re
import socket
import subprocess
import time
import types

import lab as lab_module
from hand import MIB, PAGE, Engine, answer_source, engine_of_nobody, memfd, migrate_by_hand
from lab import ENDED, PATIENT, LabTest, guest, lane_settings, migrate, wait_until
from network import dead_wires
from qmp import PATIENCE_S, QmpError

HUGE = 2 * MIB
MEMLOCK = 8 * MIB
LARGE = 320 * MIB  # more than the spare part of a memlock limit
REMOVAL_S = 20
GONE_S = 4
LOOK_S = 1  # how often an engine looks whether a device is back, at first
ETH_P_ALL = 3
ROCE_V2_PORT = 4791


class Memlock(LabTest):
    def engine(self, name, memlock, end, **settings):
        return engine_of_nobody(self, name, memlock, **PATIENT, **lane_settings(end), **settings)[0]

    def add(self, vmm, size):
        with memfd(size) as fd:
            vmm.command("getfd", fd=fd, fdname="ram")
            vmm.command("memory-add", id="ram", fdname="ram", size=size, gpa=0)

    def named(self, refusal):
        """The limit that a refusal names, in bytes."""
        named = re.search(r"limit to (\d+) KiB|ulimit -l (\d+)", str(refusal))
        self.assertIsNotNone(named, refusal)
        needed = int(named.group(1) or named.group(2)) * 1024
        self.assertGreater(needed, MEMLOCK)
        return needed

    def test_the_number_that_it_names(self):
        """Too little, and the number in the refusal is enough: for a migration, too."""
        size = 32 * MIB
        low = self.engine("low", MEMLOCK, 0)
        check = {c["name"]: c for c in low.command("preflight")["checks"]}["memlock"]
        with self.assertRaises(QmpError) as caught:
            self.add(low, size)
        text = str(caught.exception)
        print(f"  {text}\n  preflight: {check}", flush=True)
        needed = self.named(text)
        source, target = (self.engine(f"enough-{end}", needed, end) for end in range(2))
        for vmm in (source, target):
            self.add(vmm, size)
        with memfd(PAGE) as fd:
            source.command("getfd", fd=fd, fdname="dirty")
        source.command("feed-add", region="ram", type="bitmap", fdname="dirty")
        source.command("migrate", uri=target.command("migrate-incoming", uri="tcp:127.0.0.1:0")["uri"])
        answer_source(types.SimpleNamespace(name="source", vmm=source), until="SWITCHOVER_READY")

    def test_discards_at_the_limit(self):
        """All of the memory, in small pieces and in one; more than what is spare beside the guest."""
        for pieces in ("2M", "512M"):
            settings = {"rdma.registration-size": pieces}
            vmm = self.engine(f"low-{pieces}", MEMLOCK, 0, **settings)
            with self.assertRaises(QmpError) as caught:
                self.add(vmm, LARGE)
            needed = self.named(caught.exception)
            vmm = self.engine(f"enough-{pieces}", needed, 0, **settings)
            self.add(vmm, LARGE)
            for offset, size in ((0, PAGE), (0, LARGE)):
                vmm.command("memory-discard", id="ram", offset=offset, size=size)
            check = {c["name"]: c for c in vmm.command("preflight")["checks"]}["memlock"]
            print(f"  in pieces of {pieces}: {check}", flush=True)
            self.assertEqual(check["result"], "ok")


class Auto(LabTest):
    def test_why_there_is_no_tcp(self):
        """The last one that `auto` tries fails, and another one is there: the reason is kept."""
        settings = {"transport": "auto", "rail": "rdma=10.77.0.1,tcp=host7:0", "lane-security": "none"}
        engine = Engine(self.lab, "engine", **settings)
        reply = engine.vmm.command("query-placement")
        print(f"  {reply['lacks']}", flush=True)
        self.assertEqual([rail["transport"] for rail in reply["rails"]], ["rdma"])
        self.assertEqual([lack["transport"] for lack in reply["lacks"]], ["tcp"])
        self.assertIn("host7", reply["lacks"][0]["reason"])


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

    def pinned_mib(self, engine):
        with open(f"/proc/{engine.process.pid}/status", encoding="ascii") as status:
            return int(re.search(r"VmPin:\s+(\d+)", status.read()).group(1)) // 1024

    def test_while_paused(self):
        """However long a pause lasts: a piece that is registered anew is not pinned twice."""
        size = 192 * MIB
        source, target = (Engine(self.lab, name, lanes=2) for name in ("source", "target"))
        for engine in (source, target):
            engine.add_memory("ram", size, fill=ord("x"))
        source.vmm.command("migrate", uri=target.incoming())
        sync = answer_source(source, until="DIRTY_SYNC")
        source.vmm.command("dirty-sync-done", id=sync["id"])
        wait_until("pages move", lambda: source.vmm.command("query-migrate")["ram"]["transferred"] > 0)
        before = self.pinned_mib(source)
        source.vmm.command("migrate-pause")
        for page in range(8):
            self.discard(source, page * PAGE, PAGE)
        after = self.pinned_mib(source)
        print(f"  pinned: {before} MiB, behind 8 discards {after} MiB", flush=True)
        self.assertGreater(before, size // MIB)
        self.assertLessEqual(after, before)
        source.vmm.command("migrate-recover")
        self.assertEqual(answer_source(source)["status"], "completed")
        self.assertEqual(target.regions["ram"][:], source.regions["ram"][:])


class Packets(LabTest):
    """What is set for the packets is in them, both ways."""

    def tos_of_packets(self, traffic_class):
        """The second byte of the IPv4 headers of RoCE v2 packets that the cable carried."""
        source, target = (Engine(self.lab, f"{name}{traffic_class}", **{"rdma.traffic-class": traffic_class})
                          for name in ("source", "target"))
        for engine in (source, target):
            engine.add_memory("ram", MIB, fill=ord("x"))
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL)) as wire:
            wire.bind(("rail0a", 0))
            wire.settimeout(1)
            migrate_by_hand(source, target)
            seen = collections.Counter()
            with contextlib.suppress(socket.timeout):
                while True:
                    frame = wire.recv(128)
                    is_roce = frame[12:14] == b"\x08\0" and frame[23] == socket.IPPROTO_UDP \
                        and int.from_bytes(frame[36:38], "big") == ROCE_V2_PORT
                    if is_roce:
                        seen[socket.inet_ntoa(frame[26:30]), frame[15]] += 1
        print(f"  traffic class {traffic_class}: {dict(seen)}", flush=True)
        self.assertEqual({host for host, _ in seen}, {"10.77.0.1", "10.77.0.2"})
        return {tos for _, tos in seen}

    def test_traffic_class(self):
        for traffic_class in (0, 104):
            self.assertEqual(self.tos_of_packets(traffic_class), {traffic_class})


class Devices(LabTest):
    """What removes RDMA devices, and brings them back."""

    def rdma(self, *arguments):
        """Not waited for longer: a removal that an engine holds up cannot even be killed."""
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


class Return(Devices):
    """A device comes back to an engine with a large guest."""

    def error(self, vmm):
        return vmm.command("query-placement")["rails"][0].get("error", "")

    def test_it_answers_meanwhile(self):
        """Memory is registered a little at a time: what else the engine does goes on."""
        engine = Engine(self.lab, "engine", **{"rdma.registration-size": "2M"})
        engine.add_memory("ram", LARGE)
        self.remove("rxe0a")
        engine.regions["ram"].madvise(mmap.MADV_REMOVE)  # so that registering takes its time
        self.bring_back("rxe0a")
        answers = [time.monotonic()]
        while self.error(engine.vmm) and time.monotonic() - answers[0] < PATIENCE_S:
            answers.append(time.monotonic())
        answers.append(time.monotonic())
        longest = max(b - a for a, b in zip(answers, answers[1:]))
        print(f"  {len(answers)} answers in {answers[-1] - answers[0]:.2f} s, the longest took "
              f"{longest:.2f} s", flush=True)
        self.assertEqual(self.error(engine.vmm), "")
        self.assertLess(longest, (answers[-1] - answers[0]) / 2)

    def limit(self, process, memlock):
        subprocess.run(["prlimit", "--pid", str(process.pid), f"--memlock={memlock}:"], check=True)

    def attempts(self, vmm, count):
        """When it registered something, seconds; what is closer together is one attempt."""
        times, last, begin = [], None, time.monotonic()
        while len(times) < count and time.monotonic() - begin < REMOVAL_S:
            reply, now = vmm.command("query-stats")["registered-bytes"], time.monotonic()
            if reply != last and (not times or now - times[-1] > LOOK_S / 2):
                times.append(now)
            last = reply
            time.sleep(LOOK_S / 20)
        return times

    def test_it_cannot_be_taken_back(self):
        """The reason is told; it is tried again and again, but less and less; then it works."""
        size = 64 * MIB
        vmm, process = engine_of_nobody(self, "engine", LARGE, pin="none", **PATIENT,
                                        **lane_settings(0), **{"rdma.registration-size": "2M"})
        with memfd(size) as fd:
            vmm.command("getfd", fd=fd, fdname="ram")
            vmm.command("memory-add", id="ram", fdname="ram", size=size, gpa=0)
        self.remove("rxe0a")
        self.limit(process, size)
        self.bring_back("rxe0a")
        wait_until("it says why", lambda: "memlock" in self.error(vmm), REMOVAL_S)
        print(f"  {self.error(vmm)}", flush=True)
        self.assertIn("device was removed", self.error(vmm))
        told = " ".join(check["text"] for check in vmm.command("preflight")["checks"])
        self.assertRegex(told, "has lost its device.*memlock")
        times = self.attempts(vmm, 4)[1:]  # the first is what was before
        waits = [b - a for a, b in zip(times, times[1:])]
        print(f"  tried again after {waits} s", flush=True)
        self.assertGreater(waits[1], 1.4 * waits[0])
        self.limit(process, LARGE)
        wait_until("it is taken back", lambda: not self.error(vmm), PATIENCE_S)


class Loss(Devices):
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

    def test_both_rails_die(self):
        """It pauses; with the wires back it goes on."""
        watch = self.begin(rails=2)
        with dead_wires(0, 1):
            self.wait_paused(watch)
        result = self.arrive(watch)
        self.assertGreaterEqual(result["pauses"], 1)

    # ---- devices that are taken away under lanes that use them ----

    def rails(self, host):
        return host.engine_command("query-placement")["rails"]

    def lose_a_device(self, device):
        """As if one of two NICs were pulled: the other rail carries on."""
        watch = self.begin(rails=2)
        self.remove(device)
        wait_until("its lane is lost", lambda: watch.command("query-migrate")["lanes-lost"] >= 1)
        lost = next(lane for lane in watch.command("query-lanes") if lane["state"] != "active")
        print(f"  {lost['why-lost']}", flush=True)
        self.assertEqual(self.arrive(watch)["pauses"], 0)

    def test_a_device_of_the_source_is_removed(self):
        self.lose_a_device("rxe1a")

    def test_a_device_of_the_target_is_removed(self):
        self.lose_a_device("rxe1b")

    def wait_lanes(self, watch):
        wait_until("all lanes are back", lambda: {lane["state"] for lane in watch.command("query-lanes")}
                   == {"active"})

    def lose_all_devices(self, here, *devices):
        """It waits, and goes on when they are back, also over another peer link; why it waited."""
        watch = self.begin(rails=2)
        here = here()
        for device in devices:
            self.remove(device)
        self.wait_paused(watch)
        for rail in self.rails(here):
            self.assertIn("device was removed", rail["error"])
        told = " ".join(check["text"] for check in here.engine_command("preflight")["checks"])
        self.assertIn("has lost its device", told)
        begin = self.source.ops()
        time.sleep(GONE_S)
        reply = watch.command("query-migrate")
        self.assertEqual(reply["status"], "paused")
        self.assertGreater(self.source.ops(), begin)
        for device in devices:
            self.bring_back(device)
        self.wait_lanes(watch)
        watch.command("migrate-pause")
        watch.command("migrate-recover")
        self.wait_lanes(watch)
        self.assertEqual(self.arrive(watch)["pauses"], 2)
        for rail in self.rails(here):
            self.assertNotIn("error", rail)
        return reply["pause-reason"]

    def test_all_devices_of_the_source_are_removed(self):
        reason = self.lose_all_devices(lambda: self.source, "rxe0a", "rxe1a")
        for word in ("10.77.0.1", "10.77.1.1", "device removed", "rxe"):
            self.assertIn(word, reason)

    def test_all_devices_of_the_target_are_removed(self):
        self.lose_all_devices(lambda: self.target, "rxe0b", "rxe1b")

    def test_a_device_is_back_while_paused(self):
        """Lanes that wait for the end of a pause hold nothing of it."""
        watch = self.begin(rails=1)
        watch.command("migrate-pause")
        self.remove("rxe0a")
        wait_until("its rail is gone", lambda: "error" in self.rails(self.source)[0])
        self.bring_back("rxe0a")
        wait_until("its rail is back", lambda: "error" not in self.rails(self.source)[0])
        self.assertEqual(watch.command("query-migrate")["status"], "paused")
        watch.command("migrate-recover")
        self.arrive(watch)

    def test_devices_of_idle_engines_are_removed(self):
        """No migration has been, and the memory's registrations would be in the way."""
        options = guest(vcpus=1, pattern="uniform", track_after_resume="yes")
        hosts = source, target = [self.lab.host(name, incoming="yes" if end else "no", **options)
                                  for end, name in enumerate(("source", "target"))]
        source.wait_ready()
        for device in ("rxe0a", "rxe0b"):
            self.remove(device)
            self.bring_back(device)
        for host in hosts:
            wait_until("its rail is back", lambda host=host: "error" not in self.rails(host)[0])
        migrate(source, target)
        target.verify_against(source)


if __name__ == "__main__":
    lab_module.main("refvm", "sluiced")
