"""The study of strategies on the virtual clock: strategies x latency profiles x tasks.

    python benchmarks/streaming/run.py                                  # everything, 50 episodes a cell: hours
    python benchmarks/streaming/run.py --plan claims                    # what the README claims, about 40 minutes
    python benchmarks/streaming/run.py --profiles paper --strategies ours,afm --tasks reach --episodes 10

Every episode is kept in out/streaming/cells and not run again; results.json, results.md, pareto.png and timeline.png
beside this file are made of what was asked for. Baselines have the parameters of tuned.json (tune.py).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, NoReturn

import matplotlib
import typer
from rich.console import Console

from streaming_vla.evaluation.processes import WorkerLost
from streaming_vla.evaluation.progress import counting
from streaming_vla.evaluation.timeline import draw_timeline
from streaming_vla.evaluation.virtual_cells import MOVED, Cell, Cells, Models
from streaming_vla.evaluation.virtual_cost import costs
from streaming_vla.evaluation.virtual_runs import policy_of_process, run
from streaming_vla.evaluation.virtual_strategies import STRATEGIES, Setup, changed, find_strategy
from streaming_vla.evaluation.virtual_study import Row, aggregate, markdown
from streaming_vla.inference.latency_profile import find_profile
from streaming_vla.robots.tasks import HELD_OUT_SEED, select_tasks

matplotlib.use("Agg")
from matplotlib import pyplot as plt

HERE = Path(__file__).parent
PROFILES = ("paper", "measured", "jetson", "remote_wifi")
TIMELINE = ("synchronous_10", "afm", "ours")  # each above ours


@dataclass(frozen=True)
class Part:
    """A part of a plan: strategies x profiles, so many episodes of each task."""

    strategies: tuple[str, ...]
    profiles: tuple[str, ...]
    episodes: int


PLANS: dict[str, tuple[Part, ...]] = {
    "full": (Part(tuple(STRATEGIES), PROFILES, 50),),
    # success needs many episodes of few strategies, starving few episodes of all
    "claims": (
        Part(
            ("ours", "synchronous_5", "synchronous_10", "ours_adaptive", "ours_random", "ours_action_norm"),
            ("paper",),
            50,
        ),
        Part(tuple(STRATEGIES), PROFILES, 2),
    ),
}


def tuned_strategies(file: Path) -> dict[str, Setup]:
    """Return every strategy with the parameters that tune.py found; without its file as they are."""
    found = json.loads(file.read_text(encoding="utf-8"))["changes"] if file.is_file() else {}
    return {name: changed(setup, found.get(name, {})) for name, setup in STRATEGIES.items()}


def cells_of(parts: Iterable[Part], tasks: list[str], setups: dict[str, Setup]) -> list[Cell]:
    """Return the cells of a plan; of those that differ in the number of episodes only, the one with most."""
    most: dict[Cell, int] = {}
    for part in parts:
        for name in part.strategies:
            for profile in part.profiles:
                for task in (*tasks, MOVED):
                    cell = Cell(name, setups[name], profile, task, 0)
                    most[cell] = max(most.get(cell, 0), part.episodes)
    return [replace(cell, episodes=episodes) for cell, episodes in most.items()]


def summarise(cells: list[Cell], kept: Cells, cost: dict[str, int]) -> list[Row]:
    """Return one line per strategy and profile."""
    found: list[Row] = []
    for strategy, profile in dict.fromkeys((cell.strategy, cell.profile) for cell in cells):
        rows: dict[bool, list[Row]] = {False: [], True: []}
        for cell in cells:
            if (cell.strategy, cell.profile) == (strategy, profile):
                rows[cell.task == MOVED] += kept.rows(cell)
        period_ms = find_profile(profile).control_period_ms
        found.append(aggregate(strategy, profile, period_ms, rows[False], rows[True], cost))
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


def draw_timelines(cells: list[Cell], models: Models, out: Path) -> None:
    """Write the timeline of one scene of each of TIMELINE above that of the last, where both are in the study."""
    first = {cell.strategy: cell for cell in reversed(cells) if cell.task != MOVED}
    if TIMELINE[-1] not in first:
        return
    records = {name: run(first[name].job(HELD_OUT_SEED, models)).record for name in TIMELINE if name in first}
    for name in TIMELINE[:-1]:
        if name in records:
            draw_timeline(records[name], records[TIMELINE[-1]], out / f"timeline_{name}.png")


def main(
    plan: Annotated[str, typer.Option(help="full or claims; the options below choose from it")] = "full",
    strategies: Annotated[str, typer.Option(help="names with commas between; default: those of the plan")] = "",
    profiles: Annotated[str, typer.Option(help="names or paths with commas between; default: those of the plan")] = "",
    tasks: Annotated[str, typer.Option(help="names with commas between, or mt10, memory, all")] = "mt10",
    episodes: Annotated[int | None, typer.Option(min=1, help="of every cell; default: as the plan says")] = None,
    model: Annotated[str, typer.Option(help="shipped model or path")] = "compact_mt10",
    saliency_model: Annotated[str, typer.Option(help="its predictor; auto: the one of its name")] = "auto",
    tuned: Annotated[Path, typer.Option(help="what tune.py found")] = HERE / "tuned.json",
    processes: Annotated[int, typer.Option(min=1, help="one core each")] = 2,
    cells: Annotated[Path, typer.Option(help="folder of the kept episodes")] = Path("out/streaming/cells"),
    out: Annotated[Path, typer.Option(help="folder of the results")] = HERE,
) -> None:
    """Run the study, or what of it is missing, and write its results."""
    console = Console()
    models = Models(model, saliency_model)
    try:
        setups = tuned_strategies(tuned)
        parts = _chosen(plan, strategies, profiles, episodes)
        everything = cells_of(parts, select_tasks(tasks), setups)
        policy = policy_of_process(model, saliency_model)
        kept = Cells(cells, models)
    except (ValueError, OSError) as error:
        _end(error, console)
    if policy.predictor is None:
        asking = [name for name, setup in setups.items() if setup.needs_predictor]
        console.print(f"Left out, {model} has no saliency model: {', '.join(asking)}", soft_wrap=True)
        everything = [cell for cell in everything if cell.strategy not in asking]
    jobs = kept.missing(everything)
    try:
        with counting() as progress:
            bar = progress.add_task(f"{len(everything)} cells", total=len(jobs))
            kept.run(
                jobs,
                processes,
                lambda cell: progress.update(
                    bar, advance=1, description=f"{cell.strategy}, {Path(cell.profile).stem}, {cell.task}"
                ),
            )
    except WorkerLost as error:
        _end(error, console)
    rows = summarise(everything, kept, costs(policy))
    out.mkdir(parents=True, exist_ok=True)
    (out / "results.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    (out / "results.md").write_text(markdown(rows), encoding="utf-8")
    draw_pareto(rows, out / "pareto.png")
    draw_timelines(everything, models, out)
    console.print(markdown(rows), soft_wrap=True)


def _end(error: Exception, console: Console) -> NoReturn:
    console.print(f"run.py: {error}", style="red", soft_wrap=True)
    raise typer.Exit(1) from error


def _chosen(plan: str, strategies: str, profiles: str, episodes: int | None) -> list[Part]:
    """Return the parts of a plan that were asked for.

    Raises:
        ValueError: an unknown plan, strategy or profile.
    """
    if plan not in PLANS:
        raise ValueError(f"plan '{plan}' is unknown: choose one of {', '.join(PLANS)}")
    names, latencies = _names(strategies), _names(profiles)
    for name in names:
        find_strategy(name)
    for latency in latencies:
        find_profile(latency)
    found = []
    for part in PLANS[plan]:
        chosen = tuple(name for name in part.strategies if not names or name in names)
        # a profile of one's own is in no plan
        where = tuple(latency for latency in latencies if latency in part.profiles or latency not in PROFILES)
        found.append(Part(chosen, where if latencies else part.profiles, episodes or part.episodes))
    return found


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


if __name__ == "__main__":
    typer.run(main)
