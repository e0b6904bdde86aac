"""Tunes on three recordings of the simulated robot and judges on two others; writes `tune` into results.json.

    OMP_NUM_THREADS=1 tools/run python benchmarks/bags/tune.py

The scripted expert is at the wheel: what the policy should come close to, with as few observations as it can. A
recording that is in the folder already is not made again; a search that was stopped goes on.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

import expert_bags
from kept import keep
from rich.progress import Progress

from streaming_vla.sim.tasks import HELD_OUT_SEED
from streaming_vla.workbench.replay.run import ReplayJob
from streaming_vla.workbench.tuning.files import verdict, write_tuned
from streaming_vla.workbench.tuning.study import TuneOptions
from streaming_vla.workbench.tuning.tune import tune

TASKS = ("drawer-open", "drawer-close", "window-open", "window-close", "door-open", "button-press-topdown")
SEARCHED, HELD_OUT = ("session-0", "session-1", "session-2"), ("session-3", "session-4")
PROFILE = "measured"


def recording(folder: Path, name: str) -> Path:
    """Return a recording, one episode of every task in scenes of its own, made when it is not there."""
    bag = folder / name
    if not bag.exists():
        seed = HELD_OUT_SEED + int(name.rpartition("-")[2])
        expert_bags.write(bag, [(task, seed) for task in TASKS])
    return bag


def main() -> None:
    """Entry point of the script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("out/tune"), help="of the recordings and the study")
    parser.add_argument("--trials", type=int, default=64)
    parser.add_argument("--workers", type=int, default=2, help="processes")
    options = parser.parse_args()
    searched, kept = ([recording(options.folder, name) for name in each] for each in (SEARCHED, HELD_OUT))
    search = TuneOptions(options.trials, options.workers, "", options.folder / "study")
    with Progress() as progress:
        task = progress.add_task("trials", total=options.trials)
        job = ReplayJob(profile=PROFILE)
        found = tune(searched, job, search, lambda: progress.advance(task), kept)
    write_tuned(options.folder / "study", found, job.suite())
    figures = {
        "default": asdict(found.default),
        "tuned": asdict(found.tuned),
        "values": {f"{node}.{name}": value for node, name, value in found.values},
        "tasks": TASKS,
        "searched": SEARCHED,
        "held_out": HELD_OUT,
        "trials": len(found.trials),
        "verdict": verdict(found),
    }
    keep({"tune": figures})


if __name__ == "__main__":
    main()
