"""The simulated SO-101's process: trajectories in, joint states at 100 Hz and pictures of one instant out."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from builtin_interfaces.msg import Duration
from builtin_interfaces.msg import Time as TimeMessage
from geometry_msgs.msg import PoseStamped
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.time import Time
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Bool, Float64, Float64MultiArray, String
from streaming_vla_interfaces.srv import ResetRobot
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from streaming_vla.ros.base import BEST_EFFORT, LATCHED
from streaming_vla.sim.so101.arm import JOINTS
from streaming_vla.sim.so101.robot import ACTION_PERIOD_S, So101Robot
from streaming_vla.sim.so101.tasks import TIME_LIMITS_S

pytestmark = pytest.mark.ros
EVERYTHING = QoSProfile(depth=2000, reliability=ReliabilityPolicy.BEST_EFFORT)
CAMERAS = ("overhead", "wrist")
OPTIONS = {
    "robot": "so101",
    "task": "touch",
    "real_time_factor": 1.0,
    "image_size": 160,
    "image_height": 120,
    "camera_rate_hz": 30.0,
    "command_timeout_s": 0.5,
    "publish_clock": True,
    "expert": True,
}


@pytest.fixture(scope="module")
def robot(suite: Any, probe: Any) -> Any:
    suite.start("sim_robot", **OPTIONS)
    probe.wait_for_nodes("sim_robot")
    return probe


def trajectory(positions: Any, within_s: float = ACTION_PERIOD_S, **fields: Any) -> JointTrajectory:
    nanoseconds = round(within_s * 1e9)
    after = Duration(sec=nanoseconds // 10**9, nanosec=nanoseconds % 10**9)
    point = JointTrajectoryPoint(positions=[float(value) for value in positions], time_from_start=after)
    message = JointTrajectory(joint_names=list(JOINTS), points=[point])
    for name, value in fields.items():
        setattr(message, name, value)
    return message


def seconds(stamp: TimeMessage) -> float:
    return Time.from_msg(stamp).nanoseconds * 1e-9


def positions(joints: list[tuple[float, Any]]) -> np.ndarray:
    return np.array(joints[-1][1].position)


def test_it_tells_itself_at_its_rates_on_the_simulated_clock(robot: Any) -> None:
    joints = robot.record(JointState, "joint_states", BEST_EFFORT)
    states = robot.record(Float64MultiArray, "robot_state", BEST_EFFORT)
    pictures = [robot.record(Image, f"camera/{name}/image") for name in CAMERAS]
    clocks = robot.record(Clock, "/clock", BEST_EFFORT)
    hands, grippers = robot.record(PoseStamped, "hand_pose"), robot.record(Float64, "gripper")
    robot.wait(lambda: min(map(len, pictures)) > 60, "no pictures", 60.0)

    times = np.array([seconds(message.header.stamp) for _, message in joints])
    gaps = np.diff(times)
    assert np.median(gaps) == pytest.approx(0.01, abs=1e-6)
    assert np.abs(gaps / 0.01 - np.round(gaps / 0.01)).max() < 1e-3, "joint states are off their grid"
    for heard in pictures:
        taken = np.array([seconds(message.header.stamp) for _, message in heard])
        assert np.diff(taken)[5:] == pytest.approx(1 / 30, abs=1e-6), "pictures are not 30 Hz"
        message = heard[-1][1]
        assert (message.width, message.height, message.encoding, message.step) == (160, 120, "rgb8", 480)
        assert np.asarray(message.data).std() > 15
    overhead, wrist = ({seconds(message.header.stamp) for _, message in heard} for heard in pictures)
    assert len(overhead & wrist) > 50, "the cameras do not look at the same instants"
    told = np.array([seconds(message.clock) for _, message in clocks])
    assert (np.diff(told) > 0.0).all() and abs(told[-1] - times[-1]) < 0.2

    message = joints[-1][1]
    assert tuple(message.name) == JOINTS and len(message.position) == len(message.velocity) == 6
    assert np.abs(np.array(states[-1][1].data) - message.position).max() < 0.01
    assert 0.0 < hands[-1][1].pose.position.z < 0.4 and 0.0 <= grippers[-1][1].data <= 1.0


def test_simulated_time_passes_as_fast_as_it_says(robot: Any) -> None:
    clocks = robot.record(Clock, "/clock", EVERYTHING)
    robot.wait(lambda: len(clocks) > 10, "no clock")
    begin = len(clocks) - 1
    robot.spin(6.0)
    (wall, first), (wall_end, last) = clocks[begin], clocks[-1]
    factor = (seconds(last.clock) - seconds(first.clock)) / (wall_end - wall)
    assert factor < 1.05, "faster than real time"
    assert factor == pytest.approx(float(robot.figure("sim_robot", "achieved_real_time_factor")), abs=0.15)
    slow = float(robot.figure("sim_robot", "achieved_real_time_factor")) < 0.95
    assert slow == ("of real time instead of 1" in robot.problem("sim_robot"))


def test_it_goes_where_a_trajectory_says_and_holds(robot: Any) -> None:
    joints = robot.record(JointState, "joint_states", BEST_EFFORT)
    commands = robot.publisher(JointTrajectory, "command")
    robot.wait(lambda: joints, "no joint states")
    begin = positions(joints)
    goal = begin + np.array((0.3, 0.1, -0.1, -0.1, 0.2, 0.4))
    before = int(robot.figure("sim_robot", "command_timeouts"))
    commands.publish(trajectory(goal, 0.6))
    robot.wait(lambda: np.abs(positions(joints) - goal).max() < 0.06, "it does not get there", 20.0)
    robot.spin(0.5)
    held = positions(joints)
    robot.spin(0.7)
    assert np.abs(positions(joints) - held).max() < 0.005
    robot.wait(lambda: int(robot.figure("sim_robot", "command_timeouts")) > before, "no time-out is counted")


def test_an_empty_trajectory_stops_it(robot: Any) -> None:
    joints = robot.record(JointState, "joint_states", BEST_EFFORT)
    commands = robot.publisher(JointTrajectory, "command")
    robot.wait(lambda: joints, "no joint states")
    begin = positions(joints)
    commands.publish(trajectory(begin + np.array((-0.8, 0, 0, 0, 0, 0)), 4.0))
    robot.wait(lambda: positions(joints)[0] < begin[0] - 0.1, "it does not move", 20.0)
    commands.publish(JointTrajectory())
    robot.spin(1.0)
    stopped = positions(joints)
    robot.spin(1.0)
    assert abs(positions(joints)[0] - stopped[0]) < 0.01
    assert stopped[0] > begin[0] - 0.7


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"joint_names": ["elbow", *JOINTS[1:]]}, "joint elbow is unknown: expected shoulder_pan"),
        ({"joint_names": list(JOINTS[:5])}, "joint gripper is missing"),
        ({"points": []}, ""),
        ({"points": [JointTrajectoryPoint(positions=[0.0] * 5)]}, "point 0 has 5 positions"),
        ({"points": [JointTrajectoryPoint(positions=[float("nan")] * 6)]}, "positions that are not finite"),
        ({"points": [JointTrajectoryPoint(positions=[0.0] * 6, effort=[1.0] * 6)]}, "point 0 has efforts"),
        ({"past": True}, "s ago: expected one that is not over"),
    ],
)
def test_what_cannot_be_followed_is_refused_and_counted(
    robot: Any, suite: Any, fields: dict[str, Any], sentence: str
) -> None:
    joints = robot.record(JointState, "joint_states", BEST_EFFORT)
    commands = robot.publisher(JointTrajectory, "command")
    before = int(robot.figure("sim_robot", "malformed_command"))
    robot.wait(lambda: joints, "no joint states")
    robot.spin(1.1)  # refusals are said once a second
    begin = positions(joints)
    message = trajectory(begin + 0.5)
    if fields.pop("past", False):
        message.header.stamp.nanosec = 1
    for name, value in fields.items():
        setattr(message, name, value)
    commands.publish(message)
    if sentence:
        robot.wait(lambda: int(robot.figure("sim_robot", "malformed_command")) == before + 1, "nothing is counted")
        assert sentence in suite.log("sim_robot")
    else:
        robot.spin(1.5)
        assert int(robot.figure("sim_robot", "malformed_command")) == before, "an empty one cancels"
    assert np.abs(positions(joints) - begin).max() < 0.02


def test_a_trajectory_starts_when_its_stamp_says(robot: Any) -> None:
    joints = robot.record(JointState, "joint_states", EVERYTHING)
    commands = robot.publisher(JointTrajectory, "command")
    robot.wait(lambda: joints, "no joint states")
    begin, now = positions(joints), joints[-1][1].header.stamp
    message = trajectory(begin + np.array((0.0, 0.0, 0.0, 0.0, 0.4, 0.0)), 0.05)
    message.header.stamp = TimeMessage(sec=now.sec + 2, nanosec=now.nanosec)
    commands.publish(message)
    robot.wait(lambda: seconds(joints[-1][1].header.stamp) > seconds(now) + 3.0, "time stands still", 60.0)
    stamps = np.array([seconds(message.header.stamp) - seconds(now) for _, message in joints])
    rolls = np.array([message.position[4] - begin[4] for _, message in joints])
    assert rolls[np.searchsorted(stamps, 1.0)] == pytest.approx(0.2, abs=0.05), "half of the way in half of the time"
    assert rolls[-1] == pytest.approx(0.4, abs=0.03)


def test_an_expert_that_drives_it_over_ros_does_its_task(robot: Any) -> None:
    """The expert flies a model of its own and sends what it does; both arms are the same, so are the outcomes."""
    instructions = robot.record(String, "instruction", LATCHED)
    successes = robot.record(Bool, "success", LATCHED)
    clocks = robot.record(Clock, "/clock", BEST_EFFORT)
    commands = robot.publisher(JointTrajectory, "command")
    expert = So101Robot()
    expert.reset("pick", 10_004)
    answer = robot.call(ResetRobot, "reset_robot", task="pick", seed=10_004)
    assert answer.accepted and answer.instruction == expert.instruction
    robot.wait(lambda: instructions and instructions[-1][1].data == expert.instruction, "no instruction")
    robot.wait(lambda: successes and not successes[-1][1].data, "success is not forgotten")
    next_s = seconds(clocks[-1][1].clock)
    end_s = time.monotonic() + 60.0
    while not successes[-1][1].data and expert.time_s < TIME_LIMITS_S["pick"]:
        assert time.monotonic() < end_s
        targets = expert.expert_action()
        expert.step(targets)
        commands.publish(trajectory(targets))
        next_s += ACTION_PERIOD_S
        robot.wait(lambda: seconds(clocks[-1][1].clock) >= next_s, "time stands still", 20.0)  # noqa: B023
    assert successes[-1][1].data


def test_its_own_expert_says_what_to_do_once_an_action(robot: Any) -> None:
    successes = robot.record(Bool, "success", LATCHED)
    clocks = robot.record(Clock, "/clock", EVERYTHING)
    commands = robot.publisher(JointTrajectory, "command")
    assert robot.call(ResetRobot, "reset_robot", task="touch", seed=10_003).accepted
    robot.wait(lambda: successes and not successes[-1][1].data and clocks, "success is not forgotten")
    answers = robot.record(JointTrajectory, "expert_command")
    begin_s, taken = seconds(clocks[-1][1].clock), 0
    while not successes[-1][1].data and taken < 30 * TIME_LIMITS_S["touch"]:
        robot.wait(lambda: len(answers) > taken or successes[-1][1].data, "the expert is silent", 20.0)  # noqa: B023
        commands.publish(answers[-1][1])
        taken = len(answers)
    assert successes[-1][1].data
    assert taken == pytest.approx((seconds(clocks[-1][1].clock) - begin_s) / ACTION_PERIOD_S, rel=0.1, abs=3)


def test_an_unknown_task_is_refused_with_the_list(robot: Any) -> None:
    answer = robot.call(ResetRobot, "reset_robot", task="drawer-open", seed=0)
    assert not answer.accepted
    assert answer.reason == "unknown task 'drawer-open': choose one of touch, push, pick"
