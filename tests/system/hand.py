# SPDX-License-Identifier: BSD-3-Clause
"""hand: an engine that the test starts by hand, and whose VMM the test itself is.

No guest runs: its memory is what the test has put there. What comes back from a bad input is
compared with that, and a correct migration afterwards shows that the engine still does its work.
"""

import contextlib
import fcntl
import mmap
import os
import re
import shutil
import sys
import tempfile

import lab as lab_module
from lab import ENDED, PATIENT, wait_until

MIB = 1 << 20
PAGE = 4096
NOBODY = 65534
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
LIST_PAGE = os.path.join(ROOT, "docs", "hostile-input.md")


@contextlib.contextmanager
def memfd(size, seal=True, flags=os.MFD_ALLOW_SEALING):
    """Sealed against shrinking, as the engine wants it."""
    fd = os.memfd_create("test", os.MFD_CLOEXEC | flags)
    try:
        os.ftruncate(fd, size)
        if seal:
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        yield fd
    finally:
        os.close(fd)

LAUNCH = """import os, socket, sys
ours, theirs = socket.socketpair()
theirs.set_inheritable(True)
os.execv(sys.argv[1], [*sys.argv[1:], "--control-fd", str(theirs.fileno())])
"""


class Engine:
    """An engine started by hand, and the connection that acts as its VMM."""

    def __init__(self, lab, name, netns=None, launched=False, **settings):
        """@netns: the network namespace that it lives in. @launched: as by a VMM, which is gone at
        once; we are the one that comes back, so that `linger` must be long enough for that."""
        folder = os.path.join(lab.folder, name)
        os.mkdir(folder)
        self.lab, self.name, self.folder = lab, name, folder
        self.path = os.path.join(folder, "engine.sock")
        self.runtime = os.path.join(folder, "run")
        self.regions = {}  # name: what the VMM sees of it
        self.files = {}  # name: a descriptor of its file
        arguments = ["ip", "netns", "exec", netns] if netns else []
        arguments += [lab_module.program("sluiced"), "--listen", self.path]
        lanes = lab_module.lane_settings(len(lab.processes) % 2)
        for key, value in {"runtime-dir": self.runtime, **PATIENT, **lanes, **settings}.items():
            arguments += ["--set", f"{key.replace('_', '-')}={value}"]
        if launched:
            arguments = [sys.executable, "-c", LAUNCH, *arguments]
        self.child, self.process = lab.start(name, arguments)
        self.vmm = lab.connect(self.path)

    def add_memory(self, name, size, gpa=0, feed=True, fill=0):
        """@fill: what all its bytes are."""
        with memfd(size) as fd:
            ram = self.regions[name] = mmap.mmap(fd, size)
            self.files[name] = os.dup(fd)
            if fill:
                ram[:] = bytes([fill]) * size
            self.vmm.command("getfd", fd=fd, fdname="ram")
        self.vmm.command("memory-add", id=name, fdname="ram", size=size, gpa=gpa)
        if feed:
            with memfd(max(8, size // PAGE // 8)) as fd:
                self.vmm.command("getfd", fd=fd, fdname="dirty")
            self.vmm.command("feed-add", region=name, type="bitmap", fdname="dirty")

    def incoming(self, uri="tcp:127.0.0.1:0"):
        return self.vmm.command("migrate-incoming", uri=uri)["uri"]

    def open_files(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def memory_kib(self):
        """Resident, without what is shared with us."""
        with open(f"/proc/{self.process.pid}/status", encoding="ascii") as status:
            return int(re.search(r"RssAnon:\s+(\d+)", status.read()).group(1))


def engine_of_nobody(test, name, memlock, **settings):
    """An engine of user nobody with this many bytes of RLIMIT_MEMLOCK; its VMM's connection and it."""
    folder = tempfile.mkdtemp(prefix="sluice-nobody-")
    test.addCleanup(shutil.rmtree, folder)
    os.chown(folder, NOBODY, NOBODY)
    path = os.path.join(folder, "engine.sock")
    binary = shutil.copy(lab_module.program("sluiced"), folder)  # nobody may read it there
    arguments = ["prlimit", f"--memlock={memlock}:{memlock}", "setpriv", f"--reuid={NOBODY}",
                 f"--regid={NOBODY}", "--clear-groups", "--inh-caps=-all", binary,
                 "--listen", path, "--set", f"runtime-dir={folder}/run"]
    for key, value in settings.items():
        arguments += ["--set", f"{key}={value}"]
    _, process = test.lab.start(name, arguments)
    return test.lab.connect(path), process


def answer_source(engine, until=None, timeout_s=60.0):
    """Be the source's VMM until an event, which is not answered, or the end; its data."""
    while True:
        event = engine.vmm.next_event(timeout_s)
        if event is None:
            raise AssertionError(f"{engine.name}: no event in {timeout_s} s")
        name, data = event["event"], event.get("data", {})
        if name == until:
            return data
        if name == "DIRTY_SYNC":
            engine.vmm.command("dirty-sync-done", id=data["id"])
        elif name == "SWITCHOVER_READY":
            engine.vmm.command("migrate-continue", state="pre-switchover")
        elif name == "SWITCHOVER_COMMIT":
            engine.vmm.command("migrate-continue", state="commit")
        elif name == "MIGRATION" and data["status"] in ENDED:
            return data


def migrate_by_hand(source, target):
    """A correct migration: it completes, and the memory is the same."""
    for ram in target.regions.values():
        ram[:] = bytes(len(ram))
    source.vmm.events.clear()
    target.vmm.events.clear()
    uri = target.incoming()
    source.vmm.command("migrate", uri=uri)
    end = answer_source(source)
    if end["status"] != "completed":
        raise AssertionError(f"{source.name} to {target.name}: {end}")
    wait_until("the target has committed",
               lambda: target.vmm.command("query-migrate")["status"] == "completed")
    for name, ram in source.regions.items():
        if ram[:] != target.regions[name][:]:
            raise AssertionError(f"what arrived of \"{name}\" is not what was sent")


def without_numbers(text):
    """A limit that is moved makes no other row of the list."""
    return re.sub(r"\d+", "N", text)


class Attempts:
    """What was tried and what it got: the rows of docs/hostile-input.md.

    A run compares its rows with the page, so that the page cannot drift; scripts/hostile-list
    runs the same tests to write it.
    """

    def __init__(self, section, folder):
        self.section, self.folder = section, folder
        self.rows = []

    def got(self, what, result):
        """@result: words of the engine, or what it did."""
        text = " ".join(str(result).split())
        for pattern, name in ((re.escape(self.folder), "DIR"), (tempfile.gettempdir() + r"/\S*", "FILE"),
                              (r"\b[0-9a-f]{32}\b", "SESSION"), (r"(127\.0\.0\.1):\d+", r"\1:PORT")):
            text = re.sub(pattern, name, text)
        row = [what, text if len(text) < 400 else text[:397] + "..."]
        print(f"  {row[0]}: {row[1]}", flush=True)
        self.rows.append(row)

    def row_text(self, row):
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"

    def settle(self):
        """Into the list that is being made, or against the page. Over RDMA neither: a rail and its keys
        look different there, and the page is what any machine can write."""
        if lab_module.OVER_RDMA:
            return
        made = os.environ.get("SLUICE_HOSTILE_LIST")
        if made:
            with open(made, "a", encoding="utf-8") as file:
                for row in self.rows:
                    file.write(f"{self.section}\t{self.row_text(row)}\n")
            return
        with open(LIST_PAGE, encoding="utf-8") as file:
            page = {without_numbers(line) for line in file.read().splitlines()}
        for row in self.rows:
            if without_numbers(self.row_text(row)) not in page:
                raise AssertionError(f"not in docs/hostile-input.md: {self.row_text(row)}\n"
                                     "run scripts/hostile-list to write the page anew")
