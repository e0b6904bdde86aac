"""The command `streaming-vla export`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from streaming_vla.datasets.storage import Storage
from streaming_vla.refusal import refuse


def export(
    bags: Annotated[list[Path], typer.Argument(help="folders of rosbag2, or .mcap / .db3 files")],
    out: Annotated[Path, typer.Option(help="folder of the data set, must not exist")],
    params: Annotated[
        Path | None, typer.Option("--params", "--params-file", help="ROS parameter file of the suite")
    ] = None,
    namespace: Annotated[str, typer.Option(help="namespace of the robot in the bag")] = "/",
    instruction: Annotated[
        str, typer.Option(help="of bags without an episode topic, in place of their instruction topic")
    ] = "",
    action_topic: Annotated[
        list[str] | None,
        typer.Option(
            help="commands: Float64MultiArray, JointTrajectory, JointState, TwistStamped, or the suite's action; more "
            "than once where several topics tell them, the first is the one that must go on coming",
            show_default="command_topic of the executor",
        ),
    ] = None,
    state_topic: Annotated[
        list[str] | None,
        typer.Option(
            help="state: JointState, PoseStamped or Float64MultiArray; more than once where it comes in several",
            show_default="robot_state_topic of the observer",
        ),
    ] = None,
    state_names: Annotated[
        str, typer.Option(help="names of the positions of JointState messages without names, commas between")
    ] = "",
    pictures: Annotated[
        Storage,
        typer.Option(help="film: H.264 with exact colours; film420: H.264 that every browser shows; png: without loss"),
    ] = Storage.film,
    square: Annotated[
        int | None, typer.Option(help="pixels: bring the centre square of every picture to this width and height")
    ] = None,
    longest_gap: Annotated[
        float, typer.Option(help="seconds: an episode ends where a source is silent for longer")
    ] = 0.5,
    robot_type: Annotated[str, typer.Option(help="kind of the robot, told in the data set")] = "",
    workers: Annotated[int, typer.Option(help="processes, a bag each", min=1, max=256)] = min(4, os.cpu_count() or 1),
) -> None:
    """Write the episodes of bags as a data set in the format of LeRobot (v3.0); goes on where it was stopped."""
    from rich.console import Console
    from rich.progress import Progress

    from streaming_vla.parameters.load import read
    from streaming_vla.workbench.export.options import export_options
    from streaming_vla.workbench.export.run import export_all

    try:
        options = export_options(
            read(params, namespace),
            namespace=namespace,
            instruction=instruction,
            action_topics=action_topic or (),
            state_topics=state_topic or (),
            state_names=[name.strip() for name in state_names.split(",") if name.strip()],
            square=square,
            storage=pictures,
            longest_gap_s=longest_gap,
            robot_type=robot_type,
        )
        with Progress(console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("seconds of recording", total=None)
            done = export_all(
                bags, out, options, workers, lambda now, total: bar.update(task, completed=now, total=total)
            )
    except (ValueError, OSError) as error:
        refuse(error)
    for problem in done.problems:
        print(problem, file=sys.stderr)
    print(f"Written: {done.episodes} episodes to {out}")
