"""What an observation learns: where the robot is later on, and what the expert does there."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from streaming_vla.policies.compact.config import CompactConfig
from streaming_vla.policies.compact.language import UNKNOWN
from streaming_vla.sim.metaworld import MetaWorldRobot
from streaming_vla.training.dataset import Demonstrations
from streaming_vla.training.episode import WINDOW, record_episode
from streaming_vla.training.plan import Flow, Recording
from streaming_vla.training.windows import Track, draw_moments, phases

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
    drawn = draw_moments(made, 2, 500, 12, 4, np.random.default_rng(0))
    assert set(drawn.age) == set(range(12))
    np.testing.assert_array_equal(drawn.answer, made.answer[7 + drawn.age])
    behind = np.array([[np.abs(made.path - state).sum(axis=1).argmin() for state in drawn.state]])[0]
    np.testing.assert_array_equal(drawn.state, made.path[behind])
    late = 7 + drawn.age - behind
    assert set(late[drawn.age < 4]) == {0, 1, 2, 3, 4} and set(late) > {6}, "newest, late, or of the picture"
    sums = [made.executed[begin : 7 + age].sum(axis=0) for begin, age in zip(behind, drawn.age, strict=True)]
    np.testing.assert_allclose(drawn.pending, sums, atol=1e-5)


def test_a_chunk_begins_at_the_first_moment() -> None:
    made = dataclasses.replace(track(), window=np.arange(FRAMES, dtype=np.float32)[:, None, None] * np.ones((1, 16, 4)))
    random = np.random.default_rng(0)
    begun = [draw_moments(made, 2, 2, 12, 4, random) for _ in range(200)]
    assert all(each.chunk[0, 0] == 2 + each.age[0] // 3 and each.age[0] % 3 == 0 for each in begun)
    assert {int(each.age[0]) for each in begun} == {0, 3, 6, 9}
    assert sum(each.age[0] == 0 for each in begun) > 100, "half of them, and some of the others"


def test_moments_end_with_the_episode_and_with_what_the_picture_tells() -> None:
    random = np.random.default_rng(0)
    assert set(draw_moments(track(), FRAMES - 1, 100, 12, 4, random).age) == {0, 1}
    assert set(draw_moments(track(until=9), 2, 100, 12, 4, random).age) == {0, 1, 2}


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


def test_pending_actions_are_scaled_by_what_is_usual(folder: Path) -> None:
    data = Demonstrations(folder, CONFIG, Flow(late=4))
    for episode in data.episodes:
        episode.track.executed[:] = [0.5, -0.25, 0.0, 1.0]
    np.testing.assert_allclose(data.pending_scale(), [2.0, 1.0, 1e-3, 4.0], atol=1e-6)
