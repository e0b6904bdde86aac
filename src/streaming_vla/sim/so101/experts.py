"""Scripted experts of the SO-101's tasks. They see the whole scene and answer with joint targets for the next 1/30 s.

An expert has no memory: it is asked in every state that a policy or a disturbance gets the arm into, and finds its way
from all of them. It chooses where the tool should be in the end, takes a short step from where the arm will settle
towards it, and solves the inverse kinematics there. Lengths in metres, angles in radians.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from streaming_vla.sim.so101.kinematics import PAN_AXIS_X_M, ArmKinematics, HandPose
from streaming_vla.sim.so101.placement import HOME
from streaming_vla.sim.so101.scene import CUBE_HALF_M
from streaming_vla.sim.so101.tasks import Scene

Vector = npt.NDArray[np.float64]

OPEN, CLOSED, SHUT = 0.50, 0.05, -0.10  # of the gripper joint: for a cube to come in, around a cube, around nothing
FINGERTIPS = np.array((0.0, 0.0, -0.100))  # points of the hand's frame
GRASP = np.array((0.0120, 0.0, -0.097))  # beside the fixed jaw: the other one brings the cube to it
STEP_M = 0.2 / 30.0  # of the tool in one action: 0.2 m/s
_NEAR = 0.35  # of what is left of the way: the arm slows down before it is there
_STEP_RAD = 0.10  # of a joint in one action
_GRIPPER_STEP_RAD = 0.12
_LEAD_RAD = 0.12  # a setpoint so far ahead of its joint means that the arm is blocked or was pushed: start from there
_HIGH_M = 0.17  # of the tool: the arm never goes there by itself
_HOVER_M = 0.075  # of the tool above the table, clear of every cube
_LOW_M = 0.017


@dataclass(frozen=True)
class ArmState:
    """The arm's present, all [6] in rad with the gripper last.

    Args:
        joints: measured.
        setpoint: where the controller wants them.
        droop: how far they settle short of their setpoint under gravity.
    """

    joints: Vector
    setpoint: Vector
    droop: Vector

    @property
    def settled(self) -> Vector:
        """Where the five joints of the arm will come to rest, [5], if nobody moves the setpoint."""
        rest = self.setpoint[:5] - self.droop[:5]
        measured = self.joints[:5]
        return np.where(np.abs(rest - measured) < _LEAD_RAD, rest, measured)


@dataclass(frozen=True)
class Goal:
    """Where a point of the hand should be in the end, how the jaws lie, and what the gripper does.

    Args:
        place: of `tool`, [3].
        jaw_yaw: direction in which the jaws open, seen from above.
        gripper: target of the gripper's joint.
        tool: point of the hand, [3] in its frame.
        step: longest way of the tool in one action.
    """

    place: Vector
    jaw_yaw: float
    gripper: float
    tool: Vector
    step: float = STEP_M


class Expert(ABC):
    """What knows the way in one task."""

    def __init__(self) -> None:
        self._arm = ArmKinematics()

    def act(self, arm: ArmState, scene: Scene) -> Vector:
        """Return the joint targets for the next action, [6]."""
        goal = self._goal(arm, scene)
        settled = arm.settled
        here = self._arm.tool(settled, goal.tool)
        way = goal.place - here
        length = float(np.linalg.norm(way))
        step = way * (min(goal.step, _NEAR * length) / max(length, 1e-9))
        place = here + step
        if here[2] > _HIGH_M:  # up there the wrist has no range left for short steps: turn joints towards the end
            place = goal.place
            start = np.array((-np.arctan2(place[1], place[0] - PAN_AXIS_X_M), *HOME[1:5]))  # pan turns clockwise
        else:
            start = settled
        joints = self._arm.solve(HandPose(place, _tilt(place), goal.jaw_yaw, goal.tool), start)
        change = joints - settled
        change *= min(1.0, _STEP_RAD / max(float(np.abs(change).max()), 1e-9))
        gripper = arm.setpoint[5] + np.clip(goal.gripper - arm.setpoint[5], -_GRIPPER_STEP_RAD, _GRIPPER_STEP_RAD)
        return np.append(settled + change + arm.droop[:5], gripper)

    @abstractmethod
    def _goal(self, arm: ArmState, scene: Scene) -> Goal:
        """Return where to go now."""


class TouchExpert(Expert):
    """Goes above the named cube with shut jaws, and down on it."""

    def _goal(self, arm: ArmState, scene: Scene) -> Goal:
        cube = scene.cubes[scene.target]
        here = self._arm.tool(arm.settled, FINGERTIPS)
        height = cube[2] + CUBE_HALF_M
        return Goal(_funnel(here, cube, height), _across(cube), SHUT, FINGERTIPS)


class PushExpert(Expert):
    """Comes down behind the named cube, seen from the square, and pushes it there with both fingertips."""

    _BEHIND_M = 0.045
    _CONTACT_M = 0.021  # of the fingertips from the cube's middle
    _ASIDE_M = 0.012
    _RAISED_M = 0.035
    _THERE_M = 0.008
    _STEP_M = 0.12 / 30.0
    _GRIPPER = 0.0  # jaws apart by half a cube: a face lies on two fingertips and turns no more

    def _goal(self, arm: ArmState, scene: Scene) -> Goal:
        cube = scene.cubes[scene.target][:2]
        here = self._arm.tool(arm.settled, FINGERTIPS)
        way = scene.square - cube
        length = float(np.linalg.norm(way))
        if length < self._THERE_M:
            return Goal(_raise(here), _across(here), self._GRIPPER, FINGERTIPS)
        along = way / length
        jaw_yaw = float(np.arctan2(along[1], along[0])) + np.pi / 2
        ahead = (here[:2] - cube) @ along
        across = np.array((-along[1], along[0]))
        aside = abs((here[:2] - cube) @ across)
        if here[2] < self._RAISED_M and aside < self._ASIDE_M and -2 * self._BEHIND_M < ahead < 0.0:
            end = scene.square - along * self._CONTACT_M
            forward, sideways = max(0.0, float((end - here[:2]) @ along)), float((cube - here[:2]) @ across)
            place = here[:2] + forward * along + sideways * across
            return Goal(np.append(place, _LOW_M), jaw_yaw, self._GRIPPER, FINGERTIPS, self._STEP_M)
        behind = cube - along * self._BEHIND_M
        return Goal(_funnel(here, behind, _LOW_M), jaw_yaw, self._GRIPPER, FINGERTIPS)


class PickExpert(Expert):
    """Comes down around the named cube with open jaws, shuts them, and lifts."""

    _LIFT_M = 0.095
    _OPENED = 0.35
    _IN_M = np.array((0.014, 0.010, 0.012))  # of the cube's middle from GRASP in the frame of the hand

    def _goal(self, arm: ArmState, scene: Scene) -> Goal:
        cube = scene.cubes[scene.target]
        jaw_yaw = _grasp_yaw(cube, scene.axes)
        origin, frame = self._arm.hand(arm.joints[:5])
        inside = bool((np.abs((cube - origin) @ frame - GRASP) < self._IN_M).all())
        here = self._arm.tool(arm.settled, GRASP)
        if scene.target in scene.held and inside:
            return Goal(np.array((here[0], here[1], self._LIFT_M)), _yaw(frame), CLOSED, GRASP, STEP_M / 2)
        if inside:
            return Goal(here, _yaw(frame), CLOSED, GRASP)
        goal = _funnel(here, cube, cube[2])
        if arm.joints[5] < self._OPENED:
            goal[2] = max(goal[2], _HOVER_M)
        return Goal(goal, jaw_yaw, OPEN, GRASP)


EXPERTS: dict[str, type[Expert]] = {"touch": TouchExpert, "push": PushExpert, "pick": PickExpert}


def make_expert(task: str) -> Expert:
    """Return the expert of `task`."""
    return EXPERTS[task]()


def _tilt(place: Vector) -> float:
    """Return how far the fingers lean outwards at `place`: as little as the wrist's range allows there."""
    radius = float(np.hypot(place[0] - PAN_AXIS_X_M, place[1]))
    return max(0.0, 5.0 * (radius - 0.25)) + max(0.0, 4.0 * (float(place[2]) - 0.04))


