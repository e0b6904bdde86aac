"""Where the SO-101's hand is, and the joint angles that bring it somewhere: damped least squares.

Own lines and no library: `mink`, the kept one, needs mujoco 3.10, and metaworld pins 3.3. Nor is a solver with
constraints needed: five joints meet five demands (place, tilt, direction of the jaws), and limits are met by clipping.

Frame of the hand: the fingers point to -z and open along x. All angles in radians, all lengths in metres.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from streaming_vla.sim.so101.arm import ARM_JOINTS, HAND_BODY
from streaming_vla.sim.so101.scene import scene_model

Vector = npt.NDArray[np.float64]

PAN_AXIS_X_M = 0.0388  # of the vertical axis of shoulder_pan
_ITERATIONS = 12
_DAMPING = 1e-5  # added to the diagonal of the normal equations
_AXIS_WEIGHT_M = 0.03  # a radian of wrong direction counts as much as so many metres of wrong place
_STEP_RAD = 0.3  # largest change of a joint in one iteration: beyond it the linearisation says nothing
_CONVERGED_RAD = 1e-5


@dataclass(frozen=True)
class HandPose:
    """Where the hand should be.

    Args:
        place: of `tool`, x, y, z [3] in the world.
        tilt: of the fingers from straight down, outwards, away from the base.
        jaw_yaw: direction in which the jaws open, seen from above; half a turn is the same.
        tool: the point of the hand that is brought to `place`, [3] in its frame.
    """

    place: Vector
    tilt: float
    jaw_yaw: float
    tool: Vector


class ArmKinematics:
    """Forward and inverse kinematics of the five joints that carry the hand."""

    def __init__(self) -> None:
        import mujoco

        self._mujoco: Any = mujoco
        self._model = scene_model()
        self._data = mujoco.MjData(self._model)
        self._hand = self._model.body(HAND_BODY).id
        joints = [self._model.joint(name) for name in ARM_JOINTS]
        self._low, self._high = np.array([joint.range for joint in joints]).T
        self._jacobian = np.zeros((2, 3, self._model.nv))

    def hand(self, joints: Vector) -> tuple[Vector, Vector]:
        """Return origin [3] and axes [3, 3] (columns) of the hand for the arm's joints, [5]."""
        self._data.qpos[: len(ARM_JOINTS)] = joints
        self._mujoco.mj_kinematics(self._model, self._data)
        return self._data.xpos[self._hand].copy(), self._data.xmat[self._hand].reshape(3, 3).copy()

    def tool(self, joints: Vector, tool: Vector) -> Vector:
        """Return where the point `tool` [3] of the hand is, [3] in the world."""
        origin, axes = self.hand(joints)
        return origin + axes @ tool

    def solve(self, pose: HandPose, start: Vector) -> Vector:
        """Return joints [5] within their limits that bring the hand as near to `pose` as they can, from `start` [5].

        Damped least squares (Wampler 1986) on the error of the place and of two directions of the hand.
        """
        joints = np.clip(start, self._low, self._high)
        outward = np.arctan2(pose.place[1], pose.place[0] - PAN_AXIS_X_M)
        down = np.array((np.cos(outward) * np.sin(pose.tilt), np.sin(outward) * np.sin(pose.tilt), -np.cos(pose.tilt)))
        opening = np.array((np.cos(pose.jaw_yaw), np.sin(pose.jaw_yaw), 0.0))
        opening -= (opening @ down) * down
        opening /= np.linalg.norm(opening)
        if opening @ self.hand(joints)[1][:, 0] < 0.0:
            opening = -opening
        for _ in range(_ITERATIONS):
            change = self._step(joints, pose, down, opening)
            joints = np.clip(joints + change, self._low, self._high)
            if np.abs(change).max() < _CONVERGED_RAD:
                break
        return joints

    def _step(self, joints: Vector, pose: HandPose, down: Vector, opening: Vector) -> Vector:
        origin, axes = self.hand(joints)
        place = origin + axes @ pose.tool
        moves, turns = self._jacobian
        self._mujoco.mj_comPos(self._model, self._data)  # the Jacobian needs it
        self._mujoco.mj_jac(self._model, self._data, moves, turns, place, self._hand)
        rotation = turns[:, : len(joints)]
        fingers, jaws = -axes[:, 2], axes[:, 0]
        # d(axis)/dt = angular velocity x axis
        rows = (
            moves[:, : len(joints)],
            -_AXIS_WEIGHT_M * _cross_matrix(fingers) @ rotation,
            -_AXIS_WEIGHT_M * _cross_matrix(jaws) @ rotation,
        )
        error = np.concatenate(
            (pose.place - place, _AXIS_WEIGHT_M * (down - fingers), _AXIS_WEIGHT_M * (opening - jaws))
        )
        matrix = np.concatenate(rows)
        change = np.linalg.solve(matrix.T @ matrix + _DAMPING * np.eye(len(joints)), matrix.T @ error)
        return np.clip(change, -_STEP_RAD, _STEP_RAD)


def _cross_matrix(vector: Vector) -> Vector:
    """Return the matrix [3, 3] that is the cross product of `vector` with what it is multiplied by."""
    x, y, z = vector
    return np.array(((0.0, -z, y), (z, 0.0, -x), (-y, x, 0.0)))
