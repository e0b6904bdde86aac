"""How long a stage takes: a smoothed value for schedules, percentiles for reports, warm-up left out."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

import numpy as np

WINDOW = 1024  # newest values that percentiles are taken of


@dataclass(frozen=True)
class LatencySummary:
    """Latencies in seconds; NaN while `count` is 0."""

    count: int
    p50_s: float
    p95_s: float
    p99_s: float
    max_s: float


class LatencyTracker:
    """Exponentially weighted mean and percentiles of a latency.

    Args:
        warm_up: first values that are left out (compilation, caches, discovery).
        smoothing: weight of a new value in the smoothed one, in (0, 1].
    """

    def __init__(self, warm_up: int = 0, smoothing: float = 0.2) -> None:
        self.warm_up = warm_up
        self._smoothing = smoothing
        self._seen = self._kept = 0
        self._smoothed_s: float | None = None
        self._max_s = math.nan
        self._window: deque[float] = deque(maxlen=WINDOW)

    def add(self, value_s: float) -> None:
        """Add a latency in seconds.

        Raises:
            ValueError: negative or not finite, which a single clock cannot give.
        """
        if not math.isfinite(value_s) or value_s < 0.0:
            raise ValueError(f"latency is {value_s} s: take both times from one clock")
        self._seen += 1
        if self._seen <= self.warm_up:
            return
        if self._smoothed_s is None:
            self._smoothed_s = value_s
            self._max_s = value_s
        self._smoothed_s += self._smoothing * (value_s - self._smoothed_s)
        self._max_s = max(self._max_s, value_s)
        self._window.append(value_s)
        self._kept += 1

    @property
    def smoothed_s(self) -> float | None:
        """The smoothed latency in seconds; None before the warm-up is over."""
        return self._smoothed_s

    def summary(self) -> LatencySummary:
        """Return the count of values kept, percentiles of the newest ones and the largest of all."""
        if not self._kept:
            return LatencySummary(0, math.nan, math.nan, math.nan, math.nan)
        p50, p95, p99 = (float(value) for value in np.percentile(self._window, (50, 95, 99)))
        return LatencySummary(self._kept, p50, p95, p99, self._max_s)
