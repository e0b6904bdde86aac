"""Reads thousands of damaged files of every kind: nothing but sentences may come out, within limits of time and memory.

    nice tools/run python benchmarks/bags/fuzz.py --mutations 10000

The reading runs in child processes, so that a crash of native code is counted and the rest goes on. `fuzz_kinds` of
results.json is written after every 500 mutations; a run goes on behind those that it holds.
"""

from __future__ import annotations

import argparse
import json
import resource
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from fuzz_kinds import KINDS
from kept import keep, kept

TIME_LIMIT_S = 10.0  # of processor time, for one mutation
MEMORY_LIMIT_MB = 1000.0
BATCH = 500  # mutations of a child
TROUBLE = ("crashes", "hangs", "silent")
TOTALS = ("mutations", "crashes", "hangs")  # of all kinds, told too
Found = dict[str, Any]
NOTHING: Found = {
    "mutations": 0,
    "crashes": 0,
    "hangs": 0,
    "seeds": {},
    "ended_with": {},
    "values_read": 0,
    "memory_mb": 0,
}


def child(kind: str, seeds: range) -> None:
    """Read the mutations of `seeds` and print a line for each."""
    with tempfile.TemporaryDirectory() as folder:
        made, scratch = Path(folder) / "made", Path(folder) / "scratch"
        made.mkdir()
        scratch.mkdir()
        subject = KINDS[kind](made)
        for seed in seeds:
            print("begin", seed, flush=True)
            signal.setitimer(signal.ITIMER_PROF, TIME_LIMIT_S)  # SIGPROF ends the process, native code or not
            outcome = subject.attempt(scratch, seed)
            signal.setitimer(signal.ITIMER_PROF, 0.0)
            used_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
            print("end", seed, json.dumps([outcome.ended, outcome.silent, outcome.read, used_mb]), flush=True)


def parent(kind: str, mutations: int, found: Found) -> Found:
    """Read the next mutations of a kind, at most `BATCH`, behind those that were; return the counts of all."""
    trouble = {name: list(found["seeds"].get(name, ())) for name in TROUBLE}
    ends = Counter(found["ended_with"])
    seed, read, used_mb = found["mutations"], found["values_read"], found["memory_mb"]
    command = [sys.executable, __file__, "--child", kind, "--first", str(seed), "--mutations", str(mutations)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    for line in done.stdout.splitlines():
        word, number, *rest = line.split(" ", 2)
        if word == "end":
            seed = int(number) + 1
            ended, silent, count, memory_mb = json.loads(rest[0])
            ends[ended] += 1
            read, used_mb = read + count, max(used_mb, round(memory_mb))
            if silent:
                trouble["silent"].append(int(number))
                print(f"{kind} seed {number}: silent: {silent}", file=sys.stderr)
    if done.returncode != 0:
        what = "hangs" if done.returncode == -signal.SIGPROF else "crashes"
        trouble[what].append(seed)
        print(f"{kind} seed {seed}: {what}\n{done.stderr[-2000:]}", file=sys.stderr)
        seed += 1
    return {
        "mutations": seed,
        **{name: len(seeds) for name, seeds in trouble.items()},
        "seeds": {name: seeds for name, seeds in trouble.items() if seeds},
        "ended_with": dict(sorted(ends.items())),
        "values_read": read,
        "memory_mb": used_mb,
    }


def main() -> None:
    """Entry point of the script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mutations", type=int, default=10_000, help="of each kind")
    parser.add_argument("--kinds", nargs="*", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--anew", action="store_true", help="count from zero, as is right for other code")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--first", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is not None:
        child(options.child, range(options.first, options.first + options.mutations))
        return
    found: dict[str, Found] = kept().get("fuzz_kinds", {})
    if options.anew:
        found = {kind: each for kind, each in found.items() if kind not in options.kinds}
    for kind in options.kinds:
        found.setdefault(kind, NOTHING)
        while (left := options.mutations - found[kind]["mutations"]) > 0:
            found[kind] = parent(kind, min(BATCH, left), found[kind])
            keep({"fuzz_kinds": found, **{name: sum(each[name] for each in found.values()) for name in TOTALS}})
    assert all(each["memory_mb"] < MEMORY_LIMIT_MB for each in found.values())


if __name__ == "__main__":
    main()
