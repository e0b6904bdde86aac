"""The study of strategies on the virtual clock: strategies x latency profiles x tasks.

    python benchmarks/streaming/run.py                                    # everything, 50 episodes a cell
    python benchmarks/streaming/run.py --episodes 2 --strategy ours --strategy afm --profile paper --task reach

Finished cells are kept in out/streaming/cells and are not run again; results.json, results.md, pareto.png and
timeline.png beside this file are made of all of them. Strategies for chunks need a model with a chunk head.
"""

from __future__ import annotations

import functools
import json
import multiprocessing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import matplotlib
import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from streaming_vla.evaluation.results import write_json
from streaming_vla.evaluation.timeline import draw_timeline
from streaming_vla.evaluation.virtual_episode import Disturbance, EpisodeOptions, VirtualEpisode, run_episode
from streaming_vla.evaluation.virtual_strategies import STRATEGIES, find_strategy
from streaming_vla.evaluation.virtual_study import MovableGoal, Row, aggregate, as_row, markdown, measures
from streaming_vla.inference.latency_profile import find_profile
from streaming_vla.policy.loading import load_policy
from streaming_vla.policy.models import find_model
from streaming_vla.robots.tasks import TASKS, get_task

matplotlib.use("Agg")
from matplotlib import pyplot as plt

HERE = Path(__file__).parent
PROFILES = ("paper", "measured", "jetson", "remote_wifi")
FIRST_HELD_OUT_SEED = 10_000  # smaller seeds are those of the demonstrations
MOVED = "reach, goal moved"
MOVED_AT_STEP = 15
TIMELINE = ("afm", "ours")


@dataclass(frozen=True)
class Cell:
    """One strategy with one profile on one task, or on reach with a goal that is moved."""

    strategy: str
    profile: str
    task: str
    episodes: int
    model: str

    @property
    def file_name(self) -> str:
        """Name of the file that keeps its rows."""
        task = self.task.replace(", ", "_").replace(" ", "_")
        return f"{Path(self.model).stem}__{self.strategy}__{Path(self.profile).stem}__{task}__{self.episodes}.json"


@functools.cache
def _tools(model: str) -> tuple[Any, MovableGoal]:
    """Return policy and robot of this process."""
    torch.set_num_threads(1)
    policy = load_policy(find_model(model))
    return policy, MovableGoal(image_size=2 * policy.spec.image_size)


def run_one(cell: Cell, seed: int) -> VirtualEpisode:
    """Run one episode of a cell."""
    policy, robot = _tools(cell.model)
    moved = cell.task == MOVED
    task = "reach" if moved else cell.task
    options = EpisodeOptions(cell.strategy, task, seed, get_task(task).instructions[0])
    disturbance = Disturbance(MOVED_AT_STEP, robot.mirror_goal) if moved else None
    return run_episode(find_strategy(cell.strategy), find_profile(cell.profile), policy, robot, options, disturbance)


def _row(job: tuple[Cell, int]) -> tuple[Cell, Row]:
    return job[0], as_row(measures(run_one(*job)))


def run_cells(cells: list[Cell], folder: Path, processes: int, console: Console) -> None:
    """Run what is not there yet; a cell is written when its last episode is done."""
    folder.mkdir(parents=True, exist_ok=True)
    missing = [cell for cell in cells if not (folder / cell.file_name).exists()]
    jobs = [(cell, FIRST_HELD_OUT_SEED + number) for cell in missing for number in range(cell.episodes)]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task(f"{len(cells) - len(missing)} of {len(cells)} cells kept", total=len(jobs))
        rows: dict[Cell, list[Row]] = {}
        for cell, row in _rows(jobs, processes):
            rows.setdefault(cell, []).append(row)
            if len(rows[cell]) == cell.episodes:
                write_json({"rows": sorted(rows[cell], key=lambda each: each["seed"])}, folder / cell.file_name)
            progress.update(bar, advance=1, description=f"{cell.strategy}, {cell.profile}, {cell.task}")


def _rows(jobs: list[tuple[Cell, int]], processes: int) -> Iterator[tuple[Cell, Row]]:
    if processes == 1:
        yield from map(_row, jobs)
        return
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        yield from pool.imap_unordered(_row, jobs)


