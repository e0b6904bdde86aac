"""The executor process with joint targets: a robot whose joints come in several messages, and one whose arm dies."""

from __future__ import annotations

import signal
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
ARM, GRIPPER = ("shoulder", "elbow", "wrist"), ("finger",)
COMMANDS, DRIVERS = "/arm_controller/joint_states", "drivers/joints"  # topics of the robot's own
TOPICS = {"command_topic": COMMANDS, "joint_states_topic": DRIVERS}
PERIOD_S = 0.05
TIMEOUT_S = 8 * PERIOD_S


class Robot:
    """An arm and its gripper, whose drivers publish on the same topic; and a generator."""

    def __init__(self, probe: Any) -> None:
        self.probe = probe
        self.commands = probe.record(JointState, COMMANDS)
        self.states = probe.record(ExecutionState, "execution_state")
        self.episodes = probe.publisher(Episode, "episode", LATCHED)
        self.actions = probe.publisher(Action, "action", 50)
        self.drivers = {joints: probe.publisher(JointState, DRIVERS) for joints in (ARM, GRIPPER)}
        self.number = 0

    def begin(self, actions: int) -> None:
        """Begin a new episode with so many actions queued."""
        self.number = max(self.number + 1, int(time.monotonic() * 100))
        self.episodes.publish(Episode(session="/", number=self.number, active=True, instruction="test"))
        number = self.number
        self.probe.wait(lambda: self.states and self.states[-1][1].episode == number, "the episode does not begin")
        self.probe.spin(2 * PERIOD_S)  # the stop of the episode before may come after its state
        self.commands.clear()
        self.states.clear()
        for index in range(actions):
            self.actions.publish(Action(session="/", episode=number, index=index, values=[0.001, 0.0, 0.0, 0.5]))

    def live(self, duration_s: float, *drivers: tuple[str, ...]) -> None:
        """Let time pass; in every round these drivers publish one right after the other."""
        end_s = time.monotonic() + duration_s
        while time.monotonic() < end_s:
            for joints in drivers:
                self.drivers[joints].publish(JointState(name=joints, position=[0.0] * len(joints)))
            self.probe.spin(PERIOD_S / 2)

    def modes(self) -> set[int]:
        return {state.mode for _, state in self.states}


@pytest.fixture(scope="module")
def robot(suite: Any, probe: Any) -> Iterator[Robot]:
    suite.start(
        "executor",
        **TOPICS,
        command_type="joints",
        joint_names=[*ARM, *GRIPPER],
        control_period_s=PERIOD_S,
        robot_timeout_s=TIMEOUT_S,
        hold_s=60 * PERIOD_S,
        max_action_age_s=60 * PERIOD_S,
    )
    probe.wait_for_nodes("executor")
    yield Robot(probe)


def test_drivers_that_send_at_the_same_time_are_both_heard(robot: Robot) -> None:
    robot.begin(actions=20)
    robot.live(30 * PERIOD_S, ARM, GRIPPER)
    played = [state for _, state in robot.states if state.mode == ExecutionState.MODE_PLAYING]
    assert played[-1].executed == 20, "the robot counted as silent in between"
    assert tuple(robot.commands[-1][1].name) == (*ARM, *GRIPPER)


def test_a_gripper_alone_does_not_keep_a_dead_arm_alive(robot: Robot) -> None:
    robot.begin(actions=40)
    robot.live(6 * PERIOD_S, ARM, GRIPPER)
    assert ExecutionState.MODE_PLAYING in robot.modes()
    robot.live(3 * TIMEOUT_S, GRIPPER)  # the arm's driver has died
    assert robot.states[-1][1].mode == ExecutionState.MODE_HOLD
    assert robot.states[-1][1].executed < 20
    robot.probe.wait(lambda: robot.probe.figure("executor", "robot_silent") != "0", "the silence is not counted")
    told = "no joint states of shoulder, elbow, wrist on '/drivers/joints': the robot is not moved"
    robot.probe.wait(lambda: robot.probe.problem("executor") == told, "the dead joints are not named")


def test_a_dead_arm_is_not_led_back_to_where_it_was_heard_last(robot: Robot) -> None:
    rungs = {"hold_s": 2 * PERIOD_S, "decelerate_s": 6 * PERIOD_S}
    before = {"hold_s": 60 * PERIOD_S, "decelerate_s": 1.0}
    for values in (rungs, before):
        messages = [Parameter(name, value=value).to_parameter_msg() for name, value in values.items()]
        answer = robot.probe.call(SetParameters, "/executor/set_parameters", parameters=messages)
        assert all(result.successful for result in answer.results)
        if values is rungs:
            robot.begin(actions=40)
            robot.live(6 * PERIOD_S, ARM, GRIPPER)  # they say 0.0, wherever they are sent
            robot.live(TIMEOUT_S + 20 * PERIOD_S, GRIPPER)
    assert robot.states[-1][1].mode == ExecutionState.MODE_ERROR
    sent = [message.position[0] for _, message in robot.commands]
    assert sent[-1] == max(sent) > 0.0


def test_no_motion_before_the_arm_is_heard(robot: Robot) -> None:
    robot.live(2 * TIMEOUT_S)
    robot.begin(actions=5)
    robot.live(2 * TIMEOUT_S, GRIPPER)
    assert not robot.commands and robot.modes() <= {ExecutionState.MODE_WAITING}
    robot.live(2 * TIMEOUT_S, ARM, GRIPPER)
    assert robot.commands


def test_a_lead_that_is_set_while_inactive_holds_from_activation_on(robot: Robot) -> None:
    def change(id_: int) -> None:
        transition = Transition(id=id_)
        assert robot.probe.call(ChangeState, "/executor/change_state", transition=transition).success

    def lead(*values: float) -> Any:
        parameters = [Parameter("maximum_lead", value=list(values)).to_parameter_msg()]
        return robot.probe.call(SetParameters, "/executor/set_parameters", parameters=parameters).results[0]

    change(Transition.TRANSITION_DEACTIVATE)
    assert lead(0.0015, 1.0, 1.0, 1.0).successful
    refused = lead(0.0015)
    assert not refused.successful and "maximum_lead has 1 values, expected one for each of dx" in refused.reason
    change(Transition.TRANSITION_ACTIVATE)
    robot.begin(actions=4)  # of 0.001 each, by a joint that stays at 0
    robot.live(6 * PERIOD_S, ARM, GRIPPER)
    assert max(message.position[0] for _, message in robot.commands) == pytest.approx(0.0015)


def test_a_gripper_without_a_joint_is_commanded_on_its_own_topic(robot: Robot, suite: Any) -> None:
    assert suite.end("executor", signal.SIGINT) == 0
    suite.start("executor", command_type="joints", joint_names=[*ARM, ""], control_period_s=PERIOD_S, **TOPICS)
    robot.probe.wait_for_nodes("executor")
    grips = robot.probe.record(Float64MultiArray, "gripper_command")
    robot.begin(actions=5)
    robot.live(12 * PERIOD_S, ARM)
    robot.probe.wait(lambda: len(grips) >= 5, "the gripper is not commanded")
    assert {tuple(message.name) for _, message in robot.commands} == {ARM}
    assert grips[-1][1].data.tolist() == [0.5]
