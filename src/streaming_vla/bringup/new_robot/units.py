"""In which units a policy says joint positions: radians, degrees, or LeRobot's -100 to 100 of a joint's range."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from streaming_vla.bringup.new_robot.asking import Ask, choose
from streaming_vla.bringup.new_robot.facts import PolicyFacts, Range, RobotFacts, UnclearError
from streaming_vla.bringup.new_robot.joints import is_gripper

RADIANS, DEGREES, RANGE = "radians", "degrees", "range"
CHOICES = (RADIANS, DEGREES, RANGE)
LARGEST_RADIANS = 2.5 * math.pi  # no arm turns a joint further, and no degrees are that few
FULL = 100.0  # of a range, as LeRobot says it
NEARLY = 1.005


@dataclass(frozen=True)
class UnitChoice:
    """How joint positions of the robot (rad, m) and numbers of the policy belong together.

    Args:
        scale, offset: robot = policy * scale + offset, of each joint.
        why: what says so.
        guessed: the values of the training data do.
    """

    kind: str
    scale: tuple[float, ...]
    offset: tuple[float, ...]
    why: str
    guessed: bool


def choose_units(
    policy: PolicyFacts, joints: Sequence[str], robot: RobotFacts, said: str | None, ask: Ask | None
) -> UnitChoice:
    """Return the units of the policy's joints.

    Args:
        joints: of each action dimension.
        said: one of CHOICES, as the user has said it; None: nothing is said.
        ask: see `choose`.

    Raises:
        UnclearError: it is not clear, or the range of a joint is not known.
    """
    kind, why, guessed = _kind(policy, joints, said, ask)
    pairs = [_pair(kind, policy.data_range(index), joint, robot.ranges) for index, joint in enumerate(joints)]
    return UnitChoice(kind, tuple(scale for scale, _ in pairs), tuple(offset for _, offset in pairs), why, guessed)


def _kind(policy: PolicyFacts, joints: Sequence[str], said: str | None, ask: Ask | None) -> tuple[str, str, bool]:
    if said is not None:
        if said not in CHOICES:
            raise UnclearError(f"--units is '{said}', expected one of {', '.join(CHOICES)}")
        return said, "as --units says", False
    told = {unit.lower() for unit in policy.action_units if unit}
    for names, kind in (({"rad", "radian", "radians", "rad or m"}, RADIANS), ({"deg", "degree", "degrees"}, DEGREES)):
        if told & names:
            return kind, f"{policy.source} says so", False
    targets = [index for index, absolute in enumerate(policy.spec.layout.absolute) if absolute]
    ranges = [policy.data_range(index) for index in targets if not is_gripper(joints[index])]
    told_by = [found for found in ranges if found is not None]
    if not told_by:
        why = "No statistics tell their range" if ranges else "Its actions are changes, and do not tell"
        question = f"In which units are the policy's joints? {why}."
        return choose(question, CHOICES, "--units degrees", ask), "as it was answered", False
    largest = max(max(map(abs, found)) for found in told_by)
    seen = f"the training data go up to {largest:.4g}"
    if largest <= LARGEST_RADIANS:
        return RADIANS, seen, True
    if largest > FULL * NEARLY:
        return DEGREES, seen, True
    question = f"The policy's joints go up to {largest:.4g}: are they degrees, or -100 to 100 of each joint's range?"
    return choose(question, (DEGREES, RANGE), "--units degrees or --units range", ask), "as it was answered", False


def _pair(kind: str, data: Range | None, joint: str, ranges: Mapping[str, Range]) -> tuple[float, float]:
    """Return scale and offset of a joint."""
    if kind == RADIANS:
        return 1.0, 0.0
    # LeRobot's gripper: 0 to 100
    share = is_gripper(joint) and (data is None or (data[0] >= -NEARLY and data[1] <= FULL * NEARLY))
    if kind == DEGREES and not share:
        return math.pi / 180.0, 0.0
    if joint not in ranges:
        raise UnclearError(
            f"the range of joint '{joint}' is not known, no robot_description tells it: give it in rad or m with "
            f"--joint-range {joint}=LOW:HIGH"
        )
    low, high = ranges[joint]
    return ((high - low) / FULL, low) if share else ((high - low) / (2.0 * FULL), (high + low) / 2.0)
