"""Pushes an expert off its way now and then, so that demonstrations show how to come back."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float64]

BURST_PROBABILITY, BURST_SPEED = 0.06, 0.05  # of a demonstration: at an action; rad of a joint in an action
ATTEMPTS = 5  # to begin a demonstration off the way; then it begins at the start of its scene
_BURST_ACTIONS = (4, 12)
_GRIPPER_KEPT = 0.85  # share of the bursts that leave the gripper alone: a dropped cube is a demonstration less


class Disturbance:
    """Bursts of a constant drift of all joints; asks for the targets to execute instead of the expert's.

    The same generator and the same calls give the same bursts.

    Args:
        probability: that a burst begins at an action.
        speed: largest drift of a joint in one action, rad.
    """

    def __init__(self, probability: float, speed: float, random: np.random.Generator) -> None:
        self._probability = probability
        self._speed = speed
        self._random = random
        self._left = 0
        self._drift = np.zeros(6)
        self._keeps_gripper = True

    def apply(self, wanted: npt.ArrayLike, setpoint: Vector) -> npt.NDArray[np.float32]:
        """Return the joint targets to execute, [6]: `wanted` [6], or in a burst what drifts away from `setpoint`."""
        if self._left == 0 and self._random.random() < self._probability:
            self._left = int(self._random.integers(*_BURST_ACTIONS))
            self._drift = self._random.uniform(-self._speed, self._speed, 6)
            self._keeps_gripper = bool(self._random.random() < _GRIPPER_KEPT)
        targets = np.array(wanted, dtype=np.float32)
        if self._left:
            self._left -= 1
            count = 5 if self._keeps_gripper else 6
            targets[:count] = (setpoint + self._drift)[:count]
        return targets
