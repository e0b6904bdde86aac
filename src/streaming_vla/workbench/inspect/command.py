"""The command `streaming-vla inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from streaming_vla.refusal import refuse


def inspect(
    dataset: Annotated[Path, typer.Argument(help="folder of a data set of LeRobot (v2.1 or v3.0)")],
    out: Annotated[Path, typer.Option(help="folder of report.html and report.json")] = Path("out/inspect"),
    params: Annotated[
        Path | None, typer.Option("--params", "--params-file", help="ROS parameter file: its limits of the actions")
    ] = None,
    episodes: Annotated[int, typer.Option(help="whose pictures are looked at, evenly spread", min=1)] = 20,
) -> None:
    """Say what is in a data set, and what a training or another tool would stumble over."""
    from rich.console import Console
    from rich.progress import Progress

    from streaming_vla.datasets.dataset import Dataset
    from streaming_vla.parameters.load import read
    from streaming_vla.workbench.inspect.report import verdict, write_inspection
    from streaming_vla.workbench.inspect.survey import survey

    try:
        limits = {}
        if params is not None:
            layout = read(params).generator.layout
            limits = dict(zip(layout.names, zip(layout.low, layout.high, strict=True), strict=True))
        with Dataset(dataset) as data:
            with Progress(console=Console(stderr=True), transient=True) as bar:
                task = bar.add_task("episodes looked at", total=None)
                found = survey(data, limits, episodes, lambda now, total: bar.update(task, completed=now, total=total))
            path = write_inspection(out, data, found)
    except (ValueError, OSError) as error:
        refuse(error)
    for _, line in verdict(found):
        print(line)
    print(f"Written: {path}")
