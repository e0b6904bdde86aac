"""Where a command wants one number to be, and when."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from streaming_vla.commands.finite import finite

LARGEST_OFFSET_S = 1.0  # between a trajectory's own start and when it was received
NS = 1e-9


class Target(Protocol):
    """Where one number is to be."""

    def value(self, now_s: float) -> float:
        """Return where it is to be at the end of a step that ends at `now_s`."""
        ...


@dataclass(frozen=True)
class Reached:
    """A value that counts at once."""

    at: float

    def value(self, now_s: float) -> float:
        """Return the value, whenever."""
        return self.at


@dataclass(frozen=True)
class Course:
    """One joint of a trajectory of N points.

    Of the first step the point at the control period counts, or the first one where it comes later; of each further
    step that no newer command comes in, the one a period later.

    Args:
        start_s: when it begins.
        period_s: of the control.
        times: seconds from the start, [N], rising.
        positions: [N].
    """

    start_s: float
    period_s: float
    times: npt.NDArray[np.float64]
    positions: npt.NDArray[np.float64]

    def value(self, now_s: float) -> float:
        """Return the interpolated position; before the first point and behind the last one theirs."""
        steps = max(1, 1 + math.floor((now_s - self.start_s) / self.period_s + 1e-6))
        return float(np.interp(steps * self.period_s, self.times, self.positions))


def trajectory_targets(message: Any, time_s: float, period_s: float) -> tuple[dict[str, Target], float]:
    """Return the course of every joint of a JointTrajectory, and when the last point is due.

    Args:
        time_s: when it was received. A stamp of zero begins then; any other says itself when it begins.

    Raises:
        ValueError: no point, points without positions or out of order, numbers that are not finite, or a start that
            lies elsewhere than where it was received.
    """
    names, points = tuple(message.joint_names), list(message.points)
    if not names or not points:
        raise ValueError(f"the trajectory has {len(names)} joints and {len(points)} points, expected one at least")
    if len(set(names)) != len(names):
        raise ValueError(f"a joint is named twice among {', '.join(names)}, expected every joint once")
    times = np.array([point.time_from_start.sec + point.time_from_start.nanosec * NS for point in points])
    if any(len(point.positions) != len(names) for point in points):
        raise ValueError(f"a point of the trajectory has no position for each of {', '.join(names)}")
    positions = np.array([list(point.positions) for point in points], dtype=np.float64)
    finite(positions.reshape(-1), "the command")
    if (np.diff(times) <= 0).any():
        raise ValueError("the points of the trajectory are not in the order of time_from_start")
    stamp_s = message.header.stamp.sec + message.header.stamp.nanosec * NS
    if stamp_s and abs(stamp_s - time_s) > LARGEST_OFFSET_S:
        raise ValueError(
            f"the trajectory begins {stamp_s - time_s:+.1f} s from when it was received, expected a stamp of zero or "
            "of the same clock"
        )
    start_s = stamp_s or time_s
    courses: dict[str, Target] = {
        name: Course(start_s, period_s, times, positions[:, place]) for place, name in enumerate(names)
    }
    return courses, max(time_s, start_s + float(times[-1]))
