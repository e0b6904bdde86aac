"""Both simulated robots are what the node expects of a robot, in the same way."""

from __future__ import annotations

import numpy as np
import pytest

from streaming_vla.sim.metaworld import MetaWorldRobot
from streaming_vla.sim.robot import SimulatedRobot
from streaming_vla.sim.so101.robot import So101Robot

TASKS = {"metaworld": "reach", "so101": "touch"}


@pytest.fixture(scope="module", params=TASKS)
def robot(request: pytest.FixtureRequest) -> SimulatedRobot:
    made: SimulatedRobot = MetaWorldRobot(image_size=0) if request.param == "metaworld" else So101Robot()
    made.reset(TASKS[request.param], 10_000)
    return made


def test_it_tells_itself(robot: SimulatedRobot) -> None:
    names = robot.joint_names()
    assert len(names) == len(set(names)) == len(robot.joint_positions()) == len(robot.joint_velocities())
    assert robot.hand_position().shape == (3,)
    assert np.linalg.norm(robot.hand_orientation()) == pytest.approx(1.0, abs=1e-3)
    assert 0.0 <= robot.gripper_opening() <= 1.0
    assert robot.state().dtype == np.float32
    assert len(robot.cameras) == 2


def test_a_tick_is_a_whole_part_of_the_time_between_two_states(robot: SimulatedRobot) -> None:
    assert robot.ticks_per_state % robot.ticks_per_control == 0
    assert 0.001 < robot.tick_s * robot.ticks_per_state < 0.05
    before = robot.joint_positions()
    for ticks in (1, 2, 7):
        assert not robot.pass_ticks(ticks)
    assert np.abs(robot.joint_positions() - before).max() < 0.1


def test_wordings_are_chosen_by_number(robot: SimulatedRobot) -> None:
    assert robot.task is not None
    name, count = robot.task.name, len(robot.task.instructions) + len(robot.task.held_out)
    said = set()
    for variant in range(count):
        robot.reset(name, 10_000, variant=variant)
        said.add(robot.instruction)
    assert len(said) == count and all("{" not in sentence for sentence in said)
    with pytest.raises(ValueError, match=f"has no instruction {count}: choose 0 to {count - 1}"):
        robot.reset(name, 10_000, variant=count)
    with pytest.raises(ValueError, match="unknown task 'fly'"):
        robot.reset("fly", 0)
