"""Writes the report of one or several runs as report.html (self-contained) and report.json (for --compare).

A run is a mode of the demo or the replay of some bags: plain values, so that two of them can be put side by side long
after they were made.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from streaming_vla.workbench.report import charts
from streaming_vla.workbench.report.page import TEMPLATE
from streaming_vla.workbench.report.records import EpisodeRecord
from streaming_vla.workbench.report.results import halting, write_json
from streaming_vla.workbench.report.rows import rows, verdict
from streaming_vla.workbench.report.strip import strip, strips
from streaming_vla.workbench.report.timeline import stretches

TIMELINE_S = 3.0
KIB = 1024.0
LONGEST_REASON = 300  # characters
_OTHER_SHAPE = (
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RecursionError,
    jinja2.TemplateError,
)
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
            [[s, count]], actions {dimension: {replayed: [[s, value]], recorded: [[s, value]]}}, shadow {dimension:
            {person: [[s, value]], dry run: [[s, value]], error: [[s, value]]}} with numbers["shadow"]; and
            memory_map, a picture of what became of every chunk: {data: PNG in base64, about: what is seen, in words},
            without data where there is none and `about` says why.
    """
    longest = max(records, key=lambda record: record.duration_s)
    return {
        "name": name,
        "numbers": {key: value for key, value in numbers.items() if key not in ("by_episode",)},
        "parameters": parameters,
        "halts_ms": [value for record in records for value in halting(record).halts_ms],
        "timeline": _timeline(longest),
        "strips": strips(longest, series.get("saliency", [])),
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
            new = [{**run, "name": f"{path if alike else path.name}: {run['name']}"} for run in held]
            page("", "", new)  # every field that it reads is there, and what it takes it for
        except (OSError, *_OTHER_SHAPE) as error:
            raise ReportError(f"'{path}' holds no report.json of a demo or replay: {_one_line(error)}") from error
        runs += new
    names = (str(first), str(second)) if alike else (first.name, second.name)
    return write_report(folder, " and ".join(names), "Two reports side by side.", runs)


def page(title: str, about: str, runs: Sequence[Run]) -> str:
    """Return the HTML of a report."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(TEMPLATE).render(
        title=title, about=about, runs=runs, verdict=verdict(runs), rows=rows(runs), charts=_charts(runs)
    )


def _charts(runs: Sequence[Run]) -> list[dict[str, Any]]:
    made = [
        _section("Timeline", [_part(_draw_timeline(run), TIMELINE_CAPTION, run["name"]) for run in runs]),
        _section("Halting at hand-overs", [_part(_draw_halting(runs), HALTING_CAPTION)]),
        _section("Latencies", [_part(_draw_latencies(runs), LATENCY_CAPTION)]),
        _section(
            "What the cameras saw",
            [
                *(
                    _part(strip(f"{run['name']}, {each['name']}", each["pictures"]), _strip_caption(run), name)
                    for run in runs
                    for each in run["strips"]
                    for name in [f"{run['name']}, {each['name']}"]
                ),
                _part(_draw_curves(runs, {"saliency": ""}, "saliency"), SALIENCY_CAPTION),
            ],
        ),
        _section(
            "Memory of the KV cache",
            [
                *(_part(_draw_memory_map(run), MEMORY_CAPTION, run["name"]) for run in runs),
                _part(_draw_curves(runs, {"kv_bytes": "", "kv_full_bytes": " (full cache)"}, "KiB", KIB), KV_CAPTION),
                _part(_draw_curves(runs, {"chunks_kept": ""}, "summaries kept"), CHUNKS_CAPTION),
            ],
            _without_map(runs),
        ),
        _section(
            "Actions against the recording",
            [*_draw_actions(runs), _part(_draw_horizon(runs), HORIZON_CAPTION, "error over the horizon")],
        ),
    ]
    made.append(_section("Shadow: the dry run against the person", _draw_shadow(runs)))
    return [section for section in made if section["parts"] or section["notes"]]


def _section(title: str, parts: Sequence[dict[str, str]], notes: Sequence[str] = ()) -> dict[str, Any]:
    return {"title": title, "notes": list(notes), "parts": [part for part in parts if part["drawing"]]}


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


def _draw_curves(runs: Sequence[Run], keys: Mapping[str, str], label: str, unit: float = 1.0) -> str:
    series = {
        f"{run['name']}{suffix}": [[at_s, value / unit] for at_s, value in run.get(key, [])]
        for run in runs
        for key, suffix in keys.items()
    }
    return charts.lines(series, "seconds of the episode", label, f"{label} over time")


def _draw_memory_map(run: Run) -> str:
    picture = run.get("memory_map", {})
    return charts.picture(picture["data"], picture["about"]) if picture.get("data") else ""


def _without_map(runs: Sequence[Run]) -> list[str]:
    told = {run["name"]: run.get("memory_map", {}) for run in runs}
    return [f"{name}: {each['about']}" for name, each in told.items() if each and not each.get("data")]


def _strip_caption(run: Run) -> str:
    return STRIP_CAPTION + (STRIP_SALIENCY if run.get("saliency") else "")


def _draw_actions(runs: Sequence[Run]) -> list[dict[str, str]]:
    return [
        _part(
            charts.lines(
                {key: curves[key] for key in ("recorded", "replayed")},
                "seconds of the episode",
                name,
                f"{name}: replayed and recorded actions over time",
                broad="recorded",
            ),
            f"{name}, action units: what the replay executed, and what the robot was told.",
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
                _part(charts.lines(told, SHADOW_SECONDS, name, about, broad="person"), caption, title),
                _part(charts.lines(apart, SHADOW_SECONDS, "error", f"{about}, the difference"), SHADOW_CAPTION, title),
            ]
    return found


def _draw_horizon(runs: Sequence[Run]) -> str:
    series = {}
    for run in runs:
        errors = run["numbers"].get("action_error", {}).get("by_horizon", {})
        series[run["name"]] = [[float(index), error] for index, error in errors.items()]
    return charts.lines(series, "step of the horizon", "mean error", HORIZON_CAPTION)


def _timeline(record: EpisodeRecord) -> list[list[Any]]:
    """Return [lane, begin, end, halted] in seconds from the first action."""
    parts = stretches(record)
    if not parts:
        return []
    origin_s = parts[0].begin_s
    spans = [(span.stage, span.begin_s - origin_s, span.end_s - origin_s, False) for span in record.spans]
    spans += [("execute", part.begin_s - origin_s, part.end_s - origin_s, part.halted) for part in parts]
    return [list(span) for span in spans if span[2] > 0 and span[1] < TIMELINE_S]


TIMELINE_CAPTION = "What every part did, from the first action on; red: the arm had no action to execute."
STRIP_CAPTION = (
    "Evenly spread moments of the longest episode; blue: why an observation was sent before the next picture."
)
STRIP_SALIENCY = " The bar is the predicted change, of the largest one."
MEMORY_CAPTION = (
    "The longest episode, observation by observation: what the camera saw, the score that its chunk was judged by, and "
    "what became of it. Above 24 observations pictures are left out, evenly spread."
)
HALTING_CAPTION = "How long the arm had nothing to execute at each hand-over, in milliseconds."
LATENCY_CAPTION = "Median (bar), 95th (thick line) and 99th percentile (thin line) of each stage, in milliseconds."
SALIENCY_CAPTION = "Predicted change of what the cameras see, in units of the calibrated scale."
KV_CAPTION = "Keys and values held for the history, and what an uncompressed cache would hold."
CHUNKS_CAPTION = "Chunks of the history that live on as a summary."
SHADOW_SECONDS = "seconds of the recording"
SHADOW_CAPTION = "The difference: above 0 the policy would have told the robot more than the person did."
HORIZON_CAPTION = "Mean difference to what the robot did (action units), by the place of an action in its horizon."


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__} {error}".split())[:LONGEST_REASON]
