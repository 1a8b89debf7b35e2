#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""An engine whose every step is a line of a test.

refvm launches this file as its engine. All it does is to hand the inherited socket over to
the test (whose address is in $SCRIPTED_ENGINE) and to live until the test or refvm ends it.
The test then plays the engine with class Engine: also the wrong and the dying engine, at
moments that no real one can be made to hit.
"""
import array
import json
import mmap
import os
import signal
import socket
import struct
import sys

PAGE = 4096
PATIENCE_S = 60


def stub():
    """The process that refvm launched."""
    control_fd = int(sys.argv[sys.argv.index("--control-fd") + 1])
    link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    link.connect(os.environ["SCRIPTED_ENGINE"])
    link.sendmsg([struct.pack("i", os.getpid())],
                 [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [control_fd]))])
    link.recv(1)  # the test is done with us, or has gone
    return 0


class Refused(Exception):
    """The VMM asked for something that the script did not expect."""


class Region:
    """Guest memory and its dirty bitmap, as the engine sees them."""

    def __init__(self, fd, args):
        self.id, self.size = args["id"], args["size"]
        self.gpa, self.offset = args["gpa"], args.get("offset", 0)
        self.ram = mmap.mmap(fd, self.size, offset=self.offset)
        self.bitmap = None

    def take_dirty(self):
        """Pages that are dirty; their bits are clear afterwards. Only sound while vCPUs are
        stopped: Python has no atomic exchange."""
        count = self.size // PAGE
        words = struct.unpack(f"<{len(self.bitmap) // 8}Q", self.bitmap[:])
        self.bitmap[:] = bytes(len(self.bitmap))
        return [page for page in range(count) if words[page // 64] >> (page % 64) & 1]


class Engine:
    """The engine's end of a VMM socket."""

    def __init__(self, listener):
        listener.settimeout(PATIENCE_S)
        self.link, _ = listener.accept()
        data, fds, _, _ = socket.recv_fds(self.link, 4, 1)
        self.pid = struct.unpack("i", data)[0]
        self.socket = socket.socket(fileno=fds[0])
        self.socket.settimeout(PATIENCE_S)
        self.text = b""
        self.waiting_fds = []
        self.named = {}
        self.parameters = {}
        self.regions = {}
        self.send({"QMP": {"version": {}, "capabilities": []}})

    def close(self):
        for fd in list(self.named.values()) + self.waiting_fds:
            os.close(fd)
        self.named, self.waiting_fds = {}, []
        self.socket.close()
        self.link.close()

    def die(self):
        """kill -9, as the VMM sees it."""
        os.kill(self.pid, signal.SIGKILL)
        self.close()

    def send(self, message):
        self.socket.sendall(json.dumps(message).encode() + b"\r\n")

    def event(self, name, **data):
        self.send({"event": name, "data": data, "timestamp": {"seconds": 0, "microseconds": 0}})

    def receive(self):
        while b"\n" not in self.text:
            data, fds, _, _ = socket.recv_fds(self.socket, 65536, 16)
            if not data:
                raise EOFError("the VMM closed its socket")
            self.text += data
            self.waiting_fds += fds
        line, _, self.text = self.text.partition(b"\n")
        return json.loads(line)

    def reply(self, message, value=None):
        self.send({"return": {} if value is None else value, "id": message.get("id")})

    def refuse(self, message, text="no"):
        self.send({"error": {"class": "GenericError", "desc": text}, "id": message.get("id")})

    def take_named(self, args):
        return self.named.pop(args["fdname"])

    def housekeeping(self, message):
        """Commands whose answer never depends on the script. False: it is none of these."""
        name, args = message["execute"], message.get("arguments", {})
        if name == "getfd":
            self.named[args["fdname"]] = self.waiting_fds.pop(0)
        elif name == "memory-add":
            fd = self.take_named(args)
            self.regions[args["id"]] = Region(fd, args)
            os.close(fd)
        elif name == "feed-add":
            fd = self.take_named(args)
            self.regions[args["region"]].bitmap = mmap.mmap(fd, os.fstat(fd).st_size)
            os.close(fd)
        elif name == "migrate-set-parameters":
            self.parameters.update(args)
        elif name not in ("qmp_capabilities", "closefd"):
            return False
        self.reply(message)
        return True

    def wait_for(self, name):
        """The VMM's next command, which must be @name; it is the script's to answer."""
        while True:
            message = self.receive()
            if self.housekeeping(message):
                continue
            if message["execute"] != name:
                raise Refused(f"expected {name}, got {message}")
            return message

    def expect(self, name, value=None):
        message = self.wait_for(name)
        self.reply(message, value)
        return message.get("arguments", {})

    def wait_for_memory(self, regions):
        while len(self.regions) < regions or not all(r.bitmap for r in self.regions.values()):
            message = self.receive()
            if not self.housekeeping(message):
                raise Refused(f"expected memory, got {message}")

    def dirty_sync(self, number):
        self.event("DIRTY_SYNC", id=number)
        assert self.expect("dirty-sync-done")["id"] == number

    def device_fd(self):
        return self.take_named(self.expect("device-add"))


def copy_all(source, target):
    for region in source.regions.values():
        target.regions[region.id].ram[:] = region.ram[:]


def copy_dirty(source, target):
    """Returns how many pages were copied."""
    count = 0
    for region in source.regions.values():
        to = target.regions[region.id].ram
        for page in region.take_dirty():
            to[page * PAGE:(page + 1) * PAGE] = region.ram[page * PAGE:(page + 1) * PAGE]
            count += 1
    return count


def read_to_end(fd):
    data = b""
    while True:
        more = os.read(fd, 1 << 16)
        if not more:
            break
        data += more
    os.close(fd)
    return data


def write_and_close(fd, data):
    while data:
        data = data[os.write(fd, data):]
    os.close(fd)


if __name__ == "__main__":
    sys.exit(stub())
