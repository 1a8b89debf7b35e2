#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""peers: who may be whose peer: keys, clear text, UNIX sockets, tickets; two hosts over a network.

Two network namespaces with a veth pair between them are the network; that needs root. What the
rest needs is this host alone.
"""

import contextlib
import ctypes
import json
import os
import socket
import ssl
import stat
import struct
import subprocess
import threading

import lab as lab_module
from hand import MIB, Engine
from lab import ENDED, LabTest, migrate, wait_until
from network import NetworkTest
from qmp import PATIENCE_S, QmpError

KEY = "8f3a0c5d7e91b2436f58a7c9d0e1f20314253647586970a1b2c3d4e5f6071829"
OTHER_KEY = KEY[::-1]
GUEST = {"ram": "96M", "vcpus": 1, "pattern": "hotset", "rate": 20000, "track_after_resume": "yes"}


def has_tls():
    """Whether this build has the module."""
    folder = os.path.dirname(lab_module.program("sluiced"))
    return os.path.exists(os.path.join(folder, "sluice-tls.so"))


class Peer(Engine):
    """An engine started by hand, with a region."""

    def __init__(self, lab, name, netns=None, **settings):
        super().__init__(lab, name, netns, **settings)
        self.add_memory("low", 8 * MIB)

    def security(self):
        return self.vmm.command("query-migrate")["security"]

    def holds(self, secret):
        """Whether these bytes are anywhere in its memory."""
        with open(f"/proc/{self.process.pid}/maps", encoding="utf-8") as maps, \
                open(f"/proc/{self.process.pid}/mem", "rb", 0) as memory:
            for line in maps:
                place, mode = line.split()[:2]
                begin, end = (int(number, 16) for number in place.split("-"))
                # Heaps and data; not a sanitizer's shadow of the whole address space.
                if not mode.startswith("rw") or end - begin > 256 * MIB:
                    continue
                memory.seek(begin)
                if secret in memory.read(end - begin):
                    return True
        return False

    def maps(self, library):
        with open(f"/proc/{self.process.pid}/maps", encoding="utf-8") as maps:
            return library in maps.read()


class PeerTest(LabTest):
    def key_file(self, name, text=f"host:{KEY}\n", mode=0o600):
        path = os.path.join(self.lab.folder, name)
        with open(path, "w", encoding="ascii") as file:
            file.write(text)
        os.chmod(path, mode)
        return path

    def need_tls(self):
        if not has_tls():
            self.skipTest("this build has no encrypted peer links")

    def refused(self, words, connection, command, **arguments):
        with self.assertRaises(QmpError) as caught:
            connection.command(command, **arguments)
        print(f"  {caught.exception}", flush=True)
        for word in words:
            self.assertIn(word, str(caught.exception))

    def fails(self, source, uri, *words):
        source.vmm.command("migrate", uri=uri)
        end = source.vmm.wait_event("MIGRATION", PATIENCE_S, ENDED)
        print(f"  source: {end.get('error-desc')}", flush=True)
        self.assertEqual(end["status"], "failed", end)
        for word in words:
            self.assertIn(word, end["error-desc"])
        self.assertNotIn(KEY[:8], end["error-desc"])

    def tells(self, target, *words):
        """What the target says about a peer that it turned away."""
        event = target.vmm.wait_event("PEER_REFUSED", PATIENCE_S)
        print(f"  target: {event['error']}", flush=True)
        security = target.security()
        for word in words:
            self.assertIn(word, event["error"])
            self.assertIn(word, security["last-refused"])
        self.assertGreaterEqual(security["peers-refused"], 1)
        self.assertNotIn(KEY[:8], event["error"])
        self.assertEqual(target.vmm.command("query-status")["status"], "incoming")

    def verify(self, source, target):
        result = target.monitor.command("verify", source_pid=source.vmm.pid, regions=[
            {"id": region["id"], "fd": region["fd"], "offset": region["offset"]}
            for region in source.monitor.command("query-memory")])
        self.assertEqual(result["mismatched_pages"], 0, result)
        self.assertGreater(result["pages_compared"], 0, result)

    def hop(self, source, target, uri, **parameters):
        """A whole migration; what query-migrate said of its security."""
        result = migrate(source, target, uri=uri, **parameters)
        self.verify(source, target)
        target.check_alive()
        self.assertFalse(source.running(), "two guests run")
        return result["security"]


class Relay(threading.Thread):
    """Sits between two engines and looks for words in what passes."""

    def __init__(self, uri, word):
        super().__init__(daemon=True)
        self.to = (uri.split(":")[1], int(uri.rsplit(":", 1)[1]))
        self.word, self.seen, self.bytes = word, False, 0
        self.pairs = []
        self.server = socket.create_server(("127.0.0.1", 0))
        self.uri = f"tcp:127.0.0.1:{self.server.getsockname()[1]}"
        self.start()

    def pump(self, source, target):
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                self.bytes += len(data)
                self.seen |= self.word in data
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def run(self):
        while True:
            try:
                pair = (self.server.accept()[0], socket.create_connection(self.to))
            except OSError:
                return
            self.pairs.append(pair)
            for source, target in (pair, pair[::-1]):
                threading.Thread(target=self.pump, args=(source, target), daemon=True).start()

    def cut(self):
        """Every connection, without a word to either end."""
        for pair in self.pairs:
            for sock in pair:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
        self.pairs.clear()


class OneHost(PeerTest):
    """What needs no network."""

    def test_nobody_reads_along(self):
        """Between two real engines: encrypted, nothing can be read; in clear text it can."""
        self.need_tls()
        key = self.key_file("keys")
        for name, settings, seen in (("psk", {"psk_file": key}, False), ("none", {}, True)):
            source = Peer(self.lab, "source-" + name, **settings)
            target = Peer(self.lab, "target-" + name, **settings)
            self.assertFalse(source.maps("libssl"), "loaded before it was needed")
            relay = Relay(target.incoming(), b'"type"')
            source.vmm.command("migrate", uri=relay.uri)
            source.vmm.wait_event("DIRTY_SYNC", PATIENCE_S)
            wait_until("lanes connect", lambda: [
                lane["state"] for lane in source.vmm.command("query-lanes")] == ["active"] * 4)
            self.assertEqual(relay.seen, seen)
            for engine in (source, target):
                self.assertFalse(engine.holds(bytes.fromhex(KEY)), f"{engine.name} keeps the key")
                self.assertFalse(engine.holds(KEY.encode()), f"{engine.name} keeps the key's text")
                self.assertTrue(engine.holds(engine.runtime.encode()), "nothing can be found")
            self.assertGreater(relay.bytes, 500)
            self.assertEqual(source.maps("libssl"), not seen)
            self.assertEqual(source.security()["peer-link"], name)
            self.assertEqual(target.security().get("psk-identity"), None if seen else "host")
            source.vmm.command("migrate_cancel")

    def test_resumed_on_a_new_link(self):
        """The link is cut while pages move: new TLS session, new tickets, the same migration."""
        self.need_tls()
        settings = {"psk-file": self.key_file("keys"), "recover-pause": "20ms", "lanes": 2}
        here = self.lab.host("here", engine_set=settings, **GUEST)
        there = self.lab.host("there", engine_set=settings, incoming="yes", **GUEST)
        here.wait_ready()
        relay = Relay(there.incoming(), b'"type"')
        with here.operator() as operator:
            operator.command("migrate-set-parameters", **{"max-bandwidth": 16 * MIB})
            operator.command("migrate", uri=relay.uri)
            operator.wait_event("MIGRATION", PATIENCE_S, ("active",))
            for cut in (1, 2):
                relay.cut()
                wait_until(f"the link is back, {cut}", lambda n=cut: (
                    lambda now: now["status"] == "active" and now["pauses"] == n)(
                        operator.command("query-migrate")))
                wait_until("new lanes", lambda: all(
                    lane["state"] == "active" for lane in operator.command("query-lanes")))
            operator.command("migrate-set-parameters", **{"max-bandwidth": 0})
            end = operator.wait_event("MIGRATION", PATIENCE_S, ENDED)
            self.assertEqual(end["status"], "completed", end)
            lanes = operator.command("query-lanes")
        wait_until("the guest runs there", there.running)
        self.verify(here, there)
        there.check_alive()
        self.assertGreaterEqual(min(lane["epoch"] for lane in lanes), 3, lanes)
        self.assertFalse(relay.seen)

    def test_keys_that_do_not_fit(self):
        self.need_tls()
        key = self.key_file("keys")
        target = Peer(self.lab, "target", psk_file=key)
        uri = target.incoming()
        source = Peer(self.lab, "source", psk_file=self.key_file("other", f"host:{OTHER_KEY}\n"))
        self.fails(source, uri, "different keys", "\"host\"", "other")
        self.tells(target, "different keys", "\"host\"", "keys")
        stranger = Peer(self.lab, "stranger", psk_file=self.key_file("s", f"they:{KEY}\n"))
        self.fails(stranger, uri, "no key for identity \"they\"", "psk-file")
        wait_until("the target was told", lambda: target.security()["peers-refused"] == 2)
        self.assertIn("no line for identity \"they\"", target.security()["last-refused"])

    def test_tls_without_the_key(self):
        """Others speak TLS too: with a certificate, without a key, an older version."""
        self.need_tls()
        key, cert = self.key_file("keys"), os.path.join(self.lab.folder, "cert")
        with contextlib.suppress(OSError):
            subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt",
                            "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=localhost",
                            "-keyout", cert, "-out", cert + ".pem"], stderr=subprocess.DEVNULL,
                           check=False)
        if not os.path.exists(cert + ".pem"):
            self.skipTest("there is no program openssl to make a certificate")

        def serve(server):
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(cert + ".pem", cert)
            with contextlib.suppress(OSError), context.wrap_socket(
                    server.accept()[0], server_side=True) as peer:
                peer.recv(1)

        source = Peer(self.lab, "source", psk_file=key)
        with socket.create_server(("127.0.0.1", 0)) as server:
            thread = threading.Thread(target=serve, args=(server,), daemon=True)
            thread.start()
            self.fails(source, f"tcp:127.0.0.1:{server.getsockname()[1]}", "certificate")
            thread.join()
        target = Peer(self.lab, "target", psk_file=key)
        port = int(target.incoming().rsplit(":", 1)[1])
        for number, version in enumerate((ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_2), 1):
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            context.minimum_version = context.maximum_version = version
            with self.assertRaises(OSError):
                context.wrap_socket(socket.create_connection(("127.0.0.1", port), PATIENCE_S))
            wait_until("the target was told", lambda n=number: target.security()[
                "peers-refused"] == n)
            print(f"  target: {target.security()['last-refused']}", flush=True)
            self.assertIn("not TLS 1.3 with a pre-shared key", target.security()["last-refused"])

    def test_clear_text_and_tls(self):
        self.need_tls()
        key = self.key_file("keys")
        encrypted, plain = Peer(self.lab, "encrypted", psk_file=key), Peer(self.lab, "plain")
        self.fails(plain, encrypted.incoming(), "refused", "encrypted", "set psk-file")
        self.tells(encrypted, "in clear text", "set psk-file")
        encrypted = Peer(self.lab, "encrypted-2", psk_file=key)
        plain = Peer(self.lab, "plain-2")
        self.fails(encrypted, plain.incoming(), "in clear text", "set psk-file")
        self.tells(plain, "wants an encrypted link", "set psk-file")

    def test_settings(self):
        key, engine = self.key_file("keys"), Peer(self.lab, "engine")
        uri = "tcp:127.0.0.1:1"

        def check(words, **parameters):
            engine.vmm.command("migrate-set-parameters", **{
                "security": "auto", "psk-file": "", "psk-identity": "", **{
                    name.replace("_", "-"): value for name, value in parameters.items()}})
            self.refused(words, engine.vmm, "migrate", uri=uri)
            checks = {check["name"]: check for check in engine.vmm.command("preflight")["checks"]}
            self.assertEqual(checks["security"]["result"], "failed", checks)

        check(["set psk-file"], security="psk")
        check(["contradict", "psk-file"], security="none", psk_file=key)
        if not has_tls():
            check(["OpenSSL"], psk_file=key)
            return
        check(["No such file"], psk_file=key + ".not")
        check(["chmod 0600"], psk_file=self.key_file("open", mode=0o644))
        check(["line 1", "shorter than 16 bytes"], psk_file=self.key_file("short", "host:0011\n"))
        check(["no line for identity \"me\""], psk_file=key, psk_identity="me")
        check(["psk-identity"], psk_file=self.key_file("two", f"a:{KEY}\nb:{KEY}\n"))

    def test_silence(self):
        """Somebody who says nothing, or not enough, is let go; in clear text and in TLS."""
        settings = [{}] + ([{"psk_file": self.key_file("keys")}] if has_tls() else [])
        targets = [Peer(self.lab, f"target-{number}", **setting)
                   for number, setting in enumerate(settings)]
        silent = []
        for target in targets:
            port = int(target.incoming().rsplit(":", 1)[1])
            for words in (b"", b"{\"type\": ", b"\x16\x03\x01\x01\x00\x01"):
                silent.append(self.lab.connections.enter_context(
                    socket.create_connection(("127.0.0.1", port), PATIENCE_S)))
                silent[-1].sendall(words)
        for peer in silent:
            with contextlib.suppress(ConnectionResetError):
                while peer.recv(4096):
                    pass
        for target in targets:
            wait_until("all are gone", lambda t=target: t.security()["peers-refused"] == 3)
            self.assertEqual(target.vmm.command("query-status")["status"], "incoming")

    def test_unix_socket(self):
        """A guest moves to the engine next door and back."""
        here = self.lab.host("here", **GUEST)
        there = self.lab.host("there", incoming="yes", **GUEST)
        here.wait_ready()
        for source, target in ((here, there), (there, here)):
            path = os.path.join(target.folder, "peer.sock")
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            # A file that an engine left behind when it was killed.
            with socket.socket(socket.AF_UNIX) as old:
                old.bind(path)
            uri = target.engine_command("migrate-incoming", uri="unix:" + path)["uri"]
            self.assertEqual(uri, "unix:" + path)
            self.assertEqual(stat.S_IMODE(os.lstat(path).st_mode), 0o600)
            self.assertEqual(self.hop(source, target, uri)["peer-link"], "none")
        third = Peer(self.lab, "third")
        self.refused(["another engine"], third.vmm, "migrate-incoming", uri=uri)

    def test_unix_socket_of_somebody_else(self):
        """As root the test can be another user: nobody."""
        if os.geteuid() != 0:
            self.skipTest("another user's process can only be made by root")
        target = Peer(self.lab, "target")
        path = os.path.join(target.folder, "peer.sock")
        target.incoming("unix:" + path)
        for folder in (self.lab.folder, target.folder):
            os.chmod(folder, 0o755)
        os.chmod(path, 0o666)  # even then
        script = ("import socket,sys; s=socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]);"
                  "s.settimeout(60); sys.exit(0 if s.recv(1) == b'' else 1)")
        done = subprocess.run(["python3", "-c", script, path], user=65534, timeout=PATIENCE_S,
                              check=False)
        self.assertEqual(done.returncode, 0)
        self.assertEqual(target.security()["peers-refused"], 0, "it was let in to be refused")
        # And a source that is led to somebody else's socket.
        source = Peer(self.lab, "source")
        with socket.socket(socket.AF_UNIX) as server:
            other = os.path.join(self.lab.folder, "other.sock")
            server.bind(other)
            os.seteuid(65534)
            try:
                server.listen()
            finally:
                os.seteuid(0)
            self.fails(source, "unix:" + other, "belongs to another user")

    def test_names_and_ipv6(self):
        source, target = Peer(self.lab, "source"), Peer(self.lab, "target")
        self.assertRegex(target.incoming("tcp:localhost:0"), r"^tcp:(127\.0\.0\.1|\[::1\]):\d+$")
        uris = [target.incoming("tcp:127.0.0.1:0").replace("127.0.0.1", "localhost")]
        if socket.has_ipv6 and os.path.exists("/proc/net/if_inet6"):
            uris.append("tcp:[::1]:")
        for uri in uris:
            uri = target.incoming(uri + "0") if uri.endswith("]:") else uri
            source.vmm.events.clear()
            source.vmm.command("migrate", uri=uri)
            source.vmm.wait_event("DIRTY_SYNC", PATIENCE_S)
            source.vmm.command("migrate_cancel")
            target.vmm.wait_event("MIGRATION", PATIENCE_S, ENDED)
            target.vmm.events.clear()

    def test_cli(self):
        source, target = Peer(self.lab, "source"), Peer(self.lab, "target")
        target.incoming()

        def sluice(*arguments, expect=0):
            done = subprocess.run([lab_module.program("sluice"), "--socket", source.path, *arguments],
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
                                  universal_newlines=True, timeout=PATIENCE_S)
            print(f"$ sluice {' '.join(arguments)}\n{done.stdout}", flush=True)
            self.assertEqual(done.returncode, expect, done.stdout)
            return done.stdout

        self.assertIn("security   peer link in clear text; lanes stay on this host", sluice("status"))
        self.assertIn("not on this host", sluice("migrate", "tcp:192.0.2.7:4444", expect=1))
        self.assertIn("set psk-file", sluice(
            "migrate", "tcp:127.0.0.1:1", "--set", "security=psk", expect=1))
        if has_tls():
            sluice("params", "psk-file=" + self.key_file("keys"), "security=auto")
            self.assertIn("security   peer link encrypted (TLS, pre-shared key); lanes stay",
                          sluice("status"))
            self.assertIn("peer link is encrypted", sluice("preflight"))


class Tickets(PeerTest):
    """The test is the source: it knows a ticket and shows it when it should not."""

    def hello(self, uri, session):
        """A peer link, the rail that is told on it, and a ticket for it."""
        peer = socket.create_connection(("127.0.0.1", int(uri.rsplit(":", 1)[1])), PATIENCE_S)
        self.lab.connections.enter_context(peer)
        peer.sendall(json.dumps({
            "type": "hello", "protocol": 1, "version": "0", "features": [], "session": session,
            "instance": "1" * 32, "transports": ["tcp"], "lanes": 1, "regions": [
                {"id": "low", "gpa": 0, "size": 8 * MIB, "page-size": 4096}]}).encode() + b"\n")
        lines = peer.makefile()
        rail, welcome = json.loads(lines.readline()), json.loads(lines.readline())
        self.assertEqual((rail["type"], welcome["type"]), ("rail", "welcome"), (rail, welcome))
        peer.sendall(json.dumps({"type": "lane-open", "lane": 0, "epoch": 1,
                                 "rail": rail["rail"]}).encode() + b"\n")
        while True:
            message = json.loads(lines.readline())
            if message["type"] == "lane-ticket":
                return peer, rail, message["ticket"]

    def show(self, rail, ticket):
        """Whether a lane with this ticket is welcome (see transports/tcp/wire.h)."""
        xxh3 = ctypes.CDLL("libxxhash.so.0").XXH3_64bits
        xxh3.restype, xxh3.argtypes = ctypes.c_uint64, [ctypes.c_char_p, ctypes.c_size_t]
        rest = struct.pack("<IHHII", 0x48554c53, 1, 0, 0, 1) + bytes.fromhex(ticket)
        host, port = rail["address"].rsplit(":", 1)
        lane = socket.create_connection((host, int(port)), PATIENCE_S)
        self.lab.connections.enter_context(lane)
        lane.sendall(struct.pack("<Q", xxh3(rest, len(rest))) + rest)
        try:
            return len(lane.recv(24)) > 0
        except ConnectionResetError:
            return False

    def refused_count(self, target, count):
        wait_until(f"{count} lanes were refused",
                   lambda: target.security()["lanes-refused"] == count)

    def test_twice_and_of_another_session(self):
        target = Peer(self.lab, "target")
        uri = target.incoming()
        peer, rail, first = self.hello(uri, "a" * 32)
        self.assertTrue(self.show(rail, first))
        self.assertFalse(self.show(rail, first), "a ticket was taken twice")
        self.refused_count(target, 1)
        self.assertFalse(self.show(rail, "00" * 32), "a guess was taken")
        self.refused_count(target, 2)
        peer.sendall(b'{"type": "abort", "reason": "test"}\n')
        target.vmm.wait_event("MIGRATION", PATIENCE_S, ENDED)

        # Of a session that ended before its ticket was used, in the next one.
        peer, rail, second = self.hello(target.incoming(), "b" * 32)
        peer.sendall(b'{"type": "abort", "reason": "test"}\n')
        target.vmm.wait_event("MIGRATION", PATIENCE_S, ENDED)
        self.assertFalse(self.show(rail, second), "its session was over")
        self.refused_count(target, 3)
        peer, rail, third = self.hello(target.incoming(), "c" * 32)
        self.assertFalse(self.show(rail, second), "it was another session's")
        self.refused_count(target, 4)
        self.assertTrue(self.show(rail, third))

    def test_of_a_closed_link(self):
        target = Peer(self.lab, "target")
        peer, rail, ticket = self.hello(target.incoming(), "d" * 32)
        peer.close()
        wait_until("the link is closed", lambda: all(
            lane["state"] == "closed" for lane in target.vmm.command("query-lanes")))
        self.assertFalse(self.show(rail, ticket), "its link was closed")
        self.refused_count(target, 1)

    def test_too_late(self):
        target = Peer(self.lab, "target", lane_timeout="200ms")
        _, rail, ticket = self.hello(target.incoming(), "e" * 32)
        wait_until("nobody waits for it any more", lambda: target.vmm.command(
            "query-lanes")[0]["state"] == "lost")
        self.assertFalse(self.show(rail, ticket), "it had expired")
        self.refused_count(target, 1)


class Network(NetworkTest, PeerTest):
    """Two hosts and a network between them."""

    def setUp(self):
        super().setUp()
        self.add_cable("wire", "198.51.100.{}/24", "fd00:5::{}/64")

    def engine(self, number, name=None, **settings):
        """On host 1 or 2; lanes may use the network unless the test says otherwise."""
        settings = {"rail": f"198.51.100.{number}:0", "lane_security": "none", **settings}
        return Peer(self.lab, name or f"host{number}", self.namespaces[number - 1], **settings)

    def test_clear_text_is_refused(self):
        uri = "tcp:198.51.100.2:4444"
        source, target = self.engine(1), self.engine(2)
        words = ["not on this host", "psk-file at both ends", "security: none at both ends"]
        self.refused(words, source.vmm, "migrate", uri=uri)
        for wide in (uri, "tcp:0:4444", "tcp::4444", "tcp:[::]:4444", "tcp:[fd00:5::2]:4444"):
            self.refused(words, target.vmm, "migrate-incoming", uri=wide)
        # The peer link may, lanes may not.
        source = self.engine(1, "source2", security="none", lane_security="auto")
        target = self.engine(2, "target2", security="none", lane_security="auto")
        words = ["lanes", "clear text", "lane-security: none at both ends"]
        self.refused(words, source.vmm, "migrate", uri=uri)
        self.refused(words, target.vmm, "migrate-incoming", uri=uri)
        # What was allowed when it began to wait, and is not any more.
        target = self.engine(2, "target4", security="none")
        uri = target.incoming("tcp:198.51.100.2:0")
        target.vmm.command("migrate-set-parameters", security="auto")
        source = self.engine(1, "source4", security="none")
        self.fails(source, uri, "the peer link was lost")
        self.tells(target, "in clear text", "psk-file")
        # Lanes that wait where the other host cannot come.
        target = self.engine(2, "target3", security="none", rail="127.0.0.1:0")
        self.refused(["rail=ADDRESS:0"], target.vmm, "migrate-incoming", uri=uri)

    def test_a_source_is_not_led_out(self):
        """A peer on this host names lanes on another one."""
        source = self.engine(1, "source", rail="127.0.0.1:0", lane_security="auto")
        target = self.engine(1, "target", rail="198.51.100.1:0", lane_security="none")
        self.fails(source, target.incoming(), "198.51.100.1", "lane-security: none")

    def test_wrong_key_over_the_network(self):
        self.need_tls()
        target = self.engine(2, psk_file=self.key_file("a"))
        source = self.engine(1, psk_file=self.key_file("b", f"host:{OTHER_KEY}\n"))
        self.fails(source, target.incoming("tcp:198.51.100.2:0"), "different keys")
        self.tells(target, "different keys")

    def test_there_and_back(self):
        """Whole migrations: with a key over IPv4 and IPv6, and in clear text where it is allowed."""
        hosts = [self.lab.host(f"host{number}", netns=netns, engine_set={
            "rail": f"198.51.100.{number}:0", "lane-security": "none"},
            incoming="yes" if number == 2 else "no", **GUEST)
                 for number, netns in enumerate(self.namespaces, 1)]
        hosts[0].wait_ready()
        key = self.key_file("keys")
        ways = [("tcp:198.51.100.2:0", {"security": "none"}, "none")]
        if has_tls():
            ways = [("tcp:198.51.100.2:0", {"psk-file": key}, "psk"),
                    ("tcp:[fd00:5::1]:0", {"psk-file": key}, "psk"),
                    ("tcp:198.51.100.2:0", {"psk-file": "", "security": "none"}, "none")]
        for wide, settings, peer_link in ways:
            source, target = hosts
            for host in hosts:
                host.engine_command("migrate-set-parameters", **settings)
            uri = target.engine_command("migrate-incoming", uri=wide)["uri"]
            security = self.hop(source, target, uri, lanes=3)
            print(f"  {uri}: {security}", flush=True)
            self.assertEqual(security["peer-link"], peer_link)
            self.assertEqual(security["lanes"], "clear-text")
            self.assertEqual(security["lanes-refused"], 0)
            hosts.reverse()


if __name__ == "__main__":
    lab_module.main("refvm", "sluiced", "sluice")
