"""Everything that has to be chosen for a robot's parameter file: by names, by what the user says, or by asking."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

from streaming_vla.bringup.new_robot.asking import Ask, choose
from streaming_vla.bringup.new_robot.cameras import CameraChoice, choose_cameras
from streaming_vla.bringup.new_robot.commands import OF_JOINTS, CommandChoice, choose_command
from streaming_vla.bringup.new_robot.facts import PolicyFacts, Range, RobotFacts, UnclearError
from streaming_vla.bringup.new_robot.joints import StateChoice, choose_state
from streaming_vla.bringup.new_robot.units import UnitChoice, choose_units

USUAL_RATE = 30.0  # actions per second; what lerobot records with where nobody says otherwise
SLOWEST, FASTEST = 1.0, 200.0  # actions per second
Chosen = TypeVar("Chosen")


@dataclass(frozen=True)
class Said:
    """What the user has said in options of the command.

    Args:
        cameras: topic by camera.
        joints: in the policy's order; empty: nothing is said.
        ranges: of joints, rad or m.
        fps: actions per second.
    """

    cameras: Mapping[str, str] = field(default_factory=dict)
    joints: tuple[str, ...] = ()
    state_topic: str | None = None
    command: str | None = None
    units: str | None = None
    ranges: Mapping[str, Range] = field(default_factory=dict)
    fps: float | None = None


@dataclass(frozen=True)
class RateChoice:
    """How many actions a second."""

    fps: float
    why: str
    guessed: bool


@dataclass(frozen=True)
class Choices:
    """What was chosen.

    Args:
        units: of the joints; None: the state is no joints.
    """

    rate: RateChoice
    cameras: tuple[CameraChoice, ...]
    state: StateChoice
    command: CommandChoice
    units: UnitChoice | None


def make_choices(policy: PolicyFacts, robot: RobotFacts, said: Said, ask: Ask | None = None) -> Choices:
    """Return what the file says.

    Args:
        ask: asks where something is not clear; None: nobody is there.

    Raises:
        UnclearError: something is not clear and nobody is there, or what is said does not fit; a line for each.
    """
    unclear: list[str] = []

    def attempt(choose_one: Callable[[], Chosen]) -> Chosen | None:
        try:
            return choose_one()
        except UnclearError as error:
            unclear.append(str(error))
            return None

    known = replace(robot, ranges={**robot.ranges, **said.ranges})
    rate = attempt(lambda: _rate(policy, said, ask))
    cameras = attempt(lambda: choose_cameras(policy.spec.cameras, known, said.cameras, ask))
    state = attempt(lambda: choose_state(policy, known, said.joints, said.state_topic, ask))
    if state is None:
        raise UnclearError("\n".join(unclear))
    joints = state.action_joints
    command = attempt(lambda: choose_command(policy, joints, known, said.command, ask))
    if command is not None and command.kind in OF_JOINTS and not joints:
        unclear.append("The joint of each action is not known: give the data set with --data, or another --command")
    units = attempt(lambda: choose_units(policy, joints, known, said.units, ask)) if joints else None
    if state.joints and not set(state.joints) <= set(joints):
        odd = ", ".join(joint for joint in state.joints if joint not in joints)
        unclear.append(f"Nothing tells the units of joint {odd} of the state: no action is about it")
    if unclear:
        raise UnclearError("\n".join(unclear))
    assert rate and cameras and command, "else something is unclear"
    return Choices(rate, tuple(cameras), state, command, units)


def _rate(policy: PolicyFacts, said: Said, ask: Ask | None) -> RateChoice:
    if said.fps is not None:
        found = RateChoice(said.fps, "as --fps says", False)
    elif policy.rate is not None:
        found = RateChoice(
            policy.rate, f"{policy.rate:g} actions a second: {policy.source or 'the policy says so'}", False
        )
    elif ask is not None:
        text = choose("How many actions a second was the policy trained with?", (), "--fps 30", ask)
        try:
            found = RateChoice(float(text), "as it was answered", False)
        except ValueError as error:
            raise UnclearError(f"'{text}' is no number of actions a second: say it with --fps 30") from error
    else:
        why = f"{USUAL_RATE:g} actions a second, as lerobot records by default; a wrong one changes the robot's speed"
        found = RateChoice(USUAL_RATE, why, True)
    if not SLOWEST <= found.fps <= FASTEST:
        raise UnclearError(f"{found.fps:g} actions a second, expected {SLOWEST:g} to {FASTEST:g}: say it with --fps 30")
    return found
