"""Parameters of a running node over the parameter services, as `ros2 param` uses them."""

from __future__ import annotations

from typing import Any

import pytest
from rcl_interfaces.msg import Parameter as WireParameter
from rcl_interfaces.msg import ParameterValue
from rcl_interfaces.srv import DescribeParameters, GetParameters, SetParameters, SetParametersAtomically
from rclpy.parameter import Parameter
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray
from streaming_vla_interfaces.msg import Action, Episode, ExecutionState

from streaming_vla.machines.executor_options import ExecutorOptions
from streaming_vla.ros.base import LATCHED

pytestmark = pytest.mark.ros
TEXTS = [name for name, option in ExecutorOptions.declared.items() if option.element_type is str]


@pytest.fixture(scope="module")
def executor(suite: Any, probe: Any) -> Any:
    suite.start("executor", lead_actions=2)
    probe.wait_for_nodes("executor")
    return probe


def put(probe: Any, name: str, value: Any) -> Any:
    parameters = [Parameter(name, value=value).to_parameter_msg()]
    return probe.call(SetParameters, "/executor/set_parameters", parameters=parameters).results[0]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hold_s", 3.5),
        ("hold_s", 2),
        ("start_actions", 2),
        ("jump_limit", [1.0, 1.0, 1.0, 2.0]),
        ("jump_limit", [1, 1, 1, 2]),
    ],
)
def test_a_live_parameter_is_taken(executor: Any, name: str, value: Any) -> None:
    assert put(executor, name, value).successful
    got = executor.call(GetParameters, "/executor/get_parameters", names=[name]).values[0]
    assert Parameter.from_parameter_msg(_named(name, got)).value == pytest.approx(value)


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("hold_s", -1.0, "out of range"),
        ("jump_limit", [float("nan")] * 4, "expected a list, each a number from 0.001"),
        ("hold_s", "long", "Wrong parameter type"),
        ("start_actions", 65, "out of range"),
        ("start_actions", 3, "start_actions is 3, but the generator sends only"),
        ("velocity_limit", [-1.0, 1.0, 1.0, 1.0], "expected a list, each a number from 0.001 to 1000000"),
        ("velocity_limit", [1.0], "velocity_limit has 1 values, expected one for each of"),
        ("command_type", "twist", "read-only"),
        ("hold", 1.0, "there is no parameter 'hold' (did you mean 'hold_s'?)"),
        ("self", 1.0, "there is no parameter 'self'"),
        ("lead_actions", 3, "read-only"),
        ("control_period_s", 0.1, "read-only"),
    ],
)
def test_what_is_not_allowed_is_refused_with_a_reason(executor: Any, name: str, value: Any, reason: str) -> None:
    result = put(executor, name, value)
    assert not result.successful
    assert reason in result.reason


@pytest.mark.parametrize("name", ExecutorOptions.declared)
def test_no_value_of_any_type_ends_the_node(executor: Any, name: str) -> None:
    arrays = ("byte_array", "bool_array", "integer_array", "double_array", "string_array")
    empty = [ParameterValue(type=5 + place) for place, _ in enumerate(arrays)]
    wrong = [
        ParameterValue(type=4, string_value="wrong") if name not in TEXTS else ParameterValue(type=1, bool_value=True),
        ParameterValue(type=9, string_array_value=["wrong"]),
        ParameterValue(type=0),
        ParameterValue(type=3, double_value=float("nan")),
    ]
    messages = [WireParameter(name=name, value=value) for value in (*empty, *wrong)]
    results = executor.call(SetParameters, "/executor/set_parameters", parameters=messages).results
    assert not any(result.successful for result in results)
    assert all(result.reason for result in results)


def test_a_refused_value_changes_nothing(executor: Any) -> None:
    put(executor, "hold_s", 4.0)
    put(executor, "hold_s", 1e9)
    assert executor.call(GetParameters, "/executor/get_parameters", names=["hold_s"]).values[0].double_value == 4.0


def test_a_change_that_is_refused_for_one_value_puts_none_of_them_in_force(executor: Any) -> None:
    assert put(executor, "start_actions", 1).successful
    changes = {"start_actions": 2, "maximum_lead": [1.0]}
    parameters = [Parameter(name, value=value).to_parameter_msg() for name, value in changes.items()]
    name = "/executor/set_parameters_atomically"
    result = executor.call(SetParametersAtomically, name, parameters=parameters).result
    assert not result.successful and "maximum_lead has 1 values, expected one for each of dx" in result.reason
    commands = executor.record(Float64MultiArray, "command")
    joints, actions = executor.publisher(JointState, "joint_states"), executor.publisher(Action, "action", 50)
    executor.publisher(Episode, "episode", LATCHED).publish(Episode(session="/", number=1, active=True))
    executor.spin(0.2)
    joints.publish(JointState(name=["joint"], position=[0.0]))
    actions.publish(Action(session="/", episode=1, context=0, index=0, values=[0.001, 0.0, 0.0, 0.0]))
    executor.wait(lambda: commands, "one action does not begin the motion: start_actions is 2")


def test_parameters_describe_themselves(executor: Any) -> None:
    hold, kind = executor.call(
        DescribeParameters, "/executor/describe_parameters", names=["hold_s", "command_type"]
    ).descriptors
    assert hold.description.endswith("[s]") and not hold.read_only
    assert (hold.floating_point_range[0].from_value, hold.floating_point_range[0].to_value) == (0.0, 600.0)
    assert kind.read_only and "one of array, twist, trajectory, joints" in kind.additional_constraints


def _named(name: str, value: Any) -> Any:
    message = Parameter(name, value=0).to_parameter_msg()
    message.value = value
    return message


def test_what_protects_the_robot_stays_as_it_is_while_an_episode_runs(executor: Any) -> None:
    episodes, states = (
        executor.publisher(Episode, "episode", LATCHED),
        executor.record(ExecutionState, "execution_state"),
    )
    for number in (1, 2):
        episodes.publish(Episode(session="/", number=number, active=False))
    executor.wait(lambda: states and states[-1][1].mode == ExecutionState.MODE_IDLE, "an episode runs")
    values = ExecutorOptions().values()
    guards = {name: values[name] for name, option in ExecutorOptions.declared.items() if option.guards}
    assert set(guards) == {"maximum_lead", "velocity_limit", "jump_limit", "max_action_age_s", "robot_timeout_s"}
    for name, value in guards.items():
        assert put(executor, name, value).successful
    for active in (True, False):
        episodes.publish(Episode(session="/", number=3, active=active))
        mode = ExecutionState.MODE_WAITING if active else ExecutionState.MODE_IDLE
        executor.wait(
            lambda mode=mode: states and (states[-1][1].episode, states[-1][1].mode) == (3, mode), "not heard"
        )
        for name, value in guards.items():
            other = [2 * number for number in value] if isinstance(value, tuple) else 2 * value
            result = put(executor, name, other)
            assert result.successful is not active
            told = f"{name} cannot change while an episode runs, for it protects the robot: call stop_episode first"
            assert result.reason == (told if active else "")
            assert put(executor, name, other if not active else value).successful, "what it is already may be set"
        assert put(executor, "hold_s", 3.0).successful
