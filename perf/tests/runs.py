#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""runs.py NAME SLUICE-PERF SOURCE-ROOT: one test of sluice-perf with real engines and VMMs.

Each test has a folder of its own, whose name is on the command line of every process that the
run starts: that is how the tests find those processes, and see that none is left.
"""

import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

RAM = "32M"
RAM_BYTES = 32 << 20
# A sanitizer's own memory is many times what it watches.
SANITIZED = bool({"ASAN_OPTIONS", "TSAN_OPTIONS"} & set(os.environ))
PATIENCE_S = 60  # until a test gives up: the machine may be slow
PER_RUN = """status total_ms downtime_ms predicted_downtime_ms bytes_placed pages_sent pages_zero
    mismatched_pages guest_errors guest_ops_per_s inflight_bytes_peak pin_ms
    pages_pinned_during_migration cpu_s_source cpu_s_target lanes workers""".split()


class Bench:
    """sluice-perf in a temporary folder."""

    def __init__(self, program, root, folder):
        self.program, self.root, self.folder = program, root, folder
        self.result_path = os.path.join(folder, "result.json")

    def start(self, *settings, config=None):
        config = config or os.path.join(self.root, "configs", "demo.yaml")
        arguments = [self.program, "run", config, "--out", self.result_path]
        for setting in (f"ram={RAM}", "warmup=0", "repeats=1", "settle=60ms", "after=60ms",
                        "downtime-limit=200ms", "timeout=300s", *settings):
            arguments += ["--set", setting]
        # Errors and progress in a file: a pipe that nobody reads would block it.
        with open(os.path.join(self.folder, "output"), "wb") as output:
            return subprocess.Popen(arguments, stdout=output, stderr=output,
                                    env={**os.environ, "TMPDIR": self.folder})

    def run(self, *settings):
        return self.start(*settings).wait()

    def output(self):
        with open(os.path.join(self.folder, "output"), encoding="utf-8") as output:
            return output.read()

    def result(self):
        with open(self.result_path, encoding="utf-8") as file:
            return json.load(file)

    def processes(self, name):
        """Ids of running programs of that name which this test has started."""
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/cmdline", "rb") as file:
                    words = file.read().decode(errors="replace").split("\0")
            except OSError:
                continue
            if os.path.basename(words[0]) == name and any(self.folder in word for word in words):
                found.append(int(pid))
        return found

    def wait_for(self, count, name):
        end = time.monotonic() + PATIENCE_S
        while len(self.processes(name)) != count:
            assert time.monotonic() < end, f"not {count} {name}: {self.processes(name)}"
            time.sleep(0.005)

    def expect_nothing_left(self):
        for name in ("refvm", "sluiced"):
            self.wait_for(0, name)


def expect(condition, text, bench):
    if not condition:
        print(bench.output())
        sys.exit(f"runs.py: failed: {text}")


def measure(bench):
    """What the result promises is there and makes sense."""
    expect(bench.run("repeats=2", "lanes=3", "settle=500ms", "after=500ms",
                     "refvm-args=--device-size=3M") == 0, "it passes", bench)
    result = bench.result()
    expect(result["status"] == "completed" and len(result["runs"]) == 2, "two runs", bench)
    expect(result["config"]["lanes"] == 3, "the effective configuration", bench)
    for run in result["runs"]:
        missing = [key for key in PER_RUN if key not in run]
        expect(not missing, f"missing: {missing}", bench)
        expect(run["mismatched_pages"] == 0 and run["guest_errors"] == 0, "nothing lost", bench)
        expect(run["pages_compared"] > 0, "memory was compared", bench)
        expect(0 < run["downtime_ms"] < run["total_ms"], "times", bench)
        expect(len(run["lanes"]) == 3, "three lanes", bench)
        # What the guest filled cannot be zero, and it fills most of its memory.
        expect(run["bytes_placed"] > 20 << 20, "bytes placed", bench)
        expect(sum(lane["bytes"] for lane in run["lanes"]) == run["bytes_placed"],
               "lanes add up", bench)
        ops = run["guest_ops_per_s"]
        expect(ops["before"] > 0 and ops["after"] > 0 and len(ops["bins"]) > 8, "ops", bench)
    expect(result["summary"]["total_ms"]["count"] == 2, "summary", bench)
    expect("downtime, ms" in bench.output(), "the table", bench)
    bench.expect_nothing_left()
    expect(not [name for name in os.listdir(bench.folder) if name.startswith("sluice-perf-")],
           "its folder is gone", bench)


def hops(bench):
    """One guest goes there and back, alternating dirty log and ring where there is KVM."""
    kvm = os.access("/dev/kvm", os.R_OK | os.W_OK)
    status = bench.run("hops=6", "lanes=5", "refvm-args=--fill=alternate",
                       *(("tracking=log,ring",) if kvm else ()))
    expect(status == 0, "it passes", bench)
    runs = bench.result()["runs"]
    expect([run["hop"] for run in runs] == list(range(6)), "six hops", bench)
    expect(all(run["status"] == "completed" and run["guest_errors"] == 0
               and run["mismatched_pages"] == 0 for run in runs), "all well", bench)
    bench.expect_nothing_left()


def guest_files(pid):
    """Descriptors of a VMM that hold guest memory: the largest memfds."""
    sizes = {}
    for fd in os.listdir(f"/proc/{pid}/fd"):
        path = f"/proc/{pid}/fd/{fd}"
        try:
            if "memfd:" in os.readlink(path):
                sizes[path] = os.stat(path).st_size
        except OSError:
            continue
    return [path for path, size in sizes.items() if size >= 16 << 20]


def wait_until_running(pid):
    """Ask a VMM's monitor until its guest runs."""
    with open(f"/proc/{pid}/cmdline", encoding="utf-8") as file:
        path = next(word[10:] for word in file.read().split("\0") if word.startswith("--monitor="))
    end = time.monotonic() + PATIENCE_S
    with socket.socket(socket.AF_UNIX) as monitor:
        while monitor.connect_ex(path) != 0:
            assert time.monotonic() < end, "the monitor does not answer"
            time.sleep(0.02)
        lines = monitor.makefile("rw")
        lines.readline()
        for command in itertools.chain(["qmp_capabilities"], itertools.repeat("query-status")):
            assert time.monotonic() < end, "the guest does not run"
            lines.write(json.dumps({"execute": command}) + "\n")
            lines.flush()
            if json.loads(lines.readline()).get("return", {}).get("running"):
                return
            time.sleep(0.02)


