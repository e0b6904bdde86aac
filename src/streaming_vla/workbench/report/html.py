"""Writes the report of one or several runs as report.html (self-contained) and report.json (for --compare).

A run is a mode of the demo or the replay of some bags: plain values, so that two of them can be put side by side long
after they were made.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from streaming_vla.workbench.report import charts
from streaming_vla.workbench.report.page import part, render, section
from streaming_vla.workbench.report.records import EpisodeRecord
from streaming_vla.workbench.report.results import halting, write_json
from streaming_vla.workbench.report.rows import rows, verdict
from streaming_vla.workbench.report.shape import check_run
from streaming_vla.workbench.report.strip import strip, strips
from streaming_vla.workbench.report.terms import REASONS, T_ACTION, T_HALT
from streaming_vla.workbench.report.timeline import stretches, window_of, worst_halt

TIMELINE_S = 3.0
KIB = 1024.0
Run = dict[str, Any]


class ReportError(ValueError):
    """A report cannot be made; the message is one sentence."""


def make_run(
    name: str,
    records: Sequence[EpisodeRecord],
    numbers: Mapping[str, Any],
    parameters: str = "",
    **series: Any,
) -> Run:
    """Return a run as plain values.

    Args:
        numbers: as `results.aggregate` or `replay_compare.summarise_replays` make them.
        parameters: YAML text.
        series: further curves: saliency [[s, value]] and saliency_threshold where the mode reads one, kv_bytes and
            kv_full_bytes [[s, bytes]], chunks_kept [[s, count]], actions {dimension: {replayed: [[s, value]],
            recorded: [[s, value]]}}, shadow {dimension: {person: [[s, value]], dry run: [[s, value]], error:
            [[s, value]]}} with numbers["shadow"]; and memory_map, a picture of what became of every chunk: {data: PNG
            in base64, about: what is seen, in words}, without data where there is none and `about` says why.
    """
    longest = max(records, key=lambda record: record.duration_s)
    return {
        "name": name,
        "numbers": {key: value for key, value in numbers.items() if key not in ("by_episode",)},
        "parameters": parameters,
        "halts_ms": [value for record in records for value in halting(record).halts_ms],
        "timeline": _timeline(records),
        "stopped": halting(longest).stopped,
        "strips": strips(longest, series.get("saliency", []), series.get("saliency_threshold")),
        **series,
    }


def write_report(folder: Path, title: str, about: str, runs: Sequence[Run]) -> Path:
    """Write report.html and report.json into `folder` and return the path of the page."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json({"title": title, "about": about, "runs": list(runs)}, folder / "report.json")
    path = folder / "report.html"
    path.write_text(page(title, about, runs), encoding="utf-8")
    return path


def compare(first: Path, second: Path, folder: Path) -> Path:
    """Put the runs of two reports side by side.

    Args:
        first: a folder with report.json, or that file.
        second: likewise.

    Raises:
        ReportError: one of them holds no report.
    """
    runs: list[Run] = []
    alike = first.name == second.name
    for path in (first, second):
        file = path / "report.json" if path.is_dir() else path
        try:
            held = json.loads(file.read_text(encoding="utf-8"))["runs"]
            for run in held:
                check_run(run)
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise ReportError(
                f"'{path}' holds no report.json of a demo or replay of this version ({error}): make it again"
            ) from error
        runs += [{**run, "name": f"{path if alike else path.name}: {run['name']}"} for run in held]
    names = (str(first), str(second)) if alike else (first.name, second.name)
    try:
        return write_report(folder, " and ".join(names), "Two reports side by side.", runs)
    except (AttributeError, KeyError, TypeError, ValueError) as error:  # of numbers that are none
        raise ReportError(f"'{first}' or '{second}' holds numbers that are none ({error}): make it again") from error


def page(title: str, about: str, runs: Sequence[Run]) -> str:
    """Return the HTML of a report."""
    return render(title, about, verdict(runs), rows(runs), _charts(runs), runs, f"{T_HALT} {T_ACTION} {REASONS}")


