"""The scripted experts find their way, disturbed as well."""

from __future__ import annotations

import numpy as np
import pytest

from streaming_vla.sim.metaworld import MetaWorldRobot
from streaming_vla.training.episode import Perturbation

OWN = ("reach", "push", "pick-place", "peg-insert-side")  # tasks whose expert is ours
SEEDS = range(5000, 5004)


@pytest.fixture(scope="module")
def robot() -> MetaWorldRobot:
    return MetaWorldRobot(image_size=0)


@pytest.mark.parametrize("task", OWN)
def test_expert_succeeds(robot: MetaWorldRobot, task: str) -> None:
    for seed in SEEDS:
        robot.reset(task, seed)
        assert any(robot.step(robot.expert_action()) for _ in range(250)), seed


@pytest.mark.parametrize("task", OWN)
def test_expert_recovers_from_bursts(robot: MetaWorldRobot, task: str) -> None:
    solved = 0
    for seed in range(6):
        robot.reset(task, seed)
        bursts = Perturbation(0.03, np.random.default_rng(seed))
        solved += any(robot.step(bursts.apply(robot.expert_action())) for _ in range(300))
    assert solved >= 5


def test_reach_expert_comes_to_rest_in_the_goal(robot: MetaWorldRobot) -> None:
    robot.reset("reach", 5000)
    for _ in range(150):
        robot.step(robot.expert_action())
    environment = robot._current().environment
    assert np.linalg.norm(environment.tcp_center - environment._target_pos) < 0.01