def planted(bench):
    """Pages that differ at the target are counted, and the run fails."""
    for after in ("2s", "10s", "40s"):  # longer when we came too late
        child = bench.start("pattern=idle", f"after={after}")
        bench.wait_for(2, "sluiced")
        target = max(bench.processes("refvm"))
        wait_until_running(target)
        with open(guest_files(target)[0], "r+b", buffering=0) as memory:
            for page in (4100, 4200, 4300):
                os.pwrite(memory.fileno(), b"lost", page * 4096)
        if child.wait(timeout=PATIENCE_S + 40) == 1:
            break
    else:
        expect(False, "it fails", bench)
    run = bench.result()["runs"][0]
    expect(run["status"] == "failed" and run["mismatched_pages"] == 3, "three pages differ", bench)
    expect("3 pages differ" in bench.output(), "it says why", bench)


def refused(bench):
    """What cannot start says why, and fails."""
    expect(bench.run("engine-set=no-such-parameter=1") == 1, "it fails", bench)
    expect("no-such-parameter" in bench.output(), "the log's end is shown", bench)
    expect(bench.result()["status"] == "failed", "the result says so", bench)
    bench.expect_nothing_left()
    # The last setting is refused, hence everything before it is not: all configurations are sound.
    for folder, _, names in os.walk(os.path.join(bench.root, "configs")):
        for name in filter(lambda name: name.endswith(".yaml"), names):
            status = bench.start("lanes=many", config=os.path.join(folder, name)).wait()
            expect(status == 1 and "many" in bench.output(), f"{name} is read", bench)


