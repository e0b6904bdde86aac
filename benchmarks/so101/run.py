"""Flies policies of the SO-101 through the real ROS graph, in real time, over held-out scenes; writes results.json.

    tools/run python benchmarks/so101/run.py --policy compact_flow=data/so101/policy/policy.safetensors \
        --policy small_flow=lerobot:data/vla/flow/checkpoint --policy small_chunk=lerobot:data/vla/chunk/checkpoint \
        --synchronous small_chunk

What is finished (a policy's task) is kept: run it again with the same policies after a stop, or with more of them.
`pace` is how fast the robot's clock ran: below 1 the machine was too busy for real time.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import statistics
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from streaming_vla.refusal import refuse
from streaming_vla.sim.tasks import HELD_OUT_SEED
from streaming_vla.workbench.demo.command import MODES
from streaming_vla.workbench.demo.driver import DriverError
from streaming_vla.workbench.demo.simulation import driven_simulation
from streaming_vla.workbench.report.records import EpisodeRecord, Scene
from streaming_vla.workbench.report.results import aggregate
from streaming_vla.workbench.robots import ROBOTS

HERE = Path(__file__).parent
SO101 = ROBOTS["so101"]


def main(
    policy: Annotated[list[str], typer.Option(help="NAME=MODEL, as parameter model takes it; more than once")],
    synchronous: Annotated[
        list[str], typer.Option(help="name of a policy that observes when it has nothing left")
    ] = [],  # noqa: B006
    tasks: Annotated[str, typer.Option(help="names with commas between")] = ",".join(SO101.tasks),
    episodes: Annotated[int, typer.Option(min=1, help="of each task")] = 50,
    seed: Annotated[int, typer.Option(min=0, help="places the objects of the first episode")] = HELD_OUT_SEED,
    params_file: Annotated[Path, typer.Option("--params")] = Path("config/so101.yaml"),
    logs: Annotated[Path, typer.Option()] = Path("out/so101"),
    output: Annotated[Path, typer.Option()] = HERE / "results.json",
) -> None:
    """Run everything that is missing."""
    models = dict(each.split("=", 1) for each in policy if "=" in each)
    if len(models) != len(policy) or not set(synchronous or ()) <= set(models):
        refuse("--policy is NAME=MODEL, each name once, and --synchronous one of these names")
    names = SO101.select(tasks)
    results: dict[str, Any] = json.loads(output.read_text()) if output.exists() else {}
    for name, model in models.items():
        mode = "synchronous" if name in (synchronous or ()) else "streaming"
        wanted = {"model": model, "mode": mode, "seeds": [seed, seed + episodes]}
        missing = [task for task in names if not _there(results.get(name, {}).get(task, {}), wanted)]
        if not missing:
            continue
        try:
            with driven_simulation(logs / name, (), params_file=params_file, robot=SO101, model=model) as simulation:
                for node, values in MODES[mode].items():
                    simulation.driver.set_parameters(node, values)
                for task in missing:
                    records = []
                    for number in range(seed, seed + episodes):
                        record = simulation.driver.run(mode, Scene(task, number), SO101.limits_s[task])
                        records.append(record)
                        done = sum(each.success for each in records)
                        print(f"{name} {task} {number}: {done} of {len(records)}", flush=True)
                    results.setdefault(name, {})[task] = {**_row(records), **wanted}
                    results["command"] = f"tools/run python {shlex.join(sys.argv)}"
                    results["machine"] = f"{os.cpu_count()} cores, {platform.machine()}, load {os.getloadavg()[0]:.1f}"
                    output.write_text(json.dumps(results, indent=1) + "\n")
        except DriverError as error:
            refuse(error)


def _there(cell: dict[str, Any], wanted: dict[str, Any]) -> bool:
    return all(cell.get(name) == value for name, value in wanted.items())


def _row(records: list[EpisodeRecord]) -> dict[str, Any]:
    figures = aggregate(records)
    low, high = figures["success_interval_95"]
    return {
        "success": figures["success_rate"],
        "low": low,
        "high": high,
        "episodes": len(records),
        "t_action_ms": figures["t_action_ms"],
        "t_halt_ms": figures["t_halt_ms"],
        "episode_s": figures["episode_s"],
        "pace": round(statistics.mean(record.pace for record in records), 3),
    }


if __name__ == "__main__":
    typer.run(main)
