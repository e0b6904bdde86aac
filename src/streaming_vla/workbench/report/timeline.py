"""The timeline picture: what every node did when, two modes above each other on one time scale."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib

from streaming_vla.machines.events import Mode
from streaming_vla.workbench.report.colours import ACTIONS, FAINT, HALT, INK, STAGES
from streaming_vla.workbench.report.records import EpisodeRecord

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.patches import ConnectionPatch, Patch, Rectangle

LANES = (
    ("observer", "observe"),
    ("inference: prefill", "prefill"),
    ("inference: flow steps", "flow_step"),
    ("generator", "generate"),
    ("executor", "execute"),
)
EXECUTOR_LANE = len(LANES) - 1
BAR = 0.62  # height of a bar, lanes are 1 apart
WINDOW_STEP_S = 0.25
SMALLEST_BAR_S = 0.0015  # shorter work is drawn this long, or it could not be seen
MODES = {
    "synchronous": "Synchronous: observe, generate all, execute all",
    "streaming": "Streaming: observe, generate and execute at the same time",
}


@dataclass(frozen=True)
class Stretch:
    """A piece of the executor's time: an action of a context, a halt (context -1), or neither (before the first)."""

    begin_s: float
    end_s: float
    context: int
    index: int
    halted: bool


def stretches(record: EpisodeRecord) -> list[Stretch]:
    """Return the executor's time from its first action to the end of the episode, without gaps."""
    found: list[Stretch] = []
    ends_s = [*(at.time_s for at in record.states[1:]), record.end_s]
    for at, end_s in zip(record.states, ends_s, strict=bool(record.states)):
        halted = at.state.mode in (Mode.HOLD, Mode.DECELERATE, Mode.ERROR)
        if end_s <= at.time_s or not (at.state.mode == Mode.PLAYING or (halted and at.state.executed > 0)):
            continue
        stretch = Stretch(at.time_s, end_s, at.state.context, at.state.index, halted)
        if halted and found and found[-1].halted:  # a hold is said again every period
            found[-1] = replace(found[-1], end_s=end_s)
        else:
            found.append(stretch)
    return found


def worst_halt(parts: Sequence[Stretch]) -> Stretch | None:
    """Return the longest halt, the first of several; None when there is none."""
    return max((part for part in parts if part.halted), key=lambda part: part.end_s - part.begin_s, default=None)


def window_of(parts: Sequence[Stretch], length_s: float) -> float:
    """Return the begin, in seconds from the first action, of the `length_s` that are worth a look.

    The worst halt is in their middle, as far as the episode goes; without one they are the first.
    """
    worst = worst_halt(parts)
    if worst is None:
        return 0.0
    origin_s = parts[0].begin_s
    middle_s = (worst.begin_s + worst.end_s) / 2 - origin_s
    return max(0.0, min(middle_s - length_s / 2, parts[-1].end_s - origin_s - length_s))


def _shade(parts: list[Stretch], part: Stretch) -> str:
    """Return the colour of an action: it changes with every hand-over."""
    contexts = list(dict.fromkeys(each.context for each in parts if not each.halted))
    return ACTIONS[contexts.index(part.context) % 2]


def draw_timeline(
    above: EpisodeRecord,
    below: EpisodeRecord,
    path: Path,
    window_s: float = 2.0,
    titles: Mapping[str, str] = MODES,
    about: str = "",
) -> None:
    """Write a picture (2400 px wide) of two episodes of one scene around the worst halt of either.

    Args:
        window_s: seconds that are shown, counted from the first action; less where both episodes are shorter.
        titles: of the records' modes.
        about: said behind the scene.

    Raises:
        ValueError: an episode has no action.
    """
    records = (above, below)
    played = [stretches(record) for record in records]
    for record, parts in zip(records, played, strict=True):
        if not parts:
            raise ValueError(f"timeline: the {record.mode} episode of task {record.task} has no action to draw")
    origins = [parts[0].begin_s for parts in played]
    longest_s = max(record.end_s - origin for record, origin in zip(records, origins, strict=True))
    window_s = min(window_s, WINDOW_STEP_S * math.ceil(longest_s / WINDOW_STEP_S))
    worst = max(played, key=lambda parts: halt.end_s - halt.begin_s if (halt := worst_halt(parts)) else 0.0)
    begin_s = window_of(worst, window_s)
    window = (begin_s, begin_s + window_s)
    with plt.rc_context({"font.family": "DejaVu Sans", "font.size": 10.5, "text.color": INK, "hatch.linewidth": 0.9}):
        figure, axes = plt.subplots(3, 1, figsize=(12, 8.4), height_ratios=(1, 1, 0.42), gridspec_kw={"hspace": 0.46})
        figure.subplots_adjust(left=0.135, right=0.98, top=0.925, bottom=0.105)
        for axis, record, parts, origin in zip(axes[:2], records, played, origins, strict=True):
            _panel(axis, record, parts, origin, window)
            axis.set_title(titles.get(record.mode, record.mode), loc="left", fontsize=12, weight="bold", pad=7)
        axes[1].set_xlabel("seconds since the first action", color=INK, labelpad=3)
        _overview(axes[2], records, played, origins, window)
        spans = (span for record in records for span in record.spans)
        _legend(figure, any(span.stage == "flow_step" and span.index < 0 for span in spans))
        scene = f"“{below.instruction}”  (task {below.task}, seed {below.seed}{about and f', {about}'})"
        figure.text(0.008, 0.975, scene, fontsize=13, weight="bold", va="center")
        figure.savefig(path, dpi=200)
        plt.close(figure)


