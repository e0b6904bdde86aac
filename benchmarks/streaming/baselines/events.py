"""What the chunk generator and a strategy tell each other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from streaming_vla.machines.events import Vector

Chunk = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Planned:
    """An action that waits to be sent: [A], of observation `context`, `index`-th of its chunk."""

    context: int
    index: int
    values: Vector


@dataclass(frozen=True)
class Plan:
    """What is to be sent next, and how many actions of the newest context are meant to be executed."""

    actions: tuple[Planned, ...]
    horizon: int


@dataclass(frozen=True)
class Arrival:
    """A chunk has arrived.

    Args:
        context: sequence of its observation.
        chunk: [H, A]; row `passed` belongs to the first of `pending`.
        passed: actions sent since the picture was taken, the one that began with it included.
        pending: planned and not yet sent.
        step: number of actions of the episode that were sent.
    """

    context: int
    chunk: Chunk
    passed: int
    pending: tuple[Planned, ...]
    step: int

    def new(self, first: int, last: int | None = None) -> tuple[Planned, ...]:
        """Return rows `first` to before `last` of the chunk."""
        rows = range(first, len(self.chunk) if last is None else last)
        return tuple(Planned(self.context, row, self.chunk[row]) for row in rows)
