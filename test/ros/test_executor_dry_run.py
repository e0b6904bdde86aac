"""The executor process in a dry run: every command is computed and shown, none can reach the robot."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.srv import SetParameters
from rclpy.parameter import Parameter
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray
from streaming_vla_interfaces.msg import Action, Episode, ExecutionState

from streaming_vla.ros.base import LATCHED

pytestmark = pytest.mark.ros
ARM = ("shoulder", "elbow", "wrist")
PERIOD_S = 0.05
ACTIONS = 10


@pytest.fixture(scope="module")
def executor(suite: Any, probe: Any) -> Iterator[Any]:
    """An executor in a dry run, of an arm and a gripper with a controller of its own."""
    suite.start("executor", command_type="joints", joint_names=[*ARM, ""], control_period_s=PERIOD_S, dry_run=True,
                command_topic="/arm/commands", robot_timeout_s=8 * PERIOD_S, hold_s=4 * PERIOD_S,
                decelerate_s=4 * PERIOD_S, max_action_age_s=60 * PERIOD_S)  # fmt: skip
    probe.wait_for_nodes("executor")
    yield suite


def test_nothing_is_ever_published_on_command(executor: Any, probe: Any) -> None:
    moved = [
        probe.record(JointState, "/arm/commands"),
        probe.record(JointState, "command"),
        probe.record(Float64MultiArray, "gripper_command"),
    ]
    shown = probe.record(JointState, "command_preview")
    gripper = probe.record(Float64MultiArray, "gripper_command_preview")
    states = probe.record(ExecutionState, "execution_state")
    episodes = probe.publisher(Episode, "episode", LATCHED)
    actions, joints = probe.publisher(Action, "action", 50), probe.publisher(JointState, "joint_states")
    episodes.publish(Episode(session="/", number=1, active=True, instruction="test"))
    probe.wait(lambda: states and states[-1][1].episode == 1, "the episode does not begin")
    for index in range(ACTIONS):
        actions.publish(Action(session="/", episode=1, index=index, values=[1.9, 0.0, 0.0, 0.5]))
    end_s = time.monotonic() + (ACTIONS + 20) * PERIOD_S  # a person moves the robot; then actions are missing
    while time.monotonic() < end_s:
        joints.publish(JointState(name=ARM, position=[0.2, 0.0, 0.0]))
        probe.spin(PERIOD_S / 2)
    modes = {state.mode for _, state in states}
    assert {ExecutionState.MODE_PLAYING, ExecutionState.MODE_HOLD, ExecutionState.MODE_ERROR} <= modes
    assert states[-1][1].executed == ACTIONS and all(state.dry_run for _, state in states)
    assert len(shown) > ACTIONS and len(gripper) == len(shown)
    limited = [message.position[0] for _, message in shown]
    assert max(limited) == pytest.approx(0.5), "limited as it would be: the arm is at 0.2, and may be led by 0.3"
    assert probe.figure("executor", "dry_run") == "yes"
    probe.wait(lambda: probe.figure("executor", "limit_lead.dx") != "0", "the limit is not counted")
    transition = Transition(id=Transition.TRANSITION_DEACTIVATE)
    assert probe.call(ChangeState, "/executor/change_state", transition=transition).success
    probe.spin(5 * PERIOD_S)
    assert moved == [[], [], []]
    topics = ("/command", "/gripper_command")
    assert [probe.node.count_publishers(topic) for topic in topics] == [0, 0], "there is nothing that could publish"


def test_a_running_executor_cannot_be_made_to_move_the_robot(executor: Any, probe: Any) -> None:
    off = Parameter("dry_run", value=False).to_parameter_msg()
    (result,) = probe.call(SetParameters, "/executor/set_parameters", parameters=[off]).results
    assert not result.successful and "read-only" in result.reason
