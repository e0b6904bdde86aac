"""Demonstrations as safetensors shards, one episode each: recorded in parallel, resumed where they stopped."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file

from streaming_vla.policies.compact.checkpoint import load_policy
from streaming_vla.sim.metaworld import MetaWorldRobot
from streaming_vla.sim.tasks import HELD_OUT_SEED, get_task
from streaming_vla.training.episode import record_episode
from streaming_vla.training.plan import Recording
from streaming_vla.training.shard import Shard
from streaming_vla.workbench.evaluation.closed_loop_runner import ClosedLoopRunner, RunnerOptions
from streaming_vla.workbench.processes import RESUMED, map_in_processes

SEEDS_AT_ONCE = 5  # a process keeps one scene for this many episodes


def wanted_shards(folder: Path, recording: Recording) -> list[Shard]:
    """Return the shards of a recording, in blocks of seeds so that all tasks grow together.

    Raises:
        ValueError: a seed that is for evaluation only.
    """
    first, tasks = recording.first_seed, recording.episodes
    last = first + max(tasks.values(), default=0)
    if last > HELD_OUT_SEED:
        raise ValueError(
            f"training seeds must stay below {HELD_OUT_SEED} (evaluation starts there), got {first} to {last - 1}"
        )
    shards = []
    for begin in range(first, last, SEEDS_AT_ONCE):
        for task, episodes in tasks.items():
            seeds = range(begin, min(begin + SEEDS_AT_ONCE, first + episodes))
            shards += [Shard(folder, task, seed, recording.piloted) for seed in seeds]
    return shards


def record(
    shards: Sequence[Shard], recording: Recording, image_size: int, processes: int = 1, pilot: Path | None = None
) -> Iterator[Shard]:
    """Record every shard that does not exist; yields each as it is written. Can be stopped and run again.

    Args:
        image_size: stored picture size in pixels.
        pilot: checkpoint of the policy that is at the wheel at first.

    Raises:
        WorkerLost: a process was killed.
    """
    missing = [shard for shard in shards if not shard.path.exists()]
    if missing:
        shards[0].folder.mkdir(parents=True, exist_ok=True)
    work = functools.partial(_record_shard, recording=recording, image_size=image_size, checkpoint=pilot)
    for shard, _ in map_in_processes(work, missing, processes, SEEDS_AT_ONCE, RESUMED):
        yield shard


@functools.cache
def _robot_of_process(image_size: int) -> MetaWorldRobot:
    torch.set_num_threads(1)
    return MetaWorldRobot(image_size)


@functools.cache
def _pilot_of_process(checkpoint: Path) -> ClosedLoopRunner:
    return ClosedLoopRunner(load_policy(checkpoint), RunnerOptions(age=2))


def _record_shard(shard: Shard, recording: Recording, image_size: int, checkpoint: Path | None) -> None:
    robot = _robot_of_process(2 * image_size)
    pilot = None
    if checkpoint is not None:
        pilot = _pilot_of_process(checkpoint)
        instructions = get_task(shard.task).instructions
        pilot.begin(instructions[shard.seed % len(instructions)], shard.seed)
    arrays = record_episode(robot, shard.task, shard.seed, recording, image_size, pilot)
    partial = shard.path.with_suffix(f".{os.getpid()}")
    about = {"task": shard.task, "seed": str(shard.seed), "cameras": ",".join(robot.cameras)}
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, partial, metadata=about)
    partial.rename(shard.path)