def summarise(cells: list[Cell], folder: Path) -> list[Row]:
    """Return one line per strategy and profile."""
    found: list[Row] = []
    for strategy, profile in dict.fromkeys((cell.strategy, cell.profile) for cell in cells):
        rows: dict[bool, list[Row]] = {False: [], True: []}
        for cell in cells:
            if (cell.strategy, cell.profile) == (strategy, profile):
                rows[cell.task == MOVED] += json.loads((folder / cell.file_name).read_text())["rows"]
        period_ms = find_profile(profile).control_period_ms
        found.append(aggregate(strategy, profile, period_ms, rows[False], rows[True]))
    return found


def draw_pareto(rows: list[Row], path: Path) -> None:
    """Write success against T_halt, one panel per profile."""
    profiles = list(dict.fromkeys(row["profile"] for row in rows))
    figure, axes = plt.subplots(1, len(profiles), figsize=(4.2 * len(profiles), 4.2), sharey=True, squeeze=False)
    for axis, profile in zip(axes[0], profiles, strict=True):
        for row in (each for each in rows if each["profile"] == profile and each["t_halt_ms"] is not None):
            ours = row["strategy"].startswith("ours")
            bars = [[row["success"] - row["success_low"]], [row["success_high"] - row["success"]]]
            axis.errorbar(
                row["t_halt_ms"], row["success"], bars, fmt="o", ms=6, lw=0.8, color="#1a7f37" if ours else "#57606a"
            )
            axis.annotate(
                row["strategy"], (row["t_halt_ms"], row["success"]), (4, 4), textcoords="offset points", size=7
            )
        axis.set_title(profile)
        axis.set_xscale("symlog", linthresh=1.0)
        axis.set_xlim(left=-0.2)
        axis.set_xlabel("T_halt, mean per hand-over (ms)")
    axes[0][0].set_ylabel("success, with 95 % interval")
    figure.tight_layout()
    figure.savefig(path, dpi=160)
    plt.close(figure)


def main(
    strategy: Annotated[list[str] | None, typer.Option(help="give it again for more; default: all")] = None,
    profile: Annotated[list[str] | None, typer.Option(help="name or path; default: all shipped")] = None,
    task: Annotated[list[str] | None, typer.Option(help="default: MT10")] = None,
    episodes: Annotated[int, typer.Option(min=1, help="of every cell")] = 50,
    model: Annotated[str, typer.Option(help="shipped model or path")] = "compact_mt10",
    processes: Annotated[int, typer.Option(min=1)] = 1,
    cells: Annotated[Path, typer.Option(help="folder of the finished cells")] = Path("out/streaming/cells"),
    out: Annotated[Path, typer.Option(help="folder of the results")] = HERE,
) -> None:
    """Run the study, or what of it is missing, and write its results."""
    console = Console()
    chosen = strategy or list(STRATEGIES)
    try:
        needs_chunks = [name for name in chosen if find_strategy(name).chunks is not None]
        tasks = [get_task(name).name for name in task or TASKS]
        profiles = list(profile or PROFILES)
        for name in profiles:
            find_profile(name)
        has_chunks = hasattr(load_policy(find_model(model)), "chunk_step")
    except ValueError as error:
        console.print(f"run.py: {error}", style="red", soft_wrap=True)
        raise typer.Exit(1) from error
    if needs_chunks and not has_chunks:
        console.print(f"Left out, model {model} has no chunk head: {', '.join(needs_chunks)}", soft_wrap=True)
        chosen = [name for name in chosen if name not in needs_chunks]
    everything = [
        Cell(name, latency, each, episodes, model)
        for name in chosen
        for latency in profiles
        for each in (*tasks, MOVED)
    ]
    run_cells(everything, cells, processes, console)
    rows = summarise(everything, cells)
    out.mkdir(parents=True, exist_ok=True)
    (out / "results.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    (out / "results.md").write_text(markdown(rows), encoding="utf-8")
    draw_pareto(rows, out / "pareto.png")
    if set(TIMELINE) <= set(chosen):
        pair = [run_one(Cell(name, profiles[0], tasks[0], 1, model), FIRST_HELD_OUT_SEED).record for name in TIMELINE]
        draw_timeline(pair[0], pair[1], out / "timeline.png")
    console.print(markdown(rows), soft_wrap=True)


if __name__ == "__main__":
    typer.run(main)
