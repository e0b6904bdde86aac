"""The figures of a policy alone, as JSON and as a Markdown table: successes per task, and what its cache held."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from streaming_vla.workbench.evaluation.closed_loop import EpisodeResult
from streaming_vla.workbench.evaluation.closed_loop_runner import RunnerOptions
from streaming_vla.workbench.report.statistics import summarise, wilson_interval
from streaming_vla.workbench.table import FittedTable

HEADER = [
    "task", "successes", "rate", "95 % interval", "median steps", "tokens held", "of tokens", "cue held, by class",
]  # fmt: skip


def tabulate(results: Sequence[EpisodeResult], options: RunnerOptions) -> dict[str, Any]:
    """Return per task and over all of them: successes, rates, Wilson's 95 % intervals, steps, and the cache's end."""
    tasks: dict[str, list[EpisodeResult]] = {}
    for result in results:
        tasks.setdefault(result.trial.task, []).append(result)
    seeds = sorted({result.trial.seed for result in results})
    rows = {task: _row(of_task) for task, of_task in tasks.items()}
    mean = sum(row["success"] for row in rows.values()) / max(1, len(rows))
    return {
        "options": dataclasses.asdict(options) | {"cache": options.cache.model_dump()},
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
    *tasks, (_, *sums) = _cells(table)
    rows = [HEADER, ["---"] * len(HEADER), *tasks, ["**all**", *sums]]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def to_table(table: dict[str, Any]) -> FittedTable:
    """Return the table of `tabulate` for a terminal; a column without a value is left out."""
    rows = _cells(table)
    kept = [place for place in range(len(HEADER)) if any(row[place] for row in rows)]
    shown = [[row[place] for place in kept] for row in rows]
    return FittedTable([HEADER[place] for place in kept], shown, sections=[len(rows) - 2])


def _cells(table: dict[str, Any]) -> list[list[str]]:
    """Return a row for each task, and one for all of them."""
    found = []
    for task, row in [*table["per_task"].items(), ("all", table["all"])]:
        cache = row["cache"]
        cues = [] if task == "all" else [f"{held}/{count}" for held, count in cache["cue_held"].values()]
        found.append([
            task,
            f"{row['successes']}/{row['episodes']}",
            f"{row['success']:.3f}",
            f"{row['low']:.3f} to {row['high']:.3f}",
            "" if row["median_steps"] is None else f"{row['median_steps']:.0f}",
            f"{cache['tokens']:.0f}",
            f"{cache['full_tokens']:.0f}",
            ", ".join(cues),
        ])  # fmt: skip
    return found
