"""Many episodes on the virtual clock, in parallel processes of one thread each."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch

from streaming_vla.engine.latency_profile import find_profile
from streaming_vla.engine.options import CacheOptions
from streaming_vla.policies.contract import FlowPolicy
from streaming_vla.policies.models import AUTO
from streaming_vla.policies.registry import load_policy
from streaming_vla.sim.metaworld import MetaWorldRobot
from streaming_vla.sim.tasks import get_task
from streaming_vla.workbench.evaluation.cache_options import NEWEST_ONLY
from streaming_vla.workbench.processes import AGAIN, WorkerLost, map_in, open_pool
from streaming_vla.workbench.virtual.episode import Disturbance, EpisodeOptions, VirtualEpisode, run_episode
from streaming_vla.workbench.virtual.setup import Setup

Key = TypeVar("Key")
Result = TypeVar("Result")
Robot = TypeVar("Robot", bound=MetaWorldRobot)


@dataclass(frozen=True)
class VirtualRun:
    """One episode to run.

    Args:
        name: of the setup, kept as the record's mode.
        profile: name of a shipped latency profile, or path.
        cache: what is kept of the history.
    """

    name: str
    setup: Setup
    profile: str
    task: str
    seed: int
    model: str = "compact_mt10"
    saliency_model: str = AUTO
    cache: CacheOptions = NEWEST_ONLY

    def run(self) -> VirtualEpisode:
        """Run it; the same run gives the same episode."""
        policy = policy_of_process(self.model, self.saliency_model)
        options = EpisodeOptions(self.name, self.task, self.seed, get_task(self.task).instructions[0], self.cache)
        robot, disturbance = self.scene(2 * policy.spec.image_size)
        return run_episode(self.setup, find_profile(self.profile), policy, robot, options, disturbance)

    def scene(self, image_size: int) -> tuple[MetaWorldRobot, Disturbance | None]:
        """Return the robot of this process, and what happens to its world.

        Args:
            image_size: of its pictures, pixels.
        """
        return robot_of_process(MetaWorldRobot, image_size), None


@functools.cache
def policy_of_process(model: str, saliency_model: str) -> FlowPolicy:
    """Return the policy of this process, with its predictor."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")  # Meta-World's experts warn about constants
    return load_policy(model, saliency_model)


@functools.cache
def robot_of_process(kind: type[Robot], image_size: int) -> Robot:
    """Return the robot of this process of a kind; its scenes are made once."""
    return kind(image_size)


@dataclass(frozen=True)
class _Measured(Generic[Result]):
    """Runs a job and measures it, in a process of its own."""

    measure: Callable[[VirtualEpisode], Result]

    def __call__(self, job: tuple[Key, VirtualRun]) -> Result:
        return self.measure(job[1].run())


def run_all(
    jobs: Sequence[tuple[Key, VirtualRun]],
    measure: Callable[[VirtualEpisode], Result],
    processes: int,
    again: str = AGAIN,
) -> Iterator[tuple[Key, Result]]:
    """Run jobs and yield the key and the measure of each as it is done, with several processes in any order.

    Args:
        measure: a function that a process can be sent.
        processes: one core each; 1 works in this process.
        again: see `processes.map_in`.

    Raises:
        WorkerLost: a process was killed.
    """
    work = _Measured(measure)
    if processes == 1:
        for job in jobs:
            yield job[0], work(job)
        return
    try:
        for (key, _), result in map_in(_pool(processes), work, jobs, at_once=2, again=again):
            yield key, result
    except WorkerLost:
        _pool.cache_clear()
        raise


@functools.cache
def _pool(processes: int) -> ProcessPoolExecutor:
    """Return processes that stay: making the scenes of all tasks takes one of them half a minute."""
    return open_pool(processes)
