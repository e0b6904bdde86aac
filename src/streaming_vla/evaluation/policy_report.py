"""The figures of a policy alone: successes per task with their intervals, as JSON and as a Markdown table."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from streaming_vla.evaluation.closed_loop import EpisodeResult
from streaming_vla.evaluation.pilot import PilotOptions
from streaming_vla.evaluation.statistics import summarise, wilson_interval


def tabulate(results: Sequence[EpisodeResult], options: PilotOptions) -> dict[str, Any]:
    """Return successes per task and over all of them: counts, rates, Wilson's 95 % intervals, steps of a success."""
    tasks: dict[str, list[EpisodeResult]] = {}
    for result in results:
        tasks.setdefault(result.trial.task, []).append(result)
    seeds = sorted({result.trial.seed for result in results})
    rows = {task: _row(of_task) for task, of_task in tasks.items()}
    mean = sum(row["success"] for row in rows.values()) / max(1, len(rows))
    return {
        "options": dataclasses.asdict(options),
        "instruction": sorted({result.trial.instruction for result in results}),
        "seeds": [seeds[0], seeds[-1] + 1] if seeds else [],
        "per_task": rows,
        "mean": mean,
        "all": _row(results),
    }


def _row(results: Sequence[EpisodeResult]) -> dict[str, Any]:
    successes = sum(result.success for result in results)
    low, high = wilson_interval(successes, len(results))
    return {
        "successes": successes,
        "episodes": len(results),
        "success": successes / max(1, len(results)),
        "low": low,
        "high": high,
        "median_steps": summarise(result.steps for result in results if result.success).p50,
    }


def to_markdown(table: dict[str, Any]) -> str:
    """Return the table of `tabulate` as Markdown."""
    lines = ["| task | successes | rate | 95 % interval | median steps |", "|---|---|---|---|---|"]
    for task, row in [*table["per_task"].items(), ("**all**", table["all"])]:
        steps = "" if row["median_steps"] is None else f"{row['median_steps']:.0f}"
        lines.append(
            f"| {task} | {row['successes']}/{row['episodes']} | {row['success']:.3f} "
            f"| {row['low']:.3f} to {row['high']:.3f} | {steps} |"
        )
    return "\n".join(lines) + "\n"
