"""The memory map: an episode's pictures in a row, and under each the gate's score and what the cache made of it."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from kv_cache.policies.base import CachePolicy
from streaming_vla.sim.memory_episode import MemoryEpisode
from streaming_vla.workbench.evaluation.chunk_log import ChunkLog, Counts, Fate, held_exactly
from streaming_vla.workbench.evaluation.closed_loop_runner import ClosedLoopRunner
from streaming_vla.workbench.evaluation.memory_outcome import fates_by_observation
from streaming_vla.workbench.report.records import EpisodeRecord

COLOURS = {
    Fate.EXACT: "#8250df",
    Fate.KEPT: "#1a7f37",
    Fate.DROPPED: "#d0d7de",
    Fate.EVICTED: "#bf8700",
    Fate.WINDOW: "#0969da",
}
HATCHES = {Fate.EVICTED: "////", Fate.EXACT: "...."}  # who cannot tell the colours apart can tell these
INCHES, DPI = (11.0, 4.0), 150  # letters can be read where it is as wide as a page
LARGEST_INCHES = 0.9  # of a picture in the row
SHOWN = 24  # pictures that fit into the row
NAMED = 12  # stretches of observations that are named in words
TITLE_CHARACTERS = 60  # of an instruction
FAINT = "#57606a"
ODDS_TICKS = (1e-5, 1e-4, 1e-3, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999)
Picture = npt.NDArray[np.uint8] | bytes


@dataclass(frozen=True)
class MemoryMap:
    """What is drawn of an episode of T observations.

    Args:
        title: one line.
        pictures: one per observation: [S, S, 3] RGB, or its JPEG; empty where it is not known.
        fates: what became of each observation, and its score where there is one.
        threshold: least score that is kept; None where there is none.
        marks: first observation and name of every part of the episode.
    """

    title: str
    pictures: Sequence[Picture]
    fates: Sequence[tuple[Fate, float | None]]
    threshold: float | None = None
    marks: Sequence[tuple[int, str]] = ()

    def in_words(self) -> str:
        """Return what the map shows, for those who cannot see it."""
        told = []
        for fate in COLOURS:
            numbers = [number for number, (own, _) in enumerate(self.fates) if own is fate]
            if numbers:
                told.append(f"{len(numbers)} {fate.value} ({_stretches(numbers)})")
        text = f"Memory map of {len(self.fates)} observations: {'; '.join(told)}."
        scores = [score for _, score in self.fates if score is not None]
        if scores:
            text += f" Scores from {min(scores):.3g} to {max(scores):.3g}"
            text += "." if self.threshold is None else f", kept from {self.threshold:.3g} on."
        return text


def check_picture(file: Path) -> None:
    """Make the folder of a picture that is to be written later.

    Raises:
        ValueError: it cannot be written there, or its name ends in no picture's.
    """
    known = Figure().canvas.get_supported_filetypes()
    if file.suffix[1:].lower() not in known:
        raise ValueError(f"memory map '{file}': its name must end in .png, or in one of {', '.join(sorted(known))}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"memory map '{file}' cannot be written: {error.strerror}") from error


def map_of_episode(runner: ClosedLoopRunner, block: int, named: str, memory: MemoryEpisode | None) -> MemoryMap:
    """Return the map of the runner's episode, which has kept its pictures.

    Args:
        block: tokens of an observation.
        named: what the title calls the episode.
        memory: the episode of a memory task, whose parts are marked.
    """
    policy, stats = runner.cache.policy, runner.cache.stats()
    marks: list[tuple[int, str]] = []
    if memory is not None:
        parts = ((0, "cue"), (memory.cue_steps, "wait"), (memory.cue_steps + memory.wait_steps, "choice"))
        for step, name in parts:
            first = next((number for number, look in enumerate(runner.looks) if look >= step), None)
            marks += [] if first is None else [(first, name)]
    title = (
        f"{named}, cache {policy.name}: {stats.tokens} of {stats.full_tokens} tokens held, "
        f"{stats.bytes / 1024:.0f} of {stats.full_bytes / 1024:.0f} KiB"
    )
    fates = _fates(runner.chunks, stats, len(runner.looks), policy, block)
    return MemoryMap(title, runner.pictures, fates, _threshold(policy), marks)


def map_of_record(record: EpisodeRecord, policy: CachePolicy, block: int) -> MemoryMap:
    """Return the map of an episode whose record tells of its cache.

    Args:
        policy: of that cache.
        block: tokens of an observation.
    """
    log = ChunkLog()
    for at in record.cache:
        log.add(at.chunks_kept, at.chunks_dropped, at.chunks_evicted, at.scores, at.held)
    last = record.cache[-1]
    count = last.full_tokens // block
    sequences = {at.full_tokens // block - 1: at.sequence for at in record.cache}
    pictures = [record.pictures.get(sequences.get(number, -1), b"") for number in range(count)]
    said = textwrap.shorten(record.instruction, TITLE_CHARACTERS, placeholder=" ...")
    title = (
        f"{record.task}: {said}\ncache {last.policy}: {last.tokens} of {last.full_tokens} tokens held, "
        f"{last.bytes / 1024:.0f} of {last.full_bytes / 1024:.0f} KiB"
    )
    return MemoryMap(title, pictures, _fates(log, last, count, policy, block), _threshold(policy))


def draw_memory_map(map_of: MemoryMap, file: Path | io.BytesIO) -> None:
    """Write the map as a picture, PNG where the file has no name.

    Raises:
        ValueError: there is no observation, or not as many pictures as fates.
    """
    count = len(map_of.fates)
    if not count or len(map_of.pictures) != count:
        raise ValueError(f"memory map: {len(map_of.pictures)} pictures of {count} observations, expected one of each")
    scored = any(score is not None for _, score in map_of.fates)
    # where there is no score, what is left below the pictures is the strip of the fates
    figure = Figure(figsize=INCHES if scored else (INCHES[0], INCHES[1] / 2), layout="constrained")
    frames, below = figure.subplots(2, 1, height_ratios=(1.0, 2.0 if scored else 0.6), sharex=True)
    _draw_frames(frames, map_of)
    _draw_fates(below, map_of, scored)
    figure.suptitle(map_of.title, x=0.01, ha="left", fontsize=11)  # a phone shows the left part first
    figure.savefig(file, dpi=DPI)


def _fates(log: ChunkLog, told: Counts, count: int, policy: CachePolicy, block: int) -> list[tuple[Fate, float | None]]:
    sizes = policy.sizes
    return fates_by_observation(log.fates(held_exactly(told, sizes)), count, sizes.sinks, sizes.chunk, block)


def _threshold(policy: CachePolicy) -> float | None:
    return policy.least_score if policy.scored and math.isfinite(policy.least_score) else None


def _draw_frames(axes: Axes, map_of: MemoryMap) -> None:
    """Draw evenly spread pictures, each under the colour of its observation's fate."""
    count = len(map_of.fates)
    shown = min(count, SHOWN)
    every = count / shown
    points = 72 * min(0.9 * INCHES[0] / shown, LARGEST_INCHES)
    for place in range(shown):
        number = int((place + 0.5) * every)
        left, right = place * every - 0.5, (place + 1) * every - 0.5
        middle, margin = (left + right) / 2, 0.04 * every
        pixels = _pixels(map_of.pictures[number])
        if pixels is not None:
            drawn = AnnotationBbox(OffsetImage(pixels, zoom=points / pixels.shape[1]), (middle, 0.5), frameon=False)
            drawn.set_in_layout(False)
            axes.add_artist(drawn)
        axes.text(middle, 0.0, str(number), ha="center", va="top", fontsize=8, color=FAINT)
        axes.plot((left + margin, right - margin), (1.0, 1.0), color=COLOURS[map_of.fates[number][0]], linewidth=3)
    axes.set(xlim=(-0.5, count - 0.5), ylim=(-0.25, 1.05))
    axes.axis("off")


