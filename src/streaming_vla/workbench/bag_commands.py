"""Commands on bags: replay, compare, tune, repair, and those of their own folders: export, inspect."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from streaming_vla.refusal import refuse
from streaming_vla.workbench.export.command import export
from streaming_vla.workbench.inspect.command import inspect

Bags = Annotated[list[Path], typer.Argument(help="folders of rosbag2, or .mcap / .db3 files")]
ParamsFile = Annotated[Path | None, typer.Option("--params", "--params-file", help="ROS parameter file of the suite")]
Namespace = Annotated[str, typer.Option(help="namespace of the robot in the bag")]
Instruction = Annotated[str, typer.Option(help="of bags that hold no episode topic")]
ActionTopic = Annotated[
    str, typer.Option(help="commands of a robot that the suite did not drive", show_default="the file's command_topic")
]


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    for command in (replay, compare, tune, export, inspect, repair):
        app.command()(command)


def replay(
    bags: Bags,
    params: ParamsFile = None,
    profile: Annotated[
        str, typer.Option(help="latencies: recorded (those of the bag), a shipped profile, or a YAML file")
    ] = "recorded",
    out: Annotated[Path, typer.Option(help="folder of report.html, report.json and results.json")] = Path("out/replay"),
    workers: Annotated[int, typer.Option(help="processes", min=1, max=256)] = min(4, os.cpu_count() or 1),
    ray: Annotated[str, typer.Option(help="address of a Ray cluster that replays the bags instead")] = "",
    namespace: Namespace = "/",
    instruction: Instruction = "",
    action_topic: ActionTopic = "",
    seed: Annotated[int, typer.Option(help="of the latencies")] = 0,
) -> None:
    """Run recordings through the suite's machines with injected latency: what they would have done."""
    from rich.console import Console
    from rich.progress import Progress

    from streaming_vla.workbench.replay.run import ReplayJob, replay_all, report_run
    from streaming_vla.workbench.report.html import write_report
    from streaming_vla.workbench.report.results import write_json
    from streaming_vla.workbench.report.rows import verdict

    console = Console(stderr=True)
    job = ReplayJob(params, (), profile, namespace, instruction, action_topic, seed)
    try:
        with Progress(console=console, transient=True) as progress:
            task = progress.add_task("bags", total=len(bags))

            def done(path: Path, refusal: str) -> None:
                progress.advance(task)
                if refusal:
                    console.print(refusal, style="red", highlight=False)

            replays = replay_all(bags, job, workers, done, ray)
        run = report_run(profile, replays, job)
        seconds = sum(each.duration_s for each in replays)
        episodes = sum(len(each.episodes) for each in replays)
        about = f"{len(replays)} bags, {seconds:.0f} s, {episodes} episodes, latency profile {profile}, seed {seed}."
        path = write_report(out, "Replay of " + ", ".join(bag.name for bag in bags), about, [run])
        write_json(run["numbers"], out / "results.json")
    except (ValueError, OSError) as error:
        refuse(error)
    for _, sentence in verdict([run]):
        print(sentence)
    print(f"Written: {path}, {out / 'results.json'}")


def compare(
    first: Annotated[Path, typer.Argument(help="folder of a report")],
    second: Annotated[Path, typer.Argument(help="folder of another")],
    out: Annotated[Path, typer.Option(help="folder of the page")] = Path("out/compare"),
) -> None:
    """Put two reports side by side."""
    from streaming_vla.workbench.report.html import ReportError
    from streaming_vla.workbench.report.html import compare as side_by_side

    try:
        print(f"Written: {side_by_side(first, second, out)}")
    except (ReportError, OSError) as error:
        refuse(error)


def tune(
    bags: Bags,
    params: ParamsFile = None,
    profile: Annotated[str, typer.Option(help="latencies: a shipped profile, or a YAML file")] = "measured",
    out: Annotated[Path, typer.Option(help="folder of the study and of what it finds")] = Path("out/tune"),
    trials: Annotated[int, typer.Option(help="replays of the bags, those of a stopped search counted", min=1)] = 64,
    workers: Annotated[int, typer.Option(help="processes", min=1, max=256)] = min(4, os.cpu_count() or 1),
    held_out: Annotated[
        list[Path] | None, typer.Option(help="bag to judge what is found; without one, every third of the bags")
    ] = None,
    storage: Annotated[str, typer.Option(help="database URL of a study that several machines share")] = "",
    namespace: Namespace = "/",
    instruction: Instruction = "",
    action_topic: ActionTopic = "",
    seed: Annotated[int, typer.Option(help="of the search and of the latencies")] = 0,
) -> None:
    """Search parameters on recordings: fewer observations against being closer to what the robot did."""
    from rich.console import Console
    from rich.progress import Progress

    from streaming_vla.workbench.replay.run import ReplayJob
    from streaming_vla.workbench.tuning.files import verdict, write_tuned
    from streaming_vla.workbench.tuning.study import TuneOptions
    from streaming_vla.workbench.tuning.tune import tune as search

    job = ReplayJob(params, (), profile, namespace, instruction, action_topic, seed)
    try:
        with Progress(console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task("trials", total=trials)
            options = TuneOptions(trials, workers, storage, out, seed)
            found = search(bags, job, options, lambda: progress.advance(task), held_out or ())
        written = write_tuned(out, found, job.suite())
    except (ValueError, OSError) as error:
        refuse(error)
    print(verdict(found))
    for number, point in enumerate(found.front, 1):
        for sentence in point.without_effect:
            print(f"{out / 'front' / f'{number}.yaml'}: {sentence}")
    print("Written: " + ", ".join(str(path) for path in written))


def repair(
    bag: Annotated[Path, typer.Argument(help="the damaged bag")],
    out: Annotated[Path, typer.Option(help="the new bag, a folder that does not exist yet")],
    compression: Annotated[str, typer.Option(help="none, zstd or lz4")] = "none",
) -> None:
    """Write what is readable of a damaged bag as a new one, which every program can open."""
    from streaming_vla.bags.repair import repair as copy

    try:
        count, problems = copy(bag, out, compression)
    except (ValueError, OSError) as error:
        refuse(error)
    for problem in problems:
        print(problem, file=sys.stderr)
    print(f"Written: {count} messages to {out}")
