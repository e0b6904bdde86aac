"""The picture of kv_models: quality against the tokens held."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw loss against budget, and needles found outside of the window."""
    losses = [row for row in rows if row["kind"] == "loss"]
    needles = [row for row in rows if row["kind"] == "needle" and row["cases_far"]]
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    longest = max((row["tokens"] for row in losses), default=0)
    for name in dict.fromkeys(row["method"] for row in losses):
        of = sorted(
            (row["budget"], row["loss"]) for row in losses if row["method"] == name and row["tokens"] == longest
        )
        if name == "full":
            left.axhline(of[0][1], color="black", linewidth=1, label="full")
        elif of:
            kind = "-" if next(row for row in losses if row["method"] == name)["source"] == "ours" else "--"
            left.plot(*zip(*of, strict=True), kind, marker="o", label=name)
    left.set(xlabel="tokens held", ylabel=f"loss behind {longest} tokens", xscale="log")
    if losses:
        left.legend(fontsize=8)
    best = sorted(needles, key=lambda row: row["needle_far"] / row["cases_far"])
    colours = ["C0" if row["source"] == "ours" else "C1" for row in best]
    right.barh([row["method"] for row in best], [row["needle_far"] / row["cases_far"] for row in best], color=colours)
    right.set(xlabel="needles found outside of the window, share", xlim=(0, 1))
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)
    plt.close(figure)
