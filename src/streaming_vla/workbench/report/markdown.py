"""The table that compares the modes, each number with its count."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from streaming_vla.workbench.report.results import EVERY_MODE
from streaming_vla.workbench.report.rows import too_busy
from streaming_vla.workbench.table import FittedTable

Numbers = Mapping[str, Any]
NOTHING = "-"


def comparison_table(results: Mapping[str, Numbers]) -> FittedTable:
    """Return one column per mode; `results` is what `results.compare` returns."""
    rows = [[name, *(text(numbers) for numbers in results.values())] for name, text in ROWS]
    stages = [
        [f"{name}, p95", *(_stage(numbers, stage) for numbers in results.values())]
        for stage, name in STAGE_NAMES.items()
    ]
    return FittedTable(["", *results], rows + stages, "The same episodes", sections=[len(rows) - 1])


def summary_sentences(results: Mapping[str, Numbers]) -> list[str]:
    """Return what the numbers say, one sentence each; how the modes compare only where both were run."""
    sentences = [f"{mode}: {busy}" for mode, numbers in results.items() if (busy := too_busy(numbers))]
    if not {"synchronous", "streaming"} <= set(results):
        return sentences
    slow, fast = results["synchronous"], results["streaming"]
    if slow["t_halt_ms"] and fast["t_halt_ms"] is not None:
        if fast["t_halt_ms"] > 0:
            factor = slow["t_halt_ms"] / fast["t_halt_ms"]
            sentences.append(f"Streaming halts {factor:.1f} times shorter at a hand-over.")
        else:
            sentences.append("Streaming does not halt at all at a hand-over.")
    paired = fast["episode"]["compared_on"] == slow["episode"]["compared_on"] == EVERY_MODE
    if paired and slow["episode_s"] and fast["episode_s"]:
        change = 100 * (1 - fast["episode_s"] / slow["episode_s"])
        word = "less" if change >= 0 else "more"
        count = fast["episode"]["compared"]["count"]
        sentences.append(f"An episode takes {abs(change):.0f} % {word} time ({count} scenes that both solve).")
    return sentences


def _success(numbers: Numbers) -> str:
    low, high = numbers["success_interval_95"]
    return f"{numbers['success']} of {numbers['episodes']} (95 %: {100 * low:.0f} to {100 * high:.0f} %)"


def _number(value: float | None, unit: str, digits: int = 1) -> str:
    return NOTHING if value is None else f"{value:.{digits}f} {unit}"


def _of(value: float | None, unit: str, count: int, things: str, digits: int = 1) -> str:
    return f"{_number(value, unit, digits)} ({count} {things})"


def _pace(numbers: Numbers) -> str:
    clock = numbers.get("clock")
    return NOTHING if not clock else f"{clock['mean']:.2f} of real time ({clock['slowest']:.2f} at worst)"


def _episode(numbers: Numbers) -> str:
    compared = numbers["episode"]["compared"]
    return _of(numbers["episode_s"], "s", compared["count"], numbers["episode"]["compared_on"].split()[0], 2)


def _actions(numbers: Numbers) -> str:
    return _number(numbers["actions_per_solved"], "actions")


def _halt_extremes(numbers: Numbers) -> str:
    halt = numbers["t_halt"]
    return f"{_number(halt['p95'], 'ms')}, {_number(halt['max'], 'ms')} ({halt['count']})"


def _observations(numbers: Numbers) -> str:
    sent = numbers["observations"]["count"]
    return f"{sent} ({_number(numbers['observations_per_s'], 'per s', 2)})"


def _reasons(numbers: Numbers) -> str:
    reasons = numbers["observations"]["by_reason"]
    return ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in reasons.items() if count) or NOTHING


def _stage(numbers: Numbers, stage: str) -> str:
    summary = numbers["stages_ms"][stage]
    return f"{_number(summary['p95'], 'ms')} ({summary['count']})"


ROWS: tuple[tuple[str, Callable[[Numbers], str]], ...] = (
    ("success", _success),
    ("time per solved episode, mean", _episode),
    ("actions of it, mean", _actions),
    ("pace of simulated time", _pace),
    ("stopped by the executor", lambda n: f"{n['stopped']} of {n['episodes']}"),
    ("T_action, mean", lambda n: _of(n["t_action_ms"], "ms", n["executed_actions"], "actions")),
    ("T_halt, mean", lambda n: _of(n["t_halt_ms"], "ms", n["t_halt"]["count"], "hand-overs")),
    ("T_halt p95, longest", _halt_extremes),
    ("observations sent", _observations),
    ("observations by reason", _reasons),
)
STAGE_NAMES = {
    "observe": "observe",
    "prefill": "prefill",
    "flow_step": "flow step, model",
    "generate": "flow step, with transport",
    "request_to_context": "request to context",
    "observation_age": "observation age",
}
