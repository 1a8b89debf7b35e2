# SPDX-License-Identifier: BSD-3-Clause
"""corpus: the inputs that fuzz targets start from, made from real messages; and old finds.

Seeds are made here, so that a new message of a schema is a seed by itself. Finds are files of
tests/fuzz/finds/TARGET: NAME.txt as it is, NAME.hex as hexadecimal bytes with # comments. A find
stays there for good: every build runs it.
"""

import json
import os
import struct

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
SESSION = "0123456789abcdef0123456789abcdef"
STEPS = "abcdefghijklm"  # session.c: how far a session has come


def schema(name):
    with open(os.path.join(ROOT, name), encoding="utf-8") as file:
        return json.load(file)


PEER = schema("engine/peer/peer-link.json")
VMM = schema("engine/control/vmm-socket.json")

# Values that make sense where the schema alone cannot know one.
KNOWN = {"session": SESSION, "instance": SESSION, "protocol": 1, "transport": "tcp", "transports": ["tcp"],
         "lanes": 1, "keys": ["@KEY@"], "key": "@KEY@", "lacks": [], "rails": [],
         "address": "127.0.0.1:9", "staging-key": "@KEY@", "nonzero": [0, 1],
         "slots": 4, "slot-bytes": 4096, "record-us": 900, "epoch": 1, "lane": 0,
         "features": [], "device": "dev", "devices": 0, "id": "ram", "region": "ram", "gpa": 0,
         "size": 2 << 20, "page-size": 4096, "uri": "tcp:127.0.0.1:0", "fdname": "r",
         "state": "pre-switchover", "ticket": "0" * 64}


def value_of(types, spec, name=""):
    """A value that fits @spec."""
    if "ref" in spec:
        return value_of(types, types[spec["ref"]], name)
    kind = spec["type"]
    if kind == "array":
        if isinstance(KNOWN.get(name), list) and (
                not KNOWN[name] or spec["of"].get("type") != "object"):
            return KNOWN[name]
        return [value_of(types, spec["of"])] if spec.get("max", 1) > 0 else []
    if name in KNOWN and (kind != "enum" or KNOWN[name] in spec["values"]) and \
            (kind != "int" or isinstance(KNOWN[name], int)):
        return KNOWN[name]
    return {
        "str": lambda: "x" * max(1, spec.get("min", 0)),
        "int": lambda: max(0, spec.get("min", 0)),
        "size": lambda: max(4096, spec.get("min", 0)),
        "bool": lambda: True,
        "number": lambda: 1.5,
        "enum": lambda: spec["values"][0],
        "object": lambda: members_of(types, spec["members"]),
        "any": lambda: 1,
    }[kind]()


def members_of(types, members):
    return {name: value_of(types, spec, name) for name, spec in members.items()}


def peer_message(kind, **changes):
    """A message of the peer link that fits the schema."""
    message = {"type": kind, **members_of(PEER.get("types", {}), PEER["messages"][kind]["data"])}
    message.update({name.replace("_", "-"): value for name, value in changes.items()})
    return message


def peer_messages():
    return [peer_message(kind) for kind in PEER["messages"]]


def vmm_command(name):
    return {"execute": name,
            "arguments": members_of(VMM.get("types", {}), VMM["commands"][name].get("args", {}))}


def text(value):
    return json.dumps(value, separators=(",", ":"))


# ---- seeds, by target: name -> bytes or text ----

def seeds_client():
    yield "greeting", '!{"QMP": {"version": {}, "capabilities": []}}\r\n{"return": {}, "id": 1}\r\n'
    yield "refusal", '!{"QMP": {}}\r\n{"error": {"class": "X", "desc": "no"}, "id": 1}\r\n'
    yield "no-greeting", '!{"return": {}}\r\n'
    yield "good", ('{"event": "MIGRATION", "data": {"status": "active"}}\r\n'
                   '{"return": {"status": "active"}, "id": 2}\r\n{"return": {}, "id": 3}\r\n')
    yield "errors", ('{"error": {"class": "GenericError", "desc": "no"}, "id": 2}\r\n'
                     '{"error": {"class": "CommandNotFound"}}\r\n')
    yield "events", "".join(
        text({"event": name, "data": members_of(VMM["types"], event["data"])}) + "\r\n"
        for name, event in VMM["events"].items())
    yield "odd", '{"event": "X", "data": []}\r\n{"event": 1}\r\n{"id": 2}\r\n{}\r\n'


def seeds_psk():
    key = "00112233445566778899aabbccddeeff"
    yield "one", f"vm1:{key}\n"
    yield "several", f"a:{key}\r\n\nvm1:{key * 4}\n#766d31:{key}\n"
    yield "bad", f"vm1\n:{key}\nvm1:{key[:30]}\nvm1:zz\n#00:{key}\n"


