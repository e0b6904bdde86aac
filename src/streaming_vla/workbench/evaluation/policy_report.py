"""The figures of a policy alone, as JSON and as a Markdown table: successes per task, and what its cache held."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from streaming_vla.workbench.evaluation.closed_loop import EpisodeResult
from streaming_vla.workbench.evaluation.closed_loop_runner import RunnerOptions
from streaming_vla.workbench.report.statistics import summarise, wilson_interval


def tabulate(results: Sequence[EpisodeResult], options: RunnerOptions) -> dict[str, Any]:
    """Return per task and over all of them: successes, rates, Wilson's 95 % intervals, steps, and the cache's end."""
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
        "cache": _cache(results),
    }


def _cache(results: Sequence[EpisodeResult]) -> dict[str, Any]:
    """Return means of what the cache held at the end, and for every class of a cue how often it was in it."""
    ends = [result.memory for result in results]
    held = {
        name: sum(getattr(end, name) for end in ends) / max(1, len(ends))
        for name in ("observations", "tokens", "bytes", "allocated_bytes", "full_tokens", "kept", "dropped", "evicted")
    }
    cues: dict[str, list[int]] = {}
    for end in ends:
        if end.cue is not None:
            count = cues.setdefault(str(end.cue), [0, 0])
            count[0] += end.cue_held
            count[1] += 1
    return held | {"cue_held": dict(sorted(cues.items()))}


def to_markdown(table: dict[str, Any]) -> str:
    """Return the table of `tabulate` as Markdown."""
    lines = [
        "| task | successes | rate | 95 % interval | median steps | tokens held | of | cue held, by class |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for task, row in [*table["per_task"].items(), ("**all**", table["all"])]:
        steps = "" if row["median_steps"] is None else f"{row['median_steps']:.0f}"
        cache = row["cache"]
        cues = "" if task == "**all**" else ", ".join(f"{held}/{count}" for held, count in cache["cue_held"].values())
        lines.append(
            f"| {task} | {row['successes']}/{row['episodes']} | {row['success']:.3f} "
            f"| {row['low']:.3f} to {row['high']:.3f} | {steps} "
            f"| {cache['tokens']:.0f} | {cache['full_tokens']:.0f} | {cues} |"
        )
    return "\n".join(lines) + "\n"
