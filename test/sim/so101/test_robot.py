"""The simulated arm: repeatable, holds without commands, follows its controller, and can be branched."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from streaming_vla.sim.so101.arm import JOINTS
from streaming_vla.sim.so101.robot import (
    ACTION_PERIOD_S,
    ACTION_SIZE,
    ACTION_SUBSTEPS,
    CONTROL_SUBSTEPS,
    STATE_SIZE,
    So101Robot,
)
from streaming_vla.sim.so101.scene import SUBSTEP_S
from streaming_vla.sim.so101.trajectory import Trajectory, TrajectoryPoint, TrajectoryRefused


@pytest.fixture(scope="module")
def robot() -> So101Robot:
    return So101Robot()


def test_its_periods_are_whole_numbers_of_physics_steps() -> None:
    assert ACTION_SUBSTEPS * SUBSTEP_S == pytest.approx(ACTION_PERIOD_S) == pytest.approx(1 / 30)
    assert pytest.approx(1 / 100) == CONTROL_SUBSTEPS * SUBSTEP_S


def test_without_a_command_it_holds_though_gravity_pulls(robot: So101Robot) -> None:
    robot.reset("pick", 3)
    before = robot.joint_positions()
    robot.advance(round(3.0 / SUBSTEP_S))
    assert np.abs(robot.joint_positions() - before).max() < 0.005
    assert np.abs(robot.setpoint() - before)[1:3].max() > 0.005, "its servos do not feel gravity"
    assert not robot.success and not robot.failed
    assert robot.time_s == pytest.approx(3.0)


def test_a_target_is_reached_but_for_what_gravity_takes(robot: So101Robot) -> None:
    robot.reset("touch", 3)
    targets = robot.joint_positions() + np.array((0.2, 0.2, -0.2, -0.2, 0.3, 0.5))
    for _ in range(60):
        robot.step(targets)
    assert np.abs(robot.joint_positions() - targets).max() < 0.06
    assert np.abs(robot.joint_velocities()).max() < 0.01


def test_a_step_is_a_trajectory_of_one_point(robot: So101Robot) -> None:
    ends = []
    for way in ("step", "trajectory"):
        robot.reset("touch", 4)
        targets = robot.joint_positions() + 0.1
        for _ in range(7):
            if way == "step":
                robot.step(targets)
            else:
                robot.command(Trajectory(JOINTS, (TrajectoryPoint(1 / 30, targets),)))
                for count in (3, 9, 8):  # as a node does it, in pieces
                    robot.advance(count)
        ends.append(robot.joint_positions())
    np.testing.assert_allclose(*ends, atol=1e-9)


def test_wrong_targets_are_refused_and_the_arm_holds(robot: So101Robot) -> None:
    robot.reset("touch", 4)
    before = robot.joint_positions()
    for targets in ([], [0.0] * 5, [0.0] * 7, [np.nan] * 6):
        with pytest.raises(TrajectoryRefused):
            robot.step(targets)
    robot.advance(200)
    assert np.abs(robot.joint_positions() - before).max() < 0.005


def test_a_setpoint_beyond_the_limits_is_clipped_and_counted(robot: So101Robot) -> None:
    robot.reset("touch", 4)
    robot.clipped.clear()
    targets = robot.joint_positions()
    targets[5] = 4.0
    for _ in range(30):
        robot.step(targets)
    assert set(robot.clipped) == {"gripper"} and robot.clipped["gripper"] > 50
    assert robot.joint_positions()[5] < 1.8


def test_a_snapshot_is_come_back_to_bit_by_bit(robot: So101Robot) -> None:
    robot.reset("pick", 5)
    for _ in range(40):
        robot.step(robot.expert_action())
    robot.advance(7)  # between two setpoints
    here = robot.snapshot()
    runs = []
    for _ in range(2):
        robot.restore(here)
        wanted = []
        while not robot.success and len(wanted) < 200:
            wanted.append(robot.expert_action())
            robot.step(wanted[-1])
        assert robot.success
        runs.append(np.stack([*wanted, robot.state()]))
    np.testing.assert_array_equal(*runs)
    robot.restore(here)
    assert not robot.success
    robot.reset("touch", 5)
    with pytest.raises(ValueError, match="the snapshot is of task pick, the robot runs touch"):
        robot.restore(here)


def test_a_snapshot_does_not_disturb(robot: So101Robot) -> None:
    runs = []
    for looks in (False, True):
        robot.reset("push", 6)
        for _ in range(50):
            action = robot.expert_action()
            if looks:
                here = robot.snapshot()
                robot.step(robot.state())
                robot.restore(here)
            robot.step(action)
        runs.append(robot.joint_positions())
    np.testing.assert_array_equal(*runs)


def test_what_it_tells(robot: So101Robot) -> None:
    robot.reset("push", 6, variant=1)
    seen = robot.observe(pictures=False)
    assert seen.state.shape == (STATE_SIZE,) == (ACTION_SIZE,) and seen.state.dtype == np.float32
    assert seen.instruction == robot.instruction and seen.instruction.startswith("slide the ")
    assert not seen.pictures
    assert robot.joint_names() == list(JOINTS)
    assert np.linalg.norm(robot.hand_orientation()) == pytest.approx(1.0)
    assert 0.0 < robot.hand_position()[2] < 0.4


def test_a_reset_forgets_everything(robot: So101Robot) -> None:
    ends = []
    for before in ("touch", "pick"):
        robot.reset(before, 8)
        for _ in range(30):
            robot.step(robot.expert_action())
        robot.reset("push", 9)
        assert not robot.success and not robot.failed and robot.time_s == 0.0
        for _ in range(20):
            robot.step(robot.expert_action())
        ends.append(robot.joint_positions())
    np.testing.assert_array_equal(*ends)


def test_it_wants_a_task_first() -> None:
    for ask in (lambda arm: arm.advance(1), lambda arm: arm.expert_action(), lambda arm: arm.snapshot()):
        with pytest.raises(RuntimeError, match="call reset"):
            ask(So101Robot())


def test_without_pictures_no_opengl_is_needed() -> None:
    lines = (
        "from streaming_vla.sim.so101.robot import So101Robot",
        "robot = So101Robot(); robot.reset('touch', 1); robot.step(robot.expert_action())",
        "import sys; assert 'OpenGL.GL' not in sys.modules",
    )
    disabled = {**os.environ, "MUJOCO_GL": "disable"}
    subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True, timeout=60, env=disabled)