def _draw_fates(axes: Axes, map_of: MemoryMap, scored: bool) -> None:
    """Draw the fate of every observation as the colour of a strip, and above it its score as a bar."""
    fates, scale = map_of.fates, _Scale.of(map_of)
    for fate in COLOURS:
        places = [number for number, (own, _) in enumerate(fates) if own is fate]
        scores = [(number, fates[number][1]) for number in places]
        axes.add_collection(
            _bars(fate, [(at, 0.8, 0.0, scale.height(score)) for at, score in scores if score is not None])
        )
        axes.add_collection(_bars(fate, [(number, 1.0, -0.14, -0.06) for number in places]))
    if map_of.threshold is not None and scored:
        at = scale.height(map_of.threshold)
        axes.axhline(at, color="#d1242f", linewidth=1, linestyle="--")
        axes.annotate(
            f"threshold {map_of.threshold:.3g}",
            (1.0, at),
            xycoords=("axes fraction", "data"),
            xytext=(-4, 3),
            textcoords="offset points",
            ha="right",
            fontsize=8,
            color="#d1242f",
            bbox={"facecolor": "white", "alpha": 0.75, "linewidth": 0, "pad": 1},
        )
    top = 1.0 if scored else 0.0
    for number, name in map_of.marks:
        axes.axvline(number - 0.5, color=FAINT, linewidth=0.8)
        axes.annotate(name, (number - 0.4, top + 0.04), fontsize=8, color=FAINT, va="bottom")
    axes.set(xlabel="observation", ylabel="score" if scored else "", ylim=(-0.16, top + 0.14))
    axes.set_yticks([scale.height(tick) for tick in scale.ticks] if scored else [])
    axes.set_yticklabels([f"{tick:.3g}" for tick in scale.ticks] if scored else [])
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines["left"].set_visible(scored)
    present = [fate for fate in COLOURS if any(own is fate for own, _ in fates)]
    axes.legend(
        handles=[Patch(**_look(fate), label=fate.value) for fate in present],
        loc="upper left",
        ncols=len(present),
        fontsize=8,
        frameon=False,
        bbox_to_anchor=(0.0, 1.2 if scored else 1.75),
    )