# What OpenSSL said with the key of tests/fuzz/tls.c: a ClientHello, and a ServerHello with what follows.
TLS_HELLO = bytes.fromhex(
        "1603010108010001040303ac8f4b9e6bee419c56708ba320634faa5efc5b3f7f81b1f469404395c4d8c05a20"
        "2fa2f45b53a8d69e7d9a5b98effce70d5ccebf8997d32e565cf5d4c948e2831e0004130200ff010000b7000b"
        "000403000102000a00080006001d001700180016000000170000000d001e001c040305030603080708080809"
        "080a080b080408050806040105010601002b0003020304002d00020101003300260024001d00208a3a566901"
        "49f1b6c6ebaece7bd2d4e5f25ca6994aa0b84f0ab3502567fee1440029003e00090003766d31000000000031"
        "30ff42b9bdc72c86a93280ff34e01a5ace550c4abde2b7d32f4fe5df1f3ae2b25bc7b5917709f395713cfc1f"
        "e360351167")
TLS_ANSWER = bytes.fromhex(
        "16030300800200007c0303003b3fe8a006c09e8d8ded00a0e4f491ce5211d8499438beb0b3cc8e201855ca20"
        "2fa2f45b53a8d69e7d9a5b98effce70d5ccebf8997d32e565cf5d4c948e2831e1302000034002b0002030400"
        "330024001d0020e9c2a57f6ff3c95c05eaa15b01d91a28605c2e68dc7c72d959e9e301e2855f500029000200"
        "0014030300010117030300179eb5d471cd7ab1e19de80455da4ac1a917dd2f7756487f17030300450be7c854"
        "bec3eca904bd76709f543ed08f9534e2f2246d0d0d24fae346adf9697b9e65ef9506b84ad733b006dae04536"
        "18e0da2a7dcfb8f133df33c8c49dea61d2a59541fa")


