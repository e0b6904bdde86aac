"""Other endings of memory episodes: the expert's way to each goal, and sequences that are put together from two."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from streaming_vla.policies.compact.config import CompactConfig
from streaming_vla.policies.compact.language import UNKNOWN
from streaming_vla.sim.memory_episode import Phase
from streaming_vla.sim.metaworld import MetaWorldRobot
from streaming_vla.training.dataset import Demonstrations
from streaming_vla.training.endings import DECISIONS, endings
from streaming_vla.training.episode import record_episode
from streaming_vla.training.plan import Flow, Recording, Source
from streaming_vla.training.shard import Shard
from streaming_vla.training.windows import Track

WAITS = (60, 60)
SEEDS = range(4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    robot, made = MetaWorldRobot(image_size=64), tmp_path_factory.mktemp("episodes")
    options = Recording(episodes={"cued-reach": 4}, frame_every=4, perturbed=0.0, wait_steps=WAITS)
    for seed in SEEDS:
        arrays = record_episode(robot, "cued-reach", seed, options, 32)
        save_file(arrays, Shard(made, "cued-reach", seed).path, {"task": "cued-reach", "seed": str(seed)})
    return made


def test_the_ending_that_happened_is_as_recorded() -> None:
    robot = MetaWorldRobot(image_size=0)
    robot.reset("cued-reach", 7, WAITS)
    assert robot.memory is not None
    states, path, executed = [], [], []
    while robot.memory.phase is not Phase.CHOICE or len(states) < 8:
        if robot.memory.phase is Phase.CHOICE:
            states.append(robot.state())
        path.append(robot.state())
        executed.append(robot.expert_action())
        robot.step(executed[-1])
    count = len(states)
    window = np.stack([np.stack(executed[-count:])] * count)
    answer, step = np.stack(executed), len(executed) - count + np.arange(count)
    previous = np.stack([executed[-count - 1]] * count)
    track = Track(step, answer, window, previous, np.stack(path), answer, np.full(count, len(answer) - 1))
    told = endings("cued-reach", 7, track, np.stack(states), 0)
    assert len(told) == 3
    right, goal = told[robot.memory.answer]
    assert goal == robot.memory.goals[robot.memory.answer].position
    assert np.abs(right.window[0, :, :3] - window[0, :, :3]).mean() < 0.12
    np.testing.assert_allclose(right.answer, answer, atol=1e-6)
    wrong, _ = told[(robot.memory.answer + 1) % 3]
    np.testing.assert_array_equal(wrong.answer[: step[0]], answer[: step[0]])
    assert np.abs(wrong.answer[step[0] :, :3] - answer[step[0] :, :3]).mean() > 0.3
    assert np.abs(wrong.window[0, :, :3] - window[0, :, :3]).mean() > 0.3
    np.testing.assert_array_equal(wrong.window[..., 3], window[..., 3])


def test_a_task_without_memory_has_no_other_ending() -> None:
    empty = np.zeros((1, 16, 4), dtype=np.float32)
    with pytest.raises(ValueError, match="'reach' has no other endings"):
        step, actions = np.zeros(1, dtype=np.int32), empty[0]
        track = Track(step, actions, empty, empty[:, 0], actions, actions, np.zeros(1, dtype=np.int64))
        endings("reach", 0, track, empty[0], 0)


def test_spliced_sequences_go_where_their_own_cue_says(folder: Path) -> None:
    data = Demonstrations(folder, CompactConfig(words=(UNKNOWN,), width=48, layers=2, image_size=32), Flow(draws=1))
    source = Source(
        tasks={"cued-reach": 1.0}, length=40, stride=(8, 8), memory=True, wrong_instruction=0.0, spliced=1.0
    )
    random = np.random.default_rng(0)
    goals = {tuple(np.round(goal, 4)): answer for seed in SEEDS for answer, goal in enumerate(_goals(seed))}
    for _ in range(20):
        batch = data.sample(1, source, random)
        assert len(set(batch.recall[0])) == 1
        assert goals[rounded(batch.scene[0, -1, :3])] == batch.recall[0, 0]
        chosen = [rounded(place) in goals for place in batch.scene[0, :, :3]]
        shown = np.isfinite(batch.goals[0, :, :3]).all(axis=(-2, -1))
        np.testing.assert_array_equal(shown, chosen)
        right = batch.goals[0, -1, batch.recall[0, 0]]
        np.testing.assert_allclose(right, batch.scene[0, -1, :2], rtol=1e-6)
        assert sum(chosen) <= DECISIONS and chosen == sorted(chosen), "nothing but the first of the choice"


def rounded(place: Sequence[float]) -> tuple[float, ...]:
    return tuple(round(float(each), 4) for each in place)


def _goals(seed: int) -> list[tuple[float, float, float]]:
    robot = MetaWorldRobot(image_size=0)
    robot.reset("cued-reach", seed, WAITS)
    assert robot.memory is not None
    return [goal.position for goal in robot.memory.goals]


def test_a_pilot_that_forgets_may_choose_wrongly(tmp_path: Path) -> None:
    robot = MetaWorldRobot(image_size=64)
    options = Recording(episodes={"cued-reach": 1}, frame_every=4, perturbed=0.0, wait_steps=WAITS)
    arrays = record_episode(robot, "cued-reach", 0, options, 32) | {"success": np.array([False])}
    about = {"task": "cued-reach", "seed": "0"}
    for piloted, seed in ((False, 0), (True, 1)):
        save_file(arrays, Shard(tmp_path, "cued-reach", seed, piloted).path, about)
    data = Demonstrations(tmp_path, CompactConfig(words=(UNKNOWN,), width=48, layers=2, image_size=32), Flow(draws=1))
    [kept] = data.episodes
    assert data.failed == 1 and kept.name == "cued-reach_1_00001" and kept.forgetful
