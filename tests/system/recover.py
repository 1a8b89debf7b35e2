#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""recover: lanes and peer links that are really cut, engines that stand still, and cancels.

Connections are destroyed in the kernel from outside (`ss -K`), so both ends get a reset at a moment
that neither knows. Lanes over RDMA have no such socket: their cables go dead instead. The guest writes faster than the migration may send, so it does not converge;
when a test has done its cutting it lifts the limits. Then the guest has to arrive with each page as
it was at the source.
"""

import contextlib
import os
import random
import re
import signal
import socket
import subprocess
import time

import lab as lab_module
from lab import ENDED, IN_LAB, OVER_RDMA, LabTest, guest, lane_settings, migrate, wait_until
from network import dead_wires

MIB = 1 << 20
RAM = os.environ.get("SLUICE_RECOVER_RAM", "256M")
CUTS = int(os.environ.get("SLUICE_CUTS", "4" if OVER_RDMA else "12"))
CUT_PAUSE_S = 0.2
DARK_S = float(os.environ.get("SLUICE_DARK_S", "2"))
LANES = 4
RAILS = 2  # over RDMA
OPTIONS = guest(ram=RAM, vcpus=2, regions=2, accel="kvm", pattern="uniform", rate=0,
                track_after_resume="yes")
ENGINE = {"lanes": LANES, "memory-budget": "4M", "downtime-limit": "1ms", "throttle": "no",
          "max-bandwidth": "5M" if IN_LAB else "50M"}
if OVER_RDMA:
    ENGINE["rdma.path-timeout"] = "500ms"
LIFTED = {"downtime-limit": 60000, "max-bandwidth": 0}


def free_port():
    """One that the kernel gives to nobody by itself."""
    for port in random.sample(range(20000, 32000), 100):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise AssertionError("no free port")


def ss(*arguments):
    return subprocess.run(["ss", "-Htn", *arguments], check=True, capture_output=True,
                          text=True, timeout=60).stdout


def sources(port):
    """Local ports of the connections to a port."""
    lines = ss("state", "established", f"dport = :{port}").splitlines()
    return [int(re.split(r"\s+", line.strip())[2].rsplit(":", 1)[1]) for line in lines]


def cut(port, source=None):
    """Destroy the connections to a port, or one of them."""
    ss("-K", f"dport = :{port}" + (f" and sport = :{source}" if source else ""))


def need_cutting():
    """The kernel must destroy sockets when root says so."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        with socket.create_connection(server.getsockname()):
            accepted, _ = server.accept()
            try:
                cut(server.getsockname()[1])
            except (OSError, subprocess.SubprocessError) as error:
                lab_module.skip(f"ss -K does not run: {error}")
            accepted.settimeout(2)
            try:
                accepted.recv(1)
                lab_module.skip("the kernel does not destroy sockets (CONFIG_INET_DIAG_DESTROY, root)")
            except ConnectionResetError:
                accepted.close()
            except TimeoutError:
                lab_module.skip("the kernel does not destroy sockets (CONFIG_INET_DIAG_DESTROY, root)")


