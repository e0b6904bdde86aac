"""What follows a picture: targets as changes, sums that begin at the hand-over, states that are late."""

from __future__ import annotations

from pathlib import Path as Folder

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming_vla.policies.lerobot.flow_head.sidecar import NO_JOINT
from streaming_vla.policies.lerobot.flow_head.units import FlowUnits, scale_of
from streaming_vla.training.plan import read_plan
from streaming_vla.training.vla.batches import ahead
from streaming_vla.training.vla.plan import FlowDraws, VlaPlan
from streaming_vla.training.vla.windows import Moment, Path, answer_at, draw_moment

ROOT = Folder(__file__).resolve().parents[3]
ABSOLUTE = np.array([True, False, True])  # a joint, a change, a command that no joint has the name of
JOINTS = np.array([1, NO_JOINT, NO_JOINT])
ACTION = np.array([[10.0, 1.0, 0.0], [12.0, -2.0, 1.0], [11.0, 0.5, 1.0]], dtype=np.float32)
STATE = np.array([[0.5, 9.0], [0.6, 9.5], [0.7, 11.5]], dtype=np.float32)
UNITS = FlowUnits(
    np.array([2.0, 0.5, 1.0]), ABSOLUTE, JOINTS, np.array([0.0, -3.0, 0.0]), np.array([20.0, 3.0, 1.0]),
    np.array([10.0, 0.0, 0.5]),
)  # fmt: skip
STILL = FlowDraws(draws=1, delay=2, lateness=2, noise=0.0)


def path() -> Path:
    return Path.of(ACTION, STATE, ABSOLUTE, JOINTS)


def test_a_path_begins_where_the_robot_stands_and_stays_at_its_end() -> None:
    told = path().told
    np.testing.assert_allclose(told, [[9.0, 0.0, 0.0], [10.0, 1.0, 0.0], [12.0, -1.0, 1.0], [11.0, -0.5, 1.0]])
    np.testing.assert_allclose([path().change(step) for step in (0, 2, 3, 9)],
                               [[1.0, 1.0, 0.0], [-1.0, 0.5, 0.0], [0, 0, 0], [0, 0, 0]])  # fmt: skip
    np.testing.assert_allclose(path().chunk(1, 4, ABSOLUTE), [ACTION[1], ACTION[2], [11, 0, 1], [11, 0, 1]])
    np.testing.assert_allclose(path().at(1.25), 0.75 * told[1] + 0.25 * told[2])
    np.testing.assert_allclose(path().at(99.0), told[-1])


def test_a_sum_begins_anew_at_the_hand_over() -> None:
    begins = answer_at(path(), 0, Moment(1, 0.0, 0, np.zeros(3)), 4, STILL, UNITS)
    np.testing.assert_allclose(begins.moved, 0.0)
    np.testing.assert_allclose(begins.step, [1.0, -4.0, 1.0])
    assert begins.age == 0.25 and begins.time == 0.0
    later = answer_at(path(), 0, Moment(1, 0.25, 1, np.zeros(3)), 4, STILL, UNITS)
    np.testing.assert_allclose(later.moved, [1.0, -4.0, 1.0], err_msg="what was executed since, scaled")
    np.testing.assert_allclose(later.state, STATE[1], err_msg="one action late")
    np.testing.assert_allclose(later.lacking, [(12.0 - 9.5) / 2.0, -2.0 / 0.5, 2.0 * 1.0 - 1.0], rtol=1e-6)
    assert later.age == 0.5


def test_noise_leads_back_to_the_path() -> None:
    options = FlowDraws(draws=1, delay=2, lateness=0, noise=0.16, stability=4.0)
    eps = np.array([1.0, -1.0, 0.5])
    noisy = answer_at(path(), 0, Moment(0, 0.5, 0, eps), 4, options, UNITS)
    clean = answer_at(path(), 0, Moment(0, 0.5, 0, np.zeros(3)), 4, options, UNITS)
    away = 0.16 * np.exp(-4.0 * 0.5) * eps
    np.testing.assert_allclose(noisy.moved - clean.moved, away)
    np.testing.assert_allclose(noisy.step - clean.step, -away * 4.0 / 4)
    np.testing.assert_allclose(noisy.lacking[:2] - clean.lacking[:2], away[:2])


