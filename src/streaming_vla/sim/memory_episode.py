"""One episode of a memory task: a cue, a wait, a choice. Everything in it follows from the task and the seed.

Cue: what must be remembered is shown. Wait: the hand follows a white marker that wanders about, and the decoy lamp
flashes. Choice: the marker vanishes, the goals appear, and the hand goes above one of them; the first one counts.
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from streaming_vla.sim import memory_scene as look
from streaming_vla.sim.memory_scene import Ball, Colour, Point

WAIT_STEPS = (40, 400)  # 2 to 20 s of control steps of 50 ms
SHORTEST_WAIT_STEPS = 30  # the hand needs them to leave its start
CUE_STEPS = 10  # half a second
CHOICE_LIMIT_STEPS = 150  # who has not chosen by then has failed
TOLERANCE_M = 0.04  # of the hand above a goal, in the plane of the table
HAND_START: Point = (0.0, 0.6, 0.2)
HAND_HEIGHT_M = 0.2
NO_LABEL = -1
OPEN_EFFORT = -1.0  # of the gripper
_WANDER_M = (0.07, 0.08)  # amplitude in x and y
_WANDER_STEPS = (70.0, 180.0)  # period
_BLEND_STEPS = 40  # from where the hand was to the wandering
_DECOY_GAP_STEPS = (15, 60)
_DECOY_FLASH_STEPS = (6, 14)
_JITTER_M = 0.015  # of the goals' places
_GAIN_PER_M = 25.0  # of the expert: action units per metre of error


class Phase(enum.Enum):
    """Part of an episode."""

    CUE = "cue"
    WAIT = "wait"
    CHOICE = "choice"


@dataclass(frozen=True)
class Flash:
    """A lamp is lit with `colour` in the steps [begin, end)."""

    begin: int
    end: int
    colour: Colour


def shown(flashes: Sequence[Flash], step: int) -> Colour:
    """Return what a lamp shows at `step`."""
    return next((flash.colour for flash in flashes if flash.begin <= step < flash.end), look.DARK)


def expert_move(hand: npt.NDArray[np.float64], target: Point) -> npt.NDArray[np.float64]:
    """Return the clipped proportional move of a hand [3] towards the place above `target`, [3] in action units."""
    x, y, _ = target
    return np.clip(_GAIN_PER_M * (np.array((x, y, HAND_HEIGHT_M)) - hand), -1.0, 1.0)


class MemoryEpisode(ABC):
    """The plan of one episode and where it stands. A shallow copy is an independent branch.

    Args:
        seed: of everything that is drawn; the wait's range changes the wait only.
        wait_steps: shortest and longest wait, in environment steps.

    Raises:
        ValueError: a range that is none, or waits that are too short.
    """

    name: str
    choices: int
    decoy_colours: Sequence[Colour] = look.COLOURS

    def __init__(self, seed: int, wait_steps: tuple[int, int] = WAIT_STEPS) -> None:
        if not SHORTEST_WAIT_STEPS <= wait_steps[0] <= wait_steps[1]:
            raise ValueError(
                f"wait_steps is {wait_steps}: expected the shortest and the longest wait, {SHORTEST_WAIT_STEPS} or more"
            )
        random = np.random.default_rng((seed, *self.name.encode()))
        self.answer = int(random.integers(self.choices))
        jitter = random.uniform(-_JITTER_M, _JITTER_M, (self.choices, 2))
        places = [(x + dx, y + dy, z) for (x, y, z), (dx, dy) in zip(look.places(self.choices), jitter, strict=True)]
        self.goals = self._place_goals(places, random)
        self.lamp = self._plan_lamp(random)
        self.cue_steps = max([CUE_STEPS, *(flash.end for flash in self.lamp)])
        share = random.random()
        self.wait_steps = int(wait_steps[0] + share * (wait_steps[1] - wait_steps[0] + 1))
        self._periods = random.uniform(*_WANDER_STEPS, 2)
        self._shifts = random.uniform(0.0, 2 * np.pi, 2)
        self.decoy = self._plan_decoy(random)
        self.success = self.failed = False
        self.step = 0

    @abstractmethod
    def _place_goals(self, places: Sequence[Point], random: np.random.Generator) -> list[Ball]:
        """Return the goals, [choices]; goal number `answer` is the right one."""

    @abstractmethod
    def _plan_lamp(self, random: np.random.Generator) -> list[Flash]:
        """Return what the lamp shows."""

    @property
    def start(self) -> Point:
        """Where the hand is at the beginning."""
        return HAND_START

    @property
    def cue_parts(self) -> list[tuple[int, int]]:
        """The steps [begin, end) of what must all be seen of the cue: the flashes of the lamp, or the start."""
        return [(flash.begin, flash.end) for flash in self.lamp] or [(0, self.cue_steps)]

    @property
    def label(self) -> int:
        """Class in [0, choices) that a perfect memory would name now, NO_LABEL before there is any."""
        return self.answer

    @property
    def phase(self) -> Phase:
        """The present part."""
        if self.step < self.cue_steps:
            return Phase.CUE
        return Phase.WAIT if self.step < self.cue_steps + self.wait_steps else Phase.CHOICE

    def update(self, step: int, hand: npt.NDArray[np.float64]) -> None:
        """Take the present: `step` environment steps since the start, and where the hand is, [3] in metres."""
        self.step = step
        if self.phase is not Phase.CHOICE or self.success or self.failed:
            return
        distances = [np.hypot(*(hand[:2] - goal.position[:2])) for goal in self.goals]
        chosen = int(np.argmin(distances))
        if distances[chosen] <= TOLERANCE_M:
            self.success = chosen == self.answer
            self.failed = not self.success
        elif self.step >= self.cue_steps + self.wait_steps + CHOICE_LIMIT_STEPS:
            self.failed = True

    def balls(self) -> list[Ball]:
        """Return everything to draw now."""
        lamps = [
            Ball(look.LAMP, look.LAMP_RADIUS_M, shown(self.lamp, self.step)),
            Ball(look.DECOY, look.DECOY_RADIUS_M, shown(self.decoy, self.step)),
        ]
        if self.phase is Phase.CHOICE:
            return lamps + self.goals
        return [*lamps, Ball(self.target(), look.MARKER_RADIUS_M, look.WHITE)]

    def marker(self) -> tuple[float, float]:
        """Return where the marker is, x and y: at rest during the cue, then wandering."""
        since = max(0, self.step - self.cue_steps)
        blend = min(1.0, since / _BLEND_STEPS)
        blend *= blend * (3.0 - 2.0 * blend)  # smoothstep: no jerk
        angles = 2 * np.pi * since / self._periods + self._shifts
        wander = np.asarray(look.CENTRE) + np.asarray(_WANDER_M) * np.sin(angles)
        x, y = (1.0 - blend) * np.asarray(self.start[:2]) + blend * wander
        return float(x), float(y)

    def target(self) -> Point:
        """Return what the hand should be above now: the marker, or the right goal."""
        if self.phase is Phase.CHOICE:
            return self.goals[self.answer].position
        return (*self.marker(), look.MARKER_RADIUS_M)

    def expert_action(self, hand: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
        """Return the clipped proportional action towards `target`, [4]."""
        return np.array((*expert_move(hand, self.target()), OPEN_EFFORT), dtype=np.float32)

    def _plan_decoy(self, random: np.random.Generator) -> list[Flash]:
        flashes, now = [], 0
        while now < self.cue_steps + self.wait_steps + CHOICE_LIMIT_STEPS:
            begin = now + int(random.integers(*_DECOY_GAP_STEPS))
            now = begin + int(random.integers(*_DECOY_FLASH_STEPS))
            flashes.append(Flash(begin, now, self.decoy_colours[int(random.integers(len(self.decoy_colours)))]))
        return flashes
