#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""run: one fuzz target over its seeds and old finds, and with --runs on from there, by one seed.

  run.py PROGRAM             PROGRAM has replay.c's main: every input once
  run.py PROGRAM --runs N    PROGRAM has libFuzzer: N executions, always the same ones
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import corpus  # noqa: E402

SEED = 1
# A find must be a find on a slow machine, too: the time-out is for endless loops.
OPTIONS = ["-max_len=4096", "-timeout=60", "-rss_limit_mb=3000", "-malloc_limit_mb=2500",
           "-detect_leaks=1", "-print_final_stats=1", "-verbosity=1"]
ENV = {"UBSAN_OPTIONS": "halt_on_error=1:abort_on_error=1:print_stacktrace=1",
       "ASAN_OPTIONS": "detect_leaks=1:allocator_may_return_null=1"}


def target_of(program):
    return os.path.basename(program).replace("fuzz_", "", 1)


def command(program, folder, artifacts, *options):
    """What runs @program by libFuzzer, over @folder."""
    words = os.path.join(folder, ".words")
    corpus.write_dictionary(words)
    return [program, *OPTIONS, "-dict=" + words, "-artifact_prefix=" + artifacts + os.sep,
            *options, folder]


def environment():
    """Ours, with sanitizers that stop at what they find."""
    env = {**os.environ}
    for name, value in ENV.items():
        env[name] = ":".join(filter(None, [env.get(name), value]))
    return env


def report_finds(artifacts, known=()):
    """Print each input that was found so that it can be kept; returns how many."""
    names = sorted(set(os.listdir(artifacts)) - set(known))
    for name in names:
        with open(os.path.join(artifacts, name), "rb") as file:
            data = file.read()
        print(f"find {name}: {len(data)} bytes, as .hex:\n{data.hex()}\nas text: {data!r}")
    return len(names)


def summary(text):
    """Executions and edges covered, from libFuzzer's output."""
    runs = re.findall(r"number_of_executed_units: (\d+)", text) or re.findall(r"Done (\d+) runs", text)
    edges = re.findall(r"cov: (\d+)", text)
    return int(runs[-1]) if runs else 0, int(edges[-1]) if edges else 0


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("--runs", type=int, default=0)
    arguments = parser.parse_args()
    target = target_of(arguments.program)
    with tempfile.TemporaryDirectory(prefix="sluice-fuzz-") as top:
        folder, artifacts = os.path.join(top, "corpus"), os.path.join(top, "finds")
        os.mkdir(artifacts)
        count = corpus.write(target, folder)
        run = [arguments.program, folder]
        if arguments.runs > 0:
            run = command(arguments.program, folder, artifacts, f"-runs={arguments.runs}",
                          f"-seed={SEED}")
        done = subprocess.run(run, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              env=environment(), check=False)
        output = done.stdout.decode(errors="replace")
        found = report_finds(artifacts)
        if done.returncode != 0:
            print(output[-20000:])
            return 1
        runs, edges = summary(output)
        print(f"{target}: {count} seeds and old finds, {runs or count} executions, "
              f"{edges or 'no'} edges, {found} finds")
    return 0


if __name__ == "__main__":
    sys.exit(main())
