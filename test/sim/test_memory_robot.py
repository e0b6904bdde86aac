"""Memory tasks on the simulated arm: experts, outcomes, branches, and what the cameras see."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from streaming_vla.sim.memory_episode import Phase
from streaming_vla.sim.memory_rules import EPISODES
from streaming_vla.sim.metaworld import CAMERAS, SUBSTEPS, MetaWorldRobot

NAMES = tuple(EPISODES)
SHORT = (40, 60)
LAMP_PIXELS = (slice(6, 24), slice(74, 96))  # rows and columns of the lamp in corner2 at 96 px


@pytest.fixture(scope="module")
def robot() -> MetaWorldRobot:
    return MetaWorldRobot(image_size=0)


@pytest.fixture(scope="module")
def seeing() -> Iterator[MetaWorldRobot]:
    robot = MetaWorldRobot(image_size=192)
    yield robot
    robot.close()


def run_expert(robot: MetaWorldRobot) -> list[npt.NDArray[np.float32]]:
    """Let the expert finish and return the hand's states."""
    states = [robot.state()]
    while not (robot.success or robot.failed):
        robot.step(robot.expert_action())
        states.append(robot.state())
    return states


def wait_for_choice(robot: MetaWorldRobot) -> None:
    """Let the expert follow the marker until the goals appear."""
    assert robot.memory is not None
    while robot.memory.phase is not Phase.CHOICE:
        robot.step(robot.expert_action())


def picture(robot: MetaWorldRobot, camera: str = "corner2") -> npt.NDArray[np.int64]:
    """Return the picture at the policy's size, [96, 96, 3]."""
    return cv2.resize(robot.render(camera), (96, 96), interpolation=cv2.INTER_AREA).astype(np.int64)


def pixels(image: npt.NDArray[np.int64], colour: int) -> int:
    """Count pixels that glow green (0), blue (1) or yellow (2)."""
    red, green, blue = np.moveaxis(image, -1, 0)
    glows = (
        (green > 120) & (red < 100) & (blue < 120),
        (blue > 150) & (red < 110) & (green < 140),
        (red > 170) & (green > 140) & (blue < 90),
    )
    return int(glows[colour].sum())


@pytest.mark.parametrize("name", NAMES)
def test_the_expert_succeeds(robot: MetaWorldRobot, name: str) -> None:
    for seed in range(5000, 5004):
        robot.reset(name, seed, SHORT)
        run_expert(robot)
        assert robot.success and not robot.failed


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_gives_the_same_episode(robot: MetaWorldRobot, name: str) -> None:
    runs = []
    for _ in range(2):
        robot.reset(name, 42, SHORT)
        runs.append(np.stack(run_expert(robot)))
    np.testing.assert_array_equal(*runs)


@pytest.mark.parametrize("name", NAMES)
def test_another_goal_is_a_failure_for_good(robot: MetaWorldRobot, name: str) -> None:
    robot.reset(name, 9, SHORT)
    wait_for_choice(robot)
    assert robot.memory is not None
    right = robot.memory.answer
    robot.memory.answer = (right + 1) % robot.memory.choices  # what somebody believes who remembers it wrongly
    target = robot.memory.target()
    robot.memory.answer = right
    while not (robot.success or robot.failed):
        error = np.array((target[0], target[1], 0.2)) - robot.state()[:3]
        robot.step(np.append(np.clip(25 * error, -1, 1), -1.0))
    assert robot.failed and not robot.success
    for _ in range(60):
        assert not robot.step(robot.expert_action())
    robot.reset(name, 9, SHORT)
    assert not robot.failed


def test_substeps_of_the_node_keep_the_episodes_clock(robot: MetaWorldRobot) -> None:
    robot.reset("cued-reach", 1)
    for _ in range(10 * SUBSTEPS - 1):
        robot.advance(1)
    assert robot.memory is not None and robot.memory.phase is Phase.CUE
    robot.advance(1)
    assert robot.memory.step == 10 and robot.memory.phase is Phase.WAIT


def test_labels_are_there_in_memory_tasks_only(robot: MetaWorldRobot) -> None:
    robot.reset("return", 4)
    assert robot.memory is not None and robot.memory_label() == robot.memory.answer
    np.testing.assert_allclose(robot.state()[:2], robot.memory.target()[:2], atol=0.04)
    robot.reset("reach", 4)
    assert robot.memory_label() == -1 and robot.memory is None


def test_a_branch_leaves_the_episode_as_it_was(robot: MetaWorldRobot) -> None:
    robot.reset("cued-reach", 6, SHORT)
    wait_for_choice(robot)
    here = robot.snapshot()
    first = np.stack(run_expert(robot))
    assert robot.success
    robot.restore(here)
    assert not robot.success and robot.memory is not None and not robot.memory.success
    np.testing.assert_array_equal(first, np.stack(run_expert(robot)))


def test_the_lamp_is_seen_then_dark_and_the_goals_only_at_the_end(seeing: MetaWorldRobot) -> None:
    colours = set()
    for seed in range(30, 36):
        seeing.reset("cued-reach", seed, SHORT)
        assert seeing.memory is not None
        answer = seeing.memory.answer
        colours.add(answer)
        lamp = picture(seeing)[LAMP_PIXELS]
        assert [pixels(lamp, colour) > 50 for colour in range(3)] == [colour == answer for colour in range(3)]
        for _ in range(10):
            seeing.step(seeing.expert_action())
        assert [pixels(picture(seeing)[LAMP_PIXELS], colour) for colour in range(3)] == [0, 0, 0]
        while seeing.memory.step < seeing.memory.cue_steps + seeing.memory.wait_steps - 1:
            seeing.step(seeing.expert_action())
        table = picture(seeing)[:, :74]  # left of both lamps
        assert max(pixels(table, colour) for colour in range(3)) <= 2  # edges of the cyan finger
        seeing.step(seeing.expert_action())
        goals = picture(seeing)[:, :82]
        assert min(pixels(goals, colour) for colour in range(3)) >= 12
        seeing.step(seeing.expert_action())
    assert colours == {0, 1, 2}


@pytest.mark.parametrize("camera", CAMERAS)
def test_both_cameras_see_the_marker_that_the_hand_follows(seeing: MetaWorldRobot, camera: str) -> None:
    seeing.reset("cued-reach", 50, SHORT)
    assert seeing.memory is not None
    for _ in range(30):
        seeing.step(seeing.expert_action())
    assert seeing.memory.phase is Phase.WAIT
    image = picture(seeing, camera)
    image = image[50:, 20:74] if camera == "corner2" else image[30:75, 25:]
    assert (image.min(-1) > 215).sum() >= 8
