"""What a look is worth: success and time at observations per action, rule by rule; writes front.json and front.png

    python benchmarks/streaming/front.py                 # about an hour on two cores, goes on where it was stopped
    python benchmarks/streaming/front.py --rules ours_random --episodes 5

A rule's threshold is a quantile of what it says on scenes that no evaluation uses: at rate 0 an observation waits for
the end of the overrun, at rate 1 it is taken as early as `ours` takes it. The scenes are held out.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from cells import Cell, Cells, Models
from front_plot import draw_front
from grids import SAVING, dial
from rich.console import Console
from strategies import STRATEGIES, changed
from study import aggregate

from streaming_vla.engine.latency_profile import find_profile
from streaming_vla.policies.models import AUTO
from streaming_vla.sim.tasks import TASKS
from streaming_vla.workbench.processes import WorkerLost
from streaming_vla.workbench.progress import counting
from streaming_vla.workbench.tuning.calibrate_command import CALIBRATION_SEED
from streaming_vla.workbench.virtual.runs import VirtualRun

HERE = Path(__file__).parent
RATES = tuple(number / 8 for number in range(9))
PROFILE = "paper"


def main(
    rules: Annotated[str, typer.Option(help="names with commas between")] = ",".join(SAVING),
    episodes: Annotated[int, typer.Option(min=1, help="of each task, rule and rate")] = 20,
    calibrated: Annotated[int, typer.Option(min=1, help="scenes of each task that thresholds are taken from")] = 2,
    model: Annotated[str, typer.Option(help="shipped model or path")] = "compact_mt10",
    saliency_model: Annotated[str, typer.Option(help="its saliency model; auto: the one of its name")] = AUTO,
    processes: Annotated[int, typer.Option(min=1, help="one core each")] = 2,
    cells: Annotated[Path, typer.Option(help="folder of the kept episodes")] = Path("out/streaming/cells"),
    out: Annotated[Path, typer.Option(help="folder of the results")] = HERE,
) -> None:
    """Run every rule at every rate, or what of it is missing, and write the front."""
    console = Console()
    kept = Cells(cells, Models(model, saliency_model))
    scenes = [
        VirtualRun("", STRATEGIES["ours"], PROFILE, task, CALIBRATION_SEED + number, model, saliency_model)
        for task in TASKS
        for number in range(calibrated)
    ]
    try:
        points = [
            (rule, rate, [Cell(f"{rule}_{rate:g}", setup, PROFILE, task, episodes) for task in TASKS])
            for rule in rules.split(",")
            for rate, setup in zip(RATES, _dialled(rule, scenes, processes), strict=True)
        ]
        jobs = kept.missing(cell for _, _, group in points for cell in group)
        with counting() as progress:
            bar = progress.add_task("front", total=len(jobs))
            kept.run(jobs, processes, lambda cell: progress.update(bar, advance=1, description=cell.strategy))
    except (KeyError, ValueError, OSError, WorkerLost) as error:
        console.print(f"front.py: {error}", style="red", soft_wrap=True)
        raise typer.Exit(1) from error
    period_ms = find_profile(PROFILE).control_period_ms
    front = []
    for rule, rate, group in points:
        rows = [row for cell in group for row in kept.rows(cell)]
        told = aggregate(rule, PROFILE, group[0].cache.cache_policy, period_ms, rows, [], {})
        front.append(
            {
                "rule": rule,
                "rate": rate,
                "observations_per_action": 1.0 / told["actions_per_observation"],
                "success": told["success"],
                "low": told["success_low"],
                "high": told["success_high"],
                "episodes": told["episodes"],
                "episode_s": told["episode_s"],
            }
        )
    (out / "front.json").write_text(json.dumps(front, indent=1) + "\n", encoding="utf-8")
    draw_front(front, out / "front.png")
    for point in front:
        console.print(
            f"{point['rule']:18} rate {point['rate']:.3f}: {point['observations_per_action']:.3f} observations per "
            f"action, {100 * point['success']:.1f} % of {point['episodes']}, median {point['episode_s']:.2f} s",
            soft_wrap=True,
        )


def _dialled(rule: str, scenes: Sequence[VirtualRun], processes: int) -> list[Any]:
    """Return the rule at every rate."""
    changes = dial(STRATEGIES[rule], scenes, processes)
    return [changed(STRATEGIES[rule], changes(rate)) for rate in RATES]


if __name__ == "__main__":
    typer.run(main)
