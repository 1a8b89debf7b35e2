#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""refusals: what an engine refuses, and that it says why in words of use; and that it is idle.

Here the test itself is the VMM: it gives memory to engines that it started by hand.
"""

import contextlib
import json
import os
import signal
import socket
import stat
import struct
import time

import lab as lab_module
from hand import MIB, Engine, answer_source
from lab import ENDED, HAS_KVM, LabTest, migrate
from qmp import PATIENCE_S, Qmp, QmpError

IDLE_S = 2.0
IDLE_CPU_S = 0.008
IDLE_WINDOWS = 10


@contextlib.contextmanager
def silent_port():
    """A port where nobody listens, and where nobody else can meanwhile."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


class Refusals(LabTest):
    def engines(self, source_regions, target_regions):
        engines = Engine(self.lab, "source"), Engine(self.lab, "target")
        for engine, regions in zip(engines, (source_regions, target_regions)):
            for region in regions:
                engine.add_memory(*region)
        return engines

    def fails(self, source, uri):
        """Migrate; the reason why it failed."""
        source.vmm.command("migrate", uri=uri)
        end = source.vmm.wait_event("MIGRATION", PATIENCE_S, ENDED)
        self.assertEqual(end["status"], "failed", end)
        self.assertEqual(source.vmm.command("query-migrate")["error-desc"], end["error-desc"])
        print(f"  {end['error-desc']}", flush=True)
        return end["error-desc"]

    def refused(self, words, connection, command, **arguments):
        with self.assertRaises(QmpError) as caught:
            connection.command(command, **arguments)
        print(f"  {caught.exception}", flush=True)
        for word in words:
            self.assertIn(word, str(caught.exception))

    def check_mismatch(self, source_regions, target_regions, words):
        source, target = self.engines(source_regions, target_regions)
        error = self.fails(source, target.incoming())
        for word in words:
            self.assertIn(word, error)

    def test_other_size(self):
        self.check_mismatch([("low", 8 * MIB)], [("low", 4 * MIB)],
                            ["low", str(8 * MIB), str(4 * MIB)])

    def test_other_id(self):
        self.check_mismatch([("low", 8 * MIB)], [("base", 8 * MIB)], ["low", "base"])

    def test_other_place(self):
        self.check_mismatch([("low", 8 * MIB)], [("low", 8 * MIB, 16 * MIB)],
                            ["low", hex(16 * MIB)])

    def test_missing_region(self):
        self.check_mismatch([("low", 8 * MIB), ("high", 4 * MIB, 16 * MIB)], [("low", 8 * MIB)],
                            ["2", "1", "regions"])

    def test_nobody_listens(self):
        source = Engine(self.lab, "source")
        source.add_memory("low", 8 * MIB)
        with silent_port() as port:
            error = self.fails(source, f"tcp:127.0.0.1:{port}")
        self.assertIn("cannot be reached", error)
        self.assertIn("refused", error)
        for uri in ("tcp:127.0.0.1", "rdma:127.0.0.1:1", "tcp:127.0.0.1:99999", "nonsense"):
            with self.assertRaises(QmpError) as caught:
                source.vmm.command("migrate", uri=uri)
            print(f"  {caught.exception}", flush=True)

    def test_no_memory_no_feed(self):
        source = Engine(self.lab, "source")
        uri = "tcp:127.0.0.1:1"
        self.refused(["memory"], source.vmm, "migrate", uri=uri)
        self.refused(["memory"], source.vmm, "migrate-incoming", uri="tcp:127.0.0.1:0")
        source.add_memory("low", 8 * MIB, 0, False)
        self.refused(["low", "feed"], source.vmm, "migrate", uri=uri)

    def test_second_migrate(self):
        """Nobody answers DIRTY_SYNC, so the first one runs until it is cancelled."""
        source, target = self.engines([("low", 8 * MIB)], [("low", 8 * MIB)])
        uri = target.incoming()
        source.vmm.command("migrate", uri=uri)
        source.vmm.wait_event("DIRTY_SYNC")
        self.refused(["is running"], source.vmm, "migrate", uri=uri)
        self.refused(["is running"], source.vmm, "migrate-incoming", uri="tcp:127.0.0.1:0")
        self.refused(["is running"], source.vmm, "quit")
        third = Engine(self.lab, "third")
        third.add_memory("low", 8 * MIB)
        self.assertIn("is running", self.fails(third, uri))
        source.vmm.command("migrate_cancel")
        source.vmm.wait_event("MIGRATION", PATIENCE_S, ("cancelled",))
        self.refused(["no migration"], source.vmm, "migrate_cancel")

    def test_memory_once_the_guest_stops(self):
        """Then the source's memory stays as it is; the target's is the source's to change."""
        source, target = self.engines([("low", 8 * MIB)], [("low", 8 * MIB)])
        source.vmm.command("migrate", uri=target.incoming())
        answer_source(source, until="SWITCHOVER_READY")
        self.refused(["being stopped", "migrate_cancel"], source.vmm, "memory-remove", id="low")
        self.refused(["source's guest has region"], target.vmm, "memory-remove", id="low")
        with self.assertRaises(QmpError) as caught:
            source.add_memory("more", 8 * MIB, 1 << 32)
        self.assertIn("being stopped", str(caught.exception))
        target.add_memory("spare", 8 * MIB, 1 << 32)  # no harm in that
        source.vmm.command("migrate-continue", state="pre-switchover")
        self.assertEqual(answer_source(source)["status"], "completed")

    def test_second_vmm(self):
        engine = Engine(self.lab, "engine")
        engine.add_memory("low", 8 * MIB)
        with Qmp(engine.path) as second:
            self.refused(["VMM"], second, "memory-remove", id="low")
            self.refused(["VMM"], second, "dirty-sync-done", id=1)
            self.assertEqual(second.command("query-memory")[0]["id"], "low")
        self.assertEqual(engine.vmm.command("query-memory")[0]["id"], "low")

    def leave_at_once(self, engine, peer, *messages):
        """Say something and reset, so that the engine hears it and its answer fails."""
        engine.process.signal(signal.SIGSTOP)
        for message in messages:
            peer.sendall(json.dumps(message).encode() + b"\n")
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.close()
        engine.process.signal(signal.SIGCONT)

    def test_source_of_a_rude_target(self):
        """The answer to its nonsense cannot be sent: the session fails once, for one reason."""
        source = Engine(self.lab, "source")
        source.add_memory("low", 8 * MIB)
        with socket.create_server(("127.0.0.1", 0)) as server:
            source.vmm.command("migrate", uri=f"tcp:127.0.0.1:{server.getsockname()[1]}")
            peer, _ = server.accept()
            self.assertEqual(json.loads(peer.makefile().readline())["type"], "hello")
            self.leave_at_once(source, peer, {"type": "refuse", "error": "not today"})
        end = source.vmm.wait_event("MIGRATION", PATIENCE_S, ENDED)
        self.assertEqual(end["error-desc"], "the target refused: not today")
        self.assertEqual(source.vmm.command("query-status")["status"], "ended")

    def test_target_of_a_rude_source(self):
        target = Engine(self.lab, "target")
        target.add_memory("low", 8 * MIB)
        port = int(target.incoming().rsplit(":", 1)[1])
        hello = {"type": "hello", "protocol": 1, "version": "0", "features": [],
                 "session": "5" * 32, "instance": "1" * 32, "transports": ["tcp"], "lanes": 1,
                 "regions": [{"id": "low", "gpa": 0, "size": 8 * MIB, "page-size": 4096}]}
        peer = socket.create_connection(("127.0.0.1", port))
        peer.sendall(json.dumps(hello).encode() + b"\n")
        rail = json.loads(peer.makefile().readline())
        self.assertEqual(rail["type"], "rail", rail)
        self.leave_at_once(target, peer, {"type": "finish", "devices": 5})
        end = target.vmm.wait_event("MIGRATION", PATIENCE_S, ENDED)
        self.assertIn("finished 5 devices", end["error-desc"])
        self.assertEqual(target.vmm.command("query-session", session="5" * 32)["status"], "aborted")

    def test_socket_mode(self):
        engine = Engine(self.lab, "engine")
        mode = os.lstat(engine.path)
        self.assertTrue(stat.S_ISSOCK(mode.st_mode))
        self.assertEqual(stat.S_IMODE(mode.st_mode), 0o600)

    def test_idle(self):
        """With memory; waiting for a source; after a migration, on both sides."""
        fresh, waiting = self.engines([("low", 8 * MIB)], [("low", 8 * MIB)])
        waiting.incoming()
        processes = {"fresh": fresh.process, "incoming": waiting.process}
        if HAS_KVM:
            here = self.lab.host("here", ram="64M", pattern="idle")
            there = self.lab.host("there", ram="64M", incoming="yes")
            here.wait_ready()
            migrate(here, there)
            processes.update({"after, source": here.engine, "after, target": there.engine})
        for name, process in processes.items():
            self.assertGreater(process.cpu_s(), 0, "the clock shows nothing")
            self.check_idle(name, process)

    def check_idle(self, name, process):
        """A window without work comes, if perhaps late: what it does at first has to end, and a
        busy machine charges some of its own time to whoever runs."""
        for _ in range(IDLE_WINDOWS):
            used_s = -process.cpu_s()
            time.sleep(IDLE_S)
            used_s += process.cpu_s()
            print(f"  {name}: {used_s * 1000:.2f} ms CPU in {IDLE_S} s", flush=True)
            if used_s < IDLE_CPU_S:
                return
        self.fail(f"{name}: never idle")


if __name__ == "__main__":
    lab_module.main("sluiced")