def programs(bench):
    """The programs beside sluice move as much, and say so in the same words."""
    expect(bench.run("program=plain", "lanes=3", "prealloc=no") == 0, "plain passes", bench)
    run = bench.result()["runs"][0]
    expect(run["bytes_placed"] == 32 << 20 and run["mismatched_pages"] == 0, "all moved", bench)
    expect(run["total_ms"] > 0 and run["cpu_s_source"] > 0 and run["cpu_s_target"] > 0
           and run["placed_bytes_per_s"] > 0, "figures", bench)
    expect(bench.run("program=iperf3", "lanes=2") == 0, "iperf3 passes or is skipped", bench)
    run = bench.result()["runs"][0]
    if shutil.which("iperf3") is None:
        expect(run["status"] == "skipped" and "scripts/deps" in run["reason"], "why", bench)
    else:
        expect(run["bytes_placed"] > 8 << 20 and run["placed_bytes_per_s"] > 0, "all", bench)
    expect(bench.run("program=ib_write_bw") == 1 and "two rails" in bench.output(), "rails", bench)
    # Addresses for documentation (RFC 5737): no device has them.
    expect(bench.run("program=ib_write_bw", "rails=192.0.2.1 192.0.2.2") == 0, "skipped", bench)
    run = bench.result()["runs"][0]
    expect(run["status"] == "skipped" and ("192.0.2.1" in run["reason"] or
           "scripts/deps" in run["reason"]), "why", bench)
    expect(bench.run("program=iperf3", "lanes=1000") == 1 or not shutil.which("iperf3"),
           "it fails", bench)


def variants(bench):
    """Variants take turns, and the figures come from within each round."""
    path = os.path.join(bench.folder, "turns.yaml")
    with open(path, "w", encoding="utf-8") as file:
        file.write("""
variants:
  one: {lanes: 1}
  three: {lanes: 3}
  plain: {program: plain}
figures:
  more: {metric: placed_bytes_per_s, of: one/plain three/plain, at-least: 0.0001}
  lanes: {metric: cpu_s_per_gib, of: one/three, at-most: 0.0001}
""")
    expect(bench.start("repeats=3", "warmup=1", config=path).wait() == 0, "it passes", bench)
    result = bench.result()
    turns = [run["variant"] for run in result["runs"]]
    # Round 0 is the warm-up, in which the first one began.
    expect(turns == ["three", "plain", "one", "plain", "one", "three", "one", "three", "plain"],
           f"they take turns: {turns}", bench)
    expect([len(run.get("lanes", [])) for run in result["runs"][:3]] == [3, 0, 1], "lanes", bench)
    rate = {(run["variant"], run["round"]): run["placed_bytes_per_s"] for run in result["runs"]}
    more = result["summary"]["more"]
    for term, name in zip(more["terms"], ("one", "three")):
        ratios = sorted(rate[name, round_] / rate["plain", round_] for round_ in range(3))
        expect([term["min"], term["median"], term["max"]] == ratios or
               max(abs(term[key] - ratio) for key, ratio in
                   zip(("min", "median", "max"), ratios)) < 1e-6, "ratios", bench)
    expect(more["median"] == min(term["median"] for term in more["terms"]), "the worst", bench)
    expect(more["met"] is True and result["summary"]["lanes"]["met"] is False, "met", bench)
    expect(result["variants"]["one"]["summary"]["total_ms"]["count"] == 3, "medians", bench)
    expect("at least 0.0001: met" in bench.output() and "missed" in bench.output(), "said", bench)
    bench.expect_nothing_left()


