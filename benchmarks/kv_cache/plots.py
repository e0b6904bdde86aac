"""Draws the benchmarks' results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, PercentFormatter


def draw(results: dict[str, Any], out: Path) -> None:
    """Write latency.png: prefill, flow step, bytes and the gate's gain against the history's length."""
    figure, axes = plt.subplots(1, 4, figsize=(17, 4), layout="constrained")
    names = list(dict.fromkeys(point["policy"] for point in results["latency"]))
    titles = {"prefill_ms": "prefill, ms", "flow_step_ms": "flow step, ms", "megabytes": "keys and values held, MB"}
    drawn = [point | {"megabytes": point["bytes"] / 1e6} for point in results["latency"]]
    for axis, field in zip(axes, titles, strict=False):
        for name in names:
            points = sorted((p["tokens"], p[field]) for p in drawn if p["policy"] == name)
            axis.plot(*zip(*points, strict=True), marker="o", markersize=3, label=name)
    for model, ratios in results["speedup"].items():
        name = model if model == "compact" else f"one layer of {model}"
        axes[3].plot([int(tokens) for tokens in ratios], ratios.values(), marker="o", markersize=3, label=name)
    axes[3].axhline(1.0, color="#57606a", linewidth=0.8)
    for axis, title in zip(axes, (*titles.values(), "full / gated, prefill and 10 flow steps"), strict=True):
        axis.set(xscale="log", yscale="log", xlabel="tokens of history", title=title)
        axis.xaxis.set(major_locator=LogLocator(base=2), major_formatter=FuncFormatter(_short))
        axis.yaxis.set(major_locator=LogLocator(subs=(1, 3)), major_formatter="{x:g}")
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.yaxis.set_minor_formatter(NullFormatter())
        axis.grid(alpha=0.3)
    for axis in (axes[0], axes[3]):
        axis.legend(fontsize=8)
    figure.savefig(out / "latency.png", dpi=110)


def draw_memory(tasks: dict[str, dict[str, dict[str, Any]]], out: Path) -> None:
    """Write memory.png: success of every cache against the tokens that it holds at the end, a panel for each task.

    Args:
        tasks: `memory_tasks` of results.json.
    """
    figure, axes = plt.subplots(
        1, len(tasks), figsize=(4.3 * len(tasks), 3.6), sharey=True, layout="constrained", squeeze=False
    )
    for axis, (task, caches) in zip(axes[0], tasks.items(), strict=True):
        for name, found in caches.items():
            off = [[found["success"] - found["low"]], [found["high"] - found["success"]]]
            axis.errorbar(found["tokens"], found["success"], off, marker="o", capsize=3, label=name)
        axis.set(xscale="log", ylim=(0, 1.02), xlabel="tokens held at the end", title=task)
        axis.xaxis.set(major_locator=LogLocator(subs=(1, 3)), major_formatter="{x:g}")
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.yaxis.set_major_formatter(PercentFormatter(1.0))
        axis.grid(alpha=0.3)
    axes[0, 0].set_ylabel("solved (95 % interval)")
    axes[0, 0].legend(fontsize=8)
    figure.savefig(out / "memory.png", dpi=110)


def _short(tokens: float, _position: int) -> str:
    return f"{tokens / 1024:g}k" if tokens >= 1024 else f"{tokens:g}"
