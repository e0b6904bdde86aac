"""From the records of episodes to the numbers of one mode, and the JSON file that holds them."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from streaming_vla.machines.events import Mode, Reason
from streaming_vla.machines.halting import Halting, measure
from streaming_vla.sim.clock import SLOW
from streaming_vla.workbench.report.records import EpisodeRecord
from streaming_vla.workbench.report.statistics import Summary, summarise, wilson_interval

STAGES = ("observe", "prefill", "flow_step", "generate")
EVERY_MODE = "scenes that every mode solved"
MS = 1000.0
MOST_LATE = 0.02  # of the actions may begin a control period late before the machine counts as too busy


def halting(record: EpisodeRecord) -> Halting:
    """Return the halting of one episode."""
    return measure([(at.time_s, at.state) for at in record.states], record.control_period_s, record.success)


def outcome(record: EpisodeRecord) -> str:
    """Return how an episode ended: success, stopped (by the executor's ladder) or no success."""
    if record.success:
        return "success"
    return "stopped" if halting(record).stopped else "no success"


def aggregate(records: Sequence[EpisodeRecord], paired: set[tuple[str, int]] | None = None) -> dict[str, Any]:
    """Return the numbers of the episodes of one mode, ready for JSON.

    `t_halt_ms` is the mean over all hand-overs of all episodes and the gaps before a stop, `t_action_ms` over all
    actions, `stopped` how many episodes the executor ended by its ladder, and `stops` why; `episode_s` and
    `actions_per_solved` are the mean time and number of actions to success over the `paired` (task, seed), or over all
    successes when there are none.

    Args:
        paired: (task, seed) that succeeded in every mode compared, so that the modes are compared on the same scenes.

    Raises:
        ValueError: there is no record.
    """
    if not records:
        raise ValueError("results need at least one episode, but no episode was recorded")
    measured = [halting(record) for record in records]
    pairs = list(zip(records, measured, strict=True))
    halts_ms = [value for each in measured for value in each.halts_ms]
    successes = [(record, each) for record, each in pairs if record.success]
    compared = [(record, each) for record, each in successes if paired and (record.task, record.seed) in paired]
    compared = compared or successes
    seconds = sum(record.duration_s for record in records)
    observations = sum(len(record.observations) for record in records)
    low, high = wilson_interval(len(successes), len(records))
    halt = summarise(halts_ms)
    return {
        "success": len(successes),
        "episodes": len(records),
        "success_rate": len(successes) / len(records),
        "success_interval_95": [low, high],
        "t_halt_ms": halt.mean,
        "t_action_ms": _per_action(measured),
        "episode_s": summarise(record.duration_s for record, _ in compared).mean,
        "actions_per_solved": summarise(each.executed for _, each in compared).mean,
        "observations_per_s": observations / seconds if seconds > 0 else None,
        "t_halt": {**asdict(halt), "unit": "ms", "each": "hand-over, or gap before a stop"},
        "stopped": sum(bool(each.stopped) for each in measured),
        "stops": list(dict.fromkeys(record.problem or each.stopped for record, each in pairs if each.stopped)),
        "episode": {
            "unit": "s",
            "compared_on": EVERY_MODE if paired else "successes of this mode",
            "compared": asdict(summarise(record.duration_s for record, _ in compared)),
            "successes": asdict(summarise(record.duration_s for record, _ in successes)),
            "all": asdict(summarise(record.duration_s for record in records)),
        },
        "clock": _clock(records, measured),
        "first_action_ms": asdict(summarise(each.first_action_ms for each in measured if each.executed)),
        "executed_actions": sum(each.executed for each in measured),
        "hand_overs": sum(each.hand_overs for each in measured),
        "starved_s": sum(each.starved_ms for each in measured) / MS,
        "rejected_actions": sum(record.states[-1].state.rejected for record in records if record.states),
        "observations": _observations(records),
        "stages_ms": stage_latencies(records),
        "counters": _counters(records),
        "by_episode": [_episode(record, each) for record, each in pairs],
    }


def compare(records: Sequence[EpisodeRecord]) -> dict[str, Any]:
    """Return {mode: numbers}; the time of an episode is compared on the scenes that every mode solved."""
    modes = list(dict.fromkeys(record.mode for record in records))
    of_mode = {mode: [record for record in records if record.mode == mode] for mode in modes}
    solved = [{(each.task, each.seed) for each in chosen if each.success} for chosen in of_mode.values()]
    paired = set.intersection(*solved) if solved else set()
    return {mode: aggregate(chosen, paired) for mode, chosen in of_mode.items()}


def stage_latencies(records: Sequence[EpisodeRecord]) -> dict[str, dict[str, Any]]:
    """Return the summary of each stage in milliseconds.

    Besides the nodes' own spans: `request_to_context` (asked to prefilled) and `observation_age` (the newest
    picture was taken to the first action that came from it began).
    """
    summaries: dict[str, Summary] = {}
    for stage in STAGES:
        spans = (span for record in records for span in record.spans if span.stage == stage)
        summaries[stage] = summarise((span.duration_s for span in spans), MS)
    summaries["request_to_context"] = summarise(_joined(records, _request_times, _context_times), MS)
    summaries["observation_age"] = summarise(_joined(records, _picture_times, _first_action_times), MS)
    return {name: asdict(summary) for name, summary in summaries.items()}


def write_json(results: Mapping[str, Any], path: Path) -> None:
    """Write `results`; a number that is not finite becomes null, which JSON readers understand."""
    path.write_text(json.dumps(_plain(results), indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _per_action(measured: Sequence[Halting]) -> float | None:
    """Return T_e plus the starved time per action, over all actions, in milliseconds."""
    executed = sum(each.executed for each in measured)
    if not executed:
        return None
    return sum(each.t_action_ms * each.executed for each in measured if each.executed) / executed


def _clock(records: Sequence[EpisodeRecord], measured: Sequence[Halting]) -> dict[str, Any] | None:
    """Return the pace of simulated time, and in how many episodes the machine was too busy; None without one."""
    paces = [record.pace for record in records if math.isfinite(record.pace)]
    if not paces:
        return None
    late = [record.counters.get("executor", {}).get("late_tick", 0) for record in records]
    busy = [
        record.pace < SLOW or ticks > MOST_LATE * each.executed
        for record, each, ticks in zip(records, measured, late, strict=True)
    ]
    return {"mean": sum(paces) / len(paces), "slowest": min(paces), "late_ticks": sum(late), "busy_episodes": sum(busy)}


def _observations(records: Sequence[EpisodeRecord]) -> dict[str, Any]:
    reasons = Counter(at.reason for record in records for at in record.observations)
    sizes = summarise((at.image_bytes for record in records for at in record.observations), 1 / 1024)
    return {
        "count": sum(reasons.values()),
        "by_reason": {reason.name.lower(): reasons[reason] for reason in Reason},
        "camera_skew_ms": asdict(summarise((at.skew_s for record in records for at in record.observations), MS)),
        "image_kib": asdict(sizes),
    }


def _counters(records: Sequence[EpisodeRecord]) -> dict[str, dict[str, int]]:
    total: dict[str, Counter[str]] = {}
    for record in records:
        for node, counts in record.counters.items():
            total.setdefault(node, Counter()).update(counts)
    return {node: dict(sorted(counts.items())) for node, counts in sorted(total.items())}


def _episode(record: EpisodeRecord, measured: Halting) -> dict[str, Any]:
    return {
        "task": record.task,
        "seed": record.seed,
        "success": record.success,
        "pace": record.pace,
        "stopped": measured.stopped,
        "seconds": record.duration_s,
        "executed_actions": measured.executed,
        "hand_overs": measured.hand_overs,
        "t_action_ms": measured.t_action_ms,
        "t_halt_ms": measured.t_halt_ms,
        "longest_halt_ms": measured.longest_ms,
        "observations": len(record.observations),
    }


Times = dict[int, float]


def _joined(
    records: Sequence[EpisodeRecord], begin: Callable[[EpisodeRecord], Times], end: Callable[[EpisodeRecord], Times]
) -> list[float]:
    """Return end - begin of every sequence that has both."""
    found: list[float] = []
    for record in records:
        begins, ends = begin(record), end(record)
        found += [ends[sequence] - begins[sequence] for sequence in begins if sequence in ends]
    return found


def _request_times(record: EpisodeRecord) -> Times:
    return {at.sequence: at.time_s for at in record.requests}


def _context_times(record: EpisodeRecord) -> Times:
    return {at.sequence: at.time_s for at in record.contexts}


def _picture_times(record: EpisodeRecord) -> Times:
    return {at.sequence: at.time_s for at in record.observations}


def _first_action_times(record: EpisodeRecord) -> Times:
    times: Times = {}
    for at in record.states:
        if at.state.mode == Mode.PLAYING:
            times.setdefault(at.state.context, at.time_s)
    return times


def _plain(value: Any) -> Any:
    """Return `value` with every NaN and infinity replaced by None."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