def disturbed(bench):
    """Lanes are held back, so that tracking alone shows, and broken meanwhile: it completes."""
    status = bench.run("lanes=3", "hold=1500ms", "cut-every=150ms", "pattern=uniform",
                       "engine-set=throttle=no", "idle-for=300ms", "settle=300ms", "reattach=yes")
    expect(status == 0, "it passes", bench)
    run = bench.result()["runs"][0]
    if run["status"] == "skipped":
        print(f"skipped: {run['reason']}")
        return 77
    expect(run["lanes_cut"] >= 1 and run["lanes_lost"] >= 1, "lanes were cut", bench)
    expect(0 < run["pages_again"] <= run["pages_given_up"] + run["pages_dirtied"] and
           run["resent_of_bound"] <= 1 and run["mismatched_pages"] == 0, "no more than that", bench)
    expect(run["total_ms"] > 1500, "it was held back", bench)
    ops = run["guest_ops_per_s"]
    expect(ops["held_ratio"] > 0 and ops["during_ratio"] >= 0, "speed of the guest", bench)
    expect(0 < run["inflight_of_budget"] <= 1, "the budget", bench)
    expect(run["pages_pinned_by_reattach"] == 0, "nothing is pinned anew", bench)
    most = 32 * RAM_BYTES if SANITIZED else RAM_BYTES
    expect(run["idle_cpu_ms"] >= 0 and 10000 < run["engine_memory_bytes"] < most,
           f"the engine besides the guest: {run['engine_memory_bytes']}", bench)
    bench.expect_nothing_left()
    return 0


def alone(bench):
    """A part of the engine, and a network of its own."""
    expect(bench.run("program=harvest", "ram=1G") == 0, "it passes", bench)
    run = bench.result()["runs"][0]
    expect(run["harvest_pages_per_s"] > 0 and run["memory_bytes_per_s"] > 0
           and 0 < run["harvest_of_memory"], "figures", bench)
    expect(bench.run("network=1gbit", "ram=64M") == 0, "it passes or is skipped", bench)
    run = bench.result()["runs"][0]
    if run["status"] == "skipped":
        expect("root" in run["reason"] or "iproute2" in run["reason"], "why", bench)
    else:
        # 125 MB/s and the 2 MB that fit into its bucket: never faster, however fast the machine.
        expect(run["placed_bytes_per_s"] < 135e6, "a network of 1 Gbit/s", bench)
    bench.expect_nothing_left()


def interrupt(bench):
    """Ctrl-C ends everything that was started."""
    child = bench.start("settle=30s")
    bench.wait_for(2, "sluiced")
    child.send_signal(signal.SIGINT)
    expect(child.wait(timeout=PATIENCE_S) == 1, "it fails", bench)
    expect("interrupted" in bench.output(), "it says why", bench)
    expect(bench.result()["status"] == "failed", "the result says so", bench)
    bench.expect_nothing_left()


def dead_vmm(bench):
    """A VMM that dies in the middle is noticed, and the others are ended."""
    child = bench.start("settle=30s")
    bench.wait_for(2, "refvm")
    bench.wait_for(2, "sluiced")
    time.sleep(0.3)  # until both are connected; any moment must be survived
    os.kill(max(bench.processes("refvm")), signal.SIGKILL)
    expect(child.wait(timeout=PATIENCE_S) == 1, "it fails", bench)
    expect("died" in bench.output() or "ended before" in bench.output(), "it says why", bench)
    bench.expect_nothing_left()


def main():
    name, program, root = sys.argv[1:]
    if os.uname().machine != "x86_64":
        print("skipped: refvm's guest is x86-64")
        return 77
    # A short path: sockets are in there.
    with tempfile.TemporaryDirectory(prefix="perf-", dir="/tmp") as folder:
        bench = Bench(program, root, folder)
        test = {"measure": measure, "hops": hops, "planted": planted, "refused": refused,
                "programs": programs, "variants": variants, "disturbed": disturbed,
                "alone": alone, "interrupt": interrupt, "dead-vmm": dead_vmm}[name]
        return test(bench)


if __name__ == "__main__":
    sys.exit(main())
