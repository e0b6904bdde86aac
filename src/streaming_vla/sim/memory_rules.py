"""What must be remembered in each memory task: a colour, a number, a place."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from streaming_vla.sim import memory_scene as look
from streaming_vla.sim.memory_episode import (
    CUE_STEPS,
    HAND_HEIGHT_M,
    NO_LABEL,
    WAIT_STEPS,
    Flash,
    MemoryEpisode,
)
from streaming_vla.sim.memory_scene import COLOURS, Ball, Colour, Point

BLINK_STEPS = (13, 18)  # of a blink and of the gap after it: longer than from one observation to the next


def _coloured(places: Sequence[Point], random: np.random.Generator) -> list[Ball]:
    """Return one goal of each colour, in the order of COLOURS, on shuffled places."""
    order = random.permutation(len(places))
    return [Ball(places[k], look.GOAL_RADIUS_M, colour) for k, colour in zip(order, COLOURS, strict=True)]


class CuedReach(MemoryEpisode):
    """The lamp shows a colour for half a second; the goal of that colour is right."""

    name = "cued-reach"
    choices = len(COLOURS)

    def _place_goals(self, places: Sequence[Point], random: np.random.Generator) -> list[Ball]:
        return _coloured(places, random)

    def _plan_lamp(self, random: np.random.Generator) -> list[Flash]:
        return [Flash(0, CUE_STEPS, COLOURS[self.answer])]


class Count(MemoryEpisode):
    """The lamp blinks once, twice or three times; the green, blue or yellow goal is right."""

    name = "count"
    choices = len(COLOURS)
    decoy_colours: Sequence[Colour] = (look.WHITE,)

    def _place_goals(self, places: Sequence[Point], random: np.random.Generator) -> list[Ball]:
        return _coloured(places, random)

    def _plan_lamp(self, random: np.random.Generator) -> list[Flash]:
        flashes, now = [], 0
        for _ in range(self.answer + 1):
            end = now + int(random.integers(*BLINK_STEPS))
            flashes.append(Flash(now, end, look.WHITE))
            now = end + int(random.integers(*BLINK_STEPS))
        return flashes

    @property
    def label(self) -> int:
        """Blinks that have begun, less one."""
        return NO_LABEL + sum(flash.begin <= self.step for flash in self.lamp)


class Return(MemoryEpisode):
    """The hand starts above one of four places; that place is right. All goals look the same."""

    name = "return"
    choices = 4

    def _place_goals(self, places: Sequence[Point], random: np.random.Generator) -> list[Ball]:
        return [Ball(place, look.GOAL_RADIUS_M, look.YELLOW) for place in places]

    def _plan_lamp(self, random: np.random.Generator) -> list[Flash]:
        return []

    @property
    def start(self) -> Point:
        """Above the right goal."""
        x, y, _ = self.goals[self.answer].position
        return (x, y, HAND_HEIGHT_M)


EPISODES: dict[str, type[MemoryEpisode]] = {kind.name: kind for kind in (CuedReach, Count, Return)}


def begin_memory(task: str, seed: int, wait_steps: tuple[int, int] = WAIT_STEPS) -> MemoryEpisode | None:
    """Return the episode of a memory task, or None for a task that needs no memory.

    Raises:
        ValueError: a range of waits that is none.
    """
    kind = EPISODES.get(task)
    return kind(seed, wait_steps) if kind else None
