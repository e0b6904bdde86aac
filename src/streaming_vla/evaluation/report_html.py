"""Writes the report of one or several runs as report.html (self-contained) and report.json (for --compare).

A run is a mode of the demo or the replay of some bags: plain values, so that two of them can be put side by side long
after they were made.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import jinja2
import numpy as np

from streaming_vla.evaluation import report_html_charts as charts
from streaming_vla.evaluation.records import EpisodeRecord, Frame
from streaming_vla.evaluation.report_html_page import TEMPLATE
from streaming_vla.evaluation.report_html_rows import rows, verdict
from streaming_vla.evaluation.results import halting, write_json
from streaming_vla.evaluation.timeline import stretches

TIMELINE_S = 3.0
STRIP_PICTURES = 12
STRIP_PIXELS = 96
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
        series: further curves: saliency [[s, value]], kv_bytes and kv_full_bytes [[s, bytes]], chunks_kept
            [[s, count]], actions {dimension: {replayed: [[s, value]], recorded: [[s, value]]}}.
    """
    longest = max(records, key=lambda record: record.duration_s)
    return {
        "name": name,
        "numbers": {key: value for key, value in numbers.items() if key not in ("by_episode",)},
        "parameters": parameters,
        "halts_ms": [value for record in records for value in halting(record).halts_ms],
        "timeline": _timeline(longest),
        "strips": _strips(longest, series.get("saliency", [])),
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
    runs = []
    for path in (first, second):
        file = path / "report.json" if path.is_dir() else path
        try:
            held = json.loads(file.read_text(encoding="utf-8"))["runs"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ReportError(f"'{path}' holds no report.json of a demo or replay: {error}") from error
        runs += [{**run, "name": f"{path.name}: {run['name']}"} for run in held]
    return write_report(folder, f"{first.name} and {second.name}", "Two reports side by side.", runs)


def page(title: str, about: str, runs: Sequence[Run]) -> str:
    """Return the HTML of a report."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    strips = [{**strip, "name": f"{run['name']}, {strip['name']}"} for run in runs for strip in run["strips"]]
    return environment.from_string(TEMPLATE).render(
        title=title, about=about, runs=runs, verdict=verdict(runs), rows=rows(runs), charts=_charts(runs), strips=strips
    )


def _charts(runs: Sequence[Run]) -> list[dict[str, Any]]:
    made = [
        _section("Timeline", [_part(_draw_timeline(run), TIMELINE_CAPTION, run["name"]) for run in runs]),
        _section("Halting at hand-overs", [_part(_draw_halting(runs), HALTING_CAPTION)]),
        _section("Latencies", [_part(_draw_latencies(runs), LATENCY_CAPTION)]),
        _section("Saliency", [_part(_draw_curves(runs, {"saliency": ""}, "saliency"), SALIENCY_CAPTION)]),
        _section(
            "Memory of the KV cache",
            [
                _part(_draw_curves(runs, {"kv_bytes": "", "kv_full_bytes": " (full cache)"}, "bytes"), KV_CAPTION),
                _part(_draw_curves(runs, {"chunks_kept": ""}, "summaries kept"), CHUNKS_CAPTION),
            ],
        ),
        _section("Actions against the recording", _draw_actions(runs)),
        _section("Error over the horizon", [_part(_draw_horizon(runs), HORIZON_CAPTION)]),
    ]
    return [section for section in made if section["parts"]]


def _section(title: str, parts: Sequence[dict[str, str]]) -> dict[str, Any]:
    return {"title": title, "parts": [part for part in parts if part["drawing"]]}


def _part(drawing: str, caption: str, name: str = "") -> dict[str, str]:
    return {"drawing": drawing, "caption": caption, "name": name}


def _draw_timeline(run: Run) -> str:
    spans = [tuple(span) for span in run["timeline"]]
    if not spans:
        return ""
    seconds = min(TIMELINE_S, max(span[2] for span in spans))
    return charts.timeline(
        spans, seconds, f"Timeline of {run['name']}: what every part did in the first {seconds:g} s."
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


def _draw_curves(runs: Sequence[Run], keys: Mapping[str, str], label: str) -> str:
    series = {f"{run['name']}{suffix}": run.get(key, []) for run in runs for key, suffix in keys.items()}
    return charts.lines(series, "seconds of the run", label, f"{label} over time")


def _draw_actions(runs: Sequence[Run]) -> list[dict[str, str]]:
    return [
        _part(
            charts.lines(curves, "seconds of the run", name, f"{name}: replayed and recorded actions over time"),
            f"{name}, action units: what the replay executed, and what the robot was told.",
            f"{run['name']}: {name}",
        )
        for run in runs
        for name, curves in run.get("actions", {}).items()
    ]


def _draw_horizon(runs: Sequence[Run]) -> str:
    series = {}
    for run in runs:
        errors = run["numbers"].get("action_error", {}).get("by_horizon", {})
        series[run["name"]] = [[float(index), error] for index, error in errors.items()]
    return charts.lines(series, "step of the horizon", "mean error, action units", HORIZON_CAPTION)


def _timeline(record: EpisodeRecord) -> list[list[Any]]:
    """Return [lane, begin, end, halted] in seconds from the first action."""
    parts = stretches(record)
    if not parts:
        return []
    origin_s = parts[0].begin_s
    spans = [(span.stage, span.begin_s - origin_s, span.end_s - origin_s, False) for span in record.spans]
    spans += [("execute", part.begin_s - origin_s, part.end_s - origin_s, part.halted) for part in parts]
    return [list(span) for span in spans if span[2] > 0 and span[1] < TIMELINE_S]


def _strips(record: EpisodeRecord, saliency: Sequence[Sequence[float]]) -> list[dict[str, Any]]:
    strips = []
    for camera in dict.fromkeys(frame.camera for frame in record.frames):
        frames = [frame for frame in record.frames if frame.camera == camera]
        places = np.unique(np.linspace(0, len(frames) - 1, min(STRIP_PICTURES, len(frames))).astype(int))
        pictures = [_picture(frames[place], record.begin_s, saliency) for place in places]
        strips.append({"name": f"camera {camera}", "pictures": pictures})
    return strips


def _picture(frame: Frame, begin_s: float, saliency: Sequence[Sequence[float]]) -> dict[str, str]:
    small = cv2.resize(frame.picture, (STRIP_PIXELS, STRIP_PIXELS), interpolation=cv2.INTER_AREA)[..., ::-1]
    _, data = cv2.imencode(".jpg", np.ascontiguousarray(small), [cv2.IMWRITE_JPEG_QUALITY, 80])
    time_s = frame.time_s - begin_s
    newest = [value for at_s, value in saliency if at_s <= time_s]
    return {
        "data": base64.b64encode(data.tobytes()).decode(),
        "time": f"{time_s:.1f}",
        "note": f"saliency {newest[-1]:.2f}" if newest else "",
    }


TIMELINE_CAPTION = "What every part did, from the first action on; red: the arm had no action to execute."
HALTING_CAPTION = "How long the arm had nothing to execute at each hand-over, in milliseconds."
LATENCY_CAPTION = "Median (bar), 95th (thick line) and 99th percentile (thin line) of each stage, in milliseconds."
SALIENCY_CAPTION = "Predicted change of what the cameras see, in units of the calibrated scale."
KV_CAPTION = "Keys and values held for the history, and what an uncompressed cache would hold."
CHUNKS_CAPTION = "Chunks of the history that live on as a summary."
HORIZON_CAPTION = "Mean difference to what the robot did, by the action's place in its horizon."