class RecoverTest(LabTest):
    """A source whose guest works, a target that waits, and what to ask of them."""

    def start_hosts(self, both, source, target):
        witness = os.path.join(self.lab.folder, "witness")
        self.source = self.lab.host("source", witness=witness, netns=source.pop("netns", None),
                                    engine_set={**ENGINE, **both, **source}, **OPTIONS)
        self.target = self.lab.host("target", witness=witness, incoming="yes",
                                    netns=target.pop("netns", None),
                                    engine_set={**ENGINE, **both, **target}, **OPTIONS)
        self.source.wait_ready()

    def hosts(self, **engine_set):
        """On loopback; lanes connect to self.rail, or are on two cables."""
        if OVER_RDMA:
            self.start_hosts(engine_set, lane_settings(0, RAILS), lane_settings(1, RAILS))
            return
        self.rail = free_port()
        self.start_hosts(engine_set, {}, {"rail": f"127.0.0.1:{self.rail}"})

    def begin(self, watch, uri="tcp:127.0.0.1:0"):
        """Migrate until pages move."""
        uri = self.target.engine_command("migrate-incoming", uri=uri)["uri"]
        self.link = int(uri.rsplit(":", 1)[1])
        watch.command("migrate", uri=uri)
        watch.wait_event("MIGRATION", status=("active",))

    # ---- cutting lanes ----

    def lose_a_lane(self):
        """One of those that stand; over RDMA all of one cable."""
        if OVER_RDMA:
            lost = self.query()["lanes-lost"]
            with dead_wires(self.lab.random.randrange(RAILS)):
                wait_until("a lane is lost", lambda: self.query()["lanes-lost"] > lost)
            return
        standing = wait_until("a lane stands", self.standing)
        cut(self.rail, self.lab.random.choice(standing))

    @contextlib.contextmanager
    def lanes_cut(self):
        """All of them; over RDMA for as long as it takes."""
        if OVER_RDMA:
            with dead_wires(*range(RAILS)):
                yield
        else:
            cut(self.rail)
            yield

    def query(self):
        return self.source.engine_command("query-migrate")

    def standing(self):
        """Local ports of the lanes that stand, while the migration goes on."""
        status = self.query()["status"]
        self.assertNotIn(status, ENDED, self.query())
        return sources(self.rail)

    def works(self, host, what="the guest works"):
        begin = host.ops()
        wait_until(what, lambda: host.ops() > begin)

    def verify(self):
        regions = self.source.monitor.command("query-memory")
        result = self.target.monitor.command("verify", source_pid=self.source.vmm.pid, regions=[
            {"id": region["id"], "fd": region["fd"], "offset": region["offset"]}
            for region in regions])
        self.assertEqual(result["mismatched_pages"], 0, result)
        self.assertGreater(result["pages_compared"], 0, result)

    def arrive(self, watch):
        """Nothing more is cut: the guest arrives, whole. Returns query-migrate of the source."""
        watch.command("migrate-set-parameters", **LIFTED)
        end = watch.wait_event("MIGRATION", status=ENDED)
        result = watch.command("query-migrate")
        self.assertEqual(end["status"], "completed", result)
        wait_until("the guest runs at the target", self.target.running)
        self.assertFalse(self.source.running(), "two guests run")
        self.verify()
        self.target.check_alive()
        self.assertEqual(self.lab.violations(), [])
        self.check_resent(result)
        return result

    def check_resent(self, result):
        """What is sent again is what was in flight: a window for each connection lost."""
        lanes = self.source.engine_command("query-lanes")
        bound = sum(lane["losses"] * lane["window-bytes"] for lane in lanes)
        pages = sum(lane["pages-sent"] for lane in lanes)
        print(f"  {result['total-time']} ms, {result['ram']['transferred'] / MIB:.0f} MiB placed, "
              f"{pages} pages; lost {result['lanes-lost']} lanes, reopened "
              f"{result['lanes-reopened']}; {result['pauses']} pauses, "
              f"{result['paused-time']} ms; sent again {result['bytes-resent'] / MIB:.2f} MiB "
              f"of at most {bound / MIB:.2f} MiB in flight", flush=True)
        self.assertLessEqual(result["bytes-resent"], bound)

    def stays(self, status="cancelled"):
        """The migration is over, the guest works at the source and can be moved after all."""
        self.source.check_alive()
        self.assertEqual(self.query()["status"], status)
        wait_until("writes are no longer tracked",
                   lambda: not self.source.status()["tracking-on"])
        wait_until("the target gives up", lambda: self.target.engine_command("query-migrate")
                   ["status"] == "failed")
        self.assertFalse(self.target.running(), "two guests run")
        migrate(self.source, self.target, **LIFTED)
        self.target.check_alive()

    def paused(self, watch):
        return watch.wait_event("MIGRATION", status=("paused",))


