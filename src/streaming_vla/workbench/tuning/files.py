"""What a search leaves behind: a parameter file with comments, a plot of the front, and the numbers."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict
from pathlib import Path

import matplotlib

from streaming_vla.options.option import Value
from streaming_vla.parameters.document import as_yaml, comment
from streaming_vla.parameters.nodes import SECTIONS
from streaming_vla.parameters.sections import EVERY_NODE, KEY
from streaming_vla.workbench.report.results import write_json
from streaming_vla.workbench.tuning.tune import Score, Tuned

matplotlib.use("Agg")
from matplotlib import pyplot as plt

INK, FAINT, GOOD = "#24292f", "#a8b1ba", "#2f6fb6"


def verdict(tuned: Tuned) -> str:
    """Return what came out of it, one sentence."""
    if not tuned.values:
        if tuned.trials[0] in tuned.front:
            return "The given parameters are on the front: no trial beats them."
        return "The given parameters stay: what beats them on the searched bags does not on those that were kept back."
    return (
        f"On the bags that were kept back, observations go from {tuned.default.observations_per_s:.2f} to "
        f"{tuned.tuned.observations_per_s:.2f} per s and the error from {tuned.default.error:.4f} to "
        f"{tuned.tuned.error:.4f}."
    )


def write_tuned(folder: Path, tuned: Tuned) -> list[Path]:
    """Write tuned.yaml, pareto.png and tune.json and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    written = [folder / "tuned.yaml", folder / "pareto.png", folder / "tune.json"]
    written[0].write_text(parameter_file(tuned), encoding="utf-8")
    _plot(tuned, written[1])
    numbers = {
        "default": asdict(tuned.default),
        "tuned": asdict(tuned.tuned),
        "values": {f"{node}.{name}": value for node, name, value in tuned.values},
        "front": [asdict(each) for each in tuned.front],
        "trials": [asdict(each) for each in tuned.trials],
        "verdict": verdict(tuned),
    }
    write_json(numbers, written[2])
    return written


def parameter_file(tuned: Tuned) -> str:
    """Return the changed parameters as a ROS parameter file; without a change it holds comments only."""
    lines = [f"# Found by `streaming-vla tune`. {verdict(tuned)}"]
    sections: dict[str, list[tuple[str, Value]]] = defaultdict(list)
    for section, name, value in tuned.values:
        sections[section].append((name, value))
    for section in sorted(sections, key=lambda section: section != EVERY_NODE):  # "/**" in front
        lines += [f"{section if section == EVERY_NODE else f'/**/{section}'}:", f"  {KEY}:"]
        for name, value in sections[section]:
            option = SECTIONS[section].declared[name]
            lines.append(f"    # {comment(option, f'; default {as_yaml(option.default)}')}")
            lines.append(f"    {name}: {as_yaml(value)}")
    return "\n".join(lines) + "\n"


def _plot(tuned: Tuned, path: Path) -> None:
    figure, axis = plt.subplots(figsize=(7, 4.6))

    def draw(scores: tuple[Score, ...], **style: object) -> None:
        axis.plot([each.observations_per_s for each in scores], [each.error for each in scores], **style)

    draw(tuned.trials, ls="", marker="o", color=FAINT, label="trials")
    front = tuple(sorted(tuned.front, key=lambda each: each.observations_per_s))
    draw(front, ls="-", marker="o", color=GOOD, label="front")
    draw(tuned.trials[:1], ls="", marker="s", ms=9, color=INK, label="parameter file")
    axis.set_xlabel("observations per s")
    axis.set_ylabel("error against the recording")
    axis.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)