def _across(place: Vector) -> float:
    """Return the direction that is level and across the arm at `place`."""
    return float(np.arctan2(place[1], place[0] - PAN_AXIS_X_M)) + np.pi / 2


def _yaw(frame: Vector) -> float:
    return float(np.arctan2(frame[1, 0], frame[0, 0]))


def _grasp_yaw(cube: Vector, axes: Vector) -> float:
    """Return the direction of two faces of a cube that is nearest to the one across the arm."""
    level = axes[:, np.argmin(np.abs(axes[2]))]  # an edge that lies flat, whichever face is up
    across = _across(cube)
    quarter = np.pi / 2
    turns = (np.arctan2(level[1], level[0]) - across + quarter / 2) % quarter - quarter / 2
    return float(across + turns)


def _funnel(here: Vector, target: Vector, height: float) -> Vector:
    """Return the place to go to on the way to `target` [2 or more] at `height`: above everything, then down on it."""
    aside = float(np.hypot(*(target[:2] - here[:2])))
    level = height + 2.0 * max(0.0, aside - 0.006)
    if here[2] < min(level, _HOVER_M) - 0.02:
        return _raise(here)
    return np.array((target[0], target[1], min(level, max(_HOVER_M, height))))


def _raise(here: Vector) -> Vector:
    return np.array((here[0], here[1], _HOVER_M))