def _charts(runs: Sequence[Run]) -> list[dict[str, Any]]:
    return [
        section("Timeline", [part(_draw_timeline(run), _timeline_caption(run), run["name"], True) for run in runs]),
        section("Halting and latencies", [
            part(_draw_halting(runs), HALTING_CAPTION),
            part(_draw_latencies(runs), LATENCY_CAPTION),
        ]),
        section("What the cameras saw", [
            *(
                part(strip(name, each["pictures"]), _strip_caption(run), name, True)
                for run in runs
                for each in run["strips"]
                for name in [f"{run['name']}, {each['name']}"]
            ),
            part(_draw_saliency(runs), " ".join([SALIENCY_CAPTION, *map(_share_above, runs)])),
        ]),
        section(
            "Memory of the KV cache",
            [
                *(part(_draw_memory_map(run), MEMORY_CAPTION, run["name"], True) for run in runs),
                part(_draw_curves(runs, {"kv_bytes": "", "kv_full_bytes": " (full cache)"}, "KiB", KIB), KV_CAPTION),
                part(_draw_curves(runs, {"chunks_kept": ""}, "summaries kept"), CHUNKS_CAPTION),
            ],
            _without_map(runs),
        ),
        section("Actions against the recording", [
            *_draw_actions(runs),
            part(_draw_horizon(runs), HORIZON_CAPTION, "error over the horizon"),
        ]),
        section("Shadow: the dry run against the person", _draw_shadow(runs)),
    ]  # fmt: skip


def _draw_timeline(run: Run) -> str:
    shown = run["timeline"]
    if not shown:
        return ""
    begin, end = shown["window"]
    about = f"Timeline of {run['name']}: what every part did from {begin:.1f} to {end:.1f} s."
    return charts.timeline([tuple(span) for span in shown["spans"]], begin, end, about)


def _timeline_caption(run: Run) -> str:
    shown = run["timeline"]
    if not shown:
        return ""
    if shown["worst_ms"] is None:
        return f"The first seconds of {shown['episode']}; the arm always had an action to execute."
    return (
        f"Around the worst halt, {shown['worst_ms']:.0f} ms in {shown['episode']}; hatched: the arm had no action to "
        "execute."
    )


def _draw_halting(runs: Sequence[Run]) -> str:
    return charts.histogram({run["name"]: run["halts_ms"] for run in runs}, "ms without an action", HALTING_CAPTION)


def _draw_latencies(runs: Sequence[Run]) -> str:
    stages: dict[str, dict[str, dict[str, float]]] = {}
    for run in runs:
        for stage, summary in run["numbers"].get("stages_ms", {}).items():
            if summary["count"]:
                numbers = {key: summary[key] for key in ("p50", "p95", "p99")}
                stages.setdefault(stage.replace("_", " "), {})[run["name"]] = numbers
    return charts.ranges(stages, "ms", LATENCY_CAPTION)


def _draw_curves(runs: Sequence[Run], keys: Mapping[str, str], label: str, unit: float = 1.0) -> str:
    series = {
        f"{run['name']}{suffix}": [[at_s, value / unit] for at_s, value in run.get(key, [])]
        for run in runs
        for key, suffix in keys.items()
    }
    return charts.lines(series, "seconds of the episode", label, f"{label} over time")


def _draw_saliency(runs: Sequence[Run]) -> str:
    series = {run["name"]: run.get("saliency", []) for run in runs}
    thresholds = {run["name"]: at for run in runs if (at := run.get("saliency_threshold")) is not None}
    about = "saliency over time"
    return charts.lines(series, "seconds of the episode", "saliency", about, thresholds=thresholds)


def _share_above(run: Run) -> str:
    told = run["numbers"].get("saliency") or {}
    if told.get("share_above") is None:
        return ""
    return (
        f"{run['name']}: {100 * told['share_above']:.0f} % of {told['count']} are at or above the threshold of "
        f"{told['threshold']:g}."
    )


def _draw_memory_map(run: Run) -> str:
    picture = run.get("memory_map", {})
    return charts.picture(picture["data"], picture["about"]) if picture.get("data") else ""


def _without_map(runs: Sequence[Run]) -> list[str]:
    told = {run["name"]: run.get("memory_map", {}) for run in runs}
    return [f"{name}: {each['about']}" for name, each in told.items() if each and not each.get("data")]


def _strip_caption(run: Run) -> str:
    stopped = f" It ended with a stop: {run['stopped']}." if run.get("stopped") else ""
    return STRIP_CAPTION + (STRIP_SALIENCY if run.get("saliency") else "") + stopped


