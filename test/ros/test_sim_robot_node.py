"""The simulated robot's process: waits for nobody, holds without commands, refuses what it cannot do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from geometry_msgs.msg import PoseStamped
from rclpy.time import Time
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Bool, Float64MultiArray, String
from streaming_vla_interfaces.srv import ResetRobot

from streaming_vla.ros.base import BEST_EFFORT, LATCHED

pytestmark = pytest.mark.ros
PERIOD_S = 0.05
CAUGHT_UP_STEPS = 6  # what is a little late is made up for
REST_STEPS = 12  # without motion: then the arm is at rest, whatever a busy machine makes of the simulated clock


@pytest.fixture(scope="module")
def robot(suite: Any, probe: Any) -> Any:
    suite.start("sim_robot", image_size=32)
    probe.wait_for_nodes("sim_robot")
    return probe


def hand(poses: list[tuple[float, Any]]) -> np.ndarray:
    position = poses[-1][1].pose.position
    return np.array([position.x, position.y, position.z])


def rest(robot: Any, poses: list[tuple[float, Any]]) -> np.ndarray:
    """Wait until the hand has come to rest and return where."""
    first = len(poses)

    def resting() -> bool:
        places = np.array([hand([pose]) for pose in poses[first:][-REST_STEPS:]])
        return len(places) == REST_STEPS and bool(np.ptp(places, axis=0).max() < 0.001)

    robot.wait(resting, "the hand does not come to rest", 60.0)
    return hand(poses)


def test_it_runs_without_being_asked(robot: Any) -> None:
    states = robot.record(Float64MultiArray, "robot_state", BEST_EFFORT)
    joints = robot.record(JointState, "joint_states", BEST_EFFORT)
    pictures = [robot.record(Image, f"camera/{name}/image", BEST_EFFORT) for name in ("corner2", "gripperPOV")]
    poses = robot.record(PoseStamped, "hand_pose")
    robot.wait(lambda: len(states) > 40 and len(poses) > 40, "no robot state", 30.0)
    stamps_s = [Time.from_msg(pose.header.stamp).nanoseconds * 1e-9 for _, pose in poses]
    robot.spin(1.5)  # until the next diagnostics
    steps, due = len(stamps_s) - 1, (stamps_s[-1] - stamps_s[0]) / PERIOD_S
    assert steps <= due + CAUGHT_UP_STEPS, "faster than real_time_factor"
    lost = 0.001 * float(robot.figure("sim_robot", "lost_ms")) / PERIOD_S  # the machine was too slow, and it says so
    assert steps >= 0.9 * due - lost - CAUGHT_UP_STEPS, "slower than real_time_factor"
    assert len(states[0][1].data) == 4 and len(joints[0][1].name) == len(joints[0][1].position) == 9
    for heard in pictures:
        assert len(heard) > 15
        message = heard[-1][1]
        assert (message.width, message.height, message.encoding, message.step) == (32, 32, "rgb8", 96)
        assert np.asarray(message.data).std() > 5  # a scene, not one colour


def test_a_command_moves_the_hand_once_and_then_it_holds(robot: Any) -> None:
    poses = robot.record(PoseStamped, "hand_pose")
    commands = robot.publisher(Float64MultiArray, "command")
    begin = rest(robot, poses)
    for _ in range(10):
        commands.publish(Float64MultiArray(data=[0.0, 0.0, 1.0, -1.0]))
        robot.spin(PERIOD_S)
    robot.wait(lambda: hand(poses)[2] - begin[2] > 0.02, "it does not move", 30.0)
    moved = rest(robot, poses)
    robot.spin(0.5)
    assert np.abs(hand(poses) - moved).max() < 0.005


@pytest.mark.parametrize(
    "data", [[], [0.0] * 3, [0.0] * 5, [float("nan"), 0.0, 0.0, 0.0], [0.0, float("inf"), 0.0, 0.0]]
)
def test_wrong_commands_are_refused_and_counted(robot: Any, suite: Any, data: list[float]) -> None:
    poses = robot.record(PoseStamped, "hand_pose")
    commands = robot.publisher(Float64MultiArray, "command")
    before = int(robot.figure("sim_robot", "malformed_command"))
    begin = rest(robot, poses)
    commands.publish(Float64MultiArray(data=data))
    robot.wait(lambda: int(robot.figure("sim_robot", "malformed_command")) == before + 1, "nothing is counted")
    assert np.abs(hand(poses) - begin).max() < 0.005
    assert "message on 'command' dropped: it" in suite.log("sim_robot")


def test_reset_tells_the_task_and_forgets_success(robot: Any) -> None:
    instructions, successes = robot.record(String, "instruction", LATCHED), robot.record(Bool, "success", LATCHED)
    answer = robot.call(ResetRobot, "reset_robot", task="reach", seed=10_001)
    assert answer.accepted and answer.instruction == "move the hand to the red marker"
    robot.wait(lambda: instructions and instructions[-1][1].data == answer.instruction, "no instruction")
    robot.wait(lambda: successes and not successes[-1][1].data, "no success topic")


def test_an_unknown_task_is_refused_with_the_list(robot: Any) -> None:
    answer = robot.call(ResetRobot, "reset_robot", task="fly", seed=0)
    assert not answer.accepted
    assert answer.reason.startswith("unknown task 'fly': choose one of reach, push")
