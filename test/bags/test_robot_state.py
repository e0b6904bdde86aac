"""The robot's state from messages: of the live robot and of a bag alike, and what is wrong with one is said."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from making import BEGIN_NS, floats, header, make

from streaming_vla.commands.robot_state import ARRAY, JOINTS, TYPES, StateReader
from streaming_vla.commands.units import Units
from streaming_vla.options.shared import RobotStateOptions


def joint_state(names: list[str], positions: list[float]) -> Any:
    """Return a JointState as it is read from a bag."""
    numbers = {"position": np.array(positions), "velocity": np.zeros(0), "effort": np.zeros(0)}
    return make(JOINTS, header=header(BEGIN_NS), name=names, **numbers)


def test_numbers_are_the_state() -> None:
    state = StateReader(ARRAY)(floats([0.0, 0.5, 1.0]))
    assert state.dtype == np.float64 and state.tolist() == [0.0, 0.5, 1.0]


def test_positions_come_in_the_order_that_is_asked_for() -> None:
    read = StateReader(JOINTS, ("wrist", "elbow"))
    assert read(joint_state(["elbow", "finger", "wrist"], [0.5, 9.0, 0.25])).tolist() == [0.25, 0.5]
    live = SimpleNamespace(name=["wrist", "elbow"], position=[1.0, 2.0])
    assert read(live).tolist() == [1.0, 2.0]


def test_without_names_the_first_message_sets_the_order() -> None:
    read = StateReader(JOINTS)
    with pytest.raises(ValueError, match="joint b at inf"):
        read(joint_state(["b", "a"], [np.inf, 0.0]))
    assert read(joint_state(["a", "b"], [1.0, 2.0])).tolist() == [1.0, 2.0]
    assert read(joint_state(["b", "a"], [4.0, 3.0])).tolist() == [3.0, 4.0]
    with pytest.raises(ValueError, match="joint a, b is not among finger: correct the observer's robot_state_joints"):
        read(joint_state(["finger"], [0.0]))


@pytest.mark.parametrize(
    ("names", "positions", "sentence"),
    [
        (["a"], [1.0], "joint b is not among a: correct the observer's robot_state_joints, or let one message hold"),
        (["a", "b"], [1.0], "1 positions for 2 joints, expected a position for every joint"),
        ([], [], "0 positions for 0 joints"),
        (["a", "b"], [1.0, np.nan], "joint b at nan, expected finite positions"),
        (["a", "b", "a"], [1.0, 2.0, 3.0], "a joint is named twice among a, b, a"),
    ],
)
def test_a_bad_message_is_refused(names: list[str], positions: list[float], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        StateReader(JOINTS, ("a", "b"))(joint_state(names, positions))


@pytest.mark.parametrize("message", [floats([1.0, 2.0]), joint_state(["a", "b"], [1.0, 2.0])], ids=TYPES)
def test_a_state_of_another_size_is_refused(message: Any) -> None:
    kind = ARRAY if hasattr(message, "data") else JOINTS
    assert StateReader(kind, size=2)(message).tolist() == [1.0, 2.0]
    with pytest.raises(ValueError, match="the state has 2 numbers, the policy needs 4: set the observer's"):
        StateReader(kind, size=4)(message)


def test_a_state_is_told_in_the_units_of_the_policy() -> None:
    degrees = Units((np.pi / 180.0,))
    assert StateReader(JOINTS, ("a", "b"), units=degrees)(joint_state(["b", "a"], [np.pi, 0.0])).tolist() == [
        0.0,
        180.0,
    ]
    shares = Units((0.01, 0.02), (0.5, 0.0))  # of a range from -100 to 100
    assert StateReader(ARRAY, units=shares)(floats([1.5, -2.0])).tolist() == [100.0, -100.0]
    with pytest.raises(ValueError, match="1 numbers, but scale and offset are given for 2"):
        StateReader(ARRAY, units=shares)(floats([1.5]))


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"robot_state_scale": (1.0, 0.0)}, "no entry may be 0"),
        ({"robot_state_scale": (1.0, 2.0), "robot_state_offset": (0.0,) * 3}, "has 2 and robot_state_offset 3 entries"),
        (
            {"robot_state_offset": (0.0,) * 3, "robot_state_joints": ("a", "b"), "robot_state_type": JOINTS},
            "one for all or one for each number of the state, 2 joints",
        ),
    ],
)
def test_units_that_do_not_fit_are_refused(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        RobotStateOptions(**given)


def test_parameters_name_the_joints() -> None:
    options = RobotStateOptions()
    assert options.declared["robot_state_type"].choices == TYPES and options.robot_state_type == ARRAY
    assert options.state_joints == ()
    named = options.changed(robot_state_type=JOINTS, robot_state_joints=("a", "b"))
    assert named.state_joints == ("a", "b")
    for joints in (("a", "a"), ("a", "")):
        with pytest.raises(ValueError, match="expected the name of every joint once"):
            named.changed(robot_state_joints=joints)
    with pytest.raises(ValueError, match="robot_state_joints names a, b, but robot_state_type is std_msgs"):
        named.changed(robot_state_type=ARRAY)
