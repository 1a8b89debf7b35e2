#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""hostile_config: bad settings and bad records. A bad setting is refused before the engine serves
anybody, with file, line and what was expected; a bad record decides nothing.
"""

import os
import re
import subprocess
import unittest

import lab as lab_module
from hand import MIB, Attempts, Engine, answer_source, migrate_by_hand
from lab import LabTest
from qmp import QmpError

RAM = 8 * MIB
FILL = 0x5a
SESSION = "0123456789abcdef0123456789abcdef"
START_S = 60.0

BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(12))

# A file's text, and words of the error.
FILES = [
    ("a list of values", "- lanes\n- 4\n", "expected a mapping of name: value"),
    ("a word", "lanes\n", "expected a mapping of name: value"),
    ("an unknown parameter", "lans: 4\n", "did you mean 'lanes'?"),
    ("a parameter twice", "lanes: 4\nlanes: 5\n", "FILE:2:1: the parameter is given twice"),
    ("a list as value", "lanes: [4]\n", "one plain value"),
    ("a mapping as value", "lanes: {a: 4}\n", "one plain value"),
    ("a list as name", "[lanes]: 4\n", "name must be a word"),
    ("an empty value", "lanes:\n", "lanes: '' is not a number from"),
    ("an alias bomb", BOMB, "one plain value"),
    ("an alias to nothing", "lanes: *nothing\n", "undefined alias"),
    ("a reference to itself", "lanes: &a [*a]\n", "one plain value"),
    ("nesting of 10,000 brackets", "lanes: " + "[" * 10000 + "\n", "did not find expected node content"),
    ("nesting of 16,000 braces", "{" * 16000, "FILE:"),
    ("two documents", "lanes: 4\n---\nlanes: 5\n", "only one document"),
    ("a tab in front", "\tlanes: 4\n", "cannot start any token"),
    ("an open quote", "lanes: \"4\n", "unexpected end of stream"),
    ("a NUL in a value", 'lanes: "4\\0"\n', "one plain value"),
    ("a control character", b"lanes: \x01\n", "control characters are not allowed"),
    ("bytes that are no UTF-8", b"lanes: \xff\xfe\n", "invalid leading UTF-8"),
    ("a binary file", bytes(range(256)) * 16, "control characters are not allowed"),
    ("an ELF file", "/proc/self/exe", "control characters are not allowed"),
    ("a key of 64,000 letters", "a" * 64000 + ": 4\n", "FILE:"),
    ("a file of 10 MB", "# nothing\n" * (1 << 20) + "lanes: 4\n", "more than 65536 bytes"),
    ("a directory", "/", "Is a directory"),
    ("a file that does not exist", "/nonexistent/sluice.yaml", "No such file"),
    ("/dev/zero", "/dev/zero", "control characters are not allowed"),
]

# --set, and words of the error.
ASSIGNMENTS = [
    ("no value", "lanes", "name=value"),
    ("no name", "=4", "name=value"),
    ("nothing", "", "name=value"),
    ("an unknown name", "lans=4", "did you mean 'lanes'?"),
    ("a name of 100 kB", "x" * 100000 + "=4", "there is no parameter"),
    ("a transport's parameter without it", "nodelay=yes", "there is no parameter"),
]


class HostileConfig(LabTest):
    def setUp(self):
        self.attempts = Attempts("Settings and records", self.lab.folder)
        self.socket = os.path.join(self.lab.folder, "never.sock")

    def refuses(self, what, words, *arguments):
        """The engine does not start, quickly, and says why."""
        done = subprocess.run(
            [lab_module.program("sluiced"), "--listen", self.socket, *arguments],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            timeout=START_S, check=False, errors="replace")
        text = done.stdout.strip().removeprefix("sluiced: ")
        self.assertEqual(done.returncode, 1, f"{what}: {text}")
        self.assertFalse(os.path.exists(self.socket))
        for path in re.findall(r"--config=(\S+)", " ".join(arguments)):
            text = text.replace(path, "FILE")
        self.assertIn(words, text, what)
        self.assertLess(len(text), 700)
        return text

    def test_files(self):
        path = os.path.join(self.lab.folder, "settings.yaml")
        for what, text, words in FILES:
            with self.subTest(what):
                name = path
                if isinstance(text, str) and text.startswith("/"):
                    name = text
                else:
                    with open(path, "wb") as file:
                        file.write(text if isinstance(text, bytes) else text.encode())
                self.attempts.got(f"--config: {what}", self.refuses(what, words, "--config=" + name))
        for text in ("", "---\n", "# nothing\n", "{}\n", "lanes: 4\n"):
            with open(path, "w", encoding="utf-8") as file:
                file.write(text)
            # Sound, so the next mistake is the one that counts.
            self.refuses(text, "did you mean", "--config=" + path, "--set", "lans=1")
        self.attempts.got("--config: an empty file, nothing but comments", "sets nothing")
        self.attempts.settle()

    @unittest.skipIf(os.geteuid() == 0, "root reads everything")
    def test_unreadable(self):
        path = os.path.join(self.lab.folder, "settings.yaml")
        with open(path, "w", encoding="utf-8") as file:
            os.fchmod(file.fileno(), 0)
        self.refuses("an unreadable file", "Permission denied", "--config=" + path)

    def test_assignments(self):
        for what, text, words in ASSIGNMENTS:
            self.attempts.got(f"--set: {what}", self.refuses(what, words, "--set", text))
        self.attempts.settle()

    def parameters(self):
        """(name, what it takes) of every parameter, as --help prints them."""
        text = subprocess.run([lab_module.program("sluiced"), "--help"], stdout=subprocess.PIPE,
                              check=True, universal_newlines=True).stdout
        text = text.split("Parameters:")[1].split("Transports:")[0]
        return re.findall(r"^  (\S+?)=.*?\((?:([^()]*(?:\([^()]*\))?[^()]*))\)$", text, re.M | re.S)

    def test_every_parameter(self):
        """Each parameter that --help knows: wrong type, out of range, by --set and by a file."""
        path = os.path.join(self.lab.folder, "settings.yaml")
        count = 0
        for name, takes in self.parameters():
            wrong = ["x" * 5000]
            if not takes.startswith("text"):
                wrong += ["", "nonsense", "-1", "1e3", "0x10", "99999999999999999999999", "1 ", "½"]
            for value in wrong:
                with self.subTest(name, value=value[:20]):
                    self.assertIn(name, self.refuses(value, "is not", "--set", f"{name}={value}"))
                    with open(path, "w", encoding="utf-8") as file:
                        file.write(f"{name}: \"{value}\"\n")
                    self.assertIn("FILE:1:", self.refuses(value, name, "--config=" + path))
                    count += 2
        self.assertGreater(count, 200)
        print(f"  {count} wrong values", flush=True)
        self.attempts.got("every parameter of --help: text of 5,000 bytes; and of those that are no text "
                          "nothing, a word, -1, 1e3, 0x10, 24 digits, a blank behind, ½; by --set and "
                          "by a file", "refused with its name and what it takes")
        self.attempts.settle()

    # ---- records ----

    def put(self, engine, text, side="source"):
        """A file in the place of a session's record."""
        os.makedirs(engine.runtime, mode=0o700, exist_ok=True)
        path = os.path.join(engine.runtime, f"session-{SESSION}.{side}")
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        return path

    def test_records(self):
        source, target = Engine(self.lab, "source"), Engine(self.lab, "target")
        source.add_memory("low", RAM, fill=FILL)
        target.add_memory("low", RAM)
        good = f'{{"session": "{SESSION}", "decision": "committed"}}\n'
        other = os.path.join(self.lab.folder, "other")
        with open(other, "w", encoding="utf-8") as file:
            file.write(good)

        def check(what, change):
            path = self.put(source, good)
            change(path)
            with self.assertRaises(QmpError) as caught:
                source.vmm.command("query-session", session=SESSION)
            self.assertIn("cannot be read as a session record", str(caught.exception))
            with self.assertRaises(QmpError):
                source.vmm.command("session-resolve", session=SESSION, decision="aborted")
            self.attempts.got(f"a record that {what}", caught.exception)
            if os.path.isdir(path):
                os.rmdir(path)
            else:
                os.unlink(path)

        def text(value):
            return lambda path: self.put(source, value)

        def instead(make):
            def change(path):
                os.unlink(path)
                make(path)
            return change

        check("is empty", text(""))
        check("is cut off", text(good[:-8]))
        check("is garbage", text("\0\0\0\0"))
        check("decides something else", text(good.replace("committed", "postponed")))
        check("is of another session", text(good.replace(SESSION, "f" * 32)))
        check("decides twice", text(good.replace("}", ', "decision": "aborted"}')))
        check("is of another format", text('{"version": 9, "state": "committed"}\n'))
        check("is 1 MB long", text(good + " " * MIB))
        check("is a link to a good one", instead(lambda path: os.symlink(other, path)))
        check("is a link to nowhere", instead(lambda path: os.symlink("/nonexistent", path)))
        check("is a pipe", instead(os.mkfifo))
        check("is a directory", instead(os.mkdir))
        if os.geteuid() == 0:
            check("belongs to another user", lambda path: os.chown(path, 65534, 65534))
        self.put(source, good)
        self.assertEqual(source.vmm.command("query-session", session=SESSION)["status"], "committed")
        self.bad_folders(source, target)
        self.assertEqual(source.regions["low"][:], bytes([FILL]) * RAM)
        migrate_by_hand(source, target)
        self.attempts.settle()

    def bad_folders(self, source, target):
        """No session begins where it could not be recorded."""
        uri = target.incoming()
        for what, mode in (("everybody may write to", 0o777), ("is all right again", 0o700)):
            os.chmod(source.runtime, mode)
            try:
                source.vmm.command("migrate", uri=uri)
            except QmpError as error:
                self.assertEqual(mode, 0o777)
                self.assertIn("runtime-dir", str(error))
                self.attempts.got(f"a runtime directory that {what}", error)
            else:
                self.assertEqual(mode, 0o700)
                self.assertEqual(answer_source(source)["status"], "completed")


if __name__ == "__main__":
    lab_module.main("sluiced")
