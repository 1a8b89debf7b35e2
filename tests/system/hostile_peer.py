#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""hostile_peer: bad input on the peer link, towards a target and towards a source. The session
fails, the engine lives on, the guest's memory is what it was, and the next migration works.
"""

import json
import os
import select
import socket
import struct
import sys
import time

import lab as lab_module
from hand import MIB, ROOT, Attempts, Engine, answer_source, migrate_by_hand
from lab import OVER_RDMA, LabTest, wait_until
from qmp import QmpError
from spoil import spoil

sys.path.insert(0, os.path.join(ROOT, "tests", "fuzz"))

import corpus  # noqa: E402

RAM = 8 * MIB
FILL = 0x5a
WAIT_S = 60.0
TRANSPORT, OTHER = ("rdma", "tcp") if OVER_RDMA else ("tcp", "rdma")
TICKET = corpus.peer_message("lane-ticket", ticket="ab" * 32)
# Over RDMA only what has to do with lanes and their keys.
KINDS = (("hello", "rail", "welcome", "lane-open", "lane-ticket", "region-added") if OVER_RDMA
         else tuple(corpus.PEER["messages"]))
NOBODY_THERE = "10.77.0.9:7"  # on a cable of scripts/rxe-setup
REGION = {"id": "low", "gpa": 0, "size": RAM, "page-size": 4096}


class Peer:
    """One end of a peer link, in the clear."""

    def __init__(self, sock):
        self.sock, self.buffer = sock, b""

    @classmethod
    def to(cls, uri):
        return cls(socket.create_connection(("127.0.0.1", int(uri.rsplit(":", 1)[1]))))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        # By a reset: so many connections would leave no port.
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def say(self, message):
        data = message if isinstance(message, bytes) else json.dumps(message).encode() + b"\n"
        try:
            self.sock.sendall(data)
        except OSError:
            pass  # it hung up while we spoke: what it says tells why

    def hear(self, *wanted, timeout_s=WAIT_S):
        """The next message of these types (any, without), or None when it has hung up."""
        deadline = time.monotonic() + timeout_s
        while True:
            while b"\n" not in self.buffer:
                if not select.select([self.sock], [], [], max(0, deadline - time.monotonic()))[0]:
                    raise AssertionError(f"heard no {wanted}")
                try:
                    data = self.sock.recv(1 << 16)
                except ConnectionError:
                    data = b""
                if not data:
                    return None
                self.buffer += data
            line, self.buffer = self.buffer.split(b"\n", 1)
            message = json.loads(line)
            if message["type"] != "ping" and (not wanted or message["type"] in wanted):
                return message

    def last_words(self):
        """Why it hangs up, in its own words; it does."""
        words = ""
        while True:
            message = self.hear()
            if message is None:
                return words
            words = message.get("error") or message.get("reason") or words


class HostilePeer(LabTest):
    def setUp(self):
        self.attempts = Attempts("The peer link", self.lab.folder)
        self.engines = [Engine(self.lab, "source", lanes=1, workers=1, transport=TRANSPORT),
                        Engine(self.lab, "target", lanes=1, workers=1, transport=TRANSPORT)]
        self.source, self.target = self.engines
        self.source.add_memory("low", RAM, fill=FILL)
        self.target.add_memory("low", RAM)
        self.sessions = 0

    def settle(self):
        # What failed took its threads and descriptors along.
        for engine, ram in ((self.source, bytes([FILL])), (self.target, bytes(1))):
            self.assertEqual(engine.regions["low"][:], ram * RAM)
            self.assertIsNone(engine.child.poll())
        migrate_by_hand(self.source, self.target)
        self.attempts.settle()

    def hello(self, **changes):
        self.sessions += 1
        return corpus.peer_message("hello", **{
            "session": f"{self.sessions:032x}", "regions": [REGION], "transports": [TRANSPORT], **changes})

    def begin(self, uri):
        """A session at the target that waits for its lane, and its welcome."""
        peer = Peer.to(uri)
        peer.say(self.hello())
        peer.rail = peer.hear("rail", "refuse")
        self.assertEqual(peer.rail["type"], "rail", peer.rail)
        return peer, peer.hear("welcome")

    def end_session(self):
        """Some mistakes cost only the link: the session would wait for its source."""
        try:
            self.target.vmm.command("migrate_cancel")
        except QmpError:
            pass  # it is over
        self.assertEqual(self.target.vmm.command("query-migrate")["status"], "failed")
        self.check_alive()

    def check_alive(self):
        self.assertIn(self.target.vmm.command("query-status")["status"],
                      ("incoming", "ended", "target"))
        self.target.vmm.events.clear()

    # ---- towards a target ----

    def test_strangers(self):
        uri = self.target.incoming()
        said = [
            ("garbage first bytes", os.urandom(64).replace(b"\n", b"x").replace(b"{", b"x")
             .replace(b"\x16", b"x") + b"\n", "not an object"),
            ("HTTP", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "not an object"),
            ("SSH", b"SSH-2.0-OpenSSH_9.2\r\n", "not an object"),
            ("an empty object", b"{}\n", "is it another version, or no engine at all?"),
            ("a message of unknown type", {"type": "attack"}, "unknown type \"attack\""),
            ("a line of 2 MiB", b'{"type": "' + b"x" * (2 * MIB) + b'"}\n', "longer than"),
            ("a line without end", b"x" * (2 * MIB), "longer than"),
            ("a megabyte of braces", b"{" * MIB, "nested deeper"),
            ("a finish before a hello", corpus.peer_message("finish"), "begins with hello"),
            ("another protocol version", self.hello(protocol=2), "use engines of the same version"),
            ("another transport", self.hello(transports=["carrier-pigeon"]), "carrier-pigeon"),
            ("0 lanes", self.hello(lanes=0), "from 1 to"),
            ("no regions", {**self.hello(), "regions": []}, "add the same regions"),
            ("a session id that is no hexadecimal", {**self.hello(), "session": "../" * 10 + "xx"},
             "hexadecimal"),
        ]
        for what, message, words in said:
            with Peer.to(uri) as peer:
                peer.say(message)
                text = peer.last_words()
                self.assertIn(words, text, what)
                self.attempts.got(what, text)
            self.check_alive()
        with Peer.to(uri) as peer:
            peer.say(b'{"type": "hel')
            self.check_alive()
        self.attempts.got("half a message and a hang-up", "nothing; the connection is forgotten")
        self.settle()

    def test_crowd(self):
        """Those who only sit there keep nobody out."""
        uri = self.target.incoming()
        files = self.target.open_files()
        crowd = [Peer.to(uri) for _ in range(200)]
        for index, peer in enumerate(crowd):
            peer.say(b"{" if index % 2 else b'{"type": "hello", "protocol": ')
        peer, _ = self.begin(uri)
        peer.say(corpus.peer_message("abort", reason="done"))
        self.assertEqual(self.target.vmm.wait_event("MIGRATION", WAIT_S, ("failed",))["status"],
                         "failed")
        peer.close()
        self.attempts.got("200 connections that say half a message and wait",
                          "the newest 8 are kept, for 5 s at most; the right source gets in")
        for peer in crowd:
            peer.close()
        wait_until("the crowd is gone", lambda: self.target.open_files() <= files + 4)
        self.settle()

    def test_slow_loris(self):
        """A byte now and then buys no time."""
        uri = self.target.incoming()
        begin = time.monotonic()
        with Peer.to(uri) as peer:
            hello = json.dumps(self.hello()).encode()
            hung_up = False
            for byte in hello:
                peer.say(bytes([byte]))
                if select.select([peer.sock], [], [], 0.05)[0]:
                    hung_up = True
                    break
            took_s = time.monotonic() - begin
            self.assertTrue(hung_up)
            self.assertGreater(took_s, 3)
        self.check_alive()
        self.attempts.got("a hello of a byte every 50 ms", "closed after 5 s")
        self.settle()

    def spoil_all(self, attack):
        """Each message of KINDS, spoiled in each way, given to @attack."""
        count = 0
        for kind in KINDS:
            message = self.hello() if kind == "hello" else corpus.peer_message(kind)
            ways = list(spoil(corpus.PEER, kind, message))
            ways += [("type missing", "type", {k: v for k, v in message.items() if k != "type"}),
                     ("type a number", "type", {**message, "type": 1})]
            for what, member, bad in ways:
                with self.subTest(f"{kind}: {what}"):
                    words = attack(kind, bad)
                    self.assertTrue(member in words or "JSON parse error" in words, words)
                count += 1
        print(f"  {count} spoiled messages", flush=True)
        self.assertGreater(count, 10 * len(KINDS))

    def test_spoiled_for_target(self):
        uri = self.target.incoming()

        def attack(kind, bad):
            if kind == "hello":
                peer = Peer.to(uri)
            else:
                peer, _ = self.begin(uri)
            with peer:
                peer.say(bad)
                return peer.last_words()

        self.spoil_all(attack)
        self.check_alive()
        self.attempts.got("every message of the page, each member missing, of each wrong type, out "
                          "of its range, unknown: to a target",
                          "told which member and what was expected; the session is burnt")
        self.settle()

    def test_wrong_state(self):
        """What fits the schema and comes at the wrong moment."""
        uri = self.target.incoming()
        for kind in corpus.PEER["messages"]:
            if kind in ("ping", "pong", "resolve", "abort", "region-remove"):
                continue  # welcome at this moment
            peer, _ = self.begin(uri)
            with peer:
                message = corpus.peer_message(kind, **(
                    {"epoch": 7} if kind in ("fence", "lane-open") else {"devices": 5} if kind == "finish" else {}))
                peer.say(message)
                if kind == "device":
                    peer.say(message)  # the same twice
                text = peer.hear("abort", "decision", "refuse")
                text = text.get("reason") or text.get("error") or text.get("decision")
                self.attempts.got(f"\"{kind}\" while it waits for lanes", text)
            self.end_session()
        self.settle()

    def test_sessions(self):
        """Wrong, unknown and repeated sessions."""
        uri = self.target.incoming()
        session = "e" * 32

        def ask(session):
            with Peer.to(uri) as peer:
                peer.say(corpus.peer_message("resolve", session=session, decision="committed"))
                self.assertEqual(peer.hear("decision")["decision"], "aborted")

        os.makedirs(self.target.runtime, mode=0o700, exist_ok=True)
        before = set(os.listdir(self.target.runtime))
        for i in range(50):
            ask(f"{i:032x}")
        self.assertEqual(set(os.listdir(self.target.runtime)), before, "left behind by questions")
        self.attempts.got("questions about sessions that never were, \"committed\"",
                          "answered with aborted; they leave no files")
        with open(os.path.join(self.target.runtime, f"session-{session}.target.begun"), "wb"):
            ask(session)
        self.attempts.got("a question about a session that an engine began that is gone",
                          "answered with aborted, which is on record from then on")
        with Peer.to(uri) as peer:
            peer.say({**self.hello(), "session": session})
            text = peer.last_words()
            self.assertIn("was aborted here before", text)
            self.attempts.got("a hello for a session that was decided", text)
        first, _ = self.begin(uri)
        with first, Peer.to(uri) as second:
            second.say(self.hello())
            text = second.last_words()
            self.assertIn("a migration is running", text)
            self.attempts.got("a second hello, from another peer", text)
            first.say({"type": "ping", "n": 7})
            self.assertEqual(first.hear("pong")["n"], 7)
            first.say(self.hello())
            text = first.hear("abort")["reason"]
            self.assertIn("hello", text)
            self.attempts.got("a second hello, from the same peer", text)
        self.settle()

    def lane(self, rail, hello):
        """A connection to the rail, and what it says first; whether it is closed on us."""
        host, port = rail["address"].rsplit(":", 1)
        sock = socket.create_connection((host.strip("[]"), int(port)))
        with sock:
            sock.sendall(hello)
            sock.settimeout(WAIT_S)
            try:
                return sock.recv(100) == b""
            except ConnectionError:
                return True

    def test_lane_strangers(self):
        """tests/conformance/tcp_hostile.c does this in depth; here against a whole engine."""
        if OVER_RDMA:
            self.skipTest("over RDMA strangers come by rdma_cm; tests/conformance/rdma_hostile.c is one")
        uri = self.target.incoming()
        peer, _ = self.begin(uri)
        with peer:
            peer.say(corpus.peer_message("lane-open"))
            ticket = peer.hear("lane-ticket")["ticket"]
            head = struct.pack("<QIHHII", 0, 0x48554c53, 1, 0, 0, 1)
            for what, hello in (("garbage", b"x" * 56), ("HTTP", b"GET / HTTP/1.1\r\n" * 4),
                                ("a ticket without a checksum",
                                 head + bytes.fromhex(ticket)),
                                ("the end of the hello", b"")):
                if hello:
                    self.assertTrue(self.lane(peer.rail, hello), what)
            peer.say({"type": "ping", "n": 1})
            self.assertEqual(peer.hear("pong")["n"], 1)
            peer.say(corpus.peer_message("abort", reason="done"))
            self.assertIn("done", peer.hear("abort")["reason"])
        self.attempts.got("garbage, HTTP, a ticket without its checksum, where lanes connect",
                          "closed without a word; the session goes on")
        self.settle()

    # ---- towards a source ----

    def migrating(self, server):
        """The source's engine has said hello to us."""
        self.source.vmm.events.clear()
        self.source.vmm.command("migrate", uri=f"tcp:127.0.0.1:{server.getsockname()[1]}")
        server.settimeout(WAIT_S)
        while True:
            peer = Peer(server.accept()[0])
            message = peer.hear()
            if message is not None and message["type"] == "hello":
                return peer
            peer.close()  # the session before came once more, to learn how it ended

    def fails(self):
        end = answer_source(self.source)
        self.assertEqual(end["status"], "failed", end)
        return end["error-desc"]

    def test_spoiled_for_source(self):
        with socket.create_server(("127.0.0.1", 0)) as server:

            def attack(_, bad):
                with self.migrating(server) as peer:
                    peer.say(bad)
                    return self.fails()

            self.spoil_all(attack)
        self.attempts.got("every message of the page, each member missing, of each wrong type, out "
                          "of its range, unknown: to a source",
                          "the migration fails with the member and what was expected; the guest stays")
        self.settle()

    def rail_lost_while_connecting(self, server):
        """Its lanes are all there is, and go with its keys: one failure, not two."""
        other, welcome = self.begin(self.target.incoming())
        # There they connect, and nobody says a word.
        address = NOBODY_THERE if OVER_RDMA else f"127.0.0.1:{server.getsockname()[1]}"
        rail = {**other.rail, "address": address}
        with other, self.migrating(server) as peer:
            for message in (rail, welcome, TICKET, {**rail, "staging-key": "zz"}):
                peer.say(message)
            text = self.fails()
            self.assertIn("could not be connected, nor any other", text)
            self.source.vmm.command("query-status")  # it lives
            self.attempts.got("a rail that is told anew, with a staging key that is no "
                              "hexadecimal, while its lanes connect", text)
        self.end_session()

    def bad_welcomes(self, server):
        """A real rail and welcome with one thing changed."""
        for what, change, words in (
                ("a welcome with 16 GiB of slots", {"slots": 256, "slot-bytes": 64 * MIB},
                 "more than 1 GiB"),
                ("a welcome with slots that are no pages", {"slot-bytes": 4097}, "multiple of 4096"),
                ("a welcome with a region's map that is too long",
                 {"regions": lambda regions: [{**regions[0], "nonzero": [0, 5]}]},
                 "longer than the region"),
                ("a rail at no address", {"address": "nowhere"}, "nowhere"),
                ("a rail with a key that is no key", {"keys": ["00" * 32]}, "key"),
                ("a rail with a key that is no hexadecimal", {"keys": ["xyz"]}, "not hexadecimal"),
                ("a rail with a key too few", {"keys": []}, "other regions"),
                ("a rail of another transport", {"transport": OTHER}, "offers no rail of"),
                ("a rail that is told twice", {"twice": True}, "told one rail twice"),
                ("a rail behind the welcome", {"again": {"rail": 5}}, "behind its welcome"),
                ("a rail that is told anew, of another transport", {"again": {"transport": OTHER}},
                 "behind its welcome"),
                ("a rail that is told anew, at no address", {"again": {"address": "nowhere"}},
                 "nowhere"),
                ("a rail that is told anew, with a key that is no key",
                 {"again": {"keys": ["00" * 32]}}, "key"),
                ("a rail that is told anew, with a staging key that is no hexadecimal",
                 {"again": {"staging-key": "xyz"}}, "not hexadecimal")):
            other, welcome = self.begin(self.target.incoming())
            change = dict(change)
            again = [{**other.rail, **change.pop("again")}] if "again" in change else []
            for name, value in change.items():
                message = welcome if name in welcome else other.rail
                message[name] = value(message[name]) if callable(value) else value
            twice = other.rail.pop("twice", False)
            with self.subTest(what), other, self.migrating(server) as peer:
                for message in (other.rail, other.rail if twice else welcome, *again, TICKET):
                    peer.say(message)
                text = self.fails()
                self.assertIn(words, text)
                self.attempts.got(what, text)
            self.end_session()

    def test_bad_targets(self):
        welcome = corpus.peer_message("welcome")
        with socket.create_server(("127.0.0.1", 0)) as server:
            for what, message, words in (
                    ("garbage instead of a welcome", b"\x00\xff\xfe not today\n", "not an object"),
                    ("a line without end", b"x" * (2 * MIB), "longer than"),
                    ("a welcome of another version", {**welcome, "protocol": 9},
                     "use engines of the same version"),
                    ("a welcome with too few regions", {**welcome, "regions": []}, "0 regions"),
                    ("a welcome without a rail", {**welcome, "regions": [{"nonzero": []}]},
                     "offers no rail of"),
                    ("a message that only a source may send", corpus.peer_message("finish"),
                     "\"finish\" while the migration is"),
                    ("prepared before anything was sent", corpus.peer_message("prepared"),
                     "\"prepared\" while the migration is"),
                    ("committed before anything was decided", corpus.peer_message("committed"),
                     "\"committed\" while the migration is"),
                    ("a refusal", corpus.peer_message("refuse", error="no room"), "no room"),
                    ("an abort", corpus.peer_message("abort", reason="lost interest"),
                     "lost interest"),
            ):
                with self.subTest(what), self.migrating(server) as peer:
                    peer.say(message)
                    text = self.fails()
                    self.assertIn(words, text)
                    self.attempts.got(what, text)
            self.bad_welcomes(server)
            self.rail_lost_while_connecting(server)
            peer = self.migrating(server)
            peer.close()
            self.assertIn("peer link was lost", self.fails())
            self.attempts.got("a hang-up instead of a welcome",
                              "the migration fails: the peer link was lost")
        self.settle()


if __name__ == "__main__":
    lab_module.main("sluiced")
