"""The loss curves of a training run as a picture."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

NOT_A_LOSS = {"step", "seconds_per_step"}


def draw_losses(log: Path, path: Path) -> None:
    """Draw every loss of log.jsonl over the steps, on a logarithmic scale.

    Raises:
        ValueError: the log has no entry.
    """
    entries = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    if not entries:
        raise ValueError(f"the log '{log}' has no entry: the run has not reached its first report")
    figure, axes = plt.subplots(figsize=(8, 4.5), constrained_layout=True)
    for name in sorted({name for entry in entries for name in entry} - NOT_A_LOSS):
        points = [(entry["step"], entry[name]) for entry in entries if entry.get(name, 0) > 0]
        if points:
            steps, values = zip(*points, strict=True)
            axes.plot(steps, values, linewidth=1.2)
            axes.annotate(name, (steps[-1], values[-1]), xytext=(4, 0), textcoords="offset points", va="center")
    axes.set(xlabel="optimiser step", ylabel="loss", yscale="log")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
    plt.close(figure)
