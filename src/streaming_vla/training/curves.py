"""The loss curves of a training run as a picture."""

from __future__ import annotations

import json
import math
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

NOT_A_LOSS = {"step", "seconds_per_step"}
COLUMNS = 4


def draw_losses(log: Path, path: Path) -> None:
    """Draw every loss of log.jsonl over the steps, on logarithmic scales: a panel each, a line for every source.

    Raises:
        ValueError: the log has no entry.
    """
    entries = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    if not entries:
        raise ValueError(f"the log '{log}' has no entry: the run has not reached its first report")
    curves: dict[str, dict[int, list[tuple[int, float]]]] = {}  # by loss and source
    for entry in entries:
        for key, value in entry.items():
            name = key.rstrip("0123456789")
            if key not in NOT_A_LOSS and value > 0:  # one that does not apply to a source is 0
                source = int(key[len(name) :] or 0)
                curves.setdefault(name, {}).setdefault(source, []).append((entry["step"], value))
    columns = min(COLUMNS, len(curves))
    rows = math.ceil(len(curves) / columns)
    figure, grid = plt.subplots(rows, columns, figsize=(3 * columns, 2.5 * rows), squeeze=False, layout="constrained")
    for axes, (name, of_sources) in zip(grid.flat, curves.items(), strict=False):
        for source, points in sorted(of_sources.items()):
            axes.plot(*zip(*points, strict=True), linewidth=1.2, color=f"C{source}")
        axes.set(title=name, yscale="log")
        axes.grid(alpha=0.3, which="both")
        axes.spines[["top", "right"]].set_visible(False)
    for axes in grid.flat[len(curves) :]:
        axes.set_visible(False)
    figure.supxlabel("optimiser step")
    sources = sorted({source for of_sources in curves.values() for source in of_sources})
    lines = [plt.Line2D([], [], color=f"C{source}") for source in sources]
    if len(sources) > 1:
        figure.legend(
            lines, [f"source {source + 1}" for source in sources], loc="outside upper right", ncols=len(lines)
        )
    figure.savefig(path, dpi=120)
    plt.close(figure)
