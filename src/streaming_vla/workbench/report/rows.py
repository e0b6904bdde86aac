"""The verdict and the table of the report, from the numbers of its runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Numbers = Mapping[str, Any]
NOTHING = "–"  # noqa: RUF001 (a dash is meant)
DRY, EARLY = ("queue_empty",), ("early", "last_chance")  # reasons: nothing was left, or some was
LOOK = "Look in the counters of results.json and the nodes' logs for what was late or missing (docs/how-to/tune.md)."
GOOD_HALT_MS = 10.0  # a halt that no one sees: a fifth of a control period of 50 ms
GOOD_AGREEMENT = 0.99


def rows(runs: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """Return (name, one text per run) of every figure that a run has."""
    found = [(name, [text(run["numbers"]) for run in runs]) for name, text in _ROWS]
    return [(name, cells) for name, cells in found if any(cell != NOTHING for cell in cells)]


def verdict(runs: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Return (good, bad or plain; sentence) for what the numbers say; a bad one says what is to be done."""
    said: list[tuple[str, str]] = []
    for run in runs:
        numbers = run["numbers"]
        found = [_halting(numbers), *_outcome(numbers), _agreement(numbers)]
        said += [(kind, f"{run['name']}: {sentence}") for kind, sentence in found if sentence]
        said += [
            ("plain" if bag["episodes"] else "bad", problem if bag["episodes"] else f"Not in these numbers: {problem}")
            for bag in numbers.get("bags", [])
            for problem in bag["problems"]
        ]
    return said


def too_busy(numbers: Numbers) -> str:
    """Return that the machine was too busy for its simulation, with the pace; empty when it was not."""
    clock = numbers.get("clock") or {}
    if not clock.get("busy_episodes"):
        return ""
    return (
        f"the machine was too busy in {clock['busy_episodes']} of {numbers['episodes']} episodes: simulated time "
        f"passed at {clock['mean']:.2f} of its pace ({clock['slowest']:.2f} at worst), and {clock['late_ticks']} "
        "actions began a control period late. Stop what else runs here and run it again before you judge the policy."
    )


def _halting(numbers: Numbers) -> tuple[str, str]:
    halt = numbers.get("t_halt_ms")
    if not numbers.get("executed_actions"):
        return "bad", "no action was executed. What is missing says `streaming-vla doctor` with your parameter file."
    if halt is None:
        return "plain", "no newer observation took over, so there is no T_halt."
    text = f"the arm waits {halt:.1f} ms at a hand-over (T_halt, mean of {numbers['t_halt']['count']})"
    if halt <= GOOD_HALT_MS:
        return "good", f"{text}."
    reasons = _at("observations", "by_reason")(numbers) or {}
    if any(reasons.get(name) for name in DRY) and not any(reasons.get(name) for name in EARLY):
        return "plain", f"{text}: synchronous, it observes only when nothing is left to execute."
    late = _at("stages_ms", "request_to_context", "p95")(numbers)
    why = "" if late is None else f": contexts come up to {late:.0f} ms (p95) after they are asked for"
    return "bad", f"{text}{why}. Ask earlier, with `early_actions` of `saliency_monitor` (docs/how-to/tune.md)."


def _outcome(numbers: Numbers) -> list[tuple[str, str]]:
    said = []
    if busy := too_busy(numbers):
        said.append(("bad", busy))
    if numbers.get("stopped"):
        why = "; ".join(numbers["stops"])
        said.append(("bad", f"{numbers['stopped']} of {numbers['episodes']} episodes were stopped: {why}. {LOOK}"))
    if numbers.get("episodes") and "success" in numbers:
        kind = "good" if numbers["success"] == numbers["episodes"] else "plain"
        said.append((kind, f"{numbers['success']} of {numbers['episodes']} episodes succeed."))
    error = numbers.get("action_error") or {}
    if error:
        text = f"actions are {error['mean']:.3f} action units from what the robot did"
        said.append(("plain", f"{text} ({error['compared']} actions)."))
    return said


def _agreement(numbers: Numbers) -> tuple[str, str]:
    agreement = _at("live", "decision_agreement")(numbers)
    if agreement is None:
        return "plain", ""
    text = f"{100 * agreement:.1f} % of the observations were asked for as when recorded"
    if agreement >= GOOD_AGREEMENT:
        return "good", f"{text}."
    profiles = {bag["latencies"] for bag in numbers.get("bags", []) if bag["latencies"]} - {"recorded"}
    why = (
        f"the latencies are those of profile {', '.join(sorted(profiles))}" if profiles else "other parameters, or gaps"
    )
    return "plain", f"{text}: {why}."


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


def _share_above(numbers: Numbers) -> str:
    share, threshold = _at("saliency", "share_above")(numbers), _at("saliency", "threshold")(numbers)
    return NOTHING if share is None else f"{100 * share:.0f} % (threshold {threshold:g})"


_ROWS: tuple[tuple[str, Callable[[Numbers], str]], ...] = (
    ("success", _success),
    ("stopped by the executor", _row("", 0, "stopped")),
    ("pace of simulated time", _row("", 2, "clock", "mean")),
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
    ("saliency at or above its threshold", _share_above),
)
