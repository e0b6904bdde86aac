"""Demonstrations of the SO-101's scripted experts as a data set of LeRobot, without ROS: parallel, resumed, no clock.

Every episode shows an expert that nobody disturbs: what it commands is what the arm does, so that each window of
actions is right. Most of them begin off the way, where bursts have driven the arm before the first picture is taken:
there a policy learns to come back.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from streaming_vla.datasets.facts import DatasetFacts
from streaming_vla.datasets.join import join_parts
from streaming_vla.datasets.parts import DONE, PartWriter, read_part
from streaming_vla.datasets.storage import Storage
from streaming_vla.datasets.writer import Step, add_steps
from streaming_vla.images.fit import square
from streaming_vla.sim.so101.arm import JOINTS
from streaming_vla.sim.so101.disturbance import ATTEMPTS, BURST_SPEED, Disturbance
from streaming_vla.sim.so101.robot import ACTION_PERIOD_S, So101Robot
from streaming_vla.sim.so101.scene import CAMERAS
from streaming_vla.sim.so101.tasks import DEVELOPMENT_SEED, OFF_THE_WAY, TIME_LIMITS_S, get_task
from streaming_vla.training.plan import Recording
from streaming_vla.workbench.processes import RESUMED, map_in_processes

RATE = Fraction(30)
SEEDS_OF_PART = 5
FORMAT = 1  # of a part: one that an older version of this module made is made again


@dataclass(frozen=True)
class Lesson:
    """A part of the data set: episodes of one task, a seed each.

    Args:
        folder: of all parts.
        size: width and height of the pictures in pixels.
        disturbed: share of the episodes that begin off the way.
        burst_probability: at an action before the first picture.
    """

    folder: Path
    task: str
    seeds: tuple[int, ...]
    size: int
    disturbed: float
    burst_probability: float

    @property
    def path(self) -> Path:
        """Folder of the part; another lesson has another one."""
        told = (FORMAT, self.seeds, self.size, self.disturbed, self.burst_probability)
        digest = hashlib.sha256(repr(told).encode()).hexdigest()[:8]
        return self.folder / f"{self.task}-{self.seeds[0]:05d}-{digest}"


def lessons(folder: Path, recordings: Sequence[Recording], size: int) -> list[Lesson]:
    """Return the parts of a plan's recordings, those of all tasks in turns.

    Raises:
        ValueError: an unknown task, or a seed that is for evaluation only.
    """
    wanted = []
    for recording in recordings:
        first = recording.first_seed
        for task, count in recording.episodes.items():
            get_task(task)
            if first + count > DEVELOPMENT_SEED:
                raise ValueError(
                    f"training seeds must stay below {DEVELOPMENT_SEED} (evaluation starts there), {task} has "
                    f"{first} to {first + count - 1}"
                )
            for begin in range(first, first + count, SEEDS_OF_PART):
                seeds = tuple(range(begin, min(begin + SEEDS_OF_PART, first + count)))
                share, bursts = recording.perturbed, recording.burst_probability
                wanted.append(Lesson(folder, task, seeds, size, share, bursts))
    return sorted(wanted, key=lambda lesson: lesson.seeds)


def recorded(lesson: Lesson) -> bool:
    """Return whether the part is there."""
    return (lesson.path / DONE).is_file()


def teach(wanted: Sequence[Lesson], processes: int = 1) -> Iterator[Lesson]:
    """Record every lesson that does not exist; yields each as it is written. Can be stopped and run again.

    Raises:
        WorkerLost: a process was killed.
    """
    missing = [lesson for lesson in wanted if not recorded(lesson)]
    for lesson, _ in map_in_processes(_record, missing, processes, again=RESUMED):
        yield lesson


def join(wanted: Sequence[Lesson], output: Path) -> int:
    """Put the recorded lessons together into a data set and return how many episodes it has; the parts are kept.

    Raises:
        DatasetError: the folder exists.
    """
    return join_parts(output, [read_part(lesson.path) for lesson in wanted], Storage.film)


def demonstrate(robot: So101Robot, task: str, seed: int, lesson: Lesson) -> list[Step]:
    """Return the steps of one episode, its wording drawn from those to train on; none when the expert fails.

    Args:
        robot: renders at twice the size of the stored pictures, which are averaged.
    """
    random = np.random.default_rng((seed, *task.encode()))
    variant = int(random.integers(len(get_task(task).instructions)))
    _begin(robot, task, seed, variant, lesson, random)
    steps: list[Step] = []
    for _ in range(round(TIME_LIMITS_S[task] / ACTION_PERIOD_S)):
        seen = robot.observe()
        pictures = {name: square(pixels[..., ::-1], lesson.size) for name, pixels in seen.pictures.items()}
        wanted = robot.expert_action()
        steps.append(Step(seed, seen.instruction, pictures, seen.state, wanted))
        if robot.step(wanted):
            return steps
        if robot.failed:
            break
    return []


def _begin(robot: So101Robot, task: str, seed: int, variant: int, lesson: Lesson, random: np.random.Generator) -> None:
    """Reset the robot, and let bursts drive the arm off the way."""
    tries = ATTEMPTS if random.random() < lesson.disturbed else 0
    for _ in range(tries):
        robot.reset(task, seed, variant=variant)
        disturbance = Disturbance(lesson.burst_probability, BURST_SPEED, random)
        for _ in range(int(random.integers(1, OFF_THE_WAY[task]))):
            robot.step(disturbance.apply(robot.expert_action(), robot.setpoint()))
        if not (robot.success or robot.failed):
            return
    robot.reset(task, seed, variant=variant)


@functools.cache
def _robot_of_process(size: int) -> So101Robot:
    os.environ.setdefault("LP_NUM_THREADS", "0")  # Mesa draws in this thread: every core has a process of its own
    return So101Robot((2 * size, 2 * size))


def _record(lesson: Lesson) -> None:
    robot = _robot_of_process(lesson.size)
    with PartWriter(lesson.path, RATE, CAMERAS) as writer:
        for seed in lesson.seeds:
            add_steps(writer, demonstrate(robot, lesson.task, seed, lesson))
        unit = ("rad",) * len(JOINTS)
        facts = DatasetFacts(RATE, (), JOINTS, JOINTS, "so101", state_units=unit, action_units=unit,
                             action_absolute=(True,) * len(JOINTS))  # fmt: skip
        writer.finish(facts, {"source": f"{lesson.task}, seeds {lesson.seeds[0]} to {lesson.seeds[-1]}"})