def _draw_actions(runs: Sequence[Run]) -> list[dict[str, Any]]:
    return [
        part(
            charts.lines(
                {key: curves[key] for key in ("recorded", "replayed")},
                "seconds of the episode",
                "action units",
                f"{name}: replayed and recorded actions over time",
                broad="recorded",
            ),
            "What the replay executed, and what the robot was told.",
            f"{run['name']}: {name}",
        )
        for run in runs
        for name, curves in run.get("actions", {}).items()
    ]


def _draw_shadow(runs: Sequence[Run]) -> list[dict[str, str]]:
    found = []
    for run in runs:
        for name, curves in run.get("shadow", {}).items():
            error = run["numbers"]["shadow"]["by_dimension"][name]
            caption = (
                f"{name}, action units: what the policy would have told the robot, and what the person told it. They "
                f"are {error['p50']:.3g} apart at the median, 95 % of the time less than {error['p95']:.3g}."
            )
            title = f"{run['name']}: {name}"
            told = {key: curves[key] for key in ("person", "dry run")}
            apart = {"dry run minus person": curves["error"]}
            about = f"{name}: dry run and person over time"
            found += [
                part(charts.lines(told, SHADOW_SECONDS, name, about, broad="person"), caption, title),
                part(charts.lines(apart, SHADOW_SECONDS, "error", f"{about}, the difference"), SHADOW_CAPTION, title),
            ]
    return found


def _draw_horizon(runs: Sequence[Run]) -> str:
    series = {}
    for run in runs:
        errors = run["numbers"].get("action_error", {}).get("by_horizon", {})
        series[run["name"]] = [[float(index), error] for index, error in errors.items()]
    return charts.lines(series, "step of the horizon", "mean error", HORIZON_CAPTION)


def _timeline(records: Sequence[EpisodeRecord]) -> dict[str, Any]:
    """Return the worst halt of all episodes and what every part did around it; without one, the begin of the longest.

    The spans are [stage, begin, end, halted], as the window in seconds from the episode's first action; empty where no
    episode has one.
    """
    played = [(record, parts) for record in records if (parts := stretches(record))]
    if not played:
        return {}
    halts = {number: halt for number, (_, parts) in enumerate(played) if (halt := worst_halt(parts))}
    if halts:
        record, parts = played[max(halts, key=lambda number: halts[number].end_s - halts[number].begin_s)]
    else:
        record, parts = max(played, key=lambda pair: pair[0].duration_s)
    worst = worst_halt(parts)
    origin_s, begin = parts[0].begin_s, window_of(parts, TIMELINE_S)
    end = min(begin + TIMELINE_S, parts[-1].end_s - origin_s)
    spans = [(span.stage, span.begin_s - origin_s, span.end_s - origin_s, False) for span in record.spans]
    spans += [("execute", each.begin_s - origin_s, each.end_s - origin_s, each.halted) for each in parts]
    return {
        "episode": f"{record.task}, episode {record.number}",
        "worst_ms": 1000 * (worst.end_s - worst.begin_s) if worst else None,
        "window": [begin, end],
        "spans": [list(span) for span in spans if span[2] > begin and span[1] < end],
    }


STRIP_CAPTION = (
    "Evenly spread moments of the longest episode; blue: why an observation was sent before the next picture."
)
STRIP_SALIENCY = " The bar is the predicted change, of the largest one; dark at or above the threshold."
MEMORY_CAPTION = (
    "The longest episode, observation by observation: what the camera saw, the score that its chunk was judged by, and "
    "what became of it. Above 24 observations pictures are left out, evenly spread."
)
HALTING_CAPTION = (
    "How long the arm had nothing to execute at each hand-over, in milliseconds; the gap before a stop counts as one."
)
LATENCY_CAPTION = "Median (bar), 95th (thick line) and 99th percentile (thin line) of each stage, in milliseconds."
SALIENCY_CAPTION = "Saliency that the monitor judged by, in the units of its mode; dashed: its threshold."
KV_CAPTION = "Keys and values held for the history, and what an uncompressed cache would hold."
CHUNKS_CAPTION = "Chunks of the history that live on as a summary."
SHADOW_SECONDS = "seconds of the recording"
SHADOW_CAPTION = "The difference: above 0 the policy would have told the robot more than the person did."
HORIZON_CAPTION = "Mean difference to what the robot did (action units), by the place of an action in its horizon."
