"""Records the demo in both of its modes, replays the bags with the same parameters, and tells what differs.

    OMP_NUM_THREADS=1 tools/run python benchmarks/bags/agreement.py

A recording of a mode that is in the folder already is not made again.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

from kept import keep

from streaming_vla.workbench.demo.command import MODES
from streaming_vla.workbench.replay.compare import summarise_replays
from streaming_vla.workbench.replay.replay import Replayed
from streaming_vla.workbench.replay.run import ReplayJob, replay_all

TASKS = ("drawer-open", "window-open")
KEPT = {  # figure of a replay: name in the results
    "decision_agreement": "decision_agreement",
    "decisions": "decisions",
    "same_observations": "same_observations",
    "same_contexts": "same_contexts",
    "action_max_error_same_observation": "action_max_error",
    "halting_ratio_live_to_replay": "halting_ratio_live_to_replay",
}


def record(bag: Path, mode: str, episodes: int) -> None:
    """Record each task so many times."""
    script = Path(__file__).with_name("record_demo.py")
    tasks = [word for task in TASKS for word in ("--task", task)]
    command = [sys.executable, str(script), str(bag), "--mode", mode, "--episodes", str(episodes), *tasks]
    subprocess.run(command, check=True, stdout=sys.stderr)


def figures(replays: list[Replayed]) -> dict[str, Any]:
    """Return what is kept of the comparison with the live runs."""
    live = summarise_replays(replays, ("dx", "dy", "dz", "gripper"))["live"]
    return {name: live[figure] for figure, name in KEPT.items()} | {
        "executed_actions": live["executed_actions"],
        "live_halt_mean_ms": live["t_halt"]["mean"],
    }


def main() -> None:
    """Entry point of the script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("out/agreement"), help="of the recordings")
    parser.add_argument("--episodes", type=int, default=2, help="of each task and mode")
    options = parser.parse_args()
    replays: dict[str, list[Replayed]] = {}
    for mode, settings in MODES.items():
        bag = options.folder / mode
        if not bag.exists():
            record(bag, mode, options.episodes)
        changes = tuple((node, name, value) for node, values in settings.items() for name, value in values.items())
        replays[mode] = replay_all([bag], ReplayJob(changes=changes))
    results = figures([each for found in replays.values() for each in found])
    results["agreement"] = {mode: figures(found) for mode, found in replays.items()}
    keep(results)


if __name__ == "__main__":
    main()
