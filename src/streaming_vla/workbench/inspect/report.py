"""Writes the report of a data set: report.html, which needs nothing beside it, and report.json."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from streaming_vla.datasets.dataset import Dataset
from streaming_vla.workbench.inspect.drawings import histograms, lengths, task_strips
from streaming_vla.workbench.inspect.survey import Survey
from streaming_vla.workbench.report.charts import picture
from streaming_vla.workbench.report.page import part, render, section
from streaming_vla.workbench.report.results import write_json
from streaming_vla.workbench.report.strip import strip

MOST_SAID = 40  # findings, pauses and jumps that are listed
MOST_TASKS = 12  # that have a film strip


def write_inspection(folder: Path, data: Dataset, found: Survey) -> Path:
    """Write the report into `folder` and return the path of the page."""
    folder.mkdir(parents=True, exist_ok=True)
    title = f"Data set {data.folder.name}"
    rows = numbers(data, found)
    page = render(
        title,
        _about(data, found),
        verdict(found),
        [(name, [value]) for name, value in rows.items()],
        _sections(data, found),
        [{"name": data.folder.name, "parameters": ""}],
    )
    path = folder / "report.html"
    path.write_text(page, encoding="utf-8")
    held = {**asdict(found), "findings": [asdict(each) for each in found.findings], "numbers": rows}
    write_json(held, folder / "report.json")
    return path


def verdict(found: Survey) -> list[tuple[str, str]]:
    """Return what is wrong, the worst first; one good line when nothing is."""
    said = sorted(found.findings, key=lambda finding: not finding.fatal)
    lines = [("bad", f"{'cannot be learned from: ' if each.fatal else ''}{each.sentence}") for each in said[:MOST_SAID]]
    if len(said) > MOST_SAID:
        lines.append(("bad", f"{len(said) - MOST_SAID} more findings are in report.json"))
    return lines or [("good", "nothing is wrong with it: lerobot and our training read it as it is")]


def numbers(data: Dataset, found: Survey) -> dict[str, str]:
    """Return the figures of the table."""
    fps = data.facts.fps
    seconds = np.array(list(found.lengths.values())) / fps
    paused = sum(end - begin for _, begin, end in found.pauses)
    rows = {
        "version": data.facts.version,
        "robot": data.facts.robot_type or "not told",
        "episodes": str(len(found.lengths)),
        "steps": str(sum(found.lengths.values())),
        "duration": f"{seconds.sum():.1f} s",
        "steps per second": f"{fps:.6g}",
        "length of an episode: shortest, median, longest": (
            f"{seconds.min():.1f}, {np.median(seconds):.1f}, {seconds.max():.1f} s"
        ),
        "tasks": str(len(found.tasks)),
        "pauses (no motion for 0.5 s)": f"{len(found.pauses)}, together {paused:.1f} s",
        "jumps of state or action": str(len(found.jumps)),
        "actions are": _absolute(data),
    }
    for camera in data.facts.cameras:
        rows[f"camera {camera.name}"] = (
            f"{camera.width}x{camera.height} px, {camera.stored}, "
            f"{100 * found.repeated.get(camera.name, 0.0):.1f} % of the pictures repeat the one before"
        )
    for name, (most, usual) in found.apart.items():
        rows[f"action {name} from the state: largest, median"] = f"{most:.4g}, {usual:.4g}"
    return rows


def _absolute(data: Dataset) -> str:
    if not data.facts.action_absolute:
        return "absolute or changes: the format does not tell"
    pairs = zip(data.facts.action_names, data.facts.action_absolute, strict=True)
    return ", ".join(f"{name} {'absolute' if each else 'a change'}" for name, each in pairs)


def _about(data: Dataset, found: Survey) -> str:
    looked = f"Pictures of {len(found.looked_at)} of {len(found.lengths)} episodes were looked at."
    units = ", ".join(dict.fromkeys(each for each in data.facts.state_units if each))
    return f"{data.folder}. {looked}" + (f" State in {units}." if units else "")


def _sections(data: Dataset, found: Survey) -> list[dict[str, Any]]:
    seconds = [count / data.facts.fps for count in found.lengths.values()]
    tasks = [task for task, _ in found.tasks.most_common()]
    strips = [
        part(strip(name, pictures), "", name, across=True) for name, pictures in task_strips(data, tasks[:MOST_TASKS])
    ]
    limits = " Dashed: the limits." if any(each.limits for each in found.action) else ""
    often = "How often each value comes."
    pauses = [f"episode {number}: from {begin:.1f} to {end:.1f} s" for number, begin, end in found.pauses]
    jumps = [f"episode {number}, step {step}: {what}" for number, step, what in found.jumps]
    said = [f"“{task}”: {count} steps, {count / data.facts.fps:.1f} s" for task, count in found.tasks.most_common()]
    return [
        section("Tasks", strips, said),
        section(
            "Episodes",
            [part(picture(lengths(seconds), "length of every episode"), "Length of every episode.", across=True)],
        ),
        section("Actions", [part(picture(histograms(found.action), often), often + limits, across=True)]),
        section("State", [part(picture(histograms(found.state), often), often, across=True)]),
        section("Pauses", [], pauses[:MOST_SAID]),
        section("Jumps", [], jumps[:MOST_SAID]),
    ]