def _panel(axis: Any, record: EpisodeRecord, parts: list[Stretch], origin: float, window: tuple[float, float]) -> None:
    begin, end = window
    before = 0.0 if begin else max(0.06, 0.05 * end)  # what led to the first action
    axis.set_xlim(begin - before, end)
    axis.set_ylim(EXECUTOR_LANE + 0.6, -0.6)
    axis.set_yticks(range(len(LANES)), [name for name, _ in LANES])
    _plain(axis)
    for lane in range(len(LANES)):
        axis.axhspan(lane - BAR / 2, lane + BAR / 2, color="#f3f5f7", lw=0, zorder=0)
    for span in record.spans:
        for lane, (_, stage) in enumerate(LANES[:EXECUTOR_LANE]):
            if span.stage == stage:
                _bar(axis, lane, span.begin_s - origin, span.end_s - origin, STAGES[stage])
    halted_s = 0.0
    for part in parts:
        left, right = part.begin_s - origin, part.end_s - origin
        if part.halted:
            halted_s += max(0.0, min(right, end) - max(left, begin))
            axis.axvspan(left, right, color=HALT, alpha=0.13, lw=0, zorder=1)
            _bar(axis, EXECUTOR_LANE, left, right, "white", edgecolor=HALT, hatch="/////", lw=1.2)
        else:
            _bar(axis, EXECUTOR_LANE, left, right, _shade(parts, part), edgecolor="white", lw=0.8)
    _hand_overs(axis, record, parts, origin, window)
    text = f"halted {1000 * halted_s:.0f} ms of these {end - begin:g} s"
    axis.set_title(text, loc="right", fontsize=12, weight="bold", pad=7)


def _hand_overs(
    axis: Any, record: EpisodeRecord, parts: list[Stretch], origin: float, window: tuple[float, float]
) -> None:
    """Join each observation to the first action that came from it."""
    first_action: dict[int, float] = {}
    for part in parts:
        if not part.halted:
            first_action.setdefault(part.context, part.begin_s - origin)
    observed = {span.sequence: span.end_s - origin for span in record.spans if span.stage == "observe"}
    for context, action in first_action.items():
        if observed.get(context, window[1]) < window[1] and action > window[0]:
            arrow = ConnectionPatch(
                (observed[context], BAR / 2), (action, EXECUTOR_LANE - BAR / 2), "data", "data", axesA=axis, axesB=axis,
                arrowstyle="-|>", mutation_scale=11, lw=1.1, color=INK, zorder=2.5, shrinkA=0, shrinkB=0,
            )  # fmt: skip
            axis.add_artist(arrow)
            arrow.set_clip_box(axis.bbox)  # one of its ends may lie outside of the window


def _overview(
    axis: Any,
    records: tuple[EpisodeRecord, ...],
    played: list[list[Stretch]],
    origins: list[float],
    window: tuple[float, float],
) -> None:
    """Draw the whole episodes: when the arm moved and when it had nothing to do."""
    longest = max(record.end_s - origin for record, origin in zip(records, origins, strict=True))
    for lane, (record, parts, origin) in enumerate(zip(records, played, origins, strict=True)):
        for part in parts:
            colour = HALT if part.halted else _shade(parts, part)
            axis.add_patch(Rectangle((part.begin_s - origin, lane - 0.33), part.end_s - part.begin_s, 0.66, fc=colour))
        end = record.end_s - origin
        text = f" {'done' if record.success else 'not done'}, {end:.1f} s"
        axis.text(end, lane, text, va="center", weight="bold", color=INK)
    axis.set_xlim(-0.055 * longest, 1.17 * longest)
    axis.set_ylim(1.7, -0.7)
    axis.set_yticks(range(len(records)), [record.mode for record in records])
    axis.axvspan(window[0], min(window[1], longest), color=FAINT, alpha=0.16, lw=0, zorder=0)
    _plain(axis)
    axis.set_title("The whole episode (shaded: the part above)", loc="left", fontsize=12, weight="bold", pad=7)


def _bar(axis: Any, lane: int, left: float, right: float, colour: str, **style: Any) -> None:
    width = max(right - left, SMALLEST_BAR_S)
    style = {"lw": 0, **style}
    axis.add_patch(Rectangle((left, lane - BAR / 2), width, BAR, facecolor=colour, zorder=3, **style))


def _plain(axis: Any) -> None:
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)
    axis.spines["bottom"].set_color(FAINT)
    axis.tick_params(axis="y", length=0, labelcolor=INK)
    axis.tick_params(axis="x", color=FAINT, labelcolor=INK)


def _legend(figure: Any, chunks: bool) -> None:
    steps = "flow step, or steps of a chunk" if chunks else "one flow step"
    names = ("camera pictures encoded", "prefill into the KV cache", steps, "action generated and sent")
    patches = [Patch(color=STAGES[stage], label=name) for name, (_, stage) in zip(names, LANES[:4], strict=True)]
    patches += [
        Patch(facecolor=ACTIONS[0], label="action (shade: its observation)"),
        Patch(facecolor="white", edgecolor=HALT, hatch="/////", label="halt"),
    ]
    figure.legend(handles=patches, loc="lower center", ncols=6, frameon=False, fontsize=9.5, handlelength=1.3,
                  columnspacing=1.3, handletextpad=0.5, bbox_to_anchor=(0.5, 0.0))  # fmt: skip
