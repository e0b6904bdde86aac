"""A policy alone against the simulated robot, many episodes at once: how often does it do what it is told?"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from streaming_vla.policies.registry import load_policy
from streaming_vla.sim.memory_episode import WAIT_STEPS
from streaming_vla.sim.metaworld import MetaWorldRobot
from streaming_vla.sim.options import RobotName
from streaming_vla.sim.so101.robot import So101Robot
from streaming_vla.sim.tasks import TASKS, unrelated
from streaming_vla.workbench.evaluation.closed_loop_runner import ClosedLoopRunner, RunnerOptions
from streaming_vla.workbench.evaluation.memory_map import MemoryMap, map_of_episode
from streaming_vla.workbench.evaluation.memory_outcome import MemoryOutcome, outcome_of
from streaming_vla.workbench.processes import map_in_processes
from streaming_vla.workbench.report.records import EpisodeRecord, Frame
from streaming_vla.workbench.robots import ROBOTS

INSTRUCTIONS = ("default", "held_out", "wrong")
FRAME_EVERY = 10  # steps between the pictures of a film strip


@dataclass(frozen=True)
class Trial:
    """One episode to run.

    Args:
        instruction: which wording the policy is given (INSTRUCTIONS); "wrong" is that of another task.
        maximum_steps: the episode fails when it lasts longer; one of a memory task ends by itself.
        wait_steps: shortest and longest wait of a memory task.
        robot: name of the simulated robot whose task it is.
    """

    task: str
    seed: int
    instruction: str = "default"
    maximum_steps: int = 300
    wait_steps: tuple[int, int] = WAIT_STEPS
    robot: RobotName = "metaworld"


@dataclass(frozen=True)
class EpisodeResult:
    """How an episode ended; `record` and `memory_map` are there only when they were asked for."""

    trial: Trial
    success: bool
    steps: int
    memory: MemoryOutcome
    record: EpisodeRecord | None = field(default=None, compare=False)
    memory_map: MemoryMap | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Wanted:
    """What is to be kept of an episode beside its outcome: pictures for a film strip, or what the cache kept."""

    pictures: bool = False
    memory_map: bool = False


def wording(trial: Trial) -> str:
    """Return the instruction of a trial; the same trial gives the same one. `{colour}` stands for what its scene names.

    Raises:
        ValueError: the kind of instruction is unknown, or no such task.
    """
    task = ROBOTS[trial.robot].task(trial.task)
    if trial.instruction == "default":
        return task.instructions[0]
    if trial.instruction == "held_out":
        return task.held_out[trial.seed % len(task.held_out)]
    if trial.instruction != "wrong":
        raise ValueError(f"instruction '{trial.instruction}' is unknown, choose one of {', '.join(INSTRUCTIONS)}")
    if trial.robot != "metaworld":
        raise ValueError(f"instruction wrong is of robot metaworld: with {trial.robot} take default or held_out")
    others = unrelated(task.name, TASKS)
    return TASKS[others[trial.seed % len(others)]].instructions[0]


def evaluate(
    model: str,
    trials: Sequence[Trial],
    options: RunnerOptions,
    processes: int = 1,
    wanted: Wanted = Wanted(),
) -> Iterator[EpisodeResult]:
    """Run trials in parallel processes; yields results as they come.

    Raises:
        WorkerLost: a process was killed.
    """
    run = functools.partial(_run, model=model, options=options, wanted=wanted)
    for _, result in map_in_processes(run, trials, processes):
        yield result


@functools.cache
def _tools_of_process(
    model: str, options: RunnerOptions, keep: bool, name: RobotName
) -> tuple[ClosedLoopRunner, MetaWorldRobot | So101Robot, int]:
    torch.set_num_threads(1)
    policy = load_policy(model, saliency_model="")
    size = 2 * policy.spec.image_size
    robot = MetaWorldRobot(image_size=size) if name == "metaworld" else So101Robot((size, size))
    return ClosedLoopRunner(policy, options, keep_pictures=keep), robot, policy.spec.tokens_per_observation


def _run(trial: Trial, model: str, options: RunnerOptions, wanted: Wanted) -> EpisodeResult:
    runner, robot, block = _tools_of_process(model, options, wanted.memory_map, trial.robot)
    instruction, pictures, period_s = wording(trial), wanted.pictures, ROBOTS[trial.robot].action_s
    memory = None
    if isinstance(robot, So101Robot):
        robot.reset(trial.task, trial.seed)
        instruction = instruction.format(colour=robot.colour)
    else:
        robot.reset(trial.task, trial.seed, trial.wait_steps)
        memory = robot.memory
    runner.begin(instruction, trial.seed)
    record = EpisodeRecord(options.head, trial.task, trial.seed, instruction, 0, period_s, begin_s=0.0)
    step = 0
    while not (record.success or robot.failed) and (memory is not None or step < trial.maximum_steps):
        if pictures and step % FRAME_EVERY == 0:
            _photograph(record, robot, step * period_s)
        step += 1
        record.success = robot.step(runner(robot))
    record.end_s = step * period_s
    if pictures:
        _photograph(record, robot, record.end_s)
    outcome = outcome_of(runner, block, memory)
    map_of = None
    if wanted.memory_map:
        named = f"{trial.task}, seed {trial.seed}, {'solved' if record.success else 'FAILED'}"
        map_of = map_of_episode(runner, block, named, memory)
    return EpisodeResult(trial, record.success, step, outcome, record if pictures else None, map_of)


def _photograph(record: EpisodeRecord, robot: MetaWorldRobot | So101Robot, time_s: float) -> None:
    for camera in robot.cameras:
        picture = np.ascontiguousarray(robot.render(camera))
        record.frames.append(Frame(time_s, camera, picture))
