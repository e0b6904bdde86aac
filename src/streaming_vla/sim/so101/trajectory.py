"""A joint trajectory as a value: what it says, what makes it one that cannot be followed, and where it is at a time.

The rules are those of `joint_trajectory_controller` (ros2_controllers): positions alone are joined by straight lines,
positions with velocities by cubic and those with accelerations by quintic polynomials.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float64]

_STILL_RAD_S = float(np.finfo(np.float32).eps)  # a velocity at the end up to here is rounding


class TrajectoryRefused(ValueError):
    """The trajectory cannot be followed; the message says why."""


@dataclass(frozen=True)
class TrajectoryPoint:
    """Where the joints are `time_s` seconds after the trajectory's start.

    Args:
        positions: [J] in rad.
        velocities: [J] in rad/s; None: not given.
        accelerations: [J] in rad/s^2; None: not given. They need velocities.
    """

    time_s: float
    positions: Vector
    velocities: Vector | None = None
    accelerations: Vector | None = None

    @property
    def derivatives(self) -> list[Vector]:
        """What is given: positions, then velocities, then accelerations."""
        given = [self.positions]
        if self.velocities is not None:
            given.append(self.velocities)
            if self.accelerations is not None:
                given.append(self.accelerations)
        return given


@dataclass(frozen=True)
class Trajectory:
    """Points of named joints, in order of time.

    Args:
        start_s: when it starts; None: when it arrives.
    """

    joint_names: tuple[str, ...]
    points: tuple[TrajectoryPoint, ...]
    start_s: float | None = None


def check(trajectory: Trajectory, joints: Sequence[str], partial: bool, moving_end: bool) -> None:
    """Refuse a trajectory that these joints cannot follow.

    Args:
        partial: it may leave joints out.
        moving_end: it may end with a velocity.

    Raises:
        TrajectoryRefused: an unknown, doubled or missing joint, a wrong number of values, one that is not finite, times
            that do not rise, accelerations without velocities, or an end that moves.
    """
    names = trajectory.joint_names
    if unknown := [name for name in names if name not in joints]:
        raise TrajectoryRefused(f"joint {', '.join(unknown)} is unknown: expected {', '.join(joints)}")
    if doubled := [name for name, count in Counter(names).items() if count > 1]:
        raise TrajectoryRefused(f"joint {', '.join(doubled)} stands twice: expected every joint once")
    missing = [name for name in joints if name not in names]
    if missing and (not partial or not names):
        raise TrajectoryRefused(f"joint {', '.join(missing)} is missing: expected {', '.join(joints)}")
    before_s = -np.inf
    for index, point in enumerate(trajectory.points):
        _check_values(point, index, len(names))
        if not point.time_s > before_s or point.time_s < 0.0:
            raise TrajectoryRefused(
                f"point {index} has time_from_start {point.time_s:g} s: expected times that rise from 0 or later"
            )
        before_s = point.time_s
    end = trajectory.points[-1].velocities if trajectory.points else None
    if end is not None and not moving_end and np.abs(end).max(initial=0.0) > _STILL_RAD_S:
        raise TrajectoryRefused("the last point has a velocity: expected an end at rest")


def _check_values(point: TrajectoryPoint, index: int, joints: int) -> None:
    fields = {"positions": point.positions, "velocities": point.velocities, "accelerations": point.accelerations}
    for name, values in fields.items():
        if values is None:
            continue
        if values.shape != (joints,):
            raise TrajectoryRefused(
                f"point {index} has {values.size} {name}: expected one for each of the {joints} joint names"
            )
        if not np.isfinite(values).all():
            raise TrajectoryRefused(f"point {index} has {name} that are not finite: {values.tolist()}")
    if point.accelerations is not None and point.velocities is None:
        raise TrajectoryRefused(f"point {index} has accelerations without velocities: expected both")
    if not np.isfinite(point.time_s):
        raise TrajectoryRefused(f"point {index} has a time_from_start that is not finite")


def sample(points: Sequence[TrajectoryPoint], time_s: float) -> TrajectoryPoint:
    """Return where a trajectory is at `time_s`: its first point before it begins, its last one after its end."""
    after = bisect_right([point.time_s for point in points], time_s)
    if after == 0 or after == len(points):
        point = points[0 if after == 0 else -1]
        still = np.zeros_like(point.positions)
        return TrajectoryPoint(time_s, point.positions, still, still)
    return interpolate(points[after - 1], points[after], time_s)


def interpolate(start: TrajectoryPoint, end: TrajectoryPoint, time_s: float) -> TrajectoryPoint:
    """Return the point between two: the polynomial that has at both ends what both of them give.

    Of the order 2n - 1 where both give n of position, velocity and acceleration.
    """
    order = min(len(start.derivatives), len(end.derivatives))
    duration = end.time_s - start.time_s
    share = (time_s - start.time_s) / duration
    conditions = [
        values * duration**power for point in (start, end) for power, values in enumerate(point.derivatives[:order])
    ]
    coefficients = _INVERSES[order] @ np.stack(conditions)
    position, velocity, acceleration = (_powers(share, 2 * order, power) @ coefficients for power in range(3))
    return TrajectoryPoint(time_s, position, velocity / duration, acceleration / duration**2)


def _powers(share: float, size: int, derivative: int) -> Vector:
    """Return the derivative of 1, s, s^2, ... (`size` of them) at `share`."""
    row: Vector = _FACTORS[derivative, :size] * share ** _EXPONENTS[derivative, :size]
    return row


# Of the derivatives of s^k, k = 0 to 5: [3, 6] each
_EXPONENTS = np.maximum(np.arange(6) - np.arange(3)[:, None], 0)
_FACTORS = np.array([[math.perm(power, derivative) for power in range(6)] for derivative in range(3)], dtype=float)
# Of the rows that say position, velocity, ... at the start and at the end of a segment, by their number at one end.
_INVERSES = {
    order: np.linalg.inv(np.stack([_powers(float(end), 2 * order, power) for end in (0, 1) for power in range(order)]))
    for order in (1, 2, 3)
}
