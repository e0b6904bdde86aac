"""Pictures of the report: histograms of every dimension, lengths of the episodes, and a film strip of each task."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import cv2
import matplotlib
import numpy as np

from streaming_vla.datasets.dataset import Dataset
from streaming_vla.datasets.errors import DatasetError
from streaming_vla.workbench.inspect.survey import BINS, Dimension
from streaming_vla.workbench.report.colours import FAINT, RUNS

COLUMNS = 4
BLUE, INK = RUNS[0], FAINT
STRIP_PICTURES, STRIP_PIXELS = 8, 96


def histograms(dimensions: Sequence[Dimension]) -> str:
    """Return how often each value comes, a small chart for each dimension, as PNG in base64; limits are dashed."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = -(-len(dimensions) // COLUMNS)
    figure, axes = pyplot.subplots(rows, COLUMNS, figsize=(11, 1.9 * rows + 0.2), squeeze=False, layout="constrained")
    for axis, each in zip(axes.flat, dimensions, strict=False):
        edges = np.linspace(*each.edges, BINS + 1)
        axis.stairs(each.counts, edges, fill=True, color=BLUE)
        for limit in each.limits or ():
            if abs(limit) < 1e6:
                axis.axvline(limit, color=INK, linewidth=1, linestyle="--")
        axis.set_title(each.name, fontsize=9, color=INK)
        axis.tick_params(labelsize=7, colors=INK)
        axis.set_yticks([])
        axis.spines[["top", "right", "left"]].set_visible(False)
    for axis in axes.flat[len(dimensions) :]:
        axis.axis("off")
    return _png(figure)


def lengths(seconds: Sequence[float]) -> str:
    """Return the length of every episode as PNG in base64."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(11, 2.2), layout="constrained")
    axis.bar(np.arange(len(seconds)), seconds, color=BLUE, width=0.9)
    axis.set_xlabel("episode", fontsize=8, color=INK)
    axis.set_ylabel("s", fontsize=8, color=INK)
    axis.tick_params(labelsize=7, colors=INK)
    axis.spines[["top", "right"]].set_visible(False)
    return _png(figure)


def task_strips(data: Dataset, tasks: Sequence[str]) -> list[tuple[str, list[dict[str, Any]]]]:
    """Return (name, pictures) of each task and camera: evenly spread moments of the first episode that has it."""
    found = []
    for task in tasks:
        for entry in data.entries:
            if task not in entry.tasks:
                continue
            try:
                episode = data.episode(entry)
                mine = np.flatnonzero([said == task for said in data.instructions(episode)])
                chosen = mine[
                    np.unique(np.linspace(0, len(mine) - 1, min(STRIP_PICTURES, len(mine))).astype(int))
                ].tolist()
                for camera in data.facts.cameras:
                    shown = data.pictures(episode, camera.name, chosen)
                    pictures: list[dict[str, Any]] = [
                        {"data": _jpeg(pixels), "time": f"{step / data.facts.fps:.1f}", "saliency": None, "sent": []}
                        for step, pixels in zip(chosen, shown, strict=True)
                    ]
                    found.append((f"“{task}”, camera {camera.name}, episode {entry.number}", pictures))
            except DatasetError:
                continue  # is among the findings
            break
    return found


def _jpeg(pixels: Any) -> str:
    """Return the centre square of a picture as a small JPEG in base64."""
    side = min(pixels.shape[:2])
    top, left = (pixels.shape[0] - side) // 2, (pixels.shape[1] - side) // 2
    small = cv2.resize(pixels[top : top + side, left : left + side], (STRIP_PIXELS,) * 2, interpolation=cv2.INTER_AREA)
    return base64.b64encode(cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 80])[1].tobytes()).decode()


def _png(figure: Any) -> str:
    from matplotlib import pyplot

    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110)
    pyplot.close(figure)
    return base64.b64encode(stream.getvalue()).decode()
