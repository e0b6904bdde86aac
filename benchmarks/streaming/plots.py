"""Draws the study: success against halting, and one scene of two strategies above each other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from cells import MOVED, Cell, Models
from study import Row

from streaming_vla.engine.latency_profile import LatencyProfile, find_profile
from streaming_vla.sim.tasks import HELD_OUT_SEED
from streaming_vla.workbench.report.timeline import draw_timeline

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import PercentFormatter
from matplotlib.transforms import Bbox

OURS = "ours"
# drawn above each other: each of the others above ours
TIMELINE = {
    "synchronous_10": "synchronous_10: observe, denoise a chunk, execute ten actions, synchronous",
    "afm": "afm: one action at a time, but observed when nothing is left",
    OURS: "ours: observed while actions are left, the old context goes on meanwhile",
}
LEADER = {"arrowstyle": "-", "lw": 0.6, "color": "#8c959f"}  # from a name to its point


@dataclass(frozen=True)
class Family:
    """Strategies of one kind: what they are called, and how they are drawn."""

    name: str
    colour: str
    marker: str


TURNS = Family("chunks, synchronous", "#57606a", "D")
# by the beginning of a strategy's name; the longest that fits counts
FAMILIES = {
    "ours": Family("ours: action flow, observed in time", "#1a7f37", "o"),
    "ours_from": Family("ours, sums that were not trained", "#8cc7a1", "X"),
    "afm": Family("action flow as published", "#0969da", "s"),
    "synchronous": TURNS,
    "temporal": TURNS,
    "lerobot": Family("chunks, LeRobot's queue", "#bf8700", "^"),
    "": Family("chunks, the next begun early", "#8250df", "v"),
}
# named where there are too many to name all
NAMED = (
    "synchronous_10", "temporal_ensembling", "lerobot_weighted_average", "rtc", "vlash", "afm", "afm_aeo", OURS,
)  # fmt: skip
MOST_NAMES = 10  # in a panel
TICKS_MS = (0, 5, 10, 20, 50, 100, 200, 500)
NEAR, LINE = 9, 6  # points from a point to its name, and from one place that is tried to the next
FARTHEST = 30  # places that are tried above and below


def draw_pareto(rows: Sequence[Row], path: Path) -> None:
    """Write success against T_halt, one panel per profile; nothing where no row has a hand-over."""
    panels: dict[str, list[Row]] = {}
    for row in rows:
        if row["t_halt_ms"] is not None:
            panels.setdefault(row["profile"], []).append(row)
    if not panels:
        return
    columns = min(2, len(panels))
    lines = math.ceil(len(panels) / columns)
    with plt.rc_context({"font.family": "DejaVu Sans", "font.size": 10}):
        figure, axes = plt.subplots(
            lines, columns, figsize=(6.5 * columns, 4.3 * lines + 0.7), sharex=True, sharey=True, squeeze=False,
            layout="constrained", dpi=160,
        )  # fmt: skip
        for axis, (profile, drawn) in zip(axes.flat, panels.items(), strict=False):
            _panel(axis, find_profile(profile), drawn)
        for axis in axes.flat[len(panels) :]:
            axis.axis("off")
        figure.supxlabel("← better      T_halt: time without an action, mean per hand-over (ms)", fontsize=11)
        figure.supylabel("success, with 95 % interval      better →", fontsize=11)
        _legend(figure, rows, 1 + columns)
        figure.canvas.draw()
        figure.set_layout_engine("none")  # names are placed where the layout has put the points
        for axis, drawn in zip(axes.flat, panels.values(), strict=False):
            _name_points(axis, drawn)
        figure.savefig(path)
        plt.close(figure)


def draw_timelines(cells: Sequence[Cell], models: Models, out: Path) -> None:
    """Write the timeline of one scene of each of TIMELINE above that of ours, where both are in the study."""
    first = {cell.strategy: cell for cell in reversed(cells) if cell.task != MOVED}
    if OURS not in first:
        return
    records = {name: first[name].job(HELD_OUT_SEED, models).run().record for name in TIMELINE if name in first}
    about = f"latencies of profile {find_profile(first[OURS].profile).name}"
    for name in records.keys() - {OURS}:
        draw_timeline(records[name], records[OURS], out / f"timeline_{name}.png", titles=TIMELINE, about=about)


def _family(strategy: str) -> Family:
    return FAMILIES[max((begin for begin in FAMILIES if strategy.startswith(begin)), key=len)]


def _panel(axis: Any, profile: LatencyProfile, rows: Sequence[Row]) -> None:
    for row in rows:
        family = _family(row["strategy"])
        bars = [[row["success"] - row["success_low"]], [row["success_high"] - row["success"]]]
        axis.errorbar(row["t_halt_ms"], row["success"], bars, color=family.colour, lw=1.0, alpha=0.3)
        axis.plot(
            row["t_halt_ms"], row["success"], family.marker, color=family.colour, ms=7, mec="white", mew=0.6,
            zorder=3 + (family is FAMILIES["ours"]),
        )  # fmt: skip
    axis.set_xscale("symlog", linthresh=10.0, linscale=0.8)
    axis.set_xlim(-1.0, max(600.0, axis.get_xlim()[1], *(1.5 * row["t_halt_ms"] for row in rows)))
    axis.set_xticks(TICKS_MS, [str(tick) for tick in TICKS_MS])
    axis.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelbottom=True, labelleft=True)
    title = (
        f"{profile.name}: observing {profile.observe.median_ms:g} ms, flow step {profile.flow_step.median_ms:g} ms, "
        f"action {profile.control_period_ms:g} ms"
    )
    axis.set_title(title, loc="left", fontsize=10, weight="bold")


def _legend(figure: Any, rows: Sequence[Row], columns: int) -> None:
    drawn = {_family(row["strategy"]) for row in rows}
    handles = [
        Line2D([], [], color=family.colour, marker=family.marker, ms=8, ls="", label=family.name)
        for family in dict.fromkeys(FAMILIES.values())
        if family in drawn
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=columns, frameon=False)


def _name_points(axis: Any, rows: Sequence[Row]) -> None:
    """Write names beside the points, each at the nearest place that is free."""
    pixels = axis.figure.dpi / 72.0
    points = [axis.transData.transform((row["t_halt_ms"], row["success"])) for row in rows]
    taken = [Bbox.from_bounds(x - 5 * pixels, y - 5 * pixels, 10 * pixels, 10 * pixels) for x, y in points]
    for row in sorted(rows, key=lambda row: (row["strategy"] != OURS, -row["success"])):
        if len(rows) > MOST_NAMES and row["strategy"] not in NAMED:
            continue
        point, style = (row["t_halt_ms"], row["success"]), {"textcoords": "offset points", "va": "center"}
        left = axis.transData.transform(point)[0] > axis.bbox.x0 + 0.6 * axis.bbox.width
        beside = -NEAR if left else NEAR
        name = axis.annotate(
            row["strategy"], point, (beside, 0), size=9, color=_family(row["strategy"]).colour,
            ha="right" if left else "left", weight="bold" if row["strategy"] == OURS else "normal",
            path_effects=[withStroke(linewidth=2.5, foreground="white")], **style,
        )  # fmt: skip
        for line in sorted(range(-FARTHEST, FARTHEST + 1), key=abs):
            name.set_position((beside, LINE * line))
            box = name.get_window_extent()
            if axis.bbox.y0 < box.y0 and box.y1 < axis.bbox.y1 and not any(box.overlaps(other) for other in taken):
                break
        taken.append(box)
        axis.annotate("", point, name.get_position(), arrowprops=LEADER, **style)
