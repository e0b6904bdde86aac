"""What an observation learns: where the robot is later on, and what the expert does there."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from streaming_vla.policies.compact.config import CompactConfig
from streaming_vla.policies.compact.language import UNKNOWN
from streaming_vla.sim.metaworld import MetaWorldRobot
from streaming_vla.training.dataset import Demonstrations
from streaming_vla.training.episode import WINDOW, record_episode
from streaming_vla.training.plan import Recording
from streaming_vla.training.windows import Track, draw_queries, phases

FRAMES, STEPS = 10, 30
CONFIG = CompactConfig(words=(UNKNOWN, "the", "window"), width=48, layers=2, image_size=32)


def track(until: int = STEPS - 1) -> Track:
    random = np.random.default_rng(0)
    executed, path, answer = random.uniform(-1, 1, (3, STEPS, 4)).astype(np.float32)
    step = np.arange(1, STEPS, 3, dtype=np.int32)
    window = np.zeros((FRAMES, 16, 4), dtype=np.float32)
    return Track(step, executed, window, executed[step - 1], path, answer, np.full(FRAMES, until))


def test_moments_lie_within_the_horizon_and_have_the_state_and_the_answer_of_their_step() -> None:
    made = track()
    drawn = draw_queries(made, 2, 500, 12, np.random.default_rng(0))
    assert set(drawn.age) == set(range(12))
    np.testing.assert_array_equal(drawn.state, made.path[7 + drawn.age])
    np.testing.assert_array_equal(drawn.answer, made.answer[7 + drawn.age])


def test_moments_end_with_the_episode_and_with_what_the_picture_tells() -> None:
    random = np.random.default_rng(0)
    assert set(draw_queries(track(), FRAMES - 1, 100, 12, random).age) == {0, 1}
    assert set(draw_queries(track(until=9), 2, 100, 12, random).age) == {0, 1, 2}


def test_nobody_knows_when_a_wait_ends() -> None:
    step = np.arange(0, 30, 3, dtype=np.int32)
    waiting = np.array([False, False, True, True, True, False, False, False, False, False])
    assert phases(step, waiting, 30).tolist() == [3, 3, 12, 12, 12, 29, 29, 29, 29, 29]
    assert (phases(step, np.zeros(10, dtype=bool), 30) == 29).all()


def test_a_recording_has_the_state_and_the_experts_answer_of_every_step() -> None:
    robot = MetaWorldRobot(image_size=64)
    options = Recording(episodes={"reach": 1}, frame_every=5, maximum_steps=40, burst_probability=0.2)
    arrays = record_episode(robot, "reach", 1, options, 32)
    for frame, step in enumerate(arrays["step"]):
        np.testing.assert_array_equal(arrays["path"][step], arrays["state"][frame])
        np.testing.assert_array_equal(arrays["answer"][step], arrays["window"][frame, 0])
    assert arrays["window"].shape[1] == WINDOW
    assert (arrays["answer"] != arrays["executed"]).any(), "bursts are executed, not learned"
    robot.close()


def test_the_gain_is_what_an_action_changes_of_the_state(folder: Path) -> None:
    data = Demonstrations(folder, CONFIG)
    wanted = np.zeros((4, 4), dtype=np.float32)
    wanted[:3, :3] = np.random.default_rng(0).normal(size=(3, 3))  # the gripper's command is absolute
    for episode in data.episodes:
        before = np.cumsum(episode.track.executed, axis=0) - episode.track.executed
        episode.track.path[:] = before @ wanted.T
    np.testing.assert_allclose(data.state_gain(), wanted, atol=1e-3)
