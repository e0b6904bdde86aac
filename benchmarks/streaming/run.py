"""The study of strategies on the virtual clock: strategies x latency profiles x tasks, those of memory with a history.

    python benchmarks/streaming/run.py                                  # everything, 50 episodes a cell: hours
    python benchmarks/streaming/run.py --plan claims                    # what the README claims, above an hour
    python benchmarks/streaming/run.py --profiles paper --strategies ours,afm --tasks reach --episodes 10

Every episode is kept in out/streaming/cells and not run again; results.json, results.md, pareto.png and timeline_*.png
beside this file are made of what was asked for, and of rows of the same weights that are there. Baselines have the
parameters of tuned.json (tune.py).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from cells import MEMORY_EARLY, MOVED, Cell, Cells, Models, memory_cache
from cost import costs
from grids import SAVING
from plots import draw_pareto, draw_timelines
from rich.console import Console
from strategies import STRATEGIES, Setup, changed, find_strategy
from study import Row, aggregate, markdown

from streaming_vla.engine.cache import engine_options
from streaming_vla.engine.latency_profile import find_profile
from streaming_vla.engine.options import CacheOptions
from streaming_vla.engine.sessions import check_fit
from streaming_vla.policies.models import AUTO
from streaming_vla.sim.memory_tasks import MEMORY_TASKS
from streaming_vla.sim.tasks import TASKS, select_tasks
from streaming_vla.workbench.evaluation.cache_options import NEWEST_ONLY
from streaming_vla.workbench.processes import WorkerLost
from streaming_vla.workbench.progress import counting
from streaming_vla.workbench.virtual.runs import policy_of_process

HERE = Path(__file__).parent
PARAMETERS = "config/streaming_vla.yaml"  # but what a strategy sets otherwise (strategies.py, tuned.json)
PROFILES = ("paper", "measured", "jetson", "jetson_throttled", "remote_wifi", "remote_wifi_gone")


@dataclass(frozen=True)
class Part:
    """A part of a plan: strategies x profiles x tasks, so many episodes of each; MT10 brings the moved goal along."""

    strategies: tuple[str, ...]
    profiles: tuple[str, ...]
    episodes: int
    tasks: tuple[str, ...] = tuple(TASKS)


EVERYTHING, MEMORY = tuple(STRATEGIES), tuple(MEMORY_TASKS)
PLANS: dict[str, tuple[Part, ...]] = {
    "full": (Part(EVERYTHING, PROFILES, 50), Part(EVERYTHING, PROFILES, 50, MEMORY)),
    # success needs many episodes of few strategies, starving few episodes of all
    "claims": (
        Part(("ours", "synchronous_5"), PROFILES, 50),
        Part(("synchronous_10", *SAVING), ("paper",), 50),
        Part(EVERYTHING, PROFILES, 2),
        Part(("lerobot_latest_only", "vlash"), ("jetson", "remote_wifi"), 10),
        Part(("ours", "synchronous_10"), ("paper",), 20, MEMORY),
    ),
}


def tuned_strategies(file: Path) -> dict[str, Setup]:
    """Return every strategy with the parameters that tune.py found; without its file as they are."""
    found = json.loads(file.read_text(encoding="utf-8"))["changes"] if file.is_file() else {}
    return {name: changed(setup, found.get(name, {})) for name, setup in STRATEGIES.items()}


def cells_of(parts: Iterable[Part], setups: Mapping[str, Setup], memory: CacheOptions) -> list[Cell]:
    """Return the cells of a plan; of those that differ in the number of episodes only, the one with most.

    Args:
        memory: what is kept of the history in memory tasks; all others see the newest observation.
    """
    most: dict[Cell, int] = {}
    for part in parts:
        moved = (MOVED,) if set(part.tasks) & set(TASKS) else ()
        for name, profile, task in product(part.strategies, part.profiles, (*part.tasks, *moved)):
            setup, cache = setups[name], NEWEST_ONLY
            if task in MEMORY_TASKS:
                cache = memory
                if setup.chunks is None:  # a stream
                    setup = replace(setup, monitor=setup.monitor.changed(early_actions=MEMORY_EARLY))
            cell = Cell(name, setup, profile, task, 0, cache)
            most[cell] = max(most.get(cell, 0), part.episodes)
    return [replace(cell, episodes=episodes) for cell, episodes in most.items()]


def summarise(cells: list[Cell], kept: Cells, cost: dict[str, int]) -> list[Row]:
    """Return one line per strategy and profile; all cells are of tasks that need memory, or none."""
    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.strategy, cell.profile), []).append(cell)
    found: list[Row] = []
    for (strategy, profile), group in groups.items():
        rows: dict[bool, list[Row]] = {False: [], True: []}
        for cell in group:
            rows[cell.task == MOVED] += kept.rows(cell)
        period_ms = find_profile(profile).control_period_ms
        # its first chunk of an episode is not guided, and counted all the same
        spent = {**cost, "denoise": cost.get("exact_denoise", 0)} if group[0].setup.exact else cost
        cache = group[0].cache.cache_policy
        found.append(aggregate(strategy, profile, cache, period_ms, rows[False], rows[True], spent))
    return found


def main(
    plan: Annotated[str, typer.Option(help="full or claims; the options below choose from it")] = "full",
    strategies: Annotated[str, typer.Option(help="names with commas between; default: those of the plan")] = "",
    profiles: Annotated[str, typer.Option(help="names or paths with commas between; default: those of the plan")] = "",
    tasks: Annotated[
        str, typer.Option(help="names with commas between, or mt10, memory; default: those of the plan")
    ] = "",
    episodes: Annotated[int | None, typer.Option(min=1, help="of every cell; default: as the plan says")] = None,
    model: Annotated[str, typer.Option(help="shipped model or path")] = "compact_mt10",
    saliency_model: Annotated[str, typer.Option(help="its predictor; auto: the one of its name")] = AUTO,
    gate: Annotated[
        str, typer.Option(help="of the cache in memory tasks; auto: the one of the model's name; empty: full history")
    ] = AUTO,
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
        parts = chosen(plan, strategies, profiles, tasks, episodes)
        memory = memory_cache(model, gate)
        everything = cells_of(parts, setups, memory)
        policy = policy_of_process(model, saliency_model)
        # a gate of another model is refused before anything is run
        check_fit(policy.spec, engine_options(memory, policy.spec.tokens_per_observation))
        kept = Cells(cells, models)
    except (ValueError, OSError) as error:
        _end(error, console)
    if getattr(policy, "predictor", None) is None:
        asking = [name for name, setup in setups.items() if setup.needs_predictor]
        console.print(f"Left out, {model} has no saliency model: {', '.join(asking)}", soft_wrap=True)
        everything = [cell for cell in everything if cell.strategy not in asking]
    simple = [cell for cell in everything if not cell.needs_memory]
    recalling = [cell for cell in everything if cell.needs_memory]
    if recalling:
        with_gate = f", gate {Path(memory.cache_gate).stem}" if memory.cache_gate else ""
        console.print(f"Memory tasks keep their history by cache {memory.cache_policy}{with_gate}", soft_wrap=True)
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
    cost = costs(policy)
    out.mkdir(parents=True, exist_ok=True)
    of = {"parameter_file": PARAMETERS, "weights": models.digest()}
    new = [row | of for row in (*summarise(simple, kept, cost), *summarise(recalling, kept, cost))]
    rows = joined(new, out / "results.json")
    (out / "results.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    (out / "results.md").write_text(markdown(rows), encoding="utf-8")
    draw_pareto([row for row in rows if row["tasks"] != "memory"], out / "pareto.png")
    draw_timelines(simple, models, out)
    console.print(markdown(rows), soft_wrap=True)


def joined(new: list[Row], file: Path) -> list[Row]:
    """Return rows with those of `file` that have the same weights and stand for something else, by strategy."""
    known: list[Row] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else []
    made = {_what(row) for row in new}
    kept = [row for row in known if row.get("weights") == new[0]["weights"] and _what(row) not in made]
    places = {name: place for place, name in enumerate((*EVERYTHING, *PROFILES))}
    last = len(places)
    return sorted(
        (*new, *kept),
        key=lambda row: (
            row["tasks"] == "memory",
            places.get(row["strategy"], last),
            places.get(row["profile"], last),
        ),
    )


def _what(row: Row) -> tuple[str, str, str]:
    return row["strategy"], row["profile"], row["tasks"]


def _end(error: Exception, console: Console) -> NoReturn:
    console.print(f"run.py: {error}", style="red", soft_wrap=True)
    raise typer.Exit(1) from error


def chosen(plan: str, strategies: str, profiles: str, tasks: str, episodes: int | None) -> list[Part]:
    """Return what of a plan was asked for: names with commas between, empty: everything.

    Raises:
        ValueError: an unknown plan, strategy, profile or task, or nothing is left of the plan.
    """
    if plan not in PLANS:
        raise ValueError(f"plan '{plan}' is unknown: choose one of {', '.join(PLANS)}")
    names, latencies, wanted = _names(strategies), _names(profiles), select_tasks(tasks) if tasks else []
    for name in names:
        find_strategy(name)
    for latency in latencies:
        find_profile(latency)
    found = []
    for part in PLANS[plan]:
        which = tuple(name for name in part.strategies if not names or name in names)
        # a profile of one's own is in no plan
        where = tuple(latency for latency in latencies if latency in part.profiles or latency not in PROFILES)
        what = tuple(task for task in part.tasks if not wanted or task in wanted)
        where = where if latencies else part.profiles
        if which and where and what:
            found.append(Part(which, where, episodes or part.episodes, what))
    if not found:
        raise ValueError(
            f"plan '{plan}' runs no such strategy with such a profile on such a task: choose others, or plan full"
        )
    return found


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


if __name__ == "__main__":
    typer.run(main)
