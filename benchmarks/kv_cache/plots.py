"""Draws the benchmark's results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def draw(results: dict[str, Any], out: Path) -> None:
    """Write latency.png: prefill, flow step and bytes of every policy against the history's length."""
    figure, axes = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
    names = list(dict.fromkeys(point["policy"] for point in results["latency"]))
    titles = {"prefill_ms": "prefill (ms)", "flow_step_ms": "flow step (ms)", "bytes": "bytes held"}
    for axis, (field, title) in zip(axes, titles.items(), strict=True):
        for name in names:
            points = sorted((p["tokens"], p[field]) for p in results["latency"] if p["policy"] == name)
            axis.plot(*zip(*points, strict=True), marker="o", markersize=3, label=name)
        axis.set(xscale="log", yscale="log", xlabel="tokens of history", title=title)
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    figure.savefig(out / "latency.png", dpi=110)
