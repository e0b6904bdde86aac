"""The memory map: an episode's pictures in a row, and under each the gate's score and what the cache made of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from streaming_vla.evaluation.chunk_log import Fate
from streaming_vla.evaluation.memory_outcome import fates_by_observation
from streaming_vla.evaluation.pilot import Pilot
from streaming_vla.robots.memory_episode import MemoryEpisode

COLOURS = {Fate.KEPT: "#1a7f37", Fate.DROPPED: "#d0d7de", Fate.EVICTED: "#bf8700", Fate.WINDOW: "#0969da"}
SHOWN = 24  # pictures that fit into the row
FAINT = "#57606a"


@dataclass(frozen=True)
class MemoryMap:
    """What is drawn of an episode of T observations.

    Args:
        title: one line.
        pictures: [S, S, 3] each, one per observation.
        fates: what became of each observation, and its score where there is one.
        threshold: least score that is kept; None where there is none.
        marks: first observation and name of every part of the episode.
    """

    title: str
    pictures: Sequence[npt.NDArray[np.uint8]]
    fates: Sequence[tuple[Fate, float | None]]
    threshold: float | None = None
    marks: Sequence[tuple[int, str]] = ()


def map_of_episode(pilot: Pilot, block: int, task: str, seed: int, memory: MemoryEpisode | None) -> MemoryMap:
    """Return the map of the pilot's episode, which has kept its pictures.

    Args:
        block: tokens of an observation.
        memory: the episode of a memory task, whose parts are marked.
    """
    policy, stats = pilot.cache.policy, pilot.cache.stats()
    sizes = policy.sizes
    fates = fates_by_observation(pilot.chunks.fates(), len(pilot.looks), sizes.sinks, sizes.chunk, block)
    marks: list[tuple[int, str]] = []
    if memory is not None:
        parts = ((0, "cue"), (memory.cue_steps, "wait"), (memory.cue_steps + memory.wait_steps, "choice"))
        for step, name in parts:
            first = next((number for number, look in enumerate(pilot.looks) if look >= step), None)
            marks += [] if first is None else [(first, name)]
    title = (
        f"{task}, seed {seed}, cache {policy.name}: {stats.tokens} of {stats.full_tokens} tokens held, "
        f"{stats.bytes / 1024:.0f} of {stats.full_bytes / 1024:.0f} KiB"
    )
    threshold = policy.least_score if policy.scored and math.isfinite(policy.least_score) else None
    return MemoryMap(title, pilot.pictures, fates, threshold, marks)


def draw_memory_map(map_of: MemoryMap, path: Path) -> None:
    """Write the map as a picture.

    Raises:
        ValueError: there is no observation, or not as many pictures as fates.
    """
    count = len(map_of.fates)
    if not count or len(map_of.pictures) != count:
        raise ValueError(f"memory map: {len(map_of.pictures)} pictures of {count} observations, expected one of each")
    figure = Figure(figsize=(16, 4.2), layout="constrained")
    frames, scores = figure.subplots(2, 1, height_ratios=(0.9, 1.6), sharex=True)
    _draw_frames(frames, map_of)
    _draw_scores(scores, map_of)
    figure.suptitle(map_of.title, fontsize=11)
    figure.savefig(path, dpi=110)


def _draw_frames(axes: Axes, map_of: MemoryMap) -> None:
    """Draw evenly spread pictures, each framed in the colour of its observation's fate."""
    count = len(map_of.fates)
    every = count / min(count, SHOWN)
    for place in range(min(count, SHOWN)):
        number = int((place + 0.5) * every)
        left, right = place * every - 0.5, (place + 1) * every - 0.5
        margin = 0.04 * every
        axes.imshow(
            map_of.pictures[number], extent=(left + margin, right - margin, 0.0, 1.0), aspect="auto", origin="upper"
        )
        axes.text((left + right) / 2, -0.08, str(number), ha="center", va="top", fontsize=7, color=FAINT)
        axes.plot((left + margin, right - margin), (1.05, 1.05), color=COLOURS[map_of.fates[number][0]], linewidth=3)
    axes.set(xlim=(-0.5, count - 0.5), ylim=(-0.3, 1.1))
    axes.axis("off")


def _draw_scores(axes: Axes, map_of: MemoryMap) -> None:
    """Draw the score of every observation as a bar, and its fate as the colour of the strip below."""
    fates = map_of.fates
    for fate, colour in COLOURS.items():
        places = [number for number, (own, _) in enumerate(fates) if own is fate]
        heights = [fates[number][1] or 0.0 for number in places]
        axes.bar(places, heights, width=0.8, color=colour)
        axes.bar(places, [0.08] * len(places), width=1.0, bottom=-0.14, color=colour)
    if map_of.threshold is not None:
        axes.axhline(map_of.threshold, color="#d1242f", linewidth=1, linestyle="--")
        axes.annotate(
            f"threshold {map_of.threshold:.3g}",
            (1.0, map_of.threshold),
            xycoords=("axes fraction", "data"),
            xytext=(-4, 3),
            textcoords="offset points",
            ha="right",
            fontsize=8,
            color="#d1242f",
        )
    for number, name in map_of.marks:
        axes.axvline(number - 0.5, color=FAINT, linewidth=0.8)
        axes.annotate(name, (number - 0.4, 1.04), fontsize=8, color=FAINT, va="bottom")
    axes.set(xlabel="observation", ylabel="score", ylim=(-0.16, 1.14), yticks=(0.0, 0.5, 1.0))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.spines[["top", "right"]].set_visible(False)
    present = [fate for fate in COLOURS if any(own is fate for own, _ in fates)]
    axes.legend(
        handles=[Patch(color=COLOURS[fate], label=fate.value) for fate in present],
        loc="upper right",
        ncols=len(present),
        fontsize=8,
        frameon=False,
        bbox_to_anchor=(1.0, 1.16),
    )
