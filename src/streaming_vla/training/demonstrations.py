"""Demonstrations from Meta-World's scripted experts, with perturbations, as sharded safetensors files.

One shard holds one episode: a frame for every environment step. A burst of random actions now and then
pushes the arm off the expert's path, so that the expert's way back is in the data; such actions are kept
(they were executed) but marked as not clean, and never become a target.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

from streaming_vla.robots.metaworld import MetaWorldRobot
from streaming_vla.robots.tasks import HELD_OUT_SEED, TASKS

MAXIMUM_STEPS = 250
GRIPPER_KEPT = 0.85  # share of the bursts that leave the gripper alone: a dropped object is rarely recovered
SEEDS_AT_ONCE = 5  # a process keeps one scene for this many episodes
STEPS_AFTER_SUCCESS = 16  # so that a window of the full horizon exists near the end
JPEG_QUALITY = 92


@dataclass(frozen=True)
class DemonstrationOptions:
    """What to record.

    Args:
        episodes: episodes per task.
        image_size: stored picture size in pixels; rendered at twice that and area-averaged.
        perturbed: share of the episodes with bursts of random actions.
        burst_probability: chance of a burst to begin at a step.
        first_seed: seed of the first episode of every task.
    """

    episodes: int = 100
    image_size: int = 96
    perturbed: float = 0.8
    burst_probability: float = 0.025
    first_seed: int = 0

    def __post_init__(self) -> None:
        if self.first_seed + self.episodes > HELD_OUT_SEED:
            raise ValueError(
                f"training seeds must stay below {HELD_OUT_SEED} (evaluation starts there), "
                f"got {self.first_seed} to {self.first_seed + self.episodes - 1}"
            )


class Perturbation:
    """Bursts of random actions of 3 to 8 steps; asks for the action to execute instead of the expert's."""

    def __init__(self, probability: float, random: np.random.Generator) -> None:
        self._probability = probability
        self._random = random
        self._left = 0
        self._push = np.zeros(4, dtype=np.float32)

    def apply(self, expert: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float32], bool]:
        """Return the action to execute, [4], and whether it is the expert's own."""
        if self._left == 0 and self._random.random() < self._probability:
            self._left = int(self._random.integers(3, 9))
            self._push = self._random.uniform(-1.0, 1.0, 4).astype(np.float32)
            if self._random.random() < GRIPPER_KEPT:
                self._push[3] = np.nan  # the gripper keeps doing what the expert wants
        if self._left == 0:
            return expert, True
        self._left -= 1
        return np.where(np.isnan(self._push), expert, self._push).astype(np.float32), False


def record_episode(robot: MetaWorldRobot, task: str, seed: int, options: DemonstrationOptions) -> dict[str, np.ndarray]:
    """Run the expert once and return the episode's arrays (T frames).

    Returns:
        state [T, 4] float32, action [T, 4] float32 (executed), clean [T] bool (executed was the expert's),
        jpeg [bytes] uint8 and offset [T, cameras, 2] int64 into it, success [1] bool.
    """
    random = np.random.default_rng((seed, len(task), sum(map(ord, task))))
    burst = options.burst_probability if random.random() < options.perturbed else 0.0
    perturbation = Perturbation(burst, random)
    robot.reset(task, seed)
    states, actions, clean, blob, offsets = [], [], [], bytearray(), []
    left = STEPS_AFTER_SUCCESS
    for _ in range(MAXIMUM_STEPS):
        spans = []
        for camera in robot.cameras:
            data = encode_frame(robot.render(camera), options.image_size)
            spans.append((len(blob), len(blob) + len(data)))
            blob += data
        offsets.append(spans)
        states.append(robot.state())
        action, is_clean = perturbation.apply(robot.expert_action())
        actions.append(action)
        clean.append(is_clean)
        if robot.step(action):
            left -= 1
            if left == 0:
                break
    return {
        "state": np.stack(states),
        "action": np.stack(actions),
        "clean": np.array(clean),
        "jpeg": np.frombuffer(bytes(blob), dtype=np.uint8),
        "offset": np.array(offsets, dtype=np.int64),
        "success": np.array([robot.success]),
    }


def encode_frame(picture: npt.NDArray[np.uint8], size: int) -> bytes:
    """Area-average an RGB picture [H, W, 3] to [size, size, 3] and encode it as JPEG."""
    small = cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA)
    _, data = cv2.imencode(".jpg", small[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return data.tobytes()


def shard_path(folder: Path, task: str, seed: int) -> Path:
    """Return the file of one episode."""
    return folder / f"{task}_{seed:05d}.safetensors"


def record(folder: Path, options: DemonstrationOptions, processes: int = 1) -> Iterator[tuple[str, int]]:
    """Record every missing episode; yields (task, seed) as each is written. Can be stopped and run again."""
    folder.mkdir(parents=True, exist_ok=True)
    seeds = range(options.first_seed, options.first_seed + options.episodes)
    blocks = [seeds[start : start + SEEDS_AT_ONCE] for start in range(0, len(seeds), SEEDS_AT_ONCE)]
    missing = [
        (folder, task, seed, options)
        for block in blocks
        for task in TASKS
        for seed in block
        if not shard_path(folder, task, seed).exists()
    ]
    context = multiprocessing.get_context("spawn")
    with context.Pool(processes) as pool:
        yield from pool.imap_unordered(_record_shard, missing, chunksize=SEEDS_AT_ONCE)


@functools.cache
def _robot_of_process(image_size: int) -> MetaWorldRobot:
    return MetaWorldRobot(image_size)


def _record_shard(job: tuple[Path, str, int, DemonstrationOptions]) -> tuple[str, int]:
    folder, task, seed, options = job
    robot = _robot_of_process(2 * options.image_size)
    arrays = record_episode(robot, task, seed, options)
    path = shard_path(folder, task, seed)
    partial = path.with_suffix(f".{os.getpid()}")
    save_file(arrays, partial, metadata={"task": task, "seed": str(seed), "cameras": ",".join(robot.cameras)})
    partial.rename(path)
    return task, seed
