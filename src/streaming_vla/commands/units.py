"""What the policy's numbers are worth at the robot: robot = policy * scale + offset, in both directions. No ROS."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float64]


class Units:
    """An affine map per number (degrees of a policy to radians of a robot: scale 0.01745, offset 0).

    Args:
        scale: robot units per policy unit, [n], or one for all.
        offset: the robot's value where the policy's is 0, robot units, [n], or one for all.
    """

    def __init__(self, scale: Sequence[float] = (1.0,), offset: Sequence[float] = (0.0,)) -> None:
        self._scale, self._offset = np.asarray(scale, dtype=np.float64), np.asarray(offset, dtype=np.float64)
        self._size = max(len(self._scale), len(self._offset))
        self.same = bool((self._scale == 1.0).all() and (self._offset == 0.0).all())  # nothing is converted

    def to_robot(self, values: Vector) -> Vector:
        """Return values [n] of the policy in robot units."""
        converted: Vector = values * self._scale + self._offset
        return converted

    def to_policy(self, values: Vector) -> Vector:
        """Return values [n] of the robot in policy units; no scale may be 0.

        Raises:
            ValueError: there are scales and offsets for another number of values.
        """
        if self._size not in (1, len(values)):
            raise ValueError(f"{len(values)} numbers, but scale and offset are given for {self._size}")
        converted: Vector = (values - self._offset) / self._scale
        return converted
