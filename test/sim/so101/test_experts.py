"""The scripted experts do every task, from every state. 50 scenes a task: benchmarks/so101/experts.py."""

from __future__ import annotations

import numpy as np
import pytest

from streaming_vla.sim.so101.arm import JOINTS
from streaming_vla.sim.so101.disturbance import Disturbance
from streaming_vla.sim.so101.robot import So101Robot
from streaming_vla.sim.so101.scene import scene_model
from streaming_vla.sim.so101.tasks import TASKS, TIME_LIMITS_S

SEEDS = range(10_000, 10_008)


@pytest.fixture(scope="module")
def robot() -> So101Robot:
    return So101Robot()


def run(robot: So101Robot, task: str, seed: int, disturbance: Disturbance | None = None) -> list[np.ndarray]:
    """Let the expert act until the end; return what it wanted."""
    robot.reset(task, seed)
    wanted = []
    while not (robot.success or robot.failed) and robot.time_s < TIME_LIMITS_S[task]:
        wanted.append(robot.expert_action())
        targets = wanted[-1]
        robot.step(targets if disturbance is None else disturbance.apply(targets, robot.setpoint()))
    return wanted


@pytest.mark.parametrize("task", TASKS)
def test_it_does_its_task_smoothly(robot: So101Robot, task: str) -> None:
    low, high = scene_model().actuator_ctrlrange.T
    for seed in SEEDS:
        wanted = np.stack(run(robot, task, seed))
        assert robot.success, seed
        assert wanted.shape[1:] == (len(JOINTS),) and wanted.dtype == np.float32
        assert (wanted >= low - 1e-6).all() and (wanted <= high + 1e-6).all()
        assert np.abs(np.diff(wanted[:, :5], axis=0)).max() < 0.25, "a jump of a joint within 1/30 s"
        assert robot.time_s < TIME_LIMITS_S[task] / 2


@pytest.mark.parametrize("task", TASKS)
def test_it_finds_back_when_it_is_pushed_off_its_way(robot: So101Robot, task: str) -> None:
    solved = 0
    for seed in SEEDS:
        run(robot, task, seed, Disturbance(0.04, 0.04, np.random.default_rng(seed)))
        solved += robot.success
    assert solved >= len(SEEDS) - 1


def test_the_same_seed_gives_the_same_demonstration(robot: So101Robot) -> None:
    first, second = (run(robot, "pick", 10_001, Disturbance(0.1, 0.04, np.random.default_rng(5))) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    other = run(So101Robot(), "pick", 10_001, Disturbance(0.1, 0.04, np.random.default_rng(5)))
    np.testing.assert_array_equal(first, other)


def test_a_disturbance_changes_what_is_done_and_not_what_is_wanted() -> None:
    setpoint, wanted = np.zeros(6), np.full(6, 0.5)
    quiet = Disturbance(0.0, 0.1, np.random.default_rng(0))
    assert all(np.array_equal(quiet.apply(wanted, setpoint), wanted.astype(np.float32)) for _ in range(50))
    always = Disturbance(1.0, 0.1, np.random.default_rng(0))
    for _ in range(50):
        targets = always.apply(wanted, setpoint)
        assert np.abs(targets[:5]).max() <= 0.1 + 1e-6
        assert targets[5] == 0.5 or abs(targets[5]) <= 0.1
    np.testing.assert_array_equal(wanted, 0.5)
