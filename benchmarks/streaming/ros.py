"""The claim in real ROS: the nodes stream at 20 Hz beside the simulated robot, with the latencies of this machine.

    python benchmarks/streaming/ros.py                     # 5 scenes of every MT10 task, about 5 minutes
    python benchmarks/streaming/ros.py --profile jetson    # as if the policy ran elsewhere

Writes ros.json, or ros_PROFILE.json: `starved_fraction` (time without an action to execute, of the time from the first
action to the end), `success`, `episodes`, T_halt and T_action, and the same of every episode. Leave the machine alone
meanwhile.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from streaming_vla.sim.tasks import HELD_OUT_SEED, select_tasks
from streaming_vla.workbench.demo.command import MODES
from streaming_vla.workbench.demo.driver import DriverError
from streaming_vla.workbench.demo.simulation import driven_simulation
from streaming_vla.workbench.progress import counting
from streaming_vla.workbench.report.records import EpisodeRecord, Scene
from streaming_vla.workbench.report.results import aggregate, write_json

HERE = Path(__file__).parent
TIME_LIMIT_S = 20.0
MODE = "streaming"
KEPT = ("t_halt_ms", "t_action_ms", "observations_per_s", "executed_actions", "hand_overs", "starved_s", "stages_ms")


def main(
    tasks: Annotated[str, typer.Option(help="names with commas between, or mt10")] = "mt10",
    episodes: Annotated[int, typer.Option(min=1, help="of each task, seeds from 10000 on")] = 5,
    profile: Annotated[str, typer.Option(help="latency profile of the inference node; empty: none")] = "",
    out: Annotated[Path, typer.Option(help="folder of ros.json")] = HERE,
) -> None:
    """Run the episodes and write ros.json."""
    console = Console(stderr=True)
    scenes = [Scene(task, HELD_OUT_SEED + n) for n in range(episodes) for task in select_tasks(tasks)]
    records: list[EpisodeRecord] = []
    try:
        with driven_simulation(Path("out/streaming/ros/logs"), cameras=(), profile=profile) as simulation:
            for node, values in MODES[MODE].items():
                simulation.driver.set_parameters(node, values)
            with counting() as progress:
                for scene in progress.track(scenes, description="episodes in ROS"):
                    records.append(simulation.driver.run(MODE, scene, TIME_LIMIT_S))
    except DriverError as error:
        console.print(f"streaming/ros: {error}")
        raise typer.Exit(1) from error
    results = summarise(records, profile)
    write_json(results, out / (f"ros_{Path(profile).stem}.json" if profile else "ros.json"))
    console.print({name: results[name] for name in ("starved_fraction", "success", "episodes", "t_halt_ms")})


def summarise(records: list[EpisodeRecord], profile: str) -> dict[str, Any]:
    """Return what ros.json holds."""
    everything = aggregate(records)
    starved_s = everything["starved_s"]
    acting_s = (
        starved_s + sum(record.control_period_s for record in records) / len(records) * everything["executed_actions"]
    )
    return {
        "profile": profile or "this machine",
        "parameter_file": "config/streaming_vla.yaml",
        "starved_fraction": starved_s / acting_s,
        "success": everything["success_rate"],
        "success_interval_95": everything["success_interval_95"],
        "episodes": len(records),
        "seeds": [min(record.seed for record in records), max(record.seed for record in records) + 1],
        "problems": [record.problem for record in records if record.problem],
        **{name: everything[name] for name in KEPT},
        "by_episode": everything["by_episode"],
    }


if __name__ == "__main__":
    typer.run(main)
