"""Scripted experts: Meta-World's own, and ours for the tasks in which its expert teaches what does not work.

An expert is asked in every state that a policy gets into, so it must find its way from all of them:

- reach: Meta-World's expert brings the hand's wrist to the goal, success is measured 4.5 cm below it, between the
  fingers, with a tolerance of 5 cm. It succeeds in passing; a policy that stops a little beside its rest fails.
- push and pick-place: Meta-World's experts move on before the fingers hold the puck; disturbed, they fail in 6 and 9 of
  40 scenes, ours in none and 1.
- peg-insert-side: Meta-World's expert lifts and aligns at loose thresholds; disturbed, it fails in 11 of 40, ours in 1.

Places in an observation of Meta-World 3.1: hand [0:3], finger opening [3], object [4:7], goal [36:39], in metres.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

OPEN, CLOSE = -1.0, 0.6  # gripper effort
FINGERS_BELOW_HAND_M = 0.045
_GAIN_PER_M = 10.0


class Expert(Protocol):
    """What acts on Meta-World's whole observation."""

    def get_action(self, observation: Array) -> npt.NDArray[Any]:
        """Return the action, [4]; the hand's part may exceed [-1, 1]."""


class ReachExpert:
    """Brings the place between the fingers to the goal."""

    def get_action(self, observation: Array) -> Array:
        """Return the action, [4]."""
        return _towards(observation, _above(observation[36:39], FINGERS_BELOW_HAND_M), 0.0)


class CarryExpert:
    """Goes above the puck, down, closes the fingers on it, and takes it to the goal once it is held."""

    _OFFSET_M = np.array((-0.005, 0.0, 0.0))  # of the puck's middle from its place in the observation
    _ABOVE_M, _GRASP_M = 0.12, 0.03
    _ASIDE_M, _HIGH_M = 0.02, 0.07
    _HELD = 0.6  # finger opening

    def get_action(self, observation: Array) -> Array:
        """Return the action, [4]."""
        hand, puck = observation[:3], observation[4:7] + self._OFFSET_M
        aside, high = np.linalg.norm(hand[:2] - puck[:2]), abs(hand[2] - puck[2])
        if aside > self._ASIDE_M:
            return _towards(observation, _above(puck, self._ABOVE_M), OPEN)
        if high > self._HIGH_M:
            return _towards(observation, _above(puck, self._GRASP_M), OPEN)
        if observation[3] > self._HELD:
            return _towards(observation, _above(puck, self._GRASP_M), CLOSE)
        return _towards(observation, _above(observation[36:39], self._GRASP_M), CLOSE)


class PegExpert:
    """Grasps the peg, lifts it until it points at the hole, and pushes it in."""

    _ABOVE_M = 0.1
    _ASIDE_M, _LOST_M, _HIGH_M = 0.02, 0.04, 0.03
    _HELD = 0.45  # finger opening
    _ALIGNED_M = 0.015
    _BEFORE_M = np.array((0.4, 0.0, 0.0))  # of the place to align at, from the end of the way
    _ACROSS = np.array((0.0, 1.0, 1.0))  # the axes that are not the way's
    _DEPTH_M = -0.35  # x of the end of the way
    _INSIDE_M = -0.2  # x from which the hole itself guides the peg

    def get_action(self, observation: Array) -> Array:
        """Return the action, [4]."""
        hand, peg, goal = observation[:3], observation[4:7], observation[36:39]
        aside, high = np.linalg.norm(hand[:2] - peg[:2]), abs(hand[2] - peg[2])
        if aside > self._LOST_M or (aside > self._ASIDE_M and high > 2 * self._HIGH_M):
            above = _above(peg, self._ABOVE_M)
            return _towards(observation, above, OPEN)
        if observation[3] > self._HELD:
            return _towards(observation, peg, OPEN if high > 2 * self._HIGH_M else CLOSE)
        end = np.array([self._DEPTH_M, goal[1], goal[2]]) + (hand - peg) * self._ACROSS
        aligned = np.linalg.norm(peg[1:] - goal[1:]) <= self._ALIGNED_M
        return _towards(observation, end if aligned or peg[0] < self._INSIDE_M else end + self._BEFORE_M, CLOSE)


_OWN: dict[str, type[Expert]] = {
    "reach-v3": ReachExpert,
    "push-v3": CarryExpert,
    "pick-place-v3": CarryExpert,
    "peg-insert-side-v3": PegExpert,
}


def make_expert(environment: str) -> Expert:
    """Return the expert of a Meta-World environment such as "reach-v3"."""
    if environment in _OWN:
        return _OWN[environment]()
    from metaworld.policies import ENV_POLICY_MAP

    expert: Expert = ENV_POLICY_MAP[environment]()
    return expert


def _above(place: Array, height_m: float) -> Array:
    x, y, z = place
    return np.array((x, y, z + height_m))


def _towards(observation: Array, place: Array, effort: float) -> Array:
    return np.append(_GAIN_PER_M * (place - observation[:3]), effort)
