# SPDX-License-Identifier: BSD-3-Clause
"""qmp: a client of the VMM socket and of refvm's monitor, which speak the same grammar.

One connection, one thread. Events that arrive while a command waits for its answer are kept.
"""

import collections
import json
import select
import socket
import time

# Until a test gives up on what takes milliseconds on an idle machine: nothing is learnt from a
# machine that is merely slow.
PATIENCE_S = 60.0


class QmpError(Exception):
    """The other side answered that it does not do it."""


class QmpClosed(Exception):
    """The other side has gone, or does not answer."""


class Qmp:
    """A negotiated connection; @path appears when a process has started, so wait for it."""

    def __init__(self, path, timeout_s=PATIENCE_S):
        self.path = path
        self.timeout_s = timeout_s
        self.events = collections.deque()
        self.replies = collections.deque()
        self.buffer = b""
        self.sock = self._connect(time.monotonic() + timeout_s)
        try:
            if "QMP" not in self._reply(time.monotonic() + timeout_s):
                raise QmpClosed(f"{path}: no greeting")
            self.command("qmp_capabilities")
        except BaseException:
            self.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.sock.close()

    def _connect(self, deadline):
        while True:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                sock.connect(self.path)
                return sock
            except OSError as error:
                sock.close()
                if time.monotonic() > deadline:
                    raise QmpClosed(f"{self.path}: {error}") from error
                time.sleep(0.01)

    def _receive(self, deadline):
        """Read once; False when nothing came in time."""
        left_s = max(0.0, deadline - time.monotonic())
        if not select.select([self.sock], [], [], left_s)[0]:
            return False
        try:
            data = self.sock.recv(1 << 16)
        except OSError as error:
            raise QmpClosed(f"{self.path}: {error}") from error
        if not data:
            raise QmpClosed(f"{self.path}: closed")
        *lines, self.buffer = (self.buffer + data).split(b"\n")
        for line in lines:
            message = json.loads(line)
            (self.events if "event" in message else self.replies).append(message)
        return True

    def _reply(self, deadline):
        while not self.replies:
            if not self._receive(deadline):
                raise QmpClosed(f"{self.path}: no answer")
        return self.replies.popleft()

    def command(self, name, fd=None, timeout_s=None, **arguments):
        """Run a command; underscores in the names of arguments mean hyphens. @fd goes along."""
        message = {"execute": name}
        if arguments:
            message["arguments"] = {key.replace("_", "-"): arguments[key] for key in arguments}
        data = json.dumps(message).encode() + b"\n"
        try:
            if fd is None:
                self.sock.sendall(data)
            else:
                socket.send_fds(self.sock, [data], [fd])
        except OSError as error:
            raise QmpClosed(f"{self.path}: {error}") from error
        reply = self._reply(time.monotonic() + (timeout_s or self.timeout_s))
        if "error" in reply:
            raise QmpError(reply["error"]["desc"])
        return reply["return"]

    def next_event(self, timeout_s):
        """The oldest event not yet taken, or None."""
        deadline = time.monotonic() + timeout_s
        while not self.events:
            if not self._receive(deadline):
                return None
        return self.events.popleft()

    def wait_event(self, name, timeout_s=PATIENCE_S, status=()):
        """Take events until one has this @name (and one of these statuses); its data."""
        deadline = time.monotonic() + timeout_s
        seen = []
        while True:
            event = self.next_event(max(0.0, deadline - time.monotonic()))
            if event is None:
                raise AssertionError(f"{self.path}: no {name} {status} in {timeout_s} s; {seen}")
            data = event.get("data", {})
            if event["event"] == name and (not status or data.get("status") in status):
                return data
            if event["event"] != "MIGRATION_PROGRESS":
                seen.append(f"{event['event']} {data.get('status', '')}".strip())
