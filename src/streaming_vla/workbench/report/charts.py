"""Charts of the report: matplotlib's SVG, made to stand inside the page, each with a text for those who cannot see it.

No name of a bag, camera or joint is drawn: names stand in the page beside the chart, where they wrap and are escaped.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from html import escape
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from streaming_vla.workbench.report.colours import FAINT, GRID, HALT, STAGES, of_run

SMALL, BROAD = (5.0, 2.9), (10.0, 2.9)  # inches: half the page of a laptop and all of a phone, all of a laptop
BINS = 24
LEAST_HISTOGRAM = 24.0  # largest value on the axis at least, so that nothing but zeros looks like zeros
STYLE = {
    "svg.fonttype": "none",  # letters stay letters
    "svg.hashsalt": "report",  # the same chart is the same text
    "font.family": "DejaVu Sans",  # which matplotlib brings: the room that is kept for letters is the same everywhere
    "font.size": 11.0,
    "axes.edgecolor": GRID,
    "axes.labelcolor": FAINT,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.formatter.useoffset": False,
    "grid.color": GRID,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "path.simplify_threshold": 0.5,  # of a point: a curve of an hour has more than a screen shows
}
# what an SVG file needs and one inside of a page does not: its head, and names that every chart would have again
ALONE = re.compile(
    r'<(metadata|style)\b.*?</\1>|\s(?:xmlns(?::\w+)?|version)="[^"]*"|\s(?:width|height)="[^"]*pt"|\sid="[^"]*_\d+"',
    re.DOTALL,
)

Points = Sequence[Sequence[float]]


def lines(
    series: Mapping[str, Points],
    x_label: str,
    y_label: str,
    about: str,
    broad: str = "",
    thresholds: Mapping[str, float] | None = None,
) -> str:
    """Return a line chart of (x, y) points per name; what is not finite is a gap.

    Args:
        broad: name of a line that can be seen under another one.
        thresholds: y of a dashed line in the colour of that name.
    """
    drawn = {name: np.asarray(points, dtype=float) for name, points in series.items() if len(points)}
    if not drawn:
        return ""
    with _chart(x_label, y_label) as (figure, axis):
        for place, (name, points) in enumerate(drawn.items()):
            width = {"lw": 6, "alpha": 0.45} if name == broad else {"lw": 2}
            alone = {"marker": "o"} if len(points) == 1 else {}
            axis.plot(*points.T, color=of_run(place), **width, **alone)
            if thresholds and name in thresholds:
                axis.axhline(thresholds[name], color=of_run(place), ls="--", lw=1.5)
        low, high = axis.get_ylim()
        axis.set_ylim(min(0.0, low), max(high, 1e-9))
        return _inline(figure, about) + legend(list(drawn))


def histogram(values: Mapping[str, Sequence[float]], x_label: str, about: str) -> str:
    """Return how often values fall into equal bins, per name side by side."""
    drawn = {name: list(each) for name, each in values.items() if len(each)}
    if not drawn:
        return ""
    edges = np.linspace(0.0, max(LEAST_HISTOGRAM, *(max(each) for each in drawn.values())), BINS + 1)
    with _chart(x_label, "hand-overs") as (figure, axis):
        axis.hist(list(drawn.values()), edges, color=[of_run(place) for place in range(len(drawn))])
        axis.yaxis.get_major_locator().set_params(integer=True)
        return _inline(figure, about) + legend(list(drawn))


def ranges(rows: Mapping[str, Mapping[str, Mapping[str, float]]], unit: str, about: str) -> str:
    """Return p50 (bar), p95 and p99 (ticks) per row and name; `rows` is {row: {name: {p50, p95, p99}}}.

    The names of the rows are drawn, so they must be short words of our own.
    """
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    if not names:
        return ""
    thick = 0.8 / len(names)
    height = 1.0 + 0.2 * max(2, len(names)) * len(rows)
    with _chart(unit, "", (SMALL[0], height)) as (figure, axis):
        for place, each in enumerate(rows.values()):
            for name, numbers in each.items():
                at, colour = place - 0.4 + thick * (names.index(name) + 0.5), of_run(names.index(name))
                axis.barh(at, numbers["p50"], 0.8 * thick, color=colour)
                for key, width in (("p95", 2.5), ("p99", 1)):
                    axis.vlines(numbers[key], at - thick / 2, at + thick / 2, color=colour, lw=width)
        axis.set_yticks(range(len(rows)), list(rows))
        axis.invert_yaxis()
        axis.grid(visible=False, axis="y")
        axis.set_xlim(left=0.0)
        return _inline(figure, about) + legend(names)


def timeline(spans: Sequence[tuple[str, float, float, bool]], begin: float, end: float, about: str) -> str:
    """Return what was done from `begin` to `end`; each span is (stage, begin, end, halted), seconds.

    It is drawn twice, as wide as a laptop and as a phone: the page shows the one that fits.
    """
    return "".join(_timeline(spans, begin, end, about, *form) for form in ((BROAD, "broad"), (SMALL, "narrow")))


def _timeline(
    spans: Sequence[tuple[str, float, float, bool]],
    begin: float,
    end: float,
    about: str,
    inches: tuple[float, float],
    kind: str,
) -> str:
    with _chart("seconds since the first action", "", inches) as (figure, axis):
        for place, (stage, colour) in enumerate(STAGES.items()):
            bars = [
                (left, max(right - left, (end - begin) / 2000))  # shorter work could not be seen
                for name, left, right, halted in spans
                if name == stage and not halted
            ]
            edge = {"edgecolor": "white", "lw": 0.5} if stage == "execute" else {"lw": 0}
            axis.broken_barh(bars, (place - 0.36, 0.72), facecolor=colour, **edge)
        halts = [(left, right - left) for _, left, right, halted in spans if halted]
        lane = list(STAGES).index("execute")
        axis.broken_barh(halts, (lane - 0.36, 0.72), facecolor="white", edgecolor=HALT, hatch="////", lw=1.2)
        axis.set_yticks(range(len(STAGES)), [stage.replace("_", " ") for stage in STAGES])
        axis.set_xlim(begin, end)
        axis.set_ylim(len(STAGES) - 0.5, -0.5)
        axis.grid(visible=False, axis="y")
        return _inline(figure, about, kind)


def picture(data: str, about: str) -> str:
    """Return a PNG (base64) as wide as the page, with a text for those who cannot see it."""
    image = f'<img class="picture" src="data:image/png;base64,{escape(data)}" alt="{escape(about, quote=True)}">'
    return f'<div class="wide" tabindex="0">{image}</div>'


def legend(names: Sequence[str]) -> str:
    """Return the names with their colours; nothing for one."""
    if len(names) < 2:
        return ""
    marks = [
        f'<span><i style="background:{of_run(place)}"></i>{escape(name)}</span>' for place, name in enumerate(names)
    ]
    return f'<p class="legend">{"".join(marks)}</p>'


@contextmanager
def _chart(x_label: str, y_label: str, inches: tuple[float, float] = SMALL) -> Iterator[tuple[Figure, Any]]:
    """Yield a figure with one axis, in our style; it is not known to pyplot, so nothing has to be closed."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=inches, layout="constrained")
        axis = figure.subplots()
        axis.set_xlabel(x_label)
        axis.set_ylabel(y_label)
        axis.tick_params(length=0)
        yield figure, axis


def _inline(figure: Figure, about: str, kind: str = "") -> str:
    """Return a figure as an SVG element."""
    drawn = io.StringIO()
    figure.savefig(drawn, format="svg", transparent=True)
    text = ALONE.sub("", drawn.getvalue()[drawn.getvalue().index("<svg") :])
    head = f'<svg role="img" aria-label="{escape(about, quote=True)}" '
    return f'<div class="chart {kind}">{head}{text.removeprefix("<svg ")}</div>'
