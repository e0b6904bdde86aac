"""What a flow step is told and answers, in the network's units: training and robot compute it by the same lines.

A target q_j is its change d_j = q_j - q_(j-1), so that targets add up as changes do. The flow's state is the sum of
what was executed since its context took over; it has a scale and no offset: scaled sums are sums of scaled changes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from streaming_vla.policies.layout import ActionLayout, Vector
from streaming_vla.policies.lerobot.flow_head.sidecar import NO_JOINT, Sidecar

NEVER_MOVED = 1e-3  # of the largest change: quantiles below it tell of one that seldom moves (a gripper's command)
SAME = 1e-4  # relative; a parameter file may have rounded a pose


@dataclass(frozen=True)
class FlowUnits:
    """The units of a robot's actions. Arrays may have any leading dimensions.

    Args:
        scale: of a change, [A].
        absolute: [A], True where actions are targets.
        joints: [A], place in the state of what an action moves; NO_JOINT: not known.
        low, high: limits, [A].
        initial: [A], where targets begin, as long as none was sent.
    """

    scale: Vector
    absolute: npt.NDArray[np.bool_]
    joints: npt.NDArray[np.int64]
    low: Vector
    high: Vector
    initial: Vector

    @classmethod
    def of(cls, sidecar: Sidecar, layout: ActionLayout) -> FlowUnits:
        """Return those of a checkpoint."""
        as_floats = (np.asarray(each, dtype=np.float64) for each in (layout.low, layout.high, layout.initial))
        return cls(np.array(sidecar.scale), np.array(sidecar.absolute), np.array(sidecar.joints), *as_floats)

    def moved(self, position: Vector, begun: Vector) -> Vector:
        """Return the flow's state: what was executed since it stood at `begun`, scaled."""
        return (position - begun) / self.scale

    def lacking(self, position: Vector, pending: Vector, state: npt.NDArray[np.floating]) -> Vector:
        """Return what the robot's state does not show yet, scaled, [..., A].

        That is the sum of the pending actions, and of a target how far it is ahead of its joint. A target whose joint
        nobody knows is told itself, -1 to 1 between its limits.

        Args:
            position: newest target of each absolute dimension, [..., A].
            pending: sum of the actions that `state` does not show, [..., A].
            state: [..., S], in the robot's units.
        """
        level = 2.0 * (position - self.low) / (self.high - self.low) - 1.0
        ahead = (position - state[..., self.joints]) / self.scale
        of_target = np.where(self.joints == NO_JOINT, level, ahead)
        return np.where(self.absolute, of_target, pending / self.scale)

    def begins(self, position: Vector, state: npt.NDArray[np.floating]) -> Vector:
        """Return where a flow that takes over at `position` [A] begins.

        Before anything was sent targets stand at their initial values, which are nobody's pose: the robot stands where
        its joints are, [S].
        """
        targets = self.absolute & (self.joints != NO_JOINT)
        never_sent = np.isclose(position, self.initial, rtol=SAME, atol=SAME * self.scale)[targets].all()
        return self.stands(position, state) if never_sent else position

    def stands(self, position: Vector, state: npt.NDArray[np.floating]) -> Vector:
        """Return a position [A] with its targets where their joints are, [S], as far as these are known."""
        return np.where(self.absolute & (self.joints != NO_JOINT), state[self.joints], position)

    def action(self, position: Vector, step: Vector) -> Vector:
        """Return the action behind `position` [A] of what the network answers, [A] scaled."""
        change = step * self.scale
        return np.where(self.absolute, position + change, change)


def scale_of(changes: Vector) -> Vector:
    """Return the scale of changes [N, A]: the larger one of their 1st and 99th percentile, without sign.

    Where these say nothing it is the largest change, and 1 where there is none.
    """
    scale = np.abs(np.quantile(changes, (0.01, 0.99), axis=0)).max(axis=0)
    largest = np.abs(changes).max(axis=0)
    scale = np.where(scale > NEVER_MOVED * largest, scale, largest)
    return np.where(largest > 0.0, scale, 1.0)
