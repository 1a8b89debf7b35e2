#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""hostile_vmm: bad input on the VMM socket. Each gets a clear error, or loses its connection; the
engine lives on, the guest's memory is what it was, and the next migration works.
"""

import fcntl
import json
import os
import select
import socket
import time

import lab as lab_module
from hand import MIB, PAGE, Attempts, Engine, answer_source, memfd, migrate_by_hand
from lab import LabTest, wait_until
from qmp import Qmp, QmpClosed, QmpError

# What is freed stays with a sanitizer for a while: sizes say nothing.
SANITIZED = bool({"ASAN_OPTIONS", "TSAN_OPTIONS"} & set(os.environ))

RAM = 8 * MIB
FILL = 0x5a
CAPABILITIES = b'{"execute": "qmp_capabilities"}\n'
WAIT_S = 60.0


class Raw:
    """A connection that says bytes; its answers as they come."""

    def __init__(self, path, negotiate=True):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(path)
        self.buffer, self.closed = b"", False
        if negotiate:
            self.say(CAPABILITIES)
            self.answers(2)  # the greeting and {}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.sock.close()

    def say(self, data, fds=()):
        try:
            if fds:
                socket.send_fds(self.sock, [data], list(fds))
            else:
                self.sock.sendall(data)
        except OSError:
            self.closed = True  # it hung up while we spoke

    def line(self):
        """The next message, or None when it has hung up; fails when neither comes."""
        deadline = time.monotonic() + WAIT_S
        while b"\n" not in self.buffer:
            if not select.select([self.sock], [], [], max(0, deadline - time.monotonic()))[0]:
                raise AssertionError("neither an answer nor the end of the connection")
            try:
                data = self.sock.recv(1 << 16)
            except ConnectionError:
                data = b""
            if not data:
                self.closed = True
                return None
            self.buffer += data
        line, self.buffer = self.buffer.split(b"\n", 1)
        return json.loads(line)

    def answers(self, count):
        return [self.line() for _ in range(count)]


def command(name, **arguments):
    return json.dumps({"execute": name, "arguments": arguments}).encode() + b"\n"


# What is said on a fresh connection, and words of the answer. None: the connection ends.
SAID = [
    ("an unknown command", command("migrat", uri="x"), "did you mean 'migrate'?"),
    ("a command that is nobody's", command("format-disk"), "has not been found"),
    ("no command", b'{"arguments": {}}\n', "lacks member 'execute'"),
    ("a command that is a number", b'{"execute": 7}\n', "'execute' must be a string"),
    ("arguments that are a list", b'{"execute": "query-status", "arguments": []}\n',
     "'arguments' must be an object"),
    ("a member of the grammar of nobody", b'{"execute": "query-status", "sudo": true}\n', "'sudo'"),
    ("an argument too many", command("query-status", verbose=True), "'verbose' is not known"),
    ("a misspelt argument", command("migrate", urI="tcp:127.0.0.1:1"), "did you mean 'uri'?"),
    ("an argument too few", command("migrate"), "'uri' is missing"),
    ("an argument of the wrong type", command("migrate", uri=5), "expected a string"),
    ("a null argument", command("migrate", uri=None), "got null"),
    ("a word that is none of the allowed", command("session-resolve", session="5" * 32,
                                                   decision="maybe"), "one of 'aborted', 'committed'"),
    ("an argument of 100 kB", command("migrate", uri="x" * 100000), "1 to 255 bytes"),
    ("a command's name of 100 kB", command("x" * 100000), "has not been found"),
    ("an empty URI", command("migrate", uri=""), "1 to 255 bytes"),
    ("a parameter that does not exist", command("migrate-set-parameters", lans=3),
     "did you mean 'lanes'?"),
    ("a parameter out of range", command("migrate-set-parameters", lanes=100000), "is not a number from"),
    ("a negative parameter", command("migrate-set-parameters", lanes=-1), "is not a number from"),
    ("a parameter that is a list", command("migrate-set-parameters", lanes=[1]),
     "a number, a word or a boolean"),
    ("a parameter that is fixed at the start", command(
        "migrate-set-parameters", **{"runtime-dir": "/"}), "fixed when the engine starts"),
    ("one good parameter and a bad one", command(
        "migrate-set-parameters", **{"downtime-limit": 77, "lanes": -1}), "is not a number from"),
    ("a session id that is a path", command("query-session", session="../../../../etc/passwd"),
     "32 lower-case hexadecimal digits"),
    ("a session in doubt that is none", command("session-resolve", session="5" * 32,
                                                decision="committed"), "is in doubt here"),
    ("a string instead of a message", b'"query-status"\n', "not an object"),
    ("a list instead of a message", b'[{"execute": "query-status"}]\n', "not an object"),
    ("a word", b"quit\n", "not an object"),
    ("HTTP", b"GET / HTTP/1.1\r\n", "not an object"),
    ("a message without its quotes", b"{execute: query-status}\n", "JSON parse error"),
    ("a string without its end", b'{"execute": "query-status}\n', "not an object"),
    ("a brace closed by a bracket", b'{"execute": "query-status"]\n', "not an object"),
    ("a number too large for a float", b'{"execute": "query-status", "id": 1e999}\n',
     "JSON parse error"),
    ("a number too large for 64 bits", b'{"execute": "query-status", "id": 99999999999999999999}\n',
     "JSON parse error"),
    ("NaN", b'{"execute": "query-status", "id": NaN}\n', "JSON parse error"),
    ("a byte that is no UTF-8", b'{"execute": "\xff\xfe"}\n', "JSON parse error"),
    ("UTF-8 in more bytes than needed", b'{"execute": "\xc0\xaf"}\n', "JSON parse error"),
    ("half a surrogate pair", b'{"execute": "\\ud800"}\n', "JSON parse error"),
    ("a NUL byte in a string", b'{"execute": "query-\0status"}\n', "JSON parse error"),
    ("an escaped NUL", b'{"execute": "query-status\\u0000"}\n', "JSON parse error"),
    ("a NUL byte between messages", b'\0\n', "not an object"),
    ("a member given twice", b'{"execute": "query-status", "execute": "quit"}\n',
     "JSON parse error"),
    ("a megabyte of braces", b"{" * MIB, None),
    ("a megabyte of brackets in a message", b'{"execute": ' + b"[" * MIB, None),
    ("33 levels of nesting", b'{"id": ' + b"[" * 33 + b"]" * 33 + b"}\n", None),
    ("a message of more than 1 MiB", b'{"execute": "' + b"x" * (MIB + 16) + b'"}\n', None),
    ("a line of 2 MiB that is no message", b"x" * (2 * MIB) + b"\n", None),
    ("qmp_capabilities twice", CAPABILITIES, "already complete"),
]


class HostileVmm(LabTest):
    def setUp(self):
        self.attempts = Attempts("The VMM socket", self.lab.folder)
        self.source, self.target = Engine(self.lab, "source"), Engine(self.lab, "target")

    def add_memory(self):
        for engine, fill in ((self.source, FILL), (self.target, 0)):
            engine.add_memory("low", RAM, fill=fill)

    def settle(self):
        """The engines are what they were: same descriptors, same memory, and they migrate."""
        self.assertEqual(self.source.regions["low"][:], bytes([FILL]) * RAM)
        migrate_by_hand(self.source, self.target)
        self.assertEqual(self.source.regions["low"][:], bytes([FILL]) * RAM)
        self.attempts.settle()

    def check_served(self):
        with Qmp(self.source.path) as operator:
            self.assertEqual(operator.command("query-memory")[0]["id"], "low")

    def test_said(self):
        self.add_memory()
        files = self.source.open_files()
        limit = self.source.vmm.command("query-migrate-parameters")["downtime-limit"]
        for what, data, words in SAID:
            with self.subTest(what), Raw(self.source.path) as raw:
                raw.say(data)
                answer = raw.line()
                if answer is not None:
                    self.assertIn("error", answer)
                    text = answer["error"]["desc"]
                if words is None:
                    while not raw.closed:
                        raw.line()
                    self.attempts.got(what, "closed" if answer is None else text + "; closed")
                    continue
                self.assertIn(words, text)
                # The wire is in step again.
                raw.say(command("query-status"))
                self.assertIn("return", raw.line(), what)
                self.attempts.got(what, text)
            self.check_served()
        wait_until("all connections are gone", lambda: self.source.open_files() == files)
        self.assertEqual(self.source.vmm.command("query-migrate-parameters")["downtime-limit"], limit)
        self.settle()

    def test_order(self):
        """Right words at the wrong moment."""
        self.add_memory()
        with Raw(self.source.path, negotiate=False) as raw:
            raw.line()
            raw.say(command("query-status"))
            text = raw.line()["error"]["desc"]
            self.assertIn("qmp_capabilities", text)
            self.attempts.got("a command before the negotiation", text)
        for name, arguments in (("migrate_cancel", {}), ("dirty-sync-done", {"id": 1}),
                                ("migrate-continue", {"state": "commit"}),
                                ("device-loaded", {"device": "x"})):
            with self.assertRaises(QmpError) as caught:
                self.source.vmm.command(name, **arguments)
            self.assertIn("no migration is running", str(caught.exception))
            self.attempts.got(f"{name} without a migration", caught.exception)
        self.settle()

    def test_halves(self):
        """What never ends, and who leaves in the middle."""
        self.add_memory()
        files = self.source.open_files()
        with Raw(self.source.path) as silent, Raw(self.source.path) as leaving:
            silent.say(b'{"execute": "query-sta')
            leaving.say(b'{"execute": "query-sta')
            leaving.sock.close()
            self.check_served()
            silent.say(b'tus"}\n')
            self.assertIn("return", silent.line())
        self.attempts.got("half a message, then nothing", "waits for the rest; others are served")
        self.attempts.got("half a message and a hang-up", "nothing; the connection is forgotten")
        for index in range(100):
            with Raw(self.source.path, negotiate=index % 2 == 1):
                pass
        wait_until("all connections are gone", lambda: self.source.open_files() == files)
        self.attempts.got("100 connections that leave at once", "nothing is left of them")
        self.settle()

    def test_many(self):
        self.add_memory()
        files = self.source.open_files()
        with Raw(self.source.path) as raw:
            count = 10000
            said = b"".join(b'{"execute": "query-status", "id": %d}\n' % i for i in range(count))
            raw.sock.setblocking(False)
            heard = []
            while len(heard) < count:
                readable, writable, _ = select.select([raw.sock], [raw.sock] if said else [], [], WAIT_S)
                self.assertTrue(readable or writable)
                if writable:
                    said = said[raw.sock.send(said):]
                if readable:
                    raw.buffer += raw.sock.recv(1 << 16)
                    *lines, raw.buffer = raw.buffer.split(b"\n")
                    heard += [json.loads(line)["id"] for line in lines]
            self.assertEqual(heard, list(range(count)))
            self.attempts.got("10,000 commands at once", "all answered, in order")
        self.check_never_reads()
        self.check_crowd()
        wait_until("all connections are gone", lambda: self.source.open_files() == files)
        self.settle()

    def check_never_reads(self):
        before_kib = self.source.memory_kib()
        with Raw(self.source.path) as raw:
            raw.sock.settimeout(0.2)
            said = 0
            with self.assertRaises((BrokenPipeError, ConnectionResetError)):
                while said < 64 * MIB:
                    try:
                        said += raw.sock.send(command("query-commands") * 100)
                    except TimeoutError:
                        self.check_served()
            if not SANITIZED:
                self.assertLess(self.source.memory_kib() - before_kib, 8 << 10)
        self.check_served()
        self.attempts.got("a client that asks and never reads",
                          "disconnected when 1 MiB of answers waits for it")

    def check_crowd(self):
        crowd = []
        try:
            for _ in range(80):
                crowd.append(Raw(self.source.path, negotiate=False))
            greeted = sum(raw.line() is not None for raw in crowd)
            self.assertLess(greeted, 80)
            self.assertEqual(self.source.vmm.command("query-status")["status"], "idle")
        finally:
            for raw in crowd:
                raw.sock.close()
        self.attempts.got("80 connections at once",
                          "64 are served, the VMM's among them; further ones are closed")

    # ---- descriptors ----

    def refused(self, what, words, name, fd=None, **arguments):
        with self.assertRaises(QmpError, msg=what) as caught:
            self.source.vmm.command(name, fd=fd, **arguments)
        self.assertIn(words, str(caught.exception), what)
        self.attempts.got(what, caught.exception)

    def test_descriptors(self):
        self.add_memory()
        files = self.source.open_files()
        null = os.open("/dev/null", os.O_RDONLY)
        self.refused("getfd without a descriptor", "SCM_RIGHTS", "getfd", fdname="a")
        self.refused("a descriptor with another command", "no getfd took", "query-status", fd=null)
        with Raw(self.source.path) as raw:
            raw.say(command("getfd", fdname="a"), [null, null])
            self.assertIn("return", raw.line())
            raw.say(command("query-status"))
            text = raw.line()["error"]["desc"]
            self.assertIn("1 descriptors were sent that no getfd took", text)
            self.attempts.got("two descriptors with one getfd", text)
            raw.say(b'{"execute": nonsense}\n', [null])
            self.assertIn("JSON parse error", raw.line()["error"]["desc"])
            raw.say(command("query-status"))
            self.assertIn("return", raw.line())
        self.attempts.got("a descriptor with nonsense", "closed with the nonsense")
        for count, what in ((65, "65 descriptors in one message"),
                            (200, "200 descriptors in one message (the kernel drops the rest)")):
            with Raw(self.source.path) as raw:
                raw.say(command("getfd", fdname="a"), [null] * count)
                answers = []
                while not raw.closed:
                    answers.append(raw.line())
                text = [a["error"]["desc"] for a in answers if a and "error" in a][-1]
                self.assertIn("descriptors", text)
                self.attempts.got(what, text + "; closed")
        with Raw(self.source.path) as raw:
            for index in range(64):
                raw.say(command("getfd", fdname=f"fd{index}"), [null])
                self.assertIn("return", raw.line())
            raw.say(command("getfd", fdname="one-more"), [null])
            text = raw.line()["error"]["desc"]
            self.assertIn("closefd", text)
            self.attempts.got("65 named descriptors", text)
            raw.say(command("getfd", fdname="fd0"), [null])  # a name that is taken is replaced
            self.assertIn("return", raw.line())
        os.close(null)
        self.refused("closefd of an unknown name", "pass it with getfd first", "closefd", fdname="b")
        wait_until("no descriptor is left", lambda: self.source.open_files() == files)
        self.settle()

    def pass_fd(self, fd):
        self.source.vmm.command("getfd", fd=fd, fdname="x")

    def memory(self, what, words, fd, size=RAM, gpa=1 << 32, region="bad", **more):
        self.pass_fd(fd)
        self.refused(what, words, "memory-add", id=region, fdname="x", size=size, gpa=gpa, **more)

    def test_wrong_kinds(self):
        """Descriptors that are no guest memory."""
        self.add_memory()
        files = self.source.open_files()
        reader, writer = os.pipe()
        left, right = socket.socketpair()
        path = os.path.join(self.lab.folder, "file")
        opened = {"a directory": os.open("/", os.O_RDONLY), "a pipe": reader,
                  "/dev/null": os.open("/dev/null", os.O_RDWR),
                  "/dev/zero": os.open("/dev/zero", os.O_RDWR),
                  "a socket": left.fileno(),
                  "an eventfd": os.eventfd(0),
                  "a file of /proc": os.open("/proc/self/mem", os.O_RDWR)}
        for what, fd in opened.items():
            self.memory(f"{what} as guest memory", "must be a memfd", fd)
        with memfd(RAM, seal=False, flags=0) as fd:
            self.memory("a memfd that cannot be sealed", "MFD_ALLOW_SEALING", fd)
        with memfd(RAM) as fd:
            readonly = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY)
            self.memory("a memfd opened read-only", "not open for reading and writing", readonly)
            os.close(readonly)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
            self.memory("a memfd sealed against writing", "cannot be mapped", fd)
        with open(path, "w+b") as file:
            file.truncate(RAM)
            if os.stat(path).st_dev != os.stat("/dev/shm").st_dev:
                self.memory("a file on disk", "must be a memfd", file.fileno())
        self.wrong_feeds()
        left.detach()
        right.close()
        for fd in (*opened.values(), writer):
            os.close(fd)
        # But for the second region's own.
        wait_until("no descriptor is left", lambda: self.source.open_files() == files + 1)
        self.settle()

    def wrong_feeds(self):
        self.source.add_memory("second", MIB, gpa=1 << 33, feed=False)
        self.target.add_memory("second", MIB, gpa=1 << 33, feed=False)
        arguments = {"region": "second", "type": "bitmap", "fdname": "x"}
        for what, words, fd in (("/dev/null", "the bitmap has 0 bytes", os.open("/dev/null", os.O_RDWR)),
                                ("a directory", "the bitmap", os.open("/proc", os.O_RDONLY))):
            self.pass_fd(fd)
            self.refused(f"{what} as a dirty bitmap", words, "feed-add", **arguments)
            os.close(fd)
        with memfd(31) as fd:
            self.pass_fd(fd)
            self.refused("a dirty bitmap that is too short", "takes 32", "feed-add", **arguments)
        with memfd(32, seal=False, flags=0) as fd:
            self.pass_fd(fd)
            self.refused("a dirty bitmap that may shrink", "F_SEAL_SHRINK", "feed-add", **arguments)
        with memfd(32) as fd:
            self.pass_fd(fd)
            self.refused("a feed of no region", "memory-add it first", "feed-add",
                         region="third", type="bitmap", fdname="x")
            self.pass_fd(fd)
            self.refused("a feed anew, too short", "takes 256", "feed-add",
                         region="low", type="bitmap", fdname="x")
            self.pass_fd(fd)
            self.source.vmm.command("feed-add", **arguments)

    def test_numbers(self):
        """Sizes, offsets and addresses."""
        self.add_memory()
        files = self.source.open_files()
        far = 1 << 40
        with memfd(4 * MIB) as fd:
            for what, words, size, gpa, offset in (
                    ("a size of 0", "from 4096", 0, far, 0),
                    ("a negative size", "from 4096", -PAGE, far, 0),
                    ("a size that is no page", "multiples of 4096", PAGE + 1, far, 0),
                    ("a size of 2^63 - 4096", "64 TiB", (1 << 63) - PAGE, far, 0),
                    ("more than the file has", "grow it", 8 * MIB, far, 0),
                    ("an offset behind the file's end", "grow it", PAGE, far, 4 * MIB),
                    ("an offset that is no page", "multiples of 4096", PAGE, far, 7),
                    ("a negative offset", "from 0", PAGE, far, -PAGE),
                    ("offset and size that overflow", "grow it", MIB, far, (1 << 63) - PAGE),
                    ("an address that is no page", "multiples of 4096", PAGE, 7, 0),
                    ("a negative address", "from 0", PAGE, -PAGE, 0),
                    ("an address in the middle of other memory", "overlaps region \"low\"",
                     MIB, RAM - PAGE, 0)):
                self.memory(what, words, fd, size, gpa, offset=offset)
            self.memory("an id that is taken", "was added before", fd, MIB, far, region="low")
            self.memory("an id of 64 bytes", "1 to 63 bytes", fd, MIB, far, region="x" * 64)
            self.memory("an empty id", "1 to 63 bytes", fd, MIB, far, region="")
            self.refused("memory of a descriptor that was not passed", "pass it with getfd",
                         "memory-add", id="bad", fdname="nothing", size=MIB, gpa=far)
            for index in range(63):
                self.pass_fd(fd)
                self.source.vmm.command("memory-add", id=f"r{index}", fdname="x", size=PAGE,
                                        gpa=far + index * MIB)
            self.memory("65 regions", "the most that an engine holds", fd, PAGE, far << 1)
            for index in range(63):
                self.source.vmm.command("memory-remove", id=f"r{index}")
        self.refused("removing a region that is none", "there is no region", "memory-remove", id="r0")
        wait_until("no descriptor is left", lambda: self.source.open_files() == files)
        self.settle()

    # ---- who is the VMM ----

    def test_two_vmms(self):
        self.add_memory()
        with Qmp(self.source.path) as second, memfd(MIB) as fd:
            second.command("getfd", fd=fd, fdname="x")
            for name, arguments in (
                    ("memory-add", {"id": "b", "fdname": "x", "size": MIB, "gpa": 1 << 32}),
                    ("memory-remove", {"id": "low"}),
                    ("feed-add", {"region": "low", "type": "bitmap", "fdname": "x"}),
                    ("device-add", {"device": "d", "fdname": "x"}),
                    ("migrate-continue", {"state": "commit"}),
                    ("dirty-sync-done", {"id": 1})):
                with self.assertRaises(QmpError) as caught:
                    second.command(name, **arguments)
                self.assertIn("only the VMM", str(caught.exception))
            self.attempts.got("a second VMM's memory-add, memory-remove, feed-add, device-add, "
                              "migrate-continue, dirty-sync-done", caught.exception)
            with self.assertRaises(QmpError) as caught:
                self.source.vmm.command("closefd", fdname="x")
            self.attempts.got("another connection's descriptor", caught.exception)
            self.assertEqual(second.command("query-memory")[0]["id"], "low")
            self.attempts.got("a second connection that asks, or starts a migration", "is answered")
        self.settle()

    def test_vmm_vanishes(self):
        """Before it has said a word, with descriptors under way, in the middle of a migration."""
        self.add_memory()
        files = self.source.open_files()
        with memfd(MIB) as fd:
            for data in (b"", CAPABILITIES, CAPABILITIES + command("getfd", fdname="x"),
                         CAPABILITIES + b'{"execute": "getf'):
                raw = Raw(self.source.path, negotiate=False)
                raw.say(data or b" ", [fd] * 40)
                raw.sock.close()
        wait_until("its descriptors are closed", lambda: self.source.open_files() == files)
        self.attempts.got("a client that vanishes with 40 descriptors under way", "all are closed")
        uri = self.target.incoming()
        self.source.vmm.command("migrate", uri=uri)
        self.source.vmm.wait_event("DIRTY_SYNC")
        self.source.vmm.close()
        end = self.target.vmm.wait_event("MIGRATION", WAIT_S, ("failed",))
        self.attempts.got("the source's VMM vanishes in a migration: the target", end["error-desc"])
        with Qmp(self.source.path) as operator:
            status = operator.command("query-migrate")
            self.assertEqual(status["status"], "failed")
            self.attempts.got("the source's VMM vanishes in a migration: the source",
                              status["error-desc"])
            operator.command("memory-remove", id="low")
        self.assertEqual(self.source.regions["low"][:], bytes([FILL]) * RAM)
        # The next VMM takes over.
        self.source.vmm = self.lab.connect(self.source.path)
        self.source.add_memory("low", RAM, fill=FILL)
        self.settle()

    def test_target_vmm_vanishes(self):
        self.add_memory()
        self.source.vmm.command("migrate", uri=self.target.incoming())
        answer_source(self.source, until="SWITCHOVER_READY")
        self.target.vmm.close()
        end = answer_source(self.source)
        self.assertEqual(end["status"], "failed")
        # Lanes and peer link end at once: which of them the source sees first is chance.
        self.attempts.got("the target's VMM vanishes in a migration: the source",
                          "the migration fails, the guest stays")
        with Qmp(self.target.path) as operator:
            operator.command("memory-remove", id="low")
        self.target.vmm = self.lab.connect(self.target.path)
        self.target.add_memory("low", RAM)
        self.settle()


if __name__ == "__main__":
    lab_module.main("sluiced")
