"""Tunes every strategy of the study over its own parameters, on scenes that no evaluation uses.

    python benchmarks/streaming/tune.py                                  # all, writes tuned.json beside this file
    python benchmarks/streaming/tune.py --strategies rtc,vlash --episodes 5

What is tuned, and how, stands in grids.py; tuned.json also keeps every combination that was tried. Strategies
that are not asked for keep what the file says.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from grids import GRIDS, grid, try_grid, turn_dials
from rich.console import Console
from strategies import STRATEGIES, find_strategy

from streaming_vla.sim.tasks import select_tasks
from streaming_vla.workbench.progress import counting
from streaming_vla.workbench.tuning.calibrate_command import CALIBRATION_SEED
from streaming_vla.workbench.virtual.runs import VirtualRun, policy_of_process

HERE = Path(__file__).parent


def main(
    strategies: Annotated[str, typer.Option(help="names with commas between; default: all that can be tuned")] = "",
    profile: Annotated[str, typer.Option(help="latencies: a shipped profile, or a YAML file")] = "paper",
    tasks: Annotated[str, typer.Option(help="names with commas between, or mt10")] = "mt10",
    episodes: Annotated[int, typer.Option(min=1, help="of each task and combination")] = 2,
    fewer: Annotated[
        float, typer.Option(help="share of the observations that ours_adaptive and its rivals save")
    ] = 0.3,
    model: Annotated[str, typer.Option(help="shipped model or path")] = "compact_mt10",
    saliency_model: Annotated[str, typer.Option(help="its predictor; auto: the one of its name")] = "auto",
    processes: Annotated[int, typer.Option(min=1, help="one core each")] = 2,
    out: Annotated[Path, typer.Option(help="the file, which run.py reads")] = HERE / "tuned.json",
) -> None:
    """Tune, and write what was found."""
    console = Console()
    known: dict[str, Any] = {"changes": {}, "tried": {}, "dials": {}}
    if out.is_file():
        known = json.loads(out.read_text(encoding="utf-8"))
    try:
        names = [name.strip() for name in strategies.split(",") if name.strip()] or list(STRATEGIES)
        for name in names:
            find_strategy(name)
        if getattr(policy_of_process(model, saliency_model), "predictor", None) is None:
            asking = [name for name in names if STRATEGIES[name].needs_predictor]
            console.print(f"Left out, {model} has no saliency model: {', '.join(asking)}", soft_wrap=True)
            names = [name for name in names if name not in asking]
        scenes = [
            VirtualRun("", STRATEGIES["ours"], profile, task, CALIBRATION_SEED + number, model, saliency_model)
            for task in select_tasks(tasks)
            for number in range(episodes)
        ]
        gridded = [name for name in names if name in GRIDS]
        with counting() as progress:
            bar = progress.add_task("grids", total=sum(len(grid(name)) for name in gridded) * len(scenes))
            for name in gridded:
                progress.update(bar, description=name)
                tried = try_grid(name, scenes, processes, lambda: progress.advance(bar))
                known["changes"][name] = tried[0].changes
                known["tried"][name] = [asdict(each) for each in tried]
                _write(known, out)
        for name, changes, sentence in turn_dials(names, scenes, fewer, processes):
            console.print(f"{name}: {sentence}", soft_wrap=True)
            known["changes"][name], known["dials"][name] = changes, sentence
            _write(known, out)
    except (ValueError, OSError) as error:
        console.print(f"tune.py: {error}", style="red", soft_wrap=True)
        raise typer.Exit(1) from error
    console.print(f"Written: {out}")


def _write(known: dict[str, Any], out: Path) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
