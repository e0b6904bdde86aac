"""Kills, stops and attacks every node while the robot moves, keeps the machine busy, and measures what comes back.

    tools/run python benchmarks/recovery/run.py                                     # everything, hours
    tools/run python benchmarks/recovery/run.py --only deaths --kills 2 --stops 1   # a look

What is done stays in events.jsonl beside results.json: the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from attack import attack
from conductor import NODES, conducted
from deaths import run_fault
from load import busy, soak
from recovery_figures import KINDS, summary

from streaming_vla.bringup.starter import SuiteError
from streaming_vla.workbench.report.results import write_json

HERE = Path(__file__).parent
PARTS = ("deaths", "attack", "busy", "soak")
WITH_PRIORITY = ("observer", "inference", "generator", "executor")


def main() -> int:
    """Run the parts that are asked for and write results.json."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", choices=PARTS, action="append", help="run this part; more than once")
    parser.add_argument("--nodes", nargs="+", choices=NODES, default=list(NODES))
    parser.add_argument("--kills", type=int, default=20, help="SIGKILL of each node")
    parser.add_argument("--stops", type=int, default=10, help="SIGSTOP of each node")
    parser.add_argument("--stop-seconds", type=float, default=3.0)
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--parameter-sets", type=int, default=100_000)
    parser.add_argument("--busy-seconds", type=float, default=60.0, help="of each number of busy processes")
    parser.add_argument("--hogs", type=int, nargs="+", default=[0, 1, 2], help="busy processes beside the suite")
    parser.add_argument("--soak-minutes", type=float, default=60.0)
    parser.add_argument("--real-time-factor", type=float, default=0.1, help="so small that the simulation keeps up")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=HERE, help="folder of results.json and events.jsonl")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / "results.json"
    results: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    results["command"] = "tools/run python benchmarks/recovery/run.py " + " ".join(sys.argv[1:])
    results["machine"] = {"cores": os.cpu_count(), "processor": platform.machine(), "python": platform.python_version()}
    results["real_time_factor"] = arguments.real_time_factor
    parts = arguments.only or PARTS
    try:
        if "deaths" in parts:
            results |= summary(deaths(arguments))
            write_json(results, path)
        if "attack" in parts:
            with conducted(arguments.real_time_factor) as conductor:
                results |= attack(conductor, arguments.messages, arguments.parameter_sets, arguments.seed)
            write_json(results, path)
        if "busy" in parts:
            results["busy"] = {name: _busy(arguments, priority) for name, priority in (("rt", None), ("no_rt", 0))}
            write_json(results, path)
        if "soak" in parts:
            with conducted(arguments.real_time_factor) as conductor:
                results |= soak(conductor, arguments.soak_minutes, arguments.seed)
            write_json(results, path)
    except (SuiteError, RuntimeError) as error:
        print(f"recovery: {error}; the same command goes on from here", file=sys.stderr)
        return 1
    print(f"Written: {path}")
    return 0


def deaths(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Run the faults that are still missing, in random order; return all that are known."""
    journal = arguments.out / "events.jsonl"
    events = [json.loads(line) for line in journal.read_text().splitlines()] if journal.exists() else []
    done = Counter((event["node"], event["kind"]) for event in events)
    wanted = {"kill": arguments.kills, "stop": arguments.stops}
    missing = [
        (node, kind) for node in arguments.nodes for kind in KINDS for _ in range(wanted[kind] - done[node, kind])
    ]
    draw = random.Random(arguments.seed + len(events))
    draw.shuffle(missing)
    if not missing:
        return events
    with conducted(arguments.real_time_factor) as conductor, journal.open("a", encoding="utf-8") as file:
        conductor.reset_robot()
        for number, (node, kind) in enumerate(missing, 1):
            event = run_fault(conductor, node, kind, arguments.stop_seconds, draw)
            events.append(event)
            file.write(json.dumps(event) + "\n")
            file.flush()
            back = "did not come back" if event["back_s"] is None else f"back after {event['back_s']:.2f} s"
            print(f"{number}/{len(missing)} {kind} {node}: {back}", flush=True)
    return events


def _busy(arguments: argparse.Namespace, priority: int | None) -> dict[str, Any]:
    """Return how the stream fares beside busy processes; the most of them stand in front, the others in `by_hogs`."""
    settings = {} if priority is None else {name: {"realtime_priority": priority} for name in WITH_PRIORITY}
    with conducted(arguments.real_time_factor, settings) as conductor:
        found = [busy(conductor, arguments.busy_seconds, count) for count in sorted(arguments.hogs)]
    return {**found[-1], "by_hogs": found}


if __name__ == "__main__":
    sys.exit(main())