def test_a_flow_may_begin_where_the_joints_are() -> None:
    """As the first one of an episode does; from the next action on it is on the demonstration's path."""
    first = answer_at(path(), 0, Moment(1, 0.0, 0, np.zeros(3), restarted=True), 4, STILL, UNITS)
    np.testing.assert_allclose(first.moved, 0.0)
    np.testing.assert_allclose(first.lacking[0], 0.0, atol=1e-6)
    np.testing.assert_allclose(first.step, [(12.0 - 9.5) / 2.0, -4.0, 1.0], err_msg="all of the way to the target")
    later = answer_at(path(), 0, Moment(1, 0.25, 0, np.zeros(3), restarted=True), 4, STILL, UNITS)
    np.testing.assert_allclose(later.moved, [(12.0 - 9.5) / 2.0, -4.0, 1.0])
    np.testing.assert_allclose(later.step, [-0.5, 1.0, 0.0])


def test_moments_favour_what_is_executed() -> None:
    random, plan = np.random.default_rng(0), VlaPlan()
    moments = [draw_moment(100, 3, plan.horizon, plan.flow, random) for _ in range(4000)]
    executed = [moment.time * plan.horizon < plan.execution_horizon for moment in moments]
    assert np.mean(executed) > 0.5 and np.mean([moment.restarted for moment in moments]) == pytest.approx(0.1, abs=0.02)


@given(st.integers(0, 2**32 - 1), st.integers(1, 30), st.integers(0, 9))
def test_moments_lie_within_horizon_and_episode(seed: int, left: int, delay: int) -> None:
    moment = draw_moment(left, 3, 10, FlowDraws(delay=delay, lateness=2), np.random.default_rng(seed))
    assert 0 <= moment.begun <= min(delay, left - 1) and 0 <= moment.late <= 2
    assert moment.time > 0.0 and moment.begun + 10 * moment.time <= 10.0 + 1e-9


def test_steps_that_are_answered_as_taught_repeat_the_demonstration() -> None:
    position = UNITS.begins(np.array([10.0, 0.0, 0.5]), STATE[0])
    np.testing.assert_allclose(position, [9.0, 0.0, 0.5], err_msg="nothing was sent: the joint's place, not a pose")
    position, of_data = path().told[0], path()
    for index in range(3):
        answer = answer_at(of_data, 0, Moment(0, index / 4, 0, np.zeros(3)), 4, STILL, UNITS)
        action = UNITS.action(position, answer.step)
        np.testing.assert_allclose(action, ACTION[index], rtol=1e-6)
        position = np.where(ABSOLUTE, action, position + action)
    elsewhere = np.array([10.5, 0.0, 0.5])
    np.testing.assert_allclose(UNITS.begins(elsewhere, STATE[0]), elsewhere, err_msg="something was sent")


def test_scales_are_of_quantiles_and_never_nothing() -> None:
    random = np.random.default_rng(0)
    changes = np.stack((random.uniform(-3, 1, 5000), np.zeros(5000), np.zeros(5000)), axis=1)
    changes[7, 2] = -0.8  # a gripper that is switched once
    scale = scale_of(changes)
    assert scale[0] == pytest.approx(2.96, abs=0.03)
    assert scale[1] == 1.0 and scale[2] == 0.8


def test_batches_come_in_order_whatever_threads_do() -> None:
    assert list(ahead(lambda step: step * 10, 3, 9, workers=3)) == [(step, step * 10) for step in range(3, 9)]
    assert list(ahead(lambda step: step, 4, 4, workers=2)) == []
    with pytest.raises(ZeroDivisionError):
        list(ahead(lambda step: 1 // (2 - step), 0, 9, workers=2))


@pytest.mark.parametrize("name", ["vla", "vla_small"])
def test_shipped_plans_are_read(name: str) -> None:
    plan = read_plan(ROOT / "config" / "training" / f"{name}.yaml", VlaPlan)
    assert plan.flow.delay >= 16 and plan.horizon >= 24
