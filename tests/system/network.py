#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""network: cables that tests make, pull or cut. Two hosts are network namespaces with veth pairs between
them; the cables of RDMA devices are those of scripts/rxe-setup.
"""

import contextlib
import os
import subprocess

from lab import LabTest


def needs_network():
    """Why there can be no namespaces here; None when there can."""
    if os.geteuid() != 0:
        return "making network namespaces needs root"
    with contextlib.suppress(OSError):
        if subprocess.run(["ip", "-V"], stdout=subprocess.DEVNULL, check=False).returncode == 0:
            return None
    return "there is no program ip (package iproute2)"


class NetworkTest(LabTest):
    """self.namespaces are hosts 1 and 2, without a cable yet."""

    def setUp(self):
        reason = needs_network()
        if reason:
            self.skipTest(reason)
        self.namespaces = [f"sluice-{os.getpid()}-{side}" for side in "ab"]
        self.addCleanup(self.remove_network)
        for netns in self.namespaces:
            self.ip("netns", "add", netns)
            self.ip("-n", netns, "link", "set", "lo", "up")

    def add_cable(self, name, *prefixes):
        """Host N gets the address that a prefix has with its {} replaced by N."""
        a, b = self.namespaces
        self.ip("-n", a, "link", "add", name, "type", "veth", "peer", "name", name, "netns", b)
        for number, netns in enumerate(self.namespaces, 1):
            for prefix in prefixes:
                nodad = ["nodad"] if ":" in prefix else []
                self.ip("-n", netns, "addr", "add", prefix.format(number), "dev", name, *nodad)
            self.ip("-n", netns, "link", "set", name, "up")

    def ip(self, *arguments):
        done = subprocess.run(["ip", *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              check=False, universal_newlines=True)
        if done.returncode != 0:
            self.skipTest(f"ip {' '.join(arguments)}: {done.stdout.strip()}")

    def remove_network(self):
        """The names; the rest goes with the processes inside."""
        for netns in self.namespaces:
            subprocess.run(["ip", "netns", "del", netns], stderr=subprocess.DEVNULL, check=False)


# ---- cables of RDMA devices ----

def write_setting(path, value):
    with open(path, "w", encoding="ascii") as file:
        file.write(value)


@contextlib.contextmanager
def dead_wires(*rails):
    """The far ends of these cables take no packet of this host; nobody is told."""
    write_setting("/proc/sys/net/ipv4/conf/all/accept_local", "0")
    for rail in rails:
        write_setting(f"/proc/sys/net/ipv4/conf/rail{rail}b/accept_local", "0")
    try:
        yield
    finally:
        for rail in rails:
            write_setting(f"/proc/sys/net/ipv4/conf/rail{rail}b/accept_local", "1")
