# SPDX-License-Identifier: BSD-3-Clause
"""lab: what the system tests have in common: hosts, their processes, logs, and the end of all.

A Lab owns a folder and every process and connection that is started in it. Processes are ended through
descriptors of theirs (pidfd), so that a number that was used again is never hit. When a test
fails the lab prints the seed and the logs.
"""

import contextlib
import ctypes
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

from qmp import PATIENCE_S, Qmp, QmpClosed, QmpError

PR_SET_PDEATHSIG = 1
LOG_TAIL_BYTES = 6000
ENDED = ("completed", "failed", "cancelled")
# An engine that is slow, or held by a test, is not a lost one.
PATIENT = {"peer-timeout": "60s", "setup-timeout": "60s", "switchover-timeout": "120s"}


OVER_RDMA = os.environ.get("SLUICE_TRANSPORT") == "rdma"
RDMA_ENDS = (("10.77.0.1", "10.77.1.1"), ("10.77.0.2", "10.77.1.2"))  # of the cables of scripts/rxe-setup
IN_LAB = "SLUICE_LAB" in os.environ  # in the VM of scripts/lab
HAS_KVM = os.access("/dev/kvm", os.R_OK | os.W_OK)
LAB_GUEST = {"ram": "32M", "accel": "thread", "rate": 3000, "tracking": "auto"}


def skip(reason):
    print(f"skipped: {reason}")
    sys.exit(77)


def program(name):
    """The path of a program of ours, from the environment that meson gives."""
    path = os.environ.get("SLUICE_TEST_" + name.upper())
    if not path or not os.access(path, os.X_OK):
        skip(f"SLUICE_TEST_{name.upper()} does not name the program {name}; run me by meson test")
    return path


def need_guest():
    release = tuple(int(part) for part in os.uname().release.split(".")[:2])
    if not HAS_KVM and release < (6, 7):
        skip("/dev/kvm cannot be opened, and without it a guest needs Linux 6.7 to be tracked")


def need_rdma():
    if not os.path.exists("/sys/class/infiniband/rxe0a"):
        skip("there is no RDMA device rxe0a: scripts/lab test, or scripts/rxe-setup pair 0 and pair 1")


def guest(**options):
    """A guest as a test wants it; of threads where there is no KVM, and in the lab, where all is
    emulated, a small one."""
    if IN_LAB:
        return {**options, **LAB_GUEST}
    return options if HAS_KVM else {**options, "accel": "thread", "tracking": "auto"}


def lane_settings(end, rails=1):
    """The engine's settings about how lanes travel, for a host at one end of so many cables."""
    if not OVER_RDMA:
        return {}
    return {"transport": "rdma", "rail": ",".join(RDMA_ENDS[end][:rails]), "lane-security": "none"}


def cpus_of(text):
    """The kernel's form of a set of CPUs: "0-3,8"."""
    cpus = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        cpus.update(range(int(first), int(last or first) + 1))
    return cpus


