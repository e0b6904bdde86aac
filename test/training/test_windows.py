"""Which actions an observation learns: its own, late ones, or those behind actions of no expert."""

from __future__ import annotations

import numpy as np
import pytest

from streaming_vla.sim.metaworld import MetaWorldRobot
from streaming_vla.training.episode import BRANCH_FIELDS, WINDOW, branch, record_episode
from streaming_vla.training.plan import Recording, Source
from streaming_vla.training.windows import Branches, Track, draw_window

FRAMES, STEPS = 10, 30
SOURCE = Source(tasks={"reach": 1.0})


def track(branches: Branches | None = None) -> Track:
    random = np.random.default_rng(0)
    executed = random.uniform(-1, 1, (STEPS, 4)).astype(np.float32)
    step = np.arange(1, STEPS, 3, dtype=np.int32)
    window = np.arange(FRAMES, dtype=np.float32)[:, None, None] * np.ones((1, 16, 4), dtype=np.float32)
    return Track(step, executed, window, executed[step - 1], branches)


def test_without_options_a_picture_learns_what_follows_it() -> None:
    made = track()
    got = draw_window(made, 4, SOURCE, np.random.default_rng(0))
    np.testing.assert_array_equal(got.actions, made.window[4])
    np.testing.assert_array_equal(got.previous, made.executed[12])
    assert not got.pending.any()
    np.testing.assert_allclose(got.since_start, made.executed[:13].sum(axis=0), rtol=1e-6)


def test_a_late_window_has_the_actions_before_it_pending() -> None:
    made, random = track(), np.random.default_rng(0)
    source = SOURCE.model_copy(update={"delay": (0, 7)})
    later = set()
    for _ in range(200):
        got = draw_window(made, 4, source, random)
        frame = int(got.actions[0, 0])
        later.add(frame)
        begin, end = made.step[4], made.step[frame]
        np.testing.assert_allclose(got.pending, made.executed[begin:end].sum(axis=0), rtol=1e-6)
        np.testing.assert_array_equal(got.previous, made.previous[frame])
        assert (got.prompt == 4.0).all(), "a chunk learns what follows the picture"
    assert later == {4, 5, 6}
    last = draw_window(made, FRAMES - 1, source, random)
    assert last.actions[0, 0] == FRAMES - 1, "there is no frame behind the last one"


def test_a_counterfactual_window_where_there_is_one() -> None:
    pending = np.full((FRAMES, 4), np.nan, dtype=np.float32)
    pending[3] = 2.0
    previous, window = np.ones((FRAMES, 4), dtype=np.float32), np.full((FRAMES, 16, 4), -5.0, dtype=np.float32)
    made = track(Branches(pending, previous, window))
    source = SOURCE.model_copy(update={"counterfactual": 1.0})
    got = draw_window(made, 3, source, np.random.default_rng(0))
    assert (got.prompt == 3.0).all()
    assert (got.actions == -5.0).all() and (got.pending == 2.0).all() and (got.previous == 1.0).all()
    assert draw_window(made, 4, source, np.random.default_rng(0)).actions[0, 0] == 4.0
    assert draw_window(made, 3, SOURCE, np.random.default_rng(0)).actions[0, 0] == 3.0


@pytest.fixture(scope="module")
def robot() -> MetaWorldRobot:
    return MetaWorldRobot(image_size=64)


def test_a_branch_leaves_the_robot_where_it_was(robot: MetaWorldRobot) -> None:
    robot.reset("reach", 0)
    before, expected = robot.state(), robot.expert_action()
    pending, last, window = branch(robot, 4, np.random.default_rng(0))
    np.testing.assert_array_equal(robot.state(), before)
    np.testing.assert_array_equal(robot.expert_action(), expected)
    np.testing.assert_allclose(pending, 4 * last)
    assert window.shape == (WINDOW, 4) and not np.array_equal(window[0], expected)


def test_branches_are_recorded_at_a_share_of_the_frames(robot: MetaWorldRobot) -> None:
    options = Recording(episodes={"reach": 1}, counterfactual=0.5, frame_every=5, maximum_steps=60)
    arrays = record_episode(robot, "reach", 1, options, 32)
    has = np.isfinite(arrays["branch_pending"][:, 0])
    assert 0 < has.sum() < len(has)
    assert all(arrays[name].shape[0] == len(arrays["step"]) for name in BRANCH_FIELDS)
    assert np.isfinite(arrays["branch_window"][has]).all()