class Recover(RecoverTest):
    # ---- lanes ----

    def test_a_lane_cut_again_and_again(self):
        self.hosts()
        with self.source.operator() as watch:
            self.begin(watch)
            for _ in range(CUTS):
                self.lose_a_lane()
                time.sleep(CUT_PAUSE_S)
            result = self.arrive(watch)
        self.assertGreaterEqual(result["lanes-lost"], CUTS)
        self.assertGreater(result["lanes-reopened"], 0)

    def test_all_lanes_cut_for_a_while(self):
        """Paused, the guest works on; when lanes can be had again, it moves."""
        self.hosts()
        with self.source.operator() as watch:
            self.begin(watch)
            begin, until = self.source.ops(), time.monotonic() + DARK_S
            while time.monotonic() < until:
                with self.lanes_cut():
                    time.sleep(DARK_S if OVER_RDMA else 0.01)
            self.assertIn("lanes were lost", self.paused(watch)["reason"])
            self.assertGreater(self.source.ops(), begin)
            result = self.arrive(watch)
        self.assertGreaterEqual(result["pauses"], 1)
        self.assertGreaterEqual(result["lanes-lost"], LANES)

    # ---- the peer link ----

    def test_the_peer_link_cut(self):
        """With lanes that live, and together with all lanes."""
        self.hosts()
        with self.source.operator() as watch:
            self.begin(watch)
            for number in range(4):
                with contextlib.ExitStack() as held:
                    cut(self.link)
                    if number % 2 == 1:
                        held.enter_context(self.lanes_cut())
                    self.assertIn("peer link was lost", self.paused(watch)["reason"])
                watch.wait_event("MIGRATION", status=("active",))
                self.assertEqual(self.target.engine_command("query-migrate")["status"], "active")
                self.works(self.source)
            result = self.arrive(watch)
        self.assertGreaterEqual(result["pauses"], 4)

    def test_the_target_stands_still(self):
        """Nothing is reset; only silence tells. Lanes and link come back with the target."""
        self.hosts(**{"peer-timeout": "2s", "lane-timeout": "1s"})
        with self.source.operator() as watch:
            self.begin(watch)
            self.target.engine.signal(signal.SIGSTOP)
            while "silent" not in self.paused(watch)["reason"]:
                pass  # lanes may count as lost before
            self.works(self.source, "the guest works while the target stands still")
            self.target.engine.signal(signal.SIGCONT)
            watch.wait_event("MIGRATION", status=("active",))
            self.arrive(watch)

    def test_the_target_engine_dies(self):
        """A few refused connections later it is known that nobody will ever resume."""
        self.hosts()
        with self.source.operator() as watch:
            self.begin(watch)
            self.target.engine.signal(signal.SIGKILL)
            end = watch.wait_event("MIGRATION", status=ENDED)
        self.assertEqual(end["status"], "failed")
        self.assertIn("nobody listens", end["error-desc"])
        print(f"  {end['error-desc']}", flush=True)
        self.source.check_alive()
        wait_until("writes are no longer tracked",
                   lambda: not self.source.status()["tracking-on"])

    def test_the_source_engine_dies(self):
        """The target waits for a while, and gives up."""
        self.hosts(**{"recover-timeout": "500ms"})
        with self.source.operator() as watch, self.target.operator() as other:
            self.begin(watch)
            self.source.engine.signal(signal.SIGKILL)
            other.wait_event("MIGRATION", status=("paused",))
            end = other.wait_event("MIGRATION", status=ENDED)
        self.assertIn("recover-timeout", end["error-desc"])
        self.source.check_alive()

    # ---- operators ----

    def test_pause_and_recover(self):
        self.hosts()
        with self.source.operator() as watch:
            self.begin(watch)
            watch.command("migrate-pause")
            self.assertEqual(self.paused(watch)["reason"], "paused by migrate-pause")
            wait_until("the target knows", lambda: self.target.engine_command("query-migrate")
                       ["status"] == "paused")
            paused = watch.command("query-migrate")
            self.assertEqual(paused["status"], "paused")
            self.assertNotIn("retry-in", paused)
            self.works(self.source)
            self.assertEqual(watch.command("query-migrate")["ram"]["transferred"],
                             paused["ram"]["transferred"], "something moves")
            watch.command("migrate-recover")
            watch.wait_event("MIGRATION", status=("active",))
            self.arrive(watch)

    def test_a_pause_does_not_end_a_watch(self):
        """Piped into a file it ends by itself, but with the migration."""
        self.hosts()
        with self.source.operator() as watch:
            self.begin(watch)
            command = [lab_module.program("sluice"), "--socket", self.source.socket, "watch",
                       "--interval", "0.05"]
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as viewer:
                self.assertIn("active", viewer.stdout.readline())
                watch.command("migrate-pause")
                self.paused(watch)
                for _ in range(2):  # the second one is printed after it was seen
                    line = viewer.stdout.readline()
                    while line and not line.startswith("paused"):
                        line = viewer.stdout.readline()
                    self.assertTrue(line, "the watch ended while the migration was paused")
                watch.command("migrate-recover")
                self.arrive(watch)
                last = viewer.stdout.read().splitlines()[-1]
                self.assertTrue(last.startswith("completed"), last)
                self.assertEqual(viewer.wait(60), 0)

    def test_retries_have_a_limit(self):
        """Then it waits for an operator."""
        self.hosts(**{"recover-retries": 2, "recover-pause": "10ms", "peer-timeout": "1s"})
        with self.source.operator() as watch:
            self.begin(watch)
            self.target.engine.signal(signal.SIGSTOP)
            while "given up" not in self.paused(watch)["reason"]:
                pass
            self.assertNotIn("retry-in", watch.command("query-migrate"))
            self.target.engine.signal(signal.SIGCONT)
            self.works(self.source)
            watch.command("migrate-recover")
            watch.wait_event("MIGRATION", status=("active",))
            self.arrive(watch)

    def cancel_when(self, reach, **engine_set):
        """@reach brings it to where it is cancelled; what it puts into self.held ends then."""
        self.hosts(**engine_set)
        with self.source.operator() as watch, contextlib.ExitStack() as self.held:
            uri = self.target.incoming()
            self.link = int(uri.rsplit(":", 1)[1])
            reach(watch, uri)
            begin = time.monotonic()
            watch.command("migrate_cancel")
            watch.wait_event("MIGRATION", status=("cancelled",))
            print(f"  cancelled in {(time.monotonic() - begin) * 1000:.0f} ms", flush=True)
        self.target.engine.signal(signal.SIGCONT)
        self.stays()

    def test_cancel_paused_by_an_operator(self):
        def reach(watch, uri):
            watch.command("migrate", uri=uri)
            watch.wait_event("MIGRATION", status=("active",))
            watch.command("migrate-pause")
        self.cancel_when(reach)

    def test_cancel_without_lanes(self):
        def reach(watch, uri):
            watch.command("migrate", uri=uri)
            watch.wait_event("MIGRATION", status=("active",))
            self.held.enter_context(self.lanes_cut())
        self.cancel_when(reach)

    def test_cancel_of_a_silent_target(self):
        """The source is free at once; the target hears of it when it hears at all."""
        def reach(watch, uri):
            watch.command("migrate", uri=uri)
            watch.wait_event("MIGRATION", status=("active",))
            self.target.engine.signal(signal.SIGSTOP)
        self.cancel_when(reach)

    def test_cancel_of_a_target_found_silent(self):
        def reach(watch, uri):
            watch.command("migrate", uri=uri)
            watch.wait_event("MIGRATION", status=("active",))
            self.target.engine.signal(signal.SIGSTOP)
            self.paused(watch)
        self.cancel_when(reach, **{"peer-timeout": "1s"})

    def test_cancel_in_setup(self):
        """The target does not even answer hello."""
        def reach(watch, uri):
            self.target.engine.signal(signal.SIGSTOP)
            watch.command("migrate", uri=uri)
        self.hosts()
        with self.source.operator() as watch:
            reach(watch, self.target.incoming())
            watch.command("migrate_cancel")
            watch.wait_event("MIGRATION", status=("cancelled",))
        self.target.engine.signal(signal.SIGCONT)
        self.source.check_alive()
        wait_until("the target is free", lambda: self.target.engine_command("query-migrate")
                   ["status"] in ("none", "failed"))
        migrate(self.source, self.target, **LIFTED)
        self.target.check_alive()


