"""The verdict and the table of the report, from the numbers of its runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Numbers = Mapping[str, Any]
NOTHING = "–"  # noqa: RUF001 (a dash is meant)
GOOD_HALT_MS = 10.0  # a halt that no one sees: a fifth of a control period of 50 ms
GOOD_AGREEMENT = 0.99


def rows(runs: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """Return (name, one text per run) of every figure that a run has."""
    found = [(name, [text(run["numbers"]) for run in runs]) for name, text in _ROWS]
    return [(name, cells) for name, cells in found if any(cell != NOTHING for cell in cells)]


def verdict(runs: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Return (good, bad or plain; sentence) for what the numbers say."""
    said: list[tuple[str, str]] = []
    for run in runs:
        numbers, name = run["numbers"], run["name"]
        halt = numbers.get("t_halt_ms")
        if halt is not None:
            count = numbers["t_halt"]["count"]
            kind = "good" if halt <= GOOD_HALT_MS else "bad"
            said.append((kind, f"{name}: the arm waits {halt:.1f} ms at a hand-over ({count} hand-overs)."))
        if numbers.get("stopped"):
            why = "; ".join(numbers["stops"])
            said.append(("bad", f"{name}: {numbers['stopped']} of {numbers['episodes']} episodes were stopped: {why}."))
        if numbers.get("episodes") and "success" in numbers:
            kind = "good" if numbers["success"] == numbers["episodes"] else "plain"
            said.append((kind, f"{name}: {numbers['success']} of {numbers['episodes']} episodes succeed."))
        error = numbers.get("action_error") or {}
        if error:
            text = f"{error['mean']:.3f} action units from what the robot did ({error['compared']} actions)"
            said.append(("plain", f"{name}: actions are {text}."))
        agreement = (numbers.get("live") or {}).get("decision_agreement")
        if agreement is not None:
            kind = "good" if agreement >= GOOD_AGREEMENT else "bad"
            said.append((kind, f"{name}: {100 * agreement:.1f} % of the observations were asked for as when recorded."))
        said += [("bad", problem) for bag in numbers.get("bags", []) for problem in bag["problems"]]
    return said or [("bad", "No action was executed.")]


def _number(value: float | None, unit: str = "", digits: int = 1) -> str:
    return NOTHING if value is None else f"{value:,.{digits}f} {unit}".strip()


def _at(*path: str) -> Callable[[Numbers], Any]:
    def find(numbers: Numbers) -> Any:
        value: Any = numbers
        for key in path:
            value = value.get(key) if isinstance(value, Mapping) else None
        return value

    return find


def _row(unit: str, digits: int, *path: str) -> Callable[[Numbers], str]:
    find = _at(*path)
    return lambda numbers: _number(find(numbers), unit, digits)


def _kib(*path: str) -> Callable[[Numbers], str]:
    find = _at(*path)
    return lambda numbers: _number(None if (size := find(numbers)) is None else size / 1024, "KiB")


def _chunks(numbers: Numbers) -> str:
    counts = [_at("kv_cache", f"chunks_{fate}")(numbers) for fate in ("kept", "dropped", "evicted")]
    return ", ".join(str(count) for count in counts) if any(counts) else NOTHING


def _reasons(numbers: Numbers) -> str:
    reasons = _at("observations", "by_reason")(numbers) or {}
    return ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in reasons.items() if count) or NOTHING


def _success(numbers: Numbers) -> str:
    return f"{numbers['success']} of {numbers['episodes']}" if "success" in numbers else NOTHING


def _dimensions(numbers: Numbers) -> str:
    errors = _at("action_error", "by_dimension")(numbers) or {}
    return ", ".join(f"{name} {error:.3f}" for name, error in errors.items()) or NOTHING


_ROWS: tuple[tuple[str, Callable[[Numbers], str]], ...] = (
    ("success", _success),
    ("stopped by the executor", _row("", 0, "stopped")),
    ("T_halt, mean", _row("ms", 1, "t_halt_ms")),
    ("T_halt, p95", _row("ms", 1, "t_halt", "p95")),
    ("T_halt, longest", _row("ms", 1, "t_halt", "max")),
    ("T_halt when recorded, mean", _row("ms", 1, "live", "t_halt", "mean")),
    ("T_action, mean", _row("ms", 1, "t_action_ms")),
    ("starved", _row("s", 2, "starved_s")),
    ("actions executed", _row("", 0, "executed_actions")),
    ("observations sent", _row("", 0, "observations", "count")),
    ("observations by reason", _reasons),
    ("decisions as when recorded", _row("", 3, "live", "decision_agreement")),
    ("action error, mean", _row("", 4, "action_error", "mean")),
    ("action error by dimension", _dimensions),
    ("KV cache, mean", _kib("kv_cache", "bytes", "mean")),
    ("full KV cache, mean", _kib("kv_cache", "full_bytes", "mean")),
    ("chunks kept, dropped, evicted", _chunks),
    ("saliency, mean", _row("", 3, "saliency", "mean")),
)
