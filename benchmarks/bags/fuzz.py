"""Reads thousands of damaged bags: nothing but sentences may come out, within a time limit each.

    tools/run python benchmarks/bags/fuzz.py --mutations 10000

The reading runs in child processes, so that a crash of native code is counted and the rest goes on.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from mutations import make_bags, mutate

from streaming_vla.bags.errors import BagError
from streaming_vla.bags.reader import Bag

TIME_LIMIT_S = 20.0  # of one mutation, on a busy machine


def read_everything(path: Path) -> tuple[int, int, str]:
    """Return messages that were read and decoded, and what ended the reading ("" for nothing)."""
    read = decoded = 0
    try:
        with Bag(path) as bag:
            for message in bag.messages():
                read += 1
                try:
                    bag.decode(message)
                    decoded += 1
                except BagError:
                    pass
            assert all("\n" not in str(problem) for problem in bag.problems)
    except BagError as error:
        assert str(error)
        return read, decoded, type(error).__name__
    return read, decoded, ""


def child(folder: Path, seeds: range) -> None:
    """Read the mutations of `seeds` and print one line each."""
    bags = sorted(path for path in folder.iterdir() if path.is_dir())
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        for seed in seeds:
            print("begin", seed, flush=True)
            faulthandler.dump_traceback_later(TIME_LIMIT_S, exit=True)
            target = Path(scratch) / str(seed)
            mutate(bags[seed % len(bags)], target, seed)
            read, decoded, end = read_everything(target)
            faulthandler.cancel_dump_traceback_later()
            for file in target.iterdir():
                file.unlink()
            target.rmdir()
            print("end", seed, read, decoded, end or "-", flush=True)


def parent(mutations: int, first: int) -> dict[str, object]:
    """Run all mutations; return the counts."""
    ends: Counter[str] = Counter()
    trouble: dict[str, list[int]] = {"crashes": [], "hangs": []}
    read = decoded = 0
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "bags"
        folder.mkdir()
        make_bags(folder)
        seed, last = first, first + mutations
        while seed < last:
            command = [sys.executable, __file__, "--child", str(folder), "--first", str(seed), "--mutations",
                       str(min(500, last - seed))]  # fmt: skip
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            for line in done.stdout.splitlines():
                words = line.split()
                if words[0] == "end":
                    read, decoded = read + int(words[2]), decoded + int(words[3])
                    ends[words[4]] += 1
                    seed = int(words[1]) + 1
            if done.returncode != 0:
                kind = "hangs" if "Timeout" in done.stderr else "crashes"
                trouble[kind].append(seed)
                print(f"seed {seed}: {kind}\n{done.stderr[-2000:]}", file=sys.stderr)
                seed += 1
            print(f"{seed - first} of {mutations}", file=sys.stderr)
    return {
        "mutations": mutations,
        "first_seed": first,
        "crashes": len(trouble["crashes"]),
        "hangs": len(trouble["hangs"]),
        "seeds": trouble,
        "ended_with": dict(ends),
        "messages_read": read,
        "messages_decoded": decoded,
    }


def main() -> None:
    """Entry point of the script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mutations", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0, help="seed of the first mutation")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is not None:
        child(options.child, range(options.first, options.first + options.mutations))
    else:
        print(json.dumps(parent(options.mutations, options.first), indent=2))


if __name__ == "__main__":
    main()
