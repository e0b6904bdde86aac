"""A policy alone against the simulated robot: no ROS, no wall clock, one action per environment step."""

from __future__ import annotations

import functools
import multiprocessing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

from kv_cache.cache import SessionCache
from kv_cache.policies import make_policy
from streaming_vla.policy.contract import PolicyObservation, StreamingPolicy
from streaming_vla.policy.loading import load_policy
from streaming_vla.robots.metaworld import MetaWorldRobot
from streaming_vla.training.demonstrations import encode_frame


@dataclass(frozen=True)
class ClosedLoopOptions:
    """How to run an episode.

    Args:
        age: actions of the old context that are executed after a new observation is taken.
        recent: tokens of history, the observation's own included; 0 keeps the newest observation only.
        sinks: tokens of the first observation that always stay.
        maximum_steps: an episode fails when it lasts longer.
    """

    age: int = 0
    recent: int = 0
    sinks: int = 0
    maximum_steps: int = 300


@dataclass(frozen=True)
class EpisodeResult:
    """One episode: whether it succeeded and the environment steps that it took."""

    task: str
    seed: int
    success: bool
    steps: int


class _Runner:
    """One episode of one policy on one robot."""

    def __init__(self, policy: StreamingPolicy, robot: MetaWorldRobot, options: ClosedLoopOptions) -> None:
        self._policy, self._robot, self._options = policy, robot, options
        recent = options.recent or policy.spec.tokens_per_observation
        kept = make_policy("window", sinks=options.sinks, recent=recent, capacity=1)
        self._cache = SessionCache(policy.spec.cache, kept)

    def run(self, task: str, seed: int, instruction: str) -> EpisodeResult:
        """Run to success or to the last step."""
        spec, robot, options = self._policy.spec, self._robot, self._options
        robot.reset(task, seed)
        layout = spec.layout
        self._observe(instruction)
        view = self._cache.view()
        position, index = layout.start(), 0
        for step in range(1, options.maximum_steps + 1):
            action = self._policy.flow_step(view, position, index)
            position, index = layout.advance(position, action), index + 1
            if robot.step(action):
                return EpisodeResult(task, seed, True, step)
            if index == spec.execution_horizon - options.age:
                self._observe(instruction)
            if index == spec.execution_horizon:
                view = self._cache.view()
                position, index = layout.start(action), 0
        return EpisodeResult(task, seed, False, options.maximum_steps)

    def _observe(self, instruction: str) -> None:
        spec, robot = self._policy.spec, self._robot
        images = np.stack([_as_seen(robot.render(camera), spec.image_size) for camera in spec.cameras])
        prefill = self._policy.prefill(PolicyObservation(images, robot.state(), instruction), self._cache.view())
        while True:
            try:
                next(prefill)
            except StopIteration as done:
                self._cache.append(*done.value)
                return


def _as_seen(picture: np.ndarray, size: int) -> np.ndarray:
    """Send a picture through the camera's way to the policy: area average and JPEG."""
    data = np.frombuffer(encode_frame(picture, size), dtype=np.uint8)
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
    assert decoded is not None, "a picture that was just encoded can be decoded"
    return np.ascontiguousarray(decoded[..., ::-1])


def evaluate(
    checkpoint: Path, jobs: list[tuple[str, int, str]], options: ClosedLoopOptions, processes: int = 1
) -> Iterator[EpisodeResult]:
    """Run episodes (task, seed, instruction) in parallel processes; yields results as they come."""
    context = multiprocessing.get_context("spawn")
    run = functools.partial(_run, checkpoint=checkpoint, options=options)
    with context.Pool(processes) as pool:
        yield from pool.imap_unordered(run, jobs, chunksize=4)


@functools.cache
def _runner_of_process(checkpoint: Path, options: ClosedLoopOptions) -> _Runner:
    torch.set_num_threads(1)
    policy = load_policy(checkpoint)
    return _Runner(policy, MetaWorldRobot(image_size=2 * policy.spec.image_size), options)


def _run(job: tuple[str, int, str], checkpoint: Path, options: ClosedLoopOptions) -> EpisodeResult:
    return _runner_of_process(checkpoint, options).run(*job)
