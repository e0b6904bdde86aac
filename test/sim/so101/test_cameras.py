"""What the two cameras see, and that they can look from a thread of their own."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from streaming_vla.sim.so101.cameras import CameraThread, Pictures
from streaming_vla.sim.so101.robot import CONTROL_SUBSTEPS, Instant, So101Robot
from streaming_vla.sim.so101.scene import CUBES

SEEDS = range(10_000, 10_012)
SIZE = (160, 120)


@pytest.fixture(scope="module")
def robot() -> Iterator[So101Robot]:
    robot = So101Robot(SIZE)
    yield robot
    robot.close()


def glowing(picture: npt.NDArray[np.uint8], colour: str) -> int:
    """Count the pixels of a cube's colour."""
    channel = list(CUBES).index(colour)
    values = picture.astype(np.int64)
    others = np.delete(values, channel, axis=2).max(axis=2)
    return int((values[..., channel] > 1.7 * others).sum())


def white(picture: npt.NDArray[np.uint8]) -> int:
    return int((picture.min(axis=2) > 245).sum())


def test_the_overhead_camera_sees_every_cube_and_the_square(robot: So101Robot) -> None:
    for seed in SEEDS:
        robot.reset("push", seed)
        picture = robot.render("overhead")
        assert picture.shape == (120, 160, 3) and picture.dtype == np.uint8
        middle = picture[:, 20:140]  # the square that is cut out of a picture for a policy
        assert all(glowing(middle, colour) > 25 for colour in CUBES), seed
        assert white(middle) > 150, seed
        assert 60 < picture.mean() < 220, "dark or burnt out"


def test_the_wrist_camera_sees_what_is_grasped(robot: So101Robot) -> None:
    for seed in SEEDS:
        robot.reset("pick", seed)
        while not robot.success:
            robot.step(robot.expert_action())
        target = next(colour for colour in CUBES if colour in robot.instruction)
        assert glowing(robot.render("wrist"), target) > 300, seed


def test_pictures_follow_the_arm(robot: So101Robot) -> None:
    robot.reset("touch", 10_000)
    before = robot.observe().pictures
    assert set(before) == {"overhead", "wrist"}
    for _ in range(20):
        robot.step(robot.expert_action())
    after = robot.observe().pictures
    for camera in before:
        assert np.abs(before[camera].astype(int) - after[camera]).mean() > 1.0


def test_a_picture_of_another_size_is_that_size() -> None:
    robot = So101Robot((64, 64), ("wrist",))
    robot.reset("touch", 1)
    seen = robot.observe().pictures
    robot.close()
    assert list(seen) == ["wrist"] and seen["wrist"].shape == (64, 64, 3)


class Album:
    """Keeps what a camera thread delivers."""

    def __init__(self) -> None:
        self.pages: list[tuple[Instant, Any, Pictures]] = []
        self.threads: set[int] = set()

    def __call__(self, instant: Instant, tag: Any, pictures: Pictures) -> None:
        self.pages.append((instant, tag, pictures))
        self.threads.add(threading.get_ident())


def test_a_thread_takes_the_same_pictures_of_its_instants(robot: So101Robot) -> None:
    album = Album()
    cameras = CameraThread(album, SIZE)
    robot.reset("pick", 10_003)
    wanted = []
    for count in range(1, 4):
        for _ in range(8):
            robot.step(robot.expert_action())
        wanted.append(robot.observe().pictures)
        assert cameras.take(robot.instant(), count)
        robot.step(robot.expert_action())  # the instant is a copy
        cameras.wait()
    cameras.close()
    assert album.threads and threading.get_ident() not in album.threads
    assert [tag for _, tag, _ in album.pages] == [1, 2, 3]
    for (_, _, pictures), truth in zip(album.pages, wanted, strict=True):
        for camera in truth:
            difference = np.abs(pictures[camera].astype(int) - truth[camera])
            assert difference.mean() < 0.05, camera


def test_while_it_is_busy_it_takes_no_more_and_control_goes_on(robot: So101Robot) -> None:
    album = Album()
    cameras = CameraThread(album, (1280, 960))
    robot.reset("touch", 10_001)
    assert cameras.take(robot.instant())
    refused = steps = 0
    while not cameras.idle:
        refused += not cameras.take(robot.instant())
        robot.advance(CONTROL_SUBSTEPS)
        steps += 1
    assert refused >= 1 and steps >= 1
    cameras.close()
    assert len(album.pages) == 1
    assert album.pages[0][0].time_s == 0.0


def test_what_goes_wrong_in_the_thread_is_said_to_who_asks(robot: So101Robot) -> None:
    def broken(instant: Instant, tag: Any, pictures: Pictures) -> None:
        raise OSError("no disk")

    cameras = CameraThread(broken, SIZE)
    robot.reset("touch", 1)
    cameras.take(robot.instant())
    with pytest.raises(OSError, match="no disk"):
        cameras.wait()
    cameras.close()


def test_a_picture_that_is_too_large_is_refused_at_the_start() -> None:
    with pytest.raises(ValueError, match="a picture of 5000 x 5000 pixels: expected 1 x 1 to 1280 x 960"):
        CameraThread(Album(), (5000, 5000))


def test_a_wrong_order_of_imports_is_refused_before_it_aborts_the_process() -> None:
    lines = (
        "import mujoco",
        "from streaming_vla.sim.so101.robot import So101Robot",
        "robot = So101Robot(); robot.reset('touch', 1); robot.observe()",
    )
    free = {key: value for key, value in os.environ.items() if key != "MUJOCO_GL"}
    command = [sys.executable, "-c", "\n".join(lines)]
    run = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60, env=free)
    assert run.returncode == 1
    assert "RenderError: mujoco was imported before streaming_vla.sim" in run.stderr