def wait_until(what, condition, timeout_s=PATIENCE_S, step_s=0.02):
    """Return the first true value of @condition; fail when there is none in time."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s} s: {what}")
        time.sleep(step_s)


class Process:
    """Somebody to signal: by descriptor, so that it is still the one that was meant."""

    def __init__(self, pid):
        self.pid = pid
        self.fd = os.pidfd_open(pid)

    def signal(self, number):
        try:
            signal.pidfd_send_signal(self.fd, number)
        except ProcessLookupError:
            pass

    def alive(self):
        try:
            signal.pidfd_send_signal(self.fd, 0)
        except ProcessLookupError:
            return False
        try:
            with open(f"/proc/{self.pid}/stat", encoding="ascii") as stat:
                return stat.read().rsplit(")", 1)[1].split()[0] != "Z"
        except OSError:
            return False

    def threads(self):
        return len(os.listdir(f"/proc/{self.pid}/task"))

    def cpu_s(self):
        """CPU time of all its threads."""
        return time.clock_gettime((~self.pid << 3) | 2)

    def close(self):
        os.close(self.fd)


class Lab:
    """A folder, a seed and the processes of one test."""

    def __init__(self, seed=None):
        seed = seed if seed is not None else os.environ.get("SLUICE_SEED")
        self.seed = int(seed) if seed is not None else random.randrange(1 << 32)
        self.random = random.Random(self.seed)
        self.folder = tempfile.mkdtemp(prefix="sluice-")
        self.hosts = []
        self.logs = []
        self.processes = []
        self.children = []
        self.connections = contextlib.ExitStack()

    def print_logs(self):
        print(f"FAILED with seed {self.seed}; the logs:", flush=True)
        for path in self.logs:
            with open(path, "rb") as log:
                data = log.read()[-LOG_TAIL_BYTES:].decode(errors="replace")
            if data:
                print(f"---- {os.path.basename(path)}\n{data.rstrip()}", flush=True)

    def connect(self, path):
        return self.connections.enter_context(Qmp(path))

    def end(self):
        for process in self.processes:
            process.signal(signal.SIGCONT)
        for host in self.hosts:
            host.learn_engine()
        self.connections.close()
        for process in self.processes:
            process.signal(signal.SIGKILL)
        for child in self.children:
            child.wait()
        for process in self.processes:
            process.close()
        self.processes = []
        shutil.rmtree(self.folder, ignore_errors=True)

    def adopt(self, pid):
        process = Process(pid)
        self.processes.append(process)
        return process

    def start(self, name, arguments):
        """Start a program; it also ends when we do. Returns (Popen, Process)."""
        libc = ctypes.CDLL(None, use_errno=True)
        path = os.path.join(self.folder, name + ".log")
        self.logs.append(path)
        with open(path, "ab") as log:
            child = subprocess.Popen(
                arguments, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                preexec_fn=lambda: libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0))
        self.children.append(child)
        return child, self.adopt(child.pid)

    def host(self, name, **options):
        host = Host(self, name, options)
        self.hosts.append(host)
        return host

    def violations(self):
        """What witnesses wrote: two guests ran."""
        found = []
        for entry in os.listdir(self.folder):
            if entry.endswith(".violation"):
                with open(os.path.join(self.folder, entry), encoding="utf-8") as file:
                    found.append(f"{entry}: {file.read().strip()}")
        found += [f"refvm {child.pid} ended with 99" for child in self.children
                  if child.poll() == 99]
        return found


class LabTest(unittest.TestCase):
    """A test with a lab of its own: seed first, logs when it failed, everything ended."""

    def run(self, result=None):
        self.lab = Lab()
        print(f"{self.id()}: SLUICE_SEED={self.lab.seed}", flush=True)
        try:
            bad = len(result.failures) + len(result.errors)
            super().run(result)
            if len(result.failures) + len(result.errors) > bad:
                self.lab.print_logs()
        finally:
            self.lab.end()
        return result


def on_term(*_):
    raise AssertionError("told to end, probably because it took too long")


def main(*needed):
    """Run the tests of the calling file, if what they need is there."""
    signal.signal(signal.SIGTERM, on_term)  # fail with logs, and end everything
    for name in needed:
        if name == "guest":
            need_guest()
        else:
            program(name)
    if OVER_RDMA:
        need_rdma()
    result = unittest.main(verbosity=2, exit=False).result
    if result.testsRun == len(result.skipped):  # none has looked at anything
        skip(result.skipped[0][1] if result.skipped else "there is no test of this name")
    sys.exit(not result.wasSuccessful())


class Host:
    """A VMM, the engine it launched, and a runtime folder of its own.

    Options are refvm's, underscores for hyphens; `engine_set` is a dictionary of the engine's
    parameters, `engine` the name of its program, `netns` the network namespace that it lives in.
    """

    def __init__(self, lab, name, options):
        self.lab, self.name = lab, name
        self.folder = os.path.join(lab.folder, name)
        self.runtime = os.path.join(self.folder, "run")
        self.socket = os.path.join(self.folder, "engine.sock")
        os.makedirs(self.runtime, mode=0o700)
        options = dict(options)
        engine_set = {"runtime-dir": self.runtime, **PATIENT, **lane_settings(len(lab.hosts) % 2),
                      **options.pop("engine_set", {})}
        netns = options.pop("netns", None)
        arguments = ["ip", "netns", "exec", netns] if netns else []
        arguments += [program("refvm"), "--engine", program(options.pop("engine", "sluiced")),
                     "--engine-listen", self.socket,
                     "--monitor", os.path.join(self.folder, "monitor.sock")]
        for key, value in engine_set.items():
            arguments += ["--engine-arg", "--set", "--engine-arg", f"{key}={value}"]
        for key, value in options.items():
            arguments += [f"--{key.replace('_', '-')}={value}"]
        self.child, self.vmm = lab.start(name, arguments)
        self.engine = None
        self.monitor = lab.connect(os.path.join(self.folder, "monitor.sock"))
        self.learn_engine()

    # ---- processes ----

    def vmm_alive(self):
        return self.child.poll() is None

    def learn_engine(self):
        """Know the engine that the VMM has launched last; None while there is none."""
        try:
            pid = self.status()["engine"]["pid"] if self.vmm_alive() else 0
            if pid != 0 and (self.engine is None or self.engine.pid != pid):
                self.engine = self.lab.adopt(pid)
        except (QmpClosed, QmpError, OSError):
            pass  # it is just being replaced, or the VMM hangs
        return self.engine

    # ---- questions ----

    def status(self):
        return self.monitor.command("query-status")

    def running(self):
        """Whether a guest runs here; a VMM that died runs none."""
        try:
            return self.vmm_alive() and self.status()["running"]
        except QmpClosed:
            if self.child.poll() is None:
                self.child.wait(PATIENCE_S)
            return False

    def guest(self):
        return self.monitor.command("query-guest")

    def ops(self):
        guest = self.guest()
        if guest["errors"] != 0:
            raise AssertionError(f"{self.name}: the guest found errors: {guest}")
        return guest["ops"]

    def operator(self, timeout_s=PATIENCE_S):
        """A connection to the engine's own socket."""
        return Qmp(self.socket, timeout_s)

    def engine_command(self, name, **arguments):
        with self.operator() as operator:
            return operator.command(name, **arguments)

    def decision(self, session, side):
        """What is on record here: "committed", "aborted" or None."""
        path = os.path.join(self.runtime, f"session-{session}.{side}")
        try:
            with open(path, encoding="ascii") as record:
                text = record.read()
        except FileNotFoundError:
            return None
        return "committed" if "committed" in text else "aborted"

    def verify_against(self, source):
        """Memory here is what it was at @source when its guest stopped; pages compared."""
        regions = source.monitor.command("query-memory")
        result = self.monitor.command("verify", source_pid=source.vmm.pid, regions=[
            {"id": region["id"], "fd": region["fd"], "offset": region["offset"]}
            for region in regions])
        if result["mismatched_pages"] != 0 or result["pages_compared"] == 0:
            raise AssertionError(f"{source.name} to {self.name}: {result}")
        return result["pages_compared"]

    # ---- what operators do ----

    def wait_ready(self, timeout_s=PATIENCE_S):
        """The guest has filled its memory and writes."""
        wait_until(f"{self.name}: the guest is ready", lambda: self.guest()["ready"], timeout_s)

    def incoming(self):
        return self.engine_command("migrate-incoming", uri="tcp:127.0.0.1:0")["uri"]

    def check_alive(self, what="the guest", timeout_s=PATIENCE_S):
        """The guest runs here, its counter grows, and it has found no error."""
        wait_until(f"{self.name}: {what} runs", self.running, timeout_s)
        begin = self.ops()
        wait_until(f"{self.name}: {what} works", lambda: self.ops() > begin, timeout_s)


def migrate(source, target, uri=None, **parameters):
    """Move the guest to @uri, where the target waits; query-migrate of the source at its end."""
    uri = uri or target.incoming()
    with source.operator() as operator:
        if parameters:
            operator.command("migrate-set-parameters", **parameters)
        operator.command("migrate", uri=uri)
        end = operator.wait_event("MIGRATION", PATIENCE_S, ENDED)
        result = operator.command("query-migrate")
    if end["status"] != "completed":
        raise AssertionError(f"{source.name} to {target.name}: {result}")
    wait_until(f"{target.name}: the guest runs", target.running)
    return result
