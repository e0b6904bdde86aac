"""Charts of the report as inline SVG: scalable, without scripts, each with a text for those who cannot see it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

WIDTH, HEIGHT = 720, 250
LEFT, RIGHT, TOP, BOTTOM = 108, 24, 14, 56  # room for the larger letters of a phone
COLOURS = ("#2f6fb6", "#d9731a", "#3a8f5c", "#8a4fb0", "#5b6670", "#a8872b")  # none like that of a halt
NAMES, LANE_NAMES = 210, 120  # width of what stands left of a chart
HALT = "#d1242f"
BINS = 24
LEAST_HISTOGRAM = 24.0  # largest value on the axis at least, so that nothing but zeros looks like zeros
MOST_POINTS = 1500  # of a line: more than the screen has pixels
LANES = ("observe", "prefill", "flow_step", "generate", "execute")

Points = Sequence[Sequence[float]]


def lines(series: Mapping[str, Points], x_label: str, y_label: str, about: str, broad: str = "") -> str:
    """Return a line chart of (x, y) points per name; the line called `broad` can be seen under another one."""
    drawn = {name: thinned(points) for name, points in series.items() if len(points)}
    if not drawn:
        return ""
    xs = [point[0] for points in drawn.values() for point in points]
    ys = [point[1] for points in drawn.values() for point in points]
    frame = _Frame((min(xs), max(xs)), (min(0.0, *ys), max(ys)))
    parts = [frame.axes(x_label, y_label)]
    for place, (name, points) in enumerate(drawn.items()):
        path = " ".join(f"{frame.x(x):.1f},{frame.y(y):.1f}" for x, y in points)
        dash = ' stroke-dasharray="6 4"' if place >= len(COLOURS) else ""
        colour = COLOURS[place % len(COLOURS)]
        width = '6" stroke-opacity="0.45' if name == broad else "2"
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}"{dash}/>')
    return _svg(parts, about) + legend(list(drawn))


def histogram(values: Mapping[str, Sequence[float]], x_label: str, about: str) -> str:
    """Return how often values fall into equal bins, per name side by side."""
    drawn = {name: list(each) for name, each in values.items() if len(each)}
    if not drawn:
        return ""
    largest = max(LEAST_HISTOGRAM, *(max(each) for each in drawn.values()))
    edges = np.linspace(0.0, largest, BINS + 1)
    counts = {name: np.histogram(each, edges)[0] for name, each in drawn.items()}
    frame = _Frame((0.0, largest), (0.0, float(max(each.max() for each in counts.values()))))
    parts = [frame.axes(x_label, "hand-overs")]
    width = (frame.x(edges[1]) - frame.x(edges[0])) / len(drawn)
    for place, each in enumerate(counts.values()):
        for edge, count in zip(edges, each, strict=False):
            if count:
                left, top = frame.x(edge) + place * width, frame.y(float(count))
                parts.append(_bar(left, top, width - 1, frame.y(0.0) - top, COLOURS[place % len(COLOURS)]))
    return _svg(parts, about) + legend(list(drawn))


def ranges(rows: Mapping[str, Mapping[str, Mapping[str, float]]], unit: str, about: str) -> str:
    """Return p50 (bar), p95 and p99 (ticks) per row and name; `rows` is {row: {name: {p50, p95, p99}}}."""
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    values = [number for row in rows.values() for each in row.values() for number in each.values()]
    if not values:
        return ""
    height = 18.0 * sum(len(row) for row in rows.values()) + 14.0 * len(rows) + BOTTOM + TOP
    frame = _Frame((0.0, max(values) or 1.0), (0.0, 1.0), height=height, left=NAMES)
    parts = [frame.axes(unit, "", horizontal=False)]
    top = float(TOP)
    for row, each in rows.items():
        middle = top + 9.0 * len(each) + 5
        parts.append(f'<text x="{NAMES - 8}" y="{middle:.1f}" text-anchor="end">{escape(row)}</text>')
        for name, numbers in each.items():
            colour = COLOURS[names.index(name) % len(COLOURS)]
            parts.append(_bar(frame.x(0.0), top + 3, frame.x(numbers["p50"]) - frame.x(0.0), 12, colour))
            for key, thick in (("p95", 2), ("p99", 1)):
                x = frame.x(numbers[key])
                parts.append(f'<path d="M{x:.1f} {top:.1f}v18" stroke="{colour}" stroke-width="{thick}"/>')
            top += 18
        top += 14
    return _svg(parts, about, height) + legend(names)


def timeline(spans: Sequence[tuple[str, float, float, bool]], seconds: float, about: str) -> str:
    """Return what was done when; each span is (lane of `LANES`, begin, end, halted), seconds from the first action."""
    height = 34.0 * len(LANES) + TOP + BOTTOM
    frame = _Frame((0.0, seconds), (0.0, 1.0), height=height, left=LANE_NAMES)
    parts = [frame.axes("seconds since the first action", "", horizontal=False)]
    for place, lane in enumerate(LANES):
        y = TOP + 34 * place
        parts.append(_bar(LANE_NAMES, y, WIDTH - RIGHT - LANE_NAMES, 26, "#eef1f4"))
        parts.append(
            f'<text x="{LANE_NAMES - 8}" y="{y + 18}" text-anchor="end">{escape(lane.replace("_", " "))}</text>'
        )
    for lane, begin, end, halted in spans:
        left, right = frame.x(max(0.0, begin)), frame.x(min(seconds, end))
        if right >= left and lane in LANES:
            colour = HALT if halted else COLOURS[LANES.index(lane)]
            parts.append(_bar(left, TOP + 34 * LANES.index(lane), max(1.0, right - left - 0.5), 26, colour))
    return _svg(parts, about, height)


def picture(data: str, about: str) -> str:
    """Return a PNG (base64) as wide as the page, with a text for those who cannot see it."""
    image = f'<img class="picture" src="data:image/png;base64,{escape(data)}" alt="{escape(about, quote=True)}">'
    return f'<div class="wide">{image}</div>'


def legend(names: Sequence[str]) -> str:
    """Return the names with their colours; nothing for one."""
    if len(names) < 2:
        return ""
    marks = [
        f'<span><i style="background:{COLOURS[place % len(COLOURS)]}"></i>{escape(name)}</span>'
        for place, name in enumerate(names)
    ]
    return f'<p class="legend">{"".join(marks)}</p>'


def thinned(points: Points) -> list[tuple[float, float]]:
    """Return at most `MOST_POINTS` of the points whose numbers are finite, the last one among them."""
    finite = [(float(x), float(y)) for x, y in points if np.isfinite(x) and np.isfinite(y)]
    step = max(1, -(-len(finite) // MOST_POINTS))
    return finite[::step] + ([finite[-1]] if len(finite) > 1 and (len(finite) - 1) % step else [])


class _Frame:
    """Maps numbers to pixels, and draws the axes."""

    def __init__(
        self, x: tuple[float, float], y: tuple[float, float], height: float = HEIGHT, left: float = LEFT
    ) -> None:
        self._x, self._y, self._height, self._left = _wide(x), _wide(y), height, left

    def x(self, value: float) -> float:
        low, high = self._x
        return self._left + (value - low) / (high - low) * (WIDTH - self._left - RIGHT)

    def y(self, value: float) -> float:
        low, high = self._y
        return self._height - BOTTOM - (value - low) / (high - low) * (self._height - BOTTOM - TOP)

    def axes(self, x_label: str, y_label: str, horizontal: bool = True) -> str:
        parts = []
        for value in ticks(*self._x):
            x = self.x(value)
            parts.append(f'<path d="M{x:.1f} {TOP}V{self._height - BOTTOM:.1f}" class="grid"/>')
            parts.append(
                f'<text x="{x:.1f}" y="{self._height - BOTTOM + 21:.1f}" text-anchor="middle">{_number(value)}</text>'
            )
        for value in ticks(*self._y) if horizontal else ():
            y = self.y(value)
            parts.append(f'<path d="M{self._left} {y:.1f}H{WIDTH - RIGHT}" class="grid"/>')
            parts.append(f'<text x="{self._left - 7}" y="{y + 5:.1f}" text-anchor="end">{_number(value)}</text>')
        middle = (self._left + WIDTH - RIGHT) / 2
        parts.append(f'<text x="{middle}" y="{self._height - 6:.1f}" text-anchor="middle">{escape(x_label)}</text>')
        if y_label:
            centre = (TOP + self._height - BOTTOM) / 2
            turned = f'transform="translate(20 {centre:.1f}) rotate(-90)" text-anchor="middle"'
            parts.append(f"<text {turned}>{escape(y_label)}</text>")
        return "".join(parts)


def ticks(low: float, high: float) -> list[float]:
    """Return round numbers from `low` to `high`, about five."""
    step = 10.0 ** np.floor(np.log10((high - low) / 4))
    for factor in (1, 2, 5, 10):
        if (high - low) / (factor * step) <= 6:
            step *= factor
            break
    return [float(round(value, 10)) + 0.0 for value in np.arange(np.ceil(low / step) * step, high + step / 1000, step)]


def _number(value: float) -> str:
    """Return a number of an axis, never longer than there is room for."""
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.4g}"


def _wide(limits: tuple[float, float]) -> tuple[float, float]:
    low, high = limits
    return (low, high) if high - low > 1e-12 else (low - 0.5, high + 0.5)


def _bar(left: float, top: float, width: float, height: float, colour: str) -> str:
    return f'<rect x="{left:.1f}" y="{top:.1f}" width="{max(0.0, width):.1f}" height="{height:.1f}" fill="{colour}"/>'


def _svg(parts: Sequence[str], about: str, height: float = HEIGHT) -> str:
    head = f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(about, quote=True)}">'
    return f'<div class="wide">{head}{"".join(parts)}</svg></div>'
