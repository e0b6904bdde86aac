"""Demonstrations of the SO-101: resumed, of seeds and words to train on, what is told is what was done."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from streaming_vla.datasets.dataset import Dataset
from streaming_vla.datasets.errors import DatasetError
from streaming_vla.datasets.facts import DatasetFacts
from streaming_vla.datasets.parts import PartWriter
from streaming_vla.parameters.load import read
from streaming_vla.policies.compact.model import CompactModel
from streaming_vla.policies.compact.policy import CompactPolicy
from streaming_vla.sim.so101.arm import JOINTS
from streaming_vla.sim.so101.robot import So101Robot
from streaming_vla.sim.so101.scene import CAMERAS
from streaming_vla.sim.so101.tasks import DEVELOPMENT_SEED, get_task
from streaming_vla.training.plan import Recording, load_plan
from streaming_vla.training.setup import SO101_PLAN, planned_config
from streaming_vla.training.so101_demonstrations import RATE, Lesson, demonstrate, join, lessons, recorded, teach

SIZE = 32


def lesson(folder: Path, task: str = "touch", disturbed: float = 1.0) -> Lesson:
    return Lesson(folder, task, (0, 1), SIZE, disturbed, 0.1)


@pytest.fixture(scope="module")
def robot() -> So101Robot:
    return So101Robot((2 * SIZE, 2 * SIZE))


def test_an_episode_is_what_the_expert_did_from_a_place_off_the_way(robot: So101Robot, tmp_path: Path) -> None:
    steps = demonstrate(robot, "touch", 3, lesson(tmp_path))
    assert robot.success and 3 < len(steps) < 100
    words = [text.format(colour=robot.colour) for text in get_task("touch").instructions]
    assert {step.task for step in steps} <= set(words) and len({step.task for step in steps}) == 1
    first = steps[0]
    assert first.pictures["wrist"].shape == (SIZE, SIZE, 3) and first.state.shape == first.action.shape == (6,)
    # nobody disturbs: the arm goes where it is told
    gaps = [np.abs(now.action - after.state).max() for now, after in itertools.pairwise(steps)]
    assert max(gaps[3:]) < 0.15
    calm = demonstrate(robot, "touch", 3, lesson(tmp_path, disturbed=0.0))
    assert np.abs(calm[0].state - first.state).max() > 0.05, "it begins elsewhere"
    again = demonstrate(robot, "touch", 3, lesson(tmp_path))
    np.testing.assert_array_equal([step.action for step in again], [step.action for step in steps])


def test_parts_are_recorded_once_and_become_a_data_set(tmp_path: Path) -> None:
    wanted = lessons(tmp_path / "parts", [Recording(episodes={"touch": 2}, burst_probability=0.1)], SIZE)
    assert [each.seeds for each in wanted] == [(0, 1)] and not recorded(wanted[0])
    assert list(teach(wanted)) == wanted and recorded(wanted[0])
    assert list(teach(wanted)) == [], "what exists is not recorded again"
    assert join(wanted, tmp_path / "set") == 2
    with Dataset(tmp_path / "set") as data:
        assert data.facts.fps == 30 and data.facts.action_names == JOINTS and all(data.facts.action_absolute)
        assert [camera.name for camera in data.facts.cameras] == list(CAMERAS)
    with pytest.raises(DatasetError, match="exists already"):
        join(wanted, tmp_path / "set")


def test_an_unfinished_part_is_recorded_again(tmp_path: Path) -> None:
    cut = lesson(tmp_path)
    PartWriter(cut.path, RATE, CAMERAS).close()
    assert not recorded(cut)
    with PartWriter(cut.path, RATE, CAMERAS) as writer:
        writer.finish(DatasetFacts(RATE, (), JOINTS, JOINTS), {})
    assert recorded(cut)


@pytest.mark.parametrize(
    ("episodes", "first", "sentence"),
    [({"touch": 10}, DEVELOPMENT_SEED - 9, "stay below 9000"), ({"juggle": 1}, 0, "unknown task 'juggle'")],
)
def test_wrong_recordings_are_named(episodes: dict[str, int], first: int, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=sentence):
        lessons(tmp_path, [Recording(episodes=episodes, first_seed=first)], SIZE)


def test_the_plan_and_the_parameter_file_are_of_one_robot() -> None:
    plan, suite = load_plan(SO101_PLAN), read(Path("config/so101.yaml"))
    config = planned_config(plan, ("",), cameras=CAMERAS)
    assert config.action_names == JOINTS == suite.executor.action_names
    assert suite.policy_findings(CompactPolicy(CompactModel(config), "so101").spec) == []
    limits = So101Robot((64, 64))
    low, high = limits._low, limits._high
    np.testing.assert_allclose(config.action_low, low, atol=1e-5)
    np.testing.assert_allclose(config.action_high, high, atol=1e-5)
