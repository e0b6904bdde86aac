"""A policy alone against the simulated robot, many episodes at once: how often does it do what it is told?"""

from __future__ import annotations

import functools
import multiprocessing
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from streaming_vla.evaluation.pilot import Pilot, PilotOptions
from streaming_vla.evaluation.records import EpisodeRecord, Frame
from streaming_vla.policy.loading import load_policy
from streaming_vla.robots.metaworld import ENVIRONMENT_STEP_S, MetaWorldRobot
from streaming_vla.robots.tasks import TASKS, get_task, unrelated

INSTRUCTIONS = ("default", "held_out", "wrong")
FRAME_EVERY = 10  # steps between the pictures of a film strip


@dataclass(frozen=True)
class Trial:
    """One episode to run.

    Args:
        instruction: which wording the policy is given (INSTRUCTIONS); "wrong" is that of another task.
        maximum_steps: the episode fails when it lasts longer.
    """

    task: str
    seed: int
    instruction: str = "default"
    maximum_steps: int = 300


@dataclass(frozen=True)
class EpisodeResult:
    """How an episode ended; `record` holds pictures only when they were asked for."""

    trial: Trial
    success: bool
    steps: int
    record: EpisodeRecord | None = field(default=None, compare=False)


def wording(trial: Trial) -> str:
    """Return the instruction of a trial; the same trial gives the same one.

    Raises:
        ValueError: the kind of instruction is unknown, or no such task.
    """
    task = get_task(trial.task)
    if trial.instruction == "default":
        return task.instructions[0]
    if trial.instruction == "held_out":
        return task.held_out[trial.seed % len(task.held_out)]
    if trial.instruction != "wrong":
        raise ValueError(f"instruction '{trial.instruction}' is unknown, choose one of {', '.join(INSTRUCTIONS)}")
    others = unrelated(task.name, TASKS)
    return TASKS[others[trial.seed % len(others)]].instructions[0]


def evaluate(
    checkpoint: Path, trials: Iterable[Trial], options: PilotOptions, processes: int = 1, pictures: bool = False
) -> Iterator[EpisodeResult]:
    """Run trials in parallel processes; yields results as they come.

    Args:
        pictures: keep a picture of every camera now and then, for a film strip.
    """
    context = multiprocessing.get_context("spawn")
    run = functools.partial(_run, checkpoint=checkpoint, options=options, pictures=pictures)
    # unlike multiprocessing's Pool, which waits for ever, it raises BrokenProcessPool when a process has been killed
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        try:
            for future in as_completed([pool.submit(run, trial) for trial in trials]):
                yield future.result()
        finally:
            pool.shutdown(cancel_futures=True)


@functools.cache
def _tools_of_process(checkpoint: Path, options: PilotOptions) -> tuple[Pilot, MetaWorldRobot]:
    torch.set_num_threads(1)
    policy = load_policy(checkpoint)
    return Pilot(policy, options), MetaWorldRobot(image_size=2 * policy.spec.image_size)


def _run(trial: Trial, checkpoint: Path, options: PilotOptions, pictures: bool) -> EpisodeResult:
    pilot, robot = _tools_of_process(checkpoint, options)
    instruction = wording(trial)
    robot.reset(trial.task, trial.seed)
    pilot.begin(instruction, trial.seed)
    record = EpisodeRecord(options.head, trial.task, trial.seed, instruction, 0, ENVIRONMENT_STEP_S, begin_s=0.0)
    step = 0
    while not (record.success or robot.failed) and step < trial.maximum_steps:
        if pictures and step % FRAME_EVERY == 0:
            _photograph(record, robot, step)
        step += 1
        record.success = robot.step(pilot(robot))
    record.end_s = step * ENVIRONMENT_STEP_S
    if pictures:
        _photograph(record, robot, step)
    return EpisodeResult(trial, record.success, step, record if pictures else None)


def _photograph(record: EpisodeRecord, robot: MetaWorldRobot, step: int) -> None:
    for camera in robot.cameras:
        picture = np.ascontiguousarray(robot.render(camera))
        record.frames.append(Frame(step * ENVIRONMENT_STEP_S, camera, picture))