def seeds_tls():
    yield "hello", b"\0" + TLS_HELLO
    yield "answer", b"\1" + TLS_ANSWER
    yield "hello-twice", b"\0" + TLS_HELLO * 2
    yield "half", b"\0" + TLS_HELLO[:len(TLS_HELLO) // 2]
    yield "alert", b"\1" + bytes.fromhex("15030300020228")
    yield "old", b"\0" + TLS_HELLO.replace(b"\x03\x04", b"\x03\x02")
    yield "clear", b"\0" + b'{"type": "hello"}\r\n'
    yield "nothing", b"\1"


def seeds_text():
    for uri in ("tcp:127.0.0.1:4400", "tcp:[::1]:0", "tcp::1", "unix:/run/x", "tcp:host:port", "unix:"):
        yield "connect-" + uri, "c" + uri
        yield "listen-" + uri, "l" + uri
    for cpus in ("0-3,8", "", "4095", "4096", "3-1", "0-4095", "1,1,2-2,", "0-18446744073709551615"):
        yield "cpus-" + cpus, "p" + cpus
    for size in ("64M", "1TiB", "18446744073709551615", "18446744073709551616", "99999999999T"):
        yield "size-" + size, "s" + size
    for time in ("300ms", "0", "5s", "99999999999999s", "1.5s"):
        yield "time-" + time, "t" + time


def seeds_config():
    yield "good", "lanes: 8\ndowntime-limit: 50ms\nmemory-budget: 64MiB\nthrottle: no\n"
    yield "tcp", "---\ntcp.nodelay: yes\ntcp.send-buffer: 1M\n# a comment\n"
    yield "alias", "a: &a [x, x]\nb: &b [*a, *a]\nlanes: *b\n"
    yield "nested", "lanes: {a: {b: [[[1]]]}}\n"
    yield "twice", "lanes: 1\nlanes: 2\n"
    yield "unknown", "lane: 1\n"
    yield "two-documents", "lanes: 1\n---\nlanes: 2\n"
    yield "set", "s\nlanes=4\nlanes=129\nlans=4\nspin=20us\npin=onfault\nrail=127.0.0.1:1\nx\n=\n"
    yield "tag", "lanes: !!int \"4\"\npin: 'none'\nrail: |\n  127.0.0.1:0\n"


def seeds_record():
    for decision in ("committed", "aborted", "undecided"):
        yield decision, text({"session": SESSION, "decision": decision}) + "\n"
    yield "other", text({"session": "f" * 32, "decision": "committed"}) + "\n"
    yield "twice", '{"decision":"aborted","session":"%s","decision":"committed"}' % SESSION
    yield "cut", '{"session": "%s", "decision": "commi' % SESSION


def seeds_segments():
    def sound(device, last, seq, slot, len_bytes):
        return bytes([1, 0, device, last, seq, slot]) + struct.pack("<I", len_bytes)
    raw = struct.pack("<IIIII", 0x53445631, 1 << 16, 0, 3, 100)
    yield "raw", bytes([0, 20]) + raw + bytes([3, 0, 4])
    yield "order", sound(0, 1, 1, 1, 9) + sound(0, 1, 0, 0, 9) + bytes([3, 0, 4, 3, 0, 4])
    yield "twice", sound(1, 1, 0, 0, 9) * 2 + sound(1, 1, 0, 2, 9)
    yield "credits", bytes([5, 5, 6, 1, 6, 0, 7, 1, 0, 7, 0, 1, 0, 8, 0, 6, 1, 7, 1, 1, 7, 1, 1])


def seeds_view():
    ram = {"total": 1 << 30, "remaining": 1 << 20, "transferred": 1 << 29, "dirty-pages-rate": 900}
    migrate = {"status": "active", "session": SESSION, "total-time": 812, "expected-downtime-us": 4100,
               "ram": ram, "bytes-per-second": 3e9}
    lane = {"lane": 0, "state": "active", "worker": 1, "bytes": 1 << 28, "inflight-bytes": 1 << 20,
            "busy-ns": 900, "idle-ns": 100}
    done = {"status": "completed", "ram": ram, "downtime": 4, "error-desc": "none"}
    yield "active", b"P\x18\x07" + "\n".join(
        [text(migrate), text([lane, lane]), text([{**lane, "bytes": 0, "busy-ns": 1}])]).encode()
    yield "done", b"\x00\x00\x01" + (text(done) + "\n[]\n").encode()
    yield "narrow", b"\x05\x03\x03" + (text(migrate) + "\n" + text([lane] * 9)).encode()


def frame(options, kind, count=0, body=b"", payload=0, first=0, ack=0):
    header = struct.pack("<QIBBHIIQQ", 0, 0x46554c53, 1, kind, count, len(body), payload, first, ack)
    return bytes([options]) + header + bytes([len(body) // 4]) + body


def entry(offset, len_bytes, kind, mem=7):
    return struct.pack("<QIIB7x", offset, mem, len_bytes, kind)


def seeds_tcp_target():
    two = entry(0, 4096, 1) + entry(8192, 4096, 2)
    checked, mended = 16, 16 + 2 + 4
    yield "data", frame(checked, 1, 2, two, 4096)
    yield "three", frame(mended, 1, 2, two, 4096) + frame(mended, 2, 0, b"hi__") + frame(mended, 3)
    yield "past-the-end", frame(checked, 1, 1, entry(65536 - 8, 4096, 1), 4096)
    yield "overlapping", frame(mended, 1, 4, entry(0, 8192, 1) + entry(4096, 4096, 2) +
                               entry(4096, 8192, 1) + entry(0, 16384, 2))
    yield "read-only", frame(checked, 1, 1, entry(0, 4096, 1, 8), 4096)
    yield "in-pieces", frame(mended + 64, 1, 2, two) + frame(127, 1, 2, two) * 3
    yield "no-payload", frame(mended + 32, 1, 2, two)


def seeds_tcp_source():
    def answer(kind, ack, options=15):
        return bytes([1, options, 0]) + struct.pack(
            "<QIBBHIIQQ", 0, 0x46554c53, 1, kind, 0, 0, 0, 0, ack)
    write, zero, send, flush = (bytes([0, 0, kind, 1]) for kind in range(4))
    flush, send = flush[:3], send
    greeting = bytes([0, 0])
    yield "good", greeting + write + zero + flush + answer(3, 1) + answer(3, 2)
    yield "too-much", greeting + write + answer(3, 9, 13)
    yield "back", greeting + write + write + answer(3, 2) + answer(3, 1)
    yield "send", greeting + send + flush + answer(2, 0) + answer(3, 1)
    yield "data", greeting + answer(1, 0)
    yield "welcome", bytes([0, 1])


def seeds_session():
    """Every message at every step, to both; then what a bad one of each may do."""
    for message in peer_messages():
        line = text(message).replace('"tcp"', '"sim"')
        for step in STEPS:
            yield f"{step}-{message['type']}", f"{step}\nS{line}\nT{line}\n>\n<\n+ 5\n"
    for step in STEPS:
        yield f"{step}-commands", "\n".join(
            [step, "c pre-switchover", *"dDo", "y 1", "c commit", "+ 9", *"><xXlLbBrRv", ""])
        yield f"{step}-lost", f"{step}\nl\n+ 20\nb\n>\n<\n+ 20\n"
    held = text(peer_message("fenced", held=[0, 1, 255]))
    yield "held", f"f\nS{held}\n"
    yield "credits", "f\nS" + text(peer_message("credit", slots=[0, 0, 255])) + "\n"


def seeds_vmm_socket():
    caps = '{"execute":"qmp_capabilities"}\n'
    for name in VMM["commands"]:
        yield name, caps + text(vmm_command(name)) + "\n"
        yield name + "-ready", "@memory\n" + text(vmm_command(name)) + "\n"
    for kind in ("memfd", "small", "unsealed", "bitmap", "pipe", "null", "dir", "rdonly"):
        yield "fd-" + kind, (f'{caps}@fd {kind}\n{text(vmm_command("getfd"))}\n'
                             f'{text(vmm_command("memory-add"))}\n@fd {kind}\n'
                             f'{text(vmm_command("getfd"))}\n{text(vmm_command("feed-add"))}\n')
    yield "many-fds", caps + "@fds 70\n" + text(vmm_command("getfd")) + "\n"
    yield "stray-fd", caps + "@fd null\n" + text(vmm_command("query-status")) + "\n"
    yield "half", caps + '{"execute":"query-st'
    yield "two", ("@memory\n@other\n" + caps + text(vmm_command("memory-remove")) + "\n@close\n@vmm\n"
                  "@close\n@other\n" + caps + text(vmm_command("memory-remove")) + "\n")
    yield "braces", caps + "{" * 40 + "\n[[[[\n}{\n"
    yield "migrating", "@memory\n@migrate\n@vmm\n" + text(vmm_command("memory-add")) + "\n@close\n"
    yield "strings", caps + '{"execute":"x\\u0000","id":"\\ud800"}\n{"execute":"\xff"}\n{"a":1,"a":2}\n'
    yield "numbers", caps + '{"execute":1e999}\n{"execute":"x","id":99999999999999999999}\n{"id":NaN}\n'


def seeds_peer_link():
    hello, device = peer_message("hello"), peer_message("device")
    for message in peer_messages():
        yield message["type"], text(message) + "\n"
        yield "hello-" + message["type"], text(hello) + "\n" + text(message) + "\n"
        yield "source-" + message["type"], "<" + text(message) + "\n"
    yield "to-the-end", "\n".join(text(m) for m in (hello, peer_message("finish"), peer_message(
        "commit"), peer_message("resolve"))) + "\n@peer 1\n" + text(peer_message("resolve")) + "\n"
    yield "devices", text(hello) + "\n" + (text(device) + "\n") * 2
    yield "vmm-leaves", text(hello) + "\n@vmm\n@close\n@peer 0\n" + text(peer_message("finish")) + "\n"
    yield "http", "GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    yield "crowd", "".join(f"@peer {n}\n{{" for n in range(4)) + text(hello) + "\n"


# ---- files ----

def read_hex(path):
    with open(path, encoding="ascii") as file:
        return bytes.fromhex("".join(line.split("#")[0] for line in file))


def finds(target):
    """(name, bytes) of what was found before."""
    folder = os.path.join(HERE, "finds", target)
    for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
        path = os.path.join(folder, name)
        if name.endswith(".hex"):
            yield name, read_hex(path)
        else:
            with open(path, "rb") as file:
                yield name, file.read()


def write(target, folder):
    """All inputs of @target as files of @folder; returns their count."""
    os.makedirs(folder, exist_ok=True)
    inputs = [(f"seed-{name}", data.encode("latin-1") if isinstance(data, str) else data)
              for name, data in globals()["seeds_" + target]()]
    inputs += [(f"find-{name}", data) for name, data in finds(target)]
    for name, data in inputs:
        with open(os.path.join(folder, name.replace("/", "_")), "wb") as file:
            file.write(data)
    return len(inputs)


def write_dictionary(path):
    """Words of both schemas, for libFuzzer's -dict."""
    words = set()

    def collect(value):
        if isinstance(value, dict):
            for key, inner in value.items():
                if key != "doc":
                    words.add(key)
                    collect(inner)
        elif isinstance(value, list):
            for inner in value:
                collect(inner)
        elif isinstance(value, str) and len(value) < 32:
            words.add(value)

    for source in (PEER, VMM):
        for part in ("types", "messages", "commands", "events"):
            collect(source.get(part, {}))
    with open(path, "w", encoding="ascii") as file:
        for word in sorted(words):
            if word.isascii() and word.isprintable() and not set(word) & set('"\\ '):
                file.write(f'"{word}"\n')