class Network(RecoverTest):
    """Two network namespaces and a cable. Nothing is reset here: packets just do not arrive."""

    HOSTS = {"source": ["10.77.0.1"], "target": ["10.77.0.2", "10.77.0.3"]}  # link; target: rail

    def ip(self, host, *arguments):
        subprocess.run(["ip", "-n", self.names[host], *arguments], check=True, timeout=10)

    def setUp(self):
        if OVER_RDMA:
            self.skipTest("soft-RoCE works in the initial network namespace only; see verbs.py")
        self.names = {host: f"sluice-{os.getpid()}-{host}" for host in self.HOSTS}
        for name in self.names.values():
            made = subprocess.run(["ip", "netns", "add", name], capture_output=True, timeout=10)
            if made.returncode != 0:
                self.skipTest(f"no network namespaces: {made.stderr.decode().strip()}")
            self.addCleanup(subprocess.run, ["ip", "netns", "del", name], check=True, timeout=10)
        self.ip("source", "link", "add", "cable", "type", "veth", "peer", "name", "cable",
                "netns", self.names["target"])
        for host, addresses in self.HOSTS.items():
            for address in addresses:
                self.ip(host, "addr", "add", f"{address}/24", "dev", "cable")
            self.ip(host, "link", "set", "cable", "up")
        self.start_hosts(
            {"security": "none", "lane-security": "none", "peer-timeout": "700ms",
             "lane-timeout": "400ms"},
            {"rail": "10.77.0.1:0", "netns": self.names["source"]},
            {"rail": "10.77.0.3:0", "netns": self.names["target"]})

    def test_the_cable_is_pulled(self):
        with self.source.operator() as watch:
            self.begin(watch, "tcp:10.77.0.2:0")
            self.ip("target", "link", "set", "cable", "down")
            self.assertIn("silent", self.paused(watch)["reason"])
            self.works(self.source, "the guest works without a network")
            self.ip("target", "link", "set", "cable", "up")
            watch.wait_event("MIGRATION", status=("active",))
            self.arrive(watch)

    def test_lanes_stall_and_the_link_does_not(self):
        """The way back from the rail is lost: nothing that lanes send is acknowledged."""
        with self.source.operator() as watch:
            self.begin(watch, "tcp:10.77.0.2:0")
            self.ip("target", "rule", "add", "from", "10.77.0.3", "blackhole")
            reason = self.paused(watch)["reason"]
            self.assertIn("lanes were lost", reason)
            self.assertIn("timed out", reason)
            self.ip("target", "rule", "del", "from", "10.77.0.3", "blackhole")
            watch.wait_event("MIGRATION", status=("active",))
            self.arrive(watch)


if __name__ == "__main__":
    need_cutting()
    lab_module.main("guest", "refvm", "sluiced")
