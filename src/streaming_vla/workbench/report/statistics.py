"""Statistics of small samples: Wilson's interval for a success rate, and summaries of durations."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import sqrt

import numpy as np

Z_95 = 1.959963984540054  # two-sided 95 % quantile of the normal distribution


def wilson_interval(successes: int, trials: int, z: float = Z_95) -> tuple[float, float]:
    """Return the interval of a success rate, which it holds, in [0, 1] (Wilson 1927); (0, 1) without a trial.

    Raises:
        ValueError: the counts are negative or there are more successes than trials.
    """
    if not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes of {trials} trials: expected 0 <= successes <= trials")
    if trials == 0:
        return 0.0, 1.0
    rate = successes / trials
    centre = rate + z * z / (2 * trials)
    margin = z * sqrt(rate * (1 - rate) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    # rounding may put the rate itself, 0 or 1, outside
    return max(0.0, min(rate, (centre - margin) / scale)), min(1.0, max(rate, (centre + margin) / scale))


@dataclass(frozen=True)
class Summary:
    """Distribution of `count` values in their own unit; every field but the count is None when there is no value."""

    count: int
    mean: float | None = None
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None
    max: float | None = None


def summarise(values: Iterable[float], scale: float = 1.0) -> Summary:
    """Return the summary of `values`, each times `scale` (1000 turns seconds into milliseconds)."""
    array = np.asarray(list(values), dtype=np.float64) * scale
    if array.size == 0:
        return Summary(0)
    p50, p95, p99 = (float(value) for value in np.percentile(array, (50, 95, 99)))
    return Summary(int(array.size), float(array.mean()), p50, p95, p99, float(array.max()))
