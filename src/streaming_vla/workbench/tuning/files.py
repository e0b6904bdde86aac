"""What a search leaves behind: parameter files with comments, a plot of the front, and the numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import matplotlib

from streaming_vla.options.option import Value
from streaming_vla.parameters.document import as_yaml, comment
from streaming_vla.parameters.nodes import NODES, SECTIONS, SuiteOptions
from streaming_vla.parameters.sections import EVERY_NODE, KEY
from streaming_vla.workbench.report.colours import INK, RUNS
from streaming_vla.workbench.report.results import write_json
from streaming_vla.workbench.tuning.tune import Change, Score, Tuned

matplotlib.use("Agg")
from matplotlib import pyplot as plt

TRIAL, FRONT = "#a8b1ba", RUNS[0]


def verdict(tuned: Tuned) -> str:
    """Return what came out of it, one sentence."""
    if not tuned.values:
        if tuned.trials[0] in (point.score for point in tuned.front):
            return "The given parameters are on the front: no trial beats them."
        return "The given parameters stay: what beats them on the searched bags does not on those that were kept back."
    return (
        f"On the bags that were kept back, observations go from {tuned.default.observations_per_s:.2f} to "
        f"{tuned.tuned.observations_per_s:.2f} per s and the error from {tuned.default.error:.4f} to "
        f"{tuned.tuned.error:.4f}."
    )


def write_tuned(folder: Path, tuned: Tuned, given: SuiteOptions) -> list[Path]:
    """Write tuned.yaml, a file for each point of the front, pareto.png and tune.json, and return what was written.

    Args:
        given: the parameters that were to be beaten; every file holds all of them, with its own changes.
    """
    front = folder / "front"
    front.mkdir(parents=True, exist_ok=True)
    for old in front.glob("*.yaml"):  # of a search that went on
        old.unlink()
    chosen = next((point.without_effect for point in tuned.front if point.values == tuned.values), ())
    written = [folder / "tuned.yaml", front, folder / "pareto.png", folder / "tune.json"]
    text = parameter_file(given, tuned.values, [f"Found by `streaming-vla tune`. {verdict(tuned)}", *chosen])
    written[0].write_text(text, encoding="utf-8")
    for number, point in enumerate(tuned.front, 1):
        said = (
            f"Point {number} of {len(tuned.front)} of the front of `streaming-vla tune`: on the searched bags "
            f"{point.score.observations_per_s:.2f} observations per s, error {point.score.error:.4f}."
        )
        text = parameter_file(given, point.values, [said, *point.without_effect])
        (front / f"{number}.yaml").write_text(text, encoding="utf-8")
    _plot(tuned, written[2])
    numbers = {
        "default": asdict(tuned.default),
        "tuned": asdict(tuned.tuned),
        "values": _named(tuned.values),
        "front": [
            {**asdict(point.score), "values": _named(point.values), "without_effect": point.without_effect}
            for point in tuned.front
        ],
        "trials": [asdict(each) for each in tuned.trials],
        "verdict": verdict(tuned),
    }
    write_json(numbers, written[3])
    return written


def parameter_file(given: SuiteOptions, values: Sequence[Change], said: Sequence[str]) -> str:
    """Return a ROS parameter file of everything that is not as shipped: what was given, and what is changed.

    Args:
        values: changes of `given`.
        said: comments at the top.
    """
    suite = given
    for section in {each[0] for each in values}:  # together: they are checked together
        suite = suite.changed(section, {name: value for of, name, value in values if of == section})
    lines = [f"# {each}" for each in said]
    for section, options in _not_as_shipped(suite).items():
        lines += [f"{section if section == EVERY_NODE else f'/**/{section}'}:", f"  {KEY}:"]
        for name, value in options.items():
            option = SECTIONS[section].declared[name]
            tuned = "; tuned" if any(each[1] == name and each[0] == section for each in values) else ""
            lines.append(f"    # {comment(option, f'; default {as_yaml(option.default)}{tuned}')}")
            lines.append(f"    {name}: {as_yaml(value)}")
    return "\n".join(lines) + "\n"


def _not_as_shipped(suite: SuiteOptions) -> dict[str, dict[str, Value]]:
    """Return the options by section, "/**" first: there stands what is the same on all of the nodes that have it."""
    values, shipped = suite.values(), SuiteOptions().values()
    found: dict[str, dict[str, Value]] = {EVERY_NODE: {}, **{node: {} for node in NODES}}
    for node in NODES:
        for name, value in values[node].items():
            having = [other for other in NODES if name in values[other]]
            shared = name in SECTIONS[EVERY_NODE].declared and all(values[other][name] == value for other in having)
            if value != shipped[node][name]:
                found[EVERY_NODE if shared else node][name] = value
    return {section: options for section, options in found.items() if options}


def _named(values: Sequence[Change]) -> dict[str, Value]:
    return {f"{node}.{name}": value for node, name, value in values}


def _plot(tuned: Tuned, path: Path) -> None:
    figure, axis = plt.subplots(figsize=(7, 4.6))

    def draw(scores: tuple[Score, ...], **style: object) -> None:
        axis.plot([each.observations_per_s for each in scores], [each.error for each in scores], **style)

    draw(tuned.trials, ls="", marker="o", color=TRIAL, label="trials")
    front = tuple(point.score for point in tuned.front)
    draw(front, ls="-", marker="o", color=FRONT, label="front, with the numbers of its files")
    for number, each in enumerate(front, 1):
        at = (each.observations_per_s, each.error)
        axis.annotate(str(number), at, xytext=(4, 4), textcoords="offset points", color=FRONT)
    draw(tuned.trials[:1], ls="", marker="s", ms=9, color=INK, label="parameter file")
    axis.set_xlabel("observations per s")
    axis.set_ylabel("error against the recording")
    axis.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)
