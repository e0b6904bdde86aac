"""What the SO-101 can be told, in our own words, and when it has done it.

Three tasks of rising difficulty. In all of them three cubes and a square lie on the table and the instruction names one
cube by its colour; `{colour}` stands for it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from streaming_vla.sim.so101.scene import CUBE_HALF_M, SQUARE_HALF_M
from streaming_vla.sim.task import Task

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task(
            "touch",
            (
                "touch the {colour} cube",
                "tap the {colour} cube",
                "put a fingertip on the {colour} cube",
                "reach for the {colour} block and touch it",
                "move the gripper until it touches the {colour} cube",
                "touch the {colour} block with the gripper",
                "go to the {colour} cube and tap it",
                "bring the fingers into contact with the {colour} cube",
            ),
            (
                "tap the {colour} block with a finger",
                "reach out and touch the {colour} cube",
            ),
        ),
        Task(
            "push",
            (
                "push the {colour} cube into the white square",
                "slide the {colour} cube onto the white square",
                "shove the {colour} block into the square",
                "push the {colour} block until it lies in the white square",
                "move the {colour} cube into the square by pushing it",
                "slide the {colour} block over to the white square",
                "push the {colour} cube across the table into the square",
                "get the {colour} cube into the white square with a push",
            ),
            (
                "slide the {colour} cube until it is inside the square",
                "push the {colour} block onto the white square",
            ),
        ),
        Task(
            "pick",
            (
                "pick up the {colour} cube",
                "grasp the {colour} cube and lift it",
                "lift the {colour} block off the table",
                "grab the {colour} cube and hold it up",
                "take the {colour} block and raise it",
                "close the gripper on the {colour} cube and lift it up",
                "pick the {colour} block up from the table",
                "raise the {colour} cube into the air",
            ),
            (
                "grab the {colour} block and pick it up",
                "lift the {colour} cube up with the gripper",
            ),
        ),
    )
}
OFF_THE_WAY = {"touch": 40, "push": 100, "pick": 80}  # most actions before a demonstration begins: about an episode
# No demonstration has seeds from here on: up to sim.tasks.HELD_OUT_SEED trainings are compared.
DEVELOPMENT_SEED = 9_000
TIME_LIMITS_S = {"touch": 10.0, "push": 20.0, "pick": 20.0}  # who has not succeeded by then has failed

INSIDE_M = SQUARE_HALF_M - CUBE_HALF_M  # middle of a cube that lies in the square, from the square's
LIFTED_M = 0.05  # bottom of a cube above the table
HELD_S = 0.3
_RESTING_M_S = 0.03
_ON_TABLE_M = CUBE_HALF_M / 2  # height of a middle, from where it rests: more is not lying on the table


@dataclass(frozen=True)
class Scene:
    """What a rule looks at, at one instant; all in metres.

    Args:
        target: colour of the named cube.
        cubes: the middle of every cube, [3] by colour.
        speeds: of every cube, m/s.
        axes: of the named cube, [3, 3] with its axes as columns.
        square: middle of the square, [2].
        touched: cubes that the arm touches.
        held: cubes that both jaws touch.
    """

    target: str
    cubes: dict[str, npt.NDArray[np.float64]]
    speeds: dict[str, float]
    axes: npt.NDArray[np.float64]
    square: npt.NDArray[np.float64]
    touched: frozenset[str]
    held: frozenset[str]


class Rule(ABC):
    """When a task is done, and when it has gone wrong for good. A shallow copy is an independent branch.

    Attributes:
        success: done; it stays so.
        failed: gone wrong before it was done; it stays so.
    """

    def __init__(self) -> None:
        self.success = self.failed = False

    def update(self, scene: Scene, elapsed_s: float) -> None:
        """Take the present and the time since the last present."""
        if self.success or self.failed:
            return
        self.success = self._done(scene, elapsed_s)
        fallen = any(middle[2] < -CUBE_HALF_M for middle in scene.cubes.values())
        self.failed = not self.success and (fallen or self._wrong(scene))

    @abstractmethod
    def _done(self, scene: Scene, elapsed_s: float) -> bool: ...

    def _wrong(self, scene: Scene) -> bool:
        return False


class Touch(Rule):
    """The named cube is touched, and none before it."""

    def _done(self, scene: Scene, elapsed_s: float) -> bool:
        return scene.touched == {scene.target}

    def _wrong(self, scene: Scene) -> bool:
        return bool(scene.touched)


class Push(Rule):
    """The named cube lies in the square at rest, whole."""

    def _done(self, scene: Scene, elapsed_s: float) -> bool:
        middle = scene.cubes[scene.target]
        inside = np.abs(middle[:2] - scene.square).max() <= INSIDE_M
        lies = middle[2] - CUBE_HALF_M < _ON_TABLE_M
        return bool(inside and lies and scene.speeds[scene.target] < _RESTING_M_S)


class Pick(Rule):
    """The named cube is between the jaws, off the table, for a while."""

    def __init__(self) -> None:
        super().__init__()
        self._held_s = 0.0

    def _done(self, scene: Scene, elapsed_s: float) -> bool:
        up = scene.cubes[scene.target][2] - CUBE_HALF_M >= LIFTED_M
        self._held_s = self._held_s + elapsed_s if up and scene.target in scene.held else 0.0
        return self._held_s >= HELD_S


RULES: dict[str, type[Rule]] = {"touch": Touch, "push": Push, "pick": Pick}


def get_task(name: str) -> Task:
    """Return the task called `name`.

    Raises:
        ValueError: the name is unknown; the message lists the names that exist.
    """
    if name not in TASKS:
        raise ValueError(f"unknown task '{name}': choose one of {', '.join(TASKS)}")
    return TASKS[name]