@dataclass(frozen=True)
class _Scale:
    """From scores to heights between 0 and 1.

    Those of a gate are drawn by their log odds, for its threshold may be a hundredth. A bar is never so low that it
    cannot be seen: the lowest score stands above the ground.

    Args:
        odds: whether scores are drawn by their log odds.
        low, high: what stands at the heights 0 and 1, log odds where these are drawn.
        ticks: scores that are named.
    """

    odds: bool
    low: float
    high: float
    ticks: tuple[float, ...]

    @classmethod
    def of(cls, map_of: MemoryMap) -> _Scale:
        scores = [score for _, score in map_of.fates if score is not None]
        scores += [] if map_of.threshold is None else [map_of.threshold]
        odds = map_of.threshold is not None and all(0.0 <= score <= 1.0 for score in scores)
        if not odds:
            low, high = min([0.0, *scores]), max([1.0, *scores])
            return cls(False, low, high, (low, (low + high) / 2, high))
        ends = [_log_odds(score) for score in scores]
        low, high = min(ends), max(ends)
        low, high = low - 0.1 * max(high - low, 1.0), high + 0.05 * max(high - low, 1.0)
        return cls(True, low, high, tuple(tick for tick in ODDS_TICKS if low <= _log_odds(tick) <= high))

    def height(self, score: float) -> float:
        """Return the height of a score."""
        place = _log_odds(score) if self.odds else score
        return (place - self.low) / (self.high - self.low)


def _log_odds(score: float) -> float:
    inside = min(max(score, 1e-6), 1.0 - 1e-6)
    return math.log(inside / (1.0 - inside))


def _bars(fate: Fate, bars: Sequence[tuple[int, float, float, float]]) -> PolyCollection:
    """Return bars (middle, width, bottom, top) as one drawing: an hour has thousands."""
    corners = [
        [(x - width / 2, low), (x - width / 2, high), (x + width / 2, high), (x + width / 2, low)]
        for x, width, low, high in bars
    ]
    return PolyCollection(corners, **_look(fate), linewidth=0)


def _look(fate: Fate) -> dict[str, Any]:
    return {"facecolor": COLOURS[fate], "edgecolor": "white", "hatch": HATCHES.get(fate, "")}


def _pixels(picture: Picture) -> npt.NDArray[np.uint8] | None:
    if isinstance(picture, np.ndarray):
        return picture
    decoded = cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR) if picture else None
    return None if decoded is None else np.asarray(decoded[..., ::-1], np.uint8)


def _stretches(numbers: Sequence[int]) -> str:
    """Return ascending numbers in words: "0 to 3, 7"."""
    groups: Iterable[list[int]] = (
        [number for _, number in group] for _, group in groupby(enumerate(numbers), lambda each: each[1] - each[0])
    )
    told = [str(group[0]) if len(group) == 1 else f"{group[0]} to {group[-1]}" for group in groups]
    return ", ".join(told[:NAMED]) + (f" and {len(told) - NAMED} stretches more" if len(told) > NAMED else "")
