"""The command `streaming-vla demonstrate`."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated

import typer

from streaming_vla.refusal import refuse
from streaming_vla.sim.so101.tasks import DEVELOPMENT_SEED, TASKS
from streaming_vla.workbench.robots import ROBOTS

SO101 = ROBOTS["so101"]


def demonstrate(
    out: Annotated[Path, typer.Option(help="the bag, a folder that does not exist yet")],
    tasks: Annotated[str, typer.Option(help="names with commas between")] = ",".join(TASKS),
    episodes: Annotated[int, typer.Option(min=1, help="of each task")] = 20,
    seed: Annotated[int, typer.Option(min=0, help="places the objects of the first episode")] = 0,
    disturbed: Annotated[
        float, typer.Option(min=0, max=1, help="share of the episodes that begin where bursts have driven the arm")
    ] = 0.7,
    raw: Annotated[bool, typer.Option("--raw", help="store pictures as they are instead of as JPEG")] = False,
    params_file: Annotated[
        Path | None, typer.Option("--params-file", "--params", help="ROS parameter file", show_default="so101.yaml")
    ] = None,
) -> None:
    """Let scripted experts drive the simulated SO-101 through ROS, and record it as a bag for `export`."""
    chosen = SO101.params_file if params_file is None else params_file
    try:
        names = SO101.select(tasks)
        if seed + episodes > DEVELOPMENT_SEED:
            raise ValueError(
                f"--seed {seed} with --episodes {episodes} reaches seeds for evaluation: stay below {DEVELOPMENT_SEED}"
            )
        if out.exists():
            raise ValueError(f"bag '{out}' exists already: choose another --out")
    except ValueError as error:
        refuse(error)
    # the middleware is loaded here, so that `--help` and a wrong option answer at once
    from streaming_vla.workbench.demo.driver import DriverError
    from streaming_vla.workbench.demonstrate.teacher import teaching
    from streaming_vla.workbench.progress import counting

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    lost: list[str] = []
    try:
        with teaching(out, chosen, raw) as teacher, counting() as progress:
            bar = progress.add_task("the nodes start", total=episodes * len(names))
            for number in range(seed, seed + episodes):
                for task in names:
                    progress.update(bar, description=f"{task} {number}")
                    if not teacher.demonstrate(task, number, disturbed):
                        lost.append(f"{task}, seed {number}")
                    progress.update(bar, advance=1)
    except (DriverError, ValueError, OSError) as error:
        refuse(error)
    for name in lost:
        print(f"{name}: the expert failed; its episode is in the bag all the same")
    print(f"Recorded: {out}; next: streaming-vla export {out} --params {chosen} --out DATASET")
